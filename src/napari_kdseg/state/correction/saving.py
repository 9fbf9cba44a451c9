"""Corrections that are open here, and their labels, written step by step."""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from napari_kdseg.errors import KdsegError, ReviewError, RunError
from napari_kdseg.review.arrays import Opener
from napari_kdseg.review.correction_copy import Copy
from napari_kdseg.review.corrections import LOCKS, home_of
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.runs.lock import Lock, read_holder
from napari_kdseg.volumes.cache import Cache


@dataclass(eq=False)
class OpenCorrection:
    """A correction that nobody else may paint on."""

    copy: Copy
    lock: Lock

    @classmethod
    def of(
        cls, folder: Path, prediction: Prediction, cache: Cache | None
    ) -> "OpenCorrection":
        """Open the correction of a prediction, or begin one.

        Raises
        ------
        ReviewError
            Where it is open elsewhere, or its record is damaged.
        VolumeError
            Where scan or labels are gone, damaged, or have to be converted first.
        OSError
            Where the folder may not be written to.
        """
        opener = Opener(cache)
        for channel in range(max(1, len(opener.channels(prediction)))):
            opener.convert(prediction, channel, uncertainty=False)
        lock = _locked(folder, prediction)
        try:
            return cls(Copy.open(folder, prediction, opener), lock)
        except BaseException:
            lock.release()
            raise


@dataclass(eq=False)
class _Saving:
    """Labels to be written, and what is to be done then."""

    open: OpenCorrection
    then: Callable[[], object]
    steps: Generator[float, None, None]


class Savings:
    """Labels that are to be written, one correction after the other."""

    def __init__(self) -> None:
        self._waiting: deque[_Saving] = deque()
        self.fraction: float | None = None
        """How much is done of the one at hand; None where there is none."""

    def __len__(self) -> int:
        return len(self._waiting)

    def find(self, prediction: Prediction) -> OpenCorrection | None:
        """Find the correction of a prediction among those that wait."""
        for one in self._waiting:
            if one.open.copy.prediction.labels_hash == prediction.labels_hash:
                return one.open
        return None

    @property
    def first(self) -> OpenCorrection | None:
        """The one at hand."""
        return self._waiting[0].open if self._waiting else None

    def holds(self, wanted: OpenCorrection) -> bool:
        """Whether a correction waits."""
        return any(one.open is wanted for one in self._waiting)

    def add(self, one: OpenCorrection, then: Callable[[], object]) -> None:
        """Have the labels of a correction written, and then do something."""
        self._waiting.append(_Saving(one, then, one.copy.saving()))

    def step(self) -> OpenCorrection | None:
        """Write a little more.

        Returns
        -------
        OpenCorrection or None
            What is finished; None where there is more of it to do.

        Raises
        ------
        KdsegError, OSError
            What went wrong; that correction does not wait any more.
        """
        saving = self._waiting[0]
        try:
            self.fraction = next(saving.steps)
            return None
        except StopIteration:
            self._drop()
            saving.then()
            return saving.open
        except (KdsegError, OSError):
            self._drop()
            raise

    def abandon(self) -> list[OpenCorrection]:
        """Write no more; what was painted is kept elsewhere. Gives what waited."""
        left = [one.open for one in self._waiting]
        for one in self._waiting:
            one.steps.close()
        self._waiting.clear()
        self.fraction = None
        return left

    def _drop(self) -> None:
        self._waiting.popleft()
        self.fraction = None


def _locked(folder: Path, prediction: Prediction) -> Lock:
    home = home_of(folder, prediction)
    place = folder.joinpath(*LOCKS, prediction.case)
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{home.name}.lock"
    try:
        return Lock(path)
    except RunError as error:
        holder = read_holder(path)
        who = f"process {holder.pid} on {holder.host}" if holder else "another process"
        raise ReviewError(
            f"{prediction.case!r} is being corrected in {who}; one viewer can do so at "
            "a time. Press Done there, or correct another scan."
        ) from error
