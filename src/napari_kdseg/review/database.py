"""Where a store of verdicts lies: an SQLite file, or a PostgreSQL database by URL.

Writers come one after the other, each in a transaction that holds the whole store; what
is committed is on the disk. What goes wrong is said in words.
"""

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import cast

import psutil
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.pool import QueuePool

from napari_kdseg.errors import DamagedStoreError, ReviewError
from napari_kdseg.extras import not_installed

BUSY_S = 10.0
"""A writer waits so long for the others."""
SYNCHRONOUS = "FULL"
_RETRY_S = 0.001  # SQLite's own waiting grows to 100 ms, and then somebody starves
_LOCK = 0x6B647365  # any number that others in the database do not use
_NETWORK = re.compile(
    "9p|afpfs|afs|beegfs|ceph|cifs|davfs2?|drvfs|glusterfs|gpfs|lustre|ncpfs|nfs4?|"
    "prl_fs|smb[23]?|smbfs|vboxsf|virtiofs|webdav|fuse[.].*"
)
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
FAILURES = (DBAPIError, sqlite3.Error)
_WORDS = {
    sqlite3.SQLITE_BUSY: "is busy: another program has held it for "
    f"{BUSY_S:g} s. Nothing was written; try again",
    sqlite3.SQLITE_FULL: "cannot grow, since the disk is full. Nothing was written; "
    "make room and try again",
    sqlite3.SQLITE_READONLY: "cannot be written to. Ask for the right to write, or "
    "copy the project",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened. Ask for the right to read and write "
    "its folder, or copy the project",
    sqlite3.SQLITE_IOERR: "cannot be read or written. See whether its disk is "
    "connected, and try again",
    **dict.fromkeys(DAMAGE, "is damaged. Close it and open it again"),
}
_UNKNOWN = (
    "does not answer as it should. See whether it runs, whether the address and the "
    "user's rights are right, and try again"
)
_WORDS[sqlite3.SQLITE_LOCKED] = _WORDS[sqlite3.SQLITE_BUSY]


class Database:
    """An open database.

    Attributes
    ----------
    name
        The file or the URL, without a password: for messages.
    file
        The SQLite file; None where it is a server's.
    """

    def __init__(self, name: str, engine: Engine, file: Path | None = None) -> None:
        self.name = name
        self.file = file
        self._engine = engine
        self._identity = None if file is None else _identity(file)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Look at one state of the store, whatever others write meanwhile.

        Raises
        ------
        ReviewError
            Saying what went wrong.
        """
        with in_words(self.name), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """Hold the store alone; what was written is on the disk when the block ends.

        After an error nothing was written.

        Raises
        ------
        ReviewError
            Saying what went wrong.
        """
        self._check_place()
        engine = self._engine.execution_options(kdseg_alone=True)
        with in_words(self.name), engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    def _check_place(self) -> None:
        # SQLite would go on writing to a file that no name leads to any more.
        if self.file is not None and _identity(self.file) != self._identity:
            raise ReviewError(
                f"{self.name} has been moved, removed or replaced since it was opened, "
                "so nothing more is written to it. Open the project again where it is."
            )


@contextlib.contextmanager
def in_words(name: str) -> Iterator[None]:
    """Say in words what went wrong in a database.

    Raises
    ------
    ReviewError
        In place of the library's own error; a DamagedStoreError where it is that.
    """
    try:
        yield
    except FAILURES as error:
        kind = DamagedStoreError if sqlite_code(error) in DAMAGE else ReviewError
        original = error.orig if isinstance(error, DBAPIError) else error
        reason = (str(original).splitlines() or [type(original).__name__])[0]
        words = _WORDS.get(sqlite_code(error), _UNKNOWN)
        if isinstance(error, IntegrityError):
            words = "takes no such row, and nothing was written. Correct it"
        raise kind(f"{name} {words} ({reason}).") from error


def sqlite_code(error: BaseException) -> int:
    """SQLite's number for an error, without its finer shades; 0 for others."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlite_errorcode", 0) & 0xFF


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


# ---- SQLite ----


def file_of(where: Path | str) -> Path | None:
    """The SQLite file that is meant; None where a server is.

    Raises
    ------
    ReviewError
        Where it is the address of something else.
    """
    text = str(where)
    if "://" not in text:
        return Path(where)
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ReviewError(f"{text!r} is no address of a database; {_RULE}") from error
    kind = url.get_backend_name()
    if kind == "sqlite" and url.database:
        return Path(url.database)
    if kind != "postgresql":
        shown = url.render_as_string(hide_password=True)
        raise ReviewError(f"{shown} is a database of the kind {kind}; {_RULE}")
    return None


