"""The first page of the Train dock: data, method, settings, Start."""

from pathlib import Path

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import (
    QFileDialog,
    QLineEdit,
    QTableWidget,
    QVBoxLayout,
    QWidget,
)

from napari_kdseg.state.training_data import USES, Use
from napari_kdseg.state.training_setup import Setup
from napari_kdseg.widgets._form import (
    cell,
    fit_height,
    form,
    heading,
    one_line,
    put_box,
    table,
    wrapped_label,
)
from napari_kdseg.widgets._settings_form import SettingsForm, StillComboBox
from napari_kdseg.widgets.review.parts import button, row

_REMOVE = "Take off the list"


class EntryUse(StillComboBox):
    """What a data set is for; the last choice takes it off the list.

    Parameters
    ----------
    setup
        What is set up.
    place
        Which of its data sets.
    parent
        Qt's owner.
    """

    def __init__(self, setup: Setup, place: int, parent: QWidget | None = None):
        super().__init__(parent)
        self._setup, self._place = setup, place
        self.addItems([*USES.values(), _REMOVE])
        self.setCurrentText(USES[setup.entries[place].use])
        self.textActivated.connect(self._on_chosen)

    def _on_chosen(self, text: str) -> None:
        if text == _REMOVE:
            self._setup.remove(self._place)
            return
        use: Use = next(use for use, words in USES.items() if words == text)
        self._setup.change(self._place, use=use)


