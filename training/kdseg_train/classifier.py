"""Training the Quality Classifier on judged slices.

Cross-entropy with both verdicts weighing the same in all, however rare one is; scans
are divided, never slices; the answer is calibrated and the threshold chosen on the
scans kept apart.
"""

import csv
import io
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from kdseg_train.augment import Sample, augmented
from kdseg_train.calibration import Rule, calibrate, table
from kdseg_train.config import Augmentation, Settings, Training
from kdseg_train.loop import Stage, seeded
from kdseg_train.loop import train as train_stage
from kdseg_train.patches import Batch
from kdseg_train.verdicts import check_both
from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import DataSetError
from napari_kdseg.inference.quality import Judged, classifier_input
from napari_kdseg.models.card import Calibration, ModelCard, Provenance, Tiling
from napari_kdseg.models.model import Model, save_model
from napari_kdseg.models.networks import build_classifier
from napari_kdseg.models.parameters import NetworkSpec
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Preprocessing

NETWORK = "resnet18-quality"
STAGE = "quality"
SPLITS_TRIED = 1000
SLICES_AT_ONCE = 32


class ClassifierTraining(Training):
    """Steps of the Quality Classifier; the paper gives none of these numbers."""

    epochs: int = Field(20, ge=1)
    iterations_per_epoch: int = Field(50, ge=1)
    batch: int = Field(32, ge=1)
    weight_decay: float = Field(1e-4, ge=0)
    amsgrad: bool = Field(default=False, description="of adam")
    schedule: Literal["plateau", "poly", "constant"] = "poly"


class ClassifierSettings(Settings):
    """The Quality Classifier; the paper names its input and nothing else."""

    size_vox: int = Field(
        128, ge=32, description="slices are stretched to this many pixels, y and x"
    )
    width: int = Field(
        64, ge=1, description="channels of the first stage; 64: ResNet-18"
    )
    validation: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="share of the scans, at least one, for calibration and threshold",
    )
    threshold_rule: Rule = Field(
        "youden",
        description="youden: most good accepted less bad accepted; precision: lowest "
        "threshold from which on so many accepted slices are good",
    )
    precision: float = Field(
        0.95, gt=0, le=1, description="share of good slices that the rule asks for"
    )
    augmentation: Augmentation = Augmentation()
    training: ClassifierTraining = ClassifierTraining()

    @field_validator("size_vox")
    @classmethod
    def _halved_five_times(cls, size: int) -> int:
        if size % 32:
            raise ValueError("size_vox is a multiple of 32, as 96, 128 or 160")
        return size


@dataclass(frozen=True)
class JudgedSlice:
    """A slice of a scan and what it was found to be."""

    case: str
    seen: Judged
    good: bool


@dataclass(frozen=True)
class Purpose:
    """What the classifier is for, and where it is kept.

    Attributes
    ----------
    folder
        Of the model; taken as it is where it exists.
    metrics
        The table of how good it is.
    """

    folder: Path
    metrics: Path
    name: str
    channels: tuple[str, ...]
    classes: LabelSet
    preprocessing: Preprocessing
    provenance: Provenance
    licence: str = "not stated"


def train_classifier(
    run: Run,
    slices: Sequence[JudgedSlice],
    purpose: Purpose,
    settings: ClassifierSettings,
    *,
    seed: int,
    device: torch.device,
) -> Model:
    """Train on some scans, calibrate on the others, keep as a model folder.

    Raises
    ------
    DataSetError
        Where the slices cannot be divided by scan so that both parts have good and
        bad ones.
    """
    card = _card(purpose, settings)
    training, validation = divided(slices, settings.validation, seed)
    organs = len(purpose.classes.classes)
    with seeded(seed, STAGE):
        network = build_classifier(
            card.network, len(purpose.channels), purpose.classes.count
        ).to(device)
    share = sum(one.good for one in training) / len(training)

    def objective(batch: Batch) -> dict[str, Tensor]:
        return {
            "cross_entropy": balanced_cross_entropy(
                network(batch.image).float(), batch.labels.float(), share
            )
        }

    plain = settings.model_copy(update={"augmentation": Augmentation(probability=0)})
    train_stage(
        Stage(
            STAGE,
            network,
            objective,
            JudgedSource(training, organs, settings, seed),
            settings.training,
            JudgedSource(validation, organs, plain, seed),
        ),
        run,
        device,
    )
    answer = _answers(network, validation, organs, device)
    good = np.array([one.good for one in validation])
    calibration, prob = calibrate(
        answer, good, settings.threshold_rule, settings.precision
    )
    rows = table(prob, good)
    _write(purpose.metrics, rows)
    run.metric(
        stage=STAGE,
        auroc=float(rows[0]["value"]),
        threshold=calibration.threshold,
        chosen=calibration.chosen,
        slices=len(slices),
        good=sum(one.good for one in slices),
    )
    finished = card.model_copy(update={"calibration": calibration})
    return save_model(purpose.folder, finished, network)


