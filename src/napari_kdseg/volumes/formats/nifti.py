"""NIfTI-1 and NIfTI-2, plain or gzipped: single files in and out, pairs in.

What the header says is checked in `nifti_header`, the voxels in `payload`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from napari_kdseg.atomic import atomic_file
from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.nifti_header import (
    INTENT_LABEL,
    SIZE_1,
    SIZE_2,
    NiftiHeader,
    is_nifti2,
    parse_header,
)
from napari_kdseg.volumes.formats.nifti_labels import (
    MOST_BYTES,
    find_labels,
    label_extensions,
)
from napari_kdseg.volumes.formats.nifti_pair import files_of, is_half
from napari_kdseg.volumes.formats.payload import (
    Packing,
    Payload,
    check_length,
    decoded,
    packed_into,
    read_all,
    read_bytes,
    write_voxels,
)
from napari_kdseg.volumes.formats.payload import lazy as leave
from napari_kdseg.volumes.formats.voxels import storable_dtype
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid, VoxelArray, default_channels

_GZIP_MARK = b"\x1f\x8b"
_LARGEST_NIFTI1_SIZE = 32767


def parts(path: Path) -> tuple[str, ...]:
    """Name the times of a file that has both times and channels; else there are none.

    A file with one axis beyond x, y, z holds one volume, and that axis its channels.

    Raises
    ------
    VolumeError
        When the header cannot be believed.
    """
    return _times(_opened(path).header)


def files(path: Path) -> tuple[Path, ...]:
    """List the files of a volume: one, or the two of a pair."""
    return tuple(dict.fromkeys(files_of(path)))


def inspect(path: Path, part: str | None = None) -> Header:
    """Read and check a header; of the voxels only their number is looked at.

    Raises
    ------
    VolumeError
        When the header cannot be believed, or a plain file has the wrong length.
    """
    header, payload = _found(path, part)
    check_length(payload)
    return header


def read(
    path: Path, part: str | None = None, *, lazy: bool
) -> tuple[VoxelArray, Header]:
    """Read a file: voxels (channel, z, y, x) as stored or, where scaled, float32.

    Parameters
    ----------
    path
        A file ending in .nii or .nii.gz, or either file of a pair; whether it is
        gzipped is looked up in it.
    part
        Which time, where a file has both times and channels; see `parts`.
    lazy
        Leave voxels on disk; gzipped ones are decoded when they are gone through.

    Raises
    ------
    VolumeError
        When the file is damaged or of a kind that is not read.
    """
    header, payload = _found(path, part)
    return (leave if lazy else read_all)(payload), header


def read_label_set(path: Path, part: str | None = None) -> LabelSet | None:
    """Read the names and colours of labels that the header carries in an extension.

    Returns
    -------
    LabelSet or None
        None where there are none, or their table is damaged: the voxels do not need
        it, and half a table would give some labels the wrong name.

    Raises
    ------
    VolumeError
        When the header cannot be believed.
    """
    del part
    return _opened(path).labels


def write(path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]) -> None:
    """Write voxels (channel, z, y, x) to one NIfTI file, complete or not at all.

    The channels' names are not kept: NIfTI has no place for them.
    """
    del channels
    _write(path, data, grid, intent=0)


def write_labels(
    path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
) -> None:
    """Write labels (1, z, y, x), marked as such, with names and colours if given."""
    extensions = b"" if labels is None else label_extensions(labels)
    _write(path, data, grid, intent=INTENT_LABEL, extensions=extensions)


@dataclass(frozen=True)
class _Opened:
    header: NiftiHeader
    labels: LabelSet | None
    voxels: Path
    """The file with the voxels: that of the header, or the second of a pair."""


def _opened(path: Path) -> _Opened:
    head, voxels = files_of(path)
    in_pair = head != voxels
    with decoded(head, _packing(head)) as stream:
        start = read_bytes(stream, SIZE_1)
        start += read_bytes(stream, SIZE_2 - SIZE_1) if is_nifti2(start) else b""
        header = parse_header(start, str(head), in_pair=in_pair)
        room = MOST_BYTES if in_pair else min(header.offset - len(start), MOST_BYTES)
        labels = find_labels(partial(read_bytes, stream), room, header.byte_order)
    return _Opened(header, labels, voxels)


def _found(path: Path, part: str | None) -> tuple[Header, Payload]:
    opened = _opened(path)
    header, voxels = opened.header, opened.voxels
    packing = _packing(voxels)
    is_packed = packing != "none"
    payload = Payload(
        path=voxels,
        packing=packing,
        offset=0 if is_packed else header.offset,
        skip=header.offset if is_packed else 0,
        stored=header.stored,
        shape=header.shape,
        axes=(0, 1, 2, 3),
        scaling=header.scaling,
        name=str(path),
        channels=_channels_at(header, path, part),
    )
    notes = header.notes
    if is_packed != voxels.name.lower().endswith(".gz"):
        kind = "gzipped" if is_packed else "not gzipped"
        notes += (f"{voxels} is {kind}, which its name does not say; rename it.",)
    found = Header(
        path=path,
        grid=header.grid,
        channels=default_channels(header.channels),
        dtype=payload.dtype,
        notes=notes,
        holds_labels=(header.holds_labels or opened.labels is not None) or None,
        packed=is_packed,
    )
    return found, payload


def _times(header: NiftiHeader) -> tuple[str, ...]:
    if header.times == 1:
        return ()
    return tuple(f"time {number}" for number in range(1, header.times + 1))


def _channels_at(header: NiftiHeader, path: Path, part: str | None) -> slice | None:
    """Find the channels of the time a part stands for: in the file time runs faster."""
    names = _times(header)
    if part in names:
        return slice(names.index(part), None, header.times)
    if part is None and not names:
        return None
    if not names:
        raise VolumeError(
            f"{path} has no part {part!r}; it holds one volume. Leave the part out."
        )
    wrong = "" if part is None else f"no part {part!r}, and "
    raise VolumeError(
        f"{path} has {wrong}{len(names)} times of {header.channels} channels; beyond "
        "x, y, z a volume may have one more axis, the channels. Choose one of "
        f"{names[0]} to {names[-1]} (--part NAME on the command line)."
    )


def _packing(path: Path) -> Packing:
    """Look at what is in a file, whatever its name."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise VolumeError(f"{path} {kind}; a NIfTI file is needed. Check the path.")
    with decoded(path, "none") as file:
        return "gzip" if file.read(2) == _GZIP_MARK else "none"


