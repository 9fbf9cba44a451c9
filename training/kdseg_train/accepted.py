"""Which slices of a run's own predictions are good enough to learn from.

The Quality Classifier of a run comes from people's verdicts, from an existing model,
or, marked as not in the paper, from verdicts by known truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Integer
from pydantic import Field

from kdseg_train.classifier import (
    ClassifierSettings,
    JudgedSlice,
    Purpose,
    train_classifier,
)
from kdseg_train.data import Cases
from kdseg_train.layouts import Case, read_data_set
from kdseg_train.patches import StoredCase, read_case_labels
from kdseg_train.publish import labels_hash
from kdseg_train.quality import (
    BAD_BELOW,
    Files,
    judged_slices,
    settled_verdicts,
    simulated,
    write_scores,
)
from kdseg_train.slices import ChosenSlices, kept_array, p_good, stored_slices
from kdseg_train.verdicts import Verdict, drawn, write_verdicts
from napari_kdseg.errors import DataSetError, ModelError
from napari_kdseg.inference.quality import QualityClassifier, stretched
from napari_kdseg.models.model import Model, ModelCard
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Preprocessing, prepare_labels


class QualitySettings(ClassifierSettings):
    """Where the Quality Classifier comes from, and what it accepts."""

    source: Literal["none", "reviews", "model", "simulated", "proxy"] = Field(
        "reviews",
        description="none: every slice is accepted; reviews: people's verdicts, as in "
        "the paper; model: a classifier there is; not in the paper: simulated: "
        "verdicts from the known truth of unlabelled scans, in place of people's; "
        "proxy: verdicts from the labels on predictions of teachers that did not see "
        "them",
    )
    reviews: Path | None = Field(None, description="reviews: the verdicts, CSV")
    labels: Path | None = Field(
        None, description="reviews: folder of the predictions that were judged"
    )
    model: Path | None = Field(None, description="model: folder of the classifier")
    reference: Path | None = Field(
        None, description="simulated: data set with the truth of the unlabelled scans"
    )
    slices: int = Field(
        1000,
        ge=2,
        description="simulated and proxy: so many are judged, at random; the paper's "
        "people judged about as many",
    )
    bad_below: float = Field(
        BAD_BELOW,
        gt=0,
        le=1,
        description="simulated and proxy: slices with a lower Dice are bad",
    )
    folds: int = Field(3, ge=2, description="proxy: teachers, each blind to one part")
    threshold: float | None = Field(
        None,
        ge=0,
        description="slices with at least this P(good) are accepted: 0 keeps all, "
        "above 1 none; none: the classifier's own",
    )

    def missing(self) -> str | None:
        """Name the first setting that the source needs and that is not given."""
        needed = {
            "reviews": ("reviews", "labels"),
            "model": ("model",),
            "simulated": ("reference",),
        }
        names = needed.get(self.source, ())
        return next((name for name in names if getattr(self, name) is None), None)

    def at(self, root: Path) -> "QualitySettings":
        """The same with paths that start from a folder where they are relative."""
        names = ("reviews", "labels", "model", "reference")
        paths = {name: getattr(self, name) for name in names}
        return self.model_copy(
            update={name: root / path for name, path in paths.items() if path}
        )


@dataclass(frozen=True)
class Labelled:
    """A case and what a network sees in it."""

    case: Case
    stored: StoredCase
    labels: Integer[np.ndarray, "Z Y X"]
    """Class indices, as prepared."""


def check_quality(settings: QualitySettings, cases: Cases) -> None:
    """Refuse what a classifier could not learn from, before anything is trained.

    Raises
    ------
    DataSetError
        Where verdicts are missing or all alike, or speak about scans that are kept
        apart or unknown; where truth is missing.
    ModelError
        Where the model given is no quality-classifier of these classes.
    """
    if settings.source == "reviews":
        _check_reviews(settings, cases)
    if settings.source == "simulated":
        _truth_cases(settings, cases)
    if settings.source == "model":
        given_classifier(settings, cases)


def given_classifier(settings: QualitySettings, cases: Cases) -> Model:
    """Open the classifier that the recipe names.

    Raises
    ------
    ModelError
        Where it is none, or judges other classes or channels.
    """
    assert settings.model is not None
    model = Model.open(settings.model)
    card = model.card
    if card.calibration is None:
        raise ModelError(
            f"{settings.model} is a {card.role}; quality.model must be a "
            "quality-classifier, as kdseg-train quality fit makes it."
        )
    if card.classes.names != cases.classes or len(card.channels) != len(cases.channels):
        raise ModelError(
            f"{settings.model} judges {', '.join(card.classes.names)} in "
            f"{len(card.channels)} channels; the recipe has "
            f"{', '.join(cases.classes)} in {len(cases.channels)}. Train a classifier "
            "of these, or set quality.source to another one."
        )
    return model


def _check_reviews(settings: QualitySettings, cases: Cases) -> None:
    assert settings.reviews is not None
    good, _ = settled_verdicts(settings.reviews)
    known = {case.id for case in (*cases.training, *cases.unlabelled)}
    apart = {case.id for case in (*cases.validation, *cases.test)}
    for case in sorted({place[0] for place in good}):
        if case in apart and case not in known:
            raise DataSetError(
                f"{settings.reviews} has verdicts on {case}, which is kept for "
                "validation or testing; a classifier must not learn from it. Leave "
                "them out."
            )
        if case not in known:
            raise DataSetError(
                f"{settings.reviews} has verdicts on {case}, which is no case of this "
                "recipe; add it to unlabelled, or leave its verdicts out."
            )


def _truth_cases(settings: QualitySettings, cases: Cases) -> list[Case]:
    """Cases of the reference, in the order of the unlabelled ones."""
    assert settings.reference is not None
    known = {
        case.id: case
        for case in read_data_set(settings.reference).cases
        if set(cases.classes) <= set(case.annotated)
    }
    for case in cases.unlabelled:
        if case.id not in known:
            raise DataSetError(
                f"{settings.reference} has no case {case.id!r} with labels of "
                f"{', '.join(cases.classes)}; simulated verdicts need the truth of "
                "every unlabelled case."
            )
    return [known[case.id] for case in cases.unlabelled]


# ---- verdicts ----


def judged_by_people(
    run: Run, settings: QualitySettings, cases: Cases, preprocessing: Preprocessing
) -> list[JudgedSlice]:
    """Slices that people judged, cut from the predictions they looked at."""
    assert settings.reviews is not None
    assert settings.labels is not None
    known = {case.id: case for case in (*cases.training, *cases.unlabelled)}
    classes = LabelSet.from_names(cases.classes)
    files = Files(known, settings.labels, classes, preprocessing)
    verdicts = settled_verdicts(settings.reviews)
    return judged_slices(verdicts, files, settings.size_vox, run.check_stop)


def truth_of_unlabelled(
    settings: QualitySettings, cases: Cases, preprocessing: Preprocessing
) -> list[Callable[[], np.ndarray]]:
    """How to read the truth of each unlabelled case, as class indices, prepared."""

    def reader(case: Case) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            volume = formats.read_volume(case.images[0])
            indices = read_case_labels(case, cases.classes, volume)
            return prepare_labels(indices, volume.grid, preprocessing)[0]

        return read

    return [reader(case) for case in _truth_cases(settings, cases)]


def judged_by_truth(
    run: Run,
    settings: QualitySettings,
    predicted: Sequence[Labelled],
    truths: Sequence[Callable[[], np.ndarray]],
    preprocessing: Preprocessing,
    seed: int,
) -> list[JudgedSlice]:
    """Judge slices by their Dice with the truth; ``RUN/verdicts.csv`` says how."""
    words: dict[tuple[str, int], bool] = {}
    for number, (one, truth) in enumerate(zip(predicted, truths, strict=True)):
        run.check_stop()
        found = simulated(truth(), np.asarray(one.labels), 0, settings.bad_below)
        words |= {(str(number), z): word == "good" for z, word in found}
        run.progress(number + 1, len(predicted), stage="judge")
    good = sum(words.values())
    if good in (0, len(words)):
        raise DataSetError(
            f"{good} of {len(words)} predicted slices have a Dice of at least "
            f"{settings.bad_below:g} with the truth; a classifier needs good and bad "
            f"ones. {'Lower' if good == 0 else 'Raise'} quality.bad_below, or train "
            f"the teacher {'longer' if good == 0 else 'shorter'}."
        )
    places = list(drawn(list(words), settings.slices, seed))
    judged, verdicts = [], []
    for number in sorted({int(name) for name, _ in places}):
        one = predicted[number]
        axis, index = stored_slices(one.case, preprocessing)
        digest = labels_hash(one.labels)
        for z in (z for name, z in places if name == str(number)):
            is_good = words[str(number), z]
            size = (settings.size_vox, settings.size_vox)
            seen = stretched(one.stored.image[:, z], one.labels[z], size)
            judged.append(JudgedSlice(one.stored.folder.name, seen, is_good))
            word: Literal["good", "bad"] = "good" if is_good else "bad"
            verdict = Verdict(
                one.case.id, axis, int(index[z]), word, "simulated", digest, "truth"
            )
            verdicts.append(verdict)
    write_verdicts(run.folder / "verdicts.csv", verdicts)
    return judged


def own_classifier(
    run: Run,
    settings: QualitySettings,
    card: ModelCard,
    judged: Callable[[], list[JudgedSlice]],
    *,
    seed: int,
    device: torch.device,
) -> Model:
    """Train the run's own classifier as ``RUN/quality``; one there is is taken.

    Parameters
    ----------
    card
        Of the segmentation: classes, channels and preprocessing are taken from it.
    judged
        Gives the slices to learn from.
    """
    folder = run.folder / "quality"
    if folder.exists():
        return Model.open(folder)
    purpose = Purpose(
        folder=folder,
        metrics=run.folder / "quality.csv",
        name=card.name,
        channels=card.channels,
        classes=card.classes,
        preprocessing=card.preprocessing,
        provenance=card.provenance,
        licence=card.licence,
    )
    return train_classifier(run, judged(), purpose, settings, seed=seed, device=device)


# ---- what is accepted ----


def accepted_slices(
    run: Run,
    settings: QualitySettings,
    model: Model | None,
    pseudo: Sequence[Labelled],
    preprocessing: Preprocessing,
    *,
    device: str,
) -> list[ChosenSlices]:
    """``X_R``: slices with enough P(good), all without a classifier.

    ``RUN/scores.csv`` has P(good) of each slice, as axis and index of the stored scan.
    """
    if model is None:
        return [ChosenSlices.all_of(one.stored) for one in pseudo]
    classifier = QualityClassifier.of(model, device)
    threshold = settings.threshold
    if threshold is None:
        threshold = classifier.calibration.threshold
    rows: list[tuple[str, int, int, float]] = []
    chosen = []
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
        chosen.append(ChosenSlices(one.stored, np.flatnonzero(prob >= threshold)))
        run.progress(number, len(pseudo), stage="score")
    write_scores(run.folder / "scores.csv", rows)
    run.metric(
        stage="accepted",
        slices=len(rows),
        accepted=sum(len(part.z) for part in chosen),
        threshold=threshold,
    )
    return chosen
