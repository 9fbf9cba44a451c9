"""Turning the axes of an array to a model's, without touching a voxel, and back.

Axes are swapped and flipped so that the x, y, z voxel axes point as closely as can
be to the wanted world axes; an oblique volume stays oblique. The way back is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.volume import Box, Grid

_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


@dataclass(frozen=True)
class Orientation:
    """Which source axis becomes which axis of the oriented array, and which way round.

    All axes are the last three of an array: z, y, x.
    """

    order: tuple[int, int, int]
    """For each oriented axis the source axis it comes from."""
    flipped: tuple[bool, bool, bool]
    """For each oriented axis whether it runs against its source axis."""
    source_shape: tuple[int, int, int]
    """Voxels along the source's z, y, x."""

    @classmethod
    def between(cls, grid: Grid, axcodes: str | None) -> "Orientation":
        """Find the turn from a grid's own axes to those named.

        Parameters
        ----------
        grid
            The source's.
        axcodes
            Where the x, y and z axes shall point, such as ``RAS``; None keeps them.
        """
        if axcodes is None:
            return cls((0, 1, 2), (False, False, False), grid.shape)
        wanted = axcodes2ornt(check_axcodes(axcodes))
        given = io_orientation(grid.affine)
        order, flipped = [], []
        for axis in (2, 1, 0):  # oriented z, y, x in nibabel's numbering
            world_axis, sign = wanted[axis]
            (source,) = np.flatnonzero(given[:, 0] == world_axis)
            order.append(2 - int(source))
            flipped.append(bool(given[source, 1] != sign))
        return cls(
            (order[0], order[1], order[2]),
            (flipped[0], flipped[1], flipped[2]),
            grid.shape,
        )

    def then(self, axes: tuple[int, int, int]) -> "Orientation":
        """The same with the oriented axes in another order: new axis i is `axes[i]`."""
        first, second, third = axes
        order, flipped = self.order, self.flipped
        return Orientation(
            (order[first], order[second], order[third]),
            (flipped[first], flipped[second], flipped[third]),
            self.source_shape,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x of the oriented array."""
        z, y, x = (self.source_shape[axis] for axis in self.order)
        return (z, y, x)

    def reordered(self, order: Sequence[int]) -> "Orientation":
        """The same turn with its axes in another order."""
        sources = [self.order[place] for place in order]
        flips = [self.flipped[place] for place in order]
        return Orientation(
            (sources[0], sources[1], sources[2]),
            (flips[0], flips[1], flips[2]),
            self.source_shape,
        )

    def to_oriented(self, block: np.ndarray) -> np.ndarray:
        """Turn a block of the source; a view, leading axes stay."""
        lead = block.ndim - 3
        turned = block.transpose(*range(lead), *(lead + axis for axis in self.order))
        return turned[self._steps(lead, self.flipped)]

    def to_source(self, block: np.ndarray) -> np.ndarray:
        """Turn a block of the oriented array back; a view, leading axes stay."""
        lead = block.ndim - 3
        unflipped = block[self._steps(lead, self.flipped)]
        back = [lead + self.order.index(axis) for axis in range(3)]
        return unflipped.transpose(*range(lead), *back)

    def source_index(self, box: Sequence[slice]) -> Box:
        """Find where a box of the oriented array lies in the source.

        ``source[o.source_index(box)]`` and ``o.to_source(oriented[box])`` are the
        same voxels.
        """
        spans = [slice(0, 0)] * 3
        for axis, (source, flip) in enumerate(
            zip(self.order, self.flipped, strict=True)
        ):
            size = self.source_shape[source]
            start, stop, _ = box[axis].indices(size)
            spans[source] = (
                slice(size - stop, size - start) if flip else slice(start, stop)
            )
        return (spans[0], spans[1], spans[2])

    def oriented_index(self, box: Sequence[slice]) -> Box:
        """Find where a box of the source lies in the oriented array."""
        spans = []
        for source, flip in zip(self.order, self.flipped, strict=True):
            size = self.source_shape[source]
            start, stop, _ = box[source].indices(size)
            spans.append(
                slice(size - stop, size - start) if flip else slice(start, stop)
            )
        return (spans[0], spans[1], spans[2])

    def grid(self, source: Grid) -> Grid:
        """Give the grid of the oriented array: the same voxels in the same places."""
        columns = np.zeros((4, 4))
        columns[3, 3] = 1.0
        for axis, (origin, flip) in enumerate(
            zip(self.order, self.flipped, strict=True)
        ):
            columns[2 - origin, 2 - axis] = -1.0 if flip else 1.0
            columns[2 - origin, 3] = self.source_shape[origin] - 1 if flip else 0.0
        return Grid.from_affine(source.affine @ columns, self.shape)

    @staticmethod
    def _steps(lead: int, flipped: tuple[bool, bool, bool]) -> tuple[slice, ...]:
        ends = (slice(None, None, -1 if flip else None) for flip in flipped)
        return (*[slice(None)] * lead, *ends)


def orient(
    array: np.ndarray, grid: Grid, axcodes: str | None
) -> tuple[np.ndarray, Grid]:
    """Turn the last three axes (z, y, x) of an array to the named orientation.

    Parameters
    ----------
    array
        Its last three axes lie on `grid`; others, such as channels, stay in front.
    grid
        Where the voxels lie.
    axcodes
        Where the x, y and z axes shall point, such as ``RAS``; None keeps them.

    Returns
    -------
    tuple
        A view of the array, and its grid.
    """
    turn = Orientation.between(grid, axcodes)
    return turn.to_oriented(array), turn.grid(grid)


def unorient(array: np.ndarray, source_grid: Grid, axcodes: str | None) -> np.ndarray:
    """Undo `orient`: a view of the array on its source's axes."""
    return Orientation.between(source_grid, axcodes).to_source(array)


def rolled_order(first: int) -> tuple[int, int, int]:
    """Order of three axes with one of them in front; the others keep their order."""
    second, third = (axis for axis in range(3) if axis != first)
    return (first, second, third)


def check_axcodes(axcodes: str) -> str:
    """Return three letters that name three different axes, in capitals.

    Raises
    ------
    VolumeError
        When they do not.
    """
    codes = axcodes.upper()
    axes = {min(code, _OPPOSITE.get(code, "")) for code in codes}
    if len(codes) != 3 or axes != {"L", "A", "I"}:
        raise VolumeError(
            f"{axcodes!r} is no orientation; it takes three letters, one each of R or "
            "L, A or P, S or I. Write RAS, for example."
        )
    return codes