def balanced_cross_entropy(
    answer: Float[Tensor, " B"], good: Float[Tensor, " B"], share_good: float
) -> Float[Tensor, ""]:
    """Binary cross-entropy in which good and bad weigh the same over all slices.

    A good slice weighs ``1 / (2 share_good)``, a bad one ``1 / (2 (1 - share_good))``.
    """
    weight = torch.where(good > 0.5, 0.5 / share_good, 0.5 / (1 - share_good))
    return functional.binary_cross_entropy_with_logits(answer, good, weight)


def divided(
    slices: Sequence[JudgedSlice], validation: float, seed: int
) -> tuple[list[JudgedSlice], list[JudgedSlice]]:
    """Training and validation slices, divided by scan; both have good and bad ones.

    The scans are shuffled until that is so.

    Raises
    ------
    DataSetError
        Where no such division was found.
    """
    check_both([one.good for one in slices], "what was judged")
    cases = sorted({one.case for one in slices})
    kept = max(1, round(validation * len(cases)))
    rng = random.Random(seed)
    for _ in range(SPLITS_TRIED):
        rng.shuffle(cases)
        apart = set(cases[:kept])
        parts = (
            [one for one in slices if one.case not in apart],
            [one for one in slices if one.case in apart],
        )
        if all(len({one.good for one in part}) == 2 for part in parts):
            return parts
    raise DataSetError(
        f"{len(slices)} judged slices of {len(cases)} scans cannot be divided by scan "
        f"with {kept} for validation so that both parts hold good and bad slices; "
        "judge slices of more scans."
    )


class JudgedSource:
    """Batches of judged slices, each drawn with the same probability, by counter."""

    def __init__(
        self,
        slices: Sequence[JudgedSlice],
        organs: int,
        settings: ClassifierSettings,
        seed: int,
    ) -> None:
        self.slices = slices
        self.organs = organs
        self.batch_size = settings.training.batch
        self.augmentation = settings.augmentation
        self.key = np.array([seed, zlib.crc32(STAGE.encode())], dtype=np.uint64)

    def batch(self, step: int) -> Batch:
        """Batch of a step: image and masks as channels, 1 for good as labels."""
        first = step * self.batch_size
        samples, good = zip(
            *(self._sample(first + i) for i in range(self.batch_size)), strict=True
        )
        image = torch.stack([sample.image for sample in samples])
        labels = torch.stack([sample.labels for sample in samples])
        return Batch(
            classifier_input(image, labels, self.organs),
            torch.tensor(good, dtype=torch.int64),
            torch.ones(self.batch_size, self.organs, dtype=torch.bool),
            step,
        )

    def _sample(self, index: int) -> tuple[Sample, bool]:
        counter = np.array([0, 0, 0, index], dtype=np.uint64)
        rng = np.random.Generator(np.random.Philox(key=self.key, counter=counter))
        one = self.slices[int(rng.integers(len(self.slices)))]
        sample = Sample(
            torch.from_numpy(one.seen.image), torch.from_numpy(one.seen.labels).long()
        )
        darkest = float(one.seen.image.min())
        return augmented(sample, self.augmentation, rng, pad_value=darkest), one.good


@torch.inference_mode()
def _answers(
    network: torch.nn.Module,
    slices: Sequence[JudgedSlice],
    organs: int,
    device: torch.device,
) -> np.ndarray:
    """What the network says of each slice, before calibration."""
    network.eval()
    found = []
    for start in range(0, len(slices), SLICES_AT_ONCE):
        part = [one.seen for one in slices[start : start + SLICES_AT_ONCE]]
        image = torch.from_numpy(np.stack([one.image for one in part]))
        labels = torch.from_numpy(np.stack([one.labels for one in part]))
        answer = network(classifier_input(image, labels, organs).to(device))
        found.append(answer.double().cpu().numpy())
    return np.concatenate(found)


def _card(purpose: Purpose, settings: ClassifierSettings) -> ModelCard:
    size = settings.size_vox
    return ModelCard(
        name=purpose.name,
        role="quality-classifier",
        network=NetworkSpec(name=NETWORK, parameters={"width": settings.width}),
        channels=purpose.channels,
        classes=purpose.classes,
        preprocessing=purpose.preprocessing,
        tiling=Tiling(tile_vox=(size, size), overlap=0, batch=SLICES_AT_ONCE),
        calibration=Calibration(),
        provenance=purpose.provenance,
        licence=purpose.licence,
        description="Judges whether the labels of a slice are good or bad.",
    )


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomic(path, text.getvalue())
