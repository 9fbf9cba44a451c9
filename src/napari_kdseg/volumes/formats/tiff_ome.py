"""OME-XML, the description in an OME-TIFF, to volumes and back. No voxels here.

https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/specification.html. It knows
sizes and names; how a volume lies and what its labels mean is kept in an annotation of
our own.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.tiff_metadata import Stack, named, split
from napari_kdseg.volumes.formats.tiff_record import OWN_KEY, Own, own_of
from napari_kdseg.volumes.formats.tiff_units import Spacing, length_mm, unit_mm

_SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_TYPES = {
    **{name: np.dtype(name) for name in ("int8", "int16", "int32")},
    **{name: np.dtype(name) for name in ("uint8", "uint16", "uint32")},
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "bit": np.dtype(np.uint8),
}
_TYPE_NAMES = {dtype: name for name, dtype in _TYPES.items() if name != "bit"}
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MICROMETRES_BELOW_MM = 0.1


def is_ome(description: str) -> bool:
    """Whether a page's description is OME-XML."""
    return description.rstrip().endswith("OME>")


def ome_stacks(xml: str, pages: int, file: str, name: str) -> tuple[Stack, ...]:
    """Describe the volumes of an OME-TIFF.

    Parameters
    ----------
    xml
        The description of its first page.
    pages
        How many pages the file has.
    file
        Its name in its folder; other files of the same set are not read.
    name
        The file, for messages.

    Raises
    ------
    VolumeError
        When the XML is damaged, or promises pages that are not there.
    """
    try:
        root = ET.fromstring(xml)
        images = root.findall("{*}Image")
        if root.find("{*}BinaryOnly") is not None or not images:
            raise VolumeError(
                f"{name} describes no image, or does so in another file; each file "
                "must describe itself. Save it as one OME-TIFF."
            )
        _check_one_file(root, file, name)
        own = own_of(_record(root), name) if len(images) == 1 else None
        groups = [
            (title, _image(image, pages, own, name))
            for title, image in zip(_titles(images), images, strict=True)
        ]
    except (ET.ParseError, ValueError, KeyError, TypeError) as error:
        raise VolumeError(
            f"{name} has OME-XML that cannot be understood ({type(error).__name__}: "
            f"{error}). It is damaged: make it anew."
        ) from error
    used = sum(stack.table.size for _, stacks in groups for stack in stacks)
    if used < pages:
        note = f"{name} has {pages} pages, and its OME-XML uses {used} of them."
        groups = [
            (title, tuple(replace(s, notes=(*s.notes, note)) for s in stacks))
            for title, stacks in groups
        ]
    return named(groups)


def can_describe(dtype: np.dtype[Any]) -> bool:
    """Whether OME-XML has a name for a type of voxels."""
    return dtype.newbyteorder("=") in _TYPE_NAMES


def ome_xml(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    spacing_mm: tuple[float, float, float],
    channels: tuple[str, ...],
    record: dict[str, str],
) -> str:
    """Describe a volume to other programs, and the rest to ourselves.

    Parameters
    ----------
    shape
        Channels, and voxels along z, y, x; the pages have z fastest.
    dtype
        Type of the voxels.
    spacing_mm
        Along z, y, x.
    channels
        What each channel shows.
    record
        What OME-XML has no place for.
    """
    root = Element("OME", {"xmlns": _SCHEMA, "Creator": OWN_KEY})
    image = SubElement(root, "Image", {"ID": "Image:0", "Name": "volume"})
    sizes = dict(zip("CZYX", shape, strict=True))
    pixels = SubElement(
        image,
        "Pixels",
        {
            "ID": "Pixels:0",
            "DimensionOrder": "XYZCT",
            "Type": _TYPE_NAMES[dtype.newbyteorder("=")],
            "SizeT": "1",
            **{f"Size{axis}": str(size) for axis, size in sizes.items()},
            **_physical_sizes(spacing_mm),
        },
    )
    for number, channel in enumerate(channels):
        about = {"ID": f"Channel:0:{number}", "Name": _NO_XML.sub(" ", channel)}
        SubElement(pixels, "Channel", {**about, "SamplesPerPixel": "1"})
    planes = str(shape[0] * shape[1])
    SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": planes})
    SubElement(image, "AnnotationRef", {"ID": "Annotation:0"})
    notes = SubElement(root, "StructuredAnnotations")
    about = {"ID": "Annotation:0", "Namespace": OWN_KEY}
    values = SubElement(SubElement(notes, "MapAnnotation", about), "Value")
    for key, text in record.items():
        SubElement(values, "M", {"K": key}).text = text
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>{text}'


def _physical_sizes(spacing_mm: tuple[float, float, float]) -> dict[str, str]:
    small = max(spacing_mm) < _MICROMETRES_BELOW_MM
    factor, unit = (1e3, "µm") if small else (1.0, "mm")
    sizes = {}
    for axis, size in zip("ZYX", spacing_mm, strict=True):
        sizes[f"PhysicalSize{axis}"] = repr(size * factor)
        sizes[f"PhysicalSize{axis}Unit"] = unit
    return sizes


