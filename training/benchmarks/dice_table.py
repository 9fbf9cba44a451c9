"""Mean test Dice of every model of some runs, from their ``metrics.csv``.

    python training/benchmarks/dice_table.py RUN...

A row a run and model, a column a class; the mean over cases first, then over classes.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

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


if __name__ == "__main__":
    main(sys.argv[1:])
