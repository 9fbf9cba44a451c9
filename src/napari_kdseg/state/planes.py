"""Lazy voxels as a viewer steps through them: a plane at a time, along any axis.

A viewer first cuts a box out of all planes, as large as the canvas, and then takes one
plane of it. So cutting reads nothing; voxels are read when an array is asked for.
"""

import operator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from napari_kdseg.volumes.volume import VoxelArray

LARGEST_LAYER_BYTES = 1 << 27

Spans = tuple[range, range, range]


class SteppedVoxels:
    """A box of one channel of lazy voxels, z, y, x.

    Parameters
    ----------
    data
        Channel, z, y, x.
    channel
        Which of them.
    """

    def __init__(self, data: VoxelArray, channel: int) -> None:
        self._layers = _Layers(data, channel)
        z, y, x = (range(size) for size in data.shape[1:])
        self._spans: Spans = (z, y, x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along z, y, x."""
        return tuple(len(span) for span in self._spans)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return self._layers.dtype

    @property
    def ndim(self) -> int:
        """Always three."""
        return 3

    @property
    def size(self) -> int:
        """Voxels in all."""
        return prod(self.shape)

    def __getitem__(self, index: Any) -> Any:
        """Cut a box by slices, unread; with an integer among them it is read."""
        picks = _whole(index)
        spans = [
            span[pick] if isinstance(pick, slice) else _single(span, pick)
            for span, pick in zip(self._spans, picks, strict=True)
        ]
        cut = object.__new__(SteppedVoxels)
        cut._layers, cut._spans = self._layers, (spans[0], spans[1], spans[2])
        if all(isinstance(pick, slice) for pick in picks):
            return cut
        keep = tuple(slice(None) if isinstance(pick, slice) else 0 for pick in picks)
        return np.asarray(cut)[keep]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 - NumPy calls it so
        """Read the box."""
        box = self._layers.read(self._spans)
        return box if dtype is None else box.astype(dtype, copy=False)


class _Layers:
    """What reads, and remembers where a person is.

    To read a plane is to decode a layer of chunks. That layer is kept, so that the
    steps that follow inside of it cost nothing; layers too large to be kept are read
    for the one plane alone.
    """

    def __init__(self, data: VoxelArray, channel: int) -> None:
        self._data = data
        self._channel = channel
        chunks = getattr(data, "chunks", None) or (1,) * 4
        self._edges = tuple(int(edge) for edge in chunks[1:])
        self._held = _Held(0, range(0), np.empty((0, 0, 0), self.dtype))

    @property
    def dtype(self) -> np.dtype[Any]:
        stored: np.dtype[Any] = np.dtype(self._data.dtype)
        return stored

    def read(self, spans: Spans) -> np.ndarray:
        axis = next((n for n, span in enumerate(spans) if len(span) == 1), None)
        box = [_slice(span) for span in spans]
        held = None if axis is None else self._hold(axis, spans[axis][0])
        if axis is None or held is None:
            return np.asarray(self._data[(self._channel, *box)])
        place = spans[axis][0] - held.planes.start
        box[axis] = slice(place, place + 1)
        return held.voxels[tuple(box)]

    def _hold(self, axis: int, place: int) -> "_Held | None":
        """Have the layer of chunks with a plane in memory, if it is small enough."""
        held = self._held  # one look: viewers slice in several threads
        if axis == held.axis and place in held.planes:
            return held
        shape, edge = self._data.shape[1:], self._edges[axis]
        first = place // edge * edge
        span = slice(first, min(first + edge, shape[axis]))
        voxels = prod(shape) // shape[axis] * (span.stop - span.start)
        if edge < 2 or voxels * self.dtype.itemsize > LARGEST_LAYER_BYTES:
            return None
        box = [slice(None)] * 3
        box[axis] = span
        # freed before the next is read
        self._held = held = _Held(0, range(0), np.empty((0, 0, 0), self.dtype))
        voxels_there = np.asarray(self._data[(self._channel, *box)])
        self._held = held = _Held(axis, range(span.start, span.stop), voxels_there)
        return held


@dataclass(frozen=True)
class _Held:
    """A layer of chunks in memory."""

    axis: int
    planes: range
    """Where along that axis."""
    voxels: np.ndarray
    """Z, y, x."""


def _whole(index: Any) -> tuple[Any, ...]:
    given = index if isinstance(index, tuple) else (index,)
    if any(pick is Ellipsis for pick in given):
        at = next(n for n, pick in enumerate(given) if pick is Ellipsis)
        given = (*given[:at], *[slice(None)] * (4 - len(given)), *given[at + 1 :])
    return (*given, *[slice(None)] * (3 - len(given)))


def _single(span: range, pick: Any) -> range:
    place = span[operator.index(pick)]
    return range(place, place + 1)


def _slice(span: range) -> slice:
    if not span:
        return slice(0, 0)
    if span.step < 0:
        raise IndexError("Lazy voxels are read forwards; reverse what was read.")
    return slice(span.start, span[-1] + 1, span.step)
