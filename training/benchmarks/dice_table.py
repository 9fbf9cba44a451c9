"""Mean test Dice of every model of some runs, from their ``metrics.csv``.

    python training/benchmarks/dice_table.py RUN... [--minus OTHER...]

A row a run and model, a column a class; the mean over cases first, then over classes.
With as many others, by how much the students of the first lie above theirs: paired by
run, case and class, with the interval of `ms_kd_table`.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean

from ms_kd_table import interval

Scores = dict[str, list[float]]


def main(folders: list[str]) -> None:
    """Print the table."""
    runs = {Path(folder).name: scores(Path(folder)) for folder in folders}
    classes = list(
        dict.fromkeys(
            name
            for models in runs.values()
            for found in models.values()
            for name in found
        )
    )
    print("| run | model |", " | ".join(classes), "| mean | cases |")
    print("| --- | --- |", " | ".join("---:" for _ in classes), "| ---: | ---: |")
    for run, models in runs.items():
        for model, found in models.items():
            means = [mean(found[name]) for name in found]
            cells = [f"{mean(found[c]):.4f}" if c in found else "" for c in classes]
            cases = max(len(values) for values in found.values())
            print(f"| {run} | {model} |", " | ".join(cells), end=" ")
            print(f"| {mean(means):.4f} | {cases} |")


def scores(folder: Path) -> dict[str, Scores]:
    """Read the Dice of each model, class and case."""
    found: dict[str, Scores] = defaultdict(lambda: defaultdict(list))
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["model"]][row["class"]].append(float(row["dice"]))
    return found


def difference(folders: list[str], others: list[str]) -> str:
    """Students of runs minus those of others, with the interval."""
    paired: dict[str, list[float]] = defaultdict(list)
    for folder, other in zip(folders, others, strict=True):
        ours, theirs = student_dice(Path(folder)), student_dice(Path(other))
        for (case, name), value in ours.items():
            paired[case].append(value - theirs[case, name])
    return interval(paired)


def student_dice(folder: Path) -> dict[tuple[str, str], float]:
    """Dice of the student, which is the model tested first, by case and class."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    own = [row for row in rows if row["model"] == rows[0]["model"]]
    return {(row["case"], row["class"]): float(row["dice"]) for row in own}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--minus", nargs="+", default=[])
    given = parser.parse_args()
    main(given.runs)
    if given.minus:
        print(f"\nPaired difference: {difference(given.runs, given.minus)}.")
