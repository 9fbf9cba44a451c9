"""Parts of the Review dock: the balance of verdicts, who judges, what comes next."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

from qtpy.QtCore import (  # type: ignore[attr-defined]  # qtpy makes Signal
    QRectF,
    QSettings,
    QSignalBlocker,
    Qt,
    Signal,
)
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QStandardItemModel
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_kdseg.review.queue import Order, Side
from napari_kdseg.review.verdicts import Word
from napari_kdseg.state.review.review import Review
from napari_kdseg.widgets._form import form
from napari_kdseg.widgets.review.canvas import WORD_COLORS

_NAMES_KEY = "review/reviewers"
_MOST_NAMES = 8
_ORDERS: dict[Order, str] = {
    "doubt": "classifier doubt",
    "uncertainty": "uncertainty",
    "conflict": "conflict of teachers",
    "disagreement": "disagreement of reviewers",
    "sequence": "sequence",
    "random": "random, scans in turn",
}
_SIDES: dict[Side, str] = {
    "all": "accepted and refused",
    "accepted": "accepted by the classifier",
    "refused": "refused by the classifier",
}
_SHOWN: dict[tuple[bool, bool], str] = {
    (True, True): "not judged by anyone",
    (True, False): "not judged by me",
    (False, True): "all, judged ones too",
}
_ALL_SCANS = "all scans"


class BalanceBar(QWidget):
    """How many verdicts of each kind there are, as lengths."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._counts: dict[Word, int] = dict.fromkeys(WORD_COLORS, 0)
        self.setFixedHeight(14)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip("Good, unsure and bad verdicts; a classifier needs both kinds")

    def setCounts(self, good: int, bad: int, unsure: int) -> None:
        """Show these numbers."""
        self._counts = {"good": good, "unsure": unsure, "bad": bad}
        self.update()

    def widths(self) -> dict[Word, float]:
        """How long each part is drawn."""
        total = sum(self._counts.values())
        share = self.width() / total if total else 0.0
        return {word: count * share for word, count in self._counts.items()}

    def paintEvent(self, a0: QPaintEvent | None) -> None:
        """Draw the parts side by side."""
        painter = QPainter(self)
        faint = self.palette().color(self.foregroundRole())
        faint.setAlphaF(0.2)
        painter.fillRect(self.rect(), faint)
        left = 0.0
        for word, width in self.widths().items():
            part = QRectF(left, 0, width, self.height())
            painter.fillRect(part, QColor(WORD_COLORS[word]))
            left += width
        painter.end()


