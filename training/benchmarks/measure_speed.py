"""Components, HD95 and Dice beside scipy, MedPy and MONAI, with equal results.

Contenders take turns in one process on one thread; the least processor time of the
repeats counts, so that what else the machine does matters little. MedPy is GPL and
never a dependency: its row is left out where it cannot be imported. ::

    OMP_NUM_THREADS=1 python training/benchmarks/measure_speed.py
"""

import argparse
import importlib
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.networks.utils import one_hot
from scipy import ndimage

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
    tolerance: float

    def line(self, repeats: int) -> str:
        """A row of the table: seconds of both, ratio, difference, goal, verdict."""
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
        return (
            f"| {self.what} | {min(own):.3f} | {self.peer} {min(other):.3f} "
            f"| {ratio:.1f} | {apart:.1g} | {self.goal:g} times, difference at most "
            f"{self.tolerance:g} | {'holds' if good else 'missed'} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    depth, height, width = SHAPE
    print(
        f"{width} x {height} x {depth} voxels, 13 organs and {STRAYS} strays; "
        f"{date.today().isoformat()}, {platform.processor() or platform.machine()}, "
        f"one thread, processor time, least of {repeats}.\n"
    )
    print("| | ours, s | peer, s | times faster | difference | goal | verdict |")
    print("| --- | ---: | ---: | ---: | ---: | --- | --- |")
    for duel in duels(*made_labels()):
        print(duel.line(repeats), flush=True)


def duels(reference: np.ndarray, prediction: np.ndarray) -> list[Duel]:
    """Every row, MedPy's where it is installed."""
    largest = int(np.bincount(reference.ravel())[1:].argmax()) + 1
    masks = reference == largest, prediction == largest
    rows = [
        Duel(
            "largest component of 13 classes",
            "scipy, a class at a time",
            lambda: components(prediction),
            lambda: components_of_scipy(prediction),
            goal=8,
            tolerance=0,
        ),
        Duel(
            "HD95, larger of both directions",
            "MONAI",
            lambda: hausdorff_mm(*distances(*masks), percentile=95),
            lambda: hd95_of_monai(*masks),
            goal=2,
            tolerance=TOLERANCE,
        ),
        Duel(
            "Dice of 13 classes and background",
            "MONAI, one-hot",
            lambda: dice(reference, prediction),
            lambda: dice_of_monai(reference, prediction),
            goal=30,
            tolerance=TOLERANCE,
        ),
    ]
    hd95 = medpy_hd95()
    if hd95 is None:
        print("MedPy is not installed here; its row is left out.\n")
        return rows
    pooled = Duel(
        "HD95, both directions pooled",
        "MedPy",
        lambda: pooled_hausdorff_mm(*distances(*masks), percentile=95),
        lambda: hd95(masks[1], masks[0], voxelspacing=SPACING_MM),
        goal=20,
        tolerance=TOLERANCE,
    )
    return [*rows[:2], pooled, *rows[2:]]


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


# ---- Ours ----


def components(labels: np.ndarray) -> np.ndarray:
    """One pass over all classes."""
    rules = Postprocessing(keep_largest=dict.fromkeys(ORGANS.names, 1))
    return clean(labels, ORGANS, rules, voxel_mm3=1.0)


def distances(
    reference: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of both surfaces, from whole masks."""
    return surface_distances(reference, prediction, SPACING_MM)


def dice(reference: np.ndarray, prediction: np.ndarray) -> list[float]:
    """One table of counts for all classes."""
    counts = overlap_counts(reference, prediction, ORGANS)
    return [overlap_of(counts, index).dice for index in range(ORGANS.count)]


# ---- The peers ----


def components_of_scipy(labels: np.ndarray) -> np.ndarray:
    """Label, count, keep: what most scripts do."""
    kept = np.zeros_like(labels)
    touching = np.ones((3, 3, 3))
    for value in ORGANS.values:
        found, count = ndimage.label(labels == value, touching)
        if count:
            sizes = np.bincount(found.ravel())
            sizes[0] = 0
            kept[found == sizes.argmax()] = value
    return kept


def hd95_of_monai(reference: np.ndarray, prediction: np.ndarray) -> float:
    """MONAI's function on the same masks."""
    guess, truth = (torch.from_numpy(m)[None, None] for m in (prediction, reference))
    found = compute_hausdorff_distance(
        guess, truth, include_background=True, percentile=95, spacing=SPACING_MM
    )
    return float(found)


def dice_of_monai(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """MONAI's function, which takes one-hot tensors; its answers are float32."""
    guess, truth = (
        one_hot(torch.from_numpy(labels)[None, None], ORGANS.count)
        for labels in (prediction, reference)
    )
    found = compute_dice(guess, truth, include_background=True)
    return np.asarray(found[0])


def medpy_hd95() -> Callable[..., float] | None:
    """MedPy's function, where it is installed."""
    try:
        module = importlib.import_module("medpy.metric.binary")
    except ImportError:
        return None
    found: Callable[..., float] = module.hd95
    return found


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Give what a call returns, and the seconds the processor worked for it."""
    started = time.process_time()
    result = call()
    return result, time.process_time() - started


if __name__ == "__main__":
    main()
