"""The strip chart, drawn and clicked."""

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt

from napari_kdseg.widgets._plots import Curve, StripChart


@pytest.fixture
def chart(qtbot: QtBot) -> StripChart:
    widget = StripChart()
    qtbot.addWidget(widget)
    widget.resize(208, 140)
    values = np.array([0.0, 0.5, np.nan, 0.25])
    widget.setCurves([Curve("uncertainty", values, "#ff0000")])
    widget.show()
    return widget


def test_a_click_names_the_slice_below_it(qtbot: QtBot, chart: StripChart) -> None:
    # 4 slices over 200 pixels that begin at 4: pixel 60 lies in slice 1.
    with qtbot.waitSignal(chart.sliceClicked) as clicked:
        qtbot.mouseClick(chart, Qt.MouseButton.LeftButton, pos=QPoint(60, 70))
    assert clicked.args == [1]


def test_a_click_beside_the_frame_names_the_nearest_slice(
    qtbot: QtBot, chart: StripChart
) -> None:
    with qtbot.waitSignal(chart.sliceClicked) as clicked:
        qtbot.mouseClick(chart, Qt.MouseButton.LeftButton, pos=QPoint(207, 70))
    assert clicked.args == [3]


def test_the_curve_is_drawn_in_its_colour_with_a_gap(chart: StripChart) -> None:
    picture = chart.grab().toImage()
    reds = {
        x
        for x in range(picture.width())
        for y in range(40, picture.height() - 20)
        if picture.pixelColor(x, y).red() > 200 > picture.pixelColor(x, y).green() + 100
    }
    assert reds
    # Slice 2 (pixels 104 to 154) is not computed: nothing joins its neighbours.
    assert not reds & set(range(90, 170))


def test_the_largest_value_of_a_curve_leaves_out_what_is_not_known() -> None:
    assert Curve("c", np.array([np.nan, 0.5]), "#000000").top == 0.5
    assert Curve("c", np.array([np.nan]), "#000000").top == 0.0
