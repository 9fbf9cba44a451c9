"""MS-KD: several single-organ teachers, one multi-organ student.

Feng et al., MS-KD: Multi-Organ Segmentation with Multiple Binary-Labeled Datasets,
arXiv 2108.02559. Symbols as in the paper:

==========  ===================================================================
``q^k``     probabilities of teacher k, background and organ: ``B 2 *S``
``q^S``     probabilities of the student: ``B K+1 *S``
``M^k``     organ-k region, where teacher k sees its organ (eq. 2): ``B K *S``
``M^B``     true background region, where no teacher sees its organ
``q̂^k``     ``q^k`` in the student's classes, 0 for other organs (eq. 3)
``q̂^B``     mean of all ``q̂^k`` (eq. 5)
``F^{k,l}`` decoder features of teacher k at 1/2^l of the resolution
``λ1, λ2``  weights of the background and of the feature term (eq. 8)
==========  ===================================================================

The student sees the union of all images and no label at all. Print and intention differ
in places; each choice is a setting, and its description says what the paper has.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from kdseg_train.config import Recipe, Settings, Training
from kdseg_train.data import Cases
from kdseg_train.loop import Stage
from kdseg_train.loop import train as train_stage
from kdseg_train.losses import dice_and_cross_entropy, voxel_kl
from kdseg_train.patches import Batch, Patches
from kdseg_train.pseudo_labels import mark_foreground
from kdseg_train.soft_labels import (
    Teacher,
    check_predictions,
    mark_foreground_from_soft,
    soft_from,
)
from kdseg_train.supervised import (
    Material,
    Target,
    gather,
    kept_apart,
    model_card,
    new_network,
    test,
    train_on_labels,
)
from kdseg_train.teachers import Tapped, answer, frozen_network
from napari_kdseg.errors import ModelError, RecipeError
from napari_kdseg.inference.forward import pick_device
from napari_kdseg.models.model import CARD, Model, save_model
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.runs.run import Run

TITLE = "MS-KD: several single-organ teachers, one multi-organ student"


class Distillation(Settings):
    """What the teachers tell the student (section 2.2)."""

    background_weight: float = Field(1.0, ge=0, description="λ1 of eq. 8")
    feature_weight: float = Field(
        10.0, ge=0, description="λ2 of eq. 8; 0: logits-wise supervision alone (LW)"
    )
    feature_levels: tuple[int, ...] = Field(
        (1,), description="l of eq. 7: decoder features at 1/2^l of the resolution"
    )
    overlap: Literal["sum", "max_prob", "ignore"] = Field(
        "sum",
        description="where two teachers claim a voxel: both teach (eq. 4 as printed), "
        "the surer one teaches, or neither does",
    )
    normaliser: Literal["all", "region"] = Field(
        "all",
        description="terms are divided by all pixels (eqs. 4, 6, 7 as printed), or by "
        "those of their region",
    )
    mask_downsampling: Literal["nearest", "any", "majority"] = Field(
        "nearest", description="how M^{k,l} is made from M^k; the paper does not say"
    )
    label_weight: float = Field(
        0.0,
        ge=0,
        description="weight of a loss on labels; not in the paper, which "
        "shows the student none",
    )
    foreground_from: Literal["teachers", "labels"] = Field(
        "teachers",
        description="what counts as foreground when the student's patches are drawn",
    )


class Config(Recipe):
    """Teachers are trained on their organ's labels, the student on the teachers."""

    method: Literal["ms-kd"] = "ms-kd"
    teachers: dict[str, Path] = Field(
        default_factory=dict,
        description="class -> model folder of its teacher; others are trained first. "
        "With teachers_at: cached also a folder of predictions by any tool, a file a "
        "case",
    )
    teacher_training: Training | None = Field(
        None, description="nothing given: as `training`, which is the student's"
    )
    teachers_at: Literal["online", "cached"] = Field(
        "online",
        description="cached: their outputs for whole cases are worked out once and "
        "kept on disk; for logits-wise supervision alone",
    )
    distillation: Distillation = Distillation()

    @model_validator(mode="after")
    def _cache_holds_no_features(self) -> "Config":
        if self.teachers_at == "cached" and self.distillation.feature_weight > 0:
            raise ValueError(
                "teachers_at is cached, and the cache holds no features; set "
                "distillation.feature_weight to 0, or teachers_at to online"
            )
        return self


