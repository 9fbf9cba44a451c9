"""The Measure dock in a real viewer: from a project to tables, plots and slices."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_predictions import CLASSES, grid_of, write_prediction
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QFileDialog

from napari_kdseg.project import Project
from napari_kdseg.state.measurement import Measurement
from napari_kdseg.state.volumes import Volumes
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.formats import write_labels
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.widgets.measure import MeasureDock
from napari_kdseg.widgets.volumes import VolumesDock

SHAPE = (8, 10, 12)
PATIENCE_MS = 180_000


def fish(length: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:6, 3:7, 2 : 2 + length] = 1
    labels[6, 1:3, 1:3] = 2
    return labels


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Six fish; the last has too short a gut, of which two voxels are not predicted."""
    folder = tmp_path / "project"
    with Project.create(folder, "fish") as made:
        made.set_classes(CLASSES)
        for number, length in enumerate((6, 7, 6, 7, 8, 1)):
            case = f"fish-{number}"
            labels = fish(length)
            file = tmp_path / f"{case}-truth.nii.gz"
            write_labels(file, labels, grid_of(SHAPE, (2, 1, 1)), CLASSES)
            if number == 5:
                labels[4, 3:5, 2] = 0
            write_prediction(folder / "predictions", case, labels, spacing_mm=(2, 1, 1))
            scan = folder / "scans" / f"{case}.nii.gz"
            made.add_scan(NewScan((VolumeFile(scan),), VolumeFile(file)))
    return folder


@pytest.fixture
def dock(make_napari_viewer: Any, tmp_path: Path) -> Iterator[MeasureDock]:
    viewer = make_napari_viewer()
    widget = MeasureDock(viewer, Measurement(scratch=tmp_path / "scratch"))
    shell = viewer.window.add_dock_widget(widget, name="Measure", area="right")
    yield widget
    viewer.window.remove_dock_widget(shell)


def choose(monkeypatch: pytest.MonkeyPatch, name: str, answer: object) -> None:
    monkeypatch.setattr(QFileDialog, name, lambda *_, **__: answer)


def measure(qtbot: QtBot, dock: MeasureDock) -> None:
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.state.busy, timeout=PATIENCE_MS)
    assert dock.state.result is not None, dock.job_row.message.text()


def test_without_labels_measure_is_grey_and_the_dock_says_why(
    dock: MeasureDock,
) -> None:
    assert not dock.run_button.isEnabled()
    assert "Choose a project" in dock.message.text()
    assert not dock.export_button.isEnabled()
    assert dock.measured.isHidden()


def test_the_project_that_is_open_is_offered_and_another_choice_is_kept(
    dock: MeasureDock, project: Path, tmp_path: Path
) -> None:
    state = Volumes(cache=Cache(tmp_path / "cache"), scratch=tmp_path / "volumes")
    shell = dock.viewer.window.add_dock_widget(VolumesDock(dock.viewer, state))
    state.open_project(project)
    dock._on_look()
    assert dock.place.text() == str(project)
    state.create_project(tmp_path / "second")  # nobody chose the first one
    dock._on_look()
    assert dock.place.text() == str(tmp_path / "second")
    dock.state.set_labels(project / "predictions")
    state.open_project(project)
    dock._on_look()
    assert dock.place.text() == str(project / "predictions")
    dock.viewer.window.remove_dock_widget(shell)


def test_predictions_that_are_made_meanwhile_can_be_chosen(
    dock: MeasureDock, project: Path
) -> None:
    dock.state.set_labels(project)
    assert dock.case.count() == 7
    write_prediction(project / "predictions", "late", np.zeros(SHAPE, np.uint8))
    dock._on_look()
    assert dock.case.count() == 8
    dock.state.change(case="late")
    shutil.rmtree(project / "predictions" / "late")
    dock._on_look()
    assert dock.case.count() == 7
    assert dock.state.wish.case is None
    with Project.open(project) as opened:
        opened.remove_scans(["fish-0"])
    dock.state.change(of="labels")
    dock._on_look()
    assert dock.state.cases == tuple(f"fish-{number}" for number in range(1, 6))


