"""What people corrected and sent to be learnt from, one correction a scan."""

from pathlib import Path

from napari_kdseg.review.corrections import Corrected, labelled


def labelled_set(folder: Path) -> dict[str, Corrected]:
    """Find what counts as labelled, by case.

    Where predictions of several models were corrected, that of which all, or else most
    slices were sent.

    Raises
    ------
    ReviewError
        Where the record of a correction is damaged.
    """
    best: dict[str, Corrected] = {}
    for one in labelled(folder):
        other = best.get(one.case)
        if other is None or _extent(one) > _extent(other):
            best[one.case] = one
    return best


def _extent(one: Corrected) -> tuple[bool, int]:
    return one.whole, sum(len(indices) for indices in one.slices.values())
