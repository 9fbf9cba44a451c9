"""Damage to a store's file: noticed on opening, a good copy kept, rows rescued.

Beside the store lies ``NAME.previous``, a copy as of the last opening at which all was
whole. A damaged store is refused and stays as it is until `mend` puts a new one with
all rows of the copy, and all that can still be read, in its place.
"""

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import insert

from napari_kdseg.atomic import atomic_file, temporary_beside
from napari_kdseg.errors import DamagedStoreError, ReviewError
from napari_kdseg.review.database import (
    connected,
    in_words,
    open_file,
    sqlite_code,
)
from napari_kdseg.review.tables import (
    METADATA,
    STORES,
    VERDICTS,
    VERSION,
    is_whole,
    values_of,
    verdict_of,
)
from napari_kdseg.review.verdicts import SQLITE, Verdict

_COMPANIONS = ("", "-wal", "-shm", "-journal")
_SMALLEST_ROW_BYTES = 100
_NO_RIGHT = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


def copy_of(file: Path) -> Path:
    """Where the copy of a store lies."""
    return file.with_name(f"{file.name}.previous")


# ---- noticing ----


def check_whole(file: Path) -> None:
    """Refuse a store that is damaged, or gone while its copy is there.

    Raises
    ------
    DamagedStoreError
        Saying what is wrong, how much of it can be read, and where the copy is.
    ReviewError
        Where the file cannot be read at all.
    """
    damage = _damage(file)
    if not damage:
        return
    rescued = len(_readable(file))
    kept = rows_in_copy(file)
    copy = f"{copy_of(file)} holds {kept}, of {_day(copy_of(file))}" if kept else ""
    raise DamagedStoreError(
        f"{file} is damaged ({damage}); {rescued} of its verdicts can still be read"
        f"{f', and its copy {copy}' if copy else ', and there is no copy of it'}. "
        f"`kdseg-train quality mend {file}` makes it whole with all of these and keeps "
        "the damaged file."
    )


def _damage(file: Path) -> str:
    begin = _beginning(file)
    if not begin:
        if _size(file.with_name(f"{file.name}-wal")):
            return "its file is empty or gone, but not what was written last"
        return "it is empty or gone" if rows_in_copy(file) else ""
    if begin != SQLITE:
        return "it is no SQLite file"
    with in_words(str(file)):
        try:
            return _integrity(file, read_only=True)
        except sqlite3.OperationalError as error:
            if sqlite_code(error) not in _NO_RIGHT:
                raise
            # A writer that was killed left something that only a writer can clear up.
            return _integrity(file, read_only=False)


def _integrity(file: Path, *, read_only: bool) -> str:
    try:
        # A connection that only reads leaves a damaged file as it is.
        with contextlib.closing(connected(file, read_only=read_only)) as connection:
            found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.OperationalError:
        raise  # busy, no right, no disk: says nothing about what is in the file
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else found.splitlines()[-1]


