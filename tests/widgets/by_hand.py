"""What a person does in a dock, by mouse and keys."""

from typing import Any

from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QLineEdit

LEFT = Qt.MouseButton.LeftButton


def click(qtbot: QtBot, widget: Any, timeout_ms: int = 5_000) -> None:
    """Click a widget once it can be clicked."""
    qtbot.waitUntil(
        lambda: widget.isVisible() and widget.isEnabled(), timeout=timeout_ms
    )
    qtbot.mouseClick(widget, LEFT)


def write(qtbot: QtBot, line: Any, text: str) -> None:
    """Replace what stands in a line."""
    assert isinstance(line, QLineEdit)
    line.setFocus()
    line.selectAll()
    qtbot.keyClicks(line, text)
    qtbot.keyClick(line, Qt.Key.Key_Return)


def choose(qtbot: QtBot, combo: QComboBox, text: str) -> None:
    """Choose with the arrow keys."""
    combo.setFocus()
    while combo.currentText() != text:
        before = combo.currentIndex()
        up = combo.findText(text) < before
        qtbot.keyClick(combo, Qt.Key.Key_Up if up else Qt.Key.Key_Down)
        assert combo.currentIndex() != before
