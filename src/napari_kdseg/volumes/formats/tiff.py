"""Stacks of TIFF pages in; OME-TIFF in and out.

Pages are read by OME-XML, the lines of ImageJ, tifffile's JSON or, where there is no
description, one after another. TIFF does not know how a volume lies in space; files of
ours say so in an annotation, which other programs pass over.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TiffPage, TiffWriter

from napari_kdseg.atomic import atomic_file
from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.planes import Planes
from napari_kdseg.volumes.formats.tiff_decode import Page, decoded
from napari_kdseg.volumes.formats.tiff_metadata import (
    Stack,
    imagej,
    imagej_stacks,
    placed,
    plain_stacks,
    shaped,
    shaped_stacks,
)
from napari_kdseg.volumes.formats.tiff_ome import (
    can_describe,
    is_ome,
    ome_stacks,
    ome_xml,
)
from napari_kdseg.volumes.formats.tiff_pages import Book, open_book, understood
from napari_kdseg.volumes.formats.tiff_record import OWN_KEY, own_record
from napari_kdseg.volumes.formats.tiff_units import Resolution
from napari_kdseg.volumes.formats.voxels import (
    LazyVoxels,
    guarded,
    slabs,
    storable_dtype,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid, VoxelArray, default_channels

_SIGNED_16 = (-32768.0, 1.0)
_OTHER_KINDS = ("lsm", "stk", "mdgel", "fluoview", "eer", "scanimage")
_CLASSIC_BYTES = 2**32 - 2**25
_PAGE_BYTES = 512
"""More than the tags of a page take."""
_DEFLATE_LEVEL = 1
_PREDICTED_BYTES = 4
"""Widest integers that many readers know with a predictor."""


@dataclass(frozen=True)
class StoredPages:
    """The pages of one volume, each decoded when it is asked for."""

    path: Path
    pages: dict[int, Page]
    line: tuple[float, float] | None
    """Intercept and slope that make values of what is stored."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels as read."""
        stored = next(iter(self.pages.values())).dtype
        if self.line is None:
            return stored
        if self.line == _SIGNED_16 and stored.kind in "iu" and stored.itemsize == 2:
            return np.dtype(np.int16)
        return np.dtype(np.float32)

    @property
    def decodes(self) -> bool:
        """Whether a page must be decoded to give any voxel of it."""
        return not all(page.is_plain for page in self.pages.values())

    def __call__(self, number: int) -> np.ndarray:
        """Read a page, y, x.

        Raises
        ------
        VolumeError
            When it is damaged.
        """
        page = self.pages[number]
        with understood(f"{self.path} (page {number + 1})"):
            if page.is_plain:
                start = page.runs[0][0]
                shape = (page.rows, page.columns)
                stored = np.memmap(self.path, page.stored, "r", start, shape)
                return self._values(np.asarray(stored))
            with self.path.open("rb") as file:

                def read(offset: int, count: int) -> bytes:
                    file.seek(offset)
                    return file.read(count)

                return self._values(decoded(page, read))

    def _values(self, stored: np.ndarray) -> np.ndarray:
        if self.line is None:
            return stored
        if self.dtype == np.int16:
            # ImageJ stores signed values as unsigned ones, 32768 higher.
            return stored if stored.dtype.kind == "i" else stored ^ np.uint16(1 << 15)
        intercept, slope = self.line
        return (stored * np.float64(slope) + intercept).astype(np.float32)


def parts(path: Path) -> tuple[str, ...]:
    """Name the images, series and time points in a file; empty where there is one.

    Raises
    ------
    VolumeError
        When the file is damaged or its description cannot be believed.
    """
    with open_book(path) as book:
        return tuple(stack.name for stack in _stacks(book)[1] if stack.name)


def inspect(path: Path, part: str | None = None) -> Header:
    """Read and check what a file says of its pages; no voxel is decoded.

    Raises
    ------
    VolumeError
        When it is damaged, was cut off, or is of a kind not read.
    """
    return _opened(path, part)[1]


