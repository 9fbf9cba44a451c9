"""Which slices were corrected, and which count as labelled."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_corrections import open_copy, predict, save, the_prediction
from made_predictions import CLASSES

from napari_kdseg.errors import ReviewError
from napari_kdseg.review.corrections import corrected, labelled, read_record


@pytest.fixture(params=[".nii.gz", ".ome.zarr"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project with a prediction in one file, and one in OME-Zarr."""
    predict(tmp_path, request.param)
    return tmp_path


# ---- which slices ----


def test_slices_are_noted_along_the_axis_that_is_looked_at(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7:8, 5:9, 5:9] = 2
    copy.look(1)
    copy.painting[2:5, 12:13, 5:9] = 2
    copy.painting[2:3, 13:14, 5:6] = 2
    assert [one.place for one in copy.slices] == [(0, 7), (1, 12), (1, 13)]
    assert {one.how for one in copy.slices} == {"painted"}
    assert {one.by for one in copy.slices} == {"Ann"}


def test_a_slice_painted_back_is_not_corrected(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7:8, 5:9, 5:9] = 2
    copy.keep()
    assert [one.index for one in copy.slices] == [7]
    copy.painting[7:8, 5:9, 5:9] = 0
    assert copy.slices == ()
    copy.keep()
    assert read_record(copy.home / "correction.json").slices == ()


def test_a_slice_of_another_sitting_stays_corrected(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7:8, 5:9, 5:9] = 2
    save(copy)
    copy.painting[7:8, 0:2, 0:2] = 2
    copy.painting[7:8, 0:2, 0:2] = 0
    assert [one.index for one in copy.slices] == [7]


def test_the_last_corrected_slice_stands_last(project: Path) -> None:
    copy = open_copy(project)
    for number, index in enumerate((7, 9, 12, 9)):
        copy.painting[index : index + 1, number : number + 1, :3] = 2
    assert [one.index for one in copy.slices] == [7, 12, 9]


def test_interpolated_slices_are_noted_as_such_until_painted(project: Path) -> None:
    copy = open_copy(project)
    voxels = (np.array([8, 9, 9]), np.array([1, 1, 2]), np.array([1, 1, 1]))
    with copy.interpolating():
        copy.painting[voxels] = 2
    copy.painting[voxels] = 0  # an undo
    assert copy.slices == ()
    copy.painting[voxels] = 2  # a redo
    copy.painting[9:10, 5:6, 5:6] = 1
    hows = {one.index: one.how for one in copy.slices}
    assert hows == {8: "interpolated", 9: "painted"}


def test_an_undo_counts_also_while_another_axis_is_looked_at(project: Path) -> None:
    copy = open_copy(project)
    voxels = (np.array([8, 9]), np.array([1, 5]), np.array([1, 1]))
    with copy.interpolating():
        copy.painting[voxels] = 2
    assert {one.place for one in copy.slices} == {(0, 8), (0, 9)}
    copy.look(1)
    copy.painting[voxels] = 0
    assert copy.slices == ()


# ---- the labelled set ----


def test_sent_slices_are_the_labelled_set(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7] = 1
    copy.painting[9] = 1
    save(copy)
    assert labelled(project) == ()
    for axis, index in ((0, 9), (0, 7), (2, 30), (0, 7)):
        copy.send(axis, index)
    (found,) = labelled(project)
    assert (found.case, found.model, found.whole) == ("fish", "student", False)
    assert found.slices == {0: (7, 9), 2: (30,)}
    assert found.labels == copy.labels
    assert found.classes == CLASSES
    assert found.images == the_prediction(project).images
    assert found.labels_hash == the_prediction(project).labels_hash
    copy.take_out(0, 9)
    assert labelled(project)[0].slices == {0: (7,), 2: (30,)}


def test_a_whole_volume_is_sent_and_taken_out(project: Path) -> None:
    copy = open_copy(project)
    save(copy)
    copy.send(0, 3)
    copy.send_whole()
    (found,) = labelled(project)
    assert found.whole
    assert found.slices == {}
    copy.take_out_whole()
    assert labelled(project)[0].slices == {0: (3,)}
    copy.take_out(0, 3)
    assert labelled(project) == ()


def test_a_value_that_is_no_class_is_refused_where_it_is(project: Path) -> None:
    copy = open_copy(project)
    copy.painting[7, 66:68, 65] = 9
    with pytest.raises(ReviewError, match=r"value 9 at z 7, y 66, x 65; .* 1 gut"):
        save(copy)
    assert not copy.labels.exists()
    copy.keep()
    assert open_copy(project).painting[7, 66, 65] == 9  # and is not lost
    copy.painting[7, 66:68, 65] = 0
    save(copy)
    assert copy.is_saved


def test_labels_that_are_gone_are_told_of(project: Path) -> None:
    copy = open_copy(project)
    save(copy)
    copy.send(0, 3)
    if copy.labels.is_dir():
        shutil.rmtree(copy.labels)
    else:
        copy.labels.unlink()
    with pytest.raises(ReviewError, match="is missing"):
        labelled(project)
    notes: list[str] = []
    assert labelled(project, notes.append) == ()
    assert "is missing" in notes[0]


def test_a_folder_without_corrections_has_none(tmp_path: Path) -> None:
    assert labelled(tmp_path) == ()
    assert corrected(tmp_path, "fish", "student") == set()
