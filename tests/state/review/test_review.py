"""Reviewing predictions without a viewer: the queue, verdicts, resuming, odd cases."""

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_predictions import change_record, hash_of, write_prediction, write_regions

from napari_kdseg.errors import VolumeError
from napari_kdseg.project import Project
from napari_kdseg.review.planes import Plane, Planes
from napari_kdseg.review.queue import Filter, Order
from napari_kdseg.review.store import Store
from napari_kdseg.review.verdicts import About, Verdict
from napari_kdseg.state.review import desk as desk_module
from napari_kdseg.state.review.review import PAGE, Review
from napari_kdseg.volumes.scan import NewScan, VolumeFile

SHAPE = (8, 5, 6)
RNG = np.random.default_rng(0)


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def labels_of(*filled: int) -> np.ndarray:
    """Labels in these slices along z, in one corner of each."""
    labels = np.zeros(SHAPE, np.uint8)
    for z in filled:
        labels[z, 0, : z + 1] = 1
    return labels


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two scans of eight slices; six of one and four of the other show something."""
    unsure = np.zeros(SHAPE, np.float32)
    unsure[5], unsure[2] = 0.9, 0.6
    folder = tmp_path / "out"
    write_prediction(folder, "a", labels_of(1, 2, 3, 4, 5, 6), uncertainty=unsure)
    write_prediction(folder, "b", labels_of(2, 3, 4, 5))
    return folder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def review(out: Path, clock: Clock) -> Iterator[Review]:
    """A sitting of Ada's, in sequence, with all that is known of the slices."""
    made = sitting(out, clock)
    yield made
    made.close()


def sitting(
    out: Path, clock: Clock, name: str = "Ada", order: Order = "sequence"
) -> Review:
    made = Review(clock=clock)
    made.open_folder(out)
    settle(made)
    made.order = order
    made.set_sample(None)  # from the first slice on
    assert made.begin(name), made.status
    return made


def settle(review: Review) -> None:
    """Let what is waiting in the background be done, and told."""
    while review.work():
        pass
    review.poll()


def place(review: Review) -> tuple[str, int]:
    assert review.current is not None
    return review.current.case, review.current.index


def places(abouts: tuple[About, ...]) -> list[tuple[str, int]]:
    return [(about.case, about.index) for about in abouts]


def told(review: Review, signal: str) -> list[Any]:
    """Count how often a signal is emitted from now on."""
    seen: list[Any] = []
    getattr(review, signal).connect(lambda *_: seen.append(1))
    return seen


def judge_all_good(review: Review) -> None:
    """Accept a contact sheet as it is."""
    assert review.judge_page(review.page, set())


# ---- What there is ----


def test_before_a_folder_is_open_there_is_nothing_to_judge() -> None:
    review = Review()
    assert review.current is None
    assert review.page == ()
    assert review.models == ()
    assert not review.begin("Ada")
    assert "Choose a project" in review.status
    assert not review.work()
    review.judge("good")
    review.skip()
    review.next()
    review.poll()
    review.close()


def test_slices_on_which_nothing_is_labelled_do_not_come(review: Review) -> None:
    seen = [place(review), *places(review.ahead)]
    assert seen == [*(("a", z) for z in range(1, 7)), *(("b", z) for z in (2, 3, 4))]
    assert review.counts.total == 10


def test_empty_slices_come_where_they_are_asked_for(review: Review) -> None:
    review.filters = Filter(hide_empty=False)
    assert review.counts.total == 16


def test_slices_can_be_cut_along_any_axis(review: Review) -> None:
    review.axis = 2
    assert review.current is not None
    assert review.current.axis == 2
    assert review.counts.total == 12  # x 0..5 of both: the corner grows with z
    plane = review.plane(review.current)
    assert plane.labels.shape == SHAPE[:2]


def test_a_folder_without_predictions_is_told(tmp_path: Path) -> None:
    review = Review()
    review.open_folder(tmp_path)
    assert "holds no predictions" in review.status
    assert review.current is None


def test_a_path_that_is_no_folder_is_told(tmp_path: Path) -> None:
    review = Review()
    review.open_folder(tmp_path / "nowhere")
    assert "is no folder" in review.status


def test_the_predictions_of_one_model_are_judged_at_a_time(
    out: Path, clock: Clock
) -> None:
    write_prediction(out, "a", labels_of(7), model="teacher")
    review = sitting(out, clock)
    assert review.models == ("student", "teacher")
    review.model = "teacher"
    settle(review)
    assert places(review.page) == [("a", 7)]
    assert review.cases == ("a",)


