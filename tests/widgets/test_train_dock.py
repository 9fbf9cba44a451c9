"""The Train dock in a real viewer: a form, a run that is followed, a whole training."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_hand import choose, click, write
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication, QImage
from qtpy.QtWidgets import QComboBox, QFileDialog, QLineEdit

from kdseg_train.config import Recipe
from kdseg_train.samples import write_sample
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run
from napari_kdseg.shipped import shipped_recipes
from napari_kdseg.state.training import Training
from napari_kdseg.state.training_form import Form
from napari_kdseg.state.training_runs import KnownRuns
from napari_kdseg.state.training_schema import Methods
from napari_kdseg.state.training_setup import Setup
from napari_kdseg.widgets._curve_chart import CurveChart, Drawn
from napari_kdseg.widgets._settings_form import SettingsForm
from napari_kdseg.widgets.segment import SegmentDock
from napari_kdseg.widgets.train import TrainDock

PATIENCE_MS = 240_000

MakeDock = Callable[[], TrainDock]


@pytest.fixture
def make_dock(make_napari_viewer: Any, tmp_path: Path) -> Iterator[MakeDock]:
    """Opens the dock, as often as it is asked for, in one viewer."""
    viewer = make_napari_viewer(show=True)
    pages: list[str] = []

    def make() -> TrainDock:
        known = KnownRuns(tmp_path / "data" / "trainings.json")
        training = Training(known=known, show_page=pages.append)
        dock = TrainDock(viewer, Setup(Methods(tmp_path / "cache")), training)
        dock.pages = pages  # type: ignore[attr-defined]
        viewer.window.add_dock_widget(dock, name="Train")
        return dock

    yield make
    for name in list(viewer.window.dock_widgets):
        viewer.window.remove_dock_widget(viewer.window.dock_widgets[name])


@pytest.fixture
def run(tmp_path: Path, make_model: Callable[..., Model]) -> Run:
    """A training of two stages that has ended."""
    config = {"version": 1, "command": "fit", "method": "ms-kd", "name": "organs"}
    made = Run.create(tmp_path / "runs" / "organs", config)
    made.event("started", host=socket.gethostname(), pid=1)
    for stage in ("teacher-liver", "student"):
        for epoch in (1, 2, 3):
            made.metric(
                stage=stage,
                step=epoch,
                epoch=epoch,
                epochs=3,
                loss=3 / epoch,
                dice=1 / epoch,
                validation_dice=epoch / 4,
                validation_dice_of={"liver": epoch / 4},
            )
            picture = QImage(40, 20, QImage.Format.Format_RGB32)
            picture.fill(epoch)
            file = made.folder / "examples" / stage / f"{epoch}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            assert picture.save(str(file))
            where = file.relative_to(made.folder).as_posix()
            made.event("example", stage=stage, epoch=epoch, file=where)
    make_model("organs").folder.rename(made.model_folder)
    made.event("finished")
    return made


# ---- Parts ----


def test_a_form_shows_what_is_changed_most_and_folds_the_rest_away(
    qtbot: QtBot,
) -> None:
    form, widget = Form(Recipe.model_json_schema()), SettingsForm()
    qtbot.addWidget(widget)
    widget.show_form(form)
    widget.show()
    widget.edited.connect(form.set)
    assert ("training", "epochs") in widget.fields
    assert ("augmentation", "noise") not in widget.fields
    write(qtbot, widget.fields["training", "epochs"], "20")
    assert form.value(("training", "epochs")) == 20
    assert widget.advanced is not None
    click(qtbot, widget.advanced.button)
    [fold] = [
        one
        for one in widget.advanced.inside.children()
        if getattr(one, "button", None) and one.button.text() == "Training"
    ]
    click(qtbot, fold.button)
    schedule = widget.fields["training", "schedule"]
    assert isinstance(schedule, QComboBox)
    choose(qtbot, schedule, "poly")
    assert form.value(("training", "schedule")) == "poly"
    assert "(1 - step/steps)^0.9" in schedule.toolTip()


def test_a_value_that_is_not_allowed_is_refused_and_the_old_one_shown(
    qtbot: QtBot,
) -> None:
    form, widget = Form(Recipe.model_json_schema()), SettingsForm()
    qtbot.addWidget(widget)
    widget.show_form(form)
    widget.edited.connect(form.set)
    refused: list[str] = []
    widget.refused.connect(refused.append)
    line = widget.fields["training", "epochs"]
    write(qtbot, line, "none")
    assert isinstance(line, QLineEdit)
    assert line.text() == "1000"
    assert form.value(("training", "epochs")) == 1000
    assert "write a whole number" in refused[0]


def test_a_chart_is_drawn_with_any_values(qtbot: QtBot) -> None:
    chart = CurveChart("Loss", "Nothing yet.")
    qtbot.addWidget(chart)
    chart.resize(300, 200)
    empty = chart.grab().toImage()
    for values in ([0.0, 0.0], [-3.0, 2.0], [1e-9, 1e9], [5.0]):
        chart.setCurves([Drawn("loss", list(range(1, 1 + len(values))), values)])
        assert chart.grab().toImage() != empty
    chart.setCurves([Drawn("loss", [], [])])
    assert not chart.curves()


# ---- A run ----


def test_a_run_is_shown_with_curves_examples_and_its_model(
    qtbot: QtBot,
    make_dock: MakeDock,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dock = make_dock()
    page = dock.run_page
    dock.tabs.setCurrentIndex(1)
    assert "No run yet" in page.state.text()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(run.folder))
    click(qtbot, page.open_button)
    assert page.runs.currentText() == "organs (ms-kd)"
    assert page.stage.currentText() == "student"  # the newest
    assert [one.name for one in page.loss.curves()] == ["training", "dice term"]
    assert [one.name for one in page.dice.curves()] == ["mean", "liver"]
    assert page.dice.curves()[0].values == [0.25, 0.5, 0.75]
    assert page.picture.isVisible()
    assert "After epoch 3" in page.examples_about.text()
    page.slider.setFocus()
    qtbot.keyClick(page.slider, Qt.Key.Key_Home)
    assert "After epoch 1" in page.examples_about.text()
    click(qtbot, page.copy_button)
    clipboard = QGuiApplication.clipboard()
    assert clipboard is not None
    assert clipboard.text() == f"kdseg-train run {run.folder}"
    assert not page.stop_button.isEnabled()
    assert not page.resume_button.isEnabled()


def test_a_folder_that_is_no_run_is_told_and_changes_nothing(
    qtbot: QtBot, make_dock: MakeDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = make_dock()
    dock.tabs.setCurrentIndex(1)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    click(qtbot, dock.run_page.open_button)
    assert "is no run folder" in dock.run_page.message.text()
    assert dock.run_page.message.isVisible()


def test_a_training_that_was_started_elsewhere_is_listed_when_the_runs_are_shown(
    qtbot: QtBot, make_dock: MakeDock, run: Run, tmp_path: Path
) -> None:
    dock = make_dock()
    assert dock.run_page.runs.count() == 0
    KnownRuns(tmp_path / "data" / "trainings.json").remember(run.folder)
    dock.tabs.setCurrentIndex(1)
    qtbot.waitUntil(lambda: dock.run_page.runs.itemData(0) == run.folder)


def test_the_model_opens_in_segment_with_one_click(
    qtbot: QtBot, make_dock: MakeDock, run: Run
) -> None:
    dock = make_dock()
    dock.training.open(run.folder)
    dock.tabs.setCurrentIndex(1)
    click(qtbot, dock.run_page.segment_button)
    docks = dock.viewer.window.dock_widgets.values()
    [segment] = [one for one in docks if isinstance(one, SegmentDock)]
    [model] = [one for one in segment.state.models if one.folder == run.model_folder]
    assert model in segment.state.chosen


def test_closing_the_dock_lets_go_of_its_states(make_dock: MakeDock) -> None:
    dock = make_dock()
    setup, training = dock.setup, dock.training
    dock.viewer.window.remove_dock_widget(dock)
    for state in (setup, training):
        for name in ("form_changed", "status_changed", "job_changed", "ready"):
            assert not getattr(state, name, ())


# ---- A whole training ----


def start_short_training(qtbot: QtBot, dock: TrainDock) -> None:
    """Add the data set, change settings, press Start."""
    page = dock.setup_page
    qtbot.waitUntil(lambda: page.method.count() > 0, timeout=PATIENCE_MS)

    click(qtbot, page.add_button)
    assert page.entries.item(0, 0).text() == "fish"
    qtbot.waitUntil(lambda: not dock.setup.busy, timeout=PATIENCE_MS)
    assert page.start_button.isEnabled(), page.message.text()
    choose(qtbot, page.start_from, "supervised/small")
    fields = page.settings.fields
    write(qtbot, fields["training", "epochs"], "40")
    write(qtbot, fields["training", "iterations_per_epoch"], "5")
    write(qtbot, fields["training", "batch"], "2")
    write(qtbot, fields["patch_vox",], "[32, 32]")
    write(qtbot, fields["split", "validation"], "0.2")
    click(qtbot, page.start_button)


@pytest.mark.slow
def test_a_model_is_trained_from_a_folder_of_fish_with_mouse_and_keys(
    qtbot: QtBot,
    make_dock: MakeDock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fish = tmp_path / "fish"
    write_sample("fish", fish, cases=6, size=32, seed=1)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(fish))
    dock = make_dock()
    start_short_training(qtbot, dock)
    qtbot.waitUntil(lambda: dock.training.job is not None, timeout=PATIENCE_MS)
    assert dock.tabs.currentIndex() == 1
    curves = dock.run_page.dice.curves
    qtbot.waitUntil(lambda: bool(curves()), timeout=PATIENCE_MS)
    # The picture of an epoch follows its curve, maybe in a later look at the run.
    qtbot.waitUntil(dock.run_page.picture.isVisible, timeout=PATIENCE_MS)

    dock.viewer.window.remove_dock_widget(dock)  # the training goes on
    again = make_dock()
    run = tmp_path / "runs" / "fish-supervised" / "run"
    training = again.training
    assert training.job is not None
    assert training.job.run.folder == run
    assert again.run_page.dice.curves()
    qtbot.waitUntil(lambda: training.job.ended, timeout=PATIENCE_MS)
    assert training.job.state == "finished", training.job.error
    assert len(again.run_page.loss.curves()[0].values) == 40

    click(qtbot, again.run_page.report_button)
    pages = again.pages  # type: ignore[attr-defined]
    qtbot.waitUntil(lambda: bool(pages), timeout=PATIENCE_MS)
    assert pages == [(run / "report.html").as_uri()]
    click(qtbot, again.run_page.segment_button)
    docks = again.viewer.window.dock_widgets.values()
    [segment] = [one for one in docks if isinstance(one, SegmentDock)]
    [model] = [one for one in segment.state.models if one.folder == run / "model"]
    assert model in segment.state.chosen
    assert model.card.name == "fish-supervised"
    assert "supervised/small" in shipped_recipes()
    assert np.isfinite(again.run_page.dice.curves()[0].values).all()
