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

from kdseg_train import soft_labels
from kdseg_train.config import Recipe, Settings, Training
from kdseg_train.data import Cases
from kdseg_train.estimate import Net, Planned
from kdseg_train.loop import Stage
from kdseg_train.losses import dice_and_cross_entropy, over_region, voxel_kl
from kdseg_train.patches import Batch, Patches
from kdseg_train.pseudo_labels import mark_foreground
from kdseg_train.supervised import Material, gather, kept_apart, test, train_on_labels
from kdseg_train.targets import Target, new_network, trained
from kdseg_train.teachers import (
    Tapped,
    answer,
    check_widths,
    frozen_network,
    given_by_class,
)
from kdseg_train.watching import Watched
from napari_kdseg.models.model import Model
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.runs.run import Run

TITLE = "MS-KD: several single-organ teachers, one multi-organ student"

OVERLAP = "overlap"
"""Name of the share of voxels that more than one teacher claims."""


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

    @property
    def levels(self) -> tuple[int, ...]:
        """Where features are compared; nowhere where they weigh nothing."""
        return self.feature_levels if self.feature_weight > 0 else ()


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

    @property
    def in_words(self) -> str:
        """What the student learns, by which reading of the paper, for the log."""
        told, training = self.distillation, self.training
        terms = f"organs + {told.background_weight:g} background"
        if told.levels:
            levels = ", ".join(str(level) for level in told.levels)
            terms += f" + {told.feature_weight:g} features of level {levels}"
            terms += f" (regions by {told.mask_downsampling})"
        if told.label_weight > 0:
            terms += f" + {told.label_weight:g} labels (not in the paper)"
        words = (
            f"student: {terms}, KL(teacher || student); normaliser {told.normaliser} "
            f"(printed: all), overlap {told.overlap} (printed: sum); teachers "
            f"{self.teachers_at}, foreground from {told.foreground_from}"
        )
        if training.schedule == "plateau":
            words += f"; on a plateau the rate falls to {training.plateau.factor:.0%}"
        return words


# ---- equations 2 to 8 ----


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
    told: Sequence[Float[Tensor, "B C *S"]],
    log_prob: Float[Tensor, "B C *S"],
    taught: Bool[Tensor, "B K *S"],
    normaliser: str,
) -> Float[Tensor, ""]:
    """``Σ_k L^k_logit`` of eq. 4: the student follows teacher k in its organ."""
    terms = [
        over_region(voxel_kl(prob, log_prob), taught[:, k], normaliser)
        for k, prob in enumerate(told)
    ]
    return torch.stack(terms).sum()


def background_loss(
    told: Sequence[Float[Tensor, "B C *S"]],
    log_prob: Float[Tensor, "B C *S"],
    region: Bool[Tensor, "B ..."],
    normaliser: str,
) -> Float[Tensor, ""]:
    """``L^B_logit`` of eqs. 5 and 6: in true background all teachers speak at once."""
    mean = torch.stack([*told]).mean(dim=0)
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
        small = mask[..., ::factor, ::factor]
        small = small[:, :, ::factor] if mask.ndim == 5 else small
    return small[:, 0] > 0.5


def distillation_terms(
    student: Tapped,
    teachers: Sequence[Tapped],
    batch: Batch,
    settings: Distillation,
) -> dict[str, Float[Tensor, ""]]:
    """Eq. 8, term by term: Σ_k L^k_logit, λ1 L^B_logit, λ2 Σ_k L^{k,l}_feature."""
    terms = terms_and_overlap(student, teachers, batch, settings)
    return {name: term for name, term in terms.items() if name != OVERLAP}


def terms_and_overlap(
    student: Tapped,
    teachers: Sequence[Tapped],
    batch: Batch,
    settings: Distillation,
) -> dict[str, Float[Tensor, ""]]:
    """The terms, and the share of voxels that more than one teacher claims."""
    levels, normaliser = settings.levels, settings.normaliser
    if batch.soft is not None:
        answers, prob = [], batch.soft
    else:
        with torch.no_grad():
            answers = [answer(teacher, batch.image, levels) for teacher in teachers]
            prob = torch.stack([logits.softmax(dim=1) for logits, _ in answers], dim=1)
    logits, features = answer(student, batch.image, levels)
    log_prob = logits.log_softmax(dim=1)
    organs = prob.shape[1]
    told = [in_student_classes(prob[:, k], k, organs) for k in range(organs)]
    regions = organ_regions(prob)
    taught = resolve_overlap(regions, prob[:, :, 1], settings.overlap)
    background = background_loss(told, log_prob, true_background(regions), normaliser)
    terms = {
        "organs": organ_loss(told, log_prob, taught, normaliser),
        "background": settings.background_weight * background,
    }
    if levels:
        terms["features"] = settings.feature_weight * sum_features(
            [found for _, found in answers], features, taught, settings
        )
    if settings.label_weight > 0:
        supervised = dice_and_cross_entropy(logits, batch.labels, batch.annotated)
        for name, term in supervised.items():
            terms[f"label_{name}"] = settings.label_weight * term
    terms[OVERLAP] = (regions.sum(dim=1) > 1).float().mean()
    return terms


