"""Shards: files that hold many chunks of a zarr array, and an index of where they lie.

A scan of 3000 x 1000 x 1000 voxels has 6000 chunks. A study of hundreds of them would
be millions of files, more than most clusters let a user have; as shards it is a hundred
files a scan. The index stands at the end: for each chunk its first byte and how many
bytes it has, then a checksum (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/
sharding-indexed/index.html).
"""

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

_EDGE = 1024
_CHECKSUM_BYTES = 4
_NOWHERE = 2**64 - 1
_INDEX_CODECS = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "crc32c"},
]


def shards_of(
    shape: tuple[int, ...], chunks: tuple[int, ...]
) -> tuple[int, ...] | None:
    """How many voxels a shard has along each axis: a layer of chunks, in large pieces.

    A layer along z is written at once, so that no shard is ever written twice.

    Parameters
    ----------
    shape, chunks
        Voxels of the array and of its chunks; y and x last.

    Returns
    -------
    tuple or None
        None where a layer has a single chunk, for which a file of its own will do.
    """
    sides = [
        edge * min(-(-size // edge), max(1, _EDGE // edge))
        for size, edge in zip(shape[-2:], chunks[-2:], strict=True)
    ]
    shards = (*chunks[:-2], *sides)
    return None if shards == chunks else shards


def codecs_inside(codecs: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The codecs of the chunks in shards such as we write; None where it has others."""
    if len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed":
        return None
    about = codecs[0]["configuration"]
    ours = about.get("index_location", "end") == "end"
    if not ours or list(about["index_codecs"]) != _INDEX_CODECS:
        return None
    return list(about["codecs"])


@dataclass(frozen=True)
class Shards:
    """The shards of an array, of which single chunks are read."""

    folder: Path
    """Where they lie."""
    each: tuple[int, ...]
    """How many chunks a shard has along each axis."""
    settled: bool = False
    """Whether they will not be written again, so that an index is read once."""
    _known: dict[Path, NDArray[np.uint64]] = field(default_factory=dict, repr=False)

    def file_of(self, place: tuple[int, ...]) -> Path:
        """Which file holds a chunk."""
        numbers = (at // count for at, count in zip(place, self.each, strict=True))
        return self.folder.joinpath(*map(str, numbers))

    def read(self, place: tuple[int, ...], path: Path) -> bytes | None:
        """Read a chunk as it is stored; None where the shard leaves it out.

        Parameters
        ----------
        place
            Numbers of the chunk along each axis.
        path
            Its shard, as `file_of` tells it.

        Raises
        ------
        FileNotFoundError
            When there is no shard.
        ValueError
            When it is damaged.
        """
        with path.open("rb") as file:
            index = self._index(path, file)
            inside = tuple(
                at % count for at, count in zip(place, self.each, strict=True)
            )
            first, count = map(int, index[inside])
            if first == count == _NOWHERE:
                return None
            file.seek(0, 2)
            if first + count > file.tell():
                raise ValueError(f"the shard {path} ends before its chunk {inside}")
            file.seek(first)
            return file.read(count)

    def _index(self, path: Path, file: BinaryIO) -> NDArray[np.uint64]:
        known = self._known.get(path)
        if known is not None:
            return known
        size = prod(self.each) * 16 + _CHECKSUM_BYTES
        if file.seek(0, 2) < size:
            raise ValueError(f"the shard {path} is shorter than its index")
        file.seek(-size, 2)
        stored = file.read(size)
        body = stored[:-_CHECKSUM_BYTES]
        found = int.from_bytes(stored[-_CHECKSUM_BYTES:], "little")
        if google_crc32c.value(body) != found:
            raise ValueError(f"the checksum of the index of the shard {path} is wrong")
        index = np.frombuffer(body, "<u8").reshape(*self.each, 2)
        if self.settled:
            self._known[path] = index
        return index
