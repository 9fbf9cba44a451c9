"""Correcting slices in a real viewer: brush, Ctrl+Z, interpolation, sending."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_predictions import CLASSES, write_prediction
from napari.utils._proxies import PublicOnlyProxy
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_kdseg.review.corrections import labelled, read_record
from napari_kdseg.review.verdicts import About
from napari_kdseg.state.review.review import Review
from napari_kdseg.volumes.formats import read_labels
from napari_kdseg.widgets.review.canvas import IMAGE, text_overlay
from napari_kdseg.widgets.review.correction_canvas import camera_of
from napari_kdseg.widgets.review.correction_panel import CorrectionPanel
from napari_kdseg.widgets.review.judging import Judging

SHAPE = (16, 40, 30)
SPACING_MM = (3.0, 1.0, 1.5)


def predicted() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:13, 5:15, 5:15] = 1
    return labels


@pytest.fixture(params=[(".nii.gz", 1.0)])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The predictions of two scans, in some format, so many times `SPACING_MM`."""
    folder = tmp_path / "out"
    ending, factor = request.param
    size = tuple(factor * mm for mm in SPACING_MM)
    for case in ("fish", "frog"):
        write_prediction(folder, case, predicted(), ending=ending, spacing_mm=size)
    return folder


Make = Callable[[], CorrectionPanel]


@pytest.fixture
def make(make_napari_viewer: Any, out: Path) -> Iterator[Make]:
    """Opens panels in one viewer, each with a review of its own."""
    viewer = make_napari_viewer(show=True)
    made: list[CorrectionPanel] = []

    def one() -> CorrectionPanel:
        review = Review()
        review.open_folder(out)
        review.order = "sequence"
        panel = CorrectionPanel(viewer, review)
        viewer.window.add_dock_widget(panel, name="Correct")
        made.append(panel)
        return panel

    yield one
    for panel in made:
        if panel in viewer.window.dock_widgets.values():
            close(panel)


def close(panel: CorrectionPanel) -> None:
    """Close it, as the dock does around it."""
    panel.close_panel()
    panel.review.close()
    panel.canvas.viewer.window.remove_dock_widget(panel)
    panel.deleteLater()


@pytest.fixture
def panel(make: Make) -> CorrectionPanel:
    return make()


@pytest.fixture
def plugged_in(panel: CorrectionPanel) -> Iterator[CorrectionPanel]:
    """A panel with a viewer as plugins get it: a proxy, whose layers are proxies."""
    viewer, review = panel.canvas.viewer, panel.review
    other = CorrectionPanel(PublicOnlyProxy(viewer), review)
    viewer.window.add_dock_widget(other, name="Plugged in")
    yield other
    other.close_panel()
    viewer.window.remove_dock_widget(other)
    other.deleteLater()


def slice_of(panel: CorrectionPanel, axis: int, index: int) -> About:
    fish = next(one for one in panel.review.predictions if one.case == "fish")
    return fish.about(axis, index)


def begin(panel: CorrectionPanel, axis: int = 0, index: int = 6) -> Any:
    """Correct a slice; gives the layer that is painted on."""
    assert panel.correct(slice_of(panel, axis, index)), panel.message.text()
    return panel.canvas.labels


def paint_square(labels: Any, z: int, top: int, left: int, edge: int) -> None:
    """Outline an area, as with napari's polygon tool."""
    low, high = top, top + edge - 1
    corners = [(low, left), (low, left + edge - 1), (high, left + edge - 1)]
    corners.append((high, left))
    labels.paint_polygon([(z, *corner) for corner in corners], labels.selected_label)


def canvas_of(panel: CorrectionPanel) -> QWidget:
    """Where napari draws."""
    window = panel.window()
    assert isinstance(window, QMainWindow)
    center = window.centralWidget()
    assert center is not None
    return next(
        child
        for child in center.findChildren(QWidget)
        if "Canvas" in type(child).__name__
    )


