"""A damaged store is refused with a clear sentence, and nothing is lost of it."""

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from napari_kdseg.errors import DamagedStoreError, ReviewError
from napari_kdseg.review.recovery import copy_of, mend
from napari_kdseg.review.store import Store, read_store
from napari_kdseg.review.verdicts import About, Verdict

ABOUT = About("fish", 0, 0, "ab" * 32)
PAGE = 4096


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "verdicts.sqlite"


def judged(file: Path, count: int, begin: int = 0) -> list[Verdict]:
    """Open a store, judge so many slices, close it."""
    store = Store.open(file)
    slices = [replace(ABOUT, index=i) for i in range(begin, begin + count)]
    rows = store.sit("Ada").judge_all([(one, "good") for one in slices])
    store.close()
    return rows


def refusal(file: Path) -> str:
    with pytest.raises(DamagedStoreError) as caught:
        Store.open(file)
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(DamagedStoreError):
        read_store(file) if before is not None else Store.open(file)
    assert (file.read_bytes() if file.exists() else None) == before
    return str(caught.value)


def names(rows: tuple[Verdict, ...] | list[Verdict]) -> set[str]:
    return {one.uuid for one in rows}


# ---- the copy ----


def test_opening_keeps_a_copy_of_what_was_whole(file: Path) -> None:
    rows = judged(file, 3)
    assert not copy_of(file).exists()
    Store.open(file).close()
    assert list(read_store(copy_of(file))) == rows
    assert sorted(one.name for one in file.parent.iterdir()) == [
        file.name,
        copy_of(file).name,
    ]


def test_a_copy_is_taken_while_somebody_reviews(file: Path) -> None:
    store = Store.open(file)
    sitting = store.sit("Ada")
    one = sitting.judge(ABOUT, "good")
    other = Store.open(file)
    assert read_store(copy_of(file)) == (one,)
    sitting.judge(ABOUT, "bad")
    other.close()
    store.close()


def test_a_copy_with_more_rows_than_the_store_is_kept(file: Path) -> None:
    early = judged(file, 2)
    shutil.copy(file, file.with_name("backup"))
    late = judged(file, 2, begin=2)
    Store.open(file).close()
    file.with_name("backup").replace(file)
    store = Store.open(file)
    (note,) = store.notes
    assert "holds 2 verdicts, but held 4 when it was opened last" in note
    aside = file.with_name(f"{file.name}.previous-1")
    assert str(aside) in note
    assert list(read_store(aside)) == early + late
    assert store.add(read_store(aside)) == 2
    store.close()


def test_a_copy_that_cannot_be_made_is_said_and_reviewing_goes_on(file: Path) -> None:
    judged(file, 1)
    copy_of(file).mkdir()
    store = Store.open(file)
    assert store.notes[0].startswith(f"No copy of {file} could be made")
    store.sit("Ada").judge(ABOUT, "good")
    store.close()


# ---- damage ----


