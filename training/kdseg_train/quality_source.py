"""Where the Quality Classifier of a run comes from.

From people's verdicts, from an existing model, or, marked as not in the paper, from
verdicts by known truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Integer
from pydantic import Field

from kdseg_train.classifier import JudgedSlice, Purpose, train_classifier
from kdseg_train.classifier_settings import ClassifierSettings
from kdseg_train.config import Recipe
from kdseg_train.data import Cases
from kdseg_train.judged import Settled, cut_out, settle, verdicts_in
from kdseg_train.layouts import Case, read_data_set
from kdseg_train.prepared import StoredCase, read_case_labels
from kdseg_train.quality import BAD_BELOW, VERDICTS, VerdictPlace, simulated
from kdseg_train.slices import stored_slices
from kdseg_train.subjects import Subject, subjects_of
from napari_kdseg.errors import DataSetError, ModelError
from napari_kdseg.inference.quality import stretched
from napari_kdseg.models.model import Model, ModelCard
from napari_kdseg.review.verdicts import (
    Verdict,
    current,
    drawn,
    read_verdicts,
    write_verdicts,
)
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.labels import LabelSet, labels_hash
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
    reviews: VerdictPlace | None = Field(
        None,
        description="reviews: the verdicts, as CSV, SQLite file or URL; with model, "
        "verdicts on the given teacher's predictions, which come before what the "
        "classifier says",
    )
    labels: Path | None = Field(
        None, description="folder of the predictions that `reviews` are about"
    )
    predicted_by: str = Field(
        "", description="name or fingerprint of their model, where there are several"
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
    test: float = Field(
        0.0, ge=0, lt=1, description="share of the scans that only measure"
    )
    cross_fitting: int | None = Field(
        0, ge=0, description="parts; 0: scans are divided once; none: as suits them"
    )
    threshold: float | None = Field(
        None,
        ge=0,
        description="slices with at least this P(good) are accepted: 0 keeps all, "
        "above 1 none; none: the classifier's own",
    )
    background_from: int | None = Field(
        None,
        ge=1,
        description="not in the paper: slices on which the prediction shows nothing, "
        "this many slices or more from one with an organ, are accepted as background, "
        "unless people said otherwise; none: as the classifier says, which hardly "
        "learns from empty slices, since reviews hide them",
    )

    def missing(self) -> str | None:
        """Name the first setting that the source needs and that is not given."""
        needed = {
            "reviews": ("reviews", "labels"),
            "model": ("model", "labels") if self.reviews else ("model",),
            "simulated": ("reference",),
        }
        names = needed.get(self.source, ())
        return next((name for name in names if getattr(self, name) is None), None)

    def found_by(self, recipe: Recipe) -> "QualitySettings":
        """The same with all paths as a recipe means them."""
        found: dict[str, Path | str] = {}
        for name in ("labels", "model"):
            path = getattr(self, name)
            if path is not None:
                found[name] = recipe.found(path)
        if self.reviews is not None and "://" not in self.reviews:
            found["reviews"] = str(recipe.found(Path(self.reviews)))
        if self.reference is not None:  # a data set, as those under `data`
            found["reference"] = recipe.root / self.reference
        return self.model_copy(update=found)


@dataclass(frozen=True)
class Labelled:
    """A case and what a network sees in it."""

    case: Case
    stored: StoredCase
    labels: Integer[np.ndarray, "Z Y X"]
    """Class indices, as prepared."""


def check_quality(
    settings: QualitySettings,
    cases: Cases,
    preprocessing: Preprocessing,
    teacher: Model | None = None,
) -> None:
    """Refuse what a classifier could not learn from, before anything is trained.

    Parameters
    ----------
    settings, cases, preprocessing
        Of the run.
    teacher
        Where it is given, and not trained by the run.

    Raises
    ------
    DataSetError
        Where verdicts are missing or all alike, or speak about scans that are kept
        apart or unknown, or about predictions of another teacher; where truth is
        missing.
    ModelError
        Where the model given is no quality-classifier of these classes.
    """
    if settings.source == "reviews":
        _check_scans(settings, cases)
        settle_reviews(settings, cases)
    if settings.source == "simulated":
        _truth_cases(settings, cases)
    if settings.source == "model":
        given_classifier(settings, cases, preprocessing)
        if settings.reviews is not None:
            _check_scans(settings, cases)
            _check_maker(settings, cases, teacher)


def given_classifier(
    settings: QualitySettings, cases: Cases, preprocessing: Preprocessing
) -> Model:
    """Open the classifier that the recipe names.

    Raises
    ------
    ModelError
        Where it is none, judges other classes or channels, or sees scans otherwise.
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
    sees = card.preprocessing
    if (sees.orientation, sees.intensity) != (
        preprocessing.orientation,
        preprocessing.intensity,
    ):
        raise ModelError(
            f"{settings.model} sees scans turned or scaled in another way than the "
            "recipe; both need the same orientation and intensity. Train the "
            "classifier with --segmentation and the folder of the teacher."
        )
    return model


