"""U-Net for slices whose encoder is a ResNet-18.

The network of the Medaka paper (arXiv 2302.12562, section 3), which names the encoder
and leaves the decoder open; the decoder here is that of segmentation_models.pytorch:
widths 256, 128, 64, 32, 16, nearest up-sampling, skips concatenated, two convolutions.

The encoder is MONAI's ResNet. MONAI's FlexibleUNet, which would be the whole, builds
its ResNet-18 with shortcuts that end the gradient (``out.data`` in
``_downsample_basic_block``, MONAI 1.6), has another decoder, and no way to its
features; so the encoder is built here with projection shortcuts (He et al. 2016, B).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn
from torch.nn import functional

from napari_kdseg.models.networks.network import SegmentationNetwork, draw_he_weights
from napari_kdseg.models.parameters import ResNetUNetParameters

_ENCODER_WIDTHS = (64, 64, 128, 256, 512)  # at 1/2, 1/4, 1/8, 1/16, 1/32


class ResNetUNet(SegmentationNetwork):
    """ResNet-18 down, five stages of convolution up; batch norm and ReLU.

    Parameters
    ----------
    dimensions
        2: there are slices only.
    in_channels
        Channels of the image.
    out_channels
        Classes, background included.
    decoder_widths
        Channels of the decoder's stages, the coarsest first.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int,
        *,
        decoder_widths: tuple[int, ...] = (256, 128, 64, 32, 16),
    ) -> None:
        shape = ResNetUNetParameters(
            dimensions=dimensions, decoder_widths=decoder_widths
        )
        super().__init__(dimensions, in_channels, out_channels, shape.divisor)
        # Finest first, so that the index is the level.
        self.widths = shape.decoder_widths[::-1]
        skips = (0, *_ENCODER_WIDTHS[:-1])
        deeper = (*self.widths[1:], _ENCODER_WIDTHS[-1])
        self.decoder = nn.ModuleList(
            _stage(below + skip, width)
            for below, skip, width in zip(deeper, skips, self.widths, strict=True)
        )
        self.head = nn.Conv2d(self.widths[0], out_channels, 3, padding=1)
        draw_he_weights(self, negative_slope=0.0)
        # After the drawing: MONAI draws the encoder's weights by its own rule.
        self.encoder = resnet18_encoder(in_channels)

    def features(
        self, x: Float[Tensor, "B C *S"], levels: Sequence[int]
    ) -> tuple[Float[Tensor, "B K *S"], dict[int, Tensor]]:
        """Give the logits, and by level the output of the decoder's stage there."""
        self._check_input(x)
        for level in levels:
            self._check_level(level, len(self.decoder))
        *skips, x = self._encoded(x)
        found: dict[int, Tensor] = {}
        for level in reversed(range(len(self.decoder))):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            if level > 0:
                x = torch.cat((x, skips[level - 1]), dim=1)
            x = self.decoder[level](x)
            if level in levels:
                found[level] = x
        return self.head(x), found

    def feature_channels(self, level: int) -> int:
        """Count the channels of the decoder's stage at a level."""
        self._check_level(level, len(self.decoder))
        return self.widths[level]

    def _encoded(self, x: Tensor) -> list[Tensor]:
        """Give the encoder's features at 1/2, 1/4, ... 1/32 of the resolution."""
        encoder = self.encoder
        x = encoder.act(encoder.bn1(encoder.conv1(x)))
        found = [x]
        x = encoder.maxpool(x)
        for layer in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
            x = layer(x)
            found.append(x)
        return found


def resnet18_encoder(in_channels: int, width: int = _ENCODER_WIDTHS[0]) -> ResNet:
    """Build a ResNet-18 for slices without its head, weights freshly drawn.

    Called, it gives one vector of 8 ``width`` numbers an image: the mean of the last
    stage's features.

    Parameters
    ----------
    in_channels
        Channels of the image.
    width
        Channels of the stem and the first stage; each further stage doubles them.
    """
    return ResNet(
        block="basic",
        layers=[2, 2, 2, 2],
        block_inplanes=[width, 2 * width, 4 * width, 8 * width],
        spatial_dims=2,
        n_input_channels=in_channels,
        conv1_t_stride=2,
        bias_downsample=False,
        feed_forward=False,
    )


def _stage(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [
            nn.Conv2d(channels, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
