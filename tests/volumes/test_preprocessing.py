"""From the stored grid to the model's frame, and back."""

import tracemalloc

import numpy as np
import pytest
from pydantic import ValidationError

from napari_kdseg.errors import GridError
from napari_kdseg.volumes.preprocessing import (
    Frame,
    Intensity,
    Preprocessing,
    fit_intensity,
    prepare,
    prepare_labels,
)
from napari_kdseg.volumes.volume import Grid, Volume

# i to the left in steps of 1 mm, j up in steps of 3, k to the front in steps of 2.
AFFINE = np.array([[-1.0, 0, 0, 9], [0, 0, 2, 0], [0, 3, 0, 0], [0, 0, 0, 1]])
GRID = Grid.from_affine(AFFINE, (4, 5, 6))
AS_STORED = (Intensity(kind="none"),)


def volume(dtype: str = "int16") -> Volume:
    data = np.random.default_rng(0).integers(0, 100, (2, *GRID.shape)).astype(dtype)
    return Volume(data, GRID, ("a", "b"))


def test_the_network_sees_turned_axes() -> None:
    prepared = prepare(volume(), Preprocessing(intensity=AS_STORED))
    # Array axes were front, up, left: 4, 5, 6; z, y, x are up, front, right: 5, 4, 6.
    assert prepared.data.shape == (2, 5, 4, 6)
    assert prepared.grid.orientation == "RAS"
    expected = volume().data[:, ::1, :, ::-1].transpose(0, 2, 1, 3)
    assert np.array_equal(prepared.data, expected.astype(np.float32))


def test_labels_turn_with_their_volume() -> None:
    wanted = Preprocessing(intensity=AS_STORED)
    stored = volume().data[0].astype(np.uint8)
    labels, grid = prepare_labels(stored, GRID, wanted)
    assert np.array_equal(labels, prepare(volume(), wanted).data[0])
    assert grid.orientation == "RAS"
    assert labels.dtype == np.uint8


def test_labels_come_back_to_the_stored_grid() -> None:
    wanted = Preprocessing(intensity=AS_STORED)
    prepared = prepare(volume(), wanted)
    labels = prepared.data[0].astype(np.uint8)
    assert np.array_equal(prepared.restore_labels(labels), volume().data[0])


def test_resizing_changes_the_voxel_size_alone() -> None:
    wanted = Preprocessing(spacing_mm=(1.5, 2.0, 1.0), intensity=AS_STORED)
    prepared = prepare(volume(), wanted)
    # Up: 5 x 3 mm in steps of 1.5 is 10; front and right are as they were.
    assert prepared.data.shape == (2, 10, 4, 6)
    assert prepared.grid.spacing_mm == pytest.approx((1.5, 2.0, 1.0))


def test_a_volume_may_be_resized_to_a_number_of_voxels() -> None:
    # Up: 5 x 3 mm in 10; front 4 x 2 mm in 2; right 6 x 1 mm in 3.
    wanted = Preprocessing(resize_vox=(10, 2, 3), intensity=AS_STORED)
    prepared = prepare(volume(), wanted)
    assert prepared.data.shape == (2, 10, 2, 3)
    assert prepared.grid.spacing_mm == pytest.approx((1.5, 4.0, 2.0))
    assert prepared.grid.orientation == "RAS"


def test_labels_resized_to_twice_the_voxels_come_back_unchanged() -> None:
    wanted = Preprocessing(resize_vox=(10, 8, 12), intensity=AS_STORED)
    labels = np.random.default_rng(1).integers(0, 4, GRID.shape).astype(np.uint8)
    resized, grid = prepare_labels(labels, GRID, wanted)
    assert resized.shape == grid.shape == (10, 8, 12)
    assert np.array_equal(Frame.of(GRID, wanted).restore_labels(resized), labels)


def test_a_volume_that_has_the_voxels_already_is_not_resized() -> None:
    wanted = Preprocessing(resize_vox=(5, 4, 6), intensity=AS_STORED)
    assert not Frame.of(GRID, wanted).is_resampled


def test_labels_of_doubled_voxels_come_back_unchanged() -> None:
    wanted = Preprocessing(spacing_mm=(1.5, 1.0, 0.5), intensity=AS_STORED)
    labels = np.random.default_rng(1).integers(0, 4, GRID.shape).astype(np.uint8)
    resized, _ = prepare_labels(labels, GRID, wanted)
    frame = Frame.of(GRID, wanted)
    assert resized.shape == (10, 8, 12)
    assert np.array_equal(frame.restore_labels(resized), labels)


