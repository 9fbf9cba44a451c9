"""ResNet-18 that judges a slice and its labels: good or bad.

The Quality Classifier of the Medaka paper (arXiv 2302.12562, section 2.1) sees "each
slice from the image concatenated with the corresponding mask, where each sub-organ in
the mask was represented using a separate channel". The paper names no network; this is
the encoder of its segmentation network with a head of one number.
"""

from jaxtyping import Float
from torch import Tensor, nn

from napari_kdseg.errors import ModelError
from napari_kdseg.models.networks.resnet_unet import resnet18_encoder
from napari_kdseg.models.parameters import QualityParameters


class QualityNetwork(nn.Module):
    """Slice and one channel an organ in, one number out: above 0 is rather good.

    Parameters
    ----------
    dimensions
        2: there are slices only.
    in_channels
        Channels of the image; they come first.
    out_channels
        Classes of the labels, background included, which has no channel.
    width
        Channels of the encoder's first stage.
    """

    def __init__(
        self, dimensions: int, in_channels: int, out_channels: int, *, width: int = 64
    ) -> None:
        super().__init__()
        shape = QualityParameters(dimensions=dimensions, width=width)
        self.divisor = shape.divisor
        self.in_channels = in_channels + out_channels - 1
        self.encoder = resnet18_encoder(self.in_channels, width)
        self.head = nn.Linear(8 * width, 1)

    def forward(self, x: Float[Tensor, "B C Y X"]) -> Float[Tensor, " B"]:
        """Give one number a slice.

        Raises
        ------
        ModelError
            When there are other channels, or sizes that do not fit.
        """
        if x.shape[1] != self.in_channels:
            raise ModelError(
                f"The slice has {x.shape[1]} channels; this classifier takes "
                f"{self.in_channels}: the image's, then one an organ."
            )
        if any(size % self.divisor for size in x.shape[2:]):
            raise ModelError(
                f"The slice has {x.shape[2]} x {x.shape[3]} pixels; this classifier "
                f"takes multiples of {self.divisor}. Resize it."
            )
        found: Tensor = self.head(self.encoder(x))
        return found[:, 0]
