"""Training the Quality Classifier on judged slices.

Cross-entropy with both verdicts weighing the same in all, however rare one is; the
answer is calibrated, and the threshold chosen, on scans that no training has seen:

- with scans enough these are divided once: some to train, some to calibrate, and some,
  the test, that nothing was fitted to;
- with fewer, cross-fitting: each of some networks is trained without a part of the
  scans and answers for the slices of these. What they answer calibrates one network
  more, which is trained on all slices and kept.
"""

import csv
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional

from kdseg_train.augment import Sample, augmented
from kdseg_train.by_scan import Judgements, Plan, planned
from kdseg_train.calibration import calibrate, p_good, table
from kdseg_train.classifier_settings import ClassifierSettings
from kdseg_train.config import Augmentation
from kdseg_train.keep import keep_model
from kdseg_train.loop import Stage, seeded
from kdseg_train.loop import train as train_stage
from kdseg_train.patches import Batch
from kdseg_train.ranks import here
from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.inference.quality import Judged, classifier_input
from napari_kdseg.models.card import Calibration, ModelCard, Provenance, Tiling
from napari_kdseg.models.model import Model
from napari_kdseg.models.networks import build_classifier
from napari_kdseg.models.parameters import NetworkSpec
from napari_kdseg.review.curves import auroc
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Preprocessing

NETWORK = "resnet18-quality"
STAGE = "quality"
SLICES_AT_ONCE = 32
CROSS_FITTED = 0.5
"""Share of the steps that networks take where several are trained."""
HELD_OUT_COLUMNS = ("case", "axis", "index", "good", "p_good", "part")


@dataclass(frozen=True)
class JudgedSlice:
    """A slice of a scan and what it was found to be."""

    case: str
    seen: Judged
    good: bool
    axis: int = 0
    """Of the stored scan."""
    index: int = 0


@dataclass(frozen=True)
class Purpose:
    """What the classifier is for, and where it is kept.

    Attributes
    ----------
    folder
        Of the model; taken as it is where it exists.
    metrics
        The table of how good it is.
    held_out
        The table of the slices that it was measured on.
    """

    folder: Path
    metrics: Path
    held_out: Path
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
    """Train, calibrate on scans that were not trained on, keep as a model folder.

    Raises
    ------
    DataSetError
        Where the slices cannot be divided by scan so that both parts have good and
        bad ones.
    """
    judged = Judgements([one.case for one in slices], [one.good for one in slices])
    shares = settings.validation, settings.test
    plan = planned(judged, *shares, settings.cross_fitting, seed)
    lesson = _Lesson(run, slices, purpose, settings, seed, device)
    answers = np.full(len(slices), np.nan)
    for number, left_out in enumerate(plan.folds, start=1):
        kept = sorted(set(plan.training) - set(left_out))
        stage = f"{STAGE}-fold-{number}-of-{len(plan.folds)}"
        share = CROSS_FITTED * len(kept) / len(slices)
        network = lesson.taught(stage, kept, left_out, share)
        if run.leads:
            answers[left_out] = lesson.answers(network, left_out)
    apart = [] if plan.folds else plan.calibration
    share = CROSS_FITTED if plan.folds else 1.0
    network = lesson.taught(STAGE, plan.training, apart, share)
    if not run.leads:
        return keep_model(run, purpose.folder, _card(purpose, settings), network)
    answers[[*apart, *plan.test]] = lesson.answers(network, [*apart, *plan.test])
    held_out = _HeldOut.of(slices, plan, answers, settings)
    held_out.write(purpose)
    brief = held_out.in_brief
    run.metric(stage=STAGE, **brief, slices=len(slices), good=sum(judged.good))
    card = _card(purpose, settings).model_copy(
        update={
            "calibration": held_out.calibration,
            "provenance": purpose.provenance.model_copy(
                update={"metrics": {**purpose.provenance.metrics, **brief}}
            ),
        }
    )
    return keep_model(run, purpose.folder, card, network)


