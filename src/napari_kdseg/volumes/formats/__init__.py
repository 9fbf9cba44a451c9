"""Reading and writing volumes: one door for every format.

A format is a module with the functions of `Format`; `FORMATS` says which one takes
which ending. A module is loaded when the first file of its kind is opened.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from napari_kdseg.errors import LabelError, VolumeError
from napari_kdseg.volumes.formats.files import (
    RESULT_ENDINGS,
    result_endings,
    volumes_among,
)
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.sniff import (
    holds_dicom,
    is_dicom,
    is_image_stack,
    is_zarr,
    visible_files,
)
from napari_kdseg.volumes.formats.voxels import (
    Block,
    LazyVoxels,
    PackedVoxels,
    guarded,
    settle_nonfinite,
    settle_volume,
    slabs,
)
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
    "RESULT_ENDINGS",
    "Format",
    "Header",
    "blocks_of",
    "case_id",
    "files_of",
    "inspect_volume",
    "is_dicom_series",
    "is_volume",
    "label_images_of",
    "parts_of",
    "read_label_set",
    "read_labels",
    "read_volume",
    "result_endings",
    "suffix_of",
    "volumes_among",
    "volumes_in",
    "write_labels",
    "write_volume",
]

_NIFTI = "napari_kdseg.volumes.formats.nifti"
_NRRD = "napari_kdseg.volumes.formats.nrrd"
_SLICER = "napari_kdseg.volumes.formats.slicer"
_META_IMAGE = "napari_kdseg.volumes.formats.metaimage"
_TIFF = "napari_kdseg.volumes.formats.tiff"
_IMAGES = "napari_kdseg.volumes.formats.images"
_DICOM = "napari_kdseg.volumes.formats.dicom"
_OME_ZARR = "napari_kdseg.volumes.formats.ome_zarr"

FORMATS = {
    **dict.fromkeys((".nii", ".nii.gz"), _NIFTI),
    **dict.fromkeys((".hdr", ".hdr.gz", ".img", ".img.gz"), _NIFTI),
    **dict.fromkeys((".nrrd", ".nhdr"), _NRRD),
    ".seg.nrrd": _SLICER,
    **dict.fromkeys((".mha", ".mhd"), _META_IMAGE),
    **dict.fromkeys((".tif", ".tiff", ".ome.tif", ".ome.tiff"), _TIFF),
    ".dcm": _DICOM,
    **dict.fromkeys((".zarr", ".ome.zarr"), _OME_ZARR),
}
"""The module that reads and writes each ending."""


@runtime_checkable
class Format(Protocol):
    """What the module of a format can do; it knows nothing of other formats.

    A file may hold several volumes, called its parts: the series of a DICOM folder,
    the layers of a segmentation. `part` is the name of one; None means the only one
    there is, and is refused where there are several.
    """

    def parts(self, path: Path) -> tuple[str, ...]:
        """Name the volumes in a file; empty where there can be but one."""

    def inspect(self, path: Path, part: str | None = None) -> Header:
        """Read and check the header."""

    def read(
        self, path: Path, part: str | None = None, *, lazy: bool
    ) -> tuple[VoxelArray, Header]:
        """Read voxels as channel, z, y, x, checked for damage but not for NaN.

        Lazily, they are `LazyVoxels`, or `PackedVoxels` where `Header.packed`.
        """

    def read_label_set(self, path: Path, part: str | None = None) -> LabelSet | None:
        """Read what the labels are called; None where the file does not say."""

    def write(
        self, path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]
    ) -> None:
        """Write voxels (channel, z, y, x), complete or not at all."""

    def write_labels(
        self, path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
    ) -> None:
        """Write labels (1, z, y, x), complete or not at all."""


def parts_of(path: Path) -> tuple[str, ...]:
    """Name the volumes a file or folder holds; empty where there can be but one.

    Raises
    ------
    VolumeError
        When it is damaged or of no known format.
    """
    return _format(path).parts(path)


def read_volume(
    path: Path,
    part: str | None = None,
    *,
    fill_nonfinite: float | None = None,
    lazy: bool = False,
) -> Volume:
    """Read a scan with its place in space, or refuse it and say why.

    Parameters
    ----------
    path
        A file or folder of a known format; see `FORMATS`.
    part
        Which of its volumes, where it holds several; see `parts_of`.
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
    stored, header = _format(path).read(path, part, lazy=lazy)
    if isinstance(stored, LazyVoxels):
        stored = replace(stored, checked=True, fill_nonfinite=fill_nonfinite)
        data = stored if lazy else guarded(partial(stored.__getitem__, ...), str(path))
    else:
        whole = guarded(partial(np.asarray, stored), str(path))
        data = settle_volume(whole, fill_nonfinite, str(path))
    levels = getattr(_format(path), "levels", None)
    coarser = levels(path, part)[1:] if lazy and levels is not None else ()
    return Volume(data, header.grid, header.channels, path, header.notes, coarser)