def test_models_of_one_name_are_told_apart_by_their_fingerprints(
    out: Path, clock: Clock
) -> None:
    write_prediction(out, "c", labels_of(3), fingerprint="0123456789")
    review = sitting(out, clock)
    first = f"student {hash_of(b'student')[:8]}"
    assert set(review.models) == {first, "student 01234567"}


def test_new_predictions_are_noticed(review: Review, out: Path, clock: Clock) -> None:
    write_prediction(out, "c", labels_of(3))
    clock.now += desk_module.LOOK_EVERY_S + 1
    before = review.current
    settle(review)
    assert review.cases == ("a", "b", "c")
    assert review.current == before


# ---- Orders ----


def test_the_most_uncertain_slices_come_first(review: Review) -> None:
    review.order = "uncertainty"
    assert [place(review), *places(review.ahead)][:2] == [("a", 5), ("a", 2)]


def test_conflict_between_teachers_leads_to_its_slices(out: Path, clock: Clock) -> None:
    bits = np.zeros(SHAPE, np.uint8)
    bits[4, 0, 0] = 3
    write_regions(out / "b", bits)
    review = sitting(out, clock)
    review.order = "conflict"
    assert place(review) == ("b", 4)


def test_an_order_that_cannot_be_had_says_why(review: Review) -> None:
    review.order = "doubt"
    assert review.order == "sequence"
    assert "train one" in review.status
    assert "regions" in review.orders["conflict"]
    assert "one reviewer" in review.orders["disagreement"]
    assert review.orders["uncertainty"] == ""


def test_scores_turn_the_queue_to_the_doubtful_slices(review: Review) -> None:
    scores = {("a", 0, z): 0.9 for z in range(8)} | {("b", 0, 3): 0.52}
    before = review.current
    review.set_scores(scores)
    assert review.order == "doubt"
    assert review.current == before
    assert places(review.ahead)[0] == ("b", 3)


def test_accepted_and_refused_slices_are_told_apart_by_the_threshold(
    review: Review,
) -> None:
    review.set_scores({("a", 0, 1): 0.9, ("a", 0, 2): 0.6, ("b", 0, 3): 0.2})
    review.order = "sequence"
    review.filters = Filter(side="accepted")
    assert review.counts.total == 2
    review.threshold = 0.7
    assert places(review.page) == [("a", 1)]
    review.filters = Filter(side="refused")
    assert places(review.page) == [("a", 2), ("b", 3)]


def test_scores_are_of_one_model_and_go_with_it(out: Path, clock: Clock) -> None:
    write_prediction(out, "a", labels_of(7), model="teacher")
    review = sitting(out, clock)
    review.set_scores({("a", 0, 1): 0.5})
    review.model = "teacher"
    assert review.scores is None
    assert review.order != "doubt"


def test_an_order_made_in_the_background_is_taken_at_the_next_poll(
    out: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "LARGE_ROWS", 0)
    review = Review(clock=clock)
    review.open_folder(out)
    review.filters = Filter(hide_empty=False)
    review.order = "uncertainty"
    assert place(review) == ("a", 0)  # nothing is known yet
    settle(review)  # now the numbers are, and with them the order is due
    settle(review)
    assert place(review) == ("a", 0)  # the slice in view never changes by itself
    assert places(review.ahead)[:2] == [("a", 5), ("a", 2)]


def test_a_background_order_of_other_settings_is_not_taken(
    out: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "LARGE_ROWS", 0)
    review = Review(clock=clock)
    review.open_folder(out)
    review.order = "uncertainty"
    settle(review)
    while review.work():
        pass
    review.order = "sequence"
    review.set_sample(None)
    settle(review)
    settle(review)
    assert places(review.page)[:2] == [("a", 1), ("a", 2)]


# ---- Going on ----


def test_a_skipped_slice_comes_back_at_the_end(review: Review) -> None:
    skipped = place(review)
    review.skip()
    for _ in range(9):
        assert place(review) != skipped
        review.judge("good")
    assert place(review) == skipped


def test_skipping_everything_goes_round(review: Review) -> None:
    seen = []
    for _ in range(20):
        seen.append(place(review))
        review.skip()
    assert seen[:10] == seen[10:]


def test_the_last_slice_stays_when_it_is_skipped(review: Review) -> None:
    review.filters = Filter(cases=frozenset({"b"}))
    for _ in range(3):
        review.judge("good")
    last = review.current
    assert last is not None
    review.skip()
    review.next()
    assert review.current == last


