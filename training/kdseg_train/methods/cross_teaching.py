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
patches take turns. Differences: the rate falls by the step and not by the epoch, grey
values are scored over the whole volume and not over the patch, resizing lets faces and
not centres coincide, and of the augmentation elastic deformation, rotation about the
other two axes and zoom along z are left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from kdseg_train.config import Augmentation, Recipe, Settings, Training, parse
from kdseg_train.crops import Crop, cropped, paired
from kdseg_train.data import Cases
from kdseg_train.loop import Source, Stage, seeded
from kdseg_train.loop import train as train_stage
from kdseg_train.losses import (
    focal_loss,
    mean_probability,
    mean_teacher_kl,
    negative_dice,
    ramp_up,
)
from kdseg_train.patches import Batch, Patches, StoredCase
from kdseg_train.supervised import (
    Material,
    Target,
    gather,
    kept_apart,
    model_card,
    test,
)
from kdseg_train.teachers import frozen_network
from napari_kdseg.errors import DataSetError, ModelError
from napari_kdseg.inference.forward import pick_device
from napari_kdseg.models.model import Model, ModelCard, save_model
from napari_kdseg.models.networks import build
from napari_kdseg.models.parameters import NetworkSpec, parameters_of
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
    """What of the authors' augmentation can be said here, with their numbers."""

    probability: float = Field(0.5, ge=0, le=1, description="of each kind of change")
    noise: float = Field(0.1, ge=0, description="largest standard deviation of noise")
    contrast: float = Field(
        0.25, ge=0, lt=1, description="their brightness, a factor on scored values"
    )
    brightness: float = Field(0.0, ge=0, description="largest shift of brightness")


