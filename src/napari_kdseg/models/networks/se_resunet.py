"""Residual U-Net with squeeze and excitation, dense or depthwise separable.

The networks of FLARE22 cross teaching (arXiv 2211.05942). Its text is not at hand;
shapes and numbers are those of the authors' code (jwc-rad/MISLight, branch ``flare22``,
commit 95e6bad, options ``se_resunet`` and ``mobile_se_resunet``): a stem, stages of 1,
2, 3, 4 and 5 residual blocks, one squeeze-and-excitation layer a decoder stage whose
weights serve both what was up-sampled and what the encoder hands over, one pair of
convolutions, a 1 x 1 x 1 head.

The two teachers differ in how they up-sample; the student is the same network with
depthwise-separable convolutions in all of its blocks.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.models.parameters import SEResUNetParameters

NEGATIVE_SLOPE = 0.01
REDUCTION = 8


class SEResUNet(SegmentationNetwork):
    """Residual blocks down, squeeze-and-excitation and plain blocks up.

    Parameters
    ----------
    dimensions
        2 for images ``B C Y X``, 3 for ``B C Z Y X``.
    in_channels
        Channels of the image.
    out_channels
        Classes, background included.
    width
        Channels of the stem and of the first stage; each stage doubles them.
    stages
        Resolutions, the finest included; each halves all axes.
    max_width
        Where doubling ends.
    blocks
        Residual blocks of each stage, the finest first; None: 1, 2, 3 and so on.
    upsampling
        By transposed convolution, or by linear interpolation and a convolution.
    separable
        Whether the blocks' convolutions are split into depth and point.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of the shape
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        stages: int = 5,
        max_width: int = 512,
        blocks: tuple[int, ...] | None = None,
        upsampling: Literal["transposed", "resize"] = "transposed",
        separable: bool = False,
    ) -> None:
        shape = SEResUNetParameters(
            dimensions=dimensions,
            width=width,
            stages=stages,
            max_width=max_width,
            blocks=blocks,
            upsampling=upsampling,
            separable=separable,
        )
        super().__init__(dimensions, in_channels, out_channels, shape.divisor)
        self.widths = shape.widths
        self.stem = _unit(dimensions, _dense(dimensions, in_channels, width), width)
        self.encoder = nn.ModuleList(_encoder(shape))
        self.up = nn.ModuleList(_up(shape))
        self.excite = nn.ModuleList(_Excite(fine) for fine in self.widths[:-1])
        self.decoder = nn.ModuleList(
            nn.Sequential(
                _unit(dimensions, _inner(shape, 2 * fine, fine), fine),
                _unit(dimensions, _inner(shape, fine, fine), fine),
            )
            for fine in self.widths[:-1]
        )
        convolution = _convolution(dimensions)
        self.head = convolution(self.widths[0], out_channels, 1, bias=False)
        draw_xavier_weights(self)

    def features(
        self, x: Float[Tensor, "B C *S"], levels: Sequence[int]
    ) -> tuple[Float[Tensor, "B K *S"], dict[int, Tensor]]:
        """Give the logits, and by level the output of the decoder's stage there."""
        self._check_input(x)
        for level in levels:
            self._check_level(level, len(self.decoder))
        x = self.stem(x)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        found: dict[int, Tensor] = {}
        for level in reversed(range(len(self.decoder))):
            excite = self.excite[level]
            x = torch.cat((excite(self.up[level](x)), excite(skips.pop())), dim=1)
            x = self.decoder[level](x)
            if level in levels:
                found[level] = x
        return self.head(x), found

    def feature_channels(self, level: int) -> int:
        """Count the channels of the decoder's stage at a level."""
        self._check_level(level, len(self.decoder))
        return self.widths[level]


