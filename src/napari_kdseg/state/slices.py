"""Uncertainty and conflict of each slice, along all three axes, a slab at a time."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.volumes.volume import Box

BUDGET_S = 0.02
_SLAB_VOXELS = 2_000_000


class SliceProfile:
    """Means over slices, from the parts of a volume that are computed.

    Parameters
    ----------
    shape
        Voxels along z, y, x.
    measures
        What to average, by name: each gives the values of a box of voxels, 0 to 1.
    """

    def __init__(
        self, shape: tuple[int, int, int], measures: dict[str, Callable[[Box], Any]]
    ) -> None:
        self._measures = measures
        self._boxes: deque[Box] = deque()
        self._counts = [np.zeros(size) for size in shape]
        self._sums = {
            name: [np.zeros(size) for size in shape] for name in self._measures
        }

    @property
    def names(self) -> tuple[str, ...]:
        """What is averaged."""
        return tuple(self._measures)

    def add(self, boxes: Iterator[Box]) -> None:
        """Take more voxels in; `advance` does the work."""
        self._boxes.extend(boxes)

    def advance(self, budget_s: float = BUDGET_S) -> bool:
        """Work for a while; gives whether there is anything new to show."""
        until = time.monotonic() + budget_s
        worked = False
        while self._boxes and (not worked or time.monotonic() < until):
            self._take_in(self._boxes.popleft())
            worked = True
        return worked

    def means(self, name: str, axis: int) -> np.ndarray:
        """The mean of each slice across an axis; NaN where nothing is computed."""
        counts = self._counts[axis]
        unknown = np.full(counts.shape, np.nan)
        sums = self._sums[name][axis]
        np.divide(sums, counts, out=unknown, where=counts > 0)
        return unknown

    def worst(self, name: str, axis: int) -> int | None:
        """The slice with the highest mean; None where none is above zero."""
        means = np.nan_to_num(self.means(name, axis))
        return int(means.argmax()) if means.size and means.max() > 0 else None

    def _take_in(self, box: Box) -> None:
        shape = [part.stop - part.start for part in box]
        for name, measure in self._measures.items():
            values = np.asarray(measure(box))
            for axis in range(3):
                others = tuple(other for other in range(3) if other != axis)
                sums = values.sum(axis=others, dtype=np.float64)
                self._sums[name][axis][box[axis]] += sums
        for axis in range(3):
            self._counts[axis][box[axis]] += np.prod(shape) / shape[axis]


def slabs_of(box: Box) -> Iterator[Box]:
    """A box in slabs along its first axis, about two million voxels each."""
    z, y, x = box
    face = max(1, (y.stop - y.start) * (x.stop - x.start))
    depth = max(1, _SLAB_VOXELS // face)
    for start in range(z.start, z.stop, depth):
        yield slice(start, min(start + depth, z.stop)), y, x


class FinishedTiles:
    """The list of finished tiles that a job keeps beside its growing arrays.

    Parameters
    ----------
    path
        ``tiles.jsonl``; its first line says what is predicted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._byte = 0

    def new(self) -> list[Box]:
        """Tiles that were finished since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._byte)
                data = file.read()
        except OSError:
            return []  # published meanwhile
        lines = data[: data.rfind(b"\n") + 1]
        self._byte += len(lines)
        entries = [json.loads(line) for line in lines.splitlines()]
        return [_box(entry["index"]) for entry in entries if "index" in entry]


def _box(index: list[list[int]]) -> Box:
    z, y, x = (slice(start, stop) for start, stop in index)
    return z, y, x
