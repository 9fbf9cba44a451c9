"""Cross teaching: every invariant of the method, and runs that go through."""

import csv
import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdseg_train.config import find_recipe, load_recipe, parse
from kdseg_train.data import resolve
from kdseg_train.losses import (
    focal_loss,
    mean_probability,
    mean_teacher_kl,
    negative_dice,
    ramp_up,
    voxel_kl,
)
from kdseg_train.methods import cross_teaching, fit, prepare
from kdseg_train.methods.cross_teaching import Config, Teaching, weights_at
from kdseg_train.new import new_recipe
from kdseg_train.patches import Batch
from kdseg_train.samples import write_sample
from kdseg_train.turns import InTurn
from napari_kdseg.errors import DataSetError, RecipeError, StopRequested
from napari_kdseg.models.model import Model
from napari_kdseg.models.networks import build
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats

AXES = ((1, 2), (0, 2), (0, 1))
PLAIN = Teaching()
FULL = weights_at(1, 1, PLAIN)  # all ramps at their end: 0.1, 10 and 10


def logits_of(*rows: list[float]) -> Tensor:
    """Rows of probabilities, one a voxel -> logits, 1 C 1 1 voxels."""
    return torch.tensor(rows).log().T[None, :, None, None, :]


def batch_of(labels: list[int], *, labelled: bool = True, organs: int = 2) -> Batch:
    target = torch.tensor(labels).reshape(1, 1, 1, -1)
    annotated = torch.full((1, organs), labelled)
    return Batch(torch.zeros(1, 1, *target.shape[1:]), target, annotated)


