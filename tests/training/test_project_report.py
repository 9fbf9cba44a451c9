"""The methods section of a project, from the stamps that its parts bear."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_predictions import CLASSES, change_record, grid_of, write_prediction

from kdseg_train.project_report import write_project_report
from napari_kdseg.errors import ProjectError
from napari_kdseg.project import Project
from napari_kdseg.review.store import Store
from napari_kdseg.review.verdicts import About
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import write_labels
from napari_kdseg.volumes.scan import NewScan, VolumeFile

SHAPE = (4, 5, 6)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two scans, one prediction, three verdicts of Ada, a run."""
    folder = tmp_path / "fish"
    labels = np.zeros(SHAPE, np.uint8)
    made = write_prediction(folder / "predictions", "one", labels)
    change_record(
        made,
        created_utc="2026-03-04T05:06:07+00:00",
        settings={"uncertainty": "entropy", "precision": "float32"},
        versions={"napari-kdseg": "0.1.0", "torch": "2.13.0"},
    )
    scan = folder / "scans" / "one.nii.gz"
    truth = tmp_path / "truth.nii.gz"
    write_labels(truth, labels, grid_of(SHAPE), CLASSES)
    with Project.create(folder, "Medaka") as opened:
        opened.add_scan(NewScan((VolumeFile(scan),), VolumeFile(truth)))
        opened.set_use("one", "test")
    (folder / "review").mkdir()
    store = Store.open(folder / "review" / "verdicts.sqlite")
    sitting = store.sit("Ada")
    for index, word in enumerate(("good", "bad", "good")):
        sitting.judge(About("one", 0, index, "hash", "f" * 64), word)
    sitting.end()
    store.close()
    run = Run.create(
        folder / "runs" / "student", {"version": 1, "command": "fit", "seed": 7}
    )
    with run.executing():
        pass
    return folder


def test_the_text_tells_scans_models_reviewers_and_days(project: Path) -> None:
    text = write_project_report(project).read_text()
    assert "# Methods: Medaka" in text
    assert "1 scan (1 held out for testing), 1 with labels of their own" in text
    assert "**student** (`" in text
    assert (
        "segmented 1 scan, 2026-03-04; uncertainty entropy, precision float32" in text
    )
    assert "**Ada** (human): 3 verdicts (2 good, 1 bad, 0 unsure)" in text
    assert "Run **student**: fit, seed 7, finished" in text
    assert "torch 2.13.0" in text
    assert "No prediction was corrected." in text


def test_the_table_has_a_row_for_each_thing(project: Path) -> None:
    write_project_report(project)
    with (project / "report" / "stamps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["run", "prediction", "verdicts"]
    assert (rows[2]["by"], rows[2]["count"], rows[2]["case"]) == ("Ada", "3", "one")
    assert rows[1]["first_utc"] == "2026-03-04T05:06:07+00:00"


def test_damaged_stamps_are_named_and_left_out(project: Path) -> None:
    record = project / "predictions" / "one" / "student" / "prediction.json"
    record.write_text("{")
    text = write_project_report(project).read_text()
    assert "Nothing was predicted in the project." in text
    assert f"## Left out\n\n- {record} cannot be read (JSONDecodeError" in text


def test_a_folder_that_is_no_project_is_refused(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    status, _, said = call("report", "--project", tmp_path)
    assert status == 1
    assert "is no project: it has no project.json" in said
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_kdseg.atomic.os.fsync", full)
    with pytest.raises(ProjectError, match=r"No space left on device\. The project is"):
        write_project_report(project)
    assert list((project / "report").iterdir()) == []


def test_the_command_writes_elsewhere_where_a_project_is_read_only(
    project: Path, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "elsewhere"
    status, _, said = call("report", "--project", project, "--out", out)
    assert status == 0, said
    assert {path.name for path in out.iterdir()} == {"methods.md", "stamps.csv"}
    assert not (project / "report").exists()