def test_a_size_within_half_a_voxel_of_the_stored_is_not_resized() -> None:
    wanted = Preprocessing(spacing_mm=(3.0, 2.0, 1.04), intensity=AS_STORED)
    assert not Frame.of(GRID, wanted).is_resampled


@pytest.mark.parametrize("spacing_mm", [None, (2.0, 3.0, 0.7), (None, 1.0, None)])
def test_a_box_is_read_as_it_is_in_the_whole(
    spacing_mm: tuple[float, float, float] | None,
) -> None:
    wanted = Preprocessing(spacing_mm=spacing_mm)
    prepared = prepare(volume(), wanted)
    frame = Frame.of(GRID, wanted)
    parameters = fit_intensity(volume().data, wanted.intensity)
    box = (slice(1, 3), slice(2, 4), slice(0, 3))
    part = frame.read(volume().data, parameters, box)
    assert np.allclose(part, prepared.data[(slice(None), *box)], atol=1e-6)


def test_a_slab_of_the_oriented_frame_goes_back_into_the_source() -> None:
    frame = Frame.of(GRID, Preprocessing(intensity=AS_STORED))
    source = volume().data[0]
    oriented = frame.orientation.to_oriented(source)
    back = np.zeros_like(source)
    for start in range(0, oriented.shape[0], 2):
        box = (slice(start, start + 2), slice(None), slice(None))
        back[frame.source_index(box)] = frame.to_source(oriented[box])
    assert np.array_equal(back, source)


def test_values_are_scaled_before_they_are_interpolated() -> None:
    # Stored 0 and 1000, window 0..100: -1 and 1 after clipping, 0 half way between.
    grid = Grid.from_affine(np.eye(4), (1, 1, 2))
    stored = Volume(np.array([[[[0, 1000]]]], dtype=np.int16), grid, ("CT",))
    window = Intensity(kind="window", low=0, high=100)
    wanted = Preprocessing(spacing_mm=(1, 1, 2 / 3), intensity=(window,))
    assert prepare(stored, wanted).data.tolist() == [[[[-1, 0, 1]]]]


def test_preparing_needs_one_float32_copy_and_little_more() -> None:
    grid = Grid.from_affine(AFFINE, (128, 256, 256))
    data = np.zeros((1, *grid.shape), dtype=np.int16)
    data[..., ::3] = 100
    stored = Volume(data, grid, ("CT",))
    tracemalloc.start()
    prepared = prepare(stored, Preprocessing(spacing_mm=(3.01, 2.01, 1.01)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 8 M voxels of 4 bytes; a slab is a million, and has up to six arrays at a time.
    assert peak < prepared.data.nbytes + 6 * 4 * 2**20 + 2**20
    assert prepared.data.nbytes > 7 * 4 * 2**20  # so no second copy would fit


def test_labels_of_another_volume_are_refused() -> None:
    frame = Frame.of(GRID, Preprocessing())
    with pytest.raises(GridError, match=r"\(2, 2, 2\) voxels and their grid"):
        frame.restore_labels(np.zeros((2, 2, 2), dtype=np.uint8))


def test_the_stored_axes_can_be_kept() -> None:
    prepared = prepare(volume(), Preprocessing(orientation=None, intensity=AS_STORED))
    assert np.array_equal(prepared.data, volume().data)
    assert prepared.grid == GRID


def test_letters_are_kept_as_capitals() -> None:
    assert Preprocessing(orientation="lps").orientation == "LPS"


@pytest.mark.parametrize(
    "settings",
    [{"orientation": "RRR"}, {"spacing_mm": (0, 1, 1)}, {"spacing_mm": (1, 1)},
     {"intensity": ()}, {"spacing": (1, 1, 1)}, {"resize_vox": (0, 4, 4)},
     {"resize_vox": (4, 4, 4), "spacing_mm": (1, 1, 1)}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Preprocessing.model_validate(settings)


def test_settings_survive_a_file() -> None:
    wanted = Preprocessing(spacing_mm=(None, 1, 1), intensity=(Intensity(),) * 2)
    again = Preprocessing.model_validate_json(wanted.model_dump_json())
    assert again == wanted
