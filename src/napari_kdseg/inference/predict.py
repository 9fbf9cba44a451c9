"""Labels, uncertainty and probabilities of a volume, as a stream of finished tiles.

The volume is never there as probabilities: windows overlap along z in a buffer that
is one tile deep, and what is complete is reduced to labels at once. Peak memory
depends on the tile, the number of classes and one face of the volume.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_kdseg.errors import ModelError, StopRequested, UsageError
from napari_kdseg.inference.backends import windows_at_once
from napari_kdseg.inference.compiled import pick_backend
from napari_kdseg.inference.estimate import Estimate, estimate
from napari_kdseg.inference.foreground import (
    Foreground,
    as_it_is,
    coarse_settings,
    coarse_volume,
)
from napari_kdseg.inference.forward import Forward, Network, pick_device, using_threads
from napari_kdseg.inference.hooks import NO_HOOKS, Hooks
from napari_kdseg.inference.merge import in_step, turned
from napari_kdseg.inference.plan import Pass, plan_passes
from napari_kdseg.inference.postprocessing import clean
from napari_kdseg.inference.reduce import Maps, Reducer
from napari_kdseg.inference.rolling import rolled, slow_axis
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.source import PreparedSource, Source
from napari_kdseg.inference.sweep import (
    Slab,
    Sweep,
    needed_box,
    release,
    surrounded,
)
from napari_kdseg.models.model import Model, ModelCard
from napari_kdseg.volumes.intensity import (
    Intensity,
    IntensityParameters,
    fit_intensity,
)
from napari_kdseg.volumes.nnunet import cut, nonzero_box
from napari_kdseg.volumes.preprocessing import Frame
from napari_kdseg.volumes.volume import Box, Grid, Volume

__all__ = [
    "Estimate",
    "FinishedTile",
    "Prediction",
    "Settings",
    "box_of",
    "estimate",
    "finish_labels",
    "gathered",
    "maps_of",
    "predict_tiles",
    "predict_volume",
    "shared_box",
    "tile_of",
]

Fits = dict[tuple[Intensity, ...], tuple[IntensityParameters, ...]]


@dataclass(frozen=True)
class FinishedTile:
    """A part of the volume that is done, on the source's own grid and axes.

    All arrays have one entry a model, in the order in which the models were given.
    """

    index: Box
    """Where in the source array (z, y, x as stored)."""
    labels: tuple[NDArray[Any], ...]
    """Class values, before any clean-up; z, y, x."""
    uncertainty: tuple[NDArray[np.float32], ...] | None
    """0 (sure) to 1; z, y, x."""
    probabilities: tuple[NDArray[np.float32], ...] | None
    """Class (background first), z, y, x."""
    fraction: float
    """Part of the whole that is done with this tile, above 0 to 1."""


@dataclass(frozen=True)
class Prediction:
    """A whole volume's results, one entry a model, on the source's own grid."""

    labels: tuple[NDArray[Any], ...]
    """Class values after clean-up; z, y, x."""
    uncertainty: tuple[NDArray[np.float32], ...] | None
    """0 (sure) to 1; z, y, x."""
    probabilities: tuple[NDArray[np.float32], ...] | None
    """Class (background first), z, y, x."""


def predict_tiles(
    volume: Volume,
    models: Sequence[Model],
    settings: Settings | None = None,
    *,
    box: Box | None = None,
    axis: int | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Iterator[FinishedTile]:
    """Predict a volume, tile by tile, in a fixed order.

    Tiles are slabs along one axis, the slowest of the first model's frame or that which
    leaves the least to keep in memory (`rolling`); they cover the volume once. Models
    that share preprocessing and windows share one reading. Where memory runs out with
    one window at a time, the window is halved, the log says so, and the volume begins
    anew: tiles handed on before are then superseded.

    Parameters
    ----------
    volume
        The scan.
    models
        At least one; each must fit the scan.
    settings
        Device, precision and what is wanted; None takes the defaults.
    box
        Part of the source array (z, y, x as stored), each slice with start and stop:
        only windows that touch it are computed, and tiles cover it alone. None: all.
    axis
        Of the source array, along which tiles follow one another; None: see above.
    hooks
        Who may stop it, and is told how it goes.

    Raises
    ------
    ModelError
        Where a model does not fit the scan, or memory does not suffice.
    StopRequested
        Where the hooks said so; tiles handed on stay good.
    UsageError
        Where settings suit no model or the box lies outside the volume.
    """
    settings = settings or Settings()
    job = _Job.open(volume, models, settings, box, axis)
    while True:
        stopped, too_large = "", False
        try:
            yield from job.tiles(hooks)
        except GeneratorExit:
            pass
        except StopRequested as stop:
            stopped = f"{volume.name}: {stop}"
        except torch.OutOfMemoryError:
            too_large = True
        # Here no exception is alive whose frames would keep the buffers.
        release(job.device)
        if stopped:
            raise StopRequested(stopped)
        if not too_large:
            return
        job = job.smaller(hooks.log)


def predict_volume(
    volume: Volume,
    models: Sequence[Model],
    settings: Settings | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Prediction:
    """Predict a volume whole, clean its labels up as the cards ask; all in memory.

    Parameters and exceptions are those of `predict_tiles`.
    """
    tiles = predict_tiles(volume, models, settings, hooks=hooks)
    return gathered(tiles, volume.grid, [model.card for model in models])


def gathered(
    tiles: Iterable[FinishedTile], grid: Grid, cards: Sequence[ModelCard]
) -> Prediction:
    """Put the tiles of a whole volume together, and clean its labels up.

    Parameters
    ----------
    tiles
        They cover the volume; of two that overlap the later one counts.
    grid
        The volume's.
    cards
        Say, a model each, how its labels are cleaned up.
    """
    maps: Maps | None = None
    for tile in tiles:
        part = maps_of(tile)
        if maps is None:
            maps = part.change(
                lambda a: np.zeros((*a.shape[:-3], *grid.shape), a.dtype)
            )
        maps.put(tile.index, part)
    assert maps is not None
    voxel_mm3 = grid.voxel_ml * 1000
    return Prediction(
        tuple(
            finish_labels(labels, card, voxel_mm3)
            for labels, card in zip(maps.labels, cards, strict=True)
        ),
        maps.uncertainty or None,
        maps.probabilities or None,
    )


def finish_labels(
    labels: NDArray[Any], card: ModelCard, voxel_mm3: float
) -> NDArray[Any]:
    """Clean the labels of a whole volume up as a model's card asks.

    Parameters
    ----------
    labels
        Z, y, x of the whole volume; left alone.
    card
        Says which components and holes to clean up, often none.
    voxel_mm3
        Volume of one voxel.
    """
    return clean(labels, card.classes, card.postprocessing, voxel_mm3=voxel_mm3)


@dataclass(frozen=True)
class _Job:
    """A prediction that is settled but not begun."""

    volume: Volume
    models: tuple[Model, ...]
    settings: Settings
    passes: tuple[Pass, ...]
    device: str
    box: Box
    axis: int
    """Of the stored array: slabs follow one another along it."""

    @classmethod
    def open(
        cls,
        volume: Volume,
        models: Sequence[Model],
        settings: Settings,
        box: Box | None,
        axis: int | None,
    ) -> "_Job":
        if not models:
            raise UsageError(f"No model was given to predict {volume.name} with.")
        for model in models:
            model.card.check_fits(volume)
        cards = [model.card for model in models]
        device = pick_device(settings.device)
        passes = plan_passes(cards, settings, windows_at_once(settings, device))
        return cls(
            volume,
            tuple(models),
            settings,
            passes,
            device,
            box_of(volume, box),
            slow_axis(volume.grid, cards, passes) if axis is None else axis,
        )

    def smaller(self, log: Callable[[str], None]) -> "_Job":
        """The same, the largest window that can be halved; the log says which."""
        shrunk = [sweep.smaller() for sweep in self.passes]
        able = [place for place, sweep in enumerate(shrunk) if sweep is not None]
        if not able:
            names = ", ".join(model.card.name for model in self.models)
            raise ModelError(
                f"{names}: the memory of {self.device} does not suffice for "
                f"{self.volume.name} even with windows of {_by(self.passes[0].tile)} "
                "voxels. Free some, or take another device."
            )
        largest = max(able, key=lambda place: np.prod(self.passes[place].tile))
        passes = list(self.passes)
        before, after = passes[largest], shrunk[largest]
        assert after is not None
        passes[largest] = after
        log(
            f"Out of memory with windows of {_by(before.tile)} voxels; "
            f"{self.volume.name} begins anew with {_by(after.tile)}."
        )
        return dataclasses.replace(self, passes=tuple(passes))

    def tiles(self, hooks: Hooks) -> Iterator[FinishedTile]:
        """Predict, all passes in step."""
        frames = [self._frame(sweep) for sweep in self.passes]
        turn = frames[0].orientation
        streams = []
        fits: Fits = {}
        for sweep, frame in zip(self.passes, frames, strict=True):
            own = frame.orientation
            slabs = self._slabs(sweep, fits, hooks)
            if own != turn:
                slabs = turned(slabs, own, turn, own.oriented_index(self.box))
            streams.append(slabs)
        wanted = turn.oriented_index(self.box)
        planes = wanted[0].stop - wanted[0].start
        with using_threads(self.settings.threads):
            for z, maps in in_step(streams, wanted[0]):
                done = (z.stop - wanted[0].start) / planes
                index = turn.source_index((z, *wanted[1:]))
                in_source = self._in_order(maps).change(
                    lambda array: np.ascontiguousarray(turn.to_source(array))
                )
                yield tile_of(index, in_source, done)

    def _slabs(self, sweep: Pass, fits: Fits, hooks: Hooks) -> Iterator[Slab]:
        """One pass; everything it needs is made when its first slab is asked for."""
        if sweep.preprocessing.scheme == "nnunet":
            yield from self._cropped_slabs(sweep, hooks)
            return
        frame, turned_sweep, order = rolled(self.volume.grid, sweep, self.axis)
        wanted = frame.orientation.oriented_index(self.box)
        lattice = turned_sweep.lattice(frame.model.shape, needed_box(frame, wanted))
        intensity = sweep.preprocessing.intensity
        if intensity not in fits:
            fits[intensity] = fit_intensity(
                self.volume.data, intensity, self.volume.name
            )
        fitted = fits[intensity]
        near = None
        if self.settings.roi == "coarse":
            mask = self._found(sweep, fitted, hooks).transpose(order)
            near = Foreground(mask, frame.model.shape, turned_sweep).touches
        windows = Sweep(
            Source.open(self.volume, frame, fitted, turned_sweep, lattice),
            turned_sweep,
            lattice,
            self._forward(sweep, hooks, order),
            self._reducer(frame, sweep),
            near,
        )
        yield from self._timed(windows, sweep, wanted, hooks)

    def _cropped_slabs(self, sweep: Pass, hooks: Hooks) -> Iterator[Slab]:
        """A pass over what is not 0 alone, prepared as nnU-Net does it."""
        if self.settings.roi == "coarse":
            names = ", ".join(self.models[place].card.name for place in sweep.members)
            hooks.log(
                f"{names}: nnU-Net's preparation has no coarse region; it is whole."
            )
        crop = nonzero_box(self.volume)
        whole = self._frame(sweep)
        frame = Frame.of(self.volume.grid.cropped(crop), sweep.preprocessing)
        reducer = self._reducer(frame, sweep)
        wanted = whole.orientation.oriented_index(self.box)
        cropped = whole.orientation.oriented_index(crop)
        inner, own = shared_box(wanted, cropped)
        slabs: Iterator[Slab] = iter(())
        if all(span.stop > span.start for span in inner):
            lattice = sweep.lattice(frame.model.shape, needed_box(frame, own))
            source = PreparedSource.of(cut(self.volume, crop), frame, sweep)
            forward = self._forward(sweep, hooks)
            windows = Sweep(source, sweep, lattice, forward, reducer)
            slabs = self._timed(windows, sweep, own, hooks)
        yield from surrounded(slabs, reducer, inner, wanted)

    def _timed(
        self, windows: Sweep, sweep: Pass, wanted: Box, hooks: Hooks
    ) -> Iterator[Slab]:
        """The slabs of a pass; in the end the hooks hear what its windows took."""
        seconds, slabs = 0.0, windows.slabs(wanted, hooks)
        while True:
            began = time.monotonic()
            slab = next(slabs, None)
            seconds += time.monotonic() - began
            if slab is None:
                break
            yield slab
        count, own = windows.computed, seconds / len(sweep.members)
        for place in sweep.members if count else ():
            card = self.models[place].card
            hooks.timed(card, self.device, sweep.tile, own, count, self.settings)

    def _frame(self, sweep: Pass) -> Frame:
        """The frame of a pass; what nnU-Net prepares keeps its own order of axes."""
        if sweep.preprocessing.scheme == "nnunet":
            return Frame.of(self.volume.grid, sweep.preprocessing)
        return rolled(self.volume.grid, sweep, self.axis)[0]

    def _forward(
        self, sweep: Pass, hooks: Hooks, order: Sequence[int] = (0, 1, 2)
    ) -> Forward:
        cards = [self.models[place].card for place in sweep.members]
        networks = self._networks(sweep, hooks)
        return Forward(cards, networks, self.settings, self.device, order)

    def _reducer(self, frame: Frame, sweep: Pass) -> Reducer:
        return Reducer(
            [self.models[place].card for place in sweep.members],
            self.settings,
            resized=frame.is_resampled,
            of_logits=sweep.preprocessing.scheme == "nnunet",
        )

    def _networks(self, sweep: Pass, hooks: Hooks) -> list[Network]:
        """The networks of a pass, by torch or as OpenVINO compiles them."""
        make = pick_backend(self.settings, self.device, hooks.log)
        return [make(self.models[place], sweep, self.device) for place in sweep.members]

    def _found(
        self, sweep: Pass, fitted: tuple[IntensityParameters, ...], hooks: Hooks
    ) -> NDArray[np.bool_]:
        """Where a coarse pass of the same models finds any class; z, y, x of these."""
        frame = Frame.of(self.volume.grid, sweep.preprocessing)
        seen = coarse_volume(self.volume, frame, fitted)
        found = np.zeros(seen.grid.shape, np.bool_)
        for tile in predict_tiles(
            seen,
            [as_it_is(self.models[place]) for place in sweep.members],
            coarse_settings(self.settings),
            hooks=hooks,
        ):
            for labels in tile.labels:
                found[tile.index] |= labels > 0
        share = f"{100 * found.mean():.0f} %"
        hooks.log(f"A coarse pass found something in {share} of {self.volume.name}.")
        return found

    def _in_order(self, maps: Sequence[Maps]) -> Maps:
        """The results of all passes, models in the order in which they were given."""
        members = [place for sweep in self.passes for place in sweep.members]
        order = sorted(range(len(members)), key=members.__getitem__)

        def sort(arrays: list[Any]) -> tuple[Any, ...]:
            return tuple(arrays[place] for place in order) if arrays else ()

        return Maps(
            sort([array for part in maps for array in part.labels]),
            sort([array for part in maps for array in part.uncertainty]),
            sort([array for part in maps for array in part.probabilities]),
        )


def shared_box(wanted: Box, other: Box) -> tuple[Box, Box]:
    """What two boxes share, as it is and counted from the other's corner.

    Where they share nothing the first is empty and lies at the wanted one's end.
    """
    spans, own = [], []
    for ours, theirs in zip(wanted, other, strict=True):
        start = min(max(ours.start, theirs.start), ours.stop)
        stop = max(min(ours.stop, theirs.stop), start)
        spans.append(slice(start, stop))
        own.append(slice(start - theirs.start, stop - theirs.start))
    return (spans[0], spans[1], spans[2]), (own[0], own[1], own[2])


def tile_of(index: Box, maps: Maps, fraction: float) -> FinishedTile:
    """A finished tile of what a pass found there."""
    return FinishedTile(
        index,
        maps.labels,
        maps.uncertainty or None,
        maps.probabilities or None,
        fraction,
    )


def maps_of(tile: FinishedTile) -> Maps:
    """What a finished tile says."""
    return Maps(tile.labels, tile.uncertainty or (), tile.probabilities or ())


def box_of(volume: Volume, box: Box | None) -> Box:
    """The box with every start and stop, or the whole volume.

    Raises
    ------
    UsageError
        Where it is empty or lies outside.
    """
    shape = volume.grid.shape
    if box is None:
        z, y, x = (slice(0, size) for size in shape)
        return (z, y, x)
    spans = [span.indices(size) for span, size in zip(box, shape, strict=True)]
    if any(step != 1 or stop <= start for start, stop, step in spans):
        raise UsageError(
            f"The box {box} holds no voxels of {volume.name}, which has {_by(shape)} "
            "(z, y, x). Give a start below the stop along each axis, without steps."
        )
    z, y, x = (slice(start, stop) for start, stop, _ in spans)
    return (z, y, x)


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(str(size) for size in sizes)
