"""Laying one scan over another: known transforms are found again."""

import math

import numpy as np
import pytest

from napari_kdseg.errors import StopRequested, VolumeError
from napari_kdseg.measure.alignment import (
    Likeness,
    align,
    binned_grid,
    factors_for,
    laid_over,
    reduced,
    thinned,
)
from napari_kdseg.volumes.volume import Affine, Grid

SHAPE = (40, 36, 44)
GRID = Grid.from_affine(np.diag([0.02, 0.02, 0.02, 1.0]), SHAPE)


def body() -> np.ndarray:
    """A lopsided body of three ellipsoids, soft at the rim."""
    z, y, x = np.mgrid[:40, :36, :44].astype(float)
    found = np.zeros(SHAPE)
    for middle, half, grey in (
        ((20, 18, 20), (12, 8, 14), 100.0),
        ((26, 15, 14), (4, 4, 5), 180.0),
        ((14, 21, 27), (3, 5, 4), 30.0),
    ):
        far = sum(
            ((axis - m) / h) ** 2
            for axis, m, h in zip((z, y, x), middle, half, strict=True)
        )
        found = np.where(far < 1, grey, found)
    return found


def known() -> Affine:
    """12 degrees about z, ten percent larger, moved by some voxels."""
    angle = math.radians(12)
    turn = np.array(
        [
            [math.cos(angle), -math.sin(angle), 0],
            [math.sin(angle), math.cos(angle), 0],
            [0, 0, 1],
        ]
    )
    middle = GRID.affine[:3] @ [21.5, 17.5, 19.5, 1]
    matrix = np.eye(4)
    matrix[:3, :3] = 1.1 * turn
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + [0.03, -0.02, 0.04]
    return matrix


def apart_mm(one: Affine, other: Affine) -> float:
    """Mean distance, over the body, of where two transforms lead."""
    places = np.argwhere(body() > 0)[:, ::-1]
    world = places @ GRID.affine[:3, :3].T + GRID.affine[:3, 3]
    ways = [world @ matrix[:3, :3].T + matrix[:3, 3] for matrix in (one, other)]
    return float(np.linalg.norm(ways[0] - ways[1], axis=1).mean())


@pytest.mark.parametrize("likeness", ["images", "masks"])
def test_a_known_transform_is_found_within_half_a_voxel(likeness: Likeness) -> None:
    # Air of a CT lies below zero.
    still = body() - 1000 if likeness == "images" else (body() > 0).astype(float)
    lowest = still.min()
    moved = laid_over(still - lowest, GRID, np.linalg.inv(known()), GRID) + lowest
    found, _ = align(still, GRID, moved, GRID, likeness)
    assert apart_mm(np.eye(4), known()) > 0.05  # two and a half voxels, before
    assert apart_mm(found, known()) < 0.01


def test_a_scan_on_an_oblique_grid_is_laid_over_all_the_same() -> None:
    angle = math.radians(20)
    turned = np.eye(4)
    turned[:2, :2] = [
        [math.cos(angle), -math.sin(angle)],
        [math.sin(angle), math.cos(angle)],
    ]
    middle = GRID.affine[:3] @ [21.5, 17.5, 19.5, 1]
    turned[:3, 3] = middle - turned[:3, :3] @ middle
    oblique = Grid.from_affine(turned @ GRID.affine, SHAPE)
    seen = laid_over(body(), GRID, np.eye(4), oblique)  # the same place in the world
    found, _ = align(body(), GRID, seen, oblique, "images")
    assert apart_mm(found, np.eye(4)) < 0.01


def test_the_search_can_be_stopped() -> None:
    def stop() -> None:
        raise StopRequested("enough")

    with pytest.raises(StopRequested):
        align(body(), GRID, body(), GRID, "masks", stop)


def test_an_empty_scan_is_refused() -> None:
    with pytest.raises(VolumeError, match="cannot be laid over one another"):
        align(body(), GRID, np.zeros(SHAPE), GRID, "masks")


def test_laying_over_moves_by_the_transform() -> None:
    mask = np.zeros((4, 5, 6))
    mask[1, 2, 3] = 1.0
    grid = Grid.from_affine(np.diag([1.0, 2.0, 3.0, 1.0]), mask.shape)
    by_one = np.eye(4)
    by_one[0, 3] = 1.0  # the reference's x is the scan's x + 1
    assert np.argwhere(laid_over(mask, grid, by_one, grid)).tolist() == [[1, 2, 2]]


def test_cubes_of_voxels_are_averaged_and_lie_in_their_middle() -> None:
    values = np.arange(4 * 4 * 6, dtype=float).reshape(4, 4, 6)
    grid = Grid.from_affine(np.diag([1.0, 1.0, 2.0, 1.0]), values.shape)
    small, where = reduced(values, grid, 24)
    # Voxels are twice as high as wide: two by two in the plane are a cube.
    assert factors_for(grid, 24) == (1, 2, 2)
    assert small.shape == where.shape == (4, 2, 3)
    assert small[0, 0, 0] == np.mean([0, 1, 6, 7])
    assert where.spacing_mm == (2.0, 2.0, 2.0)
    assert where.origin_mm == (0.5, 0.5, 0.0)


def test_thinned_labels_have_no_new_values() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1::2, 1::2, 1::2] = 7
    grid = Grid.from_affine(np.eye(4), labels.shape)
    thin, where = thinned(labels, grid, 8)
    assert thin.tolist() == np.full((2, 2, 2), 7).tolist()
    assert where == binned_grid(grid, (2, 2, 2))[1]
