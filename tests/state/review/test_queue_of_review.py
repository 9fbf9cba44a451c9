"""Which slices come, in which order, and what follows on what."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_predictions import hash_of, write_prediction, write_regions
from sittings import (
    SHAPE,
    Clock,
    labels_of,
    place,
    places,
    settle,
    sitting,
)

from napari_kdseg.review.queue import Filter
from napari_kdseg.review.verdicts import About
from napari_kdseg.state.review import desk as desk_module
from napari_kdseg.state.review.review import Review

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