def draw_xavier_weights(network: nn.Module) -> None:
    """Draw the weights of all convolutions as Glorot and Bengio 2010 do; no bias.

    Parameters
    ----------
    network
        Its convolutions are changed in place.
    """
    kinds = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d
    for module in network.modules():
        # As in draw_he_weights: nothing is drawn on the meta device.
        if isinstance(module, kinds) and not module.weight.is_meta:
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class _Residual(nn.Module):
    """Two convolutions and a shortcut; the shortcut is projected where shapes change.

    He et al. 2016, option B, with instance norm and leaky ReLU.
    """

    def __init__(
        self, shape: SEResUNetParameters, before: int, after: int, stride: int
    ) -> None:
        super().__init__()
        dimensions, norm = shape.dimensions, _norm(shape.dimensions)
        self.first = _unit(dimensions, _inner(shape, before, after, stride), after)
        self.second = nn.Sequential(
            _inner(shape, after, after), norm(after, affine=True)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(
                _convolution(dimensions)(before, after, 1, stride, bias=False),
                norm(after, affine=True),
            )

    def forward(self, x: Tensor) -> Tensor:
        added = self.second(self.first(x)) + self.shortcut(x)
        return functional.leaky_relu(added, NEGATIVE_SLOPE)


class _Excite(nn.Module):
    """Squeeze and excitation that adds: ``x + x * relu(W2 leaky(W1 mean(x)))``.

    Hu et al. 2018 in MONAI's residual form (``ResidualSELayer``), whose import would
    take two seconds.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // REDUCTION, 1)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(2).mean(dim=2)
        hidden = functional.leaky_relu(self.squeeze(mean), NEGATIVE_SLOPE)
        weight = functional.relu(self.excite(hidden))
        return x + x * weight.reshape(*weight.shape, *[1] * (x.ndim - 2))


class _ResizeConvolution(nn.Module):
    """Linear interpolation to twice the size, then a convolution of 2 voxels a side."""

    def __init__(self, dimensions: int, before: int, after: int) -> None:
        super().__init__()
        self.mode = "trilinear" if dimensions == 3 else "bilinear"
        self.convolution = _convolution(dimensions)(before, after, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        sizes = [2 * size for size in x.shape[2:]]
        larger = functional.interpolate(
            x, size=sizes, mode=self.mode, align_corners=True
        )
        # One voxel more at the far end: what torch calls "same" without its warning.
        resized: Tensor = self.convolution(
            functional.pad(larger, (0, 1) * (x.ndim - 2))
        )
        return resized


class _Separable(nn.Sequential):
    """A 3 x 3 (x 3) convolution of each channel alone, then 1 x 1 (x 1) across them."""

    def __init__(self, dimensions: int, before: int, after: int, stride: int) -> None:
        convolution = _convolution(dimensions)
        super().__init__(
            convolution(before, before, 3, stride, padding=1, groups=before),
            convolution(before, after, 1),
        )


def _encoder(shape: SEResUNetParameters) -> list[nn.Sequential]:
    stages = []
    before = shape.widths[0]
    for number, (after, count) in enumerate(
        zip(shape.widths, shape.blocks_by_stage, strict=True)
    ):
        first = _Residual(shape, before, after, stride=2 if number else 1)
        others = [_Residual(shape, after, after, stride=1) for _ in range(count - 1)]
        stages.append(nn.Sequential(first, *others))
        before = after
    return stages


def _up(shape: SEResUNetParameters) -> list[nn.Module]:
    pairs = zip(shape.widths[1:], shape.widths[:-1], strict=True)
    if shape.upsampling == "resize":
        return [_ResizeConvolution(shape.dimensions, *pair) for pair in pairs]
    transposed = nn.ConvTranspose2d if shape.dimensions == 2 else nn.ConvTranspose3d
    return [
        transposed(deep, fine, kernel_size=2, stride=2, bias=False)
        for deep, fine in pairs
    ]


def _inner(
    shape: SEResUNetParameters, before: int, after: int, stride: int = 1
) -> nn.Module:
    """A convolution of a block: separable where the network is."""
    if shape.separable:
        return _Separable(shape.dimensions, before, after, stride)
    return _dense(shape.dimensions, before, after, stride)


def _dense(dimensions: int, before: int, after: int, stride: int = 1) -> nn.Module:
    return _convolution(dimensions)(before, after, 3, stride, padding=1)


def _unit(dimensions: int, convolution: nn.Module, channels: int) -> nn.Sequential:
    """Convolution, norm, activation."""
    return nn.Sequential(
        convolution,
        _norm(dimensions)(channels, affine=True),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


def _norm(dimensions: int) -> type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]:
    return nn.InstanceNorm2d if dimensions == 2 else nn.InstanceNorm3d


def _convolution(dimensions: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if dimensions == 2 else nn.Conv3d
