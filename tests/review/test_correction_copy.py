"""Copies of predictions on disk: saved, kept, and mended after crashes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_corrections import (
    SHAPE,
    SPACING_MM,
    open_copy,
    predict,
    predicted,
    save,
    the_prediction,
)
from made_predictions import CLASSES, grid_of

from napari_kdseg.errors import ReviewError
from napari_kdseg.project_folder import results_of
from napari_kdseg.review import correction_files
from napari_kdseg.review.arrays import Opener
from napari_kdseg.review.correction_copy import Copy
from napari_kdseg.review.corrections import corrected, labelled, read_record
from napari_kdseg.volumes.formats import read_label_set, read_labels, read_volume


@pytest.fixture(params=[".nii.gz", ".ome.zarr"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project with a prediction in one file, and one in OME-Zarr."""
    predict(tmp_path, request.param)
    return tmp_path


class Chunked:
    """An array that counts how often it is read, and says it has chunks."""

    def __init__(self, data: np.ndarray, chunks: tuple[int, ...]) -> None:
        self.data, self.chunks, self.reads = data, chunks, 0
        self.shape, self.dtype = data.shape, data.dtype

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        return self.data[index]


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- the copy ----


def test_looking_alone_leaves_nothing_behind(project: Path) -> None:
    copy = open_copy(project)
    assert np.array_equal(np.asarray(copy.painting), predicted())
    copy.keep()
    assert copy.is_kept
    assert not (project / "corrections").exists()


def test_the_prediction_never_changes(project: Path) -> None:
    before = content(project / "predictions")
    copy = open_copy(project)
    copy.painting[7, 5:9, 5:9] = 2
    copy.keep()
    save(copy)
    copy.painting[8] = 0
    save(copy)
    assert content(project / "predictions") == before


def test_saved_labels_are_a_copy_with_what_was_painted(project: Path) -> None:
    copy = open_copy(project)
    expected = predicted()
    expected[7, 5:9, 5:9] = 2
    copy.painting[7, 5:9, 5:9] = 2
    assert save(copy)[-1] == 1.0
    assert copy.is_saved
    labels, place = read_labels(copy.labels)
    assert np.array_equal(labels, expected)
    assert place.matches(grid_of(SHAPE, SPACING_MM))
    assert copy.labels.name == the_prediction(project).labels.name
    assert [path.name for path in results_of(project, "corrections", "fish")] == [
        "fish"
    ]


def test_painting_goes_on_after_saving(project: Path) -> None:
    copy = open_copy(project)
    expected = predicted()
    for index in (3, 9, 3):
        copy.painting[index, 60:68, 60:66] = expected[index, 60:68, 60:66] = index % 3
        save(copy)
        assert np.array_equal(np.asarray(copy.painting), expected)
        assert np.array_equal(read_labels(copy.labels)[0], expected)
    assert not list((copy.home / "changed").glob("*"))


def test_classes_are_kept_where_the_format_can(tmp_path: Path) -> None:
    predict(tmp_path, ".ome.zarr")
    copy = open_copy(tmp_path)
    save(copy)
    assert read_label_set(copy.labels) == CLASSES


def test_large_copies_are_zarr_whatever_the_prediction_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(tmp_path, ".nii.gz")
    monkeypatch.setattr(correction_files, "LARGEST_IN_MEMORY_BYTES", 1000)
    copy = open_copy(tmp_path)
    copy.painting[7] = 1
    shares = save(copy)
    assert copy.labels.name == "labels.ome.zarr"
    assert shares == sorted(shares)
    assert len(shares) > 1
    assert read_volume(copy.labels, lazy=True).data.chunks == (1, 20, 70, 66)
    assert np.array_equal(read_labels(copy.labels)[0][7], np.ones(SHAPE[1:]))


def test_labels_of_our_own_predictions_are_kept_beside_what_is_painted(
    tmp_path: Path,
) -> None:
    predict(tmp_path, ".ome.zarr")
    copy = open_copy(tmp_path)
    copy.painting[7, :5, :5] = 2
    save(copy)
    expected = read_labels(the_prediction(tmp_path).labels)[0].copy()
    expected[7, :5, :5] = 2
    assert np.array_equal(read_labels(copy.labels)[0], expected)


def test_a_prediction_made_anew_has_a_correction_of_its_own(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7] = 1
    save(copy)
    copy.send(0, 7)
    shutil.rmtree(project / "predictions")
    predict(project, ".nii.gz", 2 * (predicted() > 0).astype(np.uint8))
    other = open_copy(project)
    assert other.home.name == "student-2"
    assert not (other.painting[7] == 1).any()
    other.painting[8] = 1
    other.keep()
    assert open_copy(project).home == other.home
    assert corrected(project, "fish", "student") == {(0, 7), (0, 8)}
    assert corrected(project, "fish", "student", other.record.labels_hash) == {(0, 8)}
    assert [one.labels for one in labelled(project)] == [copy.labels]


def test_a_saved_correction_outlives_the_prediction(project: Path) -> None:
    copy = open_copy(project)
    prediction = the_prediction(project)
    copy.painting[7] = 1
    save(copy)
    shutil.rmtree(project / "predictions")
    again = Copy.open(project, prediction, Opener())
    assert (again.painting[7] == 1).all()