def test_next_jumps_to_the_slice_that_would_tell_most(review: Review) -> None:
    review.next()
    assert place(review) == ("a", 5)
    assert places(review.ahead)[0] == ("a", 6)  # in sequence, from there
    review.next()
    assert place(review) == ("a", 2)


def test_next_goes_on_where_nothing_is_known(out: Path, clock: Clock) -> None:
    shutil.rmtree(out / "a")
    review = sitting(out, clock)
    review.next()
    assert place(review) == ("b", 3)
    assert "Nothing is known" in review.status


def test_a_slice_that_is_gone_to_is_followed_by_those_that_were_to_come(
    review: Review,
) -> None:
    there = review.ahead[6]
    review.go_to(there)
    assert review.current == there
    review.judge("good")
    assert place(review) == ("a", 1)
    assert there not in review.ahead


def test_going_to_a_slice_of_another_axis_changes_the_axis(review: Review) -> None:
    review.go_to(review.predictions[1].about(1, 0))
    assert (review.axis, place(review)) == (1, ("b", 0))


def test_going_to_a_prediction_that_is_not_there_is_told(review: Review) -> None:
    before = review.current
    review.go_to(About("nobody", 0, 0, "00"))
    assert review.current == before
    assert "changed or removed" in review.status


def test_only_the_scans_that_are_chosen_come(review: Review) -> None:
    review.filters = Filter(cases=frozenset({"b"}))
    assert place(review) == ("b", 2)
    assert review.counts.total == 4


def test_a_sample_is_gone_through_alone_and_in_its_order(review: Review) -> None:
    review.set_sample([("b", 0, 5), ("a", 0, 0), ("b", 0, 99)])
    assert places(review.page) == [("b", 5), ("a", 0)]
    review.judge("good")
    assert review.counts.judged == 1
    assert review.counts.total == 2
    review.judge("bad")
    assert review.current is None
    review.set_sample(None)
    assert place(review) == ("a", 1)


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
        out = project.folder / "predictions"
        write_prediction(out, "a", labels_of(1, 2))
        scan = project.folder / "scans" / "a.nii.gz"
        project.add_scan(NewScan((VolumeFile(scan),), case="a"))
        review = sitting(project.folder, clock)
        review.judge("good")
        (verdict,) = review.verdicts
        assert verdict.project == "Medaka"
        assert review.home == project.folder / "review"
        review.close()


def test_a_project_that_moved_is_reviewed_further(tmp_path: Path, clock: Clock) -> None:
    with Project.create(tmp_path / "old" / "fish") as project:
        out = project.folder / "predictions"
        write_prediction(out, "a", labels_of(1, 2))
        scan = project.folder / "scans" / "a.nii.gz"
        project.add_scan(NewScan((VolumeFile(scan),), case="a"))
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


# ---- Odd cases ----


def test_looking_at_predictions_leaves_nothing_beside_them(
    out: Path, clock: Clock
) -> None:
    review = sitting(out, clock)
    review.axis = 1
    review.skip()
    settle(review)
    review.take_back()
    review.close()
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
    review = sitting(out, clock)
    review.judge("bad")
    settle(review)
    review.close()
    made = {path.name for path in (out / "review").iterdir()}
    assert {"profiles", "state.json", "verdicts.sqlite"} <= made


def test_the_first_verdict_finds_what_others_said_meanwhile(
    out: Path, clock: Clock
) -> None:
    ada, bob = sitting(out, clock), sitting(out, clock, "Bob")
    first = ada.current
    assert first is not None
    ada.judge("bad")
    bob.skip()
    bob.judge("good")
    assert bob.judged(first) == ada.judged(first)
    assert bob.counts.judged == 2
    ada.close()
    bob.close()


def test_verdicts_on_a_prediction_that_has_changed_are_stale(
    out: Path, clock: Clock
) -> None:
    first = sitting(out, clock)
    judge_all_good(first)
    first.close()
    shutil.rmtree(out / "a")
    write_prediction(out, "a", labels_of(1, 2, 3))
    again = sitting(out, clock)
    assert again.stale == 6
    assert len(again.verdicts) == 4
    assert any("6 verdicts" in note for note in again.notes)
    assert places(again.page) == [("a", 1), ("a", 2), ("a", 3)]
    again.take_back()  # of those that are here
    assert place(again)[0] == "b"
    again.close()


