"""Which predictions are found, and what is said of those that cannot be used."""

import json
import shutil
from pathlib import Path

import numpy as np
from made_predictions import CLASSES, change_record, grid_of, hash_of, write_prediction

from napari_kdseg.project import Project
from napari_kdseg.review.predictions import finder, predictions_in
from napari_kdseg.volumes.scan import NewScan, VolumeFile

LABELS = np.zeros((3, 4, 5), np.uint8)
LABELS[1, 2, 3] = 2


def test_a_prediction_says_what_was_predicted_by_whom_and_from_what(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    folder = write_prediction(out, "fish", LABELS, spacing_mm=(2, 1, 0.5))
    (found,) = predictions_in(out)
    assert (found.case, found.model, found.folder) == ("fish", "student", folder)
    assert found.labels == folder / "labels.nii.gz"
    assert found.labels_hash == hash_of(LABELS.tobytes())
    assert found.images == (tmp_path / "scans" / "fish.nii.gz",)
    assert found.grid.matches(grid_of((3, 4, 5), (2, 1, 0.5)))
    assert found.classes == CLASSES
    assert found.uncertainty is None
    assert found.missing == ""


def test_a_slice_is_named_so_that_a_verdict_knows_the_exact_prediction(
    tmp_path: Path,
) -> None:
    write_prediction(tmp_path / "out", "fish", LABELS)
    (found,) = predictions_in(tmp_path / "out")
    about = found.about(1, 3)
    assert about.place == ("fish", 1, 3)
    assert about.labels_hash == found.labels_hash
    assert about.model == hash_of(b"student")
    assert about.prediction == found.uuid
    assert about.scan_hash == hash_of(b"fish")


def test_predictions_come_by_case_and_model(tmp_path: Path) -> None:
    for case, model in (("b", "one"), ("a", "two"), ("a", "one")):
        write_prediction(tmp_path / "out", case, LABELS, model=model)
    found = [(one.case, one.model) for one in predictions_in(tmp_path / "out")]
    assert found == [("a", "one"), ("a", "two"), ("b", "one")]


def test_the_uncertainty_of_the_model_goes_before_that_of_all_teachers(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    unsure = np.zeros(LABELS.shape, np.float32)
    own = write_prediction(out, "a", LABELS, model="one", uncertainty=unsure)
    write_prediction(out, "a", LABELS, model="two")
    shutil.copy(own / "uncertainty.nii.gz", out / "a")
    one, two = predictions_in(out)
    assert one.uncertainty == own / "uncertainty.nii.gz"
    assert two.uncertainty == out / "a" / "uncertainty.nii.gz"


def test_damaged_records_are_left_out_with_a_sentence_each(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (write_prediction(out, "torn", LABELS) / "prediction.json").write_text('{"case": ')
    change_record(write_prediction(out, "newer", LABELS), version=2)
    change_record(write_prediction(out, "bare", LABELS), labels={"sha256": "00"})
    gone = write_prediction(out, "gone", LABELS)
    (gone / "labels.nii.gz").unlink()
    climbs = write_prediction(out, "climbs", LABELS)
    labels = json.loads((climbs / "prediction.json").read_text())["labels"]
    change_record(climbs, labels={**labels, "file": "../../../labels.nii.gz"})
    write_prediction(out, "good", LABELS)
    told: list[str] = []
    assert [one.case for one in predictions_in(out, note=told.append)] == ["good"]
    assert len(told) == 5
    assert all("left out" in sentence for sentence in told)
    assert any("version 2" in sentence for sentence in told)
    assert any("lie outside" in sentence for sentence in told)


def test_a_prediction_that_is_being_published_is_not_one_yet(tmp_path: Path) -> None:
    folder = write_prediction(tmp_path / "out", "fish", LABELS)
    folder.parent.rename(tmp_path / "out" / "fish.partial-0f")
    assert predictions_in(tmp_path / "out") == ()


def test_a_scan_that_is_gone_is_told_and_its_prediction_stays(tmp_path: Path) -> None:
    write_prediction(tmp_path / "out", "fish", LABELS)
    (tmp_path / "scans" / "fish.nii.gz").unlink()
    (found,) = predictions_in(tmp_path / "out")
    assert "fish.nii.gz is missing" in found.missing


def test_scans_are_found_in_a_project_that_moved_with_them(tmp_path: Path) -> None:
    old = tmp_path / "old"
    with Project.create(old / "project") as project:
        out = old / "project" / "predictions"
        write_prediction(out, "fish", LABELS, scan=None)
        scan = old / "project" / "scans" / "fish.nii.gz"
        project.add_scan(NewScan((VolumeFile(scan),), case="fish"))
    new = tmp_path / "new"
    old.rename(new)
    with Project.open(new / "project") as project:
        find = finder(project.scans, project.folder)
        (found,) = predictions_in(new / "project" / "predictions", find)
    assert found.images == (new / "project" / "scans" / "fish.nii.gz",)
    assert found.missing == ""


def test_the_hash_of_a_scan_in_several_files_is_that_of_their_hashes(
    tmp_path: Path,
) -> None:
    folder = write_prediction(tmp_path / "out", "fish", LABELS)
    scan = str(tmp_path / "scans" / "fish.nii.gz")
    change_record(
        folder,
        source=[{"path": scan, "sha256": "aa"}, {"path": scan, "sha256": "bb"}],
        settings={"part": ["first", None]},
    )
    (found,) = predictions_in(tmp_path / "out")
    assert found.scan_hash == hash_of(b"aabb")
    assert found.parts == ("first", None)
