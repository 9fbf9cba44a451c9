"""How fast the Quality Classifier judges, and how long it takes to learn.

    python training/benchmarks/quality_speed.py judge [--slice 256] [--organs 3]
    python training/benchmarks/quality_speed.py train [--verdicts 1000] [--scans 10]

ResNet-18 as it is by default, on all cores that the process may use. ``judge``: slices
of ``--slice`` squared out of a made volume, from the scan to P(good), and the network
alone at the slices' own size; float32 and bfloat16, in turns, the best of three.
``train``: a whole training on made slices as ``kdseg-train quality fit`` does it, its
steps timed; ``--steps`` ends it early and says how long all of them would take.

Each number stands twice: by the clock, and by the time that the processor worked for
this process, which is what the clock would show on a machine without other work.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch

from kdseg_train.by_scan import FOLDS, Judgements, planned
from kdseg_train.classifier import (
    CROSS_FITTED,
    JudgedSlice,
    Purpose,
    train_classifier,
)
from kdseg_train.classifier_settings import ClassifierSettings
from kdseg_train.quality import FitConfig
from napari_kdseg.inference.quality import SLICES_AT_ONCE, Judged, QualityClassifier
from napari_kdseg.models.card import Calibration, ModelCard, Provenance, Tiling
from napari_kdseg.models.networks import build_classifier
from napari_kdseg.models.parameters import NetworkSpec
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Preprocessing
from napari_kdseg.volumes.volume import Grid, Volume

ROUNDS = 3
SLICES = 64


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["judge", "train"])
    parser.add_argument("--slice", type=int, default=256)
    parser.add_argument("--organs", type=int, default=3)
    parser.add_argument("--verdicts", type=int, default=1000)
    parser.add_argument("--scans", type=int, default=10)
    parser.add_argument("--steps", type=int, default=0)
    asked = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}, {cores} cores,", end=" ")
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    judge(asked) if asked.what == "judge" else train(asked)


def judge(asked: argparse.Namespace) -> None:
    """Slices a second."""
    volume, labels = _scan(asked.slice, asked.organs)
    print("| slices a second | pixels | float32 | alone | bfloat16 | alone |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for size in (128, asked.slice):
        made = {p: _classifier(asked.organs, size, p) for p in ("float32", "bfloat16")}
        seen = _judged(1, SLICES, size, asked.organs)
        for name, work in (
            ("network alone", partial(_in_batches, seen)),
            ("from the scan to P(good)", partial(_whole, volume, labels)),
        ):
            rates = [_rate(SLICES, partial(work, one)) for one in made.values()]
            told = " | ".join(f"{rate:.1f}" for pair in rates for rate in pair)
            print(f"| {name} | {size} | {told} |")


def train(asked: argparse.Namespace) -> None:
    """Minutes of a training."""
    settings = ClassifierSettings(passes=FitConfig.model_fields["passes"].default)
    size = settings.size_vox
    slices = [
        JudgedSlice(f"scan {n % asked.scans}", one, (n // asked.scans) % 2 == 0)
        for n, one in enumerate(_judged(0, asked.verdicts, size, asked.organs))
    ]
    plan = planned(
        Judgements([one.case for one in slices], [one.good for one in slices]),
        settings.validation,
        settings.test,
        settings.cross_fitting,
        0,
    )
    share = CROSS_FITTED if plan.folds else 1.0
    wanted = [settings.steps_for(len(plan.training), share)]
    for left_out in plan.folds:
        kept = len(slices) - len(left_out)
        wanted.append(settings.steps_for(kept, share * kept / len(slices)))
    steps = sum(one.steps for one in wanted)
    if asked.steps:
        short = {"epochs": 1, "iterations_per_epoch": asked.steps}
        training = settings.training.model_copy(update=short)
        settings = settings.model_copy(
            update={"training": training, "cross_fitting": 0}
        )
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", {"version": 1, "command": "quality-fit"})
        with run.executing():
            purpose, device = _purpose(run, asked.organs), torch.device("cpu")
            learn = partial(train_classifier, run, slices, purpose, settings)
            clock, alone = _timed(partial(learn, seed=0, device=device))
    taken = asked.steps or steps
    how = f"{FOLDS} folds and once on all" if plan.folds else "scans divided once"
    print("| verdicts | scans | how | steps in all | minutes | alone | timed |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    minutes, by_itself = (one / 60 * steps / taken for one in (clock, alone))
    print(
        f"| {asked.verdicts} | {asked.scans} | {how} | {steps} | {minutes:.1f} | "
        f"{by_itself:.1f} | {taken} |"
    )


def _rate(count: int, work: Callable[[], object]) -> tuple[float, float]:
    """So many a second: by the clock, by the time of the processor."""
    work()
    times = [_timed(work) for _ in range(ROUNDS)]
    return count / min(t for t, _ in times), count / min(t for _, t in times)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    start, worked = time.perf_counter(), time.process_time()
    work()
    clock = time.perf_counter() - start
    return clock, (time.process_time() - worked) / torch.get_num_threads()


def _whole(volume: Volume, labels: np.ndarray, classifier: QualityClassifier) -> None:
    classifier.score(volume, labels, 0)


def _in_batches(seen: list[Judged], classifier: QualityClassifier) -> None:
    for start in range(0, len(seen), SLICES_AT_ONCE):
        classifier.judge(seen[start : start + SLICES_AT_ONCE])


def _judged(seed: int, count: int, size: int, organs: int) -> list[Judged]:
    generator = np.random.default_rng(seed)
    return [
        Judged(
            generator.normal(size=(1, size, size)).astype(np.float32),
            generator.integers(0, organs + 1, (size, size)).astype(np.uint8),
        )
        for _ in range(count)
    ]


def _scan(size: int, organs: int) -> tuple[Volume, np.ndarray]:
    generator = np.random.default_rng(0)
    shape = (SLICES, size, size)
    data = generator.normal(size=(1, *shape)).astype(np.float32)
    labels = generator.integers(0, organs + 1, shape).astype(np.uint8)
    return Volume(data, Grid.from_affine(np.eye(4), shape), ("image",)), labels


def _classifier(organs: int, size: int, precision: str) -> QualityClassifier:
    classes = _classes(organs)
    card = ModelCard(
        name="judge",
        role="quality-classifier",
        network=NetworkSpec(name="resnet18-quality"),
        channels=("image",),
        classes=classes,
        tiling=Tiling(tile_vox=(size, size), overlap=0),
        calibration=Calibration(),
    )
    network = build_classifier(card.network, 1, classes.count).eval()
    return QualityClassifier(card, network, "cpu", precision)


def _purpose(run: Run, organs: int) -> Purpose:
    return Purpose(
        folder=run.model_folder,
        metrics=run.folder / "metrics.csv",
        held_out=run.folder / "validation.csv",
        name="quality",
        channels=("image",),
        classes=_classes(organs),
        preprocessing=Preprocessing(),
        provenance=Provenance(),
    )


def _classes(organs: int) -> LabelSet:
    return LabelSet.from_names(f"organ {number}" for number in range(1, organs + 1))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