def test_a_verdict_that_does_not_say_on_which_labels_counts_for_none(
    review: Review, clock: Clock
) -> None:
    assert review.home is not None
    store = Store.open(review.home / "verdicts.sqlite")
    store.add([Verdict("a", 0, 1, "good", "imported")])
    store.close()
    clock.now += 3
    review.poll()
    assert review.counts.judged == 0
    assert review.stale == 1


def test_a_scan_that_is_gone_leaves_the_rest_to_be_reviewed(
    out: Path, clock: Clock
) -> None:
    (out.parent / "scans" / "a.nii.gz").unlink()
    review = sitting(out, clock)
    assert review.cases == ("b",)
    assert any("a.nii.gz is missing" in note for note in review.notes)
    review.go_to(review.predictions[0].about(0, 1))
    assert "is missing" in review.status
    review.close()


def test_a_scan_that_is_located_again_is_reviewed_after_a_refresh(
    tmp_path: Path, clock: Clock
) -> None:
    with Project.create(tmp_path / "fish") as project:
        out = project.folder / "predictions"
        write_prediction(out, "a", labels_of(1, 2))
        scan = project.folder / "scans" / "a.nii.gz"
        project.add_scan(NewScan((VolumeFile(scan),), case="a"))
        (tmp_path / "elsewhere").mkdir()
        scan.rename(tmp_path / "elsewhere" / scan.name)
        review = sitting(project.folder, clock)
        assert review.current is None
        project.relocate("a", tmp_path / "elsewhere")
        review.refresh()
        assert review.current is not None
        assert review.notes == ()
        review.close()


def test_a_damaged_record_is_told_and_the_rest_reviewed(
    out: Path, clock: Clock
) -> None:
    change_record(out / "b" / "student", grid={})
    review = sitting(out, clock)
    assert review.cases == ("a",)
    assert any("left out" in note for note in review.notes)
    review.close()


def test_damaged_labels_are_told_and_can_be_skipped(out: Path, clock: Clock) -> None:
    path = out / "a" / "student" / "labels.nii.gz"
    path.write_bytes(path.read_bytes()[:40])
    review = sitting(out, clock)
    assert any("labels.nii.gz" in note for note in review.notes)
    current = review.current
    assert current is not None
    assert review.at_hand(current)  # that is, why there is nothing to see
    with pytest.raises(VolumeError):
        review.plane(current)
    review.filters = Filter(cases=frozenset({"b"}))
    assert review.current is not None
    assert review.plane(review.current).labels.any()
    review.close()


