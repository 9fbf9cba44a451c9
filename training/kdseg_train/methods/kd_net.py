"""KD-Net: a teacher that sees every modality, a student that sees one.

Hu, Maillard et al., Knowledge distillation from multi-modal to mono-modal segmentation
networks, MICCAI 2020, arXiv 2106.09564. Symbols as in the paper:

==========  ====================================================================
``f_t``     teacher, ``f_s`` student: alike but for their input channels
``x``       all modalities, ``x_k`` modality k: ``B N *S``, ``B 1 *S``
``s``       softened prediction of the teacher, ``sigma(f_t(x) / T)`` (eq. 1)
``s*``      binary prediction of the teacher; no temperature changes it
``y``       labels
``q, p``    normalised bottlenecks of teacher and student (eq. 3)
``lambda``  weight of imitation; ``alpha``: of the bottlenecks (eq. 5)
==========  ====================================================================

The teacher is trained first, on the labels alone, and then frozen. So is the baseline,
the student's network with ``lambda = alpha = 0``.

The paper calls sigma a softmax and yet has a binary cross-entropy and nested regions,
so there are two outputs. Softmax: classes exclude one another; Dice is taken over the
organs, the cross-entropy of each class against the rest over background too. Sigmoid: a
channel a nested region; see `outputs` for how its student predicts like any other.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from kdseg_train.config import Augmentation, Plateau, Recipe, Settings, Training
from kdseg_train.data import Cases
from kdseg_train.estimate import Net, Planned
from kdseg_train.folds import (
    Fold,
    Part,
    check_folds,
    divided,
    keep_first,
    scores_of_fold,
    watches_validation,
)
from kdseg_train.loop import Objective, Stage
from kdseg_train.losses import binary_cross_entropy, one_hot, soft_dice, voxel_kl
from kdseg_train.modalities import channel_index, check_images, check_modalities
from kdseg_train.outputs import Output, chain_of, check_regions, nested_output
from kdseg_train.patches import Batch, Patches
from kdseg_train.scoring import Row, write_scores
from kdseg_train.soft_labels import soft_from_model
from kdseg_train.supervised import gaps, gather, kept_apart
from kdseg_train.targets import Target, new_network, trained
from kdseg_train.teachers import Bottled, bottled_answer, frozen_network
from kdseg_train.watching import Watched
from napari_kdseg.errors import DataSetError, RecipeError
from napari_kdseg.models.model import Model, NetworkSpec
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing

TITLE = "KD-Net: a teacher of every modality, a student of one"


class Distillation(Settings):
    """What the teacher tells the student (section 2)."""

    imitation: float = Field(
        0.75, ge=0, le=1, description="lambda of eq. 5; 0: labels alone"
    )
    bottleneck_weight: float = Field(10.0, ge=0, description="alpha of eq. 5")
    temperature: float = Field(5.0, gt=0, description="T of eq. 1, on the teacher")
    temperature_student: float = Field(
        1.0, gt=0, description="on the student in L_KD; the paper prints none"
    )
    dice_form: Literal["squared", "linear"] = Field(
        "squared",
        description="denominators of Dice; linear ones are not 1 where the student "
        "equals a soft teacher, and are nnU-Net's; the paper does not say",
    )
    bottleneck_norm: Literal["vector", "channel"] = Field(
        "vector",
        description="p and q of eq. 3: softmax over the flattened bottleneck, as the "
        "paper says, or over the channels at each voxel",
    )


class Config(Recipe):
    """A teacher of every modality, a baseline and a student of one, by folds."""

    method: Literal["kd-net"] = "kd-net"
    student_channel: str | int = Field(
        "t1ce", description="k: the modality that the student sees, by name or from 0"
    )
    output: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="classes that exclude one another, or nested regions"
    )
    regions: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="name -> its classes; scored beside the classes. The sigmoid "
        "output needs a chain, each region one class smaller than that around it",
    )
    folds: int = Field(3, ge=1, description="of the cross-validation; 1: none")
    baseline: bool = Field(
        default=True, description="train the student's network without a teacher too"
    )
    teachers_at: Literal["online", "cached"] = Field(
        "online",
        description="cached: the teacher's outputs for whole cases are kept on disk; "
        "for bottleneck_weight 0 and softmax",
    )
    distillation: Distillation = Distillation()
    preprocessing: Preprocessing = Preprocessing(
        intensity=(Intensity(kind="zscore", nonzero=True),)
    )
    network: NetworkSpec = NetworkSpec(
        name="unet", parameters={"width": 30, "stages": 5, "skips": 4}
    )
    patch_vox: tuple[int, ...] = (64, 64, 64)
    augmentation: Augmentation = Augmentation(probability=0, mirror=(0, 1, 2))
    training: Training = Training(
        epochs=500,
        iterations_per_epoch=95,
        batch=2,
        learning_rate=1e-4,
        weight_decay=0,
        amsgrad=False,
        gradient_clip=None,
        plateau=Plateau(
            factor=0.2,
            patience_epochs=50,
            threshold=0,
            smoothing=0,
            minimum_rate=0,
            watch="validation",
        ),
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> "Config":
        if self.folds > 1 and (self.split.test > 0 or self.test):
            raise ValueError(
                f"folds is {self.folds} and test cases are kept apart; every fold "
                "tests on a part of the cases, so set split.test to 0 and leave `test` "
                "out, or set folds to 1"
            )
        if self.teachers_at == "cached" and (
            self.distillation.bottleneck_weight > 0 or self.output == "sigmoid"
        ):
            raise ValueError(
                "teachers_at is cached, and the cache holds softmax outputs alone; set "
                "distillation.bottleneck_weight to 0 and output to softmax, or "
                "teachers_at to online"
            )
        if self.output == "sigmoid":
            chain_of(self.regions)
        return self

    @property
    def in_words(self) -> str:
        """How the student learns, and which reading of the paper it is, for the log."""
        told = self.distillation
        return (
            f"student: {told.imitation:g} L_KD + {1 - told.imitation:g} L_GT + "
            f"{told.bottleneck_weight:g} KL(teacher || student) of bottlenecks, "
            f"softmax by {told.bottleneck_norm}, mean over samples; {self.output} "
            f"output, {told.dice_form} Dice, T {told.temperature:g} on the teacher and "
            f"{told.temperature_student:g} on the student"
        )


# ---- equations 2 to 5 ----


def segmentation_terms(
    output: Output,
    logs: tuple[Tensor, Tensor],
    soft: Float[Tensor, "B R *S"],
    binary: Float[Tensor, "B R *S"],
    form: str,
) -> dict[str, Float[Tensor, ""]]:
    """``1 - Dice(s, p)`` and ``BCE(s*, p)``: eq. 2, and eq. 4 where both are y."""
    log_prob, log_not = logs
    dice = soft_dice(output.of_dice(log_prob.exp()), output.of_dice(soft), form)
    return {
        "dice": 1 - dice.mean(),
        "bce": binary_cross_entropy(log_prob, log_not, binary),
    }


def bottleneck_loss(
    teacher: Float[Tensor, "B F *R"], student: Float[Tensor, "B F *R"], norm: str
) -> Float[Tensor, ""]:
    """``L_KL = Σ_j q_j ln(q_j / p_j)`` of eq. 3, teacher first, mean over samples."""
    if norm == "vector":
        teacher, student = teacher.flatten(1), student.flatten(1)
    found = voxel_kl(teacher.softmax(dim=1), student.log_softmax(dim=1))
    return found.sum() / len(teacher)


def label_terms(
    output: Output, logits: Float[Tensor, "B C *S"], labels: Tensor, form: str
) -> dict[str, Float[Tensor, ""]]:
    """L_GT of eq. 4."""
    known = output.of_labels(labels, logits.shape[1])
    return segmentation_terms(output, output.logs(logits), known, known, form)


def imitation_terms(
    output: Output,
    logits: Float[Tensor, "B C *S"],
    told: tuple[Tensor, Tensor],
    settings: Distillation,
) -> dict[str, Float[Tensor, ""]]:
    """L_KD of eq. 2; told are ``s`` and ``s*``."""
    logs = output.logs(logits, settings.temperature_student)
    return segmentation_terms(output, logs, *told, settings.dice_form)


def kd_net_terms(
    student: Bottled,
    teacher: Bottled | None,
    batch: Batch,
    channel: int,
    settings: Distillation,
    output: Output,
) -> dict[str, Float[Tensor, ""]]:
    """Eq. 5, term by term: lambda L_KD, (1 - lambda) L_GT, alpha L_KL.

    What weighs 0 is not read.
    """
    weight, alpha = settings.imitation, settings.bottleneck_weight
    logits, own = bottled_answer(student, batch.image[:, channel : channel + 1])
    theirs: Tensor | None = None
    told: tuple[Tensor, Tensor] | None = None
    if batch.soft is not None:
        soft = batch.soft[:, 0]
        told = soft, one_hot(soft.argmax(dim=1), soft.shape[1])
    elif teacher is not None:
        with torch.no_grad():
            answer, bottleneck = bottled_answer(teacher, batch.image)
            theirs = bottleneck.detach()
            soft = output.logs(answer, settings.temperature)[0].exp()
            told = soft, output.binarised(answer)
    terms = {}
    if weight > 0 and told is not None:
        for name, term in imitation_terms(output, logits, told, settings).items():
            terms[f"kd_{name}"] = weight * term
    if weight < 1:
        found = label_terms(output, logits, batch.labels, settings.dice_form)
        for name, term in found.items():
            terms[f"gt_{name}"] = (1 - weight) * term
    if alpha > 0 and theirs is not None:
        kl = bottleneck_loss(theirs, own, settings.bottleneck_norm)
        terms["bottleneck"] = alpha * kl
    return terms


def objective_of(
    config: Config, cases: Cases, network: Bottled, part: Part, teacher: Bottled | None
) -> Objective:
    """L of eq. 5 for the student; L_GT for teacher and baseline."""
    settings = config.distillation
    output = output_of(config, cases.classes)
    picks = list(part.channels)

    def by_teacher(batch: Batch) -> dict[str, Tensor]:
        return kd_net_terms(network, teacher, batch, picks[0], settings, output)

    def by_labels(batch: Batch) -> dict[str, Tensor]:
        logits, _ = bottled_answer(network, batch.image[:, picks])
        return label_terms(output, logits, batch.labels, settings.dice_form)

    return by_teacher if part.name == "student" else by_labels


def output_of(config: Config, classes: Sequence[str]) -> Output:
    """How the networks of a recipe put out classes or regions."""
    if config.output == "softmax":
        return Output()
    return nested_output(config.regions, classes)


# ---- training ----


def planned(config: Config) -> list[Planned]:
    """The stages of the training, for estimates."""
    every, settings = Net.of(config), config.training
    one = every.of_one_channel()
    told = (every,) if config.teachers_at == "online" else ()
    return [
        Planned("teacher", settings, (every,), times=config.folds),
        Planned("student", settings, (one,), told, times=config.folds),
        Planned("baseline", settings, (one,), times=config.folds * config.baseline),
    ]


def train(run: Run, config: Config) -> None:
    """In each fold train teacher, baseline and student, and test all of them.

    ``RUN/model`` is the student; of several folds, which only measure, the first one's.
    """
    material = gather(run, config, partial(checked, config))
    stored = [*material.training, *material.validation]
    check_images(stored, material.cases.channels)
    run.event("note", message=config.in_words)
    folds = divided(material, config.folds, config.split.seed)
    watches = watches_validation(config.training)
    if config.folds > 1 and watches and not material.validation:
        run.warning(
            "the rate follows the loss on the cases that each fold holds out, as in "
            "the paper; set split.validation above 0 to leave them untouched."
        )
    rows = [row for fold in folds for row in train_fold(run, config, fold)]
    write_scores(run, rows, config.regions)
    keep_first(run, "student")


def checked(config: Config, cases: Cases) -> Cases:
    """The cases, where KD-Net can learn from them.

    Raises
    ------
    DataSetError
        Where a case lacks a modality, or labels of a class; where there are cases
        without labels.
    RecipeError
        Where a setting does not suit the data, or the network has no bottleneck.
    """
    check_modalities(cases, config.student_channel)
    every = (*cases.training, *cases.validation, *cases.unlabelled)
    for case, name in gaps(every, cases.classes):
        raise DataSetError(
            f"case {case.id} has no labels of {name}; KD-Net learns from cases with "
            "labels of every class. Leave it out with `exclude`."
        )
    check_folds(cases.training, config.folds)
    check_regions(config.regions, cases.classes)
    output_of(config, cases.classes)
    watches = watches_validation(config.training)
    if config.folds == 1 and watches and not cases.validation:
        raise RecipeError(
            "training.plateau.watch is validation and no case is kept for it; set "
            "split.validation above 0, or watch to training."
        )
    student = Target(cases.classes, Path(), "student", "")
    if not isinstance(new_network(config, cases, student), Bottled):
        raise RecipeError(
            f"the network {config.network.name} has no bottleneck to take out; "
            "KD-Net needs one that has, such as unet."
        )
    return cases


def train_fold(run: Run, config: Config, fold: Fold) -> list[Row]:
    """Train the networks of one fold and score them on its test cases."""
    channels = fold.material.cases.channels
    every = tuple(range(len(channels)))
    one = (channel_index(channels, config.student_channel),)
    teacher = train_part(run, config, fold, fold.part(run, "teacher", every))
    student = train_part(run, config, fold, fold.part(run, "student", one), teacher)
    models = [student, teacher]
    if config.baseline:
        models.append(train_part(run, config, fold, fold.part(run, "baseline", one)))
    return scores_of_fold(run, fold, models, config.device, config.regions)


def train_part(
    run: Run, config: Config, fold: Fold, part: Part, teacher: Model | None = None
) -> Model:
    """Train one network, by the teacher if there is one; one that is there is taken."""
    cases, settings = fold.material.cases, config.training
    shown, kept = fold.material.training, fold.kept_apart(settings)

    def stage(network: SegmentationNetwork, device: torch.device) -> Stage:
        assert isinstance(network, Bottled)  # `checked` has seen to it
        frozen: Bottled | None = None
        soft = soft_kept = None
        if teacher is not None and config.teachers_at == "cached":
            heat = config.distillation.temperature
            soft, soft_kept = (
                [(said,) for said in soft_from_model(run, of, teacher, heat, device)]
                for of in (shown, kept)
            )
        elif teacher is not None:
            asked = frozen_network(teacher, device)
            assert isinstance(asked, Bottled)  # it is of the same recipe
            frozen = asked
        objective = objective_of(config, cases, network, part, frozen)
        source = Patches(shown, config, settings, part.draws, soft=soft)
        apart = kept_apart(kept, config, settings, part.draws, soft_kept)
        seen = None
        if config.output == "softmax":
            picks = list(part.channels)
            seen = Watched(
                cases.classes,
                lambda image: network(image[:, picks]),
                pictures=config.examples,
            )
        return Stage(part.stage, network, objective, source, settings, apart, seen)

    target = part.target(cases.classes)
    known = [] if teacher is None else [teacher]
    return trained(run, config, cases, target, stage, teachers=known)
