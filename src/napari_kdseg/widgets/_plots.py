"""A strip chart: one value a slice, with the slice in view marked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from qtpy.QtCore import (  # type: ignore[attr-defined]  # qtpy makes Signal
    QPointF,
    QRectF,
    Qt,
    Signal,
)
from qtpy.QtGui import QColor, QFontMetrics, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget


@dataclass(frozen=True)
class Curve:
    """One value a slice; NaN where the slice is not computed yet."""

    name: str
    values: np.ndarray
    color: str

    @property
    def top(self) -> float:
        """The largest value, 0 where none is known."""
        known = self.values[np.isfinite(self.values)]
        return float(known.max()) if known.size else 0.0


class StripChart(QWidget):
    """Curves over slices, each drawn to its own maximum; a click names a slice.

    Drawn with QPainter rather than a plotting library: it opens at once and follows
    the viewer's theme.
    """

    sliceClicked = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._curves: tuple[Curve, ...] = ()
        self._position: int | None = None
        self.setMinimumHeight(120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMouseTracking(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    # ---- What is shown ----

    def curves(self) -> tuple[Curve, ...]:
        """The curves shown."""
        return self._curves

    def setCurves(self, curves: Sequence[Curve]) -> None:
        """Show these curves; all have as many values as there are slices."""
        self._curves = tuple(curves)
        self.update()

    def setPosition(self, index: int | None) -> None:
        """Mark the slice in view; None marks none."""
        if index != self._position:
            self._position = index
            self.update()

    def count(self) -> int:
        """How many slices there are."""
        return max((len(curve.values) for curve in self._curves), default=0)

    # ---- Qt ----

    def paintEvent(self, a0: QPaintEvent | None) -> None:
        """Draw the legend, the frame, the curves and the mark."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(self.foregroundRole())
        self._draw_frame(painter, ink)
        for row, curve in enumerate(self._curves):
            self._draw_legend(painter, ink, row)
            self._draw_curve(painter, curve)
        if self.count() and self._position is not None:
            painter.setPen(QPen(ink, 1, Qt.PenStyle.DashLine))
            x = self._x_of(self._position)
            frame = self._frame()
            painter.drawLine(QPointF(x, frame.top()), QPointF(x, frame.bottom()))
        painter.end()

    def mousePressEvent(self, a0: QMouseEvent | None) -> None:
        """Name the slice under the mouse."""
        if a0 is not None and self.count():
            self.sliceClicked.emit(self._slice_at(a0.position().x()))

    def mouseMoveEvent(self, a0: QMouseEvent | None) -> None:
        """Say the values of the slice under the mouse."""
        if a0 is None or not self.count():
            return
        index = self._slice_at(a0.position().x())
        values = [f"{c.name} {_percent(c.values[index])}" for c in self._curves]
        text = "\n".join([f"slice {index}", *values])
        QToolTip.showText(a0.globalPosition().toPoint(), text, self)

    # ---- Drawing ----

    def _frame(self) -> QRectF:
        line = QFontMetrics(self.font()).height()
        top = 4 + line * max(1, len(self._curves))
        return QRectF(4, top, self.width() - 8, self.height() - top - line - 4)

    def _x_of(self, index: float) -> float:
        frame = self._frame()
        return frame.left() + frame.width() * (index + 0.5) / max(1, self.count())

    def _slice_at(self, x: float) -> int:
        frame = self._frame()
        index = int((x - frame.left()) / max(1.0, frame.width()) * self.count())
        return min(max(index, 0), self.count() - 1)

    def _draw_frame(self, painter: QPainter, ink: QColor) -> None:
        frame = self._frame()
        faint = QColor(ink)
        faint.setAlphaF(0.4)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(frame)
        painter.setPen(ink)
        below = QRectF(frame.left(), frame.bottom(), frame.width(), self.height())
        last = max(0, self.count() - 1)
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft, "slice 0")
        painter.drawText(below, Qt.AlignmentFlag.AlignRight, str(last))

    def _draw_legend(self, painter: QPainter, ink: QColor, row: int) -> None:
        curve = self._curves[row]
        line = QFontMetrics(self.font()).height()
        middle = 2 + line * (row + 0.5)
        painter.setPen(QPen(QColor(curve.color), 3))
        painter.drawLine(QPointF(4, middle), QPointF(20, middle))
        painter.setPen(ink)
        text = f"{curve.name}, at most {_percent(curve.top)}"
        place = QRectF(26, middle - line / 2, self.width() - 30, line)
        painter.drawText(place, Qt.AlignmentFlag.AlignVCenter, text)

    def _draw_curve(self, painter: QPainter, curve: Curve) -> None:
        frame, top = self._frame(), curve.top or 1.0
        painter.setPen(QPen(QColor(curve.color), 1.5))
        last: QPointF | None = None
        for index, value in enumerate(curve.values):
            if not np.isfinite(value):
                last = None
                continue
            height = 0.95 * frame.height() * float(value) / top
            point = QPointF(self._x_of(index), frame.bottom() - height)
            if last is not None:
                painter.drawLine(last, point)
            last = point


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %" if np.isfinite(value) else "not computed"
