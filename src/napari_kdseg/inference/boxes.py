"""Boxes around what a coarse model found, and where they lie in the source."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_kdseg.volumes.volume import Box, Grid

Fractions = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""Low and high face of a box along z, y, x, as parts of the volume: 0 to 1."""

_LEAST_VOXELS = 2  # along each axis: a 3D network needs a stack
_DIGITS = 9  # of a place in voxels; so 0.7 * 10 is 7 and not the next voxel


def box_around(mask: NDArray[np.bool_], margin: float) -> Fractions | None:
    """Box around a mask, enlarged about its centre, clipped to the volume.

    Parameters
    ----------
    mask
        Z, y, x.
    margin
        Its sides in sides of the tight box; 1 leaves it tight.

    Returns
    -------
    Fractions or None
        None where the mask is empty.
    """
    if not mask.any():
        return None
    spans = []
    for axis, size in enumerate(mask.shape):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        low, high = places[0] / size, (places[-1] + 1) / size
        centre, half = (low + high) / 2, (high - low) / 2 * margin
        spans.append((float(max(centre - half, 0)), float(min(centre + half, 1))))
    return (spans[0], spans[1], spans[2])


def box_in_source(fractions: Fractions, shape: Sequence[int]) -> Box:
    """Voxels that a box of fractions touches, two along each axis at least.

    The authors round to the nearest voxel, which may cut half a voxel of what was
    found; here every voxel that is touched belongs to the box.
    """
    spans = []
    for (low, high), size in zip(fractions, shape, strict=True):
        start = math.floor(round(low * size, _DIGITS))
        stop = math.ceil(round(high * size, _DIGITS))
        missing = min(_LEAST_VOXELS, size) - (stop - start)
        if missing > 0:
            start = max(start - missing, 0)
            stop = max(stop, start + min(_LEAST_VOXELS, size))
        spans.append(slice(start, stop))
    return (spans[0], spans[1], spans[2])


def central_box(grid: Grid, size_mm: Sequence[float]) -> Box:
    """Box in the middle of a grid, of a size in mm (z, y, x), clipped to it."""
    spans = []
    for size, spacing, wanted_mm in zip(
        grid.shape, grid.spacing_mm, size_mm, strict=True
    ):
        wanted = min(max(round(wanted_mm / spacing), min(_LEAST_VOXELS, size)), size)
        start = (size - wanted) // 2
        spans.append(slice(start, start + wanted))
    return (spans[0], spans[1], spans[2])
