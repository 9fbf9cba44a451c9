"""Compressed DICOM frames: their headers checked, then decoded by imagecodecs.

A damaged header must not reach a decoder: the one of run lengths and that of
lossless JPEG (imagecodecs 2026.3) were seen to write beyond their memory, and others
to take as much of it as the header asks for.

Encodings: DICOM PS3.5, annex G (run lengths); ITU-T T.81 (JPEG), T.87 (JPEG-LS),
T.800 (JPEG 2000).
"""

import struct
from collections.abc import Callable, Iterator

import imagecodecs
import numpy as np
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)
"""Encodings that change values."""

_END_OF_IMAGE = b"\xff\xd9"
_START_OF_IMAGE = b"\xff\xd8"
_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
_START_OF_SCAN, _HUFFMAN_TABLES = 0xDA, 0xC4
_JPEG_SIZES = {0xC0, 0xC1, 0xC3, 0xF7}
_LOSSLESS = 0xC3
_MOST_TILES = 65535
_RLE_HEADER = 64


def decode(syntax: str, encoded: bytes, size: tuple[int, int], bits: int) -> np.ndarray:
    """Decode a frame.

    Parameters
    ----------
    syntax
        One of the transfer syntaxes of `CODECS`.
    size
        Rows and columns the frame must have.
    bits
        Bits Allocated.

    Returns
    -------
    ndarray
        (rows, columns), integers as they are in the frame.

    Raises
    ------
    ValueError, RuntimeError
        When the frame is damaged.
    """
    return CODECS[syntax](encoded, size, bits)


def _jpeg(encoded: bytes, size: tuple[int, int], bits: int) -> np.ndarray:
    del bits
    kind = _check_jpeg(encoded, size)
    if kind == _LOSSLESS:
        return np.asarray(imagecodecs.jpegsof3_decode(encoded))
    return np.asarray(imagecodecs.jpeg8_decode(encoded))


def _jpeg_ls(encoded: bytes, size: tuple[int, int], bits: int) -> np.ndarray:
    del bits
    _check_jpeg(encoded, size)
    return np.asarray(imagecodecs.jpegls_decode(encoded))


def _jpeg_2000(encoded: bytes, size: tuple[int, int], bits: int) -> np.ndarray:
    del bits
    start = encoded.find(_START_OF_CODESTREAM, 0, 4096)
    if start < 0 or len(encoded) < start + 45:
        raise ValueError("it has no codestream")
    numbers = struct.unpack(">8IH", encoded[start + 8 : start + 42])
    right, bottom, left, top, wide, high, tiles_left, tiles_top, parts = numbers
    if (bottom - top, right - left) != size or parts != 1:
        raise _other_size((bottom - top, right - left), parts, size)
    across = -(-(right - tiles_left) // wide) if wide else _MOST_TILES
    down = -(-(bottom - tiles_top) // high) if high else _MOST_TILES
    if not 0 < across * down < _MOST_TILES:
        raise ValueError("its tiles are impossible")
    return np.asarray(imagecodecs.jpeg2k_decode(encoded))


def _run_lengths(encoded: bytes, size: tuple[int, int], bits: int) -> np.ndarray:
    """Decode run lengths: bytes of one worth together, the highest first."""
    count, pixels = bits // 8, size[0] * size[1]
    if len(encoded) < _RLE_HEADER:
        raise ValueError("its header is cut off")
    segments, *offsets = struct.unpack("<16I", encoded[:_RLE_HEADER])
    bounds = [*offsets[:count], len(encoded)]
    if segments != count or bounds[0] != _RLE_HEADER or bounds != sorted(bounds):
        raise ValueError("its header is damaged")
    planes = np.empty((count, pixels), np.uint8)
    for at in range(count):
        planes[count - 1 - at] = _segment(encoded[bounds[at] : bounds[at + 1]], pixels)
    flat = np.ascontiguousarray(planes.T).view(f"<u{count}")
    return flat.reshape(size)


def _segment(packed: bytes, pixels: int) -> np.ndarray:
    """Decode the bytes of one worth; what is odd has one more, of 0."""
    try:
        unpacked = imagecodecs.packbits_decode(packed)
    except RuntimeError:
        if not packed.endswith(b"\0"):
            raise
        unpacked = imagecodecs.packbits_decode(packed[:-1])
    if len(unpacked) != pixels:
        raise ValueError(f"it has {len(unpacked)} pixels, and the file says {pixels}")
    return np.frombuffer(unpacked, np.uint8)


def _other_size(
    found: tuple[int, int], parts: int, size: tuple[int, int]
) -> ValueError:
    return ValueError(
        f"it has {found[0]} x {found[1]} pixels of {parts} samples, and the file says "
        f"{size[0]} x {size[1]} of 1"
    )


def _check_jpeg(encoded: bytes, size: tuple[int, int]) -> int:
    """Check the parts of a JPEG frame up to its data; give the kind of compression."""
    if _END_OF_IMAGE not in encoded[-8:]:
        raise ValueError("it does not end with the mark of an end")
    found = 0
    for marker, body in _jpeg_segments(encoded):
        if marker in _JPEG_SIZES:
            found = marker
            rows, columns, parts = struct.unpack(">HHB", body[1:6].ljust(5, b"\0"))
            if (rows, columns) != size or parts != 1:
                raise _other_size((rows, columns), parts, size)
        elif marker == _HUFFMAN_TABLES:
            _check_huffman(body)
        elif marker == _START_OF_SCAN and body[:1] != b"\1":
            raise ValueError("its scan has several samples")
    if not found:
        raise ValueError("it says no size")
    return found


def _jpeg_segments(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """List markers and what follows them, up to the start of the scan."""
    if encoded[:2] != _START_OF_IMAGE:
        raise ValueError("it does not begin as a JPEG")
    at = 2
    while True:
        filled = at
        while encoded[filled : filled + 2] == b"\xff\xff":
            filled += 1
        head = encoded[filled : filled + 4]
        if len(head) < 4 or head[0] != 0xFF:
            raise ValueError("its header is damaged")
        length = int.from_bytes(head[2:], "big")
        at = filled + 2 + length
        if length < 3 or at > len(encoded):
            raise ValueError("its header is damaged")
        yield head[1], encoded[filled + 4 : at]
        if head[1] == _START_OF_SCAN:
            return


def _check_huffman(body: bytes) -> None:
    """Check that the codes of each table exist: no more of a length than fit."""
    at = 0
    while at < len(body):
        counts = body[at + 1 : at + 17]
        taken = sum(count << (16 - bits) for bits, count in enumerate(counts, 1))
        at += 17 + sum(counts)
        if len(counts) < 16 or taken > 1 << 16 or at > len(body):
            raise ValueError("a table of codes is impossible")


CODECS: dict[str, Callable[[bytes, tuple[int, int], int], np.ndarray]] = {
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit), _jpeg),
    **dict.fromkeys((JPEGLossless, JPEGLosslessSV1), _jpeg),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), _jpeg_ls),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000), _jpeg_2000),
    **dict.fromkeys((HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), _jpeg_2000),
    RLELossless: _run_lengths,
}
"""What decodes each transfer syntax."""