class SetupPage(QWidget):
    """Sets a training up, checks it and starts it.

    Parameters
    ----------
    setup
        What is shown.
    parent
        Qt's owner.
    """

    def __init__(self, setup: Setup, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setup = setup
        self._project: Path | None = None
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(6)
        self._build_data(rows)
        self._build_method(rows)
        self._build_start(rows)
        self._connect()
        self.refresh()

    def disconnect_state(self) -> None:
        """Listen no longer."""
        for signal, slot in self._connections:
            signal.disconnect(slot)

    def offer_project(self, folder: Path | None) -> None:
        """Offer the project that is open in the Volumes dock; None: there is none."""
        self._project = folder
        known = {entry.path for entry in self.setup.entries}
        self.project_button.setVisible(folder is not None and folder not in known)
        if folder is not None:
            self.project_button.setText(f"Add the project {folder.name}")

    # ---- Building ----

    def _build_data(self, rows: QVBoxLayout) -> None:
        self.entries: QTableWidget = table(("Data set", "Use"), 0, self)
        self.uses: list[EntryUse] = []
        self.add_button = button(
            "Add a data set…",
            "A folder as Medical Segmentation Decathlon or nnU-Net has it, one with "
            "dataset.yaml, a project, or a folder of images",
        )
        self.project_button = button("", "Its labelled scans, and those you corrected")
        rows.addWidget(heading("Data"))
        rows.addWidget(self.entries)
        rows.addLayout(row(self.add_button, self.project_button))

    def _build_method(self, rows: QVBoxLayout) -> None:
        self.method = StillComboBox()
        self.about = wrapped_label()
        self.start_from = StillComboBox()
        self.start_from.setToolTip(
            "Puts its settings into the form. A recipe that comes along brings its "
            "settings only; the data is yours"
        )
        self.name = QLineEdit()
        self.name.setToolTip("Of the model, and of the folder of the run")
        self.out = one_line()
        self.out.setToolTip("Gets a folder for this run")
        self.out_button = button("Choose…", "Where the folder of the run is made")
        place = row(self.out, self.out_button)
        place.setStretch(0, 1)
        fields = form()
        fields.addRow("Method", self.method)
        fields.addRow("", self.about)
        fields.addRow("Start from", self.start_from)
        fields.addRow("Name", self.name)
        fields.addRow("Runs go to", place)
        self.settings = SettingsForm()
        rows.addWidget(heading("Method"))
        rows.addLayout(fields)
        rows.addWidget(heading("Settings"))
        rows.addWidget(self.settings)

    def _build_start(self, rows: QVBoxLayout) -> None:
        self.message = wrapped_label()
        self.check_button = button(
            "Check", "Whether it could start: data, settings, room on the disk"
        )
        self.start_button = button(
            "Start", "Checks, then trains; it goes on when napari is closed"
        )
        rows.addWidget(self.message)
        rows.addLayout(row(self.check_button, self.start_button))

    def _connect(self) -> None:
        self.add_button.clicked.connect(self._on_add_clicked)
        self.project_button.clicked.connect(self._on_project_clicked)
        self.method.textActivated.connect(self._on_method_chosen)
        self.start_from.textActivated.connect(self._on_start_from_chosen)
        self.name.editingFinished.connect(self._on_name_edited)
        self.out_button.clicked.connect(self._on_out_clicked)
        self.settings.edited.connect(self._on_edited)
        self.settings.refused.connect(self._show_refusal)
        self.check_button.clicked.connect(self._on_check_clicked)
        self.start_button.clicked.connect(self._on_start_clicked)
        self._connections = (
            (self.setup.methods_changed, self.refresh),
            (self.setup.form_changed, self._show_form),
            (self.setup.entries_changed, self._show_entries),
            (self.setup.status_changed, self._show_status),
        )
        for signal, slot in self._connections:
            signal.connect(slot)

    # ---- What the person does ----

    def _on_add_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "The folder of a data set")
        if folder:
            self.setup.add(Path(folder))

    def _on_project_clicked(self) -> None:
        if self._project is not None:
            self.setup.add(self._project)

    def _on_method_chosen(self, name: str) -> None:
        self.setup.choose_method(name)

    def _on_start_from_chosen(self, name: str) -> None:
        self.setup.start_from(name)

    def _on_name_edited(self) -> None:
        self.setup.set_name(self.name.text())
        self._show_place()

    def _on_out_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Where runs go")
        self.setup.set_out(Path(folder) if folder else None)
        self._show_place()

    def _on_edited(self, path: tuple[str, ...], value: object) -> None:
        self.setup.edit(path, value)
        self._show_status(self.setup.status)

    def _on_check_clicked(self) -> None:
        self.setup.check()

    def _on_start_clicked(self) -> None:
        self.setup.check(start=True)

    # ---- What the state says ----

    def refresh(self) -> None:
        """Show everything anew."""
        with QSignalBlocker(self.method):
            self.method.clear()
            self.method.addItems(list(self.setup.titles))
        self._show_form()
        self._show_entries()

    def _show_form(self) -> None:
        self.method.setCurrentText(self.setup.method)
        self.about.setText(self.setup.titles.get(self.setup.method, ""))
        with QSignalBlocker(self.start_from):
            self.start_from.clear()
            self.start_from.addItems(list(self.setup.starting_points))
            self.start_from.setCurrentText(self.setup.starting_point)
        if self.settings.shown is self.setup.form:
            self.settings.show_values()
        else:
            self.settings.show_form(self.setup.form)
        self._show_place()
        self._show_status(self.setup.status)

    def _show_entries(self) -> None:
        entries = self.setup.entries
        self.entries.setRowCount(len(entries))
        self.uses = []
        for place, entry in enumerate(entries):
            use = EntryUse(self.setup, place)
            self.uses.append(use)
            self.entries.setItem(place, 0, cell(entry.path.name, str(entry.path)))
            put_box(self.entries, place, 1, use)
        self.entries.setVisible(bool(entries))
        fit_height(self.entries, most_rows=6)
        self.offer_project(self._project)
        self._show_form()

    def _show_place(self) -> None:
        self.name.setText(self.setup.name)
        self.out.setText("" if self.setup.out is None else str(self.setup.out))

    def _show_refusal(self, text: str) -> None:
        self.message.setText(text)
        self.message.show()

    def _show_status(self, text: str) -> None:
        problem = self.setup.problem
        self.message.setText(text or problem)
        self.message.setVisible(bool(text or problem))
        free = not problem and not self.setup.busy
        self.check_button.setEnabled(free)
        self.start_button.setEnabled(free)
