"""What tests of a review share: a clock, made labels, and what a reviewer does."""

from pathlib import Path
from typing import Any

import numpy as np
from made_predictions import write_prediction

from napari_kdseg.project import Project
from napari_kdseg.review.queue import Order
from napari_kdseg.review.verdicts import About
from napari_kdseg.state.review.review import Review
from napari_kdseg.volumes.scan import NewScan, VolumeFile

SHAPE = (8, 5, 6)
RNG = np.random.default_rng(0)


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def labels_of(*filled: int) -> np.ndarray:
    """Labels in these slices along z, in one corner of each."""
    labels = np.zeros(SHAPE, np.uint8)
    for z in filled:
        labels[z, 0, : z + 1] = 1
    return labels


def sitting(
    out: Path, clock: Clock, name: str = "Ada", order: Order = "sequence"
) -> Review:
    made = Review(clock=clock)
    made.open_folder(out)
    settle(made)
    made.order = order
    made.set_sample(None)  # from the first slice on
    assert made.begin(name), made.status
    return made


def settle(review: Review) -> None:
    """Let what is waiting in the background be done, and told."""
    while review.work():
        pass
    review.poll()


def place(review: Review) -> tuple[str, int]:
    assert review.current is not None
    return review.current.case, review.current.index


def places(abouts: tuple[About, ...]) -> list[tuple[str, int]]:
    return [(about.case, about.index) for about in abouts]


def told(review: Review, signal: str) -> list[Any]:
    """Count how often a signal is emitted from now on."""
    seen: list[Any] = []
    getattr(review, signal).connect(lambda *_: seen.append(1))
    return seen


def judge_all_good(review: Review) -> None:
    """Accept a contact sheet as it is."""
    assert review.judge_page(review.page, set())


def add_predicted_scan(project: Project) -> Path:
    """Put a scan with a prediction into a project; give the scan."""
    write_prediction(project.folder / "predictions", "a", labels_of(1, 2))
    scan = project.folder / "scans" / "a.nii.gz"
    project.add_scan(NewScan((VolumeFile(scan),), case="a"))
    return scan
