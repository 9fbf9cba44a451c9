"""From "the header is known" to voxels: the way shared by files of one plain block.

NIfTI, NRRD and MetaImage hold their voxels as one run of bytes, plain or packed. Its
length and checksum are compared here, so that a damaged file gives an error and never
wrong voxels. SimpleITK 2.5.7 gave an array for each of five damaged files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.packing import (
    BUFFER_BYTES,
    RATIOS,
    Packing,
    decoded,
    packed_into,
    read_bytes,
)
from napari_kdseg.volumes.formats.voxels import (
    Block,
    LazyVoxels,
    PackedVoxels,
    guarded,
    slabs,
)
from napari_kdseg.volumes.volume import VoxelArray

__all__ = [
    "Packing",
    "Payload",
    "check_length",
    "decoded",
    "lazy",
    "packed_into",
    "read_all",
    "read_bytes",
    "write_voxels",
]

_BLOCK_VOXELS = 1 << 20


@dataclass(frozen=True)
class Payload:
    """Where the voxels of a file lie and how they are stored."""

    path: Path
    """The file that holds the bytes; it may be another than the header's."""
    packing: Packing
    offset: int
    """Bytes in the file before the voxels, or before the packed stream."""
    skip: int
    """Decoded bytes before the first voxel, where a header is packed with it."""
    stored: np.dtype[Any]
    """Type and byte order in the file."""
    shape: tuple[int, ...]
    """As in the file, slowest axis first; axes not in `axes` have length one."""
    axes: tuple[int | None, int, int, int]
    """Which stored axis is channel, z, y, x; None where there is no channel axis."""
    scaling: tuple[float, float] | None
    """Slope and intercept; None where stored values are the values."""
    name: str
    """For messages: the path the person gave."""
    channels: slice | None = None
    """Which of the stored channels are read; None for all."""

    @property
    def voxel_bytes(self) -> int:
        """Bytes all voxels take, decoded."""
        return prod(self.shape) * self.stored.itemsize

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels once read: as stored, or float32 where they are scaled."""
        if self.scaling is None or self.stored == np.float64:
            return self.stored.newbyteorder("=")
        return np.dtype(np.float32)


def check_length(payload: Payload) -> None:
    """Compare what a header promises with the size of the file.

    Raises
    ------
    VolumeError
        When a plain file is shorter or longer, or a packed one too short to hold it.
    """
    start = payload.offset + payload.skip
    promised, size = start + payload.voxel_bytes, _size(payload)
    if payload.packing == "none":
        if promised != size:
            raise VolumeError(
                f"{_file(payload)} has {size:,} bytes, and its header promises "
                f"{promised:,} ({_voxels_in(payload)}); both must be equal. It is "
                "damaged or was cut off: fetch or make it anew."
            )
    elif promised - payload.offset > (size - payload.offset) * RATIOS[payload.packing]:
        raise VolumeError(
            f"{_file(payload)} promises {promised:,} bytes in its header, more than "
            f"{payload.packing} can pack into the {size:,} it has. The header is "
            "damaged, or the file was cut off: make it anew."
        )


def read_all(payload: Payload) -> np.ndarray:
    """Read all voxels in one pass.

    Returns
    -------
    np.ndarray
        Channel, z, y, x in native byte order: as stored, or scaled to float32.

    Raises
    ------
    VolumeError
        When the file is damaged, or does not fit into memory.
    """
    check_length(payload)
    as_it_is = payload.scaling is None and payload.stored.isnative
    in_order = payload.axes in ((0, 1, 2, 3), (None, 0, 1, 2))
    if as_it_is and in_order and payload.channels is None:
        whole = guarded(partial(_decode, payload), payload.name)
        return whole if whole.ndim == 4 else whole[np.newaxis]
    packed = PackedVoxels(_shape(payload), payload.dtype, partial(_blocks, payload))
    return guarded(packed.__array__, payload.name)


def lazy(payload: Payload) -> LazyVoxels | PackedVoxels:
    """Leave the voxels in the file; packed ones are decoded when gone through.

    Raises
    ------
    VolumeError
        When the file cannot hold what the header promises.
    """
    check_length(payload)
    if payload.packing != "none":
        return PackedVoxels(_shape(payload), payload.dtype, partial(_blocks, payload))
    mapped: np.ndarray = np.memmap(
        payload.path,
        dtype=payload.stored,
        mode="r",
        offset=payload.offset + payload.skip,
        shape=payload.shape,
    )
    channel = payload.axes[0]
    if channel is not None and payload.channels is not None:
        mapped = mapped[(slice(None),) * channel + (payload.channels,)]
    return _view(mapped, payload)


def write_voxels(file: Any, data: VoxelArray, dtype: np.dtype[Any]) -> None:
    """Write voxels (channel, z, y, x) in that order, a few planes at a time.

    Parameters
    ----------
    file
        Whatever has ``write``; see `packed_into`.
    dtype
        Type and byte order in the file.
    """
    for block in slabs(data):
        voxels = np.ascontiguousarray(data[block], dtype)
        file.write(voxels.reshape(-1).view(np.uint8).data)


class _Scaled:
    """A stored array whose values are scaled where they are read."""

    def __init__(self, array: np.ndarray, payload: Payload) -> None:
        self._array = array
        self._scaling = payload.scaling or (1.0, 0.0)
        self.shape: tuple[int, ...] = array.shape
        self.dtype: Any = payload.dtype

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Read a box, compute in float64 as nibabel does, and round once."""
        slope, intercept = self._scaling
        with np.errstate(over="ignore"):  # what becomes infinite is dealt with later
            scaled = self._array[index] * np.float64(slope) + intercept
            return np.asarray(scaled, dtype=self.dtype)


