"""Reading ahead and writing behind: the disk works while the processor does."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(
    read: Callable[[Item], Read], items: Iterable[Item], depth: int
) -> Generator[Read, None, None]:
    """Read items in order in a thread of its own, so many ahead of who takes them.

    Parameters
    ----------
    read
        Called by one thread alone; what it raises is raised where its item is due.
    items
        What is to be read.
    depth
        How many are read before they are asked for, at least 1.
    """
    left = iter(items)
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        coming = deque(thread.submit(read, item) for item in islice(left, depth))
        try:
            while coming:
                found = coming.popleft().result()
                coming.extend(thread.submit(read, item) for item in islice(left, 1))
                yield found
        finally:
            thread.shutdown(wait=True, cancel_futures=True)


class Behind(Generic[Item]):
    """Writes one thing while the next is made; in order, and one at a time.

    Leaving the block waits for the last; what writing raised is raised by the next
    `put`, or there.

    Parameters
    ----------
    write
        Called by a thread of its own.
    """

    def __init__(self, write: Callable[[Item], None]) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1, "write-behind")
        self._last: Future[None] | None = None

    def put(self, item: Item) -> None:
        """Hand something over, once what came before it is written."""
        self._wait()
        self._last = self._thread.submit(self._write, item)

    def __enter__(self) -> "Behind[Item]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._wait()
        finally:
            self._thread.shutdown(wait=True)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()
