"""A strip plot: one dot a scan, a strip for each organ and group, outliers ringed."""

from collections.abc import Iterator, Sequence

import numpy as np
from qtpy.QtCore import (  # type: ignore[attr-defined]  # qtpy makes Signal
    QPointF,
    QRectF,
    Qt,
    Signal,
)
from qtpy.QtGui import QColor, QFontMetrics, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_kdseg.state.measured import Point, Strip

OUTLIER = "#ff2d95"
_DOT = "#56b4e9"
_RADIUS = 3.5
_NEAR = 8.0
_STRIP_HEIGHT = 34
_SPREAD = 9.0


class StripPlot(QWidget):
    """Values along one axis, a row for each organ and group; a click names a scan.

    The line in a row is the median. Dots are moved up and down a little, always the
    same way, so that equal values can be told apart.

    Parameters
    ----------
    parent
        Qt's owner.
    """

    caseClicked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._strips: tuple[Strip, ...] = ()
        self._title = ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMouseTracking(True)
        self._fit()

    # ---- What is shown ----

    def strips(self) -> tuple[Strip, ...]:
        """The rows shown."""
        return self._strips

    def setStrips(self, strips: Sequence[Strip], title: str) -> None:
        """Show these rows; the title names quantity and unit."""
        self._strips, self._title = tuple(strips), title
        self._fit()
        self.update()

    def dots(self) -> Iterator[tuple[QPointF, Point]]:
        """Where each value is drawn."""
        for row, strip in enumerate(self._strips):
            middle = self._middle(row)
            for number, point in enumerate(strip.points):
                # The golden ratio never puts two neighbours side by side.
                lift = ((number * 0.618034) % 1.0 - 0.5) * 2 * _SPREAD
                yield QPointF(self._x_of(point.value), middle + lift), point

    # ---- Qt ----

    def paintEvent(self, a0: QPaintEvent | None) -> None:
        """Draw frame, scale, rows, medians and dots."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(self.foregroundRole())
        self._draw_scale(painter, ink)
        for row, strip in enumerate(self._strips):
            self._draw_row(painter, ink, row, strip)
        for place, point in self.dots():
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(OUTLIER if point.far else _DOT))
            painter.drawEllipse(place, _RADIUS, _RADIUS)
            if point.far:
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(QColor(OUTLIER), 1.5))
                painter.drawEllipse(place, 2 * _RADIUS, 2 * _RADIUS)
        painter.end()

    def mousePressEvent(self, a0: QMouseEvent | None) -> None:
        """Name the scan under the mouse."""
        found = None if a0 is None else self._at(a0.position())
        if found is not None:
            self.caseClicked.emit(found.case)

    def mouseMoveEvent(self, a0: QMouseEvent | None) -> None:
        """Say scan and value under the mouse."""
        found = None if a0 is None else self._at(a0.position())
        self.setCursor(
            Qt.CursorShape.ArrowCursor
            if found is None
            else Qt.CursorShape.PointingHandCursor
        )
        if a0 is None or found is None:
            return
        far = f"\nrobust z {found.z:.1f}" if np.isfinite(found.z) else ""
        text = f"{found.case}: {found.value:.4g}{far}"
        QToolTip.showText(a0.globalPosition().toPoint(), text, self)

    # ---- Drawing ----

    @property
    def _line(self) -> int:
        return QFontMetrics(self.font()).height()

    def _fit(self) -> None:
        rows = max(1, len(self._strips))
        self.setFixedHeight(rows * _STRIP_HEIGHT + 2 * self._line + 12)

    def _frame(self) -> QRectF:
        metrics = QFontMetrics(self.font())
        names = [metrics.horizontalAdvance(_name(strip)) for strip in self._strips]
        left = min(max([0, *names]) + 10, self.width() / 2)
        height = max(1, len(self._strips)) * _STRIP_HEIGHT
        return QRectF(left, 4, max(10.0, self.width() - left - 12), height)

    def _middle(self, row: int) -> float:
        return self._frame().top() + (row + 0.5) * _STRIP_HEIGHT

    def _range(self) -> tuple[float, float]:
        values = [point.value for strip in self._strips for point in strip.points]
        if not values:
            return 0.0, 1.0
        low, high = min(values), max(values)
        if low == high:
            return low - 0.5, high + 0.5
        return low, high

    def _x_of(self, value: float) -> float:
        frame, (low, high) = self._frame(), self._range()
        share = (value - low) / (high - low)
        return frame.left() + 10 + (frame.width() - 20) * share

    def _at(self, place: QPointF) -> Point | None:
        near = [
            ((dot - place).manhattanLength(), number, point)
            for number, (dot, point) in enumerate(self.dots())
        ]
        if not near:
            return None
        distance, _, point = min(near)
        return point if distance <= _NEAR else None

    def _draw_scale(self, painter: QPainter, ink: QColor) -> None:
        frame, (low, high) = self._frame(), self._range()
        faint = QColor(ink)
        faint.setAlphaF(0.4)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(frame)
        painter.setPen(ink)
        below = QRectF(frame.left(), frame.bottom() + 2, frame.width(), self._line)
        if self._strips:
            painter.drawText(below, Qt.AlignmentFlag.AlignLeft, f"{low:.4g}")
            painter.drawText(below, Qt.AlignmentFlag.AlignRight, f"{high:.4g}")
        below.moveTop(frame.bottom() + 2 + self._line)
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, self._title)

    def _draw_row(self, painter: QPainter, ink: QColor, row: int, strip: Strip) -> None:
        frame, middle = self._frame(), self._middle(row)
        painter.setPen(ink)
        room = QRectF(2, middle - self._line / 2, frame.left() - 8, self._line)
        metrics = QFontMetrics(self.font())
        name = metrics.elidedText(
            _name(strip), Qt.TextElideMode.ElideRight, int(room.width())
        )
        painter.drawText(room, Qt.AlignmentFlag.AlignRight, name)
        median = float(np.median([point.value for point in strip.points]))
        x = self._x_of(median)
        painter.setPen(QPen(ink, 2))
        half = _STRIP_HEIGHT / 2 - 4
        painter.drawLine(QPointF(x, middle - half), QPointF(x, middle + half))


def _name(strip: Strip) -> str:
    return f"{strip.organ} · {strip.group}" if strip.group else strip.organ