_RULE = "verdicts lie in an SQLite file or under postgresql://USER@HOST/DATABASE."


def open_file(file: Path, *, read_only: bool = False) -> Database:
    """Open an SQLite file; one that is not there is made, unless it is to be read."""

    def connect() -> sqlite3.Connection:
        return connected(file, read_only=read_only)

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
    event.listen(engine, "begin", _begin)
    return Database(str(file), engine, file)


def connected(file: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Connect to an SQLite file, without transactions that begin by themselves."""
    connection = sqlite3.connect(
        file.absolute().as_uri() + (_read_only(file) if read_only else ""),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_S,
    )
    connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: to the disk, not into it
    return connection


def _read_only(file: Path) -> str:
    # To read a log, SQLite makes a file beside it; where it may not, and nobody
    # writes, it must be told that the file stands still.
    still = not os.access(file.parent, os.W_OK)
    still &= not file.with_name(f"{file.name}-wal").exists()
    return "?mode=ro&immutable=1" if still else "?mode=ro"


def _begin(connection: Connection) -> None:
    raw = cast(sqlite3.Connection, connection.connection.dbapi_connection)
    if not connection.get_execution_options().get("kdseg_alone"):
        raw.execute("BEGIN")
        return
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        _begin_alone(raw)
    finally:
        raw.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_S)}")


def _begin_alone(raw: sqlite3.Connection) -> None:
    _when_free(lambda: raw.execute("BEGIN IMMEDIATE"))


def _when_free(call: Callable[[], object]) -> None:
    """Do something as soon as no other process is in the way."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            call()
            return
        except sqlite3.OperationalError as error:
            busy = sqlite_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > until:
                raise
        time.sleep(_RETRY_S)


def set_journal(file: Path) -> str:
    """Choose how SQLite writes: a log (WAL), or a rollback journal on shared drives.

    Returns
    -------
    str
        What a person should know; empty where the disk is this computer's own.

    Raises
    ------
    ReviewError
        Where the file is open elsewhere in a way that is not safe on its drive.
    """
    shared = shared_drive(file)
    wanted = "delete" if shared else "wal"
    with in_words(str(file)), contextlib.closing(connected(file)) as connection:
        if shared:  # else reading alone would use shared memory, which is not shared
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _switch(connection, wanted)
    if not shared:
        return ""
    return (
        f"{file} lies on a shared drive ({shared}), where SQLite's fast way of writing "
        "(WAL) is not safe; a rollback journal is used, which is slower. Where several "
        "computers review at once, a PostgreSQL database is better."
    )


def _switch(connection: sqlite3.Connection, wanted: str) -> None:
    def switch() -> None:
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != wanted:
            connection.execute(f"PRAGMA journal_mode = {wanted}")

    # Of several who switch at once one is refused at once, whatever the waiting time.
    _when_free(switch)


def shared_drive(path: Path) -> str:
    """Kind of the network drive, or of the virtual machine's, that a path lies on.

    Returns
    -------
    str
        As the system calls it (nfs, cifs, fuse.sshfs, ...); empty for an own disk.
    """
    place = path.absolute().resolve()
    if str(place).startswith("\\\\"):
        return "Windows share"
    best, kind = -1, ""
    for mount in psutil.disk_partitions(all=True):
        inside = place.is_relative_to(mount.mountpoint)
        depth = len(PurePath(mount.mountpoint).parts)
        if inside and depth >= best:  # the later hides the earlier
            remote = "remote" in mount.opts.split(",")
            best, kind = depth, _shared_kind(mount.fstype, remote=remote)
    return kind


def _shared_kind(kind: str, *, remote: bool) -> str:
    return kind or "remote" if remote or _NETWORK.fullmatch(kind.lower()) else ""


# ---- PostgreSQL ----


def open_server(url: str) -> Database:
    """Open a PostgreSQL database.

    Raises
    ------
    ReviewError
        Where what speaks to it is not installed.
    """
    address = make_url(url).set(drivername="postgresql+psycopg")
    name = address.set(drivername="postgresql").render_as_string(hide_password=True)
    try:
        engine = create_engine(
            address, pool_pre_ping=True, connect_args={"connect_timeout": int(BUSY_S)}
        )
    except ImportError as error:
        raise ReviewError(not_installed(name, "psycopg")) from error
    event.listen(engine, "begin", _hold_server)
    return Database(name, engine)


def _hold_server(connection: Connection) -> None:
    if connection.get_execution_options().get("kdseg_alone"):
        connection.exec_driver_sql("SET LOCAL synchronous_commit TO on")
        # Row numbers then become visible in their order, as a poll needs it.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    else:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
