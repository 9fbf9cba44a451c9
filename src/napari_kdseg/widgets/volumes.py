"""The Volumes dock: a project's scans, added, looked after, and opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtpy.QtCore import QItemSelectionModel, QSignalBlocker, Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QMenu,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QWidget,
)

from napari_kdseg.shipped import shipped_volumes
from napari_kdseg.state.adding import Status
from napari_kdseg.state.front import bring_to_front, keep_behind
from napari_kdseg.state.intake import Found, Intake
from napari_kdseg.state.layers import LayerData
from napari_kdseg.state.views import is_being_painted
from napari_kdseg.state.volumes import Volumes
from napari_kdseg.volumes.naming import looks_like_labels
from napari_kdseg.volumes.scan import Use
from napari_kdseg.widgets._drop import DropDock
from napari_kdseg.widgets._form import (
    cell,
    fit_height,
    form,
    one_line,
    table,
    wrapped_label,
)
from napari_kdseg.widgets._occupied import is_judged, is_occupied
from napari_kdseg.widgets._volumes_dialogs import (
    ClassesDialog,
    CopyBox,
    DrawnDialog,
    ScansDialog,
    SeriesDialog,
)

POLL_MS = 50
PLUGIN = "napari-kdseg"
_USES: dict[Use, str] = {
    "training": "training",
    "test": "test (held out)",
    "left-out": "left out",
}
_BEHIND = "While you judge or paint, the scan waits in the layer list; Open shows it."
_SCAN, _GRID, _CHANNELS, _STATE = range(4)
_WIDTHS = {_SCAN: 100, _GRID: 100, _CHANNELS: 60}  # the state has the rest
_NARROWEST_PX = 400


class VolumesDock(DropDock):
    """Lists the scans of a project, takes new ones, and opens them.

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
        state: Volumes | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.state = state or Volumes()
        self.dialog: SeriesDialog | ScansDialog | ClassesDialog | DrawnDialog | None = (
            None
        )
        self._was_painted = False
        self._names: list[str] = []
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._build_project()
        self._build_scans()
        self._build_selected()
        self._build_progress()
        self.rows.addStretch(1)
        self._connect()
        self._show_project()
        self._show_rows()
        self._show_status(self.state.status)
        QTimer.singleShot(0, self._show_cache)  # a large cache takes time to count

    def close_dock(self) -> None:
        """Disconnect from the state, and let project and worker go."""
        self._timer.stop()
        for signal, slot in self._connections:
            signal.disconnect(slot)
        self.state.close()

    # ---- Building ----

    def _build_project(self) -> None:
        self.project = one_line()
        self.new_button = _button("New…", "Make a folder a project; listed scans join")
        self.open_project_button = _button("Open…", "Open the folder of a project")
        self.classes_button = _button(
            "Classes…", "What the values of its labels mean, and their colours"
        )
        row = _row(
            self.project,
            self.new_button,
            self.open_project_button,
            self.classes_button,
        )
        row.setStretch(0, 1)
        fields = form()
        fields.addRow("Project", row)
        self.project_note = wrapped_label()
        self.rows.addLayout(fields)
        self.rows.addWidget(self.project_note)

    def _build_scans(self) -> None:
        titles = ("Scan", "Grid", "Channels", "State")
        self.table = table(titles, stretched=3, parent=self.column)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        several = QAbstractItemView.SelectionMode.ExtendedSelection
        self.table.setSelectionMode(several)
        self.table.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        header = self.table.horizontalHeader()
        assert header is not None
        header.setSectionResizeMode(_STATE, QHeaderView.ResizeMode.Stretch)
        for column, width in _WIDTHS.items():
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
            header.resizeSection(column, width)
        # Names of scans mostly begin alike, and differ at their end.
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.hint = wrapped_label("Drop files and folders here.")
        self.files_button = _button("Add files…", "Scans, and their labels")
        self.folder_button = _button(
            "Add folder…", "All scans in a folder and below it"
        )
        self.dicom_button = _button("Import DICOM…", "Choose among a folder's series")
        self.samples_button = _button("Samples", "Made scans to try things on")
        self.samples = QMenu(self.samples_button)
        for name, path in shipped_volumes().items():
            if not looks_like_labels(path):
                self.samples.addAction(name)
        self.samples_button.setMenu(self.samples)
        self.copy_box = CopyBox()
        self.rows.addWidget(self.table)
        self.rows.addWidget(self.hint)
        self.rows.addLayout(_row(self.files_button, self.folder_button))
        self.rows.addLayout(_row(self.dicom_button, self.samples_button))
        self.rows.addWidget(self.copy_box)

    def _build_selected(self) -> None:
        self.details = wrapped_label()
        self.use = QComboBox()
        self.use.addItems(list(_USES.values()))
        self.use.setToolTip(
            "Training learns from labels, and from scans without where its method can. "
            "What is held out is for measuring, and never learnt from. What is left "
            "out is neither learnt from nor tested with"
        )
        self.open_button = _button("Open", "Show it; so does a double click")
        self.locate_button = _button("Locate…", "Say where missing files lie now")
        self.accept_button = _button("Accept", "Take files that changed as they are")
        self.remove_button = _button(
            "Remove",
            "Off the list. Files stay where they are; copies, predictions and "
            "corrections in the project go to its trash, after a question",
        )
        self.refresh_button = _button("Refresh", "Look again at files and results")
        fields = form()
        self.drawn_button = _button(
            "Organs drawn…",
            "Which organs the labels show; others are unknown there, not absent",
        )
        use = _row(self.use, self.drawn_button)
        use.setStretch(0, 1)
        fields.addRow("Used for", use)
        self.rows.addWidget(self.details)
        self.rows.addLayout(fields)
        always = (self.open_button, self.remove_button, self.refresh_button)
        mending = (self.locate_button, self.accept_button)
        self.rows.addLayout(_row(*always, *mending))

    def _build_progress(self) -> None:
        self.progress = QProgressBar()
        self.progress.setRange(0, 1000)
        self.progress.setTextVisible(False)
        self.cancel_button = _button("Cancel", "What was added stays")
        self.message = wrapped_label()
        self.resample_button = _button(
            "Resample and add", "Write them anew, on the grid of the first file"
        )
        self.cache = one_line()
        self.clear_button = _button(
            "Clear",
            "Remove converted scans: they are made anew from your files, which stay. "
            "Layers that show one lose it",
        )
        cache = _row(self.cache, self.clear_button)
        cache.setStretch(0, 1)
        fields = form()
        fields.addRow("Converted", cache)
        self.rows.addLayout(_row(self.progress, self.cancel_button))
        self.rows.addWidget(self.message)
        self.rows.addWidget(self.resample_button)
        self.rows.addLayout(fields)

    def _connect(self) -> None:
        self._timer.timeout.connect(self._on_tick)
        self.dropped.connect(self._bring)
        self.table.itemSelectionChanged.connect(self._on_row_selected)
        self.table.itemDoubleClicked.connect(self._on_open_clicked)
        self.samples.triggered.connect(self._on_sample_chosen)
        self.use.textActivated.connect(self._on_use_chosen)
        for button, slot in (
            (self.new_button, self._on_new_clicked),
            (self.open_project_button, self._on_open_project_clicked),
            (self.classes_button, self._on_classes_clicked),
            (self.drawn_button, self._on_drawn_clicked),
            (self.files_button, self._on_files_clicked),
            (self.folder_button, self._on_folder_clicked),
            (self.dicom_button, self._on_dicom_clicked),
            (self.open_button, self._on_open_clicked),
            (self.locate_button, self._on_locate_clicked),
            (self.accept_button, self._on_accept_clicked),
            (self.remove_button, self._on_remove_clicked),
            (self.refresh_button, self._on_refresh_clicked),
            (self.cancel_button, self._on_cancel_clicked),
            (self.resample_button, self._on_resample_clicked),
            (self.clear_button, self._on_clear_clicked),
        ):
            button.clicked.connect(slot)
        self._connections = (
            (self.state.project_changed, self._show_project),
            (self.state.rows_changed, self._show_rows),
            (self.state.selection_changed, self._show_selected),
            (self.state.status_changed, self._show_status),
            (self.state.layers_opened, self._show_layers),
        )
        for signal, shown in self._connections:
            signal.connect(shown)
        # With the viewer's window the dock dies unasked; the project must not stay
        # locked, nor the worker live on.
        self.destroyed.connect(self.state.close)

    # ---- What the person does ----

    def _on_new_clicked(self) -> None:
        for folder in self._folder("A folder for the project"):
            self.state.create_project(folder)

    def _on_open_project_clicked(self) -> None:
        for folder in self._folder("The folder of a project"):
            self.state.open_project(folder)

    def _on_classes_clicked(self) -> None:
        if self.state.project is not None:
            self.dialog = ClassesDialog(self.state.project.classes, self)
            self.dialog.agreed.connect(self.state.set_classes)
            self.dialog.ask("Save")

    def _on_files_clicked(self) -> None:
        names, _ = QFileDialog.getOpenFileNames(self, "Scans and labels")
        self._bring([Path(name) for name in names])

    def _on_folder_clicked(self) -> None:
        self._bring(self._folder("A folder with scans"))

    def _on_dicom_clicked(self) -> None:
        self._bring(self._folder("A folder with DICOM series"))

    def _folder(self, title: str) -> list[Path]:
        name = QFileDialog.getExistingDirectory(self, title)
        return [Path(name)] if name else []

    def _bring(self, paths: Sequence[Path]) -> None:
        """Ask what has to be asked of what was brought, and add it."""
        if not paths or self.state.status.busy:
            return
        intake = self.state.look_at(paths)
        if not intake.choices:
            self._go_on(intake)
            return
        self.dialog = SeriesDialog(intake, self)
        self.dialog.chosen.connect(self._go_on)
        self.dialog.ask("Add")

    def _go_on(self, intake: Intake) -> None:
        if not intake.needs_a_look:
            self._on_agreed(list(intake.found))
            return
        self.dialog = ScansDialog(intake.found, self)
        self.dialog.patternChosen.connect(self._on_pattern_chosen)
        self.dialog.agreed.connect(self._on_agreed)
        self.dialog.ask("Add")

    def _on_pattern_chosen(self, pattern: str | None) -> None:
        if isinstance(self.dialog, ScansDialog):
            self.dialog.show_found(self.state.named_by(self.dialog.found, pattern))

    def _on_agreed(self, found: list[Found]) -> None:
        copy = self.copy_box.isEnabled() and self.copy_box.isChecked()
        self.state.take(found, copy=copy)

    def _on_sample_chosen(self, action: Any) -> None:
        self.viewer.open_sample(PLUGIN, action.text())

    def _on_row_selected(self) -> None:
        cases = [scan.case for scan in self.state.scans]
        chosen = self._chosen_rows()
        row = self.table.currentRow()
        if row not in chosen:  # taken out of the selection
            row = chosen[-1] if chosen else -1
        looked_at = None if row < 0 else cases[row]
        self.state.select(looked_at, [cases[one] for one in chosen])

    def _on_open_clicked(self) -> None:
        if self.state.selected is not None:
            self._was_painted = is_being_painted(self.viewer.layers.selection.active)
            self.state.open(self.state.selected.case)

    def _on_locate_clicked(self) -> None:
        if self.state.selected is not None:
            for folder in self._folder("Where its files lie now"):
                self.state.locate(self.state.selected.case, folder)

    def _on_drawn_clicked(self) -> None:
        drawn = self.state.drawn_in_chosen
        if drawn:
            count = sum(scan.labels is not None for scan in self.state.chosen)
            self.dialog = DrawnDialog(drawn, count, self)
            self.dialog.agreed.connect(self.state.set_drawn_in_chosen)
            self.dialog.ask("Save")

    def _on_accept_clicked(self) -> None:
        if self.state.selected is not None:
            self.state.accept(self.state.selected.case)

    def _on_remove_clicked(self) -> None:
        cases = [scan.case for scan in self.state.chosen]
        told = self.state.trashed_with(cases)
        yes = QMessageBox.StandardButton.Yes
        if not told or QMessageBox.question(self, "Remove?", told) == yes:
            self.state.remove(*cases)

    def _on_refresh_clicked(self) -> None:
        self.state.refresh()

    def _on_use_chosen(self, text: str) -> None:
        use = next(use for use, words in _USES.items() if words == text)
        self.state.set_use_of_chosen(use)

    def _on_cancel_clicked(self) -> None:
        self.state.cancel()

    def _on_resample_clicked(self) -> None:
        self.state.add_resampled()

    def _on_clear_clicked(self) -> None:
        self.state.clear_cache()
        self._show_cache()

    def _on_tick(self) -> None:
        self.state.poll()

    # ---- What the state says ----

    def _show_project(self) -> None:
        project = self.state.project
        self.project.setText("none" if project is None else project.name)
        self.project.setToolTip("" if project is None else str(project.folder))
        self.project_note.setText(self.state.project_text)
        self.project_note.setVisible(bool(self.state.project_text))
        self._show_buttons()

    def _show_rows(self) -> None:
        rows = self.state.rows
        with QSignalBlocker(self.table):
            self.table.setRowCount(len(rows))
            for number, row in enumerate(rows):
                words = (row.case, row.badge, row.channels, row.state.words)
                for column, text in enumerate(words):
                    item = cell(text)
                    item.setFlags(item.flags() | Qt.ItemFlag.ItemIsSelectable)
                    self.table.setItem(number, column, item)
        fit_height(self.table, most_rows=9)
        self._fit_columns()
        self.hint.setVisible(not rows)
        self._show_selected()

    def _fit_columns(self) -> None:
        """Leave room for names and states: what is the same of all scans is hidden.

        The text below the table says it of the one that is looked at. Names that were
        there keep the width that a person gave them.
        """
        rows = self.state.rows
        grids, channels = {row.badge for row in rows}, {row.channels for row in rows}
        for column, different in ((_GRID, grids), (_CHANNELS, channels)):
            self.table.setColumnHidden(column, len(rows) > 1 and len(different) == 1)
        names = [row.case for row in rows]
        if names == self._names:
            return
        self._names = names
        beside = sum(map(self.table.columnWidth, (_GRID, _CHANNELS)))
        width = max(_NARROWEST_PX, self.table.width())
        wanted = max(_WIDTHS[_SCAN], self.table.sizeHintForColumn(_SCAN))
        half = max(_WIDTHS[_SCAN], (width - beside) // 2)
        self.table.setColumnWidth(_SCAN, min(wanted, half))

    def _show_selected(self) -> None:
        scan, chosen = self.state.selected, self.state.chosen
        cases = [one.case for one in self.state.scans]
        rows = [cases.index(one.case) for one in chosen]
        if rows != self._chosen_rows():  # else a person is at it
            self._choose_rows(rows, -1 if scan is None else cases.index(scan.case))
        self.details.setText(self.state.details)
        self.details.setVisible(scan is not None)
        # Where nobody chose, a scan is learnt from.
        uses = {_USES.get(one.use, _USES["training"]) for one in chosen}
        self.use.setCurrentIndex(
            self.use.findText(uses.pop()) if len(uses) == 1 else -1
        )
        self._show_buttons()

    def _chosen_rows(self) -> list[int]:
        model = self.table.selectionModel()
        return sorted(index.row() for index in model.selectedRows()) if model else []

    def _choose_rows(self, rows: Sequence[int], looked_at: int) -> None:
        model, cells = self.table.selectionModel(), self.table.model()
        assert model is not None
        assert cells is not None
        flag = QItemSelectionModel.SelectionFlag
        with QSignalBlocker(self.table):
            self.table.clearSelection()
            self.table.setCurrentCell(looked_at, 0, flag.NoUpdate)
            for row in rows:
                model.select(cells.index(row, 0), flag.Select | flag.Rows)

    def _show_status(self, status: Status) -> None:
        self.progress.setValue(round(1000 * status.fraction))
        self.message.setText(status.text)
        self.message.setVisible(bool(status.text))
        self._show_buttons()
        if status.busy:
            self._timer.start()
        elif self._timer.isActive():
            self._timer.stop()
            self._show_cache()

    def _show_buttons(self) -> None:
        busy, state = self.state.status.busy, self.state.selected_state
        count = len(self.state.chosen)
        kept = self.state.project is not None and self.state.writable
        free = self.state.writable and not busy
        for widget, enabled in (
            (self.new_button, not busy),
            (self.open_project_button, not busy),
            (self.classes_button, kept and not busy),
            (self.files_button, free),
            (self.folder_button, free),
            (self.dicom_button, free),
            (self.copy_box, kept),
            (self.use, kept and count > 0),
            (self.drawn_button, kept and bool(self.state.drawn_in_chosen)),
            (self.open_button, count == 1 and not busy and not state.missing),
            (self.remove_button, count > 0 and free),
            (self.cancel_button, busy),
            (self.clear_button, not busy),
        ):
            widget.setEnabled(enabled)
        self.locate_button.setVisible(kept and count == 1 and bool(state.missing))
        self.accept_button.setVisible(kept and count == 1 and bool(state.changed))
        self.resample_button.setVisible(self.state.can_resample and not busy)

    def _show_layers(self, layers: list[LayerData]) -> None:
        # Who has a brush in hand and opens a scan means it; not who took it up while
        # the scan was converted.
        waits = is_judged if self._was_painted else is_occupied
        if waits(self.viewer):
            keep_behind(self.viewer, layers)
            self.message.setText(_BEHIND)
            self.message.show()
            return
        listed = [scan.case for scan in self.state.scans]
        front = bring_to_front(self.viewer, layers, listed)
        for dock in self.viewer.window.dock_widgets.values():
            if hasattr(dock, "choose_scan"):
                dock.choose_scan(front)

    def _show_cache(self) -> None:
        self.cache.setText(self.state.cache_text)
        self.cache.setToolTip(str(self.state.cache.folder))


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    return row
