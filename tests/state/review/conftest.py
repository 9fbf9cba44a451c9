"""Predictions to judge, and somebody who judges them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_predictions import write_prediction
from sittings import SHAPE, Clock, labels_of, sitting

from napari_kdseg.state.review.review import Review


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two scans of eight slices; six of one and four of the other show something."""
    unsure = np.zeros(SHAPE, np.float32)
    unsure[5], unsure[2] = 0.9, 0.6
    folder = tmp_path / "out"
    write_prediction(folder, "a", labels_of(1, 2, 3, 4, 5, 6), uncertainty=unsure)
    write_prediction(folder, "b", labels_of(2, 3, 4, 5))
    return folder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def review(out: Path, clock: Clock) -> Iterator[Review]:
    """A sitting of Ada's, in sequence, with all that is known of the slices."""
    made = sitting(out, clock)
    yield made
    made.close()
