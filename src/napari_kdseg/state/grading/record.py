"""What is kept of a project's classifiers, and what their runs tell.

::

    review/classifier.json        by model that was judged: the run of its classifier,
                                  and the threshold that a person picked
           scores/CLASSIFIER/     P(good) of every slice
           audit-NUMBER.json      samples of what was accepted
    runs/quality-NUMBER/          a classifier in `model`, what it learnt from in
                                  `verdicts.csv`, what it says of slices that it was not
                                  trained on in `validation.csv`
"""

import csv
import io
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import ReviewError
from napari_kdseg.models.model import Model
from napari_kdseg.review.curves import (
    PrecisionRecall,
    Reliability,
    Roc,
    auroc,
    precision_recall,
    reliability,
    roc,
)

FILE = "classifier.json"
HELD_OUT = "validation.csv"
VERDICTS = "verdicts.csv"
_MEASURED_ON = {
    "test": "slices of scans that neither training nor threshold saw",
    "validation": "slices of scans that training did not see; the threshold was chosen "
    "on them",
    "out-of-fold": "slices, each by a classifier that did not see its scan; the "
    "threshold was chosen on them",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Kept(_Part):
    """What is kept of the classifier of one model's predictions."""

    run: str = Field("", description="its run, as seen from the folder under review")
    threshold: float | None = Field(None, description="none: the one training chose")
    training: str = Field("", description="run of a training that goes on")
    student: str = Field("", description="folder of the newest student")


class Document(_Part):
    """What ``classifier.json`` holds."""

    version: Literal[1] = 1
    models: dict[str, Kept] = Field({}, description="by the model's fingerprint")

    @classmethod
    def read(cls, home: Path) -> "Document":
        """Read it; an empty one where there is none.

        Raises
        ------
        ReviewError
            Where it is damaged, or of a newer version.
        """
        path = home / FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise ReviewError(
                f"{path} cannot be used ({_in_brief(error)}); it says which classifier "
                "belongs to the project. Move it away and train one anew; no verdict "
                "is lost."
            ) from error

    def write(self, home: Path) -> None:
        """Write it, whole or not at all.

        Raises
        ------
        ReviewError
            Where that cannot be.
        """
        path = home / FILE
        try:
            home.mkdir(parents=True, exist_ok=True)
            write_text_atomic(path, self.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise ReviewError(
                f"{path} could not be written ({error.strerror}), so the threshold is "
                "not kept. Make room, or ask for the right to write."
            ) from error

    def with_kept(self, fingerprint: str, kept: Kept) -> "Document":
        """Give the same with other news of one model."""
        return Document(models={**self.models, fingerprint: kept})


def threshold_in_words(threshold: float) -> str:
    """Write a threshold so that the next step of a slider reads otherwise.

    Nor does one that lies between two steps read as either: 0.435 and 0.4352.
    """
    whole, _, decimals = f"{threshold:.4f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"


@dataclass(frozen=True)
class Curves:
    """How well the classifier judges slices of scans that it was not trained on."""

    measured_on: str
    """Which slices these are, in words for a caption."""
    score: np.ndarray
    """P(good) of each of them."""
    good: np.ndarray
    """What people said."""

    @property
    def auroc(self) -> float:
        """Area under the ROC curve; NaN where there is only one kind of slice."""
        return auroc(self.score, self.good)

    @property
    def roc(self) -> Roc:
        """Shares of good and of bad slices that are accepted."""
        return roc(self.score, self.good)

    @property
    def precision_recall(self) -> PrecisionRecall:
        """Precision and recall by threshold."""
        return precision_recall(self.score, self.good)

    @property
    def reliability(self) -> Reliability:
        """The calibration curve."""
        return reliability(self.score, self.good)

    def at(self, threshold: float) -> tuple[float, float]:
        """Give precision and recall of accepting from a threshold on; NaN: none."""
        kept = self.score >= threshold
        precision = float(self.good[kept].mean()) if kept.any() else math.nan
        recall = float(kept[self.good].mean()) if self.good.any() else math.nan
        return precision, recall


@dataclass(frozen=True)
class Classifier:
    """A classifier that was trained here."""

    run: Path
    model: Model
    curves: Curves
    about: str
    axes: tuple[int, ...]
    """Of the slices that it learnt from."""

    @classmethod
    def of(cls, run: Path) -> "Classifier":
        """Read what a finished run has left.

        Raises
        ------
        ModelError, ReviewError
            Where its model or its table is missing or damaged.
        """
        model = Model.open(run / "model")
        rows = _rows(run / HELD_OUT)
        learnt = _rows(run / VERDICTS)
        return cls(
            run,
            model,
            _curves(rows, run / HELD_OUT),
            _about(model, learnt),
            tuple(sorted({int(row["axis"]) for row in learnt})) or (0,),
        )

    @property
    def fingerprint(self) -> str:
        """Of the classifier."""
        return self.model.fingerprint

    @property
    def suggested(self) -> float:
        """The threshold that training chose."""
        calibration = self.model.card.calibration
        return 0.5 if calibration is None else calibration.threshold

    @property
    def suggested_because(self) -> str:
        """How training chose it."""
        calibration = self.model.card.calibration
        return "" if calibration is None else calibration.chosen


def _curves(rows: list[dict[str, str]], path: Path) -> Curves:
    """Curves on the slices that say most: those that nothing was fitted to, if any."""
    try:
        parts = Counter(row["part"] for row in rows)
        part = next(name for name in _MEASURED_ON if parts[name])
        own = [row for row in rows if row["part"] == part]
        scans = len({row["case"] for row in own})
        words = f"{len(own)} {_MEASURED_ON[part]} ({scans} scans)"
        return Curves(
            words,
            np.array([float(row["p_good"]) for row in own]),
            np.array([row["good"] == "1" for row in own], dtype=bool),
        )
    except (KeyError, ValueError, StopIteration) as error:
        raise ReviewError(
            f"{path} is no table of judged slices ({type(error).__name__}: {error}). "
            "Train the classifier anew."
        ) from error


def _about(model: Model, learnt: list[dict[str, str]]) -> str:
    words = Counter(row["verdict"] for row in learnt)
    scans = len({row["case"] for row in learnt})
    day = model.card.provenance.created_utc[:10]
    return (
        f"Trained {f'on {day} ' if day else ''}on {words['good']} good and "
        f"{words['bad']} bad verdicts of {scans} scans."
    )


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReviewError(
            f"{path} cannot be read ({error}). Train the classifier anew."
        ) from error


def _in_brief(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
