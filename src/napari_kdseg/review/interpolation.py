"""The slices between two corrected ones, from the shapes of both.

Shape-based interpolation: Raya and Udupa, IEEE Transactions on Medical Imaging 9 (1990)
32-42. Each class has a map of distances to its outline, positive inside; between two
slices the maps are mixed linearly, and the class is where the mixture is positive.

One thing is not in the paper: the maps of a shape that lies elsewhere in the other
slice are first laid over one another, centre on centre. Mixed as they lie, they would
make it wither on the way.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import hypot

import numpy as np
from jaxtyping import Float, Integer
from scipy.ndimage import distance_transform_edt, find_objects, label

from napari_kdseg.review.painting import Painting

Labels = Integer[np.ndarray, "Y X"]
Mask = np.ndarray
Spacing = tuple[float, float]
"""Size of a pixel: rows, columns."""
Spacing3 = tuple[float, float, float]

_PIECE_VOXELS = 1 << 26  # are read at once: slices that lie in the same chunks


def interpolate(
    lower: Labels, upper: Labels, count: int, spacing_mm: Spacing = (1.0, 1.0)
) -> Integer[np.ndarray, "N Y X"]:
    """Make up the slices between two, of all classes in them.

    Shapes that overlap in the two slices belong together, and so does a single one with
    a single one elsewhere. Where there is one in each, it moves along a straight line
    between its centres. One that has no counterpart shrinks: of its depth, half is left
    in the middle, and nothing in the other slice. Where classes overlap, the one wins
    whose outline is farther away.

    Parameters
    ----------
    lower, upper
        Two slices; 0 is background.
    count
        How many slices lie between them, evenly.
    spacing_mm
        Size of a pixel.

    Returns
    -------
    ndarray
        The slices between, the one after `lower` first; of `lower`'s type.
    """
    made = np.zeros((count, *lower.shape), lower.dtype)
    values = np.union1d(np.unique(lower), np.unique(upper))
    shapes = [
        _Shape.of(part, spacing_mm)
        for value in values[values != 0]
        for part in _parts(int(value), lower == value, upper == value)
    ]
    for number in range(count):
        _draw(made[number], shapes, (number + 1) / (count + 1))
    return made


def to_fill(
    painted: Sequence[int], interpolated: Collection[int]
) -> list[tuple[int, int]]:
    """Choose the pairs of slices to interpolate between.

    These are the last two that were painted, and neighbours of the last one from which
    the slices between were interpolated before: it is part of them now. A painted slice
    that lies between two others is not written over; it supports both sides.

    Parameters
    ----------
    painted
        Indices of slices, in the order in which they were painted.
    interpolated
        Indices of those that were interpolated before.

    Returns
    -------
    list of tuple
        Lower and upper index, ascending; only pairs with slices between them.
    """
    if len(painted) < 2:
        return []
    last = painted[-1]
    low, high = sorted(painted[-2:])
    known = sorted(painted)
    return [
        (lower, upper)
        for lower, upper in pairwise(known)
        if upper - lower > 1
        and (
            low <= lower < upper <= high
            or (
                last in (lower, upper) and {*range(lower + 1, upper)} <= {*interpolated}
            )
        )
    ]


def changes(
    labels: Painting, axis: int, pairs: Sequence[tuple[int, int]], spacing_mm: Spacing3
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Interpolate between pairs of slices; nothing is written yet.

    Parameters
    ----------
    labels
        Z, y, x.
    axis
        Across which slices are cut.
    pairs
        Lower and upper index of each pair.
    spacing_mm
        Of the voxels: z, y, x.

    Returns
    -------
    tuple of ndarray
        Indices z, y, x of the voxels that change.
    ndarray
        What they change to.
    """
    size = tuple(mm for other, mm in enumerate(spacing_mm) if other != axis)
    places: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for lower, upper in pairs:
        one, other = (_planes(labels, axis, n, n + 1)[0] for n in (lower, upper))
        made = interpolate(one, other, upper - lower - 1, (size[0], size[1]))
        step = max(1, _PIECE_VOXELS // made[0].size)
        for start in range(lower + 1, upper, step):
            stop = min(start + step, upper)
            found = made[start - lower - 1 : stop - lower - 1]
            changed = found != _planes(labels, axis, start, stop)
            where = np.argwhere(changed).astype(np.int32)
            where[:, 0] += start
            places.append(np.insert(where[:, 1:], axis, where[:, 0], axis=1))
            values.append(found[changed])
    if not places:
        places, values = [np.empty((0, 3), np.int32)], [np.empty(0, labels.dtype)]
    z, y, x = np.concatenate(places).T
    return (z, y, x), np.concatenate(values)


@dataclass(frozen=True, eq=False)
class _Part:
    """A class, or a part of it, in two slices, in the box that has it in both."""

    value: int
    box: tuple[slice, slice]
    lower: Mask
    upper: Mask


@dataclass(frozen=True, eq=False)
class _Shape:
    """How far it is to the outlines of a part."""

    value: int
    box: tuple[slice, slice]
    near: Float[np.ndarray, "H W"]
    """Distances in the lower slice."""
    far: Float[np.ndarray, "H W"]
    """Distances in the upper slice."""
    way: tuple[float, float]
    """Pixels, rows and columns, that it moves by."""
    spacing_mm: Spacing

    @classmethod
    def of(cls, part: _Part, spacing_mm: Spacing) -> "_Shape":
        one, other = part.lower, part.upper
        near, far = _distances(one, spacing_mm), _distances(other, spacing_mm)
        if not one.any():
            near = far - far.max()
        elif not other.any():
            far = near - near.max()
        single = label(one)[1] == label(other)[1] == 1
        way = _way(one, other) if single else (0.0, 0.0)
        return cls(part.value, part.box, near, far, way, spacing_mm)

    def at(self, share: float) -> Float[np.ndarray, "H W"]:
        """Distances at a share of the way from the lower to the upper slice."""
        near, far = self.near, self.far
        if self.way != (0.0, 0.0):
            near = _moved(near, share, self.way, self.spacing_mm)
            far = _moved(far, share - 1, self.way, self.spacing_mm)
        mixed: np.ndarray = (1 - share) * near + share * far
        return mixed


def _planes(labels: Painting, axis: int, start: int, stop: int) -> np.ndarray:
    """Read slices across an axis, which comes first in what is given."""
    box = [slice(None)] * 3
    box[axis] = slice(start, stop)
    return np.moveaxis(labels[tuple(box)], axis, 0)


def _draw(plane: np.ndarray, shapes: list[_Shape], share: float) -> None:
    """Draw all classes at a share of the way into an empty slice."""
    depth = np.zeros(plane.shape, np.float32)
    # Where two classes touch, a pixel may lie on both outlines, and is of one of them.
    outlines = np.zeros(plane.shape, np.uint8)
    outlined = np.zeros_like(plane)
    for shape in shapes:
        found, box = shape.at(share), shape.box
        wins = found > depth[box]
        plane[box][wins], depth[box][wins] = shape.value, found[wins]
        on_it = found == 0
        outlines[box][on_it] += 1
        outlined[box][on_it] = shape.value
    between = (plane == 0) & (outlines > 1)
    plane[between] = outlined[between]


def _parts(value: int, lower: Mask, upper: Mask) -> list[_Part]:
    """Divide a class into the parts that belong together in both slices."""
    numbers, _ = label(lower | upper)
    found = []
    for number, tight in enumerate(find_objects(numbers), start=1):
        box = _widened(tight, lower.shape)
        here = numbers[box] == number
        found.append(_Part(value, box, lower[box] & here, upper[box] & here))
    gone = [part for part in found if not part.upper.any()]
    come = [part for part in found if not part.lower.any()]
    if len(gone) == len(come) == 1:
        found = [part for part in found if part.lower.any() and part.upper.any()]
        found.append(_moved_part(gone[0], come[0]))
    return found


def _moved_part(gone: _Part, come: _Part) -> _Part:
    """Take what was in one place, and is in another, as one thing."""
    rows, columns = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(gone.box, come.box, strict=True)
    )
    lower, upper = np.zeros(
        (2, rows.stop - rows.start, columns.stop - columns.start), bool
    )
    for mask, part, shown in ((lower, gone, gone.lower), (upper, come, come.upper)):
        top, left = part.box[0].start - rows.start, part.box[1].start - columns.start
        mask[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    return _Part(gone.value, (rows, columns), lower, upper)


def _distances(mask: Mask, spacing_mm: Spacing) -> Float[np.ndarray, "H W"]:
    """Distances to the outline of a shape, positive inside, negative outside."""
    # The outline lies half a pixel inside the next pixel of the other kind.
    half = min(spacing_mm) / 2
    beyond = hypot(*(n * mm for n, mm in zip(mask.shape, spacing_mm, strict=True)))
    inside = _edt(mask, spacing_mm) if not mask.all() else np.full(mask.shape, beyond)
    outside = _edt(~mask, spacing_mm) if mask.any() else np.full(mask.shape, beyond)
    signed: np.ndarray = np.where(mask, inside - half, half - outside)
    return signed.astype(np.float32)


def _edt(mask: Mask, spacing_mm: Spacing) -> np.ndarray:
    found: np.ndarray = distance_transform_edt(mask, sampling=spacing_mm)
    return found


def _widened(box: tuple[slice, slice], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Take a pixel more on each side, so that distances in a box are true."""
    rows, columns = (
        slice(max(0, part.start - 1), min(part.stop + 1, size))
        for part, size in zip(box, shape, strict=True)
    )
    return rows, columns


def _way(lower: Mask, upper: Mask) -> tuple[float, float]:
    """How far it is from the centre of one shape to that of another."""
    start, end = (np.argwhere(mask).mean(axis=0) for mask in (lower, upper))
    return float(end[0] - start[0]), float(end[1] - start[1])


def _moved(
    distances: Float[np.ndarray, "H W"],
    share: float,
    way: tuple[float, float],
    spacing_mm: Spacing,
) -> Float[np.ndarray, "H W"]:
    """Move a map by a share of the way, whole pixels.

    Nothing is known of what comes in from beyond the edge: it counts as what lies at
    the edge, less its distance from there.
    """
    sources, lacks = [], []
    for size, length, mm in zip(distances.shape, way, spacing_mm, strict=True):
        wanted = np.arange(size) - round(share * length)
        sources.append(np.clip(wanted, 0, size - 1))
        lacks.append(np.abs(wanted - sources[-1]) * mm)
    beyond = np.hypot(lacks[0][:, None], lacks[1][None, :]).astype(np.float32)
    moved: np.ndarray = distances[np.ix_(*sources)] - beyond
    return moved
