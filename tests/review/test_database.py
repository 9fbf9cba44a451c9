"""Where a store may lie: own disks, shared drives, servers."""

import sys
from collections import namedtuple
from pathlib import Path

import pytest
from sqlalchemy import URL, create_mock_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable, ExecutableDDLElement

from napari_kdseg.errors import ReviewError
from napari_kdseg.extras import not_installed
from napari_kdseg.review import database
from napari_kdseg.review.store import Store, read_store
from napari_kdseg.review.tables import METADATA
from napari_kdseg.review.verdicts import About

Mount = namedtuple("Mount", "mountpoint fstype opts")


def mounted(monkeypatch: pytest.MonkeyPatch, *mounts: tuple[str, str, str]) -> None:
    found = [Mount(*mount) for mount in mounts]
    monkeypatch.setattr("psutil.disk_partitions", lambda **_: found)


# ---- shared drives ----


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "fuse.sshfs", "NFS"],
)
def test_a_shared_drive_is_known_by_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounted(monkeypatch, ("/", "ext4", "rw"), (str(tmp_path), kind, "rw"))
    assert database.shared_drive(tmp_path / "not" / "yet") == kind
    assert not database.shared_drive(tmp_path.parent)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "apfs", "NTFS", "fuseblk", "tmpfs"])
def test_an_own_disk_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounted(monkeypatch, ("/", "nfs", "rw"), (str(tmp_path), kind, "rw"))
    assert not database.shared_drive(tmp_path)


def test_the_last_of_two_mounts_on_one_folder_is_the_one_in_sight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path)
    mounted(monkeypatch, (place, "autofs", "rw"), (place, "nfs4", "rw"))
    assert database.shared_drive(tmp_path) == "nfs4"


def test_a_drive_that_windows_calls_remote_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(monkeypatch, (str(tmp_path), "NTFS", "rw,remote"))
    assert database.shared_drive(tmp_path) == "NTFS"


def test_on_a_shared_drive_a_rollback_journal_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(monkeypatch, (str(tmp_path), "nfs4", "rw"))
    file = tmp_path / "verdicts.sqlite"
    store = Store.open(file)
    assert "lies on a shared drive (nfs4), where SQLite's fast way" in store.notes[0]
    with store._database.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
    one = store.sit("Ada").judge(About("fish", 0, 1, "ab"), "good")
    assert not (tmp_path / "verdicts.sqlite-wal").exists()
    store.close()
    assert read_store(file) == (one,)


def test_a_project_that_moves_to_a_shared_drive_and_back_changes_its_way_of_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "verdicts.sqlite"
    store = Store.open(file)
    one = store.sit("Ada").judge(About("fish", 0, 1, "ab"), "good")
    store.close()
    modes = []
    for kind in ("cifs", "ext4"):
        mounted(monkeypatch, (str(tmp_path), kind, "rw"))
        store = Store.open(file)
        with store._database.reading() as connection:
            modes.append(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
        assert store.rows()[0] == [one]
        store.close()
    assert modes == ["delete", "wal"]


def test_on_a_shared_drive_a_store_that_is_open_elsewhere_in_the_fast_way_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "verdicts.sqlite"
    store = Store.open(file)
    store.sit("Ada").judge(About("fish", 0, 1, "ab"), "good")
    mounted(monkeypatch, (str(tmp_path), "nfs", "rw"))
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    with pytest.raises(ReviewError, match="is busy"):
        Store.open(file)
    store.close()


# ---- servers ----


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("mysql://ada@lab/fish", "is a database of the kind mysql; verdicts lie in"),
        ("ftp://lab/fish.sqlite", "is a database of the kind ftp; verdicts lie in"),
        ("://", "is no address of a database"),
        ("sqlite://", "is a database of the kind sqlite; verdicts lie in"),
    ],
)
def test_other_addresses_are_refused(where: str, says: str) -> None:
    for open_ in (Store.open, read_store):
        with pytest.raises(ReviewError, match=says):
            open_(where)


def test_a_password_is_in_no_message() -> None:
    with pytest.raises(ReviewError) as caught:
        Store.open("mysql://ada:secret@lab/fish")
    assert "secret" not in str(caught.value)


def test_a_server_without_its_driver_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ReviewError) as caught:
        Store.open("postgresql://ada:secret@lab/fish")
    said = not_installed("postgresql://ada:***@lab/fish", "psycopg")
    assert str(caught.value) == said  # and no password


def test_the_tables_can_be_made_on_a_server() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    text = "\n".join(
        str(CreateTable(table).compile(dialect=dialect))
        for table in METADATA.sorted_tables
    )
    assert "number BIGSERIAL NOT NULL" in text
    assert "index BIGINT NOT NULL" in text
    assert '"case" TEXT NOT NULL' in text
    assert "verdict IN ('good', 'bad', 'unsure')" in text


def test_a_server_refuses_to_change_rows_too() -> None:
    said: list[str] = []

    def note(statement: ExecutableDDLElement, *_: object, **__: object) -> None:
        said.append(str(statement.compile(dialect=engine.dialect)))

    # Any of its drivers will do: nothing is sent.
    engine = create_mock_engine(URL.create("postgresql+pg8000"), note)
    METADATA.create_all(engine, checkfirst=False)
    triggers = [one for one in said if "CREATE TRIGGER" in one]
    assert len(triggers) == len(METADATA.tables)
    assert all("BEFORE UPDATE OR DELETE OR TRUNCATE" in one for one in triggers)
