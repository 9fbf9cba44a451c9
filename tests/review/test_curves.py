"""Curves over the threshold: by hand, with ties, and against plain counting."""

import math

import numpy as np
import pytest

from napari_kdseg.review.curves import (
    accepted_by_threshold,
    auroc,
    precision_recall,
    reliability,
    roc,
)

SCORE = np.array([0.1, 0.4, 0.4, 0.8])
GOOD = np.array([False, False, True, True])


def drawn(ties: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Scores of which many are equal."""
    generator = np.random.default_rng(0)
    score = generator.integers(0, ties, 300) / ties
    return score, generator.random(300) < score


def test_the_roc_is_worked_out_by_hand_and_a_tie_is_one_step() -> None:
    found = roc(SCORE, GOOD)
    assert found.threshold.tolist() == [math.inf, 0.8, 0.4, 0.1]
    assert found.bad_accepted.tolist() == [0, 0, 0.5, 1]
    assert found.good_accepted.tolist() == [0, 0.5, 1, 1]


def test_the_area_under_the_roc_is_the_auroc() -> None:
    # pairs (good, bad): .4 > .1, .4 = .4 counts half, .8 beats both: 3.5 of 4
    assert auroc(SCORE, GOOD) == pytest.approx(0.875)
    for score, good in ((SCORE, GOOD), drawn(), drawn(3)):
        found = roc(score, good)
        area = np.trapezoid(found.good_accepted, found.bad_accepted)
        assert auroc(score, good) == pytest.approx(area)


def test_an_order_without_an_error_has_an_auroc_of_one() -> None:
    assert auroc(np.array([0.1, 0.2, 0.7]), np.array([False, False, True])) == 1


def test_precision_and_recall_are_worked_out_by_hand() -> None:
    found = precision_recall(SCORE, GOOD)
    assert found.threshold.tolist() == [0.1, 0.4, 0.8]
    assert found.precision == pytest.approx([2 / 4, 2 / 3, 1])
    assert found.recall == pytest.approx([1, 1, 0.5])


def test_every_threshold_accepts_what_counting_says() -> None:
    score, good = drawn()
    found = precision_recall(score, good)
    curve = roc(score, good)
    for number, level in enumerate(found.threshold):
        kept = score >= level
        assert found.precision[number] == pytest.approx(good[kept].mean())
        assert found.recall[number] == pytest.approx(kept[good].mean())
        assert curve.bad_accepted[-1 - number] == pytest.approx(kept[~good].mean())


def test_slices_that_score_alike_are_counted_together() -> None:
    prob = np.array([0.0, 0.05, 0.55, 0.59, 1.0])
    good = np.array([False, True, True, True, True])
    found = reliability(prob, good)
    assert found.score == pytest.approx([0.025, 0.57, 1.0])
    assert found.share_good.tolist() == [0.5, 1, 1]
    assert found.slices.tolist() == [2, 2, 1]


def test_a_threshold_accepts_what_scores_as_much_or_more() -> None:
    found = accepted_by_threshold(SCORE, np.array([0, 0.1, 0.4, 0.41, 0.8, 1.01]))
    assert found.tolist() == [4, 4, 3, 1, 1, 0]


def test_one_kind_of_slice_has_no_roc_but_precision() -> None:
    score, good = np.array([0.2, 0.6]), np.array([True, True])
    assert math.isnan(auroc(score, good))
    assert np.isnan(roc(score, good).bad_accepted).all()
    assert precision_recall(score, good).precision.tolist() == [1, 1]


def test_no_slices_have_empty_curves() -> None:
    nothing, none = np.zeros(0), np.zeros(0, bool)
    assert roc(nothing, none).threshold.tolist() == [math.inf]
    assert len(precision_recall(nothing, none).precision) == 0
    assert len(reliability(nothing, none).slices) == 0
    assert accepted_by_threshold(nothing, np.array([0.5])).tolist() == [0]
