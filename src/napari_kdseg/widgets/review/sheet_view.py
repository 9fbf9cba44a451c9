"""Slices side by side; a click or a drag marks the bad ones."""

from collections.abc import Iterable, Sequence

from qtpy.QtCore import (  # type: ignore[attr-defined]  # qtpy makes Signal
    QPointF,
    QRectF,
    QSizeF,
    Qt,
    Signal,
)
from qtpy.QtGui import (
    QColor,
    QFontMetrics,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
)
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_kdseg.widgets.review.tiles import Tile

COLUMNS = 5
BAD_COLOR = "#ff3b30"
_BACKGROUND, _CELL, _INK = "#101214", "#1b1f24", "#d7dbe0"
_GAP = 6
_STEPS = {
    Qt.Key.Key_Left: -1,
    Qt.Key.Key_Right: 1,
    Qt.Key.Key_Up: -COLUMNS,
    Qt.Key.Key_Down: COLUMNS,
}


class SheetView(QWidget):
    """A grid of slices of which some are marked as bad.

    Drag over slices to give all of them the mark that the first one gets; arrow keys
    lead from one to another, and Space marks.
    """

    marksChanged = Signal()
    hovered = Signal(int)
    """Emitted with the number of the slice under the mouse, or -1."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._captions: tuple[str, ...] = ()
        self._tiles: dict[int, Tile] = {}
        self._marked: set[int] = set()
        self._cursor = 0
        self._painting: bool | None = None
        self._outlined = True
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(400, 400)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    # ---- What is shown ----

    def setPage(self, captions: Sequence[str]) -> None:
        """Begin a page of slices without a mark; their pictures come later."""
        self._captions = tuple(captions)
        self._tiles.clear()
        self._marked.clear()
        self._cursor = 0
        self._painting = None
        self.marksChanged.emit()
        self.update()

    def setTile(self, number: int, tile: Tile) -> None:
        """Show the picture of a slice."""
        self._tiles[number] = tile
        self.update(self.cell(number).toAlignedRect())

    def tile(self, number: int) -> Tile:
        """The picture of a slice; `KeyError` where it has not come yet."""
        return self._tiles[number]

    def missing(self) -> tuple[int, ...]:
        """Slices whose pictures have not come yet."""
        return tuple(n for n in range(self.count()) if n not in self._tiles)

    def count(self) -> int:
        """How many slices there are."""
        return len(self._captions)

    def marked(self) -> frozenset[int]:
        """The slices that are marked as bad."""
        return frozenset(self._marked)

    def setMarked(self, numbers: Iterable[int]) -> None:
        """Mark these slices as bad, and no others."""
        self._marked = set(numbers)
        self.marksChanged.emit()
        self.update()

    def clearMarks(self) -> None:
        """Take all marks away."""
        self._marked.clear()
        self.marksChanged.emit()
        self.update()

    def outlined(self) -> bool:
        """Whether outlines are drawn."""
        return self._outlined

    def setOutlined(self, outlined: bool) -> None:
        """Draw outlines, or not."""
        self._outlined = outlined
        self.update()

    def cell(self, number: int) -> QRectF:
        """Where a slice is drawn."""
        rows = max(1, -(-max(self.count(), COLUMNS**2) // COLUMNS))
        width = (self.width() - _GAP) / COLUMNS
        height = (self.height() - _GAP) / rows
        row, column = divmod(number, COLUMNS)
        corner = QPointF(_GAP + column * width, _GAP + row * height)
        return QRectF(corner, QSizeF(width - _GAP, height - _GAP))

    def numberAt(self, position: QPointF) -> int | None:
        """The slice at a place of the widget."""
        for number in range(self.count()):
            if self.cell(number).contains(position):
                return number
        return None

    # ---- Marking ----

    def mousePressEvent(self, a0: QMouseEvent | None) -> None:
        """Mark the slice under the mouse, or take its mark away."""
        if a0 is None or a0.button() != Qt.MouseButton.LeftButton:
            return
        number = self.numberAt(a0.position())
        if number is not None:
            self._painting = number not in self._marked
            self._mark(number, self._painting)

    def mouseMoveEvent(self, a0: QMouseEvent | None) -> None:
        """Do to the slices on the way as to the first."""
        if a0 is None:
            return
        number = self.numberAt(a0.position())
        self.hovered.emit(-1 if number is None else number)
        if number is not None and self._painting is not None:
            self._mark(number, self._painting)

    def mouseReleaseEvent(self, a0: QMouseEvent | None) -> None:
        """End marking."""
        self._painting = None

    def keyPressEvent(self, a0: QKeyEvent | None) -> None:
        """Go from slice to slice with the arrows; mark with Space."""
        if a0 is None:
            return
        key = a0.key()
        if key == Qt.Key.Key_Space and self._cursor < self.count():
            self._mark(self._cursor, self._cursor not in self._marked)
        elif key in _STEPS:
            to = self._cursor + _STEPS[Qt.Key(key)]
            self._cursor = to if 0 <= to < self.count() else self._cursor
            self.update()
        else:
            super().keyPressEvent(a0)

    def _mark(self, number: int, bad: bool) -> None:
        self._cursor = number
        if bad:
            self._marked.add(number)
        else:
            self._marked.discard(number)
        self.marksChanged.emit()
        self.update()

    # ---- Drawing ----

    def paintEvent(self, a0: QPaintEvent | None) -> None:
        """Draw the slices that lie in what is to be drawn anew."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.fillRect(self.rect(), QColor(_BACKGROUND))
        dirty = QRectF(self.rect() if a0 is None else a0.rect())
        for number in range(self.count()):
            if self.cell(number).intersects(dirty):
                self._draw(painter, number)
        painter.end()

    def _draw(self, painter: QPainter, number: int) -> None:
        cell = self.cell(number)
        line = QFontMetrics(self.font()).height() + 2
        painter.fillRect(cell, QColor(_CELL))
        tile = self._tiles.get(number)
        inside = cell.adjusted(5, 5, -5, -line - 5)
        if tile is not None:
            place = fitted(inside, tile.aspect)
            painter.drawImage(place, tile.picture)
            if self._outlined:
                painter.drawImage(place, tile.outlines)
        bad = number in self._marked
        painter.setPen(QColor(BAD_COLOR if bad else _INK))
        below = QRectF(cell.left(), cell.bottom() - line - 4, cell.width(), line)
        caption = ("BAD  " if bad else "") + self._captions[number]
        metrics = QFontMetrics(self.font())
        caption = metrics.elidedText(
            caption, Qt.TextElideMode.ElideMiddle, int(cell.width()) - 6
        )
        painter.drawText(below, Qt.AlignmentFlag.AlignCenter, caption)
        if bad:
            self._frame(painter, cell, BAD_COLOR, 4)
        if number == self._cursor and self.hasFocus():
            self._frame(painter, cell.adjusted(5, 5, -5, -5), _INK, 1)

    def _frame(self, painter: QPainter, around: QRectF, color: str, width: int) -> None:
        painter.setPen(QPen(QColor(color), width))
        half = width / 2
        painter.drawRect(around.adjusted(half, half, -half, -half))


def fitted(inside: QRectF, aspect: float) -> QRectF:
    """Give the largest rectangle of an aspect in the middle of another one."""
    width = min(inside.width(), inside.height() * aspect)
    size = QSizeF(width, width / aspect)
    corner = inside.center() - QPointF(size.width() / 2, size.height() / 2)
    return QRectF(corner, size)
