"""Packed streams of bytes, read and written: gzip, zlib and bzip2.

A stream is read to its end mark and past it: a checksum that is wrong, an end that is
missing and bytes that follow it are errors.
"""

import io
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from isal import igzip, igzip_lib, isal_zlib

from napari_kdseg.errors import VolumeError

Packing = Literal["none", "gzip", "zlib", "bzip2"]

_GzipFile: Any = igzip.IGzipFile  # untyped
_IsalError: Any = isal_zlib.error  # its stub calls it an instance
BUFFER_BYTES = 1 << 20
RATIOS: dict[Packing, int] = {
    "gzip": 1032,  # deflate cannot do better (zlib's technical notes)
    "zlib": 1032,
    "bzip2": 1_460_000,  # a block of 32 bytes or more gives 900,000 / 5 * 259 at most
}
"""How many bytes one packed byte can stand for."""
_GZIP_LEVEL = 1
_READ_FAILURES: tuple[type[Exception], ...] = (
    EOFError,
    OSError,
    _IsalError,
    zlib.error,
)


@contextmanager
def decoded(
    path: Path, packing: Packing, offset: int = 0, name: str = ""
) -> Iterator[Any]:
    """Open a file for its decoded bytes, whose checksum is compared at their end.

    Parameters
    ----------
    path
        The file.
    packing
        How its bytes from `offset` on are packed.
    name
        What to call it in messages; the path where empty.

    Yields
    ------
    BinaryIO
        With ``read`` and ``readinto``.

    Raises
    ------
    VolumeError
        When the bytes read within the block are damaged or cut off.
    """
    name = name or str(path)
    try:
        with path.open("rb", buffering=BUFFER_BYTES) as file:
            file.seek(offset)
            if packing == "gzip":
                with _GzipFile(fileobj=file, mode="rb") as stream:
                    yield stream
            else:
                yield file if packing == "none" else _Unpacked(file, packing)
    except _READ_FAILURES as error:
        raise VolumeError(
            f"{name} cannot be read to its end: {error}. It is damaged or was cut "
            "off; fetch or make it anew."
        ) from error


def read_bytes(stream: Any, count: int) -> bytes:
    """Read `count` bytes, or all there are, in whatever pieces they come."""
    pieces = bytearray()
    while len(pieces) < count and (piece := stream.read(count - len(pieces))):
        pieces += piece
    return bytes(pieces)


@contextmanager
def packed_into(file: Any, packing: Packing) -> Iterator[Any]:
    """Write into a file through a packer; equal bytes give equal files.

    Parameters
    ----------
    file
        Open for writing; the stream begins where it stands, and it stays open.
    packing
        Not bzip2, which is read alone.

    Yields
    ------
    BinaryIO
        With ``write``.
    """
    if packing == "gzip":
        # No name and no time in the stream.
        with _GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
            yield packed
    elif packing == "zlib":
        packer = _ZlibPacker(file)
        yield packer
        packer.finish()
    elif packing == "none":
        yield file
    else:
        raise ValueError(f"{packing} is read and never written.")


class _Unpacked(io.RawIOBase):
    """The decoded bytes of a zlib stream, or of bzip2 streams one after another."""

    def __init__(self, file: BinaryIO, packing: Packing) -> None:
        super().__init__()
        self._file = file
        self._several = packing == "bzip2"  # pbzip2 makes a stream of every block
        self._new: Callable[[], Any] = (
            BZ2Decompressor
            if self._several
            else partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_ZLIB)
        )
        self._decoder = self._new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._decoder.eof and not self._next_stream():
                return 0
            fresh = self._file.read(BUFFER_BYTES) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not fresh:
                raise EOFError("the packed stream ends before its end mark")
            piece = self._decoder.decompress(fresh, len(buffer))
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)

    def _next_stream(self) -> bool:
        rest = self._decoder.unused_data or self._file.read(BUFFER_BYTES)
        if not rest:
            return False
        if not self._several:
            raise OSError("something follows the packed stream")
        self._file.seek(-len(rest), io.SEEK_CUR)
        self._decoder = self._new()
        return True


class _ZlibPacker:
    """Packs what is written to it into one zlib stream."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._packer: Any = isal_zlib.compressobj(_GZIP_LEVEL)

    def write(self, data: Any) -> None:
        self._file.write(self._packer.compress(data))

    def finish(self) -> None:
        self._file.write(self._packer.flush())
