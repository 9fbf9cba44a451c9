"""Where the pixels of a DICOM file lie, and how one plane of them is decoded.

Encoding: DICOM PS3.5, sections 8 (pixel data) and A.4 (encapsulated, compressed
pixel data). What stands for a length is compared with the file before anything is
read.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom.encaps import get_frame
from pydicom.filereader import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.dicom_codecs import CODECS, decode

UNDEFINED_LENGTH = 0xFFFFFFFF
NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_BIG = ExplicitVRBigEndian
_PIXEL_DATA = (0x7FE0, 0x0010)
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_DECODE_FAILURES = (
    *(RuntimeError, ValueError, TypeError, IndexError, AttributeError),
    *(EOFError, OSError, struct.error, zlib.error),
)
_GREYS = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class Pixels:
    """How and where a file stores its pixels."""

    path: Path
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    syntax: str
    """The transfer syntax: how the file is encoded."""
    offset: int
    """Where in the file the value of Pixel Data begins."""
    length: int
    """Bytes of Pixel Data; `UNDEFINED_LENGTH` where it is compressed."""
    words: bool
    """Whether Pixel Data are written as 16-bit words (OW)."""

    @property
    def range(self) -> tuple[int, int]:
        """The least and the largest value that can be stored."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame that is not compressed."""
        return self.rows * self.columns * self.bits_allocated // 8


def find_pixels(
    file: BinaryIO, *, implicit: bool, little: bool
) -> tuple[int, int, bool]:
    """Read the head of Pixel Data, at which a file stands: offset, length, whether OW.

    Raises
    ------
    VolumeError
        When no Pixel Data begin there.
    """
    start = file.read(8)
    order = "<" if little else ">"
    if len(start) < 8 or struct.unpack(f"{order}HH", start[:4]) != _PIXEL_DATA:
        raise VolumeError(
            f"{file.name} has no Pixel Data with whole numbers; a slice needs them. "
            "It is damaged, was cut off, or holds floats: make it anew."
        )
    if implicit:
        return file.tell(), struct.unpack(f"{order}I", start[4:])[0], True
    (length,) = struct.unpack(f"{order}I", file.read(4).ljust(4, b"\0"))
    return file.tell(), length, start[4:6] == b"OW"


def check_pixels(pixels: Pixels) -> None:
    """Refuse pixels of a kind not read, or another length than the header promises.

    Raises
    ------
    VolumeError
        Naming what the file has and what it should have.
    """
    _check_kind(pixels)
    if pixels.syntax in NATIVE:
        _check_length(pixels)
    elif pixels.length != UNDEFINED_LENGTH:
        raise VolumeError(
            f"{pixels.path} says it is compressed ({UID(pixels.syntax).name}), and its "
            f"Pixel Data have a fixed length of {pixels.length:,} bytes; compressed "
            "frames come as items. It is damaged: fetch or make it anew."
        )


def _check_length(pixels: Pixels) -> None:
    """Refuse uncompressed Pixel Data that are not of the length the header promises.

    Raises
    ------
    VolumeError
        Also when the file ends before they do.
    """
    if pixels.syntax == DeflatedExplicitVRLittleEndian:
        return  # known when it is unpacked
    _check_promise(pixels, pixels.length)
    size = pixels.path.stat().st_size
    if pixels.offset + pixels.length > size:
        raise VolumeError(
            f"{pixels.path} has {size:,} bytes, and its Pixel Data would end at byte "
            f"{pixels.offset + pixels.length:,}. It was cut off: fetch or make it anew."
        )


def read_plane(pixels: Pixels, index: int) -> np.ndarray:
    """Read the stored values of one frame: (rows, columns), int64.

    Bits beyond Bits Stored, such as overlays, are masked; the sign is extended.

    Raises
    ------
    VolumeError
        When the frame is damaged.
    """
    try:
        raw = _raw_plane(pixels, index)
    except _DECODE_FAILURES as error:
        raise _undecodable(pixels, index, error) from error
    if raw.shape != (pixels.rows, pixels.columns) or raw.dtype.kind not in "ui":
        raise VolumeError(
            f"{pixels.path} has a frame {index + 1} of {raw.shape} {raw.dtype} pixels; "
            f"its header says {(pixels.rows, pixels.columns)}, grey. It is damaged: "
            "fetch or make it anew."
        )
    return _settled(raw, pixels)


def check_bits(pixels: Pixels) -> None:
    """Refuse frames of single bits that are compressed or of another length.

    Raises
    ------
    VolumeError
        Naming what the file has and what it should have.
    """
    sizes = (pixels.bits_allocated, pixels.bits_stored, pixels.samples)
    if sizes != (1, 1, 1) or pixels.syntax not in NATIVE or pixels.syntax == _BIG:
        raise VolumeError(
            f"{pixels.path} has {pixels.samples} samples of {pixels.bits_allocated} "
            f"bits a pixel ({UID(pixels.syntax).name}); a binary segmentation has "
            "single bits, not compressed, little endian. Export it anew."
        )
    _check_length(pixels)


