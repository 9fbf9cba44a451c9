"""Takes the pictures of the docks that the README shows, from the made scans.

Opens the real window, lists scans of several formats in a project, segments one with
the shipped models, measures and trains on made fish, and saves ``volumes.png``,
``segment.png``, ``teachers.png``, ``measure.png`` and ``train.png`` in
``docs/images``. Without a display::

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/screenshots.py
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QMainWindow, QWidget
from scipy.ndimage import binary_dilation

from kdseg_train.samples import write_sample
from kdseg_train.samples.fish import CLASSES
from napari_kdseg.shipped import shipped_models, shipped_volumes
from napari_kdseg.state.intake import scans_of
from napari_kdseg.state.measurement import Measurement
from napari_kdseg.state.segmentation import Segmentation
from napari_kdseg.state.training import Training
from napari_kdseg.state.training_runs import KnownRuns
from napari_kdseg.state.training_schema import Methods
from napari_kdseg.state.training_setup import Setup
from napari_kdseg.state.volumes import Volumes
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.convert import convert
from napari_kdseg.volumes.formats import read_labels, write_labels
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.widgets.measure import MeasureDock
from napari_kdseg.widgets.segment import SegmentDock
from napari_kdseg.widgets.teachers import TeachersDock
from napari_kdseg.widgets.train import TrainDock
from napari_kdseg.widgets.volumes import VolumesDock

WINDOW = (1600, 1000)
DOCK_WIDTH = 460
PATIENCE_S = 900  # a training from the dock has all cores but one


def main() -> None:
    """Take the pictures."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        viewer = napari.Viewer(title="napari", show=True)
        viewer.window.set_geometry(0, 0, *WINDOW)
        _volumes(viewer, options, Path(cache))
        viewer.layers.clear()
        viewer.open(str(options.scan), plugin="napari-kdseg")
        _segment(viewer, options, Path(cache))
        _teachers(viewer, options)
        viewer.layers.clear()
        _measure(viewer, options, Path(cache))
        _train(viewer, options, Path(cache))
        viewer.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", type=Path, help="by default the shipped abdomen")
    parser.add_argument(
        "--models", type=Path, nargs="*", help="by default the abdomen's own"
    )
    parser.add_argument("--slice", type=int, help="along z; by default the middle one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    options = parser.parse_args()
    options.scan = options.scan or shipped_volumes()["abdomen"]
    if options.models is None:
        known = shipped_models()
        options.models = [known[name] for name in known if name.startswith("abdomen")]
    return options


def _volumes(viewer: Any, options: argparse.Namespace, folder: Path) -> None:
    """List scans of several formats in a project, open one, and take the picture."""
    scans = shipped_volumes()
    for name, ending in (("abdomen", ".nrrd"), ("fish", ".ome.zarr"), ("brain", "")):
        labels = scans[name].with_name(f"{name}-labels.nii.gz")
        if ending:
            convert(scans[name], folder / f"{name}{ending}")
            convert(labels, folder / f"{name}-labels.seg.nrrd", labels=True)
    state = Volumes(cache=Cache(folder / "cache"))
    dock = VolumesDock(viewer, state)
    viewer.window.add_dock_widget(dock, name="Volumes", area="right")
    _widen(dock)
    state.create_project(folder / "atlas", "fish atlas")
    for intake in (state.look_at([folder]), state.look_at([scans["brain"]])):
        state.add(scans_of(intake.found))
        _wait(lambda: not state.status.busy)
    for scan, use in zip(state.scans, ("training", "test", "none"), strict=False):
        state.set_use(scan.case, use)
    case = next(scan.case for scan in state.scans if scan.case.startswith("fish"))
    state.select(case)
    state.open(case)
    _settle(1.0)
    viewer.dims.set_current_step(0, viewer.layers[0].data.shape[0] // 2)
    viewer.reset_view()
    _settle(1.0)
    viewer.window.screenshot(
        str(options.out / "volumes.png"), canvas_only=False, flash=False
    )
    viewer.window.remove_dock_widget(dock)


def _segment(viewer: Any, options: argparse.Namespace, cache: Path) -> None:
    """Run the models, and take the picture when the results are shown."""
    state = Segmentation(scratch=cache)
    state.add_shipped_models()
    dock = SegmentDock(viewer, state)
    viewer.window.add_dock_widget(dock, name="Segment", area="right")
    _widen(dock)
    for folder in options.models:
        state.choose(state.add_model(folder))
    depth = viewer.layers[0].data.shape[0]
    viewer.dims.set_current_step(0, options.slice or depth // 2)
    _settle(1.0)
    dock.upright_button.click()
    dock.run_button.click()
    _wait(lambda: not state.status.busy)
    if state.status.phase != "finished":
        raise SystemExit(state.status.text)
    student = next(m for m in state.chosen if m.card.role != "teacher")
    for layer in viewer.layers:
        shown = layer.name.endswith(student.card.name) or layer.name == "abdomen"
        layer.visible = shown
    viewer.reset_view()
    _settle(1.0)
    viewer.window.screenshot(
        str(options.out / "segment.png"), canvas_only=False, flash=False
    )
    viewer.window.remove_dock_widget(dock)


def _teachers(viewer: Any, options: argparse.Namespace) -> None:
    """Show the regions on the slice with most conflict, and take the picture."""
    dock = TeachersDock(viewer)
    viewer.window.add_dock_widget(dock, name="Teachers", area="right")
    _widen(dock)
    _settle(1.0)
    for layer in viewer.layers[1:]:
        layer.visible = False
    dock.regions_box.click()
    dock.conflict_button.click()
    _settle(1.0)
    viewer.window.screenshot(
        str(options.out / "teachers.png"), canvas_only=False, flash=False
    )
    viewer.window.remove_dock_widget(dock)


def _train(viewer: Any, options: argparse.Namespace, folder: Path) -> None:
    """Set a training on made fish up, let it come to its end, and take the picture."""
    write_sample("fish", folder / "to-learn", cases=10, size=64, seed=1)
    viewer.layers.clear()
    viewer.open(str(shipped_volumes()["fish"]), plugin="napari-kdseg")
    setup = Setup(Methods(folder / "methods"))
    training = Training(known=KnownRuns(folder / "trainings.json"))
    dock = TrainDock(viewer, setup, training)
    viewer.window.add_dock_widget(dock, name="Train", area="right")
    _widen(dock)
    _wait(lambda: bool(setup.method))
    setup.add(folder / "to-learn")
    _wait(lambda: not setup.busy)
    setup.start_from("supervised/small")
    setup.edit(("training", "epochs"), 12)
    dock.setup_page.start_button.click()
    _wait(lambda: training.job is not None and training.job.ended)
    if training.job is None or training.job.state != "finished":
        raise SystemExit(training.status or setup.status)
    viewer.reset_view()
    _settle(1.0)
    viewer.window.screenshot(
        str(options.out / "train.png"), canvas_only=False, flash=False
    )
    viewer.window.remove_dock_widget(dock)


def _measure(viewer: Any, options: argparse.Namespace, folder: Path) -> None:
    """Compare made fish with labels that lack something, and take the picture."""
    cases = 8
    write_sample("fish", folder / "fish", cases=cases, size=48, seed=3)
    _spoil_labels(folder / "fish" / "labelsTr", folder / "drawn")
    state = Measurement(scratch=folder)
    dock = MeasureDock(viewer, state)
    viewer.window.add_dock_widget(dock, name="Measure", area="right")
    _widen(dock)
    state.set_labels(folder / "drawn")
    state.change(images=folder / "fish")
    dock.run_button.click()
    _wait(lambda: not state.busy)
    if state.result is None:
        raise SystemExit(dock.message.text())
    state.change(reference=folder / "fish")
    dock.tolerance.setValue(0.05)
    dock.run_button.click()
    _wait(lambda: not state.busy)
    dock.measured.placeClicked.emit(state.result.worst()[0])
    viewer.reset_view()
    _settle(1.0)
    viewer.window.screenshot(
        str(options.out / "measure.png"), canvas_only=False, flash=False
    )
    viewer.window.remove_dock_widget(dock)


def _spoil_labels(source: Path, target: Path) -> None:
    """Copy labels; of one scan in four an organ is cut, or drawn too large."""
    target.mkdir()
    for number, file in enumerate(sorted(source.iterdir())):
        labels, grid = read_labels(file)
        names = LabelSet.from_names(CLASSES)
        if number % 4 == 1:
            bladder = labels == CLASSES.index("swim bladder") + 1
            labels[bladder & (np.arange(labels.shape[2]) % 8 < 5)] = 0
        if number % 4 == 3:
            liver = labels == CLASSES.index("liver") + 1
            labels[binary_dilation(liver, iterations=2)] = 5
        drawn = target / file.name.replace(".nii.gz", ".seg.nrrd")
        write_labels(drawn, labels, grid, names)


def _widen(dock: QWidget) -> None:
    window, shell = dock.window(), dock.parentWidget()
    while shell is not None and not isinstance(shell, QDockWidget):
        shell = shell.parentWidget()
    if isinstance(window, QMainWindow) and shell is not None:
        window.resizeDocks([shell], [DOCK_WIDTH], Qt.Orientation.Horizontal)


def _wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > until:
            raise SystemExit(f"Nothing came within {PATIENCE_S} s.")
        _settle(0.05)


def _settle(seconds: float) -> None:
    """Let the window draw itself."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
