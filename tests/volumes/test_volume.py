"""Grids worked out by hand, and what a volume refuses."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from napari_kdseg.errors import GridError, VolumeError
from napari_kdseg.volumes.volume import (
    Grid,
    Volume,
    case_id,
    check_same_grid,
    suffix_of,
    without_channel,
)

# i runs to the left in steps of 2, j to the front in steps of 3, k up in steps of 4.
LAS = np.array([[-2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])


def turned(degrees: float) -> np.ndarray:
    """A turn about x, in RAS+."""
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[1:3, 1:3] = [
        [np.cos(angle), -np.sin(angle)],
        [np.sin(angle), np.cos(angle)],
    ]
    return affine


def test_spacing_is_in_array_order_and_origin_in_world_order() -> None:
    grid = Grid.from_affine(LAS, (7, 6, 5))
    assert grid.shape == (7, 6, 5)
    assert grid.spacing_mm == (4.0, 3.0, 2.0)
    assert grid.origin_mm == (10.0, 20.0, 30.0)
    assert grid.direction == ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def test_the_affine_comes_back_as_it_was() -> None:
    affine = LAS @ turned(20)
    assert np.allclose(Grid.from_affine(affine, (2, 2, 2)).affine, affine, atol=1e-12)


def test_orientation_is_that_of_nibabel() -> None:
    swapped = LAS[:, [2, 0, 1, 3]]  # i goes up, j to the left, k to the front
    assert Grid.from_affine(LAS, (1, 1, 1)).orientation == "LAS"
    assert Grid.from_affine(swapped, (1, 1, 1)).orientation == "SLA"
    assert "".join(nibabel.aff2axcodes(swapped)) == "SLA"


def test_a_voxel_of_2_by_3_by_4_mm_has_24_microlitres() -> None:
    assert Grid.from_affine(LAS, (1, 1, 1)).voxel_ml == pytest.approx(0.024)


def test_a_sheared_voxel_keeps_base_times_height() -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 1.0  # y leans over x by 45 degrees: its length is √2, its height 1
    grid = Grid.from_affine(sheared, (1, 1, 1))
    assert grid.spacing_mm[1] == pytest.approx(np.sqrt(2))
    assert grid.voxel_ml == pytest.approx(0.001)


def test_a_turn_of_sixteen_degrees_is_oblique_and_none_is_not() -> None:
    assert Grid.from_affine(LAS @ turned(16), (1, 1, 1)).is_oblique
    assert not Grid.from_affine(LAS, (1, 1, 1)).is_oblique


def test_the_badge_names_axes_and_sizes_in_x_y_z_order() -> None:
    affine = np.diag([0.8, 0.8, 2.0, 1.0])
    assert Grid.from_affine(affine, (1, 1, 1)).describe() == "RAS, 0.8 x 0.8 x 2.0 mm"


def test_small_voxels_are_described_in_micrometres() -> None:
    affine = np.diag([0.005, 0.005, 0.01, 1.0])
    badge = Grid.from_affine(affine, (1, 1, 1)).describe()
    assert badge == "RAS, 5.0 x 5.0 x 10.0 µm"


def test_a_crop_starts_at_its_first_voxel() -> None:
    grid = Grid.from_affine(LAS, (7, 6, 5))
    part = grid.cropped((slice(1, 4), slice(2, 6), slice(3, 5)))
    assert part.shape == (3, 4, 2)
    # x: 10 - 2 * 3, y: 20 + 3 * 2, z: 30 + 4 * 1.
    assert part.origin_mm == (4.0, 26.0, 34.0)


def test_an_empty_crop_is_refused() -> None:
    grid = Grid.from_affine(LAS, (7, 6, 5))
    with pytest.raises(VolumeError, match="at least one voxel"):
        grid.cropped((slice(3, 3), slice(None), slice(None)))


def test_grids_within_the_tolerance_match() -> None:
    moved = LAS.copy()
    moved[0, 3] += 5e-4
    one, other = (Grid.from_affine(a, (7, 6, 5)) for a in (LAS, moved))
    assert one.matches(other)
    assert not one.matches(other, tolerance_mm=1e-4)


def test_a_small_error_of_spacing_counts_at_the_far_corner() -> None:
    wider = LAS.copy()
    wider[0, 0] = -2.0001  # 0.0001 mm a voxel is 0.05 mm after 500
    one, other = (Grid.from_affine(a, (2, 2, 501)) for a in (LAS, wider))
    assert not one.matches(other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((0, 3, 11.0), "origin (10, 20, 30) against (11, 20, 30) mm"),
        ((2, 2, 5.0), "spacing (4, 3, 2) against (5, 3, 2) mm"),
        ((1, 1, -3.0), "direction LAS against LPS"),
    ],
)
def test_a_difference_says_what_differs(
    change: tuple[int, int, float], words: str
) -> None:
    row, column, value = change
    changed = LAS.copy()
    changed[row, column] = value
    one, other = (Grid.from_affine(a, (7, 6, 5)) for a in (LAS, changed))
    assert words in one.difference(other)


def test_a_difference_of_shape_is_said_first() -> None:
    one, other = Grid.from_affine(LAS, (7, 6, 5)), Grid.from_affine(LAS, (7, 6, 4))
    assert one.difference(other) == "shape (7, 6, 5) against (7, 6, 4) (z, y, x)"


def test_an_image_and_labels_on_two_grids_are_refused() -> None:
    one, other = Grid.from_affine(LAS, (7, 6, 5)), Grid.from_affine(LAS, (7, 6, 4))
    check_same_grid(one, one, "a.nii", "b.nii")
    with pytest.raises(GridError, match=r"b.nii is not on the grid of a.nii: sh"):
        check_same_grid(one, other, "a.nii", "b.nii")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_affine_with_no_numbers_is_refused(value: float) -> None:
    broken = LAS.copy()
    broken[1, 1] = value
    with pytest.raises(VolumeError, match="finite"):
        Grid.from_affine(broken, (1, 1, 1))


def test_an_affine_that_is_flat_is_refused() -> None:
    flat = LAS.copy()
    flat[:, 2] = flat[:, 1]
    with pytest.raises(VolumeError, match="span space"):
        Grid.from_affine(flat, (1, 1, 1))


def test_three_axes_are_no_volume() -> None:
    grid = Grid.from_affine(LAS, (7, 6, 5))
    with pytest.raises(VolumeError, match=r"head has 3 axes; a volume has four"):
        Volume(np.zeros((7, 6, 5)), grid, ("CT",), Path("head.nii.gz"))


def test_voxels_on_the_wrong_grid_are_refused() -> None:
    grid = Grid.from_affine(LAS, (7, 6, 5))
    with pytest.raises(VolumeError, match=r"\(5, 6, 7\) voxels on a grid of"):
        Volume(np.zeros((1, 5, 6, 7)), grid, ("CT",))


def test_each_channel_needs_a_name() -> None:
    grid = Grid.from_affine(LAS, (7, 6, 5))
    with pytest.raises(VolumeError, match="2 channels and 1 channel names"):
        Volume(np.zeros((2, 7, 6, 5)), grid, ("CT",))


@pytest.mark.parametrize(
    ("name", "case", "suffix"),
    [
        ("a.nii.gz", "a", ".nii.gz"),
        ("a.NII", "a", ".nii"),
        ("scan.v2.nii.gz", "scan.v2", ".nii.gz"),
        ("a.ome.zarr", "a", ".ome.zarr"),
        ("a.b.zarr", "a.b", ".zarr"),
        ("a.txt", "a.txt", ""),
        ("1.2.840.113", "1.2.840.113", ""),
        (".nii.gz", ".nii.gz", ""),
    ],
)
def test_the_case_is_the_name_without_the_ending_of_its_format(
    name: str, case: str, suffix: str
) -> None:
    assert case_id(Path("folder") / name) == case
    assert suffix_of(Path("folder") / name) == suffix


@pytest.mark.parametrize(
    ("name", "case"),
    [("brain_0001", "brain"), ("scan_12", "scan_12"), ("_0001", "_0001")],
)
def test_a_case_in_the_form_of_nnunet_is_named_without_its_channel(
    name: str, case: str
) -> None:
    assert without_channel(name) == case


def test_cubes_are_described_by_one_size() -> None:
    cubes = Grid.from_affine(np.diag([0.0186, 0.0186, 0.0186, 1.0]), (2, 2, 2))
    assert cubes.describe_briefly() == "RAS, 18.6 µm"
    slabs = Grid.from_affine(np.diag([0.8, 0.8, 2.0, 1.0]), (2, 2, 2))
    assert slabs.describe_briefly() == "RAS, 0.8 x 0.8 x 2.0 mm"