def read(
    path: Path, part: str | None = None, *, lazy: bool
) -> tuple[VoxelArray, Header]:
    """Read a volume, channel, z, y, x, each page when it is asked for or all at once.

    Raises
    ------
    VolumeError
        As `inspect`, and when a page that is read is damaged.
    """
    planes, header = _opened(path, part)
    voxels = LazyVoxels(planes, (0, 1, 2, 3), str(path))
    if lazy:
        return voxels, header
    return guarded(voxels.__array__, str(path)), header


def read_label_set(path: Path, part: str | None = None) -> LabelSet | None:
    """Read names and colours of the labels; None where the file does not have them."""
    with open_book(path) as book:
        own = _chosen(_stacks(book)[1], part, path).own
    return None if own is None else own.labels


def write(path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]) -> None:
    """Write voxels (channel, z, y, x) to one OME-TIFF, complete or not at all."""
    _write(path, data, grid, own_record("image", grid, channels, None), channels)


def write_labels(
    path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
) -> None:
    """Write labels (1, z, y, x) with names and colours, complete or not at all."""
    channels = ("labels",)
    _write(path, data, grid, own_record("labels", grid, channels, labels), channels)


def resolution_of(page: TiffPage) -> Resolution:
    """Read the resolution tags of a page; those that make no sense count as missing."""

    def number(code: int) -> float:
        top, bottom = page.tags.valueof(code) or (0, 1)
        return float(top) / float(bottom) if bottom else 0.0

    unit = page.tags.valueof(296)
    # TIFF 6 takes inches where there is no unit; many writers forget it and mean none.
    return Resolution(number(282), number(283), 1 if unit is None else int(unit))


def _opened(path: Path, part: str | None) -> tuple[Planes, Header]:
    with open_book(path) as book:
        book, stacks = _stacks(book)
        stack = _chosen(stacks, part, path)
        stored = StoredPages(path, _checked(book, stack), stack.line)
        first = next(iter(stored.pages.values()))
        more = _page_notes(book, first)
    grid, notes = placed(stack, (first.rows, first.columns), str(path))
    planes = Planes(
        stack.table,
        (first.rows, first.columns),
        stored.dtype,
        stored,
        decodes=stored.decodes,
    )
    header = Header(
        path,
        grid,
        stack.channels or default_channels(len(stack.table)),
        stored.dtype,
        (*stack.notes, *notes, *more),
        None if stack.own is None else stack.own.kind == "labels",
        by_plane=stored.decodes,
    )
    return planes, header


def _stacks(book: Book) -> tuple[Book, tuple[Stack, ...]]:
    """Describe all volumes of a file, and give its pages as they are numbered."""
    name, first = str(book.path), book.description(0)
    with understood(name):
        resolution = resolution_of(book.first)
        other = [kind for kind in _OTHER_KINDS if getattr(book.first, f"is_{kind}")]
    if other:
        raise VolumeError(
            f"{name} is of the kind {other[0].upper()}, whose pages are not plain "
            "slices. Save it as OME-TIFF."
        )
    if is_ome(first):
        return book, ome_stacks(first, book.count, book.path.name, name)
    book = book.full_size()
    page = book.page(0)  # colours are refused as such, not for the shape they give
    if lines := imagej(first):
        images = lines.get("images", "")
        book = book.repeated(int(images) if images.isdecimal() else 0)
        return book, imagej_stacks(lines, book.count, resolution, name)
    if found := shaped(first):
        if found.get("truncated"):
            book = book.repeated(prod(found["shape"][:-2]))
        texts = [book.description(number) for number in range(book.count)]
        size = (page.rows, page.columns)
        return book, shaped_stacks(texts, size, resolution, name)
    return book, plain_stacks(book.count, resolution, name)


