"""The Quality Classifier of a project: what the Review dock's second half shows.

Verdicts train it, it judges all other slices, a person picks the threshold, checks a
sample of what it accepts, and hands the accepted slices to a student.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psygnal import Signal

from napari_kdseg.errors import KdsegError, ProjectError
from napari_kdseg.review.audit import keep
from napari_kdseg.state.detached import Detached
from napari_kdseg.state.grading.desk import GradingDesk
from napari_kdseg.state.grading.handing_over import RUN, write_recipe
from napari_kdseg.state.grading.record import Curves
from napari_kdseg.state.grading.shown import NEEDED, AtThreshold, GradingShown
from napari_kdseg.state.jobs import Job, Worker
from napari_kdseg.state.review.review import Review
from napari_kdseg.state.training_runs import KnownRuns

__all__ = ["NEEDED", "AtThreshold", "Curves", "Grading"]

_COUNT_EVERY_S = 0.5
_SHOW_SCORES_EVERY_S = 5.0
_KEEP_AFTER_S = 0.5
"""A threshold is kept when it has not been moved for so long."""


class Grading(GradingShown):
    """The Quality Classifier of what is under review.

    What goes wrong is told in `status`; nothing is raised. Follows the `Review`: where
    another folder or model is chosen there, it is that one's classifier. `poll` is
    called by a timer, on the thread of all else.

    Parameters
    ----------
    review
        What is judged.
    worker
        The viewer's warm worker; it scores slices.
    detached
        Starts training, which outlives the viewer.
    clock
        Seconds that only grow.
    known
        Remembers trainings, for the Train dock to list.

    Attributes
    ----------
    counts_changed
        Emitted when `ready_text` or `ready` may be other: there are other verdicts.
    classifier_changed
        Emitted when there is another classifier or none, with all that is its own:
        curves, threshold, scores, audits.
    scores_changed
        Emitted when more slices are scored, so that `at` gives other numbers.
    threshold_changed
        Emitted with the threshold.
    audit_changed
        Emitted when there is another sample, or people judged more of it.
    job_changed
        Emitted with a job of ours about which something is new.
    status_changed
        Emitted with what there is to tell, a sentence or nothing.
    """

    counts_changed = Signal()
    classifier_changed = Signal()
    scores_changed = Signal()
    threshold_changed = Signal(float)
    audit_changed = Signal()
    job_changed = Signal(Job)
    status_changed = Signal(str)

    def __init__(
        self,
        review: Review,
        worker: Worker,
        detached: Detached | None = None,
        clock: Callable[[], float] = time.monotonic,
        known: KnownRuns | None = None,
    ) -> None:
        super().__init__(review)
        self._known = known or KnownRuns()
        self._worker = worker
        self._detached = detached or Detached()
        self._clock = clock
        self._trained_for: GradingDesk | None = None
        self._scores_are_new = self._counts_are_new = False
        self._counted = self._showed = self._moved = -math.inf
        self._unkept: float | None = None
        review.scans_changed.connect(self._on_scans_changed)
        review.counts_changed.connect(self._on_counts_changed)
        worker.changed.connect(self._on_job_changed)
        self._detached.changed.connect(self._on_job_changed)
        self._on_scans_changed()

    # ---- Training ----

    def train(self, settings: Mapping[str, Any] | None = None) -> None:
        """Train a classifier on the verdicts; then it scores every slice by itself.

        Parameters
        ----------
        settings
            In place of defaults, as ``kdseg-train quality fit --set`` takes them.
        """
        self._try(lambda: self._train(settings or {}))

    def cancel(self, job: Job) -> None:
        """Ask a job of ours to stop."""
        if job is self._scoring:
            self._worker.cancel(job)
        elif not job.ended:
            self._detached.cancel(job)

    # ---- The classifier ----

    @property
    def threshold(self) -> float:
        """P(good) from which on a slice is accepted; kept with the classifier."""
        if self._unkept is not None:
            return self._unkept
        return 0.5 if self._desk is None else self._desk.threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        if self.has_classifier and threshold != self.threshold:
            self._unkept = min(max(float(threshold), 0.0), 1.0)
            self._moved = self._clock()
            self._review.threshold = self._unkept
            self.threshold_changed.emit(self._unkept)

    # ---- Scores ----

    def score(self) -> None:
        """Score the slices that have no score yet, along all axes people judged."""
        self._try(self._score)

    # ---- Audit ----

    def draw_audit(self, count: int = 50) -> None:
        """Draw a sample of the accepted slices, and have the review show it alone."""
        self._try(lambda: self._draw_audit(count))

    def show_audit(self) -> None:
        """Have the review show the newest sample alone, to go on with it."""
        audit = self.audit
        if audit is not None:
            self._review.axis = audit.places[0][1]
            self._review.set_sample(audit.places)

    def end_audit(self) -> None:
        """Have the review show all slices again."""
        self._review.set_sample(None)

    # ---- Handing over ----

    def set_teacher(self, folder: Path) -> None:
        """Say where the model lies that made the predictions."""
        desk = self._desk
        if desk is not None:
            self._try(lambda: self._search.learn(folder, desk))

    def add_model_folders(self, folders: Iterable[Path]) -> None:
        """Say where else models lie, such as those that the Segment dock knows."""
        self._search.add(folders)

    def hand_over(
        self, name: str = "", settings: Mapping[str, Any] | None = None
    ) -> None:
        """Write the student's recipe into the project, and start its training.

        Parameters
        ----------
        name
            Of the student; empty: the model's with ``-student`` behind it.
        settings
            In place of the recipe's own, with dots: ``{"training.epochs": 2}``.
        """
        self._try(lambda: self._hand_over(name, settings or {}))

    # ---- In the background ----

    def poll(self) -> None:
        """Look what is new: jobs, scores, a threshold that is to be kept."""
        self._detached.poll()
        if self._scoring is not None:
            self._worker.poll()
        now = self._clock()
        if self._counts_are_new and now - self._counted > _COUNT_EVERY_S:
            self._counts_are_new, self._counted = False, now
            self.counts_changed.emit()
            if self._audits:
                self.audit_changed.emit()
        if self._scores_are_new and now - self._showed > _SHOW_SCORES_EVERY_S:
            self._show_scores()
        if self._unkept is not None and now - self._moved > _KEEP_AFTER_S:
            self._keep_threshold()

    def close(self) -> None:
        """Keep what is not kept yet; training goes on without the viewer."""
        self._keep_threshold()
        self._review.scans_changed.disconnect(self._on_scans_changed)
        self._review.counts_changed.disconnect(self._on_counts_changed)
        self._worker.changed.disconnect(self._on_job_changed)
        self._detached.changed.disconnect(self._on_job_changed)
        if self._scoring is not None:
            self._worker.cancel(self._scoring)

    # ---- What is under review ----

    def _on_scans_changed(self) -> None:
        if self._desk is not None and self._desk.is_about(self._review):
            return
        self._keep_threshold()
        self._desk = GradingDesk.of(self._review)
        self._verdicts_are_new = True
        if self._desk is not None:
            self._follow_earlier(self._desk)
        self._show_classifier()
        if self._desk is not None and self._desk.notes:
            self._tell(" ".join(self._desk.notes))
        self.counts_changed.emit()

    def _on_counts_changed(self) -> None:
        self._verdicts_are_new = self._counts_are_new = True

    def _follow_earlier(self, desk: GradingDesk) -> None:
        """Follow what an earlier viewer started."""
        self._student = None
        try:
            if desk.kept.training and self._training is None:
                self._trained_for = desk
                self._training = self._detached.open(desk.run_of(desk.kept.training))
                self._on_job_changed(self._training)
            if desk.kept.student:
                run = desk.run_of(desk.kept.student) / RUN
                if (run / "config.yaml").exists():
                    self._student = self._detached.open(run)
        except KdsegError as error:
            desk.notes.append(str(error))

    def _show_classifier(self) -> None:
        """Tell whoever shows it, and the review, of the classifier there is now."""
        self._search.forget()
        self._audits = ()
        if self._desk is not None:
            desk = self._desk
            self._try(lambda: setattr(self, "_audits", desk.audits))
        if self.has_classifier:
            self._review.threshold = self.threshold
        self._show_scores(classifier=True)
        self.classifier_changed.emit()
        self.threshold_changed.emit(self.threshold)
        self.audit_changed.emit()

    def _show_scores(self, *, classifier: bool = False) -> None:
        self._scores_are_new, self._showed = False, self._clock()
        scored = None if self._desk is None else self._desk.scored
        if scored is None:
            if self._review.scores is not None:
                self._review.set_scores(None)
            return
        if scored.look() or classifier:
            self._review.set_scores(scored.scores if scored.done else None)
            self.scores_changed.emit()

    # ---- Jobs ----

    def _train(self, settings: Mapping[str, Any]) -> None:
        if self._desk is None or not self.ready:
            busy = "A classifier is being trained; wait for it."
            raise ProjectError(self.ready_text if self._not_ready else busy)
        run = self._desk.new_training(self._search.known(self._desk), settings)
        self._trained_for = self._desk
        self._training = self._detached.start(run)
        self.job_changed.emit(self._training)

    def _score(self) -> None:
        if self._desk is None or self._desk.scored is None:
            raise ProjectError("Train a classifier first; then it can score slices.")
        if self._scoring is not None:
            return
        if not self._desk.scored.missing:
            raise ProjectError("All slices have a score already.")
        self._scoring = self._worker.submit(self._desk.new_scoring())
        self.job_changed.emit(self._scoring)

    def _on_job_changed(self, job: Job) -> None:
        if job is self._scoring:
            self._scores_are_new = self._scores_are_new or any(
                event["event"] == "scored" for event in job.news
            )
            if job.ended:
                self._scoring = None
                self._end_scoring(job)
        elif job is self._training and job.ended:
            self._training = None
            self._end_training(job)
        elif job is not self._training and job is not self._student:
            return
        self.job_changed.emit(job)

    def _end_training(self, job: Job) -> None:
        desk, self._trained_for = self._trained_for, None
        if desk is None:
            return
        if job.state != "finished":
            self._try(lambda: desk.keep(training=""))
            self._tell(_ended("The training of the classifier", job))
            return
        if not self._try(lambda: desk.adopt(job.run.folder)):
            return
        if self._desk is not None and self._desk.key == desk.key:
            self._desk, self._unkept = desk, None
            self._verdicts_are_new = True
            self._show_classifier()
            if desk.scored is not None and desk.scored.missing:
                self.score()

    def _end_scoring(self, job: Job) -> None:
        self._show_scores()
        self.scores_changed.emit()
        if job.state != "finished":
            self._tell(_ended("The scoring", job))

    # ---- Private ----

    def _keep_threshold(self) -> None:
        threshold, self._unkept = self._unkept, None
        desk = self._desk
        if threshold is not None and desk is not None:
            self._try(lambda: desk.keep(threshold=threshold))

    def _draw_audit(self, count: int) -> None:
        desk = self._desk
        if desk is None or desk.classifier is None:
            raise ProjectError("Train a classifier first; then it can be checked.")
        self._keep_threshold()
        self._take_verdicts()
        axes, axis = desk.classifier.axes, self._review.axis
        now = datetime.now(UTC).isoformat(timespec="seconds")
        audit = desk.new_audit(count, axis if axis in axes else axes[0], now)
        keep(audit, desk.home)
        self._audits = (*self._audits, audit)
        self.show_audit()
        self.audit_changed.emit()

    def _hand_over(self, name: str, settings: Mapping[str, Any]) -> None:
        why_not = self.can_hand_over
        desk = self._desk
        teacher = None if desk is None else self._search.of(desk)
        if why_not or desk is None or teacher is None:
            raise ProjectError(why_not)
        self._keep_threshold()
        self._take_verdicts()
        recipe = write_recipe(desk.wish(teacher, name), settings)
        home = recipe.parent
        desk.keep(student=home.relative_to(desk.folder).as_posix())
        self._student = self._detached.fit(recipe, home / RUN)
        self._known.remember(self._student.run.folder)
        self.job_changed.emit(self._student)

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
        if text != self._status:
            self._status = text
            self.status_changed.emit(text)


def _ended(what: str, job: Job) -> str:
    return f"{what} was stopped." if job.state == "stopped" else job.error or job.state
