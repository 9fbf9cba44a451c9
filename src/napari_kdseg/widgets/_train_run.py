"""The second page of the Train dock: a run, its curves, examples and model."""

from pathlib import Path

from qtpy.QtCore import (  # type: ignore[attr-defined]  # qtpy makes Signal
    QSignalBlocker,
    Qt,
    Signal,
)
from qtpy.QtGui import QGuiApplication, QPixmap, QResizeEvent, QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QLabel,
    QProgressBar,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from napari_kdseg.runs.curves import (
    LOSS,
    MEAN,
    VALIDATION_LOSS,
    Curve,
    StageCurves,
)
from napari_kdseg.state.training import Training
from napari_kdseg.widgets._curve_chart import CurveChart, Drawn
from napari_kdseg.widgets._form import form, heading, wrapped_label
from napari_kdseg.widgets._settings_form import StillComboBox
from napari_kdseg.widgets.review.parts import button, row

MOST_POINTS = 600
_WORDS = {LOSS: "training", VALIDATION_LOSS: "validation", MEAN: "mean"}
_NO_LOSS = "The curve begins when the first epoch has ended."
_NO_DICE = "Dice needs a validation share above 0 and scans enough for it."


class Picture(QLabel):
    """A picture as wide as there is room, its pixels left sharp."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._whole = QPixmap()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)

    def show_file(self, path: Path | None) -> None:
        """Show a file; None, or one that is no picture, shows nothing."""
        self._whole = QPixmap() if path is None else QPixmap(str(path))
        self.setVisible(not self._whole.isNull())
        self._fit()

    def resizeEvent(self, a0: QResizeEvent | None) -> None:
        """Fit it to the new width."""
        super().resizeEvent(a0)
        self._fit()

    def _fit(self) -> None:
        if self._whole.isNull() or self.width() < 10:
            return
        sharp = Qt.TransformationMode.FastTransformation
        fitted = self._whole.scaledToWidth(self.width(), sharp)
        if fitted.height() != self.height():
            self.setFixedHeight(fitted.height())
        self.setPixmap(fitted)


class RunPage(QWidget):
    """Follows one run: how far it is, its curves, what it made.

    Parameters
    ----------
    training
        What is shown.
    parent
        Qt's owner.
    """

    segmentWanted = Signal(object)
    """Emitted with the folder of a model that is to be used."""

    def __init__(self, training: Training, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.training = training
        self._stage = ""
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(6)
        self._build_run(rows)
        self._build_curves(rows)
        self._build_examples(rows)
        self._connect()
        self.refresh()

    def disconnect_state(self) -> None:
        """Listen no longer."""
        for signal, slot in self._connections:
            signal.disconnect(slot)

    # ---- Building ----

    def _build_run(self, rows: QVBoxLayout) -> None:
        self.runs = StillComboBox()
        policy = QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self.runs.setSizeAdjustPolicy(policy)
        self.open_button = button(
            "Open…", "The folder of any run, also of one on another machine"
        )
        which = row(self.runs, self.open_button)
        which.setStretch(0, 1)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.state = wrapped_label()
        self.message = wrapped_label()
        self.stop_button = button("Stop", "In good order; it can be resumed later")
        self.resume_button = button("Resume", "Goes on from the last checkpoint")
        self.report_button = button(
            "Report", "Curves, tables, examples and settings, in the browser"
        )
        self.segment_button = button(
            "Open in Segment", "Offers the model in the Segment dock"
        )
        self.copy_button = button(
            "Copy command line", "What resumes or repeats this run in a shell"
        )
        rows.addLayout(which)
        for widget in (self.bar, self.state, self.message):
            rows.addWidget(widget)
        rows.addLayout(row(self.stop_button, self.resume_button, self.report_button))
        rows.addLayout(row(self.segment_button, self.copy_button))

    def _build_curves(self, rows: QVBoxLayout) -> None:
        self.stage = StillComboBox()
        self.stage.setToolTip("A method trains its networks one after the other")
        self.stage_row = QWidget()
        fields = form()
        fields.addRow("Stage", self.stage)
        self.stage_row.setLayout(fields)
        self.loss = CurveChart("Loss", _NO_LOSS)
        self.dice = CurveChart("Dice of validation patches", _NO_DICE, unit=True)
        for widget in (self.stage_row, self.loss, self.dice):
            rows.addWidget(widget)

    def _build_examples(self, rows: QVBoxLayout) -> None:
        self.examples_title = heading("Validation slices")
        self.examples_about = wrapped_label()
        self.picture = Picture()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setToolTip("Back to earlier epochs")
        for widget in (
            self.examples_title,
            self.examples_about,
            self.picture,
            self.slider,
        ):
            rows.addWidget(widget)

    def _connect(self) -> None:
        self.runs.activated.connect(self._on_run_chosen)
        self.open_button.clicked.connect(self._on_open_clicked)
        self.stop_button.clicked.connect(self._on_stop_clicked)
        self.resume_button.clicked.connect(self._on_resume_clicked)
        self.report_button.clicked.connect(self._on_report_clicked)
        self.segment_button.clicked.connect(self._on_segment_clicked)
        self.copy_button.clicked.connect(self._on_copy_clicked)
        self.stage.textActivated.connect(self._on_stage_chosen)
        self.slider.valueChanged.connect(self._show_example)
        self._connections = (
            (self.training.runs_changed, self._show_runs),
            (self.training.run_changed, self._on_other_run),
            (self.training.job_changed, self._show_job),
            (self.training.curves_changed, self._show_curves),
            (self.training.status_changed, self._show_status),
        )
        for signal, slot in self._connections:
            signal.connect(slot)

    def showEvent(self, a0: QShowEvent | None) -> None:
        """List trainings that were started elsewhere meanwhile, as in Review."""
        super().showEvent(a0)
        self._show_runs()

    # ---- What the person does ----

    def _on_run_chosen(self, place: int) -> None:
        self.training.open(self.runs.itemData(place))

    def _on_open_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The folder of a run")
        if folder:
            self.training.open(Path(folder))

    def _on_stop_clicked(self) -> None:
        self.training.stop()

    def _on_resume_clicked(self) -> None:
        self.training.resume()

    def _on_report_clicked(self) -> None:
        self.training.report()

    def _on_segment_clicked(self) -> None:
        if self.training.model is not None:
            self.segmentWanted.emit(self.training.model)

    def _on_copy_clicked(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None and self.training.job is not None:
            clipboard.setText(self.training.job.command_line)

    def _on_stage_chosen(self, name: str) -> None:
        self._stage = name
        self._show_curves()

    # ---- What the state says ----

    def refresh(self) -> None:
        """Show everything anew."""
        self._show_runs()
        self._show_job()
        self._show_curves()
        self._show_status(self.training.status)

    def _on_other_run(self) -> None:
        self._stage = ""
        self._show_curves()

    def _show_runs(self) -> None:
        job = self.training.job
        with QSignalBlocker(self.runs):
            self.runs.clear()
            for folder, name in self.training.runs.items():
                self.runs.addItem(name, folder)
                place = self.runs.count() - 1
                tip = Qt.ItemDataRole.ToolTipRole
                self.runs.setItemData(place, str(folder), tip)
            here = -1 if job is None else self.runs.findData(job.run.folder)
            self.runs.setCurrentIndex(here)
        self.runs.setToolTip("" if job is None else str(job.run.folder))

    def _show_job(self) -> None:
        job, training = self.training.job, self.training
        self.bar.setVisible(job is not None and not job.ended)
        self.bar.setValue(0 if job is None else round(1000 * job.fraction))
        where = training.whereabouts
        said = "" if where is None else where.in_words
        self.state.setText(f"{training.state_text} {said}".strip())
        self.stop_button.setEnabled(training.can_stop)
        self.resume_button.setEnabled(training.can_resume)
        self.report_button.setEnabled(job is not None)
        self.segment_button.setEnabled(training.model is not None)
        self.copy_button.setEnabled(job is not None)
        self._show_status(training.status)

    def _show_status(self, text: str) -> None:
        job = self.training.job
        words = text or ("" if job is None else job.error)
        self.message.setText(words)
        self.message.setVisible(bool(words))

    def _show_curves(self) -> None:
        stages = self.training.curves.stages
        if self.stage.count() != len(stages) or self._stage not in stages:
            followed = self._stage in ("", self.stage.itemText(self.stage.count() - 1))
            with QSignalBlocker(self.stage):
                self.stage.clear()
                self.stage.addItems(list(stages))
            if followed or self._stage not in stages:
                self._stage = next(reversed(stages), "")
            self.stage.setCurrentText(self._stage)
        self.stage_row.setVisible(len(stages) > 1)
        shown = stages.get(self._stage, StageCurves(""))
        self.loss.setCurves(_drawn(shown.losses, " term"), shown.epochs)
        self.dice.setCurves(_drawn(shown.dice), shown.epochs)
        self._show_examples(shown)

    def _show_examples(self, stage: StageCurves) -> None:
        count = len(stage.examples)
        last = self.slider.value() == self.slider.maximum()
        with QSignalBlocker(self.slider):
            self.slider.setRange(0, max(0, count - 1))
            if last:
                self.slider.setValue(count - 1)
        for widget in (self.examples_title, self.examples_about):
            widget.setVisible(count > 0)
        self.slider.setVisible(count > 1)
        self._show_example(self.slider.value())

    def _show_example(self, place: int) -> None:
        stage = self.training.curves.stages.get(self._stage)
        job = self.training.job
        if stage is None or job is None or not stage.examples:
            self.picture.show_file(None)
            return
        example = stage.examples[min(place, len(stage.examples) - 1)]
        self.examples_about.setText(
            f"After epoch {example.epoch}: above as labelled, below as the network "
            "sees it."
        )
        self.picture.show_file(job.run.folder / example.file)


def _drawn(curves: dict[str, Curve], term: str = "") -> list[Drawn]:
    """Curves as they are drawn; `term` stands behind the names of parts of a loss."""
    return [
        Drawn(_WORDS.get(one.name, one.name.replace("_", " ") + term), *points)
        for one in curves.values()
        for points in [one.thinned(MOST_POINTS)]
    ]
