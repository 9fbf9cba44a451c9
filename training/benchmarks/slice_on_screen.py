"""Seconds to open each dock, and from Run to the slice in view on the screen.

Opens the real window on a 256 x 256 x 256 scan (the shipped abdomen, enlarged) and runs
the shipped 2D student: first with a worker that is just starting (cold), then again
with another slice in view (warm). Without a display::

    xvfb-run -a -s "-screen 0 1600x1000x24" \
        python training/benchmarks/slice_on_screen.py
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtWidgets import QApplication
from scipy import ndimage

from napari_kdseg.shipped import shipped_models, shipped_volumes
from napari_kdseg.state.segmentation import Segmentation
from napari_kdseg.volumes.formats import read_volume, write_volume
from napari_kdseg.volumes.volume import Grid

DOCKS = ("Volumes", "Segment", "Teachers", "Review", "Train", "Measure")
SIZE = 256
PATIENCE_S = 120


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "large.nii.gz"
        enlarge(shipped_volumes()["abdomen"], scan)
        viewer = napari.Viewer(show=True)
        viewer.open(str(scan), plugin="napari-kdseg")
        settle(1.0)
        state = Segmentation(scratch=Path(folder) / "cache")
        state.add_shipped_models()
        for name in DOCKS:
            print(f"{name + ' opens':<24}{opened(viewer, name):6.2f} s")
        from napari_kdseg.widgets.segment import SegmentDock  # the menu's own is timed

        dock = SegmentDock(viewer, state)
        viewer.window.add_dock_widget(dock, name="Segment")
        QApplication.processEvents()
        state.choose(state.add_model(shipped_models()["abdomen"]))
        print(f"slice on screen, cold   {until_shown(viewer, dock, SIZE // 2):6.2f} s")
        for index in (SIZE // 2 - 20, SIZE // 2 + 20, SIZE // 2 + 10):
            dock.cancel_button.click()
            wait(lambda: not state.status.busy)
            remove_results(viewer, Path(folder) / "cache")
            shown = until_shown(viewer, dock, index)
            print(f"slice on screen, warm   {shown:6.2f} s")
        viewer.close()


def opened(viewer: Any, name: str) -> float:
    """Open a dock as the menu does, imports included; give the seconds."""
    started = time.perf_counter()
    area, _ = viewer.window.add_plugin_dock_widget("napari-kdseg", name)
    QApplication.processEvents()
    seconds = time.perf_counter() - started
    viewer.window.remove_dock_widget(area)
    return seconds


def until_shown(viewer: Any, dock: Any, index: int) -> float:
    """Press Run and wait until labels of the slice in view are drawn."""
    viewer.dims.set_current_step(0, index)
    settle(0.5)
    before = set(viewer.layers)
    started = time.perf_counter()
    dock.run_button.click()

    def shown() -> bool:
        new = [layer for layer in viewer.layers if layer not in before]
        return bool(new) and bool(np.asarray(new[0].data[index]).any())

    wait(shown)
    QApplication.processEvents()
    return time.perf_counter() - started


def remove_results(viewer: Any, cache: Path) -> None:
    """Forget what was predicted, so that it is predicted again."""
    for layer in list(viewer.layers)[1:]:
        viewer.layers.remove(layer)
    if cache.exists():
        cache.rename(cache.with_name(f"old-{time.monotonic_ns()}"))


def enlarge(source: Path, target: Path) -> None:
    """Write a scan with SIZE voxels along each axis over the same body."""
    volume = read_volume(source)
    data = np.asarray(volume.data[0])
    factors = [SIZE / size for size in data.shape]
    large = ndimage.zoom(data, factors, order=1)
    affine = volume.grid.affine.copy()
    affine[:3, :3] /= np.array(factors[::-1])
    write_volume(target, large, Grid.from_affine(affine, large.shape))


def wait(done: Callable[[], bool]) -> None:
    """Let the window live until something is so."""
    until = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > until:
            raise SystemExit(f"nothing came within {PATIENCE_S} s")
        QApplication.processEvents()
        time.sleep(0.005)


def settle(seconds: float) -> None:
    """Let the window draw itself."""
    until = time.monotonic() + seconds
    wait(lambda: time.monotonic() > until)


if __name__ == "__main__":
    main()
