"""Changing the voxel size of an array, a box at a time.

Both arrays fill the same piece of space: their outer voxel faces coincide, as in
torch's ``interpolate(align_corners=False)``. Voxel `i` of `to` voxels has its centre
at ``(i + 0.5) * from / to - 0.5`` of the other array; beyond its outermost centres the
edge value holds.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int

from napari_kdseg.volumes.volume import Box, Grid

Indices = Int[np.ndarray, " voxels"]

_THICK = 3.0


def resampled_grid(grid: Grid, shape: tuple[int, int, int]) -> Grid:
    """Give the grid that fills the same space with another number of voxels."""
    scale = np.eye(4)
    for axis, (old, new) in enumerate(zip(grid.shape[::-1], shape[::-1], strict=True)):
        ratio = old / new
        scale[axis, axis] = ratio
        scale[axis, 3] = 0.5 * ratio - 0.5
    return Grid.from_affine(grid.affine @ scale, shape)


def resampled_shape(
    grid: Grid, spacing_mm: Sequence[float | None]
) -> tuple[int, int, int]:
    """Count the voxels (z, y, x) that come closest to a wanted voxel size, at least 1.

    None keeps the number of voxels along that axis.
    """
    z, y, x = (
        size if wanted is None else max(1, round(size * given / wanted))
        for size, given, wanted in zip(
            grid.shape, grid.spacing_mm, spacing_mm, strict=True
        )
    )
    return (z, y, x)


def linear_taps(
    source: int, target: int, span: slice
) -> tuple[Indices, Indices, Float32[np.ndarray, " voxels"]]:
    """Find the two source voxels each target voxel lies between, and how far along.

    Parameters
    ----------
    source, target
        Voxels along the axis in the array read and in the array made.
    span
        Which target voxels are wanted.

    Returns
    -------
    tuple
        Lower index, upper index, and the weight of the upper one, 0 to 1.
    """
    start, stop, _ = span.indices(target)
    place = (np.arange(start, stop) + 0.5) * (source / target) - 0.5
    place = np.clip(place, 0, source - 1)
    lower = np.floor(place).astype(np.intp)
    upper = np.minimum(lower + 1, source - 1)
    return lower, upper, (place - lower).astype(np.float32)


def nearest_taps(source: int, target: int, span: slice) -> Indices:
    """Find the source voxel whose cell holds the centre of each target voxel."""
    start, stop, _ = span.indices(target)
    place = (np.arange(start, stop) + 0.5) * (source / target)
    cells: Indices = np.minimum(np.floor(place).astype(np.intp), source - 1)
    return cells


def source_box(source: Sequence[int], target: Sequence[int], box: Box) -> Box:
    """Find the box of the source that linear interpolation needs for a target box."""
    spans = []
    for old, new, span in zip(source, target, box, strict=True):
        lower, upper, _ = linear_taps(old, new, span)
        stop = lower[-1] if old == new else upper[-1]
        spans.append(slice(int(lower[0]), int(stop) + 1))
    return (spans[0], spans[1], spans[2])


def interpolate_linear(
    block: Float32[np.ndarray, "*lead z y x"],
    source: Sequence[int],
    target: Sequence[int],
    box: Box,
) -> Float32[np.ndarray, "*lead z2 y2 x2"]:
    """Interpolate a target box linearly from the source box that `source_box` names.

    Parameters
    ----------
    block
        The source's voxels of that box; axes before the last three are kept.
    source, target
        Shapes (z, y, x) of the whole arrays.
    box
        The box of the target that is wanted.

    Raises
    ------
    ValueError
        When the block is not of the shape that `source_box` names.
    """
    needed = tuple(span.stop - span.start for span in source_box(source, target, box))
    if block.shape[-3:] != needed:
        raise ValueError(f"The block is {block.shape[-3:]} and must be {needed}.")
    for axis, (old, new, span) in enumerate(zip(source, target, box, strict=True)):
        if old == new:
            continue  # source_box asked for exactly these voxels
        lower, upper, weight = linear_taps(old, new, span)
        first = int(lower[0])
        along = block.ndim - 3 + axis
        weight = weight.reshape(-1, *[1] * (2 - axis))
        low = block.take(lower - first, axis=along)
        high = block.take(upper - first, axis=along)
        high -= low
        high *= weight
        low += high
        block = low
    return block


def thick_axes(
    source_mm: Sequence[float], target_mm: Sequence[float | None] | None
) -> tuple[int | None, int | None]:
    """Find the axis that nnU-Net does not interpolate along, there and on the way back.

    Where slices lie more than three times as far apart as pixels, before or else after
    resampling, voxels of that axis are taken over from the nearest.
    """
    wanted = [
        own if asked is None else asked
        for own, asked in zip(source_mm, target_mm or (None,) * 3, strict=True)
    ]
    return _thick(source_mm, wanted), _thick(wanted, source_mm)


def _thick(before_mm: Sequence[float], after_mm: Sequence[float]) -> int | None:
    for spacing in (before_mm, after_mm):
        if max(spacing) / min(spacing) > _THICK:
            axes = [i for i, size in enumerate(spacing) if size == max(spacing)]
            return axes[0] if len(axes) == 1 else None
    return None