class Teaching(Settings):
    """Who learns what from whom, and how much."""

    consistency_weight: float = Field(
        0.1, ge=0, description="of w_c: cross and pseudo-labels on unlabelled patches"
    )
    consistency_ramp: float = Field(
        1.0, ge=0, description="T of w_c in parts of all epochs; 0: no ramp"
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


def ct_resized() -> Preprocessing:
    """96 voxels a side, HU -300 to 300, then mean 0, deviation 1; outside about air."""
    rule = Intensity(kind="window_zscore", low=-300.0, high=300.0)
    return Preprocessing(resize_vox=(96, 96, 96), intensity=(rule,), pad_value=-1.0)


def student_network() -> NetworkSpec:
    """The depthwise-separable student, 5.2 million parameters."""
    return NetworkSpec(name="se_resunet", parameters={"separable": True})


def teacher_networks() -> tuple[NetworkSpec, NetworkSpec]:
    """Two teachers that differ in up-sampling, 92 million parameters each."""
    first, second = (
        NetworkSpec(name="se_resunet", parameters={"upsampling": how})
        for how in ("transposed", "resize")
    )
    return first, second


class Config(Recipe):
    """Two teachers and a student, trained together on labelled and unlabelled cases."""

    method: Literal["cross-teaching"] = "cross-teaching"
    network: NetworkSpec = Field(
        default_factory=student_network, description="the student's"
    )
    teachers: tuple[NetworkSpec, NetworkSpec] = Field(
        default_factory=teacher_networks,
        description="T1 and T2; unlike networks disagree in unlike places",
    )
    preprocessing: Preprocessing = Field(default_factory=ct_resized)
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
            try:
                divisor = parameters_of(spec).divisor
            except ModelError as error:
                raise ValueError(str(error)) from error
            if any(size % divisor for size in self.patch_vox):
                raise ValueError(
                    f"patch_vox is {self.patch_vox}: the teachers take multiples of "
                    f"{divisor}; change the patch or their number of stages"
                )
        return self

    @property
    def teacher_specs(self) -> tuple[NetworkSpec, ...]:
        """The teachers in as many dimensions as the patch has."""
        dimensions = {"dimensions": len(self.patch_vox)}
        return tuple(
            NetworkSpec(name=spec.name, parameters=spec.parameters | dimensions)
            for spec in self.teachers
        )


# ---- Weights and losses ----


@dataclass(frozen=True)
class Weights:
    """Weights of an epoch."""

    consistency: float
    """w_c."""
    labelled_kl: float
    """w_d."""
    unlabelled_kl: float
    """w_d'."""


def weights_at(epoch: float, epochs: int, teaching: Teaching) -> Weights:
    """``w_c``, ``w_d`` and ``w_d'`` of an epoch, counted from 0."""
    first = ramp_up(epoch, teaching.consistency_ramp * epochs)
    second = ramp_up(epoch, teaching.distillation_ramp * epochs)
    return Weights(
        teaching.consistency_weight * first,
        teaching.labelled_distillation * second,
        teaching.unlabelled_distillation * first * second,
    )


def is_labelled(batch: Batch) -> bool:
    """Whether the patches of a batch have labels; it is all of them or none."""
    return bool(batch.annotated.any())


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
    if is_labelled(batch):
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
    if is_labelled(batch):
        terms = supervised_terms("student", logits, batch, teaching)
        return terms | {"labelled_kl": weights.labelled_kl * divergence}
    terms = {"unlabelled_kl": weights.unlabelled_kl * divergence}
    if teaching.student_pseudo_labels:
        seen = mean_probability(told).argmax(dim=1)
        terms["student_pseudo"] = weights.consistency * negative_dice(
            logits.softmax(dim=1), seen
        )
    return terms


# ---- Patches in turn ----


@dataclass(frozen=True)
class InTurn:
    """A labelled batch at even steps, an unlabelled one at odd steps."""

    labelled: Source
    unlabelled: Source

    def batch(self, step: int) -> Batch:
        """Batch of a step."""
        source = self.unlabelled if step % 2 else self.labelled
        return replace(source.batch(step // 2), step=step)


# ---- The run ----


def train(run: Run, config: Config) -> None:
    """Train teachers and student, perhaps a baseline, then test all of them."""
    material = gather(run, config, lambda cases: usable(run, config, cases))
    job = Job(run, config, material)
    models = job.in_two_phases() if config.freeze_teachers else job.all_at_once()
    if config.baseline:
        models.append(job.baseline())
    if config.crop is not None:
        models = paired(run, config, config.crop, models)
    test(run, config, models, material.cases)


def usable(run: Run, config: Config, cases: Cases) -> Cases:
    """The cases as they are trained on: cropped in a fine stage."""
    check_cases(cases)
    return cases if config.crop is None else cropped(run, config, config.crop, cases)


def check_cases(cases: Cases) -> None:
    """Refuse cases that cross teaching cannot use, before training starts.

    Raises
    ------
    DataSetError
        Where no case is unlabelled, or labels leave a class open.
    """
    if not cases.unlabelled:
        raise DataSetError(
            "cross teaching needs unlabelled cases, where the teachers teach each "
            "other; name some under `unlabelled`."
        )
    for case in (*cases.training, *cases.validation):
        missing = [name for name in cases.classes if name not in case.annotated]
        if missing:
            raise DataSetError(
                f"case {case.id} does not annotate {missing[0]!r}; cross teaching "
                "needs every class in every labelled case. Move the case to "
                "`unlabelled`, or choose other `classes`."
            )


class Job:
    """The stages of one run."""

    def __init__(self, run: Run, config: Config, material: Material) -> None:
        self.run, self.config, self.material = run, config, material
        self.device = torch.device(pick_device(config.device))
        target = Target(material.cases.classes, run.model_folder, "student", "student")
        self.card = model_card(config, material.cases, target)
        self.teacher_folders = [run.folder / "teachers" / name for name in TEACHERS]

    def all_at_once(self) -> list[Model]:
        """S, T1 and T2 by one optimiser, as the authors do."""
        if self.run.model_folder.exists():  # it is written last
            return self._opened(self.run.model_folder, *self.teacher_folders)
        networks = nn.ModuleDict(self._teachers() | {"student": self._student()})

        def objective(batch: Batch) -> Terms:
            *told, own = (network(batch.image).float() for network in networks.values())
            how = (batch, self._weights(batch), self.config.teaching)
            return teacher_terms(told, *how) | student_terms(own, told, *how)

        self._train("cross-teaching", networks, objective)
        teachers = [self._save_teacher(name, networks[name]) for name in TEACHERS]
        return [self._save_student(networks["student"], teachers), *teachers]

    def in_two_phases(self) -> list[Model]:
        """T1 and T2 first, then S on the frozen teachers; a deviation."""
        self.run.event(
            "note",
            message="freeze_teachers: the teachers are trained first and then kept as "
            "they are; the authors' code trains all three networks at once.",
        )
        teachers = self._teachers_first()
        if self.run.model_folder.exists():
            return [*self._opened(self.run.model_folder), *teachers]
        frozen = [frozen_network(model, self.device) for model in teachers]
        student = self._student()

        def objective(batch: Batch) -> Terms:
            with torch.no_grad():
                told = [network(batch.image).float() for network in frozen]
            own = student(batch.image).float()
            weights = self._weights(batch)
            return student_terms(own, told, batch, weights, self.config.teaching)

        self._train("student", student, objective)
        return [self._save_student(student, teachers), *teachers]

    def _teachers_first(self) -> list[Model]:
        if all(folder.exists() for folder in self.teacher_folders):
            return self._opened(*self.teacher_folders)
        networks = nn.ModuleDict(self._teachers())

        def objective(batch: Batch) -> Terms:
            told = [network(batch.image).float() for network in networks.values()]
            weights = self._weights(batch)
            return teacher_terms(told, batch, weights, self.config.teaching)

        self._train("teachers", networks, objective)
        return [self._save_teacher(name, networks[name]) for name in TEACHERS]

    def baseline(self) -> Model:
        """The student on labelled cases alone, from the weights S began with."""
        folder = self.run.folder / "baseline"
        if folder.exists():
            return Model.open(folder)
        student = self._student()

        def objective(batch: Batch) -> Terms:
            logits = student(batch.image).float()
            return supervised_terms("student", logits, batch, self.config.teaching)

        labelled = self._patches("baseline", self.material.training)
        self._train("baseline", student, objective, labelled)
        return save_model(folder, self._card("baseline"), student)

    def _train(
        self,
        name: str,
        network: nn.Module,
        objective: Callable[[Batch], Terms],
        source: Source | None = None,
    ) -> None:
        config, material = self.config, self.material
        in_turn = InTurn(
            self._patches(f"{name}-labelled", material.training),
            self._patches(f"{name}-unlabelled", material.unlabelled),
        )
        apart = kept_apart(material.validation, config, config.training, name)
        stage = Stage(
            name, network, objective, source or in_turn, config.training, apart
        )
        train_stage(stage, self.run, self.device)

    def _patches(self, key: str, cases: Sequence[StoredCase]) -> Patches:
        return Patches(cases, self.config, self.config.training, key)

    def _weights(self, batch: Batch) -> Weights:
        training = self.config.training
        epoch = batch.step // training.iterations_per_epoch
        return weights_at(epoch, training.epochs, self.config.teaching)

    def _new(self, spec: NetworkSpec, name: str) -> nn.Module:
        cases = self.material.cases
        with seeded(self.config.seed, name):
            network = build(spec, len(cases.channels), len(cases.classes) + 1)
        return network.to(self.device)

    def _teachers(self) -> dict[str, nn.Module]:
        specs = zip(TEACHERS, self.config.teacher_specs, strict=True)
        return {name: self._new(spec, name) for name, spec in specs}

    def _student(self) -> nn.Module:
        return self._new(self.config.network_spec, "student")

    def _opened(self, *folders: Path) -> list[Model]:
        return [Model.open(folder) for folder in folders]

    def _card(self, name: str, **changes: Any) -> ModelCard:
        values = self.card.model_dump() | changes
        values["name"] = f"{self.card.name}-{name}"
        return parse(ModelCard, values, f"the model {name}")

    def _save_teacher(self, name: str, network: nn.Module) -> Model:
        place = TEACHERS.index(name)
        folder, spec = self.teacher_folders[place], self.config.teacher_specs[place]
        if folder.exists():
            return Model.open(folder)
        changes = {"role": "teacher", "network": spec.model_dump()}
        return save_model(folder, self._card(name, **changes), network)

    def _save_student(self, network: nn.Module, teachers: Sequence[Model]) -> Model:
        known = tuple(teacher.fingerprint for teacher in teachers)
        source = self.card.provenance.model_copy(update={"teachers": known})
        card = self.card.model_copy(update={"provenance": source})
        return save_model(self.run.model_folder, card, network)
