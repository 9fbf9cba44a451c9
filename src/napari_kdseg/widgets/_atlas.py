"""An atlas in a table: how each organ differs between scans."""

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_kdseg.state.atlas import ALIGNMENT, OCCUPANCY, VARIATION, Atlas
from napari_kdseg.widgets._form import (
    cell,
    fit_height,
    heading,
    number_text,
    table,
    wrapped_label,
)

_TITLES = ("Organ", "Scans", "Mean mm³", "CV", "Spread mm")
_TIPS = (
    "",
    "Scans that have it",
    "Mean volume over the scans as they are",
    "Coefficient of variation: the volumes' standard deviation by their mean",
    "Root mean square distance of the organ's middles from their mean, aligned",
)
_MOST_ROWS = 8
_DIGITS = 3


class AtlasBox(QWidget):
    """Shows an atlas: where its files lie, and a row an organ.

    Parameters
    ----------
    parent
        Qt's owner.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.words = wrapped_label()
        self.table = table(_TITLES, 0, self)
        for column, tip in enumerate(_TIPS):
            item = self.table.horizontalHeaderItem(column)
            if item is not None:
                item.setToolTip(tip)
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        for widget in (heading("Atlas"), self.words, self.table):
            rows.addWidget(widget)
        self.show_atlas(None)

    def show_atlas(self, atlas: Atlas | None) -> None:
        """Show an atlas; None hides everything."""
        self.setVisible(atlas is not None)
        if atlas is None:
            return
        self.words.setText(
            f"Laid over {atlas.reference}. In {atlas.folder} lie {OCCUPANCY}, the "
            f"share of scans with an organ at a place; {VARIATION}, this table; and "
            f"{ALIGNMENT}, how well each scan was laid over."
        )
        self.table.setRowCount(len(atlas.spreads))
        for row, spread in enumerate(atlas.spreads):
            self.table.setItem(row, 0, cell(spread.organ, color=spread.color))
            self.table.setItem(row, 1, cell(str(spread.scans)))
            numbers = (spread.volume_mm3, spread.volume_cv, spread.spread_mm)
            for column, number in enumerate(numbers, start=2):
                text = number_text(number, _DIGITS)
                self.table.setItem(row, column, cell(text, str(number)))
        fit_height(self.table, _MOST_ROWS)
