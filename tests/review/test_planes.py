"""Slices of predictions: the voxels of NumPy, from few chunks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_predictions import grid_of, write_prediction

from napari_kdseg.errors import StopRequested, VolumeError
from napari_kdseg.review import planes
from napari_kdseg.review.arrays import Opener, boxes_of, cut
from napari_kdseg.review.planes import Plane, Planes, View
from napari_kdseg.review.predictions import Prediction, predictions_in
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.formats import Header, ome_zarr, write_volume
from napari_kdseg.volumes.pyramid import write_pyramid

SHAPE = (6, 8, 10)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(-50, 1000, SHAPE).astype(np.int16)
LABELS = RNG.integers(0, 3, SHAPE).astype(np.uint8)
UNSURE = RNG.random(SHAPE).astype(np.float32)
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".ome.zarr", ".ome.tif")


def prediction(tmp_path: Path, ending: str = ".nii.gz", **more: Any) -> Prediction:
    write_prediction(
        tmp_path / "out", "fish", LABELS, image=IMAGE, ending=ending, **more
    )
    (found,) = predictions_in(tmp_path / "out")
    return found


def one(found: Prediction, axis: int, index: int, view: View | None = None) -> Plane:
    return Planes().read(found, axis, [index], Opener(), view)[0]


class Counted:
    """An array in chunks that notes which are read."""

    chunks = (1, 4, 3, 5)

    def __init__(self, data: np.ndarray) -> None:
        self.data = data[np.newaxis]
        self.shape, self.dtype = self.data.shape, data.dtype
        self.read: list[tuple[int, ...]] = []

    def __getitem__(self, index: Any) -> Any:
        spans = [range(size)[p].start // edge for p, size, edge in self._sliced(index)]
        stops = [
            -(-range(size)[p].stop // edge) for p, size, edge in self._sliced(index)
        ]
        for z in range(spans[0], stops[0]):
            for y in range(spans[1], stops[1]):
                self.read += [(z, y, x) for x in range(spans[2], stops[2])]
        return self.data[index]

    def _sliced(self, index: Any) -> list[tuple[slice, int, int]]:
        return list(zip(index[1:], self.shape[1:], self.chunks[1:], strict=True))


# ---- Slices ----


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_slice_has_the_voxels_of_the_stored_arrays(
    tmp_path: Path, axis: int, ending: str
) -> None:
    found = prediction(tmp_path, ending, uncertainty=UNSURE, spacing_mm=(4, 2, 1))
    plane = one(found, axis, 4, View(uncertainty=True))
    assert plane.about == found.about(axis, 4)
    np.testing.assert_array_equal(plane.image, IMAGE.take(4, axis))
    np.testing.assert_array_equal(plane.labels, LABELS.take(4, axis))
    assert plane.uncertainty is not None
    assert plane.uncertainty.dtype == np.uint8
    np.testing.assert_allclose(plane.uncertainty / 255, UNSURE.take(4, axis), atol=4e-3)
    assert plane.spacing_mm == [(2, 1), (4, 1), (4, 2)][axis]


def test_uncertainty_is_not_read_unless_it_is_asked_for(tmp_path: Path) -> None:
    found = prediction(tmp_path, uncertainty=UNSURE)
    assert one(found, 0, 1).uncertainty is None


def test_uncertainty_kept_as_bytes_is_shown_as_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "fish" / "student"
    found = prediction(tmp_path)
    values = RNG.integers(0, 256, SHAPE).astype(np.uint8)
    path = folder / "uncertainty.ome.zarr"
    channels = ("uncertainty",)
    ome_zarr.write(path, values[None], grid_of(SHAPE), channels, value_scale=1 / 255)
    (found,) = predictions_in(tmp_path / "out")
    plane = one(found, 2, 7, View(uncertainty=True))
    assert plane.uncertainty is not None
    np.testing.assert_array_equal(plane.uncertainty, values[:, :, 7])


def test_a_channel_is_read_from_the_file_that_has_it(tmp_path: Path) -> None:
    found = prediction(tmp_path)
    other = tmp_path / "scans" / "t2.nii.gz"
    write_volume(other, IMAGE + 1, grid_of(SHAPE))
    both = Prediction(
        **{**vars(found), "images": (*found.images, other), "parts": (None, None)}
    )
    plane = one(both, 0, 2, View(channel=1))
    np.testing.assert_array_equal(plane.image, IMAGE[2] + 1)
    assert Opener().channels(both) == ("channel 1", "channel 2")


def test_a_channel_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="no channel 1"):
        one(prediction(tmp_path), 0, 2, View(channel=1))


def test_grey_values_are_chosen_once_for_a_whole_scan(tmp_path: Path) -> None:
    found, opened = prediction(tmp_path), Planes()
    (first, last) = opened.read(found, 0, [0, 5], Opener())
    (across,) = opened.read(found, 1, [3], Opener())
    low, high = np.percentile(IMAGE, (0.5, 99.5))
    assert first.limits == last.limits == across.limits == (low, high)


def test_a_scan_of_one_grey_value_has_black_and_white_apart(tmp_path: Path) -> None:
    write_prediction(tmp_path / "out", "flat", LABELS, image=np.full(SHAPE, 7, "i2"))
    (found,) = predictions_in(tmp_path / "out")
    assert one(found, 0, 0).limits == (7.0, 8.0)


def test_a_plane_keeps_no_more_than_itself_in_memory(tmp_path: Path) -> None:
    plane = one(prediction(tmp_path), 2, 3)
    assert plane.labels.base is None or plane.labels.base.size == plane.labels.size
    assert plane.nbytes == 6 * 8 * 3


# ---- Thumbnails ----


def test_a_thumbnail_has_every_nth_pixel_of_image_and_labels(tmp_path: Path) -> None:
    plane = one(prediction(tmp_path, spacing_mm=(4, 2, 1)), 0, 3, View(most_px=4))
    np.testing.assert_array_equal(plane.labels, LABELS[3, ::3, ::3])
    np.testing.assert_array_equal(plane.image, IMAGE[3, ::3, ::3])
    assert plane.spacing_mm == (6, 3)


# ---- Coarser levels ----


def pyramid(tmp_path: Path, shape: tuple[int, int, int]) -> tuple[Prediction, Path]:
    """A scan whose voxels are their z, in chunks, with coarser levels."""
    labels = np.zeros(shape, np.uint8)
    labels[:, 3] = 1
    scan = tmp_path / "scans" / "fish.ome.zarr"
    scan.parent.mkdir()
    image = np.repeat(np.arange(shape[0], dtype=np.uint16), shape[1] * shape[2])
    header = Header(scan, grid_of(shape), ("image",), np.dtype(np.uint16))
    block = ((0, slice(0, shape[0])), image.reshape(shape))
    write_pyramid(scan, header, [block], kind="image")
    write_prediction(tmp_path / "out", "fish", labels, scan=scan, ending=".ome.zarr")
    (found,) = predictions_in(tmp_path / "out")
    return found, scan


def test_a_slice_through_many_chunks_takes_its_image_from_a_coarser_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = pyramid(tmp_path, (101, 40, 30))
    monkeypatch.setattr(planes, "LARGEST_DECODED_BYTES", 40 * 101 * 30)
    plane = one(found, 1, 3)
    assert plane.level == 1
    assert plane.image.shape == plane.labels.shape == (101, 30)
    # Halved, planes 2 and 3 are both 2.5, rounded up; the last, 100, is alone.
    np.testing.assert_array_equal(plane.image[[2, 3, 99, 100], 0], [3, 3, 99, 100])
    assert plane.labels.all()


def test_a_slice_through_few_chunks_keeps_all_its_pixels(tmp_path: Path) -> None:
    found, _ = pyramid(tmp_path, (101, 40, 30))
    plane = one(found, 1, 3)
    assert plane.level == 0
    np.testing.assert_array_equal(plane.image[:, 0], np.arange(101))


@pytest.mark.parametrize(("most_px", "step", "level"), [(20, 11, 2), (70, 3, 1)])
def test_a_thumbnail_comes_from_the_level_that_still_has_its_pixels(
    tmp_path: Path, most_px: int, step: int, level: int
) -> None:
    found, _ = pyramid(tmp_path, (201, 40, 30))  # voxels of level n span 2**n
    plane = one(found, 1, 3, View(most_px=most_px))
    assert plane.level == level
    rows = np.arange(0, 201, step)
    assert (
        plane.image.shape == plane.labels.shape == (len(rows), len(range(0, 30, step)))
    )
    assert np.abs(plane.image[:, 0] - rows.astype(float)).max() <= 2**level / 2
    np.testing.assert_array_equal(plane.labels, 1)


# ---- Chunks ----


def test_only_the_chunks_of_a_slice_are_read() -> None:
    counted = Counted(LABELS)
    np.testing.assert_array_equal(cut(counted, 0, 2, [7])[0], LABELS[:, :, 7])
    assert {x for _, _, x in counted.read} == {1}
    assert len(counted.read) == 2 * 3


def test_neighbours_in_the_same_chunks_are_read_once() -> None:
    counted = Counted(LABELS)
    found = cut(counted, 0, 0, [5, 4, 1])
    np.testing.assert_array_equal(found, LABELS[[5, 4, 1]])
    assert len(counted.read) == len(set(counted.read)) == 2 * 3 * 2


@pytest.mark.parametrize("most", [1, 60, 100, 10**6])
def test_boxes_cover_every_voxel_once_and_read_no_chunk_twice(most: int) -> None:
    counted = Counted(LABELS)
    seen = np.zeros(SHAPE, int)
    for box in boxes_of(counted, most):
        _ = counted[(0, *box)]
        seen[box] += 1
    assert (seen == 1).all()
    assert len(counted.read) == len(set(counted.read))


def test_reading_is_given_up_where_nobody_wants_the_slice_any_more() -> None:
    with pytest.raises(StopRequested):
        cut(Counted(LABELS), 0, 0, [1], go_on=lambda: False)


# ---- What is open ----


def test_files_decoded_whole_are_let_go_of_when_they_take_too_much(
    tmp_path: Path,
) -> None:
    for case in ("a", "b"):
        write_prediction(tmp_path / "out", case, LABELS)
    first, second = predictions_in(tmp_path / "out")
    opened = Planes(most_bytes=LABELS.size * 4)  # int16 and uint8 of one of them
    opened.read(first, 0, [0], Opener())
    opened.read(second, 0, [0], Opener())
    assert opened.is_open(second)
    assert not opened.is_open(first)


def test_a_large_packed_scan_is_converted_where_somebody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "napari_kdseg.volumes.opening.LARGEST_DECODED_BYTES", IMAGE.nbytes - 1
    )
    found, cache = prediction(tmp_path), Cache(tmp_path / "cache")
    with pytest.raises(VolumeError, match="wait for it"):
        Planes().read(found, 0, [0], Opener(cache))
    told: list[float] = []
    opener = Opener(cache, lambda _, share: told.append(share))
    (plane,) = Planes().read(found, 0, [2], opener)
    np.testing.assert_array_equal(plane.image, IMAGE[2])
    assert told[-1] == 1.0


def test_a_conversion_is_given_up_where_nobody_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "napari_kdseg.volumes.opening.LARGEST_DECODED_BYTES", IMAGE.nbytes - 1
    )
    cache = Cache(tmp_path / "cache")
    opener = Opener(cache, lambda *_: None, go_on=lambda: False)
    with pytest.raises(StopRequested):
        Planes().read(prediction(tmp_path), 0, [0], opener)


# ---- Damage ----


def test_a_scan_that_is_gone_is_told(tmp_path: Path) -> None:
    prediction(tmp_path)
    (tmp_path / "scans" / "fish.nii.gz").unlink()
    (found,) = predictions_in(tmp_path / "out")
    with pytest.raises(VolumeError, match=r"fish\.nii\.gz is missing"):
        one(found, 0, 0)


def test_a_scan_of_another_shape_is_refused(tmp_path: Path) -> None:
    found = prediction(tmp_path)
    write_volume(found.images[0], IMAGE[:5], grid_of((5, 8, 10)))
    with pytest.raises(VolumeError, match="when 'fish' was predicted"):
        one(found, 0, 0)


def test_voxels_that_are_no_numbers_are_shown_as_zero(tmp_path: Path) -> None:
    image = IMAGE.astype(np.float32)
    image[2, 3, 4] = np.nan
    write_prediction(tmp_path / "out", "fish", LABELS, image=image)
    (found,) = predictions_in(tmp_path / "out")
    assert one(found, 0, 2).image[3, 4] == 0