def _check_scans(settings: QualitySettings, cases: Cases) -> None:
    assert settings.reviews is not None
    known = {case.id for case in (*cases.training, *cases.unlabelled)}
    apart = {case.id for case in (*cases.validation, *cases.test)}
    judged = {one.case for one in current(read_verdicts(settings.reviews))}
    for case in sorted(judged - known):
        if case in apart:
            raise DataSetError(
                f"{settings.reviews} has verdicts on {case}, which is kept for "
                "validation or testing; a classifier must not learn from it. Leave "
                "them out."
            )
        raise DataSetError(
            f"{settings.reviews} has verdicts on {case}, which is no case of this "
            "recipe; add it to unlabelled, or leave its verdicts out."
        )


def _check_maker(
    settings: QualitySettings, cases: Cases, teacher: Model | None
) -> None:
    """People's verdicts on predictions of one model say nothing of another's."""
    makers = {one.fingerprint for one in judged_subjects(settings, cases).values()}
    if teacher is None or makers - {teacher.fingerprint}:
        raise DataSetError(
            f"{settings.labels} was not predicted by the teacher of this recipe, so "
            "verdicts on it do not hold for its pseudo-labels. Give that model as "
            "`teacher`, or leave quality.reviews out."
        )


def judged_subjects(settings: QualitySettings, cases: Cases) -> dict[str, Subject]:
    """Find the predictions that people judged, by case."""
    assert settings.labels is not None
    known = {case.id: case for case in (*cases.training, *cases.unlabelled)}
    return subjects_of(known, settings.labels, settings.predicted_by)


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


def settle_reviews(
    settings: QualitySettings, cases: Cases, frozen: Path | None = None
) -> tuple[dict[str, Subject], Settled]:
    """Find the predictions that people judged, and what they said of them.

    Parameters
    ----------
    settings, cases
        Where they are.
    frozen
        A table of the verdicts that count; taken where it is there.

    Raises
    ------
    DataSetError
        Where the verdicts do not come to good and bad slices.
    """
    assert settings.reviews is not None
    begun = frozen is not None and frozen.exists()
    where = str(frozen) if begun else settings.reviews
    rows = verdicts_in(where)
    found = judged_subjects(settings, cases)
    return found, settle(rows, found, where)


def judged_by_people(
    run: Run, settings: QualitySettings, cases: Cases, preprocessing: Preprocessing
) -> list[JudgedSlice]:
    """Slices that people judged, cut from the predictions they looked at."""
    frozen = run.folder / VERDICTS
    found, settled = settle_reviews(settings, cases, frozen)
    if settled.warning:
        run.warning(settled.warning)
    if not frozen.exists():
        write_verdicts(frozen, settled.rows)

    def each(done: int, total: int) -> None:
        run.check_stop()
        run.progress(done, total, stage="read")

    classes = LabelSet.from_names(cases.classes)
    size = settings.size_vox
    return cut_out(settled, found, classes, preprocessing, size=size, each=each)


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
            place = axis, int(index[z])
            judged.append(JudgedSlice(one.stored.folder.name, seen, is_good, *place))
            word: Literal["good", "bad"] = "good" if is_good else "bad"
            verdict = Verdict(one.case.id, *place, word, "simulated", digest, "truth")
            verdicts.append(verdict)
    if run.leads:
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
        held_out=run.folder / "quality-validation.csv",
        name=card.name,
        channels=card.channels,
        classes=card.classes,
        preprocessing=card.preprocessing,
        provenance=card.provenance,
        licence=card.licence,
    )
    return train_classifier(run, judged(), purpose, settings, seed=seed, device=device)
