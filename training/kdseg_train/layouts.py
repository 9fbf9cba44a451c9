"""Data sets as they come, in five layouts.

A project (``project.json``), Decathlon (``dataset.json`` with a ``training`` list),
nnU-Net (``dataset.json`` with ``channel_names`` and files ``CASE_0000``), our own
(``dataset.yaml``), and a plain folder of images. A case carries the classes its labels
speak about; every other class is unknown there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from kdseg_train.channel_files import group_channels
from napari_kdseg.errors import DataSetError
from napari_kdseg.json_files import object_in
from napari_kdseg.project_folder import is_project
from napari_kdseg.project_folder import read as read_project
from napari_kdseg.review.corrections import Corrected
from napari_kdseg.review.labelled_set import labelled_set
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.scan import Scan, StoredImage

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
    held_out
        Whether nothing may be learnt from it: it is for testing alone.
    left_out
        Whether its project keeps it from training and testing alike.
    slices
        Axis and index of the stored slices that the labels speak about; empty: all.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    values: dict[str, tuple[int, ...]]
    annotated: tuple[str, ...]
    intensity_offset: float = 0.0
    group: str = ""
    held_out: bool = False
    left_out: bool = False
    slices: tuple[tuple[int, int], ...] = ()

    @property
    def unit(self) -> str:
        """Names what is never divided: the case, or the cases of its group."""
        return self.group or f"case {self.id}"


@dataclass(frozen=True)
class DataSet:
    """A folder of cases that share channels and classes."""

    name: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    cases: tuple[Case, ...]
    licence: str = ""
    shown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Case -> what its own channels show, where they are not called as all are."""

    def channels_of(self, case: str) -> tuple[str, ...]:
        """What the channels of a case show, in the order of its images."""
        return self.shown.get(case, self.channels)


def describes_cases(folder: Path) -> bool:
    """Whether a folder says what its cases are; else it is only looked through.

    nnU-Net copies ``dataset.json`` beside its predictions; there it names classes.
    """
    if is_project(folder) or (folder / "dataset.yaml").is_file():
        return True
    path = folder / "dataset.json"
    said = object_in(path)
    if "channel_names" in said:
        return any((folder / "labelsTr").glob("*"))
    return path.is_file() and said.get("training") != []


def read_data_set(folder: Path) -> DataSet:
    """Read whichever of the five layouts the folder holds.

    Raises
    ------
    DataSetError
        Where it holds none, or a file it promises is missing.
    """
    if not folder.is_dir():
        raise DataSetError(f"{folder} is no folder; give the folder of a data set.")
    try:
        found = _read(folder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataSetError(
            f"{folder} has a description that does not follow its layout "
            f"({type(error).__name__}: {error}); compare it with a set of that layout."
        ) from error
    _check_ids(folder, [case.id for case in found.cases])
    return found


def _read(folder: Path) -> DataSet:
    if is_project(folder):
        return _project(folder)
    if (folder / "dataset.yaml").is_file():
        return _own(folder, _mapping(folder / "dataset.yaml"))
    if describes_cases(folder):
        description = _mapping(folder / "dataset.json")
        if "channel_names" in description:
            return _nnunet(folder, description)
        return _decathlon(folder, description)
    return _images_alone(folder)


def _check_ids(folder: Path, ids: Sequence[str]) -> None:
    for number, name in enumerate(ids):
        if name != Path(name).name or name.startswith("."):
            raise DataSetError(
                f"{folder} has a case called {name!r}; ids become folders; they may "
                "not begin with a dot or hold a separator. Rename it."
            )
        if name in ids[:number]:
            raise DataSetError(
                f"{folder} has two cases called {name!r}; rename one of them."
            )


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


# ---- projects ----


def _project(folder: Path) -> DataSet:
    """Read the scans of a project: with their own labels, or as people corrected them.

    A scan that is gone keeps its noted path: who needs it is told that it is missing.
    One that is left out need not fit the others, and is no case where it does not.
    """
    document, _ = read_project(folder)
    if not document.scans:
        raise DataSetError(
            f"{folder} is a project without scans; add some in the Volumes dock."
        )
    used = [scan for scan in document.scans if scan.use != "left-out"]
    channels = (used or document.scans)[0].channels
    corrections = labelled_set(folder)
    cases, shown = [], {}
    for scan in document.scans:
        left_out = scan.use == "left-out"
        try:
            ordered = _ordered(scan, channels, folder)
        except DataSetError:
            if left_out:
                continue
            raise
        shown[scan.case] = tuple(name for one in ordered for name in one.channels)
        case = Case(
            scan.case,
            tuple(one.file.find(folder) or Path(one.file.path) for one in ordered),
            None,
            {},
            (),
            held_out=scan.use == "test",
            left_out=left_out,
        )
        if scan.labels is not None:
            case = _with_labels(case, scan, folder, document.classes)
        elif scan.case in corrections:
            case = _as_corrected(case, corrections[scan.case])
        cases.append(case)
    classes = tuple(dict.fromkeys(name for case in cases for name in case.values))
    return DataSet(document.name, channels, classes, tuple(cases), shown=shown)


def _ordered(
    scan: Scan, channels: tuple[str, ...], folder: Path
) -> tuple[StoredImage, ...]:
    """Images of a scan in the order of the first scan's channels."""
    for stored in scan.files:
        if stored.part is not None:
            raise DataSetError(
                f"{folder}: the scan {scan.case!r} is one of several volumes in "
                f"{stored.file.path}, and training reads whole files; convert it with "
                "kdseg-train convert --part, and add that file in its place."
            )
    by_name = {image.channels: image for image in scan.images}
    wanted = [(name,) for name in channels]
    if len(channels) > 1 and set(by_name) == set(wanted):
        return tuple(by_name[name] for name in wanted)
    if len(scan.channels) != len(channels) or (
        scan.channels != channels and set(scan.channels) == set(channels)
    ):
        raise DataSetError(
            f"{folder}: the scan {scan.case!r} has the channels "
            f"{', '.join(scan.channels)}, and others {', '.join(channels)}; a data set "
            "has the same channels everywhere. Name them alike in the Volumes dock."
        )
    return scan.images


def _with_labels(
    case: Case, scan: Scan, folder: Path, classes: LabelSet | None
) -> Case:
    assert scan.labels is not None
    path = scan.labels.file.find(folder) or Path(scan.labels.file.path)
    known = classes
    if known is None and path.exists():
        known = formats.read_label_set(path)
    values = _values(known)
    annotated = scan.annotated or tuple(values)
    return replace(case, label=path, values=values, annotated=annotated)


def _as_corrected(case: Case, found: Corrected) -> Case:
    values = _values(found.classes)
    slices = tuple(
        (axis, index) for axis, indices in found.slices.items() for index in indices
    )
    return replace(
        case,
        label=found.labels,
        values=values,
        annotated=tuple(values),
        slices=slices,
    )


def _values(classes: LabelSet | None) -> Values:
    return {item.name: (item.value,) for item in classes.classes} if classes else {}


def _images_alone(folder: Path) -> DataSet:
    groups = group_channels(sorted(folder.iterdir()))
    if not groups:
        raise DataSetError(
            f"{folder} is no data set: neither a dataset.yaml nor a dataset.json in it "
            "names cases, and it has no image that can be read; give a Decathlon, "
            "nnU-Net or own folder."
        )
    count = max(len(images) for images in groups.values())
    channels = ("image",) if count == 1 else tuple(f"{i:04d}" for i in range(count))
    cases = tuple(_case(case, images, None, {}) for case, images in groups.items())
    return DataSet(folder.name, channels, (), cases)


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
