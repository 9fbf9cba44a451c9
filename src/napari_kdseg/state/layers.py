"""Where a volume and its results lie in a viewer, and the way back to the file.

A viewer is shown the stored array as it is: no axis is turned or flipped, so that
what is painted lands in the voxel under the brush. Scale is the voxel size, and
translate is the scan's origin measured along the scan's own axes: two scans with
the same orientation lie over one another as they do in the world, whatever their
cropping and voxel size. The true affine stays in the layer's metadata, and whatever
is written gets it back, flips and obliques included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.errors import GridError
from napari_kdseg.state.planes import SteppedVoxels
from napari_kdseg.volumes.formats import Header
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid, Volume, VoxelArray

NAMESPACE = "napari-kdseg"
AXIS_LABELS = ("z", "y", "x")
UNKNOWN_CLASS_COLOR = "#ffffff"

# Below this voxel size a scan is shown in micrometres.
MICRO_BELOW_MM = 0.1

_MM_PER_UNIT = {
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "meter": 1000.0,
    "pixel": 1.0,  # a layer that was never given a voxel size
}

_TRANSFORM = ("scale", "translate", "units", "rotate", "shear", "metadata")

_shown: dict[Grid, dict[str, Any]] = {}
"""Grids that were shown, and how their layers lie.

napari's own "new labels layer" takes over how a layer lies, not what it is made of;
here its true grid is found again.
"""

LayerData = tuple[Any, dict[str, Any], str]
"""What napari exchanges: the array, the layer's arguments, the layer type."""


@dataclass(frozen=True)
class Source:
    """The scan behind an image layer.

    ``path`` is the file whose voxels the layer shows. It is None where there is no
    such file; then ``data`` holds the array, axes z, y, x.
    """

    name: str
    grid: Grid
    channels: tuple[str, ...]
    dtype: np.dtype[Any]
    path: Path | None = None
    data: Any = None
    part: str | None = None
    """Which volume of the file, where it holds several."""
    files: tuple[Path, ...] = ()
    """The files of all channels, where they have one each."""
    parts: tuple[str | None, ...] = ()
    """Which volume of each of these."""
    decoded_bytes: int = 0
    """Memory that the scan takes where it is predicted; 0: it is read by pieces."""

    @property
    def header(self) -> Header:
        """What a file's header would say; without a file it is called by its name."""
        return Header(
            self.path or Path(self.name), self.grid, self.channels, self.dtype
        )

    @property
    def badge(self) -> str:
        """Orientation, voxel size, channels and type in one line."""
        count = len(self.channels)
        channels = f"{count} channel" + ("s" if count != 1 else "")
        return " · ".join([self.grid.describe(), channels, str(self.dtype)])


def placement(grid: Grid) -> dict[str, Any]:
    """Scale, translate, units and axis labels that show a grid axis-aligned.

    Scale is always positive. Translate is the position of the first voxel along the
    scan's own axes (the origin with the rotation taken off), so the way back is exact.
    """
    micro = max(grid.spacing_mm) < MICRO_BELOW_MM
    per_mm = 1000.0 if micro else 1.0
    along_axes = np.linalg.solve(np.asarray(grid.direction), grid.origin_mm)
    _shown[grid] = {
        "scale": tuple(per_mm * s for s in grid.spacing_mm),
        "translate": tuple(float(per_mm * t) for t in along_axes[::-1]),
        "units": ("micrometer" if micro else "millimeter",) * 3,
        "axis_labels": AXIS_LABELS,
    }
    return dict(_shown[grid])


def grid_of_layer(
    shape: Sequence[int], arguments: Mapping[str, Any], name: str
) -> Grid:
    """The grid on which a layer's voxels lie in the world.

    Parameters
    ----------
    shape
        Shape of the layer's array; a volume has z, y and x.
    arguments
        The layer's arguments as napari hands them to a writer: scale, translate,
        units, metadata and so on.
    name
        The layer's name, for errors.

    Raises
    ------
    GridError
        If the array is no volume, or the layer is sheared and no file's grid is known,
        or it lies like two scans that have different grids.

    Notes
    -----
    A layer that still lies where its reader put it has the grid of its file. One that
    was cropped or resampled keeps its file's axes and takes the rest from the layer.
    One without a record, such as napari's new labels layer, has the grid of the scan
    that lies as it does, or the axes of the scans whose voxels have its size.
    """
    if len(shape) != 3:
        raise GridError(
            f"layer '{name}' has {len(shape)} axes; labels are written as volumes with "
            "three: z, y, x. Save one time point or one volume at a time."
        )
    known = record_of(arguments).get("grid")
    if isinstance(known, Grid):
        if _lies_as(known, shape, arguments):
            return known
        affine = _affine_along(known, arguments)
    elif _is_straight(arguments) and (alike := _alike(arguments)):
        there = [grid for grid in alike if _lies_as(grid, shape, arguments)]
        if there:
            return _only(there, name)
        affine = _affine_along(_of_one_turn(alike, name), arguments)
    else:
        affine = _affine_of(arguments, name)
    return Grid.from_affine(affine, (int(shape[0]), int(shape[1]), int(shape[2])))


