"""Resizing voxels: worked by hand, against SimpleITK, and box by box."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_kdseg.volumes.resampling import (
    interpolate_linear,
    linear_taps,
    nearest_taps,
    resampled_grid,
    resampled_shape,
    source_box,
)
from napari_kdseg.volumes.volume import Grid

ALL = (slice(None), slice(None), slice(None))

Shape = tuple[int, int, int]


def whole_of(voxels: np.ndarray, target: Shape) -> np.ndarray:
    source = voxels.shape[-3:]
    needed = (..., *source_box(source, target, ALL))
    return interpolate_linear(voxels[needed], source, target, ALL)


def test_two_voxels_become_four_between_their_centres() -> None:
    # Centres of the four lie at -0.25, 0.25, 0.75, 1.25 of the two; edges hold.
    row = np.array([[[[0.0, 1.0]]]], dtype=np.float32)
    assert whole_of(row, (1, 1, 4)).tolist() == [[[[0.0, 0.25, 0.75, 1.0]]]]


def test_four_voxels_become_two_by_the_mean_of_pairs() -> None:
    # Centres of the two lie at 0.5 and 2.5 of the four.
    row = np.array([[[[0.0, 2.0, 4.0, 8.0]]]], dtype=np.float32)
    assert whole_of(row, (1, 1, 2)).tolist() == [[[[1, 6]]]]


def test_each_new_label_is_that_of_the_cell_its_centre_lies_in() -> None:
    # Five to three: centres at 0.83, 2.5 and 4.17 voxel edges, so cells 0, 2, 4.
    assert nearest_taps(5, 3, slice(None)).tolist() == [0, 2, 4]


def test_the_number_of_voxels_comes_nearest_to_the_wanted_size() -> None:
    grid = Grid.from_affine(np.diag([1.0, 1.0, 3.0, 1.0]), (10, 10, 10))
    # z: 10 x 3 mm in steps of 2 is 15; y: kept; x: 10 mm in steps of 40 is at least 1.
    assert resampled_shape(grid, (2.0, None, 40.0)) == (15, 10, 1)


def test_the_resized_grid_fills_the_same_space() -> None:
    grid = Grid.from_affine(np.diag([1.0, 1.0, 3.0, 1.0]), (10, 10, 10))
    resized = resampled_grid(grid, (15, 10, 5))
    assert resized.spacing_mm == (2.0, 1.0, 2.0)
    # The outer face along z is at -1.5 mm; the first centre is 1 mm inside of it.
    assert resized.origin_mm == (0.5, 0.0, -0.5)


@settings(deadline=None, max_examples=50)
@given(st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_linear_resizing_equals_that_of_simpleitk(source: Shape, target: Shape) -> None:
    data = np.random.default_rng(0).normal(size=source).astype(np.float32)
    ours = whole_of(data, target)
    image = sitk.GetImageFromArray(data)
    ratio = [old / new for old, new in zip(source[::-1], target[::-1], strict=True)]
    theirs = sitk.Resample(
        image,
        target[::-1],
        sitk.Transform(),
        sitk.sitkLinear,
        [0.5 * r - 0.5 for r in ratio],
        ratio,
        image.GetDirection(),
        0.0,
        sitk.sitkFloat32,
        True,  # beyond the outermost centres the nearest voxel counts
    )
    assert np.allclose(ours, sitk.GetArrayFromImage(theirs), atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(1, 9)] * 3), st.data()
)
def test_a_box_is_resized_as_it_is_in_the_whole(
    source: Shape, target: Shape, data: st.DataObject
) -> None:
    voxels = np.random.default_rng(0).normal(size=(2, *source)).astype(np.float32)
    whole = whole_of(voxels, target)
    spans = []
    for size in target:
        start = data.draw(st.integers(0, size - 1))
        spans.append(slice(start, data.draw(st.integers(start + 1, size))))
    box = (spans[0], spans[1], spans[2])
    needed = (slice(None), *source_box(source, target, box))
    part = interpolate_linear(voxels[needed], source, target, box)
    assert np.array_equal(part, whole[(slice(None), *box)])


def test_a_block_of_another_shape_is_no_source() -> None:
    voxels = np.zeros((1, 1, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="must be"):
        interpolate_linear(voxels, (1, 1, 3), (1, 1, 1), ALL)


@pytest.mark.parametrize(("source", "target"), [(4, 9), (9, 4), (1, 3), (5, 5)])
def test_weights_stay_between_their_two_voxels(source: int, target: int) -> None:
    lower, upper, weight = linear_taps(source, target, slice(None))
    assert lower.min() >= 0
    assert upper.max() < source
    assert weight.min() >= 0
    assert weight.max() < 1
