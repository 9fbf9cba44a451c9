"""One folder under review: what was found in it, what is chosen, what comes next."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from napari_kdseg.errors import ProjectError
from napari_kdseg.review.arrays import Opener
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.verdicts import About, Place, Verdict, Word
from napari_kdseg.state.review.folder import Records, Remembered, ReviewFolder
from napari_kdseg.state.review.found import Found
from napari_kdseg.state.review.ledger import Counts, Ledger
from napari_kdseg.state.review.profiles import Profiles
from napari_kdseg.state.review.queue import Arrangement, Queue, key_of
from napari_kdseg.state.review.table import Table
from napari_kdseg.volumes.cache import Cache

LARGE_ROWS = 200_000
"""Tables of more rows are put in order by the thread."""
LOOK_EVERY_S = 10.0
REARRANGE_EVERY_S = 5.0
_SETTLE_S = 2.0  # so long after a choice nobody judges the slice that came up


class Desk:
    """What is on the desk while one folder is reviewed.

    Parameters
    ----------
    folder
        What is reviewed; None where nothing is.
    store
        Where verdicts are kept; None: in the folder.
    cache
        Where converted scans lie; None: the user's.
    clock
        Seconds that only grow.
    """

    def __init__(
        self,
        folder: ReviewFolder | None = None,
        store: str | Path | None = None,
        cache: Cache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.remembered = Remembered() if folder is None else folder.remembered()
        self.ledger = Ledger(clock)
        self.found = Found()
        self.model = self.remembered.model
        self.scores: Mapping[Place, float] | None = None
        self.queue = Queue(Table((), self.remembered.axis))
        self.profiles: Profiles | None = None
        self._store = store
        self._cache = cache
        self._clock = clock
        self._notes: tuple[str, ...] = ()
        self._channels: dict[str, tuple[str, ...]] = {}
        self._records: Records = ()
        self._fresh: tuple[Records, tuple[Prediction, ...], tuple[str, ...]] | None
        self._fresh = None
        self._looked = self._arranged = self._laid_out = clock()
        self._unsorted = False
        self._arrangement: Arrangement | None = None
        if folder is not None:
            self.profiles = Profiles(folder.home, cache)
            self.ledger.look_at(folder, store)
            self.look(self.remembered.place)

    # ---- The folder ----

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, a sentence each."""
        told = [*self._notes, self.ledger.closed, *self.ledger.notes]
        if self.profiles is not None:
            told += self.profiles.notes
        stale = self.stale
        if stale:
            told.append(
                f"{stale} verdicts are about predictions that have changed or are "
                "gone; they are kept, and count for nothing here."
            )
        return tuple(dict.fromkeys(note for note in told if note))

    def reopen(self) -> None:
        """Look where the scans are now, as they may have been located meanwhile.

        Raises
        ------
        ProjectError
            Where the project cannot be read any more.
        """
        assert self.folder is not None
        self.folder = ReviewFolder.open(self.folder.folder)
        self._fresh = None
        if self.ledger.closed:  # perhaps not any more
            self.ledger.look_at(self.folder, self._store)

    def look(self, start: Place | None = None) -> None:
        """Find the predictions; a slice to begin with may be given."""
        assert self.folder is not None
        records, predictions, notes = self._fresh or self._read()
        self._fresh, self._records = None, records
        self._notes = (*self.folder.notes, *notes)
        self.found = Found(predictions)
        self._channels.clear()
        if self.model not in self.found.models:
            self.model = next(iter(self.found.models), "")
        self._drop_scores()
        self.set_table(self.queue.table.axis, start)

    def begin(self, reviewer: str) -> None:
        """Begin a sitting.

        Raises
        ------
        KdsegError
            Where there is no folder, no name, or nothing can be kept.
        """
        if self.folder is None:
            raise ProjectError("No predictions are open. Choose a project or a folder.")
        self.ledger.begin(reviewer.strip(), self.found.knows)
        self.queue.seed = crc32(self.ledger.reviewer.encode())
        self._take_opinions()

    def remember(self) -> None:
        """Keep where one is.

        Raises
        ------
        KdsegError
            Where that cannot be written.
        """
        if self.folder is None or self.ledger.closed or not self.folder.folder.exists():
            return
        queue, filters = self.queue, self.queue.filters
        current = queue.current
        self.remembered = Remembered(
            reviewer=self.ledger.reviewer or self.remembered.reviewer,
            model=self.model,
            axis=queue.table.axis,
            order=queue.order,
            place=None if current is None else current.place,
            threshold=queue.threshold,
            unjudged=filters.unjudged,
            by_anyone=filters.by_anyone,
            hide_empty=filters.hide_empty,
            cases=None if filters.cases is None else tuple(sorted(filters.cases)),
            side=filters.side,
            sample=queue.sample,
            scored=self.scores is not None or self.remembered.scored,
        )
        self.folder.remember(self.remembered)

    def close(self) -> None:
        """Let go of the store and of what is under way.

        Raises
        ------
        KdsegError
            Where the place cannot be kept.
        """
        if self.profiles is not None:
            self.profiles.close()
        try:
            self.remember()
        finally:
            self.ledger.close()

    # ---- What is chosen ----

    def choose(self, model: str) -> None:
        """Take another model; what a classifier said is not about its predictions."""
        if model != self.model:
            self.model, self.scores = model, None

    def set_table(self, axis: int, start: Place | None = None) -> None:
        """Lay out all slices of the model's predictions along an axis."""
        found = self.found.models.get(self.model, ())
        shown = [one for one in found if not one.missing]
        table = Table(shown, axis)
        self.queue = replace(self._settings(), table=table)
        if self.profiles is not None:
            self.profiles.ask(shown)
            for one in shown:
                profile = self.profiles.get(one)
                if profile is not None:
                    table.set_profile(one, profile)
        if self.scores is not None:
            table.set_scores(self.scores)
        self._take_opinions()
        if self.queue.misses()[self.queue.order]:
            self.queue.order = "random"
        self._unsorted = False
        self._laid_out = self._clock()
        self.queue.rearrange(start=start)

    def set_scores(self, scores: Mapping[Place, float] | None) -> None:
        """Take P(good) by slice."""
        first = self.scores is None and scores is not None
        self.scores = None if scores is None else dict(scores)
        self.queue.table.set_scores(self.scores or {})
        if first:
            # Whoever had chosen another order beside earlier scores gets it back.
            noted = self.remembered
            self.queue.order = noted.order if noted.scored else "doubt"
        if self.queue.misses()[self.queue.order]:
            self.queue.order = "random"

    def channels_of(self, prediction: Prediction) -> tuple[str, ...]:
        """Name the channels of the scan of a prediction."""
        if prediction.uuid not in self._channels:
            found = Opener(self._cache).channels(prediction)
            self._channels[prediction.uuid] = found
        return self._channels[prediction.uuid]

    # ---- What was said ----

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All that count, about the predictions that are here."""
        return tuple(filter(self.found.knows, self.ledger.verdicts))

    @property
    def stale(self) -> int:
        """How many verdicts are about predictions that are not here any more."""
        return sum(
            count
            for labels, count in self.ledger.tallies.items()
            if not self.found.has(*labels)
        )

    @property
    def counts(self) -> Counts:
        """How far one is."""
        good, bad, unsure, total = self.queue.tally()
        judged, pace = good + bad + unsure, self.ledger.pace_per_min
        left = (total - judged) * 60 / pace if pace else None
        return Counts(good, bad, unsure, judged, total, pace, left)

    def judge(
        self,
        words: Sequence[tuple[About, Word]],
        seconds: float,
        comments: Mapping[About, str],
    ) -> None:
        """Write verdicts down; the first one makes the store.

        Raises
        ------
        KdsegError
            Where they cannot be written.
        """
        was_open = self.ledger.is_open
        self.ledger.judge(words, seconds, comments)
        if not was_open:  # somebody else may have made it meanwhile, and judged
            self._take_opinions()

    def read_news(self) -> bool:
        """Read what others said meanwhile; gives whether there is anything.

        Raises
        ------
        KdsegError
            Where the store is out of reach.
        """
        keys = self.ledger.news()
        self.queue.take_opinions([(key, self.ledger.opinion(key)) for key in keys])
        return bool(keys)

    def opinions_on(self, abouts: Sequence[About]) -> None:
        """Take what is said of these slices now."""
        keys = [key_of(about) for about in abouts]
        self.queue.take_opinions([(key, self.ledger.opinion(key)) for key in keys])

    # ---- In the background ----

    @property
    def is_outdated(self) -> bool:
        """Whether `work` found other predictions, which `look` will take."""
        return self._fresh is not None

    def work(self) -> bool:
        """Do one step of what is not for the eyes; gives whether there was any."""
        if self.folder is None:
            return False
        if self._clock() - self._looked > LOOK_EVERY_S:
            self._looked = self._clock()
            if self.folder.records() != self._records:
                self._fresh = self._read()
        queue = self.queue
        if self._is_due() and len(queue.table) > LARGE_ROWS:
            self._unsorted = False
            self._arrangement = queue.arrangement()
            return True
        return self.profiles is not None and self.profiles.work()

    def take_news(self, *, hold: bool = False) -> tuple[bool, bool]:
        """Take what `work` found out.

        Parameters
        ----------
        hold
            Whether several slices are in view, which then stay the same.

        Returns
        -------
        bool
            Whether more is known of slices.
        bool
            Whether they come in another order.
        """
        new = [] if self.profiles is None else self.profiles.news()
        for prediction, profile in new:
            self.queue.take_profile(prediction, profile)
        found = self._arrangement
        if new or (found is not None and not found.fits(self.queue)):
            self._unsorted = True
        is_settled = self._clock() - self._laid_out > _SETTLE_S
        if hold and is_settled:
            return bool(new), False
        self._arrangement = None
        if self._is_due() and len(self.queue.table) <= LARGE_ROWS:
            found = self.queue.arrangement()
            self._unsorted = False
        if found is None or not found.fits(self.queue):
            return bool(new), False
        self._arranged = self._clock()
        self.queue.rearrange(found)
        if not (self.ledger.sits and is_settled):
            self.leave_hidden()
        return bool(new), True

    def leave_hidden(self) -> None:
        """Go on from a slice that the filter hides, such as an empty one."""
        if self.queue.hides_current():
            self.queue.rearrange(keep_current=False)

    # ---- Private ----

    def _read(self) -> tuple[Records, tuple[Prediction, ...], tuple[str, ...]]:
        assert self.folder is not None
        records = self.folder.records()  # first, so that nothing new is overlooked
        return records, *self.folder.predictions()

    def _is_due(self) -> bool:
        if not self._unsorted:
            return False
        finished = self.profiles is None or self.profiles.left == 0
        return finished or self._clock() - self._arranged > REARRANGE_EVERY_S

    def _settings(self) -> Queue:
        """The queue with the settings that hold for the next table, too."""
        if self.queue.table.predictions:
            return self.queue
        noted = self.remembered
        return Queue(
            self.queue.table,
            noted.order,
            noted.filters,
            noted.threshold,
            noted.sample,
            crc32(noted.reviewer.encode()),
        )

    def _drop_scores(self) -> None:
        """Forget scores of scans that have been predicted anew."""
        before = {one.case: one.labels_hash for one in self.queue.table.predictions}
        some = self.found.models.get(self.model, ())
        new = {
            one.case
            for one in some
            if before.get(one.case, one.labels_hash) != one.labels_hash
        }
        if new and self.scores is not None:
            kept = {at: score for at, score in self.scores.items() if at[0] not in new}
            self.scores = kept

    def _take_opinions(self) -> None:
        keys = [(*one.place, one.labels_hash) for one in self.ledger.verdicts]
        self.queue.take_opinions([(key, self.ledger.opinion(key)) for key in keys])
