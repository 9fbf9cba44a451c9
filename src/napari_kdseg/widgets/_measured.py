"""What was measured: a table, a plot with its outliers, and the worst slices."""

from collections.abc import Sequence

from qtpy.QtCore import (  # type: ignore[attr-defined]  # qtpy makes Signal
    QSignalBlocker,
    Qt,
    Signal,
)
from qtpy.QtWidgets import (
    QComboBox,
    QHeaderView,
    QTableWidget,
    QVBoxLayout,
    QWidget,
)

from napari_kdseg.measure.metrics import DEFINITIONS as SCORE_DEFINITIONS
from napari_kdseg.measure.organ_rows import TRIPLES
from napari_kdseg.measure.organs import DEFINITIONS as ORGAN_DEFINITIONS
from napari_kdseg.measure.outliers import RULE
from napari_kdseg.measure.tables import Value
from napari_kdseg.state.measured import Result
from napari_kdseg.widgets._form import (
    cell,
    fit_height,
    heading,
    height_of,
    number_text,
    side_by_side,
    table,
    wrapped_label,
)
from napari_kdseg.widgets._strip_plot import StripPlot

_SHOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "organs": {
        "Scan": ("case",),
        "Model": ("model",),
        "Organ": ("class",),
        "Volume mm³": ("volume_mm3",),
        "Surface mm²": ("surface_mm2",),
        "Left/right": ("left_right_ratio",),
        "Extent z, y, x mm": TRIPLES["extent_mm"],
        "Axes mm": TRIPLES["axes_mm"],
        "Centroid x, y, z mm": TRIPLES["centroid_mm"],
        "Channel": ("channel",),
        "Mean": ("intensity_mean",),
        "SD": ("intensity_sd",),
        "Neighbours mm²": ("neighbours_mm2",),
    },
    "agreement": {
        "Scan": ("case",),
        "Model": ("model",),
        "Organ": ("class",),
        "Dice": ("dice",),
        "IoU": ("iou",),
        "HD mm": ("hd_mm",),
        "HD95 mm": ("hd95_mm",),
        "NSD": ("nsd",),
    },
}
"""Columns by their title; several in one are set side by side."""
_TIPS = {
    "Extent z, y, x mm": "Of the box around it, along the axes of the stored scan",
    "Axes mm": "Lengths of the principal axes, the longest first",
    "Centroid x, y, z mm": "In the world of the file",
    "Mean": "Of the grey values inside",
    "SD": "Standard deviation of the grey values inside",
    "Neighbours mm²": "Area of contact with other organs",
}
_ONE_IS_NO_NEWS = ("Model", "Channel")
_ALL = "all organs"
_MOST_ROWS = 8


