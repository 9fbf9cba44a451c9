"""What a prediction will take, before it is begun. Needs no torch: docks ask it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol, runtime_checkable

import numpy as np

from napari_kdseg.amounts import duration, size
from napari_kdseg.inference.backends import kind_of, windows_at_once
from napari_kdseg.inference.foreground import as_it_is
from napari_kdseg.inference.needs import Need, Sweeps, result_bytes
from napari_kdseg.inference.plan import plan_passes
from napari_kdseg.inference.rolling import slow_axis
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.speeds import seconds_per_window
from napari_kdseg.models.model import Model
from napari_kdseg.volumes.preprocessing import Frame
from napari_kdseg.volumes.volume import Grid

_SET_UP_BYTES = 150_000_000  # measured, as the test of peak memory does
_CUDA_SET_UP_BYTES = 1_000_000_000  # what its libraries take beside the card
_KEPT_BYTES = 100_000_000
_CLEANING_BYTES = 8  # of a voxel: numbers of components, and their mask


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

    @property
    def decoded_bytes(self) -> int:
        """Memory that the open scan takes; 0 where its voxels stay on the disk."""
        ...


@dataclass(frozen=True)
class Estimate:
    """What a prediction will take; bytes are those beyond the idle program's."""

    host_bytes: int
    """Most of the computer's memory at once."""
    device_bytes: int
    """Most of the graphics card's memory at once; 0 where the processor computes."""
    window_bytes: int
    """The same of the card with a single window at a time."""
    least_bytes: int
    """The same with the smallest windows that are tried where the card is full."""
    windows: int
    """How many windows the networks look at, over all models."""
    seconds: float | None
    """Time at most, where every model was measured on the device; else None."""
    reason: str
    """Where the seconds come from, or why there are none."""
    place: str
    """``cpu`` or ``cuda``."""

    def in_words(self, free_bytes: int) -> str:
        """Memory and time in a line.

        Parameters
        ----------
        free_bytes
            Of the computer's memory.
        """
        memory = f"{size(self.host_bytes)} of memory ({size(free_bytes)} free)"
        if self.device_bytes:
            memory = f"{size(self.device_bytes)} on the graphics card, {memory}"
        if self.seconds is None:
            return f"About {memory}, {self.reason}."
        return f"About {memory}, {duration(self.seconds)} ({self.reason})."


def estimate(
    scan: Scan,
    models: Sequence[Model],
    settings: Settings | None = None,
    *,
    device: str = "cpu",
) -> Estimate:
    """Foresee memory and time of predicting a scan whole.

    Bytes, added up over passes (models that share preprocessing and windows)::

        stored                            voxels, where the scan is decoded whole
        + 4 K (carried + strip)           sums of overlapping windows
        + up to 48 MB                     probabilities made of them, a piece at a time
        + 2 P D F                         the slab of results at hand, and that before
        + 4 K S (where resampled)         probabilities waiting to be interpolated
        + 4 I M + 16 max(N, M) (nnU-Net)  the scan prepared whole, in doubles on the way
        + 4 B T (I + C)                   windows and logits
        + weights + 4 B T (5 W + 2 C)     the networks and their layers
        + 4 B T C (1 + axes)              probabilities of flipped windows, compared
        + 150 MB                          what torch sets up, and what the C library
                                          keeps of layers for the next

    with z the axis that windows are gone through along (see `rolling`), and K the
    summed channels (all classes of all models, one for the weights unless
    labels are all that is wanted, one a model for test-time variance); ``carried`` the
    tile's depth without its step, times the face; ``strip`` the tile's depth and
    height times the face's width; F the face; D the depth of the deepest slab (the
    last is a tile deep, none has less than 8 planes); P bytes of results a voxel; S
    the deepest slab of the model's frame; N, M all voxels of the scan and of the
    model's frame; B windows at once of T voxels; I channels of the image, C the
    classes, W the channels of a network's finest stage. Pieces are made where
    uncertainty, probabilities or resampling ask for them, flipped windows for
    test-time variance alone. Layers and the last line
    are rough: five feature maps of full resolution are alive at once in a U-Net.

    On a graphics card lie the sums, what waits, windows, logits, networks and their
    layers (2 bytes a value unless float32 is asked for); the computer holds the rest,
    windows and weights on their way there, and 1 GB for CUDA, roughly.

    A composite takes the more of its coarse pass, with the scan resized for it (4 I M),
    and of its fine one, which may come to see all of the scan, and 100 MB that the C
    library keeps of the first. Beside other models it holds its results whole, twice,
    and numbers of components (8 N).

    Parameters
    ----------
    scan
        The scan, or the header of its file.
    models, settings
        As for `predict_any_tiles`.
    device
        Where ``auto`` would go.

    Raises
    ------
    UsageError, ModelError
        As `predict_any_tiles`.
    """
    settings = settings or Settings()
    for model in models:
        for one in (model, *(model.parts or ())):
            one.card.check_fits(scan)
    place = kind_of(device if settings.device == "auto" else settings.device)
    found = _Foreseen(scan, settings, place)
    plain = [model for model in models if model.parts is None]
    composites = [model for model in models if model.parts is not None]
    pairs = [found.passes(model) for model in composites]
    groups = [
        found.of_composite(model, pair, len(models))
        for model, pair in zip(composites, pairs, strict=True)
    ]
    every = [sweeps for pair in pairs for sweeps in pair]
    if plain or not models:
        sweeps = found.sweeps(plain, settings, scan.grid)
        every.append(sweeps)
        groups.append([sweeps.need, sweeps.window, sweeps.least])
    most, window, least = (
        found.beside(composites, plain) + _worst(needs)
        for needs in zip(*groups, strict=True)
    )
    seconds, reason = _time(every, settings, place, is_most=bool(composites))
    return Estimate(
        host_bytes=most.host,
        device_bytes=most.device,
        window_bytes=window.device,
        least_bytes=least.device,
        windows=sum(map(_windows, every)),
        seconds=seconds,
        reason=reason,
        place=place,
    )


