"""The one thread of the Review dock: it reads what will be looked at next."""

import threading
from collections.abc import Callable
from importlib import import_module

_JOIN_S = 10.0  # a slab of a scan on a slow disk
# What napari imports for a first layer; half a second, better spent here.
_NEEDED_SOON = ("pandas", "skimage.measure")


class Prefetch:
    """Calls a function again and again while there is something to do, else sleeps.

    The function does one small piece of work a call, so that `close` need not wait
    for long. It is called from this thread alone.

    Parameters
    ----------
    work
        Does a piece; gives whether there is more.
    """

    def __init__(self, work: Callable[[], bool]) -> None:
        self._work = work
        self._awake = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="napari-kdseg review", daemon=True
        )

    def start(self) -> None:
        """Begin; called once."""
        self._awake.set()
        self._thread.start()

    def wake(self) -> None:
        """Say that there may be something to do again."""
        self._awake.set()

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread once the piece at hand is done; may be called again."""
        self._ended.set()
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        for name in _NEEDED_SOON:
            import_module(name)
        while not self._ended.is_set():
            self._awake.wait()
            self._awake.clear()
            while not self._ended.is_set() and self._work():
                pass