def judged(panel: CorrectionPanel) -> Judging:
    """Slices in the canvas, to be judged."""
    judging = Judging(panel.canvas.viewer, panel.review, panel)
    judging.begin()
    while not judging.can_judge:
        panel.review.work()
        judging.look_again()
    return judging


def undo(qtbot: QtBot, panel: CorrectionPanel) -> None:
    qtbot.keyClick(panel.window(), Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)


def settle(qtbot: QtBot, panel: CorrectionPanel) -> None:
    """Until all is on disk."""
    panel.state.poll()
    qtbot.waitUntil(lambda: panel.state.shown.kept and not panel.state.busy)


# ---- beginning and ending ----


def test_the_scan_is_shown_at_the_slice_with_the_brush_in_hand(
    panel: CorrectionPanel,
) -> None:
    labels = begin(panel, axis=0, index=6)
    viewer = panel.canvas.viewer
    assert [layer.name for layer in viewer.layers] == ["fish", "fish corrected"]
    assert tuple(labels.scale) == SPACING_MM
    assert viewer.dims.point[0] == 18.0
    assert viewer.layers.selection.active is labels
    assert (labels.mode, labels.selected_label) == ("paint", 1)
    assert [panel.label.itemText(n) for n in range(panel.label.count())] == [
        *CLASSES.names,
        "background (erase)",
    ]
    assert text_overlay(viewer).text == "correcting fish   z 6 / 15"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_across_any_axis_looks_as_when_it_is_judged(
    panel: CorrectionPanel, axis: int
) -> None:
    begin(panel, axis, 8)
    dims = panel.canvas.viewer.dims
    assert dims.order == (axis, *(other for other in range(3) if other != axis))
    assert panel.state.shown.place == (axis, 8)


def test_what_is_judged_is_hidden_and_comes_back(
    qtbot: QtBot, panel: CorrectionPanel
) -> None:
    judging = judged(panel)
    viewer = panel.canvas.viewer
    viewer.layers[IMAGE].contrast_limits = (100, 900)
    camera_of(viewer).zoom = 7.5
    title, shown = text_overlay(viewer).text, [v.name for v in viewer.layers]
    with qtbot.waitSignal(panel.started):
        panel.correct_button.click()
    case = panel.state.prediction.case
    assert [layer.name for layer in viewer.layers] == [case, f"{case} corrected"]
    assert tuple(viewer.layers[case].contrast_limits) == (100, 900)
    with qtbot.waitSignal(panel.finished):
        panel.done_button.click()
    assert [layer.name for layer in viewer.layers] == shown
    assert viewer.layers[IMAGE].visible
    assert camera_of(viewer).zoom == 7.5
    assert text_overlay(viewer).text == title
    judging.end()


def test_other_layers_are_hidden_and_come_back(panel: CorrectionPanel) -> None:
    viewer = panel.canvas.viewer
    mine = viewer.add_image(np.zeros((5, 6, 7)), name="mine")
    viewer.add_image(np.zeros((5, 6, 7)), name="hidden", visible=False)
    viewer.dims.order = (2, 0, 1)
    begin(panel)
    assert not mine.visible
    panel.done_button.click()
    visible = {layer.name: layer.visible for layer in viewer.layers}
    assert visible == {"mine": True, "hidden": False}
    assert viewer.dims.order == (2, 0, 1)


def test_closing_while_painting_brings_no_judged_slice_back(
    panel: CorrectionPanel,
) -> None:
    judging = judged(panel)
    begin(panel)
    panel.close_panel()
    judging.end()
    assert len(panel.canvas.viewer.layers) == 0


def test_buttons_say_what_can_be_done(panel: CorrectionPanel) -> None:
    assert panel.correct_button.isEnabled()
    others = (panel.done_button, panel.slice_button, panel.volume_button)
    assert not any(button.isEnabled() for button in others)
    begin(panel)
    assert not panel.correct_button.isEnabled()
    assert all(button.isEnabled() for button in others)
    assert not panel.interpolate_button.isEnabled()


