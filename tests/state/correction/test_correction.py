"""Correcting predictions without a viewer: painting, keeping, sending, going on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_predictions import CLASSES, write_prediction

from napari_kdseg.project import Project
from napari_kdseg.review import correction_files
from napari_kdseg.review.corrections import labelled
from napari_kdseg.review.predictions import Prediction, predictions_in
from napari_kdseg.state.correction.correction import KEEP_AFTER_S, Correction
from napari_kdseg.state.correction.view import Shown, listed
from napari_kdseg.volumes.formats import read_labels, write_labels, write_volume
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.volumes.volume import Grid

SHAPE = (16, 40, 30)


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def predicted() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:13, 5:15, 5:15] = 1
    return labels


@pytest.fixture(params=[".nii.gz", ".ome.zarr"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the predictions of two scans, 3 x 1 x 1 mm."""
    out = tmp_path / "predictions"
    for case in ("fish", "frog"):
        changes = {"ending": request.param, "spacing_mm": (3, 1, 1)}
        write_prediction(out, case, predicted(), **changes)
    return tmp_path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Iterator[Callable[[], Correction]]:
    made: list[Correction] = []

    def one() -> Correction:
        made.append(Correction(clock=clock))
        return made[-1]

    yield one
    for state in made:
        state.close()


@pytest.fixture
def correction(
    make: Callable[[], Correction], project: Path
) -> tuple[Correction, list[str]]:
    """Ann corrects the fish; and what she was told."""
    state, told = make(), []
    state.status_changed.connect(told.append)
    assert state.begin(project, prediction(project), "Ann")
    state.look(0, 3)
    return state, told


def prediction(project: Path, case: str = "fish") -> Prediction:
    found = predictions_in(project / "predictions")
    return next(one for one in found if one.case == case)


def painting(state: Correction) -> Any:
    return state.layers()[-1][0]


def settle(state: Correction) -> None:
    for _ in range(1000):
        if not state.busy:
            return
        state.poll()
    raise AssertionError("it does not come to an end")


Begun = tuple[Correction, list[str]]


def test_layers_lie_on_the_scans_grid_in_the_classes_colours(correction: Begun) -> None:
    image, labels = correction[0].layers()
    assert (image[2], labels[2]) == ("image", "labels")
    assert image[1]["scale"] == labels[1]["scale"] == (3, 1, 1)
    assert labels[0].shape == SHAPE
    assert labels[1]["features"]["class"] == ["background", *CLASSES.names]
    assert labels[1]["colormap"][2] == CLASSES.classes[1].color
    assert labels[1]["metadata"]["napari-kdseg"]["case"] == "fish"


def test_painted_slices_are_shown_and_undone_ones_are_not(correction: Begun) -> None:
    state, _ = correction
    changed: list[Shown] = []
    state.changed.connect(lambda: changed.append(state.shown))
    painting(state)[3:4, 20:22, 20:22] = 2
    state.poll()
    assert state.shown.slices == ((0, 3),)
    assert not state.shown.kept
    assert changed[-1] == state.shown
    painting(state)[3:4, 20:22, 20:22] = 0
    state.poll()
    assert state.shown.slices == ()


def test_what_was_painted_is_on_disk_within_seconds(
    correction: Begun, clock: Clock, project: Path
) -> None:
    state, _ = correction
    painting(state)[3:4, 20:22, 20:22] = 2
    state.poll()
    assert not (project / "corrections").exists()
    clock.now += KEEP_AFTER_S
    state.poll()
    assert state.shown.kept
    # The viewer is killed here; its lock is that of a dead process.
    (project / "review" / "correcting" / "fish" / "student.lock").unlink()
    again = Correction(clock=clock)
    assert again.begin(project, prediction(project))
    assert (painting(again)[3, 20:22, 20:22] == 2).all()
    assert again.shown.slices == ((0, 3),)
    again.close()


