"""How well models do on test cases, each on the classes and channels it knows."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kdseg_train.data import Cases
from kdseg_train.layouts import Case
from kdseg_train.prepared import read_case, read_case_labels
from kdseg_train.summary import (
    Row,
    as_csv,
    definitions,
    read_csv,
    scores_of,
    write_tables,
)
from napari_kdseg.inference.coarse_to_fine import predict_any_volume
from napari_kdseg.inference.settings import Settings
from napari_kdseg.measure.metrics import NSD_TOLERANCE_MM, ClassScore, score
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Volume

__all__ = [
    "Regions",
    "Row",
    "as_csv",
    "only_channels",
    "predicted",
    "read_csv",
    "scored",
    "write_scores",
]

Regions = Mapping[str, Sequence[str]]
"""Name -> the classes that make it up, scored as one."""


def scored(
    run: Run,
    models: Sequence[Model],
    cases: Cases,
    device: str,
    regions: Regions | None = None,
) -> list[Row]:
    """Score models on the test cases: a row a case, model and class, or region.

    A class counts where the case annotates it and the model knows it, a region where
    that holds for all its classes. A model whose card names some of the channels is
    given these alone.
    """
    rows: list[Row] = []
    for number, case in enumerate(cases.test, start=1):
        rows += _of_case(case, models, cases, device, regions or {})
        run.progress(number, len(cases.test), stage="test")
        run.check_stop()
    return rows


def write_scores(run: Run, rows: Sequence[Row], regions: Collection[str] = ()) -> None:
    """Write ``RUN/metrics.csv`` and its summary, and say each model's mean Dice.

    Where rows tell their fold, its spread over the folds is said too.

    Parameters
    ----------
    regions
        Names among the classes that are unions of others.
    """
    if not rows:
        return
    words = definitions(NSD_TOLERANCE_MM)
    write_tables(run.folder / "metrics.csv", rows, words, regions)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["class"]), []).append(row)
    for (model, name), found in groups.items():
        run.metric(
            stage="test",
            model=model,
            organ=name,
            dice=_mean([float(row["dice"]) for row in found]),
            cases=len(found),
            **_spread(found),
        )


def _spread(rows: Sequence[Row]) -> dict[str, Any]:
    """Standard deviation (n - 1) of the folds' means, where there are folds."""
    folds: dict[str, list[float]] = {}
    for row in rows:
        folds.setdefault(row.get("fold", ""), []).append(float(row["dice"]))
    if len(folds) < 2:
        return {}
    means = [_mean(values) for values in folds.values()]
    middle = _mean(means)
    squares = sum((value - middle) ** 2 for value in means)
    return {"dice_std": math.sqrt(squares / (len(means) - 1)), "folds": len(means)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# ---- one case ----


def _of_case(
    case: Case, models: Sequence[Model], cases: Cases, device: str, regions: Regions
) -> list[Row]:
    volume = read_case(case)
    truth = read_case_labels(case, cases.classes, volume)
    rows = []
    settings = Settings(uncertainty=None, device=device)
    found_labels = predicted(volume, models, cases.channels, settings)
    for model, labels in zip(models, found_labels, strict=True):
        own = model.card.classes
        lookup = [0] + [
            own.by_name(name).value if name in own.names else 0
            for name in cases.classes
        ]
        reference = np.array(lookup, labels.dtype)[truth]
        spacing = volume.grid.spacing_mm
        found = score(reference, labels, own, spacing)
        rows += [
            _row(case.id, model.card.name, one)
            for one in found
            if one.name in case.annotated
        ]
        for name, members in regions.items():
            if not set(members) <= {*own.names} & {*case.annotated}:
                continue
            values = [own.by_name(member).value for member in members]
            (one,) = score(
                np.isin(reference, values).astype(np.uint8),
                np.isin(labels, values).astype(np.uint8),
                LabelSet.from_names((name,)),
                spacing,
            )
            rows.append(_row(case.id, model.card.name, one))
    return rows


def predicted(
    volume: Volume,
    models: Sequence[Model],
    channels: Sequence[str],
    settings: Settings,
) -> list[np.ndarray]:
    """Labels of each model; those that see the same channels share the reading.

    A model whose card names some of the volume's channels is given these alone.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, model in enumerate(models):
        groups.setdefault(_seen_by(model, channels), []).append(place)
    found: dict[int, np.ndarray] = {}
    for picks, places in groups.items():
        prediction = predict_any_volume(
            only_channels(volume, picks),
            [models[place] for place in places],
            settings,
        )
        found.update(zip(places, prediction.labels, strict=True))
    return [found[place] for place in range(len(models))]


def _seen_by(model: Model, channels: Sequence[str]) -> tuple[int, ...]:
    """Which of the channels a model sees: those its card names, where some are not."""
    wanted = model.card.channels
    if set(wanted) < set(channels):
        return tuple(channels.index(name) for name in wanted)
    return tuple(range(len(channels)))


def only_channels(volume: Volume, picks: Sequence[int]) -> Volume:
    """The same volume with some of its channels."""
    if tuple(picks) == tuple(range(len(volume.channels))):
        return volume
    data = np.asarray(volume.data[:])[list(picks)]
    names = tuple(volume.channels[pick] for pick in picks)
    return replace(volume, data=data, channels=names, coarser=())


def _row(case: str, model: str, found: ClassScore) -> Row:
    return {"case": case, "model": model} | scores_of(found, NSD_TOLERANCE_MM)