def test_a_scan_that_is_gone_is_told_of(panel: CorrectionPanel, out: Path) -> None:
    for scan in (out.parent / "scans").iterdir():
        scan.rename(out / scan.name)
    panel.review.refresh()
    assert not panel.correct(slice_of(panel, 0, 6))
    assert "missing" in panel.message.text()
    assert not panel.active


@pytest.mark.parametrize("out", [(".ome.zarr", 1.0)], indirect=True)
def test_a_damaged_scan_is_told_of_and_all_is_as_it_was(
    panel: CorrectionPanel, out: Path
) -> None:
    panel.review.plane(slice_of(panel, 0, 6))
    for chunk in (out.parent / "scans" / "fish.ome.zarr" / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(chunk.read_bytes()[:-9])
    assert not panel.correct(slice_of(panel, 0, 6))
    assert "damaged" in panel.message.text()
    assert len(panel.canvas.viewer.layers) == 0
    assert panel.state.prediction is None
    assert panel.correct_button.isEnabled()


# ---- painting ----


def test_the_brush_paints_where_the_mouse_is_and_ctrl_z_undoes_it(
    qtbot: QtBot, panel: CorrectionPanel
) -> None:
    labels = begin(panel)
    before = np.asarray(labels.data)
    labels.brush_size = 4
    canvas = canvas_of(panel)
    qtbot.waitUntil(lambda: canvas.width() > 100)
    start, left = canvas.rect().center(), Qt.MouseButton.LeftButton
    qtbot.mouseMove(canvas, start)
    qtbot.mousePress(canvas, left, pos=start)
    for step in range(1, 5):
        qtbot.mouseMove(canvas, start + QPoint(8 * step, 0))
    qtbot.mouseRelease(canvas, left, pos=start + QPoint(32, 0))
    painted = np.argwhere(np.asarray(labels.data) != before)
    assert len(painted) > 10
    assert set(painted[:, 0]) == {6}
    middle = (np.array(SHAPE[1:]) - 1) / 2
    assert np.abs(painted[:, 1:] - middle).max() < 12
    settle(qtbot, panel)
    assert panel.state.shown.slices == ((0, 6),)
    undo(qtbot, panel)
    assert np.array_equal(np.asarray(labels.data), before)
    settle(qtbot, panel)
    assert panel.state.shown.slices == ()


@pytest.mark.parametrize("out", [(".nii.gz", 0.01)], indirect=True)
def test_the_brush_hits_in_scans_of_micrometres_over_slices_in_millimetres(
    qtbot: QtBot, panel: CorrectionPanel
) -> None:
    judging = judged(panel)
    labels = begin(panel)
    assert str(labels.units[0]) == "micrometer"
    before = np.asarray(labels.data)
    labels.brush_size = 4
    canvas = canvas_of(panel)
    qtbot.waitUntil(lambda: canvas.width() > 100)
    qtbot.mouseMove(canvas, canvas.rect().center())
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=canvas.rect().center())
    painted = np.argwhere(np.asarray(labels.data) != before)
    middle = (6, *(np.array(SHAPE[1:]) - 1) / 2)
    assert np.abs(painted - middle).max() < 4
    assert panel.canvas.viewer.dims.nsteps == SHAPE
    panel.end()
    judging.end()


def test_painted_voxels_are_on_the_screen(panel: CorrectionPanel) -> None:
    labels = begin(panel)
    labels.selected_label = 2
    paint_square(labels, 6, 20, 10, 8)
    raw = np.asarray(labels._slice.image.raw)
    assert (raw[20:28, 10:18] == 2).all()
    labels.fill((6, 22, 12), 1)
    assert (np.asarray(labels._slice.image.raw)[20:28, 10:18] == 1).all()
    labels.undo()
    assert (np.asarray(labels._slice.image.raw)[20:28, 10:18] == 2).all()