# ---- training ----


def planned(config: Config) -> list[Planned]:
    """The stages of the training, for estimates."""
    own, settings = Net.of(config), config.teacher_training or config.training
    told = (own.of_one_class(),) * (own.classes - 1)
    name = "teacher_training" if config.teacher_training else "training"
    to_train = len(told) - len(config.teachers)
    teacher = Planned("teacher", settings, told[:1], (), to_train, name)
    listens = told if config.teachers_at == "online" else ()
    return [teacher, Planned("student", config.training, (own,), listens)]


def train(run: Run, config: Config) -> None:
    """Train the teachers, then the student, then test all of them."""
    material = gather(run, config, partial(checked, config))
    run.event("note", message=config.in_words)
    organs = material.cases.classes
    known = given(config, organs)
    teachers = [
        known[organ] if organ in known else train_teacher(run, config, material, organ)
        for organ in organs
    ]
    student = train_student(run, config, material, teachers)
    models = [teacher for teacher in teachers if isinstance(teacher, Model)]
    test(run, config, [student, *models], material.cases)


def checked(config: Config, cases: Cases) -> Cases:
    """Refuse given teachers that cannot teach, before the others train for hours.

    Raises
    ------
    DataSetError, GridError
        As `soft_labels.check_predictions`.
    ModelError, RecipeError
        As `given_by_class` and `check_widths`.
    """
    teachers = given(config, cases.classes)
    for organ, teacher in teachers.items():
        if isinstance(teacher, Path):
            asked = [*cases.training, *cases.unlabelled, *cases.validation]
            soft_labels.check_predictions(teacher, asked, (organ,))
    student = new_network(config, cases, Target(cases.classes, Path(), "student", ""))
    models = [one for one in teachers.values() if isinstance(one, Model)]
    check_widths(student, models, config.distillation.levels)
    return cases


def given(config: Config, organs: Sequence[str]) -> dict[str, soft_labels.Teacher]:
    """Teachers that the recipe names: models, or folders of predictions."""
    cached = config.teachers_at == "cached"
    return given_by_class(config, config.teachers, organs, predictions=cached)


def train_teacher(run: Run, config: Config, material: Material, organ: str) -> Model:
    """Train the teacher of one organ on its own cases: ``L = Dice + CE``."""
    folder = run.folder / "teachers" / organ
    target = Target((organ,), folder, "teacher", f"teacher-{organ}", suffix=organ)
    settings = config.teacher_training or config.training
    return train_on_labels(run, config, material, target, settings)


def train_student(
    run: Run,
    config: Config,
    material: Material,
    teachers: Sequence[soft_labels.Teacher],
) -> Model:
    """Train the student on the union of all cases, with the teachers frozen."""
    cases, settings = material.cases, config.training
    target = Target(cases.classes, run.model_folder, "student", "student")
    models = [teacher for teacher in teachers if isinstance(teacher, Model)]

    def stage(student: SegmentationNetwork, device: torch.device) -> Stage:
        stored = [*material.training, *material.unlabelled]
        frozen: list[SegmentationNetwork] = []
        told = told_apart = None
        if config.teachers_at == "cached":
            by_organ = dict(zip(cases.classes, teachers, strict=True))
            how = (config.preprocessing, device)
            asked = partial(soft_labels.soft_from, run, by_organ, *how)
            told = asked([*cases.training, *cases.unlabelled], stored)
            told_apart = asked(cases.validation, material.validation)
        else:
            frozen = [frozen_network(model, device) for model in models]
        if config.distillation.foreground_from == "teachers":
            if told is None:
                mark_foreground(run, config, stored, frozen, device)
            else:
                soft_labels.mark_foreground_from_soft(stored, told)

        def objective(batch: Batch) -> dict[str, Tensor]:
            return terms_and_overlap(student, frozen, batch, config.distillation)

        source = Patches(stored, config, settings, target.stage, soft=told)
        apart = kept_apart(
            material.validation, config, settings, target.stage, told_apart
        )
        seen = Watched(cases.classes, student, pictures=config.examples)
        return Stage(
            target.stage,
            student,
            objective,
            source,
            settings,
            apart,
            seen,
            only_told=frozenset({OVERLAP}),
        )

    return trained(run, config, cases, target, stage, teachers=models)