def test_where_nothing_can_be_written_predictions_can_be_looked_at(
    review: Review, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review.judge("bad")
    review.close()
    monkeypatch.setattr("os.access", lambda *_: False)
    review.open_folder(out)
    assert "can only be looked at" in review.closed
    assert review.closed in review.notes
    review.judge("good")
    assert review.status == review.closed
    assert not review.begin("Ada")
    assert "can only be looked at" in review.status
    assert review.counts.bad == 1
    assert review.current is not None
    assert review.plane(review.current).labels.any()


def test_what_may_not_be_written_to_can_be_looked_at_before_any_verdict(
    out: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    review = Review(clock=clock)
    review.open_folder(out)
    assert any("can only be looked at" in note for note in review.notes)
    assert review.current is not None
    assert review.plane(review.current).labels.shape == SHAPE[1:]
    assert not review.judge_page(review.page, ())
    review.close()
    assert not (out / "review").exists()


def test_a_store_of_a_newer_version_is_told_and_left_alone(
    out: Path, clock: Clock
) -> None:
    first = sitting(out, clock)
    first.judge("good")
    first.close()
    file = out / "review" / "verdicts.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(
            "INSERT INTO kdseg_store (version, created_utc) VALUES (99, '')"
        )
        connection.commit()
    review = Review(clock=clock)
    review.open_folder(out)
    assert "Update napari-kdseg" in review.closed
    assert not review.begin("Ada")
    assert "Update napari-kdseg" in review.status
    assert review.current is not None
    review.close()


def test_a_project_that_is_moved_while_it_is_open_says_so(
    out: Path, clock: Clock
) -> None:
    review = sitting(out, clock)
    review.judge("good")
    before = review.current
    out.rename(out.with_name("elsewhere"))
    review.judge("bad")
    assert "has been moved, removed or replaced" in review.status
    assert review.current == before, "nothing was judged"
    review.close()
    again = sitting(out.with_name("elsewhere"), clock)
    assert (again.counts.good, again.counts.bad) == (1, 0)
    again.close()


def test_somebody_else_under_ones_own_name_is_told(out: Path, clock: Clock) -> None:
    first, second = sitting(out, clock), sitting(out, clock)
    first.judge("good")
    second.judge("bad")
    clock.now += 3
    seen = told(first, "scans_changed")
    first.poll()
    (note,) = first.notes
    assert note.startswith("Ada is reviewing in another window or computer, too.")
    assert seen, "notes are shown anew"
    store = Store.open(out / "review" / "verdicts.sqlite")
    assert [row.verdict for row in store.rows()[0]] == ["good", "bad"]
    store.close()
    first.close()
    second.close()


def test_a_damaged_store_is_told_and_nobody_can_judge(out: Path, clock: Clock) -> None:
    (out / "review").mkdir()
    (out / "review" / "verdicts.sqlite").write_bytes(b"no database at all" * 100)
    review = Review(clock=clock)
    review.open_folder(out)
    assert any("verdicts.sqlite" in note for note in review.notes)
    assert not review.begin("Ada")
    assert "verdicts.sqlite" in review.status
    assert review.current is not None


# ---- Reading ahead ----


def test_slices_are_read_before_they_are_asked_for(review: Review) -> None:
    ready = told(review, "plane_ready")
    settle(review)
    assert review.current is not None
    assert all(review.at_hand(about) for about in (review.current, *review.ahead))
    review.judge("good")
    settle(review)
    assert all(review.at_hand(about) for about in review.ahead)
    assert len(ready) == 1  # the other slice was read


def test_a_plane_is_read_where_it_is_not_there(out: Path) -> None:
    review = Review()
    review.open_folder(out)
    assert review.current is not None
    assert not review.at_hand(review.current)
    assert review.plane(review.current).about == review.current
    assert review.at_hand(review.current)


def test_on_a_contact_sheet_thumbnails_are_read(review: Review) -> None:
    page = review.page
    settle(review)
    assert all(review.thumbnail_at_hand(about) for about in page)
    assert review.thumbnail(page[0]).labels.shape == SHAPE[1:]


def test_uncertainty_comes_with_planes_where_it_is_shown(review: Review) -> None:
    current = review.current
    assert current is not None
    assert review.plane(current).uncertainty is None
    review.uncertainty_shown = True
    assert review.plane(current).uncertainty is not None


def test_the_channels_of_the_scan_in_view_are_named(review: Review) -> None:
    assert review.channels == ("image",)
    review.channel = 1
    assert review.current is not None
    with pytest.raises(VolumeError, match="no channel 1"):
        review.plane(review.current)


def test_a_large_packed_scan_is_made_ready_in_the_background(
    out: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_kdseg.volumes.cache import Cache

    monkeypatch.setattr("napari_kdseg.volumes.opening.LARGEST_DECODED_BYTES", 300)
    review = Review(Cache(tmp_path / "cache"), clock)
    review.open_folder(out)
    assert review.current is not None
    assert not review.at_hand(review.current)
    with pytest.raises(VolumeError, match="wait for it"):
        review.plane(review.current)
    review.refresh()
    said = told(review, "plane_ready")
    settle(review)
    assert said
    assert review.plane(review.current).image.shape == SHAPE[1:]
    review.close()


def test_a_thread_may_work_while_slices_are_judged(out: Path, clock: Clock) -> None:
    for case in "cdef":
        write_prediction(out, case, RNG.integers(0, 2, (20, 16, 16)).astype(np.uint8))
    review = sitting(out, clock, order="random")
    ended = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            while not ended.is_set():
                review.work()
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for number in range(60):
            current = review.current
            assert current is not None
            assert review.plane(current).about == current
            review.judge("good" if number % 2 else "bad")
            if number % 10 == 0:
                review.axis = (review.axis + 1) % 3
            review.poll()
    finally:
        ended.set()
        thread.join()
        review.close()
    assert failed == []


def test_slices_of_a_sequence_are_read_many_at_once(
    out: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prediction(
        out, "c", np.ones((40, 5, 6), np.uint8), ending=".ome.zarr"
    )  # a chunk holds all of it
    review = sitting(out, clock)
    read: list[int] = []
    whole = Planes.read

    def counted(self: Planes, *arguments: Any) -> list[Plane]:
        found = whole(self, *arguments)
        read.append(len(found))
        return found

    monkeypatch.setattr(Planes, "read", counted)
    review.filters = Filter(cases=frozenset({"c"}))
    review.refresh()  # forgets what was read on opening
    settle(review)
    assert read == [16]
    for _ in range(20):
        review.judge("good")
        settle(review)
    assert read == [16, 16]
