"""Slices that were read: by a thread before they are asked for, else when they are."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_kdseg.errors import KdsegError, StopRequested, VolumeError
from napari_kdseg.review.arrays import Opener
from napari_kdseg.review.planes import Plane, Planes, View
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.volumes.cache import Cache

MOST_BYTES = 1 << 29
_MOST_AT_ONCE = 16

_Key = tuple[str, str, int, int, View]


@dataclass(frozen=True)
class Wish:
    """A slice that somebody wants to see."""

    prediction: Prediction
    axis: int
    index: int
    view: View

    @property
    def key(self) -> _Key:
        """What tells it from others."""
        one = self.prediction
        return str(one.folder), one.labels_hash, self.axis, self.index, self.view


class Shelf:
    """Slices in memory, the longest unused go first; two threads may use it.

    Parameters
    ----------
    cache
        Where converted scans lie; None: the user's.
    most_bytes
        What slices may take; those that are wanted stay.
    """

    def __init__(
        self, cache: Cache | None = None, most_bytes: int = MOST_BYTES
    ) -> None:
        self._cache = cache
        self._most_bytes = most_bytes
        self._planes = Planes()
        self._lock = threading.Lock()
        self._read: OrderedDict[_Key, Plane | KdsegError] = OrderedDict()
        self._bytes = 0
        self._wanted: tuple[Wish, ...] = ()
        self._beside: tuple[Wish, ...] = ()
        self._keys: frozenset[_Key] = frozenset()
        self._flights: dict[_Key, threading.Event] = {}
        self._message = ""
        self._landed = 0

    # ---- For whoever looks ----

    @property
    def landed(self) -> int:
        """How many slices have been read so far."""
        return self._landed

    @property
    def message(self) -> str:
        """What is being converted and how far it is; empty where nothing is."""
        return self._message

    def want(self, wishes: Sequence[Wish], beside: Sequence[Wish] = ()) -> None:
        """Say which slices will be looked at.

        Parameters
        ----------
        wishes
            To be read, the first one first.
        beside
            To be read along with these where the same chunks hold them.
        """
        with self._lock:
            self._wanted, self._beside = tuple(wishes), tuple(beside)
            self._keys = frozenset(wish.key for wish in wishes)

    def has(self, wish: Wish) -> bool:
        """Whether `get` answers at once: with a slice, or with why there is none."""
        with self._lock:
            return wish.key in self._read

    def get(self, wish: Wish) -> Plane:
        """Give a slice; it is read now if it is not there.

        Raises
        ------
        VolumeError
            Where it cannot be read, or a conversion is needed first.
        """
        while True:
            with self._lock:
                found = self._read.get(wish.key)
                flight = self._flights.get(wish.key)
                if found is not None:
                    self._read.move_to_end(wish.key)
                elif flight is None:
                    self._flights[wish.key] = threading.Event()
            if isinstance(found, KdsegError):
                raise found
            if found is not None:
                return found
            if flight is None:
                return self._fetch([wish], Opener(self._cache))[0]
            flight.wait()

    def forget(self) -> None:
        """Close all files and drop all slices."""
        self.want(())
        with self._lock:
            self._read.clear()
            self._bytes = 0
        self._planes.forget()

    # ---- For the thread ----

    def work(self) -> bool:
        """Read the next slice that is wanted and not there, and those beside it.

        Returns
        -------
        bool
            Whether there was one.
        """
        first = self._next()
        if first is None:
            return False
        opener = Opener(self._cache, self._tell, lambda: first.key in self._keys)
        try:
            if not self._planes.is_open(first.prediction, first.view):
                self._planes.open(first.prediction, opener, first.view)
            some = self._claim(first)
            if some:
                self._fetch(some, opener)
        except StopRequested:
            pass
        except KdsegError as error:
            self._keep(first.key, error)
        finally:
            self._message = ""
        return True

    # ---- Private ----

    def _next(self) -> Wish | None:
        with self._lock:
            return next(
                (
                    wish
                    for wish in self._wanted
                    if wish.key not in self._read and wish.key not in self._flights
                ),
                None,
            )

    def _claim(self, first: Wish) -> list[Wish]:
        """Take on a wish, and others that are read with it at little cost."""
        thick = self._planes.together(first.prediction, first.axis)
        with self._lock:
            some = [
                wish
                for wish in (*self._wanted, *self._beside)
                if wish.key not in self._read
                and wish.key not in self._flights
                and wish.prediction is first.prediction
                and (wish.axis, wish.view) == (first.axis, first.view)
                and wish.index // thick == first.index // thick
            ][:_MOST_AT_ONCE]
            if first in some:
                self._flights.update((wish.key, threading.Event()) for wish in some)
                return some
        return []

    def _fetch(self, wishes: list[Wish], opener: Opener) -> list[Plane]:
        """Read slices that were taken on; whoever waits for them goes on."""
        first = wishes[0]
        indices = [wish.index for wish in wishes]
        try:
            planes = self._planes.read(
                first.prediction, first.axis, indices, opener, first.view
            )
        except (OSError, ValueError, MemoryError) as error:
            raise VolumeError(
                f"Slice {first.index} of {first.prediction.case!r} could not be read: "
                f"{error}. Look whether its files are whole; the others can be judged."
            ) from error
        else:
            for wish, plane in zip(wishes, planes, strict=True):
                self._keep(wish.key, plane)
        finally:
            with self._lock:
                for wish in wishes:
                    self._flights.pop(wish.key).set()
        return planes

    def _keep(self, key: _Key, found: Plane | KdsegError) -> None:
        with self._lock:
            self._bytes += _size(found) - _size(self._read.get(key))
            self._read[key] = found
            self._landed += 1
            for old in list(self._read):
                if self._bytes <= self._most_bytes:
                    return
                if old not in self._keys and old != key:
                    self._bytes -= _size(self._read.pop(old))

    def _tell(self, path: Path, share: float) -> None:
        self._message = f"Making {path.name} ready to be looked at: {share:.0%}"


def _size(found: Plane | KdsegError | None) -> int:
    return found.nbytes if isinstance(found, Plane) else 0