class MeasuredBox(QWidget):
    """Shows a result; emits the slice that is clicked.

    Parameters
    ----------
    parent
        Qt's owner.
    """

    placeClicked = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._result: Result | None = None
        self.titles = table(("Scan",), 0, self)
        header = self.titles.horizontalHeader()
        if header is not None:  # wide: columns keep their width, and are scrolled
            header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.words = wrapped_label()
        self.quantity, self.organ = QComboBox(), QComboBox()
        self.quantity.setToolTip("What the plot shows")
        self.organ.setToolTip("Whose")
        self.plot = StripPlot()
        self.rule = wrapped_label()
        self.worst_heading = heading("Worst slices")
        self.worst = table(("Scan", "Slice z", "Wrong mm²", "Dice"), 0, self)
        self.worst.setCursor(Qt.CursorShape.PointingHandCursor)
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        for widget in (self.titles, self.words, self.worst_heading, self.worst):
            rows.addWidget(widget)
        rows.addLayout(side_by_side(self.quantity, self.organ))
        rows.addWidget(self.plot)
        rows.addWidget(self.rule)
        self.quantity.currentIndexChanged.connect(self._on_plot_chosen)
        self.organ.currentIndexChanged.connect(self._on_plot_chosen)
        self.worst.cellClicked.connect(self._on_worst_clicked)
        self.plot.caseClicked.connect(self._on_case_clicked)
        self.show_result(None)

    def show_result(self, result: Result | None) -> None:
        """Show a result; None hides everything."""
        self._result = result
        self.setVisible(result is not None)
        if result is None:
            return
        self._show_table(result)
        self._show_worst(result)
        with QSignalBlocker(self.quantity), QSignalBlocker(self.organ):
            self.quantity.clear()
            for name in result.quantities:
                self.quantity.addItem(_title(name), name)
            self.organ.clear()
            self.organ.addItems([_ALL, *result.organs])
        self._show_plot()

    def table_height(self) -> int:
        """Pixels that the whole table takes at most."""
        return height_of(self.titles, _MOST_ROWS)

    # ---- Private ----

    def _on_plot_chosen(self, _index: int) -> None:
        self._show_plot()

    def _on_worst_clicked(self, number: int, _column: int) -> None:
        if self._result is not None:
            self.placeClicked.emit(self._result.worst()[number])

    def _on_case_clicked(self, case: str) -> None:
        """Show the rows of the scan of a dot."""
        found = self.titles.findItems(case, Qt.MatchFlag.MatchExactly)
        if found:
            self.titles.scrollToItem(found[0], QTableWidget.ScrollHint.PositionAtTop)
            self.titles.setCurrentItem(found[0])

    def _show_table(self, result: Result) -> None:
        shown = {
            title: names
            for title, names in _SHOWN[result.mode].items()
            if _is_news(title, names, result)
        }
        self.titles.setColumnCount(len(shown))
        self.titles.setHorizontalHeaderLabels(list(shown))
        for column, title in enumerate(shown):
            item = self.titles.horizontalHeaderItem(column)
            if item is not None:
                item.setToolTip(_TIPS.get(title, ""))
        self.titles.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        rows, digits = result.shown(), 4 if result.mode == "organs" else 3
        self.titles.setRowCount(len(rows))
        for number, values in enumerate(rows):
            model = values.get("model") or ""
            for column, (title, names) in enumerate(shown.items()):
                text = ", ".join(_text(values[name], digits) for name in names)
                tip = f"{values['case']} {model}".strip() if title == "Scan" else text
                self.titles.setItem(number, column, cell(text, tip))
        fit_height(self.titles, _MOST_ROWS)
        if result.mode == "organs":
            words = ORGAN_DEFINITIONS
        else:
            tolerance = float(rows[0]["nsd_tolerance_mm"])
            words = SCORE_DEFINITIONS.format(tolerance=tolerance)
        self.words.setText(words)

    def _show_worst(self, result: Result) -> None:
        places = result.worst()
        for widget in (self.worst_heading, self.worst):
            widget.setVisible(result.mode == "agreement")
        self.worst.setRowCount(len(places))
        for number, place in enumerate(places):
            texts = (
                place.case,
                str(place.index),
                f"{place.wrong_mm2:.4g}",
                f"{place.dice:.3f}",
            )
            for column, text in enumerate(texts):
                tip = f"{place.case} {place.model}: click to go there"
                self.worst.setItem(number, column, cell(text, tip))
        fit_height(self.worst, _MOST_ROWS)

    def _show_plot(self) -> None:
        result, quantity = self._result, self.quantity.currentData()
        if result is None or not quantity:
            self.plot.setStrips((), "")
            self.rule.setText("")
            return
        organ = self.organ.currentText() if self.organ.currentIndex() > 0 else ""
        self.plot.setStrips(result.strips(quantity, organ), _title(quantity))
        self.rule.setText(f"{result.outliers(quantity, organ)} marked. {RULE}")


def _is_news(title: str, names: Sequence[str], result: Result) -> bool:
    """Whether a column tells something: one model for all rows does not."""
    if title in _ONE_IS_NO_NEWS:
        return len({row.get(name) for row in result.rows for name in names}) > 1
    return any(result.has(name) for name in names)


def _text(value: Value, digits: int) -> str:
    return number_text(value, digits) if isinstance(value, float) else str(value)


def _title(column: str) -> str:
    """A column's name as people write it: ``volume_mm3`` is volume, mm³."""
    for ending, unit in (("_mm3", "mm³"), ("_mm2", "mm²"), ("_mm", "mm")):
        if column.endswith(ending):
            return f"{column.removesuffix(ending).replace('_', ' ')}, {unit}"
    return column.replace("_", " ")
