"""What can be seen of a review."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from psygnal import Signal

from napari_kdseg.errors import KdsegError
from napari_kdseg.review.planes import Plane
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.queue import Order
from napari_kdseg.review.verdicts import About, Place, Verdict
from napari_kdseg.state.review.desk import Desk
from napari_kdseg.state.review.ledger import Counts
from napari_kdseg.state.review.looking import Looking
from napari_kdseg.state.review.queue import key_of
from napari_kdseg.state.review.shelf import Shelf
from napari_kdseg.volumes.cache import Cache

PAGE = 25
"""Slices of a contact sheet."""
AHEAD = 8
"""Slices that are read before they are asked for."""
_BESIDE = 24  # that come later, and are read where chunks are decoded for others


class Seen:
    """What there is to judge, what was judged, what comes next; nothing is changed.

    Parameters
    ----------
    cache
        Where converted scans lie; None: the user's.
    clock
        Seconds that only grow.
    """

    status_changed = Signal(str)

    def __init__(
        self,
        cache: Cache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._desk = Desk(clock=clock)
        self._looking = Looking(Shelf(cache))
        self._status = self._told = ""

    @property
    def folder(self) -> Path | None:
        """The folder that is open."""
        return None if self._desk.folder is None else self._desk.folder.folder

    @property
    def home(self) -> Path | None:
        """Where all that belongs to the review is kept: ``review`` in the folder."""
        return None if self._desk.folder is None else self._desk.folder.home

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, a sentence each: scans that are gone, damage."""
        return self._desk.notes

    @property
    def status(self) -> str:
        """What there is to tell of the last action or of the work; may be empty."""
        return self._status

    @property
    def reviewer(self) -> str:
        """Who judges; before `begin` whoever judged here last, or nobody."""
        return self._desk.ledger.reviewer or self._desk.remembered.reviewer

    @property
    def can_judge(self) -> bool:
        """Whether a sitting has begun."""
        return self._desk.ledger.sits

    @property
    def database(self) -> str:
        """Where verdicts are kept, if not in a file; without a password."""
        return self._desk.ledger.database

    @property
    def closed(self) -> str:
        """Why no verdicts can be given in this folder; empty where they can."""
        return self._desk.ledger.closed

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """All that were found, of every model."""
        return self._desk.found.predictions

    def prediction_of(self, about: About) -> Prediction:
        """Find the prediction that a slice belongs to; `ProjectError`: it is gone."""
        return self._desk.found.prediction_of(about)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that there are predictions of."""
        return tuple(self._desk.found.models)

    @property
    def cases(self) -> tuple[str, ...]:
        """The scans that the model has predicted, to filter by."""
        return self._desk.queue.table.cases

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels of the scan that is shown."""
        current = self.current
        if current is None:
            return ()
        return self._desk.channels_of(self.prediction_of(current))

    @property
    def orders(self) -> Mapping[Order, str]:
        """All orders, each with why it cannot be had; empty where it can."""
        return self._desk.queue.misses()

    @property
    def scores(self) -> Mapping[Place, float] | None:
        """P(good) by slice of the model's predictions; None before a classifier is."""
        return self._desk.scores

    @property
    def sample(self) -> tuple[Place, ...] | None:
        """The slices that are shown alone."""
        return self._desk.queue.sample

    @property
    def current(self) -> About | None:
        """The slice to be judged; None where none is left."""
        return self._desk.queue.current

    @property
    def ahead(self) -> tuple[About, ...]:
        """The slices after it, `AHEAD` at most."""
        return self._desk.queue.upcoming(AHEAD)

    @property
    def page(self) -> tuple[About, ...]:
        """The slices of a contact sheet: `current` and those after it, `PAGE` at most.

        After it was asked for, `work` reads its thumbnails and those of the next page,
        until `plane` is asked for.
        """
        self._turn(is_sheet=True)
        return self._pages(1)

    def judged(self, about: About) -> Verdict | None:
        """What this reviewer says of a slice, or else somebody else."""
        return self._desk.ledger.verdict(key_of(about))

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All that count, of all reviewers, about the predictions that are here."""
        return self._desk.verdicts

    @property
    def stale(self) -> int:
        """How many verdicts are about predictions that have changed or are gone."""
        return self._desk.stale

    @property
    def counts(self) -> Counts:
        """How far one is, along this axis of this model's predictions."""
        return self._desk.counts

    # ---- Looking ----

    def at_hand(self, about: About) -> bool:
        """Whether `plane` would answer at once."""
        return self._looking.has(about, self.prediction_of)

    def plane(self, about: About) -> Plane:
        """Give a slice; it is read now where `work` has not read it before.

        Raises
        ------
        VolumeError
            Where its scan or its labels are gone or damaged, or `work` has to convert
            one of them first.
        """
        self._turn(is_sheet=False)
        return self._looking.get(about, self.prediction_of)

    def thumbnail_at_hand(self, about: About) -> bool:
        """Whether `thumbnail` would answer at once."""
        return self._looking.has(about, self.prediction_of, small=True)

    def thumbnail(self, about: About) -> Plane:
        """Give a slice in 256 x 256 pixels at most, for a contact sheet.

        Raises
        ------
        VolumeError
            As `plane`.
        """
        return self._looking.get(about, self.prediction_of, small=True)

    # ---- Private ----

    def _pages(self, count: int) -> tuple[About, ...]:
        current = self.current
        if current is None:
            return ()
        return (current, *self._desk.queue.upcoming(count * PAGE - 1))

    def _turn(self, *, is_sheet: bool) -> None:
        if is_sheet != self._looking.is_sheet:
            self._looking.is_sheet = is_sheet
            self._expect()

    def _expect(self) -> None:
        """Have read what comes next."""
        sheets = self._pages(2) if self._looking.is_sheet else ()
        singly: tuple[About, ...] = ()
        if self.current is not None:
            after = self._desk.queue.upcoming(AHEAD + _BESIDE)
            singly = (self.current, *after)
        beside = singly[AHEAD + 1 :]
        self._looking.expect(singly[: AHEAD + 1], beside, sheets, self.prediction_of)

    def _try(self, call: Callable[[], object]) -> bool:
        """Do something, or tell why it cannot be done; gives whether it was."""
        self._tell("")
        try:
            call()
        except KdsegError as error:
            self._tell(str(error))
            return False
        return True

    def _tell(self, text: str) -> None:
        self._told = text
        self._show_status()

    def _show_status(self) -> None:
        profiles = self._desk.profiles
        at_work = "" if profiles is None else profiles.message
        text = self._told or self._looking.shelf.message or at_work
        if text != self._status:
            self._status = text
            self.status_changed.emit(text)
