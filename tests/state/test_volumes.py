"""What the Volumes dock knows and does, without Qt and without a process."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import image, save
from made_predictions import write_prediction
from napari.layers import Layer
from psygnal import Signal
from pydicom.uid import generate_uid

from kdseg_train.layouts import read_data_set
from napari_kdseg.errors import LabelError, VolumeError
from napari_kdseg.inference.settings import Settings
from napari_kdseg.project import Project
from napari_kdseg.review.predictions import predictions_in
from napari_kdseg.review.store import Store
from napari_kdseg.runs.run import Run
from napari_kdseg.state import intake, scan_layers, volumes
from napari_kdseg.state.classes import classes_from, next_class
from napari_kdseg.state.intake import Found, look_at, scans_of
from napari_kdseg.state.jobs import Job
from napari_kdseg.state.layers import NAMESPACE, source_of_layer
from napari_kdseg.state.prediction import Wish, prepared
from napari_kdseg.state.volumes import NO_PROJECT, Volumes
from napari_kdseg.volumes import opening
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.volumes.volume import Grid

SHAPE = (4, 6, 8)


class WorkerAtHand:
    """Stands in for the process: the test says what it does."""

    changed = Signal(Job)

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.cancelled: list[Job] = []
        self.closed = False

    def poll(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def submit(self, run: Run) -> Job:
        self.jobs.append(Job(run))
        return self.jobs[-1]

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job)

    def tell(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.jobs[-1], name, value)
        self.changed.emit(self.jobs[-1])


@pytest.fixture
def worker() -> WorkerAtHand:
    return WorkerAtHand()


@pytest.fixture
def state(tmp_path: Path, worker: WorkerAtHand) -> Iterator[Volumes]:
    made = Volumes(worker, Cache(tmp_path / "cache"), tmp_path / "jobs")  # type: ignore[arg-type]
    yield made
    made.close()


def write(path: Path, shift: float = 0.0, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 3] = shift
    voxels = np.full(SHAPE, value, np.int16)
    write_volume(path, voxels, Grid.from_affine(affine, SHAPE))
    return path


def write_mask(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = Grid.from_affine(np.diag([1.0, 1.0, 2.0, 1.0]), SHAPE)
    write_labels(path, np.ones(SHAPE, np.uint8), grid, LabelSet.from_names(["spleen"]))
    return path


def settle(state: Volumes) -> None:
    for _ in range(1000):
        if not state.status.busy:
            return
        state.poll()
    raise AssertionError(state.status)


def bring(state: Volumes, *paths: Path, **options: Any) -> None:
    state.add(scans_of(state.look_at(paths).found), **options)
    settle(state)


def states(state: Volumes) -> dict[str, str]:
    return {row.case: row.state.words for row in state.rows}


# ---- Sorting what is brought ----


def test_a_folder_of_scans_is_sorted_into_cases(tmp_path: Path) -> None:
    for name in ("a_t1.nii.gz", "a_t2.nii.gz", "deep/er/fish.nii.gz"):
        write(tmp_path / "in" / name)
    write_mask(tmp_path / "in" / "a-labels.nii.gz")
    (tmp_path / "in" / "read me.txt").write_text("nothing")
    intake = look_at([tmp_path / "in"])
    assert [(one.case, one.channel, one.is_labels) for one in intake.found] == [
        ("a", "t1", False),
        ("a", "t2", False),
        ("a", "", True),
        ("fish", "", False),
    ]
    assert intake.needs_a_look
    anna, fish = scans_of(intake.found)
    assert anna.labels == VolumeFile(tmp_path / "in" / "a-labels.nii.gz")
    assert fish.images == (VolumeFile(tmp_path / "in" / "deep" / "er" / "fish.nii.gz"),)


def test_labels_in_a_folder_of_their_own_find_their_scan(tmp_path: Path) -> None:
    for case in "ab":
        write(tmp_path / "imagesTr" / f"{case}.nii.gz")
    write_mask(tmp_path / "labelsTr" / "b.nii.gz")
    anna, bert = scans_of(look_at([tmp_path]).found)
    assert anna.labels is None
    assert bert.labels == VolumeFile(tmp_path / "labelsTr" / "b.nii.gz")


def write_floats(path: Path, value: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = Grid.from_affine(np.diag([1.0, 1.0, 2.0, 1.0]), SHAPE)
    write_volume(path, np.full(SHAPE, value, np.float32), grid)
    return path


@pytest.mark.parametrize(
    "name", ["labelsTr/a.nii.gz", "a-seg.nii.gz", "drawn/a.nii.gz"]
)
def test_whole_numbers_that_are_stored_as_floats_are_labels(
    state: Volumes, tmp_path: Path, name: str
) -> None:
    write(tmp_path / "imagesTr" / "a.nii.gz")
    pair = {"image": "./imagesTr/a.nii.gz", "label": "./drawn/a.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [pair]}))
    labels = write_floats(tmp_path / name, 2.0)
    [scan] = scans_of(state.look_at([tmp_path]).found)
    assert scan.labels == VolumeFile(labels)
    state.create_project(tmp_path / "project")
    state.add([scan])
    settle(state)
    assert states(state) == {"a": "labelled"}
    assert state.project is not None
    assert state.project.classes is not None
    assert state.project.classes.values == (2,)


def test_a_scan_that_is_called_a_mask_and_has_fractions_is_an_image(
    tmp_path: Path,
) -> None:
    write_floats(tmp_path / "a-mask.nii.gz", 0.5)
    [found] = look_at([tmp_path]).found
    assert not found.is_labels


@pytest.mark.parametrize("kept", [True, False])
def test_fractions_among_labels_are_refused_when_they_are_added(
    state: Volumes, tmp_path: Path, kept: bool
) -> None:
    write(tmp_path / "imagesTr" / "a.nii.gz")
    write_floats(tmp_path / "labelsTr" / "a.nii.gz", 0.5)
    if kept:
        state.create_project(tmp_path / "project")
    bring(state, tmp_path / "imagesTr", tmp_path / "labelsTr")
    assert state.rows == ()
    assert "labels are whole numbers" in state.status.text


def test_what_is_called_labels_is_no_channel(tmp_path: Path) -> None:
    files = [VolumeFile(tmp_path / name) for name in ("x.nii", "y.nii")]
    [scan] = scans_of(
        [Found(files[0], "anna", "t1"), Found(files[1], "anna", "Labels")]
    )
    assert [image.channel for image in scan.images] == ["t1"]
    assert scan.labels == files[1]


def test_a_scan_has_an_image_and_labels_at_most_once(
    state: Volumes, tmp_path: Path
) -> None:
    files = [VolumeFile(write(tmp_path / name)) for name in ("x.nii", "y.nii")]
    labels = [Found(file, "anna", is_labels=True) for file in files]
    state.take(labels)
    assert "anna was given several files of labels, x.nii and y.nii" in (
        state.status.text
    )
    state.take(labels[:1])
    assert "anna was given labels, x.nii, and no image" in state.status.text
    assert not state.rows
    state.take([Found(files[0], "anna")])
    settle(state)
    assert [row.case for row in state.rows] == ["anna"]


def test_labels_go_to_the_scan_whose_grid_they_have(tmp_path: Path) -> None:
    # A file that is called ct is the case of its folder, and so are labels that name
    # no case: the name would give the chest's labels to the abdomen.
    folder = tmp_path / "mix"
    write(folder / "chest.nii.gz", shift=50.0)
    write(folder / "ct.nii.gz")
    write_mask(folder / "seg.nii.gz")
    grid = Grid.from_affine(np.diag([1.0, 1.0, 2.0, 1.0]), SHAPE)
    affine = grid.affine.copy()
    affine[0, 3] = 50.0
    known = LabelSet.from_names(["lung"])
    chest = Grid.from_affine(affine, SHAPE)
    write_labels(
        folder / "Segmentation.seg.nrrd", np.ones(SHAPE, np.uint8), chest, known
    )
    intake = look_at([folder])
    assert not intake.notes
    labels = {one.case: one.labels for one in scans_of(intake.found)}
    assert labels == {
        "chest": VolumeFile(folder / "Segmentation.seg.nrrd"),
        "mix": VolumeFile(folder / "seg.nii.gz"),
    }


def test_a_name_decides_among_scans_of_one_grid(tmp_path: Path) -> None:
    for case in "ab":
        write(tmp_path / f"{case}.nii.gz")
    write_mask(tmp_path / "b-labels.nii.gz")
    anna, bert = scans_of(look_at([tmp_path]).found)
    assert anna.labels is None
    assert bert.labels == VolumeFile(tmp_path / "b-labels.nii.gz")


def test_labels_off_the_grid_of_their_own_scan_are_not_given_to_another(
    tmp_path: Path,
) -> None:
    write(tmp_path / "imagesTr" / "a.nii.gz", shift=0.5)
    write(tmp_path / "imagesTr" / "b.nii.gz")
    write_mask(tmp_path / "labelsTr" / "a.nii.gz")
    anna, bert = scans_of(look_at([tmp_path]).found)
    assert anna.labels == VolumeFile(tmp_path / "labelsTr" / "a.nii.gz")
    assert bert.labels is None


@pytest.mark.parametrize("taken", [(), ("b",)])
def test_labels_that_bear_a_scans_name_come_before_those_that_only_share_its_grid(
    tmp_path: Path, taken: tuple[str, ...]
) -> None:
    write(tmp_path / "imagesTr" / "b.nii.gz")
    for name in "ab":
        write_mask(tmp_path / "labelsTr" / f"{name}.nii.gz")
    intake = look_at([tmp_path], taken=taken)
    [scan] = scans_of(intake.found)
    assert scan.labels == VolumeFile(tmp_path / "labelsTr" / "b.nii.gz")
    [note] = intake.notes
    assert "a.nii.gz holds labels and belongs to no scan here" in note


def test_labels_of_no_scan_are_left_out_with_a_word(tmp_path: Path) -> None:
    for case in "ab":
        write(tmp_path / f"{case}.nii.gz")
    write_mask(tmp_path / "c-labels.nii.gz")
    intake = look_at([tmp_path])
    assert len(intake.found) == 2
    assert "c-labels.nii.gz holds labels and belongs to no scan" in intake.notes[0]


def test_a_damaged_file_is_told_and_the_others_are_taken(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes(b"\x1f\x8b no gzip")
    intake = look_at([tmp_path])
    assert [one.case for one in intake.found] == ["a"]
    assert "b.nii.gz" in intake.notes[0]


def test_a_folder_with_nothing_says_so(tmp_path: Path) -> None:
    assert "holds no volume" in look_at([tmp_path]).notes[0]


def test_names_that_are_taken_get_a_number(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz")
    [found] = look_at([tmp_path / "a.nii.gz"], taken=["a"]).found
    assert found.case == "a-2"


def test_what_a_person_changed_is_what_is_added(tmp_path: Path) -> None:
    files = [VolumeFile(tmp_path / name) for name in ("x.nii", "y.nii")]
    rows = [Found(files[0], "anna ", " ct"), Found(files[1], "anna", "pet")]
    [scan] = scans_of(rows)
    assert scan.case == "anna"
    assert [image.channel for image in scan.images] == ["ct", "pet"]


def test_series_of_one_folder_are_offered_by_name(real_data: Path) -> None:
    intake = look_at([real_data / "dicom_ct_with_seg"])
    names = [one.what for one in intake.choices]
    assert "ct: series 2" in names
    assert any("Liver Segmentation" in name for name in names)
    chosen = intake.without(intake.choices[1:])
    assert [one.what for one in chosen.found] == ["ct: series 2"]
    liver = [one for one in intake.choices if "Liver" in one.what]
    [scan] = scans_of(intake.without(liver).found)
    assert scan.labels is not None
    assert "GREEN" in str(scan.labels.part)


def test_slices_of_a_series_stand_for_their_folder(real_data: Path) -> None:
    slices = sorted((real_data / "dicom_mr_oblique").glob("*.dcm"))
    [one] = look_at(slices).found
    assert one.file.path == real_data / "dicom_mr_oblique"
    assert one.case == "dicom_mr_oblique"


def test_sequences_of_one_patient_are_channels_of_one_scan(real_data: Path) -> None:
    folder = real_data / "mri_brain_tumour_tcga_du_7294"
    [scan] = scans_of(look_at([folder]).found)
    assert [image.channel for image in scan.images] == ["t1", "t1c", "t2", "flair"]
    assert scan.labels is not None


# ---- Without a project ----


def test_scans_are_listed_without_a_project(state: Volumes, tmp_path: Path) -> None:
    bring(state, write(tmp_path / "a.nii.gz"), write(tmp_path / "b.nii.gz"))
    assert states(state) == {"a": "new", "b": "new"}
    assert state.rows[0].badge == "RAS, 1.0 x 1.0 x 2.0 mm"
    assert state.project_text == NO_PROJECT
    state.remove("a")
    assert states(state) == {"b": "new"}
    state.set_use("b", "training")
    assert "no project" in state.status.text


def test_a_new_project_takes_the_listed_scans_along(
    state: Volumes, tmp_path: Path
) -> None:
    bring(state, write(tmp_path / "a.nii.gz"))
    state.create_project(tmp_path / "project", "Fish")
    settle(state)
    assert states(state) == {"a": "new"}
    assert state.project is not None
    assert [scan.case for scan in state.project.scans] == ["a"]


# ---- A project ----


def test_a_project_is_opened_again_by_dropping_it(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    bring(state, write(tmp_path / "a.nii.gz"))
    state.set_use("a", "training")
    state.create_project(tmp_path / "other")
    assert state.rows == ()
    assert not state.look_at([tmp_path / "project"]).found
    assert states(state) == {"a": "training"}
    assert state.writable


def test_several_scans_are_chosen_and_changed_together(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    bring(state, *(write(tmp_path / f"{name}.nii.gz") for name in "abc"))
    assert [scan.case for scan in state.chosen] == ["c"]  # the newest
    state.select("a", ["a", "b"])
    assert state.details.startswith("2 scans. a:\nRAS")
    state.set_use_of_chosen("left-out")
    assert states(state) == {"a": "left out", "b": "left out", "c": "new"}
    assert [scan.case for scan in state.chosen] == ["a", "b"]
    state.remove("a", "b")
    assert states(state) == {"c": "new"}
    assert state.chosen == ()


def test_what_goes_to_the_trash_with_scans_is_said(
    state: Volumes, tmp_path: Path
) -> None:
    bring(state, write(tmp_path / "a.nii.gz"))
    assert state.trashed_with(["a"]) == ""
    state.create_project(tmp_path / "project")
    settle(state)
    assert state.trashed_with(["a"]) == ""
    bring(state, write(tmp_path / "b.nii.gz"), copy=True)
    for case in "ab":
        write(tmp_path / "project" / "predictions" / case / "ct" / "labels.nii.gz")
    told = state.trashed_with(["a", "b"])
    assert told.startswith(
        "Of 2 scans, the project has copies of files of 1, predictions of 2. They go "
    )
    assert state.trashed_with(["a"]).startswith(
        "Of 1 scan, the project has predictions"
    )


def test_opening_the_open_project_keeps_it_writable(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    state.open_project(tmp_path / "project")
    assert state.writable


def test_a_project_open_elsewhere_can_be_looked_at(
    state: Volumes, tmp_path: Path
) -> None:
    with Project.create(tmp_path / "project") as other:
        other.add_scan(NewScan((VolumeFile(write(tmp_path / "a.nii.gz")),)))
        state.open_project(other.folder)
        assert states(state) == {"a": "new"}
        assert not state.writable
        assert "is open in process" in state.project_text
        state.remove("a")
        assert "can only be looked at" in state.status.text


def test_what_is_no_project_leaves_the_open_one(state: Volumes, tmp_path: Path) -> None:
    state.create_project(tmp_path / "project")
    state.open_project(tmp_path / "nothing")
    assert "is no project" in state.status.text
    assert state.project is not None
    assert state.writable


def test_one_bad_scan_does_not_hold_up_the_others(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    good = NewScan((VolumeFile(write(tmp_path / "a.nii.gz")),))
    gone = NewScan((VolumeFile(tmp_path / "gone.nii.gz"),))
    state.add([gone, good, gone])
    settle(state)
    assert states(state) == {"a": "new"}
    assert "gone.nii.gz" in state.status.text
    assert "(1 more could not be added.)" in state.status.text


def test_cancel_keeps_what_was_added(state: Volumes, tmp_path: Path) -> None:
    state.create_project(tmp_path / "project")
    files = [write(tmp_path / f"{name}.nii.gz") for name in "ab"]
    state.add([NewScan((VolumeFile(file),)) for file in files], copy=True)
    state.cancel()
    settle(state)
    assert state.status.text == "Cancelled; what was added stays."
    assert not list((tmp_path / "project" / "scans").glob("*.partial-*"))


def test_channels_on_two_grids_are_offered_to_be_resampled(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    write(tmp_path / "in" / "a_t1.nii.gz")
    write(tmp_path / "in" / "a_t2.nii.gz", shift=2.0)
    bring(state, tmp_path / "in")
    assert states(state) == {}
    assert "is not on the grid" in state.status.text
    assert state.can_resample
    state.add_resampled()
    settle(state)
    assert states(state) == {"a": "new"}
    assert not state.can_resample
    state.select("a")
    assert "a_t2.nii.gz was resampled onto the grid of a_t1.nii.gz." in state.details


def test_missing_scans_are_found_by_one_answer(state: Volumes, tmp_path: Path) -> None:
    state.create_project(tmp_path / "project")
    bring(state, *(write(tmp_path / "disk" / f"{name}.nii.gz") for name in "ab"))
    shutil.move(tmp_path / "disk", tmp_path / "new")
    state.refresh()
    assert states(state) == {"a": "missing", "b": "missing"}
    state.select("b")
    assert "b.nii.gz is missing: press Locate" in state.details
    state.open("b")
    assert "is missing" in state.status.text
    state.locate("b", tmp_path / "new")
    assert states(state) == {"a": "new", "b": "new"}


def test_a_changed_file_is_told_and_accepted(state: Volumes, tmp_path: Path) -> None:
    state.create_project(tmp_path / "project")
    bring(state, write(tmp_path / "a.nii"))
    write(tmp_path / "a.nii.gz").rename(tmp_path / "other.nii.gz")
    write(tmp_path / "a.nii", shift=3.0)
    state.refresh()
    assert states(state) == {"a": "changed since it was added"}
    state.accept("a")
    assert states(state) == {"a": "new"}


def test_classes_of_labels_become_those_of_the_project(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    write(tmp_path / "a.nii.gz")
    mask = write_mask(tmp_path / "a-labels.ome.zarr")
    state.add([NewScan((VolumeFile(tmp_path / "a.nii.gz"),), VolumeFile(mask))])
    settle(state)
    assert state.project is not None
    assert state.project.classes == LabelSet.from_names(["spleen"])
    assert states(state) == {"a": "labelled"}


def write_values(path: Path, *values: int) -> Path:
    """Labels as most programs write them: values, and no names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[0, 0, : len(values)] = values
    write_volume(path, voxels, Grid.from_affine(np.diag([1, 1, 2, 1.0]), SHAPE))
    return path