def train(run: Run, config: Config) -> None:
    """Train the teachers, then the student, then test all of them."""
    material = gather(run, config)
    for organ in config.teachers:
        if organ not in material.cases.classes:
            raise RecipeError(
                f"teachers names {organ!r}, which no case annotates; the classes are "
                f"{', '.join(material.cases.classes)}."
            )
    check_given(config, material.cases)  # before the others train for hours
    teachers = [
        teacher_of(run, config, material, organ) for organ in material.cases.classes
    ]
    student = train_student(run, config, material, teachers)
    models = [teacher for teacher in teachers if isinstance(teacher, Model)]
    test(run, config, [student, *models], material.cases)


def teacher_of(run: Run, config: Config, material: Material, organ: str) -> Teacher:
    """Teacher of one organ, given or trained: ``L = Dice + CE`` on its own cases.

    Raises
    ------
    ModelError
        As `given_teacher`.
    """
    if organ in config.teachers:
        return given_teacher(config, organ)
    target = Target(
        (organ,), run.folder / "teachers" / organ, "teacher", f"teacher-{organ}"
    )
    settings = config.teacher_training or config.training
    return train_on_labels(run, config, material, target, settings)


def given_teacher(config: Config, organ: str) -> Teacher:
    """Teacher that the recipe names, relative to where data paths start.

    Raises
    ------
    ModelError
        Where it does not know the organ alone, or sees scans in another way.
    """
    root = config.frozen.root if config.frozen else Path()
    folder = config.teachers[organ]
    folder = folder if folder.exists() else root / folder
    if config.teachers_at == "cached" and not (folder / CARD).exists():
        return folder
    model = Model.open(folder)
    if model.card.classes.names != (organ,):
        raise ModelError(
            f"{folder} segments {', '.join(model.card.classes.names)}; the teacher "
            f"of {organ} must segment {organ} alone."
        )
    if model.card.preprocessing != config.preprocessing:
        raise ModelError(
            f"teacher {model.card.name} expects other preprocessing than the student's "
            "recipe; online distillation needs the same one."
        )
    return model


def train_student(
    run: Run, config: Config, material: Material, teachers: Sequence[Teacher]
) -> Model:
    """Train the student on the union of all cases, with the teachers frozen."""
    cases = material.cases
    target = Target(cases.classes, run.model_folder, "student", "student")
    if target.folder.exists():
        return Model.open(target.folder)
    models = [teacher for teacher in teachers if isinstance(teacher, Model)]
    card = model_card(config, cases, target, models)
    device = torch.device(pick_device(config.device))
    student = new_network(config, cases, target).to(device)
    stored = [*material.training, *material.unlabelled]
    frozen: list[SegmentationNetwork] = []
    told = told_apart = None
    if config.teachers_at == "cached":
        by_organ = dict(zip(cases.classes, teachers, strict=True))
        asked = partial(soft_from, run, by_organ, config.preprocessing, device)
        told = asked([*cases.training, *cases.unlabelled], stored)
        told_apart = asked(cases.validation, material.validation)
    else:
        frozen = [frozen_network(model, device) for model in models]
        check_teachers(config, student, models, frozen)
    if config.distillation.foreground_from == "teachers" and told is not None:
        mark_foreground_from_soft(stored, told)
    elif config.distillation.foreground_from == "teachers":
        mark_foreground(run, config, stored, frozen, device)

    def objective(batch: Batch) -> dict[str, Tensor]:
        return distillation_terms(student, frozen, batch, config.distillation)

    stage = Stage(
        target.stage,
        student,
        objective,
        Patches(stored, config, config.training, target.stage, soft=told),
        config.training,
        kept_apart(
            material.validation, config, config.training, target.stage, told_apart
        ),
    )
    train_stage(stage, run, device)
    return save_model(target.folder, card, student)