def _check_one_file(root: Element, file: str, name: str) -> None:
    """Refuse a set of files: pages of the others would be missing."""
    found = {(mark.text, mark.get("FileName")) for mark in root.iter() if _is_id(mark)}
    others = [
        title or text
        for text, title in found
        if len(found) > 1 or "UUID" in root.attrib
        if title != file and text != root.get("UUID")
    ]
    if others:
        raise VolumeError(
            f"{name} is one of several files of a set, with {others[0]}; only single "
            "files are read. Save the set as one OME-TIFF."
        )


def _is_id(mark: Element) -> bool:
    return mark.tag.rpartition("}")[2] == "UUID"


def _record(root: Element) -> dict[str, str] | None:
    for note in root.iterfind("{*}StructuredAnnotations/{*}MapAnnotation"):
        if note.get("Namespace") == OWN_KEY:
            pairs = note.iterfind("{*}Value/{*}M")
            return {pair.get("K", ""): pair.text or "" for pair in pairs}
    return None


def _titles(images: list[Element]) -> list[str]:
    """Name the images; namesakes and nameless ones get their number as well."""
    titles = [image.get("Name") or "" for image in images]
    return [
        title
        if title and titles.count(title) == 1
        else f"{title or 'image'} ({number})"
        for number, title in enumerate(titles, start=1)
    ]


def _image(image: Element, pages: int, own: Own | None, name: str) -> tuple[Stack, ...]:
    pixels = image.find("{*}Pixels")
    if pixels is None:
        raise ValueError("an image without Pixels")
    channels = pixels.findall("{*}Channel")
    if any(int(found.get("SamplesPerPixel", 1)) > 1 for found in channels):
        raise VolumeError(
            f"{name} has several values a voxel in one channel, such as RGB colours; a "
            "volume needs one. Save its channels one by one."
        )
    table = _table(pixels, pages, name)
    names = tuple(found.get("Name") or "" for found in channels)
    stack = Stack(
        "",
        table[0],
        _spacing(pixels),
        channels=names if all(names) and len(names) == table.shape[1] else (),
        size=(int(pixels.attrib["SizeY"]), int(pixels.attrib["SizeX"])),
        dtype=_TYPES.get(pixels.attrib["Type"]),
        own=own,
    )
    if own is not None:
        stack = replace(stack, channels=own.channels)
    return split(stack, table, name)


def _table(pixels: Element, pages: int, name: str) -> np.ndarray:
    """Find the page of each time, channel and z."""
    order = pixels.attrib["DimensionOrder"][2:][::-1]
    sizes = [int(pixels.attrib[f"Size{axis}"]) for axis in order]
    if sorted(order) != ["C", "T", "Z"] or min(sizes) < 1:
        raise ValueError(f"the axes {order} of {sizes} pages")
    planes = prod(sizes)
    if planes > pages:
        raise VolumeError(
            f"{name} has {pages} pages, and its OME-XML promises {planes} "
            f"({order} of {sizes}); it was cut off or is one of several files. Fetch "
            "or make it anew, as one file."
        )
    found = np.full(planes, -1)
    for plane, page in _assigned(pixels, sizes, order):
        if not (plane < planes and page < pages) or found[plane] not in (-1, page):
            raise VolumeError(
                f"{name} has {pages} pages for {planes} planes, and its OME-XML puts "
                f"plane {plane + 1} on page {page + 1}; each plane needs a page of its "
                "own. It is damaged: make it anew."
            )
        found[plane] = page
    if (found < 0).any() or len(set(found.tolist())) < planes:
        raise VolumeError(
            f"{name} has {planes} planes, and its OME-XML names the pages of "
            f"{len(set(found.tolist()) - {-1})}; each plane needs a page of its own. "
            "It is damaged: make it anew."
        )
    table = found.reshape(sizes)
    return table.transpose([order.index(axis) for axis in "TCZ"])


def _assigned(
    pixels: Element, sizes: list[int], order: str
) -> Iterator[tuple[int, int]]:
    """Go through the planes, in the order of pages, and the page of each."""
    blocks = pixels.findall("{*}TiffData") or [Element("TiffData")]
    for block in blocks:
        firsts = [int(block.get(f"First{axis}", 0)) for axis in order]
        first = int(np.ravel_multi_index(firsts, sizes))
        page = int(block.get("IFD", 0))
        alone = 1 if "IFD" in block.attrib else prod(sizes) - first
        for step in range(int(block.get("PlaneCount", alone))):
            yield first + step, page + step


def _spacing(pixels: Element) -> Spacing:
    z, y, x = (
        length_mm(
            pixels.get(f"PhysicalSize{axis}"),
            unit_mm(pixels.get(f"PhysicalSize{axis}Unit", "µm")),
        )
        for axis in "ZYX"
    )
    return (z, y, x)
