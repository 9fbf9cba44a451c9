"""Judging predictions slice by slice: what the Review dock shows and does."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from psygnal import Signal

from napari_kdseg.errors import KdsegError, ProjectError
from napari_kdseg.review.planes import View
from napari_kdseg.review.queue import Filter, Order
from napari_kdseg.review.verdicts import About, Place, Word
from napari_kdseg.state.review.desk import Desk
from napari_kdseg.state.review.folder import ReviewFolder
from napari_kdseg.state.review.seen import AHEAD, PAGE, Seen
from napari_kdseg.volumes.cache import Cache

__all__ = ["AHEAD", "PAGE", "Review"]

_REMEMBER_EVERY = 20
_READ_NEWS_EVERY_S = 2.0


class Review(Seen):
    """What the Review dock shows and does.

    What goes wrong is told in `status`; nothing is raised, but by `plane` and
    `thumbnail`. All is called from one thread, but for `work`, which a thread of the
    widget's calls again and again; `poll`, called by a timer, tells what that found.

    Attributes
    ----------
    current_changed
        Emitted when another slice is to be judged, or none is left.
    queue_changed
        Emitted when other slices come next, or in another order; `current` is the same.
    counts_changed
        Emitted when there are other verdicts, of this reviewer or of others.
    scans_changed
        Emitted when there are other predictions, models, axes, orders or channels to
        choose from, or another choice of them, or other notes.
    plane_ready
        Emitted by `poll` when slices have been read, among them perhaps `current`.
    status_changed
        Emitted with what there is to tell, a sentence or nothing.
    comment
        What the next verdict says besides; it is empty again after it.
    """

    current_changed = Signal()
    queue_changed = Signal()
    counts_changed = Signal()
    scans_changed = Signal()
    plane_ready = Signal()

    def __init__(
        self,
        cache: Cache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(cache, clock)
        self.comment = ""
        self._shown_at = self._news_at = clock()
        self._since_remembered = 0

    # ---- The folder ----

    def open_folder(self, folder: Path, store: str | Path | None = None) -> None:
        """Find the predictions of a project, or of what `kdseg-train predict` wrote.

        Parameters
        ----------
        folder
            The project, or the folder that was given as ``--out``.
        store
            The file or database of verdicts; None: ``review/verdicts.sqlite`` there.
        """
        self._try(lambda: self._open(folder, store))

    def refresh(self) -> None:
        """Look for predictions that are new, gone or changed."""
        if self._desk.folder is None:
            return
        self._looking.shelf.forget()
        if self._try(self._desk.reopen):
            self._find()

    def close(self) -> None:
        """End the sitting and note the place, to go on there another time."""
        self._try(self._desk.close)
        self._desk = Desk(clock=self._clock)
        self._looking.shelf.forget()
        self._show_all()

    # ---- Who judges ----

    def begin(self, reviewer: str) -> bool:
        """Begin a sitting; gives whether slices can be judged now."""
        begun = self._try(lambda: self._desk.begin(reviewer))
        self._shown_at = self._clock()
        self._rearrange()
        self.scans_changed.emit()
        self.counts_changed.emit()
        return begun

    # ---- What is judged ----

    @property
    def model(self) -> str:
        """The one whose predictions are judged; empty where there is none."""
        return self._desk.model

    @model.setter
    def model(self, model: str) -> None:
        if model != self.model and model in self.models:
            self._desk.choose(model)
            self._lay_out(self.axis)

    @property
    def axis(self) -> int:
        """The axis of the stored arrays across which slices are cut: 0, 1, 2."""
        return self._desk.queue.table.axis

    @axis.setter
    def axis(self, axis: int) -> None:
        if axis != self.axis:
            self._lay_out(axis)

    @property
    def order(self) -> Order:
        """Which slices come first; the sequence goes on from `current`."""
        return self._desk.queue.order

    @order.setter
    def order(self, order: Order) -> None:
        why_not = self.orders[order]
        if why_not:
            self._tell(why_not)
        elif order != self.order:
            self._desk.queue.order = order
            self._desk.queue.forget_visits()
            self._rearrange(anew=order != "sequence")
            self._remember()
            self.scans_changed.emit()

    @property
    def filters(self) -> Filter:
        """Which slices are shown at all."""
        return self._desk.queue.filters

    @filters.setter
    def filters(self, filters: Filter) -> None:
        if filters != self.filters:
            self._desk.queue.filters = filters
            self._desk.queue.forget_visits()
            self._rearrange()
            self._remember()
            self.counts_changed.emit()
            self.scans_changed.emit()

    @property
    def channel(self) -> int:
        """Which channel of the scan planes show."""
        return self._looking.view.channel

    @channel.setter
    def channel(self, channel: int) -> None:
        self._look(replace(self._looking.view, channel=channel))

    @property
    def uncertainty_shown(self) -> bool:
        """Whether planes come with their uncertainty; reading it takes time."""
        return self._looking.view.uncertainty

    @uncertainty_shown.setter
    def uncertainty_shown(self, shown: bool) -> None:
        self._look(replace(self._looking.view, uncertainty=shown))

    # ---- What a classifier says ----

    def set_scores(self, scores: Mapping[Place, float] | None) -> None:
        """Take what a classifier says; at first, doubtful slices come first."""
        self._desk.set_scores(scores)
        self._rearrange()
        self.counts_changed.emit()
        self.scans_changed.emit()

    @property
    def threshold(self) -> float:
        """P(good) from which on a slice is accepted."""
        return self._desk.queue.threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        if threshold != self.threshold:
            self._desk.queue.threshold = threshold
            if self.order == "doubt" or self.filters.side != "all":
                self._rearrange()
            self.counts_changed.emit()

    def set_sample(self, places: Sequence[Place] | None) -> None:
        """Show these slices alone, in this order, as an audit does; None: all again."""
        self._desk.queue.sample = None if places is None else tuple(places)
        self._desk.queue.forget_visits()
        self._rearrange(anew=True)
        self._remember()
        self.counts_changed.emit()

    # ---- The queue ----

    def skip(self) -> None:
        """Go on without a verdict; the slice comes back at the end."""
        self._desk.queue.pass_over()
        self._show_next()

    def next(self) -> None:
        """Go to the slice that would tell most; this one comes back at the end."""
        known = self._desk.queue.jump()
        self._tell("" if known else "Nothing is known of these slices yet.")
        self._show_next()

    def go_to(self, about: About) -> None:
        """Show a certain slice; those that were to come follow it."""
        self._try(lambda: self._visit([about]))

    # ---- Verdicts ----

    def judge(self, word: Word) -> None:
        """Judge the slice; once that is on the disk, the next one is `current`."""
        current = self.current
        if current is not None:
            self._judge([(current, word)])

    def judge_page(self, page: Sequence[About], bad: Collection[About]) -> bool:
        """Judge the slices that were shown together, whichever come next by now.

        Parameters
        ----------
        page
            What `page` gave when it was shown.
        bad
            Those of them that are bad; the others are good.

        Returns
        -------
        bool
            Whether the verdicts are on the disk: all of them, or none.
        """
        words: list[tuple[About, Word]]
        words = [(about, "bad" if about in bad else "good") for about in page]
        return bool(words) and self._judge(words)

    def take_back(self) -> None:
        """Take back the last verdict, or the last page, and go back to it."""
        self._try(self._take_back)

    # ---- In the background ----

    def work(self) -> bool:
        """Do one small piece of what is waiting; gives whether there is more.

        Reads slices ahead, then counts what slices show, a piece at a time. To be
        called from a thread of the widget's, while all else is called from another.
        """
        return self._looking.shelf.work() or self._desk.work()

    def poll(self) -> None:
        """Tell what is new: slices that were read, an order, verdicts of others."""
        if self._desk.is_outdated:
            self._find()
        self._poll_store()
        before = self.current
        knows_more, moved = self._desk.take_news(hold=self._looking.is_sheet)
        if knows_more:
            self.scans_changed.emit()
        if moved:
            self._after_rearranging(before)
            self.counts_changed.emit()
        if self._looking.landed():
            self.plane_ready.emit()
        if self._since_remembered >= _REMEMBER_EVERY:  # no key waits for it
            self._remember()
        self._show_status()

    # ---- Private ----

    def _open(self, folder: Path, store: str | Path | None) -> None:
        opened = ReviewFolder.open(folder)
        with suppress(KdsegError):  # what was open does not matter any more
            self._desk.close()
        self._looking.shelf.forget()
        self._desk = Desk(opened, store, self._cache, self._clock)
        self._show_all()
        if not self.predictions:
            raise ProjectError(
                f"{opened.results} holds no predictions; they are what is judged. "
                "Predict some scans first, in the Segment dock or the Teachers dock."
            )

    def _find(self) -> None:
        current = self.current
        self._desk.look(None if current is None else current.place)
        self._show_all()

    def _visit(self, abouts: Sequence[About]) -> None:
        first = abouts[0]
        model = self._desk.found.model_of(self.prediction_of(first))
        if (model, first.axis) != (self.model, self.axis):
            self._desk.choose(model)
            self._desk.set_table(first.axis)
            self.scans_changed.emit()
        if not self._desk.queue.visit(abouts):
            raise ProjectError(self.prediction_of(first).missing)
        self._show_next()
        self.queue_changed.emit()

    def _judge(self, words: Sequence[tuple[About, Word]]) -> bool:
        seconds, comment = self._clock() - self._shown_at, self.comment
        if not self._try(lambda: self._desk.ledger.judge(words, seconds, comment)):
            return False
        self.comment = ""
        abouts = [about for about, _ in words]
        self._desk.opinions_on(abouts)
        self._desk.queue.finish(abouts)
        if self.current in abouts:
            self._desk.queue.advance()
        if len(words) > 1:  # between two sheets their order may change
            self._desk.take_news()
        self._since_remembered += 1
        self._show_next()
        self.counts_changed.emit()
        return True

    def _take_back(self) -> None:
        taken = self._desk.ledger.take_back()
        if not taken:
            self._tell("There is nothing to take back.")
            return
        abouts = [verdict.about for verdict in taken]
        self._desk.opinions_on(abouts)
        self.counts_changed.emit()
        self._visit(abouts)
        self._desk.queue.reopen(abouts)

    def _look(self, view: View) -> None:
        if view != self._looking.view:
            self._looking.view = view
            self._expect()
            self.scans_changed.emit()

    def _lay_out(self, axis: int) -> None:
        self._desk.set_table(axis)
        self._remember()
        self._show_all()

    def _rearrange(self, *, anew: bool = False) -> None:
        """Put the queue in order; only anew, or where it is hidden, `current` goes."""
        before = self.current
        self._desk.queue.rearrange(keep_current=not anew)
        self._desk.leave_hidden()
        self._after_rearranging(before)

    def _after_rearranging(self, before: About | None) -> None:
        self.queue_changed.emit()
        if self.current != before:
            self._show_next()
        else:
            self._expect()

    def _show_next(self) -> None:
        self._shown_at = self._clock()
        self._expect()
        self.current_changed.emit()

    def _show_all(self) -> None:
        self.scans_changed.emit()
        self.queue_changed.emit()
        self._show_next()
        self.counts_changed.emit()

    def _poll_store(self) -> None:
        if self._clock() - self._news_at < _READ_NEWS_EVERY_S:
            return
        self._news_at = self._clock()
        try:
            is_new = self._desk.read_news()
        except KdsegError as error:
            self._tell(str(error))
            return
        if is_new:
            self._expect()
            self.queue_changed.emit()
            self.counts_changed.emit()
            self.scans_changed.emit()

    def _remember(self) -> None:
        self._since_remembered = 0
        try:
            self._desk.remember()
        except KdsegError as error:
            self._tell(str(error))
