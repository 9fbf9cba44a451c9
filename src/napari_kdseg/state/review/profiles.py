"""What slices come to, found out in the background, one prediction after the other."""

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from napari_kdseg.errors import KdsegError, StopRequested
from napari_kdseg.review.arrays import Opener
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.profiles import (
    Profile,
    Profiler,
    read_profile,
    write_profile,
)
from napari_kdseg.volumes.cache import Cache

LOAD_AT_ONCE_S = 0.3


class Profiles:
    """Profiles of predictions: those that are kept, and those that are being made.

    Parameters
    ----------
    home
        Where they are kept, once that is there: to look at predictions leaves nothing
        beside them.
    cache
        Where converted files lie; None: the user's.
    """

    def __init__(self, home: Path, cache: Cache | None = None) -> None:
        self._home = home
        self._cache = cache
        self._lock = threading.Lock()
        self._known: dict[str, Profile] = {}
        self._failed: set[str] = set()
        self._todo: deque[Prediction] = deque()
        self._new: list[tuple[Prediction, Profile]] = []
        self._unkept: list[tuple[Prediction, Profile]] = []
        self._profiler: Profiler | None = None
        self._going = True
        self.notes: tuple[str, ...] = ()

    @property
    def left(self) -> int:
        """How many predictions are not gone over yet."""
        with self._lock:
            return len(self._todo)

    @property
    def message(self) -> str:
        """What is at work, for a line of text; empty where nothing is."""
        profiler = self._profiler
        if profiler is None or profiler.fraction == 0:
            return ""
        case, share = profiler.prediction.case, profiler.fraction
        return f"Going over {case}: {share:.0%}, {self.left} to go"

    def get(self, prediction: Prediction) -> Profile | None:
        """Give the profile of a prediction; None where it is not known yet."""
        return self._known.get(_name(prediction))

    def ask(self, predictions: Iterable[Prediction]) -> None:
        """Have the profiles of these, in this order; what is kept is read now."""
        until = time.monotonic() + LOAD_AT_ONCE_S
        there = {*self._known, *self._failed}
        wanted = [one for one in predictions if _name(one) not in there]
        late: list[Prediction] = []
        for one in wanted:
            kept = None
            if time.monotonic() < until:
                kept = read_profile(self._home, one)
            if kept is None:
                late.append(one)
            else:
                self._known[_name(one)] = kept
        with self._lock:
            self._todo = deque(late)

    def news(self) -> list[tuple[Prediction, Profile]]:
        """Give what was found out since the last call."""
        with self._lock:
            new, self._new = self._new, []
        return new

    def close(self) -> None:
        """Leave off at the next box; what is known is kept."""
        self._going = False
        while self._keep_one():
            pass
        with self._lock:
            self._todo.clear()

    def work(self) -> bool:
        """Do one step; gives whether there was one to do."""
        if self._keep_one():
            return True
        with self._lock:
            one = self._todo[0] if self._todo else None
        if one is None:
            self._profiler = None
            return False
        profiler = self._profiler
        if profiler is None or profiler.prediction is not one:
            kept = read_profile(self._home, one)
            if kept is not None:
                self._done(one, kept)
                return True
            opener = Opener(self._cache, lambda *_: None, lambda: self._going)
            profiler = self._profiler = Profiler(one, opener)
        self._step(profiler)
        return True

    def _keep_one(self) -> bool:
        """Write one profile down, once there is a place; gives whether one was left."""
        if not self._unkept or not self._home.exists():
            return False
        known, profile = self._unkept.pop()
        with suppress(OSError):  # it is made again another time
            write_profile(self._home, known, profile)
        return True

    def _step(self, profiler: Profiler) -> None:
        one = profiler.prediction
        try:
            if profiler.step():
                return
        except StopRequested:
            return
        except (KdsegError, OSError, ValueError, MemoryError) as error:
            self.notes = (*self.notes, str(error))
            self._done(one, None)
            return
        profile = profiler.result()
        self._unkept.append((one, profile))
        self._done(one, profile)

    def _done(self, one: Prediction, profile: Profile | None) -> None:
        self._profiler = None
        with self._lock:
            if self._todo and self._todo[0] is one:
                self._todo.popleft()
            if profile is None:
                self._failed.add(_name(one))
                return
            self._known[_name(one)] = profile
            self._new.append((one, profile))


def _name(prediction: Prediction) -> str:
    return f"{prediction.uuid} {prediction.labels_hash}"
