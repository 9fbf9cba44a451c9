"""OME-Zarr: version 0.5 (zarr 3) in and out, 0.4 (zarr 2) in.

https://ngff.openmicroscopy.org/0.5/ and /0.4/. The standard knows scale and
translation alone; the full affine is kept beside them under our own key. A labels
volume is a label image of the standard: multiscales and `image-label` in one group.

A zarr array reads without an error when chunks are missing. So all chunks of ours are
written, also empty ones, and a finished result has a record, `_complete.json`; without
it, or with a chunk too few, the result is refused.
"""

import json
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import zarr
import zarr.errors
from numpy.typing import DTypeLike
from zarr.codecs import BloscCodec, Crc32cCodec

from napari_kdseg.atomic import publish_folder, temporary_beside, write_text_atomic
from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.ome_metadata import (
    Image,
    Kind,
    image_of,
    labels_of,
    metadata,
)
from napari_kdseg.volumes.formats.voxels import LazyVoxels
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid, VoxelArray, default_channels

COMPLETE = "_complete.json"
"""Name of the record that a finished result has."""
_FULL_SIZE = "0"
_LARGE_VOXELS = 2**28
_SAFE_CODECS = {
    *("blosc", "zstd", "zlib", "gzip", "lz4", "bz2", "lzma", "shuffle", "delta"),
    *("bitround", "astype", "fixedscaleoffset", "quantize", "packbits"),
    *("crc32", "crc32c", "adler32", "fletcher32"),
}
# What zarr, its codecs and the file system raise on damaged or missing files.
_FAILURES = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    zarr.errors.BaseZarrError,
)


def create_array(  # noqa: PLR0913 - independent options, named by the caller
    path: Path,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    grid: Grid,
    *,
    kind: Kind = "labels",
    chunks: tuple[int, ...] | None = None,
    fill: float = 0,
    labels: LabelSet | None = None,
    channels: tuple[str, ...] = (),
    value_scale: float | None = None,
) -> zarr.Array[Any]:
    """Begin a result on disk that can be looked at while it is written.

    Parameters
    ----------
    path
        The folder to make; nothing may lie there.
    shape
        Z, y, x, or channel, z, y, x; the last three are the grid's.
    dtype
        Type of the stored values.
    grid
        Where the voxels lie.
    kind
        Whether the values are labels or an image.
    chunks
        Voxels of a chunk along each axis; None takes cubes of 64, or of 128 in large
        volumes. One process writes a chunk at a time, never two.
    fill
        What a chunk that nobody has written reads as.
    labels
        The classes, kept with their names and colours.
    channels
        What each channel shows.
    value_scale
        What stored values are multiplied by when the volume is read, such as 1/255
        for uncertainty in uint8; None leaves them as they are.

    Returns
    -------
    zarr.Array
        Open for reading and writing. `finish` makes it a result.
    """
    attributes = metadata(grid, kind, len(shape), labels, channels, value_scale)
    group = zarr.create_group(store=str(path), zarr_format=3, attributes=attributes)
    return group.create_array(
        _FULL_SIZE,
        shape=shape,
        dtype=dtype,
        chunks=chunks or _chunks(shape),
        fill_value=fill,
        # The checksum makes a flipped bit an error instead of another organ.
        compressors=[BloscCodec(cname="zstd", clevel=1), Crc32cCodec()],
        dimension_names=["c", "z", "y", "x"][-len(shape) :],
        config={"write_empty_chunks": True},
    )


def open_array(
    path: Path, *, require_complete: bool = True, writable: bool = False
) -> zarr.Array[Any]:
    """Open the full-size array of a folder that `create_array` made.

    Parameters
    ----------
    path
        The folder.
    require_complete
        Refuse it unless `finish` has been called and every chunk is there.
    writable
        Open it for writing as well, to go on with it.

    Raises
    ------
    VolumeError
        When it is damaged, or not complete where it must be.
    """
    array = _array(path, _FULL_SIZE, "r+" if writable else "r")
    if require_complete:
        _check_complete(path, array)
    return array


def finish(path: Path) -> None:
    """Write the record that makes an array a finished result.

    Raises
    ------
    VolumeError
        When a chunk was never written.
    """
    array = _array(path, _FULL_SIZE, "r")
    stored = _stored_chunks(array)
    if stored != array.nchunks:
        raise VolumeError(
            f"{path} has {stored} of its {array.nchunks} chunks; a finished result has "
            "all. Run the job again with --resume."
        )
    record = {
        "version": 1,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "chunks": array.nchunks,
    }
    write_text_atomic(path / COMPLETE, json.dumps(record, indent=1) + "\n")


def inspect(path: Path) -> Header:
    """Read and check what a folder says of its voxels.

    Raises
    ------
    VolumeError
        When it is no OME-Zarr image, is not complete, or is of a kind not read.
    """
    return _opened(path)[1]


def read(path: Path, *, lazy: bool) -> tuple[VoxelArray, Header]:
    """Open the full-size image, channel, z, y, x; voxels are read when asked for.

    Raises
    ------
    VolumeError
        As `inspect`, and when a chunk that is read is damaged.
    """
    del lazy  # zarr is read by pieces in any case
    return _opened(path)


def read_label_set(path: Path) -> LabelSet | None:
    """Read names and colours of the labels; None where the folder has none."""
    return labels_of(_attributes(path), str(path))


def write(path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]) -> None:
    """Write voxels (channel, z, y, x) to a new folder, complete or not at all."""
    _write(path, data, grid, partial(create_array, kind="image", channels=channels))


def write_labels(
    path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
) -> None:
    """Write labels (1, z, y, x) to a new folder, complete or not at all."""
    _write(path, data, grid, partial(create_array, kind="labels", labels=labels))


