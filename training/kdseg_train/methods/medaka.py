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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from kdseg_train.accepted import Gate, accepted_slices, labelled_slices
from kdseg_train.config import Recipe, Settings, Training
from kdseg_train.data import Cases
from kdseg_train.estimate import Net, Planned
from kdseg_train.folds import Fold
from kdseg_train.judges import blind_folds, check_judge, judge_of, pseudo_labelled
from kdseg_train.loop import Stage
from kdseg_train.patches import Batch
from kdseg_train.quality_source import QualitySettings
from kdseg_train.slices import ChosenSlices, SlicePatches
from kdseg_train.supervised import Material, gaps, gather, kept_apart, test
from kdseg_train.targets import Target, trained
from kdseg_train.teachers import frozen_network, given_teacher
from kdseg_train.watching import Watched
from napari_kdseg.errors import DataSetError
from napari_kdseg.models.model import Model, NetworkSpec
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.preprocessing import Preprocessing

TITLE = "Medaka: self-training on slices that a quality classifier accepts"
TAKES_SLICES = True
"""Learns from cases of which some slices are labelled."""


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
            if source != "none" and self.quality.background_from is not None:
                slices += ", empty ones accepted as background (not in the paper)"
        return (
            f"student: {1 - told.alpha:g} CE + {told.alpha:g} {factor}KL({pair}), tau "
            f"{told.temperature:g}; starts from {self.init}; "
            f"{self.student_training.steps} steps on {slices}"
        )


# ---- equations 1 to 4 ----


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


# ---- training ----


def planned(config: Config) -> list[Planned]:
    """The stages of the training but for the classifier, for estimates."""
    own, settings = Net.of(config), config.teacher_training
    teachers = int(config.needs_teacher and config.teacher is None)
    if config.pseudo and config.quality.source == "proxy":
        teachers += config.quality.folds
    told = (own,) if config.distillation.alpha > 0 else ()
    return [
        Planned("teacher", settings, (own,), (), teachers, "teacher_training"),
        Planned("student", config.student_training, (own,), told),
    ]


def train(run: Run, config: Config) -> None:
    """Train teacher, classifier and student as far as the recipe asks, then test."""
    quality = config.quality.found_by(config)
    config = config.model_copy(update={"quality": quality})
    material = gather(run, config, partial(checked, config))
    run.event("note", message=config.in_words)
    if config.pseudo:
        blind_folds(quality, material, config.seed)  # fails before a teacher is trained
    teacher = teacher_of(run, config, material) if config.needs_teacher else None
    learnt = labelled(config, material)  # X_L
    if config.pseudo:
        assert teacher is not None
        pseudo = pseudo_labelled(run, config, material, teacher)  # X_U, Y_U
        blind = partial(train_blind, run, config)
        judge = judge_of(run, config, quality, material, pseudo, blind)
        gate, how = Gate(quality, judge, material.cases), config.preprocessing
        learnt += accepted_slices(run, gate, pseudo, how, device=config.device)  # X_R
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
        As `given_teacher` and `check_judge`.
    """
    for case, name in gaps((*cases.training, *cases.validation), cases.classes):
        raise DataSetError(
            f"case {case.id} does not annotate {name}; medaka needs every class in "
            "every labelled case. Name the classes that all have under `annotated`."
        )
    teacher = named_teacher(config, cases)
    if config.pseudo:
        if not cases.unlabelled:
            raise DataSetError(
                "there is no unlabelled case to take pseudo-labels from; name some "
                "under `unlabelled`, or set pseudo: false."
            )
        check_judge(config, config.quality.found_by(config), cases, teacher)
    return cases


def teacher_of(run: Run, config: Config, material: Material) -> Model:
    """``F_T``, given or trained."""
    given = named_teacher(config, material.cases)
    return given or train_teacher(run, config, material, run.folder / "teacher")


def named_teacher(config: Config, cases: Cases) -> Model | None:
    """``F_T`` that the recipe names, where it has a use for one."""
    if config.teacher is None or not config.needs_teacher:
        return None
    starts = config.init == "teacher"
    return given_teacher(config, config.teacher, cases.classes, to_start_from=starts)


def train_teacher(run: Run, config: Config, material: Material, folder: Path) -> Model:
    """Train a teacher on the labelled slices with cross-entropy alone."""
    name = folder.name
    target = Target(material.cases.classes, folder, "teacher", name, suffix=name)
    lesson = Lesson(labelled(config, material), config.teacher_training)
    return taught(run, config, material, target, lesson)


def train_blind(run: Run, config: Config, fold: Fold) -> Model:
    """Train a teacher that never sees what a fold holds out."""
    folder = run.folder / "folds" / f"fold-{fold.number}"
    return train_teacher(run, config, fold.material, folder)


def labelled(config: Config, material: Material) -> list[ChosenSlices]:
    """``X_L``: the labelled slices."""
    cases = material.cases.training
    return labelled_slices(cases, material.training, config.preprocessing)


def train_student(
    run: Run,
    config: Config,
    material: Material,
    learnt: Sequence[ChosenSlices],
    teacher: Model | None,
) -> Model:
    """``F_S``, trained on ``X_C`` with eq. 4."""
    target = Target(material.cases.classes, run.model_folder, "student", "student")
    lesson = Lesson(
        learnt,
        config.student_training,
        told_by=teacher if config.distillation.alpha > 0 else None,
        start=teacher if config.init == "teacher" else None,
        teachers=() if teacher is None else (teacher,),
    )
    return taught(run, config, material, target, lesson)


@dataclass(frozen=True)
class Lesson:
    """What a network learns from, for how long, and from whom."""

    slices: Sequence[ChosenSlices]
    settings: Training
    told_by: Model | None = None
    """Whose soft answers are distilled."""
    start: Model | None = None
    """Whose weights it starts from."""
    teachers: tuple[Model, ...] = ()
    """Who is named on its card."""


def taught(
    run: Run, config: Config, material: Material, target: Target, lesson: Lesson
) -> Model:
    """Train a network and keep it; one that is there already is taken."""

    def stage(network: SegmentationNetwork, device: torch.device) -> Stage:
        settings, name = lesson.settings, target.stage
        if lesson.start is not None:
            network.load_state_dict(lesson.start.network(str(device)).state_dict())
        teacher = frozen_network(lesson.told_by, device) if lesson.told_by else None

        def objective(batch: Batch) -> dict[str, Tensor]:
            return student_terms(network, teacher, batch, config.distillation)

        source = SlicePatches(lesson.slices, config, settings, name)
        run.metric(stage=name, slices=source.count)
        apart = kept_apart(material.validation, config, settings, name)
        seen = Watched(material.cases.classes, network, pictures=config.examples)
        return Stage(name, network, objective, source, settings, apart, seen)

    cases, teachers = material.cases, lesson.teachers
    return trained(run, config, cases, target, stage, teachers=teachers)