class Who(QComboBox):
    """The name of who judges; names are remembered on this computer.

    Parameters
    ----------
    settings
        Where they are remembered.
    parent
        Qt's owner.
    """

    named = Signal(str)
    """Emitted when somebody has finished writing or choosing a name."""

    def __init__(self, settings: QSettings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings = settings
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.setToolTip("Stands beside each of your verdicts; asked once")
        line = self.lineEdit()
        assert line is not None
        line.setPlaceholderText("your name")
        self.addItems(self.remembered())
        line.editingFinished.connect(self._on_edited)
        self.textActivated.connect(self._on_chosen)

    def name(self) -> str:
        """The name that stands there."""
        return self.currentText().strip()

    def setName(self, name: str) -> None:
        """Write a name without saying so."""
        with QSignalBlocker(self):
            self.setEditText(name)

    def remembered(self) -> list[str]:
        """The names that were used before, the last one first."""
        found = self._settings.value(_NAMES_KEY, [])
        names = [found] if isinstance(found, str) else found  # one alone is no list
        return [str(name) for name in names or []]

    def remember(self, name: str) -> None:
        """Offer a name first from now on."""
        names = [name, *(other for other in self.remembered() if other != name)]
        self._settings.setValue(_NAMES_KEY, names[:_MOST_NAMES])
        with QSignalBlocker(self):
            self.clear()
            self.addItems(names[:_MOST_NAMES])
            self.setEditText(name)

    def _on_edited(self) -> None:
        self.named.emit(self.name())

    def _on_chosen(self, _text: str) -> None:
        self.named.emit(self.name())


class QueueBox(QWidget):
    """What is judged, which slices come first, and which are left out.

    Parameters
    ----------
    state
        Whose queue it is.
    parent
        Qt's owner.
    """

    chosen = Signal()
    """Emitted when the person chose something."""

    def __init__(self, state: Review, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.state = state
        self.model = _combo("The model whose predictions are judged")
        self.axis = _combo("The axis of the stored scan across which slices are cut")
        self.order = _combo("Which slices come first")
        self.channel = _combo("The channel of the scan that is shown")
        self.cases = _combo("One scan alone, or all")
        self.shown = _combo("Whether slices come again that are judged")
        self.side = _combo("On which side of the classifier's threshold")
        self.empty = QCheckBox("leave out slices without labels")
        self.empty.setToolTip("Where nothing was predicted there is little to judge")
        self.axis.addItems(["z", "y", "x"])
        self.order.addItems(_ORDERS.values())
        self.shown.addItems(_SHOWN.values())
        self.side.addItems(_SIDES.values())
        self._build()
        self._connect()
        self.refresh()

    def _build(self) -> None:
        self.form = form()
        for name, widget in (
            ("Model", self.model),
            ("Axis", self.axis),
            ("Channel", self.channel),
            ("Order", self.order),
            ("Scans", self.cases),
            ("Slices", self.shown),
            ("", self.side),
            ("", self.empty),
        ):
            self.form.addRow(name, widget)
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addLayout(self.form)

    def _connect(self) -> None:
        for combo, slot in (
            (self.model, self._on_model_chosen),
            (self.axis, self._on_axis_chosen),
            (self.channel, self._on_channel_chosen),
            (self.order, self._on_order_chosen),
            (self.cases, self._on_filter_chosen),
            (self.shown, self._on_filter_chosen),
            (self.side, self._on_filter_chosen),
        ):
            combo.activated.connect(slot)
        self.empty.clicked.connect(self._on_filter_chosen)

    # ---- What the person does ----

    def _on_model_chosen(self, number: int) -> None:
        self.state.model = self.state.models[number]
        self.chosen.emit()

    def _on_axis_chosen(self, axis: int) -> None:
        self.state.axis = axis
        self.chosen.emit()

    def _on_channel_chosen(self, channel: int) -> None:
        self.state.channel = channel
        self.chosen.emit()

    def _on_order_chosen(self, number: int) -> None:
        self.state.order = get_args(Order)[number]
        self.chosen.emit()

    def _on_filter_chosen(self, _index: Any = None) -> None:
        unjudged, by_anyone = list(_SHOWN)[self.shown.currentIndex()]
        self.state.filters = replace(
            self.state.filters,
            unjudged=unjudged,
            by_anyone=by_anyone,
            hide_empty=self.empty.isChecked(),
            cases=self._chosen_cases(),
            side=list(_SIDES)[max(0, self.side.currentIndex())],
        )
        self.chosen.emit()

    def _chosen_cases(self) -> frozenset[str] | None:
        number, cases = self.cases.currentIndex() - 1, self.state.cases
        if number < 0:
            return None
        # Behind the scans stands a choice of several, if that was made elsewhere.
        alone = number < len(cases)
        return frozenset([cases[number]]) if alone else self.state.filters.cases

    # ---- What the state says ----

    def refresh(self) -> None:
        """Show what there is to choose from, and what is chosen."""
        state = self.state
        _fill(self.model, state.models, state.model)
        _fill(self.channel, state.channels)
        _choose(self.channel, state.channel)
        _choose(self.axis, state.axis)
        _choose(self.order, list(_ORDERS).index(state.order))
        for number, reason in enumerate(state.orders[order] for order in _ORDERS):
            _enable_item(self.order, number, reason)
        self._show_filters()
        for widget, wanted in (
            (self.model, len(state.models) > 1),
            (self.channel, len(state.channels) > 1),
            (self.cases, len(state.cases) > 1),
            (self.side, state.scores is not None),
        ):
            self.form.setRowVisible(widget, wanted)

    def _show_filters(self) -> None:
        filters, cases = self.state.filters, self.state.cases
        names, chosen = [_ALL_SCANS, *cases], _ALL_SCANS
        if filters.cases is not None:
            some = f"{len(filters.cases)} of {len(cases)} scans"
            chosen = next(iter(filters.cases)) if len(filters.cases) == 1 else some
            names += [] if chosen in names else [chosen]
        _fill(self.cases, names, chosen)
        by_anyone = filters.by_anyone or not filters.unjudged
        _choose(self.shown, list(_SHOWN).index((filters.unjudged, by_anyone)))
        _choose(self.side, list(_SIDES).index(filters.side))
        with QSignalBlocker(self.empty):
            self.empty.setChecked(filters.hide_empty)


def button(text: str, tip: str, word: Word | None = None) -> QPushButton:
    """A button that leaves the keyboard to the canvas when it is clicked.

    Parameters
    ----------
    text, tip
        What it says, and what it does.
    word
        The verdict whose colour it has.
    """
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    if word is not None:
        made.setStyleSheet(
            f"QPushButton:enabled {{ background-color: {WORD_COLORS[word]}; "
            "color: white; font-weight: bold; } QPushButton { padding: 8px 4px; }"
        )
    return made


def row(*widgets: QWidget) -> QHBoxLayout:
    """Widgets side by side."""
    made = QHBoxLayout()
    for widget in widgets:
        made.addWidget(widget)
    return made


def _combo(tip: str) -> QComboBox:
    combo = QComboBox()
    combo.setToolTip(tip)
    policy = QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
    combo.setSizeAdjustPolicy(policy)
    combo.setMinimumContentsLength(12)
    return combo


def _fill(combo: QComboBox, texts: Sequence[str], chosen: str = "") -> None:
    """Offer these, without saying so; leaves a list that is the same as it is."""
    with QSignalBlocker(combo):
        if [combo.itemText(n) for n in range(combo.count())] != list(texts):
            combo.clear()
            combo.addItems(list(texts))
        if chosen in texts:
            combo.setCurrentIndex(list(texts).index(chosen))


def _choose(combo: QComboBox, number: int) -> None:
    with QSignalBlocker(combo):
        combo.setCurrentIndex(number)


def _enable_item(combo: QComboBox, number: int, reason: str) -> None:
    """Offer an item, or say why it cannot be had."""
    model = combo.model()
    assert isinstance(model, QStandardItemModel)
    item = model.item(number)
    assert item is not None
    item.setEnabled(not reason)
    item.setToolTip(reason)


def words(parts: Iterable[str]) -> str:
    """Join what is not empty."""
    return " · ".join(part for part in parts if part)