def record_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What this plugin noted in a layer's metadata; empty for layers of others."""
    record = (arguments.get("metadata") or {}).get(NAMESPACE)
    return record if isinstance(record, dict) else {}


def source_of_layer(layer: Any) -> Source:
    """The scan behind an image layer: its file, or else its array.

    Raises
    ------
    GridError
        If the layer is no volume.
    """
    arguments = {key: getattr(layer, key) for key in _TRANSFORM}
    arguments["affine"] = layer.affine.affine_matrix
    data = layer.data[0] if layer.multiscale else layer.data
    grid = grid_of_layer(data.shape, arguments, layer.name)
    dtype = np.dtype(data.dtype)
    record = record_of(arguments)
    path = record.get("path")
    if path and grid == record.get("grid") and Path(path).exists():
        channels = tuple(record["channels"])
        return Source(
            str(record["case"]),
            grid,
            channels,
            dtype,
            path=Path(path),
            part=record.get("part"),
            files=tuple(Path(file) for file in record.get("files", ())),
            parts=tuple(record.get("parts", ())),
            # What was decoded whole to be shown is decoded whole to be predicted.
            decoded_bytes=len(channels) * data.nbytes
            if isinstance(data, np.ndarray)
            else 0,
        )
    return Source(layer.name, grid, (layer.name,), dtype, data=data)


def image_layers(volume: Volume, part: str | None = None) -> list[LayerData]:
    """One image layer a channel, lazy where the volume is.

    Parameters
    ----------
    volume
        The scan; its coarser levels, if any, make the layers pyramids.
    part
        Which volume of its file it is, where that holds several.
    """
    shared = {
        "kind": "image",
        "case": volume.name,
        "path": None if volume.source is None else str(volume.source),
        "part": part,
        "grid": volume.grid,
        "channels": volume.channels,
        "notes": volume.notes,
    }
    levels = (volume.data, *volume.coarser)
    single = len(volume.channels) == 1
    name = volume.name if part is None else f"{volume.name} {part}"
    return [
        (
            [viewable(level, index) for level in levels]
            if volume.coarser
            else viewable(volume.data, index),
            {
                "name": name if single else f"{name} {channel}",
                "metadata": {NAMESPACE: {**shared, "channel": index}},
                "colormap": "gray",
                "visible": index == 0,
                **placement(volume.grid),
            },
            "image",
        )
        for index, channel in enumerate(volume.channels)
    ]


def viewable(data: VoxelArray, channel: int) -> Any:
    """One channel as it is, and of lazy voxels as a viewer steps through them."""
    if isinstance(data, np.ndarray):
        return data[channel]
    return SteppedVoxels(data, channel)


def labels_layer(
    data: Any,
    grid: Grid,
    classes: LabelSet | None,
    *,
    name: str,
    record: Mapping[str, Any] | None = None,
) -> LayerData:
    """A labels layer with the names and colours of its classes.

    Names stand in ``features`` and so in the status bar. A value outside the set is
    white: what a person paints never is invisible.
    """
    noted = {"kind": "labels", "grid": grid, "classes": classes, **(record or {})}
    arguments: dict[str, Any] = {
        "name": name,
        "metadata": {NAMESPACE: noted},
        "opacity": 0.6,
        **placement(grid),
    }
    if classes is not None:
        arguments["features"] = _features(
            {0: "background"} | {c.value: c.name for c in classes.classes}
        )
        arguments["colormap"] = {
            None: UNKNOWN_CLASS_COLOR,
            0: "transparent",
            **{c.value: c.color for c in classes.classes},
        }
    return data, arguments, "labels"


def uncertainty_layer(
    data: Any,
    grid: Grid,
    *,
    name: str,
    record: Mapping[str, Any] | None = None,
) -> LayerData:
    """An image layer of uncertainty: black where sure, so that the scan shows through.

    Arrays of bytes hold 0..255 for 0..1.
    """
    noted = {"kind": "uncertainty", "grid": grid, **(record or {})}
    top = 255.0 if np.dtype(data.dtype) == np.uint8 else 1.0
    arguments = {
        "name": name,
        "metadata": {NAMESPACE: noted},
        "contrast_limits": (0.0, top),
        "colormap": "inferno",
        "blending": "additive",
        **placement(grid),
    }
    return data, arguments, "image"


