"""One pass over a volume: windows in, slabs of results out."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_kdseg.errors import StopRequested
from napari_kdseg.inference.blending import Blender, Finished, importance
from napari_kdseg.inference.forward import Forward
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.pipeline import read_ahead
from napari_kdseg.inference.plan import LEAST_PLANES, Pass
from napari_kdseg.inference.reduce import Maps, Reducer, joined, pieces
from napari_kdseg.inference.resize import PlaneResizer
from napari_kdseg.inference.source import Source
from napari_kdseg.inference.tiling import Lattice, Window
from napari_kdseg.volumes.preprocessing import Frame
from napari_kdseg.volumes.resampling import source_box
from napari_kdseg.volumes.volume import Box

MOST_WAITING = 64
"""Windows without anything to compute that are passed over before stop is asked for."""

Block = NDArray[np.float32]


@dataclass(frozen=True)
class Slab:
    """Finished planes of the source turned to the models' axes."""

    z: slice
    maps: Maps
    """One array a model of the pass."""


class Collector:
    """Gathers finished rows of windows into slabs, voxel for voxel."""

    def __init__(self, reducer: Reducer, wanted: Box) -> None:
        self._reducer = reducer
        self._wanted = wanted
        self._maps: Maps | None = None

    def take(self, rows: Finished) -> Iterator[Slab]:
        """Add rows; give the slab that they complete."""
        face = self._wanted[1:]
        if self._maps is None:
            depth = rows.z.stop - rows.z.start
            shape = (depth, *(span.stop - span.start for span in face))
            self._maps = self._reducer.empty(shape)
        top = face[0].start
        for planes in pieces(rows.sums.shape):
            where = (planes, slice(rows.y.start - top, rows.y.stop - top), slice(None))
            self._maps.put(where, self._reducer.from_sums(rows.sums[:, planes]))
        if rows.y.stop == face[0].stop:
            yield Slab(rows.z, self._maps)
            self._maps = None


class ResizingCollector:
    """Gathers finished rows and interpolates them to the source's voxels."""

    def __init__(
        self, reducer: Reducer, frame: Frame, box: Box, wanted: Box, device: str
    ) -> None:
        self._reducer = reducer
        self._box, self._wanted = box, wanted
        self._resizer = PlaneResizer(
            frame.model.shape,
            frame.oriented.shape,
            box=box,
            wanted=wanted,
            device=device,
            nearest=frame.thick[1],
        )
        self._next = wanted[0].start
        self._planes: Tensor | None = None

    def take(self, rows: Finished) -> Iterator[Slab]:
        """Add rows; give the slab of source planes that they complete, if any."""
        face = self._box[1:]
        if self._planes is None:
            channels, depth = self._reducer.channels.weight, rows.z.stop - rows.z.start
            sides = [span.stop - span.start for span in face]
            self._planes = rows.sums.new_empty((channels or 0, depth, *sides))
        top = face[0].start
        for planes in pieces(rows.sums.shape):
            self._planes[:, planes, rows.y.start - top : rows.y.stop - top] = (
                self._reducer.fields(rows.sums[:, planes])
            )
        if rows.y.stop < face[0].stop:
            return
        finished, self._planes = self._planes, None
        yield from self._resized(rows.z.start, finished)

    def _resized(self, first: int, planes: Tensor) -> Iterator[Slab]:
        parts = [
            self._reducer.from_fields(plane.unsqueeze(1))
            for plane in self._resizer.push(first, planes)
        ]
        if not parts:
            return
        z = slice(self._next, self._next + len(parts))
        self._next = z.stop
        yield Slab(z, joined(parts))


