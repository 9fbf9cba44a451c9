"""One model's predictions under review: verdicts, their classifier, its scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from napari_kdseg.cores import cores_beside_viewer
from napari_kdseg.errors import KdsegError, ProjectError
from napari_kdseg.models.model import Model
from napari_kdseg.project_folder import is_project
from napari_kdseg.review.audit import Audit, audits_in, next_number, sample
from napari_kdseg.review.opinions import decided
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.verdicts import Place, Verdict, write_verdicts
from napari_kdseg.runs.run import Run
from napari_kdseg.state.grading.handing_over import Wish, put
from napari_kdseg.state.grading.record import (
    VERDICTS,
    Classifier,
    Document,
    Kept,
    threshold_in_words,
)
from napari_kdseg.state.grading.scores import ScoredSlices
from napari_kdseg.state.review.found import Found
from napari_kdseg.state.review.review import Review

_LETTERS = 16


@dataclass(frozen=True)
class Key:
    """What a desk is about; another one is needed where this differs."""

    folder: Path
    model: str
    labels: tuple[tuple[str, str, str], ...]
    """Case, hash of the labels and why they cannot be shown, of each prediction."""


class GradingDesk:
    """What is known of the predictions of one model, and where it is kept.

    Parameters
    ----------
    folder
        What is under review.
    home
        Where the review is kept.
    predictions
        Of one model; one at least.
    """

    def __init__(
        self, folder: Path, home: Path, predictions: tuple[Prediction, ...]
    ) -> None:
        self.folder, self.home = folder, home
        self.predictions = predictions
        self.fingerprint = predictions[0].fingerprint
        self.model = predictions[0].model
        self.key = _key(folder, predictions)
        self.notes: list[str] = []
        self.kept = Kept()
        self.classifier: Classifier | None = None
        self.scored: ScoredSlices | None = None
        self.verdicts: tuple[Verdict, ...] = ()
        self.words: Mapping[Place, bool] = {}
        self._read()

    @classmethod
    def of(cls, review: Review) -> "GradingDesk | None":
        """Lay out what is under review; None where nothing is."""
        found = Found(review.predictions).models.get(review.model, ())
        if review.folder is None or review.home is None or not found:
            return None
        return cls(review.folder, review.home, found)

    def is_about(self, review: Review) -> bool:
        """Whether the same predictions are under review still."""
        found = Found(review.predictions).models.get(review.model, ())
        return review.folder is not None and self.key == _key(review.folder, found)

    # ---- Verdicts ----

    def take_verdicts(self, verdicts: tuple[Verdict, ...]) -> None:
        """Take the verdicts that count, of which those on these predictions stay."""
        there = {(one.case, one.labels_hash) for one in self.predictions}
        self.verdicts = tuple(
            one for one in verdicts if (one.case, one.labels_hash) in there
        )
        self.words = decided(self.verdicts)
        if self.scored is not None:
            self.scored.set_words(self.words)

    @property
    def tally(self) -> tuple[int, int, int]:
        """Good slices, bad slices, and the scans that they are of."""
        good = sum(self.words.values())
        return good, len(self.words) - good, len({place[0] for place in self.words})

    # ---- Runs ----

    def new_training(self, teacher: Model | None, settings: Mapping[str, Any]) -> Run:
        """Prepare the training of a classifier on the verdicts there are.

        Raises
        ------
        KdsegError
            Where it cannot be written.
        """
        home = self._new_run("quality")
        config: dict[str, Any] = {
            "version": 1,
            "command": "quality-fit",
            "reviews": str(home / VERDICTS),
            **self._places(),
            "segmentation": None if teacher is None else str(teacher.folder),
            "name": f"{self.model}-quality"[:80],
            "threads": cores_beside_viewer(),
        }
        for key, value in settings.items():
            put(config, key, value)
        run = Run.create(home, config)
        try:
            write_verdicts(home / VERDICTS, self.verdicts)
        except OSError as error:
            raise ProjectError(
                f"{home} could not be written ({error.strerror}); a classifier is made "
                "there. Make room, or ask for the right to write."
            ) from error
        self.keep(training=self._seen(home))
        return run

    def new_scoring(self) -> Run:
        """Prepare the scoring of the slices that have no score."""
        assert self.classifier is not None
        assert self.scored is not None
        return Run.create(
            self._new_run("scores"),
            {
                "version": 1,
                "command": "quality-score",
                "model": str(self.classifier.model.folder),
                **self._places(),
                "cases": list(self.scored.missing),
                "axes": list(self.scored.axes),
                "scores": str(self.scored.folder),
                "threads": cores_beside_viewer(),
            },
        )

    def _places(self) -> dict[str, Any]:
        project = is_project(self.folder)
        results = self.folder / "predictions" if project else self.folder
        return {
            "images": str(self.folder) if project else None,
            "labels": str(results),
            "predicted_by": self.fingerprint,
        }

    def _new_run(self, kind: str) -> Path:
        runs = (self.folder if is_project(self.folder) else self.home) / "runs"
        number = 1
        while (runs / f"{kind}-{number}").exists():
            number += 1
        return runs / f"{kind}-{number}"

    # ---- What is kept ----

    def keep(self, **changes: Any) -> None:
        """Note news of the classifier.

        Raises
        ------
        ReviewError
            Where it cannot be written.
        """
        document = Document.read(self.home)  # another viewer may have written it
        known = document.models.get(self.fingerprint, Kept())
        self.kept = known.model_copy(update=changes)
        document.with_kept(self.fingerprint, self.kept).write(self.home)

    def adopt(self, run: Path) -> None:
        """Take the classifier of a finished training.

        Raises
        ------
        KdsegError
            Where it left none.
        """
        Classifier.of(run)  # refuses what is damaged
        self.keep(run=self._seen(run), threshold=None, training="")
        self._read()

    def run_of(self, seen: str) -> Path:
        """Where a run lies that is noted."""
        return self.folder / seen

    def _seen(self, run: Path) -> str:
        return run.relative_to(self.folder).as_posix()

    def _read(self) -> None:
        """Look up the classifier; what is wrong with it goes to the notes."""
        try:
            document = Document.read(self.home)
            self.kept = document.models.get(self.fingerprint, Kept())
            self.classifier = None
            if self.kept.run:
                self.classifier = Classifier.of(self.run_of(self.kept.run))
        except KdsegError as error:
            self.notes.append(str(error))
        self.scored = self._scored()

    def _scored(self) -> ScoredSlices | None:
        if self.classifier is None:
            return None
        name = self.classifier.fingerprint[:_LETTERS]
        folder = self.home / "scores" / name
        scored = ScoredSlices(folder, self.predictions, self.classifier.axes)
        scored.look()
        scored.set_words(self.words)
        return scored

    @property
    def threshold(self) -> float:
        """The one that was picked, else the one that training chose."""
        if self.kept.threshold is not None:
            return self.kept.threshold
        return 0.5 if self.classifier is None else self.classifier.suggested

    # ---- Audits ----

    @property
    def audits(self) -> tuple[Audit, ...]:
        """All of this classifier's, on these predictions; the newest last.

        Raises
        ------
        ReviewError
            Where a record is damaged.
        """
        if self.classifier is None:
            return ()
        there = {one.case: one.labels_hash for one in self.predictions}
        return tuple(
            one
            for one in audits_in(self.home)
            if one.classifier == self.classifier.fingerprint
            and all(there.get(case) == digest for case, digest in one.labels.items())
        )

    def new_audit(self, count: int, axis: int, created_utc: str) -> Audit:
        """Draw a sample of what is accepted along an axis, by nobody's word.

        Raises
        ------
        ReviewError
            Where nothing is accepted.
        """
        assert self.classifier is not None
        assert self.scored is not None
        judged = {one.place for one in self.verdicts}
        accepted = [
            place
            for place in self.scored.by_machine(self.threshold)
            if place[1] == axis and place not in judged
        ]
        if not accepted:
            raise ProjectError(
                "No slice that nobody judged is accepted from "
                f"{threshold_in_words(self.threshold)} on, so there is nothing to "
                "check. Pick a lower threshold, or score more slices."
            )
        number = next_number(self.home)
        seed = crc32(f"{self.classifier.fingerprint} {number}".encode())
        places = sample(accepted, count, seed)
        cases = {place[0] for place in places}
        return Audit(
            number=number,
            classifier=self.classifier.fingerprint,
            model=self.model,
            threshold=self.threshold,
            accepted=len(accepted),
            seed=seed,
            places=places,
            labels={p.case: p.labels_hash for p in self.predictions if p.case in cases},
            created_utc=created_utc,
        )

    # ---- Handing over ----

    def wish(self, teacher: Model, name: str) -> Wish:
        """Say what a student would get."""
        assert self.classifier is not None
        return Wish(
            folder=self.folder,
            teacher=teacher,
            classifier=self.classifier.model.folder,
            threshold=self.threshold,
            predictions=self.predictions,
            verdicts=self.verdicts,
            name=name,
        )


def _key(folder: Path, predictions: tuple[Prediction, ...]) -> Key:
    labels = tuple((one.case, one.labels_hash, one.missing) for one in predictions)
    return Key(folder, predictions[0].fingerprint if predictions else "", labels)