@dataclass(frozen=True)
class _Lesson:
    """What networks of one classifier have in common."""

    run: Run
    slices: Sequence[JudgedSlice]
    purpose: Purpose
    settings: ClassifierSettings
    seed: int
    device: torch.device

    def taught(
        self, stage: str, places: list[int], apart: list[int], share: float
    ) -> nn.Module:
        """Train a network on some slices for a share of the steps, others watching."""
        training = [self.slices[place] for place in places]
        organs = len(self.purpose.classes.classes)
        with seeded(self.seed, STAGE):
            network = build_classifier(
                _card(self.purpose, self.settings).network,
                len(self.purpose.channels),
                organs + 1,
            ).to(self.device)
            # Stored so, convolutions of a processor learn a quarter faster.
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # unknown to torch's stubs
        good = sum(one.good for one in training) / len(training)

        def objective(batch: Batch) -> dict[str, Tensor]:
            return {
                "cross_entropy": balanced_cross_entropy(
                    network(batch.image).float(), batch.labels.float(), good
                )
            }

        steps = self.settings.steps_for(len(training), share)
        source = JudgedSource(training, organs, self.settings, self.seed)
        self.run.metric(stage=stage, learns_from=len(training), steps=steps.steps)
        train_stage(
            Stage(stage, network, objective, source, steps, self._watching(apart)),
            self.run,
            self.device,
        )
        return network

    def _watching(self, apart: list[int]) -> "JudgedSource | None":
        if not apart:
            return None
        plain = {"augmentation": Augmentation(probability=0)}
        return JudgedSource(
            [self.slices[place] for place in apart],
            len(self.purpose.classes.classes),
            self.settings.model_copy(update=plain),
            self.seed,
        )

    @torch.inference_mode()
    def answers(self, network: nn.Module, places: list[int]) -> np.ndarray:
        """What a network says of some slices, before calibration."""
        network.eval()
        organs = len(self.purpose.classes.classes)
        found = []
        for start in range(0, len(places), SLICES_AT_ONCE):
            chosen = places[start : start + SLICES_AT_ONCE]
            part = [self.slices[place].seen for place in chosen]
            image = torch.from_numpy(np.stack([one.image for one in part]))
            labels = torch.from_numpy(np.stack([one.labels for one in part]))
            answer = network(classifier_input(image, labels, organs).to(self.device))
            found.append(answer.double().cpu().numpy())
        return np.concatenate(found) if found else np.empty(0)


@dataclass(frozen=True)
class _HeldOut:
    """What was said of slices whose scans were not trained on."""

    slices: Sequence[JudgedSlice]
    prob: np.ndarray
    parts: Mapping[str, list[int]]
    """Places of slices: ``test``, and ``validation`` or ``out-of-fold``."""
    calibration: Calibration

    @classmethod
    def of(
        cls,
        slices: Sequence[JudgedSlice],
        plan: Plan,
        answers: np.ndarray,
        settings: ClassifierSettings,
    ) -> "_HeldOut":
        """Calibrate, and take the answers as P(good)."""
        part = "out-of-fold" if plan.folds else "validation"
        good = np.array([one.good for one in slices])
        calibration = calibrate(
            answers[plan.calibration],
            good[plan.calibration],
            settings.threshold_rule,
            settings.precision,
            part,
        )
        parts = {"test": plan.test} if plan.test else {}
        parts |= {part: plan.calibration}
        return cls(slices, p_good(calibration, answers), parts, calibration)

    @property
    def in_brief(self) -> dict[str, JsonValue]:
        """The numbers that people ask for first, of the part that says most."""
        part, places = next(iter(self.parts.items()))
        judged = [self.slices[place] for place in places]
        return {
            "auroc": round(auroc(self.prob[places], self._good(places)), 6),
            "measured_on": part,
            "measured_slices": len(judged),
            "measured_scans": len({one.case for one in judged}),
            "threshold": self.calibration.threshold,
            "chosen": self.calibration.chosen,
        }

    def write(self, purpose: Purpose) -> None:
        """Write the table of numbers, and that of the slices they come from."""
        rows = []
        for part, places in self.parts.items():
            found = table(self.prob[places], self._good(places))
            rows += [{**row, "part": part} for row in found]
        _write(purpose.metrics, rows)
        _write(
            purpose.held_out,
            [
                self._row(place, part)
                for part, places in self.parts.items()
                for place in places
            ],
        )

    def _good(self, places: list[int]) -> np.ndarray:
        return np.array([self.slices[place].good for place in places], dtype=bool)

    def _row(self, place: int, part: str) -> dict[str, str]:
        one = self.slices[place]
        values = (one.case, one.axis, one.index, int(one.good))
        texts = (*map(str, values), f"{self.prob[place]:.6f}", part)
        return dict(zip(HELD_OUT_COLUMNS, texts, strict=True))


def balanced_cross_entropy(
    answer: Float[Tensor, " B"], good: Float[Tensor, " B"], share_good: float
) -> Float[Tensor, ""]:
    """Binary cross-entropy in which good and bad weigh the same over all slices.

    A good slice weighs ``1 / (2 share_good)``, a bad one ``1 / (2 (1 - share_good))``.
    """
    weight = torch.where(good > 0.5, 0.5 / share_good, 0.5 / (1 - share_good))
    return functional.binary_cross_entropy_with_logits(answer, good, weight)


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
        self.share = here().share(self.batch_size)
        self.augmentation = settings.augmentation
        self.key = np.array([seed, zlib.crc32(STAGE.encode())], dtype=np.uint64)

    def batch(self, step: int) -> Batch:
        """Batch of a step: image and masks as channels, 1 for good as labels."""
        first = step * self.batch_size
        samples, good = zip(*(self._sample(first + i) for i in self.share), strict=True)
        image = torch.stack([sample.image for sample in samples])
        labels = torch.stack([sample.labels for sample in samples])
        return Batch(
            classifier_input(image, labels, self.organs),
            torch.tensor(good, dtype=torch.int64),
            torch.ones(len(self.share), self.organs, dtype=torch.bool),
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
