"""Questions of the Volumes dock: series, files of a scan, classes, organs drawn."""

from collections.abc import Mapping

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]  # qtpy makes Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QColorDialog,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_kdseg.errors import LabelError
from napari_kdseg.state.classes import classes_from, next_class
from napari_kdseg.state.intake import LABELS, Found, Intake
from napari_kdseg.volumes.labels import LabelClass, LabelSet
from napari_kdseg.volumes.naming import PATTERNS
from napari_kdseg.widgets._form import cell, swatch, table, wrapped_label

_AUTOMATIC = "as is usual: CASE_0000, CASE_t1, CASE/t1"
_ALONE = "every file is a scan of its own"
_TICKS = {
    True: Qt.CheckState.Checked,
    False: Qt.CheckState.Unchecked,
    None: Qt.CheckState.PartiallyChecked,
}


class _Question(QDialog):
    """A dialog that is not waited for, and gone once it is answered."""

    def __init__(self, title: str, text: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setModal(True)
        self.rows = QVBoxLayout(self)
        self.rows.addWidget(wrapped_label(text))
        button = QDialogButtonBox.StandardButton
        self.buttons = QDialogButtonBox(button.Ok | button.Cancel)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)

    def ask(self, words: str) -> None:
        """Show it, with what the button that accepts says."""
        accepting = self.buttons.button(QDialogButtonBox.StandardButton.Ok)
        if accepting is not None:
            accepting.setText(words)
        self.rows.addWidget(self.buttons)
        self.open()


class SeriesDialog(_Question):
    """Asks which of several volumes, such as series, are wanted.

    Parameters
    ----------
    intake
        What was brought.
    parent
        Qt's owner.
    """

    chosen = Signal(Intake)

    def __init__(self, intake: Intake, parent: QWidget | None = None) -> None:
        text = "Several volumes lie in one place. Tick those to add."
        super().__init__("Series", text, parent)
        self._intake = intake
        self.list = QListWidget()
        self.list.setSpacing(2)
        for one in intake.choices:
            item = QListWidgetItem(one.what)
            item.setToolTip(str(one.file.path))
            item.setCheckState(Qt.CheckState.Checked)
            self.list.addItem(item)
        self.all_button = QPushButton("Tick all")
        self.none_button = QPushButton("Tick none")
        row = QHBoxLayout()
        row.addWidget(self.all_button)
        row.addWidget(self.none_button)
        row.addStretch(1)
        self.rows.addWidget(self.list)
        self.rows.addLayout(row)
        self.all_button.clicked.connect(self._on_all_clicked)
        self.none_button.clicked.connect(self._on_none_clicked)
        self.accepted.connect(self._on_accepted)
        self.resize(520, 360)

    def _on_all_clicked(self) -> None:
        self._tick(Qt.CheckState.Checked)

    def _on_none_clicked(self) -> None:
        self._tick(Qt.CheckState.Unchecked)

    def _tick(self, state: Qt.CheckState) -> None:
        for row in range(self.list.count()):
            self._item(row).setCheckState(state)

    def _on_accepted(self) -> None:
        unticked = [
            one
            for row, one in enumerate(self._intake.choices)
            if self._item(row).checkState() != Qt.CheckState.Checked
        ]
        self.chosen.emit(self._intake.without(unticked))

    def _item(self, row: int) -> QListWidgetItem:
        item = self.list.item(row)
        assert item is not None
        return item


class ScansDialog(_Question):
    """Shows which files are taken for which scan and channel, to be put right.

    Parameters
    ----------
    found
        What was found; see `show_found` for what another pattern finds.
    parent
        Qt's owner.
    """

    patternChosen = Signal(object)
    """Emitted with a pattern, or None for what is usual."""
    agreed = Signal(list)

    def __init__(self, found: tuple[Found, ...], parent: QWidget | None = None) -> None:
        text = (
            "This is read from the names of the files. A scan may have several "
            "channels, and labels. Double click a cell to change it."
        )
        super().__init__("Scans and channels", text, parent)
        self.found: tuple[Found, ...] = ()
        self.pattern = QComboBox()
        self.pattern.setEditable(True)
        self.pattern.addItems([_AUTOMATIC, *PATTERNS, _ALONE])
        self.pattern.setToolTip("How names are read; write a pattern of your own")
        row = QHBoxLayout()
        row.addWidget(QLabel("Names are"))
        row.addWidget(self.pattern, 1)
        self.table = table(("Scan", "Channel", "File"), 2, self)
        trigger = QAbstractItemView.EditTrigger
        self.table.setEditTriggers(trigger.DoubleClicked | trigger.AnyKeyPressed)
        self.table.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.rows.addLayout(row)
        self.rows.addWidget(self.table, 1)
        self.pattern.textActivated.connect(self._on_pattern_chosen)
        self.accepted.connect(self._on_accepted)
        self.show_found(found)
        self.resize(640, 420)

    def show_found(self, found: tuple[Found, ...]) -> None:
        """Show what was found."""
        self.found = found
        self.table.setRowCount(len(found))
        for row, one in enumerate(found):
            self.table.setItem(row, 0, QTableWidgetItem(one.case))
            channel = QTableWidgetItem(LABELS if one.is_labels else one.channel)
            channel.setToolTip(
                f"Empty: what the file says itself; {LABELS!r}: it holds the scan's "
                "labels, and is no channel"
            )
            self.table.setItem(row, 1, channel)
            self.table.setItem(row, 2, cell(one.what, str(one.file.path)))

    def _on_pattern_chosen(self, text: str) -> None:
        known = {_AUTOMATIC: None, _ALONE: "{case}"}
        self.patternChosen.emit(known.get(text, text))

    def _on_accepted(self) -> None:
        self.agreed.emit(
            [
                one.called(self._text(row, 0), self._text(row, 1))
                for row, one in enumerate(self.found)
            ]
        )

    def _text(self, row: int, column: int) -> str:
        item = self.table.item(row, column)
        return "" if item is None else item.text()


