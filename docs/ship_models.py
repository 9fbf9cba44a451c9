"""Copies trained models into ``sample_data/models``.

``python docs/ship_models.py RUN...`` takes the folders of finished runs.

The recipes under ``training/recipes/shipped`` say how the runs are made. Weights are
stored in half precision, so that all of them stay small; a student names its shipped
teachers, and each card the scores of its test.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

from napari_kdseg.models.model import Model, save_model

MODELS = Path(__file__).parents[1] / "sample_data" / "models"


def main(runs: list[Path]) -> None:
    """Ship the teachers and the model of each run."""
    for run in runs:
        scores = test_dice(run)
        config = Model.open(run / "model").card.provenance.recipe or {}
        given = dict(config.get("teachers") or {})
        folders = [Path(str(path)) for path in given.values()]
        folders += sorted((run / "teachers").glob("*"))
        teachers = [ship(folder, scores, ()) for folder in folders]
        ship(run / "model", scores, [teacher.fingerprint for teacher in teachers])


def ship(
    folder: Path, scores: dict[str, dict[str, float]], taught_by: list[str] | tuple[()]
) -> Model:
    """Copy one model in half precision."""
    model = Model.open(folder)
    card = model.card
    provenance = card.provenance.model_copy(
        update={"metrics": {"dice": scores[card.name]}, "teachers": tuple(taught_by)}
    )
    shipped = card.model_copy(update={"provenance": provenance})
    saved = save_model(
        MODELS / card.name, shipped, model.network(), precision="float16"
    )
    print(f"{saved.folder}: {scores[card.name]}")
    return saved


def test_dice(run: Path) -> dict[str, dict[str, float]]:
    """Mean Dice on the test cases by model and class."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["model"], row["class"]].append(float(row["dice"]))
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for (model, organ), values in found.items():
        table[model][organ] = round(mean(values), 3)
    return table


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
