"""How far reviewers agree: kappa of two, of several, and the slices they dispute.

A kappa is 1 where all agree, 0 where they agree as often as chance would have it from
how often each says good, bad and unsure, and below 0 where they agree less than that.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

import numpy as np
from jaxtyping import Integer

from napari_kdseg.review.verdicts import Place, Verdict, Word, current

WORDS: tuple[Word, ...] = get_args(Word)
Slice = tuple[Place, str]
"""A slice of one prediction: its place, and the hash of the labels."""
_SCALE = (  # Landis and Koch, Biometrics 33, 1977
    (0.81, "almost perfect"),
    (0.61, "substantial"),
    (0.41, "moderate"),
    (0.21, "fair"),
    (0.0, "slight"),
)


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Cohen's kappa (1960) of two reviewers who judged the same slices.

    Parameters
    ----------
    first, second
        Their words, slice by slice.

    Returns
    -------
    float
        At most 1; NaN without slices, or where both always said one and the same word.

    Raises
    ------
    ValueError
        Where one judged more slices than the other.
    """
    pairs = list(zip(first, second, strict=True))
    if not pairs:
        return math.nan
    observed = sum(one == other for one, other in pairs) / len(pairs)
    chance = (
        sum(first.count(word) * second.count(word) for word in {*first, *second})
        / len(pairs) ** 2
    )
    return _beyond_chance(observed, chance)


def fleiss_kappa(counts: Integer[np.ndarray, "slices words"]) -> float:
    """Fleiss' kappa (1971) of several reviewers.

    Parameters
    ----------
    counts
        How many reviewers said each word of each slice; each row has the same sum, the
        number of reviewers, at least 2.

    Returns
    -------
    float
        At most 1; NaN without slices, or where all always said one and the same word.

    Raises
    ------
    ValueError
        Where slices were judged by different numbers of reviewers, or by only one.
    """
    if not len(counts):
        return math.nan
    raters = counts.sum(axis=1)
    n = int(raters[0])
    if n < 2 or (raters != n).any():
        raise ValueError(
            f"slices have {raters.min()} to {raters.max()} verdicts; each needs the "
            "same number, at least 2."
        )
    observed = float(((counts**2).sum(axis=1) - n).mean()) / (n * (n - 1))
    shares = counts.sum(axis=0) / counts.sum()
    return _beyond_chance(observed, float((shares**2).sum()))


def _beyond_chance(observed: float, chance: float) -> float:
    return math.nan if chance == 1 else (observed - chance) / (1 - chance)


def strength(kappa: float) -> str:
    """Name a kappa, after Landis and Koch (1977)."""
    if math.isnan(kappa):
        return "not to be told"
    return next((name for least, name in _SCALE if kappa >= least), "worse than chance")


# ---- the report ----


@dataclass(frozen=True)
class Pair:
    """Two reviewers, on the slices that both judged."""

    first: str
    second: str
    slices: int
    same: int
    """On how many of them they said the same."""
    kappa: float


@dataclass(frozen=True)
class Dispute:
    """A slice that some find good and others bad."""

    place: Place
    labels_hash: str
    good: tuple[str, ...]
    bad: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """What `agreement` finds."""

    reviewers: Mapping[str, Mapping[str, int]]
    """How often each said good, bad and unsure."""
    pairs: tuple[Pair, ...]
    together: int
    """Slices that all judged."""
    fleiss: float
    """Fleiss' kappa on these."""
    disputes: tuple[Dispute, ...]

    def sentences(self) -> tuple[str, ...]:
        """Say it in words."""
        if len(self.reviewers) < 2:
            has = "1 reviewer has" if self.reviewers else "0 reviewers have"
            return (
                f"{has} verdicts here; agreement takes two who judge the same slices.",
            )
        judged = any(pair.slices for pair in self.pairs)
        if not judged:
            return (
                "No two reviewers judged the same slice. Let two judge the same ones.",
            )
        return (*map(_in_words, self.pairs), *self._of_all(), self._of_disputes())

    def _of_all(self) -> tuple[str, ...]:
        if len(self.reviewers) == 2:
            return ()
        return (
            f"All {len(self.reviewers)} judged {self.together} slices; Fleiss' kappa "
            f"is {_number(self.fleiss)}: {strength(self.fleiss)} agreement.",
        )

    def _of_disputes(self) -> str:
        if not self.disputes:
            return "No slice is good for some and bad for others."
        if len(self.disputes) == 1:
            return "One slice is good for some and bad for others; look at it together."
        return (
            f"{len(self.disputes)} slices are good for some and bad for others; look "
            "at them together."
        )


def agreement(verdicts: Iterable[Verdict]) -> Agreement:
    """Compare the reviewers of a store, or of a table.

    Parameters
    ----------
    verdicts
        All rows, take-backs among them; what counts is taken.
    """
    words: dict[Slice, dict[str, Word]] = {}
    for one in current(verdicts):
        words.setdefault((one.place, one.labels_hash), {})[one.reviewer] = one.verdict
    names = sorted({name for said in words.values() for name in said})
    by_all = [said for said in words.values() if len(said) == len(names) > 1]
    counts = [[list(said.values()).count(word) for word in WORDS] for said in by_all]
    return Agreement(
        reviewers={
            name: {
                word: sum(said.get(name) == word for said in words.values())
                for word in WORDS
            }
            for name in names
        },
        pairs=tuple(
            _pair(first, second, words) for first, second in combinations(names, 2)
        ),
        together=len(by_all),
        fleiss=fleiss_kappa(np.array(counts, int).reshape(-1, len(WORDS))),
        disputes=_disputes(words),
    )


def disputed(verdicts: Iterable[Verdict]) -> tuple[Place, ...]:
    """Slices that some reviewers find good and others bad, sorted.

    A slice of two predictions is disputed where it is of at least one of them.
    """
    return tuple(dict.fromkeys(one.place for one in agreement(verdicts).disputes))


def _pair(first: str, second: str, words: Mapping[Slice, Mapping[str, Word]]) -> Pair:
    both = [said for said in words.values() if first in said and second in said]
    one, other = [said[first] for said in both], [said[second] for said in both]
    same = sum(said[first] == said[second] for said in both)
    return Pair(first, second, len(both), same, cohen_kappa(one, other))


def _disputes(words: Mapping[Slice, Mapping[str, Word]]) -> tuple[Dispute, ...]:
    def who(said: Mapping[str, Word], word: Word) -> tuple[str, ...]:
        return tuple(sorted(name for name in said if said[name] == word))

    return tuple(
        Dispute(place, labels_hash, who(said, "good"), who(said, "bad"))
        for (place, labels_hash), said in sorted(words.items())
        if {"good", "bad"} <= set(said.values())
    )


def _in_words(pair: Pair) -> str:
    names = f"{pair.first or 'Nobody named'} and {pair.second}"
    if not pair.slices:
        return f"{names} judged no slice both."
    return (
        f"{names} agree on {pair.same} of {pair.slices} slices; Cohen's kappa is "
        f"{_number(pair.kappa)}: {strength(pair.kappa)} agreement."
    )


def _number(kappa: float) -> str:
    return "undefined" if math.isnan(kappa) else f"{kappa:.2f}"