def test_the_list_and_naparis_own_controls_choose_the_same_class(
    panel: CorrectionPanel,
) -> None:
    labels = begin(panel)
    panel.label.setCurrentIndex(1)
    assert labels.selected_label == 2
    labels.selected_label = 0
    assert panel.label.currentText() == "background (erase)"
    labels.selected_label = 9
    assert panel.label.currentIndex() == -1


def test_what_is_not_on_disk_yet_is_marked(
    qtbot: QtBot, panel: CorrectionPanel, out: Path
) -> None:
    labels = begin(panel)
    paint_square(labels, 6, 20, 10, 8)
    panel.state.poll()
    assert panel.kept.text() == "● not on disk yet"
    assert text_overlay(panel.canvas.viewer).text.endswith("●")
    settle(qtbot, panel)
    assert panel.kept.text() == "all on disk"
    record = read_record(out / "corrections" / "fish" / "student" / "correction.json")
    assert [one.place for one in record.slices] == [(0, 6)]


# ---- interpolation ----


def test_an_interpolation_is_one_step_for_ctrl_z(
    qtbot: QtBot, panel: CorrectionPanel
) -> None:
    labels = begin(panel)
    labels.selected_label = 2
    paint_square(labels, 6, 20, 6, 10)
    panel.canvas.go_to(0, 10)
    paint_square(labels, 10, 20, 14, 10)
    panel.canvas.go_to(0, 8)
    panel.state.poll()
    before = np.asarray(labels.data)
    assert panel.interpolate_button.text() == "Interpolate between z 6 and 10"
    qtbot.mouseClick(panel.interpolate_button, Qt.MouseButton.LeftButton)
    made = np.asarray(labels.data)
    assert (made[8, 20:30, 10:20] == 2).all()
    assert (np.asarray(labels._slice.image.raw)[20:30, 10:20] == 2).all()
    assert (made[7, 20:30, 8:18] == 2).all()
    assert np.array_equal(made[8, 5:15, 5:15], np.ones((10, 10)))  # class 1 stays
    assert np.array_equal(
        np.delete(made, [7, 8, 9], 0), np.delete(before, [7, 8, 9], 0)
    )
    assert "3 slices between z 6 and 10" in panel.message.text()
    panel.state.poll()
    assert panel.state.shown.interpolated == ((0, 7), (0, 8), (0, 9))
    undo(qtbot, panel)
    assert np.array_equal(np.asarray(labels.data), before)
    panel.state.poll()
    assert panel.state.shown.interpolated == ()
    undo(qtbot, panel)  # and then the painting of slice 10
    assert not np.asarray(labels.data)[10, 20:30].any()
    assert np.asarray(labels.data)[6, 20:30].any()


def test_slices_across_y_are_interpolated_too(
    qtbot: QtBot, panel: CorrectionPanel
) -> None:
    labels = begin(panel, axis=1, index=20)
    labels.selected_label = 2
    for index in (20, 24):
        panel.canvas.go_to(1, index)
        corners = [(4, index, 5), (4, index, 20), (11, index, 20), (11, index, 5)]
        labels.paint_polygon(corners, 2)
    panel.state.poll()
    qtbot.mouseClick(panel.interpolate_button, Qt.MouseButton.LeftButton)
    assert (np.asarray(labels.data)[4:12, 20:25, 5:21] == 2).all()


# ---- sending, closing, going on ----


