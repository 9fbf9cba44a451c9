"""Verdicts on slices of predictions, as a table; and what they come to.

A CSV file with one verdict a line::

    case       id of the scan
    axis       0, 1, 2: z, y, x of the stored array, never of the display
    index      slice along that axis, from 0
    verdict    good, bad or unsure
    source     human, simulated (from known truth) or imported
    labels_hash SHA-256 of the labels that were judged; may be empty
    reviewer   who judged; may be empty

A later line of one reviewer on one slice replaces the earlier one. A slice is good or
bad as most reviewers say; unsure and ties stay out.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Integer

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import DataSetError

Word = Literal["good", "bad", "unsure"]
Source = Literal["human", "simulated", "imported"]
Place = tuple[str, int, int]
"""Case, axis and index of a slice."""


@dataclass(frozen=True)
class Verdict:
    """What one reviewer says about one slice of one prediction."""

    case: str
    axis: int
    index: int
    verdict: Word
    source: Source
    labels_hash: str = ""
    reviewer: str = ""

    @property
    def place(self) -> Place:
        """Which slice it is about."""
        return self.case, self.axis, self.index


COLUMNS = tuple(field.name for field in fields(Verdict))


def read_verdicts(path: Path) -> tuple[Verdict, ...]:
    """Read verdicts and check every line.

    Raises
    ------
    DataSetError
        Naming the file, the line and the first value that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataSetError(
            f"{path} cannot be read ({error}); verdicts are a CSV file."
        ) from error
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS[:5] if name not in (reader.fieldnames or ())]
    if missing:
        raise DataSetError(
            f"{path} has no column {missing[0]!r}; verdicts have the columns "
            f"{', '.join(COLUMNS)}."
        )
    return tuple(_verdict(row, f"{path}, line {reader.line_num}") for row in reader)


def write_verdicts(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Write verdicts, one a line; an existing file is replaced."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(verdict) for verdict in verdicts)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, text.getvalue())


def _verdict(row: dict[str, str | None], where: str) -> Verdict:
    def word(name: str, allowed: Sequence[str]) -> str:
        found = (row[name] or "").strip().lower()
        if found not in allowed:
            raise DataSetError(
                f"{where}: {name} is {found!r}; write one of {', '.join(allowed)}."
            )
        return found

    def number(name: str, below: float) -> int:
        found = (row[name] or "").strip()
        if not found.isdecimal() or int(found) >= below:
            rule = "0, 1 or 2" if below == 3 else "a whole number from 0"
            raise DataSetError(f"{where}: {name} is {found!r}; write {rule}.")
        return int(found)

    case = (row["case"] or "").strip()
    if not case:
        raise DataSetError(f"{where}: case is empty; write the id of the scan.")
    return Verdict(
        case,
        number("axis", 3),
        number("index", float("inf")),
        word("verdict", get_args(Word)),  # type: ignore[arg-type]  # checked here
        word("source", get_args(Source)),  # type: ignore[arg-type]
        (row.get("labels_hash") or "").strip(),
        (row.get("reviewer") or "").strip(),
    )


def settled(verdicts: Iterable[Verdict], where: str) -> dict[Place, bool]:
    """Slices that most reviewers find good (True) or bad (False).

    Raises
    ------
    DataSetError
        Where there are not both good and bad slices: nothing can be learnt from one.
    """
    latest: dict[tuple[Place, str], Word] = {}
    for one in verdicts:
        latest[one.place, one.reviewer] = one.verdict
    votes: dict[Place, int] = {}
    for (place, _), word in latest.items():
        vote = {"good": 1, "bad": -1, "unsure": 0}[word]
        votes[place] = votes.get(place, 0) + vote
    found = {place: vote > 0 for place, vote in votes.items() if vote != 0}
    check_both(list(found.values()), where)
    return found


def check_both(good: Sequence[bool], where: str) -> None:
    """Refuse verdicts that are all the same.

    Raises
    ------
    DataSetError
        With the numbers of good and bad slices.
    """
    bad = len(good) - sum(good)
    if bad in (0, len(good)):
        raise DataSetError(
            f"{where} comes to {sum(good)} good and {bad} bad slices; a classifier "
            "needs some of both. Judge more slices (unsure and ties do not count)."
        )


# ---- from known truth ----


def slice_dice(
    truth: Integer[np.ndarray, "N Y X"], guess: Integer[np.ndarray, "N Y X"]
) -> Float[np.ndarray, " N"]:
    """Dice of each slice: the mean over the classes that either of the two shows.

    A class that only one of them shows counts as 0. NaN where both are empty.
    """
    total = np.zeros(len(truth))
    classes = np.zeros(len(truth))
    for value in sorted({*np.unique(truth), *np.unique(guess)} - {0}):
        own, other = truth == value, guess == value
        size = (own.sum((1, 2)) + other.sum((1, 2))).astype(float)
        shown = size > 0
        total[shown] += 2 * (own & other).sum((1, 2))[shown] / size[shown]
        classes += shown
    mean = np.full(len(truth), np.nan)
    np.divide(total, classes, out=mean, where=classes > 0)
    return mean


def drawn(
    places: Sequence[tuple[str, int]], count: int | None, seed: int
) -> Iterator[tuple[str, int]]:
    """So many of the slices (case, index) at random, in their order; None: all."""
    if count is None or count >= len(places):
        yield from places
        return
    rng = np.random.default_rng(seed)
    for number in sorted(rng.choice(len(places), count, replace=False)):
        yield places[number]
