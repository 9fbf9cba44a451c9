"""Medaka: self-training on slices that a Quality Classifier accepts.

Bhatt et al., A Knowledge Distillation Framework for Multi-Organ Segmentation of Medaka
Fish in Tomographic Image, arXiv 2302.12562. Symbols as in the paper:

============  =================================================================
``X_L, Y_L``  slices of the labelled scans, and their labels
``F_T, F_S``  teacher and student: the same network
``X_U, Y_U``  slices of the other scans; pseudo-labels, the best class of ``F_T``
``X_R, Y_R``  those of them that the Quality Classifier accepts
``X_C, Y_C``  what the student learns from: both, ``X_L`` and ``X_R``
``z, p``      logits, and ``p = softmax(z / tau)``: ``B C Y X`` (eq. 2)
``alpha``     weight of the distillation (eq. 4)
============  =================================================================

One round: train the teacher on ``X_L``, label ``X_U``, keep ``X_R``, train the student
on ``X_C``. Each step can be left out, which gives the rows of the paper's table 2:

=======================  ======  =====  =======  ==============
row                      pseudo  alpha  init     quality.source
=======================  ======  =====  =======  ==============
Fully supervised         false   0      scratch  none
Pseudo-Labeling          true    0      scratch  none
Knowledge Distillation   true    0.1    scratch  none
Teacher Checkpoint       true    0      teacher  none
Quality Classifier       true    0      scratch  any other
Proposed                 true    0.1    teacher  any other
=======================  ======  =====  =======  ==============

With ``equal_steps`` a student from scratch takes the teacher's steps on top of its own,
so that the networks of all rows have been trained for as many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from kdseg_train.accepted import (
    Labelled,
    QualitySettings,
    accepted_slices,
    check_quality,
    given_classifier,
    judged_by_people,
    judged_by_truth,
    own_classifier,
    truth_of_unlabelled,
)
from kdseg_train.classifier import JudgedSlice
from kdseg_train.config import Recipe, Settings, Training
from kdseg_train.data import Cases
from kdseg_train.folds import divided
from kdseg_train.loop import Stage
from kdseg_train.loop import train as train_stage
from kdseg_train.patches import Batch
from kdseg_train.slices import ChosenSlices, SlicePatches, predicted
from kdseg_train.supervised import (
    Material,
    Target,
    gather,
    kept_apart,
    model_card,
    new_network,
    test,
)
from kdseg_train.teachers import frozen_network
from napari_kdseg.errors import DataSetError, ModelError
from napari_kdseg.inference.forward import pick_device
from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, save_model
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.preprocessing import Preprocessing

TITLE = "Medaka: self-training on slices that a quality classifier accepts"


class TeacherTraining(Training):
    """Section 3.2: plain Adam, 3e-4, 64 crops, 15 epochs from scratch."""

    epochs: int = Field(15, ge=1)
    batch: int = Field(64, ge=1)
    weight_decay: float = Field(0.0, ge=0)
    amsgrad: bool = Field(default=False, description="of adam")
    schedule: Literal["plateau", "poly", "constant"] = Field(
        "constant", description="poly: (1 - step/steps)^0.9"
    )
    gradient_clip: float | None = Field(None, gt=0, description="none: unlimited")
    foreground: float = Field(
        0.0, ge=0, le=1, description="share of crops around an organ, drawn first"
    )


class StudentTraining(TeacherTraining):
    """The same, 5 epochs: the student converges faster from the teacher's weights."""

    epochs: int = Field(5, ge=1)


class Distillation(Settings):
    """What the teacher tells the student besides pseudo-labels (section 2.2)."""

    alpha: float = Field(0.1, ge=0, le=1, description="weight of the KL in eq. 4")
    temperature: float = Field(4.0, gt=0, description="tau of eq. 2, on both")
    kl_direction: Literal["student_teacher", "teacher_student"] = Field(
        "student_teacher",
        description="KL(student || teacher) as eq. 3 is printed, or the other way "
        "round, as in the papers it cites",
    )
    tau_squared: bool = Field(
        default=False,
        description="multiply the KL by tau squared, as Hinton et al. do; eq. 3 does "
        "not, which makes its gradients about 16 times smaller",
    )