def together(estimates: Sequence[Estimate]) -> Estimate:
    """What several predictions take that follow one another; one at least."""
    seconds = [one.seconds for one in estimates if one.seconds is not None]
    return replace(
        estimates[0],
        host_bytes=max(one.host_bytes for one in estimates),
        device_bytes=max(one.device_bytes for one in estimates),
        window_bytes=max(one.window_bytes for one in estimates),
        least_bytes=max(one.least_bytes for one in estimates),
        windows=sum(one.windows for one in estimates),
        seconds=sum(seconds) if len(seconds) == len(estimates) else None,
    )


@dataclass(frozen=True)
class _Foreseen:
    """What the parts of one prediction need."""

    scan: Scan
    settings: Settings
    place: str

    @property
    def on_card(self) -> bool:
        return self.place != "cpu"

    def beside(self, composites: Sequence[Model], plain: Sequence[Model]) -> Need:
        """What is there all the while, whichever models are at work."""
        set_up = _SET_UP_BYTES + _CUDA_SET_UP_BYTES * self.on_card
        whole = 0
        if composites and len(composites) + len(plain) > 1:
            cards = [model.card for model in (*plain, *composites)]
            whole = prod(self.scan.grid.shape) * result_bytes(cards, self.settings)
        return Need(self.scan.decoded_bytes + set_up + whole)

    def sweeps(self, models: Sequence[Model], settings: Settings, grid: Grid) -> Sweeps:
        """Models that go over a volume together."""
        cards = [model.card for model in models]
        passes = plan_passes(cards, settings, windows_at_once(settings, self.place))
        axis = slow_axis(grid, cards, passes)
        return Sweeps(tuple(models), passes, settings, grid, axis, self.on_card)

    def of_composite(
        self, model: Model, passes: tuple[Sweeps, Sweeps], models: int
    ) -> list[Need]:
        """Windows as asked for, one at a time, and the smallest.

        Parameters
        ----------
        model, passes
            The composite and its passes.
        models
            How many there are in all: one alone comes slab by slab.
        """
        coarse, fine = passes
        grid, frame = self.scan.grid, coarse.grid
        count = len(self.scan.channels)
        cards = [coarse.models[0].card]
        seen = (4 * count + result_bytes(cards, coarse.settings) + _CLEANING_BYTES) * (
            prod(frame.shape)
        )
        inside = 0
        if models > 1:
            results = result_bytes([model.card], self.settings)
            inside = prod(grid.shape) * (results + _CLEANING_BYTES)
        measured = 4 * prod(frame.shape) * (self.settings.uncertainty is not None)
        return [
            Need(measured + _KEPT_BYTES)
            + (Need(seen) + first).at_worst(Need(inside + measured) + second)
            for first, second in (
                (coarse.need, fine.need),
                (coarse.window, fine.window),
                (coarse.least, fine.least),
            )
        ]

    def passes(self, model: Model) -> tuple[Sweeps, Sweeps]:
        """A composite's coarse one, and its fine one, which may see the whole scan."""
        assert model.parts is not None
        coarse, fine = model.parts
        frame = Frame.of(self.scan.grid, coarse.card.preprocessing)
        settings = replace(self.settings, roi="all")
        first = replace(settings, probabilities=False, tile=None, overlap=None)
        return (
            self.sweeps([as_it_is(coarse)], first, frame.model),
            self.sweeps([fine], settings, self.scan.grid),
        )


def _worst(needs: Sequence[Need]) -> Need:
    found = Need()
    for need in needs:
        found = found.at_worst(need)
    return found


def _windows(sweeps: Sweeps) -> int:
    pairs = zip(sweeps.windows, sweeps.passes, strict=True)
    return sum(count * len(sweep.members) for count, sweep in pairs)


def _time(
    every: Sequence[Sweeps], settings: Settings, place: str, *, is_most: bool
) -> tuple[float | None, str]:
    """Seconds, where they are known, and why."""
    total, measured, skips = 0.0, True, settings.roi != "all"
    for sweeps in every:
        for sweep, count in zip(sweeps.passes, sweeps.windows, strict=True):
            for member in sweep.members:
                card = sweeps.models[member].card
                one = seconds_per_window(card, place, sweep.tile, settings)
                measured = measured and one is not None
                skips = skips or card.tiling.air_up_to is not None
                total += count * (one or 0.0)
    if not measured:
        return None, f"time not known before a first run on {place}"
    if is_most:
        less = ", less where the fine model sees a part of the scan"
    else:
        less = ", less where windows are passed over" if skips else ""
    return total, f"measured on {place} before{less}"
