"""What an OME-Zarr group says about its image, to a grid and back. No voxels here."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.labels import LabelClass, LabelSet, distinct_color
from napari_kdseg.volumes.volume import Affine, Grid

Kind = Literal["labels", "image"]

OWN_KEY = "napari-kdseg"
"""Where we keep what the standard has no place for."""
_VERSION = "0.5"
_UNITS_MM = {
    "meter": 1e3,
    "centimeter": 10.0,
    "millimeter": 1.0,
    "micrometer": 1e-3,
    "nanometer": 1e-6,
    "angstrom": 1e-7,
}


@dataclass(frozen=True)
class Meaning:
    """What the voxels of an image of ours stand for."""

    kind: Kind
    """Whether the values are labels or an image."""
    labels: LabelSet | None = None
    """The classes, kept with their names and colours."""
    channels: tuple[str, ...] = ()
    """What each channel shows."""
    value_scale: float | None = None
    """What stored values are multiplied by when read; None leaves them."""
    notes: tuple[str, ...] = ()
    """What a person should know about the image, a sentence each."""


@dataclass(frozen=True)
class Image:
    """The full-size image of a group, as its metadata describe it."""

    dataset: str
    """Path of its array inside the group."""
    axes: tuple[str, ...]
    """Names of the stored axes, z, y, x among them."""
    scale_mm: tuple[float, float, float]
    """Voxel size along z, y, x."""
    translation_mm: tuple[float, float, float]
    """World z, y, x of the first voxel."""
    channels: tuple[str, ...]
    """What each channel shows; empty where that is not said."""
    affine: Affine | None
    """The full affine, in files of our own."""
    value_scale: float | None
    """What stored values are multiplied by, in files of our own."""
    notes: tuple[str, ...]
    coarser: tuple[str, ...] = ()
    """Paths of the arrays that show it smaller, each smaller than the one before."""
    holds_labels: bool | None = None
    """Whether the values are labels; None where the file does not say."""

    def places(self) -> tuple[int | None, int, int, int]:
        """Say which stored axis is channel, z, y, x."""
        channel = self.axes.index("c") if "c" in self.axes else None
        z, y, x = (self.axes.index(axis) for axis in "zyx")
        return (channel, z, y, x)

    def grid(self, shape: tuple[int, int, int], name: str) -> Grid:
        """Give the grid of an image of this many voxels (z, y, x).

        Raises
        ------
        VolumeError
            When the full affine and the standard's scale disagree by over 0.1 %.
        """
        scaled = np.diag([*self.scale_mm[::-1], 1.0])
        scaled[:3, 3] = self.translation_mm[::-1]
        if self.affine is None:
            return Grid.from_affine(scaled, shape)
        try:
            grid = Grid.from_affine(self.affine, shape)
        except VolumeError as error:
            raise VolumeError(f"{name}: {error}") from None
        if not np.allclose(grid.spacing_mm, self.scale_mm, rtol=1e-3):
            raise VolumeError(
                f"{name} gives its voxel size as {self.scale_mm} (scale) and as "
                f"{grid.spacing_mm} mm (affine); both must be equal. One was changed "
                "later: set it back, or make the file anew."
            )
        return grid


def metadata(
    grid: Grid,
    axes: int,
    meaning: Meaning,
    factors: tuple[tuple[int, int, int], ...] = ((1, 1, 1),),
) -> dict[str, Any]:
    """Describe an image of 3 (z, y, x) or 4 axes (channel first) to other programs.

    Parameters
    ----------
    grid
        Where the voxels of the full size lie.
    axes
        How many axes the arrays have.
    meaning
        What the voxels stand for.
    factors
        How many voxels of the full size one voxel of each level spans along z, y, x;
        the full size comes first. The arrays are named 0, 1, and so on.
    """
    spare = axes - 3
    space = [{"name": n, "type": "space", "unit": "millimeter"} for n in "zyx"]
    ome: dict[str, Any] = {
        "version": _VERSION,
        "multiscales": [
            {
                "name": meaning.kind,
                "axes": [*[{"name": "c", "type": "channel"}] * spare, *space],
                "datasets": [
                    _dataset(str(level), grid, spare, factor)
                    for level, factor in enumerate(factors)
                ],
            }
        ],
    }
    if meaning.kind == "labels":
        ome["image-label"] = _image_label(meaning.labels)
    own = {
        "version": 1,
        "kind": meaning.kind,
        "affine_ras_mm": grid.affine.tolist(),
        "channels": list(meaning.channels),
        "value_scale": meaning.value_scale,
        "notes": list(meaning.notes),
    }
    return {"ome": ome, OWN_KEY: own}


def images_in(about: dict[str, Any]) -> tuple[str, ...]:
    """Name the images of one group, by what the standard says of it; "" has no name."""
    found = about.get("multiscales")
    if not isinstance(found, list):
        return ()
    titles = [item.get("name") if isinstance(item, dict) else None for item in found]
    return tuple(str(title or "") for title in titles)


def image_of(attributes: dict[str, Any], name: str, index: int = 0) -> Image:
    """Find an image in the attributes of a group, 0.4 or 0.5.

    Parameters
    ----------
    attributes
        The group's.
    name
        The folder, for messages.
    index
        Which of the group's images.

    Raises
    ------
    VolumeError
        When there is none, or it is no volume.
    """
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, dict) or not ome.get("multiscales"):
        raise VolumeError(
            f"{name} has no multiscales metadata; an OME-Zarr image has. Is it the "
            "folder above or below the image? Open the image itself."
        )
    try:
        own = attributes.get(OWN_KEY) or {}
        return _image(ome, own, name, ome["multiscales"][index])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise VolumeError(
            f"{name} has OME-Zarr metadata that cannot be understood "
            f"({type(error).__name__}: {error}); versions 0.4 and 0.5 are read. Make "
            "it anew."
        ) from error


def labels_of(attributes: dict[str, Any], name: str) -> LabelSet | None:
    """Read names and colours of a label image; None where it is none.

    Raises
    ------
    VolumeError
        When they are there and make no sense.
    """
    ome = attributes.get("ome", attributes)
    found = ome.get("image-label") if isinstance(ome, dict) else None
    if not found:
        return None
    try:
        properties = found.get("properties") or []
        names = _names(properties)
        listed = {int(item["label-value"]) for item in properties}
        colors = {int(c["label-value"]): c for c in found.get("colors") or ()}
        values = sorted(listed.union(colors) - {0})
        classes = [
            LabelClass(
                value=value,
                name=names.get(value, f"label {value}"),
                color=_color(colors.get(value), value),
            )
            for value in values
        ]
        return LabelSet(classes=tuple(classes)) if classes else None
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise VolumeError(
            f"{name} has label names or colours that cannot be understood "
            f"({error}). Correct image-label in its metadata."
        ) from error


def _image(
    ome: dict[str, Any], own: dict[str, Any], name: str, multiscale: dict[str, Any]
) -> Image:
    axes = tuple(axis["name"] for axis in multiscale["axes"])
    if not {"z", "y", "x"} <= set(axes) or len(set(axes)) != len(axes):
        raise VolumeError(
            f"{name} has the axes {', '.join(axes)}; a volume has z, y, x, and "
            "perhaps c. Is it a single slice?"
        )
    units = [
        {axis["name"]: axis.get("unit") for axis in multiscale["axes"]}[letter]
        for letter in "zyx"
    ]
    size, place = _extent(multiscale, axes, units, name)
    affine = own.get("affine_ras_mm")
    full, *coarser = [str(dataset["path"]) for dataset in multiscale["datasets"]]
    return Image(
        dataset=full,
        axes=axes,
        scale_mm=(float(size[0]), float(size[1]), float(size[2])),
        translation_mm=(float(place[0]), float(place[1]), float(place[2])),
        channels=tuple(own.get("channels") or _omero_labels(ome)),
        affine=None if affine is None else np.asarray(affine, float).reshape(4, 4),
        value_scale=own.get("value_scale"),
        notes=tuple(own.get("notes", ())) if own else _notes(units, name),
        coarser=tuple(coarser),
        holds_labels=_holds_labels(ome, own),
    )


def _holds_labels(ome: dict[str, Any], own: dict[str, Any]) -> bool | None:
    if own:
        return bool(own.get("kind") == "labels")
    return True if "image-label" in ome else None


def _dataset(
    path: str, grid: Grid, spare: int, factor: tuple[int, int, int]
) -> dict[str, Any]:
    """Place one level: its first voxel's centre is that of the voxels it spans."""
    scale = [s * f for s, f in zip(grid.spacing_mm, factor, strict=True)]
    shift = [s * (f - 1) / 2 for s, f in zip(grid.spacing_mm, factor, strict=True)]
    place = [o + s for o, s in zip(grid.origin_mm[::-1], shift, strict=True)]
    return {
        "path": path,
        "coordinateTransformations": [
            {"type": "scale", "scale": [*[1.0] * spare, *scale]},
            {"type": "translation", "translation": [*[0.0] * spare, *place]},
        ],
    }


