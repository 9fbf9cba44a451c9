"""Cross teaching: two teachers that teach each other, and a small student of both.

Choi, Knowledge Distillation from Cross Teaching Teachers for Efficient Semi-Supervised
Abdominal Organ Segmentation in CT, arXiv 2211.05942 (FLARE22). The paper's text is not
at hand beyond its abstract; losses and constants are those of the authors' code
(jwc-rad/MISLight, branch ``flare22``, commit 95e6bad).

==============  ===============================================================
``S, T1, T2``   student and teachers; ``z_m`` logits of m, ``p_m`` = softmax z_m
``p``           mean of ``p_T1`` and ``p_T2``, without gradient
``Dice``        soft Dice of the foreground over the batch; its negative is a loss
``rho(t)``      ``exp(-5 (1 - t/T)^2)``, t the epoch, T all epochs
``w_c``         ``0.1 rho``, weight of cross and pseudo-labels (unlabelled)
``w_d``         ``10 rho`` (labelled); ``w_d'`` = ``10 rho^2`` (unlabelled)
==============  ===============================================================

::

    labelled    sum over m of [ -Dice(p_m, y) + Focal(p_m, y) ] + w_d KL(p || p_S)
    unlabelled  w_c [ -Dice(p_T1, argmax z_T2) - Dice(p_T2, argmax z_T1)
                      - Dice(p_S, argmax p) ] + w_d' KL(p || p_S)

All three are trained from scratch at once by one optimiser; labelled and unlabelled
patches take turns. Differences: the rate falls by the step and not by the epoch, in
float32 or bfloat16 and not in float16; grey values are scored over the whole volume and
not over the patch; resizing lets faces and not centres coincide and takes the nearest
label; of the augmentation elastic deformation is left out, and labels move as the
nearest voxel does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from kdseg_train.config import Augmentation, Recipe, Settings, Training, check_patch
from kdseg_train.crops import Crop, coarse_model, cropped, paired
from kdseg_train.data import Cases
from kdseg_train.estimate import Net, Planned
from kdseg_train.loop import Source, Stage
from kdseg_train.losses import (
    focal_loss,
    mean_probability,
    mean_teacher_kl,
    negative_dice,
    ramp_up,
)
from kdseg_train.patches import Batch, Patches
from kdseg_train.supervised import Material, gaps, gather, kept_apart, test
from kdseg_train.targets import Networks, Target, trained_together
from kdseg_train.teachers import frozen_network
from kdseg_train.turns import in_turn
from kdseg_train.watching import Watched
from napari_kdseg.errors import DataSetError
from napari_kdseg.models.model import Model
from napari_kdseg.models.parameters import NetworkSpec
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing

TITLE = "Cross teaching: two teachers of each other, one small student"

TEACHERS = ("t1", "t2")
Terms = dict[str, Float[Tensor, ""]]


class Schedule(Training):
    """Training as the authors' code has it."""

    iterations_per_epoch: int = Field(
        100, ge=1, description="50 labelled cases, an unlabelled one after each"
    )
    batch: int = Field(1, ge=1)
    optimiser: Literal["adam", "sgd"] = "sgd"
    learning_rate: float = Field(0.01, gt=0)
    schedule: Literal["plateau", "poly", "constant"] = Field(
        "poly", description="poly: (1 - step/steps)^0.9"
    )
    gradient_clip: float | None = Field(None, gt=0, description="norm; none: unlimited")
    foreground: float = Field(
        0.0, ge=0, le=1, description="share of labelled patches that hold foreground"
    )


class Changes(Augmentation):
    """The authors' augmentation, but for elastic deformation."""

    probability: float = Field(0.5, ge=0, le=1, description="of each kind of change")
    noise: float = Field(0.1, ge=0, description="largest standard deviation of noise")
    noise_probability: float | None = Field(
        1.0, ge=0, le=1, description="none: as of each other kind of change"
    )
    contrast: float = Field(0.0, ge=0, lt=1, description="largest change of contrast")
    brightness: float = Field(0.0, ge=0, description="largest shift of brightness")
    gain: float = Field(
        0.25, ge=0, lt=1, description="their brightness, a factor on scored values"
    )
    each_axis: bool = Field(
        default=True, description="turn about, and zoom along, each axis by itself"
    )
    room: float = Field(
        1.25, ge=1, le=2, description="padded to so many patches before one is cut"
    )