class Config(Recipe):
    """A teacher on labelled slices, a student on these and on accepted ones."""

    method: Literal["medaka"] = "medaka"
    preprocessing: Preprocessing = Preprocessing()
    network: NetworkSpec = Field(
        NetworkSpec(name="resnet18-unet"), description="of teacher and student"
    )
    patch_vox: tuple[int, ...] = Field((256, 256), description="crop of a slice, y, x")
    teacher: Path | None = Field(
        None, description="model folder of the teacher; nothing given: it is trained"
    )
    teacher_training: TeacherTraining = TeacherTraining()
    training: StudentTraining = Field(StudentTraining(), description="of the student")
    pseudo: bool = Field(default=True, description="learn from unlabelled scans, too")
    init: Literal["teacher", "scratch"] = Field(
        "teacher", description="what the student starts from"
    )
    distillation: Distillation = Distillation()
    quality: QualitySettings = QualitySettings()
    equal_steps: bool = Field(
        default=False,
        description="a student from scratch is trained for the teacher's steps on top "
        "of its own, so that rows of a table compare",
    )

    @model_validator(mode="after")
    def _complete(self) -> "Config":
        if len(self.patch_vox) != 2:
            raise ValueError(
                f"patch_vox is {self.patch_vox}: medaka works on slices; give y, x"
            )
        missing = self.quality.missing() if self.pseudo else None
        if missing:
            raise ValueError(
                f"quality.source is {self.quality.source} and quality.{missing} is "
                "empty; name it, or take another source (proxy needs nothing, and is "
                "not in the paper)"
            )
        if self.equal_steps and self._steps % self.training.iterations_per_epoch:
            raise ValueError(
                f"equal_steps asks for {self._steps} steps, which is no whole number "
                f"of epochs of {self.training.iterations_per_epoch}; give teacher and "
                "student the same iterations_per_epoch"
            )
        return self

    @property
    def _steps(self) -> int:
        return self.teacher_training.steps + self.training.steps

    @property
    def needs_teacher(self) -> bool:
        """Whether the student learns from a teacher in any way."""
        return self.pseudo or self.init == "teacher" or self.distillation.alpha > 0

    @property
    def student_training(self) -> Training:
        """Training of the student, with the steps that it takes in the end."""
        if not self.equal_steps or self.init == "teacher":
            return self.training
        epochs = self._steps // self.training.iterations_per_epoch
        return self.training.model_copy(update={"epochs": epochs})

    @property
    def in_words(self) -> str:
        """What the student learns from and how, for the log."""
        told, source = self.distillation, self.quality.source
        pair = "teacher || student"
        if told.kl_direction == "student_teacher":
            pair = "student || teacher"
        factor = f"{told.temperature**2:g} " if told.tau_squared else ""
        slices = "labelled slices"
        if self.pseudo:
            extra = " (not in the paper)" if source in ("simulated", "proxy") else ""
            slices += f" and pseudo-labelled ones, quality from {source}{extra}"
        return (
            f"student: {1 - told.alpha:g} CE + {told.alpha:g} {factor}KL({pair}), tau "
            f"{told.temperature:g}; starts from {self.init}; "
            f"{self.student_training.steps} steps on {slices}"
        )


def train(run: Run, config: Config) -> None:
    """Train teacher, classifier and student as far as the recipe asks, then test."""
    root = config.frozen.root if config.frozen else Path()
    quality = config.quality.at(root)
    config = config.model_copy(update={"quality": quality})
    material = gather(run, config, lambda cases: checked(config, cases))
    run.event("note", message=config.in_words)
    teacher = teacher_of(run, config, material) if config.needs_teacher else None
    learnt = [ChosenSlices.all_of(case) for case in material.training]  # X_L
    if config.pseudo:
        assert teacher is not None
        pseudo = pseudo_labelled(run, config, material, teacher)
        judge = classifier_of(run, config, material, pseudo)
        learnt += accepted_slices(  # X_R
            run, quality, judge, pseudo, config.preprocessing, device=config.device
        )
    student = train_student(run, config, material, learnt, teacher)
    trained_here = [teacher] if teacher and config.teacher is None else []
    test(run, config, [student, *trained_here], material.cases)