def _view(stored: np.ndarray, payload: Payload) -> LazyVoxels:
    """See a stored array, or a box of it, as channel, z, y, x."""
    array = stored if payload.scaling is None else _Scaled(stored, payload)
    return LazyVoxels(array, payload.axes, payload.name)


def _decode(payload: Payload) -> np.ndarray:
    """Decode all voxels into an array as stored."""
    data = np.empty(payload.shape, payload.stored)
    with decoded(
        payload.path, payload.packing, payload.offset, _file(payload)
    ) as stream:
        _pass_over(stream, payload)
        _fill(stream, data, payload, 0)
        _check_end(stream, payload)
    return data


def _blocks(payload: Payload) -> Iterator[tuple[Block, np.ndarray]]:
    """Decode everything and keep the channels that are asked for."""
    picked = _channels(payload)
    for (channel, planes), block in _stored_blocks(payload):
        if channel in picked:
            yield (picked.index(channel), planes), block


def _stored_blocks(payload: Payload) -> Iterator[tuple[Block, np.ndarray]]:
    """Decode in the file's order, about a million voxels at a time."""
    _, z, y, x = payload.axes
    if not z < y < x:
        whole = _view(_decode(payload), payload)
        yield from ((place, whole[place]) for place in slabs(whole))
        return
    done = 0
    with decoded(
        payload.path, payload.packing, payload.offset, _file(payload)
    ) as stream:
        _pass_over(stream, payload)
        for first, planes, shape in _pieces(payload):
            piece = np.empty(shape, payload.stored)
            _fill(stream, piece, payload, done)
            done += piece.nbytes
            block = _view(piece, payload)[...]
            for number, channel in enumerate(block):
                yield (first + number, planes), channel
        _check_end(stream, payload)


def _pieces(payload: Payload) -> Iterator[tuple[int, slice, tuple[int, ...]]]:
    """Cut a stored array along z: first channel, planes, and shape as stored."""
    channel, z, _, _ = payload.axes
    is_outer = channel is not None and channel < z
    channels = payload.shape[channel] if channel is not None and is_outer else 1
    depth, plane = payload.shape[z], prod(payload.shape[z + 1 :])
    planes = max(1, _BLOCK_VOXELS // plane)
    for first in range(channels):
        for start in range(0, depth, planes):
            stop = min(start + planes, depth)
            shape = (*(1,) * z, stop - start, *payload.shape[z + 1 :])
            yield first, slice(start, stop), shape


def _pass_over(stream: Any, payload: Payload) -> None:
    left = payload.skip
    while left and (piece := stream.read(min(left, BUFFER_BYTES))):
        left -= len(piece)
    if left:
        _refuse_end(payload, payload.voxel_bytes)


def _fill(stream: Any, out: np.ndarray, payload: Payload, done: int) -> None:
    """Read the next voxels into place; `done` bytes of voxels came before."""
    bytes_left = out.reshape(-1).view(np.uint8).data
    # In small pieces: the gzip reader makes a copy of each before it is put in place.
    while bytes_left and (count := stream.readinto(bytes_left[:BUFFER_BYTES])):
        bytes_left = bytes_left[count:]
    if bytes_left:
        _refuse_end(payload, payload.voxel_bytes - done - out.nbytes + len(bytes_left))


def _refuse_end(payload: Payload, missing: int) -> None:
    raise VolumeError(
        f"{_file(payload)} ends {missing:,} bytes before the {payload.voxel_bytes:,} "
        f"its header promises ({_voxels_in(payload)}). It is damaged or was cut off: "
        "fetch or make it anew."
    )


def _check_end(stream: Any, payload: Payload) -> None:
    """Read on: the end of a packed stream compares its sum and its length."""
    if stream.read(1):
        raise VolumeError(
            f"{_file(payload)} goes on after the {payload.voxel_bytes:,} bytes its "
            f"header promises ({_voxels_in(payload)}); it must end there. Header or "
            "data are damaged: make it anew."
        )


def _size(payload: Payload) -> int:
    try:
        return payload.path.stat().st_size
    except OSError as error:
        raise VolumeError(
            f"{_file(payload)} cannot be read: {error.strerror}. Put the file where "
            "the header says it lies."
        ) from error


def _channels(payload: Payload) -> range:
    """Which stored channels are read, in their order."""
    channel = payload.axes[0]
    stored = 1 if channel is None else payload.shape[channel]
    return range(stored)[payload.channels or slice(None)]


def _shape(payload: Payload) -> tuple[int, int, int, int]:
    _, z, y, x = payload.axes
    count = len(_channels(payload))
    return count, payload.shape[z], payload.shape[y], payload.shape[x]


def _file(payload: Payload) -> str:
    """Name the file with the voxels, and the one it was reached through."""
    if str(payload.path) == payload.name:
        return payload.name
    return f"{payload.name}: its data file {payload.path}"


def _voxels_in(payload: Payload) -> str:
    sizes = " x ".join(str(size) for size in reversed(payload.shape))
    return f"voxels {sizes}, {payload.stored.name}"
