"""Judged slices divided by scan, never by slice.

Neighbouring slices of a scan look alike: a classifier that learnt from one knows the
other. So what measures it comes from scans that it never saw.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from napari_kdseg.amounts import counted
from napari_kdseg.errors import DataSetError
from napari_kdseg.review.verdicts import check_both

TRIES = 1000
FOLDS = 3
SCANS_TO_DIVIDE = 8
"""With fewer, each part would have a scan or two, and measure little."""


@dataclass(frozen=True)
class Judgements:
    """The scan of each slice, and whether it is good."""

    scans: Sequence[str]
    good: Sequence[bool]

    @property
    def names(self) -> list[str]:
        """The scans, by name."""
        return sorted(set(self.scans))

    def of(self, scans: set[str]) -> list[int]:
        """Places of the slices of some scans."""
        return [place for place, scan in enumerate(self.scans) if scan in scans]

    def both(self, places: Sequence[int]) -> bool:
        """Whether there are good and bad ones among some slices."""
        return len({self.good[place] for place in places}) == 2


@dataclass(frozen=True)
class Plan:
    """Which slices teach a classifier, and which measure it; places in their list.

    Attributes
    ----------
    training
        Slices that it learns from.
    calibration
        Slices for its curve and threshold: others than those; or all of them, answered
        for by networks that did not see their scans.
    test
        Slices that nothing is fitted to; may be empty.
    folds
        Parts left out one at a time; empty where scans are divided once.
    """

    training: list[int]
    calibration: list[int]
    test: list[int]
    folds: list[list[int]]


def planned(
    judged: Judgements,
    validation: float,
    test: float,
    count: int | None,
    seed: int,
) -> Plan:
    """Decide which slices teach and which measure.

    Parameters
    ----------
    judged
        The slices.
    validation, test
        Shares of the scans, where these are divided once.
    count
        Of folds; 0: scans are divided once; None: as there are scans enough or not.
    seed
        Decides, with the names of the scans, which scan goes where.

    Raises
    ------
    DataSetError
        Where there is one kind of slice, or where scans cannot be divided so that
        every part that is learnt from or calibrated on has both.
    """
    check_both(judged.good, "what was judged")
    scans = len(judged.names)
    if count is None:
        count = 0 if scans >= SCANS_TO_DIVIDE else FOLDS
    if not count:
        found = parts(judged, [validation, test] if test else [validation], seed)
        if found is not None:
            return Plan(found[0], found[1], found[2] if test else [], [])
    every = list(range(len(judged.good)))
    left_out = folds(judged, count or FOLDS, seed)
    if left_out is None:
        raise DataSetError(
            f"{len(every)} judged slices of {counted(scans, 'scan')} cannot be divided "
            "by scan so that there are good and bad ones on both sides; a classifier "
            "is measured on scans that it never saw. Judge slices of more scans."
        )
    return Plan(every, every, [], left_out)


def parts(
    judged: Judgements, shares: Sequence[float], seed: int
) -> list[list[int]] | None:
    """Divide slices into parts that all have good and bad ones.

    Parameters
    ----------
    judged
        The slices.
    shares
        Of the scans, for each part after the first, which has the rest; each part has
        one scan at least.
    seed
        Decides, with the names of the scans, which scan goes where.

    Returns
    -------
    list of lists of int
        Places of slices, one list a part; None where no such division was found.
    """
    names = judged.names
    counts = [max(1, round(share * len(names))) for share in shares]
    if sum(counts) >= len(names):
        return None
    rng = random.Random(seed)
    for _ in range(TRIES):
        rng.shuffle(names)
        left, found = list(names), []
        for count in counts:
            found.append(judged.of(set(left[:count])))
            left = left[count:]
        found.insert(0, judged.of(set(left)))
        if all(judged.both(part) for part in found):
            return found
    return None


def folds(judged: Judgements, count: int, seed: int) -> list[list[int]] | None:
    """Divide slices into parts of about one size, to be left out one at a time.

    Parameters
    ----------
    judged
        The slices.
    count
        Of parts; fewer where there are fewer scans.
    seed
        As in `parts`.

    Returns
    -------
    list of lists of int
        Places of slices, one list a part. Without any of them there are still good and
        bad slices; None where no such division was found.
    """
    names, sizes = judged.names, Counter(judged.scans)
    count = min(count, len(names))
    rng = random.Random(seed)
    for _ in range(TRIES):
        rng.shuffle(names)
        held: list[set[str]] = [set() for _ in range(count)]
        for name in names:
            min(held, key=lambda one: sum(sizes[scan] for scan in one)).add(name)
        found = [judged.of(one) for one in held]
        others = [judged.of(set(names) - one) for one in held]
        if count > 1 and all(judged.both(part) for part in others):
            return found
    return None