def checked(config: Config, cases: Cases) -> Cases:
    """Refuse cases, models and verdicts that cannot do, before anything is prepared.

    Raises
    ------
    DataSetError
        Where a labelled case lacks a class, or there is nothing to pseudo-label.
    ModelError
        As `given_teacher` and `check_quality`.
    """
    for case in (*cases.training, *cases.validation):
        lacking = [name for name in cases.classes if name not in case.annotated]
        if lacking:
            raise DataSetError(
                f"case {case.id} does not annotate {lacking[0]}; medaka needs every "
                "class in every labelled case. Name the classes that all have under "
                "`annotated`."
            )
    if config.teacher is not None and config.needs_teacher:
        given_teacher(config, cases)
    if config.pseudo:
        if not cases.unlabelled:
            raise DataSetError(
                "there is no unlabelled case to take pseudo-labels from; name some "
                "under `unlabelled`, or set pseudo: false."
            )
        check_quality(config.quality, cases)
    return cases


# ---- the teacher ----


def teacher_of(run: Run, config: Config, material: Material) -> Model:
    """``F_T``, given or trained on the labelled slices with cross-entropy alone."""
    if config.teacher is not None:
        return given_teacher(config, material.cases)
    slices = [ChosenSlices.all_of(case) for case in material.training]
    lesson = Lesson("teacher", run.folder / "teacher", slices, config.teacher_training)
    return taught(run, config, material, lesson)


def given_teacher(config: Config, cases: Cases) -> Model:
    """Teacher that the recipe names.

    Raises
    ------
    ModelError
        Where it segments other classes, sees scans in another way, or is another
        network than a student that starts from it.
    """
    assert config.teacher is not None
    root = config.frozen.root if config.frozen else Path()
    model = Model.open(root / config.teacher)
    card = model.card
    if card.classes.names != cases.classes:
        raise ModelError(
            f"{config.teacher} segments {', '.join(card.classes.names)}; the recipe "
            f"has {', '.join(cases.classes)}. Both need the same classes in one order."
        )
    if card.preprocessing != config.preprocessing:
        raise ModelError(
            f"{config.teacher} expects other preprocessing than the recipe; teacher "
            "and student need the same one."
        )
    wanted = card_of(config, cases, "student").network
    if config.init == "teacher" and wanted != card.network:
        raise ModelError(
            f"{config.teacher} is another network than the recipe's; a student that "
            "starts from it needs the same one, or set init: scratch."
        )
    return model


# ---- pseudo-labels and their quality ----


def pseudo_labelled(
    run: Run, config: Config, material: Material, teacher: Model
) -> list[Labelled]:
    """``X_U, Y_U``: every unlabelled case with the best class of the teacher."""
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


def classifier_of(
    run: Run, config: Config, material: Material, pseudo: Sequence[Labelled]
) -> Model | None:
    """The Quality Classifier, given or trained; none where all slices are accepted."""
    if config.quality.source == "model":
        return given_classifier(config.quality, material.cases)
    if config.quality.source == "none":
        return None
    return own_classifier(
        run,
        config.quality,
        card_of(config, material.cases, "quality"),
        lambda: judged_slices(run, config, material, pseudo),
        seed=config.seed,
        device=torch.device(pick_device(config.device)),
    )


def judged_slices(
    run: Run, config: Config, material: Material, pseudo: Sequence[Labelled]
) -> list[JudgedSlice]:
    """Slices and verdicts that the run's own classifier learns from."""
    quality, cases, how = config.quality, material.cases, config.preprocessing
    if quality.source == "reviews":
        return judged_by_people(run, quality, cases, how)
    if quality.source == "simulated":
        truths = truth_of_unlabelled(quality, cases, how)
        return judged_by_truth(run, quality, pseudo, truths, how, config.seed)
    blind = out_of_fold(run, config, material)
    known = [partial(np.load, one.stored.folder / "labels.npy") for one in blind]
    return judged_by_truth(run, quality, blind, known, how, config.seed)


def out_of_fold(run: Run, config: Config, material: Material) -> list[Labelled]:
    """Labelled cases as teachers see them that were not trained on them."""
    found = []
    for fold in divided(material, config.quality.folds, config.seed):
        name = f"fold-{fold.number}"
        teacher = taught(
            run,
            config,
            fold.material,
            Lesson(
                name,
                run.folder / "folds" / name,
                [ChosenSlices.all_of(case) for case in fold.material.training],
                config.teacher_training,
            ),
        )
        for case, stored in zip(fold.material.cases.test, fold.held_out, strict=True):
            labels = predicted(run, teacher, stored, config.device, "out-of-fold.npy")
            found.append(Labelled(case, stored, labels))
    return found


# ---- the student ----