def test_a_truncated_store_says_what_is_left_and_where_the_copy_is(file: Path) -> None:
    judged(file, 300)
    judged(file, 50, begin=300)  # the copy has 300
    os.truncate(file, file.stat().st_size // 2 // PAGE * PAGE)
    says = refusal(file)
    assert f"{file} is damaged (" in says
    assert f"its copy {copy_of(file)} holds 300, of 20" in says
    assert f"kdseg-train quality mend {file}" in says


def test_mending_saves_all_rows_of_the_copy_and_those_that_can_be_read(
    file: Path,
) -> None:
    old = judged(file, 300)
    new = judged(file, 300, begin=300)
    data = bytearray(file.read_bytes())
    # One page of old rows is overwritten; the new ones are in no copy.
    place = data.index(old[40].uuid.encode()) // PAGE * PAGE
    data[place : place + PAGE] = b"\x5a" * PAGE
    file.write_bytes(data)
    refusal(file)
    said = mend(file)
    rows = read_store(file)
    assert names(rows) >= names(old)
    assert len(names(rows) & names(new)) > 270
    assert f"holds {len(rows)} verdicts" in said
    assert file.with_name(f"{file.name}.damaged-1").read_bytes() == data
    store = Store.open(file)
    assert store.sit("Ada").number == 3
    store.close()


@pytest.mark.parametrize("content", [b"", b"case,axis,index\n" * 100])
def test_a_file_that_was_emptied_or_overwritten_is_mended_from_the_copy(
    file: Path, content: bytes
) -> None:
    rows = judged(file, 3)
    Store.open(file).close()
    file.write_bytes(content)
    assert "0 of its verdicts can still be read" in refusal(file)
    mend(file)
    assert list(read_store(file)) == rows


def test_a_store_that_is_gone_while_its_copy_is_there_is_not_begun_anew(
    file: Path,
) -> None:
    rows = judged(file, 3)
    Store.open(file).close()
    file.unlink()
    assert "it is empty or gone" in refusal(file)
    mend(file)
    assert list(read_store(file)) == rows


def test_what_was_written_last_is_not_thrown_away_with_an_emptied_file(
    file: Path,
) -> None:
    store = Store.open(file)
    store.sit("Ada").judge(ABOUT, "good")
    crashed = file.with_name("crashed")
    crashed.mkdir()
    shutil.copy(file.with_name(f"{file.name}-wal"), crashed)
    store.close()
    (crashed / file.name).write_bytes(b"")
    assert "not what was written last" in refusal(crashed / file.name)
    assert (crashed / f"{file.name}-wal").stat().st_size > 0


def test_a_crash_of_the_computer_leaves_all_that_was_on_the_disk(file: Path) -> None:
    store = Store.open(file)
    sitting = store.sit("Ada")
    rows = [sitting.judge(replace(ABOUT, index=i), "good") for i in range(5)]
    crashed = file.with_name("crashed")
    crashed.mkdir()
    for ending in ("", "-wal"):  # shared memory is gone after a crash
        shutil.copy(file.with_name(file.name + ending), crashed)
    store.close()
    assert list(read_store(crashed / file.name)) == rows
    reopened = Store.open(crashed / file.name)
    assert reopened.rows()[0] == rows
    reopened.close()


def test_a_last_page_that_was_cut_off_while_written_costs_only_itself(
    file: Path,
) -> None:
    store = Store.open(file)
    sitting = store.sit("Ada")
    rows = [sitting.judge(replace(ABOUT, index=i), "good") for i in range(5)]
    crashed = file.with_name("crashed")
    crashed.mkdir()
    for ending in ("", "-wal"):
        shutil.copy(file.with_name(file.name + ending), crashed)
    store.close()
    log = crashed / f"{file.name}-wal"
    os.truncate(log, log.stat().st_size - 100)
    assert list(read_store(crashed / file.name)) == rows[:-1]


def test_nothing_is_mended_where_nothing_is_broken_or_left(file: Path) -> None:
    judged(file, 1)
    with pytest.raises(ReviewError, match="is whole; there is nothing to mend"):
        mend(file)
    file.write_bytes(b"no database at all")
    with pytest.raises(ReviewError, match="nothing can be read from"):
        mend(file)
    assert file.read_bytes() == b"no database at all"


def test_a_row_that_cannot_be_true_is_left_behind(file: Path) -> None:
    rows = judged(file, 60)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP TRIGGER kdseg_verdicts_no_update")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE kdseg_verdicts SET axis = 7 WHERE number = 8")
        connection.commit()
    data = bytearray(file.read_bytes())
    data[36:40] = (3).to_bytes(4, "big")  # says that three pages are free
    file.write_bytes(data)
    says = refusal(file)
    assert "59 of its verdicts can still be read" in says
    mend(file)
    assert list(read_store(file)) == rows[:7] + rows[8:]
