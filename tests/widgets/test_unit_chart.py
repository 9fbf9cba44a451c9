"""The chart of curves from 0 to 1, drawn and read."""

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtGui import QImage

from napari_kdseg.widgets._unit_chart import Line, UnitChart

RED = "#ff0000"


@pytest.fixture
def chart(qtbot: QtBot) -> UnitChart:
    widget = UnitChart("across", "up")
    qtbot.addWidget(widget)
    widget.resize(300, 200)
    widget.show()
    return widget


def reds(picture: QImage) -> set[tuple[int, int]]:
    return {
        (x, y)
        for x in range(picture.width())
        for y in range(picture.height())
        if picture.pixelColor(x, y).red() > 200 > picture.pixelColor(x, y).green() + 100
    }


def test_a_line_is_drawn_from_corner_to_corner(chart: UnitChart) -> None:
    chart.setLines([Line("line", np.array([0.0, 1.0]), np.array([0.0, 1.0]), RED)])
    found = reds(chart.grab().toImage())
    low, high = chart.point(0, 0), chart.point(1, 1)
    assert min(x for x, _ in found) == pytest.approx(low.x(), abs=2)
    assert max(x for x, _ in found) == pytest.approx(high.x(), abs=2)
    assert min(y for _, y in found) == pytest.approx(high.y(), abs=2)
    assert max(y for _, y in found) == pytest.approx(low.y(), abs=2)


def test_what_is_not_a_number_breaks_a_line(chart: UnitChart) -> None:
    x = np.array([0.0, 0.2, 0.5, 0.8, 1.0])
    y = np.array([0.5, 0.5, np.nan, 0.5, 0.5])
    chart.setLines([Line("line", x, y, RED)])
    columns = {column for column, _ in reds(chart.grab().toImage())}
    middle = range(int(chart.point(0.3, 0).x()), int(chart.point(0.7, 0).x()))
    assert columns
    assert not columns & set(middle)


def test_a_chart_without_lines_and_one_of_holes_can_be_drawn(chart: UnitChart) -> None:
    chart.grab()
    chart.setLines([Line("none", np.array([]), np.array([]), RED)])
    chart.setDot((float("nan"), 0.5))
    chart.grab()
    assert len(chart.lines()) == 1


def test_a_place_across_is_marked(chart: UnitChart) -> None:
    chart.setMark(0.4)
    assert chart.mark() == 0.4
    before = chart.grab().toImage()
    chart.setMark(None)
    after = chart.grab().toImage()
    column = round(chart.point(0.4, 0).x())
    differing = {
        x
        for x in range(before.width())
        for y in range(before.height())
        if before.pixel(x, y) != after.pixel(x, y)
    }
    assert differing
    assert all(abs(x - column) <= 1 for x in differing)