def train_student(
    run: Run,
    config: Config,
    material: Material,
    learnt: Sequence[ChosenSlices],
    teacher: Model | None,
) -> Model:
    """``F_S``, trained on ``X_C`` with eq. 4."""
    distils = config.distillation.alpha > 0
    lesson = Lesson(
        "student",
        run.model_folder,
        learnt,
        config.student_training,
        told_by=teacher if distils else None,
        start=teacher if config.init == "teacher" else None,
        teachers=() if teacher is None else (teacher,),
    )
    return taught(run, config, material, lesson)


@dataclass(frozen=True)
class Lesson:
    """A network to be trained: on what, for how long, by whom.

    Attributes
    ----------
    stage
        Its name, and part of the key that samples are drawn from.
    told_by
        The teacher whose soft answers are distilled.
    start
        Whose weights it starts from.
    teachers
        Who is named on its card.
    """

    stage: str
    folder: Path
    slices: Sequence[ChosenSlices]
    settings: Training
    told_by: Model | None = None
    start: Model | None = None
    teachers: tuple[Model, ...] = ()


def taught(run: Run, config: Config, material: Material, lesson: Lesson) -> Model:
    """Train a network and keep it; one that is there already is taken."""
    if lesson.folder.exists():
        return Model.open(lesson.folder)
    cases, settings = material.cases, lesson.settings
    device = torch.device(pick_device(config.device))
    card = card_of(config, cases, lesson.stage, lesson.teachers)
    target = Target(cases.classes, lesson.folder, "student", lesson.stage)
    network = new_network(config, cases, target).to(device)
    if lesson.start is not None:
        network.load_state_dict(lesson.start.network(str(device)).state_dict())
    teacher = frozen_network(lesson.told_by, device) if lesson.told_by else None

    def objective(batch: Batch) -> dict[str, Tensor]:
        return student_terms(network, teacher, batch, config.distillation)

    source = SlicePatches(lesson.slices, config, settings, lesson.stage)
    run.metric(stage=lesson.stage, slices=source.count)
    apart = kept_apart(material.validation, config, settings, lesson.stage)
    stage = Stage(lesson.stage, network, objective, source, settings, apart)
    train_stage(stage, run, device)
    return save_model(lesson.folder, card, network)


def card_of(
    config: Config, cases: Cases, stage: str, teachers: Sequence[Model] = ()
) -> ModelCard:
    """Card of the network of a stage; the student's has the name of the recipe."""
    target = Target(cases.classes, Path(), "student", stage)
    card = model_card(config, cases, target, teachers)
    if stage == "student":
        return card
    return card.model_copy(update={"name": f"{card.name}-{stage}", "role": "teacher"})


# ---- losses ----


def student_terms(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    settings: Distillation,
) -> dict[str, Float[Tensor, ""]]:
    """Eq. 4, term by term: ``(1 - alpha) L_seg`` and ``alpha L_KD``.

    Without a teacher it is ``L_seg``: so the teacher is trained, and a student at
    ``alpha = 0``. At ``alpha = 1`` no label is read.
    """
    logits = student(batch.image).float()
    if teacher is None:
        return {"cross_entropy": segmentation_loss(logits, batch.labels)}
    alpha = settings.alpha
    with torch.no_grad():
        told = teacher(batch.image).float()
    terms = {"distillation": alpha * distillation_loss(logits, told, settings)}
    if alpha < 1:
        labelled = segmentation_loss(logits, batch.labels)
        terms["cross_entropy"] = (1 - alpha) * labelled
    return terms


def segmentation_loss(
    logits: Float[Tensor, "B C Y X"], labels: Int[Tensor, "B Y X"]
) -> Float[Tensor, ""]:
    """``L_seg`` of eq. 1: cross-entropy with hard labels, pixel mean."""
    return functional.cross_entropy(logits, labels)


def distillation_loss(
    student: Float[Tensor, "B C Y X"],
    teacher: Float[Tensor, "B C Y X"],
    settings: Distillation,
) -> Float[Tensor, ""]:
    """``L_KD`` of eq. 3 from logits: KL of both, softened by tau, pixel mean.

    The teacher gets no gradient, whichever way round.
    """
    tau = settings.temperature
    own = (student / tau).log_softmax(dim=1)
    told = (teacher.detach() / tau).log_softmax(dim=1)
    first, second = (own, told)
    if settings.kl_direction == "teacher_student":
        first, second = (told, own)
    divergence = (first.exp() * (first - second)).sum(dim=1).mean()
    return divergence * tau**2 if settings.tau_squared else divergence
