"""Where the voxels of each class lie, and how bright they are, from one pass.

Labels lie in runs along x, so that sums over voxels are sums over runs, of which there
are some tens of times fewer. Sums of coordinates and of their products are whole
numbers that float64 holds exactly; means and squares of intensities are merged slab by
slab about the means (Chan, Golub and LeVeque, 1983), so that bright scans lose no
digits.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer
from scipy import ndimage

from napari_kdseg.volumes.volume import Grid

Triple = tuple[float, float, float]
Indices = Integer[np.ndarray, "Z Y X"]

_NONE: Triple = (math.nan, math.nan, math.nan)
_PRODUCTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
# An ellipsoid with a half axis a has the variance a^2 / 5 along it.
_AXIS_OF_VARIANCE = 2 * math.sqrt(5)


class Moments:
    """Sums over the voxels of each class; background has place 0.

    Parameters
    ----------
    classes
        How many there are, without background.
    """

    def __init__(self, classes: int) -> None:
        self._size = classes + 1
        self.voxels = np.zeros(self._size, np.int64)
        """Of each class; those of background are not counted."""
        self._sums = np.zeros((3, self._size))
        self._products = np.zeros((len(_PRODUCTS), self._size))
        self._low = np.full((3, self._size), np.iinfo(np.int64).max)
        self._high = np.full((3, self._size), -1)
        self._mean = np.full(self._size, np.nan)
        self._squares = np.zeros(self._size)
        """Of the distances from the mean."""

    def add(self, slab: Indices, start: int, image: np.ndarray | None) -> None:
        """Take in planes; the first of them is plane `start` of the volume."""
        runs = _Runs.of(slab, start)
        counts = self._summed(runs.found, runs.voxels).astype(np.int64)
        if image is not None:
            self._take_in(runs, counts, np.asarray(image))
        sums = (runs.z * runs.voxels, runs.y * runs.voxels, runs.sum_x)
        for axis, total in enumerate(sums):
            self._sums[axis] += self._summed(runs.found, total)
        zy = (runs.z, runs.y)
        products = (
            runs.z * sums[0],
            runs.y * sums[1],
            runs.sum_xx,
            runs.z * sums[1],
            *(along * runs.sum_x for along in zy),
        )
        for row, total in enumerate(products):
            self._products[row] += self._summed(runs.found, total)
        self._note_boxes(slab, start)
        self.voxels += counts

    # ---- What it comes to ----

    def extent_mm(self, place: int, grid: Grid) -> Triple:
        """Size of the box of voxels along z, y, x; NaN without voxels."""
        if not self.voxels[place]:
            return _NONE
        size = self._high[:, place] - self._low[:, place] + 1
        z, y, x = (float(n * s) for n, s in zip(size, grid.spacing_mm, strict=True))
        return z, y, x

    def at_edge(self, place: int, shape: tuple[int, int, int]) -> bool:
        """Whether voxels lie in a first or last plane; not along one single plane."""
        return bool(self.voxels[place]) and any(
            size > 1
            and (self._low[axis, place] == 0 or self._high[axis, place] == size - 1)
            for axis, size in enumerate(shape)
        )

    def centroid_mm(self, place: int, grid: Grid) -> Triple:
        """World x, y, z; NaN without voxels."""
        if not self.voxels[place]:
            return _NONE
        middle = self._sums[::-1, place] / self.voxels[place]
        x, y, z = (float(value) for value in grid.affine[:3] @ [*middle, 1.0])
        return x, y, z

    def axes(self, place: int, grid: Grid) -> tuple[Triple, Triple]:
        """Lengths of the three principal axes in mm, and the longest one's direction.

        NaN without voxels.
        """
        if not self.voxels[place]:
            return _NONE, _NONE
        to_world = grid.affine[:3, :3]
        spread = to_world @ self._covariance(place) @ to_world.T
        variances, directions = np.linalg.eigh(spread)
        lengths = _AXIS_OF_VARIANCE * np.sqrt(np.maximum(variances, 0.0))[::-1]
        longest = directions[:, -1]
        longest = longest * np.sign(longest[np.abs(longest).argmax()])
        return _triple(lengths), _triple(longest)

    def intensity(self, place: int) -> tuple[float, float]:
        """Mean and standard deviation; NaN without voxels or image."""
        if not self.voxels[place] or math.isnan(self._mean[place]):
            return math.nan, math.nan
        variance = self._squares[place] / self.voxels[place]
        return float(self._mean[place]), math.sqrt(max(0.0, float(variance)))

    # ---- Private ----

    def _covariance(self, place: int) -> np.ndarray:
        """Of voxel coordinates x, y, z; a voxel is a body and adds a twelfth."""
        voxels = self.voxels[place]
        middle = self._sums[:, place] / voxels
        found = np.zeros((3, 3))
        for (one, other), total in zip(
            _PRODUCTS, self._products[:, place], strict=True
        ):
            found[one, other] = total / voxels - middle[one] * middle[other]
            found[other, one] = found[one, other]
        return found[::-1, ::-1] + np.eye(3) / 12

    def _summed(self, found: np.ndarray, values: np.ndarray) -> np.ndarray:
        summed: np.ndarray = np.bincount(found, values, minlength=self._size)
        return summed

    def _note_boxes(self, slab: Indices, start: int) -> None:
        for place, box in enumerate(
            ndimage.find_objects(slab, self._size - 1), start=1
        ):
            if box is None:
                continue
            for axis, part in enumerate(box):
                first = start if axis == 0 else 0
                low, high = part.start + first, part.stop + first - 1
                self._low[axis, place] = min(self._low[axis, place], low)
                self._high[axis, place] = max(self._high[axis, place], high)

    def _take_in(self, runs: "_Runs", counts: np.ndarray, image: np.ndarray) -> None:
        """Merge mean and squares of these voxels into those before."""
        new = counts > 0
        values = image.reshape(-1).astype(np.float64)
        shift = values.mean()
        values -= shift
        sums = self._summed(runs.found, runs.summed(values))
        np.square(values, out=values)
        squares = self._summed(runs.found, runs.summed(values))
        many = np.maximum(counts, 1)
        mean = sums / many + shift
        squares -= sums**2 / many
        before = self.voxels
        both = np.maximum(before + counts, 1)
        old = np.where(before > 0, self._mean, mean)
        apart = mean - old
        self._squares += squares + apart**2 * before * counts / both
        self._mean = np.where(new, old + apart * counts / both, self._mean)


@dataclass(frozen=True)
class _Runs:
    """Voxels of one class that follow one another along x; one entry a run."""

    starts: np.ndarray
    """In the flat array, those of background included."""
    labelled: np.ndarray
    """Which of them are no background; all that follows is of these."""
    found: np.ndarray
    """Places of the classes."""
    z: np.ndarray
    y: np.ndarray
    voxels: np.ndarray
    sum_x: np.ndarray
    sum_xx: np.ndarray

    @classmethod
    def of(cls, slab: Indices, start: int) -> "_Runs":
        fresh = np.ones(slab.shape, bool)
        np.not_equal(slab[:, :, 1:], slab[:, :, :-1], out=fresh[:, :, 1:])
        starts = np.flatnonzero(fresh)
        every = slab.reshape(-1)[starts].astype(np.intp)
        lengths = np.diff(starts, append=slab.size)
        labelled = every > 0
        z, y, first = np.unravel_index(starts[labelled], slab.shape)
        low = first.astype(np.float64)
        voxels = lengths[labelled].astype(np.float64)
        high = low + voxels - 1
        return cls(
            starts,
            labelled,
            every[labelled],
            (z + start).astype(np.float64),
            y.astype(np.float64),
            voxels,
            voxels * (low + high) / 2,
            _squares_to(high) - _squares_to(low - 1),
        )

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Sum of each run over the flat array."""
        total: np.ndarray = np.add.reduceat(values, self.starts)[self.labelled]
        return total


def _squares_to(last: np.ndarray) -> np.ndarray:
    """0^2 + 1^2 + ... + last^2; zero for -1."""
    total: np.ndarray = last * (last + 1) * (2 * last + 1) / 6
    return total


def _triple(values: np.ndarray) -> Triple:
    one, two, three = (float(value) for value in values)
    return one, two, three
