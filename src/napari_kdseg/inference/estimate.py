"""What a prediction will take, before it is begun. Needs no torch: docks ask it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from napari_kdseg.inference.plan import (
    LEAST_PLANES,
    Channels,
    Pass,
    plan_passes,
)
from napari_kdseg.inference.rolling import rolled, slow_axis, whole_lattice
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.speeds import kind_of, seconds_per_window
from napari_kdseg.inference.tiling import Lattice
from napari_kdseg.models.card import ModelCard
from napari_kdseg.models.model import WEIGHTS, Model
from napari_kdseg.models.parameters import (
    SEResUNetParameters,
    UNetParameters,
    parameters_of,
)
from napari_kdseg.volumes.volume import Grid

_SET_UP_BYTES = 100_000_000
_OTHER_WIDTH = 32  # a ResNet-18 encoder's layers, counted at full resolution


@runtime_checkable
class Scan(Protocol):
    """What is known of a scan before its voxels are read."""

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """What each channel shows."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of the voxels once read."""
        ...


@dataclass(frozen=True)
class Estimate:
    """What a prediction will take."""

    memory_bytes: int
    """Most memory at once, beyond what the program takes anyhow."""
    windows: int
    """How many windows the networks look at, over all models."""
    seconds: float | None
    """Time, where every model was measured on the device; else None."""
    reason: str
    """Where the seconds come from, or why there are none."""


def estimate(
    header: Scan,
    models: Sequence[Model],
    settings: Settings | None = None,
    *,
    device: str = "cpu",
) -> Estimate:
    """Foresee memory and time of predicting a scan whole.

    Bytes, added up over passes (models that share preprocessing and windows)::

        stored                            voxels as stored, all channels
        + 4 K (carried + strip)           sums of overlapping windows
        + P D F                           the slab of results at hand
        + 4 K S (where resampled)         probabilities waiting to be interpolated
        + 4 I M + 16 max(N, M) (nnU-Net)  the scan prepared whole, in doubles on the way
        + 4 B T (I + C)                   windows and logits
        + weights + 4 B T (5 W + 2 C)     the networks and their layers
        + 100 MB                          what torch sets up at its first convolution

    with z the axis that windows are gone through along (see `rolling`), and K the
    summed channels (all classes of all models, one for the weights unless
    labels are all that is wanted, one a model for test-time variance); ``carried`` the
    tile's depth without its step, times the face; ``strip`` the tile's depth and
    height times the face's width; F the face; D the depth of the deepest slab (the
    last is a tile deep, none has less than 8 planes); P bytes of results a voxel; S
    the deepest slab of the model's frame; N, M all voxels of the scan and of the
    model's frame; B windows at once of T voxels; I channels of the image, C the
    classes, W the channels of a network's finest stage. The last two lines
    are rough: five feature maps of full resolution are alive at once in a U-Net.

    Parameters
    ----------
    header
        The scan, or the header of its file.
    models, settings
        As for `predict_tiles`.
    device
        Where ``auto`` would go, to find the right measurement.

    Raises
    ------
    UsageError, ModelError
        As `predict_tiles`.
    """
    settings = settings or Settings()
    for model in models:
        model.card.check_fits(header)
    cards = [model.card for model in models]
    passes = plan_passes(cards, settings)
    axis = slow_axis(header.grid, cards, passes)
    place = device if settings.device == "auto" else settings.device
    stored = len(header.channels) * prod(header.grid.shape) * header.dtype.itemsize
    memory, windows, seconds = stored + _SET_UP_BYTES, 0, 0.0
    unmeasured: list[str] = []
    for sweep in passes:
        own = [models[member] for member in sweep.members]
        frame, turned, _ = rolled(header.grid, sweep, axis)
        count = whole_lattice(turned, frame).count
        memory += _pass_bytes(sweep, own, settings, header.grid, axis)
        windows += count * len(own)
        for model in own:
            one = seconds_per_window(model.card, place, sweep.tile)
            if one is None:
                unmeasured.append(model.card.name)
            seconds += count * (one or 0.0)
    if unmeasured:
        reason = f"{', '.join(unmeasured)}: not measured on {kind_of(place)} yet"
        return Estimate(memory, windows, None, reason)
    reason = f"measured on {kind_of(place)} before"
    return Estimate(memory, windows, seconds, reason)


def _pass_bytes(
    sweep: Pass, models: Sequence[Model], settings: Settings, grid: Grid, axis: int
) -> int:
    """Every line of the formula but the first."""
    cards = [model.card for model in models]
    frame, turned, _ = rolled(grid, sweep, axis)
    lattice = whole_lattice(turned, frame)
    asked = settings.uncertainty is not None or settings.probabilities
    mean = asked or frame.is_resampled
    channels = Channels.plan(cards, settings, mean=mean).count
    buffers = 4 * channels * (prod(lattice.carried_shape) + prod(lattice.strip_shape))
    deepest = _deepest_slab(lattice)
    depth = max(deepest, LEAST_PLANES)
    slab = depth * prod(frame.oriented.shape[1:]) * _result_bytes(cards, settings)
    waiting = 4 * channels * deepest * prod(frame.model.shape[1:])
    values = len(cards[0].channels) + sum(card.classes.count for card in cards)
    batch = 4 * sweep.batch * prod(sweep.tile)
    network = max(_layer_values(card) for card in cards)
    weights = sum(_weights_bytes(model.folder) for model in models)
    resampled = waiting if frame.is_resampled else 0
    if sweep.preprocessing.scheme == "nnunet":
        whole, seen = prod(frame.oriented.shape), prod(frame.model.shape)
        resampled += 4 * len(cards[0].channels) * seen + 16 * max(whole, seen)
    return buffers + slab + resampled + batch * (values + network) + weights


def _deepest_slab(lattice: Lattice) -> int:
    """Planes that the deepest level of windows finishes; the last finishes its tile."""
    lows = [span.low for span in lattice.z[1:]]
    ends = [*lows, lattice.z[-1].high]
    return max(e - span.low for e, span in zip(ends, lattice.z, strict=True))


def _result_bytes(cards: Sequence[ModelCard], settings: Settings) -> int:
    """Bytes that the results of one voxel take, over some models."""
    measured = 4 if settings.uncertainty is not None else 0
    return sum(
        card.classes.dtype.itemsize
        + measured
        + (4 * card.classes.count if settings.probabilities else 0)
        for card in cards
    )


def _layer_values(card: ModelCard) -> int:
    """Values alive at once in a network, for each voxel of its window."""
    parameters = parameters_of(card.network)
    width = _OTHER_WIDTH
    if isinstance(parameters, UNetParameters | SEResUNetParameters):
        width = parameters.widths[0]
    return 5 * width + 2 * card.classes.count


def _weights_bytes(folder: Path) -> int:
    weights = folder / WEIGHTS
    return weights.stat().st_size if weights.is_file() else 0
