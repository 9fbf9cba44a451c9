"""Made data sets: anatomy drawn from random numbers, scanned, and known to the voxel.

``SAMPLES`` says which there are, `make_case` draws one scan, `write_sample` and
`write_partial_sample` write data sets in Decathlon layout. Nobody's data is in them.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kdseg_train.samples.case import Case
from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import UsageError
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet

__all__ = [
    "SAMPLES",
    "SHIPPED_SEED",
    "Case",
    "Sample",
    "make_case",
    "write_partial_sample",
    "write_sample",
    "write_shipped_volumes",
]

Progress = Callable[[int, int], None]

SHIPPED_SEED = 2026
"""Seed of the volumes that come with the package; train on any other."""

SMALLEST = 32
LICENCE = "CC0-1.0"
TEST_SHARE = 5  # one case in five


@dataclass(frozen=True)
class Sample:
    """A kind of made scan.

    Attributes
    ----------
    module
        Its ``make(rng, size)`` draws a `Case`.
    size
        Voxels along x unless told otherwise. The abdomen is as deep as wide and has
        48 slices; brain and fish keep their proportions.
    """

    description: str
    module: str
    size: int


SAMPLES = {
    "abdomen": Sample(
        "Made CT of the abdomen: liver, spleen, kidneys and pancreas",
        "kdseg_train.samples.abdomen",
        96,
    ),
    "brain": Sample(
        "Made MR of a brain with a tumour in t1, t1ce, t2 and flair",
        "kdseg_train.samples.brain",
        64,
    ),
    "fish": Sample(
        "Made micro-CT of a fish in a tube, nine organs",
        "kdseg_train.samples.fish",
        64,
    ),
}


def make_case(name: str, seed: int, index: int, size: int | None = None) -> Case:
    """Draw one scan; the same arguments give the same voxels.

    Parameters
    ----------
    name
        One of `SAMPLES`.
    seed, index
        Name the scan: case 3 of seed 0 is the same however many cases are made.
    size
        Voxels along x, at least 32; see `Sample`. The anatomy is the same in every
        size.

    Raises
    ------
    UsageError
        For an unknown sample, a negative seed or index, or a size below 32.
    """
    if name not in SAMPLES:
        raise UsageError(
            f"there is no sample {name!r}; choose one of {', '.join(SAMPLES)}."
        )
    if seed < 0 or index < 0:
        raise UsageError(
            f"seed {seed} and index {index} name no scan; both must be 0 or more."
        )
    sample = SAMPLES[name]
    wanted = sample.size if size is None else size
    if wanted < SMALLEST:
        raise UsageError(
            f"size {wanted} leaves no voxels for small organs; it must be at least "
            f"{SMALLEST}. Leave it out for {sample.size}."
        )
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    case: Case = import_module(sample.module).make(rng, wanted)
    return case


def write_sample(
    name: str,
    out: Path,
    *,
    cases: int,
    size: int | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> None:
    """Write a data set in Decathlon layout, every class labelled in every case.

    ``OUT/dataset.json`` is written last, so a folder that has it is complete;
    ``OUT/imagesTr/NAME_001.nii.gz`` has all channels, ``OUT/labelsTr`` the labels.

    Parameters
    ----------
    name, size, seed
        As `make_case`.
    out
        A new or empty folder.
    on_progress
        Told after each case how many are done, and of how many.

    Raises
    ------
    UsageError
        As `make_case`; where `out` holds something; or for less than one case.
    """
    make = partial(make_case, name, seed, size=size)
    _check_folder(out, cases, at_least=1)
    report = _counter(cases, on_progress)
    _write_set(name, out, ((index, make(index)) for index in range(cases)), report)


def write_partial_sample(
    name: str,
    out: Path,
    *,
    cases: int,
    size: int | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> None:
    """Write one data set an organ, as MS-KD learns from: each labels its own organ.

    ::

        OUT/liver/       dataset.json, imagesTr, labelsTr: 0 and 1, liver alone
        OUT/spleen/      the same of other cases, spleen alone; and so for each class
        OUT/test/        every class labelled; in none of the sets above

    Folders are named after classes, spaces as underscores. Cases keep the number that
    `write_sample` gives them. One in five (at least one) is for testing, as long as
    each organ gets one of the others, which are dealt out in turn.

    Parameters
    ----------
    name, out, size, seed, on_progress
        As `write_sample`.
    cases
        In all folders together; at least one an organ and one for testing.

    Raises
    ------
    UsageError
        As `write_sample`.
    """
    make = partial(make_case, name, seed, size=size)
    organs = make(0).classes.names
    _check_folder(out, cases, at_least=len(organs) + 1)
    report = _counter(cases, on_progress)
    for_tests = max(1, min(cases // TEST_SHARE, cases - len(organs)))
    for_teachers = range(cases - for_tests)
    for number, organ in enumerate(organs):
        share = for_teachers[number :: len(organs)]
        drawn = ((index, _alone(make(index), organ)) for index in share)
        folder = organ.replace(" ", "_")
        _write_set(f"{name} {organ}", out / folder, drawn, report)
    tests = ((index, make(index)) for index in range(for_teachers.stop, cases))
    _write_set(f"{name} test", out / "test", tests, report)


def write_shipped_volumes(folder: Path) -> None:
    """Write the volumes that come with the package: one scan a sample, and its truth.

    Files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in SAMPLES:
        case = make_case(name, SHIPPED_SEED, 0)
        image, labels = f"{name}.nii.gz", f"{name}-labels.nii.gz"
        write_volume(folder / image, case.images, case.grid, channels=case.channels)
        write_labels(folder / labels, case.labels, case.grid, case.classes)


