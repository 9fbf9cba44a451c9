"""Turning axes: worked by hand, against nibabel, and back without a loss."""

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.orientation import Orientation, orient, unorient
from napari_kdseg.volumes.volume import Grid

AXCODES = ["RAS", "LPS", "LAS", "PSR", "SLA", "IPL", "AIR"]


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Any turn (a quaternion), flip, voxel size and place."""
    size = st.floats(0.05, 5)
    part = st.floats(-1, 1)
    quaternion = np.array(draw(st.tuples(part, part, part, part)))
    if np.linalg.norm(quaternion) < 0.1:
        quaternion = np.array([1.0, 0, 0, 0])
    affine = np.eye(4)
    affine[:3, :3] = nibabel.quaternions.quat2mat(quaternion)
    affine[:3, :3] *= draw(st.tuples(size, size, size))
    affine[:3, 0] *= draw(st.sampled_from([1, -1]))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    edge = st.integers(1, 5)
    return Grid.from_affine(affine, draw(st.tuples(edge, edge, edge)))


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape)


def test_a_left_pointing_axis_is_flipped_to_the_right() -> None:
    # Two voxels along x at world x = 10 and 8; after the turn at 8 and 10.
    grid = Grid.from_affine(
        np.array([[-2.0, 0, 0, 10], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        (1, 1, 2),
    )
    turned, found = orient(np.array([[[5, 6]]]), grid, "RAS")
    assert turned.tolist() == [[[6, 5]]]
    assert found.orientation == "RAS"
    assert found.origin_mm == (8.0, 0.0, 0.0)


def test_swapped_axes_come_in_their_order() -> None:
    # i goes up, j to the right, k to the front: the array's axes are A, R, S.
    affine = np.array([[0.0, 2, 0, 0], [0, 0, 3, 0], [4, 0, 0, 0], [0, 0, 0, 1]])
    grid = Grid.from_affine(affine, (7, 6, 5))
    assert grid.orientation == "SRA"
    turned, found = orient(numbered(grid.shape), grid, "RAS")
    assert turned.shape == found.shape == (5, 7, 6)
    assert found.spacing_mm == (4.0, 3.0, 2.0)
    assert turned[1, 2, 3] == numbered(grid.shape)[2, 3, 1]


def test_turning_shows_the_same_memory() -> None:
    array = numbered((2, 3, 4))
    turned, _ = orient(array, Grid.from_affine(np.eye(4), array.shape), "LPI")
    assert np.shares_memory(array, turned)


def test_no_orientation_keeps_the_stored_axes() -> None:
    grid = Grid.from_affine(np.diag([-1.0, 1, -1, 1]), (2, 3, 4))
    array = numbered((2, 3, 4))
    turned, found = orient(array, grid, None)
    assert np.array_equal(turned, array)
    assert found == grid


@settings(deadline=None)
@given(grids(), st.sampled_from(AXCODES))
def test_every_turn_equals_that_of_nibabel(grid: Grid, axcodes: str) -> None:
    array = numbered(grid.shape)
    turned, found = orient(array, grid, axcodes)
    steps = ornt_transform(nibabel.io_orientation(grid.affine), axcodes2ornt(axcodes))
    assert np.array_equal(turned.T, apply_orientation(array.T, steps))
    expected = grid.affine @ nibabel.orientations.inv_ornt_aff(steps, array.T.shape)
    assert np.allclose(found.affine, expected, atol=1e-9)


@settings(deadline=None)
@given(grids(), st.sampled_from(AXCODES))
def test_the_way_back_is_exact(grid: Grid, axcodes: str) -> None:
    array = numbered((2, *grid.shape))
    turned, _ = orient(array, grid, axcodes)
    assert np.array_equal(unorient(turned, grid, axcodes), array)


@settings(deadline=None)
@given(grids(), st.sampled_from(AXCODES), st.data())
def test_a_box_of_the_turned_array_is_found_in_the_source(
    grid: Grid, axcodes: str, data: st.DataObject
) -> None:
    array = numbered(grid.shape)
    turn = Orientation.between(grid, axcodes)
    turned = turn.to_oriented(array)
    spans = []
    for size in turned.shape:
        start = data.draw(st.integers(0, size - 1))
        spans.append(slice(start, data.draw(st.integers(start + 1, size))))
    box = (spans[0], spans[1], spans[2])
    assert np.array_equal(array[turn.source_index(box)], turn.to_source(turned[box]))
    assert turn.oriented_index(turn.source_index(box)) == box


@settings(deadline=None)
@given(grids(), st.sampled_from(AXCODES))
def test_every_voxel_stays_where_it_is_in_the_world(grid: Grid, axcodes: str) -> None:
    # Voxels carry their own world coordinates; the turned grid must give the same.
    z, y, x = np.indices(grid.shape)
    world = grid.affine[:3, :3] @ np.stack([x, y, z]).reshape(3, -1)
    world = (world + grid.affine[:3, 3:]).reshape(3, *grid.shape)
    turned, found = orient(world, grid, axcodes)
    z, y, x = np.indices(found.shape)
    again = found.affine[:3, :3] @ np.stack([x, y, z]).reshape(3, -1)
    assert np.allclose(turned.reshape(3, -1), again + found.affine[:3, 3:], atol=1e-6)


@pytest.mark.parametrize("wrong", ["RAL", "RA", "XYZ", "RRS", "", "RASA"])
def test_letters_that_name_no_three_axes_are_refused(wrong: str) -> None:
    grid = Grid.from_affine(np.eye(4), (1, 1, 1))
    with pytest.raises(VolumeError, match="no orientation"):
        orient(np.zeros((1, 1, 1)), grid, wrong)
