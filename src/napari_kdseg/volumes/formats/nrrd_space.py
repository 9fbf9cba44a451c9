"""How the axes of an NRRD file lie in space, and which of them are channels.

http://teem.sourceforge.net/nrrd/format.html, sections 4 and 6. An axis lies in space
when it has a direction; in files without directions, when its kind and spacing allow.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.text_header import floats
from napari_kdseg.volumes.volume import Affine

_TO_RAS = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_NO_BODY = ("scanner-xyz", "3d-right-handed")
_IN_SPACE = ("domain", "space", "none", "???")
_CHANNELS = (
    *("list", "vector", "point", "normal", "covariant-vector", "time", "stub"),
    *("scalar", "2-vector", "3-color", "rgb-color", "hsv-color", "xyz-color"),
    *("4-color", "rgba-color", "3-vector", "3-gradient", "3-normal", "4-vector"),
    *("quaternion", "2d-symmetric-matrix", "2d-masked-symmetric-matrix"),
    *("2d-matrix", "2d-masked-matrix", "3d-symmetric-matrix"),
    *("3d-masked-symmetric-matrix", "3d-matrix", "3d-masked-matrix"),
)
_COMPLEX = ("complex",)
_MM: dict[str, float] = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns"), 1e-3),
    **dict.fromkeys(("micrometer", "micrometers", "micrometre"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre"), 1e3),
    **dict.fromkeys(("nm", "nanometer", "nanometers"), 1e-6),
}
_VECTOR = re.compile(r"none|\(([^()]*)\)", re.IGNORECASE)

Vectors = tuple[tuple[float, ...] | None, ...]


@dataclass(frozen=True)
class Axes:
    """Which axes of a file are x, y, z, fastest first, and which are not in space."""

    spatial: tuple[int, int, int]
    others: tuple[int, ...]


def axes_of(fields: Mapping[str, str], sizes: tuple[int, ...], name: str) -> Axes:
    """Tell the three axes in space from the others.

    Parameters
    ----------
    fields
        The header's fields, their names in small letters without spaces.
    sizes
        Of all axes, the fastest first.
    name
        The file, for messages.

    Raises
    ------
    VolumeError
        When there are not three, or kinds and directions contradict each other.
    """
    kinds = _kinds(fields, len(sizes), name)
    vectors = _directions(fields, len(sizes), name)
    if vectors is None:
        spacings = _spacings(fields, len(sizes), name)
        found = [
            axis
            for axis, kind in enumerate(kinds)
            if kind in _IN_SPACE and not np.isnan(spacings[axis] or 1.0)
        ]
    else:
        found = [axis for axis, vector in enumerate(vectors) if vector is not None]
        _refuse_contradiction(kinds, found, name)
    if len(found) != 3:
        shown = " x ".join(map(str, sizes))
        fix = (
            "Is it a single slice? Stack the slices into one file."
            if len(found) < 3
            else "Name the axis of the channels in its kinds, such as 'list'."
        )
        raise VolumeError(
            f"{name} has {len(found)} axes in space (sizes {shown}, kinds "
            f"{' '.join(kinds)}); a volume has three: x, y, z. {fix}"
        )
    others = tuple(axis for axis in range(len(sizes)) if axis not in found)
    return Axes((found[0], found[1], found[2]), others)


def affine_of(
    fields: Mapping[str, str], axes: Axes, count: int, name: str
) -> tuple[Affine, tuple[str, ...]]:
    """Compute where voxels lie, and say what is doubtful about it.

    Parameters
    ----------
    fields, axes, name
        See `axes_of`.
    count
        How many axes the file has.

    Returns
    -------
    Affine
        From voxel x, y, z to RAS+ millimetres.
    tuple
        Notes, a sentence each.

    Raises
    ------
    VolumeError
        When a field is damaged, or the space is of no kind that can be turned to RAS.
    """
    notes: list[str] = []
    flips = _flips(fields, name, notes)
    vectors = _directions(fields, count, name)
    affine = np.eye(4)
    if vectors is None:
        affine[:3, :3] = np.diag(_axis_steps(fields, axes, count, name, notes))
        units = np.ones(3)
    else:
        columns = [vectors[axis] for axis in axes.spatial]
        affine[:3, :3] = np.array(columns).T
        units = _unit_factors(fields, "spaceunits", (0, 1, 2), 3, (name, notes))
        _note_other_spacings(fields, columns, axes, count, (name, notes))
    affine[:3, 3] = _origin(fields, name, notes)
    affine[:3] *= (units * flips)[:, np.newaxis]
    return affine, tuple(notes)


def _kinds(fields: Mapping[str, str], count: int, name: str) -> tuple[str, ...]:
    kinds = tuple(fields.get("kinds", "none " * count).lower().split())
    if len(kinds) != count:
        raise VolumeError(
            f"{name} has {count} axes and {len(kinds)} kinds; each axis has one. The "
            "header is damaged: make it anew."
        )
    for kind in kinds:
        if kind not in (*_IN_SPACE, *_CHANNELS):
            what = "complex numbers" if kind in _COMPLEX else "no kind that NRRD knows"
            raise VolumeError(
                f"{name} has an axis of the kind {kind!r}: {what}; voxels must be "
                "integers or floats. Convert it, or make it anew if it should."
            )
    return kinds


def _refuse_contradiction(
    kinds: tuple[str, ...], spatial: list[int], name: str
) -> None:
    for axis in spatial:
        if kinds[axis] in _CHANNELS:
            raise VolumeError(
                f"{name} has an axis of the kind {kinds[axis]!r} with a direction in "
                "space; such axes have 'none'. The header is damaged: make it anew."
            )


def _directions(fields: Mapping[str, str], count: int, name: str) -> Vectors | None:
    text = fields.get("spacedirections")
    if text is None:
        return None
    found = tuple(_VECTOR.finditer(text))
    if _VECTOR.sub("", text).strip() or len(found) != count:
        raise VolumeError(
            f"{name} has the space directions {text!r}; its {count} axes need as many, "
            "'none' or in brackets. The header is damaged: make it anew."
        )
    return tuple(
        None
        if match[1] is None
        else floats(match[1].replace(",", " "), 3, "space directions", name)
        for match in found
    )


def _spacings(
    fields: Mapping[str, str], count: int, name: str
) -> tuple[float | None, ...]:
    """Give the spacing of each axis; NaN where it is written, None where nothing is."""
    text = fields.get("spacings")
    if text is None:
        return (None,) * count
    words = ["nan" if word.lower() == "nan" else word for word in text.split()]
    numbers = floats(
        " ".join("1" if word == "nan" else word for word in words),
        count,
        "spacings",
        name,
    )
    return tuple(
        float("nan") if word == "nan" else number
        for word, number in zip(words, numbers, strict=True)
    )


def _flips(fields: Mapping[str, str], name: str, notes: list[str]) -> Any:
    space = fields.get("space")
    if space is not None and space.lower() in _TO_RAS:
        return np.array(_TO_RAS[space.lower()], dtype=np.float64)
    if space is not None and space.lower() not in _NO_BODY:
        raise VolumeError(
            f"{name} lies in the space {space!r}; it must be one of "
            f"{', '.join(s for s in _TO_RAS if '-' in s)}. Convert it with 3D Slicer, "
            "or make it anew."
        )
    if space is None and fields.get("spacedimension", "3") != "3":
        raise VolumeError(
            f"{name} lies in a space of {fields['spacedimension']} dimensions; it must "
            "have 3. Save one file for each time, or make it anew."
        )
    said = "has no space in its header" if space is None else f"lies in {space!r}"
    notes.append(
        f"{name} {said}, so how it lies in the body is unknown; its axes are taken as "
        "right, anterior, superior."
    )
    return np.ones(3)


def _axis_steps(
    fields: Mapping[str, str], axes: Axes, count: int, name: str, notes: list[str]
) -> Any:
    """Give the voxel sizes of a file without directions."""
    found = [_spacings(fields, count, name)[axis] for axis in axes.spatial]
    if None in found:
        notes.append(
            f"{name} does not say how large its voxels are; they are taken as 1 mm."
        )
        found = [1.0, 1.0, 1.0]
    steps = np.array(found, dtype=np.float64)
    if not (steps > 0).all():
        raise VolumeError(
            f"{name} has the spacings {fields['spacings']!r}; each must be above 0. "
            "Set them to the true sizes."
        )
    if "space" in fields:
        notes.append(
            f"{name} has no space directions; its axes are taken as those of its space."
        )
    return steps * _unit_factors(fields, "units", axes.spatial, count, (name, notes))


def _unit_factors(
    fields: Mapping[str, str],
    field: str,
    picked: tuple[int, int, int],
    count: int,
    report: tuple[str, list[str]],
) -> Any:
    """Give millimetres per unit along three axes."""
    text = fields.get(field)
    if text is None:
        return np.ones(3)
    name, notes = report
    words = re.findall(r'"([^"]*)"', text) or text.split()
    if len(words) != count:
        raise VolumeError(
            f"{name} has {len(words)} units ({text!r}) where {count} are needed. The "
            "header is damaged: make it anew."
        )
    units = [words[axis].strip() for axis in picked]
    unknown = [unit for unit in units if unit and unit.lower() not in _MM]
    if unknown:
        notes.append(
            f"{name} measures in {unknown[0]!r}, which is no length that is known; "
            "millimetres are taken."
        )
    return np.array([_MM.get(unit.lower(), 1.0) for unit in units])


def _origin(fields: Mapping[str, str], name: str, notes: list[str]) -> Any:
    text = fields.get("spaceorigin")
    if text is not None:
        match = _VECTOR.fullmatch(text.strip())
        inner = match[1] if match else None
        return floats((inner or text).replace(",", " "), 3, "space origin", name)
    said = (
        "gives the ends of its axes" if "axismins" in fields else "has no space origin"
    )
    notes.append(
        f"{name} {said}, and not where its first voxel lies; 0, 0, 0 is taken."
    )
    return (0.0, 0.0, 0.0)


def _note_other_spacings(
    fields: Mapping[str, str],
    columns: list[tuple[float, ...] | None],
    axes: Axes,
    count: int,
    report: tuple[str, list[str]],
) -> None:
    name, notes = report
    said = [_spacings(fields, count, name)[axis] for axis in axes.spatial]
    if None in said or np.isnan(np.array(said, dtype=np.float64)).any():
        return
    lengths = np.sqrt((np.array(columns) ** 2).sum(axis=1))
    if not np.allclose(np.array(said, dtype=np.float64), lengths, rtol=0.01):
        notes.append(
            f"{name} gives its voxel sizes twice, and differently (spacings and space "
            "directions); the directions are used."
        )
