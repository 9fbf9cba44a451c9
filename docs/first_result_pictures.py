"""Takes the pictures of ``docs/tutorials/first-result.md``, step by step as it says.

Everything is done through napari's menus and the dock's buttons, so that what the
tutorial says has been followed whenever the pictures are taken. Without a display::

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/first_result_pictures.py
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtWidgets import QAction, QApplication, QMenu
from review_pictures import WINDOW, click, settle, wait

from napari_kdseg.volumes.formats import read_labels
from napari_kdseg.widgets.segment import SegmentDock

PLUGIN = "Knowledge Distillation Segmentation"


def main() -> None:
    """Follow the tutorial, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    images = Path(__file__).parent / "images"
    parser.add_argument("--out", type=Path, default=images)
    out = parser.parse_args().out
    viewer = napari.Viewer(title="napari", show=True)
    viewer.window.set_geometry(0, 0, *WINDOW)
    settle(1.0)
    choose("File", "Open Sample", PLUGIN, "Abdomen")
    if viewer.layers["abdomen truth"].visible:
        raise SystemExit("the tutorial says that the truth is hidden at first")
    choose("Plugins", PLUGIN, "Segment")
    dock = the_dock()
    dock.upright_button.click()
    segment(dock)
    picture(viewer, out / "first-result.png")
    viewer.layers["abdomen abdomen uncertainty"].visible = True
    viewer.layers["abdomen abdomen"].visible = False
    picture(viewer, out / "first-uncertainty.png")
    save(viewer)
    viewer.close()


def choose(*names: str) -> None:
    """Choose an entry of the menus by the beginnings of the names on the way to it."""
    window = next(w for w in QApplication.topLevelWidgets() if hasattr(w, "menuBar"))
    entries = window.menuBar().actions()
    for name in names:
        entry = next(one for one in entries if _text(one).startswith(name))
        menu: QMenu | None = entry.menu()
        if menu is None:
            entry.trigger()
        else:
            menu.aboutToShow.emit()  # napari fills some menus only then
            settle(0.2)
            entries = menu.actions()
    settle(1.0)


def _text(entry: QAction) -> str:
    return str(entry.text()).replace("&", "")


def the_dock() -> SegmentDock:
    """Find the dock that the menu opened."""
    found = (w for w in QApplication.allWidgets() if isinstance(w, SegmentDock))
    return next(found)


def segment(dock: SegmentDock) -> None:
    """Tick the first model, which knows all organs, and run it."""
    dock.boxes[0].click()
    settle(0.5)
    click(dock.run_button)
    wait(lambda: dock.state.status.phase in ("finished", "failed"))
    if dock.state.status.phase != "finished":
        raise SystemExit(dock.state.status.text)


def save(viewer: Any) -> None:
    """Save what was found as the tutorial does, and see that it is there."""
    found = viewer.layers["abdomen abdomen"]
    viewer.layers.selection = {found}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("found.nii.gz", "found.seg.nrrd"):
            viewer.layers.save(str(Path(folder) / name), selected=True)
            labels, _ = read_labels(Path(folder) / name)
            if (labels > 0).sum() != (np.asarray(found.data) > 0).sum():
                raise SystemExit(f"{name} does not hold what was found")


def picture(viewer: Any, path: Path) -> None:
    """Save a picture of the whole window."""
    settle(1.0)
    viewer.window.screenshot(str(path), canvas_only=False, flash=False)


if __name__ == "__main__":
    main()
