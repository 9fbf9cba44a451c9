"""Which verdicts count, and how they lie in a table."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from napari_kdseg.errors import DataSetError
from napari_kdseg.review.verdicts import (
    COLUMNS,
    Verdict,
    current,
    is_store,
    read_verdicts,
    settled,
    write_verdicts,
)

FULL = Verdict(
    case="fish, old",
    axis=2,
    index=17,
    verdict="good",
    source="human",
    labels_hash="ab12",
    reviewer="Ada",
    model="f0",
    prediction="p1",
    scan_hash="5c",
    project='"Medaka"',
    kind="take-back",
    sitting=3,
    seq=41,
    seconds=0.7000000000000001,
    comment="gut, half",
    created_utc="2026-11-20T10:00:00.000+00:00",
    uuid="u-1",
)


def said(word: Any, sitting: int, seq: int, **more: Any) -> Verdict:
    values = {"labels_hash": "ab", "reviewer": "Ada", **more}
    return Verdict("fish", 0, 7, word, "human", sitting=sitting, seq=seq, **values)


def words(*rows: Verdict) -> list[str]:
    return [one.verdict for one in current(rows)]


# ---- what counts ----


def test_the_newest_counts_by_sitting_and_seq_whatever_the_clock_says() -> None:
    late = said("good", 1, 9, created_utc="2030-01-01T00:00:00.000+00:00")
    early = said("bad", 2, 1, created_utc="2020-01-01T00:00:00.000+00:00")
    assert words(early, late) == ["bad"]
    assert words(said("good", 2, 2), said("bad", 2, 1)) == ["good"]


def test_among_equals_the_later_row_counts() -> None:
    assert words(said("good", 0, 0), said("bad", 0, 0)) == ["bad"]


def test_a_taken_back_verdict_does_not_count() -> None:
    back = said("good", 1, 2, kind="take-back")
    assert words(said("good", 1, 1), back) == []
    assert words(back, said("good", 1, 1)) == []


def test_to_take_back_does_not_bring_an_earlier_verdict_to_life() -> None:
    back = said("bad", 1, 3, kind="take-back")
    assert words(said("good", 1, 1), said("bad", 1, 2), back) == []


def test_a_slice_that_was_taken_back_can_be_judged_anew() -> None:
    back = said("good", 1, 2, kind="take-back")
    assert words(said("good", 1, 1), back, said("bad", 1, 3)) == ["bad"]


def test_reviewers_slices_and_predictions_are_kept_apart() -> None:
    rows = [
        said("good", 1, 1),
        said("bad", 2, 1, reviewer="Ben"),
        said("unsure", 3, 1, labels_hash="cd"),
        replace(said("bad", 3, 2), index=8),
        replace(said("bad", 3, 3), axis=1),
        replace(said("bad", 3, 4), case="eel"),
    ]
    assert list(current(rows)) == rows


def test_a_taken_back_verdict_is_not_in_the_majority() -> None:
    rows = [
        said("good", 1, 1),
        said("bad", 2, 1, reviewer="Ben"),
        said("bad", 2, 2, reviewer="Ben", kind="take-back"),
        replace(said("bad", 2, 3, reviewer="Ben"), index=8),
    ]
    assert settled(rows, "v") == {("fish", 0, 7): True, ("fish", 0, 8): False}


def test_what_a_verdict_is_about_names_the_exact_prediction() -> None:
    about = FULL.about
    assert about.place == ("fish, old", 2, 17)
    assert (about.labels_hash, about.model, about.prediction) == ("ab12", "f0", "p1")
    assert about.scan_hash == "5c"


# ---- tables ----


def test_every_column_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_verdicts(tmp_path / "v.csv", [FULL])
    assert read_verdicts(tmp_path / "v.csv") == (FULL,)
    assert all(getattr(FULL, name) for name in COLUMNS), "a column went untested"


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("kind", "undo", "kind is 'undo'; write one of verdict, take-back"),
        ("sitting", "-1", "sitting is '-1'; write a whole number from 0"),
        ("seq", "1.5", "seq is '1.5'; write a whole number from 0"),
        ("seq", "²", "seq is '²'; write a whole number from 0"),
        ("sitting", str(2**63), f"sitting is '{2**63}'; write a whole number from 0"),
        ("seconds", "fast", "seconds is 'fast'; write a number from 0"),
        ("seconds", "nan", "seconds is 'nan'; write a number from 0"),
        ("seconds", "-2", "seconds is '-2'; write a number from 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(
    tmp_path: Path, column: str, value: str, says: str
) -> None:
    head = "case,axis,index,verdict,source"
    (tmp_path / "v.csv").write_text(
        f"{head},{column}\na,0,1,good,human,\nb,0,1,good,human,{value}\n"
    )
    with pytest.raises(DataSetError) as caught:
        read_verdicts(tmp_path / "v.csv")
    assert f"{tmp_path / 'v.csv'}, line 3: {says}" in str(caught.value)


def test_a_store_is_known_by_its_ending_its_beginning_or_its_address(
    tmp_path: Path,
) -> None:
    (tmp_path / "reviews").write_bytes(b"SQLite format 3\0...")
    (tmp_path / "v.csv").write_text("case,axis\n")
    assert is_store(tmp_path / "reviews")
    assert is_store(tmp_path / "not-yet.sqlite")
    assert is_store("postgresql://ada@lab/fish")
    assert not is_store(tmp_path / "v.csv")
    assert not is_store(tmp_path / "not-yet.csv")


def test_tables_are_read_without_loading_a_database_or_torch() -> None:
    code = (
        "import sys, napari_kdseg.review.verdicts\n"
        "assert not {'sqlalchemy', 'torch'} & set(sys.modules)\n"
        "import napari_kdseg.review.store, napari_kdseg.review.agreement\n"
        "assert not {'psygnal', 'torch', 'napari', 'qtpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
