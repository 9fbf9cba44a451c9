"""NIfTI-1 and NIfTI-2 in single files, plain or gzipped, in and out.

Reading is one pass: the gzip stream is decoded straight into the array, and its
checksum and length are compared at the end, so that a damaged file gives an error and
never wrong voxels. SimpleITK 2.5.7 gave an array for each of five damaged files.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip, isal_zlib
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from napari_kdseg.atomic import atomic_file
from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.nifti_header import (
    SIZE_1,
    SIZE_2,
    NiftiHeader,
    is_nifti2,
    parse_header,
)
from napari_kdseg.volumes.formats.voxels import LazyVoxels, guarded, slabs
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid, VoxelArray, default_channels

_GzipFile: Any = igzip.IGzipFile  # untyped
_IsalError: Any = isal_zlib.error  # its stub calls it an instance
_GZIP_MARK = b"\x1f\x8b"
_BUFFER_BYTES = 1 << 20
_DEFLATE_RATIO = 1032  # deflate cannot do better (zlib's technical notes)
_GZIP_LEVEL = 1
_READ_FAILURES: tuple[type[Exception], ...] = (
    EOFError,
    OSError,
    _IsalError,
    zlib.error,
)
_LARGEST_NIFTI1_SIZE = 32767
_INTENT_LABEL = 1002


def inspect(path: Path) -> Header:
    """Read and check a header; of the voxels only their number is looked at.

    Raises
    ------
    VolumeError
        When the header cannot be believed, or a plain file has the wrong length.
    """
    with _open(path) as (stream, packed):
        found = parse_header(_header_bytes(stream), str(path))
    _check_length(found, path, packed)
    return _header(found, path, packed)


def read(path: Path, *, lazy: bool) -> tuple[VoxelArray, Header]:
    """Read a file: voxels (channel, z, y, x) as stored or, where scaled, float32.

    Parameters
    ----------
    path
        A file ending in .nii or .nii.gz; what counts is what is in it.
    lazy
        Leave voxels on disk where they can be: in plain files without scaling.

    Raises
    ------
    VolumeError
        When the file is damaged or of a kind that is not read.
    """
    with _open(path) as (stream, packed):
        start = _header_bytes(stream)
        found = parse_header(start, str(path))
        _check_length(found, path, packed)
        header = _header(found, path, packed)
        if lazy and not packed and found.scaling is None:
            return _mapped(found, path), header
        _read(stream, found.offset - len(start))  # header extensions
        data = guarded(partial(_voxels, stream, found, path), str(path))
    return guarded(partial(_scaled, data, found), str(path)), header


def read_label_set(path: Path) -> None:
    """Return None: NIfTI does not name its labels."""


def write(path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]) -> None:
    """Write voxels (channel, z, y, x) to one NIfTI file, complete or not at all.

    The channels' names are not kept: NIfTI has no place for them.
    """
    del channels
    _write(path, data, grid, intent=0)


def write_labels(
    path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
) -> None:
    """Write labels (1, z, y, x), marked as such; names and colours are not kept."""
    del labels
    _write(path, data, grid, intent=_INTENT_LABEL)


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, bool]]:
    """Open a file for its bytes, decoded where it is gzipped, whatever its name."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise VolumeError(f"{path} {kind}; a NIfTI file is needed. Check the path.")
    try:
        with path.open("rb", buffering=_BUFFER_BYTES) as file:
            packed = file.read(2) == _GZIP_MARK
            file.seek(0)
            if packed:
                with _GzipFile(fileobj=file, mode="rb") as stream:
                    yield stream, packed
            else:
                yield file, packed
    except _READ_FAILURES as error:
        raise VolumeError(
            f"{path} cannot be read to its end: {error}. It is damaged or was cut "
            "off; fetch or make it anew."
        ) from error


def _read(stream: Any, count: int) -> bytes:
    """Read `count` bytes, or all there are, in whatever pieces they come."""
    pieces = bytearray()
    while len(pieces) < count and (piece := stream.read(count - len(pieces))):
        pieces += piece
    return bytes(pieces)


def _header_bytes(stream: Any) -> bytes:
    start = _read(stream, SIZE_1)
    return start + _read(stream, SIZE_2 - SIZE_1) if is_nifti2(start) else start


def _check_length(found: NiftiHeader, path: Path, packed: bool) -> None:  # noqa: FBT001
    """Compare what the header promises with the size of the file."""
    promised, size = found.offset + found.voxel_bytes, path.stat().st_size
    if packed and promised > size * _DEFLATE_RATIO:
        raise VolumeError(
            f"{path} promises {promised:,} bytes in its header, more than gzip can "
            f"pack into the {size:,} it has. The header is damaged, or the file was "
            "cut off: make it anew."
        )
    if not packed and promised != size:
        raise VolumeError(
            f"{path} has {size:,} bytes, and its header promises {promised:,} "
            f"(voxels {_shape(found)}, {found.stored.name}); both must be equal. It "
            "is damaged or was cut off: fetch or make it anew."
        )


