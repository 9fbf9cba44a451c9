"""What the presets cost with a model: Dice and time on scans whose labels are known."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdseg_train.layouts import Case, read_data_set
from kdseg_train.prepared import read_case, read_case_labels
from kdseg_train.scoring import predicted
from napari_kdseg.errors import UsageError
from napari_kdseg.inference.presets import PRESETS, record_cost, with_preset
from napari_kdseg.inference.settings import Settings
from napari_kdseg.measure.metrics import overlap_counts, overlap_of
from napari_kdseg.models.model import Model


@dataclass(frozen=True)
class Cost:
    """What a preset gave, over all scans."""

    preset: str
    dice: float
    """Mean over scans and the classes that each shows."""
    lost: float
    """Mean Dice of ``exact`` less this."""
    time_ratio: float
    """Time of the networks and all around them, in times of ``exact``."""


def measure_presets(
    model: Model,
    data: Path,
    *,
    most: int | None = None,
    device: str = "auto",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Cost]:
    """Predict scans with each preset, and keep the costs beside the model.

    Parameters
    ----------
    model
        Its ``measurements.json`` is replaced; labels stay what they were.
    data
        A data set in any layout; its test cases where it has some.
    most
        How many scans at most; None: all.
    device
        ``auto``, ``cpu`` or ``cuda:0``.
    on_progress
        Told how many predictions of how many are done.

    Raises
    ------
    UsageError
        Where no scan has labels of a class that the model knows.
    """
    found = read_data_set(data)
    known = {*model.card.classes.names}
    cases = [case for case in found.cases if case.label and known & {*case.annotated}]
    cases = ([case for case in cases if case.held_out] or cases)[:most]
    if not cases:
        raise UsageError(
            f"{data} has no scan with labels of {', '.join(sorted(known))}; give a "
            "data set that the model's Dice can be measured on."
        )
    dice: dict[str, list[float]] = {name: [] for name in PRESETS}
    seconds = dict.fromkeys(PRESETS, 0.0)
    done, total = 0, len(cases) * len(PRESETS)
    for case in cases:
        volume = read_case(case)
        for name in PRESETS:
            settings = with_preset(Settings(device=device, uncertainty=None), name)
            if case is cases[0]:  # networks are read, and converted, once
                predicted(volume, [model], found.channels, settings)
            started = time.perf_counter()
            (labels,) = predicted(volume, [model], found.channels, settings)
            seconds[name] += time.perf_counter() - started
            truth = read_case_labels(case, found.classes, volume)
            dice[name] += _dice(case, model, found.classes, truth, labels)
            done += 1
            on_progress(done, total)
    if not dice["exact"]:
        raise UsageError(f"The labels of {data} show none of the model's classes.")
    means = {name: float(np.mean(values)) for name, values in dice.items()}
    costs = [
        Cost(
            name,
            means[name],
            means["exact"] - means[name],
            seconds[name] / seconds["exact"],
        )
        for name in PRESETS
    ]
    for cost in costs:
        if cost.preset != "exact":
            record_cost(model, cost.preset, cost.lost, cost.time_ratio)
    return costs


def _dice(
    case: Case,
    model: Model,
    classes: Sequence[str],
    truth: np.ndarray,
    labels: np.ndarray,
) -> list[float]:
    """Dice of each class that the case annotates and shows, and the model knows."""
    own = model.card.classes
    lookup = [0, *(own.by_name(n).value if n in own.names else 0 for n in classes)]
    counts = overlap_counts(np.array(lookup, labels.dtype)[truth], labels, own)
    return [
        overlap_of(counts, index).dice
        for index, name in enumerate(own.names, start=1)
        if name in case.annotated and counts[index].sum()
    ]
