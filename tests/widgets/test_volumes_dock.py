"""The Volumes dock in a real viewer: dropping, choosing, opening, coming back."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QColor, QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QDialogButtonBox, QMessageBox

from napari_kdseg.project import Project
from napari_kdseg.state.jobs import Worker
from napari_kdseg.state.volumes import Volumes
from napari_kdseg.volumes import opening
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid
from napari_kdseg.widgets._volumes_dialogs import (
    ClassesDialog,
    DrawnDialog,
    ScansDialog,
    SeriesDialog,
)
from napari_kdseg.widgets.volumes import VolumesDock

SHAPE = (6, 10, 12)
GRID = Grid.from_affine(np.diag([-0.8, -0.8, 2.0, 1.0]), SHAPE)
TWO_ORGANS = np.zeros(SHAPE, np.uint8)
TWO_ORGANS[0, 0, :2] = (1, 2)
PATIENCE_MS = 30_000

# Speaks as kdseg_train.work does, and converts into the cache the test names.
FAKE = """
import json, sys
from pathlib import Path
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.cache import Cache

def say(**answer):
    print(json.dumps(answer), flush=True)

say(ready=True)
for line in sys.stdin:
    run = Run.open(Path(line.strip()))
    with run.executing():
        Cache(Path(sys.argv[1])).convert(
            Path(run.config["source"]), run.config["part"], on_progress=run.progress
        )
    say(run=line.strip(), state=run.state(), error=None)
"""

MakeDock = Callable[[], VolumesDock]


@pytest.fixture
def make_dock(make_napari_viewer: Any, tmp_path: Path) -> Iterator[MakeDock]:
    """Open the dock in one viewer; a second call closes it and opens it anew."""
    viewer = make_napari_viewer()
    shells: list[Any] = []

    def close() -> None:
        if shells:
            viewer.window.remove_dock_widget(shells.pop())

    def make() -> VolumesDock:
        close()
        cache = tmp_path / "cache"
        worker = Worker([sys.executable, "-c", FAKE, str(cache)])
        state = Volumes(worker, Cache(cache), tmp_path / "jobs")
        state._owns_worker = True
        widget = VolumesDock(viewer, state)
        shells.append(viewer.window.add_dock_widget(widget, name="Volumes"))
        return widget

    yield make
    close()


@pytest.fixture
def dock(make_dock: MakeDock) -> VolumesDock:
    return make_dock()


def write(path: Path, shift: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-0.8, -0.8, 2.0, 1.0])
    affine[0, 3] = shift
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    write_volume(path, voxels, Grid.from_affine(affine, SHAPE))
    return path


def write_mask(path: Path) -> Path:
    grid = Grid.from_affine(np.diag([-0.8, -0.8, 2.0, 1.0]), SHAPE)
    write_labels(path, np.ones(SHAPE, np.uint8), grid, LabelSet.from_names(["spleen"]))
    return path


def drop(qtbot: QtBot, dock: VolumesDock, *paths: Path) -> None:
    """Drop files on the middle of the table, as a file manager does."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    copy, left = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
    none = Qt.KeyboardModifier.NoModifier
    target = dock.viewport()
    enter = QDragEnterEvent(QPoint(5, 5), copy, data, left, none)
    QApplication.sendEvent(target, enter)
    assert enter.isAccepted()
    event = QDropEvent(QPointF(5, 5), copy, data, left, none)
    QApplication.sendEvent(target, event)
    assert event.isAccepted()
    settle(qtbot, dock)


def settle(qtbot: QtBot, dock: VolumesDock) -> None:
    qtbot.waitUntil(lambda: not dock.state.status.busy, timeout=PATIENCE_MS)


def click(qtbot: QtBot, button: Any) -> None:
    assert button.isEnabled()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def agree(qtbot: QtBot, dock: VolumesDock, kind: type) -> None:
    assert isinstance(dock.dialog, kind)
    ok = dock.dialog.buttons.button(QDialogButtonBox.StandardButton.Ok)
    assert ok is not None
    assert ok.text() == "Add"
    click(qtbot, ok)


def column(dock: VolumesDock, number: int) -> list[str]:
    items = [dock.table.item(row, number) for row in range(dock.table.rowCount())]
    return [item.text() for item in items if item is not None]


