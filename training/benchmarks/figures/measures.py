"""Figure 5: components, HD95 and Dice beside scipy, MedPy and MONAI, equal results.

Thirteen organs and strays all over a volume of anisotropic voxels. Contenders take
turns in one process on one thread; the least processor time of the repeats counts, so
that what else the machine does matters little. The two readings of HD95 differ:
percentiles of both directions pooled come out smaller than the larger of both.
"""

import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from figures.rows import PeerError, Row, isolated, not_run, say
from napari_kdseg.inference.postprocessing import clean
from napari_kdseg.measure.metrics import (
    hausdorff_mm,
    overlap_counts,
    overlap_of,
    pooled_hausdorff_mm,
    surface_distances,
)
from napari_kdseg.models.model import Postprocessing
from napari_kdseg.volumes.labels import LabelSet

SHAPE = (200, 256, 256)
SPACING_MM = (2.0, 0.8, 0.8)
ORGANS = LabelSet.from_names([f"organ {number}" for number in range(1, 14)])
STRAYS = 400
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Duel:
    """Two that answer one question, and how much faster ours shall be."""

    what: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    goal: float
    tolerance: float = TOLERANCE

    def row(self, repeats: int) -> Row:
        """Time of the peer's over ours, and whether both say the same."""
        say(f"  {self.what}")
        timed(self.ours), timed(self.theirs)  # whatever they import, they have imported
        own: list[float] = []
        other: list[float] = []
        for _ in range(repeats):
            ours, seconds = timed(self.ours)
            own.append(seconds)
            theirs, seconds = timed(self.theirs)
            other.append(seconds)
        ratio = min(other) / min(own)
        apart = float(np.abs(np.subtract(ours, theirs, dtype=np.float64)).max())
        good = ratio >= self.goal and apart <= self.tolerance
        equal = f"equal to {self.tolerance:g}" if self.tolerance else "identical"
        return Row(
            "5",
            f"{self.what}, against {self.peer}",
            f"{ratio:.1f} times as fast",
            f"at least {self.goal:g}, {equal}",
            "holds" if good else "missed",
            f"{min(other):.3f} s and {min(own):.3f} s; largest difference {apart:.1g}",
        )


def measure(*, quick: bool) -> list[Row]:
    """A line for each peer; that of one that fails says so."""
    rows = []
    for what in DUELS:
        try:
            rows.append(Row(*isolated(fought, what=what, repeats=1 if quick else 3)))
        except PeerError as error:
            rows.append(not_run("5", what, "", error))
    return rows


def fought(what: str, repeats: int) -> list[Any]:
    """One line of the figure, measured in this process."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    return list(vars(DUELS[what](*made_labels()).row(repeats)).values())


def made_labels() -> tuple[np.ndarray, np.ndarray]:
    """Thirteen ellipsoids; and the same two voxels off, with strays all over."""
    rng = np.random.default_rng(0)
    reference = np.zeros(SHAPE, np.uint8)
    axes = np.ogrid[tuple(slice(size) for size in SHAPE)]
    for value in ORGANS.values:
        middle = rng.uniform(0.2, 0.8, 3) * SHAPE
        radius = rng.uniform(12, 40, 3)
        parts = zip(axes, middle, radius, strict=True)
        reference[sum(((x - c) / r) ** 2 for x, c, r in parts) < 1] = value
    prediction = np.roll(reference, 2, axis=1)
    for _ in range(STRAYS):
        corner = rng.integers(0, np.array(SHAPE) - 4)
        box = tuple(slice(c, c + int(rng.integers(1, 4))) for c in corner)
        prediction[box] = rng.integers(1, 14)
    return reference, prediction


def largest(
    reference: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the largest organ: its strays make the box around it nearly all."""
    value = int(np.bincount(reference.ravel())[1:].argmax()) + 1
    return reference == value, prediction == value


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Give what a call returns, and the seconds the processor worked for it."""
    started = time.process_time()
    result = call()
    return result, time.process_time() - started


# ---- The largest component of each class ----


def components(reference: np.ndarray, prediction: np.ndarray) -> Duel:
    """One pass over all classes, and a class at a time, which most scripts do."""
    del reference
    rules = Postprocessing(keep_largest=dict.fromkeys(ORGANS.names, 1))
    return Duel(
        "largest component of 13 classes",
        "scipy",
        lambda: clean(prediction, ORGANS, rules, voxel_mm3=1.0),
        lambda: components_of_scipy(prediction),
        goal=8,
        tolerance=0,
    )


def components_of_scipy(labels: np.ndarray) -> np.ndarray:
    """Label, count, keep."""
    from scipy import ndimage

    kept = np.zeros_like(labels)
    touching = np.ones((3, 3, 3))
    for value in ORGANS.values:
        found, count = ndimage.label(labels == value, touching)
        if count:
            sizes = np.bincount(found.ravel())
            sizes[0] = 0
            kept[found == sizes.argmax()] = value
    return kept


# ---- HD95, from whole masks ----


def hd95_larger(reference: np.ndarray, prediction: np.ndarray) -> Duel:
    """The larger of both directions, as MONAI reads it."""
    masks = largest(reference, prediction)
    return Duel(
        "HD95, larger of both directions",
        "MONAI",
        lambda: hausdorff_mm(*surface_distances(*masks, SPACING_MM), percentile=95),
        lambda: hd95_of_monai(*masks),
        goal=2,
    )


def hd95_pooled(reference: np.ndarray, prediction: np.ndarray) -> Duel:
    """Both directions pooled, as MedPy reads it."""
    masks = largest(reference, prediction)
    peer = importlib.import_module("medpy.metric.binary").hd95

    def ours() -> float:
        return pooled_hausdorff_mm(
            *surface_distances(*masks, SPACING_MM), percentile=95
        )

    return Duel(
        "HD95, both directions pooled",
        "MedPy",
        ours,
        lambda: peer(masks[1], masks[0], voxelspacing=SPACING_MM),
        goal=20,
    )


def hd95_of_monai(reference: np.ndarray, prediction: np.ndarray) -> float:
    """MONAI's function on the same masks."""
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    guess, truth = (torch.from_numpy(m)[None, None] for m in (prediction, reference))
    found = compute_hausdorff_distance(
        guess, truth, include_background=True, percentile=95, spacing=SPACING_MM
    )
    return float(found)


# ---- Dice ----


def dice(reference: np.ndarray, prediction: np.ndarray) -> Duel:
    """One table of counts for all classes, and one-hot tensors."""
    return Duel(
        "Dice of 13 classes and background",
        "MONAI",
        lambda: dice_of_table(reference, prediction),
        lambda: dice_of_monai(reference, prediction),
        goal=30,
    )


def dice_of_table(reference: np.ndarray, prediction: np.ndarray) -> list[float]:
    """Dice of every class."""
    counts = overlap_counts(reference, prediction, ORGANS)
    return [overlap_of(counts, index).dice for index in range(ORGANS.count)]


def dice_of_monai(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """MONAI's function, which takes one-hot tensors; its answers are float32."""
    from monai.metrics.meandice import compute_dice
    from monai.networks.utils import one_hot

    guess, truth = (
        one_hot(torch.from_numpy(labels)[None, None], ORGANS.count)
        for labels in (prediction, reference)
    )
    return np.asarray(compute_dice(guess, truth, include_background=True)[0])


DUELS: dict[str, Callable[[np.ndarray, np.ndarray], Duel]] = {
    "components": components,
    "HD95, larger": hd95_larger,
    "HD95, pooled": hd95_pooled,
    "Dice": dice,
}
"""Name -> what makes the duel of a reference and a prediction."""
