"""The keys of the Review dock beside napari's own."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import napari.layers
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels, Layer
from napari.settings import get_settings
from napari.utils.key_bindings import coerce_keybinding
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QSettings
from qtpy.QtWidgets import QApplication

from napari_kdseg.widgets.review.dock import ReviewDock
from napari_kdseg.widgets.review.keys import ALL, Keys

OURS = {coerce_keybinding(key) for key in ALL}


def layer_classes() -> Iterator[type[Layer]]:
    for name in napari.layers.NAMES:
        yield getattr(napari.layers, name.capitalize())


def test_napari_has_no_shortcut_on_our_keys() -> None:
    theirs = {
        binding: action
        for action, bindings in get_settings().shortcuts.shortcuts.items()
        for binding in bindings
    }
    assert theirs, "napari keeps its shortcuts elsewhere now"
    assert {key: theirs[key] for key in OURS if key in theirs} == {}


def test_no_layer_and_no_viewer_binds_our_keys(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    bound: dict[str, set[Any]] = {}
    for cls in (*layer_classes(), type(viewer), ViewerModel):
        for parent in cls.__mro__:
            keymap = getattr(parent, "class_keymap", {})
            bound[parent.__name__] = OURS & set(keymap)
    assert "Labels" in bound
    assert not any(bound.values()), bound


def test_no_menu_of_napari_has_our_keys(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    assert viewer.window is not None
    actions = [one for widget in QApplication.allWidgets() for one in widget.actions()]
    shortcuts = {one.toString() for action in actions for one in action.shortcuts()}
    assert len(shortcuts) > 5
    assert not shortcuts & set(ALL)


@pytest.mark.parametrize(
    "mode", ["pan_zoom", "paint", "erase", "fill", "pick", "polygon"]
)
def test_our_keys_reach_us_while_labels_are_painted(mode: str) -> None:
    viewer = ViewerModel()
    layer = viewer.add_labels(np.zeros((4, 4), np.uint8))
    assert isinstance(layer, Labels)
    layer.mode = mode
    pressed: list[Any] = []
    keys = Keys(viewer, dict.fromkeys(ALL, pressed.append))
    keys.bind()
    # As the canvas resolves them: the active layer before the viewer.
    assert not {*layer.keymap, *type(layer).class_keymap} & OURS
    for key in OURS:
        viewer.keymap[key](viewer)
    assert pressed == [viewer] * len(ALL)


def test_freed_keys_are_gone() -> None:
    viewer = ViewerModel()
    before = dict(viewer.keymap)
    keys = Keys(viewer, dict.fromkeys(ALL, print))
    keys.bind()
    assert set(viewer.keymap) >= OURS
    keys.free()
    assert viewer.keymap == before
    assert not keys.bound


def test_what_was_bound_before_is_bound_again() -> None:
    viewer = ViewerModel()

    def theirs(_viewer: Any) -> None: ...

    viewer.bind_key("G", theirs)
    keys = Keys(viewer, {"G": print})
    keys.bind()
    assert viewer.keymap[coerce_keybinding("G")] is print
    keys.free()
    assert viewer.keymap[coerce_keybinding("G")] is theirs


def test_what_somebody_bound_meanwhile_stays() -> None:
    viewer = ViewerModel()

    def theirs(_viewer: Any) -> None: ...

    keys = Keys(viewer, {"G": print})
    keys.bind()
    viewer.bind_key("G", theirs, overwrite=True)
    keys.free()
    assert viewer.keymap[coerce_keybinding("G")] is theirs


def test_binding_twice_keeps_what_was_bound_before() -> None:
    viewer = ViewerModel()

    def theirs(_viewer: Any) -> None: ...

    viewer.bind_key("J", theirs)
    keys = Keys(viewer, {"J": print})
    keys.bind()
    keys.bind()
    keys.free()
    assert viewer.keymap[coerce_keybinding("J")] is theirs


def test_the_thread_ends_with_the_window(
    qtbot: QtBot, make_napari_viewer: Any, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    settings = QSettings(str(tmp_path / "settings.ini"), QSettings.Format.IniFormat)
    viewer.window.add_dock_widget(ReviewDock(viewer, settings=settings), name="Review")
    assert review_threads()
    viewer.close()
    qtbot.waitUntil(lambda: not review_threads())


def review_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if "review" in one.name]
