"""Judging predictions slice by slice: what the Review dock shows and does."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from psygnal import Signal

from napari_kdseg.amounts import counted
from napari_kdseg.errors import KdsegError, ProjectError, ReviewError
from napari_kdseg.review.agreement import agreement
from napari_kdseg.review.shared import share
from napari_kdseg.review.store import imported
from napari_kdseg.review.verdicts import (
    About,
    Place,
    Word,
    read_verdicts,
    write_verdicts,
)
from napari_kdseg.state.review.chosen import Chosen
from napari_kdseg.state.review.desk import Desk
from napari_kdseg.state.review.folder import ReviewFolder
from napari_kdseg.state.review.ledger import Key
from napari_kdseg.state.review.queue import key_of
from napari_kdseg.state.review.seen import AHEAD, PAGE
from napari_kdseg.volumes.cache import Cache

__all__ = ["AHEAD", "PAGE", "Review"]

_REMEMBER_EVERY = 20
_READ_NEWS_EVERY_S = 2.0


class Review(Chosen):
    """What the Review dock shows and does.

    What goes wrong is told in `status`; nothing is raised, but by `plane` and
    `thumbnail`. All is called from one thread, but for `work`, which a thread of the
    widget's calls again and again; `poll`, called by a timer, tells what that found.

    Attributes
    ----------
    plane_ready
        Emitted by `poll` when slices have been read, among them perhaps `current`.
    status_changed
        Emitted with what there is to tell, a sentence or nothing.
    taken_back
        Places of the slices that were bad, of what was taken back last.
    """

    plane_ready = Signal()

    def __init__(
        self,
        cache: Cache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(cache, clock)
        self._comments: dict[Key, str] = {}
        self.taken_back: frozenset[Place] = frozenset()
        self._news_at = clock()

    # ---- The folder ----

    def open_folder(self, folder: Path, store: str | Path | None = None) -> None:
        """Find the predictions of a project, or of what `kdseg-train predict` wrote.

        Parameters
        ----------
        folder
            The project, or the folder that was given as ``--out``.
        store
            The file or database of verdicts; None: what the folder names, or else
            ``review/verdicts.sqlite`` there, made with the first verdict.
        """
        self._try(lambda: self._open(folder, store))

    def keep_verdicts_in(self, url: str) -> bool:
        """Keep verdicts in a database that several share; those given are copied.

        Parameters
        ----------
        url
            Of a PostgreSQL database, without a password; empty: in the folder again.

        Returns
        -------
        bool
            Whether they are kept there now; nobody judges then, until somebody begins.
        """
        opened = self._desk.folder
        if opened is None:
            return False
        if not self._try(lambda: share(opened.home, url, opened.name)):
            return False
        self.open_folder(opened.folder)
        return True

    def refresh(self) -> None:
        """Look for predictions that are new, gone or changed."""
        if self._desk.folder is None:
            return
        self._looking.shelf.forget()
        if self._try(self._desk.reopen):
            self._find()

    def close(self) -> None:
        """End the sitting and note the place, to go on there another time."""
        self._try(self._desk.close)
        self._desk = Desk(clock=self._clock)
        self._looking.shelf.forget()
        self._show_all()

    # ---- Who judges ----

    def begin(self, reviewer: str) -> bool:
        """Begin a sitting; gives whether slices can be judged now."""
        before = self._desk.ledger.reviewer
        begun = self._try(lambda: self._desk.begin(reviewer))
        if self._desk.ledger.reviewer != before:
            self._comments.clear()  # they are somebody else's words
        self._shown_at = self._clock()
        self._rearrange()
        self.scans_changed.emit()
        self.counts_changed.emit()
        return begun

    # ---- The queue ----

    def skip(self) -> None:
        """Go on without a verdict; the slice comes back at the end."""
        self._desk.queue.pass_over()
        self._show_next()

    def next(self) -> None:
        """Go to the slice that would tell most; this one comes back at the end."""
        known = self._desk.queue.jump()
        self._tell("" if known else "Nothing is known of these slices yet.")
        self._show_next()

    def go_to(self, about: About) -> None:
        """Show a certain slice; those that were to come follow it."""
        self._try(lambda: self._visit([about]))

    # ---- Verdicts ----

    @property
    def comment(self) -> str:
        """What the verdict on `current` will say besides.

        It stays with its slice, which may be put off, until that is judged, alone or
        on a page. A verdict that is taken back leaves its comment there.
        """
        current = self.current
        return "" if current is None else self._comments.get(key_of(current), "")

    @comment.setter
    def comment(self, comment: str) -> None:
        if self.current is not None:
            self._comments[key_of(self.current)] = comment

    def judge(self, word: Word) -> None:
        """Judge the slice; once that is on the disk, the next one is `current`."""
        current = self.current
        if current is not None:
            self._judge([(current, word)])

    def judge_page(self, page: Sequence[About], bad: Collection[About]) -> bool:
        """Judge the slices that were shown together, whichever come next by now.

        Parameters
        ----------
        page
            What `page` gave when it was shown.
        bad
            Those of them that are bad; the others are good.

        Returns
        -------
        bool
            Whether the verdicts are on the disk: all of them, or none.
        """
        words: list[tuple[About, Word]]
        words = [(about, "bad" if about in bad else "good") for about in page]
        return bool(words) and self._judge(words)

    def take_back(self) -> None:
        """Take back the last verdict, or the last page, and go back to it."""
        self._try(self._take_back)

    # ---- Verdicts of others ----

    def say_agreement(self) -> None:
        """Say in `status` how far reviewers agree."""

        def said() -> None:
            self._tell(" ".join(agreement(self._desk.ledger.rows()).sentences()))

        self._try(said)

    def export_verdicts(self, table: Path) -> None:
        """Write everything that was ever said here into a table, CSV; replaced."""

        def written() -> None:
            rows = self._desk.ledger.rows()
            try:
                write_verdicts(table, rows)
            except OSError as error:
                raise ReviewError(f"{table} cannot be written: {error}.") from error
            self._tell(f"{table} holds {len(rows)} verdicts and take-backs.")

        self._try(written)

    def import_verdicts(self, table: Path) -> None:
        """Add what a table says, CSV or another store; people's is marked as such."""

        def added() -> None:
            rows = imported(read_verdicts(table))
            new = self._desk.ledger.add(rows)
            self._news_at = -math.inf  # they count from the next look on
            self._tell(f"{counted(new, 'new row')}; there already: {len(rows) - new}.")

        self._try(added)

    # ---- In the background ----

    def work(self) -> bool:
        """Do one small piece of what is waiting; gives whether there is more.

        Reads slices ahead, then counts what slices show, a piece at a time. To be
        called from a thread of the widget's, while all else is called from another.
        """
        return self._looking.shelf.work() or self._desk.work()

    def poll(self) -> None:
        """Tell what is new: slices that were read, an order, verdicts of others."""
        if self._desk.is_outdated:
            self._find()
        self._poll_store()
        before = self.current
        knows_more, moved = self._desk.take_news(hold=self._looking.is_sheet)
        if knows_more:
            self.scans_changed.emit()
        if moved:
            self._after_rearranging(before)
            self.counts_changed.emit()
        if self._looking.landed():
            self.plane_ready.emit()
        if self._since_remembered >= _REMEMBER_EVERY:  # no key waits for it
            self._remember()
        self._show_status()

    # ---- Private ----

    def _open(self, folder: Path, store: str | Path | None) -> None:
        opened = ReviewFolder.open(folder)
        with suppress(KdsegError):  # what was open does not matter any more
            self._desk.close()
        self._looking.shelf.forget()
        self._desk = Desk(opened, store, self._cache, self._clock)
        self._comments.clear()
        self._show_all()
        if not self.predictions:
            raise ProjectError(
                f"{opened.results} holds no predictions; they are what is judged. "
                "Predict some scans first, in the Segment dock."
            )

    def _find(self) -> None:
        current = self.current
        self._desk.look(None if current is None else current.place)
        self._show_all()

    def _visit(self, abouts: Sequence[About]) -> None:
        first = abouts[0]
        model = self._desk.found.model_of(self.prediction_of(first))
        if (model, first.axis) != (self.model, self.axis):
            self._desk.choose(model)
            self._desk.set_table(first.axis)
            self.scans_changed.emit()
        if not self._desk.queue.visit(abouts):
            raise ProjectError(self.prediction_of(first).missing)
        self._show_next()
        self.queue_changed.emit()

    def _judge(self, words: Sequence[tuple[About, Word]]) -> bool:
        abouts = [about for about, _ in words]
        seconds = self._clock() - self._shown_at
        comments = {one: self._comments.get(key_of(one), "") for one in abouts}
        was_open = self._desk.ledger.is_open
        if not self._try(lambda: self._desk.judge(words, seconds, comments)):
            return False
        for about in abouts:
            self._comments.pop(key_of(about), None)
        if not was_open:  # a new store may have something to tell
            self.scans_changed.emit()
        self._desk.opinions_on(abouts)
        self._desk.queue.finish(abouts)
        if self.current in abouts:
            self._desk.queue.advance()
        if len(words) > 1:  # between two sheets their order may change
            self._desk.take_news()
        self._since_remembered += 1
        self._show_next()
        self.counts_changed.emit()
        return True

    def _take_back(self) -> None:
        taken = self._desk.ledger.take_back()
        if not taken:
            self._tell("There is nothing to take back.")
            return
        abouts = [verdict.about for verdict in taken]
        self.taken_back = frozenset(v.place for v in taken if v.verdict == "bad")
        for verdict in taken:
            if verdict.comment:
                self._comments.setdefault(key_of(verdict.about), verdict.comment)
        self._desk.opinions_on(abouts)
        self.counts_changed.emit()
        self._visit(abouts)
        self._desk.queue.reopen(abouts)

    def _poll_store(self) -> None:
        if self._clock() - self._news_at < _READ_NEWS_EVERY_S:
            return
        self._news_at = self._clock()
        try:
            is_new = self._desk.read_news()
        except KdsegError as error:
            self._tell(str(error))
            return
        if is_new:
            self._expect()
            self.queue_changed.emit()
            self.counts_changed.emit()
            self.scans_changed.emit()
