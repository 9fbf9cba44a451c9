"""Data sets as they come, and which cases a recipe means.

Four layouts are read: Decathlon (``dataset.json`` with a ``training`` list), nnU-Net
(``dataset.json`` with ``channel_names`` and files ``CASE_0000``), our own
(``dataset.yaml``) and a plain folder of images. A case carries the classes its labels
speak about; every other class is unknown there.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from kdseg_train.config import DataEntry, Recipe
from napari_kdseg.errors import DataSetError
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.volume import without_channel

Values = dict[str, tuple[int, ...]]
"""Class -> stored label values that mean it."""


@dataclass(frozen=True)
class Case:
    """One scan: its files, and what its labels speak about.

    Attributes
    ----------
    images
        One file with every channel, or one file a channel, in order.
    values
        Class -> stored label values that mean it.
    annotated
        Classes the labels speak about; empty where there is no label.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    values: dict[str, tuple[int, ...]]
    annotated: tuple[str, ...]
    intensity_offset: float = 0.0
    group: str = ""


@dataclass(frozen=True)
class DataSet:
    """A folder of cases that share channels and classes."""

    name: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    cases: tuple[Case, ...]
    licence: str = ""


@dataclass(frozen=True)
class Cases:
    """The cases of one recipe, divided."""

    channels: tuple[str, ...]
    classes: tuple[str, ...]
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]
    unlabelled: tuple[Case, ...]


def read_data_set(folder: Path) -> DataSet:
    """Read whichever of the four layouts the folder holds.

    Raises
    ------
    DataSetError
        Where it holds none, or a file it promises is missing.
    """
    if not folder.is_dir():
        raise DataSetError(f"{folder} is no folder; give the folder of a data set.")
    if (folder / "dataset.yaml").is_file():
        return _own(folder, _mapping(folder / "dataset.yaml"))
    if (folder / "dataset.json").is_file():
        description = _mapping(folder / "dataset.json")
        if "channel_names" in description:
            return _nnunet(folder, description)
        return _decathlon(folder, description)
    return _images_alone(folder)


def resolve(recipe: Recipe, root: Path) -> Cases:
    """Find the cases a recipe means and divide them by scan.

    Raises
    ------
    DataSetError
        An empty selection, differing channels, a class no data set has, or one scan
        both in training and in the test set.
    """
    labelled, sets = _entries(recipe.data, root)
    unlabelled, more_sets = _entries(recipe.unlabelled, root)
    explicit_test, test_sets = _entries(recipe.test, root)
    channels = _shared_channels([*sets, *more_sets, *test_sets], recipe.channels)
    classes = _class_order(labelled, recipe.classes)
    training, validation, test = _divide(labelled, recipe)
    cases = Cases(
        channels=channels,
        classes=classes,
        training=training,
        validation=validation,
        test=test + tuple(explicit_test),
        unlabelled=tuple(
            replace(case, label=None, annotated=()) for case in unlabelled
        ),
    )
    _refuse_leaks(cases)
    return cases