def test_two_painted_slices_have_others_interpolated(correction: Begun) -> None:
    state, _ = correction
    labels = painting(state)
    for index, value in ((6, 2), (10, 2)):
        labels[index : index + 1, 20:30, 10:20] = value
    state.look(0, 8)
    assert state.shown.pair == (6, 10)
    edit = state.interpolation()
    assert edit is not None
    assert set(edit.indices[0].tolist()) == {7, 8, 9}
    assert "3 slices between z 6 and 10" in edit.text
    assert not labels[8, 20:30, 10:20].any()  # nothing is done yet
    with state.interpolating():
        labels[edit.indices] = edit.values
    state.poll()
    assert (labels[8, 20:30, 10:20] == 2).all()
    assert state.shown.interpolated == ((0, 7), (0, 8), (0, 9))
    assert state.shown.text == "painted z 6, 10 · interpolated z 7-9"


def test_interpolating_needs_two_slices_of_one_axis(correction: Begun) -> None:
    state, told = correction
    painting(state)[6:7, 20:30, 10:20] = 2
    state.look(1, 22)
    painting(state)[8:9, 22:23, 10:20] = 2
    assert state.interpolation() is None
    assert "no two corrected slices across y" in told[-1]
    state.look(0, 6)
    assert state.shown.pair is None


def test_a_sent_slice_is_in_the_labelled_set(correction: Begun, project: Path) -> None:
    state, told = correction
    painting(state)[3:4, 20:22, 20:22] = 2
    state.send_slice()
    settle(state)
    assert told[-1] == "Slice z 3 of 'fish' is in the labelled set."
    (found,) = labelled(project)
    assert (found.case, found.slices) == ("fish", {0: (3,)})
    assert (read_labels(found.labels)[0][3, 20:22, 20:22] == 2).all()
    assert state.shown.place_is_sent
    assert state.shown.text == "painted z 3 · in the labelled set: z 3"
    state.send_slice()
    assert labelled(project) == ()
    assert not state.shown.place_is_sent


def test_of_a_scan_that_came_with_labels_it_is_said_that_these_are_used(
    make: Callable[[], Correction], project: Path, tmp_path: Path
) -> None:
    grid = Grid.from_affine(np.diag([1.0, 1, 3, 1]), SHAPE)
    write_volume(tmp_path / "fish.nii.gz", predicted().astype(np.int16), grid)
    write_labels(tmp_path / "drawn.nii.gz", predicted(), grid, CLASSES)
    new = NewScan(
        (VolumeFile(tmp_path / "fish.nii.gz"),), VolumeFile(tmp_path / "drawn.nii.gz")
    )
    with Project.create(tmp_path / "lab") as lab:
        assert lab.add_scan(new).case == "fish"
    (project / "predictions").rename(tmp_path / "lab" / "predictions")
    state, told = make(), []
    state.status_changed.connect(told.append)
    assert state.begin(tmp_path / "lab", prediction(tmp_path / "lab"), "Ann")
    state.send_volume()
    settle(state)
    assert "the scan came with labels, and training and Measure keep to" in told[-1]


def test_a_volume_is_sent_as_a_whole(correction: Begun, project: Path) -> None:
    state, told = correction
    state.send_volume()
    settle(state)
    assert told[-1] == "All of 'fish' is in the labelled set."
    assert labelled(project)[0].whole
    assert state.shown.whole
    state.send_volume()
    assert labelled(project) == ()


def test_a_value_that_is_no_class_is_not_sent(correction: Begun, project: Path) -> None:
    state, told = correction
    painting(state)[3:4, 20:22, 20:22] = 7
    state.send_slice()
    settle(state)
    assert "has the value 7 at z 3, y 20, x 20" in told[-1]
    assert labelled(project) == ()
    painting(state)[3:4, 20:22, 20:22] = 2
    state.send_slice()
    settle(state)
    assert len(labelled(project)) == 1


def test_without_a_slice_in_view_there_is_none_to_send(correction: Begun) -> None:
    state, told = correction
    state.look(0, None)
    state.send_slice()
    assert "No slice is in view" in told[-1]


