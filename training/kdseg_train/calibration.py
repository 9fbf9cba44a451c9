"""From a network's answers to P(good) and a threshold, and a table of how good it is.

All on slices that it was not trained on. Good is the class that is looked for. The
curves themselves are in `napari_kdseg.review.curves`, which a viewer shares.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from napari_kdseg.models.card import Calibration
from napari_kdseg.review.curves import auroc, reliability

Rule = Literal["youden", "precision"]
Numbers = Float[np.ndarray, " N"]
Truth = Bool[np.ndarray, " N"]

NEWTON_STEPS = 100
LEAST_SLOPE = 1e-3


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
    answer: Numbers,
    good: Truth,
    rule: Rule,
    precision: float,
    part: str = "validation",
) -> Calibration:
    """Fit the curve and choose the threshold, both on the same slices.

    Parameters
    ----------
    answer, good
        What the network says of each slice, and what people say.
    rule, precision
        How the threshold is chosen.
    part
        What these slices are, for the sentence that says so.
    """
    slope, intercept = platt(answer, good)
    prob = p_good(Calibration(slope=slope, intercept=intercept), answer)
    if rule == "youden":
        threshold, chosen = youden(prob, good)
    else:
        threshold, chosen = at_precision(prob, good, precision)
    # rounded down, so that the slice it was taken from stays accepted
    threshold = math.floor(threshold * 1e6) / 1e6
    return Calibration(
        slope=slope,
        intercept=intercept,
        threshold=threshold,
        chosen=f"{chosen} on {part} slices",
    )


def p_good(calibration: Calibration, answer: Numbers) -> Numbers:
    """P(good) of slices from what the network says of them."""
    return _logistic(calibration.slope * answer + calibration.intercept)


def youden(prob: Numbers, good: Truth) -> tuple[float, str]:
    """Threshold with the largest share of good accepted less share of bad accepted."""
    levels = np.unique(prob)[::-1]  # from above: of equals, the surest is taken
    gains = [(prob[good] >= t).mean() - (prob[~good] >= t).mean() for t in levels]
    best = int(np.argmax(np.round(gains, 9)))
    return float(levels[best]), f"largest Youden index, {gains[best]:.3f},"


def at_precision(prob: Numbers, good: Truth, wanted: float) -> tuple[float, str]:
    """Lowest threshold from which on so many of the accepted slices are good.

    Where none gets there, the one with the largest share.
    """
    levels = np.unique(prob)
    shares = np.array([good[prob >= t].mean() for t in levels])
    enough = np.flatnonzero(shares >= wanted)
    best = int(enough[0]) if len(enough) else int(np.argmax(shares))
    text = f"precision {shares[best]:.3f} where {wanted:g} was asked,"
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
    bins = reliability(prob, good)
    rows += [
        _row("share_good", at, share, int(slices))
        for at, share, slices in zip(
            bins.score, bins.share_good, bins.slices, strict=True
        )
    ]
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
