"""The numbers of each slice, against NumPy on the whole arrays."""

from pathlib import Path

import numpy as np
import pytest
from made_predictions import grid_of, write_prediction, write_regions

from napari_kdseg.errors import StopRequested, VolumeError
from napari_kdseg.review import profiles
from napari_kdseg.review.arrays import Opener
from napari_kdseg.review.predictions import Prediction, predictions_in
from napari_kdseg.review.profiles import (
    Profile,
    Profiler,
    claimed_bits,
    profile_path,
    read_profile,
    write_profile,
)
from napari_kdseg.volumes.formats import write_labels

SHAPE = (7, 5, 6)
RNG = np.random.default_rng(1)
LABELS = RNG.integers(0, 3, SHAPE).astype(np.uint8)
LABELS[2:4] = 0
UNSURE = RNG.integers(0, 256, SHAPE) / np.float32(255)
BITS = RNG.integers(0, 4, SHAPE).astype(np.uint8)
OTHERS = ((1, 2), (0, 2), (0, 1))


def prediction(tmp_path: Path, ending: str = ".nii.gz") -> Prediction:
    out = tmp_path / "out"
    write_prediction(out, "fish", LABELS, uncertainty=UNSURE, ending=ending)
    write_regions(out / "fish", BITS, ending)
    (found,) = predictions_in(out)
    return found


def profile_of(found: Prediction) -> Profile:
    profiler = Profiler(found, Opener())
    while profiler.step():
        pass
    assert profiler.fraction == 1.0
    return profiler.result()


@pytest.mark.parametrize("ending", [".nii.gz", ".ome.zarr"])
def test_the_numbers_are_those_of_the_whole_arrays(tmp_path: Path, ending: str) -> None:
    found = profile_of(prediction(tmp_path, ending))
    assert found.uncertainty is not None
    assert found.conflict is not None
    for axis, others in enumerate(OTHERS):
        np.testing.assert_array_equal(found.area[axis], (LABELS != 0).sum(others))
        np.testing.assert_allclose(
            found.uncertainty[axis], UNSURE.mean(others), rtol=1e-5
        )
        np.testing.assert_allclose(found.conflict[axis], (BITS == 3).mean(others))


def test_going_over_it_in_small_boxes_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = prediction(tmp_path)
    at_once = profile_of(found)
    whole = profiles.boxes_of
    monkeypatch.setattr(profiles, "boxes_of", lambda array: whole(array, 12))
    piecemeal = profile_of(found)
    for axis in range(3):
        np.testing.assert_array_equal(piecemeal.area[axis], at_once.area[axis])


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    found = prediction(tmp_path)
    made = profile_of(found)
    assert read_profile(tmp_path, found) is None
    write_profile(tmp_path, found, made)
    kept = read_profile(tmp_path, found)
    assert kept is not None
    assert kept.conflict is not None
    assert made.conflict is not None
    for axis in range(3):
        np.testing.assert_array_equal(kept.area[axis], made.area[axis])
        np.testing.assert_array_equal(kept.conflict[axis], made.conflict[axis])


def test_without_uncertainty_and_regions_there_are_areas(tmp_path: Path) -> None:
    write_prediction(tmp_path / "out", "fish", LABELS)
    (found,) = predictions_in(tmp_path / "out")
    write_profile(tmp_path, found, profile_of(found))
    kept = read_profile(tmp_path, found)
    assert kept is not None
    assert kept.uncertainty is None
    assert kept.conflict is None


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    found = prediction(tmp_path)
    write_profile(tmp_path, found, profile_of(found))
    path = profile_path(tmp_path, found)
    path.write_bytes(path.read_bytes()[:100])
    assert read_profile(tmp_path, found) is None


def test_two_scans_without_an_organ_have_profiles_of_their_own(tmp_path: Path) -> None:
    for case in ("a", "b"):
        write_prediction(tmp_path / "out", case, np.zeros(SHAPE, np.uint8))
    one, other = predictions_in(tmp_path / "out")
    assert one.labels_hash == other.labels_hash
    assert profile_path(tmp_path, one) != profile_path(tmp_path, other)


def test_teachers_of_one_class_do_not_conflict(tmp_path: Path) -> None:
    found = prediction(tmp_path)
    path = found.folder.parent / "regions.json"
    path.write_text(path.read_text().replace('"value": 2', '"value": 1'))
    assert claimed_bits(found) == (0b11,)
    conflict = profile_of(found).conflict
    assert conflict is not None
    assert not conflict[0].any()


def test_claims_of_more_teachers_than_fit_a_table_are_counted_too(
    tmp_path: Path,
) -> None:
    found = prediction(tmp_path)
    folder = found.folder.parent
    (folder / "regions.nii.gz").unlink()
    bits = np.zeros(SHAPE, np.uint32)
    bits[1, 2, 3] = 1 << 20 | 1
    write_labels(folder / "regions.nii.gz", bits, grid_of(SHAPE), None)
    path = folder / "regions.json"
    path.write_text(path.read_text().replace('"bit": 1', '"bit": 20'))
    conflict = profile_of(found).conflict
    assert conflict is not None
    assert np.flatnonzero(conflict[0]).tolist() == [1]


def test_claims_that_nobody_made_are_damage(tmp_path: Path) -> None:
    found = prediction(tmp_path)
    folder = found.folder.parent
    (folder / "regions.nii.gz").unlink()
    bits = np.full(SHAPE, 5, np.uint8)
    write_labels(folder / "regions.nii.gz", bits, grid_of(SHAPE), None)
    with pytest.raises(VolumeError, match="knows claims below 4"):
        profile_of(found)


def test_regions_without_a_legend_say_nothing_of_conflict(tmp_path: Path) -> None:
    found = prediction(tmp_path)
    (found.folder.parent / "regions.json").unlink()
    assert profile_of(found).conflict is None


def test_a_conversion_that_nobody_waits_for_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_kdseg.volumes.opening.LARGEST_DECODED_BYTES", 10)
    opener = Opener(progress=lambda *_: None, go_on=lambda: False)
    with pytest.raises(StopRequested):
        Profiler(prediction(tmp_path), opener).step()
