"""The Segment dock: choose a scan and models, run, look on, cancel."""

from importlib import import_module
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QAction, QGuiApplication
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGroupBox,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QProgressBar,
    QPushButton,
    QTableWidget,
    QVBoxLayout,
    QWidget,
)

from napari_kdseg.amounts import duration
from napari_kdseg.errors import KdsegError
from napari_kdseg.inference.presets import PRESETS
from napari_kdseg.inference.settings import UNCERTAINTIES
from napari_kdseg.models.model import Model
from napari_kdseg.state.estimates import devices
from napari_kdseg.state.front import is_behind, keep_behind, make_room
from napari_kdseg.state.layers import LayerData, source_of_layer
from napari_kdseg.state.project_prediction import ProjectPrediction
from napari_kdseg.state.segmentation import Segmentation, Status
from napari_kdseg.state.upright import upright
from napari_kdseg.state.views import (
    is_opened_scan,
    is_scan,
    refresh_live,
    show,
    show_hidden,
    slice_in_view,
)
from napari_kdseg.widgets._form import (
    Dock,
    LayerChoice,
    TickBox,
    cell,
    fit_height,
    form,
    one_line,
    put_box,
    table,
    wrapped_label,
)
from napari_kdseg.widgets._occupied import are_results_read, is_occupied
from napari_kdseg.widgets._open_project import open_project

POLL_MS = 50
LOOK_MS = 1000
_NO_UNCERTAINTY = "none"
_RUN, _REPLACE = "Run", "Replace and run"
_BEHIND = "While you judge or paint, the results wait in the layer list."


