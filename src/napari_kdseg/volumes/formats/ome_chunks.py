"""The zarr arrays of an OME-Zarr: opened, checked, counted, and read fast.

zarr spends up to half a millisecond on each chunk and copies it several times. Arrays
in our own encoding are therefore decoded here, by a few threads straight from the
files: a slice of a large scan then takes a third to a fifth of the time. All others
are read by zarr.
"""

import itertools
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np
import zarr
import zarr.errors
from numcodecs import blosc
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from napari_kdseg.cores import usable_cores
from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.ome_shards import Shards, codecs_inside
from napari_kdseg.volumes.volume import VoxelArray

SAFE_CODECS = {
    *("blosc", "zstd", "zlib", "gzip", "lz4", "bz2", "lzma", "shuffle", "delta"),
    *("bitround", "astype", "fixedscaleoffset", "quantize", "packbits"),
    *("crc32", "crc32c", "adler32", "fletcher32"),
}
"""What may decode chunks: codecs that run no code from the file."""
FAILURES = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    zarr.errors.BaseZarrError,
)
"""What zarr, its codecs and the file system raise on damaged or missing files."""
_ORDERING = {"bytes", "transpose", "sharding_indexed"}
_CHUNK_FILE = re.compile(r"(c\.)?\d+(\.\d+)*")
_CHUNK_KEY = re.compile(r"\d$")
_OWN_CODECS = ["bytes", "blosc", "crc32c"]
_CHECKSUM_BYTES = 4
_BLOSC_HEADER_BYTES = 16
_THREADS = min(4, usable_cores())
_FEW_CHUNKS = 3
_SMALL_BYTES = 4096
_MOST_ALIKE = 256
_alike: dict[tuple[bytes, tuple[int, ...], str], np.ndarray] = {}
"""Chunks of one value, as stored, of arrays in such chunks and of such a type."""

# numcodecs' global threads are for callers with one thread; we have several.
blosc.use_threads = False


def attributes_of(path: Path) -> dict[str, Any]:
    """Read the attributes of a zarr group.

    Raises
    ------
    VolumeError
        When there is none.
    """
    if not path.is_dir():
        raise VolumeError(
            f"{path} is no folder; an OME-Zarr is one. Check the path, or unpack it."
        )
    try:
        group = zarr.open_group(store=str(path), mode="r", use_consolidated=False)
        return dict(group.attrs)
    except FAILURES as error:
        raise VolumeError(
            f"{path} is no zarr group that can be opened ({brief(error)}); an "
            "OME-Zarr image is one. It is damaged or something else: make it anew."
        ) from error


def open_zarr(
    path: Path, dataset: str, mode: Literal["r", "r+"] = "r"
) -> zarr.Array[Any]:
    """Open the array of that name in a group; its codecs are not run.

    Raises
    ------
    VolumeError
        When it lies outside of the group, or is damaged or missing.
    """
    if not (path / dataset).resolve().is_relative_to(path.resolve()):
        raise VolumeError(
            f"{path} names the array {dataset!r}, which lies outside of it; "
            "arrays must lie inside. Do not trust this folder."
        )
    try:
        return zarr.open_array(store=str(path / dataset), mode=mode)
    except FAILURES as error:
        raise VolumeError(
            f"{path} has no array {dataset!r} that can be opened ({brief(error)}); "
            "its full-size image must be there. It is damaged: make it anew."
        ) from error


def check_codecs(array: zarr.Array[Any], name: str) -> None:
    """Refuse an array whose chunks are decoded by something that may run code.

    Raises
    ------
    VolumeError
        Naming these codecs; those inside shards are looked at as well.
    """
    unsafe = _codec_names(array) - SAFE_CODECS - _ORDERING
    if unsafe:
        raise VolumeError(
            f"{name} is encoded with {', '.join(sorted(unsafe))}, which is not opened "
            "because it may run code or is unknown; allowed are "
            f"{', '.join(sorted(SAFE_CODECS))}. Save it anew with one of these."
        )


