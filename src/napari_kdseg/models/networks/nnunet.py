"""The U-Nets that nnU-Net v2 plans, so that its weights can be taken over.

Isensee et al., Nature Methods 18:203-211 (2021) and "nnU-Net Revisited" (2024): stages
of convolution, instance norm and leaky ReLU, with kernels and strides that the plans
give by stage and axis. The encoder is plain, or of residual blocks with ResNet-D
shortcuts (He et al., "Bag of Tricks", 2019); the decoder is plain.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from napari_kdseg.errors import ModelError
from napari_kdseg.models.networks.network import SegmentationNetwork, draw_he_weights
from napari_kdseg.models.parameters import NnUNetParameters

NEGATIVE_SLOPE = 0.01

Sizes = tuple[int, ...]


class NnUNet(SegmentationNetwork):
    """One or several U-Nets of one shape; of several, the mean of their logits counts.

    Parameters
    ----------
    in_channels
        Channels of the image.
    out_channels
        Classes, background included.
    **settings
        Those of `NnUNetParameters`.
    """

    def __init__(self, in_channels: int, out_channels: int, **settings: object) -> None:
        shape = NnUNetParameters.model_validate(settings)
        super().__init__(shape.dimensions, in_channels, out_channels, shape.divisor)
        self.shape = shape
        self.members = nn.ModuleList(
            _Member(shape, in_channels, out_channels) for _ in range(shape.members)
        )
        draw_he_weights(self, NEGATIVE_SLOPE)

    @property
    def divisors(self) -> Sizes:
        """What the sizes of the input must be multiples of, by axis."""
        return self.shape.divisors

    def features(
        self, x: Float[Tensor, "B C *S"], levels: Sequence[int]
    ) -> tuple[Float[Tensor, "B K *S"], dict[int, Tensor]]:
        """Give the logits, and by level the output of the decoder's stage there."""
        for level in levels:
            self.feature_channels(level)
        self._check_input(x)
        logits, found = self.members[0](x, levels)
        for member in self.members[1:]:
            logits = logits + member(x, ())[0]
        return logits / len(self.members), found

    def feature_channels(self, level: int) -> int:
        """Count the channels of the decoder's stage at a level.

        Raises
        ------
        ModelError
            Also where the network averages several, or an axis is not halved as often
            as the level says.
        """
        self._check_level(level, len(self.shape.widths) - 1)
        halved = self.shape.strides_by_stage[1 : level + 1]
        if len(self.members) > 1 or any(set(sizes) != {2} for sizes in halved):
            raise ModelError(
                f"The decoder has no single features at 1/{2**level} of the "
                "resolution: it averages several networks, or halves some axes less "
                "often. Set distillation.feature_weight to 0."
            )
        return self.shape.widths[level]


class _Member(nn.Module):
    """One U-Net."""

    def __init__(
        self, shape: NnUNetParameters, in_channels: int, out_channels: int
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(_encoder(shape, in_channels))
        self.up = nn.ModuleList(_up(shape))
        self.decoder = nn.ModuleList(_decoder(shape))
        self.head = _conv(shape.dimensions)(shape.widths[0], out_channels, 1)
        self.stem: nn.Module = nn.Identity()
        if shape.residual:
            kernel = shape.kernels_by_stage[0]
            self.stem = _Unit(shape, (in_channels, shape.widths[0]), kernel)

    def forward(
        self, x: Tensor, levels: Sequence[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        x = self.stem(x)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        found: dict[int, Tensor] = {}
        for level in reversed(range(len(self.decoder))):
            x = torch.cat((self.up[level](x), skips.pop()), dim=1)
            x = self.decoder[level](x)
            if level in levels:
                found[level] = x
        return self.head(x), found


class _Unit(nn.Module):
    """Convolution, instance norm and, where asked for, leaky ReLU."""

    def __init__(
        self,
        shape: NnUNetParameters,
        channels: tuple[int, int],
        kernel: Sizes,
        stride: Sizes | int = 1,
        *,
        bends: bool = True,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        before, after = channels
        self.conv = _conv(shape.dimensions)(
            before,
            after,
            kernel,
            stride,
            padding=tuple((size - 1) // 2 for size in kernel),
            bias=shape.bias if bias is None else bias,
        )
        norm = nn.InstanceNorm2d if shape.dimensions == 2 else nn.InstanceNorm3d
        self.norm = norm(after, affine=True)
        self.bends = bends

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return functional.leaky_relu(x, NEGATIVE_SLOPE) if self.bends else x


class _Residual(nn.Module):
    """Two units around which a shortcut leads; pooled and widened where they do so."""

    def __init__(
        self,
        shape: NnUNetParameters,
        channels: tuple[int, int],
        kernel: Sizes,
        stride: Sizes,
    ) -> None:
        super().__init__()
        before, after = channels
        self.first = _Unit(shape, channels, kernel, stride)
        self.second = _Unit(shape, (after, after), kernel, bends=False)
        pool: Any = nn.AvgPool2d if shape.dimensions == 2 else nn.AvgPool3d
        self.pool = pool(stride, stride) if max(stride) > 1 else nn.Identity()
        self.widen: nn.Module = nn.Identity()
        if before != after:
            ones = (1,) * shape.dimensions
            self.widen = _Unit(shape, channels, ones, bends=False, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found = self.second(self.first(x)) + self.widen(self.pool(x))
        return functional.leaky_relu(found, NEGATIVE_SLOPE)


def _encoder(shape: NnUNetParameters, in_channels: int) -> list[nn.Sequential]:
    widths, kernels = shape.widths, shape.kernels_by_stage
    counts = shape.encoder or (2,) * len(widths)
    before = (widths[0] if shape.residual else in_channels, *widths[:-1])
    make = _Residual if shape.residual else _Unit
    stages = []
    for stage, (count, width) in enumerate(zip(counts, widths, strict=True)):
        stride = shape.strides_by_stage[stage]
        ones = (1,) * shape.dimensions
        blocks = [make(shape, (before[stage], width), kernels[stage], stride)]
        blocks += [
            make(shape, (width, width), kernels[stage], ones) for _ in range(count - 1)
        ]
        stages.append(nn.Sequential(*blocks))
    return stages


def _up(shape: NnUNetParameters) -> list[nn.Module]:
    transposed: Any = (
        nn.ConvTranspose2d if shape.dimensions == 2 else nn.ConvTranspose3d
    )
    widths, strides = shape.widths, shape.strides_by_stage[1:]
    return [
        transposed(deep, fine, kernel_size=stride, stride=stride, bias=shape.bias)
        for fine, deep, stride in zip(widths[:-1], widths[1:], strides, strict=True)
    ]


def _decoder(shape: NnUNetParameters) -> list[nn.Sequential]:
    counts = (shape.decoder or (2,) * (len(shape.widths) - 1))[::-1]
    stages = []
    for level, count in enumerate(counts):
        width, kernel = shape.widths[level], shape.kernels_by_stage[level]
        units = [_Unit(shape, (2 * width, width), kernel)]
        units += [_Unit(shape, (width, width), kernel) for _ in range(count - 1)]
        stages.append(nn.Sequential(*units))
    return stages


# Any: torch's types ask for tuples of two or three, and the plans decide which.
def _conv(dimensions: int) -> Any:
    return nn.Conv2d if dimensions == 2 else nn.Conv3d
