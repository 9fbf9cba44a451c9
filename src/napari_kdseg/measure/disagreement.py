"""Where labels and their reference differ: voxel by voxel, and slice by slice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from napari_kdseg.volumes.labels import LabelClass, LabelSet

MISSED, ADDED, CONFUSED = 1, 2, 3
KINDS = LabelSet(
    classes=(
        LabelClass(value=MISSED, name="missed", color="#ff2d95"),
        LabelClass(value=ADDED, name="added", color="#ff9f1c"),
        LabelClass(value=CONFUSED, name="another class", color="#00c2ff"),
    )
)
"""Missed: the reference alone has a class there; added: the prediction alone."""

Labels = Integer[np.ndarray, "*S"]


@dataclass(frozen=True)
class WrongSlice:
    """How much of one slice differs from the reference."""

    axis: int
    """Of the stored array: 0, 1, 2 for z, y, x."""
    index: int
    wrong_vox: int
    wrong_mm2: float
    dice: float
    """Over all classes together, each voxel right or wrong; 1 is right."""


def kinds_of(truth: Labels, guess: Labels) -> UInt8[np.ndarray, "*S"]:
    """Say of each voxel how it differs: 0 not at all, else a value of `KINDS`.

    Parameters
    ----------
    truth, guess
        Class indices on one grid; 0 is background.
    """
    wrong = truth != guess
    kinds = np.where(truth == 0, ADDED, np.where(guess == 0, MISSED, CONFUSED))
    found: np.ndarray = np.where(wrong, kinds, 0).astype(np.uint8)
    return found


def worst_slices(
    truth: Labels, guess: Labels, spacing_mm: Sequence[float], most: int = 30
) -> list[WrongSlice]:
    """Give the slices with most wrong voxels, along each axis the worst first.

    Parameters
    ----------
    truth, guess
        Class indices z, y, x on one grid.
    spacing_mm
        Along z, y, x.
    most
        How many of each axis; slices without a wrong voxel are never among them.
    """
    wrong = truth != guess
    labelled = (truth != 0).astype(np.int8) + (guess != 0)
    hit = (truth == guess) & (truth != 0)
    found = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        counts = wrong.sum(axis=others)
        both, all_ = hit.sum(axis=others), labelled.sum(axis=others, dtype=np.int64)
        face_mm2 = float(np.prod([spacing_mm[other] for other in others]))
        worst = np.argsort(-counts, kind="stable")[:most]
        found += [
            WrongSlice(
                axis,
                int(index),
                int(counts[index]),
                float(counts[index] * face_mm2),
                float(2 * both[index] / all_[index]),
            )
            for index in worst
            if counts[index]
        ]
    return found


class Disagreement:
    """Kinds of disagreement seen where they are read; nothing is kept.

    Parameters
    ----------
    truth, guess
        Labels z, y, x on one grid.
    truth_table, guess_table
        Class index of each stored value.
    """

    ndim = 3

    def __init__(
        self,
        truth: Any,
        guess: Any,
        truth_table: np.ndarray,
        guess_table: np.ndarray,
    ) -> None:
        self._pair = (truth, truth_table), (guess, guess_table)
        self.shape = tuple(truth.shape)
        self.dtype = np.dtype(np.uint8)

    @property
    def size(self) -> int:
        """Voxels in all."""
        return int(np.prod(self.shape))

    def __getitem__(self, box: Any) -> np.ndarray:
        """Compare the voxels of a box."""
        truth, guess = (
            table[np.asarray(labels[box]).astype(np.uint16, copy=False)]
            for labels, table in self._pair
        )
        return kinds_of(truth, guess)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 - NumPy calls it so
        """Compare all voxels."""
        return np.asarray(self[...], dtype)
