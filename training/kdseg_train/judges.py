"""A run's own predictions, and the Quality Classifier that judges them.

It is given, or learns from verdicts, of which `quality_source` has each kind.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from kdseg_train.classifier import JudgedSlice
from kdseg_train.config import Recipe
from kdseg_train.data import Cases
from kdseg_train.folds import Fold, check_folds, divided
from kdseg_train.quality_source import (
    Labelled,
    QualitySettings,
    check_quality,
    given_classifier,
    judged_by_people,
    judged_by_truth,
    own_classifier,
    truth_of_unlabelled,
)
from kdseg_train.slices import predicted
from kdseg_train.supervised import Material
from kdseg_train.targets import Target, model_card
from napari_kdseg.errors import DataSetError
from napari_kdseg.inference.forward import pick_device
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run


def check_judge(
    config: Recipe, quality: QualitySettings, cases: Cases, teacher: Model | None
) -> None:
    """Refuse what no classifier could come from, before anything is prepared.

    Parameters
    ----------
    teacher
        Where it is given, and not trained by the run.

    Raises
    ------
    DataSetError
        Where only some slices of a case are labelled, and whole labels are needed.
    DataSetError, ModelError
        As `check_folds` and `check_quality`.
    """
    partly = [case.id for case in cases.training if case.slices]
    if quality.source == "proxy" and partly:
        raise DataSetError(
            f"of {partly[0]} only some slices are labelled, and quality.source proxy "
            "compares predictions with whole labels; leave the case out, or take "
            "another source."
        )
    if quality.source == "proxy":
        check_folds(cases.training, quality.folds)
    check_quality(quality, cases, config.preprocessing, teacher)


def blind_folds(quality: QualitySettings, material: Material, seed: int) -> list[Fold]:
    """Parts of the labelled cases, each for a teacher that does not see it.

    Raises
    ------
    DataSetError
        As `divided`.
    """
    return divided(material, quality.folds, seed) if quality.source == "proxy" else []


def judge_of(
    run: Run,
    config: Recipe,
    quality: QualitySettings,
    material: Material,
    pseudo: Sequence[Labelled],
    train_on: Callable[[Fold], Model],
) -> Model | None:
    """The classifier that a run goes by; none where every slice is accepted.

    Parameters
    ----------
    pseudo
        The unlabelled cases and what the teacher sees in them.
    train_on
        Trains another teacher, on what a fold does not hold out.

    Raises
    ------
    DataSetError, ModelError
        As `judged_by_truth` and `given_classifier`.
    """
    cases, how = material.cases, config.preprocessing

    def judged() -> list[JudgedSlice]:
        if quality.source == "reviews":
            return judged_by_people(run, quality, cases, how)
        if quality.source == "simulated":
            truths = truth_of_unlabelled(quality, cases, how)
            return judged_by_truth(run, quality, pseudo, truths, how, config.seed)
        folds = blind_folds(quality, material, config.seed)
        blind = out_of_fold(run, config, folds, train_on)
        known = [partial(np.load, one.stored.folder / "labels.npy") for one in blind]
        return judged_by_truth(run, quality, blind, known, how, config.seed)

    if quality.source == "none":
        return None
    if quality.source == "model":
        return given_classifier(quality, cases, how)
    target = Target(cases.classes, run.folder, "teacher", "quality", suffix="quality")
    return own_classifier(
        run,
        quality,
        model_card(config, cases, target),
        judged,
        seed=config.seed,
        device=torch.device(pick_device(config.device)),
    )


def out_of_fold(
    run: Run, config: Recipe, folds: Sequence[Fold], train_on: Callable[[Fold], Model]
) -> list[Labelled]:
    """Labelled cases as teachers see them that were not trained on them."""
    found = []
    for fold in folds:
        teacher = train_on(fold)
        for case, stored in zip(fold.material.cases.test, fold.held_out, strict=True):
            labels = predicted(run, teacher, stored, config.device, "out-of-fold.npy")
            found.append(Labelled(case, stored, labels))
    return found


def pseudo_labelled(
    run: Run, config: Recipe, material: Material, teacher: Model
) -> list[Labelled]:
    """Every unlabelled case with the best class of the teacher."""
    pairs = zip(material.cases.unlabelled, material.unlabelled, strict=True)
    found = []
    for number, (case, stored) in enumerate(pairs, start=1):
        labels = predicted(run, teacher, stored, config.device, "labels.npy")
        stored.set_places(np.asarray(labels))
        known = replace(stored, annotated=(True,) * len(material.cases.classes))
        found.append(Labelled(case, known, labels))
        run.progress(number, len(material.unlabelled), stage="pseudo-labels")
        run.check_stop()
    return found
