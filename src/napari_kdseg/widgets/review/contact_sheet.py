"""The contact sheet: a page of slices, judged with the mouse and one key."""

from dataclasses import replace

from qtpy.QtCore import Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QCloseEvent, QKeyEvent
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_kdseg.errors import KdsegError
from napari_kdseg.review.verdicts import About, Place
from napari_kdseg.state.review.review import Review
from napari_kdseg.widgets._form import wrapped_label
from napari_kdseg.widgets.review.keys import OVERLAY, TAKE_BACK
from napari_kdseg.widgets.review.sheet_view import SheetView
from napari_kdseg.widgets.review.tiles import Tile, grey, outlines

PAINT_MS = 15
_AT_A_TIME = 3  # pictures, so that a click is answered in between


class ContactSheet(QWidget):
    """A window of its own over the canvas, with a page of the queue.

    Parameters
    ----------
    state
        Whose page it is.
    parent
        Qt's owner.
    """

    closed = Signal()

    def __init__(self, state: Review, parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self.state = state
        self._page: tuple[About, ...] | None = None
        self._judging = False
        self._were_bad: frozenset[Place] = frozenset()  # before they were taken back
        self._problem = ""
        self._steps = (slice(None), slice(None))
        self._timer = QTimer(self)
        self._timer.setInterval(PAINT_MS)
        self.setWindowTitle("Contact sheet")
        self.resize(1000, 900)
        self._build()
        self._connect()

    def _build(self) -> None:
        self.title = wrapped_label()
        self.view = SheetView()
        self.accept_button = QPushButton("Accept page  (Return)")
        self.accept_button.setToolTip(
            "Judges the page: slices with a red frame are bad, the others good"
        )
        self.clear_button = QPushButton("Clear marks  (Esc)")
        self.clear_button.setToolTip("Takes all red frames away")
        self.back_button = QPushButton(f"Take back  ({TAKE_BACK})")
        self.back_button.setToolTip("Takes the last page back, to judge it again")
        self.overlay_button = QPushButton(f"Outlines  ({OVERLAY})")
        self.overlay_button.setToolTip("Shows or hides the outlines")
        self.overlay_button.setCheckable(True)
        self.overlay_button.setChecked(True)
        self.hint = wrapped_label("Click a bad slice, or drag over several.")
        buttons = QHBoxLayout()
        buttons.addWidget(self.hint, 1)
        for button in (
            self.overlay_button,
            self.back_button,
            self.clear_button,
            self.accept_button,
        ):
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            buttons.addWidget(button)
        rows = QVBoxLayout(self)
        rows.setContentsMargins(8, 6, 8, 8)
        rows.addWidget(self.title)
        rows.addWidget(self.view, 1)
        rows.addLayout(buttons)

    def _connect(self) -> None:
        self._timer.timeout.connect(self._on_tick)
        self.view.marksChanged.connect(self._show_marks)
        self.accept_button.clicked.connect(self._on_accept)
        self.clear_button.clicked.connect(self._on_clear)
        self.back_button.clicked.connect(self._on_take_back)
        self.overlay_button.toggled.connect(self._on_outlines_toggled)

    # ---- Opening and closing ----

    def open_over(self, widget: QWidget, turned: tuple[bool, bool]) -> None:
        """Show the page over another widget, as large as it is.

        Parameters
        ----------
        widget
            What is covered.
        turned
            Whether rows go upwards, and columns to the left, as they do in the canvas.
        """
        up, left = (slice(None, None, -1 if one else 1) for one in turned)
        self._steps = (up, left)
        corner = widget.mapToGlobal(widget.rect().topLeft())
        self.setGeometry(corner.x(), corner.y(), widget.width(), widget.height())
        self.show()
        self.raise_()
        self.activateWindow()
        self.view.setFocus()
        self._problem = ""
        self.turn_page()

    def closeEvent(self, a0: QCloseEvent | None) -> None:
        """Say that the sheet is gone."""
        self._timer.stop()
        super().closeEvent(a0)
        self.closed.emit()

    @property
    def page(self) -> tuple[About, ...]:
        """The slices that are shown, in their order, whichever come next by now."""
        return self._page or ()

    # ---- What the person does ----

    def keyPressEvent(self, a0: QKeyEvent | None) -> None:
        """Accept, clear, take back, or show outlines."""
        if a0 is None or a0.isAutoRepeat():  # a page has to be looked at
            return
        match a0.key():
            case Qt.Key.Key_Return | Qt.Key.Key_Enter:
                self._on_accept()
            case Qt.Key.Key_Escape:
                self._on_clear()
            case Qt.Key.Key_U:
                self._on_take_back()
            case Qt.Key.Key_W:
                self.overlay_button.toggle()
            case _:
                super().keyPressEvent(a0)

    def _on_accept(self) -> None:
        if not self._page or self.view.missing():
            return
        bad = {self._page[number] for number in self.view.marked()}
        self._judging = True
        kept = self.state.judge_page(self._page, bad)
        self._judging = False
        if kept:
            self._were_bad = frozenset()
            self.turn_page()
        else:
            self._show_marks()  # they stay; the state says why

    def _on_clear(self) -> None:
        self._were_bad = frozenset()
        self.view.clearMarks()

    def _on_take_back(self) -> None:
        self.state.take_back()
        self._were_bad = self.state.taken_back
        self.turn_page()

    def _on_outlines_toggled(self, outlined: bool) -> None:
        self.view.setOutlined(outlined)

    # ---- What the state says ----

    def turn_page(self) -> None:
        """Show the page that comes next, whatever is shown."""
        self._page = None
        self.show_page()

    def show_page(self) -> None:
        """Show the page that comes next, unless one is being looked at.

        The order of a queue changes as more becomes known; a page that is complete
        stays until it is judged.
        """
        looked_at = bool(self._page) and not self.view.missing()
        if looked_at or self._judging or not self.isVisible():
            return
        page = self.state.page
        if page != self._page:
            self._page = page
            self.view.setPage([_caption(about) for about in page])
            places = [about.place for about in page]
            self.view.setMarked(n for n, p in enumerate(places) if p in self._were_bad)
            self._timer.start()
        self._show_marks()

    def _on_tick(self) -> None:
        """Paint a few pictures; those that have not been read come later."""
        page = self._page or ()
        waiting = [
            (number, page[number])
            for number in self.view.missing()
            if self.state.thumbnail_at_hand(page[number])
        ]
        for number, about in waiting[:_AT_A_TIME]:
            try:
                self._paint(number, about)
            except KdsegError as error:
                self._leave_out(about.case, str(error))
                return
        if not self.view.missing():
            self._timer.stop()
            self._show_marks()

    def _leave_out(self, case: str, why: str) -> None:
        """Leave out a scan that cannot be read, so that the others can be judged."""
        filters = self.state.filters
        left = (filters.cases or frozenset(self.state.cases)) - {case}
        self._problem = f"{why} {case} is left out; choose all scans to have it again."
        self.state.filters = replace(filters, cases=left)
        self.turn_page()

    def _paint(self, number: int, about: About) -> None:
        """Paint a picture.

        Raises
        ------
        VolumeError
            Where the slice cannot be read.
        """
        plane = self.state.thumbnail(about)
        classes = self.state.prediction_of(about).classes
        rows, columns = plane.image.shape
        high, wide = plane.spacing_mm
        tile = Tile(
            grey(plane.image[self._steps], plane.limits),
            outlines(plane.labels[self._steps], classes),
            columns * wide / (rows * high),
        )
        self.view.setTile(number, tile)

    def _show_marks(self) -> None:
        bad = len(self.view.marked())
        good = self.view.count() - bad
        ready = bool(self._page) and not self.view.missing()
        self.accept_button.setText(f"Accept: {good} good, {bad} bad  (Return)")
        self.accept_button.setEnabled(ready)
        self.clear_button.setEnabled(bool(bad))
        counts = self.state.counts
        left = f"{self.view.count()} of {counts.total - counts.judged} slices left"
        nothing = "No slice is left in this queue."
        told = self.state.status or (left if self._page else nothing)
        self.title.setText("\n".join(text for text in (told, self._problem) if text))


def _caption(about: About) -> str:
    return f"{about.case}  {'zyx'[about.axis]} {about.index}"