@pytest.mark.parametrize("out", [(".nii.gz", 1.0), (".ome.zarr", 1.0)], indirect=True)
def test_a_sent_slice_is_in_the_labelled_set_and_the_prediction_as_it_was(
    qtbot: QtBot, panel: CorrectionPanel, out: Path
) -> None:
    folder = out / "fish"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    labels = begin(panel)
    paint_square(labels, 6, 20, 10, 8)
    qtbot.mouseClick(panel.slice_button, Qt.MouseButton.LeftButton)
    settle(qtbot, panel)
    (found,) = labelled(out)
    assert found.slices == {0: (6,)}
    assert (read_labels(found.labels)[0][6, 20:28, 10:18] == 1).all()
    assert panel.slice_button.text() == "Take slice out of labelled set"
    assert "is in the labelled set" in panel.message.text()
    qtbot.mouseClick(panel.volume_button, Qt.MouseButton.LeftButton)
    settle(qtbot, panel)
    assert labelled(out)[0].whole
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert after == before


def test_a_painted_value_that_is_no_class_is_refused_on_sending(
    qtbot: QtBot, panel: CorrectionPanel, out: Path
) -> None:
    labels = begin(panel)
    labels.selected_label = 9
    paint_square(labels, 6, 20, 10, 8)
    qtbot.mouseClick(panel.slice_button, Qt.MouseButton.LeftButton)
    settle(qtbot, panel)
    assert "has the value 9 at z 6" in panel.message.text()
    assert labelled(out) == ()


def test_closing_asks_nothing_and_loses_nothing(
    qtbot: QtBot, make: Make, out: Path
) -> None:
    panel = make()
    labels = begin(panel)
    paint_square(labels, 6, 20, 10, 8)
    close(panel)  # in the same instant
    assert [layer.name for layer in panel.canvas.viewer.layers] == []
    again = make()
    labels = begin(again, index=2)
    assert (np.asarray(labels.data)[6, 20:28, 10:18] == 1).all()
    again.state.poll()
    assert again.state.shown.slices == ((0, 6),)
    assert again.done_button.isEnabled()
    qtbot.mouseClick(again.done_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not again.state.busy)
    (file,) = (out / "corrections" / "fish" / "student").glob("labels.*")
    assert (read_labels(file)[0][6, 20:28, 10:18] == 1).all()


def delete_by_name(layers: Any, labels: Any) -> None:
    del layers[labels.name]


def delete_as_the_button_does(layers: Any, labels: Any) -> None:
    layers.selection = {labels}
    layers.remove_selected()


def delete_all(layers: Any, labels: Any) -> None:
    layers.select_all()
    layers.remove_selected()


@pytest.mark.parametrize(
    "delete", [delete_by_name, delete_as_the_button_does, delete_all]
)
def test_deleting_the_layer_is_being_done(
    qtbot: QtBot,
    plugged_in: CorrectionPanel,
    out: Path,
    delete: Callable[[Any, Any], None],
) -> None:
    panel = plugged_in
    labels = begin(panel)
    paint_square(labels, 6, 20, 10, 8)
    paint_square(labels, 9, 20, 10, 8)
    panel.state.poll()
    assert panel.interpolate_button.isEnabled()
    delete(panel.canvas.viewer.layers, labels)
    for widget in (panel.interpolate_button, panel.slice_button, panel.volume_button):
        assert not widget.isEnabled()
    qtbot.waitUntil(lambda: not panel.active)
    assert panel.correct_button.isEnabled()
    assert "layer was deleted" in panel.message.text()
    assert panel.message.isVisible()
    assert len(panel.canvas.viewer.layers) == 0
    assert panel.state.corrected(out, "fish", "student") == {(0, 6), (0, 9)}
    again = begin(panel)  # what was saved stays
    assert again.data[6, 20, 10] == again.data[9, 20, 10] == 1


def test_a_viewer_that_is_closed_loses_nothing(
    make_napari_viewer: Any, out: Path
) -> None:
    viewer = make_napari_viewer()
    review = Review()
    review.open_folder(out)
    panel = CorrectionPanel(viewer, review)
    viewer.window.add_dock_widget(panel, name="Correct")
    labels = begin(panel)
    paint_square(labels, 6, 20, 10, 8)
    state = panel.state
    del panel
    viewer.close()
    review.close()
    assert state.corrected(out, "fish", "student") == {(0, 6)}
