"""Labels that can be painted on, whatever their size, over labels that do not change.

What is painted lies in blocks, cubes of voxels in memory over the labels below. Every
write is noted, whoever makes it: a brush, an undo, another plugin. So is known what has
to be kept, and which slices are not as they were.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from napari_kdseg.volumes.volume import VoxelArray

Key = tuple[int, int, int]
"""Which block, counted along z, y, x."""


@dataclass(frozen=True)
class Written:
    """Where something was written."""

    places: tuple[np.ndarray, np.ndarray, np.ndarray]
    """The planes across z, y and x that it lies in, ascending."""
    by_hand: bool
    """Whether a box was written, as brushes do, and not voxels one by one."""


class _Block:
    """A cube of voxels, as painted, and as they were."""

    def __init__(self, below: np.ndarray, version: int = 0) -> None:
        self.voxels = below
        self.version = version
        """How often it was written to."""
        self.kept = version
        """The version that is on disk."""
        self._was = zlib.compress(below.tobytes(), 1)  # labels take little
        self._written = [np.zeros(size, bool) for size in below.shape]

    def write(self, inside: tuple[Any, ...], values: Any) -> None:
        self.voxels[inside] = values
        self.version += 1
        for written, places in zip(self._written, inside, strict=True):
            written[places] = True

    def differing(self, axis: int, wanted: np.ndarray) -> np.ndarray:
        """Which of these planes are not as they were."""
        asked: np.ndarray = wanted[self._written[axis][wanted]]
        if not asked.size:
            return asked
        was = np.frombuffer(zlib.decompress(self._was), self.voxels.dtype)
        before = was.reshape(self.voxels.shape).take(asked, axis)
        others = tuple(other for other in range(3) if other != axis)
        differs = (before != self.voxels.take(asked, axis)).any(others)
        found: np.ndarray = asked[differs]
        return found


class Painting:
    """An array of labels z, y, x that napari, or anybody, can read and write.

    What is read is a copy, and nothing is written to the labels below.

    Parameters
    ----------
    below
        Labels z, y, x, read a box at a time.
    edge
        Voxels along each edge of a block.
    on_write
        Told what was written, each time.
    """

    def __init__(
        self,
        below: VoxelArray,
        edge: int,
        on_write: Callable[[Written], None] = lambda _: None,
    ) -> None:
        self._below = below
        self._edge = edge
        self.on_write = on_write
        self._blocks: dict[Key, _Block] = {}
        self._first: np.ndarray | None = None
        z, y, x = (int(size) for size in below.shape)
        self._shape: tuple[int, int, int] = (z, y, x)
        self._dtype: np.dtype[Any] = np.dtype(below.dtype)

    # ---- As an array ----

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the labels."""
        return self._dtype

    @property
    def ndim(self) -> int:
        """Always three."""
        return 3

    @property
    def size(self) -> int:
        """Voxels in all."""
        return prod(self._shape)

    @property
    def nbytes(self) -> int:
        """What all of them would take in memory."""
        return self.size * int(self._dtype.itemsize)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 - NumPy calls it so
        """Read everything."""
        whole = self._read([(0, size) for size in self._shape])
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> Any:
        """Read a box, or voxels by their indices, as NumPy does."""
        coordinates = _coordinates(index, self._shape)
        if coordinates is not None:
            return self._pick(coordinates)
        spans, rest = _spans(index, self._shape)
        if index == 0 and isinstance(index, int):
            return self._read_first(spans)[rest]
        return self._read(spans)[rest]

    def __setitem__(self, index: Any, value: Any) -> None:
        """Write a box, or voxels by their indices."""
        coordinates = _coordinates(index, self._shape)
        if coordinates is not None:
            self._put(coordinates, value)
            return
        spans, rest = _spans(index, self._shape)
        if any(isinstance(pick, slice) and pick != slice(None) for pick in rest):
            raise IndexError("Boxes are written to without steps.")
        # Where an integer was given, the value has an axis less.
        box = np.empty([stop - start for start, stop in spans], self._dtype)
        box[rest] = value
        for key, part, inside in self._parts(spans):
            self._block(key).write(inside, box[part])
        if box.size:
            z, y, x = (np.arange(start, stop) for start, stop in spans)
            self.on_write(Written((z, y, x), by_hand=True))

    # ---- Blocks ----

    @property
    def edge(self) -> int:
        """Voxels along each edge of a block."""
        return self._edge

    @property
    def blocks(self) -> dict[Key, int]:
        """All blocks that were written to, and how often each was."""
        blocks = self._blocks.items()
        return {key: block.version for key, block in blocks if block.version}

    @property
    def unkept(self) -> tuple[Key, ...]:
        """Those that were written to since they were last `kept`."""
        blocks = self._blocks.items()
        return tuple(key for key, block in blocks if block.version > block.kept)

    def block(self, key: Key) -> np.ndarray:
        """The voxels of a block."""
        return self._block(key).voxels

    def box(self, key: Key) -> tuple[slice, slice, slice]:
        """Where a block lies."""
        z, y, x = (
            slice(number * self._edge, min((number + 1) * self._edge, size))
            for number, size in zip(key, self._shape, strict=True)
        )
        return z, y, x

    def kept(self, key: Key) -> None:
        """Note that a block is on disk as it is now."""
        block = self._block(key)
        block.kept = block.version

    def restore(self, key: Key, voxels: np.ndarray) -> None:
        """Put a block there that was painted, and kept, another time.

        Raises
        ------
        ValueError
            Where there is no such block, or it has another shape or type.
        """
        expected = tuple(part.stop - part.start for part in self.box(key))
        if min(key) < 0 or min(expected) < 1 or voxels.shape != expected:
            raise ValueError(f"a block of {voxels.shape} voxels does not fit at {key}")
        if voxels.dtype != self._dtype:
            raise ValueError(f"it has {voxels.dtype} voxels, not {self._dtype}")
        self._blocks[key] = _Block(voxels, version=1)

    def settle(self, below: VoxelArray, blocks: Mapping[Key, int]) -> None:
        """Take other labels to lie below, and drop the blocks that are in them.

        Parameters
        ----------
        below
            The labels.
        blocks
            What `blocks` was when they were made. A block that was written to since
            stays.
        """
        self._below, self._first = below, None
        self._blocks = {
            key: block
            for key, block in self._blocks.items()
            if block.version and block.version != blocks.get(key)
        }

    def differing(self, axis: int, places: Iterable[int]) -> set[int]:
        """Which of these planes are not as they were below, or as last restored."""
        wanted = np.array(sorted(set(places)), int)
        found: set[int] = set()
        for key, block in self._blocks.items():
            start = key[axis] * self._edge
            here = wanted[(wanted >= start) & (wanted < start + self._edge)] - start
            found |= set((block.differing(axis, here) + start).tolist())
        return found

    # ---- Private ----

    def _block(self, key: Key) -> _Block:
        if key not in self._blocks:
            box = self.box(key)
            below = np.array(self._below[box], self._dtype, order="C")
            self._blocks[key] = _Block(below)
        return self._blocks[key]

    def _read(self, spans: list[tuple[int, int]]) -> np.ndarray:
        keys = {key for key, _, _ in self._parts(spans)}
        if keys <= set(self._blocks):
            found = np.empty([stop - start for start, stop in spans], self._dtype)
        else:
            box = tuple(slice(start, stop) for start, stop in spans)
            found = np.array(self._below[box], self._dtype)
        return self._painted(found, spans)

    def _read_first(self, spans: list[tuple[int, int]]) -> np.ndarray:
        """Read the first plane; napari does with every touch of the brush.

        It only wants to know the type. Of a large scan on disk that would take longer
        than all else.
        """
        if self._first is None:
            box = tuple(slice(start, stop) for start, stop in spans)
            self._first = np.array(self._below[box], self._dtype)
        return self._painted(self._first.copy(), spans)

    def _painted(self, box: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
        """Put what was painted into a box of the labels below."""
        for key, part, inside in self._parts(spans) if self._blocks else ():
            if key in self._blocks:
                box[part] = self._blocks[key].voxels[inside]
        return box

    def _parts(
        self, spans: list[tuple[int, int]]
    ) -> Iterator[tuple[Key, tuple[slice, ...], tuple[slice, ...]]]:
        """Which blocks a box lies in, the part of the box there, and of the block."""
        edge = self._edge
        if any(stop <= start for start, stop in spans):
            return
        numbers = (range(start // edge, -(-stop // edge)) for start, stop in spans)
        for z, y, x in product(*numbers):
            parts, insides = [], []
            for number, (start, stop) in zip((z, y, x), spans, strict=True):
                first, last = max(start, number * edge), min(stop, (number + 1) * edge)
                parts.append(slice(first - start, last - start))
                insides.append(slice(first - number * edge, last - number * edge))
            yield (z, y, x), tuple(parts), tuple(insides)

    def _pick(self, coordinates: tuple[np.ndarray, ...]) -> np.ndarray:
        shape = coordinates[0].shape
        found = np.empty(coordinates[0].size, self._dtype)
        # Who picks voxels mostly writes to them next, so their blocks are held.
        for key, which, inside in self._grouped(coordinates):
            found[which] = self._block(key).voxels[inside]
        return found.reshape(shape)

    def _put(self, coordinates: tuple[np.ndarray, ...], value: Any) -> None:
        values = np.broadcast_to(np.asarray(value), coordinates[0].shape).reshape(-1)
        for key, which, inside in self._grouped(coordinates):
            self._block(key).write(inside, values[which])
        if coordinates[0].size:
            z, y, x = (np.unique(places) for places in coordinates)
            self.on_write(Written((z, y, x), by_hand=False))

    def _grouped(
        self, coordinates: tuple[np.ndarray, ...]
    ) -> Iterator[tuple[Key, np.ndarray, tuple[np.ndarray, ...]]]:
        """Sort voxels by the block they lie in: which they are, and where in it."""
        flat = [places.reshape(-1) for places in coordinates]
        if not flat[0].size:
            return
        counts = [-(-size // self._edge) for size in self._shape]
        numbers = np.ravel_multi_index([p // self._edge for p in flat], counts)
        order = np.argsort(numbers, kind="stable")
        found, starts = np.unique(numbers[order], return_index=True)
        for number, which in zip(found, np.split(order, starts[1:]), strict=True):
            z, y, x = (int(n) for n in np.unravel_index(number, counts))
            inside = tuple(places[which] % self._edge for places in flat)
            yield (z, y, x), which, inside


def _coordinates(index: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, ...] | None:
    """Indices of single voxels, where such are given; None where it is a box."""
    picks = index if isinstance(index, tuple) else (index,)
    if isinstance(index, np.ndarray) and index.dtype == bool:
        picks = tuple(np.nonzero(index))
    if not any(isinstance(pick, np.ndarray | list) for pick in picks):
        return None
    if len(picks) != len(shape) or not all(_is_places(pick) for pick in picks):
        raise IndexError(
            "Voxels are picked by three arrays of indices, or by slices and integers."
        )
    arrays = np.broadcast_arrays(*(np.asarray(pick) for pick in picks))
    for places, size in zip(arrays, shape, strict=True):
        if places.size and (places.min() < -size or places.max() >= size):
            raise IndexError(f"There are {size} voxels along an axis; count from 0.")
    return tuple(
        np.where(places < 0, places + size, places)
        for places, size in zip(arrays, shape, strict=True)
    )


def _is_places(pick: Any) -> bool:
    return not isinstance(pick, slice) and np.asarray(pick).dtype.kind in "iu"


def _spans(
    index: Any, shape: tuple[int, ...]
) -> tuple[list[tuple[int, int]], tuple[Any, ...]]:
    """Give the box that slices and integers lie in, and what to take of it."""
    picks = index if isinstance(index, tuple) else (index,)
    if any(pick is Ellipsis for pick in picks):
        at = next(n for n, pick in enumerate(picks) if pick is Ellipsis)
        missing = len(shape) - len(picks) + 1
        picks = (*picks[:at], *[slice(None)] * missing, *picks[at + 1 :])
    picks = (*picks, *[slice(None)] * (len(shape) - len(picks)))
    spans: list[tuple[int, int]] = []
    rest: list[Any] = []
    for pick, size in zip(picks, shape, strict=True):
        if not isinstance(pick, slice):
            place = range(size)[pick]
            spans.append((place, place + 1))
            rest.append(0)
            continue
        places = range(size)[pick]
        if not places:
            spans.append((0, 0))
            rest.append(slice(None))
            continue
        low, high = min(places[0], places[-1]), max(places[0], places[-1])
        spans.append((low, high + 1))
        rest.append(slice(None) if places.step == 1 else slice(None, None, places.step))
    return spans, tuple(rest)
