"""The Segment dock in a real viewer, with a real worker."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import pytest
from napari.layers import Labels
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_kdseg.contributions import write_labels_nifti
from napari_kdseg.models.model import Model
from napari_kdseg.state.jobs import Worker
from napari_kdseg.state.layers import NAMESPACE
from napari_kdseg.state.segmentation import Segmentation
from napari_kdseg.state.teachers import Teachers
from napari_kdseg.state.volumes import Volumes
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.formats import write_volume
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.volumes.volume import Grid
from napari_kdseg.widgets.segment import SegmentDock
from napari_kdseg.widgets.volumes import VolumesDock

MakeModel = Callable[..., Model]
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One warm process for all tests: it takes seconds to load."""
    shared = Worker()
    yield shared
    shared.close()


@pytest.fixture
def dock(
    make_napari_viewer: Any, tmp_path: Path, worker: Worker
) -> Iterator[SegmentDock]:
    viewer = make_napari_viewer()
    widget = SegmentDock(viewer, Segmentation(worker, tmp_path / "cache"))
    shell = viewer.window.add_dock_widget(widget, name="Segment")
    yield widget
    viewer.window.remove_dock_widget(shell)


@pytest.mark.parametrize("seen_along", ["z", "y", "x"])
def test_upright_turns_the_picture_and_not_the_scan(
    qtbot: QtBot, dock: SegmentDock, scan: Path, seen_along: str
) -> None:
    assert not dock.upright_button.isEnabled()
    dock.viewer.open(str(scan), plugin="napari-kdseg")  # an LPS scan
    before = dock.viewer.layers[0].data.copy()
    order = {"z": (0, 1, 2), "y": (1, 0, 2), "x": (2, 0, 1)}[seen_along]
    dock.viewer.dims.order = order
    qtbot.mouseClick(dock.upright_button, Qt.MouseButton.LeftButton)
    turned = tuple(str(way) for way in dock.viewer.camera.orientation2d)
    expected = {"z": ("down", "right"), "y": ("up", "right"), "x": ("up", "right")}
    assert turned == expected[seen_along]
    assert np.array_equal(dock.viewer.layers[0].data, before)


def tick(dock: SegmentDock, *models: Model) -> None:
    for model in models:
        dock.state.add_model(model.folder)
    names = [model.card.name for model in models]
    for box in dock.boxes:
        if box.text() in names:
            box.click()


def run_to_end(qtbot: QtBot, dock: SegmentDock) -> None:
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    assert dock.state.status.busy
    qtbot.waitUntil(lambda: not dock.state.status.busy, timeout=PATIENCE_MS)


def labels_in(dock: SegmentDock) -> list[Any]:
    return [layer for layer in dock.viewer.layers if isinstance(layer, Labels)]


def test_a_scan_is_segmented_from_the_dock(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, scan: Path, tmp_path: Path
) -> None:
    dock.viewer.open(str(scan), plugin="napari-kdseg")
    assert dock.badge.text() == "LPS, 1.0 x 1.5 x 2.0 mm · 1 channel · float32"
    tick(dock, make_model("organs"))
    assert "memory" in dock.estimate.text()
    run_to_end(qtbot, dock)
    assert dock.state.status.phase == "finished", dock.message.text()

    [labels] = labels_in(dock)
    image = dock.viewer.layers["case"]
    assert labels.name == "case organs"
    assert np.array_equal(labels.scale, image.scale)
    assert np.array_equal(labels.translate, image.translate)
    assert isinstance(labels.data, np.ndarray)  # published: may be painted on
    # What is under the mouse is named in the status bar.
    place = labels.data_to_world(np.argwhere(labels.data == 1)[0])
    dock.viewer.dims.set_point(0, place[0])
    status = labels.get_status(place, world=True)
    assert "class: spleen" in status["coordinates"]
    # What is saved lies on the grid of the scan.
    data, arguments, _ = labels.as_layer_data_tuple()
    write_labels_nifti(str(tmp_path / "saved.nii.gz"), data, arguments)
    written, source = nibabel.load(tmp_path / "saved.nii.gz"), nibabel.load(scan)
    assert np.allclose(written.affine, source.affine)
    assert written.shape == source.shape


