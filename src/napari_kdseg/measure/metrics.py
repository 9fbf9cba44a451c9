"""Agreement of a segmentation with a reference: overlap, and distance of surfaces.

Definitions, for one class of one case, A the reference and B the prediction:

* Dice 2|A∩B| / (|A|+|B|), IoU |A∩B| / (|A|+|B|-|A∩B|).
* Surface: voxels of a mask with a face neighbour outside it; beyond the volume counts
  as outside. Along an axis of one voxel (a single slice) there is no surface.
* Distances in mm, from the centre of each surface voxel to the centre of the nearest
  one of the other surface.
* HD: the largest of all distances. HD95: the larger of the two directed 95th
  percentiles (linear interpolation), as in MONAI and most challenges: `hausdorff_mm`.
  Of both directions pooled, as in MedPy, it comes out smaller: `pooled_hausdorff_mm`.
* NSD: share of the surface voxels of both within the tolerance of the other surface,
  each voxel counting once as in MONAI; weighting them by area, as in DeepMind's
  surface-distance, differs where voxels are far from cubes.

Empty masks: both empty scores Dice 1, IoU 1, HD 0, HD95 0, NSD 1; one empty scores
Dice 0, IoU 0, NSD 0, and HD and HD95 are infinite, written ``inf``. Means of distances
are over finite values, and how many were not is said beside them.

Over several cases there are two averages of a class, which differ where cases differ in
size: the mean over volumes, each case counting once, and pooled, from the voxels of all
cases as if they were one, each voxel counting once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from napari_kdseg.errors import GridError
from napari_kdseg.volumes.labels import LabelSet

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]
Counts = NDArray[np.int64]

DEFINITIONS = (
    "Dice 2|A∩B|/(|A|+|B|), IoU |A∩B|/(|A|+|B|-|A∩B|). HD, HD95 in mm between "
    "surface voxel centres; HD95 is the larger of both directed 95th percentiles. NSD: "
    "share of surface voxels within {tolerance:g} mm of the other surface. Both empty: "
    "Dice, IoU, NSD 1, distances 0; one empty: 0 and inf (left out of mean distances)."
)
"""To be printed beside every table; takes the tolerance in mm."""

AVERAGES = (
    "volumes: mean over cases, each counting once. pooled: from the voxels of all "
    "cases together, each counting once. Background is no class."
)
"""To be printed beside every table of averages."""

NSD_TOLERANCE_MM = 1.0
"""Where nothing else is asked for."""

QUANTITY = ".6g"
"""Format of mm and ml in tables: six digits that count, were it a fish in micro-CT."""


_ROUNDING = 1e-9  # three voxels of 0.1 mm are 0.30000000000000004 mm
_LEAF_POINTS = 32  # twice scipy's: a tree is built for one query alone


@dataclass(frozen=True)
class Overlap:
    """Voxels of a class in the reference, in the prediction, and in both.

    They add up over cases, which Dice and IoU do not.
    """

    reference_vox: int
    prediction_vox: int
    both_vox: int

    @property
    def dice(self) -> float:
        """Dice; 1 where both are empty."""
        total = self.reference_vox + self.prediction_vox
        return 2 * self.both_vox / total if total else 1.0

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where both are empty."""
        either = self.reference_vox + self.prediction_vox - self.both_vox
        return self.both_vox / either if either else 1.0


def pooled(overlaps: Iterable[Overlap]) -> Overlap:
    """Add up the overlaps of one class over cases."""
    found = tuple(overlaps)
    return Overlap(
        sum(one.reference_vox for one in found),
        sum(one.prediction_vox for one in found),
        sum(one.both_vox for one in found),
    )


@dataclass(frozen=True)
class ClassScore:
    """Agreement in one class of one case; definitions in the module's text."""

    name: str
    """Of the class."""
    overlap: Overlap
    hd_mm: float
    hd95_mm: float
    nsd: float
    reference_ml: float
    prediction_ml: float

    @property
    def dice(self) -> float:
        """Dice of the class."""
        return self.overlap.dice

    @property
    def iou(self) -> float:
        """Intersection over union of the class."""
        return self.overlap.iou


def score(
    reference: Labels,
    prediction: Labels,
    labels: LabelSet,
    spacing_mm: Sequence[float],
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
) -> list[ClassScore]:
    """Compare label volumes class by class.

    Parameters
    ----------
    reference, prediction
        Labels on one grid, z y x. Values outside the set count as background.
    labels
        The classes to score, in this order.
    spacing_mm
        Distance of neighbouring voxels along z, y, x.
    nsd_tolerance_mm
        How far apart surfaces may lie and still agree; 0 or more.

    Raises
    ------
    GridError
        Where the shapes differ.
    """
    counts = overlap_counts(reference, prediction, labels)
    boxes = _boxes(reference, prediction, labels)
    voxel_ml = math.prod(spacing_mm) / 1000.0
    scores = []
    for index, (item, box) in enumerate(zip(labels.classes, boxes, strict=True), 1):
        to_prediction, to_reference = surface_distances(
            reference[box] == item.value,
            prediction[box] == item.value,
            spacing_mm,
            flat=tuple(size == 1 for size in reference.shape),
        )
        overlap = overlap_of(counts, index)
        scores.append(
            ClassScore(
                name=item.name,
                overlap=overlap,
                hd_mm=hausdorff_mm(to_prediction, to_reference),
                hd95_mm=hausdorff_mm(to_prediction, to_reference, percentile=95.0),
                nsd=surface_dice(to_prediction, to_reference, nsd_tolerance_mm),
                reference_ml=overlap.reference_vox * voxel_ml,
                prediction_ml=overlap.prediction_vox * voxel_ml,
            )
        )
    return scores


# ---- Overlap ----


