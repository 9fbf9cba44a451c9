"""Verdicts on slices of predictions, as rows; and what they come to.

A table, CSV or a database, with one row for each thing somebody did. The first five
columns are needed, the others may be left out of a CSV file::

    case        id of the scan
    axis        0, 1, 2: z, y, x of the stored array, never of the display
    index       slice along that axis, from 0
    verdict     good, bad or unsure
    source      human, simulated (from known truth) or imported
    labels_hash SHA-256 of the labels that were judged: the exact prediction
    reviewer    who judged
    model       fingerprint of the model that predicted
    prediction  uuid of the prediction
    scan_hash   SHA-256 of the scan
    project     name of the project; nothing is looked up by it
    kind        verdict, or take-back: this reviewer's verdict no longer counts
    sitting     number of the sitting, larger than that of every sitting before
    seq         number of the row in its sitting, from 1
    seconds     how long it took
    comment     free words
    created_utc when, by the clock of that computer: for people to read
    uuid        name of the row

Of one reviewer's rows on one slice of one prediction the newest counts, by sitting and
seq, then by the order of rows; where it is a take-back there is no verdict. A slice is
good or bad as most reviewers say; unsure and ties stay out.
"""

import csv
import io
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Integer

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import DataSetError

Word = Literal["good", "bad", "unsure"]
Kind = Literal["verdict", "take-back"]
Source = Literal["human", "simulated", "imported"]
Place = tuple[str, int, int]
"""Case, axis and index of a slice."""


@dataclass(frozen=True)
class About:
    """One slice of one prediction: what a verdict is about."""

    case: str
    axis: int
    index: int
    labels_hash: str
    model: str = ""
    prediction: str = ""
    scan_hash: str = ""

    @property
    def place(self) -> Place:
        """Which slice it is."""
        return self.case, self.axis, self.index


@dataclass(frozen=True)
class Verdict:
    """A row: what one reviewer says about one slice of one prediction."""

    case: str
    axis: int
    index: int
    verdict: Word
    source: Source
    labels_hash: str = ""
    reviewer: str = ""
    model: str = ""
    prediction: str = ""
    scan_hash: str = ""
    project: str = ""
    kind: Kind = "verdict"
    sitting: int = 0
    seq: int = 0
    seconds: float | None = None
    comment: str = ""
    created_utc: str = ""
    uuid: str = ""

    @property
    def place(self) -> Place:
        """Which slice it is about."""
        return self.case, self.axis, self.index

    @property
    def about(self) -> About:
        """Which slice of which prediction it is about."""
        return About(
            self.case,
            self.axis,
            self.index,
            self.labels_hash,
            self.model,
            self.prediction,
            self.scan_hash,
        )


COLUMNS = tuple(field.name for field in fields(Verdict))
NEEDED = COLUMNS[:5]
STORE_SUFFIXES = (".sqlite", ".sqlite3", ".db")
SQLITE = b"SQLite format 3\0"
"""How every SQLite file begins."""
_FREE = tuple(
    name
    for name in COLUMNS
    if name not in (*NEEDED, "kind", "sitting", "seq", "seconds")
)


# ---- reading and writing ----


def read_verdicts(where: Path | str) -> tuple[Verdict, ...]:
    """Read all rows, take-backs among them, in their order.

    Parameters
    ----------
    where
        A CSV file, an SQLite file, or the URL of a database.

    Raises
    ------
    DataSetError
        Where a CSV file cannot be read or a value in it is wrong; names the file, the
        line and the value.
    ReviewError
        Where a database is damaged, of a newer version or out of reach.
    """
    if is_store(where):
        # Not all who handle verdicts need a database, and loading it takes a while.
        from napari_kdseg.review.store import read_store

        return read_store(where)
    return _read_csv(Path(where))


def is_store(where: Path | str) -> bool:
    """Whether verdicts lie, or shall lie, in a database: an SQLite file or a URL."""
    if "://" in str(where):
        return True
    path = Path(where)
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE or path.suffix in STORE_SUFFIXES
    except OSError:
        return path.suffix in STORE_SUFFIXES


