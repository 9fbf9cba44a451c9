"""A page of a TIFF file that has passed all checks, and how it is decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil
from typing import Any

import imagecodecs
import numpy as np

STREAMS: dict[int, tuple[Callable[..., bytes | bytearray], int]] = {
    5: (imagecodecs.lzw_decode, 4096),
    8: (imagecodecs.deflate_decode, 1032),
    32946: (imagecodecs.deflate_decode, 1032),
    32773: (imagecodecs.packbits_decode, 64),
    34925: (imagecodecs.lzma_decode, 1 << 16),
    34926: (imagecodecs.zstd_decode, 1 << 17),
    50000: (imagecodecs.zstd_decode, 1 << 17),
}
"""Codecs of bytes, and how many bytes one packed byte can stand for."""
JPEG = 7
JPEG_2000 = (33003, 33004, 33005, 34712)
_JPEG_END = b"\xff\xd9"
_WHOLE_BITS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Page:
    """One page of grey values that has passed all checks."""

    rows: int
    columns: int
    stored: np.dtype[Any]
    """Type and byte order in the file, once unpacked."""
    bits: int
    compression: int
    predictor: int
    bits_turned: bool
    """Whether the first bit of a byte is its lowest."""
    tiled: bool
    segment: tuple[int, int]
    """Rows and columns of a tile or strip."""
    runs: tuple[tuple[int, int], ...]
    """Where each tile or strip begins in the file, and its bytes."""
    tables: bytes | None
    """What all JPEG strips of the page share."""
    zero_is_white: bool
    """Whether its smallest value is meant to be shown white."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels as read."""
        native = self.stored.newbyteorder("=")
        wider: dict[str, np.dtype[Any]] = {
            "?": np.dtype(np.uint8),
            "e": np.dtype(np.float32),
        }
        return wider.get(native.char, native)

    @property
    def is_lossy(self) -> bool:
        """Whether its values were changed when it was written."""
        return self.compression == JPEG

    @cached_property
    def is_plain(self) -> bool:
        """Whether its voxels are one run of bytes in the file, ready to be used."""
        follow = all(
            start + count == following
            for (start, count), (following, _) in pairwise(self.runs)
        )
        ready = (self.compression, self.predictor, self.bits_turned) == (1, 1, False)
        return ready and follow and not self.tiled and self.bits in _WHOLE_BITS

    def bytes_of(self, rows: int) -> int:
        """Bytes that many rows of a tile or strip take when decoded."""
        return rows * ceil(self.segment[1] * self.bits / 8)

    def place(self, number: int) -> tuple[int, int, int]:
        """Give first row, first column and rows of a tile or strip."""
        down, across = divmod(number, ceil(self.columns / self.segment[1]))
        first = down * self.segment[0]
        rows = self.segment[0]
        if not self.tiled:
            rows = min(rows, self.rows - first)
        return first, across * self.segment[1], rows

    def differs(self, other: "Page") -> str:
        """Say how it differs from another page of its volume; empty if it fits."""
        if self._kind() == other._kind():
            return ""
        return f"pages of {other._said()} and of {self._said()}"

    def _kind(self) -> tuple[object, ...]:
        turned = (self.bits, self.bits_turned, self.zero_is_white)
        return (self.rows, self.columns, self.dtype, self.predictor, *turned)

    def _said(self) -> str:
        return (
            f"{self.columns} x {self.rows} {self.dtype} voxels ({self.bits} bits, "
            f"predictor {self.predictor})"
        )


def decoded(page: Page, read: Callable[[int, int], bytes]) -> np.ndarray:
    """Decode a page.

    Parameters
    ----------
    page
        The page, checked.
    read
        Gives the bytes of its file from an offset on.

    Returns
    -------
    np.ndarray
        Y, x, in the type the file stores, native byte order.

    Raises
    ------
    Exception
        Any of those that `understood` knows, when it is damaged.
    """
    whole = np.empty((page.rows, page.columns), page.stored.newbyteorder("="))
    for number, (offset, count) in enumerate(page.runs):
        packed = read(offset, count)
        if len(packed) != count:
            raise EOFError(f"the file ends before byte {offset + count:,}")
        top, left, rows = page.place(number)
        found = _segment(page, packed, rows)
        target = whole[top : top + rows, left : left + page.segment[1]]
        target[...] = found[: target.shape[0], : target.shape[1]]
    return whole


def _segment(page: Page, packed: bytes | bytearray, rows: int) -> np.ndarray:
    if page.compression == JPEG or page.compression in JPEG_2000:
        return _picture(page, packed, rows)
    if page.bits_turned:
        packed = imagecodecs.bitorder_decode(packed)
    raw: bytes | bytearray = packed
    if page.compression != 1:
        # One byte more than fits shows streams that are longer than they should be.
        most = page.bytes_of(page.segment[0]) + 1
        raw = STREAMS[page.compression][0](packed, out=most)
    # Some writers pad the last strip to the height of the others.
    if len(raw) not in (page.bytes_of(rows), page.bytes_of(page.segment[0])):
        raise ValueError(
            f"a strip or tile has {len(raw):,} bytes instead of {page.bytes_of(rows):,}"
        )
    return _unpacked(page, raw, len(raw) // page.bytes_of(1))


def _unpacked(page: Page, raw: bytes | bytearray, rows: int) -> np.ndarray:
    shape, native = (rows, page.segment[1]), page.stored.newbyteorder("=")
    if page.bits == 1:
        bits = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(rows, -1), axis=1)
        return bits[:, : shape[1]].astype(bool)
    if page.bits not in _WHOLE_BITS:
        values = imagecodecs.packints_decode(raw, native, page.bits, runlen=shape[1])
        return np.asarray(values).reshape(shape)
    if page.predictor == 3:  # works on the bytes as they lie
        return np.asarray(
            imagecodecs.floatpred_decode(np.frombuffer(raw, native).reshape(shape))
        )
    values = np.frombuffer(raw, page.stored).reshape(shape)
    if page.predictor == 2:
        return np.asarray(imagecodecs.delta_decode(values.astype(native), axis=-1))
    return values


def _picture(page: Page, packed: bytes | bytearray, rows: int) -> np.ndarray:
    if page.compression == JPEG:
        # libjpeg fills what is missing with grey and says nothing.
        if not packed.rstrip(b"\0").endswith(_JPEG_END):
            raise EOFError("a JPEG strip or tile ends before its end mark")
        found = imagecodecs.jpeg_decode(
            packed, bitspersample=page.bits, tables=page.tables
        )
    else:
        found = imagecodecs.jpeg2k_decode(packed)
    if found.shape[0] < rows or found.shape[1:] != (page.segment[1],):
        raise ValueError(f"a strip or tile has {found.shape} voxels")
    if found.dtype != page.stored.newbyteorder("="):
        raise ValueError(f"a strip or tile has {found.dtype} voxels")
    return np.asarray(found)