def overlap_counts(reference: Labels, prediction: Labels, labels: LabelSet) -> Counts:
    """Count how often each class of the reference meets each class of the prediction.

    Returns
    -------
    ndarray
        Rows are the reference, columns the prediction; background first, then the
        classes in their order. Values outside the set count as background.

    Raises
    ------
    GridError
        Where the shapes differ.
    """
    if reference.shape != prediction.shape:
        raise GridError(
            f"The reference has {reference.shape} voxels and the prediction "
            f"{prediction.shape}; both must lie on one grid. Predict the same file."
        )
    table = np.zeros(2**16, np.intp)
    for index, value in enumerate(labels.values, 1):
        table[value] = index
    size = labels.count
    counts = np.zeros(size * size, np.int64)
    for truth, guess in zip(reference, prediction, strict=True):  # keeps copies small
        pairs = table[truth] * size + table[guess]
        counts += np.bincount(pairs.ravel(), minlength=size * size)
    return counts.reshape(size, size)


def overlap_of(counts: Counts, index: int) -> Overlap:
    """Overlap of the class at this place of the counts."""
    return Overlap(
        int(counts[index].sum()), int(counts[:, index].sum()), int(counts[index, index])
    )


# ---- Surfaces ----


def surface_distances(
    reference: Mask,
    prediction: Mask,
    spacing_mm: Sequence[float],
    *,
    flat: Sequence[bool] = (False, False, False),
) -> tuple[Distances, Distances]:
    """Measure the way from each surface voxel to the other surface, in mm.

    Parameters
    ----------
    reference, prediction
        Masks of one shape, z y x.
    spacing_mm
        Distance of neighbouring voxels along z, y, x.
    flat
        Axes that have no surface, since the whole volume is one voxel deep there.

    Returns
    -------
    tuple of ndarray
        From the reference's surface voxels, and from the prediction's, in no
        particular order; infinite where the other mask is empty.

    Notes
    -----
    Nearest voxels come from a tree of surface voxels, not from a distance map of the
    whole volume: time and memory go with the surfaces, wherever a stray voxel lies.
    """
    box = _box_around(reference | prediction)
    surfaces = [_surface(mask[box], flat) for mask in (reference, prediction)]
    points = [np.argwhere(surface) * np.asarray(spacing_mm) for surface in surfaces]
    return _distances(points[0], points[1]), _distances(points[1], points[0])


def hausdorff_mm(
    to_prediction: Distances, to_reference: Distances, percentile: float = 100.0
) -> float:
    """Give the larger of both directed percentiles; 100 makes it the HD, 95 the HD95.

    Zero where both surfaces are empty, infinite where one is.
    """
    if not to_prediction.size and not to_reference.size:
        return 0.0
    if not to_prediction.size or not to_reference.size:
        return math.inf
    return max(
        float(np.percentile(distances, percentile))
        for distances in (to_prediction, to_reference)
    )


def pooled_hausdorff_mm(
    to_prediction: Distances, to_reference: Distances, percentile: float = 100.0
) -> float:
    """Give the percentile of the distances of both directions together, as MedPy does.

    A larger surface counts more in it than a smaller one. Zero where both surfaces are
    empty, infinite where one is.
    """
    if not to_prediction.size and not to_reference.size:
        return 0.0
    if not to_prediction.size or not to_reference.size:
        return math.inf
    both = np.concatenate([to_prediction, to_reference])
    return float(np.percentile(both, percentile))


def surface_dice(
    to_prediction: Distances, to_reference: Distances, tolerance_mm: float
) -> float:
    """Share of both surfaces' voxels within the tolerance of the other, 0..1.

    One where both surfaces are empty, zero where one is.
    """
    voxels = to_prediction.size + to_reference.size
    within = sum(
        np.count_nonzero(distances <= tolerance_mm * (1 + _ROUNDING))
        for distances in (to_prediction, to_reference)
    )
    return within / voxels if voxels else 1.0


def _surface(mask: Mask, flat: Sequence[bool]) -> Mask:
    """Voxels with a face neighbour outside; beyond the array is outside."""
    inner = mask.copy()
    for axis in np.flatnonzero(np.logical_not(flat)):
        here, there = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        here[1:] &= there[:-1]
        here[:-1] &= there[1:]
        here[:1] = here[-1:] = False
    return mask & ~inner


def _distances(
    start: Float64[np.ndarray, "N 3"], goal: Float64[np.ndarray, "M 3"]
) -> Distances:
    if not len(start) or not len(goal):
        return np.full(len(start), np.inf)
    distances: Distances = KDTree(goal, leafsize=_LEAF_POINTS).query(start)[0]
    return distances


def _box_around(mask: Mask) -> tuple[slice, slice, slice]:
    """The smallest box that holds a mask; empty where the mask is."""
    planes = mask.any(axis=(1, 2)), mask.any(axis=(0, 2)), mask.any(axis=(0, 1))
    z, y, x = (
        slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)
        for found in map(np.flatnonzero, planes)
    )
    return (z, y, x)


def _boxes(
    reference: Labels, prediction: Labels, labels: LabelSet
) -> list[tuple[slice, slice, slice]]:
    """For each class the smallest box that holds it in both, empty where in none.

    Both masks lie in the box, so distances inside it are those of the whole volume.
    """
    most = max(labels.values, default=0)
    found = [ndimage.find_objects(array, most) for array in (reference, prediction)]
    boxes = []
    for value in labels.values:
        parts = [part[value - 1] for part in found if part[value - 1] is not None]
        z, y, x = (
            slice(
                min((part[axis].start for part in parts), default=0),
                max((part[axis].stop for part in parts), default=0),
            )
            for axis in range(3)
        )
        boxes.append((z, y, x))
    return boxes
