"""Parts that the docks share: the shell, a layer chooser, tables, swatches."""

import math
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import (  # type: ignore[attr-defined]  # qtpy makes Signal
    QEvent,
    QSignalBlocker,
    Qt,
    QTimer,
    Signal,
)
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDockWidget,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

ROW_HEIGHT = 28
_TITLE_PX = 30
_WIDTH_PX = 430  # tabs of all six docks, and rows of four buttons
_OF_PLUGIN = " (napari-kdseg)"  # napari adds it to the title of a dock


class LayerChoice(QComboBox):
    """Chooses one layer of a viewer; follows layers that come, go and are renamed.

    Parameters
    ----------
    layers
        The viewer's list of layers.
    accepts
        Whether a layer may be chosen.
    parent
        Qt's owner.
    takes
        Whether a new layer is chosen at once, in place of the one before; by default
        none is.
    """

    layerChanged = Signal()

    def __init__(
        self,
        layers: Any,
        accepts: Callable[[Any], bool],
        parent: QWidget | None = None,
        takes: Callable[[Any], bool] | None = None,
    ) -> None:
        super().__init__(parent)
        self._layers = layers
        self._accepts = accepts
        self._takes = takes or _none_is
        self._chosen: Any = None
        self.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.setMinimumContentsLength(12)
        self._events = (
            layers.events.inserted,
            layers.events.removed,
            layers.events.reordered,
            layers.events.renamed,
        )
        for event in self._events:
            event.connect(self._on_layers_changed)
        self.currentIndexChanged.connect(self._on_index_changed)
        self._on_layers_changed()

    def value(self) -> Any:
        """The chosen layer, None where there is none to choose."""
        return self._chosen

    def setValue(self, layer: Any) -> None:
        """Choose a layer; one that may not be chosen is ignored."""
        choices = self._choices()
        if layer in choices:
            self.setCurrentIndex(choices.index(layer))

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        for event in self._events:
            event.disconnect(self._on_layers_changed)

    # ---- Private ----

    def _choices(self) -> list[Any]:
        # The newest layer stands first, as in the viewer's own list.
        return [layer for layer in reversed(self._layers) if self._accepts(layer)]

    def _on_layers_changed(self, event: Any = None) -> None:
        choices = self._choices()
        new = event.value if event is not None and event.type == "inserted" else None
        chosen = new if new in choices and self._takes(new) else self._chosen
        with QSignalBlocker(self):
            self.clear()
            self.addItems([layer.name for layer in choices])
            if chosen in choices:
                self.setCurrentIndex(choices.index(chosen))
        self._on_index_changed(self.currentIndex())

    def _on_index_changed(self, index: int) -> None:
        choices = self._choices()
        chosen = choices[index] if 0 <= index < len(choices) else None
        if chosen is not self._chosen:
            self._chosen = chosen
            self.layerChanged.emit()


def _none_is(_layer: Any) -> bool:
    return False


