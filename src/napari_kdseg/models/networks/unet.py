"""U-Net for slices and volumes, in the shape of nnU-Net v1.

Isensee et al., Nature Methods 18:203-211 (2021), after Ronneberger et al. 2015: two
convolutions a stage, each with instance norm and leaky ReLU; strided convolution down,
transposed convolution up, skips concatenated, a 1 x 1 head. The MS-KD paper names a
"2D-UNet" and trains it with nnU-Net v1's constants, so this is its network.

MONAI's DynUNet has nearly this shape, but nests its stages in one another, so decoder
features cannot be taken out without hooks, starts at three stages, and has neither
pooling nor the number of convolutions as settings.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from napari_kdseg.models.networks.network import SegmentationNetwork, draw_he_weights
from napari_kdseg.models.parameters import UNetParameters

NEGATIVE_SLOPE = 0.01


class UNet(SegmentationNetwork):
    """Encoder and decoder of equal depth with instance norm and leaky ReLU.

    Convolutions before a norm have no bias: the norm would take it away again.

    Parameters
    ----------
    dimensions
        2 for images ``B C Y X``, 3 for ``B C Z Y X``.
    in_channels
        Channels of the image.
    out_channels
        Classes, background included.
    width
        Channels of the first stage; each stage doubles them.
    stages
        Resolutions, the finest included; each halves all axes.
    max_width
        Where doubling ends; None: 480 in 2D, 320 in 3D, as in nnU-Net v1.
    convolutions
        Convolutions in each stage of encoder and decoder.
    down
        Halve by a stride of the stage's first convolution, or by max pooling.
    skips
        How many levels join encoder and decoder, the coarsest ones; None: all.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of the shape
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        stages: int = 8,
        max_width: int | None = None,
        convolutions: int = 2,
        down: Literal["convolution", "pool"] = "convolution",
        skips: int | None = None,
    ) -> None:
        shape = UNetParameters(
            dimensions=dimensions,
            width=width,
            stages=stages,
            max_width=max_width,
            convolutions=convolutions,
            down=down,
            skips=skips,
        )
        super().__init__(dimensions, in_channels, out_channels, shape.divisor)
        self.widths = shape.widths
        self.encoder = nn.ModuleList(_encoder(shape, in_channels))
        self.up = nn.ModuleList(_up(shape))
        self.joined = [shape.has_skip(level) for level in range(stages - 1)]
        self.decoder = nn.ModuleList(
            _stage(dimensions, (1 + joined) * channels, channels, convolutions)
            for channels, joined in zip(self.widths[:-1], self.joined, strict=True)
        )
        self.head = _convolution(dimensions)(self.widths[0], out_channels, 1)
        draw_he_weights(self, NEGATIVE_SLOPE)

    def features(
        self, x: Float[Tensor, "B C *S"], levels: Sequence[int]
    ) -> tuple[Float[Tensor, "B K *S"], dict[int, Tensor]]:
        """Give the logits, and by level the output of the decoder's stage there."""
        for level in levels:
            self._check_level(level, len(self.decoder))
        return self._decoded(self.encoded(x), levels)

    def with_bottleneck(
        self, x: Float[Tensor, "B C *S"]
    ) -> tuple[Float[Tensor, "B K *S"], Float[Tensor, "B F *R"]]:
        """Give the logits, and the bottleneck: what the encoder ends in."""
        encoded = self.encoded(x)
        bottleneck = encoded[-1]
        logits, _ = self._decoded(encoded, ())
        return logits, bottleneck

    def encoded(self, x: Float[Tensor, "B C *S"]) -> list[Tensor]:
        """Give the output of each stage of the encoder, finest first."""
        self._check_input(x)
        found = []
        for stage in self.encoder:
            x = stage(x)
            found.append(x)
        return found

    def _decoded(
        self, encoded: list[Tensor], levels: Sequence[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Give what `features` gives, and use up what the encoder gave."""
        x = encoded.pop()
        found: dict[int, Tensor] = {}
        for level in reversed(range(len(self.decoder))):
            x, skip = self.up[level](x), encoded.pop()
            if self.joined[level]:
                x = torch.cat((x, skip), dim=1)
            del skip  # memory for what follows
            x = self.decoder[level](x)
            if level in levels:
                found[level] = x
        return self.head(x), found

    def feature_channels(self, level: int) -> int:
        """Count the channels of the decoder's stage at a level."""
        self._check_level(level, len(self.decoder))
        return self.widths[level]


def _encoder(shape: UNetParameters, in_channels: int) -> list[nn.Sequential]:
    dimensions, count = shape.dimensions, shape.convolutions
    stages = [_stage(dimensions, in_channels, shape.widths[0], count)]
    for before, after in zip(shape.widths[:-1], shape.widths[1:], strict=True):
        if shape.down == "convolution":
            stages.append(_stage(dimensions, before, after, count, stride=2))
        else:
            pool = (nn.MaxPool2d if dimensions == 2 else nn.MaxPool3d)(2)
            stages.append(
                nn.Sequential(pool, *_stage(dimensions, before, after, count))
            )
    return stages


def _up(shape: UNetParameters) -> list[nn.Module]:
    transposed = nn.ConvTranspose2d if shape.dimensions == 2 else nn.ConvTranspose3d
    return [
        transposed(deep, fine, kernel_size=2, stride=2, bias=False)
        for fine, deep in zip(shape.widths[:-1], shape.widths[1:], strict=True)
    ]


def _stage(
    dimensions: int, before: int, after: int, count: int, stride: int = 1
) -> nn.Sequential:
    blocks = [_block(dimensions, before, after, stride)]
    blocks += [_block(dimensions, after, after, 1) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def _block(dimensions: int, before: int, after: int, stride: int) -> nn.Sequential:
    norm = nn.InstanceNorm2d if dimensions == 2 else nn.InstanceNorm3d
    return nn.Sequential(
        _convolution(dimensions)(before, after, 3, stride, padding=1, bias=False),
        norm(after, affine=True),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


def _convolution(dimensions: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if dimensions == 2 else nn.Conv3d
