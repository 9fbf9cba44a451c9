"""Turns about, and zooms along, each axis by itself; numbers worked out by hand."""

import numpy as np
import torch

from kdseg_train.augment import Sample, augmented, moved_by
from kdseg_train.config import Augmentation
from kdseg_train.methods.cross_teaching import Changes

SIDES = (6, 8, 4)
OUTSIDE = -9.0


def sample(sides: tuple[int, ...] = SIDES) -> Sample:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *sides))).float()
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 3, sides))
    soft = torch.nn.functional.one_hot(labels, 3).movedim(-1, 0)[None].float()
    return Sample(image, labels, soft)


def turned(first: int, second: int, dimensions: int = 3) -> np.ndarray:
    """A quarter turn: a place (i, j) shows what lay at (-j, i)."""
    matrix = np.eye(dimensions)
    matrix[first, first] = matrix[second, second] = 0
    matrix[first, second], matrix[second, first] = -1, 1
    return matrix


def test_a_quarter_turn_about_any_axis_is_that_of_the_array() -> None:
    cube = sample((6, 6, 6))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        found = moved_by(cube, turned(first, second), OUTSIDE)
        expected = torch.rot90(cube.labels, -1, (first, second))
        assert torch.equal(found.labels, expected)
        image = torch.rot90(cube.image, -1, (first + 1, second + 1))
        assert torch.allclose(found.image, image, atol=1e-5)


def test_of_a_patch_of_unequal_sides_only_the_middle_stays_inside() -> None:
    found = moved_by(sample(), turned(0, 1), OUTSIDE)  # 6 x 8 turned into 6 x 8
    assert (found.image[:, :, (0, 7)] == OUTSIDE).all()
    assert (found.labels[:, (0, 7)] == 0).all()
    assert (found.image[:, :, 1:7] != OUTSIDE).all()


def test_a_zoom_along_z_doubles_distances_from_the_middle_along_z_alone() -> None:
    ramp = torch.arange(8.0)[:, None, None].expand(8, 4, 4)
    flat = Sample(ramp[None].clone(), ramp.long())
    found = moved_by(flat, np.diag([0.5, 1, 1]), OUTSIDE)
    # The middle is 3.5; 0.5 voxels from it is what was 0.25 away.
    expected = 3.5 + 0.5 * (torch.arange(8.0) - 3.5)
    assert torch.allclose(found.image[0, :, 2, 2], expected, atol=1e-5)


def test_soft_labels_move_as_labels_and_sum_to_one() -> None:
    one = sample()
    tilted = turned(1, 2) @ np.diag([1.3, 0.8, 1.1])
    found = moved_by(one, tilted, OUTSIDE)
    assert found.soft is not None
    assert torch.allclose(found.soft.sum(dim=1), torch.ones(1, *SIDES), atol=1e-5)
    exact = moved_by(one, turned(1, 2), OUTSIDE)
    assert exact.soft is not None
    assert torch.equal(exact.soft.argmax(dim=1)[0], exact.labels)


def test_what_is_never_changed_is_as_it_was() -> None:
    still = Augmentation(probability=0, each_axis=True)
    rng = np.random.default_rng(0)
    found = augmented(sample(), still, rng, pad_value=OUTSIDE)
    assert torch.equal(found.image, sample().image)


def test_slices_are_turned_in_their_plane_and_zoomed_along_both_axes() -> None:
    always = Augmentation(probability=1, each_axis=True, rotation_degrees=0, noise=0)
    flat = torch.arange(8.0)[:, None].expand(8, 8).clone()
    ways = set()
    for seed in range(20):
        found = augmented(
            Sample(flat[None], flat.long()),
            always.model_copy(update={"contrast": 0, "brightness": 0}),
            np.random.default_rng(seed),
            pad_value=OUTSIDE,
        )
        step = float(found.image[0, 4, 4] - found.image[0, 3, 4])
        assert 1 / 1.25 - 1e-4 <= step <= 1 / 0.8 + 1e-4
        ways.add(round(step, 3))
    assert len(ways) > 10


def test_the_authors_noise_is_always_there_and_their_gain_a_factor() -> None:
    noisy = Changes(probability=0)
    found = augmented(sample(), noisy, np.random.default_rng(0), pad_value=OUTSIDE)
    assert not torch.equal(found.image, sample().image)
    louder = Changes(
        probability=1, noise=0, rotation_degrees=0, zoom=((1, 1), (1, 1), (1, 1))
    )
    found = augmented(sample(), louder, np.random.default_rng(0), pad_value=OUTSIDE)
    factor = found.image / sample().image
    assert torch.allclose(factor, factor.mean().expand_as(factor), atol=1e-4)
    assert 0.75 <= float(factor.mean()) <= 1.25
