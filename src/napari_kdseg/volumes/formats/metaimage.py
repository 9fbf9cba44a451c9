"""MetaImage in single files (.mha) and with the voxels beside them (.mhd), in and out.

SimpleITK would read these files, and gives an array for truncated ones too; lengths
and checksums are compared here.
"""

from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.atomic import atomic_file
from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.interleaved import Interleaved
from napari_kdseg.volumes.formats.metaimage_header import (
    DTYPES,
    MetaHeader,
    anatomy,
    read_header,
)
from napari_kdseg.volumes.formats.payload import (
    Packing,
    check_length,
    packed_into,
    read_all,
    write_voxels,
)
from napari_kdseg.volumes.formats.payload import (
    lazy as lazily,
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

_TYPES = {code: name for name, code in DTYPES.items() if "LONG" not in name} | {
    "i8": "MET_LONG_LONG",
    "u8": "MET_ULONG_LONG",
}
_SIZE_DIGITS = 18
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
        A file ending in .mha or .mhd.
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


def read_label_set(path: Path, part: str | None = None) -> None:
    """Return None: MetaImage does not name its labels."""
    refuse_part(path, part)


def write(path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]) -> None:
    """Write voxels (channel, z, y, x) to one .mha, complete or not at all.

    They are not packed, so that any piece can be read alone. The channels' names are
    not kept.
    """
    del channels
    _write(path, data, grid, "none")


def write_labels(
    path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
) -> None:
    """Write labels (1, z, y, x), packed; names and colours are not kept."""
    del labels
    _write(path, data, grid, "zlib")


def _header(found: MetaHeader, path: Path) -> Header:
    return Header(
        path,
        found.grid,
        default_channels(found.channels),
        found.payload.dtype,
        found.notes,
        packed=found.payload.packing != "none",
    )


def _write(path: Path, data: VoxelArray, grid: Grid, packing: Packing) -> None:
    if suffix_of(path) == ".mhd":
        raise VolumeError(
            f"{path} would be two files, a header and its voxels; only single files "
            "are written. Give it the ending .mha."
        )
    stored = storable_dtype(np.dtype(data.dtype), path)
    count = data.shape[0]
    start, end = _header_texts(count, stored, grid, packing)
    with atomic_file(path) as file:
        file.write(start)
        place = file.tell()
        file.write(end)
        begins = file.tell()
        with packed_into(file, packing) as packed:
            write_voxels(packed, data if count == 1 else Interleaved(data), stored)
        if packing != "none":  # the size of the stream is known when it has ended
            size = file.tell() - begins
            file.seek(place - _SIZE_DIGITS - 1)
            file.write(f"{size:0{_SIZE_DIGITS}d}".encode())


def _header_texts(
    count: int, stored: np.dtype[Any], grid: Grid, packing: Packing
) -> tuple[bytes, bytes]:
    """Give the header up to the size of the packed stream, and what follows it."""
    direction = (_LPS @ np.asarray(grid.direction)).T
    is_packed = packing != "none"
    start = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {is_packed}",
        *([f"CompressedDataSize = {'0' * _SIZE_DIGITS}"] if is_packed else []),
    ]
    end = [
        f"TransformMatrix = {_listed(direction)}",
        f"Offset = {_listed(_LPS @ grid.origin_mm)}",
        "CenterOfRotation = 0 0 0",
        f"AnatomicalOrientation = {anatomy(grid)}",
        f"ElementSpacing = {_listed(grid.spacing_mm[::-1])}",
        f"DimSize = {' '.join(map(str, grid.shape[::-1]))}",
        *([f"ElementNumberOfChannels = {count}"] if count > 1 else []),
        f"ElementType = {_TYPES[stored.str[1:]]}",
        "ElementDataFile = LOCAL",
    ]
    return _lines(start), _lines(end)


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _listed(values: Any) -> str:
    return " ".join(map(decimal, np.ravel(values)))
