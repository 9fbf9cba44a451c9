"""What a Grading tells: verdicts, classifier, scores, audits; it changes nothing."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_kdseg.review.audit import Audit, Findings, findings
from napari_kdseg.state.grading.desk import GradingDesk
from napari_kdseg.state.grading.record import Curves
from napari_kdseg.state.grading.teacher_search import TeacherSearch
from napari_kdseg.state.jobs import Job
from napari_kdseg.state.review.review import Review

NEEDED = 40
"""Verdicts of each kind before a classifier can be trained."""


@dataclass(frozen=True)
class AtThreshold:
    """What accepting from a threshold on would mean."""

    accepted: int
    """Slices of all predictions of the model, people's own verdicts put first."""
    of: int
    """Slices that have a score or a verdict."""
    precision: float
    """Share of good ones among the accepted, on the slices of the curves; NaN: none."""
    recall: float
    """Share of the good ones that are accepted."""


class GradingShown:
    """What is shown of the classifier of what is under review.

    Parameters
    ----------
    review
        What is judged.
    """

    def __init__(self, review: Review) -> None:
        self._review = review
        self._desk: GradingDesk | None = None
        self._search = TeacherSearch()
        self._training: Job | None = None
        self._scoring: Job | None = None
        self._student: Job | None = None
        self._audits: tuple[Audit, ...] = ()
        self._status = ""
        self._verdicts_are_new = False

    # ---- Training ----

    @property
    def ready(self) -> bool:
        """Whether there are verdicts enough, and nothing is being trained."""
        return not self._not_ready and self._training is None

    @property
    def ready_text(self) -> str:
        """How many verdicts there are of how many, or what else is missing."""
        if self._desk is None:
            return "Open predictions and judge some of their slices."
        self._take_verdicts()
        good, bad, scans = self._desk.tally
        text = f"{_of(good)} good, {_of(bad)} bad"
        if good + bad and not min(good, bad):
            said, other = ("good", "bad") if good else ("bad", "good")
            return (
                f"{text}: so far all slices are {said}, and a classifier learns from "
                f"both. Look for {other} ones: another order or filter may show them."
            )
        if min(good, bad) < NEEDED:
            return (
                f"{text}: a classifier can learn from {NEEDED} of each on. Judge more."
            )
        if scans < 2:
            return (
                f"{text}, all of one scan. A classifier is checked on scans that it "
                "did not see: judge slices of another scan."
            )
        return f"{text}, of {scans} scans."

    @property
    def _not_ready(self) -> bool:
        if self._desk is None:
            return True
        self._take_verdicts()
        good, bad, scans = self._desk.tally
        return min(good, bad) < NEEDED or scans < 2

    @property
    def training(self) -> Job | None:
        """The training that goes on; None: there is none."""
        return self._training

    @property
    def training_text(self) -> str:
        """What the training is at, in words; its error, where it failed."""
        job = self._training
        return "" if job is None else job.error or _stage_in_words(job.message)

    @property
    def scoring(self) -> Job | None:
        """The scoring that goes on."""
        return self._scoring

    @property
    def student(self) -> Job | None:
        """The student's training, newest; also when it has ended."""
        return self._student

    # ---- The classifier ----

    @property
    def has_classifier(self) -> bool:
        """Whether there is one for the predictions under review."""
        return self._desk is not None and self._desk.classifier is not None

    @property
    def about(self) -> str:
        """What it was trained on and when, in a sentence."""
        found = None if self._desk is None else self._desk.classifier
        return "" if found is None else found.about

    @property
    def curves(self) -> Curves | None:
        """How good it is."""
        found = None if self._desk is None else self._desk.classifier
        return None if found is None else found.curves

    @property
    def suggested(self) -> float:
        """The threshold that training chose."""
        found = None if self._desk is None else self._desk.classifier
        return 0.5 if found is None else found.suggested

    @property
    def suggested_because(self) -> str:
        """How training chose it."""
        found = None if self._desk is None else self._desk.classifier
        return "" if found is None else found.suggested_because

    def at(self, threshold: float) -> AtThreshold:
        """Say what a threshold would mean; quick enough for a slider."""
        if self._desk is None or self._desk.scored is None or self.curves is None:
            return AtThreshold(0, 0, math.nan, math.nan)
        self._take_verdicts()
        accepted, among = self._desk.scored.accepted(threshold)
        return AtThreshold(accepted, among, *self.curves.at(threshold))

    def accepted_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds from 0 to 1, and how many slices each would accept."""
        if self._desk is None or self._desk.scored is None or not self.scored[0]:
            return np.empty(0), np.empty(0, int)
        self._take_verdicts()
        return self._desk.scored.curve()

    # ---- Scores ----

    @property
    def scored(self) -> tuple[int, int]:
        """Slices with a score, and those that shall have one."""
        if self._desk is None or self._desk.scored is None:
            return 0, 0
        return self._desk.scored.done, self._desk.scored.total

    # ---- Audit ----

    @property
    def audit(self) -> Audit | None:
        """The newest sample of this classifier's."""
        return self._audits[-1] if self._audits else None

    @property
    def findings(self) -> Findings | None:
        """What people found in it so far."""
        return None if self.audit is None else self._findings(self.audit)

    @property
    def audits(self) -> tuple[tuple[Audit, Findings], ...]:
        """All of this classifier's, the newest last."""
        return tuple((audit, self._findings(audit)) for audit in self._audits)

    # ---- Handing over ----

    @property
    def can_hand_over(self) -> str:
        """Why accepted slices cannot be handed to a student; empty where they can."""
        if self._desk is None or self._desk.classifier is None:
            return "Train a classifier first: it says which slices are accepted."
        if self._student is not None and not self._student.ended:
            return "A student is being trained."
        return self._search.refusal(self._desk)

    @property
    def teacher(self) -> Path | None:
        """The folder of the model that made the predictions; None: to be asked for."""
        if self._desk is None or self._desk.classifier is None:
            return None
        found = self._search.of(self._desk)
        return None if found is None else found.folder

    @property
    def hand_over_command(self) -> str:
        """What repeats the student's training in a shell; empty before."""
        return "" if self._student is None else self._student.command_line

    @property
    def status(self) -> str:
        """What there is to tell of the last action; may be empty."""
        return self._status

    # ---- Private ----

    def _take_verdicts(self) -> None:
        if self._verdicts_are_new and self._desk is not None:
            self._verdicts_are_new = False
            self._desk.take_verdicts(self._review.verdicts)

    def _findings(self, audit: Audit) -> Findings:
        self._take_verdicts()
        return findings(audit, () if self._desk is None else self._desk.verdicts)


def _of(count: int) -> str:
    return f"{count} (of {NEEDED})" if count < NEEDED else str(count)


def _stage_in_words(stage: str) -> str:
    """Say of which of its networks a training is at work on, where that is it."""
    if stage == "read":
        return "Reading the slices that were judged."
    if stage == "quality":
        return "Training the network that is kept."
    found = re.fullmatch(r"quality-fold-(\d+)-of-(\d+)", stage)
    if found is None:
        return stage
    return (
        f"Training network {found[1]} of {found[2]} that are checked on scans they did "
        "not see."
    )