def _extent(
    multiscale: dict[str, Any],
    axes: tuple[str, ...],
    units: list[str | None],
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Voxel size and place of the first voxel along z, y, x in millimetres."""
    scale, translation = np.ones(len(axes)), np.zeros(len(axes))
    for transform in (
        *multiscale["datasets"][0]["coordinateTransformations"],
        *multiscale.get("coordinateTransformations", ()),
    ):
        factor, shift = _transform(transform, len(axes), name)
        scale, translation = scale * factor, translation * factor + shift
    mm = [_UNITS_MM.get(unit or "millimeter", np.nan) for unit in units]
    picks = [axes.index(axis) for axis in "zyx"]
    size, place = scale[picks] * mm, translation[picks] * mm
    if not (np.isfinite([*size, *place]).all() and (size > 0).all()):
        raise VolumeError(
            f"{name} has voxels of {scale[picks].tolist()} in units of {units} "
            f"(z, y, x); each must be above 0, in a unit of {', '.join(_UNITS_MM)}. "
            "Correct its metadata."
        )
    return size, place


def _transform(
    transform: dict[str, Any], axes: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    factor, shift = np.ones(axes), np.zeros(axes)
    if transform["type"] == "scale":
        factor = np.array(transform["scale"], dtype=np.float64)
    elif transform["type"] == "translation":
        shift = np.array(transform["translation"], dtype=np.float64)
    elif transform["type"] != "identity":
        raise VolumeError(
            f"{name} has a transformation of type {transform['type']!r}; scale, "
            "translation and identity are read. Save it as OME-Zarr 0.4 or 0.5."
        )
    if factor.shape != (axes,) or shift.shape != (axes,):
        raise ValueError(f"a transformation that does not fit {axes} axes")
    return factor, shift


def _notes(units: list[str | None], name: str) -> tuple[str, ...]:
    lies = f"{name} does not say how it lies; its x, y, z are taken as R, A, S."
    if all(units):
        return (lies,)
    return (lies, f"{name} does not give its unit; it is taken as millimetres.")


def _omero_labels(ome: dict[str, Any]) -> list[str]:
    channels = (ome.get("omero") or {}).get("channels") or []
    labels = [channel.get("label") for channel in channels]
    return [str(label) for label in labels] if all(labels) else []


def _image_label(labels: LabelSet | None) -> dict[str, Any]:
    classes = () if labels is None else labels.classes
    return {
        "version": _VERSION,
        "colors": [
            {"label-value": item.value, "rgba": [*bytes.fromhex(item.color[1:]), 255]}
            for item in classes
        ],
        "properties": [
            {"label-value": item.value, "name": item.name} for item in classes
        ],
    }


def _names(properties: list[dict[str, Any]]) -> dict[int, str]:
    """Name each value; where several bear one name, as instances do, each differs."""
    found = {
        int(item["label-value"]): str(item["name"])
        for item in properties
        if item.get("name")
    }
    counts = Counter(found.values())
    return {
        value: name if counts[name] == 1 else f"{name} ({value})"
        for value, name in found.items()
    }


def _color(found: dict[str, Any] | None, value: int) -> str:
    if not found or not found.get("rgba"):
        return distinct_color(value)
    red, green, blue = (int(part) for part in found["rgba"][:3])
    return f"#{red:02x}{green:02x}{blue:02x}"
