"""The way through a queue: what comes next, and what was passed over."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

_STRIDE = 1024


class Walk:
    """A person going through rows of a table in some order.

    First come rows that were asked for, then those of the order from where one is, then
    those before it, and in the end those that were passed over.

    Parameters
    ----------
    count
        Rows of the table.
    """

    def __init__(self, count: int) -> None:
        self.current: int | None = None
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._at = 0
        self._over: NDArray[np.bool_] = np.zeros(count, bool)
        self._passed: dict[int, None] = {}
        self._asked: deque[int] = deque()

    # ---- What comes ----

    def upcoming(self, count: int) -> list[int]:
        """List the rows after the current one, so many at most."""
        return list(islice(self._upcoming(), count))

    def left(self) -> NDArray[np.int64]:
        """List all rows of the order that are not over, the current one among them."""
        return self._order[~self._over[self._order]]

    @property
    def passed(self) -> tuple[int, ...]:
        """Rows that were passed over."""
        return tuple(self._passed)

    # ---- Going on ----

    def set_order(
        self, order: NDArray[np.int64], over: NDArray[np.bool_], *, go_on: bool
    ) -> None:
        """Take another order; the current row stays.

        Parameters
        ----------
        order
            Rows.
        over
            For each row of the table whether it is not to come.
        go_on
            Whether to go on from the current row, as in a sequence; else from the
            first.
        """
        self._order, self._over, self._at = order, over.copy(), 0
        there = np.zeros(len(over), bool)
        there[order] = True
        self._passed = {row: None for row in self._passed if there[row]}
        if go_on and self.current is not None:
            self._move_to(self.current)
        self._asked = deque(row for row in self._asked if not over[row])
        if self.current is None:
            self.advance()

    def advance(self) -> None:
        """Go to the next row."""
        following = next(self._upcoming(), None)
        if following is None:
            self.current = None
            return
        if self._asked and self._asked[0] == following:
            self._asked.popleft()
        elif following in self._passed:
            del self._passed[following]
        else:
            self._move_to(following)
        self.current = following

    def pass_over(self) -> None:
        """Go to the next row, if there is one; this one comes back at the end."""
        if self.current is None or not self.upcoming(1):
            return
        self._passed.pop(self.current, None)
        self._passed[self.current] = None
        self.advance()

    def jump(self, row: int) -> None:
        """Pass the current row over and go on from another one."""
        if self.current is not None and self.current != row:
            self._passed[self.current] = None
        self._passed.pop(row, None)
        self._move_to(row)
        self.current = row

    def visit(self, rows: Sequence[int]) -> None:
        """Go to these rows; what was to come, the current one first, follows them."""
        first, *others = rows
        if self.current is not None and self.current not in rows:
            others.append(self.current)
        self._asked = deque([*others, *(row for row in self._asked if row not in rows)])
        for row in rows:
            self._passed.pop(row, None)
        self.current = first

    def finish(self, row: int) -> None:
        """Have a row not come any more."""
        self._over[row] = True
        self._passed.pop(row, None)
        if row in self._asked:
            self._asked.remove(row)

    def reopen(self, row: int) -> None:
        """Have a row come again."""
        self._over[row] = False

    # ---- Private ----

    def _upcoming(self) -> Iterator[int]:
        asked = [row for row in self._asked if row != self.current]
        yield from asked
        not_these = {*asked, *self._passed, self.current}
        for span in (self._order[self._at :], self._order[: self._at]):
            yield from (row for row in self._open(span) if row not in not_these)
        yield from (row for row in self._passed if row not in {*asked, self.current})

    def _open(self, span: NDArray[np.int64]) -> Iterator[int]:
        """Go through what is not over; in strides, as very much may be."""
        for start in range(0, len(span), _STRIDE):
            part = span[start : start + _STRIDE]
            yield from part[~self._over[part]].tolist()

    def _move_to(self, row: int) -> None:
        """Go on from a row, where the order has it, or else from where one was."""
        for start in (self._at, 0):  # it is near, as a rule
            span = self._order[start : start + _STRIDE if start else None]
            found = np.flatnonzero(span == row)
            if len(found):
                self._at = start + int(found[0])
                return
