"""Overlap and surface metrics against numbers worked out by hand and by brute force."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from scipy import ndimage

from napari_kdseg.errors import GridError
from napari_kdseg.measure.metrics import (
    ClassScore,
    Overlap,
    hausdorff_mm,
    overlap_counts,
    pooled,
    pooled_hausdorff_mm,
    score,
    surface_distances,
)
from napari_kdseg.volumes.labels import LabelSet

ORGAN = LabelSet.from_names(["organ"])
CUBIC = (1.0, 1.0, 1.0)


def cube(start: tuple[int, int, int], edge: int = 4, size: int = 16) -> np.ndarray:
    labels = np.zeros((size, size, size), np.uint8)
    labels[tuple(slice(first, first + edge) for first in start)] = 1
    return labels


def score_one(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, float, float] = CUBIC,
    tolerance_mm: float = 1.0,
) -> ClassScore:
    (found,) = score(reference, prediction, ORGAN, spacing_mm, tolerance_mm)
    return found


# ---- Overlap ----


def test_dice_of_a_cube_shifted_by_one_of_its_four_voxels() -> None:
    # 3 of 4 planes are shared: 2 * 48 / (64 + 64) = 0.75, IoU 48 / 80 = 0.6.
    found = score_one(cube((4, 4, 4)), cube((5, 4, 4)))
    assert (found.dice, found.iou) == (0.75, 0.6)


def test_dice_and_iou_say_the_same() -> None:
    generator = np.random.default_rng(0)
    reference, prediction = generator.integers(0, 2, (2, 8, 8, 8), dtype=np.uint8)
    found = score_one(reference, prediction)
    assert found.dice == pytest.approx(2 * found.iou / (1 + found.iou))


def test_pooled_voxels_are_those_of_one_large_volume() -> None:
    generator = np.random.default_rng(3)
    pairs = [generator.integers(0, 2, (2, n, 8, 8), dtype=np.uint8) for n in (2, 9)]
    together = pooled(score_one(*pair).overlap for pair in pairs)
    whole = score_one(*np.concatenate(pairs, axis=1))
    assert together == whole.overlap
    assert together.dice == pytest.approx(2 * together.iou / (1 + together.iou))


def test_pooling_is_no_mean_of_cases() -> None:
    # 50 of 100 and 100, 10 of 10 and 10: Dice 0.5 and 1, together 120 / 220;
    # IoU 50 / 150 and 1, together 60 / 160.
    large, small = Overlap(100, 100, 50), Overlap(10, 10, 10)
    together = pooled([large, small])
    assert (large.dice, small.dice, together.dice) == (0.5, 1.0, 120 / 220)
    assert (large.iou, small.iou, together.iou) == (50 / 150, 1.0, 60 / 160)


def test_nothing_pooled_is_empty() -> None:
    assert (pooled([]).dice, pooled([]).iou) == (1.0, 1.0)


def test_volumes_are_in_millilitres() -> None:
    # 64 voxels of 10 x 2 x 0.5 mm are 640 cubic millimetres.
    found = score_one(cube((4, 4, 4)), cube((4, 4, 4), edge=2), (10.0, 2.0, 0.5))
    assert (found.reference_ml, found.prediction_ml) == (0.64, 0.08)


def test_each_class_is_scored_by_its_own_value() -> None:
    names = LabelSet.from_names(["liver", "spleen", "kidney"]).subset(
        ["kidney", "liver"]
    )
    reference = cube((0, 0, 0)) * np.uint8(3) + cube((8, 8, 8))
    prediction = cube((0, 0, 0)) * np.uint8(3) + cube((8, 8, 10))
    kidney, liver = score(reference, prediction, names, CUBIC)
    assert (kidney.name, kidney.dice) == ("kidney", 1.0)
    assert (liver.name, liver.dice) == ("liver", 0.5)


def test_values_outside_the_set_are_background() -> None:
    counts = overlap_counts(cube((4, 4, 4)) * np.uint8(9), cube((4, 4, 4)), ORGAN)
    assert counts.tolist() == [[16**3 - 64, 64], [0, 0]]


def test_counts_add_up_to_the_volume() -> None:
    generator = np.random.default_rng(1)
    names = LabelSet.from_names(list("abc"))
    pair = generator.integers(0, 4, (2, 6, 7, 8), dtype=np.uint16)
    counts = overlap_counts(pair[0], pair[1], names)
    assert counts.sum() == 6 * 7 * 8
    assert counts[2, 3] == ((pair[0] == 2) & (pair[1] == 3)).sum()


def test_volumes_on_different_grids_are_refused() -> None:
    with pytest.raises(GridError, match=r"\(16, 16, 16\).*\(8, 8, 8\)"):
        score_one(cube((0, 0, 0)), cube((0, 0, 0), size=8))


# ---- Surfaces ----


@pytest.mark.parametrize(
    ("shift", "far_mm"),
    [((3, 0, 0), 7.5), ((0, 3, 0), 3.0), ((0, 0, 3), 1.5), ((0, 2, 2), 5**0.5)],
)
def test_distance_of_shifted_cubes_is_their_shift_in_mm(
    shift: tuple[int, int, int], far_mm: float
) -> None:
    # The far face is `shift` voxels off, of 2.5 x 1 x 0.5 mm; more than a twentieth of
    # the surface lies on it, so HD95 is the same.
    start = (4, 4, 4)
    moved = tuple(a + b for a, b in zip(start, shift, strict=True))
    found = score_one(cube(start), cube(moved), (2.5, 1.0, 0.5))
    assert found.hd_mm == pytest.approx(far_mm)


def test_hd95_forgets_a_stray_voxel_that_hd_sees() -> None:
    prediction = cube((4, 4, 4))
    prediction[4, 4, 14] = 1
    found = score_one(cube((4, 4, 4)), prediction)
    assert (found.hd_mm, found.hd95_mm) == (7.0, 0.0)


def test_distances_are_the_same_both_ways() -> None:
    generator = np.random.default_rng(2)
    pair = (generator.random((2, 10, 10, 10)) > 0.9).astype(np.uint8)
    there, back = score_one(*pair), score_one(*pair[::-1])
    assert (there.hd_mm, there.hd95_mm, there.nsd) == (
        back.hd_mm,
        back.hd95_mm,
        back.nsd,
    )


@pytest.mark.parametrize(
    ("tolerance_mm", "expected"),
    [
        # 4 x 4 x 4 has 56 surface voxels, all but the inner 2 x 2 x 2. Shifted by one
        # voxel of 2 mm: of each cube only the inner 2 x 2 of the face inside the
        # other lie off that one's surface, and the outer face, 16 voxels.
        (0.0, (56 - 16 - 4) / 56),
        (2.0, 1.0),
    ],
)
def test_nsd_counts_surface_voxels_within_the_tolerance(
    tolerance_mm: float, expected: float
) -> None:
    found = score_one(cube((4, 4, 4)), cube((5, 4, 4)), (2.0, 1.0, 1.0), tolerance_mm)
    assert found.nsd == pytest.approx(expected)


def test_a_tolerance_of_whole_voxels_survives_rounding() -> None:
    found = score_one(
        cube((4, 4, 4)), cube((7, 4, 4)), (0.1, 0.1, 0.1), tolerance_mm=0.3
    )
    assert found.nsd == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_surface_metrics_equal_their_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pair = (generator.random((2, 7, 6, 8)) > 0.7).astype(np.uint8)
    spacing_mm = (3.0, 0.7, 1.1)
    found = score_one(pair[0], pair[1], spacing_mm, tolerance_mm=1.0)
    there, back = brute_force(pair[0] > 0, pair[1] > 0, spacing_mm)
    assert found.hd_mm == pytest.approx(max(there.max(), back.max()))
    percentiles = np.percentile(there, 95), np.percentile(back, 95)
    assert found.hd95_mm == pytest.approx(max(percentiles))
    both = np.concatenate([there, back])
    assert found.nsd == pytest.approx((both <= 1.0).mean())


@pytest.mark.parametrize("seed", range(5))
def test_both_readings_of_hd95_equal_their_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    reference, prediction = generator.random((2, 7, 6, 8)) > 0.7
    spacing_mm = (3.0, 0.7, 1.1)
    found = surface_distances(reference, prediction, spacing_mm)
    there, back = brute_force(reference, prediction, spacing_mm)
    directed = max(np.percentile(there, 95), np.percentile(back, 95))
    together = np.percentile(np.concatenate([there, back]), 95)
    assert hausdorff_mm(*found, percentile=95) == pytest.approx(directed, abs=1e-9)
    assert pooled_hausdorff_mm(*found, percentile=95) == pytest.approx(
        together, abs=1e-9
    )


def test_pooled_percentiles_count_the_larger_surface_more() -> None:
    # 19 voxels at 0 mm and one at 5 mm; one voxel at 10 mm. By themselves the 95th
    # percentiles are 0.25 mm (19 * 0.95 = 18.05 th) and 10 mm; of all 21 together the
    # 19th in order (20 * 0.95 = 19), counted from 0, is the 5 mm.
    there, back = np.array([0.0] * 19 + [5.0]), np.array([10.0])
    assert hausdorff_mm(there, back, percentile=95) == 10.0
    assert pooled_hausdorff_mm(there, back, percentile=95) == 5.0


def test_hd95_is_that_of_monai() -> None:
    generator = np.random.default_rng(4)
    reference, prediction = ndimage.gaussian_filter(
        generator.normal(size=(2, 24, 20, 28)), (0, 2, 2, 2)
    ) > [[[[0.03]]], [[[0.04]]]]
    spacing_mm = (2.5, 0.8, 0.8)
    theirs = compute_hausdorff_distance(
        torch.from_numpy(prediction)[None, None],
        torch.from_numpy(reference)[None, None],
        include_background=True,
        percentile=95,
        spacing=spacing_mm,
    )
    ours = hausdorff_mm(
        *surface_distances(reference, prediction, spacing_mm), percentile=95
    )
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_dice_is_that_of_monai() -> None:
    generator = np.random.default_rng(5)
    names = LabelSet.from_names([f"organ {number}" for number in range(1, 14)])
    pair = generator.integers(0, 14, (2, 12, 14, 16), dtype=np.uint8)
    pair[1] = np.where(generator.random(pair[0].shape) > 0.4, pair[0], pair[1])
    one_hot = [
        torch.from_numpy(labels == value) for labels in pair for value in range(14)
    ]
    reference, prediction = torch.stack(one_hot).unflatten(0, (2, 1, 14)).double()
    theirs = compute_dice(prediction, reference, include_background=False)
    ours = [found.dice for found in score(pair[0], pair[1], names, CUBIC)]
    np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-9)


def brute_force(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Every surface voxel against every other, surfaces by looking at neighbours."""
    points = [
        np.array([v for v in np.argwhere(mask) if on_surface(mask, v)]) * spacing_mm
        for mask in (reference, prediction)
    ]
    apart = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return apart.min(axis=1), apart.min(axis=0)


