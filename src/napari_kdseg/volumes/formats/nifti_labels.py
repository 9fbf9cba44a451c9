"""What the labels of a NIfTI file are called: a table in an extension of its header.

Connectome Workbench keeps names and colours there as XML, a ``CaretExtension``, and
TotalSegmentator writes the same. Extensions: https://nifti.nimh.nih.gov/nifti-1/
documentation/nifti1fields/nifti1fields_pages/extension.html
"""

import re
import struct
from collections.abc import Callable, Iterator
from xml.etree import ElementTree as ET

from napari_kdseg.volumes.labels import LabelClass, LabelSet, distinct_color

MOST_BYTES = 16 << 20
"""No extension beyond this many bytes is looked at; 65,535 labels take 8 million."""

# Workbench reads 30 alone, Caret's own; nibabel 5.4 fails to give the content of 30,
# and TotalSegmentator, which goes through it, takes the first there is.
_CODES = (0, 30)
_STEP = 16  # sizes of extensions are multiples of it
_HEAD = 8
_DAMAGE = (ValueError, KeyError, OverflowError, ET.ParseError)
_CHANNELS = ("Red", "Green", "Blue")
_NOT_IN_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def find_labels(
    read: Callable[[int], bytes], room: int, byte_order: str
) -> LabelSet | None:
    """Look through the extensions of a header for a table of labels.

    Parameters
    ----------
    read
        Gives the next bytes after the header, fewer at the end of the file.
    room
        How many bytes there are before the voxels, or may be.
    byte_order
        Of the header, ``<`` or ``>``.

    Returns
    -------
    LabelSet or None
        None where there is no table, or it is damaged in any entry.
    """
    for content in _extensions(read, room, byte_order):
        if b"<CaretExtension" in content:
            try:
                return _parsed(content)
            except _DAMAGE:
                return None
    return None


def label_extensions(labels: LabelSet) -> bytes:
    """Write the extensions of a little-endian header that name the labels.

    There are two of equal content, since programs look for different codes. Names
    lose what XML cannot hold, such as control characters.
    """
    root = ET.Element("CaretExtension")
    volume = ET.SubElement(root, "VolumeInformation", Index="0")
    table = ET.SubElement(volume, "LabelTable")
    for item in labels.classes:
        rgb = [str(level / 255) for level in bytes.fromhex(item.color[1:])]
        levels: dict[str, str] = dict(zip(_CHANNELS, rgb, strict=True))
        fields = {"Key": str(item.value), **levels, "Alpha": "1"}
        label = ET.SubElement(table, "Label", fields)
        label.text = _NOT_IN_XML.sub(" ", item.name)
    ET.SubElement(volume, "VolumeType").text = "Label"
    text = '<?xml version="1.0" encoding="UTF-8"?>\n'
    content = (text + ET.tostring(root, encoding="unicode")).encode()
    size = -(-(len(content) + _HEAD) // _STEP) * _STEP
    # Spaces fill it up: XML may end with them, and not with zeros.
    padded = content.ljust(size - _HEAD)
    return b"".join(struct.pack("<2i", size, code) + padded for code in _CODES)


def _extensions(
    read: Callable[[int], bytes], room: int, byte_order: str
) -> Iterator[bytes]:
    """Go through what follows a header for as long as it makes sense."""
    flag = read(4) if room >= 4 else b""
    if flag[:1] in (b"", b"\0"):
        return
    room -= len(flag)
    while room >= _STEP:
        head = read(_HEAD)
        if len(head) < _HEAD:
            return
        (size,) = struct.unpack(f"{byte_order}i", head[:4])
        if not _HEAD < size <= room:
            return
        yield read(size - _HEAD)
        room -= size


def _parsed(content: bytes) -> LabelSet | None:
    """Read the first table of labels; any damage in it is an error."""
    text = content.decode("utf-8").strip("\0 \r\n\t")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can grow without bound
        raise ValueError("No table of labels has entities of its own.")
    table = ET.fromstring(text).find(".//LabelTable")
    classes: list[LabelClass] = []
    seen = set()
    for label in () if table is None else table.iter("Label"):
        value = int(label.attrib["Key"])
        if value == 0:  # background, which is never listed
            continue
        name = (label.text or "").strip() or f"label {value}"
        name = f"{name} ({value})" if name in seen else name
        seen.add(name)
        classes.append(LabelClass(value=value, name=name, color=_color(label, value)))
    return LabelSet(classes=tuple(classes)) if classes else None


def _color(label: ET.Element, value: int) -> str:
    """Read a colour of levels from 0 to 1; where there is none, give a distinct one."""
    if not any(name in label.attrib for name in _CHANNELS):
        return distinct_color(value)
    levels = [round(float(label.attrib[name]) * 255) for name in _CHANNELS]
    return "#" + bytes(levels).hex()
