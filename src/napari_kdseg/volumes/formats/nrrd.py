"""NRRD in single files (.nrrd) and with the voxels beside them (.nhdr), in and out."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from napari_kdseg.atomic import atomic_file
from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.interleaved import Interleaved
from napari_kdseg.volumes.formats.nrrd_header import NrrdHeader, read_header
from napari_kdseg.volumes.formats.payload import (
    check_length,
    packed_into,
    read_all,
    write_voxels,
)
from napari_kdseg.volumes.formats.payload import (
    lazy as lazily,
)
from napari_kdseg.volumes.formats.segments import (
    extents_of,
    label_set_of,
    segment_keys,
    segments_in,
)
from napari_kdseg.volumes.formats.text_header import decimal, refuse_part
from napari_kdseg.volumes.formats.voxels import storable_dtype
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import (
    Grid,
    VoxelArray,
    default_channels,
    suffix_of,
)

_TYPES = {
    "i1": "signed char",
    "u1": "unsigned char",
    "i2": "short",
    "u2": "unsigned short",
    "i4": "int",
    "u4": "unsigned int",
    "i8": "long long",
    "u8": "unsigned long long",
    "f4": "float",
    "f8": "double",
}
_CHANNEL_NAMES = "kdseg_channels"
_LPS = np.diag([-1.0, -1.0, 1.0])


def parts(path: Path) -> tuple[str, ...]:
    """Return nothing: a file holds one volume."""
    del path
    return ()


def files(path: Path) -> tuple[Path, ...]:
    """List the files of a volume: one, or header and voxels."""
    return tuple(dict.fromkeys((path, read_header(path).payload.path)))


def inspect(path: Path, part: str | None = None) -> Header:
    """Read and check a header; of the voxels only their number is looked at.

    Raises
    ------
    VolumeError
        When the header cannot be believed, raw voxels have the wrong length, or a
        part is named.
    """
    refuse_part(path, part)
    found = read_header(path)
    check_length(found.payload)
    return _header(found, path)


def read(
    path: Path, part: str | None = None, *, lazy: bool
) -> tuple[VoxelArray, Header]:
    """Read a file: voxels (channel, z, y, x) as stored.

    Parameters
    ----------
    path
        A file ending in .nrrd or .nhdr.
    lazy
        Leave voxels on disk: raw ones are read by pieces, packed ones gone through.

    Raises
    ------
    VolumeError
        When the file is damaged or of a kind that is not read.
    """
    refuse_part(path, part)
    found = read_header(path)
    return (lazily if lazy else read_all)(found.payload), _header(found, path)


def read_label_set(path: Path, part: str | None = None) -> LabelSet | None:
    """Read the names that `write_labels`, or 3D Slicer, left in a file."""
    refuse_part(path, part)
    found = read_header(path)
    segments = segments_in(found.keys, str(path))
    if not segments or found.channels > 1:
        return None
    return label_set_of(segments, str(path))[0]


def write(path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]) -> None:
    """Write voxels (channel, z, y, x) to one gzipped .nrrd, complete or not at all.

    Several channels are a list, the fastest axis of the file, which SimpleITK and 3D
    Slicer read as vectors. The channels' names stand in a key/value of our own.
    """
    named = channels != default_channels(len(channels))
    keys = {_CHANNEL_NAMES: json.dumps(channels)} if named else {}
    write_nrrd(path, data, grid, keys)


def write_labels(
    path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
) -> None:
    """Write labels (1, z, y, x); names and colours stand where 3D Slicer has them."""
    keys = {} if labels is None else segment_keys(labels, extents_of(data))
    write_nrrd(path, data, grid, keys)


def write_nrrd(
    path: Path, data: VoxelArray, grid: Grid, keys: Mapping[str, str]
) -> None:
    """Write voxels (channel, z, y, x) and key/values to one file.

    Raises
    ------
    VolumeError
        When the path ends in .nhdr, whose two files cannot appear in one instant.
    """
    if suffix_of(path) == ".nhdr":
        raise VolumeError(
            f"{path} would be two files, a header and its voxels; only single files "
            "are written. Give it the ending .nrrd."
        )
    stored = storable_dtype(np.dtype(data.dtype), path)
    count = data.shape[0]
    text = _header_text(count, stored, grid, keys)
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))
        with packed_into(file, "gzip") as packed:
            write_voxels(packed, data if count == 1 else Interleaved(data), stored)


def _header(found: NrrdHeader, path: Path) -> Header:
    segments = segments_in(found.keys, str(path)) if found.channels == 1 else ()
    return Header(
        path,
        found.grid,
        _channels(found),
        found.payload.dtype,
        found.notes + (label_set_of(segments, str(path))[1] if segments else ()),
        True if segments else None,
        found.payload.packing != "none",
    )


def _channels(found: NrrdHeader) -> tuple[str, ...]:
    try:
        names = json.loads(found.keys.get(_CHANNEL_NAMES, "null"))
    except (ValueError, RecursionError):
        names = None
    are_names = isinstance(names, list) and all(
        isinstance(name, str) and name for name in names
    )
    if not are_names or len(names) != found.channels:
        return default_channels(found.channels)
    return tuple(names)


def _header_text(
    count: int, stored: np.dtype[np.generic], grid: Grid, keys: Mapping[str, str]
) -> str:
    affine = _LPS @ grid.affine[:3]
    vectors = [f"({','.join(map(decimal, column))})" for column in affine.T]
    first = ["none"] if count > 1 else []
    sizes = [count, *grid.shape[::-1]] if count > 1 else grid.shape[::-1]
    kinds = [*(["list"] if count > 1 else []), "domain", "domain", "domain"]
    lines = [
        "NRRD0005",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {_TYPES[stored.str[1:]]}",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {' '.join(first + vectors[:3])}",
        f"kinds: {' '.join(kinds)}",
        "endian: little",
        "encoding: gzip",
        f"space origin: {vectors[3]}",
        *(f"{_escaped(key)}:={_escaped(value)}" for key, value in keys.items()),
    ]
    return "\n".join(lines) + "\n\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
