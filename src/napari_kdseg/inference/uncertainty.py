"""How sure a model is of each voxel, always from 0 (sure) to 1 (no idea).

A measure takes class probabilities with the class first and gives one number a voxel;
all are normalised, so that values compare between models with different numbers of
classes. `MEASURES` need one prediction; `test_time_variance` and `disagreement` compare
several and take them stacked in front.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Measure = Callable[[Tensor], Tensor]


def entropy(prob: Tensor) -> Tensor:
    """How evenly each voxel is torn between all classes.

    Shannon entropy divided by its maximum, log C. Zero probabilities count as zero.
    """
    shannon: Tensor = torch.special.entr(prob).sum(dim=0)
    return (shannon / math.log(len(prob))).clamp(0, 1)


def margin(prob: Tensor) -> Tensor:
    """How close the second best class comes to the best: 1 - (p1 - p2).

    One where the two are equal, however little both have (Scheffer et al. 2001).
    """
    top: Tensor = prob.topk(2, dim=0).values
    return 1 - (top[0] - top[1])


def least_confidence(prob: Tensor) -> Tensor:
    """How far the best class is from certain: (1 - p1) C / (C - 1).

    One where all classes are equal (Lewis and Gale 1994, normalised).
    """
    count = len(prob)
    return ((1 - prob.amax(dim=0)) * (count / (count - 1))).clamp(0, 1)


def test_time_variance(stack: Tensor) -> Tensor:
    """How much the prediction changes when the image is flipped.

    Population variance over the predictions, added up over classes and divided by the
    most it can be, ``1 - 1 / min(N, C)``: every prediction sure of another class.

    Parameters
    ----------
    stack
        Probabilities N, C, ...: at least two predictions of the same voxels.
    """
    variance = stack.var(dim=0, correction=0).sum(dim=0)
    return (variance / (1 - 1 / min(stack.shape[:2]))).clamp(0, 1)


def disagreement(stack: Tensor, known: Tensor | None = None) -> Tensor:
    """By how much several teachers together claim more than everything.

    Each class counts with the highest probability that any teacher gives it; what
    exceeds one is divided by the most it can be, ``min(N, C) - 1``. For two teachers
    of the same classes this is their total variation distance. Teachers of unlike
    organs disagree where their organs compete for a voxel, not where one calls
    another's organ background: it does not know better.

    Parameters
    ----------
    stack
        Probabilities N, C, ...: at least two teachers, the classes of all of them.
    known
        N, C: which classes each teacher speaks about. A teacher that knows only some
        of the classes says nothing about the true background. By default all know all.
    """
    claimed = stack
    if known is not None:
        shape = (*known.shape, *([1] * (stack.ndim - 2)))
        claimed = stack * known.to(stack).reshape(shape)
    excess = claimed.amax(dim=0).sum(dim=0) - 1
    return (excess / (min(stack.shape[:2]) - 1)).clamp(0, 1)


def fuse(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The uncertainty of several teachers in one map: the highest of them."""
    highest: NDArray[np.float32] = np.maximum.reduce(list(maps))
    return highest


MEASURES: dict[str, Measure] = {
    "entropy": entropy,
    "margin": margin,
    "least-confidence": least_confidence,
}
"""Measures of one prediction, by the name that settings give."""
