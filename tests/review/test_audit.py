"""The check of what is accepted: its sample, its interval, its record."""

import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from napari_kdseg.errors import ReviewError
from napari_kdseg.review.audit import (
    Audit,
    audits_in,
    findings,
    keep,
    next_number,
    sample,
    wilson,
)
from napari_kdseg.review.opinions import decided, votes
from napari_kdseg.review.verdicts import Place, Verdict, Word

MANY = [("big", 0, z) for z in range(900)] + [("small", 0, z) for z in range(100)]


def said(index: int, word: Word, reviewer: str = "Ada", digest: str = "ab") -> Verdict:
    return Verdict("fish", 0, index, word, "human", digest, reviewer)


def audit(*indices: int, number: int = 1) -> Audit:
    places = tuple(("fish", 0, index) for index in indices)
    return Audit(number, "c0ffee", "teacher", 0.5, 100, 7, places, {"fish": "ab"})


# ---- the interval ----


def test_wilson_s_interval_is_worked_out_by_hand() -> None:
    # 5 of 50: share .1, z^2 = 3.8415
    # middle (.1 + 3.8415/100) / (1 + 3.8415/50) = .138415 / 1.076829 = .128539
    # half 1.95996 * sqrt(.09/50 + 3.8415/10000) / 1.076829
    #      = 1.95996 * sqrt(.00218415) / 1.076829 = .085064
    assert wilson(5, 50) == pytest.approx((0.043475, 0.213603), abs=1e-5)


def test_wilson_s_interval_agrees_with_a_reference() -> None:
    from scipy.stats import binomtest

    for bad, judged in ((0, 1), (0, 30), (1, 7), (50, 100), (30, 30)):
        wanted = binomtest(bad, judged).proportion_ci(method="wilson")
        assert wilson(bad, judged) == pytest.approx((wanted.low, wanted.high))


def test_no_error_seen_is_no_proof_of_none() -> None:
    low, high = wilson(0, 30)
    assert low == 0
    assert high == pytest.approx(0.1135, abs=1e-4)


def test_nothing_judged_says_nothing() -> None:
    assert wilson(0, 0) == (0, 1)
    found = findings(audit(1, 2), [])
    assert math.isnan(found.error_rate)
    assert found.words == "0 of 2 slices of the sample are judged."


# ---- the sample ----


def test_every_scan_has_its_share_of_the_sample() -> None:
    for seed in range(20):
        counts = Counter(place[0] for place in sample(MANY, 25, seed))
        assert counts.total() == 25
        assert counts["small"] in (2, 3)


def test_no_slice_is_drawn_twice_and_the_same_seed_draws_the_same() -> None:
    first, again, other = (sample(MANY, 50, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 50
    assert sample(reversed(MANY), 50, 0) == first


def test_every_slice_has_the_same_chance() -> None:
    places = [("a", 0, z) for z in range(7)] + [("b", 0, z) for z in range(3)]
    rounds = 3000
    drawn: Counter[Place] = Counter()
    for seed in range(rounds):
        drawn.update(sample(places, 4, seed))
    shares = np.array([drawn[place] / rounds for place in places])
    # four times the standard deviation of a share of .4
    assert shares == pytest.approx(np.full(10, 0.4), abs=0.036)


def test_a_sample_is_all_where_there_is_not_more() -> None:
    places = [("a", 0, 3), ("a", 0, 1)]
    assert sorted(sample(places, 50, 0)) == sorted(places)
    assert sample([], 50, 0) == ()


# ---- what people found ----


def test_the_error_rate_is_the_share_of_bad_slices() -> None:
    verdicts = [said(1, "bad"), *(said(z, "good") for z in (2, 3, 4))]
    found = findings(audit(1, 2, 3, 4, 5), verdicts)
    assert (found.good, found.bad, found.unsure, found.left) == (3, 1, 0, 1)
    assert found.error_rate == 0.25
    assert found.words.startswith(
        "1 of 4 accepted slices are bad: an error rate of 25.0 %, between 4.6 % and"
    )


def test_unsure_slices_and_ties_are_told_and_not_counted() -> None:
    verdicts = [said(1, "unsure"), said(2, "good"), said(2, "bad", "Bo")]
    found = findings(audit(1, 2, 3), verdicts)
    assert (found.good, found.bad, found.unsure, found.left) == (0, 0, 2, 1)


def test_verdicts_on_other_slices_and_other_labels_do_not_count() -> None:
    found = findings(audit(1, 2), [said(9, "bad"), said(1, "bad", digest="cd")])
    assert found.left == 2


def test_votes_of_several_reviewers_are_added() -> None:
    verdicts = [
        *(said(1, "good", name) for name in "ab"),
        said(1, "bad", "c"),
        said(2, "good", "a"),
        said(2, "bad", "b"),
        said(3, "good", "a"),
        dataclasses.replace(said(3, "good", "a"), kind="take-back"),
    ]
    assert votes(verdicts) == {("fish", 0, 1): 1, ("fish", 0, 2): 0}
    assert decided(verdicts) == {("fish", 0, 1): True}


# ---- its record ----


def test_an_audit_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    assert next_number(tmp_path / "review") == 1
    for number in (10, 2):
        keep(audit(1, 2, number=number), tmp_path)
    assert audits_in(tmp_path) == (audit(1, 2, number=2), audit(1, 2, number=10))
    assert next_number(tmp_path) == 11


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "audit-1.json").write_text('{"version": 1, "places": []}')
    with pytest.raises(ReviewError, match=r"audit-1\.json is no record of an audit"):
        audits_in(tmp_path)
    (tmp_path / "audit-1.json").write_text('{"version": 2}')
    with pytest.raises(ReviewError, match="has version 2, and this program knows 1"):
        audits_in(tmp_path)
