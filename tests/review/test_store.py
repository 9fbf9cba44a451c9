"""The store: rows are added, come back as they were, and never change."""

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from napari_kdseg.errors import ReviewError
from napari_kdseg.review import sittings
from napari_kdseg.review.store import Store, read_store
from napari_kdseg.review.verdicts import (
    About,
    Verdict,
    current,
    read_verdicts,
)

ABOUT = About("fish", 0, 17, "ab" * 32, "model", "prediction", "scan")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "project" / "review" / "verdicts.sqlite"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    opened = Store.open(file, "Medaka")
    yield opened
    opened.close()


def raw(file: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(file, isolation_level=None))


# ---- judging ----


def test_a_verdict_names_the_exact_prediction_and_comes_back_as_it_was(
    store: Store,
) -> None:
    one = store.sit(" Ada ").judge(ABOUT, "good", seconds=0.7, comment="a\n b ")
    assert store.rows() == ([one], 1)
    assert one.about == ABOUT
    assert (one.verdict, one.source, one.kind) == ("good", "human", "verdict")
    assert (one.reviewer, one.project) == ("Ada", "Medaka")
    assert (one.sitting, one.seq, one.seconds, one.comment) == (1, 1, 0.7, "a b")
    assert one.created_utc.endswith("+00:00")
    assert len(one.uuid) == 36


def test_a_page_is_kept_as_a_whole_and_shares_its_seconds(store: Store) -> None:
    sitting = store.sit("Ada")
    page = [(replace(ABOUT, index=i), "bad" if i == 3 else "good") for i in range(25)]
    rows = sitting.judge_all(page, seconds=10.0)  # type: ignore[arg-type]
    assert store.rows()[0] == rows
    assert [one.seq for one in rows] == [*range(1, 26)]
    assert [one.index for one in rows if one.verdict == "bad"] == [3]
    assert sum(one.seconds or 0 for one in rows) == pytest.approx(10)
    assert sitting.judge(ABOUT, "good").seq == 26


def test_an_empty_page_is_no_row(store: Store) -> None:
    assert store.sit("Ada").judge_all([]) == []
    assert store.rows() == ([], 0)


def test_a_page_with_one_wrong_slice_leaves_no_row(store: Store) -> None:
    sitting = store.sit("Ada")
    with pytest.raises(ReviewError, match="takes no such row, and nothing was written"):
        sitting.judge_all([(ABOUT, "good"), (replace(ABOUT, axis=3), "good")])
    assert store.rows() == ([], 0)
    assert sitting.judge(ABOUT, "good").seq == 1


def test_to_take_back_is_a_row_and_the_verdict_stays(store: Store) -> None:
    sitting = store.sit("Ada")
    one = sitting.judge(ABOUT, "good", seconds=2.0, comment="why not")
    back = sitting.take_back(one)
    rows, last = store.rows()
    assert rows == [one, back]
    assert last == 2
    assert (back.kind, back.about, back.verdict) == ("take-back", ABOUT, "good")
    assert back.uuid != one.uuid
    assert current(rows) == ()


def test_a_verdict_of_an_earlier_evening_can_be_taken_back(file: Path) -> None:
    store = Store.open(file)
    one = store.sit("Ada").judge(ABOUT, "good")
    store.close()
    store = Store.open(file)
    store.sit("Ada").take_back(one)
    store.close()
    assert current(read_store(file)) == ()


def test_another_reviewers_verdict_cannot_be_taken_back(store: Store) -> None:
    one = store.sit("Ada").judge(ABOUT, "good")
    with pytest.raises(ReviewError, match="slice 17 of fish is of Ada; Ben can take"):
        store.sit("Ben").take_back(one)


def test_a_reviewer_needs_a_name(store: Store) -> None:
    with pytest.raises(ReviewError, match="name is empty"):
        store.sit("  ")


# ---- sittings ----