def read_bits(pixels: Pixels, index: int) -> np.ndarray:
    """Read one frame of single bits: (rows, columns), bool.

    Raises
    ------
    VolumeError
        When the file ends within it.
    """
    count = pixels.rows * pixels.columns
    start, skipped = divmod(index * count, 8)
    try:
        block = _native_bytes(pixels, start, (skipped + count + 7) // 8)
    except _DECODE_FAILURES as error:
        raise _undecodable(pixels, index, error) from error
    bits = np.unpackbits(np.frombuffer(block, np.uint8), bitorder="little")
    plane = bits[skipped : skipped + count].reshape(pixels.rows, pixels.columns)
    return plane.view(bool)


def _undecodable(pixels: Pixels, index: int, error: Exception) -> VolumeError:
    return VolumeError(
        f"{pixels.path} has a frame {index + 1} that cannot be decoded "
        f"({UID(pixels.syntax).name}): {error}. It is damaged; fetch or make it anew."
    )


def _check_kind(pixels: Pixels) -> None:
    path, stored, allocated = pixels.path, pixels.bits_stored, pixels.bits_allocated
    if pixels.samples != 1 or pixels.photometric not in _GREYS:
        raise VolumeError(
            f"{path} has {pixels.samples} samples a pixel "
            f"({pixels.photometric or 'no Photometric Interpretation'}); a scan has "
            "one, MONOCHROME1 or MONOCHROME2. Choose a series of grey images."
        )
    if (
        allocated not in (8, 16, 32)
        or not 1 <= stored <= pixels.high_bit + 1 <= allocated
    ):
        raise VolumeError(
            f"{path} has Bits Allocated {allocated}, Bits Stored {stored} and High Bit "
            f"{pixels.high_bit}; 8, 16 or 32 bits are read, and the stored ones must "
            "lie within. The header is damaged, or convert it with dcm2niix."
        )
    if pixels.syntax not in (*NATIVE, *CODECS):
        raise VolumeError(
            f"{path} is encoded as {UID(pixels.syntax).name}, which is not read. "
            "Convert it with dcm2niix or 3D Slicer to .nii.gz."
        )


def _check_promise(pixels: Pixels, length: int) -> None:
    bits = pixels.rows * pixels.columns * pixels.frames * pixels.bits_allocated
    expected = (bits + 7) // 8
    if length not in (expected, expected + expected % 2):
        raise VolumeError(
            f"{pixels.path} has {length:,} bytes of Pixel Data, and its header "
            f"promises {expected:,} ({pixels.frames} frames of {pixels.rows} x "
            f"{pixels.columns} pixels of {pixels.bits_allocated} bits). It is damaged: "
            "fetch or make it anew."
        )


def _raw_plane(pixels: Pixels, index: int) -> np.ndarray:
    if pixels.syntax in NATIVE:
        return _native(pixels, index)
    size = (pixels.rows, pixels.columns)
    return decode(pixels.syntax, _encoded(pixels, index), size, pixels.bits_allocated)


def _native(pixels: Pixels, index: int) -> np.ndarray:
    count = pixels.frame_bytes
    block = _native_bytes(pixels, count * index, count)
    order = ">" if pixels.syntax == _BIG else "<"
    flat = np.frombuffer(block, f"{order}u{pixels.bits_allocated // 8}")
    return flat.reshape(pixels.rows, pixels.columns)


def _native_bytes(pixels: Pixels, start: int, count: int) -> bytes:
    if pixels.syntax != DeflatedExplicitVRLittleEndian:
        return _bytes_at(pixels, start, count)
    whole: bytes = dcmread(pixels.path).PixelData
    _check_promise(pixels, len(whole))
    return whole[start : start + count]


def _bytes_at(pixels: Pixels, start: int, count: int) -> bytes:
    # Big-endian words hold each pair of 8-bit pixels the other way round.
    swapped = pixels.syntax == _BIG and pixels.words and pixels.bits_allocated == 8
    before, after = (start % 2, (start + count) % 2) if swapped else (0, 0)
    with pixels.path.open("rb") as file:
        file.seek(pixels.offset + start - before)
        block = file.read(before + count + after)
    if len(block) != before + count + after:
        raise EOFError("the file ends within it")
    if swapped:
        return np.frombuffer(block, "u2").byteswap().tobytes()[before : before + count]
    return block


def _encoded(pixels: Pixels, index: int) -> bytes:
    """Read the compressed bytes of one frame, after all its items were checked."""
    with pixels.path.open("rb") as file:
        file.seek(pixels.offset)
        _, *fragments = _items(file, pixels.path.stat().st_size)
        if pixels.frames > 1 and len(fragments) != pixels.frames:
            file.seek(pixels.offset)  # its table of offsets says which belong together
            return get_frame(file, index, number_of_frames=pixels.frames)
        chosen = fragments if pixels.frames == 1 else fragments[index : index + 1]
        pieces = []
        for start, length in chosen:
            file.seek(start)
            pieces.append(file.read(length))
    return b"".join(pieces)


def _items(file: BinaryIO, size: int) -> list[tuple[int, int]]:
    """List start and length of the items of compressed Pixel Data."""
    items: list[tuple[int, int]] = []
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise EOFError("the file ends before the mark of its end")
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == _END:
            break
        if (group, element) != _ITEM or file.tell() + length > size:
            raise ValueError("the lengths of its pieces do not fit the file")
        items.append((file.tell(), length))
        file.seek(length, 1)
    if len(items) < 2:
        raise ValueError("it has no compressed frame")
    return items


def _settled(raw: np.ndarray, pixels: Pixels) -> np.ndarray:
    values: np.ndarray = raw.astype(np.int64)
    if pixels.syntax in (*NATIVE, RLELossless):
        values >>= pixels.high_bit + 1 - pixels.bits_stored
    values &= (1 << pixels.bits_stored) - 1
    if pixels.signed:
        sign = 1 << (pixels.bits_stored - 1)
        values ^= sign
        values -= sign
    return values
