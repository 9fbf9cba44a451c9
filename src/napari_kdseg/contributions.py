"""What the manifest names: readers, writers and samples. No napari, no Qt, no torch."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.shipped import shipped_volumes
from napari_kdseg.state.layers import (
    LayerData,
    grid_of_layer,
    image_layers,
    labels_layer,
    record_of,
    viewable,
)
from napari_kdseg.state.results import LARGEST_IN_MEMORY_BYTES, classes_of_file
from napari_kdseg.volumes.formats import (
    case_id,
    inspect_volume,
    is_volume,
    read_labels,
    read_volume,
    suffix_of,
    write_labels,
)
from napari_kdseg.volumes.labels import (
    LabelClass,
    LabelSet,
    distinct_color,
    values_in,
)

Reader = Callable[[str], list[LayerData]]

# NIfTI keeps no names of classes.
SAMPLE_CLASSES = {
    "abdomen": LabelSet.from_names(["liver", "spleen", "kidneys", "pancreas"]),
    "brain": LabelSet.from_names(["necrotic core", "oedema", "enhancing tumour"]),
    "fish": LabelSet.from_names(
        [
            "brain",
            "eyes",
            "gills",
            "heart",
            "liver",
            "gut",
            "swim bladder",
            "kidney",
            "spine",
        ]
    ),
}

# Files with one of these words in their name, and files in folders of these names,
# hold labels.
_LABEL_WORDS = re.compile(r"(^|[-_. ])(labels?|seg|segmentation|mask|msk)([-_. ]|$)")
_LABEL_FOLDERS = ("labels", "labelstr", "labelsts", "corrections")
_PLAIN_NAMES = ("labels", "label", "seg", "mask")


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """Offer to read a scan or its labels; None for what is neither."""
    if isinstance(path, str):
        return read if is_volume(Path(path)) else None
    return read_several if all(is_volume(Path(one)) for one in path) else None


def read(path: str) -> list[LayerData]:
    """Layers of one file: an image layer a channel, or one layer of labels."""
    file = Path(path)
    if _holds_labels(file):
        return [_labels_of(file)]
    return image_layers(read_volume(file, lazy=True))


def read_several(paths: str | Sequence[str]) -> list[LayerData]:
    """Layers of several files, in their order."""
    listed = [paths] if isinstance(paths, str) else paths
    return [layer for path in listed for layer in read(path)]


def write_labels_nifti(path: str, data: Any, arguments: dict[str, Any]) -> list[str]:
    """Write a labels layer as NIfTI on the grid of the scan it was made from."""
    return _write(Path(path), ".nii.gz", data, arguments)


def write_labels_ome_zarr(path: str, data: Any, arguments: dict[str, Any]) -> list[str]:
    """Write a labels layer as OME-Zarr on the grid of the scan it was made from."""
    return _write(Path(path), ".ome.zarr", data, arguments)


def sample_abdomen() -> list[LayerData]:
    """A made CT of the abdomen; its true organs in a hidden layer."""
    return _sample("abdomen")


def sample_brain() -> list[LayerData]:
    """A made MR of the brain in four modalities; its true tumour in a hidden layer."""
    return _sample("brain")


def sample_fish() -> list[LayerData]:
    """A made micro-CT of a fish; its true organs in a hidden layer."""
    return _sample("fish")


def _sample(name: str) -> list[LayerData]:
    image = shipped_volumes()[name]
    layers = read(str(image))
    truth = image.with_name(f"{name}-labels.nii.gz")
    if truth.is_file():
        data, arguments, kind = _labels_of(truth, SAMPLE_CLASSES[name])
        hidden = {**arguments, "name": f"{name} truth", "visible": False}
        layers.append((data, hidden, kind))
    return layers


def _holds_labels(file: Path) -> bool:
    header = inspect_volume(file)
    if np.dtype(header.dtype).kind not in "ui" or len(header.channels) != 1:
        return False
    in_folder = file.parent.name.lower() in _LABEL_FOLDERS
    return in_folder or _LABEL_WORDS.search(case_id(file).lower()) is not None


def _labels_of(file: Path, classes: LabelSet | None = None) -> LayerData:
    header = inspect_volume(file)
    data: Any
    if header.bytes > LARGEST_IN_MEMORY_BYTES:
        # It opens, but cannot be painted on.
        data = viewable(read_volume(file, lazy=True).data)[0]
    else:
        data, _ = read_labels(file)
    stem = case_id(file)
    name = f"{file.parent.name} {stem}" if stem in _PLAIN_NAMES else stem
    known = classes or classes_of_file(file) or _classes_of_data_set(file)
    record = {"path": str(file)}
    return labels_layer(data, header.grid, known, name=name, record=record)


def _classes_of_data_set(file: Path) -> LabelSet | None:
    """The classes that the data set of a label file lists (Decathlon, nnU-Net)."""
    try:
        text = (file.parent.parent / "dataset.json").read_text("utf-8")
        listed = dict(json.loads(text)["labels"])
        # Decathlon has {"1": name}, nnU-Net {name: 1}.
        pairs = [(k, v) if isinstance(v, str) else (v, k) for k, v in listed.items()]
        named = {int(value): str(name) for value, name in pairs if int(value) > 0}
        return LabelSet(
            classes=tuple(
                LabelClass(value=value, name=name, color=distinct_color(value))
                for value, name in sorted(named.items())
            )
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, ending: str, data: Any, arguments: dict[str, Any]) -> list[str]:
    """Write labels; the class names go along where the layer knows them."""
    if not suffix_of(path):
        path = path.with_name(path.name + ending)
    name = str(arguments.get("name", path.name))
    grid = grid_of_layer(np.shape(data), arguments, name)
    array = np.asarray(data)
    classes = record_of(arguments).get("classes")
    known = _with_painted(classes, array, name) if classes is not None else None
    write_labels(path, array, grid, known)
    return [str(path)]


def _with_painted(classes: LabelSet, array: np.ndarray, name: str) -> LabelSet:
    """The classes, and one more for each value that a person painted beside them."""
    painted = sorted({*values_in(array, name)} - {0, *classes.values})
    more = (
        LabelClass(value=value, name=f"class {value}", color=distinct_color(value))
        for value in painted
    )
    return LabelSet(classes=(*classes.classes, *more))
