"""What the manifest names: readers, writers and samples. No napari, no Qt, no torch."""

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
)
from napari_kdseg.state.results import source_of_prediction
from napari_kdseg.state.scan_layers import classes_of_labels, labels_to_show
from napari_kdseg.volumes.formats import (
    Header,
    case_id,
    inspect_volume,
    is_volume,
    label_images_of,
    parts_of,
    suffix_of,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelSet, values_in
from napari_kdseg.volumes.naming import looks_like_labels
from napari_kdseg.volumes.opening import open_scan
from napari_kdseg.volumes.scan import VolumeFile

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

_PLAIN_NAMES = ("labels", "label", "seg", "mask")


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """Offer to read a scan or its labels; None for what is neither."""
    if isinstance(path, str):
        return read if is_volume(Path(path)) else None
    return read_several if all(is_volume(Path(one)) for one in path) else None


def read(path: str) -> list[LayerData]:
    """Layers of one file or folder: of every volume it holds, and of its labels.

    An image layer a channel, or one layer of labels. Of several images the first is
    visible.
    """
    file = Path(path)
    layers: list[LayerData] = []
    for part in parts_of(file) or (None,):
        layers += _layers_of(file, part, visible=not layers)
    for labels in label_images_of(file):
        layers.append(_labels_of(labels))
    return layers


def _layers_of(file: Path, part: str | None, *, visible: bool) -> list[LayerData]:
    header = inspect_volume(file, part)
    if _holds_labels(header, file):
        return [_labels_of(file, part)]
    made = image_layers(open_scan(file, part), part)
    if visible:
        return made
    return [(data, {**how, "visible": False}, kind) for data, how, kind in made]


def read_several(paths: str | Sequence[str]) -> list[LayerData]:
    """Layers of several files, in their order."""
    listed = [paths] if isinstance(paths, str) else paths
    return [layer for path in listed for layer in read(path)]


def write_labels_nifti(path: str, data: Any, arguments: dict[str, Any]) -> list[str]:
    """Write a labels layer as NIfTI on the grid of the scan it was made from."""
    return _write(Path(path), ".nii.gz", data, arguments)


def write_labels_slicer(path: str, data: Any, arguments: dict[str, Any]) -> list[str]:
    """Write a labels layer as a segmentation of 3D Slicer, with names and colours."""
    return _write(Path(path), ".seg.nrrd", data, arguments)


def write_labels_dicom(path: str, data: Any, arguments: dict[str, Any]) -> list[str]:
    """Write a labels layer as a DICOM segmentation of the series it was made from."""
    return _write(Path(path), ".dcm", data, arguments)


def write_labels_ome_zarr(path: str, data: Any, arguments: dict[str, Any]) -> list[str]:
    """Write a labels layer as OME-Zarr on the grid of the scan it was made from."""
    return _write(Path(path), ".ome.zarr", data, arguments)


def write_labels_plain(path: str, data: Any, arguments: dict[str, Any]) -> list[str]:
    """Write a labels layer as NRRD, MetaImage or TIFF, as its ending says."""
    return _write(Path(path), ".mha", data, arguments)


def write_image(path: str, data: Any, arguments: dict[str, Any]) -> list[str]:
    """Write an image layer on the grid of its scan, in the format of its ending."""
    file = Path(path)
    if not suffix_of(file):
        file = file.with_name(f"{file.name}.nii.gz")
    array = data[0] if arguments.get("multiscale") else data
    grid = grid_of_layer(np.shape(array), arguments, str(arguments.get("name", file)))
    write_volume(file, array, grid, channels=(str(arguments.get("name", "image")),))
    return [str(file)]


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
        data, arguments, kind = _labels_of(truth, classes=SAMPLE_CLASSES[name])
        hidden = {**arguments, "name": f"{name} truth", "visible": False}
        layers.append((data, hidden, kind))
    return layers


def _holds_labels(header: Header, file: Path) -> bool:
    if header.holds_labels is not None:
        return header.holds_labels
    if np.dtype(header.dtype).kind not in "ui" or len(header.channels) != 1:
        return False
    return looks_like_labels(file)


def _labels_of(
    file: Path, part: str | None = None, classes: LabelSet | None = None
) -> LayerData:
    one = VolumeFile(file, part)
    data, grid = labels_to_show(one)
    stem = case_id(file)
    name = f"{file.parent.name} {stem}" if stem in _PLAIN_NAMES else stem
    known = classes or classes_of_labels(one)
    record = {"path": str(file), "part": part}
    named = name if part is None else f"{name} {part}"
    return labels_layer(data, grid, known, name=named, record=record)


def _write(path: Path, ending: str, data: Any, arguments: dict[str, Any]) -> list[str]:
    """Write labels; the class names go along where the layer knows them."""
    if not suffix_of(path):
        path = path.with_name(path.name + ending)
    name = str(arguments.get("name", path.name))
    grid = grid_of_layer(np.shape(data), arguments, name)
    array = np.asarray(data)
    classes = record_of(arguments).get("classes")
    # A person may have painted values beside those of the classes.
    known = None if classes is None else classes.with_values(values_in(array, name))
    of = _series_behind(record_of(arguments)) if suffix_of(path) == ".dcm" else None
    write_labels(path, array, grid, known, of=of)
    return [str(path)]


def _series_behind(record: dict[str, Any]) -> tuple[Path, str | None] | None:
    """The scan that a prediction's record names, or that the labels came from."""
    path = record.get("path")
    if path is None:
        return None
    source = source_of_prediction(Path(path))
    return (Path(path), record.get("part")) if source is None else (source, None)
