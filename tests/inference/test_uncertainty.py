import math

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_kdseg.inference.uncertainty import (
    MEASURES,
    disagreement,
    entropy,
    fuse,
    least_confidence,
    margin,
)
from napari_kdseg.inference.uncertainty import (
    test_time_variance as variance_of_flips,
)


def _voxel(*prob: float) -> Tensor:
    return torch.tensor(prob).reshape(-1, 1)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("classes", [2, 3, 14])
def test_a_measure_is_one_where_all_classes_are_alike(name: str, classes: int) -> None:
    prob = torch.full((classes, 1), 1 / classes)
    assert MEASURES[name](prob).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("classes", [2, 3, 14])
def test_a_measure_is_zero_where_one_class_is_certain(name: str, classes: int) -> None:
    prob = torch.zeros((classes, 1))
    prob[1] = 1
    assert MEASURES[name](prob).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_stays_between_zero_and_one(name: str) -> None:
    logits = torch.randn((5, 10_000), generator=torch.Generator().manual_seed(0)) * 30
    values = MEASURES[name](logits.softmax(dim=0))
    assert values.min() >= 0
    assert values.max() <= 1


def test_entropy_of_a_half_and_two_quarters() -> None:
    # (0.5 log 2 + 2 * 0.25 log 4) / log 3 = 1.5 log 2 / log 3 = 0.946395
    expected = 1.5 * math.log(2) / math.log(3)
    assert entropy(_voxel(0.5, 0.25, 0.25)).item() == pytest.approx(expected, abs=1e-6)


def test_margin_of_a_half_and_two_quarters() -> None:
    # The best leads by a quarter.
    assert margin(_voxel(0.5, 0.25, 0.25)).item() == pytest.approx(0.75)


def test_least_confidence_of_a_half_and_two_quarters() -> None:
    # Half is missing, of two thirds at most.
    assert least_confidence(_voxel(0.5, 0.25, 0.25)).item() == pytest.approx(0.75)


def test_equal_predictions_have_no_variance() -> None:
    stack = torch.stack([_voxel(0.7, 0.3)] * 3)
    assert variance_of_flips(stack).item() == pytest.approx(0, abs=1e-6)


def test_opposite_certainties_have_the_largest_variance() -> None:
    # Each class: values 1 and 0, variance 0.25; together 0.5, divided by 1 - 1/2.
    stack = torch.stack([_voxel(1.0, 0.0), _voxel(0.0, 1.0)])
    assert variance_of_flips(stack).item() == pytest.approx(1)


def test_variance_of_two_moderate_predictions() -> None:
    # Each class: 0.8 and 0.4 about 0.6, variance 0.04; together 0.08, divided by 0.5.
    stack = torch.stack([_voxel(0.8, 0.2), _voxel(0.4, 0.6)])
    assert variance_of_flips(stack).item() == pytest.approx(0.16, abs=1e-6)


def test_disagreement_of_two_teachers_is_their_total_variation() -> None:
    # (|0.8 - 0.4| + |0.2 - 0.6|) / 2 = 0.4
    stack = torch.stack([_voxel(0.8, 0.2), _voxel(0.4, 0.6)])
    assert disagreement(stack).item() == pytest.approx(0.4, abs=1e-6)


def test_teachers_of_unlike_organs_agree_where_one_claims_the_voxel() -> None:
    # Background, spleen, kidney. The kidney teacher calls spleen background.
    stack = torch.stack([_voxel(0.1, 0.9, 0.0), _voxel(1.0, 0.0, 0.0)])
    known = torch.tensor([[False, True, False], [False, False, True]])
    assert disagreement(stack, known).item() == 0


def test_teachers_of_unlike_organs_disagree_where_both_claim_the_voxel() -> None:
    # 0.9 for spleen and 0.7 for kidney: 0.6 more than there is.
    stack = torch.stack([_voxel(0.1, 0.9, 0.0), _voxel(0.3, 0.0, 0.7)])
    known = torch.tensor([[False, True, False], [False, False, True]])
    assert disagreement(stack, known).item() == pytest.approx(0.6, abs=1e-6)


def test_fused_uncertainty_is_the_highest_of_all_teachers() -> None:
    maps = [np.array([0.1, 0.9], np.float32), np.array([0.4, 0.2], np.float32)]
    np.testing.assert_array_equal(fuse(maps), np.array([0.4, 0.9], np.float32))
