"""Sittings: one reviewer at work, who adds verdicts to a store and takes them back."""

import socket
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
from sqlalchemy import Connection, func, insert, select

from napari_kdseg.errors import ReviewError
from napari_kdseg.review.database import Database
from napari_kdseg.review.tables import ENDS, SITTINGS, VERDICTS, values_of
from napari_kdseg.review.verdicts import About, Verdict, Word

ACTIVE = timedelta(minutes=10)
"""After so long without a verdict a sitting on another computer counts as left."""
_CLOCK_TOLERANCE_S = 2.0  # psutil rounds start times differently after a clock change


class Sitting:
    """One reviewer at work; made by `Store.sit`.

    Attributes
    ----------
    reviewer
        Name that the rows carry.
    number
        Larger than that of every sitting before.
    """

    def __init__(
        self, database: Database, reviewer: str, number: int, project: str
    ) -> None:
        self.reviewer = reviewer
        self.number = number
        self._database = database
        self._project = project
        self._lock = threading.Lock()
        self._seq = 0
        self._ended = False

    def judge(
        self, about: About, word: Word, seconds: float | None = None, comment: str = ""
    ) -> Verdict:
        """Keep a verdict; it is on the disk when this returns.

        Raises
        ------
        ReviewError
            Where nothing could be written; the verdict is not in the store then.
        """
        (row,) = self.enter([_verdict(about, word, seconds, comment)])
        return row

    def judge_all(
        self,
        words: Sequence[tuple[About, Word]],
        seconds: float | None = None,
        comments: Mapping[About, str] | None = None,
    ) -> list[Verdict]:
        """Keep the verdicts on a page of slices, all or none of them.

        Parameters
        ----------
        seconds
            That the whole page took; every verdict gets an equal part.
        comments
            Those of single slices; the others have none.

        Raises
        ------
        ReviewError
            Where nothing could be written; none of them is in the store then.
        """
        each = None if seconds is None else seconds / max(len(words), 1)
        said = comments or {}
        return self.enter(
            [_verdict(about, word, each, said.get(about, "")) for about, word in words]
        )

    def take_back(self, verdict: Verdict) -> Verdict:
        """Say that an own verdict no longer counts; gives the row that says so.

        Raises
        ------
        ReviewError
            Where it is another reviewer's, or nothing could be written.
        """
        if verdict.reviewer != self.reviewer:
            raise ReviewError(
                f"the verdict on slice {verdict.index} of {verdict.case} is of "
                f"{verdict.reviewer or 'nobody known'}; {self.reviewer} can take back "
                "only own ones. Judge the slice instead."
            )
        (row,) = self.enter([_taken_back(verdict)])
        return row

    def enter(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Keep rows as this reviewer's of this sitting, in their order, all or none.

        Returns
        -------
        list of Verdict
            The rows as they are in the store: with sitting, seq, time and name.
        """
        now = now_utc()
        with self._lock:
            rows = [
                replace(
                    one,
                    reviewer=self.reviewer,
                    project=self._project,
                    sitting=self.number,
                    seq=self._seq + number,
                    created_utc=now,
                    uuid=str(uuid.uuid4()),
                )
                for number, one in enumerate(verdicts, start=1)
            ]
            if rows:
                with self._database.writing() as connection:
                    connection.execute(insert(VERDICTS), [values_of(r) for r in rows])
            self._seq += len(rows)
        return rows

    def end(self) -> None:
        """Say that the sitting is over, for others to know."""
        if self._ended:
            return
        self._ended = True
        row = {"sitting": self.number, "ended_utc": now_utc()}
        with self._database.writing() as connection:
            connection.execute(insert(ENDS), [row])


def _verdict(about: About, word: Word, seconds: float | None, comment: str) -> Verdict:
    return Verdict(
        about.case,
        about.axis,
        about.index,
        word,
        "human",
        about.labels_hash,
        model=about.model,
        prediction=about.prediction,
        scan_hash=about.scan_hash,
        seconds=seconds,
        comment=" ".join(comment.split()),
    )


def _taken_back(verdict: Verdict) -> Verdict:
    return replace(verdict, kind="take-back", source="human", seconds=None, comment="")


# ---- who sits ----


def check_name(reviewer: str) -> None:
    """Refuse a reviewer without a name.

    Raises
    ------
    ReviewError
        Where the name is empty.
    """
    if not reviewer.strip():
        raise ReviewError(
            "the reviewer's name is empty; every verdict needs one. Write a name."
        )


def opened(connection: Connection, reviewer: str) -> tuple[int, list[str]]:
    """Open a sitting in the store, which must be held alone.

    Returns
    -------
    int
        Its number.
    list of str
        Where else somebody of that name sits.
    """
    others = _others(connection, reviewer)
    number = _next_sitting(connection)
    connection.execute(insert(SITTINGS), [_this_process(number, reviewer)])
    return number, others


def now_utc() -> str:
    """The clock's time, as rows carry it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _next_sitting(connection: Connection) -> int:
    highest = (
        select(func.max(SITTINGS.c.number)).scalar_subquery(),
        select(func.max(VERDICTS.c.sitting)).scalar_subquery(),  # of imported rows
    )
    return 1 + max(one or 0 for one in connection.execute(select(*highest)).one())


def _this_process(number: int, reviewer: str) -> dict[str, object]:
    process = psutil.Process()
    return {
        "number": number,
        "reviewer": reviewer,
        "host": socket.gethostname(),
        "process": process.pid,
        "process_started": process.create_time(),
        "opened_utc": now_utc(),
    }


def _others(connection: Connection, reviewer: str) -> list[str]:
    """Other processes in which a sitting under a name is open."""
    last = (
        select(func.max(VERDICTS.c.created_utc))
        .where(VERDICTS.c.sitting == SITTINGS.c.number)
        .scalar_subquery()
    )
    query = (
        select(SITTINGS, last.label("last_utc"))
        .where(SITTINGS.c.reviewer == reviewer)
        .where(SITTINGS.c.number.not_in(select(ENDS.c.sitting)))
        .order_by(SITTINGS.c.number)
    )
    rows = map(dict, connection.execute(query).mappings())
    return [
        f"process {row['process']} on {row['host']}" for row in rows if _is_active(row)
    ]


def _is_active(row: Mapping[str, Any]) -> bool:
    if row["host"] != socket.gethostname():
        last = datetime.fromisoformat(max(row["opened_utc"], row["last_utc"] or ""))
        return datetime.now(UTC) - last < ACTIVE
    process, started = int(row["process"]), float(row["process_started"])
    if process == psutil.Process().pid:
        return False
    try:
        since = psutil.Process(process).create_time()
    except psutil.Error:
        return False
    return abs(since - started) < _CLOCK_TOLERANCE_S
