"""The command measure, on files, predictions and projects."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_predictions import CLASSES, grid_of, write_prediction

from kdseg_train import measure as command
from kdseg_train.execute import execute
from kdseg_train.measurable import MeasureConfig
from napari_kdseg.errors import (
    DataSetError,
    GridError,
    StopRequested,
    UsageError,
    VolumeError,
)
from napari_kdseg.measure.tables import write_table
from napari_kdseg.project import Project
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.volumes.volume import Grid

SHAPE = (6, 7, 8)
GRID = grid_of(SHAPE, (2, 0.5, 0.5))


def organs(length: int = 3) -> np.ndarray:
    """A gut of 2 x 2 x `length` voxels, and a heart of one."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 1:3, 1 : 1 + length] = 1
    labels[4, 4, 4] = 2
    return labels


def predicted(out: Path, case: str, labels: np.ndarray, image: Path) -> Path:
    """Publish labels as ``predict`` does."""
    return write_prediction(out, case, labels, scan=image, spacing_mm=(2, 0.5, 0.5))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Twice the label, so that the gut shines with 2 and the heart with 4."""
    file = tmp_path / "scans" / "one.nii.gz"
    file.parent.mkdir()
    write_volume(file, organs().astype(np.float32) * 2, GRID)
    return file


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., MeasureConfig]:
    def ask(labels: Path, **more: Any) -> MeasureConfig:
        values = {"out": tmp_path / "table.csv", "memory": tmp_path / "memory"}
        return MeasureConfig(labels=labels, **(values | more))

    return ask


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measured(settings: MeasureConfig) -> list[dict[str, str]]:
    command.measure(settings, lambda done, total: None)
    return rows_of(settings.out)


def test_a_label_file_and_its_scan_make_a_table(
    tmp_path: Path, scan: Path, asked: Callable[..., MeasureConfig]
) -> None:
    labels = tmp_path / "labels.seg.nrrd"
    write_labels(labels, organs(), GRID, CLASSES)
    gut, heart = measured(asked(labels, images=scan))
    assert (gut["case"], gut["class"], heart["class"]) == (
        "labels",
        "gut",
        "heart",
    )
    assert float(gut["volume_mm3"]) == 12 * 0.5
    assert (gut["intensity_mean"], heart["intensity_mean"]) == ("2", "4")
    assert gut["left_right_ratio"] == ""


def test_the_out_of_predict_tells_model_and_scan(
    tmp_path: Path, scan: Path, asked: Callable[..., MeasureConfig]
) -> None:
    predicted(tmp_path / "out", "one", organs(), scan)
    gut, _ = measured(asked(tmp_path / "out"))
    assert (gut["case"], gut["model"], gut["channel"]) == (
        "one",
        "student",
        "image",
    )
    assert gut["intensity_mean"] == "2"


def test_a_project_is_measured_by_predictions_or_own_labels(
    tmp_path: Path, scan: Path, asked: Callable[..., MeasureConfig]
) -> None:
    truth = tmp_path / "truth.nii.gz"
    write_labels(truth, organs(5), GRID, CLASSES)
    with Project.create(tmp_path / "project", "fish") as project:
        project.add_scan(NewScan((VolumeFile(scan),), VolumeFile(truth)))
        project.set_use("one", "test")
    predicted(tmp_path / "project" / "predictions", "one", organs(3), scan)
    by_model = measured(asked(tmp_path / "project"))
    own = measured(asked(tmp_path / "project", of="labels"))
    assert [row["voxels"] for row in by_model] == ["12", "1"]
    assert [row["voxels"] for row in own] == ["20", "1"]
    assert {row["group"] for row in (*by_model, *own)} == {"test"}


def test_a_folder_of_bare_files_takes_scans_of_the_same_names(
    tmp_path: Path, scan: Path, asked: Callable[..., MeasureConfig]
) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    write_labels(folder / "one.nii.gz", organs(), GRID, CLASSES)
    write_labels(folder / "two.nii.gz", organs(), GRID, CLASSES)
    rows = measured(asked(folder, images=scan.parent))
    assert [(row["case"], row["intensity_mean"]) for row in rows] == [
        ("one", "2"),
        ("one", "4"),
        ("two", ""),
        ("two", ""),
    ]


def test_labels_are_measured_once(
    tmp_path: Path,
    scan: Path,
    asked: Callable[..., MeasureConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = predicted(tmp_path / "out", "one", organs(), scan)
    first = measured(asked(tmp_path / "out"))

    def never(*_: Any, **__: Any) -> None:
        pytest.fail("it was measured again")

    monkeypatch.setattr(command, "organ_table", never)
    assert measured(asked(tmp_path / "out")) == first
    # Other labels are other measurements, whatever the record says they were.
    (folder / "prediction.json").unlink()
    write_labels(folder / "labels.nii.gz", organs(4), GRID, CLASSES)
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        measured(asked(folder / "labels.nii.gz"))


def test_volumes_far_from_their_kind_are_told(
    tmp_path: Path, asked: Callable[..., MeasureConfig]
) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    for case, length in enumerate((3, 3, 4, 4, 5, 1)):
        labels = organs(length)
        write_labels(folder / f"{case}.nii.gz", labels, GRID, CLASSES)
    guts = [row for row in measured(asked(folder)) if row["class"] == "gut"]
    # Volumes 6 6 8 8 10 2: median 7, distances 1 1 1 1 3 5, MAD 1.
    assert [float(row["volume_robust_z"]) for row in guts] == pytest.approx(
        [-0.6745, -0.6745, 0.6745, 0.6745, 3 * 0.6745, -5 * 0.6745], rel=1e-5
    )


def test_parquet_keeps_numbers_as_numbers(
    tmp_path: Path, scan: Path, asked: Callable[..., MeasureConfig]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    predicted(tmp_path / "out", "one", organs(), scan)
    out = tmp_path / "table.parquet"
    command.measure(asked(tmp_path / "out", out=out), lambda done, total: None)
    table = parquet.read_table(out).to_pydict()
    assert table["volume_mm3"] == [6.0, 0.5]
    assert table["left_right_ratio"] == [None, None]
    assert table["at_edge"] == [False, False]


def test_a_run_measures_and_can_be_stopped(tmp_path: Path, scan: Path) -> None:
    predicted(tmp_path / "out", "one", organs(), scan)
    config = {
        "version": 1,
        "command": "measure",
        "labels": tmp_path / "out",
        "out": tmp_path / "table.csv",
        "memory": tmp_path / "memory",
    }
    run = Run.create(tmp_path / "run", config)
    run.request_stop()
    with pytest.raises(StopRequested):
        execute(run)
    assert not (tmp_path / "table.csv").exists()
    execute(run)
    assert len(rows_of(tmp_path / "table.csv")) == 2
    assert run.state() == "finished"


def test_the_command_says_how_many_volumes_lie_far_off(
    tmp_path: Path, scan: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    predicted(tmp_path / "out", "one", organs(), scan)
    status, _, said = call("measure", tmp_path / "out", "--out", tmp_path / "t.csv")
    assert status == 0
    assert "2 rows; 0 volumes far from the others" in said
    assert len(rows_of(tmp_path / "t.csv")) == 2


def overlapping(folder: Path) -> Path:
    """A segmentation of 3D Slicer with two layers of 2 x 2 x 2 voxels."""
    header = (
        "NRRD0004\ntype: unsigned char\ndimension: 4\nsizes: 2 2 2 2\n"
        "space: left-posterior-superior\nspace origin: (0,0,0)\nencoding: raw\n"
        "space directions: none (1,0,0) (0,1,0) (0,0,1)\n"
        "kinds: list domain domain domain\n"
    )
    for layer, name in enumerate(("gut", "heart")):
        header += f"Segment{layer}_Name:={name}\nSegment{layer}_LabelValue:=1\n"
        header += f"Segment{layer}_Layer:={layer}\n"
    voxels = np.array([[1, 1]] * 3 + [[1, 0]] * 5, np.uint8)
    path = folder / "both.seg.nrrd"
    path.write_bytes(header.encode() + b"\n" + voxels.tobytes())
    return path


def test_one_of_several_layers_is_measured_where_it_is_named(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    labels, table = overlapping(tmp_path), tmp_path / "t.csv"
    status, _, said = call("measure", labels, "--out", table)
    assert status == 1
    assert "--part NAME" in said
    status, _, said = call("measure", labels, "--out", table, "--part", "layer 2")
    assert status == 0, said
    assert "has 1 row;" in said
    (row,) = rows_of(table)
    assert (row["class"], float(row["volume_mm3"])) == ("heart", 3.0)


# ---- Bad input ----


def test_a_part_of_a_folder_is_refused(
    tmp_path: Path, asked: Callable[..., MeasureConfig]
) -> None:
    with pytest.raises(UsageError, match="is no label file, and a part"):
        measured(asked(tmp_path, part="layer 2"))


def test_a_scan_on_another_grid_is_refused_and_nothing_written(
    tmp_path: Path, asked: Callable[..., MeasureConfig]
) -> None:
    labels, image = tmp_path / "labels.nii.gz", tmp_path / "image.nii.gz"
    write_labels(labels, organs(), GRID, CLASSES)
    moved = Grid.from_affine(np.diag([0.5, 0.5, 3.0, 1.0]), SHAPE)
    write_volume(image, np.zeros(SHAPE, np.float32), moved)
    with pytest.raises(GridError, match=r"spacing .* Give the scan"):
        measured(asked(labels, images=image))
    assert not (tmp_path / "table.csv").exists()


def test_other_endings_are_refused_before_the_work(
    tmp_path: Path, asked: Callable[..., MeasureConfig]
) -> None:
    with pytest.raises(UsageError, match=r"ends in \.xlsx; a table ends in \.csv"):
        measured(asked(tmp_path / "nothing", out=tmp_path / "table.xlsx"))


def test_a_folder_in_place_of_the_table_is_refused_before_the_work(
    tmp_path: Path, asked: Callable[..., MeasureConfig]
) -> None:
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(UsageError, match=r"table\.csv is a folder"):
        measured(asked(tmp_path / "nothing"))


def test_a_scan_that_is_not_there_is_said(
    tmp_path: Path, scan: Path, asked: Callable[..., MeasureConfig]
) -> None:
    predicted(tmp_path / "out", "one", organs(), scan)
    with pytest.raises(DataSetError, match=r"has no predictions of two to measure"):
        measured(asked(tmp_path / "out", case="two"))
    with pytest.raises(UsageError, match=r"no channel 'T2'; it has image"):
        measured(asked(tmp_path / "out", channel="T2"))


def test_a_full_disk_leaves_the_old_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_kdseg.atomic.os.fsync", full)
    with pytest.raises(VolumeError, match=r"No space left on device\. Nothing"):
        write_table(table, [{"a": 1.0}], ["a"])
    assert table.read_text() == "old"
    assert list(tmp_path.iterdir()) == [table]
