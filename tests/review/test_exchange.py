"""Rows that come from elsewhere: out of a store as a table, and into another."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from napari_kdseg.errors import ReviewError
from napari_kdseg.review.store import Store, imported
from napari_kdseg.review.verdicts import (
    About,
    Verdict,
    current,
    read_verdicts,
    write_verdicts,
)

ABOUT = About("fish", 0, 17, "ab" * 32, "model", "prediction", "scan")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "verdicts.sqlite"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    opened = Store.open(file, "Medaka")
    yield opened
    opened.close()


def test_rows_survive_the_way_through_a_table_into_another_store(
    file: Path, store: Store, tmp_path: Path
) -> None:
    sitting = store.sit("Ada")
    one = sitting.judge(ABOUT, "good", seconds=0.1, comment="soft, at the edge")
    rows = [one, sitting.take_back(one)]
    write_verdicts(tmp_path / "v.csv", read_verdicts(file))
    other = Store.open(tmp_path / "other.sqlite")
    assert other.add(read_verdicts(tmp_path / "v.csv")) == 2
    assert other.rows()[0] == rows
    other.close()


def test_the_same_rows_added_twice_are_added_once(store: Store) -> None:
    named = Verdict("fish", 0, 1, "good", "imported", uuid="u")
    bare = Verdict("fish", 0, 1, "good", "imported")
    other = Verdict("fish", 0, 1, "bad", "imported")
    assert store.add([named, bare, other, bare]) == 4
    assert store.add([named, bare, other, bare]) == 0
    assert store.add([bare, named, bare, other, bare]) == 1
    assert [one.verdict for one in current(store.rows()[0])] == ["good"]


def test_one_name_for_two_different_rows_is_refused(store: Store) -> None:
    rows = [
        Verdict("fish", 0, 1, word, "imported", uuid="u") for word in ("good", "bad")
    ]
    with pytest.raises(ReviewError, match="two rows have the uuid u"):
        store.add(rows)  # type: ignore[arg-type]
    assert store.rows() == ([], 0)


def test_imported_verdicts_are_marked_and_simulated_ones_stay_so() -> None:
    rows = [
        Verdict("fish", 0, 1, "good", "human"),
        Verdict("fish", 0, 2, "good", "simulated"),
        Verdict("fish", 0, 3, "good", "imported"),
    ]
    assert [one.source for one in imported(rows)] == [
        "imported",
        "simulated",
        "imported",
    ]
