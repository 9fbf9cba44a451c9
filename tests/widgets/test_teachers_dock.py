"""The Teachers dock in a real viewer, on published results."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt

from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid
from napari_kdseg.widgets.teachers import TeachersDock

SHAPE = (12, 16, 20)
ORGANS = LabelSet.from_names(["spleen", "liver"])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two teachers; slice 5 is unsure, and in slice 7 both claim a corner."""
    grid = Grid.from_affine(np.diag([1.0, 1.0, 3.0, 1.0]), SHAPE)
    case = tmp_path / "case"
    bits = np.zeros(SHAPE, np.uint8)
    for place, name in enumerate(ORGANS.names):
        folder = case / f"{name}-teacher"
        folder.mkdir(parents=True)
        labels = np.zeros(SHAPE, np.uint8)
        labels[4:8, 4 * place : 4 * place + 4, 4:9] = place + 1
        labels[7, :3, :3] = place + 1
        bits |= (labels > 0).astype(np.uint8) << np.uint8(place)
        write_labels(folder / "labels.ome.zarr", labels, grid, ORGANS.subset([name]))
        write_volume(folder / "uncertainty.ome.zarr", np.zeros(SHAPE, np.uint8), grid)
    unsure = np.zeros(SHAPE, np.uint8)
    unsure[5] = 51
    write_volume(case / "uncertainty.ome.zarr", unsure, grid)
    write_labels(case / "regions.ome.zarr", bits, grid, None)
    claimants = [
        {"bit": k, "teacher": f"{n}-teacher", "class": n, "value": k + 1}
        for k, n in enumerate(ORGANS.names)
    ]
    shares = {"true background": 0.9, "spleen": 0.06, "liver": 0.05, "conflict": 0.01}
    noted = {"overlap_rule": "sum", "claimants": claimants, "shares": shares}
    (case / "regions.json").write_text(json.dumps(noted))
    return case


@pytest.fixture
def dock(make_napari_viewer: Any, results: Path) -> Iterator[TeachersDock]:
    viewer = make_napari_viewer()
    widget = TeachersDock(viewer)
    shell = viewer.window.add_dock_widget(widget, name="Teachers")
    widget.open_folder(results)
    widget.state.poll()
    yield widget
    viewer.window.remove_dock_widget(shell)


def test_opened_results_show_each_teachers_labels(dock: TeachersDock) -> None:
    names = [layer.name for layer in dock.viewer.layers]
    assert names == ["case spleen-teacher", "case liver-teacher"]
    ticked = [box.value for box in dock.boxes if box.isChecked()]
    assert ticked == [("labels", "spleen-teacher"), ("labels", "liver-teacher")]


def test_a_box_shows_and_hides_a_result(dock: TeachersDock) -> None:
    box = next(b for b in dock.boxes if b.value == ("uncertainty", "liver-teacher"))
    box.click()
    layer = dock.viewer.layers["case liver-teacher uncertainty"]
    assert layer.visible
    box.click()
    assert not layer.visible


def test_boxes_follow_the_eyes_in_the_layer_list(
    qtbot: QtBot, dock: TeachersDock
) -> None:
    dock.viewer.layers["case liver-teacher"].visible = False
    box = next(b for b in dock.boxes if b.value == ("labels", "liver-teacher"))
    qtbot.waitUntil(lambda: not box.isChecked())


def test_regions_are_shown_in_the_colours_of_the_legend(dock: TeachersDock) -> None:
    dock.regions_box.click()
    layer = dock.viewer.layers["case regions"]
    legend = [dock.legend.item(row, 0).text() for row in range(4)]
    shares = [dock.legend.item(row, 1).text() for row in range(4)]
    assert legend == ["true background", "spleen", "liver", "conflict"]
    assert shares == ["90.00 %", "6.00 %", "5.00 %", "1.00 %"]
    for code, region in enumerate(dock.state.legend):
        expected = [int(region.color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert np.allclose(layer.colormap.map(code)[:3], expected, atol=1e-2)
    dock.conflict_button.click()  # slice 7 of 3 mm
    status = layer.get_status((21, 0, 0), world=True)
    assert "conflict: spleen + liver" in status["coordinates"]


def test_buttons_lead_to_the_worst_slices(dock: TeachersDock) -> None:
    dock.uncertain_button.click()
    assert dock.viewer.dims.point[0] == 15.0  # slice 5 of 3 mm
    dock.conflict_button.click()
    assert dock.viewer.dims.point[0] == 21.0


def test_a_click_on_the_chart_leads_to_the_slice(
    qtbot: QtBot, dock: TeachersDock
) -> None:
    width = dock.chart.width() - 8
    nine = QPoint(4 + int(width * 9.5 / 12), dock.chart.height() // 2)
    qtbot.mouseClick(dock.chart, Qt.MouseButton.LeftButton, pos=nine)
    assert dock.viewer.dims.point[0] == 27.0


def test_the_chart_turns_with_the_viewer(dock: TeachersDock) -> None:
    assert dock.chart.count() == 12
    dock.viewer.dims.order = (2, 0, 1)
    assert dock.chart.count() == 20
    assert dock.chart_heading.text() == "Slices along x"


def test_without_results_the_dock_says_what_to_do(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    dock = TeachersDock(viewer)
    shell = viewer.window.add_dock_widget(dock, name="Teachers")
    assert "Run Segment" in dock.message.text()
    idle = (
        dock.regions_box,
        dock.case_choice,
        dock.uncertain_button,
        dock.conflict_button,
    )
    assert not any(widget.isEnabled() for widget in idle)
    assert dock.open_button.isEnabled()
    viewer.window.remove_dock_widget(shell)


def test_of_one_model_alone_it_is_said_how_regions_are_made(
    dock: TeachersDock, results: Path, tmp_path: Path
) -> None:
    assert dock.rule.text().startswith("Rule")
    alone = tmp_path / "alone"
    (alone / "case").mkdir(parents=True)
    (results / "liver-teacher").rename(alone / "case" / "student")
    dock.open_folder(alone)
    assert dock.rule.text().startswith("student alone has results of this scan.")
    assert "tick two or more teachers" in dock.rule.text()
    assert not dock.regions_box.isEnabled()


def test_closing_the_dock_disconnects_it(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    before = len(viewer.dims.events.order.callbacks)
    shell = viewer.window.add_dock_widget(TeachersDock(viewer), name="Teachers")
    assert len(viewer.dims.events.order.callbacks) == before + 1
    viewer.window.remove_dock_widget(shell)
    assert len(viewer.dims.events.order.callbacks) == before