def test_a_scan_is_segmented_again_with_another_preset_once_that_is_offered(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, scan: Path, tmp_path: Path
) -> None:
    dock.state.set_out(tmp_path / "results")
    dock.viewer.open(str(scan), plugin="napari-kdseg")
    tick(dock, make_model("organs"))
    run_to_end(qtbot, dock)
    assert dock.run_button.text() == "Run"
    dock.preset.setCurrentText("draft")
    assert dock.run_button.text() == "Replace and run"
    assert "case has results of organs of other settings." in dock.estimate.text()
    run_to_end(qtbot, dock)
    assert dock.state.status.phase == "finished", dock.message.text()
    record = json.loads((tmp_path / "results/case/organs/prediction.json").read_text())
    assert record["settings"]["preset"] == "draft"
    [aside] = (tmp_path / "results").glob(".earlier-*")
    earlier = json.loads((aside / "case/organs/prediction.json").read_text())
    assert earlier["settings"]["preset"] == "exact"
    assert dock.run_button.text() == "Run"


def test_the_dock_shows_what_repeats_the_run(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, scan: Path
) -> None:
    dock.viewer.open(str(scan), plugin="napari-kdseg")
    model = make_model("organs")
    tick(dock, model)
    assert not dock.copy_button.isEnabled()
    run_to_end(qtbot, dock)
    qtbot.mouseClick(dock.copy_button, Qt.MouseButton.LeftButton)
    words = QGuiApplication.clipboard().text().split()
    assert words[:3] == ["kdseg-train", "predict", str(scan)]
    assert words[words.index("--model") + 1] == str(model.folder)


def test_cancel_keeps_finished_tiles_and_run_goes_on(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, tmp_path: Path
) -> None:
    voxels = np.random.default_rng(0).normal(size=(400, 64, 64)).astype(np.float32)
    dock.viewer.add_image(voxels, name="long scan")
    tick(dock, make_model("organs"))
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(
        lambda: (
            dock.state.status.phase == "running" and dock.state.status.fraction > 0.02
        ),
        timeout=PATIENCE_MS,
    )
    qtbot.mouseClick(dock.cancel_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.state.status.busy, timeout=PATIENCE_MS)
    assert dock.state.status.phase == "cancelled"
    [labels] = labels_in(dock)
    kept = np.flatnonzero(np.asarray(labels.data).any(axis=(1, 2)))
    assert 0 < len(kept) < 400
    # The Teachers dock averages what there is, and leaves the rest open.
    teachers = Teachers()
    teachers.look(dock.viewer.layers)
    assert teachers.case is not None
    assert teachers.case.growing
    teachers.poll()
    assert teachers.profile is not None
    known = np.isfinite(teachers.profile.means("uncertainty", 0))
    assert 0 < known.sum() < 400

    run_to_end(qtbot, dock)
    assert dock.state.status.phase == "finished"
    [labels] = labels_in(dock)
    assert np.asarray(labels.data).any(axis=(1, 2)).all()


def test_models_that_do_not_fit_cannot_be_ticked(
    dock: SegmentDock, make_model: MakeModel, scan: Path
) -> None:
    dock.state.add_model(make_model("mr", channels=("T1", "T2")).folder)
    dock.state.add_model(make_model("ct").folder)
    dock.viewer.open(str(scan), plugin="napari-kdseg")
    fit, unfit = dock.boxes
    assert [fit.text(), unfit.text()] == ["ct", "mr"]  # those that fit come first
    assert fit.isEnabled()
    assert not unfit.isEnabled()
    assert "takes 2 (T1, T2)" in unfit.toolTip()


def test_run_needs_a_scan_and_a_model(
    dock: SegmentDock, make_model: MakeModel, scan: Path
) -> None:
    assert "Open a scan" in dock.estimate.text()
    assert not dock.run_button.isEnabled()
    dock.viewer.open(str(scan), plugin="napari-kdseg")
    assert "Tick at least one model" in dock.estimate.text()
    tick(dock, make_model("organs"))
    assert dock.run_button.isEnabled()


def test_results_are_no_scans_to_segment(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, scan: Path
) -> None:
    dock.viewer.open(str(scan), plugin="napari-kdseg")
    tick(dock, make_model("organs"))
    run_to_end(qtbot, dock)
    kinds = [layer.metadata[NAMESPACE]["kind"] for layer in dock.viewer.layers]
    assert sorted(kinds) == ["image", "labels", "uncertainty"]
    choices = [dock.layer_choice.itemText(i) for i in range(dock.layer_choice.count())]
    assert choices == ["case"]


def test_a_scan_with_a_hole_in_it_is_refused_in_one_sentence(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel
) -> None:
    voxels = np.zeros((8, 32, 32), np.float32)
    voxels[3, 4, 5] = np.nan
    dock.viewer.add_image(voxels, name="broken")
    tick(dock, make_model("organs"))
    run_to_end(qtbot, dock)
    assert dock.state.status.phase == "failed"
    assert "NaN or infinite" in dock.message.text()
    assert not labels_in(dock)