def blocks_of(
    path: Path, part: str | None = None, *, fill_nonfinite: float | None = None
) -> tuple[Header, Iterator[tuple[Block, np.ndarray]]]:
    """Go through a volume once, in its file's order and in little memory.

    Parameters
    ----------
    path, part, fill_nonfinite
        As `read_volume`.

    Returns
    -------
    Header
        Of the volume.
    Iterator
        Of (channel, slice along z) and the voxels there, z, y, x. Every voxel comes
        once; an error may come after the last, when a checksum is wrong.

    Raises
    ------
    VolumeError
        As `read_volume`.
    """
    stored, header = _format(path).read(path, part, lazy=True)
    pieces = (
        stored.blocks()
        if isinstance(stored, PackedVoxels)
        else ((place, np.asarray(stored[place])) for place in slabs(stored))
    )
    settled = (
        (place, settle_nonfinite(block, fill_nonfinite, str(path)))
        for place, block in pieces
    )
    return header, settled


def read_labels(path: Path, part: str | None = None) -> tuple[np.ndarray, Grid]:
    """Read labels (z, y, x) as uint8, or uint16 where a value needs it, and their grid.

    Raises
    ------
    VolumeError
        As `read_volume`.
    LabelError
        When values are not whole numbers from 0 to 65535, or there are channels.
    """
    stored, header = _format(path).read(path, part, lazy=False)
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


def label_images_of(path: Path) -> tuple[Path, ...]:
    """List the label images that a volume carries inside it, as an OME-Zarr may."""
    listed = getattr(_format(path), "label_images", None)
    return () if listed is None else tuple(listed(path))


def read_label_set(path: Path, part: str | None = None) -> LabelSet | None:
    """Read what the labels in a file are called; None where it does not say."""
    return _format(path).read_label_set(path, part)


def inspect_volume(path: Path, part: str | None = None) -> Header:
    """Read grid, channels, type and size of a file without reading its voxels.

    Raises
    ------
    VolumeError
        When its header is damaged, contradicts itself, or is of a kind not read.
    """
    return _format(path).inspect(path, part)


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
    path: Path,
    array: VoxelArray,
    grid: Grid,
    labels: LabelSet | None,
    *,
    of: tuple[Path, str | None] | None = None,
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
    of
        The scan they were drawn on, and which part of it. A DICOM segmentation refers
        to it; other formats do not.

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
    write = partial(_format(path).write_labels, path, whole, grid, labels)
    writes_of = getattr(_format(path), "write_labels_of", None)
    if of is not None and writes_of is not None:
        write = partial(writes_of, path, whole, grid, labels, of)
    _written(path, write)


def files_of(path: Path) -> tuple[Path, ...]:
    """List the files a volume consists of: one, a header and its voxels, a folder's.

    Of a folder of slices or pictures these are the visible files that lie in it
    directly, of an OME-Zarr all below it.

    Raises
    ------
    VolumeError
        When one of them is missing.
    """
    if path.is_dir():
        found = path.rglob("*") if is_zarr(path) else visible_files(path)
        return tuple(file for file in sorted(found) if file.is_file())
    listed = getattr(_format(path), "files", None)
    return (path,) if listed is None else tuple(listed(path))


def is_volume(path: Path) -> bool:
    """Whether a path is, by its name or its first bytes, of a format we read."""
    return _module_of(path) is not None


def volumes_in(folder: Path) -> tuple[Path, ...]:
    """List the volumes that lie in a folder directly, by name; hidden ones do not."""
    inside = (path for path in sorted(folder.iterdir()) if path.name[:1] != ".")
    return tuple(path for path in volumes_among(inside) if is_volume(path))


def is_dicom_series(path: Path) -> bool:
    """Whether a path is DICOM, to which a DICOM segmentation can refer."""
    return _module_of(path) == _DICOM


def _format(path: Path) -> Format:
    module = _module_of(path)
    if module is None:
        raise VolumeError(_no_volume(path))
    return cast(Format, import_module(module))


def _no_volume(path: Path) -> str:
    if not path.exists():
        return f"{path} does not exist; give a file or folder that does."
    if path.is_dir() and (inside := volumes_in(path)):
        count = "a volume" if len(inside) == 1 else f"{len(inside)} volumes"
        return (
            f"{path} is a folder with {count}, such as {inside[0].name}; name one of "
            "them. predict and bulk take whole folders."
        )
    what = "a folder of no kind we know" if path.is_dir() else "of no kind we know"
    return (
        f"{path} is {what}; volumes are DICOM series, folders of pictures, or end in "
        f"{', '.join(FORMATS)}. Convert it, for instance to .nii.gz."
    )


def _module_of(path: Path) -> str | None:
    """Name the module for a path; what has no telling name is looked into."""
    suffix = suffix_of(path)
    if suffix in FORMATS and not (path.is_dir() and FORMATS[suffix] != _OME_ZARR):
        return FORMATS[suffix]
    if path.is_dir():
        looks = (
            (is_zarr, _OME_ZARR),
            (holds_dicom, _DICOM),
            (is_image_stack, _IMAGES),
        )
        return next((module for looks_so, module in looks if looks_so(path)), None)
    return _DICOM if is_dicom(path) else None


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
            f"{path} could not be written: {error.strerror or error}. Nothing was left "
            "behind; see that its folder exists, may be written to and has room."
        ) from error
