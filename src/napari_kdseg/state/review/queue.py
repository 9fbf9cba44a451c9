"""The queue of a review: a table of slices, what is shown of it, the way through."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.profiles import Profile
from napari_kdseg.review.queue import (
    BAD,
    GOOD,
    UNSURE,
    Filter,
    Order,
    ordered,
    shown,
    telling,
)
from napari_kdseg.review.verdicts import About, Place
from napari_kdseg.state.review.ledger import Key, Opinion
from napari_kdseg.state.review.table import Table
from napari_kdseg.state.review.walk import Walk

_BY_NUMBER: tuple[Order, ...] = ("doubt", "uncertainty", "conflict", "disagreement")


@dataclass(frozen=True)
class Arrangement:
    """Slices in the order in which they come, and those that are shown at all."""

    rows: NDArray[np.int64]
    kept: NDArray[np.int64]
    asked: tuple[object, ...]
    """The table and the settings it was made of."""

    def fits(self, queue: "Queue") -> bool:
        """Whether it is of these settings."""
        return self.asked[0] is queue.table and self.asked[1:] == queue.settings


@dataclass
class Queue:
    """What comes next, and why.

    Whoever changes a setting calls `rearrange`.
    """

    table: Table
    order: Order = "random"
    filters: Filter = Filter()  # noqa: RUF009 - frozen
    threshold: float = 0.5
    sample: tuple[Place, ...] | None = None
    """The only slices to show, in this order; None: those that pass the filter."""
    seed: int = 0
    """Of the random order, so that two reviewers do not judge the same slices."""

    def __post_init__(self) -> None:
        self._walk = Walk(len(self.table))
        self._kept: NDArray[np.int64] = np.empty(0, np.int64)
        self._visited = np.zeros(len(self.table), bool)

    # ---- What comes ----

    @property
    def current(self) -> About | None:
        """The slice to be judged."""
        row = self._walk.current
        return None if row is None else self.table.about(row)

    def upcoming(self, count: int) -> tuple[About, ...]:
        """Give the slices after it."""
        return tuple(map(self.table.about, self._walk.upcoming(count)))

    def tally(self) -> tuple[int, int, int, int]:
        """Count the slices that are shown: good, bad, unsure, all."""
        slices = self.table.slices
        words = slices.words if self.filters.by_anyone else slices.mine
        found = np.bincount(words[self._kept], minlength=UNSURE + 1)
        return int(found[GOOD]), int(found[BAD]), int(found[UNSURE]), len(self._kept)

    def misses(self) -> Mapping[Order, str]:
        """Say of each order why it cannot be had; empty where it can."""
        slices, predictions = self.table.slices, self.table.predictions
        why: dict[Order, str] = dict.fromkeys(_BY_NUMBER, "")
        if np.isnan(slices.score).all():
            why["doubt"] = "No classifier has scored these slices yet; train one."
        if not any(one.uncertainty for one in predictions):
            why["uncertainty"] = (
                "These predictions have no uncertainty; predict again with a measure."
            )
        if not any(one.regions for one in predictions):
            why["conflict"] = (
                "These predictions have no regions of several teachers; predict with "
                "all teachers at once."
            )
        if not slices.dispute.any():
            why["disagreement"] = (
                "No slice is called good by one reviewer and bad by another."
            )
        return {**why, "sequence": "", "random": ""}

    # ---- Going on ----

    def advance(self) -> None:
        """Go to the next slice."""
        self._walk.advance()

    def pass_over(self) -> None:
        """Go to the next slice; this one comes back at the end."""
        self._walk.pass_over()

    def jump(self) -> bool:
        """Go to the slice that would tell most; gives whether anything is known."""
        if self.order in _BY_NUMBER and self.sample is None:
            self._walk.pass_over()
            return True
        rows = self._walk.left()
        not_these = (*self._walk.passed, self._walk.current)
        rows = rows[~np.isin(rows, [row for row in not_these if row is not None])]
        told = telling(self.table.slices, self.order, self.threshold)[rows]
        if np.isnan(told).all():
            self._walk.pass_over()
            return not len(rows)
        self._walk.jump(int(rows[np.nanargmax(told)]))
        return True

    def visit(self, abouts: Sequence[About]) -> bool:
        """Go to these slices; gives whether they are in the table."""
        rows = [self.table.row_of(key_of(about)) for about in abouts]
        found = [row for row in rows if row is not None]
        if found:
            self._walk.visit(found)
        return bool(found)

    def finish(self, abouts: Iterable[About]) -> None:
        """Have slices not come any more."""
        for about in abouts:
            row = self.table.row_of(key_of(about))
            if row is not None:
                self._visited[row] = True
                self._walk.finish(row)

    def reopen(self, abouts: Iterable[About]) -> None:
        """Have slices come again."""
        for about in abouts:
            row = self.table.row_of(key_of(about))
            if row is not None:
                self._visited[row] = False
                self._walk.reopen(row)

    def forget_visits(self) -> None:
        """Have slices come once more that were judged on the way so far."""
        self._visited[:] = False

    # ---- What is known ----

    def take_opinions(self, opinions: Iterable[tuple[Key, Opinion]]) -> None:
        """Take what people say; what is judged does not come, but for the current."""
        rows = np.array(self.table.set_opinions(opinions), np.int64)
        for row, over in zip(rows.tolist(), self._over(rows), strict=True):
            if row == self._walk.current:
                continue
            if over:
                self._walk.finish(row)
            else:
                self._walk.reopen(row)

    def take_profile(self, prediction: Prediction, profile: Profile) -> None:
        """Take what the slices of a prediction come to."""
        self.table.set_profile(prediction, profile)

    # ---- The order ----

    def arrangement(self) -> Arrangement:
        """Put the slices in order, changing nothing; may be called from a thread."""
        table = self.table
        asked = (table, *self.settings)
        if self.sample is not None:
            rows = table.rows_at(self.sample)
            return Arrangement(rows, rows, asked)
        keep = shown(table.slices, self.filters, table.cases, self.threshold)
        rows = ordered(table.slices, keep, self.order, self.threshold, self.seed)
        kept = rows if self.order == "disagreement" else np.flatnonzero(keep)
        return Arrangement(rows, kept, asked)

    @property
    def settings(self) -> tuple[object, ...]:
        """What the order depends on besides the slices."""
        return self.order, self.filters, self.threshold, self.sample, self.seed

    def rearrange(
        self,
        found: Arrangement | None = None,
        *,
        keep_current: bool = True,
        start: Place | None = None,
    ) -> None:
        """Take an order that was made, or make it now.

        Parameters
        ----------
        found
            From `arrangement`.
        keep_current
            Whether the current slice stays, even where it is not shown any more.
        start
            The slice to begin with, where it is still to be judged; in sequence, to
            go on from.
        """
        made = found or self.arrangement()
        self._kept = made.kept
        over = self._over()
        row = None if start is None else self.table.row_at(start)
        if row is not None:
            self._walk.current = row
        elif not keep_current:
            self._walk.current = None
        self._walk.set_order(made.rows, over, go_on=self.order == "sequence")
        if row is not None and (over[row] or not (made.rows == row).any()):
            self._walk.advance()

    def hides_current(self) -> bool:
        """Whether the current slice would not be shown by the filter."""
        row = self._walk.current
        return row is not None and not (self._kept == row).any()

    def _over(self, rows: Any = ...) -> NDArray[np.bool_]:
        """Which of these rows are not to come, whatever the order is."""
        slices = self.table.slices
        disputed = self.order == "disagreement" and self.sample is None
        if disputed or not self.filters.unjudged:
            visited: NDArray[np.bool_] = self._visited[rows]
            return visited
        mine: NDArray[np.bool_] = slices.mine[rows] != 0
        if self.sample is not None or not self.filters.by_anyone:
            return mine
        either: NDArray[np.bool_] = mine | (slices.others[rows] != 0)
        return either


def key_of(about: About) -> Key:
    """Name the slice of labels that a verdict is about."""
    return (*about.place, about.labels_hash)
