"""Agreement of reviewers, against published and hand-worked numbers."""

import math
from typing import Any

import numpy as np
import pytest

from napari_kdseg.review.agreement import (
    agreement,
    cohen_kappa,
    disputed,
    fleiss_kappa,
    strength,
)
from napari_kdseg.review.verdicts import Verdict

FLEISS_1971 = [  # 30 patients, 6 psychiatrists, 5 diagnoses
    "00060", "03003", "01401", "00006", "03030", "20400", "00402", "20310", "20040",
    "00006", "10050", "11040", "03300", "10050", "02031", "00501", "30012", "51000",
    "02040", "10203", "00006", "01050", "02013", "20040", "10041", "05010", "40002",
    "02040", "10500", "00006",
]  # fmt: skip
TEXTBOOK = [  # 10 subjects, 14 raters, 5 words
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1], [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def said(reviewer: str, index: int, word: Any, **more: Any) -> Verdict:
    return Verdict("fish", 0, index, word, "human", "ab", reviewer, **more)


def of(**words: str) -> list[Verdict]:
    """Verdicts of reviewers on slices 0, 1, ...: g, b, u, or . for none."""
    meaning = {"g": "good", "b": "bad", "u": "unsure"}
    return [
        said(name, index, meaning[letter])
        for name, letters in words.items()
        for index, letter in enumerate(letters)
        if letter != "."
    ]


# ---- kappas ----


def test_kappa_of_two_as_worked_by_hand() -> None:
    # 50 slices: both good 20, both bad 15, only the first good 5, only the second 10.
    # Same 35/50 = 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; (0.7 - 0.5) / 0.5 = 0.4.
    first = ["good"] * 25 + ["bad"] * 25
    second = ["good"] * 20 + ["bad"] * 5 + ["good"] * 10 + ["bad"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa(second, first) == pytest.approx(0.4)


def test_kappa_is_one_where_two_always_agree_and_minus_one_where_never() -> None:
    assert cohen_kappa(["good", "bad"], ["good", "bad"]) == 1
    assert cohen_kappa(["good", "bad"], ["bad", "good"]) == -1


def test_kappa_cannot_be_told_from_one_word_alone_or_from_nothing() -> None:
    assert math.isnan(cohen_kappa(["good"] * 9, ["good"] * 9))
    assert math.isnan(cohen_kappa([], []))
    assert math.isnan(fleiss_kappa(np.array([[3, 0], [3, 0]])))
    assert math.isnan(fleiss_kappa(np.zeros((0, 3), int)))


def test_kappa_of_several_as_published() -> None:
    diagnoses = np.array([[int(n) for n in row] for row in FLEISS_1971])
    assert fleiss_kappa(diagnoses) == pytest.approx(0.430, abs=5e-4)
    assert fleiss_kappa(np.array(TEXTBOOK)) == pytest.approx(0.210, abs=5e-4)


def test_kappa_of_several_needs_as_many_verdicts_on_each_slice() -> None:
    with pytest.raises(ValueError, match="slices have 2 to 3 verdicts"):
        fleiss_kappa(np.array([[3, 0], [1, 1]]))
    with pytest.raises(ValueError, match="slices have 1 to 1 verdicts"):
        fleiss_kappa(np.array([[1, 0], [0, 1]]))


def test_kappa_has_a_name() -> None:
    kappas = (1.0, 0.7, 0.5, 0.3, 0.1, -0.1, math.nan)
    assert [strength(one) for one in kappas] == [
        "almost perfect",
        "substantial",
        "moderate",
        "fair",
        "slight",
        "worse than chance",
        "not to be told",
    ]


# ---- the report ----


def test_two_are_compared_on_the_slices_that_both_judged() -> None:
    found = agreement(of(Ada="ggbb.g", Ben="gbbu.."))
    (pair,) = found.pairs
    # Same 2 of 4; by chance (2/4)(1/4) + (2/4)(2/4) = 3/8; (1/2 - 3/8) / (5/8) = 0.2.
    assert (pair.slices, pair.same) == (4, 2)
    assert pair.kappa == pytest.approx(0.2)
    assert found.reviewers["Ada"] == {"good": 3, "bad": 2, "unsure": 0}
    assert found.sentences() == (
        "Ada and Ben agree on 2 of 4 slices; Cohen's kappa is 0.20: slight agreement.",
        "One slice is good for some and bad for others; look at it together.",
    )


def test_three_are_compared_all_together_and_two_by_two() -> None:
    found = agreement(of(Ada="gggb", Ben="ggbb", Cai="gbbb"))
    assert [(one.first, one.second) for one in found.pairs] == [
        ("Ada", "Ben"),
        ("Ada", "Cai"),
        ("Ben", "Cai"),
    ]
    assert found.together == 4
    # Agreeing pairs 3, 1, 1, 3 of 3: 2/3; good and bad are 6 of 12 each: 1/2; so 1/3.
    assert found.fleiss == pytest.approx(1 / 3)
    assert "All 3 judged 4 slices; Fleiss' kappa is 0.33: fair" in found.sentences()[3]


def test_a_slice_is_disputed_where_some_find_it_good_and_others_bad() -> None:
    rows = of(Ada="ggub", Ben="gbbb", Cai="ugg.")
    found = agreement(rows)
    assert disputed(rows) == (("fish", 0, 1), ("fish", 0, 2))
    assert found.disputes[0].good == ("Ada", "Cai")
    assert found.disputes[0].bad == ("Ben",)
    assert found.disputes[0].labels_hash == "ab"


def test_what_was_taken_back_is_not_disputed() -> None:
    rows = [
        said("Ada", 0, "good", sitting=1, seq=1),
        said("Ben", 0, "bad", sitting=2, seq=1),
        said("Ben", 0, "bad", sitting=2, seq=2, kind="take-back"),
    ]
    assert disputed(rows) == ()


def test_verdicts_on_two_predictions_of_a_slice_are_no_dispute() -> None:
    other = Verdict("fish", 0, 0, "bad", "human", "cd", "Ben")
    found = agreement([said("Ada", 0, "good"), other])
    assert found.disputes == ()
    assert found.sentences() == (
        "No two reviewers judged the same slice. Let two judge the same ones.",
    )


def test_one_reviewer_alone_is_told_so() -> None:
    (says,) = agreement(of(Ada="gb")).sentences()
    assert says.startswith("1 reviewer has verdicts here; agreement takes two")
    (says,) = agreement([]).sentences()
    assert says.startswith("0 reviewers have verdicts here")
