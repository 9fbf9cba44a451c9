"""The Measure dock: organs in numbers, or agreement with a reference."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, QTimer
from qtpy.QtGui import QAction, QGuiApplication
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QLineEdit,
    QMenu,
    QWidget,
)

from napari_kdseg.measure.organs import DEFINITIONS as ORGAN_DEFINITIONS
from napari_kdseg.state.jobs import Job
from napari_kdseg.state.measured import Place
from napari_kdseg.state.measurement import Measurement
from napari_kdseg.state.views import go_to_slice, layer_with_key, show
from napari_kdseg.widgets._atlas import AtlasBox
from napari_kdseg.widgets._form import (
    Dock,
    form,
    plain_button,
    side_by_side,
    wrapped_label,
)
from napari_kdseg.widgets._job_row import JobRow
from napari_kdseg.widgets._measured import MeasuredBox
from napari_kdseg.widgets._open_project import open_project

POLL_MS = 200
LOOK_MS = 1000
_ALL = "all"
_ATLAS_TIP = (
    "Lay all scans over the chosen one: where organs lie, and how much they differ"
)
_CANCEL_TIP = "Scans that are done by then are remembered"
_EXPORTS = "CSV (*.csv);;Parquet (*.parquet)"


class MeasureDock(Dock):
    """Measures labels of a project, a folder or a file, and shows what comes of it.

    Parameters
    ----------
    napari_viewer
        The viewer the dock belongs to.
    state
        What is shown.
    parent
        Qt's owner.
    """

    def __init__(
        self,
        napari_viewer: Any,
        state: Measurement | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.state = state or Measurement()
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._look_timer = QTimer(self)
        self._look_timer.setInterval(LOOK_MS)
        self._build_places()
        self._build_wish()
        self._build_run()
        self.atlas, self.measured = AtlasBox(), MeasuredBox()
        self.rows.addWidget(self.atlas)
        self.rows.addWidget(self.measured)
        self.rows.addStretch(1)
        self._connect()
        self._show_wish()
        self._show_job()
        self._show_result()
        self.atlas.show_atlas(self.state.atlas)
        self._on_look()
        self._look_timer.start()

    def close_dock(self) -> None:
        """Disconnect from the state, and let its job go."""
        self._timer.stop()
        self._look_timer.stop()
        for signal, slot in self._connections:
            signal.disconnect(slot)
        self.state.close()

    def needed_height(self) -> int:
        """Pixels in which all that matters is seen, a table to come included."""
        shown = super().needed_height()
        has_result = self.state.result is not None
        return shown if has_result else shown + self.measured.table_height()

    # ---- Building ----

    def _build_places(self) -> None:
        self.place = _path("a project, results, or labels")
        self.place_button = plain_button("Choose…", "What to measure")
        menu = QMenu(self.place_button)
        self.folder_action = _action(menu, "A project or a folder…")
        self.file_action = _action(menu, "A file of labels…")
        self.place_button.setMenu(menu)
        self.images = _path("as the labels' records say, if they do")
        self.images_button = plain_button("Choose…", "For the grey values of organs")
        menu = QMenu(self.images_button)
        self.recorded_action = _action(menu, "As the labels' records say")
        self.images_action = _action(menu, "A folder of scans…")
        self.images_button.setMenu(menu)
        self.reference = _path("none: measure the organs themselves")
        self.reference_button = plain_button("Choose…", "What counts as the truth")
        menu = QMenu(self.reference_button)
        self.none_action = _action(menu, "None: measure organs")
        self.own_action = _action(menu, "The project's own labels")
        self.other_action = _action(menu, "A data set or folder of labels…")
        self.reference_button.setMenu(menu)

    def _build_wish(self) -> None:
        self.of = QComboBox()
        self.of.addItems(["predictions", "its own labels"])
        self.of.setToolTip("Of a project")
        self.case, self.model = QComboBox(), QComboBox()
        self.case.setToolTip("What to measure; of an atlas, what lies under all others")
        self.tolerance = QDoubleSpinBox()
        self.tolerance.setDecimals(3)
        self.tolerance.setRange(0.0, 1000.0)
        self.tolerance.setSuffix(" mm")
        self.tolerance.setToolTip("Surfaces this close agree, for NSD: some voxels")
        self.tolerance.setValue(self.state.wish.tolerance_mm)
        self.images_row = QWidget()
        row = side_by_side(self.images, self.images_button)
        row.setContentsMargins(0, 0, 0, 0)
        self.images_row.setLayout(row)
        self.fields = form()
        self.fields.addRow("Labels", side_by_side(self.place, self.place_button))
        self.fields.addRow("Scans", self.images_row)
        self.fields.addRow("Which", self.of)
        self.fields.addRow(
            "Reference", side_by_side(self.reference, self.reference_button)
        )
        self.fields.addRow("Scan", self.case)
        self.fields.addRow("Model", self.model)
        self.fields.addRow("Tolerance", self.tolerance)
        self.rows.addLayout(self.fields)

    def _build_run(self) -> None:
        self.message = wrapped_label()
        self.run_button = plain_button("Measure", "In a process of its own")
        self.atlas_button = plain_button("Atlas…", _ATLAS_TIP)
        self.export_button = plain_button("Export…", "The table as CSV or Parquet")
        self.copy_button = plain_button(
            "Copy command line", "What repeats it in a shell"
        )
        self.job_row = JobRow(self._on_cancel, _CANCEL_TIP)
        self.rows.addLayout(
            side_by_side(
                self.run_button,
                self.atlas_button,
                self.export_button,
                self.copy_button,
            )
        )
        self.rows.addWidget(self.job_row)
        self.rows.addWidget(self.message)

    def _connect(self) -> None:
        self._timer.timeout.connect(self._on_tick)
        self._look_timer.timeout.connect(self._on_look)
        self.folder_action.triggered.connect(self._on_folder_clicked)
        self.file_action.triggered.connect(self._on_file_clicked)
        self.recorded_action.triggered.connect(self._on_recorded_images)
        self.images_action.triggered.connect(self._on_other_images)
        self.none_action.triggered.connect(self._on_no_reference)
        self.own_action.triggered.connect(self._on_own_reference)
        self.other_action.triggered.connect(self._on_other_reference)
        self.of.currentIndexChanged.connect(self._on_of_chosen)
        self.case.currentIndexChanged.connect(self._on_case_chosen)
        self.model.currentIndexChanged.connect(self._on_model_chosen)
        self.tolerance.valueChanged.connect(self._on_tolerance_changed)
        self.run_button.clicked.connect(self._on_run_clicked)
        self.atlas_button.clicked.connect(self._on_atlas_clicked)
        self.export_button.clicked.connect(self._on_export_clicked)
        self.copy_button.clicked.connect(self._on_copy_clicked)
        self.measured.placeClicked.connect(self._on_place_clicked)
        self._connections = (
            (self.state.wish_changed, self._show_wish),
            (self.state.job_changed, self._show_job),
            (self.state.result_changed, self._show_result),
            (self.state.atlas_changed, self._show_atlas),
            (self.state.failed, self._show_message),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        # With the viewer's window the dock dies unasked; its job must not live on.
        self.destroyed.connect(self.state.cancel)

    # ---- What the person does ----

    def _on_tick(self) -> None:
        self.state.poll()

    def _on_look(self) -> None:
        self.state.look_at_project(open_project(self.viewer))

    def _on_folder_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A project, or labels")
        if folder:
            self.state.set_labels(Path(folder))

    def _on_file_clicked(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "A file of labels")
        if name:
            self.state.set_labels(Path(name))

    def _on_recorded_images(self) -> None:
        self.state.change(images=None)

    def _on_other_images(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The scans of these labels")
        if folder:
            self.state.change(images=Path(folder))

    def _on_no_reference(self) -> None:
        self.state.change(reference=None)

    def _on_own_reference(self) -> None:
        self.state.change(reference=self.state.wish.labels)

    def _on_other_reference(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The reference")
        if folder:
            self.state.change(reference=Path(folder))

    def _on_of_chosen(self, index: int) -> None:
        of = "labels" if index else "predictions"
        self.state.change(of=of, case=None, model=None)

    def _on_case_chosen(self, index: int) -> None:
        self.state.change(case=self.case.currentText() if index > 0 else None)

    def _on_model_chosen(self, index: int) -> None:
        self.state.change(model=self.model.currentText() if index > 0 else None)

    def _on_tolerance_changed(self, tolerance_mm: float) -> None:
        self.state.change(tolerance_mm=tolerance_mm)

    def _on_run_clicked(self) -> None:
        self._show_message("")
        self.state.run()
        self._timer.start()

    def _on_atlas_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A new folder for the atlas")
        if folder:
            self._show_message("")
            self.state.make_atlas(Path(folder))
            self._timer.start()

    def _on_cancel(self, _job: Job) -> None:
        self.state.cancel()

    def _on_export_clicked(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Export the table", "measured.csv", _EXPORTS
        )
        if name and self.state.export(Path(name)):
            self._show_message(f"{name} is written.")

    def _on_copy_clicked(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self.state.command_line)

    def _on_place_clicked(self, place: Place) -> None:
        """Show a scan with its labels and where they differ, at one slice."""
        key = self.state.key_of(place)
        if layer_with_key(self.viewer.layers, key) is None:
            for layer_data in self.state.layers_of(place.case, place.model):
                show(self.viewer, layer_data)
        layer = layer_with_key(self.viewer.layers, key)
        if layer is not None:
            go_to_slice(self.viewer, layer, place.axis, place.index)

    # ---- What the state says ----

    def _show_message(self, text: str) -> None:
        self.message.setText(text)
        self.message.setVisible(bool(text))

    def _show_wish(self) -> None:
        wish, project = self.state.wish, self.state.is_project
        self.place.setText("" if wish.labels is None else str(wish.labels))
        self.images.setText("" if wish.images is None else str(wish.images))
        own = wish.reference is not None and wish.reference == wish.labels
        reference = "the project's own labels" if own else str(wish.reference or "")
        self.reference.setText(reference)
        self.own_action.setEnabled(project)
        compares = wish.reference is not None
        for widget, shown in (
            (self.images_row, wish.labels is not None and not (project or compares)),
            (self.of, project and not compares),
            (self.case, bool(self.state.cases) and not compares),
            (self.model, bool(self.state.models) and not compares),
            (self.tolerance, compares),
        ):
            self.fields.setRowVisible(widget, shown)
        with QSignalBlocker(self.of):
            self.of.setCurrentIndex(int(wish.of == "labels"))
        _fill(self.case, self.state.cases, wish.case)
        _fill(self.model, self.state.models, wish.model)
        self._show_message(self.state.problem)
        self._show_buttons()

    def _show_job(self) -> None:
        job = self.state.job
        shown = job if job is not None and (not job.ended or job.error) else None
        self.job_row.show_job(shown)
        self._show_buttons()
        if not self.state.busy:
            self._timer.stop()

    def _show_result(self) -> None:
        self.measured.show_result(self.state.result)
        self._show_buttons()

    def _show_atlas(self) -> None:
        for layer_data in self.state.atlas_layers():
            show(self.viewer, layer_data)
        self.atlas.show_atlas(self.state.atlas)

    def _show_buttons(self) -> None:
        problem, no_atlas = self.state.problem, self.state.atlas_problem
        self.run_button.setEnabled(not problem and not self.state.busy)
        self.run_button.setToolTip(problem or ORGAN_DEFINITIONS)
        self.atlas_button.setEnabled(not no_atlas and not self.state.busy)
        self.atlas_button.setToolTip(no_atlas or _ATLAS_TIP)
        self.export_button.setEnabled(self.state.result is not None)
        self.copy_button.setEnabled(bool(self.state.command_line))


def _path(placeholder: str) -> QLineEdit:
    """A line that shows where something lies."""
    made = QLineEdit()
    made.setReadOnly(True)
    made.setPlaceholderText(placeholder)
    return made


def _action(menu: QMenu, text: str) -> QAction:
    """An entry of a menu."""
    made = QAction(text, menu)
    menu.addAction(made)
    return made


def _fill(combo: QComboBox, names: tuple[str, ...], chosen: str | None) -> None:
    with QSignalBlocker(combo):
        combo.clear()
        combo.addItems([_ALL, *names])
        combo.setCurrentIndex(names.index(chosen) + 1 if chosen in names else 0)
