"""A scan and its smaller copies, written in one pass and in little memory.

Each level is fed from the one above as its rows of chunks are finished: of a volume of
any size, one row of chunks a level is in memory. Coarser voxels of an image are the
mean of those they span; of labels they are the first of them, so that no value is
invented, and thin structures may vanish in the coarser levels.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import zarr

from napari_kdseg.atomic import publish_folder, sync_tree, temporary_beside
from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.ome_metadata import Kind, Meaning
from napari_kdseg.volumes.formats.ome_zarr import (
    LARGE_CHUNK,
    Level,
    create_levels,
    finish,
)
from napari_kdseg.volumes.formats.voxels import Block
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

Blocks = Iterable[tuple[Block, np.ndarray]]
Progress = Callable[[int, int], None]

_MOST_LEVELS = 6
_SMALL_EDGE = 64
_ROW_BYTES = 256 << 20
_STEP_VOXELS = 1 << 23


def write_pyramid(
    path: Path,
    header: Header,
    blocks: Blocks,
    *,
    kind: Kind,
    labels: LabelSet | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Write an OME-Zarr with coarser levels, complete or not at all.

    Parameters
    ----------
    path
        The folder to make; nothing may lie there.
    header
        Grid, channels, type and notes of the volume.
    blocks
        Place (channel, slice along z) and voxels (z, y, x): every plane of a channel
        once, in ascending order, in runs of any length; see `formats.blocks_of`.
    kind
        Whether the values are labels or an image.
    labels
        The classes, kept with their names and colours.
    on_progress
        Called with the planes written and those there are; may raise to stop.

    Raises
    ------
    VolumeError
        When something lies there, or the blocks end early.
    """
    if path.exists():
        raise VolumeError(
            f"{path} exists already; a folder is never replaced. Choose another name, "
            "or move the old one away."
        )
    temporary = temporary_beside(path)
    try:
        fill_pyramid(
            temporary,
            header,
            blocks,
            kind=kind,
            labels=labels,
            on_progress=on_progress,
        )
        publish_folder(temporary, path)
    except BaseException:
        rmtree(temporary, ignore_errors=True)
        raise


