"""Where the windows lie.

Positions are those of MONAI's ``sliding_window_inference`` (1.6), so that labels can be
compared with it voxel by voxel: windows of one size start every
``int(tile * (1 - overlap))`` voxels, the last one is pulled back to end with the
volume, and a volume smaller than the tile is padded on both sides.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """One window along one axis, and the part of the wanted voxels that it covers.

    ``start`` is where the window begins; it is negative where the volume is padded.
    ``low`` to ``high`` (end excluded) is what the window adds to the result.
    """

    start: int
    low: int
    high: int


@dataclass(frozen=True)
class Window:
    """One position of the tile: its spans along z, y and x."""

    z: Span
    y: Span
    x: Span


@dataclass(frozen=True)
class Lattice:
    """All windows of a pass: their spans along z, y and x."""

    z: tuple[Span, ...]
    y: tuple[Span, ...]
    x: tuple[Span, ...]

    def windows(self) -> list[Window]:
        """Every window, in the order in which they are added."""
        return [Window(z, y, x) for z in self.z for y in self.y for x in self.x]

    @property
    def count(self) -> int:
        """How many windows there are."""
        return len(self.z) * len(self.y) * len(self.x)

    @property
    def strip_shape(self) -> tuple[int, int, int]:
        """Voxels of the buffer that one row of windows needs."""
        return (_deepest(self.z), _deepest(self.y), self.x[-1].high - self.x[0].low)

    @property
    def slab_shape(self) -> tuple[int, int, int]:
        """Voxels of the thickest slab that a level of windows completes."""
        return (_deepest(self.z), *self._face)

    @property
    def carried_shape(self) -> tuple[int, int, int]:
        """Voxels of the buffer that one level of windows leaves for the next."""
        shared = [a.high - b.low for a, b in zip(self.z, self.z[1:], strict=False)]
        return (max([0, *shared]), *self._face)

    @property
    def _face(self) -> tuple[int, int]:
        return (self.y[-1].high - self.y[0].low, self.x[-1].high - self.x[0].low)


def starts(size: int, tile: int, overlap: float) -> tuple[int, ...]:
    """First voxel of every window along one axis, in rising order.

    Parameters
    ----------
    size
        Voxels along the axis, all of them covered.
    tile
        Voxels of one window.
    overlap
        Part of a window shared with the next, 0 (none) to below 1.
    """
    if tile >= size:
        return (0,)
    step = max(int(tile * (1 - overlap)), 1)
    count = math.ceil((size - tile) / step) + 1
    return tuple(min(i * step, size - tile) for i in range(count))


def even_starts(size: int, tile: int, overlap: float) -> tuple[int, ...]:
    """First voxel of every window along one axis, equally far apart but for rounding.

    As nnU-Net places them (Isensee et al. 2021): as few as overlap by at least the
    given part; the distance shrinks until the last one ends with the volume.
    """
    if tile >= size:
        return (0,)
    if tile == 1:  # slices, and not windows along this axis
        return tuple(range(size))
    count = math.ceil((size - tile) / (tile * (1 - overlap))) + 1
    step = (size - tile) / (count - 1)
    return tuple(round(step * i) for i in range(count))


def spans(
    size: int, tile: int, overlap: float, wanted: slice, *, even: bool = False
) -> tuple[Span, ...]:
    """The windows along one axis that touch the wanted voxels.

    Parameters
    ----------
    size, tile, overlap
        As in `starts`; a smaller volume is padded by half on either side, the odd
        voxel at the end.
    wanted
        Voxels of the result, ``start`` and ``stop`` given; windows that touch none of
        them are left out, so a preview costs what it shows.
    even
        Whether they lie as in `even_starts`.
    """
    place = even_starts if even else starts
    before = max(tile - size, 0) // 2
    clipped = (
        Span(first, max(first, wanted.start), min(first + tile, wanted.stop))
        for first in (start - before for start in place(size, tile, overlap))
    )
    return tuple(span for span in clipped if span.low < span.high)


def _deepest(spans: tuple[Span, ...]) -> int:
    return max(span.high - span.low for span in spans)
