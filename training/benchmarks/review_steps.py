"""From a key to the next slice on screen, judging scans of 3000 x 1000 x 1000 voxels.

    xvfb-run -a -s "-screen 0 1600x1000x24" python training/benchmarks/review_steps.py

Three predictions of such scans lie in OME-Zarr; the Review dock in the real window
shows them in queue order (at random, another scan each time). A person's pace is kept,
one verdict in 0.7 s. Measured is from the key to the moment the canvas' window has been
handed a frame in which the next slice was drawn; the verdict is on disk by then. Beside
it stands the time that the window's thread was at work, which a busy computer does not
change much. Before it comes what no dock can go below: the same from asking for a frame
in which nothing has changed. Then the time of a contact sheet, from opening it to its
last picture. ``--folder`` keeps the made scans for another time.
"""

import argparse
import json
import platform
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from big_scan import FACE, SPACING_MM, blocks

PACE_S = 0.7
PATIENCE_S = 60.0
SCANS = 3
SETTLE_S = 10.0  # what a person takes to look at the first slice of an axis
FRAMES = 20


def main() -> None:
    """Make what is judged, judge it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--depth", type=int, default=3000)
    parser.add_argument("--verdicts", type=int, default=60, help="along each axis")
    arguments = parser.parse_args()
    print(f"{date.today().isoformat()}, {platform.processor() or platform.machine()}\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        out = made(folder, arguments.depth)
        judged(out, arguments.verdicts)


# ---- Judging ----


def judged(out: Path, verdicts: int) -> None:
    """Judge along each axis in the real window."""
    import napari
    from qtpy.QtCore import QSettings
    from qtpy.QtWidgets import QApplication

    from napari_kdseg.widgets.review.dock import ReviewDock

    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1600, 1000)
    settings = QSettings(str(out / "settings.ini"), QSettings.Format.IniFormat)
    dock = ReviewDock(viewer, settings=settings)
    viewer.window.add_dock_widget(dock, name="Review")
    frames = Frames(viewer, dock)
    dock.open_folder(out)
    dock.who.setName(f"benchmark {uuid.uuid4().hex[:6]}")
    dock.panel.start_button.click()
    QApplication.processEvents()
    wait(lambda: dock.judging.can_judge)
    idle(SETTLE_S)
    print(f"a frame in which nothing has changed: {unchanged(frames):.0f} ms\n")
    print("| along | verdicts | median ms | 95th percentile ms | at work, median ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for axis, name in enumerate("zyx"):
        found = steps_along(frames, dock, axis, verdicts)
        median, high = np.percentile(found[:, 0], (50, 95))
        row = f"{len(found)} | {median:.0f} | {high:.0f} | {np.median(found[:, 1]):.0f}"
        print(f"| stored axis {axis} ({name}) | {row} |", flush=True)
    assert dock.state.counts.judged >= verdicts, "verdicts are missing"
    dock.state.axis = 0
    idle(SETTLE_S)
    started = time.perf_counter()
    dock.panel.sheet_button.click()
    wait(lambda: dock.sheet.isVisible() and not dock.sheet.view.missing())
    QApplication.processEvents()
    print(f"\ncontact sheet of 25 slices: {time.perf_counter() - started:.2f} s")
    dock.sheet.close()
    viewer.close()


class Frames:
    """Notes when a slice is on screen: drawn, and its frame handed to the window.

    Attributes
    ----------
    shown, count
        The slice of the last frame, and how many there have been.
    at, worked
        When that was, and how long this thread had been at work by then, in seconds.
    """

    def __init__(self, viewer: Any, dock: Any) -> None:
        self._dock = dock
        self._drawn: Any = None
        self.shown: Any = None
        self.count = 0
        self.at = self.worked = 0.0
        canvas = viewer.window._qt_viewer.canvas
        self.native = canvas.native
        canvas._scene_canvas.events.draw.connect(self._on_draw, position="last")
        self.native.frameSwapped.connect(self._on_swapped)

    def _on_draw(self, _event: Any) -> None:
        picture = self._dock.judging.canvas.picture
        self._drawn = None if picture is None else picture.plane.about

    def _on_swapped(self) -> None:
        self.count += 1
        if self._drawn != self.shown:
            self.shown = self._drawn
            self.at, self.worked = time.perf_counter(), time.thread_time()


def unchanged(frames: Frames) -> float:
    """Milliseconds from asking for a frame to having it on screen, median."""
    found = []
    for _ in range(FRAMES):
        before, started = frames.count, time.perf_counter()
        frames.native.update()
        wait(lambda: frames.count > before)  # noqa: B023 - now
        found.append((time.perf_counter() - started) * 1e3)
        idle(PACE_S / 2)
    return float(np.median(found))


def steps_along(frames: Frames, dock: Any, axis: int, verdicts: int) -> np.ndarray:
    """Milliseconds from each key to the next slice on screen, and those at work."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    tester: Any = QTest  # its stubs ask for an instance
    dock.state.axis = axis
    wait(lambda: dock.judging.can_judge)
    idle(SETTLE_S)
    found = []
    for number in range(verdicts):
        judged = dock.state.current
        wait(lambda: frames.shown == dock.state.current)
        started, worked = time.perf_counter(), time.thread_time()
        tester.keyClick(
            frames.native, Qt.Key.Key_J if number % 3 == 2 else Qt.Key.Key_G
        )
        wait(lambda: frames.shown == dock.state.current != judged)  # noqa: B023 - now
        taken = frames.at - started
        found.append((taken * 1e3, (frames.worked - worked) * 1e3))
        idle(max(0.0, PACE_S - taken))
    return np.array(found)


