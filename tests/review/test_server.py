"""The store in a PostgreSQL database, as a lab shares one."""

import contextlib
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from kdseg_train import cli
from napari_kdseg.errors import ReviewError
from napari_kdseg.review.shared import DATABASE, STORE, share, store_of
from napari_kdseg.review.store import Store, read_store
from napari_kdseg.review.tables import METADATA
from napari_kdseg.review.verdicts import About, current

ABOUT = About("fish", 0, 17, "ab" * 32, "model", "prediction", "scan")


def test_verdicts_come_back_as_they_were(postgres_url: str) -> None:
    store = Store.open(postgres_url, "Medaka")
    sitting = store.sit("Ada")
    one = sitting.judge(ABOUT, "good", seconds=0.7, comment="with ünï and 'quotes'")
    page = sitting.judge_all([(replace(ABOUT, index=i), "bad") for i in range(3)])
    store.close()
    assert read_store(postgres_url) == (one, *page)
    again = Store.open(postgres_url)
    assert again.rows() == ([one, *page], 4)
    assert again.sit("Ada").number == sitting.number + 1
    again.close()


def test_to_take_back_is_a_row_and_the_verdict_stays(postgres_url: str) -> None:
    store = Store.open(postgres_url)
    sitting = store.sit("Ada")
    one = sitting.judge(ABOUT, "good")
    back = sitting.take_back(one)
    rows, _ = store.rows()
    assert rows == [one, back]
    assert current(rows) == ()
    store.close()


@pytest.mark.parametrize("change", ["DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_rows_cannot_be_removed(postgres_url: str, change: str) -> None:
    store = Store.open(postgres_url)
    store.sit("Ada").judge(ABOUT, "good")
    store.close()
    for table in METADATA.tables:
        with (
            psycopg.connect(postgres_url) as connection,
            pytest.raises(psycopg.Error, match="only ever added"),
        ):
            connection.execute(change.format(table).encode())
    assert len(read_store(postgres_url)) == 1


def test_rows_cannot_be_changed(postgres_url: str) -> None:
    store = Store.open(postgres_url)
    store.sit("Ada").judge(ABOUT, "good")
    store.close()
    with (
        psycopg.connect(postgres_url) as connection,
        pytest.raises(psycopg.Error, match="only ever added"),
    ):
        connection.execute("UPDATE kdseg_verdicts SET verdict = 'bad'")
    assert [one.verdict for one in read_store(postgres_url)] == ["good"]


def test_a_store_of_a_newer_version_is_refused(postgres_url: str) -> None:
    Store.open(postgres_url).close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "INSERT INTO kdseg_store (version, created_utc) VALUES (99, '')"
        )
    with pytest.raises(ReviewError, match="Update napari-kdseg"):
        Store.open(postgres_url)


def test_tables_of_others_in_the_database_are_left_alone(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE mice (name text)")
    store = Store.open(postgres_url)
    store.sit("Ada").judge(ABOUT, "good")
    store.close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("INSERT INTO mice VALUES ('Pinky')")
        rows = connection.execute("SELECT name FROM mice").fetchall()
    assert rows == [("Pinky",)]


def test_a_server_out_of_reach_is_told_without_the_password() -> None:
    for open_ in (Store.open, read_store):
        with pytest.raises(ReviewError, match="See whether it runs") as caught:
            open_("postgresql://ada:secret@127.0.0.1:1/fish")
        assert "secret" not in str(caught.value)


def test_a_connection_that_broke_is_made_anew(postgres_url: str) -> None:
    store = Store.open(postgres_url)
    sitting = store.sit("Ada")
    sitting.judge(ABOUT, "good")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    sitting.judge(replace(ABOUT, index=18), "bad")
    assert [one.seq for one in store.rows()[0]] == [1, 2]
    store.close()


def test_verdicts_go_into_a_table_and_into_another_store(
    postgres_url: str, tmp_path: Path
) -> None:
    store = Store.open(postgres_url)
    store.sit("Ada").judge(ABOUT, "good", comment="a; b, c")
    store.close()
    table, file = tmp_path / "verdicts.csv", tmp_path / "other.sqlite"
    for words in (
        ["export", "--reviews", postgres_url, "--out", str(table)],
        ["import", str(table), "--reviews", str(file)],
    ):
        with contextlib.suppress(SystemExit):
            cli.main(["quality", *words])
    (there,), (copy,) = read_store(postgres_url), read_store(file)
    assert (copy.uuid, copy.comment) == (there.uuid, "a; b, c")


# ---- which store a project has ----


def test_a_project_s_verdicts_move_into_a_database_and_back(
    postgres_url: str, tmp_path: Path
) -> None:
    home = tmp_path / "review"
    assert store_of(home) == home / STORE
    store = Store.open(home / STORE)
    one = store.sit("Ada").judge(ABOUT, "good")
    store.close()
    assert share(home, postgres_url) == postgres_url
    assert store_of(home) == postgres_url
    assert read_store(postgres_url) == (one,)
    store = Store.open(home / STORE)  # as of somebody who had opened it before
    late = store.sit("Cai").judge(ABOUT, "unsure")
    store.close()
    share(home, postgres_url)
    assert read_store(postgres_url) == (one, late)
    store = Store.open(postgres_url)
    two = store.sit("Bob").judge(ABOUT, "bad")
    store.close()
    assert share(home, "") == home / STORE
    assert read_store(home / STORE) == (one, late, two)
    assert not (home / DATABASE).exists()


def test_an_address_with_a_password_is_not_written_down(tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match=r"\.pgpass") as caught:
        share(tmp_path, "postgresql://ada:secret@lab/fish")
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["fish.sqlite", "http://lab/fish"])
def test_what_is_no_database_is_not_written_down(tmp_path: Path, url: str) -> None:
    with pytest.raises(ReviewError, match="postgresql://"):
        share(tmp_path, url)
    assert list(tmp_path.iterdir()) == []


def test_a_database_out_of_reach_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="See whether it runs"):
        share(tmp_path / "review", "postgresql://127.0.0.1:1/fish")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_note_of_the_database_is_told_and_can_be_set_right(
    tmp_path: Path,
) -> None:
    (tmp_path / DATABASE).write_text("{")
    with pytest.raises(ReviewError, match="Name the database again"):
        store_of(tmp_path)
    share(tmp_path, "")
    assert store_of(tmp_path) == tmp_path / STORE