def _beginning(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(len(SQLITE))
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ReviewError(
            f"{file} cannot be read ({error.strerror}). Ask for the right to read and "
            "write it."
        ) from error


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _day(file: Path) -> str:
    moment = datetime.fromtimestamp(file.stat().st_mtime, UTC).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M")


# ---- the copy ----


def keep_copy(file: Path) -> str:
    """Copy a whole store beside it, in place of the copy of the last opening.

    Returns
    -------
    str
        What a person should know: that no copy could be made, or that the copy held
        more than the store does and was kept under another name.
    """
    copy = copy_of(file)
    try:
        rows, kept = _count(file), rows_in_copy(file)
        if rows == kept:
            return ""
        note = _put_aside(file, rows, kept) if kept > rows else ""
        with (
            contextlib.closing(connected(file, read_only=True)) as source,
            atomic_file(copy) as opened,
            contextlib.closing(sqlite3.connect(opened.name)) as target,
        ):
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, by itself
    except (OSError, sqlite3.Error) as error:
        return f"No copy of {file} could be made ({error}); back it up yourself."
    return note


def _put_aside(file: Path, rows: int, kept: int) -> str:
    aside = _free(copy_of(file))
    copy_of(file).rename(aside)
    return (
        f"{file} holds {rows} verdicts, but held {kept} when it was opened last; what "
        f"it held then is kept as {aside}, and can be added with kdseg-train quality "
        "import."
    )


def _free(path: Path) -> Path:
    number = 1
    while (found := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return found


def rows_in_copy(file: Path) -> int:
    """Number of rows in the copy of a store; 0 where there is none that is whole."""
    copy = copy_of(file)
    try:
        return _count(copy) if copy.is_file() else 0
    except sqlite3.Error:
        return 0


def _count(file: Path) -> int:
    with contextlib.closing(connected(file, read_only=True)) as connection:
        return int(
            connection.execute(f"SELECT count(*) FROM {VERDICTS.name}").fetchone()[0]
        )


# ---- rescue ----


def mend(file: Path) -> str:
    """Put a whole store in place of a damaged one, with every row there still is.

    The damaged file is kept under another name.

    Returns
    -------
    str
        What was done, for a person.

    Raises
    ------
    ReviewError
        Where the store is whole, or nothing at all is left of it.
    """
    if not _damage(file):
        raise ReviewError(f"{file} is whole; there is nothing to mend.")
    found = {one.uuid: one for one in (*_readable(copy_of(file)), *_readable(file))}
    if not found:
        raise ReviewError(
            f"nothing can be read from {file}, and there is no copy of it. Get it from "
            "a backup, or move it away and begin anew."
        )
    whole = temporary_beside(file)
    create(whole, list(found.values()))
    aside = _free(file.with_name(f"{file.name}.damaged"))
    for ending in _COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            file.with_name(file.name + ending).rename(
                aside.with_name(aside.name + ending)
            )
    whole.rename(file)
    return (
        f"{file} is whole again and holds {len(found)} verdicts; the damaged file is "
        f"kept as {aside}."
    )


def create(file: Path, verdicts: list[Verdict]) -> None:
    """Make the file of a store that holds these rows."""
    database = open_file(file)
    try:
        with database.writing() as connection:
            METADATA.create_all(connection)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            connection.execute(
                insert(STORES), [{"version": VERSION, "created_utc": now}]
            )
            if verdicts:
                connection.execute(
                    insert(VERDICTS), [values_of(one) for one in verdicts]
                )
    finally:
        database.close()


def _readable(file: Path) -> list[Verdict]:
    """Rows of a file that can be read, however damaged it is; the file is untouched."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "store"
        for ending in _COMPANIONS:
            with contextlib.suppress(OSError):
                shutil.copy(file.with_name(file.name + ending), f"{scratch}{ending}")
        try:
            with contextlib.closing(sqlite3.connect(scratch)) as connection:
                connection.row_factory = sqlite3.Row
                connection.text_factory = _text
                rows = map(dict, _rows(connection, scratch))
                return [verdict_of(row) for row in rows if is_whole(row)]
        except sqlite3.Error:
            return []


def _rows(connection: sqlite3.Connection, scratch: Path) -> Iterator[sqlite3.Row]:
    last = 0
    with contextlib.suppress(sqlite3.Error):
        for row in connection.execute(f"{_SELECT} ORDER BY number"):
            last = row["number"]
            yield row
        return
    # Past the first damaged page, row by row: what the tree still leads to.
    for number in range(last + 1, _size(scratch) // _SMALLEST_ROW_BYTES + 1):
        with contextlib.suppress(sqlite3.Error):
            yield from connection.execute(f"{_SELECT} WHERE number = ?", (number,))


_SELECT = f"SELECT * FROM {VERDICTS.name} NOT INDEXED"


def _text(found: bytes) -> str:
    return found.decode("utf-8", "replace")
