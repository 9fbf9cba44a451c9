"""P(good) of every slice: worked out, kept, written as a table, filtered."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from kdseg_train.config import Settings, parse
from kdseg_train.subjects import Subject, subjects
from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import DataSetError
from napari_kdseg.inference.forward import using_threads
from napari_kdseg.inference.quality import QualityClassifier, calibration_of
from napari_kdseg.models.model import Model
from napari_kdseg.review import scores as kept_scores
from napari_kdseg.runs.run import Run

SCORE_COLUMNS = ("case", "axis", "index", "p_good")
Row = tuple[str, int, int, float]
"""Case, axis and index of a slice, and P(good)."""


class ScoreConfig(Settings):
    """Judging every slice of predictions."""

    version: Literal[1] = 1
    command: Literal["quality-score"] = "quality-score"
    model: Path = Field(description="folder of the quality-classifier")
    images: Path | None = Field(
        None,
        description="project, data set or folder with the scans; none: where the "
        "predictions say that they were",
    )
    labels: Path = Field(description="predictions to be judged")
    predicted_by: str = Field(
        "",
        description="name or fingerprint of the model that made them, where several "
        "did",
    )
    cases: tuple[str, ...] | None = Field(None, description="only these; none: all")
    axes: tuple[Literal[0, 1, 2], ...] = Field(
        (0,), min_length=1, description="of the stored array"
    )
    scores: Path | None = Field(
        None,
        description="folder that keeps them scan by scan; what is there already is not "
        "worked out again. None: scores in the run",
    )
    device: str = Field("auto", description="auto, cpu or cuda[:N]")
    precision: str = Field(
        "auto",
        description="auto, float32, bfloat16 or float16; auto is float16 on a GPU",
    )
    threads: int | None = Field(None, ge=1, description="of the processor")


def score(run: Run) -> None:
    """Judge slices as a run's config says; ``RUN/scores.csv`` has all of them.

    Raises
    ------
    ModelError
        Where the model is no quality-classifier or takes other channels.
    DataSetError
        Where there is nothing to be judged.
    """
    config = parse(ScoreConfig, run.config, str(run.folder / "config.yaml"))
    config = config.model_copy(
        update={"scores": config.scores or run.folder / "scores"}
    )
    rows: list[Row] = []
    for one in scored(config, _OfRun(run)):
        run.event(
            "scored", case=one.case, axis=one.axis, slices=len(one.prob), file=one.file
        )
        rows += one.rows
    write_scores(run.folder / "scores.csv", rows)
    run.metric(stage="score", slices=len(rows))


class Watch:
    """Whom to tell how far it is, and whether to go on; this one listens to nobody."""

    def scans(self, done: int, total: int, case: str) -> None:
        """So many scans are done; this one comes next, or was the last."""

    def planes(self, done: int, total: int) -> None:
        """So many planes of a packed scan are converted; may raise to end it."""

    def warn(self, text: str) -> None:
        """Something odd does not end it."""

    def should_stop(self) -> bool:
        """Whether to stop at the next slices."""
        return False


class _OfRun(Watch):
    def __init__(self, run: Run) -> None:
        self._run = run
        self._place = {"case": 1, "cases": 1}

    def scans(self, done: int, total: int, case: str) -> None:
        self._run.check_stop()
        self._place = {"case": min(done + 1, total), "cases": total}
        self._run.progress(int(done == total), 1, case, **self._place)

    def planes(self, done: int, total: int) -> None:
        self._run.check_stop()
        self._run.progress(done, total, "converting", **self._place)

    def warn(self, text: str) -> None:
        self._run.warning(text)

    def should_stop(self) -> bool:
        return self._run.stop_requested()


@dataclass(frozen=True)
class Scored:
    """P(good) of the slices of one scan along one axis."""

    case: str
    axis: int
    prob: np.ndarray
    file: Path | None
    """Where it is kept."""

    @property
    def rows(self) -> list[Row]:
        """One a slice."""
        return [(self.case, self.axis, i, float(p)) for i, p in enumerate(self.prob)]


def scored(config: ScoreConfig, watch: Watch) -> Iterator[Scored]:
    """Judge slices scan by scan; what is kept already is not worked out again.

    A scan that is gone is left out, with a warning.

    Raises
    ------
    StopRequested
        Where the watch says so; finished scans are kept.
    """
    classifier = QualityClassifier.of(
        Model.open(config.model), config.device, config.precision
    )
    found = to_judge(config)
    for number, subject in enumerate(found):
        watch.scans(number, len(found), subject.case)
        if subject.missing:
            watch.warn(subject.missing)
        else:
            yield from _scan_scored(classifier, subject, config, watch)
    watch.scans(len(found), len(found), "")


def _scan_scored(
    classifier: QualityClassifier, subject: Subject, config: ScoreConfig, watch: Watch
) -> Iterator[Scored]:
    volume = labels = None
    for axis in config.axes:
        file = prob = None
        if config.scores is not None:
            digest = subject.labels_hash
            file = kept_scores.file_of(config.scores, subject.case, axis, digest)
            prob = kept_scores.read(file)
        if prob is None:
            if volume is None or labels is None:
                volume, labels = subject.open(classifier.card.classes, watch.planes)
            with using_threads(config.threads):
                prob = classifier.score(volume, labels, axis, watch.should_stop)
            if file is not None:
                kept_scores.keep(file, prob)
        yield Scored(subject.case, axis, prob, file)


def to_judge(config: ScoreConfig) -> list[Subject]:
    """Find the predictions that shall be judged, by case.

    Raises
    ------
    ModelError
        Where the model judges no slices.
    DataSetError
        Where there are none, or one that was named is not there.
    """
    calibration_of(Model.open(config.model).card)
    found = subjects(config.images, config.labels, config.predicted_by)
    if not found:
        raise DataSetError(
            f"{config.labels} has no prediction of a scan in {config.images}; they are "
            "matched by the names of their files, without the ending."
        )
    names = sorted(found) if config.cases is None else config.cases
    for name in names:
        if name not in found:
            raise DataSetError(
                f"{config.labels} has no prediction of case {name!r}; predict it first."
            )
    return [found[name] for name in names]


# ---- tables ----


def filter_scores(scores: Path, threshold: float, out: Path) -> tuple[int, int]:
    """Keep the slices with at least this P(good); give how many, and of how many.

    Raises
    ------
    DataSetError
        Where the table lacks a column or P(good) is no number.
    """
    rows = list(read_scores(scores))
    kept = [row for row in rows if row[3] >= threshold]
    write_scores(out, kept)
    return len(kept), len(rows)


def write_scores(out: Path, rows: Iterable[Row]) -> None:
    """Write case, axis, index and P(good), a slice a line; replaces a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SCORE_COLUMNS)
    writer.writerows((*place, f"{p_good:.6f}") for *place, p_good in rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out, text.getvalue())


def read_scores(path: Path) -> Iterator[Row]:
    """Read a table of scores.

    Raises
    ------
    DataSetError
        Where it lacks a column or P(good) is no number.
    """
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        for row in reader:
            case, axis, index, p_good = (row[name] for name in SCORE_COLUMNS)
            yield case, int(axis), int(index), float(p_good)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataSetError(
            f"{path} is no table of scores ({type(error).__name__}: {error}); its "
            f"columns are {', '.join(SCORE_COLUMNS)}. kdseg-train quality score makes "
            "one."
        ) from error
