"""Laying one scan over another: rigid, then affine, at reduced resolution (SimpleITK).

A transform is a 4 x 4 matrix from the world of the reference to the world of the scan,
in RAS+ millimetres: where to look in the scan for a place of the reference.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.volume import Affine, Grid, VoxelArray

Likeness = Literal["images", "masks"]
"""Grey values of one or of several kinds of scans; or masks, which are 0 or 1."""
Block = Float[np.ndarray, "z y x"]

LARGEST_VOX = 400_000
"""Of a scan that is aligned; larger ones are averaged down to this."""
_SHRINK = (4, 2, 1)
_SMOOTH_VOX = (2.0, 1.0, 0.0)
_ITERATIONS = 200
_SAMPLED = 0.3
_SEED = 1


def align(
    reference: Block,
    reference_grid: Grid,
    scan: Block,
    scan_grid: Grid,
    likeness: Likeness,
    check_stop: Callable[[], None] = lambda: None,
) -> tuple[Affine, float]:
    """Find the affine transform that lays a scan over a reference.

    From the middles of mass on: first turned and moved, then also scaled and sheared.
    Turns beyond some 40 degrees are not found.

    Parameters
    ----------
    reference, scan
        Small volumes, as `reduced` makes them.
    likeness
        Images are compared by mutual information, masks by squared differences.
    check_stop
        Called at each step; may raise to stop.

    Returns
    -------
    tuple
        The transform, and how unlike both are in the end (less is better).

    Raises
    ------
    VolumeError
        Where they cannot be laid over one another.
    """
    import SimpleITK as sitk  # noqa: N813 - takes long

    check_stop()
    fixed, moving = _as_image(reference, reference_grid), _as_image(scan, scan_grid)
    try:
        transform: sitk.Transform = sitk.CenteredTransformInitializer(
            fixed,
            moving,
            sitk.Euler3DTransform(),
            sitk.CenteredTransformInitializerFilter.MOMENTS,
        )
        transform, _ = _improved(fixed, moving, transform, likeness, check_stop)
        check_stop()
        transform = _as_affine(_matrix(transform), fixed)
        transform, unlike = _improved(fixed, moving, transform, likeness, check_stop)
    except RuntimeError as error:
        reason = str(error).strip().rsplit("): ", 1)[-1].strip(" .")
        raise VolumeError(
            f"The scans cannot be laid over one another ({reason}); they must show "
            "the same body, turned by less than 40 degrees."
        ) from error
    return _matrix(transform), unlike


def reduced(
    array: VoxelArray, grid: Grid, largest_vox: int = LARGEST_VOX
) -> tuple[Block, Grid]:
    """Average cubes of voxels, plane by plane, until there are few enough.

    Parameters
    ----------
    array
        z, y, x; read a few planes at a time.
    grid
        Where they lie.
    largest_vox
        How many voxels may be left.
    """
    factors = factors_for(grid, largest_vox)
    shape, small = binned_grid(grid, factors)
    found = np.empty(shape, np.float64)
    height, width = (n * f for n, f in zip(shape[1:], factors[1:], strict=True))
    for row in range(shape[0]):
        planes = slice(row * factors[0], (row + 1) * factors[0])
        box = np.asarray(array[planes])[:, :height, :width].astype(np.float64)
        parts = box.reshape(factors[0], shape[1], factors[1], shape[2], factors[2])
        found[row] = parts.mean(axis=(0, 2, 4))
    return found, small


def thinned(
    labels: VoxelArray, grid: Grid, largest_vox: int
) -> tuple[np.ndarray, Grid]:
    """Take one voxel in the middle of each cube of labels; no new values arise."""
    factors = factors_for(grid, largest_vox)
    shape, small = binned_grid(grid, factors)
    height, width = (n * f for n, f in zip(shape[1:], factors[1:], strict=True))
    planes = [
        np.asarray(labels[row * factors[0] + factors[0] // 2])[
            factors[1] // 2 : height : factors[1], factors[2] // 2 : width : factors[2]
        ]
        for row in range(shape[0])
    ]
    return np.stack(planes), small


def factors_for(grid: Grid, largest_vox: int) -> tuple[int, int, int]:
    """How many voxels along z, y, x become one, so that voxels are near to cubes."""
    finest = min(grid.spacing_mm)
    step = 1.0
    while True:
        z, y, x = (
            min(size, max(1, round(step * finest / spacing)))
            for size, spacing in zip(grid.shape, grid.spacing_mm, strict=True)
        )
        left = math.prod(
            size // f for size, f in zip(grid.shape, (z, y, x), strict=True)
        )
        if left <= largest_vox:
            return z, y, x
        step += 1.0


def binned_grid(
    grid: Grid, factors: tuple[int, int, int]
) -> tuple[tuple[int, int, int], Grid]:
    """Shape and grid of the cubes; what is left over at the far ends is cut off."""
    z, y, x = (size // f for size, f in zip(grid.shape, factors, strict=True))
    scale = np.diag([*(float(f) for f in factors[::-1]), 1.0])
    scale[:3, 3] = [(f - 1) / 2 for f in factors[::-1]]
    return (z, y, x), Grid.from_affine(grid.affine @ scale, (z, y, x))


def laid_over(mask: Block, grid: Grid, transform: Affine, onto: Grid) -> Block:
    """Show a mask where the reference has it: linear, and 0 where it does not reach."""
    from scipy.ndimage import affine_transform

    # Places of the target in voxels x, y, z of the source; scipy has z, y, x.
    way = np.linalg.inv(grid.affine) @ transform @ onto.affine
    turned = way[:3, :3][::-1, ::-1]
    found: Block = affine_transform(
        mask, turned, way[:3, 3][::-1], onto.shape, order=1, mode="constant"
    )
    return found


# ---- Private ----


def _improved(
    fixed: "sitk.Image",  # type: ignore[name-defined]  # noqa: F821
    moving: "sitk.Image",  # type: ignore[name-defined]  # noqa: F821
    start: "sitk.Transform",  # type: ignore[name-defined]  # noqa: F821
    likeness: Likeness,
    check_stop: Callable[[], None],
) -> "tuple[sitk.Transform, float]":  # type: ignore[name-defined]  # noqa: F821
    import SimpleITK as sitk  # noqa: N813

    method = sitk.ImageRegistrationMethod()
    if likeness == "images":
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(_SAMPLED, _SEED)
    else:
        method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    step_mm = max(fixed.GetSpacing())  # parameters are scaled to how far they move
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm,
        minStep=1e-3 * step_mm,
        numberOfIterations=_ITERATIONS,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    levels = [level for level in _SHRINK if min(fixed.GetSize()) >= 8 * level] or [1]
    method.SetShrinkFactorsPerLevel(levels)
    method.SetSmoothingSigmasPerLevel(_SMOOTH_VOX[-len(levels) :])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(start, inPlace=True)
    refused: list[Exception] = []

    def look() -> None:
        try:
            check_stop()
        except Exception as stop:  # noqa: BLE001 - raised again below
            refused.append(stop)
            method.StopRegistration()

    method.AddCommand(sitk.sitkIterationEvent, look)
    found = method.Execute(fixed, moving)
    if refused:
        raise refused[0]
    return found, float(method.GetMetricValue())


def _as_image(array: Block, grid: Grid) -> "sitk.Image":  # type: ignore[name-defined]  # noqa: F821
    import SimpleITK as sitk  # noqa: N813

    # Middles of mass are sought first, and there is no negative mass.
    image = sitk.GetImageFromArray((array - array.min()).astype(np.float32))
    image.SetSpacing(grid.spacing_mm[::-1])
    image.SetOrigin(grid.origin_mm)
    image.SetDirection([value for row in grid.direction for value in row])
    return image


def _matrix(transform: "sitk.Transform") -> Affine:  # type: ignore[name-defined]  # noqa: F821
    """The 4 x 4 matrix of a linear transform, from where it takes four points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    for axis in range(3):
        point = [0.0, 0.0, 0.0]
        point[axis] = 1.0
        matrix[:3, axis] = np.array(transform.TransformPoint(point)) - origin
    matrix[:3, 3] = origin
    return matrix


def _as_affine(matrix: Affine, fixed: "sitk.Image") -> "sitk.Transform":  # type: ignore[name-defined]  # noqa: F821
    """An affine transform about the middle of an image, which optimises better."""
    import SimpleITK as sitk  # noqa: N813

    size = np.array(fixed.GetSize(), float)
    middle = fixed.TransformContinuousIndexToPhysicalPoint(((size - 1) / 2).tolist())
    made = sitk.AffineTransform(3)
    made.SetCenter(middle)
    made.SetMatrix(matrix[:3, :3].ravel().tolist())
    moved = matrix[:3] @ [*middle, 1.0] - middle
    made.SetTranslation(moved.tolist())
    return made
