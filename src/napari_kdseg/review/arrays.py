"""The arrays of a prediction, opened so that a slice of them is read quickly.

What can be read by pieces stays on disk. Small packed files are decoded whole; large
ones are converted into the cache once, which takes minutes and is done only where the
caller can be told how far it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.errors import StopRequested, VolumeError
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.volumes.cache import Cache, default_cache
from napari_kdseg.volumes.formats import inspect_volume
from napari_kdseg.volumes.formats.voxels import LazyVoxels
from napari_kdseg.volumes.opening import needs_conversion, open_scan
from napari_kdseg.volumes.volume import Box, Volume, VoxelArray, chunks_of

PIECE_BYTES = 1 << 26
"""What is decoded at a time, so that reading can be given up in between."""

GoOn = Callable[[], bool]


def always() -> bool:
    """Never give up."""
    return True


@dataclass(frozen=True)
class Opener:
    """Opens files of predictions.

    Parameters
    ----------
    cache
        Where converted files lie; None: the user's.
    progress
        Told what is converted and which share of it is done. Without it, a file that
        would have to be converted is refused.
    go_on
        Asked in between; where it says no, `StopRequested` is raised.
    """

    cache: Cache | None = None
    progress: Callable[[Path, float], None] | None = None
    go_on: GoOn = always

    def convert(
        self, prediction: Prediction, channel: int, *, uncertainty: bool
    ) -> None:
        """Convert the files that can only be read by pieces from a copy.

        Raises
        ------
        VolumeError
            Where there are such and nobody wants to be told how far it is, or where
            one is missing or damaged, or there is no room for the copy.
        StopRequested
            Where the opener says not to go on.
        """
        path, part, _ = self._place(prediction, channel)
        wanted = [(path, part), (prediction.labels, None)]
        if uncertainty and prediction.uncertainty is not None:
            wanted.append((prediction.uncertainty, None))
        for path, part in wanted:
            self._convert(path, part)

    def convert_results(self, prediction: Prediction) -> None:
        """Convert, as `convert` does, what was made from the scan, and not the scan."""
        results = (prediction.labels, prediction.uncertainty, prediction.regions)
        for path in results:
            if path is not None:
                self._convert(path, None)

    def image(self, prediction: Prediction, channel: int) -> tuple[Volume, int]:
        """Open the file that has a channel of the scan; gives which of its own it is.

        Voxels that are NaN or infinite are zero.

        Raises
        ------
        VolumeError
            Where it is missing, damaged or on another grid than the prediction.
        """
        path, part, own = self._place(prediction, channel)
        volume = self._open(path, part, fill_nonfinite=0.0)
        _check_shape(volume.data, prediction, path)
        return volume, own

    def channels(self, prediction: Prediction) -> tuple[str, ...]:
        """Name the channels of the scan; none where it is missing or damaged."""
        names: list[str] = []
        try:
            for path, part in zip(prediction.images, prediction.parts, strict=True):
                names += inspect_volume(path, part).channels
        except VolumeError:
            return ()
        if len(set(names)) < len(names):
            return tuple(f"channel {number}" for number in range(1, len(names) + 1))
        return tuple(names)

    def labels(self, prediction: Prediction) -> VoxelArray:
        """Open the labels, 1, z, y, x, with whole numbers.

        Raises
        ------
        VolumeError
            As `image`.
        """
        data = self._open(prediction.labels).data
        _check_shape(data, prediction, prediction.labels)
        if np.dtype(data.dtype).kind == "f":
            return _Seen(data, np.dtype(np.uint16), 1.0)
        return data

    def uncertainty(self, prediction: Prediction) -> VoxelArray | None:
        """Open the uncertainty, 1, z, y, x, bytes 0 to 255 for 0 to 1; None: no such.

        Raises
        ------
        VolumeError
            As `image`.
        """
        path = prediction.uncertainty
        if path is None:
            return None
        data = self._open(path, fill_nonfinite=0.0).data
        _check_shape(data, prediction, path)
        if isinstance(data, LazyVoxels) and data.scale is not None:
            stored = replace(data, scale=None)
            if stored.dtype == np.uint8:  # it is 1/255 where we wrote it
                return stored
        if np.dtype(data.dtype) == np.uint8:
            return data
        if isinstance(data, np.ndarray):  # a quarter of the memory
            return _as_bytes(data, np.dtype(np.uint8), 255.0)
        return _Seen(data, np.dtype(np.uint8), 255.0)

    def regions(self, prediction: Prediction) -> VoxelArray | None:
        """Open the claims of the teachers, 1, z, y, x, one bit each; None: no such.

        Raises
        ------
        VolumeError
            As `image`.
        """
        if prediction.regions is None:
            return None
        data = self._open(prediction.regions).data
        _check_shape(data, prediction, prediction.regions)
        return data

    def _place(
        self, prediction: Prediction, channel: int
    ) -> tuple[Path, str | None, int]:
        """Find the file of a channel, and which of its own it is."""
        if prediction.missing:
            raise VolumeError(prediction.missing)
        left = channel
        for path, part in zip(prediction.images, prediction.parts, strict=True):
            count = len(inspect_volume(path, part).channels)
            if left < count:
                return path, part, left
            left -= count
        raise VolumeError(
            f"The scan {prediction.case!r} has no channel {channel}; channels count "
            f"from 0 to {channel - left - 1}. Choose one of these."
        )

    def _convert(self, path: Path, part: str | None) -> None:
        store = self.cache or default_cache()
        header = inspect_volume(path, part)
        if not needs_conversion(header) or store.find(path, part) is not None:
            return
        told = self.progress
        if told is None:
            raise VolumeError(
                f"{path} is packed, and so large that a copy has to be made of it "
                "before a slice can be shown. It is being made; wait for it."
            )

        def on_progress(done: int, total: int) -> None:
            if not self.go_on():
                raise StopRequested(f"{path} is not converted to the end.")
            told(path, done / max(total, 1))

        store.convert(path, part, on_progress=on_progress)

    def _open(
        self,
        path: Path,
        part: str | None = None,
        *,
        fill_nonfinite: float | None = None,
    ) -> Volume:
        if not path.exists():
            raise VolumeError(f"{path} is missing; a slice is read from it.")
        store = self.cache or default_cache()
        return open_scan(path, part, fill_nonfinite=fill_nonfinite, cache=store)


def cut(
    array: VoxelArray,
    channel: int,
    axis: int,
    indices: Sequence[int],
    go_on: GoOn = always,
) -> np.ndarray:
    """Read slices across an axis; those that lie in the same chunks are read together.

    Parameters
    ----------
    array
        Channel, z, y, x.
    channel, axis, indices
        Which slices.
    go_on
        Asked between pieces of `PIECE_BYTES`; where it says no, `StopRequested` is
        raised.

    Returns
    -------
    ndarray
        Slice, row, column, in the order of `indices`.
    """
    shape = array.shape[1:]
    rest = [size for other, size in enumerate(shape) if other != axis]
    found = np.empty((len(indices), *rest), array.dtype)
    edge = _chunks(array)[axis]
    for layer in sorted({index // edge for index in indices}):
        within = [n for n, index in enumerate(indices) if index // edge == layer]
        first = min(indices[n] for n in within)
        last = max(indices[n] for n in within)
        for rows in _pieces(array, axis, last - first + 1):
            if not go_on():
                raise StopRequested("These slices are not wanted any more.")
            box = _box(axis, slice(first, last + 1), rows)
            read = np.moveaxis(np.asarray(array[(channel, *box)]), axis, 0)
            for n in within:
                found[n, rows] = read[indices[n] - first]
    return found


def decoded_bytes(array: VoxelArray, axis: int) -> int:
    """Say how much is decoded to read one slice of one channel."""
    shape, edge = array.shape[1:], min(_chunks(array)[axis], array.shape[1 + axis])
    itemsize = int(np.dtype(array.dtype).itemsize)
    return prod(shape) // shape[axis] * edge * itemsize


def boxes_of(array: VoxelArray, most: int = PIECE_BYTES) -> Iterator[Box]:
    """Walk over z, y, x in boxes of whole chunks, of so many bytes or a row of chunks.

    Every voxel comes once; no chunk is decoded twice.
    """
    depth, height, width = array.shape[1:]
    chunks = _chunks(array)
    row = width * np.dtype(array.dtype).itemsize
    deep = min(chunks[0], depth)
    high = max(1, most // max(1, row * deep * chunks[1])) * chunks[1]
    if high >= height:  # as many layers of chunks as are small enough
        high = height
        deep *= max(1, most // max(1, row * height * deep))
    for z in range(0, depth, deep):
        for y in range(0, height, high):
            yield (
                slice(z, min(z + deep, depth)),
                slice(y, min(y + high, height)),
                slice(0, width),
            )


def held_bytes(array: VoxelArray | None) -> int:
    """Say how much memory an opened array takes; what lies on disk takes none."""
    return array.nbytes if isinstance(array, np.ndarray) else 0


@dataclass(frozen=True)
class _Seen:
    """Numbers seen as others, where they are read: rounded after multiplication."""

    array: VoxelArray
    dtype: np.dtype[Any]
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        return chunks_of(self.array)

    def __getitem__(self, index: Any) -> Any:
        return _as_bytes(np.asarray(self.array[index]), self.dtype, self.factor)


def _as_bytes(values: np.ndarray, dtype: np.dtype[Any], factor: float) -> np.ndarray:
    largest = np.iinfo(dtype).max
    return np.rint(np.clip(values * np.float32(factor), 0, largest)).astype(dtype)


def _chunks(array: VoxelArray) -> tuple[int, int, int]:
    z, y, x = chunks_of(array)[-3:]
    return max(1, z), max(1, y), max(1, x)


def _pieces(array: VoxelArray, axis: int, thick: int) -> Iterator[slice]:
    """Cut the rows of slices into spans of whole chunks."""
    rows_axis = 1 if axis == 0 else 0
    rows, chunks = array.shape[1 + rows_axis], _chunks(array)
    others = prod(array.shape[1:]) // rows // array.shape[1 + axis]
    decoded = max(chunks[axis], thick) * others * np.dtype(array.dtype).itemsize
    edge = chunks[rows_axis]
    span = max(1, PIECE_BYTES // max(1, decoded * edge)) * edge
    for start in range(0, rows, span):
        yield slice(start, min(start + span, rows))


def _box(axis: int, across: slice, rows: slice) -> tuple[slice, slice, slice]:
    box = [slice(None), slice(None), slice(None)]
    box[axis] = across
    box[1 if axis == 0 else 0] = rows
    return box[0], box[1], box[2]


def _check_shape(data: VoxelArray, prediction: Prediction, path: Path) -> None:
    if tuple(data.shape[1:]) != prediction.grid.shape:
        raise VolumeError(
            f"{path} has {tuple(data.shape[1:])} voxels (z, y, x) and had "
            f"{prediction.grid.shape} when {prediction.case!r} was predicted; both "
            "must be equal. Put the file back as it was, or predict it again."
        )