def _chosen(stacks: tuple[Stack, ...], part: str | None, path: Path) -> Stack:
    names = [stack.name for stack in stacks]
    listed = ", ".join(repr(name) for name in names if name)
    if part is None and len(stacks) == 1:
        return stacks[0]
    if part is None:
        raise VolumeError(
            f"{path} holds {len(stacks)} volumes: {listed}; one is read at a time. "
            "Choose it with --part NAME."
        )
    if part not in names or not part:
        held = f"the parts {listed}" if listed else "a single volume without parts"
        raise VolumeError(
            f"{path} has no part {part!r}; it holds {held}. Choose one of these."
        )
    return stacks[names.index(part)]


def _checked(book: Book, stack: Stack) -> dict[int, Page]:
    """Check all pages of a volume, and that they fit each other and what was said."""
    name = str(book.path)
    if stack.table.shape[1] == 1 and stack.own is None:
        raise VolumeError(
            f"{name} has one page for a channel; a volume needs several. Give the "
            "folder of the slices instead."
        )
    pages = {int(number): book.page(int(number)) for number in stack.table.flat}
    first = next(iter(pages.values()))
    for number, page in pages.items():
        if differs := page.differs(first):
            raise VolumeError(
                f"{name} has {differs} (page {number + 1}); all pages of a volume must "
                "be alike. Save each kind as a file of its own."
            )
    _check_apart(list(pages.values()), name)
    size, dtype = (first.rows, first.columns), first.dtype
    if (stack.size or size, stack.dtype or dtype) != (size, dtype):
        raise VolumeError(
            f"{name} has pages of {size} {dtype} voxels (y, x), and is described as "
            f"{stack.size} {stack.dtype or dtype}; both must be equal. It is damaged: "
            "make it anew."
        )
    return pages


def _check_apart(pages: list[Page], name: str) -> None:
    """Refuse strips and tiles that overlap; equal ones may be stored once."""
    runs = sorted({run for page in pages for run in page.runs})
    for (start, count), (following, _) in pairwise(runs):
        if start + count > following:
            raise VolumeError(
                f"{name} has a strip or tile of {count:,} bytes at byte {start:,} and "
                f"another at byte {following:,}; they must not overlap. It is damaged: "
                "make it anew."
            )


def _page_notes(book: Book, first: Page) -> list[str]:
    name, notes = str(book.path), []
    if first.is_lossy:
        notes.append(f"{name} is packed with JPEG, which changes values.")
    if first.zero_is_white:
        notes.append(f"{name} shows 0 as white; its values are taken as stored.")
    corner = book.first.tags.valueof(274)
    if corner not in (None, 1):
        notes.append(
            f"{name} asks for its pages to be turned (Orientation {corner}); they are "
            "taken as stored."
        )
    return notes


def _write(
    path: Path,
    data: VoxelArray,
    grid: Grid,
    record: dict[str, str],
    channels: tuple[str, ...],
) -> None:
    stored = storable_dtype(np.dtype(data.dtype), path)
    shape = tuple(int(size) for size in data.shape)
    if can_describe(stored):
        about = ome_xml(shape, stored, grid.spacing_mm, channels, record)
    else:
        about = json.dumps({"axes": "CZYX", "shape": shape, OWN_KEY: record})
    most = prod(shape) * stored.itemsize + shape[0] * shape[1] * _PAGE_BYTES
    predicted = stored.kind in "iu" and stored.itemsize <= _PREDICTED_BYTES
    with (
        atomic_file(path) as file,
        TiffWriter(file, bigtiff=most > _CLASSIC_BYTES, byteorder="<") as writer,
    ):
        writer.write(
            _planes(data, stored),
            shape=(shape[0] * shape[1], *shape[2:]),
            dtype=stored,
            photometric="minisblack",
            compression="zlib",
            compressionargs={"level": _DEFLATE_LEVEL},
            predictor=predicted,
            metadata=None,
            description=about.encode(),
            resolution=(10 / grid.spacing_mm[2], 10 / grid.spacing_mm[1]),
            resolutionunit="CENTIMETER",
            software=OWN_KEY,
        )


def _planes(data: VoxelArray, stored: np.dtype[Any]) -> Iterator[np.ndarray]:
    for block in slabs(data):
        yield from np.ascontiguousarray(data[block], stored)