def test_the_project_of_the_volumes_dock_has_models_and_a_place_for_results(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, tmp_path: Path
) -> None:
    state = Volumes(cache=Cache(tmp_path / "cache"), scratch=tmp_path / "scratch")
    volumes = VolumesDock(dock.viewer, state)
    shell = dock.viewer.window.add_dock_widget(volumes, name="Volumes")
    state.create_project(tmp_path / "atlas", "atlas")
    place = tmp_path / "atlas" / "models" / "mine"
    place.parent.mkdir(exist_ok=True)
    make_model("mine").folder.rename(place)
    qtbot.waitUntil(lambda: [box.text() for box in dock.boxes] == ["mine"])
    assert dock.out.text() == str(tmp_path / "atlas" / "predictions")
    dock.viewer.window.remove_dock_widget(shell)
    dock._on_look()
    assert dock.out.text() == str(tmp_path / "atlas" / "predictions")


def test_only_what_is_chosen_changes_where_results_go(
    dock: SegmentDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not dock.project_action.isEnabled()
    (tmp_path / "atlas").mkdir()
    dock.state.set_project(tmp_path / "atlas")
    predictions, answers = str(tmp_path / "atlas" / "predictions"), ["", str(tmp_path)]
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: answers.pop(0))
    dock.folder_action.trigger()  # and Cancel
    assert dock.out.text() == predictions
    dock.folder_action.trigger()
    assert dock.out.text() == str(tmp_path)
    dock.cache_action.trigger()
    assert dock.out.text() == ""
    dock.project_action.trigger()
    assert dock.out.text() == predictions


@pytest.mark.slow
def test_all_scans_of_the_project_are_segmented_and_the_open_one_shows_it(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, scan: Path, tmp_path: Path
) -> None:
    assert dock.project.isHidden()
    state = Volumes(cache=Cache(tmp_path / "cache"), scratch=tmp_path / "scratch")
    volumes = VolumesDock(dock.viewer, state)
    dock.viewer.window.add_dock_widget(volumes, name="Volumes")
    state.create_project(tmp_path / "atlas", "atlas")
    assert state.project is not None
    state.project.add_scan(NewScan((VolumeFile(scan),)))
    state.refresh()
    state.open("case")
    qtbot.waitUntil(lambda: dock.state.source is not None, timeout=PATIENCE_MS)
    qtbot.waitUntil(lambda: not dock.project.isHidden())
    assert not dock.all_button.isEnabled()
    tick(dock, make_model("organs"))
    qtbot.waitUntil(dock.all_button.isEnabled)
    assert "1 scan without predictions" in dock.all_message.text()
    qtbot.mouseClick(dock.all_button, Qt.MouseButton.LeftButton)
    assert dock.stop_button.isEnabled()
    qtbot.waitUntil(lambda: not dock.whole.busy, timeout=PATIENCE_MS)
    assert "judge the predictions in Review" in dock.all_message.text()
    assert (tmp_path / "atlas/predictions/case/organs/labels.nii.gz").is_file()
    # The open scan is shown its results, as after a single Run.
    [labels] = labels_in(dock)
    assert labels.name == "case organs"
    assert labels.visible
    assert dock.viewer.layers.selection.active is labels
    assert "those of case are in the viewer" in dock.all_message.text()


def two_scans(dock: SegmentDock, scan: Path, tmp_path: Path) -> Volumes:
    """List the scan and another one, and open the first."""
    state = Volumes(cache=Cache(tmp_path / "cache"), scratch=tmp_path / "scratch")
    dock.viewer.window.add_dock_widget(VolumesDock(dock.viewer, state), name="Volumes")
    other = shutil.copy(scan, scan.with_name("other.nii.gz"))
    state.add([NewScan((VolumeFile(path),)) for path in (scan, Path(other))])
    while state.status.busy:
        state.poll()
    state.open("case")
    return state


def test_a_run_names_its_scan_and_shows_its_results_with_it(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, scan: Path, tmp_path: Path
) -> None:
    volumes = two_scans(dock, scan, tmp_path)
    tick(dock, make_model("organs"))
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    assert not dock.message.text().startswith("case:")
    volumes.open("other")
    assert dock.message.text().startswith("case:")
    qtbot.waitUntil(lambda: not dock.state.status.busy, timeout=PATIENCE_MS)
    assert dock.message.text().startswith("case: Finished in")
    other = dock.viewer.layers["other"]
    assert [layer for layer in dock.viewer.layers if layer.visible] == [other]
    assert dock.viewer.layers.selection.active is other
    volumes.open("case")
    assert dock.message.text().startswith("Finished in")
    assert dock.viewer.layers["case organs"].visible


# ---- A person is at work in the canvas ----


