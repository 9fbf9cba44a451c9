"""Which slices of a run's cases a student learns from.

The labelled ones, and those of its own predictions that are good enough: as people said
or, where nobody did, as the Quality Classifier says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.ndimage import distance_transform_edt

from kdseg_train.data import Cases
from kdseg_train.layouts import Case
from kdseg_train.prepared import StoredCase
from kdseg_train.quality import VERDICTS
from kdseg_train.quality_source import Labelled, QualitySettings, judged_subjects
from kdseg_train.scores import write_scores
from kdseg_train.slices import ChosenSlices, kept_array, p_good, stored_slices
from napari_kdseg.errors import DataSetError
from napari_kdseg.inference.quality import QualityClassifier
from napari_kdseg.models.model import Model
from napari_kdseg.review.opinions import decided
from napari_kdseg.review.verdicts import Place, current, read_verdicts, write_verdicts
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.preprocessing import Preprocessing


@dataclass(frozen=True)
class Gate:
    """What decides which slices a student learns from.

    Attributes
    ----------
    model
        The classifier; None: every slice is accepted.
    cases
        Of the run: slices of these that are labelled need no pseudo-labels.
    """

    settings: QualitySettings
    model: Model | None
    cases: Cases


def labelled_slices(
    cases: Sequence[Case], stored: Sequence[StoredCase], preprocessing: Preprocessing
) -> list[ChosenSlices]:
    """``X_L``: all slices of labelled cases, of some only those that are labelled.

    Raises
    ------
    DataSetError
        Where the labelled slices of a case lie along another axis than the network's.
    """
    return [
        _labelled_of(case, own, preprocessing)
        if case.slices
        else ChosenSlices.all_of(own)
        for case, own in zip(cases, stored, strict=True)
    ]


def _labelled_of(
    case: Case, stored: StoredCase, preprocessing: Preprocessing
) -> ChosenSlices:
    axis, index = stored_slices(case, preprocessing)
    there = [place[1] for place in case.slices if place[0] == axis]
    if not there:
        raise DataSetError(
            f"the labelled slices of {case.id} lie along axis {case.slices[0][0]} of "
            f"the stored scan, and this recipe learns slices along axis {axis}. "
            "Correct slices along that axis, or leave the case out."
        )
    return ChosenSlices(stored, np.flatnonzero(np.isin(index, there)))


def accepted_slices(
    run: Run,
    gate: Gate,
    pseudo: Sequence[Labelled],
    preprocessing: Preprocessing,
    *,
    device: str,
) -> list[ChosenSlices]:
    """``X_R``: slices with enough P(good), all without a classifier.

    What people said of a slice comes first. Slices that are labelled are left out.
    Where the settings say so, empty slices far from every organ are taken as well.
    ``RUN/scores.csv`` has P(good) of each slice, as axis and index of the stored scan.
    """
    words = dict.fromkeys(_labelled_places(gate.cases), False)
    if gate.model is None:
        return [_chosen(one, None, words, preprocessing) for one in pseudo]
    words = _people_said(run, gate) | words
    classifier = QualityClassifier.of(gate.model, device)
    threshold = gate.settings.threshold
    if threshold is None:
        threshold = classifier.calibration.threshold
    rows: list[tuple[str, int, int, float]] = []
    chosen = []
    beyond = 0
    for number, one in enumerate(pseudo, start=1):
        judge = partial(
            p_good, classifier, one.stored, np.asarray(one.labels), run.check_stop
        )
        prob = kept_array(one.stored.folder / "p-good.npy", judge)
        axis, index = stored_slices(one.case, preprocessing)
        rows += [
            (one.case.id, axis, int(i), float(p))
            for i, p in zip(index, prob, strict=True)
        ]
        empty = background(one.labels, gate.settings.background_from)
        good = prob >= threshold
        part = _chosen(one, good | empty, words, preprocessing)
        chosen.append(part)
        beyond += int((empty & ~good)[part.z].sum())
        run.progress(number, len(pseudo), stage="score")
    if run.leads:
        write_scores(run.folder / "scores.csv", rows)
    run.metric(
        stage="accepted",
        slices=len(rows),
        accepted=sum(len(part.z) for part in chosen),
        threshold=threshold,
        judged_by_people=len(words),
        background=beyond,
    )
    return chosen


def background(
    labels: Integer[np.ndarray, "Z Y X"], distance: int | None
) -> Bool[np.ndarray, " Z"]:
    """Find the slices without labels, this far or further from all that have some.

    The next slice beyond an organ is often one that the prediction lacks, so that
    `distance` is better more than 1. None: no slice; nor is there any in a scan
    without labels, where the prediction may have missed everything.
    """
    if distance is None:
        return np.zeros(len(labels), bool)
    shows = np.array([plane.any() for plane in labels])
    if not shows.any():
        return shows
    away: Float[np.ndarray, " Z"] = distance_transform_edt(~shows)
    return away >= distance


def _chosen(
    one: Labelled,
    accepted: np.ndarray | None,
    words: Mapping[Place, bool],
    preprocessing: Preprocessing,
) -> ChosenSlices:
    """Accepted slices of a case; all for None; where somebody said, as they said."""
    if accepted is None and not words:
        return ChosenSlices.all_of(one.stored)
    axis, index = stored_slices(one.case, preprocessing)
    every = np.ones(len(index), bool) if accepted is None else accepted
    said = [words.get((one.case.id, axis, int(place))) for place in index]
    kept = [
        bool(own) if word is None else word
        for own, word in zip(every, said, strict=True)
    ]
    return ChosenSlices(one.stored, np.flatnonzero(kept))


def _labelled_places(cases: Cases) -> list[Place]:
    return [(case.id, *place) for case in cases.training for place in case.slices]


def _people_said(run: Run, gate: Gate) -> dict[Place, bool]:
    """What reviewers agree on, on the labels that the teacher's predictions have now.

    ``RUN/verdicts.csv`` has the verdicts, as they were when they were first read.
    """
    settings = gate.settings
    if settings.source != "model" or settings.reviews is None:
        return {}
    frozen = run.folder / VERDICTS
    if not frozen.exists():
        known = judged_subjects(settings, gate.cases)
        rows = [
            one
            for one in current(read_verdicts(settings.reviews))
            if one.case in known and one.labels_hash == known[one.case].labels_hash
        ]
        write_verdicts(frozen, rows)
    return decided(read_verdicts(frozen))