def _write(
    path: Path, data: VoxelArray, grid: Grid, intent: int, extensions: bytes = b""
) -> None:
    if is_half(path):
        raise VolumeError(
            f"{path} could not be written: two files (.hdr, .img) cannot appear at "
            "once, so pairs are only read. Choose a name that ends in .nii.gz."
        )
    stored = storable_dtype(np.dtype(data.dtype), path)
    header = _new_header(data.shape, stored, grid)
    header["intent_code"] = intent
    header["vox_offset"] = header.single_vox_offset + len(extensions)
    flag = bytes([1 if extensions else 0, 0, 0, 0])
    with atomic_file(path) as file:
        is_packed = path.name.lower().endswith(".gz")
        with packed_into(file, "gzip" if is_packed else "none") as stream:
            stream.write(header.binaryblock + flag + extensions)
            write_voxels(stream, data, stored)


def _new_header(shape: tuple[int, ...], stored: np.dtype[Any], grid: Grid) -> Any:
    sizes = (*grid.shape[::-1], shape[0]) if shape[0] > 1 else grid.shape[::-1]
    large = max(sizes) > _LARGEST_NIFTI1_SIZE
    kind: Any = Nifti2Header if large else Nifti1Header
    header = kind(endianness="<")
    header.set_data_dtype(stored)
    header.set_data_shape(sizes)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["magic"] = header.single_magic
    # A shear is beyond a qform; it gets code 0 then, and the sform counts alone.
    direction = np.asarray(grid.direction)
    rigid = np.allclose(direction.T @ direction, np.eye(3), atol=1e-4)
    header.set_qform(grid.affine, code=int(rigid))
    header.set_sform(grid.affine, code=1)
    return header