def classes_of(state: Volumes) -> dict[int, str]:
    assert state.project is not None
    known = state.project.classes
    return {} if known is None else dict(zip(known.values, known.names, strict=True))


def test_values_without_names_are_classes_that_can_be_learnt(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    write(tmp_path / "in" / "a.nii.gz")
    write_values(tmp_path / "in" / "a-labels.nii.gz", 1, 3)
    bring(state, tmp_path / "in")
    assert classes_of(state) == {1: "class 1", 3: "class 3"}
    [case] = read_data_set(tmp_path / "project").cases
    assert case.annotated == ("class 1", "class 3")
    # What another scan shows besides is a class as well.
    write(tmp_path / "more" / "b.nii.gz", value=1)
    write_values(tmp_path / "more" / "b-labels.nii.gz", 2)
    bring(state, tmp_path / "more")
    assert list(classes_of(state)) == [1, 2, 3]


def test_names_that_a_person_gave_stay(state: Volumes, tmp_path: Path) -> None:
    state.create_project(tmp_path / "project")
    state.set_classes(LabelSet.from_names(["liver"]))
    write(tmp_path / "in" / "a.nii.gz")
    write_values(tmp_path / "in" / "a-labels.nii.gz", 1, 2)
    bring(state, tmp_path / "in")
    assert classes_of(state) == {1: "liver", 2: "class 2"}
    opened: list[Any] = []
    state.layers_opened.connect(opened.extend)
    state.open("a")
    assert opened[1][1]["metadata"][NAMESPACE]["classes"].names == ("liver", "class 2")


def test_names_that_come_later_replace_mere_values(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    write(tmp_path / "in" / "a.nii.gz")
    write_values(tmp_path / "in" / "a-labels.nii.gz", 1, 2)
    write(tmp_path / "in" / "b.nii.gz", value=1)
    write_mask(tmp_path / "in" / "b-labels.nii.gz")
    bring(state, tmp_path / "in")
    assert classes_of(state) == {1: "spleen", 2: "class 2"}


def bring_organ(
    state: Volumes, folder: Path, case: str, organ: str, value: int
) -> None:
    """A scan in which one organ was drawn, and named."""
    write(folder / f"{case}.nii.gz", value=value)
    labels = np.zeros(SHAPE, np.uint8)
    labels[0, 0, 0] = value
    [one] = LabelSet.from_names([organ]).classes
    known = LabelSet(classes=(one.model_copy(update={"value": value}),))
    grid = Grid.from_affine(np.diag([1.0, 1.0, 2.0, 1.0]), SHAPE)
    write_labels(folder / f"{case}-labels.nii.gz", labels, grid, known)
    bring(state, folder)


def annotated(state: Volumes) -> dict[str, tuple[str, ...]]:
    assert state.project is not None
    cases = read_data_set(state.project.folder).cases
    return {case.id: case.annotated for case in cases}


def test_scans_with_one_named_organ_each_say_nothing_of_the_other(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    bring_organ(state, tmp_path / "one", "a", "liver", 1)
    assert annotated(state) == {"a": ("liver",)}
    bring_organ(state, tmp_path / "two", "b", "spleen", 2)
    assert classes_of(state) == {1: "liver", 2: "spleen"}
    assert annotated(state) == {"a": ("liver",), "b": ("spleen",)}
    state.select("a")
    assert "Drawn: liver. Other organs are unknown here" in state.details
    # What was drawn keeps its name when that is changed.
    state.set_classes(LabelSet.from_names(["Leber", "spleen"]))
    assert annotated(state) == {"a": ("Leber",), "b": ("spleen",)}
    # And the person has the last word.
    state.select("b", ["a"])
    state.set_drawn_in_chosen({"Leber": True, "spleen": True})
    both = ("Leber", "spleen")
    assert annotated(state) == {"a": both, "b": both}


def test_a_class_that_was_renamed_is_known_by_the_name_in_files_too(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    bring_organ(state, tmp_path / "one", "a", "liver", 1)
    state.set_classes(LabelSet.from_names(["Leber"]))
    state.set_classes(LabelSet.from_names(["foie"]))
    bring_organ(state, tmp_path / "two", "b", "liver", 1)
    bring_organ(state, tmp_path / "three", "c", "Foie", 1)
    assert classes_of(state) == {1: "foie"}
    assert annotated(state) == {"a": ("foie",), "b": ("foie",), "c": ("foie",)}


def test_a_value_without_a_name_changes_nothing_for_scans_that_were_there(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    bring_organ(state, tmp_path / "one", "a", "liver", 1)
    write(tmp_path / "two" / "b.nii.gz", value=1)
    write_values(tmp_path / "two" / "b-labels.nii.gz", 1, 7)
    bring(state, tmp_path / "two")
    both = ("liver", "class 7")
    assert annotated(state) == {"a": both, "b": both}


@pytest.mark.parametrize(
    ("organ", "value", "said"),
    [("spleen", 1, "and this project calls it 'liver'"), ("liver", 2, "as 1")],
)
def test_labels_that_mean_something_else_by_a_value_are_refused(
    state: Volumes, tmp_path: Path, organ: str, value: int, said: str
) -> None:
    state.create_project(tmp_path / "project")
    bring_organ(state, tmp_path / "one", "a", "liver", 1)
    bring_organ(state, tmp_path / "two", "b", organ, value)
    assert said in state.status.text
    assert [scan.case for scan in state.scans] == ["a"]
    assert classes_of(state) == {1: "liver"}


def test_a_class_that_alone_was_drawn_in_a_scan_is_not_dropped(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    bring_organ(state, tmp_path / "one", "a", "liver", 1)
    bring_organ(state, tmp_path / "two", "b", "spleen", 2)
    state.set_classes(LabelSet.from_names(["liver"]))
    assert "In the scan 'b' only spleen was drawn" in state.status.text
    assert classes_of(state) == {1: "liver", 2: "spleen"}


@pytest.mark.parametrize("copy", [False, True])
def test_a_data_set_keeps_its_names_also_when_it_is_copied(
    state: Volumes, tmp_path: Path, *, copy: bool
) -> None:
    state.create_project(tmp_path / "project")
    write(tmp_path / "set" / "imagesTr" / "a_0000.nii.gz")
    write_values(tmp_path / "set" / "labelsTr" / "a.nii.gz", 1)
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "gut": 1}}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(about))
    bring(state, tmp_path / "set", copy=copy)
    assert classes_of(state) == {1: "gut"}


@pytest.mark.parametrize("kind", ["too many", "no labels", "empty"])
def test_what_names_no_organs_teaches_no_classes(
    state: Volumes, tmp_path: Path, kind: str
) -> None:
    state.create_project(tmp_path / "project")
    grid = Grid.from_affine(np.diag([1, 1, 2, 1.0]), SHAPE)
    voxels = np.zeros(SHAPE, np.int16)
    if kind == "no labels":
        voxels[0] = -1
    if kind == "too many":
        grid = Grid.from_affine(np.eye(4), (8, 8, 8))
        voxels = np.arange(512, dtype=np.uint16).reshape(8, 8, 8)
    for name in ("a", "a-labels"):
        write_volume(tmp_path / f"{name}.nii.gz", voxels, grid)
    files = [VolumeFile(tmp_path / f"{name}.nii.gz") for name in ("a", "a-labels")]
    state.add([NewScan((files[0],), files[1])])
    settle(state)
    assert states(state) == {"a": "labelled"}
    assert classes_of(state) == {}


def test_classes_are_read_from_what_a_person_wrote() -> None:
    rows = [("1", " liver ", "#FF0000"), ("2", "", "#00ff00"), ("7", "gut", "#0000ff")]
    found = classes_from(rows)
    assert found is not None
    assert [(one.value, one.name, one.color) for one in found.classes] == [
        (1, "liver", "#ff0000"),
        (7, "gut", "#0000ff"),
    ]
    assert classes_from([("1", " ", "#ff0000")]) is None
    assert (next_class([1, 7]).value, next_class([]).name) == (8, "class 1")
    with pytest.raises(LabelError, match="whole number from 1"):
        classes_from([("0", "air", "#ff0000")])
    with pytest.raises(LabelError, match="The name liver is given to more than one"):
        classes_from([rows[0], ("3", "liver", "#ff0000")])


# ---- Opening ----


def test_a_scan_opens_as_its_channels_and_labels(
    state: Volumes, tmp_path: Path
) -> None:
    for number, name in enumerate(("t1", "t2")):
        write(tmp_path / "in" / f"a_{name}.nii.gz", value=number)
    write_mask(tmp_path / "in" / "a-labels.nii.gz")
    bring(state, tmp_path / "in")
    opened: list[Any] = []
    state.layers_opened.connect(opened.extend)
    state.open("a")
    names = [arguments["name"] for _, arguments, _ in opened]
    assert names == ["a t1", "a t2", "a labels"]
    assert [kind for _, _, kind in opened] == ["image", "image", "labels"]
    assert [arguments.get("visible", True) for _, arguments, _ in opened] == [
        True,
        False,
        True,
    ]
    record = opened[1][1]["metadata"][NAMESPACE]
    assert record["path"] == str(tmp_path / "in" / "a_t2.nii.gz")
    assert np.asarray(opened[1][0]).max() == 1
    # Opened again it is the same layers.
    keys = {arguments["metadata"][NAMESPACE]["key"] for _, arguments, _ in opened}
    state.open("a")
    assert len(opened) == 6
    assert keys == {layer[1]["metadata"][NAMESPACE]["key"] for layer in opened}


@pytest.fixture
def _all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LARGEST_DECODED_BYTES", 0)


@pytest.mark.usefixtures("_all_is_large")
def test_a_large_packed_scan_is_converted_before_it_opens(
    state: Volumes, tmp_path: Path, worker: WorkerAtHand
) -> None:
    file = write(tmp_path / "a.nii.gz", value=7)
    bring(state, file)
    opened: list[Any] = []
    state.layers_opened.connect(opened.extend)
    state.open("a")
    assert state.status.busy
    assert "Converting a.nii.gz" in state.status.text
    [job] = worker.jobs
    assert job.run.config["command"] == "convert"
    assert job.run.config["source"] == str(file)
    worker.tell(state="running", fraction=0.5)
    assert state.status.fraction == 0.5
    assert not opened
    state.cache.convert(file)  # what the process does
    worker.tell(state="finished")
    assert not state.status.busy
    [(data, _, _)] = opened
    first = data[0] if isinstance(data, list) else data
    assert np.asarray(first).max() == 7
    assert not job.run.folder.exists()
    # The next time it opens at once.
    state.open("a")
    assert len(worker.jobs) == 1
    assert len(opened) == 2


def test_converted_scans_are_kept_while_a_job_of_any_dock_may_read_them(
    state: Volumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.nii.gz")
    state.cache.convert(file)
    monkeypatch.setattr(volumes, "something_runs", lambda: True)
    state.clear_cache()
    assert "A job is running" in state.status.text
    assert state.cache.find(file) is not None
    monkeypatch.setattr(volumes, "something_runs", lambda: False)
    state.clear_cache()
    assert state.status.text == ""
    assert state.cache.find(file) is None


@pytest.mark.usefixtures("_all_is_large")
def test_a_conversion_can_be_cancelled_and_may_fail(
    state: Volumes, tmp_path: Path, worker: WorkerAtHand
) -> None:
    bring(state, write(tmp_path / "a.nii.gz"))
    state.open("a")
    state.cancel()
    assert worker.cancelled == worker.jobs
    worker.tell(state="stopped")
    assert (state.status.busy, state.status.text) == (
        False,
        "Cancelled; nothing was kept.",
    )
    state.open("a")
    worker.tell(state="failed", message="a.nii.gz is cut short.")
    assert state.status.text == "a.nii.gz is cut short."


def test_the_cache_tells_its_place_and_can_be_cleared(
    state: Volumes, tmp_path: Path
) -> None:
    state.cache.convert(write(tmp_path / "a.nii.gz"))
    assert str(tmp_path / "cache") in state.cache_text
    state.clear_cache()
    assert state.cache_text.startswith("0 kB")


def test_a_shared_worker_outlives_the_dock(
    tmp_path: Path, worker: WorkerAtHand
) -> None:
    state = Volumes(worker, Cache(tmp_path), tmp_path)  # type: ignore[arg-type]
    state.create_project(tmp_path / "project")
    state.close()
    assert not worker.closed
    assert not (tmp_path / "project" / "lock").exists()


def test_labels_too_large_for_memory_stay_on_disk(
    state: Volumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_layers, "LARGEST_IN_MEMORY_BYTES", 0)
    write(tmp_path / "a.nii.gz")
    mask = write_mask(tmp_path / "a-labels.ome.zarr")
    state.add([NewScan((VolumeFile(tmp_path / "a.nii.gz"),), VolumeFile(mask))])
    settle(state)
    opened: list[Any] = []
    state.layers_opened.connect(opened.extend)
    state.open("a")
    data, arguments, _ = opened[-1]
    assert not isinstance(data, np.ndarray)
    assert arguments["features"]["class"] == ["background", "spleen"]


def test_a_damaged_series_does_not_hide_those_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "scan.nii.gz")
    whole = intake.inspect_volume

    def inspect(path: Path, part: str | None = None) -> Any:
        if part == "first":
            raise VolumeError("first lacks a slice.")
        return whole(path)

    monkeypatch.setattr(intake, "parts_of", lambda path: ("first", "second"))
    monkeypatch.setattr(intake, "inspect_volume", inspect)
    found = look_at([path])
    assert [one.file.part for one in found.found] == ["second"]
    assert found.notes == ("first lacks a slice.",)


def test_a_folder_that_may_not_be_read_is_left_out_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "open" / "scan.nii.gz")
    (tmp_path / "closed").mkdir()
    whole = intake.is_volume

    def refused(path: Path) -> bool:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(intake, "is_volume", refused)
    found = look_at([tmp_path])
    assert [one.case for one in found.found] == ["scan"]
    assert "closed cannot be looked into (Permission denied)" in found.notes[0]


def test_a_scan_with_one_channel_is_shown_with_the_name_that_the_project_gives_it(
    state: Volumes, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.nii.gz")
    state.add([NewScan((VolumeFile(file, channel="T1"),))])
    settle(state)
    opened: list[Any] = []
    state.layers_opened.connect(opened.extend)
    state.open("a")
    assert opened[0][1]["metadata"][NAMESPACE]["channels"] == ("T1",)


def test_a_scan_that_has_other_channels_now_says_so(
    state: Volumes, tmp_path: Path
) -> None:
    path = write(tmp_path / "scan.nii.gz")
    bring(state, path)
    grid = Grid.from_affine(np.eye(4), (4, 5, 6))
    write_volume(path, np.zeros((2, 4, 5, 6), np.int16), grid)
    state.open("scan")
    assert "has 2 channels and had 1 when it was added" in state.status.text
    assert not state.status.busy


def test_channels_from_two_series_of_a_folder_keep_their_parts(
    state: Volumes, tmp_path: Path
) -> None:
    for name, number in (("first", 1), ("second", 2)):
        tags = {"SeriesDescription": name, "SeriesNumber": number}
        uid, plane = generate_uid(), np.full((4, 5), number, np.int16)
        for at in range(3):
            made = image(plane, (0, 0, 2.0 * at), **tags, SeriesInstanceUID=uid)
            save(made, plane, tmp_path / f"{name}-{at}.dcm")
    names = ("first (series 1)", "second (series 2)")
    images = tuple(VolumeFile(tmp_path, name, name[:5]) for name in names)
    opened: list[Any] = []
    state.layers_opened.connect(opened.extend)
    state.add([NewScan(images, None, "anna")])
    settle(state)
    state.open("anna")
    source = source_of_layer(Layer.create(*opened[1]))
    assert source.parts == names
    wish = Wish(tmp_path, (), Settings(), files=source.files, parts=source.parts)
    config = prepared(replace(wish, case="anna"), tmp_path / "cache").config
    assert config["inputs"] == [str(tmp_path)] * 2
    assert config["part"] == [*names]


# ---- How far the review is ----


def test_the_list_says_how_many_slices_were_judged(
    state: Volumes, tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    state.create_project(folder)
    for value, case in enumerate("ab"):
        bring(state, write(tmp_path / f"{case}.nii.gz", value=value))
        write_prediction(
            folder / "predictions",
            case,
            np.ones(SHAPE, np.uint8),
            scan=tmp_path / f"{case}.nii.gz",
        )
    one = next(p for p in predictions_in(folder / "predictions") if p.case == "a")
    (folder / "review").mkdir(exist_ok=True)
    store = Store.open(folder / "review" / "verdicts.sqlite")
    with closing(store):
        sitting = store.sit("Ada")
        for index in (0, 2, 3):
            sitting.judge(one.about(0, index), "good", seconds=1.0)
        sitting.judge(one.about(1, 5), "bad", seconds=1.0)  # along another axis
        sitting.judge(replace(one.about(0, 1), labels_hash="0" * 64), "bad")  # stale
    state.refresh()
    assert states(state) == {"a": "predicted, reviewed 3/4", "b": "predicted"}
    # Where the lab's database has them, what the file still holds is of before.
    note = {"version": 1, "url": "postgresql://host/database"}
    (folder / "review" / "database.json").write_text(json.dumps(note))
    state.refresh()
    assert states(state) == {"a": "predicted", "b": "predicted"}


def test_a_damaged_store_of_verdicts_does_not_keep_a_project_closed(
    state: Volumes, tmp_path: Path
) -> None:
    state.create_project(tmp_path / "project")
    bring(state, write(tmp_path / "a.nii.gz"))
    place = tmp_path / "project" / "review"
    place.mkdir(exist_ok=True)
    (place / "verdicts.sqlite").write_bytes(b"SQLite format 3\0 and then noise")
    state.refresh()
    assert states(state) == {"a": "new"}