def test_every_sitting_has_a_larger_number_than_all_before(file: Path) -> None:
    numbers = []
    for name in ("Ada", "Ben", "Ada"):
        store = Store.open(file)
        numbers += [store.sit(name).number, store.sit(name).number]
        store.close()
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_a_sitting_comes_after_those_of_imported_rows(store: Store) -> None:
    store.add([Verdict("fish", 0, 1, "good", "imported", sitting=40, seq=2)])
    assert store.sit("Ada").number == 41


def test_sittings_that_begin_at_once_get_different_numbers(file: Path) -> None:
    stores = [Store.open(file) for _ in range(4)]
    numbers: list[int] = []

    def sit(store: Store) -> None:
        numbers.extend(store.sit("Ada").number for _ in range(10))

    threads = [threading.Thread(target=sit, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert sorted(numbers) == [*range(1, 41)]


def test_one_sitting_used_by_several_threads_counts_without_gaps(store: Store) -> None:
    sitting = store.sit("Ada")
    threads = [
        threading.Thread(
            target=lambda: [sitting.judge(ABOUT, "good") for _ in range(10)]
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.seq for one in store.rows()[0]] == [*range(1, 31)]


def pretend_sitting(file: Path, host: str, moment: str) -> None:
    with raw(file) as connection:
        connection.execute(
            "INSERT INTO kdseg_sittings VALUES (9, 'Ada', ?, 1, 5.0, ?)", (host, moment)
        )


def test_a_second_person_of_one_name_is_noticed_from_another_computer(
    file: Path, store: Store
) -> None:
    pretend_sitting(file, "lab-2", sittings.now_utc())
    store.sit("Ben")
    assert store.notes == ()
    store.sit("Ada")
    (note,) = store.notes
    assert note.startswith("Ada is reviewing in process 1 on lab-2, too.")


def test_a_sitting_left_open_long_ago_is_no_second_person(
    file: Path, store: Store
) -> None:
    pretend_sitting(file, "lab-2", "2020-01-01T00:00:00.000+00:00")
    store.sit("Ada")
    assert store.notes == ()


def test_a_crashed_sitting_on_this_computer_is_no_second_person(
    file: Path, store: Store
) -> None:
    import socket

    # Process 1 runs, but began at another time than the one that sat.
    pretend_sitting(file, socket.gethostname(), sittings.now_utc())
    store.sit("Ada")
    assert store.notes == ()


def test_a_sitting_that_was_ended_is_no_second_person(file: Path, store: Store) -> None:
    pretend_sitting(file, "lab-2", sittings.now_utc())
    with raw(file) as connection:
        connection.execute("INSERT INTO kdseg_sitting_ends VALUES (9, 'now')")
    store.sit("Ada")
    assert store.notes == ()


def test_a_second_person_who_comes_later_is_noticed_by_their_verdicts(
    file: Path, store: Store
) -> None:
    store.sit("Ada").judge(ABOUT, "good")
    _, last = store.rows()
    other = Store.open(file)
    other.sit("Ada").judge(ABOUT, "bad")
    store.rows(last)
    assert "Ada is reviewing in another window or computer, too." in store.notes[0]
    assert len(store.rows()[0]) == 2
    other.close()


# ---- several at once ----


def test_a_poll_gives_only_what_others_added_since(file: Path, store: Store) -> None:
    store.sit("Ada").judge(ABOUT, "good")
    _, last = store.rows()
    assert store.rows(last) == ([], last)
    other = Store.open(file)
    one = other.sit("Ben").judge(ABOUT, "bad")
    other.close()
    assert store.rows(last) == ([one], last + 1)


def test_a_store_that_is_held_too_long_is_said_to_be_busy(
    file: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_kdseg.review.database.BUSY_S", 0.05)
    sitting = store.sit("Ada")
    with raw(file) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ReviewError, match="is busy: another program has held it"):
            sitting.judge(ABOUT, "good")
        other.execute("ROLLBACK")
    assert sitting.judge(ABOUT, "good").seq == 1


# ---- nothing changes ----


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE kdseg_verdicts SET verdict = 'bad'",
        "DELETE FROM kdseg_verdicts",
        "DELETE FROM kdseg_sittings",
        "UPDATE kdseg_store SET version = 0",
    ],
)
def test_rows_cannot_be_changed_or_removed(
    file: Path, store: Store, statement: str
) -> None:
    one = store.sit("Ada").judge(ABOUT, "good")
    with (
        raw(file) as connection,
        pytest.raises(sqlite3.IntegrityError, match="only ever added"),
    ):
        connection.execute(statement)
    assert store.rows()[0] == [one]


def test_every_commit_is_forced_to_the_disk(store: Store) -> None:
    with store._database.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


# ---- opening and closing ----


def test_a_closed_store_is_one_file_and_closing_twice_is_no_mistake(
    file: Path,
) -> None:
    store = Store.open(file)
    store.sit("Ada").judge(ABOUT, "good")
    store.close()
    store.close()
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_a_project_that_was_moved_keeps_its_verdicts(file: Path) -> None:
    store = Store.open(file, "Medaka")
    one = store.sit("Ada").judge(ABOUT, "good")
    store.close()
    moved = file.parents[1].rename(file.parents[2] / "elsewhere, with #1 and ünï 50%")
    store = Store.open(moved / "review" / file.name, "elsewhere")
    assert store.rows()[0] == [one]
    assert store.sit("Ada").judge(ABOUT, "bad").project == "elsewhere"
    store.close()


def test_nothing_is_written_to_a_store_that_was_moved_while_open(
    file: Path, store: Store
) -> None:
    sitting = store.sit("Ada")
    file.rename(file.with_name("moved.sqlite"))
    with pytest.raises(ReviewError, match="has been moved, removed or replaced"):
        sitting.judge(ABOUT, "good")
    file.with_name("moved.sqlite").rename(file)
    assert sitting.judge(ABOUT, "good").seq == 1


def test_a_store_whose_folder_went_away_can_be_closed(file: Path) -> None:
    store = Store.open(file)
    store.sit("Ada").judge(ABOUT, "good")
    shutil.rmtree(file.parent)
    store.close()
    assert not file.exists()


def test_a_store_of_a_newer_version_is_refused(file: Path) -> None:
    Store.open(file).close()
    with raw(file) as connection:
        connection.execute("INSERT INTO kdseg_store VALUES (2, 'later')")
    for open_ in (Store.open, read_store):
        with pytest.raises(ReviewError, match="has version 2, and this program"):
            open_(file)


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "photos.sqlite"
    with raw(other) as connection:
        connection.execute("CREATE TABLE photos (name)")
    for open_ in (Store.open, read_store):
        with pytest.raises(ReviewError, match="of another program, without verdicts"):
            open_(other)
    with raw(other) as connection:
        names = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert names == [("photos",)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "review").write_text("a file")
    with pytest.raises(ReviewError, match="review cannot be made"):
        Store.open(tmp_path / "review" / "verdicts.sqlite")


def test_to_read_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="there is no store of verdicts"):
        read_verdicts(tmp_path / "v.sqlite")
    assert not list(tmp_path.iterdir())


def test_a_store_can_be_read_while_somebody_reviews(file: Path, store: Store) -> None:
    one = store.sit("Ada").judge(ABOUT, "good")
    assert read_verdicts(file) == (one,)
    assert read_verdicts(f"sqlite:///{file}") == (one,)


def test_a_store_in_a_folder_without_the_right_to_write_can_be_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(file)
    one = store.sit("Ada").judge(ABOUT, "good")
    store.close()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    file.parent.chmod(0o555)
    try:
        assert read_store(file) == (one,)
        assert [name.name for name in file.parent.iterdir()] == [file.name]
    finally:
        file.parent.chmod(0o755)
