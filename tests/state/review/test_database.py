"""Verdicts of several reviewers in one database of the lab, as the dock keeps them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_predictions import write_prediction

from napari_kdseg.review.store import read_store
from napari_kdseg.review.verdicts import current
from napari_kdseg.state.review.review import Review

SHAPE = (8, 5, 6)


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A scan of eight slices, labelled in six of them."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:7] = 1
    write_prediction(tmp_path / "out", "a", labels)
    return tmp_path / "out"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def review(out: Path, clock: Clock) -> Iterator[Review]:
    made = opened(out, clock)
    assert made.begin("Ada")
    yield made
    made.close()


def opened(out: Path, clock: Clock) -> Review:
    review = Review(clock=clock)
    review.open_folder(out)
    while review.work():
        pass
    review.poll()
    review.order = "sequence"
    return review


def test_verdicts_move_into_the_database_and_reviewers_share_them(
    review: Review, out: Path, clock: Clock, tmp_path: Path, postgres_url: str
) -> None:
    review.judge("good")
    assert review.keep_verdicts_in(postgres_url), review.status
    assert review.database == postgres_url
    assert not review.can_judge
    assert review.counts.good == 1
    assert review.begin("Ada")
    review.judge("bad")

    elsewhere = tmp_path / "copy"  # another computer with its own copy of the scans
    shutil.copytree(out, elsewhere)
    other = opened(elsewhere, clock)
    assert other.database == postgres_url
    assert other.begin("Bob")
    assert (other.counts.good, other.counts.bad) == (1, 1)
    other.judge("unsure")
    clock.now += 3
    review.poll()
    assert review.counts.unsure == 1
    review.take_back()
    clock.now += 3
    other.poll()
    assert (other.counts.good, other.counts.bad, other.counts.unsure) == (1, 0, 1)
    other.close()
    rows = read_store(postgres_url)
    assert [(one.reviewer, one.verdict, one.kind) for one in rows] == [
        ("Ada", "good", "verdict"),
        ("Ada", "bad", "verdict"),
        ("Bob", "unsure", "verdict"),
        ("Ada", "bad", "take-back"),
    ]
    assert len(current(rows)) == 2


def test_a_page_is_kept_in_the_database_and_taken_back_at_once(
    review: Review, postgres_url: str
) -> None:
    assert review.keep_verdicts_in(postgres_url)
    assert review.begin("Ada")
    page = review.page
    assert review.judge_page(page, {page[2]})
    assert (review.counts.good, review.counts.bad) == (len(page) - 1, 1)
    review.take_back()
    assert review.counts.judged == 0
    assert review.page == page


def test_verdicts_come_back_into_the_folder(
    review: Review, out: Path, postgres_url: str
) -> None:
    assert review.keep_verdicts_in(postgres_url)
    assert review.begin("Ada")
    review.judge("good")
    assert review.keep_verdicts_in("")
    assert review.database == ""
    assert review.counts.good == 1
    assert len(read_store(out / "review" / "verdicts.sqlite")) == 1


def test_a_database_out_of_reach_leaves_all_as_it_was(review: Review) -> None:
    review.judge("good")
    assert not review.keep_verdicts_in("postgresql://127.0.0.1:1/fish")
    assert "See whether it runs" in review.status
    assert review.can_judge
    review.judge("good")
    assert review.counts.good == 2


def test_a_database_that_went_away_is_told_and_found_again_by_a_refresh(
    out: Path, clock: Clock, review: Review, postgres_url: str
) -> None:
    review.judge("good")
    assert review.keep_verdicts_in(postgres_url)
    note = out / "review" / "database.json"
    right = note.read_text(encoding="utf-8")
    port = right.split("127.0.0.1:")[1].split("/")[0]
    note.write_text(right.replace(f":{port}/", ":1/"), encoding="utf-8")
    other = opened(out, clock)
    assert "See whether it runs" in other.closed
    assert other.current is not None, "slices can be looked at"
    note.write_text(right, encoding="utf-8")
    other.refresh()
    assert other.closed == ""
    assert other.begin("Bob")
    other.close()