def _write(
    path: Path,
    data: VoxelArray,
    grid: Grid,
    make: Callable[..., zarr.Array[Any]],
) -> None:
    if path.exists():
        raise VolumeError(
            f"{path} exists already; a folder is never replaced. Choose another name, "
            "or move the old one away."
        )
    temporary = temporary_beside(path)
    single = data.shape[0] == 1
    shape = tuple(data.shape[1:]) if single else tuple(data.shape)
    try:
        array = make(temporary, shape, data.dtype, grid)
        depth = array.chunks[-3]
        for start in range(0, shape[-3], depth):
            span = slice(start, start + depth)
            array[..., span, :, :] = data[0, span] if single else data[:, span]
        finish(temporary)
        publish_folder(temporary, path)
    except BaseException:
        rmtree(temporary, ignore_errors=True)
        raise


def _opened(path: Path) -> tuple[LazyVoxels, Header]:
    name = str(path)
    image = image_of(_attributes(path), name)
    if not (path / image.dataset).resolve().is_relative_to(path.resolve()):
        raise VolumeError(
            f"{name} names the array {image.dataset!r}, which lies outside of it; "
            "arrays must lie inside. Do not trust this folder."
        )
    array = _array(path, image.dataset, "r")
    _check_kind(array, image, name)
    if image.affine is not None:
        _check_complete(path, array)
    axes = image.places()
    voxels = LazyVoxels(array, axes, name, scale=image.value_scale, failures=_FAILURES)
    grid = image.grid(voxels.shape[1:], name)
    channels = image.channels or default_channels(voxels.shape[0])
    if len(channels) != voxels.shape[0]:
        channels = default_channels(voxels.shape[0])
    return voxels, Header(path, grid, channels, voxels.dtype, image.notes)


def _attributes(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise VolumeError(
            f"{path} is no folder; an OME-Zarr is one. Check the path, or unpack it."
        )
    try:
        group = zarr.open_group(store=str(path), mode="r", use_consolidated=False)
        return dict(group.attrs)
    except _FAILURES as error:
        raise VolumeError(
            f"{path} is no zarr group that can be opened ({_brief(error)}); an "
            "OME-Zarr image is one. It is damaged or something else: make it anew."
        ) from error


def _array(path: Path, dataset: str, mode: Literal["r", "r+"]) -> zarr.Array[Any]:
    try:
        return zarr.open_array(store=str(path / dataset), mode=mode)
    except _FAILURES as error:
        raise VolumeError(
            f"{path} has no array {dataset!r} that can be opened ({_brief(error)}); "
            "its full-size image must be there. It is damaged: make it anew."
        ) from error


def _check_kind(array: zarr.Array[Any], image: Image, name: str) -> None:
    if array.dtype.kind not in "uifb":
        raise VolumeError(
            f"{name} holds {array.dtype} values; voxels must be integers or floats. "
            "Convert it."
        )
    unsafe = _codec_names(array) - _SAFE_CODECS
    if unsafe:
        raise VolumeError(
            f"{name} is encoded with {', '.join(sorted(unsafe))}, which is not opened "
            "because it may run code or is unknown; allowed are "
            f"{', '.join(sorted(_SAFE_CODECS))}. Save it anew with one of these."
        )
    if array.ndim != len(image.axes) or min(array.shape) < 1:
        raise VolumeError(
            f"{name} has an array of {array.shape} voxels and the axes "
            f"{', '.join(image.axes)}; it needs one size above 0 an axis. Its metadata "
            "are damaged: make it anew."
        )
    extra = {
        axis: size
        for axis, size in zip(image.axes, array.shape, strict=True)
        if axis not in "czyx" and size > 1
    }
    if extra:
        raise VolumeError(
            f"{name} has {extra} beside channel, z, y, x; there is one volume to a "
            "file. Save one for each."
        )


def _codec_names(array: zarr.Array[Any]) -> set[str]:
    """Name what decodes the chunks, beyond the order of bytes and axes."""
    if array.metadata.zarr_format == 2:
        used = [*(array.metadata.filters or ()), array.metadata.compressor]
        return {codec.codec_id for codec in used if codec is not None}
    return {
        str(codec.to_dict()["name"]).removeprefix("numcodecs.")
        for codec in (*array.filters, *array.compressors)
    } - {"transpose"}


def _check_complete(path: Path, array: zarr.Array[Any]) -> None:
    record = path / COMPLETE
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        promised = (found["shape"], found["dtype"], found["chunks"])
    except FileNotFoundError:
        raise VolumeError(
            f"{path} has no {COMPLETE}; a finished result has one. It is still being "
            "written, or its job was stopped: run that again with --resume."
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise VolumeError(
            f"{record} cannot be read ({_brief(error)}); it must name shape, dtype and "
            "chunks. It is damaged: make the result anew."
        ) from None
    if promised != (list(array.shape), str(array.dtype), array.nchunks):
        raise VolumeError(
            f"{path} has {array.shape} {array.dtype} voxels, and its record promises "
            f"{promised[0]} {promised[1]}; both must be equal. Make the result anew."
        )
    stored = _stored_chunks(array)
    if stored != array.nchunks:
        raise VolumeError(
            f"{path} has {stored} chunks, and its record promises {array.nchunks}; "
            "none may be missing. Make the result anew."
        )


def _stored_chunks(array: zarr.Array[Any]) -> int:
    return int(array.nchunks_initialized)


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    edge = 128 if prod(shape[-3:]) > _LARGE_VOXELS else 64
    return (*[1] * (len(shape) - 3), *(min(edge, size) for size in shape[-3:]))


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
