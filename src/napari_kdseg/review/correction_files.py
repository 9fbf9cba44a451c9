"""The files of a correction: its labels, and the blocks painted since.

Blocks are as large as the chunks of a copy in OME-Zarr, so that each is written over
one chunk; should a crash damage that chunk, its block still has all of it.
"""

import io
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_kdseg.atomic import sync_tree, write_bytes_atomic
from napari_kdseg.review.painting import Key, Painting
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.volumes.formats import ome_zarr, read_labels, read_volume, suffix_of
from napari_kdseg.volumes.formats.ome_complete import FULL_SIZE
from napari_kdseg.volumes.labels import smallest_dtype, values_in
from napari_kdseg.volumes.volume import Grid, VoxelArray, chunks_of

LARGEST_IN_MEMORY_BYTES = 1 << 28
"""Larger copies are OME-Zarr, whatever the format of the prediction."""
CHANGED = "changed"
"""Where blocks lie, beside the labels."""
_LARGE = "labels.ome.zarr"
_EDGE, _LARGE_EDGE = 64, 128
_ARRAY = "labels"
_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
_BLOCK = re.compile(r"(\d+)-(\d+)-(\d+)\.npz")
_FAILURES = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)

_HELD_BYTES = 1 << 27


class NearPlanes:
    """Labels on disk, 1, z, y, x, as z, y, x to be stepped through.

    To read a plane is to decode all planes of a layer of chunks. As many of them as are
    near and small enough are held, so that the next steps cost nothing.
    """

    def __init__(self, data: VoxelArray) -> None:
        self._data = data
        self._edges = chunks_of(data)[1:]
        self._held: _Held | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along z, y, x."""
        return tuple(self._data.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the labels; they are cast to it by who reads them."""
        stored = np.dtype(self._data.dtype)
        return stored if stored in _TYPES else np.dtype(np.uint16)

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        """Read a box; slices with a start and a stop."""
        sizes = [part.stop - part.start for part in box]
        for axis, size in enumerate(sizes):
            if size == 1 and 2 * prod(sizes) > prod(self.shape) // self.shape[axis]:
                held = self._near(axis, box[axis].start)
                inside = list(box)
                place = box[axis].start - held.first
                inside[axis] = slice(place, place + 1)
                return held.planes[tuple(inside)]
        return np.asarray(self._data[(0, *box)])

    def _near(self, axis: int, place: int) -> "_Held":
        """Have a plane, and those near it, in memory."""
        held = self._held
        if held is None or not held.has(axis, place):
            shape, edge = self.shape, max(1, self._edges[axis])
            plane = prod(shape) // shape[axis] * np.dtype(self._data.dtype).itemsize
            count = max(1, min(edge, _HELD_BYTES // plane))
            start = place // edge * edge
            stop = min(start + edge, shape[axis])
            first = max(start, min(place - count // 2, stop - count))
            box = [slice(None)] * 3
            box[axis] = slice(first, min(first + count, stop))
            self._held = held = None  # freed before others are read
            planes = np.asarray(self._data[(0, *box)])
            self._held = held = _Held(axis, first, planes)
        return held


@dataclass(frozen=True, eq=False)
class _Held:
    """Planes in memory."""

    axis: int
    first: int
    planes: np.ndarray
    """Z, y, x."""

    def has(self, axis: int, place: int) -> bool:
        last = self.first + self.planes.shape[self.axis] - 1
        return axis == self.axis and self.first <= place <= last


# ---- labels ----


def name_of_copy(prediction: Prediction) -> str:
    """Say what the labels of a correction are called, and so which format they have."""
    size = prod(prediction.grid.shape) * prediction.classes.dtype.itemsize
    if suffix_of(prediction.labels).endswith("zarr"):
        return prediction.labels.name
    return _LARGE if size > LARGEST_IN_MEMORY_BYTES else prediction.labels.name


def opened(path: Path) -> VoxelArray:
    """Open the labels of a correction, 1, z, y, x; those in OME-Zarr stay on disk.

    Raises
    ------
    VolumeError
        Where they are damaged.
    """
    if suffix_of(path).endswith("zarr"):
        return read_volume(path, lazy=True).data
    return read_labels(path)[0][np.newaxis]


def plain(data: VoxelArray) -> VoxelArray:
    """Give opened labels as z, y, x, in uint8 or uint16."""
    if not isinstance(data, np.ndarray):
        return NearPlanes(data)
    labels: np.ndarray = data[0]
    if labels.dtype not in _TYPES:
        largest = max(values_in(labels, "The labels"), default=0)
        labels = labels.astype(smallest_dtype(largest))
    return labels


def edge_for(grid: Grid) -> int:
    """Choose the edge of the blocks, and chunks, of a new copy."""
    return _LARGE_EDGE if prod(grid.shape) > LARGEST_IN_MEMORY_BYTES else _EDGE


def edge_of(data: VoxelArray) -> int:
    """Give the edge of the blocks of a copy: that of its chunks, where it has some."""
    if isinstance(data, np.ndarray):
        return _EDGE
    return max(chunks_of(data)[1:])


def chunk_layer(path: Path, number: int) -> Path:
    """Say where the chunks of a copy in OME-Zarr lie that share a number along z."""
    return path / FULL_SIZE / "c" / str(number)


def chunk_row(path: Path, key: Key) -> Path:
    """Say where the chunks of a copy lie that share their numbers along z and y."""
    return chunk_layer(path, key[0]) / str(key[1])


def rows_of_blocks(
    painting: Painting, layer: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Walk over the blocks that share a number along z, a row along x at a time.

    Parameters
    ----------
    painting
        Whose blocks.
    layer
        Their number.

    Yields
    ------
    tuple of slice
        A box of whole blocks.
    """
    for row in range(-(-painting.shape[1] // painting.edge)):
        z, y, _ = painting.box((layer, row, 0))
        yield z, y, slice(None)


def writable(path: Path) -> zarr.Array[Any]:
    """Open the labels of a copy in OME-Zarr to write chunks over those that are there.

    Raises
    ------
    VolumeError
        Where they cannot be opened.
    """
    # An empty chunk that is left out would make the copy incomplete; zarr's own
    # setting for that is taken when an array is opened.
    with zarr.config.set({"array.write_empty_chunks": True}):
        return ome_zarr.open_array(path, require_complete=False, writable=True)


def merge_again(path: Path, changed: Path) -> None:
    """Write all blocks over the chunks of a copy, where a crash may have damaged one.

    Raises
    ------
    VolumeError
        Where it cannot be opened.
    """
    array = writable(path)
    edge = max(array.chunks)
    for key, file in _files(changed):
        try:
            voxels = _read(file)
        except _FAILURES:
            continue  # `restore` tells of it
        box = tuple(
            slice(number * edge, number * edge + size)
            for number, size in zip(key, voxels.shape, strict=True)
        )
        # zarr reads a chunk at the end of an axis before it writes it
        (chunk_row(path, key) / str(key[2])).unlink(missing_ok=True)
        array[box] = voxels
        sync_tree(chunk_row(path, key))


def remove_partial(home: Path) -> None:
    """Remove what a crash left half written."""
    for folder in (home, home / CHANGED):
        for left in folder.glob("*.partial-*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


# ---- blocks ----


def block_file(folder: Path, key: Key) -> Path:
    """Say where a block lies."""
    return folder / f"{key[0]}-{key[1]}-{key[2]}.npz"


def write_block(folder: Path, key: Key, voxels: np.ndarray) -> None:
    """Put a block on disk, whole or not at all."""
    folder.mkdir(exist_ok=True)
    file = io.BytesIO()
    # As numpy's own, but quickly: it is done while a person paints.
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
        packed.open(f"{_ARRAY}.npy", "w") as inside,
    ):
        np.lib.format.write_array(inside, voxels, allow_pickle=False)
    write_bytes_atomic(block_file(folder, key), file.getvalue())


def restore(painting: Painting, folder: Path) -> Iterator[str]:
    """Put all blocks on disk into a painting; one that is damaged is put aside.

    Yields
    ------
    str
        A sentence about each that is damaged.
    """
    for key, file in _files(folder):
        try:
            painting.restore(key, _read(file))
        except _FAILURES:
            file.replace(file.with_name(f"{file.name}.damaged"))
            box = painting.box(key)
            where = ", ".join(
                f"{name} {part.start} to {part.stop - 1}"
                for name, part in zip("zyx", box, strict=True)
            )
            yield (
                f"{file} is damaged, so what was painted last at {where} is lost; all "
                "else is as it was. Look at these slices again."
            )


def _files(folder: Path) -> Iterator[tuple[Key, Path]]:
    for file in sorted(folder.glob("*.npz")):
        found = _BLOCK.fullmatch(file.name)
        if found:
            z, y, x = (int(number) for number in found.groups())
            yield (z, y, x), file


def _read(file: Path) -> np.ndarray:
    with np.load(file, allow_pickle=False) as stored:
        voxels: np.ndarray = stored[_ARRAY]
        return voxels
