"""Several files of one case as one volume."""

import numpy as np
import pytest

from napari_kdseg.errors import GridError, VolumeError
from napari_kdseg.volumes.channels import StackedVoxels, onto_grid, stacked
from napari_kdseg.volumes.volume import Grid, Volume

GRID = Grid.from_affine(np.diag([1.0, 2.0, 3.0, 1.0]), (4, 3, 2))


def volume(
    value: int, grid: Grid = GRID, dtype: str = "int16", name: str = "a"
) -> Volume:
    return Volume(np.full((1, *grid.shape), value, dtype), grid, (name,))


def test_channels_follow_one_another_and_keep_their_names() -> None:
    both = stacked([volume(1, name="t1"), volume(2, name="t2")])
    assert both.channels == ("t1", "t2")
    assert both.data.shape == (2, 4, 3, 2)
    assert np.asarray(both.data[1]).tolist() == np.full((4, 3, 2), 2).tolist()


def test_namesakes_are_numbered() -> None:
    assert stacked([volume(1), volume(2)]).channels == ("0000", "0001")


def test_channels_on_two_grids_are_refused_with_what_to_do() -> None:
    moved = Grid.from_affine(np.diag([1.0, 2.0, 4.0, 1.0]), (4, 3, 2))
    with pytest.raises(GridError, match="resample them first"):
        stacked([volume(1), volume(2, moved)])


def test_a_name_too_few_is_refused() -> None:
    with pytest.raises(VolumeError, match="give each channel one name"):
        stacked([volume(1), volume(2)], channels=("t1",))


def test_a_stack_reads_boxes_as_numpy_does() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 9, (2, 4, 3, 2), dtype=np.int16)
    second = rng.random((1, 4, 3, 2)).astype(np.float32)
    stack, whole = StackedVoxels((first, second)), np.concatenate([first, second])
    assert stack.dtype == whole.dtype
    for index in (
        np.s_[:],
        np.s_[2],
        np.s_[1:, 2],
        np.s_[-1, :, 1:2],
        np.s_[..., 0],
        np.s_[0:2, 1:3, :, ::1],
    ):
        assert np.array_equal(stack[index], whole[index])
    assert np.array_equal(np.asarray(stack), whole)


def test_resampling_puts_a_ramp_where_it_lies_in_the_world() -> None:
    # Values are the world x in mm: half-way between 2 mm voxels lies the mean of two.
    coarse = Grid.from_affine(np.diag([2.0, 1.0, 1.0, 1.0]), (2, 2, 3))
    ramp = np.broadcast_to(np.array([0, 2, 4], np.int16), (1, 2, 2, 3)).copy()
    fine = Grid.from_affine(np.diag([1.0, 1.0, 1.0, 1.0]), (2, 2, 5))
    made = onto_grid(Volume(ramp, coarse, ("x",)), fine)
    assert made.data.dtype == np.int16
    assert made.data[0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert made.grid == fine


def test_resampled_labels_get_no_new_values_and_flips_do_not_matter() -> None:
    labels = np.zeros((1, 1, 1, 4), np.uint8)
    labels[0, 0, 0] = [0, 7, 7, 3]
    grid = Grid.from_affine(np.eye(4), (1, 1, 4))
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = 3.0
    other = Grid.from_affine(flipped, (1, 1, 4))
    made = onto_grid(Volume(labels, grid, ("l",)), other, labels=True)
    assert made.data[0, 0, 0].tolist() == [3, 7, 7, 0]
