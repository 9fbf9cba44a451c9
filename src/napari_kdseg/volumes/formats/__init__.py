"""Reading and writing volumes: one door for every format.

A format is a module with the functions of `Format`; `FORMATS` says which one takes
which ending. A module is loaded when the first file of its kind is opened.
"""

from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from napari_kdseg.errors import LabelError, VolumeError
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.voxels import LazyVoxels, guarded, settle_volume
from napari_kdseg.volumes.labels import LabelSet, smallest_dtype, values_in
from napari_kdseg.volumes.volume import (
    Grid,
    Volume,
    VoxelArray,
    case_id,
    default_channels,
    suffix_of,
)

__all__ = [
    "FORMATS",
    "Format",
    "Header",
    "case_id",
    "inspect_volume",
    "is_volume",
    "read_label_set",
    "read_labels",
    "read_volume",
    "suffix_of",
    "write_labels",
    "write_volume",
]

FORMATS = {
    ".nii": "napari_kdseg.volumes.formats.nifti",
    ".nii.gz": "napari_kdseg.volumes.formats.nifti",
    ".zarr": "napari_kdseg.volumes.formats.ome_zarr",
    ".ome.zarr": "napari_kdseg.volumes.formats.ome_zarr",
}
"""The module that reads and writes each ending."""


@runtime_checkable
class Format(Protocol):
    """What the module of a format can do; it knows nothing of other formats."""

    def inspect(self, path: Path) -> Header:
        """Read and check the header."""

    def read(self, path: Path, *, lazy: bool) -> tuple[VoxelArray, Header]:
        """Read voxels as channel, z, y, x, checked for damage but not for NaN."""

    def read_label_set(self, path: Path) -> LabelSet | None:
        """Read what the labels are called; None where the file does not say."""

    def write(
        self, path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]
    ) -> None:
        """Write voxels (channel, z, y, x), complete or not at all."""

    def write_labels(
        self, path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
    ) -> None:
        """Write labels (1, z, y, x), complete or not at all."""


def read_volume(
    path: Path, *, fill_nonfinite: float | None = None, lazy: bool = False
) -> Volume:
    """Read a scan with its place in space, or refuse it and say why.

    Parameters
    ----------
    path
        A file or folder of a known format; see `FORMATS`.
    fill_nonfinite
        What to put where voxels are NaN or infinite; None refuses such a volume.
    lazy
        Leave voxels on disk where the format can be read by pieces; each piece is
        checked when it is read. Formats that cannot are read whole all the same.

    Returns
    -------
    Volume
        Voxels in their stored type, native byte order; float32 where the file says
        that they are to be scaled.

    Raises
    ------
    VolumeError
        When the file is damaged, contradicts itself, or is of a kind not read.
    """
    stored, header = _format(path).read(path, lazy=lazy)
    if isinstance(stored, LazyVoxels):
        stored = replace(stored, checked=True, fill_nonfinite=fill_nonfinite)
        data = stored if lazy else guarded(partial(stored.__getitem__, ...), str(path))
    else:
        data = settle_volume(np.asarray(stored), fill_nonfinite, str(path))
    return Volume(data, header.grid, header.channels, path, header.notes)


def read_labels(path: Path) -> tuple[np.ndarray, Grid]:
    """Read labels (z, y, x) as uint8, or uint16 where a value needs it, and their grid.

    Raises
    ------
    VolumeError
        As `read_volume`.
    LabelError
        When values are not whole numbers from 0 to 65535, or there are channels.
    """
    stored, header = _format(path).read(path, lazy=False)
    if len(header.channels) != 1:
        raise LabelError(
            f"{path} has {len(header.channels)} channels; labels have one. Combine "
            "them into one value a voxel."
        )
    data = guarded(partial(stored.__getitem__, 0), str(path))
    if data.dtype == np.uint8:
        return data, header.grid  # every value is a label
    values = values_in(data, str(path))
    return data.astype(smallest_dtype(max(values, default=0)), copy=False), header.grid


def read_label_set(path: Path) -> LabelSet | None:
    """Read what the labels in a file are called; None where it does not say."""
    return _format(path).read_label_set(path)


def inspect_volume(path: Path) -> Header:
    """Read grid, channels, type and size of a file without reading its voxels.

    Raises
    ------
    VolumeError
        When its header is damaged, contradicts itself, or is of a kind not read.
    """
    return _format(path).inspect(path)


def write_volume(
    path: Path, data: VoxelArray, grid: Grid, *, channels: tuple[str, ...] = ()
) -> None:
    """Write a volume so that the file is complete, or not there at all.

    Parameters
    ----------
    path
        Its ending chooses the format. A file of that name is replaced in the end; a
        folder never is.
    data
        Channel, z, y, x, or z, y, x alone; read a few planes at a time.
    grid
        Where the voxels lie.
    channels
        What each channel shows; kept where the format can.

    Raises
    ------
    VolumeError
        When shapes disagree, or the file cannot be written.
    """
    whole = _with_channels(data, grid, path)
    names = channels or default_channels(whole.shape[0])
    if len(names) != whole.shape[0]:
        raise VolumeError(
            f"{path} would have {whole.shape[0]} channels and {len(names)} channel "
            "names; give each channel one name."
        )
    _written(path, partial(_format(path).write, path, whole, grid, names))


def write_labels(
    path: Path, array: VoxelArray, grid: Grid, labels: LabelSet | None
) -> None:
    """Write labels so that the file is complete, or not there at all.

    Parameters
    ----------
    path
        Its ending chooses the format.
    array
        Labels z, y, x. Unsigned integers keep their type; others become uint8, or
        uint16 where needed.
    grid
        Where the voxels lie.
    labels
        The classes, to check the values against and, where the format can, to keep.

    Raises
    ------
    VolumeError
        When shapes disagree, or the file cannot be written.
    LabelError
        When a value is no label, or not in `labels`.
    """
    whole = _with_channels(array, grid, path)
    if whole.shape[0] != 1:
        raise LabelError(f"{path}: labels have one channel, not {whole.shape[0]}.")
    if labels is not None:
        labels.check(np.asarray(whole[0]), str(path))
    if np.dtype(whole.dtype).kind != "u":
        loaded = np.asarray(whole[0])
        largest = max(values_in(loaded, str(path)), default=0)
        whole = loaded.astype(smallest_dtype(largest))[np.newaxis]
    _written(path, partial(_format(path).write_labels, path, whole, grid, labels))


def is_volume(path: Path) -> bool:
    """Whether a path ends like a volume of a format we read."""
    return suffix_of(path) in FORMATS


def _format(path: Path) -> Format:
    suffix = suffix_of(path)
    if suffix not in FORMATS:
        raise VolumeError(
            f"{path} ends in {path.suffix or 'nothing'!r}; volumes end in "
            f"{', '.join(FORMATS)}. Convert it, for instance to .nii.gz."
        )
    return cast(Format, import_module(FORMATS[suffix]))


def _with_channels(data: VoxelArray, grid: Grid, path: Path) -> VoxelArray:
    shape = tuple(data.shape)
    if len(shape) not in (3, 4) or shape[-3:] != grid.shape:
        raise VolumeError(
            f"{path} would have {shape} voxels on a grid of {grid.shape} (z, y, x); "
            "the last three must be equal. Give the grid of this array."
        )
    return data if len(shape) == 4 else LazyVoxels(data, (None, 0, 1, 2), str(path))


def _written(path: Path, write: partial[None]) -> None:
    try:
        write()
    except OSError as error:
        raise VolumeError(
            f"{path} could not be written: {error}. Nothing was left behind; see that "
            "its folder exists, may be written to and has room."
        ) from error
