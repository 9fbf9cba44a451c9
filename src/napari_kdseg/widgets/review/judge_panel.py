"""The part of the Review dock in which slices are judged."""

from html import escape

from qtpy.QtCore import QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QGridLayout, QLineEdit, QPushButton, QVBoxLayout, QWidget

from napari_kdseg.amounts import duration
from napari_kdseg.review.verdicts import Word
from napari_kdseg.state.review.review import Review
from napari_kdseg.widgets._form import heading, one_line, wrapped_label
from napari_kdseg.widgets.review.judging import Judging
from napari_kdseg.widgets.review.keys import (
    BAD,
    GOOD,
    NEXT,
    OVERLAY,
    SKIP,
    TAKE_BACK,
    UNCERTAINTY,
    UNSURE,
)
from napari_kdseg.widgets.review.parts import (
    BalanceBar,
    QueueBox,
    button,
    row,
    words,
)

MOST_NAMED = 16
"""Classes in a legend; where there are more, the status bar names them."""


class JudgePanel(QWidget):
    """Buttons with their keys, a comment, the counts, and the queue.

    Parameters
    ----------
    state
        The queue.
    judging
        Does what keys and buttons say.
    parent
        Qt's owner.
    """

    startClicked = Signal()
    sheetClicked = Signal()
    leftKeyboard = Signal()
    """Emitted when keys are for the canvas again."""

    def __init__(
        self, state: Review, judging: Judging, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.state = state
        self.judging = judging
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._on_later)
        self._build_start()
        self._build_verdicts()
        self._build_counts()
        self._lay_out()
        self._connect()
        self.refresh()

    # ---- Building ----

    def _build_start(self) -> None:
        self.start_button = button(
            "Begin judging", "Shows slice after slice in the canvas; keys judge them"
        )
        self.sheet_button = button(
            "Contact sheet…", "A page of 25 slices: click the bad ones, accept the rest"
        )
        self.legend = wrapped_label()
        self.legend.setToolTip(
            "The classes; the status bar names the one under the mouse"
        )
        self.place = one_line()
        self.place.setToolTip("The slice to be judged")

    def _build_verdicts(self) -> None:
        self.good_button = self._key_button(
            "Good", GOOD, "The labels are right enough to learn from", "good"
        )
        self.bad_button = self._key_button("Bad", BAD, "The labels are wrong", "bad")
        self.unsure_button = self._key_button(
            "Unsure", UNSURE, "Hard to say; no classifier learns from it", "unsure"
        )
        self.next_button = self._key_button(
            "Next", NEXT, "To the slice whose verdict would tell most"
        )
        self.skip_button = self._key_button(
            "Skip", SKIP, "Without a verdict; the slice comes back at the end"
        )
        self.back_button = self._key_button(
            "Take back", TAKE_BACK, "The last verdict, or the last page, is taken back"
        )
        self.overlay_button = self._key_button(
            "Overlay", OVERLAY, "Shows or hides the labels"
        )
        self.doubt_button = self._key_button(
            "Uncertainty", UNCERTAINTY, "Shows or hides how unsure the model was"
        )
        for toggle in (self.overlay_button, self.doubt_button):
            toggle.setCheckable(True)
        self.comment = QLineEdit()
        self.comment.setPlaceholderText("comment on this slice, kept with its verdict")
        self.comment.setToolTip("Write it, press Return, then judge")

    def _key_button(
        self, text: str, key: str, tip: str, word: Word | None = None
    ) -> QPushButton:
        return button(f"{text}  {key}", f"{tip} (key {key})", word)

    def _build_counts(self) -> None:
        self.counts = wrapped_label()
        self.counts.setToolTip("Verdicts along this axis of this model's predictions")
        self.balance = BalanceBar()
        self.pace = wrapped_label()
        self.pace.setToolTip("How fast you judge, and how long what is left takes so")
        self.queue = QueueBox(self.state)

    def _lay_out(self) -> None:
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 4, 0, 0)
        rows.setSpacing(6)
        rows.addLayout(row(self.start_button, self.sheet_button))
        rows.addWidget(self.place)
        rows.addWidget(self.legend)
        grid = QGridLayout()
        for line, buttons in enumerate(
            (
                (self.good_button, self.bad_button, self.unsure_button),
                (self.next_button, self.skip_button, self.back_button),
            )
        ):
            for column, widget in enumerate(buttons):
                grid.addWidget(widget, line, column)
                grid.setColumnStretch(column, 1)
        rows.addLayout(grid)
        rows.addLayout(row(self.overlay_button, self.doubt_button))
        for part in (self.comment, self.counts, self.balance, self.pace):
            rows.addWidget(part)
        rows.addWidget(heading("Which slices"))
        rows.addWidget(self.queue)

    def _connect(self) -> None:
        for widget, slot in (
            (self.start_button, self.startClicked),
            (self.sheet_button, self.sheetClicked),
            (self.good_button, self._on_good_clicked),
            (self.bad_button, self._on_bad_clicked),
            (self.unsure_button, self._on_unsure_clicked),
            (self.next_button, self._on_next_clicked),
            (self.skip_button, self._on_skip_clicked),
            (self.back_button, self._on_back_clicked),
            (self.overlay_button, self._on_overlay_clicked),
            (self.doubt_button, self._on_doubt_clicked),
        ):
            widget.clicked.connect(slot)
        self.comment.textEdited.connect(self._on_comment_edited)
        self.comment.returnPressed.connect(self.leftKeyboard)
        self.queue.chosen.connect(self.leftKeyboard)
        self.judging.changed.connect(self.show_soon)

    # ---- What the person does ----

    def _on_good_clicked(self) -> None:
        self.judging.judge("good")
        self.leftKeyboard.emit()

    def _on_bad_clicked(self) -> None:
        self.judging.judge("bad")
        self.leftKeyboard.emit()

    def _on_unsure_clicked(self) -> None:
        self.judging.judge("unsure")
        self.leftKeyboard.emit()

    def _on_next_clicked(self) -> None:
        self.judging.next()
        self.leftKeyboard.emit()

    def _on_skip_clicked(self) -> None:
        self.judging.skip()
        self.leftKeyboard.emit()

    def _on_back_clicked(self) -> None:
        self.judging.take_back()
        self.leftKeyboard.emit()

    def _on_overlay_clicked(self) -> None:
        self.judging.toggle_overlay()

    def _on_doubt_clicked(self) -> None:
        self.judging.toggle_uncertainty()

    def _on_comment_edited(self, text: str) -> None:
        self.state.comment = text

    # ---- What the state says ----

    def refresh(self) -> None:
        """Show everything anew."""
        self.queue.refresh()
        self._show_counts()
        self._show_judging()

    def show_soon(self) -> None:
        """Show how far one is, once the slice that is to be seen has been drawn."""
        self._later.start(0)

    def _on_later(self) -> None:
        self._show_counts()
        self._show_judging()

    def _show_counts(self) -> None:
        counts = self.state.counts
        self.counts.setText(
            f"{counts.good} good, {counts.bad} bad, {counts.unsure} unsure; "
            f"{counts.judged} of {counts.total} slices judged"
        )
        self.balance.setCounts(counts.good, counts.bad, counts.unsure)
        parts = []
        if counts.pace_per_min:
            parts.append(f"{counts.pace_per_min:.0f} verdicts a minute")
        if counts.left_s is not None:
            parts.append(f"{duration(counts.left_s)} for what is left")
        self.pace.setText(words(parts))
        self.pace.setVisible(bool(parts))

    def _show_judging(self) -> None:
        active, there = self.judging.active, self.state.current is not None
        looking = self.judging.looking
        begin = "Look at slices" if self.state.closed else "Begin judging"
        self.start_button.setText("Stop judging" if active else begin)
        self.start_button.setEnabled(active or bool(self.state.predictions))
        self.sheet_button.setEnabled(bool(self.state.predictions))
        self.place.setText(self.judging.title if there else "")
        self._show_legend()
        if self.comment.text() != self.state.comment:
            self.comment.setText(self.state.comment)
        can_judge = looking and there and not self.state.closed
        for verdict in (self.good_button, self.bad_button, self.unsure_button):
            verdict.setEnabled(can_judge)
        for other in (self.next_button, self.skip_button):
            other.setEnabled(looking and there)
        for always in (self.back_button, self.overlay_button, self.doubt_button):
            always.setEnabled(looking)
        self.comment.setEnabled(can_judge)
        canvas = self.judging.canvas
        self.overlay_button.setChecked(canvas.overlay_shown)
        self.doubt_button.setChecked(canvas.doubt_shown)

    def _show_legend(self) -> None:
        picture = self.judging.canvas.picture
        classes = () if picture is None else picture.classes.classes
        shown = classes if len(classes) <= MOST_NAMED else ()
        names = [
            f'<span style="color: {one.color}">■</span>&nbsp;{escape(one.name)}'
            for one in shown
        ]
        self.legend.setText("&nbsp; ".join(names))
        self.legend.setVisible(bool(names))