def test_only_labels_outside_of_a_project_ask_for_their_scans(
    dock: MeasureDock, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock.state.set_labels(project)
    assert dock.images_row.isHidden()
    dock.state.set_labels(project / "predictions")
    assert not dock.images_row.isHidden()
    choose(monkeypatch, "getExistingDirectory", str(project / "scans"))
    dock.images_action.trigger()
    choose(monkeypatch, "getExistingDirectory", "")  # Cancel
    dock.images_action.trigger()
    assert dock.state.wish.images == project / "scans"
    dock.recorded_action.trigger()
    assert dock.state.wish.images is None


@pytest.mark.slow
def test_a_project_becomes_a_table_and_a_plot_with_its_outlier(
    qtbot: QtBot, dock: MeasureDock, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, "getExistingDirectory", str(project))
    dock.folder_action.trigger()
    assert dock.case.count() == 7  # all, and six
    measure(qtbot, dock)
    table = dock.measured.titles
    assert [table.item(0, column).text() for column in range(3)] == [
        "fish-0",
        "gut",
        "192",  # 4 x 4 x 6 voxels of 2 mm^3
    ]
    titles = [table.horizontalHeaderItem(n).text() for n in range(table.columnCount())]
    assert "Model" not in titles  # there is one
    extent = titles.index("Extent z, y, x mm")
    assert table.item(0, extent).text() == "8, 4, 6"
    assert "Mean" in titles
    assert dock.measured.quantity.currentText() == "volume, mm³"
    assert "1 marked" in dock.measured.rule.text()
    far = [(place, point) for place, point in dock.measured.plot.dots() if point.far]
    assert [point.case for _, point in far] == ["fish-5"]
    # A click on the dot leads to its row.
    place = QPoint(round(far[0][0].x()), round(far[0][0].y()))
    qtbot.mouseClick(dock.measured.plot, Qt.MouseButton.LeftButton, pos=place)
    assert table.item(table.currentRow(), 0).text() == "fish-5"


@pytest.mark.slow
def test_a_click_on_a_worst_slice_shows_where_it_differs(
    qtbot: QtBot, dock: MeasureDock, project: Path
) -> None:
    dock.state.set_labels(project)
    dock.own_action.trigger()
    assert not dock.tolerance.isHidden()
    measure(qtbot, dock)
    assert dock.measured.titles.item(0, 0).text() == "fish-5"  # the worst first
    worst = dock.measured.worst
    assert worst.rowCount() == 1
    assert [worst.item(0, column).text() for column in range(3)] == ["fish-5", "4", "2"]
    spot = worst.visualItemRect(worst.item(0, 1)).center()
    qtbot.mouseClick(worst.viewport(), Qt.MouseButton.LeftButton, pos=spot)
    names = [layer.name for layer in dock.viewer.layers]
    assert names == [
        "fish-5",
        "fish-5 reference",
        "fish-5 student",
        "fish-5 student disagreement",
    ]
    assert dock.viewer.dims.point[0] == 8.0  # plane 4 of 2 mm
    status = dock.viewer.layers[-1].get_status((8, 3, 2), world=True)
    assert "missed" in status["coordinates"]
    qtbot.mouseClick(worst.viewport(), Qt.MouseButton.LeftButton, pos=spot)
    assert len(dock.viewer.layers) == 4  # shown once


@pytest.mark.slow
def test_the_table_is_exported_where_the_person_says(
    qtbot: QtBot,
    dock: MeasureDock,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dock.state.set_labels(project)
    dock.state.change(case="fish-1")
    measure(qtbot, dock)
    choose(monkeypatch, "getSaveFileName", (str(tmp_path / "organs.csv"), ""))
    qtbot.mouseClick(dock.export_button, Qt.MouseButton.LeftButton)
    lines = (tmp_path / "organs.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("fish-1,student,none,gut,112,224,")
