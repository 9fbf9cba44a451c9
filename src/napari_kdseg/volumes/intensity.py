"""Scaling grey values to what a network expects, measured once, applied by block.

Measuring (`fit_intensity`) looks at the whole volume; applying (`apply_intensity`)
takes any block, so that a large volume keeps its stored type in memory and only the
tile at hand becomes float32.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.volume import VoxelArray, chunks_of

_BINS = 65536
_SLAB_VOXELS = 1 << 20


class Intensity(BaseModel):
    """How the grey values of a channel become a network's input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal[
        "window", "zscore", "window_zscore", "percentile", "standard", "none"
    ] = Field(
        "zscore",
        description="window: low..high to -1..1, clipped; percentile: the same between "
        "two percentiles; zscore: mean 0, standard deviation 1; window_zscore: clipped "
        "to low..high, then zscore; standard: clipped, then by the mean and deviation "
        "given here; none: as they are",
    )
    low: float = Field(
        -325.0, description="window: the value that becomes -1; lower ones are clipped"
    )
    high: float = Field(
        325.0, description="window: the value that becomes 1; higher ones are clipped"
    )
    low_percentile: float = Field(
        0.5, ge=0, le=100, description="percentile: the one that becomes -1"
    )
    high_percentile: float = Field(
        99.5, ge=0, le=100, description="percentile: the one that becomes 1"
    )
    nonzero: bool = Field(
        default=False,
        description="zscore and percentile: measure voxels that are not 0 alone, and "
        "keep 0 at 0 (skull-stripped brains)",
    )
    offset: float = Field(0.0, description="added to the stored values first")
    mean: float = Field(0.0, description="standard: the value that becomes 0")
    deviation: float = Field(1.0, gt=0, description="standard: what becomes 1")

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(
        self, handler: Callable[["Intensity"], dict[str, Any]]
    ) -> dict[str, Any]:
        # Settings that came later leave the fingerprints of older models as they were.
        values = handler(self)
        if self.kind != "standard":
            values.pop("mean", None)
            values.pop("deviation", None)
        return values

    @model_validator(mode="after")
    def _order(self) -> "Intensity":
        for low, high in (("low", "high"), ("low_percentile", "high_percentile")):
            if not getattr(self, low) < getattr(self, high):
                raise ValueError(
                    f"{low} is {getattr(self, low):g} and {high} "
                    f"{getattr(self, high):g}; {low} must be below {high}."
                )
        return self


@dataclass(frozen=True)
class IntensityParameters:
    """One channel's scaling: ``clip((stored - centre) * scale + base, low, high)``."""

    centre: float
    scale: float
    base: float
    limits: tuple[float, float] | None
    """Lowest and highest result; None where nothing is clipped."""
    zero_stays: bool
    """Whether a stored 0 becomes 0 whatever the rest says."""


def fit_intensity(
    data: VoxelArray, intensity: Sequence[Intensity], name: str = "The volume"
) -> tuple[IntensityParameters, ...]:
    """Measure a volume for the scaling of its channels, a slab at a time.

    Parameters
    ----------
    data
        Axes channel, z, y, x; as stored, in memory or lazy.
    intensity
        One for all channels, or one a channel.
    name
        What to call the volume in messages.

    Raises
    ------
    VolumeError
        When the numbers of channels and settings disagree.
    """
    channels = data.shape[0]
    if len(intensity) not in (1, channels):
        raise VolumeError(
            f"{name} has {channels} channels and there are {len(intensity)} intensity "
            "settings; there must be one for all, or one a channel. Add the missing."
        )
    every = tuple(intensity) * (channels if len(intensity) == 1 else 1)
    return tuple(_fit(data, channel, every[channel]) for channel in range(channels))


def apply_intensity(
    block: np.ndarray, parameters: Sequence[IntensityParameters]
) -> Float32[np.ndarray, "c z y x"]:
    """Scale a block (channel, z, y, x) of the volume that was measured, to float32."""
    scaled = np.empty(block.shape, dtype=np.float32)
    for channel, one in enumerate(parameters):
        stored, result = block[channel], scaled[channel]
        np.subtract(stored, np.float32(one.centre), out=result, casting="unsafe")
        result *= np.float32(one.scale)
        if one.base:
            result += np.float32(one.base)
        if one.limits is not None:
            np.clip(result, *one.limits, out=result)
        if one.zero_stays:
            result[stored == 0] = 0
    return scaled


