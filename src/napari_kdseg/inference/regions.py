"""Where which teacher may teach: MS-KD's organ regions and the true background.

A teacher claims the voxels that it calls its organ (eq. 2); voxels that none claims are
true background, voxels claimed for two classes are in conflict. Claims are kept as
one bit mask a voxel, so that nothing is lost; what is shown and counted is derived.
(Feng et al. 2021, arXiv 2108.02559, section 2.2.)
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import fastremap
import numpy as np
from numpy.typing import NDArray

from napari_kdseg.errors import UsageError

OverlapRule = Literal["sum", "max_prob", "ignore"]
"""What a voxel claimed for two classes teaches: both, the surer one, or nothing."""

Bits = NDArray[np.unsignedinteger[Any]]
Labels = NDArray[np.integer[Any]]

MOST_TEACHERS = 32
_LOOKUP_BITS = 16  # a table of 65 536 codes is small; beyond it classes are looped over


@dataclass(frozen=True)
class Claimant:
    """A teacher and the one class it claims voxels for.

    A teacher of several organs is several claimants, one for each organ.
    """

    teacher: str
    class_name: str
    value: int


def claims(labels: Sequence[Labels]) -> Bits:
    """Which claimants claim each voxel, claimant k as bit k - 1.

    Parameters
    ----------
    labels
        One array a claimant, all of one shape: non-zero where it sees its organ.

    Returns
    -------
    ndarray
        uint8 for up to 8 claimants, uint16 for up to 16, uint32 for up to 32.

    Raises
    ------
    UsageError
        Where there are none or more than 32.
    """
    bits = np.zeros(labels[0].shape if labels else (), _bits_type(len(labels)))
    for index, claimed in enumerate(labels):
        bits |= (claimed != 0).astype(bits.dtype) << bits.dtype.type(index)
    return bits


def shown(bits: Bits, values: Sequence[int]) -> Bits:
    """One code a voxel, to look at.

    0 for true background, the class value where one class is claimed, and the highest
    number of the type where claims conflict. Claimants of one class do not conflict.

    Parameters
    ----------
    bits
        From `claims`.
    values
        The class value of each claimant, in the same order.
    """
    kind = np.dtype(np.uint8 if max(values) < np.iinfo(np.uint8).max else np.uint16)
    if len(values) <= _LOOKUP_BITS:
        every = np.arange(2 ** len(values), dtype=bits.dtype)
        return _codes(every, values, kind)[bits]
    return _codes(bits, values, kind)


def conflict_code(values: Sequence[int]) -> int:
    """The code that `shown` gives to conflicts."""
    return 255 if max(values) < np.iinfo(np.uint8).max else 65535


def winners(bits: Bits, prob: Sequence[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """The surest of the claimants of each voxel, counted from 1; 0 where none claims.

    Parameters
    ----------
    bits
        From `claims`.
    prob
        One array a claimant: the probability that it gives its organ.
    """
    best = np.zeros(bits.shape, np.float32)
    winner = np.zeros(bits.shape, np.uint8)
    for index, organ in enumerate(prob):
        better = (_bit(bits, index)) & ((winner == 0) | (organ > best))
        winner[better] = index + 1
        best[better] = organ[better]
    return winner


def tally(bits: Bits, winner: NDArray[np.uint8] | None = None) -> Counter[int]:
    """How many voxels have which claims; tallies of parts of a volume add up.

    Parameters
    ----------
    bits
        From `claims`.
    winner
        From `winners`, for the rule ``max_prob``: each voxel then counts for its
        winner alone, as if nobody else had claimed it.
    """
    settled = bits
    if winner is not None:
        alone = [0, *(1 << index for index in range(MOST_TEACHERS))]
        settled = np.array(alone, np.uint32)[winner]
    codes, counts = fastremap.unique(settled, return_counts=True)
    return Counter(dict(zip(codes.tolist(), counts.tolist(), strict=True)))


def shares(
    counts: Counter[int], claimants: Sequence[Claimant], rule: OverlapRule
) -> dict[str, Any]:
    """What ``regions.json`` says: codes, the overlap rule, the share of each region.

    Under ``sum`` a voxel claimed for two classes lies in both organs' regions, as in
    the paper, and the shares add up to more than one; under ``ignore`` it lies in
    none; under ``max_prob`` in the surer one's, and the tally must have been taken
    with `winners`.

    Raises
    ------
    UsageError
        Where ``max_prob`` is asked for and the tally still holds conflicts.
    """
    values = [claimant.value for claimant in claimants]
    names = {claimant.value: claimant.class_name for claimant in claimants}
    masks = _masks(values)
    claimed = {
        bits: [value for value, mask in masks.items() if bits & mask] for bits in counts
    }
    conflicts = sum(n for bits, n in counts.items() if len(claimed[bits]) > 1)
    if rule == "max_prob" and conflicts:
        raise UsageError(
            f"{conflicts} voxels are claimed for two classes; the rule max_prob gives "
            "each to the surer teacher. Count them with the winners."
        )
    total = max(sum(counts.values()), 1)
    organs = {
        name: sum(n for b, n in counts.items() if _counts(claimed[b], value, rule))
        for value, name in names.items()
    }
    return {
        "overlap_rule": rule,
        "codes": _legend(names, conflict_code(values)),
        "claimants": _bit_legend(claimants),
        "voxels": total,
        "shares": {
            "true background": counts[0] / total,
            **{name: count / total for name, count in organs.items()},
            "conflict": conflicts / total,
        },
    }


def _counts(claimed: list[int], value: int, rule: OverlapRule) -> bool:
    """Whether voxels claimed for these classes teach this one."""
    return value in claimed and (rule != "ignore" or len(claimed) == 1)


def _legend(names: Mapping[int, str], conflict: int) -> dict[str, str]:
    classes = {str(value): name for value, name in sorted(names.items())}
    return {"0": "true background", **classes, str(conflict): "conflict"}


def _bit_legend(claimants: Sequence[Claimant]) -> list[dict[str, Any]]:
    return [
        {
            "bit": bit,
            "teacher": claimant.teacher,
            "class": claimant.class_name,
            "value": claimant.value,
        }
        for bit, claimant in enumerate(claimants)
    ]


def _masks(values: Sequence[int]) -> dict[int, int]:
    """Which bits belong to each class value."""
    masks: dict[int, int] = {}
    for index, value in enumerate(values):
        masks[value] = masks.get(value, 0) | 1 << index
    return masks


def _codes(bits: Bits, values: Sequence[int], kind: np.dtype[Any]) -> Bits:
    codes = np.zeros(bits.shape, kind)
    claimed = np.zeros(bits.shape, bool)
    for value, mask in _masks(values).items():
        here = (bits & bits.dtype.type(mask)) != 0
        codes[here] = np.where(claimed[here], conflict_code(values), value)
        claimed |= here
    return codes


def _bit(bits: Bits, index: int) -> NDArray[np.bool_]:
    return np.asarray(bits & bits.dtype.type(1 << index), bool)


def _bits_type(count: int) -> np.dtype[Any]:
    for kind in (np.uint8, np.uint16, np.uint32):
        if 0 < count <= np.iinfo(kind).bits:
            return np.dtype(kind)
    raise UsageError(
        f"Regions of {count} teachers were asked for; they hold 1 to {MOST_TEACHERS}. "
        "Split the teachers into groups."
    )
