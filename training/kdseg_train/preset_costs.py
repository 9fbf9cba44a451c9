"""What the presets cost with a model: Dice and time on scans whose labels are known."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdseg_train.layouts import Case, read_data_set
from kdseg_train.prepared import open_case, read_case, read_case_labels
from kdseg_train.scoring import predicted
from napari_kdseg.errors import UsageError
from napari_kdseg.inference.presets import PRESETS, record_cost, with_preset
from napari_kdseg.inference.settings import Settings
from napari_kdseg.measure.metrics import overlap_counts, overlap_of
from napari_kdseg.models.model import Model
from napari_kdseg.shipped import is_shipped
from napari_kdseg.volumes.preprocessing import Frame


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
        Its ``measurements.json`` is replaced, unless the model comes with the package;
        labels stay what they were.
    data
        A data set in any layout; its test cases where it has some. Scans that fit into
        one window are left out, since all presets give the same there.
    most
        How many scans at most; None: all.
    device
        ``auto``, ``cpu`` or ``cuda:0``.
    on_progress
        Told how many predictions of how many are done.

    Raises
    ------
    UsageError
        Where no scan has labels of a class that the model knows, or none is larger
        than a window.
    """
    found = read_data_set(data)
    cases = _telling(found.cases, model, data)[:most]
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
        if cost.preset != "exact" and not is_shipped(model.folder):
            record_cost(model, cost.preset, cost.lost, cost.time_ratio)
    return costs


def _telling(cases: Sequence[Case], model: Model, data: Path) -> list[Case]:
    """The cases on which presets differ; test cases where there are some."""
    known = {*model.card.classes.names}
    labelled = [case for case in cases if case.label and known & {*case.annotated}]
    if not labelled:
        raise UsageError(
            f"{data} has no scan with labels of {', '.join(sorted(known))}; give a "
            "data set that the model's Dice can be measured on."
        )
    cut = [case for case in labelled if _is_cut(case, model)]
    if not cut:
        raise UsageError(
            f"Every scan of {data} fits into one window of {model.card.name}, where "
            "all presets give the same labels. Give larger scans."
        )
    return [case for case in cut if case.held_out] or cut


def _is_cut(case: Case, model: Model) -> bool:
    """Whether a scan is larger than a window of the model."""
    card = (model.parts or (model,))[-1].card
    tile = card.tiling.tile_vox
    seen = Frame.of(open_case(case).grid, card.preprocessing).model.shape
    return any(size > side for size, side in zip(seen[-len(tile) :], tile, strict=True))


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