def fingerprint(cases: Iterable[Case]) -> str:
    """SHA-256 over the files of the cases and what their labels speak about."""
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda case: (case.id, case.annotated)):
        digest.update(repr((case.id, case.annotated, case.values)).encode())
        for path in (*case.images, *([case.label] if case.label else [])):
            digest.update(file_hash(path).encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder in order."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


# ---- layouts ----


def _decathlon(folder: Path, description: dict[str, Any]) -> DataSet:
    where = folder / "dataset.json"
    labels = _required(description, "labels", where)
    values: Values = {
        name: (int(value),) for value, name in labels.items() if int(value) != 0
    }
    cases = []
    for entry in _required(description, "training", where):
        image = _existing(folder, entry["image"], where)
        label = _existing(folder, entry["label"], where)
        cases.append(_case(formats.case_id(image), (image,), label, values))
    modality = description.get("modality") or {"0": "image"}
    channels = tuple(modality[key] for key in sorted(modality, key=int))
    licence = str(description.get("licence", description.get("license", "")))
    return DataSet(folder.name, channels, tuple(values), tuple(cases), licence)


def _nnunet(folder: Path, description: dict[str, Any]) -> DataSet:
    where = folder / "dataset.json"
    labels = _required(description, "labels", where)
    if any(isinstance(value, list) for value in labels.values()):
        raise DataSetError(
            f"{where} has region-based labels (a list of values for one class); give "
            "every class one value of its own."
        )
    values: Values = {
        name: (int(value),) for name, value in labels.items() if int(value) != 0
    }
    ending = str(description.get("file_ending", ".nii.gz"))
    names = _required(description, "channel_names", where)
    channels = tuple(str(names[key]) for key in sorted(names, key=int))
    cases = []
    for label in sorted((folder / "labelsTr").glob(f"*{ending}")):
        case = label.name.removesuffix(ending)
        images = tuple(
            _existing(folder, f"imagesTr/{case}_{channel:04d}{ending}", where)
            for channel in range(len(channels))
        )
        cases.append(_case(case, images, label, values))
    return DataSet(
        folder.name,
        channels,
        tuple(values),
        tuple(cases),
        str(description.get("licence", "")),
    )


def _own(folder: Path, description: dict[str, Any]) -> DataSet:
    where = folder / "dataset.yaml"
    classes = _required(description, "classes", where)
    values: Values = {str(name): (int(value),) for name, value in classes.items()}
    channels = tuple(_required(description, "channels", where))
    cases = []
    for entry in _required(description, "cases", where):
        files = entry["images"]
        missing = [channel for channel in channels if channel not in files]
        if missing:
            raise DataSetError(
                f"{where}: case {entry['id']} has no {missing[0]!r} image; every case "
                f"needs the channels {', '.join(channels)}."
            )
        images = tuple(_existing(folder, files[channel], where) for channel in channels)
        label = entry.get("label")
        case = _case(
            str(entry["id"]),
            images,
            _existing(folder, label, where) if label else None,
            values,
        )
        annotated = tuple(entry.get("annotated", case.annotated))
        cases.append(
            replace(case, annotated=annotated, group=str(entry.get("group", "")))
        )
    licence = str(description.get("licence", ""))
    return DataSet(folder.name, channels, tuple(values), tuple(cases), licence)


def _images_alone(folder: Path) -> DataSet:
    groups = group_channels(sorted(folder.iterdir()))
    if not groups:
        raise DataSetError(
            f"{folder} is no data set: it has neither dataset.yaml nor dataset.json, "
            "and no image that can be read; give a Decathlon, nnU-Net or own folder."
        )
    count = max(len(images) for images in groups.values())
    channels = ("image",) if count == 1 else tuple(f"{i:04d}" for i in range(count))
    cases = tuple(_case(case, images, None, {}) for case, images in groups.items())
    return DataSet(folder.name, channels, (), cases)


def group_channels(paths: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """Case id -> its files in channel order.

    ``CASE_0000`` and ``CASE_0001`` belong together. What is no
    volume is left out.
    """
    groups: dict[str, list[Path]] = {}
    for path in paths:
        if formats.is_volume(path):
            name = without_channel(formats.case_id(path))
            groups.setdefault(name, []).append(path)
    return {case: tuple(sorted(files)) for case, files in sorted(groups.items())}


def _case(
    name: str,
    images: tuple[Path, ...],
    label: Path | None,
    values: Values,
) -> Case:
    annotated = tuple(values) if label is not None else ()
    return Case(name, images, label, values, annotated)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        read = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise DataSetError(f"{path} cannot be read ({reason}).") from error
    if not isinstance(read, dict):
        raise DataSetError(f"{path} holds no mapping, so it describes no data set.")
    return read


def _required(description: dict[str, Any], key: str, where: Path) -> Any:
    if key not in description:
        raise DataSetError(f"{where} has no {key!r}, which its layout needs.")
    return description[key]


def _existing(folder: Path, name: str, where: Path) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataSetError(f"{where} names {name}, which lies outside its folder.")
    if not path.exists():
        raise DataSetError(f"{where} names {name}, which does not exist.")
    return path


# ---- which cases ----


def _entries(
    entries: Sequence[DataEntry], root: Path
) -> tuple[list[Case], list[DataSet]]:
    cases: list[Case] = []
    sets: list[DataSet] = []
    for entry in entries:
        data_set = read_data_set(root / entry.path)
        sets.append(data_set)
        chosen = _chosen(entry, data_set)
        cases += [_speaking_of(case, entry, data_set) for case in chosen]
    return cases, sets


def _chosen(entry: DataEntry, data_set: DataSet) -> list[Case]:
    by_id = {case.id: case for case in data_set.cases}
    listed = entry.cases if isinstance(entry.cases, tuple) else ()
    for name in (*entry.exclude, *listed):
        if name not in by_id:
            raise DataSetError(
                f"{entry.path} has no case {name!r}; it has {_few(sorted(by_id))}."
            )
    names = [name for name in sorted(by_id) if name not in entry.exclude]
    if listed:
        names = [name for name in listed if name not in entry.exclude]
    elif isinstance(entry.cases, str):
        names = names[_slice(entry.cases, entry.path)]
    if not names:
        raise DataSetError(
            f"{entry.path}: cases {entry.cases!r} select none of {len(by_id)} cases."
        )
    return [by_id[name] for name in names]


def _slice(text: str, path: Path) -> slice:
    try:
        parts = [int(part) if part else None for part in text.split(":")]
        return slice(*parts) if len(parts) > 1 else slice(int(text), int(text) + 1)
    except (TypeError, ValueError) as error:
        raise DataSetError(
            f"{path}: cases {text!r} is no slice; write e.g. '0:120'."
        ) from error


def _speaking_of(case: Case, entry: DataEntry, data_set: DataSet) -> Case:
    values = {**case.values, **entry.map}
    wanted = entry.annotated if entry.annotated is not None else tuple(case.annotated)
    for name in wanted:
        if name not in values:
            raise DataSetError(
                f"{entry.path} annotates no {name!r}; its classes are "
                f"{', '.join(data_set.classes) or 'none'}. Add it to `map`."
            )
    annotated = wanted if case.label is not None else ()
    offset = case.intensity_offset + entry.intensity_offset
    return replace(case, values=values, annotated=annotated, intensity_offset=offset)


def _shared_channels(
    sets: Sequence[DataSet], wanted: tuple[str, ...] | None
) -> tuple[str, ...]:
    first = sets[0]
    for other in sets[1:]:
        if len(other.channels) != len(first.channels):
            raise DataSetError(
                f"{other.name} has the channels {', '.join(other.channels)}, "
                f"{first.name} has {', '.join(first.channels)}; one recipe needs the "
                "same channels everywhere."
            )
    for name in wanted or ():
        if name not in first.channels:
            raise DataSetError(
                f"{first.name} has no channel {name!r}; "
                f"it has {', '.join(first.channels)}."
            )
    return first.channels


def _class_order(
    cases: Sequence[Case], wanted: tuple[str, ...] | None
) -> tuple[str, ...]:
    found = list(dict.fromkeys(name for case in cases for name in case.annotated))
    if wanted is None:
        if not found:
            raise DataSetError("no case has labels: name a data set that has some.")
        return tuple(found)
    for name in wanted:
        if name not in found:
            raise DataSetError(
                f"no case annotates {name!r}; annotated are {', '.join(found)}."
            )
    return wanted


def _divide(
    cases: Sequence[Case], recipe: Recipe
) -> tuple[tuple[Case, ...], tuple[Case, ...], tuple[Case, ...]]:
    """Shuffle within each set of annotated classes, so that each is divided alike."""
    groups: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault(case.annotated, []).append(case)
    parts: tuple[list[Case], list[Case], list[Case]] = ([], [], [])
    for group in groups.values():
        shuffled = sorted(group, key=lambda case: case.id)
        random.Random(recipe.split.seed).shuffle(shuffled)
        test = round(recipe.split.test * len(shuffled))
        validation = round(recipe.split.validation * len(shuffled))
        parts[2].extend(shuffled[:test])
        parts[1].extend(shuffled[test : test + validation])
        parts[0].extend(shuffled[test + validation :])
    training, validation_cases, test_cases = (
        tuple(sorted(part, key=lambda case: case.id)) for part in parts
    )
    if not training:
        raise DataSetError("the split leaves no case for training; keep fewer apart.")
    return training, validation_cases, test_cases


def _refuse_leaks(cases: Cases) -> None:
    """The same scan in two places is noticed by its bytes, not by its name."""
    kept = {_content(case): case for case in (*cases.test, *cases.validation)}
    for case in (*cases.training, *cases.unlabelled):
        twin = kept.get(_content(case))
        if twin is not None:
            raise DataSetError(
                f"{case.images[0]} is used for training and, as {twin.images[0]}, kept "
                "for testing or validation; leave it out of one of them."
            )


def _content(case: Case) -> tuple[str, ...]:
    return tuple(file_hash(path) for path in case.images)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} ... ({len(names)} in all)" if len(names) > 3 else shown
