"""How well a classifier tells good from bad, and what its numbers mean.

All on slices that it was not trained on. Good is the class that is looked for.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from napari_kdseg.models.card import Calibration

Rule = Literal["youden", "precision"]
Numbers = Float[np.ndarray, " N"]
Truth = Bool[np.ndarray, " N"]

NEWTON_STEPS = 100
LEAST_SLOPE = 1e-3
BINS = 10


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


def platt(answer: Numbers, good: Truth) -> tuple[float, float]:
    """Slope and intercept of the logistic curve from a network's answer to P(good).

    Platt 1999, fitted by Newton's method with his targets ``(n+ + 1) / (n+ + 2)`` and
    ``1 / (n- + 2)`` in place of 1 and 0: they keep the curve finite where the answers
    part the slices without an error. Training balances the classes; this curve brings
    their true shares back. A slope that would turn the order round becomes 0.001.
    """
    positive, negative = int(good.sum()), int((~good).sum())
    target = np.where(good, (positive + 1) / (positive + 2), 1 / (negative + 2))
    columns = np.stack([answer.astype(float), np.ones(len(answer))], axis=1)
    weights = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        prob = _logistic(columns @ weights)
        gradient = columns.T @ (prob - target)
        curvature = columns.T * (prob * (1 - prob)) @ columns + 1e-10 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 5.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] < LEAST_SLOPE:
        share = target.mean()
        return LEAST_SLOPE, float(math.log(share / (1 - share)))
    return float(weights[0]), float(weights[1])


def calibrate(
    answer: Numbers, good: Truth, rule: Rule, precision: float
) -> tuple[Calibration, Numbers]:
    """Fit the curve and choose the threshold; also P(good) of each slice."""
    slope, intercept = platt(answer, good)
    prob = _logistic(slope * answer + intercept)
    if rule == "youden":
        threshold, chosen = youden(prob, good)
    else:
        threshold, chosen = at_precision(prob, good, precision)
    # rounded down, so that the slice it was taken from stays accepted
    threshold = math.floor(threshold * 1e6) / 1e6
    calibration = Calibration(
        slope=slope, intercept=intercept, threshold=threshold, chosen=chosen
    )
    return calibration, prob


def youden(prob: Numbers, good: Truth) -> tuple[float, str]:
    """Threshold with the largest share of good accepted less share of bad accepted."""
    levels = np.unique(prob)[::-1]  # from above: of equals, the surest is taken
    gains = [(prob[good] >= t).mean() - (prob[~good] >= t).mean() for t in levels]
    best = int(np.argmax(np.round(gains, 9)))
    text = f"largest Youden index on validation slices, {gains[best]:.3f}"
    return float(levels[best]), text


def at_precision(prob: Numbers, good: Truth, wanted: float) -> tuple[float, str]:
    """Lowest threshold from which on so many of the accepted slices are good.

    Where none gets there, the one with the largest share.
    """
    levels = np.unique(prob)
    shares = np.array([good[prob >= t].mean() for t in levels])
    enough = np.flatnonzero(shares >= wanted)
    best = int(enough[0]) if len(enough) else int(np.argmax(shares))
    text = f"precision {shares[best]:.3f} on validation slices, {wanted:g} was asked"
    return float(levels[best]), text


def table(prob: Numbers, good: Truth) -> list[dict[str, str]]:
    """Rows of metrics.csv: what is measured, at which P(good), value, slices.

    ``precision`` and ``recall`` of accepting from that P(good) on; ``share_good`` of
    the slices in a tenth of P(good), at their mean, which is the calibration curve.
    """
    rows = [
        _row("auroc", "", auroc(prob, good), len(good)),
        _row("brier", "", float(np.mean((prob - good) ** 2)), len(good)),
    ]
    for threshold in np.linspace(0, 1, 21):
        kept = prob >= threshold
        rows += [
            _row("precision", threshold, _mean(good[kept]), int(kept.sum())),
            _row("recall", threshold, _mean(kept[good]), int(good.sum())),
        ]
    bins = np.minimum((prob * BINS).astype(int), BINS - 1)
    for number in np.unique(bins):
        there = bins == number
        at = float(prob[there].mean())
        rows.append(_row("share_good", at, _mean(good[there]), int(there.sum())))
    return rows


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _row(measure: str, at: float | str, value: float, slices: int) -> dict[str, str]:
    place = at if isinstance(at, str) else f"{at:.4f}"
    shown = f"{value:.6f}"
    return {"measure": measure, "at": place, "value": shown, "slices": str(slices)}


def _logistic(value: np.ndarray) -> np.ndarray:
    grown: np.ndarray = np.exp(-np.abs(value))
    return np.where(value >= 0, 1 / (1 + grown), grown / (1 + grown))
