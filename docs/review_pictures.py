"""Takes the pictures of ``docs/review.md``: from a prediction to a student.

Opens the real window on made fish, judges slices by keys and on the contact sheet,
trains a classifier, audits it, corrects a slice and starts a student: an evening's work
in minutes. Without a display::

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/review_pictures.py

The person is made, too: whoever judges here knows the truth.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QPoint, QSettings, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

from napari_kdseg.project import Project
from napari_kdseg.review.verdicts import About, slice_dice
from napari_kdseg.shipped import shipped_models
from napari_kdseg.volumes.formats import read_labels
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.widgets.review.dock import ReviewDock

WINDOW = (1600, 1000)
DOCK_WIDTH = 470
PATIENCE_S = 600
SEED = 5
UNLABELLED = 3
KEYED, SHEETS = 70, 2  # slices judged by key, and pages of 25
CLASSIFIER = {  # of made fish, in seconds
    "size_vox": 64,
    "width": 8,
    "training.epochs": 10,
    "training.iterations_per_epoch": 20,
    "training.batch": 16,
    "training.learning_rate": 0.002,
}
STUDENT = {
    "device": "cpu",
    "patch_vox": [48, 64],
    "training.epochs": 1,
    "training.iterations_per_epoch": 10,
    "training.batch": 4,
}

Picture = Callable[[str, QWidget], None]
"""Called when there is something to see: a name, and the window to be seen."""


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    images = Path(__file__).parent / "images" / "review"
    parser.add_argument("--out", type=Path, default=images)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        viewer = napari.Viewer(title="napari", show=True)
        viewer.window.set_geometry(0, 0, *WINDOW)

        def picture(name: str, window: QWidget) -> None:
            settle(1.0)
            window.grab().save(str(out / f"{name}.png"))

        evening = Evening(viewer, predicted_project(Path(temporary)), picture)
        evening.work()
        evening.close()
        viewer.close()


# ---- The project ----


def predicted_project(folder: Path) -> Path:
    """Make fish, a project of them, and predictions by the shipped model."""
    count = str(UNLABELLED + 1)
    command(
        "sample", "fish", "--out", folder / "fish", "--cases", count, "--seed", SEED
    )
    scans = sorted((folder / "fish" / "imagesTr").glob("*.nii.gz"))
    truth = folder / "fish" / "labelsTr"
    with Project.create(folder / "project", "Medaka") as project:
        for scan in scans[:UNLABELLED]:
            project.add_scan(NewScan((VolumeFile(scan),)))
        drawn = VolumeFile(truth / scans[-1].name)
        project.add_scan(NewScan((VolumeFile(scans[-1]),), drawn))
        out = project.folder / "predictions"
    model = shipped_models()["fish"]
    command("predict", *scans[:UNLABELLED], "--model", model, "--out", out)
    return folder / "project"


def command(*words: object) -> None:
    """Run ``kdseg-train`` as a person does."""
    line = [sys.executable, "-m", "kdseg_train", *map(str, words)]
    subprocess.run(line, check=True, capture_output=True)


# ---- The evening ----


@dataclass
class Evening:
    """What a person does in the Review dock, step by step."""

    viewer: Any
    folder: Path
    picture: Picture
    dock: ReviewDock = field(init=False)
    _dice: dict[str, np.ndarray] = field(default_factory=dict)
    _fair: float = 0.0

    def work(self) -> None:
        """Do all of it."""
        self.open()
        self.judge_by_key(KEYED)
        self.take_back_and_judge_again()
        self.judge_by_page(SHEETS)
        self.close()
        self.open()
        self.train()
        self.audit()
        self.correct()
        self.hand_over()

    def open(self) -> None:
        """Open the dock, and in it the project."""
        settings = QSettings(
            str(self.folder.parent / "settings.ini"), QSettings.Format.IniFormat
        )
        self.dock = ReviewDock(self.viewer, settings=settings)
        self.viewer.window.add_dock_widget(self.dock, name="Review", area="right")
        self.dock.setMinimumWidth(DOCK_WIDTH)
        self.dock.grading.add_model_folders(shipped_models().values())
        self.dock.open_folder(self.folder)
        self.dock.who.setName("Ada")
        self.picture("1-project", self.dock.window())

    def close(self) -> None:
        """Close the dock as a person does."""
        self.viewer.window.remove_dock_widget(self.dock)
        settle(0.1)

    # ---- Judging ----

    def judge_by_key(self, count: int) -> None:
        """Judge so many slices with G and J."""
        click(self.dock.panel.start_button)
        for number in range(count):
            wait(lambda: self.dock.judging.can_judge)
            if number == count // 2:
                self.picture("2-judging", self.dock.window())
            self.press("g" if self.is_good(self.here) else "j")
        wait(lambda: self.dock.judging.can_judge)

    def take_back_and_judge_again(self) -> None:
        """Take the last verdict back, and give it again."""
        self.press("u")
        wait(lambda: self.dock.judging.can_judge)
        self.press("g" if self.is_good(self.here) else "j")
        wait(lambda: self.dock.judging.can_judge)

    def judge_by_page(self, count: int) -> None:
        """Judge so many pages of the contact sheet."""
        click(self.dock.panel.sheet_button)
        sheet = self.dock.sheet
        for number in range(count):
            wait(lambda: bool(sheet.isVisible() and not sheet.view.missing()))
            for tile, about in enumerate(sheet.page):
                if not self.is_good(about):
                    QTest.mouseClick(
                        sheet.view,
                        Qt.MouseButton.LeftButton,
                        Qt.KeyboardModifier.NoModifier,
                        self.middle_of(tile),
                    )
            if number == 0:
                self.picture("3-contact-sheet", sheet)
            QTest.keyClick(sheet, Qt.Key.Key_Return)
            settle(0.2)
        sheet.close()

    def middle_of(self, tile: int) -> QPoint:
        """Where a picture of the sheet is clicked."""
        return self.dock.sheet.view.cell(tile).center().toPoint()

    def press(self, key: str) -> None:
        """Press a key, looking at the canvas."""
        QTest.keyClick(self.dock.window(), key)

    @property
    def here(self) -> About:
        """The slice to be judged."""
        about = self.dock.state.current
        assert about is not None
        return about

    def is_good(self, about: About) -> bool:
        """Judge as somebody does who knows the truth: half of the slices are good."""
        if about.case not in self._dice:
            self._learn_truth()
        return bool(self._dice[about.case][about.index] >= self._fair)

    def _learn_truth(self) -> None:
        for one in self.dock.state.predictions:
            truth = self.folder.parent / "fish" / "labelsTr" / f"{one.case}.nii.gz"
            guess, _ = read_labels(one.labels)
            known, _ = read_labels(truth)
            self._dice[one.case] = slice_dice(known, guess)
        self._fair = float(np.nanmedian(np.concatenate([*self._dice.values()])))

    # ---- The classifier ----

    def train(self) -> None:
        """Train a classifier, have it judge the rest, and choose a threshold."""
        grading = self.dock.grading
        self.dock.tabs.setCurrentIndex(1)
        wait(lambda: grading.ready)
        self.picture("4-ready", self.dock.window())
        grading.train(CLASSIFIER)
        wait(lambda: grading.has_classifier and grading.scored[0] > 0)
        wait(lambda: grading.scoring is None and grading.scored[0] == grading.scored[1])
        thresholds, accepted = grading.accepted_curve()
        half = thresholds[2 * accepted >= accepted.max()]
        grading.threshold = float(half.max())  # as strict as half of them allow
        self.picture("5-classifier", self.dock.window())

    def audit(self) -> None:
        """Judge a sample of what is accepted."""
        grading = self.dock.grading
        grading.draw_audit(10)
        self.dock.tabs.setCurrentIndex(0)
        click(self.dock.panel.start_button)
        for _ in range(10):
            wait(lambda: self.dock.judging.can_judge or self.dock.state.current is None)
            if self.dock.state.current is None:
                break
            self.press("g" if self.is_good(self.here) else "j")
        settle(2.5)
        self.dock.tabs.setCurrentIndex(1)
        self.picture("6-audit", self.dock.window())
        grading.end_audit()
        self.dock.tabs.setCurrentIndex(0)

    # ---- Correcting and handing over ----

    def correct(self) -> None:
        """Paint on a slice, undo it, paint again, and send the slice."""
        self.dock.tabs.setCurrentIndex(2)
        panel = self.dock.correction
        wait(lambda: self.dock.state.current is not None)
        about = self.here
        assert panel.correct(about)
        wait(lambda: panel.active and not panel.state.busy)
        layer = panel.canvas.labels
        index: list[Any] = [slice(30, 34), slice(30, 34)]
        index.insert(about.axis, about.index)
        place = tuple(np.asarray(part) for part in np.nonzero(_marked(layer, index)))
        organ = 2 if (layer.data[place] == 1).all() else 1
        layer.data_setitem(place, organ)
        layer.undo()
        layer.data_setitem(place, organ)
        self.picture("7-correct", self.dock.window())
        panel.state.send_slice()
        wait(lambda: not panel.state.busy)
        panel.end()

    def hand_over(self) -> None:
        """Start the student, and wait for it."""
        grading = self.dock.grading
        self.dock.tabs.setCurrentIndex(1)
        grading.hand_over("student", STUDENT)
        if grading.student is None:
            raise RuntimeError(grading.status)
        wait(lambda: grading.student is not None and grading.student.ended)
        self.picture("8-student", self.dock.window())


def _marked(layer: Any, index: list[Any]) -> np.ndarray:
    marked = np.zeros(layer.data.shape, bool)
    marked[tuple(index)] = True
    return marked


# ---- The window ----


def click(button: Any) -> None:
    """Click in the middle of a button."""
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def settle(seconds: float) -> None:
    """Let the window live for a while."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() >= end)


def wait(ready: Callable[[], bool]) -> None:
    """Let the window live until something is so."""
    end = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError("the dock did not do in time what it was asked for")
        QApplication.processEvents()
        time.sleep(0.005)


if __name__ == "__main__":
    main()
