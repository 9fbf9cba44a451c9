"""How well P(good) tells good slices from bad, as curves over the threshold.

Good is the class that is looked for: a slice is accepted where its P(good) is at least
the threshold, so slices that score the same are accepted together. Plain numpy; what
the numbers were measured on is the caller's to say.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

Numbers = Float[np.ndarray, " N"]
Truth = Bool[np.ndarray, " N"]

BINS = 10


@dataclass(frozen=True)
class Roc:
    """Shares that are accepted, from a threshold that accepts none to one for all."""

    threshold: Float[np.ndarray, " T"]
    """Falling; the first is infinite."""
    bad_accepted: Float[np.ndarray, " T"]
    """Share of the bad slices, the false positive rate; NaN without bad ones."""
    good_accepted: Float[np.ndarray, " T"]
    """Share of the good slices, the true positive rate; NaN without good ones."""


@dataclass(frozen=True)
class PrecisionRecall:
    """What is accepted at each threshold, from the lowest score to the highest."""

    threshold: Float[np.ndarray, " T"]
    """Rising; the scores that there are."""
    precision: Float[np.ndarray, " T"]
    """Share of the accepted slices that are good."""
    recall: Float[np.ndarray, " T"]
    """Share of the good slices that are accepted; NaN without good ones."""


@dataclass(frozen=True)
class Reliability:
    """How often slices are good that score alike: the calibration curve."""

    score: Float[np.ndarray, " B"]
    """Mean P(good) of each bin that has slices, rising."""
    share_good: Float[np.ndarray, " B"]
    slices: Int[np.ndarray, " B"]


def roc(score: Numbers, good: Truth) -> Roc:
    """Work out the receiver operating characteristic; equal scores are one step."""
    accepted, right = _accepted(score, good)
    levels = np.unique(score)[::-1]
    return Roc(
        threshold=np.concatenate([[math.inf], levels]),
        bad_accepted=_share(
            np.concatenate([[0], accepted - right]), int((~good).sum())
        ),
        good_accepted=_share(np.concatenate([[0], right]), int(good.sum())),
    )


def auroc(score: Numbers, good: Truth) -> float:
    """Probability that a good slice scores above a bad one, a tie counting half.

    NaN where there is only one kind.
    """
    if not good.any() or good.all():
        return math.nan
    bad = np.sort(score[~good])
    below = np.searchsorted(bad, score[good], "left")
    not_above = np.searchsorted(bad, score[good], "right")
    return float((below + not_above).mean() / 2 / len(bad))


def precision_recall(score: Numbers, good: Truth) -> PrecisionRecall:
    """Work out precision and recall at every score that there is."""
    accepted, right = _accepted(score, good)
    return PrecisionRecall(
        threshold=np.unique(score),
        precision=(right / np.maximum(accepted, 1))[::-1],
        recall=_share(right[::-1], int(good.sum())),
    )


def reliability(prob: Numbers, good: Truth, bins: int = BINS) -> Reliability:
    """Share of good slices among those that score alike.

    Parameters
    ----------
    prob
        P(good), 0 to 1.
    good
        What people said.
    bins
        Equally wide parts of 0 to 1; those without slices are left out.
    """
    place = np.minimum((prob * bins).astype(int), bins - 1)
    there = np.unique(place)
    inside = [place == number for number in there]
    return Reliability(
        score=np.array([float(prob[one].mean()) for one in inside], dtype=float),
        share_good=np.array([float(good[one].mean()) for one in inside], dtype=float),
        slices=np.array([int(one.sum()) for one in inside], dtype=int),
    )


def accepted_by_threshold(
    score: Numbers, threshold: Float[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """Count the slices that each threshold accepts."""
    found: np.ndarray = len(score) - np.searchsorted(np.sort(score), threshold, "left")
    return found.astype(int)


def _accepted(score: Numbers, good: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Slices at each score or above, and the good among them; from the highest."""
    order = np.argsort(score)[::-1]
    if not len(order):
        return order, order
    last = np.flatnonzero(np.append(np.diff(score[order]), 1))
    return last + 1, np.cumsum(good[order])[last]


def _share(counts: np.ndarray, total: int) -> np.ndarray:
    if not total:
        return np.full(len(counts), math.nan)
    return counts / total