def drawn(count: int, voxels: int = 6, classes: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [
        torch.randn(1, classes, 1, 1, voxels, generator=generator, requires_grad=True)
        for _ in range(count)
    ]


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


# ---- the ramp and the weights ----


def test_the_ramp_is_worked_out_by_hand() -> None:
    # e to the powers of -5, -5 / 4 and 0
    assert ramp_up(0, 10) == pytest.approx(0.0067379, abs=1e-7)
    assert ramp_up(5, 10) == pytest.approx(0.2865048, abs=1e-7)
    assert ramp_up(10, 10) == ramp_up(99, 10) == ramp_up(3, 0) == 1


def test_the_weights_begin_and_end_as_the_authors_have_them() -> None:
    first, last = weights_at(0, 1000, PLAIN), weights_at(1000, 1000, PLAIN)
    assert first.consistency == pytest.approx(0.1 * math.exp(-5))
    assert first.labelled_kl == pytest.approx(10 * math.exp(-5))
    assert first.unlabelled_kl == pytest.approx(10 * math.exp(-10))
    assert (last.consistency, last.labelled_kl, last.unlabelled_kl) == (0.1, 10, 10)


def test_the_weights_never_fall_and_one_is_the_square_of_the_other() -> None:
    course = [weights_at(epoch, 20, PLAIN) for epoch in range(21)]
    for name in ("consistency", "labelled_kl", "unlabelled_kl"):
        values = [getattr(weights, name) for weights in course]
        assert values == sorted(values)
    for weights in course:
        square = weights.labelled_kl**2 / 10
        assert weights.unlabelled_kl == pytest.approx(square)


def test_half_a_ramp_is_over_at_half_the_epochs() -> None:
    weights = weights_at(10, 20, Teaching(consistency_ramp=0.5, distillation_ramp=0))
    assert (weights.consistency, weights.labelled_kl) == (0.1, 10)


# ---- Dice ----


def test_a_perfect_prediction_has_a_dice_of_minus_one() -> None:
    labels = torch.tensor([[0, 1, 2, 2]])
    prob = nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    assert negative_dice(prob, labels).item() == pytest.approx(-1, abs=1e-5)


def test_dice_of_two_classes_is_worked_out_by_hand() -> None:
    # class 1: p 0.5 and 0.25 on its voxel and beside it: 2 * 0.5 / (0.75 + 1) = 4/7
    # class 2: p 0.25 and 0.5, right on the second: 2 * 0.5 / (0.75 + 1) = 4/7
    prob = torch.tensor([[[0.25, 0.25], [0.5, 0.25], [0.25, 0.5]]])
    found = negative_dice(prob, torch.tensor([[1, 2]]))
    assert found.item() == pytest.approx(-4 / 7, abs=1e-5)


def test_a_class_that_is_nowhere_counts_as_one() -> None:
    # class 1 perfect, class 2 in neither: the mean of 1 and 1
    prob = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    assert negative_dice(prob, torch.tensor([[0, 1]])).item() == pytest.approx(-1)


def test_background_has_no_dice_of_its_own() -> None:
    # what is not organ 1 may be background or, wrongly, organ 2: class 1's own part
    # of the mean stays, so the difference is class 2's alone: 1 -> nearly 0, halved
    labels = torch.tensor([[0, 1]])
    right = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    wrong = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    apart = negative_dice(wrong, labels) - negative_dice(right, labels)
    assert apart.item() == pytest.approx(0.5, abs=1e-4)


def test_dice_is_taken_over_the_whole_batch() -> None:
    # one voxel each: per sample (2 * 0.5 / 1.5, 2 * 1 / 2), together 2 * 1.5 / 3.5
    prob = torch.tensor([[[0.5], [0.5]], [[0.0], [1.0]]])
    found = negative_dice(prob, torch.tensor([[1], [1]]))
    assert found.item() == pytest.approx(-3 / 3.5, abs=1e-5)


# ---- focal ----


def test_focal_loss_is_worked_out_by_hand() -> None:
    # 0.5 * [0.2^2 * -ln 0.8 + 0.6^2 * -ln 0.4] / 2 = 0.084698
    prob = torch.tensor([[[0.8, 0.6], [0.2, 0.4]]])
    by_hand = 0.5 * (0.04 * -math.log(0.8) + 0.36 * -math.log(0.4)) / 2
    found = focal_loss(prob, torch.tensor([[0, 1]]), gamma=2, alpha=0.5, smoothing=1e-9)
    assert by_hand == pytest.approx(0.084698, abs=1e-6)
    assert found.item() == pytest.approx(by_hand, abs=1e-6)


def test_the_target_is_smoothed_as_the_authors_do() -> None:
    # s = 0.1, three classes: target 0.9 and twice 0.05, so p = 0.9 * 0.5 + 0.05 * 0.5
    # + 0.1 = 0.575; 0.425^2 * -ln 0.575 = 0.099957
    prob = torch.tensor([[[0.5], [0.3], [0.2]]])
    found = focal_loss(prob, torch.tensor([[0]]), gamma=2, alpha=1, smoothing=0.1)
    assert found.item() == pytest.approx(0.425**2 * -math.log(0.575), abs=1e-6)


@pytest.mark.parametrize("size", [80.0, -80.0])
def test_focal_loss_and_its_gradient_stay_finite(size: float) -> None:
    logits = torch.tensor([[[size], [0.0]]], requires_grad=True)
    found = focal_loss(
        logits.softmax(1), torch.tensor([[0]]), gamma=2, alpha=0.5, smoothing=1e-5
    )
    found.backward()
    assert torch.isfinite(found)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_losses_agree_with_plain_formulas_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    prob = torch.rand(2, 4, 5, generator=generator, dtype=torch.float64)
    prob = prob / prob.sum(1, keepdim=True)
    labels = torch.randint(0, 4, (2, 5), generator=generator)
    p, y = prob.numpy(), labels.numpy()
    dice = [
        (2 * p[:, c][y == c].sum() + 1e-5) / (p[:, c].sum() + (y == c).sum() + 1e-5)
        for c in (1, 2, 3)
    ]
    assert negative_dice(prob, labels).item() == pytest.approx(-np.mean(dice), abs=1e-9)
    right = np.take_along_axis(p, y[:, None], 1)[:, 0]
    smooth = 1e-5
    right = (1 - smooth) * right + smooth / 3 * (1 - right) + smooth
    focal = (0.5 * (1 - right) ** 2 * -np.log(right)).mean()
    found = focal_loss(prob, labels, gamma=2, alpha=0.5, smoothing=smooth)
    assert found.item() == pytest.approx(focal, abs=1e-7)


# ---- the teachers' mean and the divergence ----


def test_the_mean_of_two_teachers_is_a_distribution() -> None:
    first, second = drawn(2)
    mean = mean_probability([first, second])
    assert mean.sum(1) == pytest.approx(torch.ones(1, 1, 1, 6).numpy(), abs=1e-6)
    assert torch.allclose(mean_probability([first, first]), first.softmax(1))
    assert not mean.requires_grad


def test_probabilities_are_averaged_and_not_logits() -> None:
    # (0.9, 0.1) and (0.5, 0.5) are (0.7, 0.3); their logits' mean would be (0.75, 0.25)
    mean = mean_probability([logits_of([0.9, 0.1]), logits_of([0.5, 0.5])])
    assert mean.flatten().tolist() == pytest.approx([0.7, 0.3])


def test_divergence_from_the_mean_is_worked_out_by_hand() -> None:
    # mean (0.7, 0.3) against (0.5, 0.5): 0.7 ln 1.4 + 0.3 ln 0.6 = 0.082283;
    # the second voxel agrees, so half of it
    told = [
        logits_of([0.9, 0.1], [0.5, 0.5]),
        logits_of([0.5, 0.5], [0.5, 0.5]),
    ]
    found = mean_teacher_kl(told, logits_of([0.5, 0.5], [0.5, 0.5]))
    assert found.item() == pytest.approx(0.082283 / 2, abs=1e-6)


def test_a_student_that_agrees_with_the_mean_has_no_divergence_and_any_other_has() -> (
    None
):
    first, second, other = drawn(3)
    agreeing = mean_probability([first, second]).log()
    assert mean_teacher_kl([first, second], agreeing).item() == pytest.approx(
        0, abs=1e-6
    )
    assert mean_teacher_kl([first, second], other).item() > 0.01


def test_divergence_of_the_mean_is_at_most_the_mean_of_divergences() -> None:
    for seed in range(3, 8):
        first, second, student = drawn(seed)[:3]
        log_prob = student.log_softmax(1)
        apart = [voxel_kl(t.softmax(1), log_prob).mean() for t in (first, second)]
        together = mean_teacher_kl([first, second], student)
        assert together.item() < torch.stack(apart).mean().item()


def test_temperature_divides_all_logits_and_multiplies_by_its_square() -> None:
    first, second, student = drawn(3)
    cooled = mean_teacher_kl([first / 2, second / 2], student / 2)
    found = mean_teacher_kl([first, second], student, temperature=2)
    assert found.item() == pytest.approx(4 * cooled.item(), rel=1e-6)


def test_divergence_of_three_teachers_equals_a_plain_sum_in_double_precision() -> None:
    *told, student = (3 * logits for logits in drawn(4, voxels=5, classes=4))

    def warm(logits: Tensor) -> np.ndarray:
        raised = np.exp(logits.detach().double().numpy()[0, :, 0, 0] / 2)
        return np.asarray(raised / raised.sum(0))

    mean, own = sum(map(warm, told)) / 3, warm(student)
    # T squared is 4; a mean over the 5 voxels and a sum over the 4 classes
    wanted = 4 * (mean * np.log(mean / own)).sum() / 5
    found = mean_teacher_kl(told, student, temperature=2)
    assert wanted > 0.5
    assert found.item() == pytest.approx(wanted, rel=1e-5)


# ---- who learns what ----


def test_labelled_patches_teach_all_three_by_labels_and_the_student_by_the_mean() -> (
    None
):
    first, second, student = drawn(3)
    batch = batch_of([0, 1, 2, 0, 1, 2])
    of_teachers = cross_teaching.teacher_terms([first, second], batch, FULL, PLAIN)
    assert set(of_teachers) == {"t1_dice", "t1_focal", "t2_dice", "t2_focal"}
    own = cross_teaching.student_terms(student, [first, second], batch, FULL, PLAIN)
    assert set(own) == {"student_dice", "student_focal", "labelled_kl"}
    assert own["labelled_kl"].item() == pytest.approx(
        10 * mean_teacher_kl([first, second], student).item()
    )


def test_unlabelled_patches_have_no_supervised_term() -> None:
    first, second, student = drawn(3)
    batch = batch_of([0] * 6, labelled=False)
    terms = cross_teaching.teacher_terms([first, second], batch, FULL, PLAIN)
    assert set(terms) == {"t1_cross", "t2_cross"}
    terms = cross_teaching.student_terms(student, [first, second], batch, FULL, PLAIN)
    assert set(terms) == {"student_pseudo", "unlabelled_kl"}


def test_the_cross_term_is_worked_out_by_hand() -> None:
    # T1 calls both voxels 1 with 0.8 and 0.6; T2 sees 1 and 0, with 0.7 and 0.9.
    # -Dice(p1, argmax 2): class 1 true on voxel 1: 2 * 0.8 / (1.4 + 1) = 2/3
    # -Dice(p2, argmax 1): class 1 true on both: 2 * (0.7 + 0.1) / (0.8 + 2) = 4/7
    told = [logits_of([0.2, 0.8], [0.4, 0.6]), logits_of([0.3, 0.7], [0.9, 0.1])]
    batch = batch_of([0, 0], labelled=False, organs=1)
    terms = cross_teaching.teacher_terms(told, batch, FULL, PLAIN)
    assert terms["t1_cross"].item() == pytest.approx(-0.1 * 2 / 3, abs=1e-6)
    assert terms["t2_cross"].item() == pytest.approx(-0.1 * 4 / 7, abs=1e-6)


def test_teachers_that_swap_places_leave_the_total_as_it_is() -> None:
    first, second, student = drawn(3)
    for labelled in (True, False):
        batch = batch_of([0, 1, 2, 0, 1, 2], labelled=labelled)

        def loss(told: list[Tensor], batch: Batch = batch) -> float:
            of_teachers = cross_teaching.teacher_terms(told, batch, FULL, PLAIN)
            own = cross_teaching.student_terms(student, told, batch, FULL, PLAIN)
            return total(of_teachers).item() + total(own).item()

        assert loss([first, second]) == pytest.approx(loss([second, first]), abs=1e-6)


def test_a_teacher_learns_from_its_own_terms_alone() -> None:
    first, second, _ = drawn(3)
    batch = batch_of([0] * 6, labelled=False)
    terms = cross_teaching.teacher_terms([first, second], batch, FULL, PLAIN)
    terms["t1_cross"].backward()
    assert second.grad is None
    assert first.grad is not None
    assert first.grad.abs().max() > 0
    batch = batch_of([0, 1, 2, 0, 1, 2])
    terms = cross_teaching.teacher_terms([first, second], batch, FULL, PLAIN)
    (terms["t1_dice"] + terms["t1_focal"]).backward()
    assert second.grad is None


@pytest.mark.parametrize("labelled", [True, False])
def test_nothing_of_the_student_s_reaches_the_teachers(labelled: bool) -> None:
    first, second, student = drawn(3)
    batch = batch_of([0, 1, 2, 0, 1, 2], labelled=labelled)
    terms = cross_teaching.student_terms(student, [first, second], batch, FULL, PLAIN)
    total(terms).backward()
    assert first.grad is None
    assert second.grad is None
    assert student.grad is not None


def test_the_gradient_of_the_divergence_is_student_minus_mean() -> None:
    # d KL / dz = (p_S - p) / voxels, times the weight of 10
    first, second, student = drawn(3)
    batch = batch_of([0] * 6, labelled=False)
    teaching = Teaching(student_pseudo_labels=False)
    terms = cross_teaching.student_terms(
        student, [first, second], batch, FULL, teaching
    )
    total(terms).backward()
    expected = 10 * (student.softmax(1) - mean_probability([first, second])) / 6
    assert student.grad is not None
    assert torch.allclose(student.grad, expected, atol=1e-6)


def test_hard_labels_do_not_change_where_a_teacher_is_merely_surer() -> None:
    first, second, _ = drawn(3)
    batch = batch_of([0] * 6, labelled=False)
    plain, surer = (
        cross_teaching.teacher_terms([first, told], batch, FULL, PLAIN)["t1_cross"]
        for told in (second, 3 * second + 7)
    )
    assert plain == surer


def test_labels_of_unlabelled_patches_are_never_read() -> None:
    first, second, student = drawn(3)
    clean, poisoned = (batch_of([v] * 6, labelled=False) for v in (0, 255))
    for given in (
        lambda b: cross_teaching.teacher_terms([first, second], b, FULL, PLAIN),
        lambda b: cross_teaching.student_terms(
            student, [first, second], b, FULL, PLAIN
        ),
    ):
        assert given(clean) == given(poisoned)


def test_the_student_may_do_without_hard_labels() -> None:
    first, second, student = drawn(3)
    terms = cross_teaching.student_terms(
        student,
        [first, second],
        batch_of([0] * 6, labelled=False),
        FULL,
        Teaching(student_pseudo_labels=False),
    )
    assert set(terms) == {"unlabelled_kl"}


# ---- what is asked at a step ----


class Fixed(SegmentationNetwork):
    """A network that answers what it was told to, and can be trained to differ."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(3, 1, logits.shape[1], divisor=1)
        self.logits = nn.Parameter(logits.detach().clone())

    def features(self, x: Tensor, levels: Any) -> tuple[Tensor, dict[int, Tensor]]:
        return self.logits, {}

    def feature_channels(self, level: int) -> int:
        return 0


def all_three() -> dict[str, Any]:
    return {n: Fixed(z) for n, z in zip(("t1", "t2", "student"), drawn(3), strict=True)}


def ten_epochs_of_four() -> Config:
    training = {"epochs": 10, "iterations_per_epoch": 4}
    values = {"method": "cross-teaching", "data": [{"path": "x"}], "training": training}
    return parse(Config, values, "r")


@pytest.mark.parametrize(
    ("step", "power"),
    # steps 0 to 3 are epoch 0; at epoch 1 of 10: 5 (1 - 1/10)^2 = 4.05
    [(0, 5), (3, 5), (4, 4.05)],
)
def test_a_step_has_the_weights_of_its_epoch(step: int, power: float) -> None:
    networks, config = all_three(), ten_epochs_of_four()
    z1, z2, z3 = (network.logits.detach() for network in networks.values())
    batch = replace(batch_of([0] * 6, labelled=False), step=step)
    found = cross_teaching.objective(networks, [], batch, config)
    assert list(found)[:2] == ["t1_cross", "t2_cross"]
    rho = math.exp(-power)
    mean = (z1.softmax(1) + z2.softmax(1)) / 2
    wanted = {
        "t1_cross": 0.1 * rho * negative_dice(z1.softmax(1), z2.argmax(1)),
        "t2_cross": 0.1 * rho * negative_dice(z2.softmax(1), z1.argmax(1)),
        "student_pseudo": 0.1 * rho * negative_dice(z3.softmax(1), mean.argmax(1)),
        "unlabelled_kl": 10 * rho**2 * voxel_kl(mean, z3.log_softmax(1)).mean(),
    }
    assert set(found) == set(wanted)
    for name, term in wanted.items():
        assert found[name].item() == pytest.approx(term.item(), rel=1e-5), name
    labelled = replace(batch_of([0, 1, 2, 0, 1, 2]), step=step)
    found = cross_teaching.objective(networks, [], labelled, config)
    names = [f"{one}_{term}" for one in networks for term in ("dice", "focal")]
    assert list(found) == [*names, "labelled_kl"]
    for name, network in networks.items():
        prob = network.logits.softmax(1)
        assert found[f"{name}_dice"] == negative_dice(prob, labelled.labels)
    told = 10 * rho * voxel_kl(mean, z3.log_softmax(1)).mean()
    assert found["labelled_kl"].item() == pytest.approx(told.item(), rel=1e-5)


@pytest.mark.parametrize("labelled", [True, False])
def test_teachers_and_then_a_student_of_them_have_the_terms_of_all_at_once(
    labelled: bool,
) -> None:
    networks, config = all_three(), ten_epochs_of_four()
    teachers = {name: networks[name] for name in ("t1", "t2")}
    student = {"student": networks["student"]}
    batch = replace(batch_of([0, 1, 2, 0, 1, 2], labelled=labelled), step=5)
    together = cross_teaching.objective(networks, [], batch, config)
    first = cross_teaching.objective(teachers, [], batch, config)
    then = cross_teaching.objective(student, [*teachers.values()], batch, config)
    assert first | then == together
    assert all(name.startswith(("t1_", "t2_")) for name in first)
    assert not any(name.startswith(("t1_", "t2_")) for name in then)
    total(then).backward()
    assert all(network.logits.grad is None for network in teachers.values())
    assert networks["student"].logits.grad is not None


def test_a_student_without_teachers_learns_from_labels_alone() -> None:
    student = {"student": Fixed(drawn(1)[0])}
    batch = batch_of([0, 1, 2, 0, 1, 2])
    found = cross_teaching.objective(student, [], batch, ten_epochs_of_four())
    assert list(found) == ["student_dice", "student_focal"]


# ---- patches in turn ----


class Named:
    """Batches that say whose they are by a voxel, and which by another."""

    def __init__(self, name: int) -> None:
        self.name = name

    def batch(self, step: int) -> Batch:
        return batch_of([self.name, step])


def test_labelled_and_unlabelled_patches_take_turns() -> None:
    source = InTurn(Named(1), Named(2))
    found = [source.batch(step) for step in range(4)]
    assert [batch.labels.flatten().tolist() for batch in found] == [
        [1, 0],
        [2, 0],
        [1, 1],
        [2, 1],
    ]
    assert [batch.step for batch in found] == [0, 1, 2, 3]


# ---- recipes ----


def test_what_a_recipe_leaves_out_is_the_authors() -> None:
    values = {"method": "cross-teaching", "data": [{"path": "x"}]}
    short = parse(Config, values, "short")
    written = parse(Config, load_recipe(find_recipe(Path("cross-teaching/paper"))), "p")
    assert short.training == written.training
    assert short.teaching == written.teaching
    assert short.augmentation == written.augmentation
    assert short.preprocessing == written.preprocessing
    assert (short.patch_vox, short.overlap) == (written.patch_vox, written.overlap)
    specs = [
        {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in spec.parameters.items()
        }
        for spec in written.teacher_specs
    ]
    assert [spec["upsampling"] for spec in specs] == ["transposed", "resize"]


def test_a_group_given_in_part_keeps_the_authors_other_values() -> None:
    values = {"method": "cross-teaching", "data": [{"path": "x"}]}
    config = parse(Config, values | {"training": {"epochs": 3}}, "short")
    training = config.training
    assert (training.epochs, training.optimiser, training.momentum) == (3, "sgd", 0.99)
    assert (training.learning_rate, training.batch) == (0.01, 1)
    assert training.gradient_clip is None


def test_the_log_says_which_reading_of_the_code_ran() -> None:
    values = {"method": "cross-teaching", "data": [{"path": "x"}]}
    assert parse(Config, values, "r").in_words == (
        "all three at once; labelled: -Dice + Focal + 10 KL; unlabelled: 0.1 -Dice to "
        "hard labels of each other and of their mean + 10 KL; KL(mean of teachers || "
        "student) at T 1; ramps over 1 (hard labels) and 1 (KL) of the epochs; grey "
        "values by window_zscore"
    )
    teaching = {"student_pseudo_labels": False, "consistency_ramp": 0.5}
    grey = {"intensity": [{"kind": "percentile"}]}
    other = parse(
        Config,
        {
            **values,
            "freeze_teachers": True,
            "teaching": teaching,
            "preprocessing": grey,
        },
        "r",
    ).in_words
    assert other.startswith("teachers first (the authors' code trains all three")
    assert "0.1 -Dice to hard labels of each other + 10 KL" in other
    assert "ramps over 0.5 (hard labels)" in other
    assert other.endswith("grey values by percentile")


def test_the_student_is_smaller_than_its_teachers_and_answers_alike() -> None:
    config = parse(Config, {"method": "cross-teaching", "data": [{"path": "x"}]}, "s")
    with torch.device("meta"):
        networks = [
            build(spec, 1, 14) for spec in (config.network_spec, *config.teacher_specs)
        ]
        shapes = {net(torch.empty(1, 1, 96, 64, 96)).shape for net in networks}
    student, *teachers = [sum(p.numel() for p in n.parameters()) for n in networks]
    assert all(17 < teacher / student < 18 for teacher in teachers)
    assert shapes == {(1, 14, 96, 64, 96)}


def test_a_patch_that_the_teachers_cannot_halve_is_refused() -> None:
    network = {"name": "se_resunet", "parameters": {"stages": 2}}
    values = {"method": "cross-teaching", "data": [{"path": "x"}], "network": network}
    with pytest.raises(RecipeError, match="the teachers take multiples of 16"):
        parse(Config, {**values, "patch_vox": [96, 60, 96]}, "r")


def test_a_new_recipe_is_understood(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.yaml"
    new_recipe("cross-teaching", [samples / "abdomen"], out)
    config = parse(Config, load_recipe(out), str(out))
    assert config.preprocessing.resize_vox == (96, 96, 96)
    assert config.preprocessing.intensity[0].kind == "window_zscore"
    assert config.training.optimiser == "sgd"


# ---- runs ----


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_sample("abdomen", folder / "abdomen", cases=5, size=32, seed=3)
    return folder


def recipe(**more: Any) -> dict[str, Any]:
    tiny = {"width": 4, "stages": 3, "blocks": [1, 1, 1]}
    return {
        "method": "cross-teaching",
        "name": "made",
        "data": [{"path": "abdomen", "cases": "0:2"}],
        "unlabelled": [{"path": "abdomen", "cases": "2:4"}],
        "test": [{"path": "abdomen", "cases": "4:5"}],
        "network": {"name": "se_resunet", "parameters": {**tiny, "separable": True}},
        "teachers": [
            {"name": "se_resunet", "parameters": {**tiny, "upsampling": how}}
            for how in ("transposed", "resize")
        ],
        "preprocessing": {
            "resize_vox": [16, 24, 24],
            "intensity": [{"kind": "window_zscore", "low": -300, "high": 300}],
            "pad_value": -1,
        },
        "patch_vox": [16, 16, 24],
        "training": {"epochs": 2, "iterations_per_epoch": 4, "momentum": 0.9},
        **more,
    }


def run_of(values: dict[str, Any], samples: Path, folder: Path) -> Run:
    return Run.create(folder, prepare(values, "recipe", samples))


def trained(values: dict[str, Any], samples: Path, folder: Path) -> Run:
    run = run_of(values, samples, folder)
    with run.executing():
        fit(run)
    return run


def hashes(run: Run) -> dict[str, str]:
    return {
        str(path.relative_to(run.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.folder.rglob("weights.safetensors"))
        if "checkpoints" not in path.parts
    }


@pytest.fixture(scope="module")
def coarse(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A whole run, with a baseline."""
    folder = tmp_path_factory.mktemp("coarse")
    return trained(recipe(baseline=True), samples, folder / "run")


def test_a_run_leaves_a_student_two_teachers_and_a_baseline(coarse: Run) -> None:
    student = Model.open(coarse.model_folder)
    teachers = [Model.open(coarse.folder / "teachers" / name) for name in ("t1", "t2")]
    assert [model.card.role for model in teachers] == ["teacher", "teacher"]
    assert student.card.role == "student"
    assert student.card.provenance.teachers == tuple(t.fingerprint for t in teachers)
    ups = [model.card.network.parameters["upsampling"] for model in teachers]
    assert ups == ["transposed", "resize"]
    with (coarse.folder / "metrics.csv").open(encoding="utf-8") as file:
        scored = {row["model"] for row in csv.DictReader(file)}
    assert scored == {"made", "made-t1", "made-t2", "made-baseline"}


def test_the_curves_of_all_terms_are_in_the_run(coarse: Run) -> None:
    events, _ = coarse.events()
    metrics = [e for e in events if e["event"] == "metric"]
    of_all = [e for e in metrics if e.get("stage") == "cross-teaching"]
    assert {"t1_dice", "t2_cross", "student_pseudo", "unlabelled_kl"} <= set(of_all[0])


def test_the_run_says_which_reading_of_the_code_it_is(coarse: Run) -> None:
    (note,) = [e["message"] for e in coarse.events()[0] if e["event"] == "note"]
    assert note.startswith("all three at once; labelled: -Dice + Focal + 10 KL")


def test_a_run_stopped_on_its_way_resumes_to_the_same_weights(
    coarse: Run, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(recipe(baseline=True), samples, tmp_path / "stopped")
    progress = Run.progress

    def stop_in_training(
        self: Run, step: int, total: int, stage: str = "", **extra: Any
    ) -> None:
        progress(self, step, total, stage, **extra)
        if stage in ("cross-teaching", "baseline") and step == 3:
            self.request_stop()

    with monkeypatch.context() as patched:
        patched.setattr("kdseg_train.loop.PROGRESS_SECONDS", 0.0)
        patched.setattr(Run, "progress", stop_in_training)
        for _ in ("cross-teaching", "baseline"):
            with pytest.raises(StopRequested), run.executing():
                fit(run)
    with run.executing():
        fit(run)
    assert hashes(run) == hashes(coarse)
    assert len(hashes(run)) == 4


def test_thirty_steps_lower_the_loss(samples: Path, tmp_path: Path) -> None:
    training = {"epochs": 5, "iterations_per_epoch": 6, "momentum": 0.9}
    # without ramps, whose rising weights would hide it
    teaching = {"consistency_ramp": 0, "distillation_ramp": 0}
    values = recipe(training=training, teaching=teaching, test=[])
    run = trained(values, samples, tmp_path / "run")
    events, _ = run.events()
    losses = [e["loss"] for e in events if e["event"] == "metric" and "loss" in e]
    assert sum(losses[-2:]) < sum(losses[:2])


def test_teachers_may_come_first_and_the_run_says_so(
    samples: Path, tmp_path: Path
) -> None:
    values = recipe(freeze_teachers=True, test=[])
    run = trained(values, samples, tmp_path / "run")
    events, _ = run.events()
    assert any(
        "authors' code trains all three" in str(e.get("message")) for e in events
    )
    stages = {e["stage"] for e in events if e["event"] == "metric"}
    assert stages == {"teachers", "student"}
    assert len(hashes(run)) == 3


def test_cases_of_the_fine_stage_are_cropped_to_labels_or_to_what_is_found(
    coarse: Run, samples: Path, tmp_path: Path
) -> None:
    values = recipe(crop={"coarse": str(coarse.model_folder)}, test=[])
    config = parse(Config, prepare(values, "recipe", samples), "recipe")
    whole = resolve(config, samples)
    run = Run.create(tmp_path / "run", {"version": 1, "command": "fit"})
    cases = cross_teaching.usable(run, config, whole)
    for before, after in zip(whole.training, cases.training, strict=True):
        assert before.label is not None
        assert after.label is not None
        (all_labels, _), (labels, grid) = map(
            formats.read_labels, (before.label, after.label)
        )
        # every labelled voxel is in the box, which is smaller than the volume
        assert (labels > 0).sum() == (all_labels > 0).sum()
        assert labels.size < all_labels.size
        assert formats.inspect_volume(after.images[0]).grid.matches(grid)
        sides = [np.ptp(np.flatnonzero((labels > 0).any(axes))) + 1 for axes in AXES]
        assert all(0.8 <= s / n <= 1 for s, n in zip(sides, labels.shape, strict=True))
    for before, after in zip(whole.unlabelled, cases.unlabelled, strict=True):
        image, cut = (formats.read_volume(case.images[0]) for case in (before, after))
        corner = np.linalg.inv(image.grid.affine) @ [*cut.grid.origin_mm, 1]
        x, y, z = np.rint(corner[:3]).astype(int)
        depth, height, width = cut.grid.shape
        box = np.s_[:, z : z + depth, y : y + height, x : x + width]
        assert np.array_equal(cut.data[:], image.data[box])


def test_the_fine_stage_leaves_a_composite_that_is_tested(
    coarse: Run, samples: Path, tmp_path: Path
) -> None:
    values = recipe(name="fine", crop={"coarse": str(coarse.model_folder)})
    run = trained(values, samples, tmp_path / "run")
    both = Model.open(run.folder / "composite")
    assert both.card.role == "composite"
    assert both.parts is not None
    assert both.parts[0].fingerprint == Model.open(coarse.model_folder).fingerprint
    with (run.folder / "metrics.csv").open(encoding="utf-8") as file:
        scored = {row["model"] for row in csv.DictReader(file)}
    assert scored == {"fine", "fine-t1", "fine-t2"}


# ---- bad input ----


def test_a_run_without_unlabelled_cases_is_refused(
    samples: Path, tmp_path: Path
) -> None:
    run = run_of(recipe(unlabelled=[]), samples, tmp_path / "run")
    with pytest.raises(DataSetError, match="needs unlabelled cases"), run.executing():
        fit(run)


def test_labels_that_leave_a_class_open_are_refused(
    samples: Path, tmp_path: Path
) -> None:
    data = [
        {"path": "abdomen", "cases": "0:1"},
        {"path": "abdomen", "cases": "1:2", "annotated": ["liver"]},
    ]
    run = run_of(recipe(data=data), samples, tmp_path / "run")
    refused = pytest.raises(DataSetError, match="does not annotate 'spleen'")
    with refused, run.executing():
        fit(run)


def test_an_unlabelled_set_that_holds_test_cases_is_refused(samples: Path) -> None:
    values = recipe(unlabelled=[{"path": "abdomen", "cases": "2:5"}])
    with pytest.raises(DataSetError, match=r"used for training and.*kept for testing"):
        prepare(values, "recipe", samples)


def test_a_coarse_model_that_is_none_is_refused_before_anything_is_trained(
    samples: Path, tmp_path: Path
) -> None:
    run = run_of(recipe(crop={"coarse": "nowhere"}), samples, tmp_path / "run")
    with pytest.raises(RecipeError, match="is nowhere, and"), run.executing():
        fit(run)
    assert not run.checkpoints.exists() or not list(run.checkpoints.iterdir())
