"""Verdicts of one reviewer and of several: kept, taken back, counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sittings import (
    Clock,
    add_predicted_scan,
    judge_all_good,
    place,
    places,
    settle,
    sitting,
    told,
)

from napari_kdseg.errors import ReviewError
from napari_kdseg.project import Project
from napari_kdseg.review.queue import Filter
from napari_kdseg.review.sittings import Sitting
from napari_kdseg.review.store import Store
from napari_kdseg.review.verdicts import About
from napari_kdseg.state.review.review import PAGE, Review

# ---- Verdicts ----


def test_a_verdict_is_in_the_store_when_the_next_slice_is_told(
    review: Review, out: Path
) -> None:
    assert review.home is not None
    other = Store.open(review.home / "verdicts.sqlite")
    stored: list[int] = []
    review.current_changed.connect(lambda: stored.append(len(other.rows()[0])))
    review.judge("bad")
    assert stored == [1]
    (row,), _ = other.rows()
    other.close()
    assert (row.place, row.verdict, row.reviewer) == (("a", 0, 1), "bad", "Ada")
    assert row.labels_hash == review.predictions[0].labels_hash
    assert row.prediction == review.predictions[0].uuid


def test_a_judged_slice_does_not_come_again(review: Review) -> None:
    first = review.current
    assert first is not None
    review.judge("unsure")
    assert first not in (review.current, *review.page)
    said = review.judged(first)
    assert said is not None
    assert said.verdict == "unsure"


def test_a_comment_goes_with_one_verdict(review: Review) -> None:
    review.comment = "gills merged"
    first, second = review.page[:2]
    review.judge("bad")
    review.judge("bad")
    comments = [said.comment for a in (first, second) if (said := review.judged(a))]
    assert comments == ["gills merged", ""]


@pytest.mark.parametrize("leave", [Review.skip, Review.next])
def test_a_comment_waits_at_its_slice_until_that_is_judged(
    review: Review, leave: Callable[[Review], None]
) -> None:
    first = review.current
    assert first is not None
    review.comment = "gills merged"
    leave(review)
    second = review.current
    assert second not in (None, first)
    assert review.comment == ""
    review.judge("good")
    review.go_to(first)
    assert review.comment == "gills merged"
    review.judge("bad")
    assert comments_on(review, first, second) == ["gills merged", ""]


def test_other_slices_in_the_queue_do_not_take_the_comment_with_them(
    review: Review,
) -> None:
    first = review.current
    assert first is not None
    review.comment = "gills merged"
    review.filters = Filter(cases=frozenset({"b"}))
    assert place(review) == ("b", 2)
    review.judge("good")
    review.filters = Filter()
    review.go_to(first)
    assert review.comment == "gills merged"


def test_comments_on_slices_of_a_page_are_kept_with_its_verdicts(
    review: Review,
) -> None:
    page = review.page
    review.comment = "gills merged"
    review.go_to(page[4])
    review.comment = "half a liver"
    assert review.judge_page(page, {page[4]})
    assert comments_on(review, *page[:5]) == ["gills merged", *3 * [""], "half a liver"]


def test_a_verdict_that_is_taken_back_leaves_its_comment(review: Review) -> None:
    first = review.current
    review.comment = "gills merged"
    review.judge("good")
    review.take_back()
    assert (review.current, review.comment) == (first, "gills merged")
    review.judge("bad")
    assert comments_on(review, first) == ["gills merged"]


def test_a_comment_is_not_put_into_the_mouth_of_another_reviewer(
    review: Review,
) -> None:
    review.comment = "gills merged"
    assert review.begin("Ada")
    assert review.comment == "gills merged"
    assert review.begin("Bob")
    assert review.comment == ""


def test_a_verdict_that_could_not_be_kept_loses_no_comment(
    review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any) -> None:
        raise ReviewError("The disk is full.")

    review.comment = "gills merged"
    monkeypatch.setattr(Sitting, "judge_all", refuse)
    review.judge("bad")
    assert (review.status, review.comment) == ("The disk is full.", "gills merged")


def comments_on(review: Review, *abouts: About | None) -> list[str]:
    said = [review.judged(about) for about in abouts if about is not None]
    return [one.comment for one in said if one is not None]


def test_a_verdict_says_how_long_it_took(review: Review, clock: Clock) -> None:
    first = review.current
    assert first is not None
    clock.now += 2.5
    review.judge("good")
    said = review.judged(first)
    assert said is not None
    assert said.seconds == 2.5


def test_a_page_is_judged_at_once(review: Review) -> None:
    page = review.page
    assert len(page) == 10  # of 25 at most
    assert PAGE == 25
    assert review.judge_page(page, {page[3], page[7]})
    assert review.current is None
    assert (review.counts.good, review.counts.bad) == (8, 2)


def test_a_verdict_that_is_taken_back_does_not_count_and_its_slice_returns(
    review: Review,
) -> None:
    first = review.current
    assert first is not None
    review.judge("good")
    review.judge("bad")
    review.take_back()
    review.take_back()
    assert review.current == first
    assert review.judged(first) is None
    assert review.counts.judged == 0
    review.judge("bad")
    assert place(review) == ("a", 2)


def test_a_page_is_judged_as_it_was_shown_whatever_comes_next_by_now(
    review: Review, out: Path
) -> None:
    review.filters = Filter(cases=frozenset({"a"}))
    shown = review.page
    assert places(shown) == [("a", z) for z in range(1, 7)]
    review.filters = Filter(cases=frozenset({"b"}))
    assert places(review.page) == [("b", z) for z in range(2, 6)]
    assert review.judge_page(shown, {shown[2]})
    store = Store.open(out / "review" / "verdicts.sqlite")
    rows, _ = store.rows()
    store.close()
    assert [(row.case, row.index, row.verdict) for row in rows] == [
        *(("a", z, "bad" if z == 3 else "good") for z in range(1, 7))
    ]
    assert place(review) == ("b", 2), "what comes next has not been judged"


def test_a_page_of_nothing_is_no_verdict(review: Review) -> None:
    assert not review.judge_page((), ())
    review.take_back()
    assert review.status == "There is nothing to take back."


def test_a_page_in_view_stays_as_it_is_until_it_is_judged(
    out: Path, clock: Clock
) -> None:
    review = Review(clock=clock)
    review.open_folder(out)
    review.begin("Ada")
    review.order = "sequence"
    review.filters = Filter(cases=frozenset({"a"}))
    page = review.page
    clock.now += 3  # somebody looks at it by now
    settle(review)
    assert review.page == page
    assert ("a", 0) in places(page)  # nobody knew that it is empty
    review.judge_page(page, set())
    assert review.current is None
    review.filters = Filter()
    assert places(review.page) == [("b", z) for z in (2, 3, 4, 5)]
    review.close()


def test_a_page_is_taken_back_at_once(review: Review) -> None:
    page = review.page
    review.judge_page(page, set())
    review.take_back()
    assert review.page == page
    assert review.counts.judged == 0


def test_with_nothing_judged_there_is_nothing_to_take_back(review: Review) -> None:
    review.take_back()
    assert review.status == "There is nothing to take back."


def test_a_verdict_on_another_axis_is_taken_back_where_it_was(review: Review) -> None:
    first = review.current
    review.judge("good")
    review.axis = 1
    review.take_back()
    assert review.axis == 0
    assert review.current == first


def test_without_a_reviewer_nothing_is_judged(out: Path) -> None:
    review = Review()
    review.open_folder(out)
    before = review.current
    review.judge("good")
    assert review.current == before
    assert "Write your name" in review.status
    assert not review.begin("  ")
    assert "name" in review.status


def test_judged_slices_can_be_looked_through_again(review: Review) -> None:
    judge_all_good(review)
    review.filters = Filter(unjudged=False)
    assert len(review.page) == 10
    review.judge("bad")
    assert place(review) == ("a", 2)
    assert (review.counts.good, review.counts.bad) == (9, 1)


# ---- Counts ----


def test_pace_and_time_left_are_those_of_the_last_minutes(
    review: Review, clock: Clock
) -> None:
    assert review.counts.left_s is None
    for _ in range(4):
        clock.now += 5.0
        review.judge("good")
    assert review.counts.pace_per_min == pytest.approx(12.0)
    assert review.counts.left_s == pytest.approx(6 * 5.0)


def test_a_break_does_not_count_for_the_pace_for_long(
    review: Review, clock: Clock
) -> None:
    review.judge("good")
    clock.now += 3600
    for _ in range(3):
        clock.now += 5
        review.judge("good")
    assert review.counts.pace_per_min == pytest.approx(12.0)


# ---- Several reviewers ----


def test_what_others_judged_does_not_come_and_counts(
    review: Review, out: Path, clock: Clock
) -> None:
    other = sitting(out, clock, "Bob")
    other.judge("bad")
    other.judge("bad")
    changed = told(review, "counts_changed")
    clock.now += 3
    review.poll()
    assert changed
    assert review.counts.bad == 2
    assert place(review) == ("a", 1)  # in view, although Bob has judged it
    review.skip()
    assert place(review) == ("a", 3)
    other.close()


def test_others_verdicts_may_be_left_aside(
    review: Review, out: Path, clock: Clock
) -> None:
    other = sitting(out, clock, "Bob")
    judge_all_good(other)
    clock.now += 3
    review.poll()
    review.filters = Filter(by_anyone=False)
    assert review.counts.judged == 0
    assert len(review.page) == 10
    other.close()


def test_slices_that_reviewers_disagree_about_are_shown_alone(
    review: Review, out: Path, clock: Clock
) -> None:
    page = review.page
    review.judge_page(page, {page[4]})
    other = sitting(out, clock, "Bob")
    other.filters = Filter(by_anyone=False)
    assert other.page == page
    other.judge_page(page, {page[4], page[6]})
    clock.now += 3
    review.poll()
    assert review.orders["disagreement"] == ""
    review.order = "disagreement"
    assert review.page == (page[6],)
    review.judge("bad")
    assert review.current is None
    other.close()


def test_two_reviewers_meet_slices_at_random_in_different_orders(
    out: Path, clock: Clock
) -> None:
    first = sitting(out, clock, "Ada", "random")
    orders = [first.page]
    first.close()
    second = sitting(out, clock, "Bob", "random")
    orders.append(second.page)
    second.close()
    assert set(orders[0]) == set(orders[1])
    assert orders[0][1:] != orders[1][1:]


# ---- Going on another day ----


def test_a_review_goes_on_where_it_stopped(out: Path, clock: Clock) -> None:
    first = sitting(out, clock)
    first.axis = 1
    first.filters = Filter(cases=frozenset({"a"}))
    first.judge("good")
    first.skip()
    stopped = first.current
    first.close()
    assert first.current is None
    again = Review(clock=clock)
    again.open_folder(out)
    assert again.current == stopped
    assert (again.axis, again.order, again.reviewer) == (1, "sequence", "Ada")
    assert again.filters.cases == {"a"}
    assert again.counts.judged == 1
    assert not again.can_judge
    again.close()


def test_after_a_crash_verdicts_are_there_and_the_next_slice_comes(
    out: Path, clock: Clock
) -> None:
    first = sitting(out, clock)
    for _ in range(3):
        first.judge("good")
    del first  # without closing it
    again = sitting(out, clock)
    assert again.counts.judged == 3
    assert place(again) == ("a", 4)
    again.take_back()
    assert place(again) == ("a", 3)
    again.close()


def test_a_damaged_note_of_the_place_means_beginning_anew(
    out: Path, clock: Clock
) -> None:
    first = sitting(out, clock)
    first.judge("good")
    first.close()
    (out / "review" / "state.json").write_text("{")
    again = Review(clock=clock)
    again.open_folder(out)
    assert again.current is not None
    assert again.order == "random"
    again.close()


def test_slices_are_gone_over_once_and_for_all(out: Path, clock: Clock) -> None:
    first = sitting(out, clock)
    first.judge("good")
    settle(first)
    first.close()
    again = Review(clock=clock)
    again.open_folder(out)
    assert again.counts.total == 10, "without a call of work"
    again.close()


def test_an_order_by_scores_is_found_again_with_them(out: Path, clock: Clock) -> None:
    scores = {("a", 0, z): 0.9 for z in range(8)}
    first = sitting(out, clock)
    first.set_scores(scores)
    first.order = "sequence"
    first.judge("good")
    first.close()
    again = sitting(out, clock)
    again.set_scores(scores)
    assert again.order == "sequence"
    again.close()


def test_a_project_is_reviewed_in_its_own_folder(tmp_path: Path, clock: Clock) -> None:
    with Project.create(tmp_path / "fish", "Medaka") as project:
        add_predicted_scan(project)
        review = sitting(project.folder, clock)
        review.judge("good")
        (verdict,) = review.verdicts
        assert verdict.project == "Medaka"
        assert review.home == project.folder / "review"
        review.close()


def test_a_project_that_moved_is_reviewed_further(tmp_path: Path, clock: Clock) -> None:
    with Project.create(tmp_path / "old" / "fish") as project:
        add_predicted_scan(project)
        review = sitting(project.folder, clock)
        review.judge("good")
        review.close()
    (tmp_path / "old").rename(tmp_path / "new")
    again = sitting(tmp_path / "new" / "fish", clock)
    assert again.notes == ()
    assert again.counts.good == 1
    assert again.current is not None
    assert again.plane(again.current).labels.any()
    again.close()
