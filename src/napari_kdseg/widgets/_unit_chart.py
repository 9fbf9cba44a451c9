"""A chart of curves whose values all lie from 0 to 1."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFontMetrics, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Line:
    """Points joined in their order; one that is NaN breaks the line."""

    name: str
    x: np.ndarray
    y: np.ndarray
    color: str
    dots: bool = False
    """Whether each point is marked."""


class UnitChart(QWidget):
    """Draws lines in a square from 0 to 1, with names, ticks and a mark.

    Parameters
    ----------
    across, up
        What the axes mean.
    diagonal
        Whether the line of equal values is drawn, faintly.
    parent
        Qt's owner.
    """

    def __init__(
        self,
        across: str,
        up: str,
        parent: QWidget | None = None,
        *,
        diagonal: bool = False,
    ) -> None:
        super().__init__(parent)
        self._across, self._up, self._diagonal = across, up, diagonal
        self._lines: tuple[Line, ...] = ()
        self._mark: float | None = None
        self._dot: tuple[float, float] | None = None
        self.setMinimumHeight(190)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMouseTracking(True)

    # ---- What is shown ----

    def lines(self) -> tuple[Line, ...]:
        """The lines shown."""
        return self._lines

    def setLines(self, lines: Sequence[Line]) -> None:
        """Show these lines in place of others."""
        self._lines = tuple(lines)
        self.update()

    def mark(self) -> float | None:
        """The place across that is marked."""
        return self._mark

    def setMark(self, x: float | None) -> None:
        """Mark a place across, such as a threshold; None marks none."""
        if x != self._mark:
            self._mark = x
            self.update()

    def setDot(self, dot: tuple[float, float] | None) -> None:
        """Mark a point, such as what a threshold comes to; None marks none."""
        if dot != self._dot:
            self._dot = dot
            self.update()

    def point(self, x: float, y: float) -> QPointF:
        """Where a value is drawn."""
        frame = self._frame()
        return QPointF(
            frame.left() + x * frame.width(), frame.bottom() - y * frame.height()
        )

    # ---- Qt ----

    def paintEvent(self, a0: QPaintEvent | None) -> None:
        """Draw frame, ticks, names, lines and mark."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(self.foregroundRole())
        self._draw_frame(painter, ink)
        self._draw_names(painter, ink)
        for line in self._lines:
            self._draw_line(painter, line)
        if self._mark is not None:
            painter.setPen(QPen(ink, 1, Qt.PenStyle.DashLine))
            painter.drawLine(self.point(self._mark, 0), self.point(self._mark, 1))
        if self._dot is not None and np.isfinite(self._dot).all():
            painter.setPen(QPen(ink, 2))
            painter.drawEllipse(self.point(*self._dot), 4, 4)
        painter.end()

    def mouseMoveEvent(self, a0: QMouseEvent | None) -> None:
        """Say the values under the mouse."""
        if a0 is None or not self._lines:
            return
        frame = self._frame()
        x = (a0.position().x() - frame.left()) / max(1.0, frame.width())
        if not 0 <= x <= 1:
            QToolTip.hideText()
            return
        words = [f"{self._across} {x:.2f}"]
        for line in self._lines:
            value = _at(line, x)
            words += [] if value is None else [f"{line.name} {value:.2f}"]
        QToolTip.showText(a0.globalPosition().toPoint(), "\n".join(words), self)

    # ---- Drawing ----

    def _line_height(self) -> int:
        return QFontMetrics(self.font()).height()

    def _frame(self) -> QRectF:
        line = self._line_height()
        left = QFontMetrics(self.font()).horizontalAdvance("0.75") + 10
        top = 6.0 + line * max(1, len(self._lines))
        bottom = 2 * line + 6
        return QRectF(left, top, self.width() - left - 10, self.height() - top - bottom)

    def _draw_frame(self, painter: QPainter, ink: QColor) -> None:
        frame, line = self._frame(), self._line_height()
        faint = QColor(ink)
        faint.setAlphaF(0.25)
        for tick in _TICKS:
            painter.setPen(QPen(faint, 1))
            painter.drawLine(self.point(tick, 0), self.point(tick, 1))
            painter.drawLine(self.point(0, tick), self.point(1, tick))
            painter.setPen(ink)
            across = QRectF(self.point(tick, 0).x() - 30, frame.bottom() + 2, 60, line)
            up = QRectF(0, self.point(0, tick).y() - line / 2, frame.left() - 5, line)
            painter.drawText(across, Qt.AlignmentFlag.AlignHCenter, f"{tick:g}")
            painter.drawText(up, Qt.AlignmentFlag.AlignRight, f"{tick:g}")
        if self._diagonal:
            painter.setPen(QPen(faint, 1.5, Qt.PenStyle.DashLine))
            painter.drawLine(self.point(0, 0), self.point(1, 1))

    def _draw_names(self, painter: QPainter, ink: QColor) -> None:
        frame, line = self._frame(), self._line_height()
        painter.setPen(ink)
        below = QRectF(frame.left(), frame.bottom() + line + 2, frame.width(), line + 2)
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, self._across)
        if len(self._lines) < 2:
            above = QRectF(2, 0, self.width() - 4, line + 2)
            painter.drawText(above, Qt.AlignmentFlag.AlignLeft, self._up)
            return
        for row, shown in enumerate(self._lines):
            middle = 2 + line * (row + 0.5)
            start = QPointF(frame.left(), middle)
            painter.setPen(QPen(QColor(shown.color), 3))
            painter.drawLine(start, start + QPointF(16, 0))
            painter.setPen(ink)
            place = QRectF(frame.left() + 22, middle - line / 2, frame.width(), line)
            painter.drawText(place, Qt.AlignmentFlag.AlignVCenter, shown.name)

    def _draw_line(self, painter: QPainter, line: Line) -> None:
        painter.setPen(QPen(QColor(line.color), 2))
        last: QPointF | None = None
        for x, y in zip(line.x, line.y, strict=True):
            if not (np.isfinite(x) and np.isfinite(y)):
                last = None
                continue
            point = self.point(float(x), float(y))
            if last is not None:
                painter.drawLine(last, point)
            if line.dots:
                painter.drawEllipse(point, 2.5, 2.5)
            last = point


def _at(line: Line, x: float) -> float | None:
    """The value of the point that lies nearest across."""
    known = np.isfinite(line.x) & np.isfinite(line.y)
    if not known.any():
        return None
    nearest = np.abs(line.x[known] - x).argmin()
    return float(line.y[known][nearest])
