"""What an NRRD header says, checked before a single voxel is believed.

http://teem.sourceforge.net/nrrd/format.html; the rules are stricter. pynrrd does not
take part: it skips what it does not know and leaves key/values as they are escaped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.nrrd_space import Axes, affine_of, axes_of
from napari_kdseg.volumes.formats.payload import Packing, Payload
from napari_kdseg.volumes.formats.text_header import (
    axis_sizes,
    data_file,
    integers,
    read_until,
    start_of_last,
)
from napari_kdseg.volumes.volume import Grid

_DTYPES = {
    **dict.fromkeys(("signed char", "char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("unsigned char", "uchar", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int"), "i2"),
    **dict.fromkeys(("int16", "int16_t"), "i2"),
    **dict.fromkeys(("unsigned short", "ushort", "unsigned short int"), "u2"),
    **dict.fromkeys(("uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("unsigned int", "uint", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("long long", "longlong", "long long int"), "i8"),
    **dict.fromkeys(("signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("int64", "int64_t"), "i8"),
    **dict.fromkeys(("unsigned long long", "ulonglong"), "u8"),
    **dict.fromkeys(("unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_PACKINGS: dict[str, Packing] = {
    "raw": "none",
    **dict.fromkeys(("gzip", "gz"), "gzip"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
}
_TEXTS = ("ascii", "text", "txt", "hex")
_ENDIANS = {"little": "<", "big": ">"}
_FIELDS = (
    *("dimension", "type", "blocksize", "encoding", "endian", "content", "min", "max"),
    *("oldmin", "oldmax", "datafile", "lineskip", "byteskip", "number", "sampleunits"),
    *("space", "spacedimension", "spaceunits", "spaceorigin", "spacedirections"),
    *("measurementframe", "sizes", "spacings", "thicknesses", "axismins", "axismaxs"),
    *("centers", "centerings", "labels", "units", "kinds"),
)
_NEEDED = ("type", "dimension", "sizes", "encoding")
_FIRST_LINE = re.compile(r"NRRD(000[1-5]|00\.01)")
_LINE = re.compile(r"(?P<field>.+?)(?P<mark>:=|:(?: |$))(?P<value>.*)")
_END = re.compile(rb"\n\r?\n")
_MOST_AXES = 16  # teem's NRRD_DIM_MAX


@dataclass(frozen=True)
class NrrdHeader:
    """An NRRD header that has passed all checks."""

    payload: Payload
    grid: Grid
    keys: Mapping[str, str]
    """The key/value pairs, with which programs keep what NRRD has no field for."""
    notes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """How many values each voxel has."""
        axis = self.payload.axes[0]
        return 1 if axis is None else self.payload.shape[axis]


def read_header(path: Path) -> NrrdHeader:
    """Read and check the header of a file ending in .nrrd or .nhdr.

    Raises
    ------
    VolumeError
        When it is no NRRD volume that can be read without a doubt.
    """
    name = str(path)
    text, size = read_until(path, _END, "NRRD")
    fields, keys = _lines(text, name)
    sizes = _sizes(fields, name)
    axes = axes_of(fields, sizes, name)
    affine, notes = affine_of(fields, axes, len(sizes), name)
    shape, places = _layout(sizes, axes, name)
    _, z, y, x = places
    try:
        grid = Grid.from_affine(affine, (shape[z], shape[y], shape[x]))
    except VolumeError as error:
        raise VolumeError(f"{name}: {error}") from None
    payload = Payload(
        path,
        _packing(fields, name),
        size,
        0,
        _stored(fields, name),
        shape,
        places,
        None,
        name,
    )
    if "datafile" in fields:
        payload = replace(
            payload, path=data_file(path, _one_file(fields, name)), offset=0
        )
    elif not text.endswith(("\n\n", "\n\r\n")):
        raise VolumeError(
            f"{name} ends after {size:,} bytes, within its header; an empty line must "
            "follow it, and then the voxels. Fetch or make it anew."
        )
    payload = _after_skips(payload, fields)
    return NrrdHeader(payload, grid, keys, (*notes, *_range_note(fields, name)))


def _lines(text: str, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Take a header apart into fields and key/value pairs."""
    first, *lines = text.split("\n")
    if not _FIRST_LINE.fullmatch(first.rstrip()):
        raise VolumeError(
            f"{name} is no NRRD file: it begins with {first[:20]!r}, which must be "
            "NRRD0001 to NRRD0005. Check what it is, or make it anew."
        )
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    for line in lines:
        line = line.removesuffix("\r")
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise VolumeError(
                f"{name} has the line {line[:80]!r} in its header; lines are "
                "'field: value' or 'key:=value'. The header is damaged: make it anew."
            )
        if match["mark"] == ":=":
            keys[_unescaped(match["field"])] = _unescaped(match["value"])
        else:
            _add_field(fields, match["field"], match["value"].strip(), name)
            if _is_list(fields):
                break
    return fields, keys


def _add_field(fields: dict[str, str], said: str, value: str, name: str) -> None:
    field = said.lower().replace(" ", "")
    if field not in _FIELDS or field in fields:
        what = "twice" if field in fields else "which NRRD does not know"
        raise VolumeError(
            f"{name} has the field {said[:80]!r} {what}; each is one of the format's, "
            "and there once. The header is damaged: make it anew."
        )
    fields[field] = value