def check_given(config: Config, cases: Cases) -> None:
    """Refuse given teachers that cannot teach, and levels that the student lacks.

    Raises
    ------
    DataSetError
        As `check_predictions`.
    ModelError
        As `given_teacher` and `check_teachers`.
    """
    models = []
    for organ in sorted(config.teachers, key=cases.classes.index):
        teacher = given_teacher(config, organ)
        if isinstance(teacher, Model):
            models.append(teacher)
        else:
            asked = [*cases.training, *cases.unlabelled, *cases.validation]
            check_predictions(teacher, asked)
    student = new_network(config, cases, Target(cases.classes, Path(), "student", ""))
    if config.distillation.feature_weight > 0:
        for level in config.distillation.feature_levels:
            student.feature_channels(level)
    frozen = [frozen_network(model, torch.device("cpu")) for model in models]
    check_teachers(config, student, models, frozen)


def check_teachers(
    config: Config,
    student: SegmentationNetwork,
    teachers: list[Model],
    frozen: list[SegmentationNetwork],
) -> None:
    """Refuse teachers that the student cannot learn from, before training starts.

    Raises
    ------
    ModelError
        Where feature widths differ and features are distilled.
    """
    for model, network in zip(teachers, frozen, strict=True):
        for level in config.distillation.feature_levels:
            if config.distillation.feature_weight == 0:
                continue
            theirs, own = (
                network.feature_channels(level),
                student.feature_channels(level),
            )
            if theirs != own:
                raise ModelError(
                    f"teacher {model.card.name} has {theirs} features at level {level}"
                    f", the student {own}; feature-wise supervision needs as many: "
                    "set network.width alike, or distillation.feature_weight to 0."
                )


def distillation_terms(
    student: Tapped,
    teachers: Sequence[Tapped],
    batch: Batch,
    settings: Distillation,
) -> dict[str, Float[Tensor, ""]]:
    """Eq. 8, term by term: Σ_k L^k_logit, λ1 L^B_logit, λ2 Σ_k L^{k,l}_feature."""
    levels = settings.feature_levels if settings.feature_weight > 0 else ()
    if batch.soft is not None:
        told, prob = [], batch.soft
    else:
        with torch.no_grad():
            told = [answer(teacher, batch.image, levels) for teacher in teachers]
            prob = torch.stack([logits.softmax(dim=1) for logits, _ in told], dim=1)
    logits, features = answer(student, batch.image, levels)
    regions = organ_regions(prob)
    taught = resolve_overlap(regions, prob[:, :, 1], settings.overlap)
    log_prob = logits.log_softmax(dim=1)
    terms = {
        "organs": organ_loss(prob, log_prob, taught, settings.normaliser),
        "background": settings.background_weight
        * background_loss(
            prob, log_prob, true_background(regions), settings.normaliser
        ),
    }
    if levels:
        terms["features"] = settings.feature_weight * sum_features(
            [found for _, found in told], features, taught, settings
        )
    if settings.label_weight > 0:
        supervised = dice_and_cross_entropy(logits, batch.labels, batch.annotated)
        for name, term in supervised.items():
            terms[f"label_{name}"] = settings.label_weight * term
    return terms


def organ_regions(prob: Float[Tensor, "B K 2 *S"]) -> Bool[Tensor, "B K *S"]:
    """``M^k`` of eq. 2; a voxel torn evenly is background."""
    return prob[:, :, 1] > prob[:, :, 0]


def true_background(regions: Bool[Tensor, "B K *S"]) -> Bool[Tensor, "B ..."]:
    """``M^B``: what every teacher sees as background."""
    return ~regions.any(dim=1)


def resolve_overlap(
    regions: Bool[Tensor, "B K *S"],
    organ_prob: Float[Tensor, "B K *S"],
    rule: Literal["sum", "max_prob", "ignore"],
) -> Bool[Tensor, "B K *S"]:
    """Who teaches where teachers claim the same voxel; background is never changed."""
    if rule == "sum":
        return regions
    if rule == "ignore":
        return regions & (regions.sum(dim=1, keepdim=True) == 1)
    surest = organ_prob.masked_fill(~regions, -1.0).argmax(dim=1)
    winner = functional.one_hot(surest, regions.shape[1]).movedim(-1, 1).bool()
    return regions & winner


