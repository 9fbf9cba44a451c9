"""What a TIFF file says of its axes, sizes and units. No voxels here.

ImageJ describes itself in lines such as `slices=31`, tifffile in JSON, and plain files
have the resolution tags alone. OME-TIFF is in `tiff_ome`.
"""

import json
from dataclasses import dataclass, replace
from math import isfinite, prod
from typing import Any

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.tiff_record import OWN_KEY, Own, own_of
from napari_kdseg.volumes.formats.tiff_units import (
    INCH_MM,
    Resolution,
    Spacing,
    length_mm,
    settled_spacing,
    unit_mm,
)
from napari_kdseg.volumes.volume import Grid


@dataclass(frozen=True)
class Stack:
    """One volume of a file: its pages and what is said of them."""

    name: str
    """The part's name; empty where the file holds but one."""
    table: np.ndarray
    """The page, from 0, that holds each channel and z."""
    spacing: Spacing = (None, None, None)
    channels: tuple[str, ...] = ()
    """Names of the channels; empty where not said."""
    size: tuple[int, int] | None = None
    """Voxels along y, x as described; None where not said."""
    dtype: np.dtype[Any] | None = None
    """Type of the voxels as described; None where not said."""
    line: tuple[float, float] | None = None
    """Intercept and slope that make values of what is stored."""
    own: Own | None = None
    notes: tuple[str, ...] = ()


def plain_stacks(pages: int, resolution: Resolution, name: str) -> tuple[Stack, ...]:
    """Describe a file without a description: its pages are slices."""
    spacing, notes = resolution.spacing(name)
    table = np.arange(pages)[np.newaxis]
    return (Stack("", table, spacing, notes=tuple(notes)),)


def shaped_stacks(
    descriptions: list[str], size: tuple[int, int], resolution: Resolution, name: str
) -> tuple[Stack, ...]:
    """Describe the series that tifffile wrote, each with its own shape.

    Parameters
    ----------
    descriptions
        What each page says of itself; a series begins where one is JSON.
    size
        Voxels of the first page along y, x.

    Raises
    ------
    VolumeError
        When a shape does not fit the pages.
    """
    groups: list[tuple[str, tuple[Stack, ...]]] = []
    first = 0
    while first < len(descriptions):
        found = shaped(descriptions[first])
        shape = [] if found is None else [int(size) for size in found["shape"]]
        letters = "" if found is None else str(found.get("axes") or "")
        if shape[-1:] == [1] and (letters.endswith("S") or shape[-3:-1] == [*size]):
            shape, letters = shape[:-1], letters[:-1]  # the axis of a single value
        count = prod(shape[:-2])
        if found is None or len(shape) < 2 or first + count > len(descriptions):
            raise VolumeError(
                f"{name} has {len(descriptions)} pages, and its description promises "
                f"the shape {shape} from page {first + 1} on; each page must belong to "
                "a shape. It is damaged: make it anew."
            )
        if len(letters) != len(shape):
            letters = "Q" * len(shape)
        table = arranged(letters[:-2], tuple(shape[:-2]), name) + first
        plane = (shape[-2], shape[-1])
        series = _shaped_series(found, table, plane, resolution, name)
        groups.append((f"series {len(groups) + 1}", series))
        first += count
    single = [series[0] for _, series in groups if len(series) == 1]
    return _joined(single, len(descriptions)) or named(groups)


def shaped(description: str) -> dict[str, Any] | None:
    """Read the JSON in which tifffile keeps a shape; None where there is none."""
    if not description.startswith("{"):
        return None
    try:
        found = json.loads(description)
        sizes = [int(size) for size in found["shape"]]
    except (ValueError, KeyError, TypeError):
        return None
    return found if all(size > 0 for size in sizes) else None


