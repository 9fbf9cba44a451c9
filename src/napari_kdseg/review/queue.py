"""Which slices are shown, and which come first: arithmetic on columns of numbers.

A slice here is a row of `Slices`, which has all slices along one axis of all the
predictions of a model. An order is an array of row numbers.

All orders but the sequence mix. Those by a number take the slices in twenty bands, from
the most telling twentieth to the least; within a band each stretch of eight neighbours
sends its best slice before any sends its second, and the scans take turns. So the first
slice is the most telling of all, and yet neither neighbours that look alike nor slices
of one scan follow one another.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Order = Literal[
    "doubt", "uncertainty", "conflict", "disagreement", "sequence", "random"
]
Side = Literal["all", "accepted", "refused"]
"""On which side of the threshold; slices without a score are on neither."""

ORDERS: tuple[Order, ...] = get_args(Order)
GOOD, BAD, UNSURE = 1, 2, 3
"""Verdicts as numbers; 0 is none."""

_BANDS = 20
_STRETCH = 8

Rows = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Filter:
    """Which slices are shown at all."""

    unjudged: bool = True
    """Only slices without a verdict."""
    by_anyone: bool = True
    """Whether a slice counts as judged when somebody else judged it."""
    hide_empty: bool = True
    """Not those on which nothing is labelled."""
    cases: frozenset[str] | None = None
    """Only these scans; None: all."""
    side: Side = "all"


@dataclass(frozen=True, eq=False)
class Slices:
    """Columns of equal length, a row a slice; rows of one scan follow one another."""

    scan: NDArray[np.int32]
    """Number of the scan, ascending."""
    index: NDArray[np.int32]
    """Of the slice in its scan, ascending."""
    area: Numbers
    """Labelled voxels; NaN where not counted yet, as in all columns that follow."""
    uncertainty: Numbers
    conflict: Numbers
    score: Numbers
    """P(good)."""
    dispute: Numbers
    """Share of those who disagree with the most; 0 where all agree, never NaN."""
    mine: NDArray[np.int8]
    """The reviewer's own verdict."""
    others: NDArray[np.int8]
    """What others say: most of them."""

    @classmethod
    def of(cls, sizes: Collection[int]) -> "Slices":
        """Make rows for scans with so many slices; nothing is known of them yet."""
        counts = np.asarray(list(sizes), np.int64)
        total = int(counts.sum())
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        return cls(
            scan=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            index=(np.arange(total) - starts).astype(np.int32),
            area=np.full(total, np.nan),
            uncertainty=np.full(total, np.nan),
            conflict=np.full(total, np.nan),
            score=np.full(total, np.nan),
            dispute=np.zeros(total),
            mine=np.zeros(total, np.int8),
            others=np.zeros(total, np.int8),
        )

    @property
    def words(self) -> NDArray[np.int8]:
        """The verdict on each slice: the reviewer's own, else the others'."""
        found: NDArray[np.int8] = np.where(self.mine != 0, self.mine, self.others)
        return found


def shown(
    slices: Slices, filters: Filter, cases: Collection[str], threshold: float
) -> NDArray[np.bool_]:
    """Which slices pass a filter, but for what was judged.

    Parameters
    ----------
    slices
        All there are.
    filters
        Where it hides empty slices, those that are not counted yet are shown.
    cases
        Names of the scans, by their numbers.
    threshold
        P(good) from which on a slice is accepted.
    """
    keep = np.ones(len(slices.scan), bool)
    if filters.hide_empty:
        keep &= slices.area != 0
    if filters.cases is not None:
        wanted = np.array([case in filters.cases for case in cases], bool)
        keep &= wanted[slices.scan] if len(wanted) else False
    if filters.side == "accepted":
        keep &= slices.score >= threshold
    elif filters.side == "refused":
        keep &= slices.score < threshold
    return keep


def ordered(
    slices: Slices,
    keep: NDArray[np.bool_],
    order: Order,
    threshold: float = 0.5,
    seed: int = 0,
) -> Rows:
    """Put slices in an order; see the module on how scans take turns.

    Parameters
    ----------
    slices
        All there are.
    keep
        Which of them to put in order.
    order
        ``doubt`` takes those whose P(good) is nearest to the threshold first,
        ``uncertainty`` and ``conflict`` the highest, ``disagreement`` only those that
        reviewers disagree about, most evenly split first. What has no number comes
        last, in sequence.
    threshold
        P(good) from which on a slice is accepted.
    seed
        Of the random order, in which every scan comes as often as any other.

    Returns
    -------
    ndarray
        Row numbers.
    """
    rows: Rows = np.flatnonzero(keep)
    if order == "sequence":
        return rows
    scan = slices.scan[rows]
    if order == "random":
        return rows[_taking_turns(_hashed(rows, seed), scan)]
    told = telling(slices, order, threshold)[rows]
    if order == "disagreement":
        return rows[_taking_turns(-told, scan)][: int((told > 0).sum())]
    known = ~np.isnan(told)
    first, last = rows[known], rows[~known]
    mixed = _mixed(-told[known], scan[known], slices.index[first])
    return np.concatenate([first[mixed], last])