def in_student_classes(
    prob: Float[Tensor, "B 2 *S"], organ: int, organs: int
) -> Float[Tensor, "B C *S"]:
    """``q̂^k`` of eq. 3: background to 0, organ k (counted from 0) to k + 1, else 0."""
    moved = prob.new_zeros(prob.shape[0], organs + 1, *prob.shape[2:])
    moved[:, 0] = prob[:, 0]
    moved[:, organ + 1] = prob[:, 1]
    return moved


def organ_loss(
    prob: Float[Tensor, "B K 2 *S"],
    log_prob: Float[Tensor, "B C *S"],
    taught: Bool[Tensor, "B K *S"],
    normaliser: str,
) -> Float[Tensor, ""]:
    """``Σ_k L^k_logit`` of eq. 4: the student follows teacher k in its organ."""
    organs = prob.shape[1]
    terms = [
        over_region(
            voxel_kl(in_student_classes(prob[:, k], k, organs), log_prob),
            taught[:, k],
            normaliser,
        )
        for k in range(organs)
    ]
    return torch.stack(terms).sum()


def background_loss(
    prob: Float[Tensor, "B K 2 *S"],
    log_prob: Float[Tensor, "B C *S"],
    region: Bool[Tensor, "B ..."],
    normaliser: str,
) -> Float[Tensor, ""]:
    """``L^B_logit`` of eqs. 5 and 6: in true background all teachers speak at once."""
    organs = prob.shape[1]
    moved = [in_student_classes(prob[:, k], k, organs) for k in range(organs)]
    mean = torch.stack(moved).mean(dim=0)
    return over_region(voxel_kl(mean, log_prob), region, normaliser)


def sum_features(
    told: list[dict[int, Tensor]],
    features: dict[int, Tensor],
    taught: Bool[Tensor, "B K *S"],
    settings: Distillation,
) -> Float[Tensor, ""]:
    """``Σ_k Σ_l L^{k,l}_feature``, in the organ regions alone."""
    terms = [
        feature_loss(
            found[level],
            features[level],
            downsampled(taught[:, k], level, settings.mask_downsampling),
            settings.normaliser,
        )
        for k, found in enumerate(told)
        for level in settings.feature_levels
    ]
    return torch.stack(terms).sum()


def feature_loss(
    teacher: Float[Tensor, "B F *S"],
    student: Float[Tensor, "B F *S"],
    region: Bool[Tensor, "B ..."],
    normaliser: str,
) -> Float[Tensor, ""]:
    """``L^{k,l}_feature`` of eq. 7.

    Channels of networks that were trained apart come in any order; sorting the softmax
    over channels at each voxel makes them comparable.
    """
    wanted = teacher.softmax(dim=1).sort(dim=1).values
    log_found = student.log_softmax(dim=1).sort(dim=1).values
    return over_region(voxel_kl(wanted, log_found), region, normaliser)


def downsampled(
    region: Bool[Tensor, "B ..."], level: int, rule: str
) -> Bool[Tensor, "B ..."]:
    """``M^{k,l}``: a region at 1/2^l of the resolution."""
    factor = 2**level
    mask = region[:, None].float()
    pool = functional.max_pool3d if mask.ndim == 5 else functional.max_pool2d
    mean = functional.avg_pool3d if mask.ndim == 5 else functional.avg_pool2d
    if rule == "any":
        small = pool(mask, factor)
    elif rule == "majority":
        small = mean(mask, factor)
    else:
        small = mask
        for axis in range(2, mask.ndim):
            index = torch.arange(0, mask.shape[axis], factor, device=mask.device)
            small = small.index_select(axis, index)
    return small[:, 0] > 0.5


def over_region(
    values: Float[Tensor, "B ..."], region: Bool[Tensor, "B ..."], normaliser: str
) -> Float[Tensor, ""]:
    """Sum over a region, divided by all voxels, or by the region's own number."""
    total = torch.where(region, values, torch.zeros_like(values)).sum()
    count = region.sum().clamp(min=1) if normaliser == "region" else values.numel()
    return total / count
