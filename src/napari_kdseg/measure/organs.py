"""The organ table: how large organs are, where they lie, what they touch.

Definitions, for one class of one case, on the scan's own grid:

* Volume: voxels times the volume of one, mm^3.
* Surface, mm^2: by Crofton's formula over 13 directions (`measure.interfaces`); what
  the edge of the scan cuts off counts as surface, and ``at_edge`` says so.
* Extent, mm: of the box of voxels that holds the organ, along the stored array's axes.
* Principal axes: the ellipsoid of the same second moments, its three whole lengths in
  mm, and the direction of the longest. Voxels count as bodies, not as points.
* Centroid and directions are in the world: x to the right, y to the front, z up (RAS+).
* Intensity: mean and standard deviation (of all voxels, divided by n) of one channel.
* Left-right ratio: volume of the left organ by that of the right one; of classes whose
  names differ in the words left and right alone, such as ``kidney left``.
* Neighbours: classes with which a voxel's face is shared, and the area of contact in
  mm^2, measured like the surface.

An organ that is not there has a volume of 0 and no other number.

scikit-image's ``regionprops_table`` measures some of this, and is what the tests
compare with; it needs the whole volume and copies of it in memory, and knows no oblique
grid. Here a volume is gone through once, in slabs.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from napari_kdseg.errors import GridError
from napari_kdseg.measure.interfaces import Interfaces
from napari_kdseg.measure.moments import Moments
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid, VoxelArray

DEFINITIONS = (
    "Surfaces and areas of contact by Crofton's formula over 13 directions. Extent "
    "along the stored axes. Axes: of the ellipsoid of equal second moments. World "
    "coordinates are RAS+ (x right, y front, z up), in mm. Spread: standard deviation."
)
"""To be printed beside every table."""

SLAB_VOX = 4_000_000
_SIDES = ("left", "right")

Triple = tuple[float, float, float]
Count = Callable[[int, int], None]
"""Told how many planes are done, and how many there are."""


@dataclass(frozen=True)
class Contact:
    """Another class that an organ touches."""

    name: str
    area_mm2: float


@dataclass(frozen=True)
class Organ:
    """One class of one case; definitions in the module's text."""

    name: str
    voxels: int
    volume_mm3: float
    surface_mm2: float
    extent_mm: Triple
    """Along z, y, x of the stored array."""
    axes_mm: Triple
    """Longest first."""
    direction: Triple
    """Of the longest axis: a unit vector x, y, z; its largest part is positive."""
    centroid_mm: Triple
    """World x, y, z."""
    intensity_mean: float
    intensity_sd: float
    left_right_ratio: float
    """NaN where the organ is no pair's, or one of the pair is missing."""
    neighbours: tuple[Contact, ...]
    """Largest contact first."""
    at_edge: bool
    """Whether it reaches the edge of the scan, and may go on beyond."""


def organ_table(
    labels: VoxelArray,
    grid: Grid,
    classes: LabelSet,
    image: VoxelArray | None = None,
    *,
    name: str = "The labels",
    count: Count = lambda done, total: None,
) -> list[Organ]:
    """Measure every class of a label volume, in little memory.

    Parameters
    ----------
    labels
        Axes z, y, x; read once, a few planes at a time.
    grid
        Where the voxels lie.
    classes
        What is measured, in this order; other values are refused.
    image
        One channel, z, y, x, on the same grid; without it there is no intensity.
    name
        Of the labels, for messages.
    count
        Told of progress; may raise to stop.

    Raises
    ------
    GridError
        Where shapes differ.
    LabelError
        Where there are other values.
    """
    _check_shapes(labels, grid, image, name)
    table = np.zeros(2**16, np.uint8 if classes.count < 256 else np.uint16)
    for place, value in enumerate(classes.values, start=1):
        table[value] = place
    moments, interfaces = (
        Moments(len(classes.classes)),
        Interfaces(len(classes.classes)),
    )
    for planes in slabs(grid.shape):
        stored = np.asarray(labels[planes])
        classes.check(stored, name)
        indices = table[stored.astype(np.uint16, copy=False)]
        moments.add(indices, planes.start, None if image is None else image[planes])
        interfaces.add(indices)
        count(planes.stop, grid.shape[0])
    interfaces.finish()
    return _organs(classes, grid, moments, interfaces)


def slabs(shape: tuple[int, int, int]) -> Iterator[slice]:
    """Cut a volume into planes along z, about four million voxels at a time."""
    depth = max(1, SLAB_VOX // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], depth):
        yield slice(start, min(start + depth, shape[0]))


def pairs(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Find classes that differ in the words left and right alone.

    Returns
    -------
    dict
        The name of either, and the names of the left and the right one.
    """
    sides: dict[str, dict[str, str]] = {}
    for name in names:
        words = re.findall(r"[^\W_]+", name.lower())
        said = [word for word in words if word in _SIDES]
        if len(said) == 1:
            rest = " ".join(sorted(word for word in words if word not in _SIDES))
            sides.setdefault(rest, {})[said[0]] = name
    both = [(pair["left"], pair["right"]) for pair in sides.values() if len(pair) == 2]
    return {name: pair for pair in both for name in pair}


# ---- Private ----


def _check_shapes(
    labels: VoxelArray, grid: Grid, image: VoxelArray | None, name: str
) -> None:
    for what, array in ((name, labels), ("The image", image)):
        if array is not None and tuple(array.shape) != grid.shape:
            raise GridError(
                f"{what} has {tuple(array.shape)} voxels and the grid {grid.shape} (z, "
                "y, x); labels and image must share one grid. Take the image that the "
                "labels were made from, or resample one of them."
            )


def _organs(
    classes: LabelSet, grid: Grid, moments: Moments, interfaces: Interfaces
) -> list[Organ]:
    areas, touching = interfaces.areas_mm2(grid), interfaces.touching()
    np.fill_diagonal(areas, 0.0)
    voxel_mm3 = grid.voxel_ml * 1000
    names = classes.names
    volumes = {
        name: float(moments.voxels[place] * voxel_mm3)
        for place, name in enumerate(names, start=1)
    }
    ratios = _ratios(names, volumes)
    made = []
    for place, name in enumerate(names, start=1):
        voxels = int(moments.voxels[place])
        axes, direction = moments.axes(place, grid)
        mean, spread = moments.intensity(place)
        near = [
            Contact(other, float(areas[place, index]))
            for index, other in enumerate(names, start=1)
            if index != place and touching[place, index]
        ]
        made.append(
            Organ(
                name=name,
                voxels=voxels,
                volume_mm3=volumes[name],
                surface_mm2=float(areas[place].sum()) if voxels else math.nan,
                extent_mm=moments.extent_mm(place, grid),
                axes_mm=axes,
                direction=direction,
                centroid_mm=moments.centroid_mm(place, grid),
                intensity_mean=mean,
                intensity_sd=spread,
                left_right_ratio=ratios.get(name, math.nan),
                neighbours=tuple(sorted(near, key=lambda one: -one.area_mm2)),
                at_edge=moments.at_edge(place, grid.shape),
            )
        )
    return made


def _ratios(names: Sequence[str], volumes: dict[str, float]) -> dict[str, float]:
    return {
        name: volumes[left] / volumes[right]
        for name, (left, right) in pairs(names).items()
        if volumes[left] and volumes[right]
    }