def expected_chunks(array: zarr.Array[Any]) -> int:
    """How many files hold an array of which nothing is left out."""
    sizes = array.shards or array.chunks
    return prod(-(-size // edge) for size, edge in zip(array.shape, sizes, strict=True))


def stored_chunks(folder: Path) -> int:
    """How many files with chunks, or shards, an array's folder holds."""
    return sum(
        _CHUNK_FILE.fullmatch(name) is not None
        for _, _, names in os.walk(folder)
        for name in names
    )


def fastest(
    array: zarr.Array[Any], folder: Path, *, complete: bool = False
) -> VoxelArray:
    """Give what reads an array fastest: `Chunks` where it can, else the array.

    Parameters
    ----------
    array, folder
        The array, and where it lies.
    complete
        Whether every chunk must be there, so that one that is not is an error.
    """
    about = array.metadata.to_dict()
    outer = _codecs(about)
    inner = codecs_inside(outer) or outer
    if (
        array.metadata.zarr_format != 3
        or [codec["name"] for codec in inner] != _OWN_CODECS
        or about["chunk_key_encoding"] != _KEYS
        or array.dtype.kind not in "uif"
        or sys.byteorder != "little"
        or inner[0].get("configuration", {}).get("endian") == "big"
    ):
        return _checked(array, folder)
    shards = None
    if array.shards:
        each = (s // c for s, c in zip(array.shards, array.chunks, strict=True))
        shards = Shards(folder / "c", tuple(each), complete)
    return Chunks(array, folder / "c", complete, shards)


def _checked(array: zarr.Array[Any], folder: Path) -> zarr.Array[Any]:
    """Give an array that refuses chunks which blosc would read beyond their end."""
    if array.metadata.zarr_format == 2:
        packed = getattr(array.metadata.compressor, "codec_id", "") == "blosc"
    else:
        packed = _codecs(array.metadata.to_dict())[-1]["name"] == "blosc"
    if not packed:
        return array
    return zarr.open_array(store=_WholeBlosc(LocalStore(folder, read_only=True)))


class _WholeBlosc(WrapperStore[LocalStore]):
    """A folder whose chunks are as long as the header of blosc says.

    blosc does not look how much it was given: of a chunk that was cut off it makes
    voxels from whatever lies behind it in memory.
    """

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read a chunk, or metadata."""
        stored = await super().get(key, prototype, byte_range)
        if stored is None or byte_range is not None or not _CHUNK_KEY.search(key):
            return stored
        head = stored[:_BLOSC_HEADER_BYTES].to_bytes()
        promised = int.from_bytes(head[12:16], "little")
        if len(head) < _BLOSC_HEADER_BYTES or promised != len(stored):
            raise ValueError(
                f"the chunk {key} has {len(stored)} bytes, its header says {promised}"
            )
        return stored


@dataclass(frozen=True)
class Chunks:
    """An array in our own encoding, read without zarr.

    A chunk that is not there reads as the array's fill value, as with zarr, unless the
    array is complete; then it is a `ValueError`, as one that is damaged.
    """

    array: zarr.Array[Any]
    """What zarr knows of it."""
    folder: Path
    """Where its chunks lie."""
    complete: bool = False
    """Whether all chunks were there when it was opened."""
    shards: Shards | None = None
    """The files, where each holds many chunks."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return np.dtype(self.array.dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Voxels of a chunk along each axis."""
        return tuple(self.array.chunks)

    def __getitem__(self, index: Any) -> Any:
        """Read a box; what is no tuple of slices without steps is left to zarr."""
        spans = _spans(index, self.shape)
        if spans is None:
            found = self.array[index]
            self._check_there(index)  # zarr would make a removed chunk the fill value
            return found
        box = np.empty([stop - start for start, stop in spans], self.dtype)
        if box.size:
            self._read_all(self._places(spans), spans, box)
        return box

    def _places(self, spans: list[tuple[int, int]]) -> list[tuple[int, ...]]:
        """Which chunks a box lies in."""
        return list(
            itertools.product(
                *(
                    range(start // edge, -(-stop // edge))
                    for (start, stop), edge in zip(spans, self.chunks, strict=True)
                )
            )
        )

    def _check_there(self, index: Any) -> None:
        if not self.complete:
            return
        given = index if isinstance(index, tuple) else ()
        known = all(isinstance(pick, slice) for pick in given)
        spans = [
            (0, size) if not known or axis >= len(given) else given[axis].indices(size)
            for axis, size in enumerate(self.shape)
        ]
        for place in self._places([(span[0], span[1]) for span in spans]):
            file = self._file(place)
            if not file.exists():
                raise ValueError(f"the chunk {file} is missing")

    def _read_all(
        self,
        places: list[tuple[int, ...]],
        spans: list[tuple[int, int]],
        box: np.ndarray,
    ) -> None:
        def read_some(some: list[tuple[int, ...]]) -> None:
            for place in some:
                self._copy(place, spans, box)

        if len(places) <= _FEW_CHUNKS or _THREADS == 1:
            read_some(places)
            return
        # Made anew each time: threads that are kept are lost in a forked process.
        with ThreadPoolExecutor(_THREADS) as threads:
            shares = [places[first::_THREADS] for first in range(_THREADS)]
            list(threads.map(read_some, shares))

    def _copy(
        self, place: tuple[int, ...], spans: list[tuple[int, int]], box: np.ndarray
    ) -> None:
        taken, target = [], []
        for number, edge, (start, stop) in zip(place, self.chunks, spans, strict=True):
            first, last = max(start, number * edge), min(stop, (number + 1) * edge)
            taken.append(slice(first - number * edge, last - number * edge))
            target.append(slice(first - start, last - start))
        chunk = self._decoded(place)
        fill = self.array.fill_value
        box[tuple(target)] = fill if chunk is None else chunk[tuple(taken)]

    def _file(self, place: tuple[int, ...]) -> Path:
        if self.shards is not None:
            return self.shards.file_of(place)
        return self.folder.joinpath(*map(str, place))

    def _stored(self, place: tuple[int, ...], file: Path) -> bytes | None:
        try:
            if self.shards is not None:
                return self.shards.read(place, file)
            return file.read_bytes()
        except FileNotFoundError:
            return None

    def _decoded(self, place: tuple[int, ...]) -> np.ndarray | None:
        file = self._file(place)
        stored = self._stored(place, file)
        if stored is None and self.complete:
            raise ValueError(f"the chunk {place} of {self.folder} is missing")
        if stored is None:
            return None
        # A chunk of one value is small, and is the same as many others: of labels most
        # are, and such a slice takes a third of the time.
        key = (stored, self.chunks, self.dtype.str)
        known = _alike.get(key) if len(stored) <= _SMALL_BYTES else None
        if known is not None:
            return np.broadcast_to(known, self.chunks)
        body = stored[:-_CHECKSUM_BYTES]
        found = int.from_bytes(stored[-_CHECKSUM_BYTES:], "little")
        if len(stored) < _CHECKSUM_BYTES or google_crc32c.value(body) != found:
            raise ValueError(f"the checksum of the chunk {file} is wrong")
        # The header of blosc: bytes 4 to 8 are the size decoded, 12 to 16 as stored.
        sizes = np.frombuffer(body[:_BLOSC_HEADER_BYTES], "<u4")
        expected = prod(self.chunks) * self.dtype.itemsize
        if sizes.size != 4 or (sizes[1], sizes[3]) != (expected, len(body)):
            raise ValueError(f"the chunk {file} does not have {expected} bytes")
        chunk = np.frombuffer(blosc.decompress(body), self.dtype)
        is_small = len(stored) <= _SMALL_BYTES and len(_alike) < _MOST_ALIKE
        if is_small and (chunk == chunk[0]).all():
            _alike[key] = chunk[:1].copy()
        return chunk.reshape(self.chunks)


def brief(error: Exception) -> str:
    """Give the kind and the first line of an error, to be quoted in another."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


_KEYS = {"name": "default", "configuration": {"separator": "/"}}


def _codec_names(array: zarr.Array[Any]) -> set[str]:
    """Name what decodes the chunks."""
    if array.metadata.zarr_format == 2:
        used = [*(array.metadata.filters or ()), array.metadata.compressor]
        return {codec.codec_id for codec in used if codec is not None}
    return {
        str(codec["name"]).removeprefix("numcodecs.")
        for codec in _flat(_codecs(array.metadata.to_dict()))
    }


def _codecs(about: Any) -> list[dict[str, Any]]:
    return list(about.get("codecs", ()))


def _flat(codecs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List codecs and those inside of them, as in shards."""
    inner = [
        found
        for codec in codecs
        for key in ("codecs", "index_codecs")
        for found in _flat(list(codec.get("configuration", {}).get(key, ())))
    ]
    return [*codecs, *inner]


def _spans(index: Any, shape: tuple[int, ...]) -> list[tuple[int, int]] | None:
    if not isinstance(index, tuple) or len(index) != len(shape):
        return None
    spans = []
    for pick, size in zip(index, shape, strict=True):
        if not isinstance(pick, slice):
            return None
        start, stop, step = pick.indices(size)
        if step != 1:
            return None
        spans.append((start, max(start, stop)))
    return spans
