"""Verdicts as a sitting goes on: what counts, what was done last, how fast it goes."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import make_url

from napari_kdseg.errors import KdsegError, ProjectError
from napari_kdseg.review.database import file_of
from napari_kdseg.review.queue import BAD, GOOD, UNSURE
from napari_kdseg.review.shared import store_of
from napari_kdseg.review.sittings import Sitting, check_name
from napari_kdseg.review.store import Store
from napari_kdseg.review.verdicts import About, Verdict, Word, read_verdicts
from napari_kdseg.state.review.folder import ReviewFolder

PACE_OVER_S = 180.0
"""Over which time back from the last verdict the pace is taken."""

Key = tuple[str, int, int, str]
"""Case, axis and index of a slice, and the hash of the labels."""

_CODES: dict[Word, int] = {"good": GOOD, "bad": BAD, "unsure": UNSURE}


@dataclass(frozen=True)
class Counts:
    """How far a review is."""

    good: int = 0
    bad: int = 0
    unsure: int = 0
    judged: int = 0
    """Slices with a verdict, among those that the filter shows."""
    total: int = 0
    """Slices that the filter shows, judged or not."""
    pace_per_min: float = 0.0
    """Verdicts a minute, lately; 0 where not known."""
    left_s: float | None = None
    """Seconds for what is not judged, at this pace; None where not known."""


@dataclass(frozen=True)
class Opinion:
    """What people say of one slice, as numbers."""

    mine: int = 0
    others: int = 0
    dispute: float = 0.0
    """Share of those who disagree with the most."""


class Ledger:
    """The verdicts of a store, and one reviewer's sitting.

    Parameters
    ----------
    clock
        Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._store: Store | None = None
        self._sitting: Sitting | None = None
        self._place: tuple[Path | str, str] | None = None
        self._sits = False
        self.closed = ""
        """Why no verdicts can be given; empty where they can."""
        self._seen = 0
        self._slices: dict[Key, dict[str, Verdict]] = {}
        self._tallies: Counter[tuple[str, str]] = Counter()
        self._history: list[tuple[Verdict, ...]] = []
        self._times: deque[tuple[float, int]] = deque()
        self.reviewer = ""

    # ---- The store ----

    @property
    def is_open(self) -> bool:
        """Whether verdicts are read from anywhere."""
        return self._store is not None

    @property
    def database(self) -> str:
        """The URL of the database; empty where verdicts are in a file."""
        place = "" if self._place is None else self._place[0]
        if file_of(place) is not None:
            return ""
        return make_url(str(place)).render_as_string(hide_password=True)

    @property
    def sits(self) -> bool:
        """Whether verdicts can be given."""
        return self._sits

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about the store."""
        return () if self._store is None else tuple(self._store.notes)

    def look_at(self, folder: ReviewFolder, store: Path | str | None = None) -> None:
        """Read the verdicts on the predictions of a folder, where there are any.

        Where they cannot be read, or none can be added, `closed` says why.

        Parameters
        ----------
        folder
            With the predictions.
        store
            Where verdicts are; None: where the folder says.
        """
        self.closed = folder.closed
        try:
            place = store or store_of(folder.home)
            self._place = (place, folder.name)
            file = file_of(place)
            if file is not None and not file.exists():
                return
            if self.closed:
                self._take_in(read_verdicts(place))
            else:
                self._open()
        except KdsegError as error:
            self.closed = str(error)

    def begin(self, reviewer: str, known: Callable[[Verdict], bool]) -> None:
        """Begin a sitting; what this reviewer did before can be taken back in it.

        Where not even the folder of the store is there, the first verdict makes both.

        Parameters
        ----------
        reviewer
            Who judges.
        known
            Whether the labels that a verdict is about are here.

        Raises
        ------
        KdsegError
            Where the name is empty, or the store cannot be written to.
        """
        check_name(reviewer)
        self._check_open()
        if self._store is None and self._is_begun:
            self._open()
        self._sitting = None if self._store is None else self._store.sit(reviewer)
        self._sits = True
        self.reviewer = reviewer
        mine = [
            said[reviewer]
            for said in self._slices.values()
            if reviewer in said
            and said[reviewer].kind == "verdict"
            and known(said[reviewer])
        ]
        mine.sort(key=lambda one: (one.sitting, one.seq))
        self._history = [(one,) for one in mine]
        self._times.clear()

    def close(self) -> None:
        """End the sitting and close the store."""
        if self._store is not None:
            self._store.close()
        self._store = self._sitting = None
        self._sits = False

    def news(self) -> list[Key]:
        """Read what is new in the store; gives the slices that it is about.

        Where there was none, somebody else may have made it by giving a first verdict.
        """
        if self._store is None:
            if self.closed or not self._is_made:
                return []
            assert self._place is not None
            self._store = Store.open(*self._place)
        rows, self._seen = self._store.rows(self._seen)
        return self._take_in(rows)

    def rows(self) -> tuple[Verdict, ...]:
        """All that was ever said, take-backs among it, in the order it was written.

        Raises
        ------
        ReviewError
            Where it cannot be read.
        """
        if self._place is None or (self._store is None and not self._is_made):
            return ()
        return read_verdicts(self._place[0])

    def add(self, rows: Iterable[Verdict]) -> int:
        """Add rows of another store; gives how many were new.

        Raises
        ------
        ReviewError, ProjectError
            Where they cannot be written.
        """
        self._check_open()
        if self._store is None:
            self._open()
        assert self._store is not None
        return self._store.add(rows)

    # ---- A sitting ----

    def judge(
        self,
        words: Sequence[tuple[About, Word]],
        seconds: float | None = None,
        comments: Mapping[About, str] | None = None,
    ) -> list[Key]:
        """Write verdicts down, all of them or none; gives the slices.

        Parameters
        ----------
        words
            The slices and what is said of them.
        seconds
            That all of them took together.
        comments
            Those of single slices; the others have none.

        Raises
        ------
        ReviewError
            Where they cannot be written.
        """
        made = self._at_table().judge_all(list(words), seconds, comments)
        self._history.append(tuple(made))
        self._times.append((self._clock(), len(made)))
        return self._take_in(made)

    def take_back(self) -> tuple[Verdict, ...]:
        """Take back what was done last; gives these verdicts, none where there is none.

        Raises
        ------
        ReviewError
            Where that cannot be written.
        """
        self._check_sits()
        if not self._history:
            return ()
        sitting = self._at_table()
        last = self._history[-1]
        # All at once: of a page that was judged, all is taken back or nothing is.
        rows = [replace(one, kind="take-back", seconds=None) for one in last]
        self._take_in(sitting.enter(rows))
        self._history.pop()
        if self._times:
            self._times.pop()
        return last

    # ---- What counts ----

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All that count: of a reviewer the newest on a slice of a prediction."""
        return tuple(
            verdict
            for said in self._slices.values()
            for verdict in said.values()
            if verdict.kind == "verdict"
        )

    @property
    def tallies(self) -> Mapping[tuple[str, str], int]:
        """How many verdicts count, by case and hash of the labels."""
        return self._tallies

    def said_of(self, key: Key) -> Mapping[str, Verdict]:
        """What counts of one slice, by reviewer."""
        said = self._slices.get(key, {})
        return {name: one for name, one in said.items() if one.kind == "verdict"}

    def verdict(self, key: Key) -> Verdict | None:
        """The reviewer's own verdict on a slice, else the newest of others."""
        said = self.said_of(key)
        if self.reviewer in said:
            return said[self.reviewer]
        return max(said.values(), key=lambda one: (one.sitting, one.seq), default=None)

    def opinion(self, key: Key) -> Opinion:
        """What people say of a slice, as numbers."""
        said = self.said_of(key)
        words = {name: one.verdict for name, one in said.items()}
        good = sum(word == "good" for word in words.values())
        bad = sum(word == "bad" for word in words.values())
        mine = words.pop(self.reviewer, None)
        return Opinion(
            0 if mine is None else _CODES[mine],
            _most(words.values()),
            min(good, bad) / (good + bad) if good + bad else 0.0,
        )

    @property
    def pace_per_min(self) -> float:
        """Verdicts a minute, over the last minutes in which there were any."""
        while self._times and self._times[-1][0] - self._times[0][0] > PACE_OVER_S:
            self._times.popleft()
        took = self._times[-1][0] - self._times[0][0] if self._times else 0.0
        if took <= 0:
            return 0.0
        # The first took its time before it was noted.
        return 60.0 * sum(count for _, count in list(self._times)[1:]) / took

    # ---- Private ----

    @property
    def _is_begun(self) -> bool:
        assert self._place is not None
        file = file_of(self._place[0])
        return file is None or file.parent.exists()

    @property
    def _is_made(self) -> bool:
        file = None if self._place is None else file_of(self._place[0])
        return file is not None and file.exists()

    def _open(self) -> None:
        assert self._place is not None
        self._store = Store.open(*self._place)
        self.news()

    def _check_open(self) -> None:
        if self.closed:
            raise ProjectError(self.closed)

    def _check_sits(self) -> None:
        self._check_open()
        if not self._sits:
            raise ProjectError(
                "Nobody judges yet; a verdict has a reviewer. Write your name, and "
                "press Begin."
            )

    def _at_table(self) -> Sitting:
        self._check_sits()
        if self._store is None:
            self._open()
        if self._sitting is None:
            assert self._store is not None
            self._sitting = self._store.sit(self.reviewer)
        return self._sitting

    def _take_in(self, rows: Iterable[Verdict]) -> list[Key]:
        touched: list[Key] = []
        for row in rows:
            key = (*row.place, row.labels_hash)
            said = self._slices.setdefault(key, {})
            known = said.get(row.reviewer)
            if known is None or (row.sitting, row.seq) >= (known.sitting, known.seq):
                said[row.reviewer] = row
                touched.append(key)
                counted = known is not None and known.kind == "verdict"
                counts = row.kind == "verdict"
                self._tallies[row.case, row.labels_hash] += counts - counted
        return touched


def _most(words: Iterable[Word]) -> int:
    """What most say; unsure where as many say one as the other; 0 where nobody."""
    given = list(words)
    votes = given.count("good") - given.count("bad")
    if not given:
        return 0
    return UNSURE if votes == 0 else GOOD if votes > 0 else BAD
