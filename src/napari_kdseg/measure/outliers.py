"""Which measurements lie far from those of their kind."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

FAR = 3.5
"""Robust z beyond which a value is marked."""
FEWEST = 5
"""Values below which nothing is said: a median of four tells little."""

RULE = (
    f"Marked: |robust z| > {FAR}, where z = 0.6745 (value - median) / MAD among the "
    f"scans of one organ, model and group; from {FEWEST} scans on."
)
"""To be printed beside every plot."""

# Half of a normal distribution lies within 0.6745 standard deviations of its middle.
_NORMAL_QUARTILE = 0.6745


def robust_z(values: Sequence[float]) -> Float[np.ndarray, " N"]:
    """How far each value lies from the median, in robust standard deviations.

    The modified z-score of Iglewicz and Hoaglin (1993): outliers move neither median
    nor MAD (the median distance from the median). NaN where a value is none, where
    there are fewer than `FEWEST`, or where half of all are equal.
    """
    found = np.asarray(values, np.float64)
    known = found[np.isfinite(found)]
    if known.size < FEWEST:
        return np.full(found.shape, np.nan)
    middle = np.median(known)
    mad = np.median(np.abs(known - middle))
    if mad == 0:
        return np.full(found.shape, np.nan)
    z: np.ndarray = _NORMAL_QUARTILE * (found - middle) / mad
    return z
