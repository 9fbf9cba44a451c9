"""Verdicts on predictions, and the slices that they are about."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kdseg_train.classifier import JudgedSlice
from kdseg_train.subjects import Subject
from napari_kdseg.errors import DataSetError
from napari_kdseg.inference.quality import Slices, stretched
from napari_kdseg.review.opinions import decided
from napari_kdseg.review.verdicts import (
    Place,
    Verdict,
    check_both,
    current,
    read_verdicts,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Preprocessing


@dataclass(frozen=True)
class Settled:
    """What most reviewers said of slices of the predictions that there are."""

    good: Mapping[Place, bool]
    rows: tuple[Verdict, ...]
    """The verdicts behind it."""
    left_out: tuple[Verdict, ...]
    """Verdicts on other labels: of predictions that have changed, or of others."""

    @property
    def warning(self) -> str:
        """What to tell of verdicts that are left out; empty where none is."""
        if not self.left_out:
            return ""
        first = self.left_out[0]
        return (
            f"{len(self.left_out)} verdicts are left out, since they are on labels "
            f"that are not there: the predictions have changed, or are of another "
            f"model. The first is on slice {first.index} of {first.case}, labels "
            f"{first.labels_hash[:12] or 'unknown'}."
        )


def verdicts_in(where: str) -> tuple[Verdict, ...]:
    """Read verdicts, of which there must be good and bad ones.

    Raises
    ------
    DataSetError, ReviewError
        As `read_verdicts`, and where there is one kind or none.
    """
    rows = read_verdicts(where)
    check_both(list(decided(rows).values()), where)
    return rows


def settle(
    verdicts: Iterable[Verdict], subjects: Mapping[str, Subject], where: str
) -> Settled:
    """Take the verdicts on the very labels that there are, and what they come to.

    Parameters
    ----------
    verdicts
        All rows of a store.
    subjects
        Predictions by case.
    where
        What to call the store.

    Raises
    ------
    DataSetError
        Where they do not come to good and bad slices.
    """
    kept: list[Verdict] = []
    left_out: list[Verdict] = []
    for one in current(verdicts):
        subject = subjects.get(one.case)
        fits = subject is not None and (
            not one.labels_hash or one.labels_hash == subject.labels_hash
        )
        (kept if fits else left_out).append(one)
    found = Settled(decided(kept), tuple(kept), tuple(left_out))
    try:
        check_both(list(found.good.values()), where)
    except DataSetError as error:
        raise DataSetError(f"{error} {found.warning}".strip()) from error
    return found


def cut_out(
    settled: Settled,
    subjects: Mapping[str, Subject],
    classes: LabelSet,
    preprocessing: Preprocessing,
    *,
    size: int,
    each: Callable[[int, int], None],
) -> list[JudgedSlice]:
    """Cut the judged slices out of scans and predictions.

    Parameters
    ----------
    settled, subjects
        Which slices, and of what.
    classes, preprocessing
        How the classifier sees them.
    size
        Pixels, y and x, that slices are stretched to.
    each
        Told how many scans of how many are done; may raise to end it.

    Raises
    ------
    DataSetError
        As `Subject.open`, and where an index lies outside the scan.
    """
    cases = sorted({place[0] for place in settled.good})
    judged = []
    for number, case in enumerate(cases):
        each(number, len(cases))
        volume, labels = subjects[case].open(classes)
        slices = Slices(volume, labels, preprocessing)
        for place in sorted(place for place in settled.good if place[0] == case):
            _, axis, index = place
            if index >= volume.grid.shape[axis]:
                raise DataSetError(
                    f"there is a verdict on slice {index} along axis {axis} of case "
                    f"{case}, which has {volume.grid.shape[axis]}; slices count from 0."
                )
            ((image, mask),) = slices.read(axis, index, index + 1)
            seen = stretched(image, mask, (size, size))
            judged.append(JudgedSlice(case, seen, settled.good[place], axis, index))
    each(len(cases), len(cases))
    return judged
