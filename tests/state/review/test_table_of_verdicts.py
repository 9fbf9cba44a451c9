"""Verdicts as a table: how far reviewers agree, what is written, what is added."""

import shutil
from pathlib import Path

import pytest
from sittings import Clock, sitting

from napari_kdseg.review.verdicts import About, Word, read_verdicts
from napari_kdseg.state.review.review import Review


def judged_on_a_copy(
    out: Path, clock: Clock, table: Path, *words: Word
) -> tuple[About, ...]:
    """Have Bob judge the first slices on a copy, and save what he said."""
    other = sitting(shutil.copytree(out, table.with_name("copy")), clock, "Bob")
    judged = other.page[: len(words)]
    for word in words:
        other.judge(word)
    other.export_verdicts(table)
    other.close()
    return judged


def test_agreement_with_a_colleague_s_table_is_told_in_words(
    review: Review, out: Path, tmp_path: Path, clock: Clock
) -> None:
    review.say_agreement()
    assert review.status.startswith("0 reviewers have verdicts here")
    judged_on_a_copy(out, clock, tmp_path / "bob.csv", "good", "good", "good")
    for word in ("good", "bad", "good"):
        review.judge(word)  # type: ignore[arg-type]
    review.import_verdicts(tmp_path / "bob.csv")
    review.say_agreement()
    assert "Ada and Bob agree on 2 of 3 slices; Cohen's kappa" in review.status
    assert "One slice is good for some and bad for others" in review.status


def test_a_saved_table_has_take_backs_and_is_added_once(
    review: Review, out: Path, tmp_path: Path
) -> None:
    review.judge("bad")
    review.judge("good")
    review.take_back()
    table = tmp_path / "verdicts.csv"
    review.export_verdicts(table)
    assert review.status.endswith("verdicts.csv holds 3 verdicts and take-backs.")
    assert [row.kind for row in read_verdicts(table)].count("take-back") == 1
    review.import_verdicts(table)
    assert review.status == "0 new rows; there already: 3."


def test_what_is_added_counts_from_the_next_look_on(
    review: Review, out: Path, tmp_path: Path, clock: Clock
) -> None:
    (judged,) = judged_on_a_copy(out, clock, tmp_path / "bob.csv", "bad")
    review.import_verdicts(tmp_path / "bob.csv")
    review.poll()
    said = review.judged(judged)
    assert said is not None
    assert (said.reviewer, said.verdict) == ("Bob", "bad")


@pytest.mark.parametrize("name", ["none.csv", "damaged.csv"])
def test_a_table_that_cannot_be_read_is_told(
    review: Review, tmp_path: Path, name: str
) -> None:
    (tmp_path / "damaged.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    review.import_verdicts(tmp_path / name)
    assert name in review.status


def test_a_table_that_cannot_be_written_is_told(review: Review, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    review.export_verdicts(tmp_path / "file" / "verdicts.csv")
    assert "cannot be written" in review.status
