"""What frozen teachers say about the training cases, worked out once and kept on disk.

A teacher that never changes need not be asked again at every step. Its answer for a
prepared case lies beside the case as bytes (class, z, y, x): probabilities at the
training's temperature, 255 for 1. Whoever reads them puts zeros to 1/255, since a
divergence from a student's point of view would be infinite there (`patches.floored`).

The teacher sees the whole case, window by window as its card says, and not the patch at
hand. Where its network normalises over the window the two answers differ a little.
Features and bottlenecks are not kept: losses on those need the teacher itself.

Predictions of any other tool, a file a case, can be a teacher in the same way.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from kdseg_train.data import file_hash
from kdseg_train.given_predictions import names_in, prediction_of, read_prediction
from kdseg_train.layouts import Case
from kdseg_train.patches import LARGEST_BYTE
from kdseg_train.prepared import StoredCase
from napari_kdseg.errors import ModelError, RunError
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.predict import Settings, predict_tiles
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid, Volume

STAGE = "soft-labels"
NOTHING_TO_DO = Preprocessing(orientation=None, intensity=(Intensity(kind="none"),))


Teacher = Model | Path
"""A model, or a folder of predictions by any tool."""


def soft_from(
    run: Run,
    teachers: Mapping[str, Teacher],
    preprocessing: Preprocessing,
    device: torch.device,
    cases: Sequence[Case],
    stored: Sequence[StoredCase],
) -> list[tuple[np.ndarray, ...]]:
    """For each case the answers of several teachers of one class each.

    Parameters
    ----------
    teachers
        Class -> its teacher, in the order of the answers.
    preprocessing
        Of the student, whose grid the cases have.
    cases, stored
        The same cases as they came and as they are prepared.

    Raises
    ------
    DataSetError, GridError, ModelError, RunError
        As `soft_from_model` and `soft_from_folder`.
    """
    said = [
        soft_from_model(run, stored, teacher, 1.0, device)
        if isinstance(teacher, Model)
        else soft_from_folder(teacher, cases, stored, (name,), preprocessing)
        for name, teacher in teachers.items()
    ]
    return [*zip(*said, strict=True)]


def soft_from_model(
    run: Run,
    stored: Sequence[StoredCase],
    teacher: Model,
    temperature: float,
    device: torch.device,
) -> list[np.ndarray]:
    """Answers of a teacher for each case, those on disk already taken from there.

    Parameters
    ----------
    temperature
        Logits are divided by it before the softmax.

    Returns
    -------
    list
        Memory-mapped bytes, class (background first), z, y, x.

    Raises
    ------
    ModelError
        Where the teacher does not take the channels of the cases.
    RunError
        Where the disk is too small.
    """
    asked = {
        "model": teacher.fingerprint,
        "preprocessing": teacher.card.preprocessing.model_dump(mode="json"),
        "temperature": temperature,
    }
    paths = [_path(case, asked) for case in stored]
    count = teacher.card.classes.count
    missing = [c for c, path in zip(stored, paths, strict=True) if not path.exists()]
    _check_disk(missing, count)
    reader = _of_prepared(teacher)
    for number, (case, path) in enumerate(zip(stored, paths, strict=True), start=1):
        if not path.exists():
            _ask(run, case, reader, path, temperature=temperature, device=device)
        run.progress(number, len(stored), stage=STAGE)
        run.check_stop()
    return [_mapped(path) for path in paths]


def soft_from_folder(
    folder: Path,
    cases: Sequence[Case],
    stored: Sequence[StoredCase],
    classes: Sequence[str],
    preprocessing: Preprocessing,
    *,
    temperature: float = 1.0,
) -> list[np.ndarray]:
    """Predictions of any tool for each case, as if a teacher had made them.

    Parameters
    ----------
    folder
        Holds predictions; see `given_predictions`.
    cases, stored
        The same cases as they came and as they are prepared.
    classes
        What the teacher tells apart, background left out.
    preprocessing
        Of the student, whose grid the cases have.

    Raises
    ------
    DataSetError
        Where a case has no prediction, or more than one; where a file names a class
        that is none of the student's, or holds something else than probabilities.
    GridError
        Where a prediction lies on another grid than its image.
    """
    files = [prediction_of(case, folder, classes) for case in cases]
    made = []
    for case, kept, path in zip(cases, stored, files, strict=True):
        asked = {
            "file": file_hash(path),
            "classes": list(classes),
            "preprocessing": preprocessing.model_dump(mode="json"),
            "temperature": temperature,
        }
        target = _path(kept, asked)
        if not target.exists():
            prob = read_prediction(path, case, tuple(classes), preprocessing)
            with _new_file(target, prob.shape) as array:
                array[...] = to_bytes(prob, temperature)
        made.append(_mapped(target))
    return made


def check_predictions(
    folder: Path, cases: Sequence[Case], classes: Sequence[str]
) -> None:
    """See whether a folder has one prediction of each case that knows some classes.

    Raises
    ------
    DataSetError, GridError
        As `prediction_of` and `names_in`, of the first case that it lacks.
    """
    for case in cases:
        names_in(prediction_of(case, folder, classes), case, classes)


def to_bytes(
    prob: Float[np.ndarray, "C ..."], temperature: float
) -> UInt8[np.ndarray, "C ..."]:
    """Probabilities at a temperature, 255 for 1.

    From the logits' softmax at 1 the one at T follows without the logits:
    ``softmax(z / T) = softmax(log softmax(z) / T)``.
    """
    if temperature != 1:
        tiny = np.finfo(np.float32).tiny
        prob = np.maximum(prob, tiny) ** (1 / temperature)
        prob = prob / prob.sum(axis=0, keepdims=True)
    rounded: np.ndarray = np.rint(prob * LARGEST_BYTE).astype(np.uint8)
    return rounded


def mark_foreground_from_soft(
    stored: Sequence[StoredCase], soft: Sequence[Sequence[np.ndarray]]
) -> None:
    """Remember where teachers see their organ likelier than background.

    Parameters
    ----------
    soft
        For each case the answers of the teachers, one organ each.
    """
    for case, answers in zip(stored, soft, strict=True):
        seen = np.zeros(case.image.shape[1:], np.uint8)
        for organ, answer in enumerate(answers, start=1):
            seen[answer[1] > answer[0]] = organ
        case.set_places(seen)


# ---- asking a teacher ----


def _ask(
    run: Run,
    case: StoredCase,
    teacher: Model,
    path: Path,
    *,
    temperature: float,
    device: torch.device,
) -> None:
    image, channels = case.image, teacher.card.channels
    if len(channels) != len(image):
        raise ModelError(
            f"case {case.id} has {len(image)} channels; teacher {teacher.card.name} "
            f"takes {len(channels)} ({', '.join(channels)}). Take another teacher."
        )
    grid = Grid.from_affine(np.eye(4), image.shape[1:])
    volume = Volume(image, grid, channels, Path(case.id))
    settings = Settings(
        device=str(device), precision="float32", uncertainty=None, probabilities=True
    )
    tiles = predict_tiles(volume, [teacher], settings, hooks=Hooks(run.stop_requested))
    shape = (teacher.card.classes.count, *image.shape[1:])
    with _new_file(path, shape) as array:
        for tile in tiles:
            assert tile.probabilities is not None
            block = to_bytes(tile.probabilities[0], temperature)
            array[(slice(None), *tile.index)] = block


def _of_prepared(teacher: Model) -> Model:
    """The same model for cases that are turned, resized and scaled already."""
    pad = teacher.card.preprocessing.pad_value
    card = teacher.card.model_copy(
        update={
            "preprocessing": NOTHING_TO_DO.model_copy(update={"pad_value": pad}),
            "spacing_range_mm": None,
        }
    )
    return replace(teacher, card=card)


def _check_disk(missing: Sequence[StoredCase], classes: int) -> None:
    if not missing:
        return
    needed = sum(classes * int(np.prod(case.image.shape[1:])) for case in missing)
    free = shutil.disk_usage(missing[0].folder).free
    if needed > free:
        raise RunError(
            f"The answers of a teacher for {len(missing)} cases need "
            f"{needed / 1e9:.1f} GB and {missing[0].folder.parent} has "
            f"{free / 1e9:.1f} GB left; make room, or ask the teachers online."
        )


# ---- files ----


def _path(case: StoredCase, asked: dict[str, object]) -> Path:
    canonical = json.dumps(asked | {"case": case.id}, sort_keys=True)
    key = hashlib.sha256(canonical.encode()).hexdigest()
    return case.folder / f"soft-{key[:24]}.npy"


@contextmanager
def _new_file(path: Path, shape: Sequence[int]) -> Iterator[np.ndarray]:
    """A memory-mapped file of bytes that takes its name when it is complete."""
    temporary = path.with_suffix(".partial")
    array: np.memmap = np.lib.format.open_memmap(
        temporary, "w+", np.uint8, tuple(shape)
    )
    try:
        yield array
        array.flush()
        temporary.rename(path)
    except BaseException:
        temporary.unlink()
        raise


def _mapped(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array