def idle(seconds: float) -> None:
    """Let the window live for a while."""
    end = time.perf_counter() + seconds
    wait(lambda: time.perf_counter() >= end)


def wait(ready: Callable[[], bool]) -> None:
    """Let the window live until something is so."""
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + PATIENCE_S
    while not ready():
        if time.perf_counter() > end:
            raise TimeoutError("the dock did not show the next slice in time")
        QApplication.processEvents()
        time.sleep(0.001)


# ---- Made predictions ----


def made(folder: Path, depth: int) -> Path:
    """Write scans and predictions of them, unless they are there."""
    from napari_kdseg.volumes.volume import Grid

    grid = Grid.from_affine(
        np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0]), (depth, *FACE)
    )
    out = folder / "predictions"
    for number in range(SCANS):
        case = f"fish_{number}"
        scan = folder / f"{case}.ome.zarr"
        if not scan.exists():
            write_scan(scan, grid)
        if not (out / case).exists():
            write_prediction(out / case / "student", case, scan, grid)
    return out


def write_scan(path: Path, grid: Any) -> None:
    """Write a scan with its coarser levels."""
    from napari_kdseg.volumes.formats import Header
    from napari_kdseg.volumes.pyramid import write_pyramid

    header = Header(path, grid, ("image",), np.dtype(np.uint16))
    write_pyramid(path, header, blocks(grid.shape[0]), kind="image")


def write_prediction(folder: Path, case: str, scan: Path, grid: Any) -> None:
    """Write labels of two nested organs, as ``kdseg-train predict`` would."""
    from napari_kdseg.volumes.formats import ome_zarr
    from napari_kdseg.volumes.labels import LabelSet

    classes = LabelSet.from_names(["body", "gut"])
    folder.mkdir(parents=True)
    labels = folder / "labels.ome.zarr"
    array = ome_zarr.create_array(labels, grid.shape, np.uint8, grid, labels=classes)
    step = array.chunks[0]
    for start in range(0, grid.shape[0], step):
        stop = min(start + step, grid.shape[0])
        array[start:stop] = organs(np.arange(start, stop), grid.shape[0])
    ome_zarr.finish(labels)
    record = {
        "version": 1,
        "uuid": str(uuid.uuid4()),
        "case": case,
        "model": {
            "name": "student",
            "role": "student",
            "fingerprint": "ab" * 32,
            "licence": "",
        },
        "labels": {
            "file": labels.name,
            "sha256": uuid.uuid4().hex * 2,
            "classes": classes.model_dump(mode="json")["classes"],
        },
        "source": [{"path": str(scan), "sha256": "0" * 64}],
        "grid": asdict(grid),
        "settings": {},
        "seconds": 1.0,
    }
    (folder / "prediction.json").write_text(json.dumps(record), encoding="utf-8")


def organs(z: np.ndarray, depth: int) -> np.ndarray:
    """Two nested ellipsoids that wander a little."""
    y, x = np.mgrid[: FACE[0], : FACE[1]]
    found = np.zeros((len(z), *FACE), np.uint8)
    for plane, index in zip(found, z, strict=True):
        along = 1 - ((index - depth / 2) / (0.45 * depth)) ** 2
        away = (y - 500 - 40 * np.sin(index / 50)) ** 2 + (x - 500) ** 2
        plane[away < 300**2 * along] = 1
        plane[away < 100**2 * along] = 2
    return found


if __name__ == "__main__":
    main()
