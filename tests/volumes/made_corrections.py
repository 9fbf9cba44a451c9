"""Predictions to be corrected, and their corrections."""

from pathlib import Path

import numpy as np
from made_predictions import write_prediction

from napari_kdseg.review.arrays import Opener
from napari_kdseg.review.correction_copy import Copy
from napari_kdseg.review.predictions import Prediction, predictions_in

SHAPE = (20, 70, 66)
SPACING_MM = (2.0, 1.5, 1.0)


def predicted() -> np.ndarray:
    """Two organs in the slices 4 to 15."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:16, 10:30, 10:30] = 1
    labels[4:16, 35:60, 20:50] = 2
    return labels


def predict(project: Path, ending: str, labels: np.ndarray | None = None) -> None:
    """Publish a prediction of the scan `fish`, by the model `student`."""
    write_prediction(
        project / "predictions",
        "fish",
        predicted() if labels is None else labels,
        ending=ending,
        spacing_mm=SPACING_MM,
    )


def the_prediction(project: Path) -> Prediction:
    """Find it."""
    (prediction,) = predictions_in(project / "predictions")
    return prediction


def open_copy(project: Path) -> Copy:
    """Open its correction, for Ann."""
    copy = Copy.open(project, the_prediction(project), Opener())
    copy.by = "Ann"
    return copy


def save(copy: Copy) -> list[float]:
    """Write the labels; gives the shares that were told."""
    return list(copy.saving())
