"""One picture of a slice: what its header says, and its voxels.

PNG, BMP and JPEG are decoded by imagecodecs. Their headers are read here, so that all
pictures of a folder can be compared before the first is decoded.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.tiff import StoredPages, resolution_of
from napari_kdseg.volumes.formats.tiff_pages import open_book, understood
from napari_kdseg.volumes.formats.tiff_units import Resolution

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = {0x01, *range(0xD0, 0xD9)}
_CENTIMETRE, _INCH = 3, 2
_NO_RESOLUTION = Resolution(0, 0, 1)
_DEFLATE_RATIO = 1032


@dataclass(frozen=True)
class Picture:
    """What the header of a picture says."""

    path: Path
    rows: int
    columns: int
    dtype: np.dtype[Any]
    resolution: Resolution
    is_lossy: bool = False

    @property
    def kind(self) -> str:
        """Size and type, as part of a sentence."""
        return f"{self.columns} x {self.rows} {self.dtype} voxels"


def picture_of(path: Path) -> Picture:
    """Read and check the header of a picture.

    Raises
    ------
    VolumeError
        When it is damaged, of colours or of a kind not read.
    """
    name, ending = str(path), path.suffix.lower()
    if ending in (".tif", ".tiff"):
        return _tiff(path)
    readers = {".png": _png, ".bmp": _bmp}
    with _decodable(name), path.open("rb") as file:
        picture = readers.get(ending, _jpeg)(path, file)
    if min(picture.rows, picture.columns) < 1:
        raise VolumeError(
            f"{name} is said to have {picture.kind}; each number must be above 0. It "
            "is damaged: make it anew."
        )
    return picture


def voxels_of(picture: Picture) -> np.ndarray:
    """Decode a picture, y, x.

    Raises
    ------
    VolumeError
        When it is damaged, or not what its header said.
    """
    path, ending = picture.path, picture.path.suffix.lower()
    if ending in (".tif", ".tiff"):
        with open_book(path) as book:
            pages = StoredPages(path, {0: book.full_size().page(0)}, None)
        found = pages(0).astype(picture.dtype, copy=False)
    else:
        with _decodable(str(path)):
            found = _decoded(path.read_bytes(), ending)
    if found.shape != (picture.rows, picture.columns) or found.dtype != picture.dtype:
        raise VolumeError(
            f"{path} has {found.shape} {found.dtype} voxels, and its header promises "
            f"{picture.kind}; both must be equal. It is damaged: make it anew."
        )
    return found


def _decodable(name: str) -> Any:
    return understood(name, "a picture")


def _decoded(raw: bytes, ending: str) -> np.ndarray:
    if ending == ".png":
        if not raw.rstrip(b"\0").endswith(_PNG_END):
            raise EOFError("it ends before its end mark")
        return np.asarray(imagecodecs.png_decode(raw))
    if ending == ".bmp":
        return np.asarray(imagecodecs.bmp_decode(raw))
    # libjpeg fills what is missing with grey and says nothing.
    if not raw.rstrip(b"\0").endswith(_JPEG_END):
        raise EOFError("it ends before its end mark")
    return np.asarray(imagecodecs.jpeg_decode(raw))


def _tiff(path: Path) -> Picture:
    with open_book(path) as book:
        book = book.full_size()
        if book.count != 1:
            raise VolumeError(
                f"{path} has {book.count} pages; each picture of a folder must be one "
                "slice. Open the file itself."
            )
        page = book.page(0)
        with understood(str(path)):
            resolution = resolution_of(book.first)
    return Picture(path, page.rows, page.columns, page.dtype, resolution, page.is_lossy)


def _png(path: Path, file: BinaryIO) -> Picture:
    start = file.read(33)
    if start[:8] != _PNG_START or start[12:16] != b"IHDR":
        raise ValueError("it does not begin as PNG")
    columns, rows, bits, colours = struct.unpack(">IIBB", start[16:26])
    _refuse_colours(path, is_grey=colours == 0)
    if bits not in (8, 16):
        raise VolumeError(
            f"{path} has {bits} bits a voxel; pictures of 8 and 16 bits are read. "
            "Save it with 8 bits."
        )
    size = path.stat().st_size
    if rows * columns * bits // 8 > size * _DEFLATE_RATIO:
        raise ValueError(f"{columns} x {rows} voxels do not fit in {size:,} bytes")
    return Picture(
        path, rows, columns, np.dtype(f"u{bits // 8}"), _png_resolution(file)
    )


def _png_resolution(file: BinaryIO) -> Resolution:
    while True:
        size, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"pHYs":
            x, y, unit = struct.unpack(">IIB", file.read(9))
            return Resolution(x / 100, y / 100, _CENTIMETRE if unit == 1 else 1)
        if kind in (b"IDAT", b"IEND"):
            return _NO_RESOLUTION
        file.seek(size + 4, 1)


def _bmp(path: Path, file: BinaryIO) -> Picture:
    start = file.read(54)
    if start[:2] != b"BM":
        raise ValueError("it does not begin as BMP")
    offset, header, columns, rows, _, bits, packing = struct.unpack(
        "<IIiiHHI", start[10:34]
    )
    x, y, colours = struct.unpack("<iiI", start[38:50])
    _refuse_colours(path, is_grey=bits == 8)
    file.seek(14 + header)
    palette = np.frombuffer(file.read(4 * (colours or 256)), np.uint8).reshape(-1, 4)
    ramp = np.arange(len(palette))[:, np.newaxis]
    # Values are numbers in the palette; they are grey values where it is a ramp.
    _refuse_colours(path, is_grey=bool((palette[:, :3] == ramp).all()))
    needed = offset + abs(rows) * ((columns + 3) // 4 * 4)
    if packing or path.stat().st_size < needed:
        raise ValueError(f"packing {packing}, and fewer than {needed:,} bytes")
    resolution = Resolution(x / 100, y / 100, _CENTIMETRE)
    return Picture(path, abs(rows), columns, np.dtype(np.uint8), resolution)


def _jpeg(path: Path, file: BinaryIO) -> Picture:
    if file.read(2) != _JPEG_START:
        raise ValueError("it does not begin as JPEG")
    resolution = _NO_RESOLUTION
    while True:
        mark, kind = struct.unpack(">BB", file.read(2))
        if mark != 0xFF:
            raise ValueError("its marks are damaged")
        if kind == 0xFF:
            file.seek(-1, 1)
            continue
        if kind in _JPEG_BARE:
            continue
        (size,) = struct.unpack(">H", file.read(2))
        content = file.read(size - 2)
        if kind == 0xE0 and content[:5] == b"JFIF\0":
            unit, x, y = struct.unpack(">BHH", content[7:12])
            resolution = Resolution(x, y, {1: _INCH, 2: _CENTIMETRE}.get(unit, 1))
        if kind in _JPEG_FRAMES:
            bits, rows, columns, samples = struct.unpack(">BHHB", content[:6])
            _refuse_colours(path, is_grey=samples == 1)
            dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
            return Picture(path, rows, columns, dtype, resolution, is_lossy=True)


def _refuse_colours(path: Path, *, is_grey: bool) -> None:
    if not is_grey:
        raise VolumeError(
            f"{path} has colours; a slice needs one grey value a voxel. Convert the "
            "pictures to grey."
        )