class Sweep:
    """One pass of windows over a volume.

    Parameters
    ----------
    source
        Where the windows are read.
    sweep, lattice
        The windows.
    forward, reducer
        The networks, and what becomes of their logits.
    wanted
        Which windows are computed; the voxels of no other become background.
    """

    def __init__(
        self,
        source: Source,
        sweep: Pass,
        lattice: Lattice,
        forward: Forward,
        reducer: Reducer,
        wanted: Callable[[Window], bool] | None = None,
    ) -> None:
        self._source, self._lattice = source, lattice
        self._forward, self._reducer = forward, reducer
        self._wanted = wanted
        self._batch = sweep.batch
        self._air = sweep.air_up_to
        self._device = forward.device
        self.computed = 0
        """Windows that the networks have looked at so far."""
        weights = importance(sweep.tile, sweep.blending, sweep.placing)
        self._weights = weights.to(forward.device)

    def slabs(self, wanted: Box, hooks: Hooks) -> Iterator[Slab]:
        """Go over the volume; slabs follow one another along z.

        Parameters
        ----------
        wanted
            The voxels of the oriented source that are wanted.
        hooks
            Who may stop it.

        Raises
        ------
        StopRequested
            Where a stop was asked for.
        torch.OutOfMemoryError
            Where not even a single window fits.
        """
        channels = self._reducer.channels
        blender = Blender(self._lattice, channels.count, self._weights)
        collector = self._collector(wanted)
        once = torch.ones((1, *self._weights.shape), device=self._device)
        for outputs in self._outputs(hooks):
            _add(blender, outputs)
            if outputs and channels.weight is not None:
                blender.add(once, channel=channels.weight)
            # Before the next are made: logits are the largest thing beside the sums.
            outputs.clear()
            rows = blender.close_window()
            if rows is not None:
                yield from collector.take(rows)

    def _collector(self, wanted: Box) -> Collector | ResizingCollector:
        frame = self._source.frame
        if not frame.is_resampled:
            return Collector(self._reducer, wanted)
        box = needed_box(frame, wanted)
        return ResizingCollector(self._reducer, frame, box, wanted, self._device)

    def _outputs(self, hooks: Hooks) -> Iterator[list[Tensor]]:
        """What each window gives, in order; nothing for those that are passed over.

        Fewer go at once where memory runs out.
        """
        windows = self._lattice.windows()
        waiting: list[Block | None] = []
        done = 0
        with closing(read_ahead(self._read, windows, self._batch)) as blocks:
            while done < len(windows):
                if hooks.should_stop():
                    raise StopRequested(
                        f"Stopped as asked after {done} of {len(windows)} windows."
                    )
                self._fill(waiting, blocks)
                batch = [block for block in waiting if block is not None]
                outputs = self._try(batch[: self._batch], hooks)
                if outputs is None:
                    continue
                self.computed += len(outputs[0]) if outputs else 0
                for values in _in_turn(waiting, outputs):
                    done += 1
                    yield values
                del outputs  # before the next are made

    def _read(self, window: Window) -> Block | None:
        """The voxels of a window, or None where there is nothing to compute."""
        if self._wanted is not None and not self._wanted(window):
            return None
        block = self._source.read(window)
        if self._air is not None and block.max() <= self._air:
            return None
        return block

    def _fill(self, waiting: list[Block | None], blocks: Iterator[Any]) -> None:
        """Take windows until there are enough to compute."""
        found = sum(block is not None for block in waiting)
        while found < self._batch and len(waiting) < MOST_WAITING:
            for block in blocks:
                waiting.append(block)
                found += block is not None
                break
            else:
                return

    def _try(self, batch: list[Block], hooks: Hooks) -> list[Tensor] | None:
        """The networks' outputs, or None where memory for several windows ran out."""
        try:
            return self._forward(batch) if batch else []
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        self._batch = len(batch) // 2
        release(self._device)
        hooks.log(
            f"Out of memory with {len(batch)} windows at once; going on with "
            f"{self._batch}."
        )
        return None


def _add(blender: Blender, outputs: list[Tensor]) -> None:
    channel = 0
    for values in outputs:
        blender.add(values, channel=channel)
        channel += len(values)


def _in_turn(
    waiting: list[Block | None], outputs: list[Tensor]
) -> Iterator[list[Tensor]]:
    """The outputs of each window that waited, up to the last that was computed."""
    computed = len(outputs[0]) if outputs else 0
    place = 0
    while waiting and (waiting[0] is None or place < computed):
        if waiting.pop(0) is None:
            yield []
        else:
            yield [values[place] for values in outputs]
            place += 1


def surrounded(
    slabs: Iterator[Slab], reducer: Reducer, inner: Box, wanted: Box
) -> Iterator[Slab]:
    """Slabs of a crop, with background around them.

    Parameters
    ----------
    slabs
        Of the crop, whose planes they count; none where `inner` is empty.
    reducer
        Knows what background is.
    inner, wanted
        What the slabs cover and what is wanted, both in the oriented source.
    """
    sides = [span.stop - span.start for span in wanted[1:]]
    face = tuple(
        slice(part.start - whole.start, part.stop - whole.start)
        for part, whole in zip(inner[1:], wanted[1:], strict=True)
    )

    def empty(start: int, stop: int) -> Iterator[Slab]:
        for first in range(start, stop, LEAST_PLANES):
            planes = slice(first, min(first + LEAST_PLANES, stop))
            shape = (planes.stop - first, sides[0], sides[1])
            yield Slab(planes, reducer.background(shape))

    reached = inner[0].start
    yield from empty(wanted[0].start, reached)
    for slab in slabs:
        maps = reducer.background((slab.maps.depth, sides[0], sides[1]))
        maps.put((slice(None), face[0], face[1]), slab.maps)
        yield Slab(slice(reached, reached + slab.maps.depth), maps)
        reached += slab.maps.depth
    yield from empty(reached, wanted[0].stop)


def needed_box(frame: Frame, wanted: Box) -> Box:
    """The voxels of the model's frame that a box of the oriented source needs."""
    if not frame.is_resampled:
        return wanted
    return source_box(frame.model.shape, frame.oriented.shape, wanted)


def release(device: str) -> None:
    """Give memory that torch keeps for later back to the device."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
