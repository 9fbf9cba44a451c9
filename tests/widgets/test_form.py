"""Parts that the docks share."""

from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHeaderView, QWidget

from napari_kdseg.widgets._form import cell, fit_height, table


def test_a_table_with_more_columns_than_fit_shows_all_its_rows(qtbot: QtBot) -> None:
    window = QWidget()
    qtbot.addWidget(window)
    made = table(("Scan", "Organ"), stretched=0, parent=window)
    made.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
    made.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
    made.setRowCount(3)
    for row in range(3):
        made.setItem(row, 0, cell("fish"))
    made.setColumnWidth(0, 2000)
    fit_height(made, most_rows=8)
    window.show()
    qtbot.waitUntil(made.horizontalScrollBar().isVisible)
    assert made.verticalScrollBar().maximum() == 0
