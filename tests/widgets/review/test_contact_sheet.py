"""The grid of the contact sheet: pictures, outlines, marks by mouse and keys."""

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QColor, QMouseEvent
from qtpy.QtWidgets import QApplication

from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.widgets.review.sheet_view import BAD_COLOR, SheetView
from napari_kdseg.widgets.review.tiles import Tile, grey, outlines, rim_of

ORGANS = LabelSet.from_names(["spleen", "liver"])


@pytest.fixture
def view(qtbot: QtBot) -> SheetView:
    """Twenty-five slices in cells of 100 x 100 pixels, of which one is loaded."""
    widget = SheetView()
    qtbot.addWidget(widget)
    widget.resize(506, 506)
    widget.setPage([f"scan z {number}" for number in range(25)])
    widget.show()
    return widget


def middle(view: SheetView, number: int) -> QPoint:
    return view.cell(number).center().toPoint()


def drag(view: SheetView, *numbers: int) -> None:
    """Press on the first, move over the others, let go."""
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
    kinds = QMouseEvent.Type
    steps = [(kinds.MouseButtonPress, left, numbers[0])]
    steps += [(kinds.MouseMove, none, number) for number in numbers[1:]]
    steps.append((kinds.MouseButtonRelease, left, numbers[-1]))
    for kind, pressed, number in steps:
        place = QPointF(middle(view, number))
        spot = view.mapToGlobal(place)
        held = Qt.KeyboardModifier.NoModifier
        QApplication.sendEvent(
            view, QMouseEvent(kind, place, spot, pressed, left, held)
        )


# ---- pictures ----


def test_grey_values_run_from_black_to_white_of_the_contrast() -> None:
    image = np.array([[0, 100], [150, 200], [300, 500]], np.uint16)
    picture = grey(image, (100, 300))
    found = [
        [picture.pixelColor(column, line).red() for column in range(2)]
        for line in range(3)
    ]
    # (150 - 100) / 200 * 255 = 63.75; what lies outside is cut off.
    assert found == [[0, 0], [63, 127], [255, 255]]


def test_a_slice_of_one_value_and_one_with_holes_can_be_painted() -> None:
    assert grey(np.full((2, 2), 7.0), (7, 7)).pixelColor(0, 0).red() == 0
    assert grey(np.array([[np.nan, 1.0]]), (0, 1)).pixelColor(0, 0).red() == 0


def test_outlines_are_the_outer_pixels_of_each_class_in_its_colour() -> None:
    labels = np.zeros((5, 9), np.uint8)
    labels[1:4, 1:4] = 1
    labels[1:4, 4:7] = 2
    picture = outlines(labels, ORGANS)
    seen = {
        (line, column): picture.pixelColor(column, line).name()
        for line in range(5)
        for column in range(9)
        if picture.pixelColor(column, line).alpha()
    }
    colors = [item.color for item in ORGANS.classes]
    first = {(r, c): colors[0] for r in (1, 2, 3) for c in (1, 2, 3)}
    second = {(r, c): colors[1] for r in (1, 2, 3) for c in (4, 5, 6)}
    expected = first | second
    del expected[2, 2], expected[2, 5]  # inside, all four neighbours are alike
    assert seen == expected


def test_a_label_at_the_edge_of_a_slice_has_an_outline_there() -> None:
    assert rim_of(np.ones((3, 3), np.uint8)).sum() == 8


def test_a_value_outside_the_classes_is_outlined_in_white() -> None:
    picture = outlines(np.full((1, 1), 9, np.uint8), ORGANS)
    assert picture.pixelColor(0, 0).name() == "#ffffff"


def test_pictures_keep_their_own_memory() -> None:
    labels = np.full((64, 64), 1, np.uint8)
    picture = outlines(labels, ORGANS)
    labels[:] = 2
    assert picture.pixelColor(0, 0).name() == ORGANS.classes[0].color


# ---- marks ----


def test_a_click_marks_a_slice_and_a_second_one_takes_the_mark_away(
    qtbot: QtBot, view: SheetView
) -> None:
    for expected in ({7}, set()):
        qtbot.mouseClick(view, Qt.MouseButton.LeftButton, pos=middle(view, 7))
        assert view.marked() == expected


def test_a_drag_marks_every_slice_on_its_way(view: SheetView) -> None:
    drag(view, 1, 2, 7)
    assert view.marked() == {1, 2, 7}


def test_a_drag_that_begins_on_a_mark_takes_marks_away(view: SheetView) -> None:
    drag(view, 1, 2, 3)
    drag(view, 2, 3, 4)
    assert view.marked() == {1}


def test_moving_without_the_button_marks_nothing(view: SheetView) -> None:
    drag(view, 3)
    place = QPointF(middle(view, 9))
    none, held = Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier
    kind = QMouseEvent.Type.MouseMove
    moved = QMouseEvent(kind, place, view.mapToGlobal(place), none, none, held)
    QApplication.sendEvent(view, moved)
    assert view.marked() == {3}


def test_slices_are_marked_without_a_mouse(qtbot: QtBot, view: SheetView) -> None:
    keys = (Qt.Key.Key_Right, Qt.Key.Key_Down, Qt.Key.Key_Space)  # to 1, to 6
    for key in (*keys, Qt.Key.Key_Left, Qt.Key.Key_Up, Qt.Key.Key_Space):
        qtbot.keyClick(view, key)
    assert view.marked() == {6, 0}


def test_arrows_do_not_lead_off_the_sheet(qtbot: QtBot, view: SheetView) -> None:
    qtbot.keyClick(view, Qt.Key.Key_Up)
    qtbot.keyClick(view, Qt.Key.Key_Left)
    qtbot.keyClick(view, Qt.Key.Key_Space)
    assert view.marked() == {0}


def test_another_page_begins_without_marks(view: SheetView) -> None:
    drag(view, 1, 2)
    view.setPage(["scan z 30"])
    assert not view.marked()
    assert view.count() == 1


def test_a_mark_is_a_red_frame(view: SheetView) -> None:
    drag(view, 12)
    picture = view.grab().toImage()
    corner = view.cell(12).topLeft().toPoint() + QPoint(1, 1)
    assert picture.pixelColor(corner).name() == BAD_COLOR
    other = view.cell(13).topLeft().toPoint() + QPoint(1, 1)
    assert picture.pixelColor(other).name() != BAD_COLOR


def test_pictures_are_drawn_in_their_cell_and_in_their_shape(view: SheetView) -> None:
    white = np.full((10, 20), 255, np.uint8)
    empty = outlines(np.zeros((10, 20), np.uint8), ORGANS)
    view.setTile(3, Tile(grey(white, (0, 255)), empty, aspect=2.0))
    assert 3 not in view.missing()
    picture = view.grab().toImage()
    cell = view.cell(3)
    lit = [
        (x, y)
        for x in range(int(cell.left()), int(cell.right()))
        for y in range(int(cell.top()), int(cell.bottom()) - 20)
        if picture.pixelColor(x, y) == QColor("white")
    ]
    wide = max(x for x, _ in lit) - min(x for x, _ in lit) + 1
    high = max(y for _, y in lit) - min(y for _, y in lit) + 1
    assert wide == pytest.approx(2 * high, abs=2)
    assert wide > 80
