"""The store of verdicts: many reviewers at once, nothing lost, nothing changed.

Every reviewer's evening is a sitting, with a number larger than that of every sitting
before; the rows of a sitting are counted. So the newest verdict is known whatever the
clocks say. To take a verdict back is a row, too.

>>> store = Store.open("verdicts.sqlite")  # doctest: +SKIP
>>> sitting = store.sit("Ada")  # doctest: +SKIP
>>> one = sitting.judge(About("fish", 0, 17, "ab12"), "good")  # doctest: +SKIP
>>> sitting.take_back(one)  # doctest: +SKIP
"""

import contextlib
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, func, insert, inspect, select

from napari_kdseg.errors import ReviewError
from napari_kdseg.review.database import (
    Database,
    file_of,
    open_file,
    open_server,
    set_journal,
)
from napari_kdseg.review.recovery import check_whole, keep_copy
from napari_kdseg.review.sittings import Sitting, check_name, now_utc, opened
from napari_kdseg.review.tables import (
    METADATA,
    STORES,
    VERDICTS,
    VERSION,
    values_of,
    verdict_of,
)
from napari_kdseg.review.verdicts import Verdict


class Store:
    """Verdicts in a database that several people and programs share.

    May be used from several threads.
    """

    def __init__(self, database: Database, project: str, notes: Iterable[str]) -> None:
        self._database = database
        self._project = project
        self._notes = [note for note in notes if note]
        self._sittings: dict[int, Sitting] = {}
        self._was_read = False

    @classmethod
    def open(cls, where: Path | str, project: str = "") -> "Store":
        """Open a store; where there is none, it is made.

        Parameters
        ----------
        where
            An SQLite file, or the URL of a PostgreSQL database. Beside a file a copy
            of it is kept, ``NAME.previous``.
        project
            Name that new rows carry; nothing is looked up by it.

        Raises
        ------
        DamagedStoreError
            Where the file is no longer whole; says what there is to save.
        ReviewError
            Where the store is of a newer version, is no store, or is out of reach.
        """
        database, notes = _opened(where)
        try:
            with database.writing() as connection:
                _make_or_check(connection, database.name)
            if database.file is not None:
                notes.append(keep_copy(database.file))
        except BaseException:
            database.close()
            raise
        return cls(database, project, notes)

    @property
    def name(self) -> str:
        """The file or the URL, without a password."""
        return self._database.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a person should read, the newest last."""
        return tuple(self._notes)

    def sit(self, reviewer: str) -> "Sitting":
        """Begin a sitting.

        Raises
        ------
        ReviewError
            Where the name is empty, or the store cannot be written to.
        """
        reviewer = reviewer.strip()
        check_name(reviewer)
        with self._database.writing() as connection:
            number, others = opened(connection, reviewer)
        for other in others:
            self._note_double(reviewer, other)
        sitting = Sitting(self._database, reviewer, number, self._project)
        self._sittings[number] = sitting
        return sitting

    def rows(self, after: int = 0) -> tuple[list[Verdict], int]:
        """Rows that have been added after a row.

        Parameters
        ----------
        after
            Number of that row; 0 for all.

        Returns
        -------
        list of Verdict
            In the order in which they were added, take-backs among them.
        int
            Number of the last row: what the next call asks for.
        """
        query = (
            select(VERDICTS)
            .where(VERDICTS.c.number > after)
            .order_by(VERDICTS.c.number)
        )
        with self._database.reading() as connection:
            found = [dict(row) for row in connection.execute(query).mappings()]
        rows = [verdict_of(row) for row in found]
        if self._was_read:  # what was there before says nothing of who sits now
            self._notice_doubles(rows)
        self._was_read = True
        return rows, found[-1]["number"] if found else after

    def add(self, verdicts: Iterable[Verdict]) -> int:
        """Add rows as they are, in one step; those that are there already stay away.

        Parameters
        ----------
        verdicts
            Rows of another store or of a table. One without a uuid gets one from what
            it says, so that it is known again.

        Returns
        -------
        int
            How many were new.

        Raises
        ------
        ReviewError
            Where one uuid names two different rows, or nothing could be written.
        """
        named = _named(verdicts)
        with self._database.writing() as connection:
            there = set(connection.execute(select(VERDICTS.c.uuid)).scalars())
            new = [values_of(one) for name, one in named.items() if name not in there]
            if new:
                connection.execute(insert(VERDICTS), new)
        return len(new)

    def close(self) -> None:
        """End the sittings and let go of the store; closing twice is no mistake."""
        for sitting in self._sittings.values():
            # An end that nobody hears of loses nothing.
            with contextlib.suppress(ReviewError):
                sitting.end()
        self._sittings.clear()
        self._database.close()

    def _notice_doubles(self, rows: Iterable[Verdict]) -> None:
        names = {
            sitting.reviewer: number for number, sitting in [*self._sittings.items()]
        }
        for one in rows:
            newer = one.sitting > names.get(one.reviewer, one.sitting)
            if newer and one.source == "human":
                self._note_double(one.reviewer, "another window or computer")

    def _note_double(self, reviewer: str, place: str) -> None:
        note = (
            f"{reviewer} is reviewing in {place}, too. If that is somebody else, take "
            "another name: on one slice the newer sitting's verdict of one name counts."
        )
        if note not in self._notes:
            self._notes.append(note)


def read_store(where: Path | str) -> tuple[Verdict, ...]:
    """Read all rows of a store, which stays as it is.

    Raises
    ------
    ReviewError
        Where there is none, or it is damaged, of a newer version or out of reach.
    """
    file = file_of(where)
    if file is None:
        database = open_server(str(where))
    else:
        if not file.exists():
            raise ReviewError(f"there is no store of verdicts {file}. Check its path.")
        check_whole(file)
        database = open_file(file, read_only=True)
    try:
        with database.reading() as connection:
            if not _is_made(connection, database.name):
                return ()
        return tuple(Store(database, "", ()).rows()[0])
    finally:
        database.close()


def imported(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Mark people's verdicts that come from elsewhere as such; simulated ones stay."""
    return [
        replace(one, source="imported") if one.source == "human" else one
        for one in verdicts
    ]