class Teaching(Settings):
    """Who learns what from whom, and how much."""

    consistency_weight: float = Field(
        0.1, ge=0, description="of w_c: cross and pseudo-labels on unlabelled patches"
    )
    consistency_ramp: float = Field(
        1.0,
        ge=0,
        description="T of w_c, and of the first of the two ramps in w_d', in parts of "
        "all epochs; 0: no ramp",
    )
    student_pseudo_labels: bool = Field(
        default=True, description="whether the student learns from hard labels too"
    )
    labelled_distillation: float = Field(
        10.0, ge=0, description="of w_d: KL on labelled patches"
    )
    unlabelled_distillation: float = Field(
        10.0, ge=0, description="of w_d': KL on unlabelled patches"
    )
    distillation_ramp: float = Field(
        1.0, ge=0, description="T of w_d in parts of all epochs; 0: no ramp"
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="softens teachers and student in the KL, times its square",
    )
    focal_gamma: float = Field(
        2.0, ge=1, description="the higher, the less counts a voxel nearly right"
    )
    focal_alpha: float = Field(0.5, gt=0, le=1, description="of all classes alike")
    label_smoothing: float = Field(
        1e-5, gt=0, lt=0.5, description="in the focal term, so that it stays finite"
    )


class Config(Recipe):
    """Two teachers and a student, trained together on labelled and unlabelled cases."""

    method: Literal["cross-teaching"] = "cross-teaching"
    network: NetworkSpec = Field(
        NetworkSpec(name="se_resunet", parameters={"separable": True}),
        description="the student's; depthwise-separable, 5.2 million parameters",
    )
    teachers: tuple[NetworkSpec, NetworkSpec] = Field(
        (
            NetworkSpec(name="se_resunet", parameters={"upsampling": "transposed"}),
            NetworkSpec(name="se_resunet", parameters={"upsampling": "resize"}),
        ),
        description="T1 and T2, unlike so that they disagree; 92 million parameters",
    )
    # HU -300 to 300, then mean 0, deviation 1; outside about air
    preprocessing: Preprocessing = Preprocessing(
        resize_vox=(96, 96, 96),
        intensity=(Intensity(kind="window_zscore", low=-300.0, high=300.0),),
        pad_value=-1.0,
    )
    patch_vox: tuple[int, ...] = Field(
        (96, 64, 96), description="z, y, x; two numbers: slices of y, x"
    )
    augmentation: Changes = Changes()
    training: Schedule = Schedule()
    teaching: Teaching = Teaching()
    freeze_teachers: bool = Field(
        default=False,
        description="train the teachers first and then the student on them; the "
        "authors train all three at once",
    )
    baseline: bool = Field(
        default=False,
        description="also train the student on the labelled cases alone, as many "
        "steps, and test it beside the others",
    )
    crop: Crop | None = Field(
        None, description="fine stage: cases are cropped to boxes; none: whole cases"
    )

    @model_validator(mode="after")
    def _patch_fits_the_teachers(self) -> "Config":
        for spec in self.teacher_specs:
            check_patch(self.patch_vox, spec, "the teachers take")
        return self

    @property
    def teacher_specs(self) -> tuple[NetworkSpec, ...]:
        """The teachers in as many dimensions as the patch has."""
        dimensions = {"dimensions": len(self.patch_vox)}
        return tuple(
            NetworkSpec(name=spec.name, parameters=spec.parameters | dimensions)
            for spec in self.teachers
        )

    @property
    def in_words(self) -> str:
        """Who learns what from whom, and which reading it is, for the log."""
        how, order = self.teaching, "all three at once"
        if self.freeze_teachers:
            order = "teachers first (the authors' code trains all three at once)"
        pseudo = " and of their mean" if how.student_pseudo_labels else ""
        kinds = ", ".join(rule.kind for rule in self.preprocessing.intensity)
        return (
            f"{order}; labelled: -Dice + Focal + {how.labelled_distillation:g} KL; "
            f"unlabelled: {how.consistency_weight:g} -Dice to hard labels of each other"
            f"{pseudo} + {how.unlabelled_distillation:g} KL; KL(mean of teachers || "
            f"student) at T {how.temperature:g}; ramps over {how.consistency_ramp:g} "
            f"(hard labels) and {how.distillation_ramp:g} (KL) of the epochs; grey "
            f"values by {kinds}"
        )


