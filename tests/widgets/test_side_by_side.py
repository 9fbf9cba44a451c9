"""Docks on one side of a real window: each gets the height it needs, or is a tab."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QDockWidget, QMainWindow

from napari_kdseg.state.segmentation import Segmentation
from napari_kdseg.state.volumes import Volumes
from napari_kdseg.volumes.cache import Cache
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
