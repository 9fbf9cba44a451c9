"""Voxels that are read where they are asked for, and the checks on what is read."""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.volume import VoxelArray, chunks_of

_SLAB_VOXELS = 1 << 20

Block = tuple[int, slice]


def slabs(data: VoxelArray) -> Iterator[Block]:
    """Walk over a volume (channel, z, y, x) a few planes at a time.

    Yields
    ------
    tuple
        Channel, and slice along z; about a million voxels each, or a whole layer of
        chunks, so that no chunk is decoded twice.
    """
    channels, depth, height, width = data.shape
    layer = chunks_of(data)[1]
    planes = max(1, _SLAB_VOXELS // (layer * height * width)) * layer
    for channel in range(channels):
        for start in range(0, depth, planes):
            yield channel, slice(start, min(start + planes, depth))


def settle_nonfinite(block: np.ndarray, fill: float | None, name: str) -> np.ndarray:
    """Refuse voxels that are NaN or infinite, or write `fill` in their place.

    Parameters
    ----------
    block
        Just read, of any type; written to where it can be and must be.
    fill
        The value to put there; None refuses.
    name
        The file, for the message.

    Raises
    ------
    VolumeError
        Naming how many there are and the first of them.
    """
    if block.dtype.kind != "f":
        return block
    wrong = ~np.isfinite(block)
    if not wrong.any():
        return block
    if fill is None:
        first = tuple(int(axis[0]) for axis in np.nonzero(wrong))
        raise VolumeError(
            f"{name} has {int(wrong.sum())} voxels that are NaN or infinite, such as "
            f"{block[first]} at {first[-3:]} (z, y, x); all must be finite. Say with "
            "--fill-nonfinite what to put there."
        )
    block = block if block.flags.writeable else block.copy()
    block[wrong] = fill
    return block


def settle_volume(data: np.ndarray, fill: float | None, name: str) -> np.ndarray:
    """Check or fill all voxels (channel, z, y, x) in place; see `settle_nonfinite`."""
    if data.dtype.kind == "f":
        for channel, span in slabs(data):
            settle_nonfinite(data[channel, span], fill, name)
    return data


@dataclass(frozen=True)
class LazyVoxels:
    """A stored array seen as channel, z, y, x, and checked, where it is read."""

    array: VoxelArray
    """As stored: axes in any order, perhaps others of length one."""
    axes: tuple[int | None, int, int, int]
    """Which stored axis is channel, z, y, x; None where there is no channel axis."""
    name: str
    """The file, for messages."""
    checked: bool = False
    """Whether blocks with NaN or infinite voxels are refused or filled."""
    fill_nonfinite: float | None = None
    """What stands for such voxels; None refuses them."""
    scale: float | None = None
    """What stored values are multiplied by; None keeps their type."""
    failures: tuple[type[Exception], ...] = ()
    """What the stored array raises when its file is damaged."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Channels, and voxels along z, y, x."""
        sizes = [1 if axis is None else self.array.shape[axis] for axis in self.axes]
        return (sizes[0], sizes[1], sizes[2], sizes[3])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the voxels as read: native byte order, float32 where scaled."""
        if self.scale is not None:
            return np.dtype(np.float32)
        stored: np.dtype[Any] = np.dtype(self.array.dtype)
        return np.dtype(np.uint8) if stored.kind == "b" else stored.newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Always four."""
        return 4

    @property
    def chunks(self) -> tuple[int, ...]:
        """Voxels of one stored chunk along channel, z, y, x; ones in plain files."""
        stored = getattr(self.array, "chunks", None) or (1,) * len(self.array.shape)
        return tuple(1 if axis is None else stored[axis] for axis in self.axes)

    def __getitem__(self, index: Any) -> Any:
        """Read a box: integers and slices in the order channel, z, y, x."""
        picks = _expand(index)
        spans = [
            _span(pick, size) for pick, size in zip(picks, self.shape, strict=True)
        ]
        block = self._read(spans)
        keep = tuple(0 if isinstance(pick, int) else slice(None) for pick in picks)
        return block[keep]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 - NumPy calls it so
        """Read everything."""
        whole: np.ndarray = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _read(self, spans: list[slice]) -> np.ndarray:
        stored_index = [slice(0, 1)] * len(self.array.shape)
        for axis, span in zip(self.axes, spans, strict=True):
            if axis is not None:
                stored_index[axis] = span
        block = np.asarray(self._stored(tuple(stored_index)))
        kept = [axis for axis in self.axes if axis is not None]
        others = [axis for axis in range(block.ndim) if axis not in kept]
        block = block.transpose(*others, *kept)[(0,) * len(others)]
        if self.axes[0] is None:
            block = block[np.newaxis][spans[0]]
        block = np.ascontiguousarray(block, dtype=self.dtype)
        if self.scale is not None:
            block *= np.float32(self.scale)
        if self.checked:
            return settle_nonfinite(block, self.fill_nonfinite, self.name)
        return block

    def _stored(self, index: tuple[slice, ...]) -> Any:
        try:
            return self.array[index]
        except self.failures as error:
            raise VolumeError(
                f"{self.name} cannot be decoded: {error}. It is damaged; fetch or "
                "make it anew."
            ) from error


@dataclass(frozen=True)
class PackedVoxels:
    """Voxels that can only be decoded from the first to the last.

    To index it decodes everything; `blocks` goes through it once, in little memory.
    """

    shape: tuple[int, int, int, int]
    """Channels, and voxels along z, y, x."""
    dtype: np.dtype[Any]
    """The type of the voxels as read."""
    blocks: Callable[[], Iterator[tuple[Block, np.ndarray]]]
    """Decode in the file's order: place, and voxels (z, y, x) of each block. Damage
    that shows at the end is an error after the last block."""

    def __getitem__(self, index: Any) -> Any:
        """Decode everything and give a box of it."""
        return self.__array__()[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 - NumPy calls it so
        """Decode everything."""
        whole = np.empty(self.shape, self.dtype)
        for place, block in self.blocks():
            whole[place] = block
        return whole if dtype is None else whole.astype(dtype, copy=False)


def _expand(index: Any) -> list[int | slice]:
    given = index if isinstance(index, tuple) else (index,)
    if any(pick is Ellipsis for pick in given):
        at = next(n for n, pick in enumerate(given) if pick is Ellipsis)
        missing = 4 - (len(given) - 1)
        given = (*given[:at], *[slice(None)] * missing, *given[at + 1 :])
    if len(given) > 4:
        raise IndexError(f"A volume has four axes and the index {len(given)}.")
    picks = [
        pick if isinstance(pick, slice) else operator.index(pick) for pick in given
    ]
    return [*picks, *[slice(None)] * (4 - len(picks))]


def _span(pick: int | slice, size: int) -> slice:
    if isinstance(pick, slice):
        start, stop, step = pick.indices(size)
        if step < 0:
            raise IndexError("Lazy voxels are read forwards; reverse the block read.")
        return slice(start, max(start, stop), step)
    if not -size <= pick < size:
        raise IndexError(f"Index {pick} is outside an axis of {size}.")
    return slice(pick % size, pick % size + 1)


def storable_dtype(dtype: np.dtype[Any], path: Path) -> np.dtype[Any]:
    """Give the type that stores `dtype` in a file without loss: itself, for most.

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
            f"{path} would have voxels of type {dtype}; they must be integers or "
            "floats of at most 64 bits. Convert them first."
        )
    return stored.newbyteorder("<")


def guarded(read: Callable[[], np.ndarray], name: str) -> np.ndarray:
    """Read a whole volume, or say that it does not fit into memory.

    Raises
    ------
    VolumeError
        When memory does not suffice.
    """
    try:
        return read()
    except MemoryError as error:
        raise VolumeError(
            f"{name} does not fit into memory ({error}). Convert it to OME-Zarr, "
            "which is read by pieces, or use a machine with more memory."
        ) from error
