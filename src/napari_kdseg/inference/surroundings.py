"""A box of a volume, and what is said of the voxels around it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_kdseg.inference.plan import LEAST_PLANES
from napari_kdseg.inference.reduce import Maps
from napari_kdseg.inference.settings import Settings
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Frame
from napari_kdseg.volumes.volume import Box, Volume, VoxelArray


@dataclass(frozen=True)
class Surroundings:
    """A volume around a box: background, as unsure as a coarse model was there."""

    frame: Frame
    """What the coarse model saw."""
    uncertainty: NDArray[np.float32] | None
    """Of the coarse model, 0 (sure) to 1; z, y, x of its voxels. None: not wanted."""
    classes: LabelSet
    settings: Settings

    def at(self, index: Box) -> Maps:
        """Labels and all that is wanted, in a box of the source array."""
        sides = [span.stop - span.start for span in index]
        uncertainty: tuple[NDArray[Any], ...] = ()
        probabilities: tuple[NDArray[Any], ...] = ()
        if self.uncertainty is not None:
            uncertainty = (self.frame.restore_labels(self.uncertainty, index),)
        if self.settings.probabilities:
            prob = np.zeros((self.classes.count, *sides), np.float32)
            prob[0] = 1
            probabilities = (prob,)
        labels = np.zeros(sides, self.classes.dtype)
        return Maps((labels,), uncertainty, probabilities)

    def around(self, inside: Maps, place: Box, index: Box) -> Maps:
        """The same, with what was found in a part of the box.

        Parameters
        ----------
        inside, place
            What was found, and where in the source array.
        index
            The box, which holds that place.
        """
        maps = self.at(index)
        z, y, x = (
            slice(part.start - whole.start, part.stop - whole.start)
            for part, whole in zip(place, index, strict=True)
        )
        maps.put((z, y, x), inside)
        return maps


def beside(wanted: slice, inner: slice, size: int) -> Iterator[slice]:
    """What is left of the wanted planes, each slab beside what was there before.

    Slabs end where chunks of results do, so that none is written twice.

    Parameters
    ----------
    wanted, inner
        Planes that are wanted, and those among them that were there first. Where these
        are none, slabs begin at the end of the wanted ones that lies inside the volume:
        next to it is what an earlier execution finished.
    size
        Planes of the volume.
    """
    low, high = inner.start, inner.stop
    if low == high:
        low = high = wanted.stop if wanted.stop < size else wanted.start
    while low > wanted.start:
        start = max((low - 1) // LEAST_PLANES * LEAST_PLANES, wanted.start)
        yield slice(start, low)
        low = start
    while high < wanted.stop:
        stop = min((high // LEAST_PLANES + 1) * LEAST_PLANES, wanted.stop)
        yield slice(high, stop)
        high = stop


def in_pieces(planes: slice, *, downwards: bool) -> list[slice]:
    """Planes in thin slabs that follow one another, up or down."""
    start = slice(planes.start, planes.start)
    upwards = list(beside(planes, start, planes.stop))
    return upwards[::-1] if downwards else upwards


def cropped(volume: Volume, box: Box) -> Volume:
    """A box of a volume; voxels on the disk stay there until they are read."""
    if isinstance(volume.data, np.ndarray):
        data: VoxelArray = volume.data[(slice(None), *box)]
    else:
        data = _CroppedVoxels(volume.data, box)
    return Volume(data, volume.grid.cropped(box), volume.channels, volume.source)


@dataclass(frozen=True)
class _CroppedVoxels:
    data: VoxelArray
    box: Box

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.data.shape[0], *(span.stop - span.start for span in self.box))

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """How the voxels lie on the disk, for those who read them in order."""
        found: tuple[int, ...] | None = getattr(self.data, "chunks", None)
        return found

    def __getitem__(self, index: Any, /) -> Any:
        given = [*index] if isinstance(index, tuple) else [index]
        channels, *spans = given + [slice(None)] * (4 - len(given))
        own = [_moved(one, span) for one, span in zip(spans, self.box, strict=True)]
        return self.data[(channels, *own)]


def _moved(index: Any, whole: slice) -> Any:
    """An index into a part of an axis, as one into all of it."""
    size = whole.stop - whole.start
    if isinstance(index, slice):
        start, stop, step = index.indices(size)
        return slice(whole.start + start, whole.start + stop, step)
    return whole.start + range(size)[index]
