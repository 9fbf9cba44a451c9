"""Losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from kdseg_train.losses import (
    dice_and_cross_entropy,
    dice_per_class,
    one_hot,
    voxel_kl,
)


def logits_of(prob: list[list[float]]) -> torch.Tensor:
    """Rows of probabilities, one a pixel -> logits, 1 C 1 pixels."""
    return torch.tensor(prob).log().T[None, :, None, :]


def test_divergence_of_half_half_from_one_to_three_is_worked_out_by_hand() -> None:
    # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75) = 0.5 ln 2 - 0.5 ln 1.5 = 0.143841
    prob = torch.tensor([0.5, 0.5]).reshape(1, 2, 1)
    other = torch.tensor([0.25, 0.75]).reshape(1, 2, 1)
    assert voxel_kl(prob, other.log()).item() == pytest.approx(0.143841, abs=1e-6)


def test_divergence_is_not_symmetric() -> None:
    # 0.25 ln(0.25 / 0.5) + 0.75 ln(0.75 / 0.5) = 0.130812
    prob = torch.tensor([0.25, 0.75]).reshape(1, 2, 1)
    other = torch.tensor([0.5, 0.5]).reshape(1, 2, 1)
    assert voxel_kl(prob, other.log()).item() == pytest.approx(0.130812, abs=1e-6)


def test_a_class_the_first_argument_excludes_costs_nothing_and_has_a_gradient() -> None:
    logits = torch.zeros(1, 3, 1, requires_grad=True)
    prob = torch.tensor([0.5, 0.5, 0.0]).reshape(1, 3, 1)
    voxel_kl(prob, logits.log_softmax(1)).sum().backward()
    # gradient of KL(p || softmax z) is softmax z - p = (1/3 - 1/2, 1/3 - 1/2, 1/3)
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-1 / 6, -1 / 6, 1 / 3])


def test_divergence_at_each_voxel_equals_a_plain_sum_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, other = 3 * torch.randn(2, 2, 4, 3, 5, generator=generator)
    prob = logits.softmax(1)
    prob[:, 2, 0] = 0  # a class that is excluded in a row of pixels
    p, z = (np.float64(value.numpy()) for value in (prob, other))
    q = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    wanted = np.zeros((2, 3, 5))
    for sample, c, y, x in np.ndindex(2, 4, 3, 5):
        share = p[sample, c, y, x]
        if share > 0:
            wanted[sample, y, x] += share * np.log(share / q[sample, c, y, x])
    found = voxel_kl(prob, other.log_softmax(1))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_dice_of_two_thirds_is_worked_out_by_hand() -> None:
    # class 1: 2 * 1 / (2 + 1) = 2/3 of two predicted and one true pixel, one shared
    prob = one_hot(torch.tensor([[1, 1, 0, 0]]), 2)
    target = one_hot(torch.tensor([[1, 0, 0, 0]]), 2)
    assert dice_per_class(prob, target)[1].item() == pytest.approx(2 / 3, abs=1e-5)


def test_with_every_class_annotated_the_loss_is_plain_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    found = dice_and_cross_entropy(logits, labels, torch.ones(2, 2, dtype=torch.bool))
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert found["cross_entropy"].item() == pytest.approx(plain.item(), abs=1e-6)


def test_an_unknown_class_may_stand_where_the_label_says_background() -> None:
    # the network is sure of class 2, which the case has not annotated: no loss
    logits = logits_of([[1e-6, 1e-6, 1 - 2e-6]])
    annotated = torch.tensor([[True, False]])
    found = dice_and_cross_entropy(logits, torch.zeros(1, 1, 1).long(), annotated)
    assert found["cross_entropy"].item() == pytest.approx(0, abs=1e-5)


def test_background_of_an_unknown_class_is_their_sum() -> None:
    # background 0.2 + unknown 0.3 = 0.5: the loss is -ln 0.5
    logits = logits_of([[0.2, 0.5, 0.3]])
    annotated = torch.tensor([[True, False]])
    found = dice_and_cross_entropy(logits, torch.zeros(1, 1, 1).long(), annotated)
    assert found["cross_entropy"].item() == pytest.approx(math.log(2), abs=1e-6)


def test_nobody_teaches_a_class_that_no_case_annotates() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    annotated = torch.tensor([[True, False]])
    terms = dice_and_cross_entropy(logits, torch.ones(1, 2, 2).long(), annotated)
    sum(terms.values()).backward()
    prob = logits.detach().softmax(1)
    assert logits.grad is not None
    # where the label is class 1, background and unknown are pushed down alike
    ratio = logits.grad[:, 2] / logits.grad[:, 0]
    assert torch.allclose(ratio, prob[:, 2] / prob[:, 0], atol=1e-4)


def test_both_terms_of_partly_annotated_samples_equal_plain_sums_in_float64() -> None:
    # of four organs the first sample annotates 1, the second 2 and 3; none annotates 4
    known = [{1}, {2, 3}]
    annotated = torch.tensor([[c in some for c in (1, 2, 3, 4)] for some in known])
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 5, 4, 6, generator=generator)
    labels = torch.randint(0, 2, (2, 4, 6), generator=generator)
    labels[1] = torch.tensor([0, 2, 3])[
        torch.randint(0, 3, (4, 6), generator=generator)
    ]
    z, y = np.float64(logits.numpy()), labels.numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    costs = []
    for sample, some in enumerate(known):
        unknown = [c for c in (1, 2, 3, 4) if c not in some]
        background = p[sample, 0] + p[sample, unknown].sum(0)
        for place in np.ndindex(4, 6):
            label = y[sample][place]
            right = p[sample, label][place] if label else background[place]
            costs.append(-np.log(right))
    scores = []
    for c in (1, 2, 3):
        told = [sample for sample, some in enumerate(known) if c in some]
        true = y[told] == c
        assert true.any()
        total = p[told, c].sum() + true.sum()
        scores.append((2 * p[told, c][true].sum() + 1e-5) / (total + 1e-5))
    found = dice_and_cross_entropy(logits, labels, annotated)
    assert found["cross_entropy"].item() == pytest.approx(np.mean(costs), rel=1e-5)
    assert found["dice"].item() == pytest.approx(1 - np.mean(scores), rel=1e-5)
