"""A chart of curves over the epochs of a training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import (
    QColor,
    QFontMetrics,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPolygonF,
)
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

_COLOURS = (
    *("#4c9be8", "#f2a541", "#6cc070", "#d96ba0", "#b39ddb", "#e0d05c"),
    *("#5ec8c8", "#e07a5f", "#9aa5b1", "#8fbf3f", "#c77dff", "#f28ca0", "#3fa796"),
)
_TICKS = 4
_NICE = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Drawn:
    """One curve: its points in the order of the epochs."""

    name: str
    epochs: Sequence[float]
    values: Sequence[float]


class CurveChart(QWidget):
    """Curves over epochs with a legend above; the mouse tells the values.

    Parameters
    ----------
    title
        What the values are.
    nothing
        What is said where there is no curve yet.
    unit
        Whether values lie from 0 to 1, and the axis shows all of that.
    parent
        Qt's owner.
    """

    def __init__(
        self,
        title: str,
        nothing: str,
        parent: QWidget | None = None,
        *,
        unit: bool = False,
    ) -> None:
        super().__init__(parent)
        self._title, self._nothing, self._unit = title, nothing, unit
        self._curves: tuple[Drawn, ...] = ()
        self._last_epoch = 1.0
        self.setMinimumHeight(190)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMouseTracking(True)

    # ---- What is shown ----

    def curves(self) -> tuple[Drawn, ...]:
        """The curves shown."""
        return self._curves

    def setCurves(self, curves: Sequence[Drawn], epochs: int = 0) -> None:
        """Show these curves; `epochs` there will be, 0 where that is not known."""
        self._curves = tuple(curve for curve in curves if len(curve.epochs))
        last = max((curve.epochs[-1] for curve in self._curves), default=1.0)
        self._last_epoch = float(max(last, epochs, 1))
        rows = len(self._legend(self._curves))
        self.setMinimumHeight(170 + rows * self._line_height())
        self.update()

    # ---- Qt ----

    def paintEvent(self, a0: QPaintEvent | None) -> None:
        """Draw names, frame and curves, or what is said in their place."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(self.foregroundRole())
        painter.setPen(ink)
        line = self._line_height()
        painter.drawText(QRectF(4, 0, self.width(), line + 2), 0, self._title)
        if self._curves:
            self._draw_legend(painter, ink)
            self._draw_frame(painter, ink)
            for place, curve in enumerate(self._curves):
                self._draw_curve(painter, place, curve)
        else:
            inside = QRectF(self.rect()).adjusted(12, line, -12, -8)
            centre, wrap = Qt.AlignmentFlag.AlignCenter, Qt.TextFlag.TextWordWrap
            painter.drawText(inside, centre.value | wrap.value, self._nothing)
        painter.end()

    def mouseMoveEvent(self, a0: QMouseEvent | None) -> None:
        """Say the values of the epoch under the mouse."""
        frame = self._frame()
        if a0 is None or not self._curves or not frame.contains(a0.position()):
            return
        across = (a0.position().x() - frame.left()) / max(1.0, frame.width())
        epoch = across * self._last_epoch
        first = self._curves[0]
        nearest = min(first.epochs, key=lambda known: abs(known - epoch))
        words = [f"epoch {nearest:g}"]
        for curve in self._curves:
            place = min(
                range(len(curve.epochs)), key=lambda i: abs(curve.epochs[i] - nearest)
            )
            words.append(f"{curve.name} {curve.values[place]:.4g}")
        QToolTip.showText(a0.globalPosition().toPoint(), "\n".join(words), self)

    # ---- Drawing ----

    def _line_height(self) -> int:
        return QFontMetrics(self.font()).height()

    def _legend(self, curves: Sequence[Drawn]) -> list[list[tuple[int, str, float]]]:
        """Rows of place, name and left edge; as many as the names need."""
        metrics = QFontMetrics(self.font())
        rows: list[list[tuple[int, str, float]]] = [[]]
        left = 4.0
        for place, curve in enumerate(curves):
            width = metrics.horizontalAdvance(curve.name) + 34.0
            if rows[-1] and left + width > self.width():
                rows.append([])
                left = 4.0
            rows[-1].append((place, curve.name, left))
            left += width
        return rows

    def _frame(self) -> QRectF:
        line = self._line_height()
        metrics = QFontMetrics(self.font())
        labels = [f"{tick:g}" for tick in self._ticks()]
        left = max(map(metrics.horizontalAdvance, labels), default=20) + 10
        top = 6 + line * (1.5 + len(self._legend(self._curves)))
        height = self.height() - top - line - 6
        return QRectF(left, top, self.width() - left - 12, height)

    def _ticks(self) -> list[float]:
        if self._unit:
            return [0, 0.25, 0.5, 0.75, 1]
        known = [value for curve in self._curves for value in curve.values]
        low, high = min(known, default=0.0), max(known, default=1.0)
        low = min(low, 0.0) if low > -0.2 * abs(high) else low
        rough = max(high - low, 1e-9) / _TICKS
        scale = 10.0 ** math.floor(math.log10(rough))
        step = next(scale * nice for nice in _NICE if scale * nice >= rough * 0.999)
        first = math.floor(low / step)
        count = math.ceil(high / step - 1e-9) - first
        return [round((first + i) * step, 12) for i in range(count + 1)]

    def _point(self, epoch: float, value: float) -> QPointF:
        frame, ticks = self._frame(), self._ticks()
        low, high = ticks[0], ticks[-1]
        up = (value - low) / max(high - low, 1e-12)
        return QPointF(
            frame.left() + frame.width() * epoch / self._last_epoch,
            frame.bottom() - frame.height() * up,
        )

    def _draw_legend(self, painter: QPainter, ink: QColor) -> None:
        line = self._line_height()
        for row, names in enumerate(self._legend(self._curves)):
            middle = line * (row + 1.5) + 3
            for place, name, left in names:
                painter.setPen(QPen(QColor(_COLOURS[place % len(_COLOURS)]), 3))
                painter.drawLine(QPointF(left, middle), QPointF(left + 14, middle))
                painter.setPen(ink)
                box = QRectF(left + 18, middle - line / 2, self.width(), line)
                painter.drawText(box, 0, name)

    def _draw_frame(self, painter: QPainter, ink: QColor) -> None:
        frame, line = self._frame(), self._line_height()
        faint = QColor(ink)
        faint.setAlphaF(0.25)
        for tick in self._ticks():
            y = self._point(0, tick).y()
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(frame.left(), y), QPointF(frame.right(), y))
            painter.setPen(ink)
            label = QRectF(0, y - line / 2, frame.left() - 5, line)
            painter.drawText(label, Qt.AlignmentFlag.AlignRight, f"{tick:g}")
        below = QRectF(frame.left(), frame.bottom() + 2, frame.width(), line)
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft, "0")
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, "epoch")
        last = f"{self._last_epoch:g}"
        painter.drawText(below, Qt.AlignmentFlag.AlignRight, last)

    def _draw_curve(self, painter: QPainter, place: int, curve: Drawn) -> None:
        pen = QPen(QColor(_COLOURS[place % len(_COLOURS)]), 2 if place == 0 else 1.4)
        painter.setPen(pen)
        points = [
            self._point(epoch, value)
            for epoch, value in zip(curve.epochs, curve.values, strict=True)
        ]
        painter.drawPolyline(QPolygonF(points))
        if len(points) < 30:
            for point in points:
                painter.drawEllipse(point, 2, 2)