class ClassesDialog(_Question):
    """Asks what the values of a project's labels mean, and how they are painted.

    Parameters
    ----------
    classes
        Those that are known.
    parent
        Qt's owner.
    """

    agreed = Signal(object)
    """Emitted with the classes; None where no row has a name."""

    def __init__(self, classes: LabelSet | None, parent: QWidget | None = None) -> None:
        text = (
            "What the values in labels mean; each value that occurs needs a name. "
            "Double click a cell to change it; a row without a name goes."
        )
        super().__init__("Classes", text, parent)
        self.table = table(("Value", "Name", "Colour"), 1, self)
        trigger = QAbstractItemView.EditTrigger
        self.table.setEditTriggers(trigger.DoubleClicked | trigger.AnyKeyPressed)
        self.table.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.add_button = QPushButton("Add a value")
        row = QHBoxLayout()
        row.addWidget(self.add_button)
        row.addStretch(1)
        self.problem = wrapped_label()
        self.problem.hide()
        self.rows.addWidget(self.table, 1)
        self.rows.addLayout(row)
        self.rows.addWidget(self.problem)
        for one in () if classes is None else classes.classes:
            self._add(one)
        self.add_button.clicked.connect(self._on_add_clicked)
        self.table.itemDoubleClicked.connect(self._on_double_clicked)
        self.resize(420, 360)

    def accept(self) -> None:
        """Close, unless what was written makes no classes: then it says why."""
        try:
            classes = classes_from(self._texts())
        except LabelError as error:
            self.problem.setText(str(error))
            self.problem.show()
            return
        self.agreed.emit(classes)
        super().accept()

    def _add(self, one: LabelClass) -> None:
        row = self.table.rowCount()
        self.table.insertRow(row)
        self.table.setItem(row, 0, QTableWidgetItem(str(one.value)))
        self.table.setItem(row, 1, QTableWidgetItem(one.name))
        color = cell(one.color, "Double click to choose", color=one.color)
        self.table.setItem(row, 2, color)

    def _on_add_clicked(self) -> None:
        values = [int(value) for value, *_ in self._texts() if value.isdecimal()]
        self._add(next_class(values))
        self.table.scrollToBottom()

    def _on_double_clicked(self, item: QTableWidgetItem) -> None:
        if item.column() != 2:
            return
        chosen = QColorDialog.getColor(QColor(item.text()), self)
        if chosen.isValid():
            item.setText(chosen.name())
            item.setIcon(swatch(chosen.name()))

    def _texts(self) -> list[tuple[str, str, str]]:
        rows = range(self.table.rowCount())
        items = [[self.table.item(row, column) for column in range(3)] for row in rows]
        made = [["" if one is None else one.text() for one in row] for row in items]
        return [(value, name, color) for value, name, color in made]


class DrawnDialog(_Question):
    """Asks which organs the labels of some scans show.

    Parameters
    ----------
    drawn
        The classes of the project: drawn in all of the scans, in none, or None where
        they differ.
    scans
        How many scans it is about.
    parent
        Qt's owner.
    """

    agreed = Signal(dict)
    """Emitted with what holds for all scans now; where they differ there is nothing."""

    def __init__(
        self,
        drawn: Mapping[str, bool | None],
        scans: int,
        parent: QWidget | None = None,
    ) -> None:
        whose = "this scan" if scans == 1 else f"these {scans} scans"
        text = (
            f"Which organs were drawn in the labels of {whose}? The others are unknown "
            "there, not absent: no training takes them for background."
        )
        if None in drawn.values():
            text += " A box that is half ticked stays as it is in each scan."
        super().__init__("Organs drawn", text, parent)
        self.boxes = [QCheckBox(name) for name in drawn]
        for box, state in zip(self.boxes, drawn.values(), strict=True):
            box.setTristate(state is None)
            box.setCheckState(_TICKS[state])
            box.clicked.connect(self._on_clicked)
            self.rows.addWidget(box)
        self.accepted.connect(self._on_accepted)
        self.resize(380, 200)

    def _on_clicked(self, _on: bool) -> None:
        button = self.buttons.button(QDialogButtonBox.StandardButton.Ok)
        empty = all(b.checkState() == Qt.CheckState.Unchecked for b in self.boxes)
        if button is not None:
            button.setEnabled(not empty)

    def _on_accepted(self) -> None:
        said = {box.text(): box.checkState() for box in self.boxes}
        half = Qt.CheckState.PartiallyChecked
        self.agreed.emit(
            {name: s == Qt.CheckState.Checked for name, s in said.items() if s != half}
        )


class CopyBox(QCheckBox):
    """Asks whether files are copied into the project."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Copy the files into the project", parent)
        self.setToolTip("Else they stay where they are, and the project refers to them")
