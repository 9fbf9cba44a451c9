"""Seconds of an MS-KD student's step, with teachers asked online and from the cache.

Also how long K organs take by one student and by K teachers, and what drawing patches
costs against a loop on tensors that are in memory already. Contenders take turns in one
process; the least of the repeats counts::

    OMP_NUM_THREADS=1 python training/benchmarks/student_steps.py
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from kdseg_train.config import Augmentation, DataEntry, Recipe, Training
from kdseg_train.methods import module_of
from kdseg_train.patches import Batch, Patches
from kdseg_train.prepared import StoredCase
from napari_kdseg.models.networks import build
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.models.parameters import NetworkSpec

TEACHERS = 4
PATCH = (48, 48, 48)
BATCH = 2
CASE = (1, 96, 96, 96)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(
        f"{date.today().isoformat()}, {platform.processor() or platform.machine()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), least of "
        f"{repeats}; batches of {BATCH} x {' x '.join(map(str, PATCH))}\n"
    )
    teachers = [network(16, 2) for _ in range(TEACHERS)]
    student = network(8, TEACHERS + 1)
    steps(student, teachers, repeats)
    inference(student, teachers, repeats)
    with tempfile.TemporaryDirectory() as folder:
        loading(student, Path(folder), repeats)


def network(width: int, classes: int) -> SegmentationNetwork:
    """Make a 3D U-Net of four stages with random weights."""
    spec = NetworkSpec(
        name="unet", parameters={"width": width, "stages": 4, "dimensions": 3}
    )
    made: SegmentationNetwork = build(spec, 1, classes)
    return made


def steps(
    student: SegmentationNetwork, teachers: list[SegmentationNetwork], repeats: int
) -> None:
    """Time a whole step of the student, logits-wise supervision alone."""
    ms_kd = module_of("ms-kd")
    settings = ms_kd.Distillation(feature_weight=0)
    online = random_batch()
    with torch.no_grad():
        prob = [teacher(online.image).softmax(dim=1) for teacher in teachers]
    cached = replace(online, soft=torch.stack(prob, dim=1))
    optimiser = torch.optim.Adam(student.parameters())

    def step(batch: Batch) -> None:
        terms = ms_kd.distillation_terms(student, teachers, batch, settings)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()

    found = timed(
        {"online": lambda: step(online), "cached": lambda: step(cached)}, repeats
    )
    print(
        f"A step with K = {TEACHERS} teachers (width 16; student 8): online "
        f"{found['online']:.3f} s, cached {found['cached']:.3f} s: "
        f"{found['online'] / found['cached']:.2f} times faster (goal 3)."
    )


def inference(
    student: SegmentationNetwork, teachers: list[SegmentationNetwork], repeats: int
) -> None:
    """Time one pass of a student of the teachers' width, and K passes of theirs."""
    del student
    alike = network(16, TEACHERS + 1).eval()
    image = random_batch().image

    @torch.no_grad()
    def one() -> None:
        alike(image)

    @torch.no_grad()
    def several() -> None:
        for teacher in teachers:
            teacher(image)

    found = timed({"student": one, "teachers": several}, repeats)
    ratio = found["teachers"] / found["student"]
    print(
        f"{TEACHERS} organs: teachers {found['teachers']:.3f} s, one student of the "
        f"same width {found['student']:.3f} s: {ratio:.2f} times faster (goal "
        f"{0.8 * TEACHERS:.1f})."
    )


def loading(student: SegmentationNetwork, folder: Path, repeats: int) -> None:
    """Compare a loop on drawn patches with the same loop on tensors in memory."""
    patches = prepared(folder)
    in_memory = [patches.batch(step) for step in range(4)]
    optimiser = torch.optim.Adam(student.parameters())

    def learn(batch: Batch) -> None:
        optimiser.zero_grad(set_to_none=True)
        student(batch.image).square().mean().backward()
        optimiser.step()

    def drawn() -> None:
        with ThreadPoolExecutor(1) as pool:  # as the training loop does
            waiting = pool.submit(patches.batch, 0)
            for step in range(8):
                batch = waiting.result()
                waiting = pool.submit(patches.batch, step + 1)
                learn(batch)

    def ready() -> None:
        for step in range(8):
            learn(in_memory[step % len(in_memory)])

    found = timed({"drawn": drawn, "ready": ready}, repeats)
    print(
        f"Eight steps: {found['ready']:.2f} s on tensors in memory, "
        f"{found['drawn']:.2f} s with drawing and augmentation: "
        f"{100 * found['ready'] / found['drawn']:.0f} % of the throughput (goal 90)."
    )


def prepared(folder: Path) -> Patches:
    """Store some cases of noise, and draw from them with the usual augmentation."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(4):
        place = folder / f"{number}"
        place.mkdir()
        np.save(place / "image.npy", rng.random(CASE).astype(np.float16))
        labels = (rng.random(CASE[1:]) > 0.9).astype(np.uint8)
        np.save(place / "labels.npy", labels)
        case = StoredCase(f"{number}", place, (True,))
        case.set_places(labels)
        cases.append(case)
    recipe = Recipe(
        method="supervised",
        data=(DataEntry(path=folder),),
        patch_vox=PATCH,
        network=NetworkSpec(name="unet", parameters={"width": 8, "stages": 4}),
        augmentation=Augmentation(),
    )
    return Patches(cases, recipe, Training(batch=BATCH), "benchmark")


def random_batch() -> Batch:
    """Make patches of noise."""
    torch.manual_seed(0)
    image = torch.randn(BATCH, 1, *PATCH)
    labels = torch.zeros(BATCH, *PATCH, dtype=torch.int64)
    return Batch(image, labels, torch.ones(BATCH, TEACHERS, dtype=torch.bool))


def timed(contenders: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Let contenders take turns and give the least seconds of each."""
    least = dict.fromkeys(contenders, float("inf"))
    for call in contenders.values():
        call()
    for _ in range(repeats):
        for name, call in contenders.items():
            started = time.perf_counter()
            call()
            least[name] = min(least[name], time.perf_counter() - started)
    return least


if __name__ == "__main__":
    main()
