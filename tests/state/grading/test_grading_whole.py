"""From verdicts to a student with the real commands, in processes of their own."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made_predictions import CLASSES, grid_of, write_prediction

from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, Tiling, save_model
from napari_kdseg.models.networks import build
from napari_kdseg.project import Project
from napari_kdseg.review.verdicts import Word
from napari_kdseg.state.grading.grading import Grading
from napari_kdseg.state.jobs import Worker
from napari_kdseg.state.review.review import Review
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.scan import NewScan, VolumeFile

WAIT_S = 300.0
SHAPE = (30, 32, 32)
FEW = {"epochs": 4, "iterations_per_epoch": 8, "batch": 8}


def made(project: Path, case: str, teacher: Model) -> None:
    """A bright disc; predicted where it is on even slices, elsewhere on odd ones."""
    generator = np.random.default_rng(ord(case[0]))
    y, x = np.ogrid[:32, :32]
    truth = np.zeros(SHAPE, np.uint8)
    truth[:] = (y - 12) ** 2 + (x - 12) ** 2 < 60
    guess = truth.copy()
    guess[1::2] = np.roll(guess[1::2], 14, axis=1)
    image = 3 * truth + generator.normal(size=SHAPE) / 4
    place = project.parent / "scans" / f"{case}.nii.gz"
    place.parent.mkdir(exist_ok=True)
    write_volume(place, image.astype(np.float32), grid_of(SHAPE))
    labels = None
    if case == "drawn":
        write_labels(
            place.parent / "drawn-truth.nii.gz", truth, grid_of(SHAPE), CLASSES
        )
        labels = VolumeFile(place.parent / "drawn-truth.nii.gz")
    else:
        write_prediction(
            project / "predictions",
            case,
            guess,
            model=teacher.card.name,
            scan=place,
            fingerprint=teacher.fingerprint,
        )
    with Project.open(project) as opened:
        opened.add_scan(NewScan((VolumeFile(place),), labels))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "fish"
    Project.create(folder).close()
    spec = NetworkSpec(
        name="unet", parameters={"width": 4, "stages": 3, "dimensions": 2}
    )
    card = ModelCard(
        name="teacher",
        network=spec,
        channels=("image",),
        classes=CLASSES,
        tiling=Tiling(tile_vox=(32, 32), overlap=0.25),
    )
    torch.manual_seed(0)
    teacher = save_model(folder / "models" / "teacher", card, build(spec, 1, 3))
    for case in ("a", "b", "c", "drawn"):
        made(folder, case, teacher)
    return folder


def wait_for(grading: Grading, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, grading.status
        grading.poll()
        time.sleep(0.02)


@pytest.mark.slow
def test_from_verdicts_to_a_student(project: Path) -> None:
    review = Review()
    review.open_folder(project)
    review.begin("Ada")
    for case in ("a", "b", "c"):
        (one,) = (p for p in review.predictions if p.case == case)
        for index in range(28):
            word: Word = "bad" if index % 2 else "good"
            review.go_to(one.about(0, index))
            review.judge(word)
    worker = Worker()
    grading = Grading(review, worker)
    settings = {f"training.{key}": value for key, value in FEW.items()}
    grading.train(
        {"size_vox": 32, "width": 4, "training.learning_rate": 0.003, **settings}
    )
    assert grading.training is not None, grading.status
    wait_for(grading, lambda: grading.training is None and grading.scoring is None)
    assert grading.status == ""
    assert grading.scored == (90, 90)
    assert grading.curves is not None
    assert "by a classifier that did not see its scan" in grading.curves.measured_on
    scores = review.scores
    assert scores is not None
    even = np.mean([score for place, score in scores.items() if place[2] % 2 == 0])
    odd = np.mean([score for place, score in scores.items() if place[2] % 2 == 1])
    assert even > odd

    grading.threshold = 0.5
    grading.hand_over(
        "small",
        {
            "device": "cpu",
            "training.epochs": 1,
            "training.iterations_per_epoch": 4,
            "training.batch": 4,
        },
    )
    assert grading.student is not None, grading.status
    wait_for(grading, lambda: grading.student is not None and grading.student.ended)
    assert grading.student.state == "finished", grading.student.error
    student = Model.open(project / "runs" / "small" / "run" / "model")
    assert student.card.name == "small"
    assert student.card.classes.names == ("gut", "heart")
    grading.close()
    worker.close()
    review.close()
