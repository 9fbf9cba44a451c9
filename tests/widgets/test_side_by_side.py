"""Docks on one side of a real window: each gets the height it needs, or is a tab."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDockWidget,
    QLabel,
    QMainWindow,
    QStyle,
    QStyleOptionComboBox,
    QTabBar,
)

from napari_kdseg.state.measurement import Measurement
from napari_kdseg.state.segmentation import Segmentation
from napari_kdseg.state.volumes import Volumes
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.widgets._form import Dock
from napari_kdseg.widgets.measure import MeasureDock
from napari_kdseg.widgets.segment import SegmentDock
from napari_kdseg.widgets.volumes import VolumesDock

Opened = Callable[[int], tuple[QMainWindow, QDockWidget, QDockWidget]]


@pytest.fixture
def opened(make_napari_viewer: Any, qtbot: QtBot, tmp_path: Path) -> Opened:
    """Volumes, then Segment, in a window of some height."""

    def opened_in(height: int) -> tuple[QMainWindow, QDockWidget, QDockWidget]:
        viewer = make_napari_viewer(show=True)
        window = viewer.window._qt_window
        window.resize(1300, height)
        state = Volumes(cache=Cache(tmp_path / "cache"), scratch=tmp_path / "scratch")
        first = VolumesDock(viewer, state)
        shells = [viewer.window.add_dock_widget(first, name="Volumes")]
        qtbot.waitUntil(lambda: first._is_placed)
        second = SegmentDock(viewer, Segmentation(scratch=tmp_path / "segment"))
        shells.append(viewer.window.add_dock_widget(second, name="Segment"))
        qtbot.waitUntil(lambda: second._is_placed)
        return window, *shells

    return opened_in


def test_docks_that_do_not_fit_become_tabs_with_the_new_one_in_front(
    opened: Opened, qtbot: QtBot
) -> None:
    window, volumes, segment = opened(800)
    assert window.tabifiedDockWidgets(segment) == [volumes]
    qtbot.waitUntil(lambda: not segment.visibleRegion().isEmpty())
    assert volumes.visibleRegion().isEmpty()


def test_docks_that_fit_share_the_height_as_they_need_it(
    opened: Opened, qtbot: QtBot
) -> None:
    window, _, segment = opened(1700)
    assert window.tabifiedDockWidgets(segment) == []
    needed = segment.findChild(SegmentDock).column.sizeHint().height()
    qtbot.waitUntil(lambda: segment.height() >= needed)


DOCKS = ("Volumes", "Segment", "Teachers", "Review", "Train", "Measure")


def test_the_titles_of_all_docks_can_be_read_where_they_are_tabs(
    make_napari_viewer: Any, qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    window = viewer.window._qt_window
    window.resize(1300, 800)
    for title in DOCKS:
        dock, filling = Dock(), QLabel()
        filling.setFixedHeight(700)
        dock.rows.addWidget(filling)
        # As napari calls them.
        shell = viewer.window.add_dock_widget(dock, name=f"{title} (napari-kdseg)")
        qtbot.waitUntil(lambda: dock._is_placed)  # noqa: B023 - now
        assert shell.toggleViewAction().text() == f"{title} (napari-kdseg)"
    [tabs] = (bar for bar in window.findChildren(QTabBar) if bar.count() == len(DOCKS))
    assert [tabs.tabText(number) for number in range(len(DOCKS))] == [*DOCKS]
    qtbot.waitUntil(lambda: tabs.width() > 0)
    metrics = tabs.fontMetrics()
    for number, title in enumerate(DOCKS):
        assert metrics.horizontalAdvance(title) < tabs.tabRect(number).width()


def test_what_a_scan_is_used_for_can_be_read_in_the_narrowest_dock(
    opened: Opened, qtbot: QtBot
) -> None:
    window, shell, _ = opened(800)
    shell.raise_()
    window.resizeDocks([shell], [1], Qt.Orientation.Horizontal)
    use = shell.findChild(VolumesDock).use
    qtbot.waitUntil(lambda: not use.visibleRegion().isEmpty())
    option = QStyleOptionComboBox()
    use.initStyleOption(option)
    place = use.style().subControlRect(
        QStyle.ComplexControl.CC_ComboBox,
        option,
        QStyle.SubControl.SC_ComboBoxEditField,
        use,
    )
    for number in range(use.count()):
        width = use.fontMetrics().horizontalAdvance(use.itemText(number))
        assert width <= place.width()


def test_measure_has_room_for_its_table_beside_another_dock(
    make_napari_viewer: Any, qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1600, 1000)
    state = Volumes(cache=Cache(tmp_path / "cache"), scratch=tmp_path / "scratch")
    volumes = VolumesDock(viewer, state)
    viewer.window.add_dock_widget(volumes, name="Volumes")
    qtbot.waitUntil(lambda: volumes._is_placed)
    measure = MeasureDock(viewer, Measurement(scratch=tmp_path / "measure"))
    viewer.window.add_dock_widget(measure, name="Measure")
    qtbot.waitUntil(lambda: measure._is_placed)
    above = measure.column.sizeHint().height()
    table = measure.measured.table_height()
    qtbot.waitUntil(lambda: measure.viewport().height() >= above + table)
