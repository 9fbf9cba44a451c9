"""The Review dock in a real viewer: an evening's work by keys and by contact sheet."""

import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from made_predictions import CLASSES, write_prediction
from napari.utils.key_bindings import coerce_keybinding
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, QSettings, Qt
from qtpy.QtGui import QStandardItemModel
from qtpy.QtWidgets import QApplication, QComboBox, QFileDialog, QInputDialog

from napari_kdseg.review.store import Store
from napari_kdseg.review.verdicts import Verdict, current
from napari_kdseg.runs.run import Run
from napari_kdseg.state.training import Training
from napari_kdseg.state.training_runs import KnownRuns
from napari_kdseg.state.volumes import Volumes
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.widgets._occupied import is_occupied
from napari_kdseg.widgets.review.canvas import DOUBT, IMAGE, LABELS, text_overlay
from napari_kdseg.widgets.review.dock import ReviewDock
from napari_kdseg.widgets.review.keys import ALL
from napari_kdseg.widgets.review.sheet_view import SheetView
from napari_kdseg.widgets.train import TrainDock
from napari_kdseg.widgets.volumes import VolumesDock

SHAPES = {"fish-1": (12, 20, 30), "fish-2": (10, 20, 30), "fish-3": (30, 24, 28)}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three scans, 12, 10 and 30 slices along z; the outermost ones are empty."""
    rng = np.random.default_rng(0)
    for case, shape in SHAPES.items():
        labels = np.zeros(shape, np.uint8)
        labels[1:-1, 4:12, 6:14] = 1
        labels[3:-3, 8:16, 16:24] = 2
        write_prediction(
            tmp_path / "out",
            case,
            labels,
            image=rng.integers(0, 200, shape).astype(np.uint16),
            uncertainty=(labels > 0).astype(np.float32) * 0.5,
            spacing_mm=(2, 1, 1),
        )
    return tmp_path / "out"


@pytest.fixture
def settings(tmp_path: Path) -> QSettings:
    return QSettings(str(tmp_path / "settings.ini"), QSettings.Format.IniFormat)


MakeDock = Callable[[], ReviewDock]


@pytest.fixture(scope="module")
def viewer(qapp: QApplication) -> Iterator[Any]:
    """One viewer for all tests: opening and closing it takes longer than they do."""
    shared = napari.Viewer(show=False)
    yield shared
    shared.close()
    qapp.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    qapp.processEvents()
    del shared
    gc.collect()


@pytest.fixture
def make_dock(viewer: Any, settings: QSettings) -> Iterator[MakeDock]:
    """Opens docks in one viewer, one after the other."""

    def make() -> ReviewDock:
        dock = ReviewDock(viewer, settings=settings)
        viewer.window.add_dock_widget(dock, name="Review")
        return dock

    yield make
    for widget in list(viewer.window.dock_widgets.values()):
        if isinstance(widget, ReviewDock | VolumesDock):
            viewer.window.remove_dock_widget(widget)
    viewer.layers.clear()
    viewer.dims.order = (0, 1)


@pytest.fixture
def dock(make_dock: MakeDock, out: Path) -> ReviewDock:
    """A dock with the three predictions open, in sequence."""
    dock = make_dock()
    dock.open_folder(out)
    dock.state.order = "sequence"
    dock.who.setName("Ann")
    return dock


def begin(qtbot: QtBot, dock: ReviewDock) -> None:
    qtbot.mouseClick(dock.panel.start_button, Qt.MouseButton.LeftButton)
    assert dock.judging.active, dock.message.text()
    wait(qtbot, dock)


def wait(qtbot: QtBot, dock: ReviewDock) -> None:
    """Until the slice to be judged is in view."""
    qtbot.waitUntil(
        lambda: dock.judging.can_judge or dock.state.current is None, timeout=10_000
    )


def press(qtbot: QtBot, dock: ReviewDock, keys: str) -> None:
    """Press keys as a person does who looks at the canvas."""
    for key in keys:
        wait(qtbot, dock)
        qtbot.keyClick(dock.window(), key.lower())


def rows_of(out: Path) -> list[Verdict]:
    store = Store.open(out / "review" / "verdicts.sqlite")
    rows, _ = store.rows()
    store.close()
    return rows


def said(out: Path) -> list[tuple[str, int, str]]:
    return [(one.case, one.index, one.verdict) for one in current(rows_of(out))]


# ---- judging by key ----


def test_slices_are_judged_by_key(qtbot: QtBot, dock: ReviewDock, out: Path) -> None:
    begin(qtbot, dock)
    expected = []
    for key, word in (("g", "good"), ("j", "bad"), ("h", "unsure")):
        about = dock.state.current
        assert about is not None
        expected.append((about.case, about.index, word))
        press(qtbot, dock, key)
    assert said(out) == expected
    assert {row.reviewer for row in rows_of(out)} == {"Ann"}
    counts = dock.panel.counts
    qtbot.waitUntil(lambda: "1 good, 1 bad, 1 unsure" in counts.text())


def test_the_next_slice_is_in_view_after_each_key(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    begin(qtbot, dock)
    for _ in range(3):
        before = dock.state.current
        press(qtbot, dock, "g")
        wait(qtbot, dock)
        assert dock.state.current != before
        shown = dock.state.plane(dock.state.current)
        assert np.array_equal(dock.viewer.layers[IMAGE].data, shown.image)
        assert np.array_equal(dock.viewer.layers[LABELS].data, shown.labels)


def test_take_back_leads_back_to_the_slice(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    begin(qtbot, dock)
    first = dock.state.current
    press(qtbot, dock, "gu")
    wait(qtbot, dock)
    assert dock.state.current == first
    assert said(out) == []
    press(qtbot, dock, "j")
    assert [word for *_, word in said(out)] == ["bad"]


def test_skip_and_next_leave_no_verdict(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    begin(qtbot, dock)
    seen = {dock.state.current}
    for key in "kn":
        press(qtbot, dock, key)
        seen.add(dock.state.current)
    assert len(seen) == 3
    assert said(out) == []


def test_a_slice_that_is_not_in_view_cannot_be_judged(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    begin(qtbot, dock)
    dock.judging.canvas.clear("as while a slice is being read")
    qtbot.keyClick(dock.window(), "g")
    assert said(out) == []


def test_w_hides_the_labels_and_shows_them_again(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    begin(qtbot, dock)
    for visible in (False, True):
        press(qtbot, dock, "w")
        assert dock.viewer.layers[LABELS].visible is visible
        button = dock.panel.overlay_button
        qtbot.waitUntil(lambda: button.isChecked() is visible)  # noqa: B023 - now


def test_hidden_labels_stay_hidden_on_the_next_slice(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    begin(qtbot, dock)
    press(qtbot, dock, "wg")
    wait(qtbot, dock)
    assert not dock.viewer.layers[LABELS].visible


def test_q_shows_uncertainty_and_hides_it_again(qtbot: QtBot, dock: ReviewDock) -> None:
    begin(qtbot, dock)
    assert DOUBT not in dock.viewer.layers
    press(qtbot, dock, "q")
    layers = dock.viewer.layers
    qtbot.waitUntil(lambda: DOUBT in layers and layers[DOUBT].visible)
    assert layers[DOUBT].data.max() in (127, 128)  # half of 255
    press(qtbot, dock, "q")
    assert not layers[DOUBT].visible


def test_while_slices_are_judged_the_canvas_is_held(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    assert not is_occupied(dock.viewer)
    begin(qtbot, dock)
    assert is_occupied(dock.viewer)
    qtbot.mouseClick(dock.panel.start_button, Qt.MouseButton.LeftButton)
    assert not is_occupied(dock.viewer)


def test_letters_in_the_comment_are_no_verdicts(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    begin(qtbot, dock)
    qtbot.waitUntil(dock.panel.comment.isEnabled)  # it follows after the picture
    dock.panel.comment.setFocus()
    qtbot.keyClicks(dock.panel.comment, "jugs")
    assert said(out) == []
    qtbot.keyClick(dock.panel.comment, Qt.Key.Key_Return)
    press(qtbot, dock, "j")
    assert [row.comment for row in rows_of(out)] == ["jugs"]
    qtbot.waitUntil(lambda: dock.panel.comment.text() == "")


def test_a_skipped_slice_keeps_its_comment_out_of_the_next_verdict(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    begin(qtbot, dock)
    qtbot.waitUntil(dock.panel.comment.isEnabled)
    qtbot.keyClicks(dock.panel.comment, "blurred")
    press(qtbot, dock, "k")
    qtbot.waitUntil(lambda: dock.panel.comment.text() == "")
    wait(qtbot, dock)
    press(qtbot, dock, "g")
    assert [row.comment for row in rows_of(out)] == [""]


def test_letters_in_the_name_are_no_verdicts(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    begin(qtbot, dock)
    line = dock.who.lineEdit()
    line.setFocus()
    qtbot.keyClicks(line, "gjh")
    assert said(out) == []


def test_buttons_do_what_their_keys_do(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    begin(qtbot, dock)
    panel = dock.panel
    in_turn = (panel.good_button, panel.bad_button, panel.back_button)
    for button in (*in_turn, panel.unsure_button):
        wait(qtbot, dock)
        qtbot.waitUntil(button.isEnabled)  # the panel follows after the picture
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert [word for *_, word in said(out)] == ["good", "unsure"]


def test_every_button_has_a_tooltip_and_says_its_key(dock: ReviewDock) -> None:
    panel = dock.panel
    keyed = {
        "G": panel.good_button,
        "J": panel.bad_button,
        "H": panel.unsure_button,
        "N": panel.next_button,
        "K": panel.skip_button,
        "U": panel.back_button,
        "W": panel.overlay_button,
        "Q": panel.doubt_button,
    }
    assert set(keyed) == set(ALL)
    for key, button in keyed.items():
        assert button.text().endswith(key)
        assert button.toolTip()


def test_the_canvas_is_drawn_once_for_a_key(qtbot: QtBot, dock: ReviewDock) -> None:
    begin(qtbot, dock)
    qtbot.waitUntil(lambda: dock.state.at_hand(dock.state.ahead[0]))
    texts: list[str] = []
    overlay = text_overlay(dock.viewer)
    seen = dict.fromkeys((IMAGE, LABELS), 0)

    def note(name: str) -> Callable[[Any], None]:
        def count(_event: Any) -> None:
            seen[name] += 1

        return count

    overlay.events.text.connect(lambda _event: texts.append(overlay.text))
    for name in seen:
        dock.viewer.layers[name].events.set_data.connect(note(name))
        dock.viewer.layers[name].events.thumbnail.connect(note(name))
    qtbot.keyClick(dock.window(), "g")
    assert seen == {IMAGE: 1, LABELS: 1}, "new voxels once, and no thumbnail"
    assert texts == [f"{dock.judging.title}\ngood"]


def test_a_verdict_flashes_in_its_colour_and_fades(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    begin(qtbot, dock)
    press(qtbot, dock, "j")
    overlay = text_overlay(dock.viewer)
    assert overlay.text == f"{dock.judging.title}\nbad"
    qtbot.waitUntil(lambda: overlay.text == dock.judging.title)


# ---- what is seen ----


def test_other_layers_are_hidden_meanwhile_and_shown_again(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    viewer = dock.viewer
    seen = viewer.add_image(np.zeros((4, 8, 8)), name="mine")
    unseen = viewer.add_labels(np.zeros((4, 8, 8), np.uint8), visible=False)
    viewer.dims.order = (1, 0, 2)
    begin(qtbot, dock)
    assert not seen.visible
    assert viewer.dims.order == (0, 1, 2)
    qtbot.mouseClick(dock.panel.start_button, Qt.MouseButton.LeftButton)
    assert not dock.judging.active
    assert list(viewer.layers) == [seen, unseen]
    assert (seen.visible, unseen.visible) == (True, False)
    assert viewer.dims.order == (1, 0, 2)
    assert not text_overlay(viewer).visible


def test_pixels_have_the_size_they_have_in_the_scan(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    dock.state.axis = 1  # z (2 mm) downwards, x (1 mm) to the right
    begin(qtbot, dock)
    for name in (IMAGE, LABELS):
        assert tuple(dock.viewer.layers[name].scale) == (2.0, 1.0)
        assert dock.viewer.layers[name].data.shape[1] in (30, 28)


def test_slices_are_in_the_unit_of_the_other_layers(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    """Layers of several units would be shown in none."""
    dock.viewer.add_image(np.zeros((4, 8, 8)), units=("micrometer",) * 3)
    dock.state.axis = 1
    begin(qtbot, dock)
    image = dock.viewer.layers[IMAGE]
    assert [str(unit) for unit in image.units] == ["micrometer"] * 2
    assert tuple(image.scale) == (2000.0, 1000.0)
    rows, columns = image.data.shape
    camera = dock.viewer.scene.camera
    down, right = camera.center[-2:]
    assert right == pytest.approx((columns - 1) * 500)
    # Above the slice there is room for the caption, so it lies below the middle.
    half = dock.viewer.canvas.size[0] / 2 / camera.zoom
    assert (rows - 1) * 1000 - half < down < (rows - 1) * 1000
    assert down + half > rows * 2000 - 1000, "the last row is in view"


def test_contrast_is_kept_between_the_slices_of_a_scan(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    """What a person sets for one scan is not what they set for another."""
    first, second = (one.about(0, 5) for one in dock.state.predictions[:2])
    dock.state.go_to(first)
    begin(qtbot, dock)
    image = dock.viewer.layers[IMAGE]
    own = dock.state.plane(first).limits
    assert tuple(image.contrast_limits) == own
    image.contrast_limits = (20, 90)
    beside = dock.state.predictions[0].about(0, 6)
    for about, expected in ((beside, (20, 90)), (second, None), (first, (20, 90))):
        dock.state.go_to(about)
        wait(qtbot, dock)
        wanted = expected or dock.state.plane(about).limits
        assert tuple(image.contrast_limits) == tuple(wanted)


def test_zoom_stays_while_slices_are_of_one_size(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    one, other = dock.state.predictions[0], dock.state.predictions[2]
    dock.state.go_to(one.about(0, 4))
    begin(qtbot, dock)
    camera = dock.viewer.scene.camera
    camera.zoom = 33.0
    for about, stays in ((one.about(0, 5), True), (other.about(0, 5), False)):
        dock.state.go_to(about)
        wait(qtbot, dock)
        assert (camera.zoom == 33.0) is stays


def test_labels_have_the_colours_of_their_classes(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    begin(qtbot, dock)
    labels = dock.viewer.layers[LABELS]
    for item in CLASSES.classes:
        expected = [int(item.color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert np.allclose(labels.colormap.map(item.value)[:3], expected, atol=1e-2)
    before = labels.colormap
    press(qtbot, dock, "g")
    wait(qtbot, dock)
    assert labels.colormap is before  # slow to build, so built once


def test_the_predicted_labels_cannot_be_painted_on(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    begin(qtbot, dock)
    assert not dock.viewer.layers[LABELS].editable
    assert dock.viewer.layers.selection.active.name == IMAGE


def test_a_layer_that_somebody_removed_comes_back(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    begin(qtbot, dock)
    dock.viewer.layers.remove(LABELS)
    press(qtbot, dock, "g")
    wait(qtbot, dock)
    assert [layer.name for layer in dock.viewer.layers] == [IMAGE, LABELS]


# ---- which slices ----


def choose(combo: QComboBox, text: str) -> None:
    """Choose as a person does."""
    combo.setCurrentText(text)
    combo.activated.emit(combo.currentIndex())


def test_the_axis_is_chosen_in_the_dock(qtbot: QtBot, dock: ReviewDock) -> None:
    begin(qtbot, dock)
    choose(dock.panel.queue.axis, "x")
    wait(qtbot, dock)
    about = dock.state.current
    assert about is not None
    assert about.axis == 2
    z, y, _ = SHAPES[about.case]
    assert dock.viewer.layers[IMAGE].data.shape == (z, y)
    qtbot.waitUntil(lambda: " x " in dock.panel.place.text())


def test_an_order_that_cannot_be_had_says_why(dock: ReviewDock) -> None:
    order = dock.panel.queue.order
    model = order.model()
    assert isinstance(model, QStandardItemModel)
    items = {model.item(row).text(): model.item(row) for row in range(order.count())}
    assert not items["classifier doubt"].isEnabled()
    assert "train one" in items["classifier doubt"].toolTip()
    assert items["uncertainty"].isEnabled()
    choose(order, "uncertainty")
    assert dock.state.order == "uncertainty"


def test_one_scan_alone_can_be_judged(qtbot: QtBot, dock: ReviewDock) -> None:
    choose(dock.panel.queue.cases, "fish-2")
    assert {about.case for about in (dock.state.current, *dock.state.ahead)} == {
        "fish-2"
    }
    choose(dock.panel.queue.cases, "all scans")
    assert dock.state.filters.cases is None


def test_judged_slices_come_again_where_they_are_asked_for(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    begin(qtbot, dock)
    about = dock.state.current
    press(qtbot, dock, "j")
    choose(dock.panel.queue.shown, "all, judged ones too")
    assert about is not None
    dock.state.go_to(about)
    wait(qtbot, dock)
    qtbot.waitUntil(lambda: "(you: bad)" in dock.panel.place.text())


# ---- the contact sheet ----


def open_sheet(qtbot: QtBot, dock: ReviewDock) -> SheetView:
    qtbot.mouseClick(dock.panel.sheet_button, Qt.MouseButton.LeftButton)
    assert dock.sheet.isVisible(), dock.message.text()
    wait_for_page(qtbot, dock)
    return dock.sheet.view


def wait_for_page(qtbot: QtBot, dock: ReviewDock) -> None:
    view = dock.sheet.view
    qtbot.waitUntil(lambda: view.count() > 0 and not view.missing(), timeout=10_000)


def click(qtbot: QtBot, view: SheetView, number: int) -> None:
    place = view.cell(number).center().toPoint()
    qtbot.mouseClick(view, Qt.MouseButton.LeftButton, pos=place)


def test_a_page_is_judged_with_the_mouse_and_one_key(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    assert not dock.reads_results
    view = open_sheet(qtbot, dock)
    assert dock.reads_results
    first = dock.sheet.page
    for number in (2, 7):
        click(qtbot, view, number)
    qtbot.keyClick(view, Qt.Key.Key_Return)
    words = {(case, index): word for case, index, word in said(out)}
    expected = {
        (about.case, about.index): "bad" if number in (2, 7) else "good"
        for number, about in enumerate(first)
    }
    assert words == expected
    assert len(words) == 25
    # The next page comes by itself.
    wait_for_page(qtbot, dock)
    assert not {*dock.state.page} & {*first}
    assert not view.marked()


def test_take_back_brings_the_page_back(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    view = open_sheet(qtbot, dock)
    first = dock.state.page
    for number in (2, 7):
        click(qtbot, view, number)
    qtbot.keyClick(view, Qt.Key.Key_Return)
    wait_for_page(qtbot, dock)
    assert not view.marked()
    qtbot.keyClick(view, "u")
    wait_for_page(qtbot, dock)
    page = dock.sheet.page
    assert set(page) == set(first)
    assert said(out) == []
    # With its frames: who mends one slice does not make the bad ones good.
    assert {page[number] for number in view.marked()} == {first[2], first[7]}
    assert "23 good, 2 bad" in dock.sheet.accept_button.text()
    qtbot.keyClick(view, Qt.Key.Key_Return)
    assert [word for *_, word in said(out)].count("bad") == 2


def test_escape_takes_the_marks_away(qtbot: QtBot, dock: ReviewDock, out: Path) -> None:
    view = open_sheet(qtbot, dock)
    click(qtbot, view, 3)
    assert "24 good, 1 bad" in dock.sheet.accept_button.text()
    qtbot.keyClick(view, Qt.Key.Key_Escape)
    assert "25 good, 0 bad" in dock.sheet.accept_button.text()
    assert said(out) == []


def test_the_last_page_may_be_short_and_then_there_is_none(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    # 10 + 8 + 28 slices have labels.
    qtbot.waitUntil(lambda: dock.state.counts.total == 46)
    view = open_sheet(qtbot, dock)
    qtbot.keyClick(view, Qt.Key.Key_Return)
    wait_for_page(qtbot, dock)
    assert view.count() == 21
    qtbot.keyClick(view, Qt.Key.Key_Return)
    assert view.count() == 0
    assert "No slice is left" in dock.sheet.title.text()
    assert not dock.sheet.accept_button.isEnabled()
    assert len(said(out)) == 46


def test_a_page_that_is_looked_at_stays_when_others_come_first(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    view = open_sheet(qtbot, dock)
    page = dock.sheet.page
    click(qtbot, view, 0)
    dock.state.order = "random"
    assert dock.state.page != page
    assert view.marked() == {0}
    qtbot.keyClick(view, Qt.Key.Key_Return)
    judged = {(case, index): word for case, index, word in said(out)}
    assert set(judged) == {(about.case, about.index) for about in page}
    assert [key for key, word in judged.items() if word == "bad"] == [
        (page[0].case, page[0].index)
    ]


def test_after_the_sheet_the_canvas_goes_on(qtbot: QtBot, dock: ReviewDock) -> None:
    begin(qtbot, dock)
    view = open_sheet(qtbot, dock)
    qtbot.keyClick(view, Qt.Key.Key_Return)
    dock.sheet.close()
    wait(qtbot, dock)
    picture = dock.judging.canvas.picture
    assert picture is not None
    assert picture.plane.about == dock.state.current


# ---- who, where, and what goes wrong ----


def test_where_no_verdict_can_be_kept_slices_are_shown_and_it_is_said(
    qtbot: QtBot, make_dock: MakeDock, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    dock = make_dock()
    dock.open_folder(out)
    assert "cannot be written to" in dock.notes.text()
    assert dock.panel.start_button.text() == "Look at slices"
    begin(qtbot, dock)
    first = dock.state.current
    qtbot.waitUntil(lambda: dock.panel.skip_button.isEnabled())
    assert not dock.panel.good_button.isEnabled()
    press(qtbot, dock, "g")
    assert "cannot be written to" in dock.message.text()
    assert dock.state.current == first
    press(qtbot, dock, "k")
    wait(qtbot, dock)
    assert dock.state.current != first
    assert not (out / "review").exists()


def test_the_place_of_the_verdicts_is_shown_and_can_be_changed(
    qtbot: QtBot, dock: ReviewDock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(qtbot, dock)
    press(qtbot, dock, "g")
    assert dock.store.text() == "in the folder"
    asked: list[str] = []

    def answer(*words: Any, text: str) -> tuple[str, bool]:
        asked.append(text)
        return "postgresql://127.0.0.1:1/fish", True

    monkeypatch.setattr(QInputDialog, "getText", answer)
    qtbot.mouseClick(dock.store_button, Qt.MouseButton.LeftButton)
    assert asked == [""]
    assert "See whether it runs" in dock.message.text()
    assert dock.store.text() == "in the folder", "as it was"
    assert dock.state.counts.good == 1


def test_verdicts_are_saved_added_and_compared_from_the_menu(
    qtbot: QtBot, dock: ReviewDock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begin(qtbot, dock)
    press(qtbot, dock, "g")
    table = str(tmp_path / "verdicts.csv")
    for name in ("getSaveFileName", "getOpenFileName"):
        monkeypatch.setattr(QFileDialog, name, lambda *_: (table, ""))
    agreement, save, add = dock.table_menu.actions()
    save.trigger()
    assert "verdicts.csv holds 1 verdicts" in dock.message.text()
    add.trigger()
    assert dock.message.text() == "0 new rows; there already: 1."
    agreement.trigger()
    assert dock.message.text().startswith("1 reviewer has verdicts here")


def test_without_a_name_nobody_judges(
    qtbot: QtBot, make_dock: MakeDock, out: Path
) -> None:
    dock = make_dock()
    dock.open_folder(out)
    qtbot.mouseClick(dock.panel.start_button, Qt.MouseButton.LeftButton)
    assert not dock.judging.active
    assert "your name" in dock.message.text()


def test_names_are_asked_once_and_offered_again(
    qtbot: QtBot, dock: ReviewDock, make_dock: MakeDock
) -> None:
    begin(qtbot, dock)
    dock.who.lineEdit().setText("Bo")
    dock.who.lineEdit().editingFinished.emit()
    assert dock.state.reviewer == "Bo"
    dock.viewer.window.remove_dock_widget(dock)
    again = make_dock()
    assert again.who.name() == "Bo"
    assert [again.who.itemText(n) for n in range(again.who.count())] == ["Bo", "Ann"]


def test_a_name_cannot_be_emptied_while_somebody_judges(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    begin(qtbot, dock)
    dock.who.lineEdit().setText(" ")
    dock.who.lineEdit().editingFinished.emit()
    assert dock.who.name() == dock.state.reviewer == "Ann"


def test_the_sheet_lies_as_the_canvas_does(qtbot: QtBot, dock: ReviewDock) -> None:
    camera = dock.viewer.scene.camera
    pictures = []
    for orientation in (("down", "right"), ("up", "left")):
        camera.orientation2d = orientation
        open_sheet(qtbot, dock)
        pictures.append(dock.sheet.view.tile(0).picture)
        dock.sheet.close()
    camera.orientation2d = ("down", "right")
    straight, turned = pictures
    assert straight != turned
    assert straight == turned.mirrored(True, True)


def test_a_reopened_dock_goes_on_where_one_stopped(
    qtbot: QtBot, dock: ReviewDock, make_dock: MakeDock, out: Path
) -> None:
    begin(qtbot, dock)
    press(qtbot, dock, "gj")
    place = dock.state.current
    dock.viewer.window.remove_dock_widget(dock)
    again = make_dock()
    again.open_folder(out)
    assert again.who.name() == "Ann"
    assert "1 good, 1 bad" in again.panel.counts.text()
    begin(qtbot, again)
    assert again.state.current == place
    press(qtbot, again, "h")
    assert [word for *_, word in said(out)] == ["good", "bad", "unsure"]


def test_a_scan_that_is_gone_is_named_and_the_others_can_be_judged(
    qtbot: QtBot, make_dock: MakeDock, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "scans" / "fish-2.nii.gz").unlink()
    dock = make_dock()
    dock.open_folder(out)
    assert "fish-2.nii.gz is missing" in dock.notes.text()
    dock.who.setName("Ann")
    begin(qtbot, dock)
    assert dock.state.current.case != "fish-2"


def test_a_damaged_scan_gets_a_sentence_and_can_be_skipped(
    qtbot: QtBot, make_dock: MakeDock, out: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "scans" / "fish-1.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    dock = make_dock()
    dock.open_folder(out)
    dock.who.setName("Ann")
    dock.state.go_to(dock.state.predictions[0].about(0, 4))
    qtbot.mouseClick(dock.panel.start_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "fish-1.nii.gz" in dock.message.text())
    qtbot.keyClick(dock.window(), "g")
    assert said(out) == []
    dock.state.go_to(dock.state.predictions[1].about(0, 4))
    wait(qtbot, dock)
    assert dock.judging.can_judge


def test_slices_that_cannot_be_read_are_left_out_of_the_sheet(
    qtbot: QtBot, make_dock: MakeDock, out: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "scans" / "fish-3.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    dock = make_dock()
    dock.open_folder(out)
    dock.who.setName("Ann")
    qtbot.mouseClick(dock.panel.sheet_button, Qt.MouseButton.LeftButton)
    good = {about for about in dock.state.page if about.case != "fish-3"}
    qtbot.waitUntil(lambda: dock.sheet.accept_button.isEnabled(), timeout=20_000)
    assert "fish-3.nii.gz" in dock.sheet.title.text()
    assert good
    qtbot.keyClick(dock.sheet.view, Qt.Key.Key_Return)
    assert {case for case, *_ in said(out)} == {"fish-1", "fish-2"}


def test_a_folder_without_predictions_is_said_in_a_sentence(
    qtbot: QtBot, make_dock: MakeDock, tmp_path: Path
) -> None:
    dock = make_dock()
    (tmp_path / "empty").mkdir()
    dock.open_folder(tmp_path / "empty")
    assert dock.message.text() or dock.notes.text()
    assert not dock.panel.start_button.isEnabled()
    assert not dock.panel.sheet_button.isEnabled()


def test_when_all_is_judged_the_canvas_says_so(qtbot: QtBot, dock: ReviewDock) -> None:
    first = dock.state.predictions[1]
    dock.state.filters = replace(dock.state.filters, cases=frozenset([first.case]))
    qtbot.waitUntil(lambda: dock.state.counts.total == 8)
    begin(qtbot, dock)
    press(qtbot, dock, "g" * 8)
    assert dock.state.current is None
    assert "no slice is left" in text_overlay(dock.viewer).text
    qtbot.waitUntil(lambda: not dock.panel.good_button.isEnabled())


def test_the_project_of_the_volumes_dock_is_offered(
    qtbot: QtBot, make_dock: MakeDock, tmp_path: Path
) -> None:
    dock = make_dock()
    assert dock.project_button.isHidden()
    state = Volumes(cache=Cache(tmp_path / "cache"), scratch=tmp_path / "scratch")
    volumes = VolumesDock(dock.viewer, state)
    dock.viewer.window.add_dock_widget(volumes, name="Volumes")
    state.create_project(tmp_path / "atlas", "fish atlas")
    qtbot.waitUntil(lambda: not dock.project_button.isHidden())
    qtbot.mouseClick(dock.project_button, Qt.MouseButton.LeftButton)
    assert dock.state.folder == tmp_path / "atlas"
    assert dock.project_button.isHidden()


def test_the_training_of_a_student_opens_in_the_train_dock(
    qtbot: QtBot, dock: ReviewDock, tmp_path: Path
) -> None:
    config = {"version": 1, "command": "fit", "method": "medaka"}
    folder = Run.create(tmp_path / "student" / "run", config).folder
    train = TrainDock(dock.viewer, training=Training(known=KnownRuns(tmp_path / "t")))
    dock.viewer.window.add_dock_widget(train, name="Train")
    dock.grades.trainingWanted.emit(folder)
    assert train.training.job is not None
    assert train.training.job.run.folder == folder
    assert train.tabs.currentIndex() == 1
    dock.viewer.window.remove_dock_widget(train)


# ---- closing ----


def test_closing_the_dock_gives_everything_back(qtbot: QtBot, dock: ReviewDock) -> None:
    viewer = dock.viewer
    before = threads()
    begin(qtbot, dock)
    assert {coerce_keybinding(key) for key in ALL} <= set(viewer.keymap)
    viewer.window.remove_dock_widget(dock)
    assert not {coerce_keybinding(key) for key in ALL} & set(viewer.keymap)
    assert not viewer.layers
    assert not text_overlay(viewer).visible
    assert before
    assert not threads()


def threads() -> list[threading.Thread]:
    """Threads of docks."""
    return [one for one in threading.enumerate() if "review" in one.name]


# ---- correcting ----


def test_keys_judge_nothing_while_a_slice_is_corrected(
    qtbot: QtBot, dock: ReviewDock, out: Path
) -> None:
    begin(qtbot, dock)
    about = dock.state.current
    qtbot.mouseClick(dock.correction.correct_button, Qt.MouseButton.LeftButton)
    assert dock.correction.active, dock.correction.message.text()
    qtbot.waitUntil(lambda: not dock.panel.good_button.isEnabled())
    qtbot.keyClicks(dock.window(), "gjh")
    assert said(out) == []
    qtbot.mouseClick(dock.correction.done_button, Qt.MouseButton.LeftButton)
    assert [layer.name for layer in dock.viewer.layers] == [IMAGE, LABELS]
    assert dock.viewer.layers[LABELS].visible
    assert dock.state.current == about
    press(qtbot, dock, "g")
    assert [word for *_, word in said(out)] == ["good"]


def test_stopping_to_judge_ends_a_correction_first(
    qtbot: QtBot, dock: ReviewDock
) -> None:
    mine = dock.viewer.add_image(np.zeros((4, 8, 8)), name="mine")
    begin(qtbot, dock)
    qtbot.mouseClick(dock.correction.correct_button, Qt.MouseButton.LeftButton)
    qtbot.mouseClick(dock.panel.start_button, Qt.MouseButton.LeftButton)
    assert not dock.correction.active
    assert list(dock.viewer.layers) == [mine]
    assert mine.visible