def with_record(layer_data: LayerData, **fields: Any) -> LayerData:
    """The same layer with more noted in its metadata."""
    data, arguments, kind = layer_data
    record = {**record_of(arguments), **fields}
    return data, {**arguments, "metadata": {NAMESPACE: record}}, kind


def _features(names: Mapping[int, str]) -> dict[str, list[Any]]:
    return {"index": list(names), "class": list(names.values())}


def _lies_as(grid: Grid, shape: Sequence[int], arguments: Mapping[str, Any]) -> bool:
    """Whether a layer still lies where its reader put it."""
    expected = placement(grid)
    return tuple(shape) == grid.shape and all(
        np.allclose(arguments.get(key, expected[key]), expected[key])
        for key in ("scale", "translate")
    )


def _alike(arguments: Mapping[str, Any]) -> list[Grid]:
    """Grids that were shown in these units with voxels of this size."""
    units = [str(unit) for unit in arguments.get("units") or ()]
    scale = arguments.get("scale", (1, 1, 1))
    return [
        grid
        for grid, lie in _shown.items()
        if units == [*lie["units"]] and np.allclose(scale, lie["scale"])
    ]


def _is_straight(arguments: Mapping[str, Any]) -> bool:
    """Whether scale and translate are all that was done to a layer."""
    affine = np.asarray(arguments.get("affine", np.eye(4)))
    rotate = np.asarray(arguments.get("rotate", np.eye(3)))
    sheared = np.any(np.asarray(arguments.get("shear", 0.0)))
    straight = all(
        np.array_equal(m, np.eye(len(m))) for m in (affine, rotate) if m.ndim == 2
    )
    return straight and not sheared


def _only(grids: Sequence[Grid], name: str) -> Grid:
    if all(grid.matches(grids[0]) for grid in grids):
        return grids[0]
    described = " and ".join(sorted(grid.describe() for grid in grids))
    raise GridError(
        f"layer '{name}' lies like scans with different grids ({described}), and "
        "does not say to which it belongs; it must lie on one. Start napari anew, open "
        "that scan alone, and paint on its own labels."
    )


def _of_one_turn(grids: Sequence[Grid], name: str) -> Grid:
    """Any of the grids, where all are turned alike."""
    first = grids[0]
    if all(np.allclose(grid.direction, first.direction, atol=1e-6) for grid in grids):
        return first
    described = " and ".join(sorted({grid.describe() for grid in grids}))
    raise GridError(
        f"layer '{name}' lies like no scan, and those with voxels of its size are "
        f"turned differently ({described}); its axes must be those of one. Make the "
        "new labels with one scan's layer selected."
    )


def _mm_per_unit(arguments: Mapping[str, Any]) -> np.ndarray:
    units = arguments.get("units") or ("pixel",) * 3
    return np.asarray([_MM_PER_UNIT.get(str(unit), 1.0) for unit in units])


def _affine_along(grid: Grid, arguments: Mapping[str, Any]) -> np.ndarray:
    """Affine (x, y, z) of a layer cropped or resampled along a known scan's axes."""
    direction = np.asarray(grid.direction)
    per_unit = _mm_per_unit(arguments)
    spacing = np.asarray(arguments.get("scale", (1, 1, 1)), float) * per_unit
    translate = np.asarray(arguments.get("translate", (0, 0, 0)), float) * per_unit
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing[::-1]
    affine[:3, 3] = direction @ translate[::-1]
    return affine


def _affine_of(arguments: Mapping[str, Any], name: str) -> np.ndarray:
    """Affine (x, y, z) of a layer whose file is not known, from all its transforms."""
    if np.any(np.asarray(arguments.get("shear", 0.0))):
        raise GridError(
            f"layer '{name}' is sheared; a scan's axes stand at right angles. "
            "Reset the layer's transform (right click, Reset affine) and save again."
        )
    scale = np.asarray(arguments.get("scale", (1, 1, 1)), float)
    rotate = np.asarray(arguments.get("rotate", np.eye(3)), float)
    placed = np.eye(4)
    placed[:3, :3] = rotate * scale
    placed[:3, 3] = arguments.get("translate", (0, 0, 0))
    placed = np.asarray(arguments.get("affine", np.eye(4)), float) @ placed
    placed[:3] *= _mm_per_unit(arguments)[:, None]
    order = [2, 1, 0, 3]  # z, y, x of the viewer to x, y, z of the world
    return placed[np.ix_(order, order)]