def imagej(description: str) -> dict[str, str] | None:
    """Read the lines in which ImageJ describes a stack; None where there are none."""
    if not description.startswith("ImageJ="):
        return None
    pairs = (line.partition("=") for line in description.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def imagej_stacks(
    found: dict[str, str], pages: int, resolution: Resolution, name: str
) -> tuple[Stack, ...]:
    """Describe a stack or hyperstack of ImageJ.

    Raises
    ------
    VolumeError
        When it promises more or fewer pages than there are.
    """
    try:
        sizes = {
            letter: int(found.get(key, 1))
            for letter, key in (("T", "frames"), ("Z", "slices"), ("C", "channels"))
        }
        if set(sizes.values()) == {1}:
            sizes["Z"] = int(found.get("images", pages))
    except ValueError:
        sizes = {"T": 0, "Z": 0, "C": 0}
    if prod(sizes.values()) != pages or min(sizes.values()) < 1:
        raise VolumeError(
            f"{name} has {pages} pages, and ImageJ describes {sizes['T']} times x "
            f"{sizes['Z']} slices x {sizes['C']} channels; both must be equal. It is "
            "damaged or was cut off: fetch or make it anew."
        )
    notes = []
    if sizes["T"] > 1 and sizes["Z"] == sizes["C"] == 1:
        notes.append(
            f"{name} calls its {pages} pages time points; they are taken as slices."
        )
        sizes["T"], sizes["Z"] = 1, pages
    order = found.get("order", "czt").upper()
    letters = order[::-1] if sorted(order) == ["C", "T", "Z"] else "TZC"
    table = arranged(letters, tuple(sizes[axis] for axis in letters), name)
    spacing, more = _imagej_spacing(found, resolution, name)
    line, doubt = _imagej_values(found, name)
    stack = Stack("", table[0], spacing, line=line, notes=(*notes, *more, *doubt))
    return split(stack, table, name)


def arranged(letters: str, sizes: tuple[int, ...], name: str) -> np.ndarray:
    """Number the pages by time, channel and z.

    Parameters
    ----------
    letters
        Axes of the pages, slowest first. An axis of no known kind is z where there is
        no other z.
    sizes
        Pages along each.

    Returns
    -------
    np.ndarray
        T, c, z.

    Raises
    ------
    VolumeError
        When an axis has no meaning for a volume.
    """
    kept = [(a, n) for a, n in zip(letters.upper(), sizes, strict=True) if n > 1]
    strange = [axis for axis, _ in kept if axis not in "TCZ"]
    if len(strange) == 1 and "Z" not in [axis for axis, _ in kept]:
        kept = [("Z" if axis == strange[0] else axis, n) for axis, n in kept]
        strange = []
    axes = "".join(axis for axis, _ in kept)
    if strange or len(set(axes)) != len(axes):
        raise VolumeError(
            f"{name} has the axes {letters} of {sizes} pages; a volume has z, and "
            "perhaps c and t. Save it with these axes named, or one file a volume."
        )
    pages = np.arange(prod(sizes)).reshape([n for _, n in kept])
    missing = [axis for axis in "TCZ" if axis not in axes]
    pages = pages.reshape([1] * len(missing) + list(pages.shape))
    return pages.transpose([("".join(missing) + axes).index(axis) for axis in "TCZ"])


def split(stack: Stack, table: np.ndarray, name: str) -> tuple[Stack, ...]:
    """Make a volume of each time point of a table (t, c, z).

    Raises
    ------
    VolumeError
        When there are several, of one slice each.
    """
    if len(table) == 1:
        return (replace(stack, table=table[0]),)
    if table.shape[2] == 1:
        raise VolumeError(
            f"{name} has {len(table)} time points of one slice each; a volume needs "
            "several slices. Save it with z as its axis if they are slices."
        )
    return tuple(
        replace(stack, name=f"time {number}", table=pages)
        for number, pages in enumerate(table, start=1)
    )


def named(groups: list[tuple[str, tuple[Stack, ...]]]) -> tuple[Stack, ...]:
    """Name the volumes of several series after their series as well."""
    if len(groups) == 1:
        return groups[0][1]
    return tuple(
        replace(stack, name=", ".join(filter(None, (series, stack.name))))
        for series, stacks in groups
        for stack in stacks
    )


def placed(stack: Stack, size: tuple[int, int], name: str) -> tuple[Grid, list[str]]:
    """Give the grid of a volume and what is to be said of it.

    Parameters
    ----------
    size
        Voxels along y, x.
    """
    shape = (int(stack.table.shape[1]), *size)
    spacing, notes = settled_spacing(stack.spacing, name)
    own = stack.own
    if own is not None:
        grid = Grid.from_affine(own.affine, own.shape)
        given = stack.spacing != (None, None, None)
        if own.shape != shape:
            why = f"it was made for {own.shape} voxels, not {shape} (z, y, x)"
        elif given and not np.allclose(grid.spacing_mm, spacing, rtol=1e-3):
            why = f"voxels are {_mm(spacing)}, and {_mm(grid.spacing_mm)} in its record"
        else:
            return grid, []
        notes.append(
            f"{name} was changed after it was written: {why}. Its place in space is "
            "not believed, its voxel size is."
        )
    notes.append(f"{name} does not say how it lies; its x, y, z are taken as R, A, S.")
    return Grid.from_affine(np.diag([*spacing[::-1], 1.0]), shape), notes


def _joined(series: list[Stack], pages: int) -> tuple[Stack, ...]:
    """Make one volume of pages that were written one by one, each a series then."""
    first = series[0] if series else None
    if first is None or len(series) != pages or pages == 1:
        return ()
    if any(stack.own is not None or stack.size != first.size for stack in series):
        return ()
    return (replace(first, table=np.arange(pages)[np.newaxis]),)


def _shaped_series(
    found: dict[str, Any],
    table: np.ndarray,
    size: tuple[int, int],
    resolution: Resolution,
    name: str,
) -> tuple[Stack, ...]:
    spacing, notes = resolution.spacing(name)
    own = own_of(found.get(OWN_KEY), name)
    if own is not None:
        z, y, x = Grid.from_affine(own.affine, own.shape).spacing_mm
        spacing = (z, spacing[1] or y, spacing[2] or x)
    stack = Stack(
        "",
        table[0],
        spacing,
        channels=() if own is None else own.channels,
        size=size,
        own=own,
        notes=tuple(notes),
    )
    return split(stack, table, name)


def _imagej_spacing(
    found: dict[str, str], resolution: Resolution, name: str
) -> tuple[Spacing, list[str]]:
    unit = found.get("unit", "")
    units = [found.get(key) or unit for key in ("zunit", "yunit", "unit")]
    if not units[2]:
        return resolution.spacing(name)
    if unit_mm(units[2]) == INCH_MM and resolution.for_print():
        return resolution.spacing(name)
    z_mm, y_mm, x_mm = (unit_mm(unit) for unit in units)
    if x_mm is None:
        return (None, None, None), []
    y = length_mm(1 / (resolution.y or 1), y_mm)
    x = length_mm(1 / (resolution.x or 1), x_mm)
    if "spacing" in found:
        z = length_mm(found["spacing"].lstrip("-"), z_mm)
        return (z, y, x), []
    return (z_mm, y, x), [
        f"{name} stores no distance of its slices; 1 {units[0]} is taken, which is "
        "when ImageJ does not store it. Give it with --spacing Z,Y,X."
    ]


def _imagej_values(
    found: dict[str, str], name: str
) -> tuple[tuple[float, float] | None, list[str]]:
    """Find what ImageJ does to stored values; signed 16-bit ones are stored so."""
    if "cf" not in found or "c0" not in found:
        return None, []
    try:
        numbers = (float(found["c0"]), float(found.get("c1", 1)))
    except ValueError:
        numbers = (np.nan, np.nan)
    if found["cf"] == "0" and all(map(isfinite, numbers)) and numbers[1]:
        return (None, []) if numbers == (0.0, 1.0) else (numbers, [])
    return None, [
        f"{name} has values calibrated by a curve of ImageJ (cf={found['cf']}); they "
        "are taken as stored."
    ]


def _mm(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in values) + " mm"