def test_results_do_not_take_the_brush_from_a_layer_that_is_painted_on(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, scan: Path
) -> None:
    dock.viewer.open(str(scan), plugin="napari-kdseg")
    image = dock.viewer.layers["case"]
    mine = dock.viewer.add_labels(np.zeros(image.data.shape, np.uint8), name="mine")
    mine.mode = "paint"
    tick(dock, make_model("organs"))
    run_to_end(qtbot, dock)
    assert dock.state.status.phase == "finished", dock.message.text()
    assert dock.viewer.layers.selection.active is mine
    assert mine.mode == "paint"
    [result] = [layer for layer in labels_in(dock) if layer is not mine]
    assert not result.visible
    assert "in the layer list" in dock.message.text()
    # Without the brush in hand it is shown as ever.
    mine.mode = "pan_zoom"
    run_to_end_at_once(qtbot, dock)
    assert result.visible
    assert dock.viewer.layers.selection.active is result
    assert "in the layer list" not in dock.message.text()


def test_results_do_not_cover_the_slice_that_is_judged(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, scan: Path
) -> None:
    dock.viewer.open(str(scan), plugin="napari-kdseg")
    tick(dock, make_model("organs"))
    review = Judged()
    dock.viewer.window.add_dock_widget(review, name="Review")
    before = dock.viewer.layers.selection.active
    run_to_end(qtbot, dock)
    [result] = labels_in(dock)
    assert not result.visible
    assert dock.viewer.layers.selection.active is before
    assert "in the layer list" in dock.message.text()


def test_results_are_not_replaced_while_slices_are_judged(
    qtbot: QtBot, dock: SegmentDock, make_model: MakeModel, scan: Path, tmp_path: Path
) -> None:
    dock.state.set_out(tmp_path / "results")
    dock.viewer.open(str(scan), plugin="napari-kdseg")
    tick(dock, make_model("organs"))
    run_to_end(qtbot, dock)
    dock.preset.setCurrentText("draft")
    dock.viewer.window.add_dock_widget(Judged(), name="Review")
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    assert "Stop judging" in dock.message.text()
    assert not list((tmp_path / "results").glob(".earlier-*"))


class Judged(QWidget):
    holds_canvas = reads_results = True


def run_to_end_at_once(qtbot: QtBot, dock: SegmentDock) -> None:
    qtbot.mouseClick(dock.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.state.status.busy, timeout=PATIENCE_MS)


def test_closing_the_dock_lets_go_of_everything(
    qtbot: QtBot, make_napari_viewer: Any, make_model: MakeModel, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    state = Segmentation(scratch=tmp_path)
    shell = viewer.window.add_dock_widget(SegmentDock(viewer, state), name="Segment")
    state.worker.start()
    events = (viewer.layers.events.inserted, viewer.layers.events.renamed)
    before = [len(event.callbacks) for event in events]
    viewer.window.remove_dock_widget(shell)
    assert [len(event.callbacks) for event in events] == [n - 1 for n in before]
    assert not state.worker.changed
    state.worker.poll()
    assert not state.worker.ready


def test_the_worker_ends_with_the_window(
    qtbot: QtBot, make_napari_viewer: Any, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    state = Segmentation(scratch=tmp_path)
    viewer.window.add_dock_widget(SegmentDock(viewer, state), name="Segment")
    before = set(psutil.Process().children())
    state.worker.start()
    [process] = set(psutil.Process().children()) - before
    viewer.close()
    qtbot.waitUntil(lambda: not process.is_running())


def test_a_scan_that_is_opened_is_the_one_to_segment_with_models_of_its_kind(
    dock: SegmentDock, make_model: MakeModel, scan: Path, tmp_path: Path
) -> None:
    dock.viewer.open(str(scan), plugin="napari-kdseg")
    tick(dock, make_model("organs"))
    for name, edge_mm in (("alike", 0.7), ("fish", 0.02)):
        grid = Grid.from_affine(np.diag([edge_mm] * 3 + [1.0]), (4, 32, 32))
        write_volume(tmp_path / f"{name}.nii.gz", np.zeros(grid.shape, np.int16), grid)
        dock.viewer.open(str(tmp_path / f"{name}.nii.gz"), plugin="napari-kdseg")
        assert dock.layer_choice.currentText() == name
        assert [box.isChecked() for box in dock.boxes] == [name == "alike"]
    assert "Ticked for another kind of scan: organs." in dock.estimate.text()
    assert not dock.run_button.isEnabled()
    dock.layer_choice.setValue(dock.viewer.layers["case"])
    assert dock.boxes[0].isChecked()
    # What a person makes of a scan is no scan that was opened.
    dock.viewer.add_image(np.zeros((4, 32, 32)), name="smoothed")
    assert dock.layer_choice.currentText() == "case"