def choose(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Answer the system's own dialog for a folder."""
    monkeypatch.setattr(
        "napari_kdseg.widgets.volumes.QFileDialog.getExistingDirectory",
        lambda *_: str(folder),
    )


def test_files_that_are_dropped_are_listed_and_opened(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path
) -> None:
    assert dock.hint.isVisibleTo(dock)
    drop(qtbot, dock, write(tmp_path / "anna.nii.gz"), write(tmp_path / "bert.nii.gz"))
    assert column(dock, 0) == ["anna", "bert"]
    assert column(dock, 1) == ["LPS, 0.8 x 0.8 x 2.0 mm"] * 2
    assert column(dock, 3) == ["new", "new"]
    assert not dock.hint.isVisibleTo(dock)
    item = dock.table.item(0, 0)
    place = dock.table.visualItemRect(item).center()
    viewport = dock.table.viewport()
    qtbot.mouseClick(viewport, Qt.MouseButton.LeftButton, pos=place)
    assert dock.details.text().startswith("LPS, 0.8 x 0.8 x 2.0 mm · 12 x 10 x 6")
    qtbot.mouseDClick(viewport, Qt.MouseButton.LeftButton, pos=place)
    [layer] = dock.viewer.layers
    assert layer.name == "anna"
    assert layer.scale.tolist() == pytest.approx([2.0, 0.8, 0.8])
    # Opened again it is not there twice.
    click(qtbot, dock.open_button)
    assert len(dock.viewer.layers) == 1


def test_a_project_is_there_when_the_dock_is_opened_again(
    qtbot: QtBot,
    make_dock: MakeDock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dock = make_dock()
    choose(monkeypatch, tmp_path / "fish")
    drop(qtbot, dock, write(tmp_path / "anna.nii.gz"))
    click(qtbot, dock.new_button)
    settle(qtbot, dock)
    assert dock.project.text() == "fish"
    assert column(dock, 0) == ["anna"]  # it came along
    dock.copy_box.setChecked(True)
    drop(qtbot, dock, write(tmp_path / "bert.nii.gz"))
    assert (tmp_path / "fish" / "scans" / "bert" / "bert.nii.gz").is_file()
    dock.use.textActivated.emit("training")
    assert column(dock, 3) == ["new", "training"]

    dock = make_dock()
    assert column(dock, 0) == []
    click(qtbot, dock.open_project_button)
    assert column(dock, 0) == ["anna", "bert"]
    assert column(dock, 3) == ["new", "training"]
    assert not dock.project_note.isVisibleTo(dock)


def test_many_scans_are_used_and_removed_together(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, tmp_path / "fish")
    click(qtbot, dock.new_button)
    drop(qtbot, dock, *(write(tmp_path / f"{name}.nii.gz") for name in "abc"))
    viewport, held = dock.table.viewport(), Qt.KeyboardModifier.ShiftModifier
    places = [dock.table.visualItemRect(dock.table.item(row, 0)) for row in range(3)]
    left = Qt.MouseButton.LeftButton
    qtbot.mouseClick(viewport, left, pos=places[0].center())
    qtbot.mouseClick(viewport, left, held, places[1].center())
    assert not dock.open_button.isEnabled()
    dock.use.textActivated.emit("test (held out)")
    assert column(dock, 3) == ["held out", "held out", "new"]
    qtbot.mouseClick(viewport, left, held, places[2].center())
    assert dock.use.currentText() == ""  # they are used for several things

    asked: list[str] = []
    answer = QMessageBox.StandardButton.No

    def question(_parent: Any, _title: str, text: str) -> Any:
        asked.append(text)
        return answer

    monkeypatch.setattr("napari_kdseg.widgets.volumes.QMessageBox.question", question)
    write(tmp_path / "fish" / "predictions" / "a" / "ct" / "labels.nii.gz")
    click(qtbot, dock.remove_button)
    assert "predictions of 1" in asked[0]
    assert column(dock, 0) == ["a", "b", "c"]
    answer = QMessageBox.StandardButton.Yes
    click(qtbot, dock.remove_button)
    assert column(dock, 0) == []
    assert (tmp_path / "fish" / "trash" / "predictions" / "a").is_dir()
    assert not dock.remove_button.isEnabled()


def test_files_that_were_never_copied_are_taken_off_the_list_unasked(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("napari_kdseg.widgets.volumes.QMessageBox.question")
    drop(qtbot, dock, write(tmp_path / "anna.nii.gz"))
    click(qtbot, dock.remove_button)
    assert column(dock, 0) == []
    assert (tmp_path / "anna.nii.gz").is_file()


def bring(qtbot: QtBot, dock: VolumesDock, folder: Path) -> None:
    """Drop a folder, and agree to what its names say."""
    drop(qtbot, dock, folder)
    agree(qtbot, dock, ScansDialog)
    settle(qtbot, dock)


def test_what_names_do_not_tell_is_put_right_in_the_table(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "anna_t1.nii.gz")
    write(tmp_path / "in" / "outlines.nii.gz")
    write_mask(tmp_path / "in" / "anna-seg.nii.gz")
    drop(qtbot, dock, tmp_path / "in")
    dialog = dock.dialog
    assert isinstance(dialog, ScansDialog)
    cells = [dialog.table.item(row, 1) for row in range(3)]
    assert [item.text() for item in cells] == ["t1", "labels", ""]
    cells[1].setText("t2")  # no labels after all
    dialog.table.item(2, 0).setText("anna")
    cells[2].setText("Labels")
    agree(qtbot, dock, ScansDialog)
    settle(qtbot, dock)
    [scan] = dock.state.scans
    assert scan.channels == ("t1", "t2")
    assert scan.labels is not None
    assert scan.labels.file.name == "outlines.nii.gz"


def test_scans_with_long_names_can_be_told_apart(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path
) -> None:
    names = [f"hippocampus_{number:03}" for number in range(3)]
    drop(qtbot, dock, *(write(tmp_path / f"{name}.nii.gz") for name in names))
    table = dock.table
    assert table.columnWidth(0) >= table.sizeHintForColumn(0)
    assert table.item(2, 0).toolTip() == "hippocampus_002"
    # What is the same of all leaves its place to the state of each.
    assert [table.isColumnHidden(column) for column in range(4)] == [0, 1, 1, 0]
    # A width that a person chose stays while the same scans are listed.
    table.setColumnWidth(0, 77)
    click(qtbot, dock.refresh_button)
    assert table.columnWidth(0) == 77
    drop(qtbot, dock, write(tmp_path / ("case_" * 30 + "7.nii.gz"), shift=1.0))
    assert table.textElideMode() == Qt.TextElideMode.ElideMiddle
    assert 77 < table.columnWidth(0) < 250


def test_grids_that_differ_are_listed(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path
) -> None:
    other = Grid.from_affine(np.diag([1.0, 1.0, 3.0, 1.0]), SHAPE)
    write_volume(tmp_path / "bert.nii.gz", np.ones(SHAPE, np.int16), other)
    drop(qtbot, dock, write(tmp_path / "anna.nii.gz"), tmp_path / "bert.nii.gz")
    assert not dock.table.isColumnHidden(1)
    assert dock.table.isColumnHidden(2)


def test_a_person_says_which_organs_were_drawn(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, tmp_path / "fish")
    click(qtbot, dock.new_button)
    write(tmp_path / "in" / "anna.nii.gz")
    known = LabelSet.from_names(["liver", "gut"])
    write_labels(tmp_path / "in" / "anna-labels.nii.gz", TWO_ORGANS, GRID, known)
    bring(qtbot, dock, tmp_path / "in")

    click(qtbot, dock.drawn_button)
    dialog = dock.dialog
    assert isinstance(dialog, DrawnDialog)
    assert [box.isChecked() for box in dialog.boxes] == [True, True]
    save = dialog.buttons.button(QDialogButtonBox.StandardButton.Ok)
    for box in dialog.boxes:
        box.click()
    assert not save.isEnabled()  # labels of nothing are no labels
    dialog.boxes[0].click()
    click(qtbot, save)
    assert "Drawn: liver." in dock.details.text()

    # Where scans differ, a box that nobody touches changes neither.
    write(tmp_path / "more" / "bert.nii.gz")
    write_labels(tmp_path / "more" / "bert-labels.nii.gz", TWO_ORGANS, GRID, known)
    bring(qtbot, dock, tmp_path / "more")
    dock.table.selectAll()
    click(qtbot, dock.drawn_button)
    dialog = dock.dialog
    assert isinstance(dialog, DrawnDialog)
    half = Qt.CheckState.PartiallyChecked
    assert [box.checkState() for box in dialog.boxes] == [Qt.CheckState.Checked, half]
    click(qtbot, dialog.buttons.button(QDialogButtonBox.StandardButton.Ok))
    assert dock.state.project is not None
    drawn = {scan.case: scan.annotated for scan in dock.state.project.scans}
    assert drawn == {"anna": ("liver",), "bert": ()}


def test_a_person_names_the_classes_of_labels_without_names(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not dock.classes_button.isEnabled()
    choose(monkeypatch, tmp_path / "fish")
    click(qtbot, dock.new_button)
    write(tmp_path / "in" / "anna.nii.gz")
    write_volume(tmp_path / "in" / "anna-labels.nii.gz", TWO_ORGANS, GRID)
    bring(qtbot, dock, tmp_path / "in")

    click(qtbot, dock.classes_button)
    dialog = dock.dialog
    assert isinstance(dialog, ClassesDialog)
    assert dialog.table.item(0, 1).text() == "class 1"
    dialog.table.item(0, 1).setText("liver")
    dialog.table.item(1, 1).setText("liver")
    save = dialog.buttons.button(QDialogButtonBox.StandardButton.Ok)
    click(qtbot, save)
    assert "more than one class" in dialog.problem.text()
    dialog.table.item(1, 1).setText("gut")
    monkeypatch.setattr(
        "napari_kdseg.widgets._volumes_dialogs.QColorDialog.getColor",
        lambda *_: QColor("#123456"),
    )
    dialog.table.itemDoubleClicked.emit(dialog.table.item(1, 2))
    click(qtbot, dialog.add_button)
    dialog.table.item(2, 1).setText("swim bladder")
    click(qtbot, save)
    known = dock.state.project.classes
    assert known.values == (1, 2, 3)
    assert known.names == ("liver", "gut", "swim bladder")
    assert known.classes[1].color == "#123456"


def test_a_scan_that_nobody_chose_a_use_for_is_said_to_be_learnt_from(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, tmp_path / "fish")
    click(qtbot, dock.new_button)
    drop(qtbot, dock, write(tmp_path / "anna.nii.gz"))
    assert dock.use.currentText() == "training"
    dock.use.textActivated.emit("left out")
    assert column(dock, 3) == ["left out"]
    assert dock.use.currentText() == "left out"


def test_a_project_open_elsewhere_can_be_looked_at_only(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path
) -> None:
    with Project.create(tmp_path / "fish"):
        drop(qtbot, dock, tmp_path / "fish")
        assert dock.project.text() == "fish"
        assert "is open in process" in dock.project_note.text()
        assert not dock.files_button.isEnabled()


def test_channels_are_shown_before_they_are_added_and_can_be_put_right(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path
) -> None:
    for name in ("a_t1", "a_t2", "a_seg"):
        write(tmp_path / "in" / f"{name}.nii.gz")
    drop(qtbot, dock, tmp_path / "in")
    dialog = dock.dialog
    assert isinstance(dialog, ScansDialog)
    shown = [
        [dialog.table.item(row, place).text() for place in range(3)] for row in range(3)
    ]
    assert shown == [
        ["a", "t1", "a_t1.nii.gz"],
        ["a", "t2", "a_t2.nii.gz"],
        ["a", "labels", "a_seg.nii.gz"],
    ]
    assert column(dock, 0) == []
    for row in range(3):
        dialog.table.item(row, 0).setText("anna")
    agree(qtbot, dock, ScansDialog)
    settle(qtbot, dock)
    assert column(dock, 0) == ["anna"]
    assert column(dock, 2) == ["t1, t2"]
    assert column(dock, 3) == ["labelled"]
    click(qtbot, dock.open_button)
    assert [layer.name for layer in dock.viewer.layers] == [
        "anna t1",
        "anna t2",
        "anna labels",
    ]
    assert isinstance(dock.viewer.layers["anna labels"], Labels)


def test_another_pattern_reads_the_names_anew(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path
) -> None:
    for name in ("ct/a", "pet/a", "ct/b_t1"):
        write(tmp_path / "in" / f"{name}.nii.gz")
    drop(qtbot, dock, tmp_path / "in")
    dialog = dock.dialog
    assert isinstance(dialog, ScansDialog)
    dialog.pattern.textActivated.emit("{channel}/{case}")
    names = {(one.case, one.channel) for one in dialog.found}
    assert names == {("a", "ct"), ("a", "pet"), ("b_t1", "ct")}
    dialog.pattern.textActivated.emit("nothing")
    assert "does not name one case" in dock.message.text()
    assert {(one.case, one.channel) for one in dialog.found} == names
    dialog.reject()
    assert column(dock, 0) == []


def test_series_are_ticked_by_name(
    qtbot: QtBot, dock: VolumesDock, real_data: Path
) -> None:
    drop(qtbot, dock, (real_data / "dicom_ct_with_seg").absolute())
    dialog = dock.dialog
    assert isinstance(dialog, SeriesDialog)
    names = [dialog.list.item(row).text() for row in range(dialog.list.count())]
    assert "ct: series 2" in names
    click(qtbot, dialog.none_button)
    dialog.list.item(names.index("ct: series 2")).setCheckState(Qt.CheckState.Checked)
    agree(qtbot, dock, SeriesDialog)
    settle(qtbot, dock)
    assert column(dock, 0) == ["ct"]
    assert "-3024" in dock.details.text()
    click(qtbot, dock.open_button)
    assert len(dock.viewer.layers) == 1


def test_a_missing_scan_is_located(
    qtbot: QtBot,
    dock: VolumesDock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(monkeypatch, tmp_path / "fish")
    click(qtbot, dock.new_button)
    drop(qtbot, dock, write(tmp_path / "disk" / "anna.nii.gz"))
    assert not dock.locate_button.isVisibleTo(dock)
    shutil.move(tmp_path / "disk", tmp_path / "moved")
    click(qtbot, dock.refresh_button)
    assert column(dock, 3) == ["missing"]
    dock.table.selectRow(0)
    assert not dock.open_button.isEnabled()
    assert "press Locate" in dock.details.text()
    choose(monkeypatch, tmp_path / "moved")
    click(qtbot, dock.locate_button)
    assert column(dock, 3) == ["new"]


def test_scans_on_two_grids_are_resampled_when_asked(
    qtbot: QtBot,
    dock: VolumesDock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(monkeypatch, tmp_path / "fish")
    click(qtbot, dock.new_button)
    write(tmp_path / "in" / "a_t1.nii.gz")
    write(tmp_path / "in" / "a_t2.nii.gz", shift=1.0)
    bring(qtbot, dock, tmp_path / "in")
    assert "is not on the grid" in dock.message.text()
    click(qtbot, dock.resample_button)
    settle(qtbot, dock)
    assert column(dock, 2) == ["t1, t2"]
    assert not dock.resample_button.isVisibleTo(dock)


def test_a_large_packed_scan_is_converted_while_the_viewer_lives(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LARGEST_DECODED_BYTES", 0)
    drop(qtbot, dock, write(tmp_path / "anna.nii.gz"))
    click(qtbot, dock.open_button)
    assert dock.cancel_button.isEnabled()
    assert not dock.clear_button.isEnabled()
    assert "Converting anna.nii.gz" in dock.message.text()
    settle(qtbot, dock)
    [layer] = dock.viewer.layers
    data = layer.data[0] if layer.multiscale else layer.data
    assert int(np.asarray(data).max()) == np.prod(SHAPE) - 1
    assert str(tmp_path / "cache") in dock.cache.text()
    click(qtbot, dock.clear_button)
    assert dock.cache.text().startswith("0 kB")


def test_what_is_no_scan_is_said_to_be_none(
    qtbot: QtBot, dock: VolumesDock, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    drop(qtbot, dock, tmp_path / "notes.txt")
    assert "holds no volume of a known kind" in dock.message.text()
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b no")
    drop(qtbot, dock, tmp_path / "broken.nii.gz")
    assert "broken.nii.gz" in dock.message.text()


def test_samples_open(qtbot: QtBot, dock: VolumesDock) -> None:
    names = [action.text() for action in dock.samples.actions()]
    assert names == ["abdomen", "brain", "fish"]
    dock.samples.triggered.emit(dock.samples.actions()[2])
    assert "fish" in dock.viewer.layers


def test_closing_the_dock_gives_the_project_back(
    qtbot: QtBot, make_dock: MakeDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = make_dock()
    choose(monkeypatch, tmp_path / "fish")
    click(qtbot, dock.new_button)
    assert (tmp_path / "fish" / "lock").exists()
    assert json.loads((tmp_path / "fish" / "project.json").read_text())["version"] == 1
    make_dock()
    assert not (tmp_path / "fish" / "lock").exists()