def _header(found: NiftiHeader, path: Path, packed: bool) -> Header:  # noqa: FBT001
    notes = found.notes
    if packed != path.name.lower().endswith(".gz"):
        is_packed = "gzipped" if packed else "not gzipped"
        notes += (f"{path} is {is_packed}, which its name does not say; rename it.",)
    channels = default_channels(found.channels)
    return Header(path, found.grid, channels, found.dtype, notes)


def _mapped(found: NiftiHeader, path: Path) -> LazyVoxels:
    mapped = np.memmap(
        path, dtype=found.stored, mode="r", offset=found.offset, shape=found.shape
    )
    return LazyVoxels(mapped, (0, 1, 2, 3), str(path))


def _voxels(stream: Any, found: NiftiHeader, path: Path) -> np.ndarray:
    """Decode the voxels into place; the end of the stream checks its sum and length."""
    data = np.empty(found.shape, dtype=found.stored)
    bytes_left = data.reshape(-1).view(np.uint8).data
    while bytes_left and (count := stream.readinto(bytes_left)):
        bytes_left = bytes_left[count:]
    if bytes_left:
        raise VolumeError(
            f"{path} ends {len(bytes_left):,} bytes before the {found.voxel_bytes:,} "
            f"its header promises (voxels {_shape(found)}, {found.stored.name}). It "
            "is damaged or was cut off: fetch or make it anew."
        )
    if stream.read(1):
        raise VolumeError(
            f"{path} goes on after the {found.voxel_bytes:,} bytes its header promises "
            f"(voxels {_shape(found)}, {found.stored.name}); it must end there. Header "
            "or data are damaged: make it anew."
        )
    if not found.stored.isnative:
        data = data.byteswap(inplace=True).view(found.stored.newbyteorder("="))
    return data


def _scaled(data: np.ndarray, found: NiftiHeader) -> np.ndarray:
    """Apply slope and intercept in float64, as nibabel does, and round once."""
    if found.scaling is None:
        return data
    slope, intercept = found.scaling
    scaled = np.empty(data.shape, dtype=found.dtype)
    with np.errstate(over="ignore"):  # infinite results are dealt with as any other
        for block in slabs(data):
            scaled[block] = data[block] * np.float64(slope) + intercept
    return scaled


def _shape(found: NiftiHeader) -> str:
    channels, depth, height, width = found.shape
    return f"{width} x {height} x {depth} x {channels}"


def _write(path: Path, data: VoxelArray, grid: Grid, intent: int) -> None:
    stored = storable_dtype(np.dtype(data.dtype))
    header = _new_header(data.shape, stored, grid)
    header["intent_code"] = intent
    with atomic_file(path) as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time in the stream: equal voxels give equal files.
            with _GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
                _write_to(packed, header, data, stored)
        else:
            _write_to(file, header, data, stored)


def storable_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Give the type that stores `dtype` without loss: itself, for most.

    Raises
    ------
    VolumeError
        For types that are no integers or floats of at most 64 bits.
    """
    wider: dict[str, np.dtype[Any]] = {
        "?": np.dtype(np.uint8),
        "e": np.dtype(np.float32),
    }
    stored = wider.get(dtype.char, dtype)
    if stored.kind not in "uif" or stored.itemsize > 8:
        raise VolumeError(
            f"Voxels of type {dtype} cannot be written; they must be integers or "
            "floats of at most 64 bits. Convert them first."
        )
    return stored.newbyteorder("<")


def _new_header(shape: tuple[int, ...], stored: np.dtype[Any], grid: Grid) -> Any:
    sizes = (*grid.shape[::-1], shape[0]) if shape[0] > 1 else grid.shape[::-1]
    large = max(sizes) > _LARGEST_NIFTI1_SIZE
    kind: Any = Nifti2Header if large else Nifti1Header
    header = kind(endianness="<")
    header.set_data_dtype(stored)
    header.set_data_shape(sizes)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    # A shear is beyond a qform; it gets code 0 then, and the sform counts alone.
    direction = np.asarray(grid.direction)
    rigid = np.allclose(direction.T @ direction, np.eye(3), atol=1e-4)
    header.set_qform(grid.affine, code=int(rigid))
    header.set_sform(grid.affine, code=1)
    return header


def _write_to(file: Any, header: Any, data: VoxelArray, stored: np.dtype[Any]) -> None:
    no_extensions = b"\0\0\0\0"
    file.write(header.binaryblock + no_extensions)
    for block in slabs(data):
        voxels = np.ascontiguousarray(data[block], stored)
        file.write(voxels.reshape(-1).view(np.uint8).data)