def _unescaped(text: str) -> str:
    return re.sub(r"\\([\\n])", lambda m: "\n" if m[1] == "n" else "\\", text)


def _is_list(fields: Mapping[str, str]) -> bool:
    return fields.get("datafile", "").split(" ")[0] == "LIST"


def _sizes(fields: Mapping[str, str], name: str) -> tuple[int, ...]:
    missing = [field for field in _NEEDED if field not in fields]
    if missing:
        raise VolumeError(
            f"{name} has no {' and no '.join(missing)} in its header; each is needed. "
            "It is damaged or was cut off: fetch or make it anew."
        )
    (count,) = integers(fields["dimension"], 1, "dimension", name)
    if not 1 <= count <= _MOST_AXES:
        raise VolumeError(
            f"{name} has {count} axes; NRRD allows 1 to {_MOST_AXES}. The header is "
            "damaged: make it anew."
        )
    return axis_sizes(fields["sizes"], count, "sizes", name)


def _layout(
    sizes: tuple[int, ...], axes: Axes, name: str
) -> tuple[tuple[int, ...], tuple[int | None, int, int, int]]:
    """Give the stored shape, slowest axis first, and where channel, z, y, x are.

    Axes of length one that are not in space leave no trace in the bytes.
    """
    channels = [axis for axis in axes.others if sizes[axis] > 1]
    if len(channels) > 1:
        raise VolumeError(
            f"{name} has {' x '.join(map(str, sizes))} voxels; beyond x, y, z there "
            "may be one more axis, the channels. Save one file for each time or kind."
        )
    kept = sorted((*axes.spatial, *channels), reverse=True)
    x, y, z = (kept.index(axis) for axis in axes.spatial)
    channel = kept.index(channels[0]) if channels else None
    return tuple(sizes[axis] for axis in kept), (channel, z, y, x)


def _stored(fields: Mapping[str, str], name: str) -> np.dtype[Any]:
    said = " ".join(fields["type"].lower().split())
    if said not in _DTYPES:
        raise VolumeError(
            f"{name} holds voxels of the type {fields['type']!r}; they must be "
            "integers or floats of at most 64 bits. Convert it, or make it anew if it "
            "should."
        )
    stored: np.dtype[Any] = np.dtype(_DTYPES[said])
    if stored.itemsize == 1:
        return stored
    endian = fields.get("endian", "").lower()
    if endian not in _ENDIANS:
        raise VolumeError(
            f"{name} has {endian!r} as its endian; voxels of {stored.itemsize} bytes "
            "need 'little' or 'big'. The header is damaged: make it anew."
        )
    return np.dtype(_ENDIANS[endian] + _DTYPES[said])


def _packing(fields: Mapping[str, str], name: str) -> Packing:
    said = fields["encoding"].lower()
    if said in _PACKINGS:
        return _PACKINGS[said]
    what = "text" if said in _TEXTS else "no encoding that NRRD knows"
    raise VolumeError(
        f"{name} has its voxels in the encoding {said!r}, which is {what}; only raw, "
        "gzip and bzip2 are read. Save it with one of these, in 3D Slicer for instance."
    )


def _one_file(fields: Mapping[str, str], name: str) -> str:
    said = fields["datafile"]
    if _is_list(fields) or re.search(r"%[-+ 0-9.]*d", said):
        raise VolumeError(
            f"{name} has its voxels in several files ({said!r}); only one is read. "
            "Open it in 3D Slicer and save it as one .nrrd."
        )
    return said


def _after_skips(payload: Payload, fields: Mapping[str, str]) -> Payload:
    """Pass over the lines and bytes before the voxels.

    Lines are those of the file; bytes are those of the decoded stream.
    """
    name = payload.name
    (lines,) = integers(fields.get("lineskip", "0"), 1, "line skip", name)
    (count,) = integers(fields.get("byteskip", "0"), 1, "byte skip", name)
    if lines < 0 or count < -1 or (count == -1 and payload.packing != "none"):
        raise VolumeError(
            f"{name} skips {lines} lines and {count} bytes before its voxels; both "
            "must be 0 or more, or -1 bytes where they are raw. The header is damaged: "
            "make it anew."
        )
    payload = replace(payload, offset=_after_lines(payload, lines))
    if count >= 0:
        return replace(payload, skip=count)
    start = start_of_last(payload.path, payload.voxel_bytes, payload.offset, name)
    return replace(payload, offset=start)


def _after_lines(payload: Payload, lines: int) -> int:
    if not lines:
        return payload.offset
    with payload.path.open("rb") as file:
        file.seek(payload.offset)
        for passed in range(lines):
            if not file.readline().endswith(b"\n"):
                raise VolumeError(
                    f"{payload.name} says that {lines} lines come before its voxels "
                    f"(line skip), and {payload.path} has {passed}. The header is "
                    "damaged, or the file was cut off: make it anew."
                )
        return file.tell()


def _range_note(fields: Mapping[str, str], name: str) -> tuple[str, ...]:
    if not fields.keys() & {"oldmin", "oldmax"}:
        return ()
    ends = f"{fields.get('oldmin', '?')} to {fields.get('oldmax', '?')}"
    return (
        f"{name} says that its values stood for {ends} once (old min, old max); they "
        "are read as they are stored.",
    )
