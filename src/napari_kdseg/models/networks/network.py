"""What inference and training may ask of every segmentation network."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from napari_kdseg.errors import ModelError
from napari_kdseg.models.parameters import multiples


class SegmentationNetwork(nn.Module, ABC):
    """A network that gives logits at the size of its input, and decoder features.

    Levels count halvings: features of level l have 1/2^l of the input's resolution.

    Parameters
    ----------
    dimensions
        2 for images ``B C Y X``, 3 for ``B C Z Y X``.
    in_channels
        Channels of the image.
    out_channels
        Classes, background included.
    divisor
        What the sizes of the input must be multiples of.
    """

    traceable: ClassVar[bool] = True
    """Whether it consists of torch's operations, which others can be made from."""

    def __init__(
        self, dimensions: int, in_channels: int, out_channels: int, divisor: int
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.divisor = divisor

    @property
    def divisors(self) -> tuple[int, ...]:
        """The divisor by axis, (z,) y, x."""
        return (self.divisor,) * self.dimensions

    def forward(self, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B K *S"]:
        """Give the logits of each class at each voxel.

        Raises
        ------
        ModelError
            When the image has other channels or axes, or sizes that do not fit.
        """
        logits, _ = self.features(x, ())
        return logits

    @abstractmethod
    def features(
        self, x: Float[Tensor, "B C *S"], levels: Sequence[int]
    ) -> tuple[Float[Tensor, "B K *S"], dict[int, Tensor]]:
        """Give the logits, and by level the decoder's last features there.

        Raises
        ------
        ModelError
            As `forward`, and when the decoder has no such level.
        """

    @abstractmethod
    def feature_channels(self, level: int) -> int:
        """Count the channels of the decoder's features at a level.

        Raises
        ------
        ModelError
            When the decoder has no such level.
        """

    def _check_input(self, x: Tensor) -> None:
        axes = (
            "batch, channel, z, y, x"
            if self.dimensions == 3
            else "batch, channel, y, x"
        )
        if x.ndim != self.dimensions + 2:
            raise ModelError(
                f"The image has {x.ndim} axes; a {self.dimensions}D network takes "
                f"{self.dimensions + 2}: batch, channel, {axes}."
            )
        if x.shape[1] != self.in_channels:
            raise ModelError(
                f"The image has {x.shape[1]} channels; this network takes "
                f"{self.in_channels}. Give it the channels it was made for."
            )
        sizes = tuple(x.shape[2:])
        shown = " x ".join(str(size) for size in sizes)
        divisors = self.divisors
        if any(size % by for size, by in zip(sizes, divisors, strict=True)):
            raise ModelError(
                f"The image has {shown} voxels; this network takes multiples of "
                f"{multiples(divisors)}. Choose another patch or tile, or fewer stages."
            )
        # A norm over a single value is 0 whatever the image shows; torch refuses it.
        reduced = (size // by for size, by in zip(sizes, divisors, strict=True))
        if math.prod(reduced) < 2:
            raise ModelError(
                f"The image has {shown} voxels, of which {multiples(divisors)}-fold "
                "reduction leaves fewer than two; the deepest stage needs at least "
                "two. Choose a larger patch or tile, or fewer stages."
            )

    def _check_level(self, level: int, levels: int) -> None:
        if not 0 <= level < levels:
            raise ModelError(
                f"The decoder has no features at level {level}; its levels are 0 (full "
                f"resolution) to {levels - 1}."
            )


def draw_he_weights(network: nn.Module, negative_slope: float) -> None:
    """Draw the weights of all convolutions as He et al. 2015 do; biases become 0.

    Parameters
    ----------
    network
        Its convolutions are changed in place.
    negative_slope
        Of the activation that follows, 0 for ReLU.
    """
    kinds = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d
    for module in network.modules():
        # A network on the meta device has no weights yet; drawing them there makes
        # torch import its compiler, a second and a half for nothing.
        if isinstance(module, kinds) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, a=negative_slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
