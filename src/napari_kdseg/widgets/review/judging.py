"""Judging slices in the canvas: what keys and buttons do, and what is seen then."""

from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined]

from napari_kdseg.errors import KdsegError
from napari_kdseg.review.verdicts import About, Word
from napari_kdseg.state.review.review import Review
from napari_kdseg.widgets.review.canvas import WORD_COLORS, Picture, SliceCanvas
from napari_kdseg.widgets.review.keys import (
    BAD,
    GOOD,
    NEXT,
    OVERLAY,
    SKIP,
    TAKE_BACK,
    UNCERTAINTY,
    UNSURE,
    Keys,
)

FLASH_MS = 400
_NO_UNCERTAINTY = (
    "This prediction has no uncertainty; predict again with a measure of it to see it."
)


class Judging(QObject):
    """Shows the slices of a queue in a viewer, and takes verdicts.

    Parameters
    ----------
    viewer
        Whose canvas and keys are used, from `begin` to `end`.
    state
        The queue.
    parent
        Qt's owner.
    """

    changed = Signal()
    """Emitted when something else is seen, or judging began or ended."""
    told = Signal(str)
    """Emitted with a sentence to show."""

    def __init__(
        self, viewer: Any, state: Review, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.state = state
        self.canvas = SliceCanvas(viewer)
        self.keys = Keys(
            viewer,
            {
                GOOD: self._on_good,
                BAD: self._on_bad,
                UNSURE: self._on_unsure,
                NEXT: self._on_next,
                SKIP: self._on_skip,
                TAKE_BACK: self._on_take_back,
                OVERLAY: self._on_overlay,
                UNCERTAINTY: self._on_uncertainty,
            },
        )
        self._paused = False
        self._flash = QTimer(self)
        self._flash.setSingleShot(True)
        self._flash.setInterval(FLASH_MS)
        self._flash.timeout.connect(self._on_flash_over)

    # ---- Beginning and ending ----

    @property
    def active(self) -> bool:
        """Whether slices are judged now."""
        return self.canvas.active

    def begin(self) -> None:
        """Take canvas and keys."""
        self.canvas.begin()
        self.keys.bind()
        self.show_current()

    def end(self) -> None:
        """Give both back."""
        self._paused = False
        self._flash.stop()
        self.keys.free()
        self.canvas.end()
        self.changed.emit()

    @property
    def looking(self) -> bool:
        """Whether slices are judged, and nothing lies over them."""
        return self.active and not self._paused

    def pause(self, *, paused: bool) -> None:
        """Show no slices and take no keys while something else is in the canvas."""
        self._paused = paused
        if self.active and paused:
            self._flash.stop()
            self.canvas.end_flash()
            self.keys.free()
        elif self.active:
            self.keys.bind()
        self.show_current()

    # ---- What the person does ----

    @property
    def can_judge(self) -> bool:
        """Whether the slice to be judged is in view."""
        return self.state.current is not None and self._in_view(self.state.current)

    def judge(self, word: Word) -> None:
        """Judge the slice in view; nothing happens while it is being read."""
        about = self.state.current
        if about is None or not self._in_view(about):
            return
        self.canvas.flash(word, WORD_COLORS[word])
        self.state.judge(word)  # which shows the next slice, and the flash with it
        if self.state.current == about:
            self.canvas.end_flash()
        else:
            self._flash.start()

    def next(self) -> None:
        """Go to the slice that would tell most."""
        if self.looking:
            self.state.next()

    def skip(self) -> None:
        """Put the slice off to the end."""
        if self.looking:
            self.state.skip()

    def take_back(self) -> None:
        """Take the last verdict back, and look at that slice again."""
        if self.looking:
            self.state.take_back()

    def toggle_overlay(self) -> None:
        """Show labels over the image, or not."""
        self.canvas.show_overlay(shown=not self.canvas.overlay_shown)
        self.changed.emit()

    def toggle_uncertainty(self) -> None:
        """Show uncertainty over the image, or not."""
        shown = not self.canvas.doubt_shown
        self.canvas.show_doubt(shown=shown)
        self.state.uncertainty_shown = shown  # reading it takes time
        if shown:
            self.show_current()
        self.changed.emit()

    # ---- What is seen ----

    @property
    def title(self) -> str:
        """What the slice is, and what was said of it."""
        about = self.state.current
        if about is None:
            return ""
        said = self.state.judged(about)
        if said is None:
            return self._place(about)
        who = "you" if said.reviewer == self.state.reviewer else said.reviewer
        return f"{self._place(about)}   ({who or 'somebody'}: {said.verdict})"

    def show_current(self) -> None:
        """Show the slice to be judged, if it has been read."""
        if self.looking:
            self._show(self.state.current)
        self.changed.emit()

    def look_again(self) -> None:
        """Show the slice to be judged if it, or more of it, has been read meanwhile."""
        about, picture = self.state.current, self.canvas.picture
        if not self.looking or about is None:
            return
        if not self.state.at_hand(about):
            return
        waits = self.canvas.doubt_shown and not self._has_doubt(picture)
        if waits or not self._in_view(about):
            self.show_current()

    def _show(self, about: About | None) -> None:
        if about is None:
            self.canvas.clear("no slice is left in this queue")
            return
        if not self.state.at_hand(about):
            self.canvas.say(f"reading {self._place(about)} ...")
            return
        try:
            plane = self.state.plane(about)
            prediction = self.state.prediction_of(about)
        except KdsegError as error:
            self.canvas.clear(f"{self._place(about)} cannot be shown")
            self.told.emit(str(error))
            return
        scan = f"{about.scan_hash or about.case} {self.state.channel}"
        self.canvas.show(Picture(plane, prediction.classes, scan, self.title))
        if self.canvas.doubt_shown and prediction.uncertainty is None:
            self.told.emit(_NO_UNCERTAINTY)

    def _place(self, about: About) -> str:
        last = self.state.prediction_of(about).slices(about.axis) - 1
        return f"{about.case}   {'zyx'[about.axis]} {about.index} / {last}"

    def _in_view(self, about: About) -> bool:
        picture = self.canvas.picture
        return self.looking and picture is not None and picture.plane.about == about

    def _has_doubt(self, picture: Picture | None) -> bool:
        """Whether the slice came with all the uncertainty that there is of it."""
        if picture is None or picture.plane.uncertainty is not None:
            return True
        return self.state.prediction_of(picture.plane.about).uncertainty is None

    def _on_flash_over(self) -> None:
        self.canvas.end_flash()

    # ---- Keys; napari hands over the viewer ----

    def _on_good(self, _viewer: Any) -> None:
        self.judge("good")

    def _on_bad(self, _viewer: Any) -> None:
        self.judge("bad")

    def _on_unsure(self, _viewer: Any) -> None:
        self.judge("unsure")

    def _on_next(self, _viewer: Any) -> None:
        self.next()

    def _on_skip(self, _viewer: Any) -> None:
        self.skip()

    def _on_take_back(self, _viewer: Any) -> None:
        self.take_back()

    def _on_overlay(self, _viewer: Any) -> None:
        self.toggle_overlay()

    def _on_uncertainty(self, _viewer: Any) -> None:
        self.toggle_uncertainty()