def test_done_writes_the_labels_and_lets_others_correct(
    correction: Begun, project: Path, make: Callable[[], Correction]
) -> None:
    state, _ = correction
    painting(state)[3:4, 20:22, 20:22] = 2
    assert state.end()
    settle(state)
    assert state.prediction is None
    assert state.shown == Shown()
    (labels,) = (project / "corrections" / "fish" / "student").glob("labels.*")
    assert (read_labels(labels)[0][3, 20:22, 20:22] == 2).all()
    other = make()
    assert other.begin(project, prediction(project), "Bob")
    assert other.shown.slices == ((0, 3),)


def test_done_without_a_change_leaves_nothing_behind(
    correction: Begun, clock: Clock, project: Path
) -> None:
    state, _ = correction
    painting(state)[3:4, 20:22, 20:22] = 2
    clock.now += KEEP_AFTER_S
    state.poll()
    clock.now += KEEP_AFTER_S
    state.poll()
    assert (project / "corrections" / "fish" / "student" / "changed").exists()
    painting(state)[3:4, 20:22, 20:22] = 0
    assert state.end()
    assert not (project / "corrections" / "fish").exists()


def test_going_on_while_labels_are_written_keeps_both(
    correction: Begun, project: Path
) -> None:
    state, _ = correction
    painting(state)[3:4, 20:22, 20:22] = 2
    assert state.end()
    assert state.begin(project, prediction(project), "Ann")
    painting(state)[5:6, 20:22, 20:22] = 2
    assert state.end()
    settle(state)
    assert state.begin(project, prediction(project))
    assert [(painting(state)[z, 20, 20]) for z in (3, 4, 5)] == [2, 0, 2]
    assert state.shown.slices == ((0, 3), (0, 5))


def test_another_scan_is_corrected_without_a_done_between(
    correction: Begun, project: Path
) -> None:
    state, _ = correction
    painting(state)[3:4, 20:22, 20:22] = 2
    assert state.begin(project, prediction(project, "frog"), "Ann")
    painting(state)[4:5, 20:22, 20:22] = 2
    state.close()
    assert state.corrected(project, "fish", "student") == {(0, 3)}
    assert state.corrected(project, "frog", "student") == {(0, 4)}


def test_slices_painted_a_moment_ago_count_as_corrected(
    correction: Begun, project: Path
) -> None:
    state, _ = correction
    painting(state)[3:4, 20:22, 20:22] = 2
    state.poll()
    assert state.corrected(project, "fish", "student") == {(0, 3)}
    assert state.corrected(project, "fish", "teacher") == set()


def test_one_viewer_at_a_time_corrects_a_scan(
    correction: Begun, project: Path, make: Callable[[], Correction]
) -> None:
    other, told = make(), []
    other.status_changed.connect(told.append)
    assert not other.begin(project, prediction(project), "Bob")
    assert "is being corrected in process" in told[-1]
    assert other.begin(project, prediction(project, "frog"), "Bob")
    correction[0].close()
    assert other.begin(project, prediction(project), "Bob")


def test_a_full_disk_ends_nothing_and_loses_nothing(
    correction: Begun, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, told = correction
    painting(state)[3:4, 20:22, 20:22] = 2

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(correction_files, "write_bytes_atomic", full)
        assert not state.end()
        assert "No space left" in told[-1]
        assert "still in memory" in told[-1]
        assert state.prediction is not None
    assert state.end()
    settle(state)
    assert state.corrected(project, "fish", "student") == {(0, 3)}


def test_a_scan_that_is_gone_cannot_be_corrected(
    project: Path, make: Callable[[], Correction]
) -> None:
    for file in (project / "scans").iterdir():
        file.rename(project / file.name)
    state, told = make(), []
    state.status_changed.connect(told.append)
    assert not state.begin(project, prediction(project))
    assert "is missing" in told[-1]
    assert state.prediction is None


@pytest.mark.parametrize(
    ("places", "text"),
    [
        ((), ""),
        (((0, 3),), "z 3"),
        (((0, 7), (0, 5), (0, 6), (0, 2)), "z 2, 5-7"),
        (((2, 1), (0, 9)), "z 9 and x 1"),
    ],
)
def test_slices_are_listed_briefly(places: Any, text: str) -> None:
    assert listed(places) == text