def fill_pyramid(
    path: Path,
    header: Header,
    blocks: Blocks,
    *,
    kind: Kind,
    labels: LabelSet | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Write an OME-Zarr in place, where it can be looked at meanwhile.

    It is a result only at the end, with its record of completion. After an error what
    was written stays. Parameters and errors are those of `write_pyramid`; the first
    call of `on_progress`, with nothing done, comes when all arrays exist.
    """
    progress = on_progress or _silent
    meaning = Meaning(kind, labels, header.channels, notes=header.notes)
    single = len(header.channels) == 1
    plan = levels_of(header.grid, header.dtype.itemsize)
    if not single:
        plan = tuple(_with_channels(level, len(header.channels)) for level in plan)
    stored = np.dtype(np.uint8) if header.dtype.kind == "b" else header.dtype
    arrays = create_levels(path, plan, stored.newbyteorder("="), header.grid, meaning)
    total = len(header.channels) * header.grid.shape[0]
    progress(0, total)
    writers = {
        channel: _writer(arrays, plan, None if single else channel, kind)
        for channel in range(len(header.channels))
    }
    done = 0
    for (channel, span), block in blocks:
        writers[channel].feed(span.start, block)
        done += block.shape[0]
        progress(done, total)
    if done != total:
        raise VolumeError(
            f"{header.path} gave {done} of its {total} planes; all must be there. It "
            "is damaged, or was changed meanwhile: begin again."
        )
    sync_tree(path)  # a record must not survive a power cut that its chunks do not
    finish(path)


def levels_of(grid: Grid, itemsize: int) -> tuple[Level, ...]:
    """Plan the sizes of a volume: each axis halved until all are small.

    An axis whose voxels are at least twice as long as the shortest waits until the
    others have caught up.

    Parameters
    ----------
    grid
        Of the full size.
    itemsize
        Bytes of a voxel, which limit how many planes a chunk has.
    """
    factor, shape = (1, 1, 1), grid.shape
    levels = [Level(factor, shape, _chunks(shape, itemsize))]
    while max(shape) > _SMALL_EDGE and len(levels) < _MOST_LEVELS:
        steps = _steps(grid, factor, shape)
        factor = (factor[0] * steps[0], factor[1] * steps[1], factor[2] * steps[2])
        z, y, x = (-(-size // step) for size, step in zip(shape, steps, strict=True))
        shape = (z, y, x)
        levels.append(Level(factor, shape, _chunks(shape, itemsize)))
    return tuple(levels)


def halved(block: np.ndarray, steps: tuple[int, ...], kind: Kind) -> np.ndarray:
    """Make a block (z, y, x) smaller by 1 or 2 along each axis.

    Images get the mean, rounded half up where the type is integral; a last odd plane
    counts alone. Labels get the first voxel of each group.
    """
    if kind == "labels":
        return block[tuple(slice(None, None, step) for step in steps)]
    total = block
    for axis, step in enumerate(steps):
        if step == 2:
            total = _pairs(total, axis, block.dtype)
    count = prod(steps)
    if total.dtype.kind == "f":
        mean: np.ndarray = total / count
        if block.dtype.kind != "f":
            np.rint(mean, out=mean)
        return mean.astype(block.dtype)
    total += total.dtype.type(count // 2)
    rounded: np.ndarray = np.right_shift(total, count.bit_length() - 1)
    return rounded.astype(block.dtype)


def _steps(
    grid: Grid, factor: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[int, int, int]:
    sizes = [mm * step for mm, step in zip(grid.spacing_mm, factor, strict=True)]
    finest = min(mm for mm, size in zip(sizes, shape, strict=True) if size > 1)
    z, y, x = (
        2 if size > 1 and mm < 2 * finest * (1 - 1e-6) else 1
        for mm, size in zip(sizes, shape, strict=True)
    )
    return (z, y, x)


def _chunks(shape: tuple[int, int, int], itemsize: int) -> tuple[int, int, int]:
    depth, height, width = LARGE_CHUNK
    # Even, so that pairs of planes never lie in two rows of chunks.
    while depth > 2 and depth * prod(shape[1:]) * itemsize > _ROW_BYTES:
        depth //= 2
    return (min(depth, shape[0]), min(height, shape[1]), min(width, shape[2]))


def _with_channels(level: Level, count: int) -> Level:
    return replace(level, shape=(count, *level.shape), chunks=(1, *level.chunks))


def _writer(
    arrays: tuple[zarr.Array[Any], ...],
    plan: tuple[Level, ...],
    channel: int | None,
    kind: Kind,
) -> "_Writer":
    writer: _Writer | None = None
    for number in reversed(range(len(plan))):
        below = plan[number + 1].factor if writer is not None else plan[number].factor
        steps = tuple(
            large // small
            for large, small in zip(below, plan[number].factor, strict=True)
        )
        writer = _Writer(arrays[number], channel, kind, steps, writer)
    assert writer is not None
    return writer


class _Writer:
    """Collects the planes of one level until a row of chunks is full, and writes it."""

    def __init__(
        self,
        array: zarr.Array[Any],
        channel: int | None,
        kind: Kind,
        steps: tuple[int, ...],
        below: "_Writer | None",
    ) -> None:
        self._array = array
        self._place = () if channel is None else (channel,)
        self._kind = kind
        self._steps = steps
        self._below = below
        self._next = 0
        self._row: np.ndarray | None = None

    def feed(self, start: int, planes: np.ndarray) -> None:
        """Take the next planes (z, y, x); `start` is the first one's z."""
        depth, *plane = self._array.shape[-3:]
        if start != self._next or [*planes.shape[1:]] != plane:
            raise VolumeError(
                f"Planes {planes.shape[1:]} from z {start} on came where {plane} from "
                f"z {self._next} on were due; each plane comes once, in order. Read "
                "the volume again."
            )
        if start + planes.shape[0] > depth:
            raise VolumeError(
                f"Planes up to z {start + planes.shape[0]} came of a volume of "
                f"{depth}; there must be no more. Read the volume again."
            )
        layer = self._array.chunks[-3]
        while planes.shape[0]:
            if self._row is None:
                self._row = np.empty((layer, *plane), self._array.dtype)
            at = self._next % layer
            count = min(layer - at, planes.shape[0])
            self._row[at : at + count] = planes[:count]
            planes = planes[count:]
            self._next += count
            if at + count == layer or self._next == depth:
                self._write(self._row[: at + count])

    def _write(self, row: np.ndarray) -> None:
        start = self._next - row.shape[0]
        self._array[(*self._place, slice(start, self._next))] = row
        if self._next == self._array.shape[-3]:
            self._row = None
        if self._below is None:
            return
        for first, smaller in self._halves(row):
            self._below.feed((start + first) // self._steps[0], smaller)

    def _halves(self, row: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Halve a few planes at a time: sums take more memory than voxels."""
        step = max(2, _STEP_VOXELS // prod(row.shape[1:]) // 2 * 2)
        for first in range(0, row.shape[0], step):
            yield first, halved(row[first : first + step], self._steps, self._kind)


def _pairs(block: np.ndarray, axis: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Add neighbours along an axis, in a type that holds the sum of eight."""
    wide = _wide(dtype)
    block = np.moveaxis(block, axis, 0)
    even, odd = block[0::2], block[1::2]
    if len(even) == len(odd):
        total = np.add(even, odd, dtype=wide)
    else:
        total = even.astype(wide)
        total[: len(odd)] += odd
        total[-1] *= wide.type(2)
    return np.moveaxis(total, 0, axis)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "f" or dtype.itemsize == 8:
        return np.dtype(np.float64)
    if dtype.itemsize == 4:
        return np.dtype(np.int64)
    return np.dtype(np.uint32 if dtype.kind == "u" else np.int32)


def _silent(done: int, total: int) -> None:
    pass
