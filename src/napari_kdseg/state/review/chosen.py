"""What is chosen of a review: which slices come, in which order, and how they look."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from psygnal import Signal

from napari_kdseg.errors import KdsegError
from napari_kdseg.review.planes import View
from napari_kdseg.review.queue import Filter, Order
from napari_kdseg.review.verdicts import About, Place
from napari_kdseg.state.review.seen import Seen
from napari_kdseg.volumes.cache import Cache


class Chosen(Seen):
    """Choices that a person makes, or a classifier for them; the queue follows.

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
    """

    current_changed = Signal()
    queue_changed = Signal()
    counts_changed = Signal()
    scans_changed = Signal()

    def __init__(
        self,
        cache: Cache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(cache, clock)
        self._shown_at = clock()
        self._since_remembered = 0

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

    # ---- Private ----

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

    def _remember(self) -> None:
        self._since_remembered = 0
        try:
            self._desk.remember()
        except KdsegError as error:
            self._tell(str(error))
