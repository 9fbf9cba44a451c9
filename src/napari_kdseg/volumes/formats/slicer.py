"""Segmentations of 3D Slicer (.seg.nrrd), in and out.

A segmentation has one layer, or several where its segments overlap: each is then a
label volume of its own, a part named ``layer 1``, ``layer 2``, ... Values that no
segment names stay in the voxels and get no name.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.errors import LabelError, VolumeError
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.nrrd import write_nrrd
from napari_kdseg.volumes.formats.nrrd_header import NrrdHeader, read_header
from napari_kdseg.volumes.formats.payload import check_length
from napari_kdseg.volumes.formats.payload import lazy as lazily
from napari_kdseg.volumes.formats.segments import (
    Segment,
    extents_of,
    label_set_of,
    segment_keys,
    segments_in,
)
from napari_kdseg.volumes.formats.voxels import LazyVoxels, PackedVoxels, guarded
from napari_kdseg.volumes.labels import LabelClass, LabelSet, distinct_color
from napari_kdseg.volumes.volume import Grid, VoxelArray, default_channels

_NAMES_SHOWN = 4
_BINARY = "Binary labelmap"
_SEGMENTATION_KEYS = {
    "Segmentation_ContainedRepresentationNames": f"{_BINARY}|",
    "Segmentation_MasterRepresentation": _BINARY,
    "Segmentation_ReferenceImageExtentOffset": "0 0 0",
}
_SOURCES = ("Segmentation_SourceRepresentation", "Segmentation_MasterRepresentation")


def parts(path: Path) -> tuple[str, ...]:
    """Name the layers; empty where there is one."""
    found, _ = _open(path)
    return _layers(found) if found.channels > 1 else ()


def inspect(path: Path, part: str | None = None) -> Header:
    """Read and check a header; of the voxels only their number is looked at.

    Raises
    ------
    VolumeError
        When the header cannot be believed, or `part` is no layer of it.
    """
    found, segments = _open(path)
    check_length(found.payload)
    return _header(found, segments, part, path)


def read(
    path: Path, part: str | None = None, *, lazy: bool
) -> tuple[VoxelArray, Header]:
    """Read one layer: labels (1, z, y, x) as stored.

    Parameters
    ----------
    part
        The name of a layer; see `parts`.
    lazy
        Leave voxels on disk: raw ones are read by pieces, packed ones gone through.

    Raises
    ------
    VolumeError
        When the file is damaged, or has several layers and `part` names none.
    """
    found, segments = _open(path)
    header = _header(found, segments, part, path)
    layer = _one_layer(lazily(found.payload), _layer(found, segments, part, path))
    return (layer if lazy else guarded(layer.__array__, str(path))), header


def read_label_set(path: Path, part: str | None = None) -> LabelSet | None:
    """Read names, values and colours of a layer; None where the file lists none."""
    found, segments = _open(path)
    layer = _layer(found, segments, part, path)
    if not segments:
        return None
    return label_set_of((s for s in segments if s.layer == layer), str(path))[0]


def write(path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]) -> None:
    """Refuse: a segmentation holds labels.

    Raises
    ------
    VolumeError
        Always.
    """
    del data, grid, channels
    raise VolumeError(
        f"{path} would be a segmentation, which holds labels and no image. Give it "
        "the ending .nrrd or .nii.gz; or say that the values are labels, with --labels "
        "on the command line."
    )


def write_labels(
    path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
) -> None:
    """Write labels (1, z, y, x) as one layer, with names and colours.

    Without a set, the values that occur are named ``class 1``, ``class 2``, ...
    """
    extents = extents_of(data)
    if labels is None:
        labels = _invented(extents)
    unnamed = sorted(extents.keys() - set(labels.values))
    if unnamed:
        raise LabelError(
            f"{path} would hold the label values {', '.join(map(str, unnamed[:5]))}, "
            "which the set does not name; each segment has a name. Add them to the "
            "set, or remove them."
        )
    write_nrrd(
        path, data, grid, {**segment_keys(labels, extents), **_SEGMENTATION_KEYS}
    )


def _invented(values: Any) -> LabelSet:
    return LabelSet(
        classes=tuple(
            LabelClass(value=value, name=f"class {value}", color=distinct_color(value))
            for value in sorted(values)
        )
    )


def _open(path: Path) -> tuple[NrrdHeader, tuple[Segment, ...]]:
    found = read_header(path)
    for key in _SOURCES:
        if found.keys.get(key, _BINARY) != _BINARY:
            raise VolumeError(
                f"{path} holds a {found.keys[key]!r}; only a {_BINARY!r} has one label "
                "a voxel. Convert it in 3D Slicer's Segmentations module and save it."
            )
    segments = segments_in(found.keys, str(path))
    beyond = [s for s in segments if s.layer >= found.channels]
    if beyond:
        raise VolumeError(
            f"{path} has {found.channels} layers, and its segment {beyond[0].name!r} "
            f"lies in the layer {beyond[0].layer}, counted from 0; it must be one of "
            "them. Save the segmentation anew with 3D Slicer."
        )
    return found, segments


def _layers(found: NrrdHeader) -> tuple[str, ...]:
    return tuple(f"layer {number}" for number in range(1, found.channels + 1))


def _layer(
    found: NrrdHeader, segments: tuple[Segment, ...], part: str | None, path: Path
) -> int:
    """Give the place of the layer that is asked for."""
    names = _layers(found)
    if part in names:
        return names.index(part)
    if part is None and len(names) == 1:
        return 0
    shown = "; ".join(
        f"{name} ({_named(segments, layer)})" for layer, name in enumerate(names)
    )
    if part is None:
        raise VolumeError(
            f"{path} has {len(names)} layers, as its segments overlap: {shown}. Choose "
            "one, with --part NAME on the command line, or make a file of each, with "
            "kdseg-train convert --split."
        )
    raise VolumeError(f"{path} has no part {part!r}; it has {shown}. Choose one.")


def _named(segments: tuple[Segment, ...], layer: int) -> str:
    names = [segment.name for segment in segments if segment.layer == layer]
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more or "no segment"


def _header(
    found: NrrdHeader, segments: tuple[Segment, ...], part: str | None, path: Path
) -> Header:
    layer = _layer(found, segments, part, path)
    notes = label_set_of((s for s in segments if s.layer == layer), str(path))[1]
    if not segments:
        notes = (f"{path} lists no segments; its values have no names.",)
    return Header(
        path,
        found.grid,
        default_channels(1),
        found.payload.dtype,
        found.notes + notes,
        holds_labels=True,
        packed=found.payload.packing != "none",
    )


def _one_layer(
    stored: LazyVoxels | PackedVoxels, layer: int
) -> LazyVoxels | PackedVoxels:
    if stored.shape[0] == 1:
        return stored
    if isinstance(stored, LazyVoxels):
        return LazyVoxels(_Layer(stored, layer), (None, 0, 1, 2), stored.name)
    shape = (1, *stored.shape[1:])
    return PackedVoxels(shape, stored.dtype, partial(_layer_blocks, stored, layer))


def _layer_blocks(stored: PackedVoxels, layer: int) -> Any:
    """Go through all layers, so that the sum at the end is checked, and give one."""
    for (found, planes), block in stored.blocks():
        if found == layer:
            yield (0, planes), block


class _Layer:
    """One layer (z, y, x) of stored voxels."""

    def __init__(self, stored: LazyVoxels, layer: int) -> None:
        self._stored = stored
        self._layer = layer
        self.shape: tuple[int, ...] = stored.shape[1:]
        self.dtype: Any = stored.dtype

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Read a box: z, y, x."""
        box: np.ndarray = self._stored[(self._layer, *index)]
        return box