def _check_folder(out: Path, cases: int, at_least: int) -> None:
    if cases < at_least:
        raise UsageError(
            f"{cases} cases are too few for {out}; there must be at least {at_least}."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} is not empty; a data set needs a folder of its own. Choose a new "
            "name, or move the old one away."
        )


def _counter(total: int, on_progress: Progress | None) -> Callable[[], None]:
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    return report


def _write_set(
    title: str,
    out: Path,
    drawn: Iterable[tuple[int, Case]],
    report: Callable[[], None],
) -> None:
    """Write numbered cases and, when all are there, what they are."""
    entries = []
    for index, case in drawn:
        file = f"{title.split()[0]}_{index + 1:03d}.nii.gz"
        entry = {"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"}
        for path in entry.values():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
        channels = case.channels
        write_volume(out / entry["image"], case.images, case.grid, channels=channels)
        write_labels(out / entry["label"], case.labels, case.grid, case.classes)
        entries.append(entry)
        report()
    description = _description(title, case, entries)
    write_text_atomic(out / "dataset.json", json.dumps(description, indent=1) + "\n")


def _description(
    title: str, case: Case, entries: list[dict[str, str]]
) -> dict[str, Any]:
    """What Decathlon's ``dataset.json`` holds, in its order."""
    named = {str(item.value): item.name for item in case.classes.classes}
    return {
        "name": title,
        "description": SAMPLES[title.split()[0]].description,
        "reference": "made by kdseg-train sample; shows nobody",
        "licence": LICENCE,
        "tensorImageSize": "4D" if len(case.channels) > 1 else "3D",
        "modality": {str(i): channel for i, channel in enumerate(case.channels)},
        "labels": {"0": "background", **named},
        "numTraining": len(entries),
        "numTest": 0,
        "training": entries,
        "test": [],
    }


def _alone(case: Case, organ: str) -> Case:
    """Forget all classes but one: 1 is the organ, 0 everything else."""
    found = case.labels == case.classes.by_name(organ).value
    labels = found.astype(np.uint8)
    return replace(case, labels=labels, classes=LabelSet.from_names([organ]))