def write_verdicts(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Write verdicts as CSV, one a line; an existing file is replaced."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(verdict) for verdict in verdicts)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, text.getvalue())


def keep_verdicts(
    where: Path | str, verdicts: Sequence[Verdict], reviewer: str
) -> None:
    """Write verdicts as CSV, in place of a file there is, or add them to a store.

    Parameters
    ----------
    reviewer
        Who holds the sitting that they become in a store.

    Raises
    ------
    ReviewError
        Where the store cannot take them.
    """
    if not is_store(where):
        write_verdicts(Path(where), verdicts)
        return
    from napari_kdseg.review.store import Store

    store = Store.open(where)
    try:
        store.sit(reviewer).enter(verdicts)
    finally:
        store.close()


def _read_csv(path: Path) -> tuple[Verdict, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataSetError(
            f"{path} cannot be read ({error}); verdicts are a CSV file or a database."
        ) from error
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
    if missing:
        raise DataSetError(
            f"{path} has no column {missing[0]!r}; verdicts have the columns "
            f"{', '.join(COLUMNS)}, and the first five are needed."
        )
    return tuple(_Row(row, f"{path}, line {reader.line_num}").read() for row in reader)


@dataclass(frozen=True)
class _Row:
    """A line of a CSV file; each value is checked as it is taken."""

    values: dict[str, str | None]
    where: str

    def read(self) -> Verdict:
        case = self.text("case")
        if not case:
            raise DataSetError(
                f"{self.where}: case is empty; write the id of the scan."
            )
        return Verdict(
            axis=self.number("axis", 3),
            index=self.number("index"),
            verdict=self.word("verdict", get_args(Word)),  # type: ignore[arg-type]
            source=self.word("source", get_args(Source)),  # type: ignore[arg-type]
            kind=self.word("kind", get_args(Kind), "verdict"),  # type: ignore[arg-type]
            sitting=self.number("sitting", default="0"),
            seq=self.number("seq", default="0"),
            seconds=self.seconds(),
            **{name: self.text(name) for name in ("case", *_FREE)},
        )

    def text(self, name: str, default: str = "") -> str:
        return (self.values.get(name) or "").strip() or default

    def word(self, name: str, allowed: Sequence[str], default: str = "") -> str:
        found = self.text(name, default).lower()
        if found not in allowed:
            raise DataSetError(
                f"{self.where}: {name} is {found!r}; write one of {', '.join(allowed)}."
            )
        return found

    def number(self, name: str, below: int = 2**63, default: str = "") -> int:
        found = self.text(name, default)
        if not (found.isascii() and found.isdecimal()) or int(found) >= below:
            rule = "0, 1 or 2" if below == 3 else "a whole number from 0"
            raise DataSetError(f"{self.where}: {name} is {found!r}; write {rule}.")
        return int(found)

    def seconds(self) -> float | None:
        found = self.text("seconds")
        if not found:
            return None
        try:
            number = float(found)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise DataSetError(
                f"{self.where}: seconds is {found!r}; write a number from 0 or none."
            )
        return number


# ---- what they come to ----


def current(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Verdicts that count: the newest of a reviewer on a slice of a prediction.

    The newest is that of the highest sitting and seq, among equals the last. Where it
    is a take-back there is none.

    Parameters
    ----------
    verdicts
        Rows in the order of their table.

    Returns
    -------
    tuple of Verdict
        One for each slice, prediction (by its labels' hash) and reviewer, in the order
        in which these first appear.
    """
    found = _newest(verdicts, lambda one: (one.place, one.labels_hash, one.reviewer))
    return tuple(one for one in found if one.kind == "verdict")


def _newest(
    verdicts: Iterable[Verdict], key: Callable[[Verdict], Hashable]
) -> Iterable[Verdict]:
    found: dict[Hashable, Verdict] = {}
    for one in verdicts:
        other = found.get(key(one))
        if other is None or (one.sitting, one.seq) >= (other.sitting, other.seq):
            found[key(one)] = one
    return found.values()


def settled(verdicts: Iterable[Verdict], where: str) -> dict[Place, bool]:
    """Slices that most reviewers find good (True) or bad (False).

    Raises
    ------
    DataSetError
        Where there are not both good and bad slices: nothing can be learnt from one.
    """
    votes: dict[Place, int] = {}
    for one in _newest(current(verdicts), lambda one: (one.place, one.reviewer)):
        vote = {"good": 1, "bad": -1, "unsure": 0}[one.verdict]
        votes[one.place] = votes.get(one.place, 0) + vote
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