# ---- weights and losses ----


@dataclass(frozen=True)
class Weights:
    """``w_c``, ``w_d`` and ``w_d'`` of an epoch."""

    consistency: float
    labelled_kl: float
    unlabelled_kl: float


def weights_at(epoch: float, epochs: int, teaching: Teaching) -> Weights:
    """``w_c``, ``w_d`` and ``w_d'`` of an epoch, counted from 0."""
    first = ramp_up(epoch, teaching.consistency_ramp * epochs)
    second = ramp_up(epoch, teaching.distillation_ramp * epochs)
    return Weights(
        teaching.consistency_weight * first,
        teaching.labelled_distillation * second,
        teaching.unlabelled_distillation * first * second,
    )


def supervised_terms(
    name: str, logits: Float[Tensor, "B C *S"], batch: Batch, teaching: Teaching
) -> Terms:
    """``-Dice(p, y) + Focal(p, y)`` of one network."""
    prob = logits.softmax(dim=1)
    focal = focal_loss(
        prob,
        batch.labels,
        gamma=teaching.focal_gamma,
        alpha=teaching.focal_alpha,
        smoothing=teaching.label_smoothing,
    )
    return {f"{name}_dice": negative_dice(prob, batch.labels), f"{name}_focal": focal}


def teacher_terms(
    told: Sequence[Float[Tensor, "B C *S"]],
    batch: Batch,
    weights: Weights,
    teaching: Teaching,
) -> Terms:
    """What T1 and T2 learn: labels, or each what the other one sees."""
    if batch.annotated.any():  # else none of its patches has labels
        first, second = (
            supervised_terms(name, logits, batch, teaching)
            for name, logits in zip(TEACHERS, told, strict=True)
        )
        return first | second
    return {
        f"{name}_cross": weights.consistency
        * negative_dice(own.softmax(dim=1), other.detach().argmax(dim=1))
        for name, own, other in zip(TEACHERS, told, reversed(told), strict=True)
    }


def student_terms(
    logits: Float[Tensor, "B C *S"],
    told: Sequence[Float[Tensor, "B C *S"]],
    batch: Batch,
    weights: Weights,
    teaching: Teaching,
) -> Terms:
    """What the student learns: labels or the teachers' argmax, and their mean."""
    divergence = mean_teacher_kl(told, logits, teaching.temperature)
    if batch.annotated.any():  # else none of its patches has labels
        terms = supervised_terms("student", logits, batch, teaching)
        return terms | {"labelled_kl": weights.labelled_kl * divergence}
    terms = {"unlabelled_kl": weights.unlabelled_kl * divergence}
    if teaching.student_pseudo_labels:
        seen = mean_probability(told).argmax(dim=1)
        terms["student_pseudo"] = weights.consistency * negative_dice(
            logits.softmax(dim=1), seen
        )
    return terms


def objective(
    networks: Networks, frozen: Sequence[nn.Module], batch: Batch, config: Config
) -> Terms:
    """What T1, T2 and S learn, those that are trained; S alone learns from labels.

    Parameters
    ----------
    frozen
        T1 and T2 where they are trained already.
    """
    answers = {name: net(batch.image).float() for name, net in networks.items()}
    own = answers.pop("student", None)
    told = list(answers.values())
    with torch.no_grad():
        told += [network(batch.image).float() for network in frozen]
    training, teaching = config.training, config.teaching
    epoch = batch.step // training.iterations_per_epoch
    weights = weights_at(epoch, training.epochs, teaching)
    terms = teacher_terms(told, batch, weights, teaching) if answers else {}
    if own is None:
        return terms
    if not told:
        return supervised_terms("student", own, batch, teaching)
    return terms | student_terms(own, told, batch, weights, teaching)


