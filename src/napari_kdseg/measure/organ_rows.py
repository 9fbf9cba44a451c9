"""The organ table as rows: one a scan, model and class; columns carry their units."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from napari_kdseg.measure.organs import Contact, Organ
from napari_kdseg.measure.tables import Value

COLUMNS = (
    "case",
    "model",
    "group",
    "class",
    "voxels",
    "volume_mm3",
    "surface_mm2",
    "extent_z_mm",
    "extent_y_mm",
    "extent_x_mm",
    "axis_1_mm",
    "axis_2_mm",
    "axis_3_mm",
    "axis_1_world_x",
    "axis_1_world_y",
    "axis_1_world_z",
    "centroid_x_mm",
    "centroid_y_mm",
    "centroid_z_mm",
    "channel",
    "intensity_mean",
    "intensity_sd",
    "left_right_ratio",
    "neighbours_mm2",
    "at_edge",
    "volume_robust_z",
)
"""``model`` is empty for labels that no model made; ``group`` is what a scan is for."""

NUMBERS = (
    "volume_mm3",
    "surface_mm2",
    "extent_z_mm",
    "extent_y_mm",
    "extent_x_mm",
    "axis_1_mm",
    "axis_2_mm",
    "axis_3_mm",
    "centroid_x_mm",
    "centroid_y_mm",
    "centroid_z_mm",
    "intensity_mean",
    "intensity_sd",
    "left_right_ratio",
)
"""Columns that are worth a plot."""

TRIPLES = {
    "extent_mm": ("extent_z_mm", "extent_y_mm", "extent_x_mm"),
    "axes_mm": ("axis_1_mm", "axis_2_mm", "axis_3_mm"),
    "direction": ("axis_1_world_x", "axis_1_world_y", "axis_1_world_z"),
    "centroid_mm": ("centroid_x_mm", "centroid_y_mm", "centroid_z_mm"),
}
_ALIKE = (
    "voxels",
    "volume_mm3",
    "surface_mm2",
    "intensity_mean",
    "intensity_sd",
    "left_right_ratio",
    "at_edge",
)


def as_row(organ: Organ) -> dict[str, Value]:
    """The columns that one organ fills."""
    row: dict[str, Value] = {"class": organ.name}
    row |= {name: getattr(organ, name) for name in _ALIKE}
    for field, columns in TRIPLES.items():
        row |= dict(zip(columns, getattr(organ, field), strict=True))
    near = [f"{one.name}: {one.area_mm2:.4g}" for one in organ.neighbours]
    return row | {"neighbours_mm2": "; ".join(near)}


def as_record(organ: Organ) -> dict[str, Any]:
    """An organ in words that JSON has."""
    return asdict(organ)


def from_record(record: Mapping[str, Any]) -> Organ:
    """The organ that `as_record` wrote down.

    Raises
    ------
    TypeError, ValueError
        Where it is no such record.
    """
    triples = {name: tuple(float(v) for v in record[name]) for name in TRIPLES}
    near = tuple(Contact(**one) for one in record["neighbours"])
    return Organ(**{**record, **triples, "neighbours": near})
