"""A folder of predictions by any tool, read as what a teacher says.

One of these lies in it for each case::

    CASE.nii.gz                     or another ending: labels, or a channel a class
    CASE/MODEL/probabilities.*      as our own predict leaves them, or labels.*
    CASE/CLASS.nii.gz               a mask a class, as TotalSegmentator writes them

A file of one channel holds labels. What its values mean says the file itself, the
``dataset.json`` of nnU-Net or the Decathlon in the folder, or our own
``prediction.json``; then classes that the teacher does not teach are background to it.
Where nothing says so they are 1, 2, ... in the order of the teacher's classes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from kdseg_train.layouts import Case
from napari_kdseg.errors import DataSetError
from napari_kdseg.json_files import object_in
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.preprocessing import (
    Intensity,
    Preprocessing,
    prepare,
    prepare_labels,
)
from napari_kdseg.volumes.volume import check_same_grid

LARGEST_ERROR = 0.05
SHARE_A_GRID = "A prediction lies on the grid of its image; resample it first."
DATASET, RECORD = "dataset.json", "prediction.json"


def prediction_of(case: Case, folder: Path, classes: Sequence[str] = ()) -> Path:
    """Find the one file that has the prediction of a case.

    Parameters
    ----------
    case
        Its id is the name of the file, or of the folder with it.
    folder
        Of predictions.
    classes
        Of the teacher; a single one may have a file of its name.

    Raises
    ------
    DataSetError
        Where there is none, or more than one.
    """
    if not folder.is_dir():
        raise DataSetError(f"{folder} is no folder; give a folder of predictions.")
    found = _named(folder, case.id)
    for name in ("probabilities", "labels"):
        if not found:
            found = sorted((folder / case.id).glob(f"*/{name}.*"))
    if not found and len(classes) == 1:
        found = _masks(folder / case.id, classes[0])
    if len(found) != 1:
        what = "no prediction" if not found else f"{len(found)} predictions"
        raise DataSetError(
            f"{folder} has {what} of case {case.id}; a teacher gives one file a case, "
            "named as the case."
        )
    return found[0]


def _named(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        return []
    named = (path for path in folder.iterdir() if formats.case_id(path) == name)
    return sorted(filter(formats.is_volume, named))  # which may open a file


def _masks(folder: Path, name: str) -> list[Path]:
    return _named(folder, name) or _named(folder, name.replace(" ", "_"))


def read_prediction(
    path: Path, case: Case, classes: tuple[str, ...], preprocessing: Preprocessing
) -> Float[np.ndarray, "C Z Y X"]:
    """Read the probabilities of a teacher's classes, background first.

    Raises
    ------
    DataSetError
        As `names_in`; where a value means nothing known, or the file holds something
        else than probabilities.
    GridError
        As `names_in`.
    """
    names = names_in(path, case, classes)
    if len(formats.inspect_volume(path).channels) == 1:
        return _from_labels(path, classes, preprocessing)
    prob = _from_probabilities(path, preprocessing)
    return prob if names == [*classes] else _some_of(prob, names, classes)


def names_in(path: Path, case: Case, classes: Sequence[str]) -> list[str]:
    """Classes that a prediction knows, in the order of its values; no voxel is read.

    Raises
    ------
    DataSetError
        Where a class of the teacher is not among them, or their number is not that of
        the channels.
    GridError
        Where it lies on another grid than its image.
    """
    header = formats.inspect_volume(path)
    own = formats.inspect_volume(case.images[0]).grid
    check_same_grid(own, header.grid, case.images[0], path, SHARE_A_GRID)
    channels = len(header.channels)
    said = meaning_of(path) if channels == 1 else _said_beside(path)
    if channels not in (1, len(said) + 1):
        said = {}  # it speaks of other files
        if channels != len(classes) + 1:
            raise DataSetError(
                f"{path} has {channels} channels; probabilities of "
                f"{', '.join(classes)} have {len(classes) + 1}, background first."
            )
    names = [said[value] for value in sorted(said)] or [*classes]
    for name in classes:
        if name not in names:
            raise DataSetError(
                f"{path} says nothing about {name}; it knows {', '.join(names)}. A "
                "teacher is given for a class that its predictions have, under the "
                "same name."
            )
    return names


def _some_of(
    prob: Float[np.ndarray, "All Z Y X"], names: Sequence[str], classes: Sequence[str]
) -> Float[np.ndarray, "C Z Y X"]:
    """Those of some classes; what is left is their background."""
    chosen = prob[[1 + names.index(name) for name in classes]]
    rest = np.clip(1 - chosen.sum(axis=0, keepdims=True), 0, 1)
    return np.concatenate([rest, chosen]).astype(np.float32)


def _from_labels(
    path: Path, classes: tuple[str, ...], preprocessing: Preprocessing
) -> Float[np.ndarray, "C Z Y X"]:
    values, grid = formats.read_labels(path)
    meaning = meaning_of(path) or dict(enumerate(classes, start=1))
    present = set(np.unique(values).tolist()) - {0}
    for value in sorted(present - set(meaning)):
        raise DataSetError(
            f"{path} holds the value {value} (no class); the classes of this teacher "
            f'are {", ".join(meaning.values())}. Say what the values mean: "labels" in '
            f"a {DATASET} in the folder, as nnU-Net and the Decathlon write it."
        )
    indices = np.zeros(values.shape, np.uint8)
    for value in present:
        if meaning[value] in classes:
            indices[values == value] = classes.index(meaning[value]) + 1
    prepared, _ = prepare_labels(indices, grid, preprocessing)
    return np.stack(
        [prepared == index for index in range(len(classes) + 1)], dtype=np.float32
    )


def meaning_of(path: Path, part: str | None = None) -> dict[int, str]:
    """Class by value: as the file says, else what lies beside it; else empty."""
    named = formats.read_label_set(path, part)
    if named is not None:
        return {item.value: item.name for item in named.classes}
    return _said_beside(path)


def _said_beside(path: Path) -> dict[int, str]:
    record = object_in(path.with_name(RECORD)).get("labels")
    listed = record.get("classes") if isinstance(record, dict) else None
    if isinstance(listed, list):
        return {int(item["value"]): str(item["name"]) for item in listed}
    labels = object_in(path.with_name(DATASET)).get("labels", {})
    pairs = [
        (value, key) if isinstance(value, int) else (int(key), value)
        for key, value in (labels.items() if isinstance(labels, dict) else ())
        if isinstance(value, int) or str(key).isdigit()
    ]
    return {int(value): str(name) for value, name in pairs if int(value) > 0}


def _from_probabilities(
    path: Path, preprocessing: Preprocessing
) -> Float[np.ndarray, "C Z Y X"]:
    volume = formats.read_volume(path)
    if np.dtype(volume.data.dtype) == np.uint8:
        volume = replace(volume, data=np.asarray(volume.data) / np.float32(255))
    still = preprocessing.model_copy(update={"intensity": (Intensity(kind="none"),)})
    prob = prepare(volume, still).data
    total = prob.sum(axis=0)
    if prob.min() < -LARGEST_ERROR or abs(total - 1).max() > LARGEST_ERROR:
        raise DataSetError(
            f"{path} holds values from {prob.min():g} to {prob.max():g} that sum to "
            f"{total.min():g} to {total.max():g}; probabilities are 0 to 1 (or bytes) "
            "and sum to 1 in every voxel."
        )
    prob = prob.clip(0, None)
    return np.asarray(prob / prob.sum(axis=0), np.float32)