# ---- training ----


def planned(config: Config) -> list[Planned]:
    """The stages of the training, for estimates."""
    own, settings = Net.of(config), config.training
    told = tuple(Net.of(config, spec) for spec in config.teacher_specs)
    stages = [Planned("cross-teaching", settings, (*told, own))]
    if config.freeze_teachers:
        stages = [Planned("teachers", settings, told)]
        stages += [Planned("student", settings, (own,), told)]
    return [*stages, Planned("baseline", settings, (own,), times=int(config.baseline))]


def train(run: Run, config: Config) -> None:
    """Train teachers and student, perhaps a baseline, then test all of them."""
    material = gather(run, config, partial(usable, run, config))
    run.event("note", message=config.in_words)
    classes, folder = material.cases.classes, run.folder / "teachers"
    student = Target(classes, run.model_folder, "student", "student")
    teachers = [
        Target(classes, folder / name, "teacher", name, suffix=name, network=spec)
        for name, spec in zip(TEACHERS, config.teacher_specs, strict=True)
    ]
    if config.freeze_teachers:
        told = learn(run, config, material, "teachers", teachers)
        models = [*learn(run, config, material, "student", [student], told), *told]
    else:
        every = [*teachers, student]
        *told, own = learn(run, config, material, "cross-teaching", every)
        models = [own, *told]
    if config.baseline:
        alone = replace(student, folder=run.folder / "baseline", suffix="baseline")
        models += learn(run, config, material, "baseline", [alone])
    if config.crop is not None:
        models = paired(run, config, config.crop, models)
    test(run, config, models, material.cases)


def usable(run: Run, config: Config, cases: Cases) -> Cases:
    """The cases as they are trained on: cropped in a fine stage.

    Raises
    ------
    DataSetError, ModelError, RecipeError
        As `checked`.
    """
    cases = checked(config, cases)
    return cases if config.crop is None else cropped(run, config, config.crop, cases)


def checked(config: Config, cases: Cases) -> Cases:
    """The cases, where they and the coarse model will do.

    Raises
    ------
    DataSetError
        Where no case is unlabelled, or labels leave a class open.
    ModelError, RecipeError
        As `coarse_model`.
    """
    if not cases.unlabelled:
        raise DataSetError(
            "cross teaching needs unlabelled cases, where the teachers teach each "
            "other; name some under `unlabelled`."
        )
    for case, name in gaps((*cases.training, *cases.validation), cases.classes):
        raise DataSetError(
            f"case {case.id} does not annotate {name!r}; cross teaching needs every "
            "class in every labelled case. Move the case to `unlabelled`, or choose "
            "other `classes`."
        )
    if config.crop is not None:
        coarse_model(config, config.crop, cases)
    return cases


def learn(
    run: Run,
    config: Config,
    material: Material,
    name: str,
    targets: Sequence[Target],
    teachers: Sequence[Model] = (),
) -> list[Model]:
    """Train some of T1, T2 and S from scratch, by one optimiser."""
    settings = config.training

    def stage(networks: Networks, device: torch.device) -> Stage:
        frozen = [frozen_network(model, device) for model in teachers]
        network: nn.Module = nn.ModuleDict(dict(networks))
        if len(networks) == 1:
            network = networks["student"]
        source: Source = Patches(material.training, config, settings, name)
        if frozen or len(networks) > 1:  # else it is the baseline
            source = in_turn(material, config, settings, name)
        apart = kept_apart(material.validation, config, settings, name)

        def terms(batch: Batch) -> Terms:
            return objective(networks, frozen, batch, config)

        last = networks[targets[-1].stage]
        seen = Watched(material.cases.classes, last, pictures=config.examples)
        return Stage(name, network, terms, source, settings, apart, seen)

    cases = material.cases
    return trained_together(run, config, cases, targets, stage, teachers=teachers)
