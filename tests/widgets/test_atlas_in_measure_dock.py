"""An atlas made in the Measure dock of a real viewer, from a project to its table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_hand import choose, click
from made_predictions import CLASSES, write_prediction
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog
from scipy.ndimage import gaussian_filter

from napari_kdseg.project import Project
from napari_kdseg.state.measurement import Measurement
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.widgets.measure import MeasureDock

SHAPE = (24, 32, 28)
PATIENCE_MS = 180_000


def fish(moved: int) -> tuple[np.ndarray, np.ndarray]:
    """A scan and its labels, moved along x by some voxels."""
    body = np.zeros(SHAPE, np.float32)
    body[4:20, 6:26, 6:20] = 100
    body[8:14, 10:18, 8:14] = 300  # gut
    body[12:17, 19:23, 13:18] = 600  # heart
    labels = np.digitize(body, (200, 500)).astype(np.uint8)
    seen = gaussian_filter(body, 1.0)
    return np.roll(seen, moved, 2).astype(np.int16), np.roll(labels, moved, 2)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three fish that differ only in their place."""
    folder = tmp_path / "project"
    with Project.create(folder, "fish") as made:
        made.set_classes(CLASSES)
        for number, moved in enumerate((0, 2, -3)):
            image, labels = fish(moved)
            case = f"fish-{number}"
            write_prediction(folder / "predictions", case, labels, image=image)
            scan = folder / "scans" / f"{case}.nii.gz"
            made.add_scan(NewScan((VolumeFile(scan),)))
    return folder


@pytest.fixture
def dock(make_napari_viewer: Any, tmp_path: Path) -> Iterator[MeasureDock]:
    viewer = make_napari_viewer(show=True)
    widget = MeasureDock(viewer, Measurement(scratch=tmp_path / "scratch"))
    shell = viewer.window.add_dock_widget(widget, name="Measure", area="right")
    yield widget
    viewer.window.remove_dock_widget(shell)


def answer(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """What the person chooses in the next dialog for a folder."""
    monkeypatch.setattr(
        QFileDialog, "getExistingDirectory", lambda *_, **__: str(folder)
    )


@pytest.mark.slow
def test_a_project_becomes_an_atlas_in_the_viewer_and_in_a_table(
    qtbot: QtBot,
    dock: MeasureDock,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not dock.atlas_button.isEnabled()
    assert dock.atlas.isHidden()
    answer(monkeypatch, project)
    dock.folder_action.trigger()
    assert not dock.atlas_button.isEnabled()
    assert (
        dock.atlas_button.toolTip() == "Choose the scan that all others are laid over."
    )
    choose(qtbot, dock.case, "fish-0")
    # A folder that is used is refused.
    answer(monkeypatch, project)
    click(qtbot, dock.atlas_button)
    assert "choose a new or an empty folder" in dock.message.text()
    assert not dock.state.busy
    # A new one becomes the atlas.
    out = tmp_path / "atlas"
    answer(monkeypatch, out)
    click(qtbot, dock.atlas_button)
    assert dock.state.busy
    assert dock.job_row.isVisible()
    assert not dock.atlas_button.isEnabled()
    qtbot.waitUntil(lambda: not dock.state.busy, timeout=PATIENCE_MS)
    assert dock.state.job is not None
    assert dock.state.job.error == ""
    assert not dock.findChildren(QTimer)[0].isActive()
    layers = list(dock.viewer.layers)
    assert [layer.name for layer in layers] == [
        "fish-0",
        "gut occupancy",
        "heart occupancy",
    ]
    gut = layers[1]
    assert gut.blending == "additive"
    assert gut.contrast_limits == [0, 1]
    assert gut.data.shape == SHAPE
    assert np.asarray(gut.data[11])[14, 11] == pytest.approx(1, abs=0.01)
    table = dock.atlas.table
    assert table.isVisible()
    rows = [
        [table.item(row, column).text() for column in range(table.columnCount())]
        for row in range(table.rowCount())
    ]
    assert [row[:4] for row in rows] == [
        ["gut", "3", "288", "0"],  # 6 x 8 x 6 voxels of 1 mm^3
        ["heart", "3", "100", "0"],
    ]
    assert all(float(row[4]) < 0.5 for row in rows)  # laid over one another
    assert str(out) in dock.atlas.words.text()
    assert dock.copy_button.isEnabled()
    click(qtbot, dock.copy_button)
    assert dock.state.command_line.startswith("kdseg-train atlas ")
    assert (out / ".run" / "events.jsonl").exists()