class TickBox(QCheckBox):
    """A box that says what it stands for when a person ticks it.

    Parameters
    ----------
    value
        What it stands for.
    text
        What stands beside it.
    parent
        Qt's owner.
    """

    ticked = Signal(object, bool)

    def __init__(
        self, value: Any, text: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__(text, parent)
        self.value = value
        self.toggled.connect(self._on_toggled)

    def show_ticked(self, ticked: bool) -> None:
        """Tick it without saying so."""
        with QSignalBlocker(self):
            self.setChecked(ticked)

    def _on_toggled(self, checked: bool) -> None:
        self.ticked.emit(self.value, checked)


class Dock(QScrollArea):
    """What all docks are: a scrolled column that lets go of everything when closed.

    napari takes the parent away from a dock that is closed, and destroys one whose
    window is closed. Either calls ``close_dock`` once. Docks that would squeeze each
    other become tabs of one place, whose titles leave out which plugin they are of.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._was_docked = False
        self._is_placed = False
        self.column = QWidget()
        self.rows = QVBoxLayout(self.column)
        self.rows.setContentsMargins(6, 6, 6, 6)
        self.rows.setSpacing(6)
        self.setWidget(self.column)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(_WIDTH_PX)

    def close_dock(self) -> None:
        """Disconnect everything; called once, when the dock is closed."""

    def needed_height(self) -> int:
        """Pixels in which all that matters is seen at once."""
        return self.column.sizeHint().height()

    def event(self, a0: QEvent | None) -> bool:
        """Notice that napari took the dock out of its window, or first showed it."""
        if a0 is not None and a0.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._was_docked = True
            elif self._was_docked:
                self._was_docked = False
                self.close_dock()
                self.deleteLater()
        if a0 is not None and a0.type() == QEvent.Type.Show and not self._is_placed:
            QTimer.singleShot(0, self._find_place)
        return super().event(a0)

    def _find_place(self) -> None:
        """Take the height that is needed; as a tab, where those before leave less."""
        self._is_placed = True
        shell = _shell_of(self)
        window = None if shell is None else shell.parent()
        if shell is None or not isinstance(window, QMainWindow):
            return
        _shorten_title(shell)
        if shell.isFloating():
            return
        beside = {
            dock: other
            for dock in window.findChildren(Dock)
            if dock._is_placed
            and (other := _shell_of(dock)) not in (None, shell)
            and other.isVisible()
            and not other.isFloating()
            and window.dockWidgetArea(other) == window.dockWidgetArea(shell)
        }
        if not beside or set(beside.values()) & set(window.tabifiedDockWidgets(shell)):
            return
        shells = [shell, *beside.values()]
        needed = [dock.needed_height() for dock in (self, *beside)]
        there = sum(one.height() for one in shells) - len(shells) * _TITLE_PX
        if sum(needed) > there:
            window.tabifyDockWidget(shells[-1], shell)
            shell.raise_()
        else:
            window.resizeDocks(shells, needed, Qt.Orientation.Vertical)


def _shorten_title(shell: QDockWidget) -> None:
    """Leave room for the tabs of all docks; menus keep the whole name."""
    whole = shell.windowTitle()
    shell.setWindowTitle(whole.removesuffix(_OF_PLUGIN))
    action = shell.toggleViewAction()
    if action is not None:
        action.setText(whole)


def _shell_of(widget: QWidget) -> QDockWidget | None:
    """The frame that a window has around a dock."""
    around = widget.parentWidget()
    while around is not None and not isinstance(around, QDockWidget):
        around = around.parentWidget()
    return around


def wrapped_label(text: str = "", parent: QWidget | None = None) -> QLabel:
    """Text that wraps and can be selected with the mouse."""
    label = QLabel(text, parent)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def one_line(parent: QWidget | None = None) -> QElidingLabel:
    """Text in one line that is cut with dots where there is no room."""
    label = QElidingLabel(parent=parent)
    label.setElideMode(Qt.TextElideMode.ElideRight)
    return label


def heading(text: str) -> QLabel:
    """The title of a part of a dock."""
    label = QLabel(text)
    font = label.font()
    font.setBold(True)
    label.setFont(font)
    return label


def table(titles: tuple[str, ...], stretched: int, parent: QWidget) -> QTableWidget:
    """A table without row numbers whose one column takes the space that is left."""
    widget = QTableWidget(0, len(titles), parent)
    widget.setHorizontalHeaderLabels(list(titles))
    rows, header = widget.verticalHeader(), widget.horizontalHeader()
    if rows is not None and header is not None:
        rows.hide()
        rows.setDefaultSectionSize(ROW_HEIGHT)
        header.setFixedHeight(ROW_HEIGHT)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(stretched, QHeaderView.ResizeMode.Stretch)
        header.setHighlightSections(False)
    widget.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
    widget.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    widget.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    widget.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return widget


def cell(text: str, tip: str = "", *, color: str = "") -> QTableWidgetItem:
    """A cell that is read only, with a tooltip and, where given, a colour swatch."""
    item = QTableWidgetItem(text)
    item.setFlags(Qt.ItemFlag.ItemIsEnabled)
    item.setToolTip(tip or text)
    if color:
        item.setIcon(swatch(color))
    return item


def number_text(number: float, digits: int) -> str:
    """A number with as many digits as count; a dash where there is none."""
    return "—" if math.isnan(number) else f"{number:.{digits}g}"


def put_box(widget: QTableWidget, row: int, column: int, box: QWidget) -> None:
    """Put a box into a cell: at the left where it has text, else in the middle."""
    holder = QWidget()
    for part in (holder, box):
        part.setProperty("foreground", True)  # napari's colour of cells  # noqa: FBT003
    layout = QHBoxLayout(holder)
    layout.setContentsMargins(4, 0, 4, 0)
    alone = isinstance(box, QCheckBox) and not box.text()
    side = Qt.AlignmentFlag.AlignCenter if alone else Qt.AlignmentFlag.AlignLeft
    layout.addWidget(box, 0, side)
    widget.setCellWidget(row, column, holder)


def fit_height(widget: QTableWidget, most_rows: int) -> None:
    """Make a table as high as its rows, up to a number of them."""
    widget.setFixedHeight(height_of(widget, min(widget.rowCount(), most_rows)))


def height_of(widget: QTableWidget, rows: int) -> int:
    """Pixels of so many rows, with the titles and the bar that scrolls columns."""
    height = 2 * widget.frameWidth() + ROW_HEIGHT * (rows + 1)
    bar = widget.horizontalScrollBar()
    never = widget.horizontalScrollBarPolicy() == Qt.ScrollBarPolicy.ScrollBarAlwaysOff
    return height if bar is None or never else height + bar.sizeHint().height()


def plain_button(text: str, tip: str) -> QPushButton:
    """A button that Tab reaches, and that leaves the viewer its keys when clicked."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    return made


def side_by_side(*widgets: QWidget) -> QHBoxLayout:
    """Widgets in a row."""
    made = QHBoxLayout()
    for widget in widgets:
        made.addWidget(widget)
    return made


def form() -> QFormLayout:
    """Rows of a label and a field as wide as can be."""
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return layout


def swatch(color: str) -> QIcon:
    """A square of one colour."""
    pixmap = QPixmap(14, 14)
    pixmap.fill(QColor(color))
    return QIcon(pixmap)