def telling(slices: Slices, order: Order, threshold: float = 0.5) -> Numbers:
    """Say how much a verdict on each slice would tell; NaN where not known.

    Parameters
    ----------
    slices
        All there are.
    order
        Which number to go by; in sequence and at random the first of doubt,
        uncertainty and conflict that is known of any slice.
    threshold
        P(good) from which on a slice is accepted.
    """
    doubt = -np.abs(slices.score - threshold)
    columns: dict[Order, Numbers] = {
        "doubt": doubt,
        "uncertainty": slices.uncertainty,
        "conflict": slices.conflict,
        "disagreement": np.where(slices.dispute > 0, slices.dispute, -1.0),
    }
    if order in columns:
        return columns[order]
    for name in ("doubt", "uncertainty", "conflict"):
        if not np.isnan(columns[name]).all():
            return columns[name]
    return doubt


def _mixed(key: Numbers, scan: NDArray[np.int32], index: NDArray[np.int32]) -> Rows:
    """Order by a key, lowest first, in bands in which stretches and scans alternate."""
    by_key = _sorted_by(_ordinal(key), np.arange(len(key)))
    rank = _inverse(by_key)
    stretches = int(index.max()) // _STRETCH + 1 if len(index) else 1
    stretch = scan.astype(np.int64) * stretches + index // _STRETCH
    turn = np.minimum(_places_within(stretch, rank), _STRETCH - 1)
    band = rank * _BANDS // max(1, len(rank))
    return _in_rounds(band * _STRETCH + turn, scan, rank)


def _taking_turns(key: Numbers, scan: NDArray[np.int32]) -> Rows:
    """Order by a key, lowest first; each scan sends one slice before any its second."""
    rank = _inverse(_sorted_by(_ordinal(key), np.arange(len(key))))
    return _in_rounds(np.zeros(len(rank), np.int64), scan, rank)


def _in_rounds(group: Rows, scan: NDArray[np.int32], rank: Rows) -> Rows:
    """Order by group; within it the scans take turns, each with its lowest rank."""
    if not len(rank):
        return np.empty(0, np.int64)
    seat = group * (int(scan.max()) + 1) + scan
    rounds = _places_within(seat, rank)
    return _inverse(rank)[_sorted_by(group * len(rank) + rounds, rank)]


def _places_within(group: Rows, rank: Rows) -> Rows:
    """Count which member of its group each one is by rank, from 0."""
    order = _inverse(rank)[_sorted_by(group, rank)]
    sorted_groups = group[order]
    place = np.arange(len(order))
    follows = np.zeros(len(order), bool)
    follows[1:] = sorted_groups[1:] == sorted_groups[:-1]
    starts = np.maximum.accumulate(np.where(follows, 0, place))
    places = np.empty(len(order), np.int64)
    places[order] = place - starts
    return places


def _sorted_by(high: Rows, low: Rows) -> Rows:
    """Sort pairs of whole numbers from 0; gives the lower ones, which are all distinct.

    As one number a pair, since NumPy sorts numbers many times faster than places.
    """
    bits = len(low).bit_length()
    pairs = np.sort(high << bits | low)
    found: Rows = pairs & ((1 << bits) - 1)
    return found


def _ordinal(key: Numbers) -> Rows:
    """Give whole numbers from 0 in the order of float32."""
    bits = np.ascontiguousarray(key + 0.0, np.float32).view(np.int32).astype(np.int64)
    found: Rows = np.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits) + (1 << 31)
    return found


def _inverse(order: Rows) -> Rows:
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _hashed(rows: Rows, seed: int) -> Numbers:
    """Give each row a number that looks random, and is the same at any time.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    """
    step = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        mixed = (rows.astype(np.uint64) + np.uint64(seed + 1) * step) * step
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Numbers = (mixed ^ (mixed >> np.uint64(31))).astype(np.float64)
    return found