def on_surface(mask: np.ndarray, voxel: np.ndarray) -> bool:
    padded = np.pad(mask, 1)
    steps = [sign * np.eye(3, dtype=int)[axis] for axis in range(3) for sign in (-1, 1)]
    return not all(padded[tuple(voxel + 1 + step)] for step in steps)


def test_a_single_slice_is_judged_by_its_outline() -> None:
    # A 6 x 6 square against one a voxel larger on one side: the interior is no surface.
    reference, prediction = np.zeros((2, 1, 12, 12), np.uint8)
    reference[0, 3:9, 3:9] = 1
    prediction[0, 3:9, 3:10] = 1
    found = score_one(reference, prediction, (50.0, 1.0, 1.0), tolerance_mm=0.0)
    # 20 and 22 outline voxels; 16 of the reference's and 16 of the prediction's agree.
    assert (found.hd_mm, found.nsd) == (1.0, 32 / 42)


# ---- Empty masks ----


def test_two_empty_masks_agree() -> None:
    empty = np.zeros((4, 4, 4), np.uint8)
    found = score_one(empty, empty)
    assert (found.dice, found.iou, found.nsd) == (1.0, 1.0, 1.0)
    assert (found.hd_mm, found.hd95_mm) == (0.0, 0.0)


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_mask_is_as_wrong_as_can_be(swap: bool) -> None:
    pair = [cube((4, 4, 4)), np.zeros((16, 16, 16), np.uint8)]
    found = score_one(*(pair[::-1] if swap else pair))
    assert (found.dice, found.iou, found.nsd) == (0.0, 0.0, 0.0)
    assert (found.hd_mm, found.hd95_mm) == (math.inf, math.inf)


def test_both_readings_of_hd95_agree_on_empty_masks() -> None:
    none, some = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    for hausdorff in (hausdorff_mm, pooled_hausdorff_mm):
        assert hausdorff(*surface_distances(none, none, CUBIC)) == 0.0
        assert hausdorff(*surface_distances(some, none, CUBIC)) == math.inf
        assert hausdorff(*surface_distances(none, some, CUBIC)) == math.inf
