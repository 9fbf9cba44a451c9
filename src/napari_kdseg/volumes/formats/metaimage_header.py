"""What a MetaImage header says, checked before a single voxel is believed.

https://itk.org/Wiki/MetaIO/Documentation; what it leaves open is read as ITK does: the
matrix has one row for each axis of the voxels, and world coordinates are LPS.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.payload import Packing, Payload
from napari_kdseg.volumes.formats.text_header import (
    axis_sizes,
    data_file,
    floats,
    integers,
    read_until,
    start_of_last,
)
from napari_kdseg.volumes.volume import Affine, Grid

DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # four bytes on every machine: MetaIO's MET_ValueTypeSize
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
"""What MetaIO calls the types."""

_END = re.compile(rb"^ElementDataFile[^\n]*(\n|\Z)", re.MULTILINE)
_NEEDED = ("NDims", "DimSize", "ElementType", "ElementDataFile")
_TRUE, _FALSE = ("true", "1"), ("false", "0")
_BYTE_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_OFFSETS = ("Offset", "Position", "Origin")
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
_INTENSITY = {
    "ElementToIntensityFunctionSlope": 1.0,
    "ElementToIntensityFunctionOffset": 0.0,
}
_UNITS_MM = {"mm": 1.0, "um": 1e-3, "cm": 10.0}
_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_GZIP_MARK = b"\x1f\x8b"

Fields = Mapping[str, str]


_NEAR_TIE = 0.25


@dataclass(frozen=True)
class MetaHeader:
    """A MetaImage header that has passed all checks."""

    payload: Payload
    grid: Grid
    notes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """How many values each voxel has."""
        axis = self.payload.axes[0]
        return 1 if axis is None else self.payload.shape[axis]


def read_header(path: Path) -> MetaHeader:
    """Read and check the header of a file ending in .mha or .mhd.

    Raises
    ------
    VolumeError
        When it is no MetaImage volume that can be read without a doubt.
    """
    name = str(path)
    text, size = read_until(path, _END, "MetaImage")
    fields = _fields(text, name)
    sizes = _sizes(fields, name)
    shape, axes = _layout(fields, sizes, name)
    affine, notes = _affine(fields, len(sizes), name)
    _, z, y, x = axes
    try:
        grid = Grid.from_affine(affine, (shape[z], shape[y], shape[x]))
    except VolumeError as error:
        raise VolumeError(f"{name}: {error}") from None
    stored = _stored(fields, name)
    data, offset = _place(fields, path, size, prod(shape) * stored.itemsize)
    packing = _packing(fields, data, offset, name)
    payload = Payload(data, packing, offset, 0, stored, shape, axes, None, name)
    return MetaHeader(payload, grid, (*notes, *_anatomy_note(fields, grid, name)))


def anatomy(grid: Grid) -> str:
    """Name where axes x, y, z come from, as MetaIO does: RAI for axes that run LPS."""
    return grid.orientation.translate(str.maketrans("RLAPSI", "LRPAIS"))


def _fields(text: str, name: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in filter(str.strip, text.split("\n")):
        key, mark, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if not (mark and key and key.isprintable()) or key in fields:
            raise VolumeError(
                f"{name} has the line {line[:80]!r} in its header; lines are 'key = "
                "value', each key once. It is no MetaImage, or is damaged: make it "
                "anew."
            )
        fields[key] = value
    missing = [key for key in _NEEDED if key not in fields]
    if missing:
        raise VolumeError(
            f"{name} has no {' and no '.join(missing)} in its header; each is needed. "
            "It is damaged or was cut off: fetch or make it anew."
        )
    if fields.get("ObjectType", "Image") != "Image":
        raise VolumeError(
            f"{name} holds an object of the type {fields['ObjectType']!r}; only an "
            "Image is a volume. Check what it is."
        )
    return fields


def _sizes(fields: Fields, name: str) -> tuple[int, ...]:
    (count,) = integers(fields["NDims"], 1, "NDims", name)
    if count not in (3, 4):
        fix = "Stack the slices into one file." if count < 3 else "Save it as several."
        raise VolumeError(
            f"{name} has {count} axes; a volume has three, x, y, z, or four with its "
            f"channels. {fix}"
        )
    return axis_sizes(fields["DimSize"], count, "DimSize", name)


def _layout(
    fields: Fields, sizes: tuple[int, ...], name: str
) -> tuple[tuple[int, ...], tuple[int | None, int, int, int]]:
    """Give the stored shape, slowest axis first, and where channel, z, y, x are."""
    said = fields.get("ElementNumberOfChannels", "1")
    (values,) = integers(said, 1, "ElementNumberOfChannels", name)
    times = prod(sizes[3:])
    if values < 1 or (values > 1 and times > 1):
        raise VolumeError(
            f"{name} has {values} values in each voxel and {times} volumes; one of "
            "both must be 1, and the other at least 1. Save one file for each."
        )
    volume = sizes[2::-1]
    if values > 1:
        return (*volume, values), (3, 0, 1, 2)
    return ((times, *volume), (0, 1, 2, 3)) if times > 1 else (volume, (None, 0, 1, 2))


def _affine(fields: Fields, count: int, name: str) -> tuple[Affine, tuple[str, ...]]:
    notes: list[str] = []
    spacings = _spacings(fields, count, name, notes)
    matrix = _matrix(fields, count, name, notes)
    origin = _one_of(fields, _OFFSETS, "0 " * count, name)
    if not any(key in fields for key in _OFFSETS):
        notes.append(f"{name} does not say where it begins (Offset); 0, 0, 0 is taken.")
    affine = np.eye(4)
    affine[:3, :3] = _TO_RAS @ (matrix[:3, :3].T * spacings)
    affine[:3, 3] = _TO_RAS @ floats(origin, count, "Offset", name)[:3]
    affine[:3] *= _unit(fields, name, notes)
    center = fields.get("CenterOfRotation", "0 " * count)
    if any(floats(center, count, "CenterOfRotation", name)):
        notes.append(
            f"{name} is turned around {center} (CenterOfRotation), which is not "
            "heeded; SimpleITK does not heed it either."
        )
    return affine, tuple(notes)


def _spacings(fields: Fields, count: int, name: str, notes: list[str]) -> Any:
    said = fields.get("ElementSpacing", fields.get("ElementSize"))
    if said is None:
        notes.append(
            f"{name} does not say how large its voxels are; they are taken as 1 mm."
        )
        return np.ones(3)
    spacings = np.array(floats(said, count, "ElementSpacing", name)[:3])
    if not (spacings > 0).all():
        raise VolumeError(
            f"{name} has the spacings {said!r} (ElementSpacing); each must be above 0. "
            "Set them to the true sizes."
        )
    return spacings


def _matrix(fields: Fields, count: int, name: str, notes: list[str]) -> Any:
    """Give the directions of the axes, one in each row."""
    if not any(key in fields for key in _MATRICES):
        notes.append(
            f"{name} does not say how it lies (TransformMatrix); its axes are taken as "
            "left, posterior, superior."
        )
        return np.eye(3)
    said = _one_of(fields, _MATRICES, "", name)
    values = floats(said, count * count, "TransformMatrix", name)
    matrix = np.reshape(values, (count, count))
    if matrix[3:, :3].any() or matrix[:3, 3:].any():
        raise VolumeError(
            f"{name} mixes its fourth axis with x, y, z (TransformMatrix {said!r}); it "
            "must stand apart. The header is damaged: make it anew."
        )
    lengths = np.sqrt((matrix[:3, :3] ** 2).sum(axis=1))
    if not np.allclose(lengths, 1.0, atol=1e-3):
        notes.append(
            f"{name} has directions that are no unit vectors (TransformMatrix {said}); "
            "their lengths are multiplied with the spacings."
        )
    return matrix[:3, :3]


def _unit(fields: Fields, name: str, notes: list[str]) -> float:
    unit = fields.get("DistanceUnits", "mm")
    if unit not in ("mm", "?"):
        said = "converted" if unit in _UNITS_MM else "not known; millimetres are taken"
        notes.append(f"{name} measures in {unit!r} (DistanceUnits), which is {said}.")
    return _UNITS_MM.get(unit, 1.0)


def _one_of(fields: Fields, keys: tuple[str, ...], default: str, name: str) -> str:
    """Read a field that has several names."""
    said = {fields[key] for key in keys if key in fields}
    if len(said) > 1:
        raise VolumeError(
            f"{name} says {' and '.join(sorted(map(repr, said)))} for one thing "
            f"({', '.join(keys)}); they must agree. Remove the wrong one."
        )
    return said.pop() if said else default


def _stored(fields: Fields, name: str) -> np.dtype[Any]:
    said = fields["ElementType"]
    if said not in DTYPES:
        raise VolumeError(
            f"{name} holds voxels of the type {said!r}; they must be integers or "
            "floats of at most 64 bits. Convert it, or make it anew if it should."
        )
    for key, usual in _INTENSITY.items():
        if floats(fields.get(key, str(usual)), 1, key, name) != (usual,):
            raise VolumeError(
                f"{name} scales its voxels ({key} {fields[key]}), which programs heed "
                "or not. Store the true values, and remove the field."
            )
    if not _is_true(fields, ("BinaryData",), "True", name):
        raise VolumeError(
            f"{name} has its voxels as text (BinaryData is False); only binary ones "
            "are read. Save it anew with SimpleITK."
        )
    order = ">" if _is_true(fields, _BYTE_ORDERS, "False", name) else "<"
    return np.dtype(order + DTYPES[said])


def _is_true(fields: Fields, keys: tuple[str, ...], default: str, name: str) -> bool:
    said = _one_of(fields, keys, default, name).lower()
    if said not in (*_TRUE, *_FALSE):
        raise VolumeError(
            f"{name} has {said!r} as its {keys[0]}; it must be True or False. The "
            "header is damaged: make it anew."
        )
    return said in _TRUE


def _place(fields: Fields, path: Path, size: int, needed: int) -> tuple[Path, int]:
    """Find the file with the voxels, and where in it they begin."""
    name, said = str(path), fields["ElementDataFile"]
    (skip,) = integers(fields.get("HeaderSize", "0"), 1, "HeaderSize", name)
    is_local = said.upper() == "LOCAL"
    is_packed = _is_true(fields, ("CompressedData",), "False", name)
    if skip < -1 or (skip == -1 and is_packed) or (skip > 0 and is_local):
        raise VolumeError(
            f"{name} skips {skip} bytes before its voxels (HeaderSize); it must be 0, "
            "more where they lie in another file, or -1 where they are not packed. The "
            "header is damaged: make it anew."
        )
    if said.split(" ")[0] == "LIST" or "%" in said:
        raise VolumeError(
            f"{name} has its voxels in several files ({said!r}); only one is read. "
            "Open it with SimpleITK and save it as one .mha."
        )
    data = path if is_local else data_file(path, said)
    start = size if is_local else max(skip, 0)
    return data, start if skip >= 0 else start_of_last(data, needed, start, name)


def _packing(fields: Fields, data: Path, offset: int, name: str) -> Packing:
    if not _is_true(fields, ("CompressedData",), "False", name):
        return "none"
    size = data.stat().st_size - offset
    said = fields.get("CompressedDataSize", str(size))
    if integers(said, 1, "CompressedDataSize", name) != (size,):
        raise VolumeError(
            f"{name} promises {said} bytes of packed voxels (CompressedDataSize), and "
            f"there are {size:,}; both must be equal. It is damaged or was cut off: "
            "fetch or make it anew."
        )
    with data.open("rb") as file:
        file.seek(offset)
        return "gzip" if file.read(2) == _GZIP_MARK else "zlib"


def _fits(grid: Grid, said: str) -> bool:
    """Whether axes come from where they are said to; ITK settles near ties its way."""
    runs = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "I": (2, 1)}
    runs["S"] = (2, -1)
    places = [runs[letter] for letter in said]
    cosines = [
        sign * grid.direction[world][axis] for axis, (world, sign) in enumerate(places)
    ]
    return said == anatomy(grid) or min(cosines) > _NEAR_TIE


def _anatomy_note(fields: Fields, grid: Grid, name: str) -> tuple[str, ...]:
    said = fields.get("AnatomicalOrientation", "???").upper()
    if not re.fullmatch("[RLAPSI]{3}", said) or _fits(grid, said):
        return ()
    return (
        f"{name} says that its axes come from {said} (AnatomicalOrientation) and turns "
        f"them to come from {anatomy(grid)} (TransformMatrix); the matrix is used.",
    )
