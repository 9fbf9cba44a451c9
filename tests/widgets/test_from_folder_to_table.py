"""From an empty folder to a trained student and an organ table, by mouse and keys."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import napari
import pytest
from by_hand import LEFT, choose, click, write
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QApplication,
    QFileDialog,
    QTableWidget,
    QWidget,
)

from kdseg_train.samples import write_sample
from napari_kdseg.models.model import Model
from napari_kdseg.widgets._settings_form import Fold
from napari_kdseg.widgets._volumes_dialogs import ScansDialog
from napari_kdseg.widgets.measure import MeasureDock
from napari_kdseg.widgets.segment import SegmentDock
from napari_kdseg.widgets.train import TrainDock
from napari_kdseg.widgets.volumes import VolumesDock

PATIENCE_MS = 300_000
LABELLED, HELD_OUT = ("fish_001", "fish_002"), "fish_003"

Answer = Callable[[Path], None]
DockT = TypeVar("DockT", bound=QWidget)


@pytest.fixture
def viewer(
    qapp: QApplication,
    own_commands: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """A window of a person who has used nothing of this before."""
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    opened = napari.Viewer(show=True)
    yield opened
    for shell in list(opened.window.dock_widgets.values()):
        opened.window.remove_dock_widget(shell)
    opened.close()


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """What the system's own window for folders, which no test can reach, will say."""

    def say(folder: Path) -> None:
        monkeypatch.setattr(
            QFileDialog, "getExistingDirectory", lambda *_, **__: str(folder)
        )

    return say


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Seven fish, of which the first three come with labels."""
    folder = tmp_path / "scans"
    write_sample("fish", folder, cases=7, size=32, seed=1)
    (folder / "dataset.json").unlink()
    for file in (folder / "labelsTr").iterdir():
        if not file.name.startswith((*LABELLED, HELD_OUT)):
            file.unlink()
    return folder


def open_dock(viewer: Any, kind: type[DockT], title: str) -> DockT:
    """Choose a dock in the menu Plugins."""
    [menu] = [
        action.menu()
        for action in viewer.window.plugins_menu.actions()
        if action.menu() is not None and "Knowledge Distillation" in action.text()
    ]
    [action] = [one for one in menu.actions() if one.text().startswith(f"{title} (")]
    action.trigger()
    return dock_of(viewer, kind)


def dock_of(viewer: Any, kind: type[DockT]) -> DockT:
    docks = viewer.window.dock_widgets.values()
    [dock] = [one for one in docks if isinstance(one, kind)]
    return dock


def click_row(qtbot: QtBot, rows: QTableWidget, text: str) -> None:
    [item] = rows.findItems(text, Qt.MatchFlag.MatchExactly)
    place = rows.visualItemRect(item).center()
    qtbot.mouseClick(rows.viewport(), LEFT, pos=place)


def unfold(qtbot: QtBot, inside: QWidget, title: str) -> None:
    folds = inside.findChildren(Fold)
    click(qtbot, next(one.button for one in folds if one.button.text() == title))


def make_project(qtbot: QtBot, dock: VolumesDock, folder: Path, answer: Answer) -> None:
    """A project in an empty folder, with all scans, one of them held out."""
    project = folder.with_name("project")
    project.mkdir()
    answer(project)
    click(qtbot, dock.new_button)
    answer(folder)
    click(qtbot, dock.folder_button)
    if isinstance(dock.dialog, ScansDialog):
        click(qtbot, dock.dialog.buttons.button(dock.dialog.buttons.StandardButton.Ok))
    qtbot.waitUntil(lambda: dock.table.rowCount() == 7, timeout=PATIENCE_MS)
    qtbot.waitUntil(lambda: not dock.state.status.busy, timeout=PATIENCE_MS)
    click_row(qtbot, dock.table, HELD_OUT)
    choose(qtbot, dock.use, "test (held out)")


def train_student(qtbot: QtBot, dock: TrainDock) -> Path:
    """Medaka's self-training on the project, a few steps long."""
    page = dock.setup_page
    click(qtbot, page.project_button, PATIENCE_MS)
    qtbot.waitUntil(lambda: page.method.count() > 0, timeout=PATIENCE_MS)
    choose(qtbot, page.method, "medaka")
    choose(qtbot, page.start_from, "medaka/small")
    assert page.settings.advanced is not None
    click(qtbot, page.settings.advanced.button)
    unfold(qtbot, page.settings.advanced.inside, "Quality")
    fields = page.settings.fields
    choose(qtbot, fields["quality", "source"], "none")
    for path, text in {
        ("teacher_training", "epochs"): "8",
        ("training", "epochs"): "2",
        ("patch_vox",): "[32, 32]",
        ("split", "validation"): "0",
    }.items():
        write(qtbot, fields[path], text)
    click(qtbot, page.start_button, PATIENCE_MS)
    qtbot.waitUntil(
        lambda: dock.training.job is not None or not dock.setup.busy,
        timeout=PATIENCE_MS,
    )
    job = dock.training.job
    assert job is not None, page.message.text()
    qtbot.waitUntil(lambda: job.ended, timeout=PATIENCE_MS)
    assert job.state == "finished", job.error
    return job.run.folder / "model"


@pytest.mark.slow
def test_an_empty_folder_becomes_a_student_and_an_organ_table(
    qtbot: QtBot, viewer: Any, scans: Path, answer: Answer
) -> None:
    volumes = open_dock(viewer, VolumesDock, "Volumes")
    make_project(qtbot, volumes, scans, answer)
    project = volumes.state.project
    assert project is not None

    train = open_dock(viewer, TrainDock, "Train")
    model = train_student(qtbot, train)
    assert model.is_relative_to(project.folder / "runs")
    assert Model.open(model).card.role == "student"

    click_row(qtbot, volumes.table, HELD_OUT)
    click(qtbot, volumes.open_button)
    click(qtbot, train.run_page.segment_button)
    segment = dock_of(viewer, SegmentDock)
    answer(project.folder / "predictions")
    segment.folder_action.trigger()  # an entry of a menu
    click(qtbot, segment.run_button)
    qtbot.waitUntil(
        lambda: segment.state.status.phase == "finished", timeout=PATIENCE_MS
    )

    measure = open_dock(viewer, MeasureDock, "Measure")
    answer(project.folder)
    measure.folder_action.trigger()  # an entry of a menu
    click(qtbot, measure.run_button)
    qtbot.waitUntil(lambda: measure.state.result is not None, timeout=PATIENCE_MS)
    table = measure.measured.titles
    assert table.rowCount() > 0
    assert {table.item(row, 0).text() for row in range(table.rowCount())} == {HELD_OUT}
    assert max(float(table.item(row, 2).text()) for row in range(table.rowCount())) > 0