# ---- opening ----


def _opened(where: Path | str) -> tuple[Database, list[str]]:
    file = file_of(where)
    if file is None:
        return open_server(str(where)), []
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReviewError(
            f"{file.parent} cannot be made ({error.strerror}); verdicts are kept in "
            "it. Ask for the right to write."
        ) from error
    check_whole(file)
    note = set_journal(file)
    return open_file(file), [note]


def _make_or_check(connection: Connection, name: str) -> None:
    if _is_made(connection, name):
        return
    METADATA.create_all(connection)
    connection.execute(insert(STORES), [{"version": VERSION, "created_utc": now_utc()}])


def _is_made(connection: Connection, name: str) -> bool:
    tables = inspect(connection).get_table_names()
    if STORES.name not in tables:
        if tables and connection.dialect.name == "sqlite":
            raise ReviewError(
                f"{name} is a database of another program, without verdicts. Choose "
                "another file."
            )
        return False
    version = connection.execute(select(func.max(STORES.c.version))).scalar_one()
    if version > VERSION:
        raise ReviewError(
            f"{name} has version {version}, and this program knows {VERSION}; a newer "
            "one wrote it. Update napari-kdseg."
        )
    return True


# ---- rows ----


def _named(verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    seen: Counter[Verdict] = Counter()
    named: dict[str, Verdict] = {}
    for one in verdicts:
        seen[one] += not one.uuid
        text = f"{seen[one]} {one!r}"  # the second of two equal lines is another row
        name = one.uuid or str(uuid.uuid5(uuid.NAMESPACE_OID, text))
        row = replace(one, uuid=name)
        if named.setdefault(name, row) != row:
            raise ReviewError(
                f"two rows have the uuid {name} and say different things; a uuid names "
                "one row. Empty it in the row that is new."
            )
    return named
