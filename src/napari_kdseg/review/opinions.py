"""What several reviewers come to on each slice."""

from collections.abc import Iterable

from napari_kdseg.review.verdicts import Place, Verdict, Word, current

_WORTH: dict[Word, int] = {"good": 1, "bad": -1, "unsure": 0}


def votes(verdicts: Iterable[Verdict]) -> dict[Place, int]:
    """Reviewers for a slice less those against it; 0 where they are unsure, or a tie.

    Parameters
    ----------
    verdicts
        Rows in the order of their table, about one prediction of each scan.
    """
    last = {(one.place, one.reviewer): one for one in current(verdicts)}
    found: dict[Place, int] = {}
    for (place, _), one in last.items():
        found[place] = found.get(place, 0) + _WORTH[one.verdict]
    return found


def decided(verdicts: Iterable[Verdict]) -> dict[Place, bool]:
    """Slices that most reviewers find good (True) or bad (False); no others."""
    return {place: vote > 0 for place, vote in votes(verdicts).items() if vote}
