"""The pages of a TIFF file: found, checked against the file's size, and decoded.

TIFF 6.0: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf. Tags are read
by tifffile and codecs are imagecodecs'; the rules are ours, and stricter. tifffile
2026.3.3 gives zeros for strips that are missing and whatever it got for short ones.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffFileError, TiffPage

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.tiff_decode import JPEG, JPEG_2000, STREAMS, Page

# What tifffile and the codecs raise on damaged files.
_FAILURES: tuple[type[Exception], ...] = (
    TiffFileError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    struct.error,
)
_PICTURE_RATIO = 1 << 17
_GREY = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK)
_COLOURS = {2: "RGB colours", 3: "a colour palette", 5: "CMYK colours", 6: "colours"}
_OFFSETS, _COUNTS = (324, 273), (325, 279)  # of tiles, of strips


@dataclass(frozen=True)
class Book:
    """An open TIFF file and all its pages."""

    path: Path
    pages: tuple[TiffPage, ...]
    size: int
    """Bytes of the file."""
    repeats: int = 0
    """Pages that follow the first without a description of their own; 0 for none."""

    @property
    def count(self) -> int:
        """How many pages there are."""
        return self.repeats or len(self.pages)

    @property
    def first(self) -> TiffPage:
        """Its first page, which has the description of all."""
        return self.pages[0]

    def page(self, number: int) -> Page:
        """Check a page, from 0, and say where its voxels lie.

        Raises
        ------
        VolumeError
            When it is not of grey values, or contradicts the size of the file.
        """
        name = f"{self.path} (page {number + 1})"
        found = self.pages[0 if self.repeats else number]
        with understood(name):
            _check_kind(found, name)
            page = _page(found, name)
            if self.repeats:
                page = _following(page, number, name)
            _check_runs(page, self.size, name)
        return page

    def description(self, number: int) -> str:
        """Give what a page says of itself, from 0."""
        found: object = self.pages[0 if self.repeats else number].description
        return found if isinstance(found, str) else ""

    def full_size(self) -> "Book":
        """Leave out the pages that are small copies or masks of others."""
        with understood(str(self.path)):
            full = [page for page in self.pages if not int(page.subfiletype) & 5]
        return replace(self, pages=tuple(full) or self.pages)

    def repeated(self, count: int) -> "Book":
        """Count the pages that a single one stands for, as in files above 4 GB."""
        single = len(self.pages) == 1 and count > 1
        return replace(self, repeats=count) if single else self


@contextmanager
def open_book(path: Path) -> Iterator[Book]:
    """Open a TIFF file and find all its pages.

    Raises
    ------
    VolumeError
        When it is no TIFF file, was cut off, or its chain of pages is broken.
    """
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise VolumeError(f"{path} {kind}; a TIFF file is needed. Check the path.")
    with understood(str(path)):
        file = TiffFile(path)
    with file:
        with understood(str(path)):
            size = path.stat().st_size
            pages = tuple(_pages(file, size, str(path)))
        yield Book(path, pages, size)


@contextmanager
def understood(name: str, what: str = "TIFF") -> Iterator[None]:
    """Turn what tifffile and the codecs raise into an error that names the file.

    Parameters
    ----------
    name
        The file, and the page where that is known.
    what
        What it should be.

    Raises
    ------
    VolumeError
        Instead of theirs.
    """
    try:
        yield
    except _FAILURES as error:
        raise VolumeError(
            f"{name} cannot be understood as {what} ({type(error).__name__}: {error}). "
            "It is damaged, was cut off or is something else: fetch or make it anew."
        ) from error


def _pages(file: TiffFile, size: int, name: str) -> Iterator[TiffPage]:
    """Follow the chain of pages to its end; tifffile stops where it breaks."""
    stream, tiff = file.filehandle, file.tiff
    seen: set[int] = set()
    stream.seek(8 if tiff.is_bigtiff else 4)
    offset = _number(stream.read(tiff.offsetsize), tiff.offsetformat, name)
    while offset:
        if offset in seen or offset >= size:
            why = "a page before it" if offset in seen else "beyond its end"
            raise VolumeError(
                f"{name} has {size:,} bytes, and page {len(seen) + 1} is said to be at "
                f"byte {offset:,}, which is {why}; each page must have its own place. "
                "It is damaged or was cut off: fetch or make it anew."
            )
        seen.add(offset)
        stream.seek(offset)
        yield TiffPage(file, len(seen) - 1)
        stream.seek(offset)
        tags = _number(stream.read(tiff.tagnosize), tiff.tagnoformat, name)
        stream.seek(offset + tiff.tagnosize + tags * tiff.tagsize)
        offset = _number(stream.read(tiff.offsetsize), tiff.offsetformat, name)
    if not seen:
        raise VolumeError(
            f"{name} has no page; a volume has several. It is damaged: make it anew."
        )


def _number(raw: bytes, form: str, name: str) -> int:
    if len(raw) != struct.calcsize(form):
        raise VolumeError(
            f"{name} ends within its list of pages. It was cut off: fetch or make it "
            "anew."
        )
    return int(struct.unpack(form, raw)[0])


def _check_kind(found: TiffPage, name: str) -> None:
    if found.photometric not in _GREY or found.samplesperpixel != 1:
        kind = _COLOURS.get(int(found.photometric), "several values a voxel")
        raise VolumeError(
            f"{name} has {kind}; a volume needs one grey value a voxel. Convert it to "
            "grey values, or save its channels one by one."
        )
    if found.imagedepth != 1:
        raise VolumeError(
            f"{name} is {found.imagedepth} slices deep (ImageDepth); each slice must "
            "be a page of its own. Save it as OME-TIFF."
        )
    codec = int(found.compression)
    if codec not in {1, JPEG, *JPEG_2000, *STREAMS}:
        known = {int(item): item.name for item in COMPRESSION}
        raise VolumeError(
            f"{name} is packed with {known.get(codec, 'an unknown codec')} ({codec}), "
            "which is not read. Save it with deflate, or without compression."
        )


def _page(found: TiffPage, name: str) -> Page:
    stored, bits = _stored(found, name)
    rows, columns = int(found.imagelength), int(found.imagewidth)
    tiled = 322 in found.tags
    segment = (int(found.rowsperstrip), columns)
    if tiled:
        segment = (int(found.tilelength), int(found.tilewidth))
    if min(rows, columns, *segment) < 1:
        raise VolumeError(
            f"{name} is said to have {columns} x {rows} voxels in pieces of "
            f"{segment[1]} x {segment[0]}; each number must be above 0. It is damaged: "
            "make it anew."
        )
    page = Page(
        rows=rows,
        columns=columns,
        stored=stored,
        bits=bits,
        compression=int(found.compression),
        predictor=int(found.predictor),
        bits_turned=int(found.fillorder) == 2,
        tiled=tiled,
        segment=segment,
        runs=(),
        tables=found.jpegtables,
        zero_is_white=found.photometric == PHOTOMETRIC.MINISWHITE,
    )
    return replace(page, runs=_runs(found, page, name))


def _following(page: Page, number: int, name: str) -> Page:
    """Find the voxels of a page that directly follow those of the first."""
    if not page.is_plain:
        raise VolumeError(
            f"{name} is not described in the file, which is right only where voxels "
            "are neither packed nor in pieces. It was cut off: fetch or make it anew."
        )
    size = page.bytes_of(page.rows)
    return replace(
        page,
        segment=(page.rows, page.columns),
        runs=((page.runs[0][0] + number * size, size),),
    )


def _stored(found: TiffPage, name: str) -> tuple[np.dtype[Any], int]:
    """Give type and bits of the stored voxels, or refuse them."""
    form, bits = int(found.sampleformat), int(found.bitspersample)
    whole = (form, bits) in {(3, 16), *((kind, b) for kind in (1, 2) for b in (8, 16))}
    whole |= form in (1, 2, 3) and bits in (32, 64)
    packed = form == 1 and bits < 16 and int(found.predictor) == 1
    if not (whole or packed):
        kind = {2: "signed integers", 3: "floats", 5: "complex", 6: "complex"}
        raise VolumeError(
            f"{name} holds {kind.get(form, 'values')} of {bits} bits (sample format "
            f"{form}); voxels must be integers or floats of at most 64 bits. Convert "
            "it."
        )
    letter = {1: "u", 2: "i", 3: "f"}[form]
    predictors = {"f": (1, 3)}.get(letter, (1, 2))
    if int(found.predictor) not in predictors:
        raise VolumeError(
            f"{name} has the predictor {int(found.predictor)} for its type, which is "
            "not read. Save it with deflate, or without compression."
        )
    order = found.parent.byteorder
    if bits == 1:
        return np.dtype(bool), bits
    return np.dtype(f"{order}{letter}{ceil(bits / 8) if bits > 8 else 1}"), bits


def _runs(found: TiffPage, page: Page, name: str) -> tuple[tuple[int, int], ...]:
    starts, counts = (
        next((v for code in codes if (v := _numbers(found, code)) is not None), ())
        for codes in (_OFFSETS, _COUNTS)
    )
    pieces = ceil(page.rows / page.segment[0]) * ceil(page.columns / page.segment[1])
    if not counts and page.compression == 1 and pieces == 1:
        counts = (page.bytes_of(page.rows),)
    if not len(starts) == len(counts) == pieces:
        raise VolumeError(
            f"{name} needs {pieces} strips or tiles for {page.columns} x {page.rows} "
            f"voxels, and lists {len(starts)} places and {len(counts)} sizes; all "
            "three must be equal. It is damaged: make it anew."
        )
    return tuple(zip(starts, counts, strict=True))


def _numbers(found: TiffPage, code: int) -> tuple[int, ...] | None:
    value = found.tags.valueof(code)
    if value is None:
        return None
    return tuple(int(number) for number in np.atleast_1d(value).tolist())


def _check_runs(page: Page, size: int, name: str) -> None:
    """Compare what a page promises with the size of the file, before any memory."""
    wanted = packed = 0
    for number, (start, count) in enumerate(page.runs):
        if start < 1 or count < 1 or start + count > size:
            raise VolumeError(
                f"{name} has a strip or tile of {count:,} bytes at byte {start:,} of a "
                f"file of {size:,}; each must lie inside. It is damaged or was cut "
                "off: fetch or make it anew."
            )
        rows = page.place(number)[2]
        wanted, packed = wanted + page.bytes_of(rows), packed + count
        exact = (page.bytes_of(rows), page.bytes_of(page.segment[0]))
        if page.compression == 1 and count not in exact:
            raise VolumeError(
                f"{name} has a strip or tile of {count:,} bytes, and its size and type "
                f"make {exact[0]:,}; both must be equal. It is damaged: make it anew."
            )
    ratio = STREAMS.get(page.compression, (None, _PICTURE_RATIO))[1]
    if page.compression != 1 and wanted > packed * ratio:
        raise VolumeError(
            f"{name} promises {wanted:,} bytes, more than can be packed into the "
            f"{packed:,} it has. It is damaged: make it anew."
        )