class SegmentDock(Dock):
    """Segments the chosen scan with the ticked models, in a process of its own.

    Parameters
    ----------
    napari_viewer
        The viewer the dock belongs to.
    state
        What is shown; by default a new one with the shipped models.
    parent
        Qt's owner.
    whole
        What is shown of the whole project; by default a new one.
    """

    def __init__(
        self,
        napari_viewer: Any,
        state: Segmentation | None = None,
        parent: QWidget | None = None,
        whole: ProjectPrediction | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.state = state or _with_shipped_models()
        self.whole = whole or ProjectPrediction()
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._look_timer = QTimer(self)
        self._look_timer.setInterval(LOOK_MS)
        self._held_back: list[Any] = []
        self._shows_behind = False
        self._build_scan()
        self._build_models()
        self._build_options()
        self._build_run()
        self._build_project()
        self.rows.addStretch(1)
        self._connect()
        self._on_layer_chosen()
        self._show_status(self.state.status)
        self._show_out()
        self._on_look()
        self._look_timer.start()

    def close_dock(self) -> None:
        """Disconnect from viewer and state, and let the worker go."""
        self._timer.stop()
        self._look_timer.stop()
        self.layer_choice.disconnect_viewer()
        for signal, slot in self._connections:
            signal.disconnect(slot)
        self.state.close()
        self.whole.close()

    def choose_scan(self, layer: Any) -> None:
        """Choose the scan to segment; what is none is ignored."""
        self.layer_choice.setValue(layer)

    # ---- Building ----

    def _build_scan(self) -> None:
        self.layer_choice = LayerChoice(
            self.viewer.layers, is_scan, takes=is_opened_scan
        )
        self.layer_choice.setToolTip("The scan to segment")
        self.badge = one_line()
        self.badge.setToolTip("Orientation and voxel size (x, y, z), as in the file")
        self.upright_button = QPushButton("Upright")
        self.upright_button.setToolTip(
            "Turn the picture: the front or the head above, the patient's right at the "
            "left. The scan stays as it is; the view's own menu turns it back"
        )
        lies = QHBoxLayout()
        lies.addWidget(self.badge, 1)
        lies.addWidget(self.upright_button)
        fields = form()
        fields.addRow("Scan", self.layer_choice)
        fields.addRow("", lies)
        self.rows.addLayout(fields)

    def _build_models(self) -> None:
        titles = ("Model", "Classes", "Licence", "Time")
        self.models: QTableWidget = table(titles, stretched=1, parent=self.column)
        self.boxes: list[TickBox] = []
        self.add_button = QPushButton("Add a model folder…")
        self.add_button.setToolTip("A folder with model.yaml and weights.safetensors")
        self.rows.addWidget(self.models)
        self.rows.addWidget(self.add_button)

    def _build_options(self) -> None:
        self.uncertainty = QComboBox()
        self.uncertainty.addItems([*UNCERTAINTIES, _NO_UNCERTAINTY])
        self.uncertainty.setToolTip("How unsure a voxel's class is, 0 to 1")
        self.device = QComboBox()
        self.device.addItems(devices())
        self.device.setToolTip("auto takes the graphics card where there is one")
        self.preset = QComboBox()
        for number, (name, preset) in enumerate(PRESETS.items()):
            self.preset.addItem(name)
            self.preset.setItemData(number, preset.told, Qt.ItemDataRole.ToolTipRole)
        self.preset.setToolTip("How exact: what it costs is told below once measured")
        self.out = QLineEdit()
        self.out.setReadOnly(True)
        self.out.setPlaceholderText("in the cache, until saved")
        self.out.setToolTip(
            "Where results are published, in the format of the scan; of a project, "
            "where Review finds them"
        )
        self.out_button = QPushButton("Choose…")
        self.out_button.setToolTip("Where the results go")
        menu = QMenu(self.out_button)
        self.project_action = QAction("The project's predictions", menu)
        self.folder_action = QAction("A folder…", menu)
        self.cache_action = QAction("The cache, until saved", menu)
        menu.addActions([self.project_action, self.folder_action, self.cache_action])
        self.out_button.setMenu(menu)
        place = QHBoxLayout()
        place.addWidget(self.out)
        place.addWidget(self.out_button)
        fields = form()
        fields.addRow("Uncertainty", self.uncertainty)
        fields.addRow("Device", self.device)
        fields.addRow("Preset", self.preset)
        fields.addRow("Results", place)
        self.rows.addLayout(fields)

    def _build_run(self) -> None:
        self.estimate = wrapped_label()
        self.run_button = QPushButton(_RUN)
        self.run_button.setToolTip("The slice in view comes first")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Finished tiles stay; Run goes on from there")
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.cancel_button)
        self.progress = QProgressBar()
        self.progress.setRange(0, 1000)
        self.progress.setTextVisible(False)
        self.message = wrapped_label()
        self.copy_button = QPushButton("Copy command line")
        self.copy_button.setToolTip("What repeats this run in a shell")
        self.rows.addWidget(self.estimate)
        self.rows.addLayout(buttons)
        for widget in (self.progress, self.message, self.copy_button):
            self.rows.addWidget(widget)

    def _build_project(self) -> None:
        self.project = QGroupBox("Whole project")
        rows = QVBoxLayout(self.project)
        self.all_button = QPushButton("Run on all scans")
        self.all_button.setToolTip(
            "Segment every scan of the project that lacks a prediction by the ticked "
            "models, one after the other, in a process that outlives napari"
        )
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip("Finished scans stay, and the run can go on")
        buttons = QHBoxLayout()
        buttons.addWidget(self.all_button)
        buttons.addWidget(self.stop_button)
        self.all_progress = QProgressBar()
        self.all_progress.setRange(0, 1000)
        self.all_progress.setTextVisible(False)
        self.all_message = wrapped_label()
        rows.addWidget(self.all_message)
        rows.addLayout(buttons)
        rows.addWidget(self.all_progress)
        self.rows.addWidget(self.project)

    def _connect(self) -> None:
        self._timer.timeout.connect(self._on_tick)
        self._look_timer.timeout.connect(self._on_look)
        self.layer_choice.layerChanged.connect(self._on_layer_chosen)
        self.add_button.clicked.connect(self._on_add_clicked)
        self.uncertainty.currentTextChanged.connect(self._on_uncertainty_chosen)
        self.device.currentTextChanged.connect(self._on_device_chosen)
        self.preset.currentTextChanged.connect(self._on_preset_chosen)
        self.project_action.triggered.connect(self._on_project_out)
        self.folder_action.triggered.connect(self._on_folder_out)
        self.cache_action.triggered.connect(self._on_cache_out)
        self.run_button.clicked.connect(self._on_run_clicked)
        self.cancel_button.clicked.connect(self._on_cancel_clicked)
        self.copy_button.clicked.connect(self._on_copy_clicked)
        self.upright_button.clicked.connect(self._on_upright_clicked)
        self.all_button.clicked.connect(self._on_all_clicked)
        self.stop_button.clicked.connect(self._on_stop_clicked)
        self._connections = (
            (self.whole.changed, self._show_project),
            (self.whole.layers_published, self._show_predicted),
            (self.state.models_changed, self._show_models),
            (self.state.source_changed, self._show_source),
            (self.state.estimate_changed, self._show_estimate),
            (self.state.out_changed, self._show_out),
            (self.state.status_changed, self._show_status),
            (self.state.layers_started, self._show_layers),
            (self.state.tiles_finished, self._show_tiles),
            (self.state.layers_published, self._show_layers),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        # With the viewer's window the dock dies unasked; its worker must not live on.
        self.destroyed.connect(self.state.close)
        self.destroyed.connect(self.whole.close)

    # ---- What the person does ----

    def _on_layer_chosen(self) -> None:
        layer = self.layer_choice.value()
        try:
            self.state.set_source(None if layer is None else source_of_layer(layer))
        except KdsegError as error:
            self.state.set_source(None)
            self.message.setText(str(error))

    def _on_model_ticked(self, model: Model, ticked: bool) -> None:
        self.state.choose(model, chosen=ticked)
        QTimer.singleShot(0, self._load_ahead)

    def _load_ahead(self) -> None:
        """Import what napari needs for a first layer with class names.

        It takes half a second, better spent now than when the first slice is ready.
        """
        for name in ("pandas", "zarr"):
            import_module(name)

    def _on_add_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A model folder")
        if folder:
            self._add_model(Path(folder))

    def _add_model(self, folder: Path) -> None:
        try:
            self.state.add_model(folder)
        except KdsegError as error:
            self.message.setText(str(error))

    def _on_uncertainty_chosen(self, name: str) -> None:
        self.state.set_uncertainty(None if name == _NO_UNCERTAINTY else name)

    def _on_device_chosen(self, name: str) -> None:
        self.state.set_device(name)
        self._show_models()

    def _on_preset_chosen(self, name: str) -> None:
        self.state.set_preset(name)

    def _on_project_out(self) -> None:
        self.state.set_out_to_project()

    def _on_folder_out(self) -> None:
        folder = QFileDialog.getExistingDirectory(
            self, "Where results are published", self.out.text()
        )
        if folder:
            self.state.set_out(Path(folder))

    def _on_cache_out(self) -> None:
        self.state.set_out(None)

    def _on_run_clicked(self) -> None:
        layer = self.layer_choice.value()
        self._shows_behind = False
        view = None if layer is None else slice_in_view(self.viewer, layer)
        self.state.run(
            view,
            replace_earlier=self.run_button.text() == _REPLACE,
            judged=are_results_read(self.viewer),
        )
        self._timer.start()

    def _on_cancel_clicked(self) -> None:
        self.state.cancel()

    def _on_all_clicked(self) -> None:
        self.whole.run(self.state.settings, self.state.preset)

    def _on_stop_clicked(self) -> None:
        self.whole.stop()

    def _on_upright_clicked(self) -> None:
        source = self.state.source
        if source is None:
            return
        beside = self.viewer.dims.ndim - 3  # axes of other layers come first
        rows, columns = (axis - beside for axis in self.viewer.dims.displayed[-2:])
        turned = upright(source.grid.orientation, rows, columns)
        self.viewer.camera.orientation2d = turned

    def _on_copy_clicked(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self.state.command_line)

    def _on_tick(self) -> None:
        self.state.poll()

    def _on_look(self) -> None:
        project = open_project(self.viewer)
        self.state.set_project(project)
        self.whole.poll()
        self.whole.look(project, self.state.chosen)

    # ---- What the state says ----

    def _show_source(self) -> None:
        source = self.state.source
        self.badge.setText("" if source is None else source.badge)
        self.upright_button.setEnabled(source is not None)
        self.whole.set_source(source)
        self._show_models()
        self._show_status(self.state.status)  # names its scan where that is another

    def _show_models(self) -> None:
        models = sorted(self.state.models, key=self.state.misfit)  # fitting ones first
        self.models.setRowCount(len(models))
        self.boxes = [self._show_model(row, model) for row, model in enumerate(models)]
        fit_height(self.models, most_rows=7)

    def _show_model(self, row: int, model: Model) -> TickBox:
        card, misfit = model.card, self.state.misfit(model)
        seconds = self.state.seconds(model)
        about = card.description or f"A {card.dimensions}D {card.role}"
        box = TickBox(model, card.name)
        box.setToolTip(misfit or f"{about}\n{model.folder}")
        box.setEnabled(not misfit)
        box.show_ticked(model in self.state.chosen)
        box.ticked.connect(self._on_model_ticked)
        put_box(self.models, row, 0, box)
        time = "—" if seconds is None else duration(seconds)
        classes = ", ".join(card.classes.names)
        cells = (
            cell(classes, misfit or "\n".join(card.classes.names)),
            cell(card.licence),
            cell(time, "On this scan, as measured before on this computer"),
        )
        for column, item in enumerate(cells, start=1):
            if misfit:
                item.setFlags(Qt.ItemFlag.NoItemFlags)
            self.models.setItem(row, column, item)
        return box

    def _show_estimate(self) -> None:
        for box in self.boxes:
            box.show_ticked(box.value in self.state.chosen)
        said = self.state.problem or self.state.estimate_text
        replaced = self.state.replaced
        told = (said, self.state.preset_text, replaced)
        self.estimate.setText("\n".join(filter(None, told)))
        self.run_button.setText(_REPLACE if replaced else _RUN)
        self._show_buttons()

    def _show_out(self) -> None:
        out = self.state.out
        self.out.setText("" if out is None else str(out))
        self.project_action.setEnabled(self.state.has_project)

    def _show_status(self, status: Status) -> None:
        self.progress.setValue(round(1000 * status.fraction))
        about = f"{self.state.about}:" if self.state.about else ""
        behind = _BEHIND if self._shows_behind else ""
        self.message.setText(" ".join(filter(None, (about, status.text, behind))))
        self._show_buttons()
        if not status.busy:
            self._timer.stop()

    def _show_project(self) -> None:
        self.project.setVisible(self.whole.project is not None)
        self.all_message.setText(self.whole.text)
        self.all_message.setToolTip(self.whole.details)
        self.all_progress.setValue(round(1000 * self.whole.fraction))
        self.all_progress.setVisible(self.whole.busy)
        self.all_button.setEnabled(self.whole.can_run)
        self.stop_button.setEnabled(self.whole.busy)

    def _show_buttons(self) -> None:
        busy = self.state.status.busy
        self.run_button.setEnabled(not busy and not self.state.problem)
        self.cancel_button.setEnabled(busy and self.state.status.phase != "cancelling")
        self.copy_button.setEnabled(bool(self.state.command_line))

    def _show_layers(self, layers: list[LayerData]) -> None:
        self._shows_behind = is_occupied(self.viewer)
        if self._shows_behind:
            self._held_back += show_hidden(self.viewer, layers)
            self._show_status(self.state.status)  # says where they are
            return
        if is_behind(self.viewer, layers):
            keep_behind(self.viewer, layers)
            return
        make_room(self.viewer, layers)
        shown = [show(self.viewer, layer_data) for layer_data in layers]
        self.viewer.layers.selection.active = shown[-1]
        for layer in shown:
            if layer in self._held_back:
                self._held_back.remove(layer)
                layer.visible = True

    def _show_predicted(self, layers: list[LayerData]) -> None:
        self._show_layers(layers)
        self._show_status(self.state.status)

    def _show_tiles(self) -> None:
        refresh_live(self.viewer.layers)


def _with_shipped_models() -> Segmentation:
    state = Segmentation()
    state.add_shipped_models()
    return state
