"""The part of the Review dock in which a classifier learns from the verdicts."""

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import (  # type: ignore[attr-defined]  # qtpy makes Signal
    QSignalBlocker,
    Qt,
    Signal,
)
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QFileDialog,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_kdseg.review.curves import Roc
from napari_kdseg.state.grading.grading import Grading
from napari_kdseg.state.grading.record import threshold_in_words
from napari_kdseg.state.jobs import Job
from napari_kdseg.widgets._form import heading, wrapped_label
from napari_kdseg.widgets._job_row import JobRow
from napari_kdseg.widgets._unit_chart import Line, UnitChart
from napari_kdseg.widgets.review.parts import button, row

STEPS = 200
_GOOD, _FOUND, _SHARE = "#009e73", "#56b4e9", "#b0b6bf"
_SAMPLE = 50


class GradingPanel(QWidget):
    """Trains a classifier, shows how good it is, and hands over what it accepts.

    Parameters
    ----------
    grading
        What is shown.
    parent
        Qt's owner.
    """

    judgeWanted = Signal()
    """Emitted when there are slices to be looked at."""
    trainingWanted = Signal(object)
    """Emitted with the folder of a run whose curves are to be looked at."""

    def __init__(self, grading: Grading, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.grading = grading
        self._roc: Roc | None = None
        self._build_training()
        self._build_curves()
        self._build_scores()
        self._build_audit()
        self._build_student()
        self._lay_out()
        self._connect()
        self.refresh()

    def connections(self) -> tuple[tuple[Any, Any], ...]:
        """What of the state is followed: each signal, and what it calls."""
        return self._connections

    # ---- Building ----

    def _build_training(self) -> None:
        self.ready = wrapped_label()
        self.train_button = button(
            "Train classifier",
            "It learns from all verdicts, in the background",
        )
        self.training = JobRow(self.grading.cancel, "Ends the training; verdicts stay")
        self.message = wrapped_label()

    def _build_curves(self) -> None:
        self.about = wrapped_label()
        self.by_threshold = UnitChart("threshold of P(good)", "share")
        self.by_threshold.setToolTip(
            "Of the slices accepted from a threshold on: the share that is good "
            "(precision), the share of all good ones that is among them (recall)"
        )
        self.roc = UnitChart("bad ones accepted", "good ones accepted", diagonal=True)
        self.roc.setToolTip(
            "ROC: each threshold accepts so many of the bad and so many of the good "
            "slices; the diagonal is guessing"
        )
        self.calibration = UnitChart("P(good)", "share good", diagonal=True)
        self.calibration.setToolTip(
            "Calibration: of slices with a P(good) of 0.8, 80 % should be good"
        )
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, STEPS)
        self.slider.setPageStep(STEPS // 20)
        self.slider.setToolTip("Slices with this P(good) or a higher one are accepted")
        self.at_threshold = wrapped_label()
        self.suggest_button = button("Suggested", "")

    def _build_scores(self) -> None:
        self.scored = wrapped_label()
        self.score_button = button("Score all", "Gives every slice its P(good)")
        self.scoring = JobRow(
            self.grading.cancel, "Ends the scoring; scores so far stay"
        )

    def _build_audit(self) -> None:
        self.count = QSpinBox()
        self.count.setRange(10, 1000)
        self.count.setValue(_SAMPLE)
        self.count.setToolTip("Slices of a sample; the more, the surer the error rate")
        self.audit_button = button(
            "Draw a sample", "Accepted slices at random, to be judged by you"
        )
        self.go_on_button = button("Go on", "Shows the newest sample again")
        self.all_button = button("All slices", "Ends the audit; the queue is as before")
        self.findings = wrapped_label()

    def _build_student(self) -> None:
        self.student_button = button(
            "Train student with accepted slices",
            "Writes the recipe into the project and starts the training",
        )
        self.teacher_button = button(
            "Where is the model…", "The folder of the model that made the predictions"
        )
        self.why_not = wrapped_label()
        self.student = JobRow(
            self.grading.cancel, "Ends the training at the next checkpoint"
        )
        self.train_dock_button = button(
            "Show in Train", "Curves, examples and the model, in the Train dock"
        )
        self.copy_button = button("Copy command line", "What repeats it in a shell")

    def _lay_out(self) -> None:
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 4, 0, 0)
        rows.setSpacing(6)
        for widget in (self.ready, self.train_button, self.training, self.message):
            rows.addWidget(widget)
        self.result = QWidget()
        rows.addWidget(self.result)
        slider = row(self.slider)
        slider.setContentsMargins(26, 0, 4, 0)  # below the chart's frame
        inner = QVBoxLayout(self.result)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(6)
        for part in (
            self.about,
            row(self.roc, self.calibration),
            self.by_threshold,
            slider,
            self.at_threshold,
            self.suggest_button,
            heading("Scores"),
            row(self.scored, self.score_button),
            self.scoring,
            heading("Audit"),
            row(self.count, self.audit_button, self.go_on_button, self.all_button),
            self.findings,
            heading("Student"),
            row(self.student_button, self.teacher_button),
            self.why_not,
            self.student,
            row(self.train_dock_button, self.copy_button),
        ):
            if isinstance(part, QWidget):
                inner.addWidget(part)
            else:
                inner.addLayout(part)

    def _connect(self) -> None:
        self.slider.valueChanged.connect(self._on_slider_moved)
        self.slider.sliderReleased.connect(self._on_slider_released)
        for widget, slot in (
            (self.train_button, self._on_train_clicked),
            (self.suggest_button, self._on_suggest_clicked),
            (self.score_button, self._on_score_clicked),
            (self.audit_button, self._on_audit_clicked),
            (self.go_on_button, self._on_go_on_clicked),
            (self.all_button, self._on_all_clicked),
            (self.student_button, self._on_student_clicked),
            (self.teacher_button, self._on_teacher_clicked),
            (self.train_dock_button, self._on_train_dock_clicked),
            (self.copy_button, self._on_copy_clicked),
        ):
            widget.clicked.connect(slot)
        grading = self.grading
        self._connections: tuple[tuple[Any, Any], ...] = (
            (grading.counts_changed, self._show_ready),
            (grading.classifier_changed, self.refresh),
            (grading.scores_changed, self._show_scores),
            (grading.threshold_changed, self._show_threshold),
            (grading.audit_changed, self._show_audit),
            (grading.job_changed, self._show_jobs),
            (grading.status_changed, self._show_status),
        )
        for signal, connected in self._connections:
            signal.connect(connected)

    # ---- What the person does ----

    def _on_train_clicked(self) -> None:
        self.grading.train()

    def _on_slider_moved(self, step: int) -> None:
        self._show_at(step / STEPS)
        if not self.slider.isSliderDown():
            self.grading.threshold = step / STEPS

    def _on_slider_released(self) -> None:
        self.grading.threshold = self.slider.value() / STEPS

    def _on_suggest_clicked(self) -> None:
        self.grading.threshold = self.grading.suggested

    def _on_score_clicked(self) -> None:
        self.grading.score()

    def _on_audit_clicked(self) -> None:
        self.grading.draw_audit(self.count.value())
        self.judgeWanted.emit()

    def _on_go_on_clicked(self) -> None:
        self.grading.show_audit()
        self.judgeWanted.emit()

    def _on_all_clicked(self) -> None:
        self.grading.end_audit()

    def _on_student_clicked(self) -> None:
        self.grading.hand_over()

    def _on_teacher_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The model's folder")
        if folder:
            self.grading.set_teacher(Path(folder))
            self._show_student()

    def _on_train_dock_clicked(self) -> None:
        if self.grading.student is not None:
            self.trainingWanted.emit(self.grading.student.run.folder)

    def _on_copy_clicked(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self.grading.hand_over_command)

    # ---- What the state says ----

    def refresh(self) -> None:
        """Show everything anew."""
        self.result.setVisible(self.grading.has_classifier)
        self.about.setText(self.grading.about)
        self._show_ready()
        self._show_status(self.grading.status)
        self._show_curves()
        self._show_scores()
        self._show_threshold(self.grading.threshold)
        self._show_audit()
        self._show_jobs()

    def _show_status(self, text: str) -> None:
        self.message.setText(text)
        self.message.setVisible(bool(text))

    def _show_ready(self) -> None:
        self.ready.setText(self.grading.ready_text)
        self.train_button.setEnabled(self.grading.ready)

    def _show_curves(self) -> None:
        curves = self.grading.curves
        self._roc = None if curves is None else curves.roc
        self.roc.setVisible(curves is not None)
        self.calibration.setVisible(curves is not None)
        if curves is None or self._roc is None:
            return
        area = "not known" if np.isnan(curves.auroc) else f"{curves.auroc:.3f}"
        self.about.setText(
            f"{self.grading.about} Area under the ROC curve {area}, on "
            f"{curves.measured_on}."
        )
        line = Line("ROC", self._roc.bad_accepted, self._roc.good_accepted, _GOOD)
        self.roc.setLines([line])
        told = curves.reliability
        dots = Line("good", told.score, told.share_good, _GOOD, dots=True)
        self.calibration.setLines([dots])

    def _show_scores(self) -> None:
        done, total = self.grading.scored
        self.scored.setText(f"{done} of {total} slices have a score")
        self.score_button.setEnabled(done < total and self.grading.scoring is None)
        self.audit_button.setEnabled(done > 0)
        lines, curves = [], self.grading.curves
        if curves is not None:
            told = curves.precision_recall
            precision = Line("precision", told.threshold, told.precision, _GOOD)
            recall = Line("recall", told.threshold, told.recall, _FOUND)
            lines += [precision, recall]
        across, accepted = self.grading.accepted_curve()
        if len(accepted) and accepted.max() > 0:
            share = accepted / accepted.max()
            lines.append(Line("accepted of all slices", across, share, _SHARE))
        self.by_threshold.setLines(lines)
        self._show_at(self._looked_at)
        self._show_student()

    def _show_threshold(self, threshold: float) -> None:
        with QSignalBlocker(self.slider):
            self.slider.setValue(round(threshold * STEPS))
        self._show_at(threshold)
        suggested = threshold_in_words(self.grading.suggested)
        self.suggest_button.setText(f"Suggested: {suggested}")
        self.suggest_button.setToolTip(self.grading.suggested_because)
        self._show_student()

    @property
    def _looked_at(self) -> float:
        """The threshold in force, which may lie between two steps of the slider.

        While the slider is held, that of its place.
        """
        if self.slider.isSliderDown():
            return self.slider.value() / STEPS
        return self.grading.threshold

    def _show_at(self, threshold: float) -> None:
        if not self.grading.has_classifier:
            return
        found = self.grading.at(threshold)
        told = threshold_in_words(threshold)
        words = f"{told} accepts {found.accepted} of {found.of} slices"
        if not self.grading.scored[0]:
            words = f"{told}: how many it accepts is known after scoring"
        if np.isfinite(found.precision):
            words += f"; of those accepted {found.precision:.0%} are good"
        if np.isfinite(found.recall):
            words += f", of the good ones {found.recall:.0%} are accepted"
        self.at_threshold.setText(f"{words}.")
        self.by_threshold.setMark(threshold)
        self._mark_on_roc(threshold)

    def _mark_on_roc(self, threshold: float) -> None:
        roc = self._roc
        if roc is None:
            return
        reached = np.flatnonzero(roc.threshold >= threshold)
        place = int(reached[-1]) if len(reached) else 0
        self.roc.setDot(
            (float(roc.bad_accepted[place]), float(roc.good_accepted[place]))
        )

    def _show_audit(self) -> None:
        audit, found = self.grading.audit, self.grading.findings
        self.go_on_button.setEnabled(audit is not None)
        self.findings.setText("" if found is None else found.words)
        self.findings.setVisible(found is not None)

    def _show_student(self) -> None:
        why_not = self.grading.can_hand_over
        self.student_button.setEnabled(not why_not)
        self.why_not.setText(why_not)
        self.why_not.setVisible(bool(why_not))
        self.teacher_button.setVisible(self.grading.teacher is None)
        self.copy_button.setVisible(bool(self.grading.hand_over_command))
        student = self.grading.student
        self.train_dock_button.setVisible(student is not None)
        if student is not None:  # its process makes the run once the recipe is read
            there = (student.run.folder / "config.yaml").is_file()
            self.train_dock_button.setEnabled(there)

    def _show_jobs(self, _job: Job | None = None) -> None:
        self.training.show_job(self.grading.training, self.grading.training_text)
        self.scoring.show_job(self.grading.scoring)
        self.student.show_job(self.grading.student)
        self._show_ready()
        self._show_student()