def _fit(data: VoxelArray, channel: int, rule: Intensity) -> IntensityParameters:
    if rule.kind == "none":
        return IntensityParameters(-rule.offset, 1.0, 0.0, None, zero_stays=False)
    if rule.kind == "window":
        return _between(*_window(rule), rule)
    if rule.kind == "standard":
        return _standard(rule)
    if rule.kind == "percentile":
        low, high = _percentiles(data, channel, rule)
        return _between(low, high, rule)
    mean, deviation = _moments(data, channel, rule)
    # A constant channel has nothing to scale; it becomes 0 rather than infinite.
    scale = 1.0 / deviation if deviation > 0 else 1.0
    if rule.kind == "zscore":
        return IntensityParameters(mean, scale, 0.0, None, zero_stays=rule.nonzero)
    low, high = _window(rule)
    limits = ((low - mean) * scale, (high - mean) * scale)
    return IntensityParameters(mean, scale, 0.0, limits, zero_stays=False)


def _window(rule: Intensity) -> tuple[float, float]:
    """The window in stored values."""
    return rule.low - rule.offset, rule.high - rule.offset


def _standard(rule: Intensity) -> IntensityParameters:
    low, high = (
        (limit - rule.mean) / rule.deviation for limit in (rule.low, rule.high)
    )
    centre, scale = rule.mean - rule.offset, 1 / rule.deviation
    return IntensityParameters(centre, scale, 0.0, (low, high), zero_stays=False)


def _between(low: float, high: float, rule: Intensity) -> IntensityParameters:
    scale = 2.0 / (high - low) if high > low else 1.0
    keep_zero = rule.nonzero and rule.kind == "percentile"
    return IntensityParameters(low, scale, -1.0, (-1.0, 1.0), zero_stays=keep_zero)


def _slabs(data: VoxelArray, channel: int, rule: Intensity) -> Iterator[np.ndarray]:
    """Give the voxels that are measured, flat, about a million at a time."""
    for box in _boxes(data):
        slab = np.asarray(data[(channel, *box)]).reshape(-1)
        if rule.kind == "window_zscore":
            slab = np.clip(slab, *_window(rule))
        elif rule.nonzero:
            slab = slab[slab != 0]
        if slab.size:
            yield slab


def _boxes(data: VoxelArray) -> Iterator[tuple[slice, slice]]:
    """Cut a volume along z and y between its chunks, so that none is decoded twice."""
    _, depth, height, width = data.shape
    _, layer, row, _ = chunks_of(data)
    planes = max(1, _SLAB_VOXELS // (layer * height * width)) * layer
    rows = max(1, _SLAB_VOXELS // (planes * row * width)) * row
    for top in range(0, depth, planes):
        for front in range(0, height, rows):
            yield slice(top, top + planes), slice(front, front + rows)


def _moments(data: VoxelArray, channel: int, rule: Intensity) -> tuple[float, float]:
    """Mean and standard deviation in float64, slabs merged by Chan et al. (1979)."""
    count, mean, squares = 0, 0.0, 0.0
    for slab in _slabs(data, channel, rule):
        its_mean = float(slab.mean(dtype=np.float64))
        its_squares = float(slab.var(dtype=np.float64)) * slab.size
        total = count + slab.size
        apart = its_mean - mean
        squares += its_squares + apart * apart * count * slab.size / total
        mean += apart * slab.size / total
        count = total
    return mean, float(np.sqrt(squares / count)) if count else 0.0


def _percentiles(
    data: VoxelArray, channel: int, rule: Intensity
) -> tuple[float, float]:
    """Find the values at both percentiles (nearest rank) without a sorted copy."""
    lowest, highest, count = np.inf, -np.inf, 0
    for slab in _slabs(data, channel, rule):
        lowest = min(lowest, float(slab.min()))
        highest = max(highest, float(slab.max()))
        count += slab.size
    if count == 0 or lowest == highest:
        edge = lowest if count else 0.0
        return edge, edge
    found = []
    for percentile in (rule.low_percentile, rule.high_percentile):
        rank = round(percentile / 100 * (count - 1))
        slabs = partial(_slabs, data, channel, rule)
        found.append(_value_at_rank(slabs, rank, lowest, highest))
    return found[0], found[1]


def _value_at_rank(
    slabs: Callable[[], Iterator[np.ndarray]], rank: int, low: float, high: float
) -> float:
    """Find the value `rank` voxels are below, to (high - low) / 65536²; two passes."""
    for _ in range(2):
        width = (high - low) / _BINS
        counts = np.zeros(_BINS, dtype=np.int64)
        for slab in slabs():
            # Not clipped before the cast: what lies outside must not be counted in.
            bins = np.floor((slab.astype(np.float64) - low) / width)
            bins[slab == high] = _BINS - 1
            inside = (bins >= 0) & (bins < _BINS)
            counts += np.bincount(bins[inside].astype(np.intp), minlength=_BINS)
        upto = counts.cumsum()
        chosen = min(int(np.searchsorted(upto, rank, side="right")), _BINS - 1)
        rank -= int(upto[chosen - 1]) if chosen else 0
        low, high = low + chosen * width, low + (chosen + 1) * width
    return low
