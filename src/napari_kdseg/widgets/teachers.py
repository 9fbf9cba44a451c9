"""The Teachers dock: what each model says, where which may teach, the worst slices."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QWidget,
)

from napari_kdseg.errors import KdsegError
from napari_kdseg.state.regions import CONFLICT
from napari_kdseg.state.results import Kind
from napari_kdseg.state.teachers import UNCERTAINTY, Teachers
from napari_kdseg.state.views import (
    go_to_slice,
    layer_in_case,
    layer_with_key,
    show,
    slice_in_view,
    sliced_axis,
)
from napari_kdseg.widgets._form import (
    Dock,
    TickBox,
    cell,
    fit_height,
    heading,
    put_box,
    table,
    wrapped_label,
)
from napari_kdseg.widgets._plots import Curve, StripChart

POLL_MS = 200
_CURVE_COLORS = {UNCERTAINTY: "#ff9f1c", CONFLICT: "#ff2d95"}
_ALL_TEACHERS = "highest of all teachers"
_KINDS: tuple[Kind, Kind] = ("labels", "uncertainty")


class TeachersDock(Dock):
    """Shows the results of several models of one scan side by side.

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
        state: Teachers | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.state = state or Teachers()
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._build_case()
        self._build_models()
        self._build_regions()
        self._build_slices()
        self.rows.addStretch(1)
        self._connect()
        self._show_cases()
        self._show_case()
        self._show_profile()
        self._on_tick()
        self._timer.start()

    def close_dock(self) -> None:
        """Disconnect from viewer and state."""
        self._timer.stop()
        for signal, slot in self._connections:
            signal.disconnect(slot)

    # ---- Building ----

    def _build_case(self) -> None:
        self.case_choice = QComboBox()
        self.case_choice.setToolTip("Scans with results in the viewer")
        self.open_button = QPushButton("Open results…")
        self.open_button.setToolTip("The folder of a case: OUT/CASE")
        row = QHBoxLayout()
        row.addWidget(self.case_choice, 1)
        row.addWidget(self.open_button)
        self.rows.addLayout(row)
        self.message = wrapped_label()
        self.rows.addWidget(self.message)

    def _build_models(self) -> None:
        titles = ("Model", "Labels", "Uncertainty")
        self.models = table(titles, stretched=0, parent=self.column)
        self.boxes: list[TickBox] = []
        self.rows.addWidget(self.models)

    def _build_regions(self) -> None:
        self.regions_box = TickBox(
            ("regions", ""), "Show where which teacher may teach"
        )
        self.regions_box.setToolTip("Regions of MS-KD, from the teachers' labels")
        self.legend = table(("Region", "Share of voxels"), 0, self.column)
        self.rule = wrapped_label()
        self.rows.addWidget(heading("Regions"))
        for widget in (self.regions_box, self.legend, self.rule):
            self.rows.addWidget(widget)

    def _build_slices(self) -> None:
        self.chart_heading = heading("Slices")
        self.chart = StripChart()
        self.uncertain_button = QPushButton("Most uncertain slice")
        self.conflict_button = QPushButton("Most conflict")
        row = QHBoxLayout()
        row.addWidget(self.uncertain_button)
        row.addWidget(self.conflict_button)
        self.rows.addWidget(self.chart_heading)
        self.rows.addWidget(self.chart)
        self.rows.addLayout(row)

    def _connect(self) -> None:
        self._timer.timeout.connect(self._on_tick)
        self.case_choice.currentIndexChanged.connect(self._on_case_chosen)
        self.open_button.clicked.connect(self._on_open_clicked)
        self.regions_box.ticked.connect(self._on_ticked)
        self.chart.sliceClicked.connect(self._on_slice_clicked)
        self.uncertain_button.clicked.connect(self._on_uncertain_clicked)
        self.conflict_button.clicked.connect(self._on_conflict_clicked)
        dims = self.viewer.dims.events
        self._connections = (
            (self.state.cases_changed, self._show_cases),
            (self.state.case_changed, self._show_case),
            (self.state.profile_changed, self._show_profile),
            (self.state.failed, self._show_message),
            (dims.point, self._on_view_moved),
            (dims.order, self._on_view_turned),
        )
        for signal, slot in self._connections:
            signal.connect(slot)

    # ---- What the person does ----

    def _on_tick(self) -> None:
        self.state.look(self.viewer.layers)
        self.state.poll()
        self._show_visibility()

    def _on_case_chosen(self, index: int) -> None:
        if 0 <= index < len(self.state.cases):
            self.state.choose(self.state.cases[index])

    def _on_open_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Results of predict")
        if folder:
            self.open_folder(Path(folder))

    def open_folder(self, folder: Path) -> None:
        """Show published results: the labels of each model."""
        try:
            self.state.open_folder(folder)
        except KdsegError as error:
            self.message.setText(str(error))
            return
        for teacher in self.state.teachers:
            self._set_visible("labels", teacher, visible=True)
        self._show_visibility()

    def _on_ticked(self, which: tuple[Kind, str], ticked: bool) -> None:
        self._set_visible(*which, visible=ticked)

    def _on_slice_clicked(self, index: int) -> None:
        layer = self._layer()
        if layer is not None:
            go_to_slice(self.viewer, layer, self._axis(), index)

    def _on_uncertain_clicked(self) -> None:
        self._go_to_worst(UNCERTAINTY)

    def _on_conflict_clicked(self) -> None:
        self._go_to_worst(CONFLICT)

    def _go_to_worst(self, name: str) -> None:
        index = self.state.worst_slice(name, self._axis())
        if index is not None:
            self._on_slice_clicked(index)

    def _on_view_moved(self, _event: Any = None) -> None:
        self._show_position()

    def _on_view_turned(self, _event: Any = None) -> None:
        self._show_profile()

    # ---- What the state says ----

    def _show_message(self, text: str) -> None:
        self.message.setText(text)

    def _show_cases(self) -> None:
        with QSignalBlocker(self.case_choice):
            self.case_choice.clear()
            self.case_choice.addItems([case.name for case in self.state.cases])
        self.case_choice.setEnabled(bool(self.state.cases))

    def _show_case(self) -> None:
        case = self.state.case
        if case is None:
            text = (
                "Here models are compared on one scan. Run Segment with two or more "
                "ticked, or open the results of such a run."
            )
        else:
            text = "Still being computed, or cancelled." if case.growing else ""
            with QSignalBlocker(self.case_choice):
                self.case_choice.setCurrentIndex(self.state.cases.index(case))
        self.message.setText(text)
        self.message.setVisible(bool(text))
        self._show_models()
        self._show_legend()
        self._show_visibility()

    def _show_models(self) -> None:
        rows = [*self.state.teachers]
        if self.state.has("uncertainty"):
            rows.append("")
        self.boxes = []
        self.models.setRowCount(len(rows))
        for row, teacher in enumerate(rows):
            self.models.setItem(row, 0, cell(teacher or _ALL_TEACHERS))
            for column, kind in enumerate(_KINDS, start=1):
                self._show_box(row, column, kind, teacher)
        fit_height(self.models, most_rows=9)

    def _show_box(self, row: int, column: int, kind: Kind, teacher: str) -> None:
        self.models.removeCellWidget(row, column)
        if not self.state.has(kind, teacher):
            return
        box = TickBox((kind, teacher))
        box.setToolTip(f"Show or hide the {kind}")
        box.ticked.connect(self._on_ticked)
        self.boxes.append(box)
        put_box(self.models, row, column, box)

    def _show_legend(self) -> None:
        legend = self.state.legend
        self.legend.setRowCount(len(legend))
        for row, region in enumerate(legend):
            share = "—" if region.share is None else f"{100 * region.share:.2f} %"
            self.legend.setItem(row, 0, cell(region.name, color=region.color))
            self.legend.setItem(row, 1, cell(share))
        fit_height(self.legend, most_rows=16)
        told = self.state.rule or self.state.no_regions
        self.rule.setText(told)
        self.rule.setVisible(bool(told))
        for widget in (self.legend, self.regions_box):
            widget.setEnabled(bool(legend))

    def _show_visibility(self) -> None:
        for box in (*self.boxes, self.regions_box):
            box.show_ticked(self._is_visible(*box.value))

    def _show_profile(self) -> None:
        profile, axis = self.state.profile, self._axis()
        names = profile.names if profile is not None else ()
        curves = [
            Curve(name, profile.means(name, axis), _CURVE_COLORS[name])
            for name in names
            if profile is not None
        ]
        self.chart.setCurves(curves)
        self.chart_heading.setText(f"Slices along {'zyx'[axis]}")
        self.uncertain_button.setEnabled(UNCERTAINTY in names)
        self.conflict_button.setEnabled(CONFLICT in names)
        self._show_position()

    def _show_position(self) -> None:
        layer = self._layer()
        seen = None if layer is None else slice_in_view(self.viewer, layer)
        self.chart.setPosition(None if seen is None else seen[1])

    # ---- The viewer ----

    def _layer(self) -> Any:
        case = self.state.case
        if case is None:
            return None
        return layer_in_case(self.viewer.layers, str(case.folder))

    def _axis(self) -> int:
        layer = self._layer()
        return 0 if layer is None else sliced_axis(self.viewer, layer)

    def _is_visible(self, kind: Kind, teacher: str) -> bool:
        layer = layer_with_key(self.viewer.layers, self.state.key(kind, teacher))
        return layer is not None and bool(layer.visible)

    def _set_visible(self, kind: Kind, teacher: str, *, visible: bool) -> None:
        layer = layer_with_key(self.viewer.layers, self.state.key(kind, teacher))
        if layer is not None:
            layer.visible = visible
        elif visible:
            layer_data = self.state.layer(kind, teacher)
            if layer_data is not None:
                show(self.viewer, layer_data)
