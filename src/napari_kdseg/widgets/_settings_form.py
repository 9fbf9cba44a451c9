"""A form of settings: what is changed most, and the rest folded away by group."""

from typing import Any

from qtpy.QtCore import (  # type: ignore[attr-defined]  # qtpy makes Signal
    QObject,
    QSignalBlocker,
    Qt,
    Signal,
)
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_kdseg.errors import RecipeError
from napari_kdseg.state.training_form import Field, Form, Group
from napari_kdseg.widgets._form import form, wrapped_label


class StillComboBox(QComboBox):
    """Lets the wheel scroll the dock, and does not change what it passes over."""

    def wheelEvent(self, e: QWheelEvent | None) -> None:
        """Leave the wheel to the dock."""
        if e is not None:
            e.ignore()


class Fold(QWidget):
    """A title that shows what is below it when it is clicked.

    Parameters
    ----------
    title, tip
        What it says, and what that means.
    parent
        Qt's owner.
    """

    opened = Signal(object)
    """Emitted with itself when it is opened for the first time."""

    def __init__(self, title: str, tip: str = "", parent: QWidget | None = None):
        super().__init__(parent)
        self.button = QToolButton()
        self.button.setText(title)
        self.button.setToolTip(tip)
        self.button.setCheckable(True)
        self.button.setAutoRaise(True)
        self.button.setArrowType(Qt.ArrowType.RightArrow)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.inside = QWidget()
        self.inside.hide()
        self._was_opened = False
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(2)
        rows.addWidget(self.button)
        rows.addWidget(self.inside)
        self.button.toggled.connect(self._on_toggled)

    def _on_toggled(self, opened: bool) -> None:
        arrow = Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow
        self.button.setArrowType(arrow)
        if opened and not self._was_opened:
            self._was_opened = True
            self.opened.emit(self)
        self.inside.setVisible(opened)


class SettingsForm(QWidget):
    """Shows a `Form`; says which setting a person gave which value.

    Parameters
    ----------
    parent
        Qt's owner.
    """

    edited = Signal(tuple, object)
    """Emitted with the path of a setting and its new value."""
    refused = Signal(str)
    """Emitted with why a value was not taken; the field shows the old one again."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._form: Form | None = None
        self.fields: dict[tuple[str, ...], QWidget] = {}
        """The fields that are shown so far, by path."""
        self.advanced: Fold | None = None
        self._rows = QVBoxLayout(self)
        self._rows.setContentsMargins(0, 0, 0, 0)
        self._groups: dict[QObject, Group] = {}

    def show_form(self, shown: Form | None) -> None:
        """Show other settings, or none."""
        self._form = shown
        self.fields, self._groups = {}, {}
        while (item := self._rows.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.hide()
                widget.deleteLater()
        if shown is None:
            return
        first = QWidget()
        self._fill(form_of(first), shown.first)
        self._rows.addWidget(first)
        self.advanced = Fold("Advanced settings", "All other settings, by group")
        self.advanced.opened.connect(self._on_advanced_opened)
        self._rows.addWidget(self.advanced)

    @property
    def shown(self) -> Form | None:
        """The form that is shown."""
        return self._form

    def show_values(self) -> None:
        """Show the values anew."""
        for path in self.fields:
            self._show(path)

    # ---- Building ----

    def _on_advanced_opened(self, fold: Fold) -> None:
        assert self._form is not None
        rows = QVBoxLayout(fold.inside)
        rows.setContentsMargins(10, 0, 0, 0)
        rows.setSpacing(0)
        for group in self._form.groups:
            inner = Fold(group.title, group.description)
            inner.opened.connect(self._on_group_opened)
            self._groups[inner] = group
            rows.addWidget(inner)

    def _on_group_opened(self, fold: Fold) -> None:
        group = self._groups[fold]
        rows = form_of(fold.inside)
        rows.setContentsMargins(10, 0, 0, 4)
        if group.description:
            rows.addRow(wrapped_label(group.description))
        self._fill(rows, group.fields)

    def _fill(self, rows: QFormLayout, fields: tuple[Field, ...]) -> None:
        for field in fields:
            label, widget = QLabel(field.title), self._widget(field)
            for part in (label, widget):
                part.setToolTip(field.tip)
            self.fields[field.path] = widget
            rows.addRow(label, widget)
            self._show(field.path)

    def _widget(self, field: Field) -> QWidget:
        if field.kind == "flag":
            box = QCheckBox()
            box.toggled.connect(self._on_flag)
            box.setProperty("setting", field)
            return box
        if field.kind == "choice":
            combo = StillComboBox()
            combo.addItems(["", *field.choices] if field.optional else field.choices)
            combo.textActivated.connect(self._on_choice)
            combo.setProperty("setting", field)
            return combo
        line = QLineEdit()
        line.setPlaceholderText("none" if field.optional else "")
        line.editingFinished.connect(self._on_text)
        line.setProperty("setting", field)
        return line

    # ---- What the person does ----

    def _on_flag(self, ticked: bool) -> None:
        self._set(self._sender_field(), ticked)

    def _on_choice(self, text: str) -> None:
        self._set(self._sender_field(), text or None)

    def _on_text(self) -> None:
        field, line = self._sender_field(), self.sender()
        assert isinstance(line, QLineEdit)
        try:
            value = field.parse(line.text())
        except RecipeError as error:
            self._show(field.path)
            self.refused.emit(str(error))
            return
        self._set(field, value)
        self._show(field.path)

    def _sender_field(self) -> Field:
        sender = self.sender()
        assert sender is not None
        field: Field = sender.property("setting")
        return field

    def _set(self, field: Field, value: Any) -> None:
        if self._form is not None and value != self._form.value(field.path):
            self.edited.emit(field.path, value)

    # ---- Showing ----

    def _show(self, path: tuple[str, ...]) -> None:
        assert self._form is not None
        widget, value = self.fields[path], self._form.value(path)
        field: Field = widget.property("setting")
        with QSignalBlocker(widget):
            if isinstance(widget, QCheckBox):
                widget.setChecked(bool(value))
            elif isinstance(widget, QComboBox):
                widget.setCurrentText(field.shown(value))
            elif isinstance(widget, QLineEdit):
                widget.setText(field.shown(value))
                widget.setCursorPosition(0)


def form_of(widget: QWidget) -> QFormLayout:
    """Rows of labels and fields inside a widget."""
    rows = form()
    widget.setLayout(rows)
    return rows
