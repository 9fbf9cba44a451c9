"""How well a Quality Classifier tells good slices from bad on scans it never saw.

    python training/benchmarks/quality_table.py --reference DATA --labels OUT \
        --scores scores.csv --run RUN [--axis 0] [--bad-below 0.7]

``RUN`` trained the classifier; its test scans and its threshold are used. ``OUT`` are
predictions of test scans, ``scores.csv`` what ``kdseg-train quality score`` says of
their slices, ``DATA`` the truth. A slice is bad below a Dice of ``--bad-below``. Two
sets of slices: those in which truth or prediction show something, and all, the empty
ones counted as good with Dice 1. Beside the classifier its simplest rival: the number
of labelled pixels of the slice, the more the better. Dice of what each accepts: the
classifier from its threshold on, the rival as many slices. Last, of the unlabelled
scans that the student learns from, where ``OUT`` has them: how many of the slices
without labels truly show nothing, of all (in scans with an organ) and of those that
``quality.background_from: 2`` accepts.
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdseg_train.accepted import background
from kdseg_train.evaluate import matched
from napari_kdseg.models.model import Model
from napari_kdseg.review.curves import auroc
from napari_kdseg.review.verdicts import slice_dice
from napari_kdseg.runs.run import Run


@dataclass(frozen=True)
class Slices:
    """Numbers of some slices, one entry a slice."""

    scan: np.ndarray
    dice: np.ndarray
    p_good: np.ndarray
    area: np.ndarray

    def only(self, which: np.ndarray) -> "Slices":
        """Some of them."""
        return Slices(
            self.scan[which], self.dice[which], self.p_good[which], self.area[which]
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--axis", type=int, default=0)
    parser.add_argument("--bad-below", type=float, default=0.7)
    asked = parser.parse_args()
    run = Run.open(asked.run)
    classifier = Model.open(asked.run / "quality").card
    assert classifier.calibration is not None
    threshold = classifier.calibration.threshold
    every = gathered(asked, set(run.config["frozen"]["test"]))
    print(
        "| slices | number | good | AUROC classifier | AUROC area | accepted | "
        "Dice of all | of the accepted | of as many by area |"
    )
    print("| --- |" + " ---: |" * 8)
    shown = every.only(~np.isnan(every.dice))
    full = Slices(
        every.scan, np.nan_to_num(every.dice, nan=1), *(every.p_good, every.area)
    )
    for name, part in (("with organs", shown), ("all", full)):
        print(row(name, part, threshold, asked.bad_below))
    for distance in (1, 2):
        right = empty_in_truth(asked, set(run.config["frozen"]["unlabelled"]), distance)
        if len(right):
            print(
                f"\n{len(right)} empty slices, {distance} or more from an organ: "
                f"{right.mean():.3f} of them are truly empty"
            )


def empty_in_truth(
    asked: argparse.Namespace, cases: set[str], distance: int
) -> np.ndarray:
    """Whether each slice that is accepted as background is empty in the truth."""
    found = []
    for pair in matched(asked.reference, asked.labels):
        if pair.case in cases:
            truth, guess, _, _ = pair.read()
            far = background(np.moveaxis(guess, asked.axis, 0), distance)
            found.append(~np.moveaxis(truth, asked.axis, 0)[far].any(axis=(1, 2)))
    return np.concatenate(found) if found else np.empty(0, bool)


def row(name: str, slices: Slices, threshold: float, bad_below: float) -> str:
    """One line of the table."""
    good = slices.dice >= bad_below
    accepted = slices.p_good >= threshold
    largest = np.argsort(-slices.area, kind="stable")[: int(accepted.sum())]
    numbers = [
        f"{len(good)}",
        f"{good.mean():.3f}",
        f"{auroc(slices.p_good, good):.3f}",
        f"{auroc(slices.area, good):.3f}",
        f"{accepted.mean():.3f}",
        f"{slices.dice.mean():.4f}",
        f"{slices.dice[accepted].mean():.4f}",
        f"{slices.dice[largest].mean():.4f}",
    ]
    return f"| {name} | " + " | ".join(numbers) + " |"


def gathered(asked: argparse.Namespace, cases: set[str]) -> Slices:
    """Dice, P(good) and area of every slice of some scans."""
    scores = read_scores(asked.scores)
    found: list[tuple[str, float, float, float]] = []
    for pair in matched(asked.reference, asked.labels):
        if pair.case not in cases:
            continue
        truth, guess, _, _ = pair.read()
        truth = np.moveaxis(truth, asked.axis, 0)
        guess = np.moveaxis(guess, asked.axis, 0)
        area = (guess > 0).sum((1, 2))
        for index, dice in enumerate(slice_dice(truth, guess)):
            p_good = scores[pair.case, asked.axis, index]
            found.append((pair.case, float(dice), p_good, float(area[index])))
    scan, *numbers = zip(*found, strict=True)
    return Slices(np.array(scan), *(np.array(column) for column in numbers))


def read_scores(path: Path) -> dict[tuple[str, int, int], float]:
    """P(good) by case, axis and index."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            (row["case"], int(row["axis"]), int(row["index"])): float(row["p_good"])
            for row in csv.DictReader(file)
        }


if __name__ == "__main__":
    main()