@pytest.mark.parametrize("held", [1, 1 << 27])
def test_planes_on_disk_are_read_as_from_an_array(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correction_files, "_HELD_BYTES", held)
    voxels = predicted()
    planes = correction_files.NearPlanes(Chunked(voxels[None], (1, 8, 32, 32)))
    whole = (slice(0, 20), slice(0, 70), slice(0, 66))
    for axis, index in ((0, 7), (0, 8), (0, 6), (1, 69), (1, 3), (2, 40), (0, 19)):
        box = [*whole]
        box[axis] = slice(index, index + 1)
        assert np.array_equal(planes[tuple(box)], voxels[tuple(box)])
    few = (slice(3, 4), slice(60, 68), slice(5, 9))
    assert np.array_equal(planes[few], voxels[few])


def test_planes_near_the_last_one_are_not_read_again() -> None:
    stored = Chunked(predicted()[None], (1, 8, 32, 32))
    planes = correction_files.NearPlanes(stored)
    for index in (9, 10, 15, 8, 9):
        assert planes[slice(index, index + 1), slice(0, 70), slice(0, 66)].any()
    assert stored.reads == 1


# ---- crashes ----


def test_what_was_kept_is_there_after_a_crash(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7, 5:9, 5:9] = 2
    copy.painting[:, 65:69, 65:66] = 1
    copy.keep()
    assert copy.is_kept
    expected = np.asarray(copy.painting)
    del copy  # nothing is saved nor closed
    again = open_copy(project)
    assert np.array_equal(np.asarray(again.painting), expected)
    assert {one.place for one in again.slices} >= {(0, 7)}
    assert not again.is_saved
    save(again)
    assert np.array_equal(read_labels(again.labels)[0], expected)


def test_keeping_stops_where_time_is_up_and_goes_on_later(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7] = 1  # four blocks
    copy.keep(lambda: False)
    assert not copy.is_kept
    assert len(list((copy.home / "changed").iterdir())) == 1
    copy.keep()
    assert copy.is_kept
    assert len(list((copy.home / "changed").iterdir())) == 4


def test_a_crash_while_blocks_are_merged_is_mended(tmp_path: Path) -> None:
    predict(tmp_path, ".ome.zarr")
    copy = open_copy(tmp_path)
    save(copy)
    copy.painting[7] = 1
    steps = copy.saving()
    next(steps)
    chunk = copy.labels / "0" / "c" / "0" / "1" / "1"
    chunk.write_bytes(b"torn")
    del steps, copy.painting.on_write
    record = json.loads((copy.home / "correction.json").read_text())
    record["merging"] = True
    (copy.home / "correction.json").write_text(json.dumps(record))
    again = open_copy(tmp_path)
    expected = predicted()
    expected[7] = 1
    assert np.array_equal(np.asarray(again.painting), expected)
    assert not read_record(again.home / "correction.json").merging
    save(again)
    assert np.array_equal(read_labels(again.labels)[0], expected)


def test_giving_up_saving_loses_nothing(project: Path) -> None:
    for _ in range(2):  # the first copy, and one over it
        copy = open_copy(project)
        copy.painting[7] = 1
        copy.painting[9] = 2
        steps = copy.saving()
        next(steps)
        steps.close()
        assert not list(copy.home.glob("*.partial-*"))
        again = open_copy(project)
        assert (again.painting[7] == 1).all()
        assert (again.painting[9] == 2).all()
        save(again)
        again.painting[7] = 0
        save(again)


def test_what_is_painted_while_it_is_saved_is_kept_too(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7] = 1
    for _ in copy.saving():
        copy.painting[9] = 2
    copy.keep()
    again = open_copy(project)
    assert (again.painting[7] == 1).all()
    assert (again.painting[9] == 2).all()


def test_a_damaged_block_is_put_aside_and_told_of(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7, :10, :10] = 1
    copy.painting[7, 66:, 65:] = 1
    copy.keep()
    file = copy.home / "changed" / "0-1-1.npz"
    file.write_bytes(file.read_bytes()[:-40])
    again = open_copy(project)
    (note,) = again.notes
    assert "y 64 to 69" in note
    assert (again.painting[7, :10, :10] == 1).all()
    assert not again.painting[7, 66:, 65:].any()
    assert open_copy(project).notes == ()


def test_a_damaged_record_is_refused_and_left_alone(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7] = 1
    copy.keep()
    record = copy.home / "correction.json"
    record.write_text("{")
    with pytest.raises(ReviewError, match="move its folder away"):
        open_copy(project)
    assert record.read_text() == "{"


def test_a_record_of_a_newer_version_is_refused(project: Path) -> None:
    copy = open_copy(project)
    copy.send(0, 3)
    record = copy.home / "correction.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "version": 2}))
    with pytest.raises(ReviewError, match="Update napari-kdseg"):
        labelled(project)


def test_a_full_disk_is_an_error_and_loses_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = open_copy(project)
    copy.painting[7] = 1

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(correction_files, "write_bytes_atomic", full)
        with pytest.raises(OSError, match="No space"):
            copy.keep()
    assert not copy.is_kept
    copy.keep()
    assert copy.is_kept
    assert (open_copy(project).painting[7] == 1).all()
