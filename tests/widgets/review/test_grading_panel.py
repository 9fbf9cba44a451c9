"""The classifier's part of the Review dock, from too few verdicts to a student."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_predictions import CLASSES, grid_of, write_prediction
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication

from napari_kdseg.errors import KdsegError
from napari_kdseg.models.card import Calibration
from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, Tiling, save_model
from napari_kdseg.models.networks import build, build_classifier
from napari_kdseg.project import Project
from napari_kdseg.review.predictions import predictions_in
from napari_kdseg.review.scores import file_of, keep
from napari_kdseg.runs.run import Run
from napari_kdseg.state.detached import Detached
from napari_kdseg.state.grading.grading import Grading
from napari_kdseg.state.jobs import Job, Worker
from napari_kdseg.state.review.review import Review
from napari_kdseg.volumes.formats import write_labels
from napari_kdseg.volumes.preprocessing import Preprocessing
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.widgets.review.grading_panel import STEPS, GradingPanel

SHAPE = (40, 8, 8)
CASES = ("a", "b", "c")
PATIENCE_S = 30


class Trains(Detached):
    """Does in this process what `kdseg-train` does in its own, without a network."""

    def __init__(self, classifier: Path) -> None:
        super().__init__()
        self._classifier = classifier
        self._waiting: list[Job] = []
        self.recipes: list[Path] = []

    def start(self, run: Run) -> Job:
        with contextlib.suppress(KdsegError), run.executing():
            shutil.copytree(self._classifier, run.folder / "model")
            lines = ["case,axis,index,good,p_good,part"]
            lines += [f"a,0,{i},{int(i > 9)},{i / 20},test" for i in range(20)]
            (run.folder / "validation.csv").write_text("\n".join(lines) + "\n")
        return self._noticed(Job(run, state="running", fraction=0.5, message="epoch 3"))

    def fit(self, recipe: Path, folder: Path) -> Job:
        self.recipes.append(recipe)
        run = Run.create(folder, {"version": 1, "command": "fit"})
        job = Job(run, state="running", message="training the student")
        job.command_line = f"kdseg-train fit {recipe} --out {folder}"
        return job

    def _noticed(self, job: Job) -> Job:
        self._waiting.append(job)
        return job

    def poll(self) -> None:
        for job in self._waiting:
            job.state, job.fraction = "finished", 1.0
            self.changed.emit(job)
        self._waiting.clear()


class Scores(Worker):
    """Scores in this process: P(good) is the index over 100."""

    def __init__(self) -> None:
        super().__init__()
        self._scored: list[Job] = []

    def submit(self, run: Run) -> Job:
        config, folder = run.config, Path(run.config["scores"])
        with run.executing():
            for one in predictions_in(Path(config["labels"])):
                if one.case in config["cases"]:
                    file = file_of(folder, one.case, 0, one.labels_hash)
                    keep(file, np.arange(one.slices(0)) / 100)
                    run.event("scored", case=one.case, axis=0)
        self._scored.append(Job(run))
        return self._scored[-1]

    def poll(self) -> None:
        for job in self._scored:
            job.news, job.state = tuple(job.run.events()[0]), "finished"
            self.changed.emit(job)
        self._scored.clear()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, and a classifier."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "channels": ("image",),
        "classes": CLASSES,
        "preprocessing": Preprocessing(orientation="RAS"),
    }
    small = {"width": 4, "stages": 2, "dimensions": 2}
    spec = NetworkSpec(name="unet", parameters=small)
    tiling = Tiling(tile_vox=(16, 16), overlap=0.25)
    card = ModelCard(name="flat", network=spec, tiling=tiling, **common)
    save_model(folder / "flat", card, build(spec, 1, CLASSES.count))
    judge = NetworkSpec(name="resnet18-quality", parameters={"width": 4})
    card = ModelCard(
        name="judge",
        role="quality-classifier",
        network=judge,
        tiling=Tiling(tile_vox=(32, 32), overlap=0),
        calibration=Calibration(threshold=0.25, chosen="where 95 % are good"),
        **common,
    )
    save_model(folder / "judge", card, build_classifier(judge, 1, CLASSES.count))
    return folder


@pytest.fixture
def review(tmp_path: Path, models: Path) -> Iterator[Review]:
    """Three predicted scans and a drawn one in a project, and somebody who judges."""
    project, teacher = tmp_path / "fish", Model.open(models / "flat")
    with Project.create(project) as made:
        for number, case in enumerate(CASES):
            labels = np.zeros(SHAPE, np.uint8)
            labels[:, number, 1:4] = 1 + number % 2
            shared = {"model": "flat", "fingerprint": teacher.fingerprint}
            write_prediction(project / "predictions", case, labels, **shared)
            scan = project / "scans" / f"{case}.nii.gz"
            made.add_scan(NewScan((VolumeFile(scan),), None, case))
        drawn = project / "scans" / "drawn.nii.gz"
        shutil.copy(project / "scans" / "a.nii.gz", drawn)
        truth = project / "scans" / "truth.nii.gz"
        labels[:, 1, 1:4] = 2
        write_labels(truth, labels, grid_of(SHAPE), CLASSES)
        made.add_scan(NewScan((VolumeFile(drawn),), VolumeFile(truth), "drawn"))
        shutil.copytree(teacher.folder, project / "models" / "flat")
    state = Review()
    state.open_folder(project)
    assert state.begin("Ada"), state.status
    yield state
    state.close()


@pytest.fixture
def panel(qtbot: QtBot, review: Review, models: Path) -> Iterator[GradingPanel]:
    grading = Grading(review, Scores(), Trains(models / "judge"))
    widget = GradingPanel(grading)
    qtbot.addWidget(widget)
    widget.resize(430, 900)
    widget.show()
    yield widget
    for signal, slot in widget.connections():
        signal.disconnect(slot)
    grading.close()


def judge(review: Review, case: str, words: str) -> None:
    (one,) = (p for p in review.predictions if p.case == case)
    for index, letter in enumerate(words):
        review.go_to(one.about(0, index))
        review.judge("good" if letter == "g" else "bad")


def judge_enough(panel: GradingPanel, review: Review) -> None:
    judge(review, "a", "g" * 20 + "b" * 20)
    judge(review, "b", "g" * 20 + "b" * 20)
    poll_until(panel, panel.train_button.isEnabled)


def poll_until(panel: GradingPanel, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        panel.grading.poll()
        QGuiApplication.processEvents()


@pytest.fixture
def trained(qtbot: QtBot, panel: GradingPanel, review: Review) -> GradingPanel:
    """The panel after training and scoring."""
    judge_enough(panel, review)
    qtbot.mouseClick(panel.train_button, Qt.MouseButton.LeftButton)
    poll_until(panel, lambda: panel.grading.scored == (120, 120))
    return panel


def test_too_few_verdicts_are_counted(panel: GradingPanel, review: Review) -> None:
    assert not panel.train_button.isEnabled()
    judge(review, "a", "ggb")
    poll_until(panel, lambda: "2 (of 40) good, 1 (of 40) bad" in panel.ready.text())
    assert not panel.train_button.isEnabled()
    assert panel.result.isHidden()


def test_a_training_shows_how_far_it_is(
    qtbot: QtBot, panel: GradingPanel, review: Review
) -> None:
    judge_enough(panel, review)
    qtbot.mouseClick(panel.train_button, Qt.MouseButton.LeftButton)
    assert not panel.training.isHidden()
    assert panel.training.bar.value() == 500
    assert panel.training.message.text() == "epoch 3"
    assert not panel.train_button.isEnabled()


def test_a_trained_classifier_is_shown_with_its_curves(trained: GradingPanel) -> None:
    assert not trained.result.isHidden()
    assert trained.training.isHidden()
    assert "Area under the ROC curve 1.000, on 20 slices" in trained.about.text()
    (roc,) = trained.roc.lines()
    assert (roc.x[0], roc.y[0]) == (0, 0)
    assert (roc.x[-1], roc.y[-1]) == (1, 1)
    names = [line.name for line in trained.by_threshold.lines()]
    assert names == ["precision", "recall", "accepted of all slices"]
    (calibration,) = trained.calibration.lines()
    assert calibration.dots
    assert trained.scored.text() == "120 of 120 slices have a score"
    assert not trained.score_button.isEnabled()


def test_the_slider_says_what_a_threshold_would_accept(trained: GradingPanel) -> None:
    """Of slices 0 to 39 of each of three scans, P(good) is the index over 100."""
    trained.slider.setValue(round(0.3 * STEPS))
    accepted = trained.grading.at(0.3).accepted
    assert f"0.30 accepts {accepted} of 120 slices" in trained.at_threshold.text()
    assert trained.by_threshold.mark() == pytest.approx(0.3)
    assert trained.grading.threshold == pytest.approx(0.3)


def test_a_threshold_between_two_steps_of_the_slider_is_the_one_that_is_shown(
    trained: GradingPanel,
) -> None:
    """As training suggests them; 0.25 would accept a slice more, of P(good) 0.25."""
    trained.grading.threshold = 0.2512
    accepted = trained.grading.at(0.2512).accepted
    assert accepted == trained.grading.at(0.25).accepted - 1
    for _ in range(2):  # when it is chosen, and when scores come in
        text = trained.at_threshold.text()
        assert f"0.2512 accepts {accepted} of 120 slices" in text
        assert trained.by_threshold.mark() == pytest.approx(0.2512)
        trained.grading.scores_changed.emit()


def test_neighbouring_steps_of_the_slider_read_otherwise(trained: GradingPanel) -> None:
    read = []
    for step in range(STEPS + 1):
        trained.slider.setValue(step)
        read.append(trained.at_threshold.text().split(" accepts")[0])
    assert len(set(read)) == STEPS + 1
    assert read[90:93] == ["0.45", "0.455", "0.46"]


def test_while_the_slider_is_held_nothing_is_decided(trained: GradingPanel) -> None:
    before = trained.grading.threshold
    trained.slider.setSliderDown(True)
    trained.slider.setValue(round(0.7 * STEPS))
    assert "0.70 accepts" in trained.at_threshold.text()
    trained.grading.scores_changed.emit()  # scores come in meanwhile
    assert "0.70 accepts" in trained.at_threshold.text()
    assert trained.grading.threshold == before
    trained.slider.setSliderDown(False)
    trained.slider.sliderReleased.emit()
    assert trained.grading.threshold == pytest.approx(0.7)


def test_the_suggested_threshold_can_be_taken(
    qtbot: QtBot, trained: GradingPanel
) -> None:
    assert trained.suggest_button.text() == "Suggested: 0.25"
    assert trained.suggest_button.toolTip() == "where 95 % are good"
    trained.slider.setValue(STEPS)
    qtbot.mouseClick(trained.suggest_button, Qt.MouseButton.LeftButton)
    assert trained.grading.threshold == 0.25
    assert trained.slider.value() == STEPS // 4


def test_an_audit_shows_a_sample_of_accepted_slices_alone(
    qtbot: QtBot, trained: GradingPanel, review: Review
) -> None:
    trained.slider.setValue(round(0.1 * STEPS))
    trained.count.setValue(10)
    with qtbot.waitSignal(trained.judgeWanted):
        qtbot.mouseClick(trained.audit_button, Qt.MouseButton.LeftButton)
    assert review.sample is not None
    assert len(review.sample) == 10
    for word in ("bad", *["good"] * 9):
        review.judge(word)
    poll_until(trained, lambda: "1 of 10 accepted" in trained.findings.text())
    # Wilson's interval for 1 of 10.
    assert "10.0 %, between 1.8 % and 40.4 %" in trained.findings.text()
    qtbot.mouseClick(trained.all_button, Qt.MouseButton.LeftButton)
    assert review.sample is None
    qtbot.mouseClick(trained.go_on_button, Qt.MouseButton.LeftButton)
    assert review.sample is not None


def test_accepted_slices_are_handed_to_a_student(
    qtbot: QtBot, trained: GradingPanel
) -> None:
    assert trained.copy_button.isHidden()
    assert trained.student_button.isEnabled(), trained.why_not.text()
    qtbot.mouseClick(trained.student_button, Qt.MouseButton.LeftButton)
    assert "training the student" in trained.student.message.text()
    assert not trained.copy_button.isHidden()
    qtbot.mouseClick(trained.copy_button, Qt.MouseButton.LeftButton)
    clipboard = QGuiApplication.clipboard()
    assert clipboard is not None
    assert clipboard.text().startswith("kdseg-train fit ")


def test_the_training_of_a_student_can_be_looked_at_in_the_train_dock(
    qtbot: QtBot, trained: GradingPanel
) -> None:
    assert trained.train_dock_button.isHidden()
    qtbot.mouseClick(trained.student_button, Qt.MouseButton.LeftButton)
    student = trained.grading.student
    assert student is not None
    with qtbot.waitSignal(trained.trainingWanted) as wanted:
        qtbot.mouseClick(trained.train_dock_button, Qt.MouseButton.LeftButton)
    assert wanted.args == [student.run.folder]


def test_everything_that_can_be_pressed_has_a_tooltip(trained: GradingPanel) -> None:
    pressed = [
        trained.train_button,
        trained.suggest_button,
        trained.score_button,
        trained.audit_button,
        trained.go_on_button,
        trained.all_button,
        trained.student_button,
        trained.teacher_button,
        trained.train_dock_button,
        trained.copy_button,
        trained.slider,
        trained.count,
        trained.training.cancel_button,
    ]
    assert all(widget.toolTip() for widget in pressed)
