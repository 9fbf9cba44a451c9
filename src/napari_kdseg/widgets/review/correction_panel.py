"""The part of the Review dock where a person corrects a prediction by painting."""

from typing import Any

from qtpy.QtCore import (  # type: ignore[attr-defined]  # qtpy makes Signal
    QSignalBlocker,
    QTimer,
    Signal,
)
from qtpy.QtWidgets import QComboBox, QProgressBar, QVBoxLayout, QWidget

from napari_kdseg.errors import KdsegError
from napari_kdseg.review.verdicts import About
from napari_kdseg.state.correction.correction import Correction
from napari_kdseg.state.correction.view import AXES, Shown
from napari_kdseg.state.review.review import Review
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.widgets._form import form, swatch, wrapped_label
from napari_kdseg.widgets.review.correction_canvas import CorrectionCanvas
from napari_kdseg.widgets.review.parts import button, row

POLL_MS = 200
BUSY_MS = 20
_ERASE = "background (erase)"
_DELETED = (
    "The layer was deleted, which ends the correction. What was painted is on disk; "
    "Correct this slice goes on with it."
)
_UNKEPT, _KEPT = "● not on disk yet", "all on disk"


class CorrectionPanel(QWidget):
    """Has a person paint on a copy of the prediction that is judged.

    The whole scan takes the place of the slice that is judged, and is stepped through
    with napari's own slider. What is painted is put on disk by itself.

    Parameters
    ----------
    viewer
        The viewer.
    review
        What is judged; its current slice is corrected.
    cache
        Where converted scans lie; None: the user's.
    parent
        Qt's owner.
    """

    started = Signal()
    """Emitted when the viewer shows what is corrected, and nothing else."""
    finished = Signal()
    """Emitted when it shows again what it showed before."""

    def __init__(
        self,
        viewer: Any,
        review: Review,
        cache: Cache | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.review = review
        self.state = Correction(cache)
        self.canvas = CorrectionCanvas(viewer)
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._build()
        self._connect(viewer)
        self._show()

    @property
    def active(self) -> bool:
        """Whether a person is painting."""
        return self.canvas.active

    def correct(self, about: About) -> bool:
        """Show the scan of a slice, at that slice, to be painted on.

        Returns
        -------
        bool
            Whether it is shown; else the panel says why not.
        """
        folder = self.review.folder
        if folder is None or not self.end():
            return False
        try:
            prediction = self.review.prediction_of(about)
            contrast = self.canvas.contrast or self.review.plane(about).limits
        except KdsegError as error:
            self._show_message(str(error))
            return False
        if not self.state.begin(folder, prediction, self.review.reviewer):
            return False
        layers = self.state.layers(self.review.channel)
        if not layers:
            self.state.end()
            return False
        try:
            self.canvas.begin(layers, contrast, (about.axis, about.index))
        except KdsegError as error:
            self.state.end()
            self._show_message(str(error))
            return False
        self._offer_classes()
        self.canvas.labels.events.selected_label.connect(self._on_label_changed)
        self._on_view_moved()
        self._timer.start()
        self._show()
        self.started.emit()
        self._leave_keyboard()
        return True

    def end(self) -> bool:
        """Take the scan away, and show what was shown before; nothing is lost.

        Returns
        -------
        bool
            False where what was painted cannot be put on disk: then it stays.
        """
        if not self.active:
            return True
        if not self.state.end():
            return False
        self._take_away()
        return True

    def close_panel(self) -> None:
        """Put all on disk, and let go of viewer and review; may be called again.

        The slice that was judged does not come back: judging ends too.
        """
        self._timer.stop()
        if self.active:
            self._take_away(judged=False)
        self._ending.end()

    # ---- Building ----

    def _build(self) -> None:
        self.correct_button = button(
            "Correct this slice", "Paint on a copy; the prediction stays as it is"
        )
        self.done_button = button("Done", "Go back to judging; nothing is lost")
        self.label = QComboBox()
        self.label.setToolTip("What napari's brush paints; its size is at the left")
        self.interpolate_button = button(
            "",
            "Fills the slices between the last two corrected from the shapes in both; "
            "Ctrl+Z undoes it",
        )
        self.slice_button = button("", "Training learns from this slice as from truth")
        self.volume_button = button("", "Training learns from all of it as from truth")
        self.kept = wrapped_label()
        self.kept.setToolTip("What is painted is put on disk within a second")
        self.summary = wrapped_label()
        self.progress = QProgressBar()
        self.progress.setRange(0, 1000)
        self.progress.setFormat("writing labels: %p %")
        self.message = wrapped_label()
        fields = form()
        fields.addRow("Paint", self.label)
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addLayout(row(self.correct_button, self.done_button))
        rows.addWidget(self.message)
        rows.addLayout(fields)
        rows.addWidget(self.interpolate_button)
        rows.addLayout(row(self.slice_button, self.volume_button))
        for widget in (self.kept, self.summary, self.progress):
            rows.addWidget(widget)

    def _connect(self, viewer: Any) -> None:
        self._timer.timeout.connect(self._on_tick)
        self.correct_button.clicked.connect(self._on_correct_clicked)
        self.done_button.clicked.connect(self._on_done_clicked)
        self.interpolate_button.clicked.connect(self._on_interpolate_clicked)
        self.slice_button.clicked.connect(self._on_slice_clicked)
        self.volume_button.clicked.connect(self._on_volume_clicked)
        self.label.currentIndexChanged.connect(self._on_label_chosen)
        dims = viewer.dims.events
        connections: tuple[tuple[Any, Any], ...] = (
            (self.state.changed, self._show),
            (self.state.status_changed, self._show_message),
            (self.review.current_changed, self._show),
            (viewer.layers.events.removed, self._on_layer_removed),
            (dims.point, self._on_view_moved),
            (dims.order, self._on_view_moved),
            (dims.ndisplay, self._on_view_moved),
        )
        for signal, slot in connections:
            signal.connect(slot)
        # With the viewer's window the panel dies unasked.
        self._ending = _Ending(self.state, connections)
        self.destroyed.connect(self._ending.end)

    def _offer_classes(self) -> None:
        with QSignalBlocker(self.label):
            self.label.clear()
            for one in self.state.classes.classes:
                self.label.addItem(swatch(one.color), one.name, one.value)
            self.label.addItem(_ERASE, 0)
        self.canvas.labels.selected_label = self.label.itemData(0)

    # ---- What the person does ----

    def _on_correct_clicked(self) -> None:
        about = self.review.current
        if about is not None:
            self.correct(about)

    def _on_done_clicked(self) -> None:
        self.end()

    def _on_label_chosen(self, number: int) -> None:
        if self.active and number >= 0:
            self.canvas.labels.selected_label = self.label.itemData(number)
            self.canvas.labels.mode = "paint"

    def _on_interpolate_clicked(self) -> None:
        edit = self.state.interpolation()
        if edit is None or not self.active:
            return
        with self.state.interpolating():
            self.canvas.labels.data_setitem(edit.indices, edit.values)
        self.canvas.labels.refresh()
        self.state.poll()
        self._show_message(edit.text)
        self._leave_keyboard()

    def _on_slice_clicked(self) -> None:
        self.state.send_slice()

    def _on_volume_clicked(self) -> None:
        self.state.send_volume()

    def _on_label_changed(self, _event: Any = None) -> None:
        """Follow what is chosen in napari's own controls."""
        number = self.label.findData(int(self.canvas.labels.selected_label))
        with QSignalBlocker(self.label):
            self.label.setCurrentIndex(number)

    def _on_view_moved(self, _event: Any = None) -> None:
        if self.active and self.canvas.has_labels:
            self.state.look(*self.canvas.place)

    def _on_layer_removed(self, _event: Any = None) -> None:
        if not self.active or self.canvas.has_labels or self.state.prediction is None:
            return
        ended = self.state.end()
        if ended:
            self._show_message(_DELETED)
        # The rest goes later: napari may be at work on its list, deleting others too.

    def _on_tick(self) -> None:
        if self.active and not self.canvas.has_labels:
            self._take_away()
        self.state.poll()
        self._timer.setInterval(BUSY_MS if self.state.busy else POLL_MS)
        if not self.active and not self.state.busy:
            self._timer.stop()

    # ---- What the state says ----

    def _show_message(self, text: str) -> None:
        self.message.setText(text)
        self.message.setVisible(bool(text))

    def _show(self) -> None:
        shown, active = self.state.shown, self.active and self.canvas.has_labels
        for widget, enabled in (
            (self.correct_button, not active and self.review.current is not None),
            (self.done_button, active),
            (self.label, active),
            (self.interpolate_button, active and shown.pair is not None),
            (self.slice_button, active and shown.place is not None),
            (self.volume_button, active),
        ):
            widget.setEnabled(enabled)
        self.interpolate_button.setText(_interpolate_text(shown))
        self.slice_button.setText(_slice_text(shown))
        self.volume_button.setText(_volume_text(shown))
        self.kept.setText(_KEPT if shown.kept else _UNKEPT)
        self.summary.setText(shown.text)
        self.kept.setVisible(active)
        self.summary.setVisible(active)
        self.message.setVisible(bool(self.message.text()))
        self.progress.setVisible(shown.fraction is not None)
        self.progress.setValue(round(1000 * (shown.fraction or 0.0)))
        if active and self.canvas.has_labels:
            self.canvas.say(self._title(shown))

    def _title(self, shown: Shown) -> str:
        prediction, place = self.state.prediction, shown.place
        if prediction is None or place is None:
            return "correcting"
        axis, index = place
        last = prediction.slices(axis) - 1
        mark = "" if shown.kept else "   ●"
        return f"correcting {prediction.case}   {AXES[axis]} {index} / {last}{mark}"

    # ---- The viewer ----

    def _take_away(self, *, judged: bool = True) -> None:
        labels = self.canvas.labels
        labels.events.selected_label.disconnect(self._on_label_changed)
        self.canvas.end(judged=judged)
        self._show()
        self.finished.emit()

    def _leave_keyboard(self) -> None:
        """Have the next key, such as Ctrl+Z, go to the canvas."""
        window = self.window()
        if window is not None:
            window.setFocus()


class _Ending:
    """What has to be done when the panel goes, in whatever way it does."""

    def __init__(
        self, state: Correction, connections: tuple[tuple[Any, Any], ...]
    ) -> None:
        self._state = state
        self._connections = connections

    def end(self) -> None:
        """Do it, once."""
        for signal, slot in self._connections:
            signal.disconnect(slot)
        self._connections = ()
        self._state.close()


def _interpolate_text(shown: Shown) -> str:
    if shown.pair is None or shown.place is None:
        return "Interpolate between the last two corrected"
    low, high = shown.pair
    return f"Interpolate between {AXES[shown.place[0]]} {low} and {high}"


def _slice_text(shown: Shown) -> str:
    sent = shown.place_is_sent
    return "Take slice out of labelled set" if sent else "Send slice to labelled set"


def _volume_text(shown: Shown) -> str:
    return "Take volume out" if shown.whole else "Send whole volume"
