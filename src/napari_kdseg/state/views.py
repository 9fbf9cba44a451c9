"""What a viewer shows, asked and set through its public face; no napari is imported."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_kdseg.state.layers import NAMESPACE, LayerData, record_of

_WITHOUT_BRUSH = ("pan_zoom", "transform")


def slice_in_view(viewer: Any, layer: Any) -> tuple[int, int] | None:
    """Axis of the layer's array and index of the slice that is looked at.

    None where the viewer shows three dimensions, or a place outside the layer.
    """
    if viewer.dims.ndisplay != 2:
        return None
    offset = viewer.dims.ndim - layer.ndim
    axis = _sliced_axis(viewer, offset)
    position = layer.world_to_data(viewer.dims.point)[-layer.ndim :]
    index = round(float(position[axis]))
    return (axis, index) if 0 <= index < layer.data.shape[axis] else None


def sliced_axis(viewer: Any, layer: Any) -> int:
    """Axis of the layer's array that the viewer steps through; in 3D the first."""
    return _sliced_axis(viewer, viewer.dims.ndim - layer.ndim)


def go_to_slice(viewer: Any, layer: Any, axis: int, index: int) -> None:
    """Bring a slice of a layer's array into view."""
    position = [0.0] * layer.ndim
    position[axis] = float(index)
    offset = viewer.dims.ndim - layer.ndim
    world = layer.data_to_world(position)
    viewer.dims.set_point(axis + offset, float(world[axis]))


def is_scan(layer: Any) -> bool:
    """Whether a layer shows something to segment: a grey volume that is no result."""
    return (
        getattr(layer, "rgb", None) is False
        and layer.ndim == 3
        and record_of({"metadata": layer.metadata}).get("kind", "image") == "image"
    )


def is_opened_scan(layer: Any) -> bool:
    """Whether a person sees a scan by this layer that was opened from a file."""
    record = record_of({"metadata": layer.metadata})
    return is_scan(layer) and bool(record.get("path")) and bool(layer.visible)


def layer_with_key(layers: Any, key: str) -> Any:
    """The layer that shows a result, None where there is none."""
    for layer in layers:
        if record_of({"metadata": layer.metadata}).get("key") == key:
            return layer
    return None


def layer_in_case(layers: Any, folder: str) -> Any:
    """Any layer that shows a result of a case, None where there is none."""
    for layer in layers:
        if record_of({"metadata": layer.metadata}).get("result") == folder:
            return layer
    return None


def show(viewer: Any, layer_data: LayerData) -> Any:
    """Show a layer; one with the same key gets the new data and keeps its looks.

    What a person painted is never replaced: the new data come beside it. Only what lies
    in memory can be painted on: what lies on disk is published, or a job is filling it.
    """
    data, arguments, kind = layer_data
    record = record_of(arguments)
    untouched = (layer for layer in viewer.layers if not _is_painted(layer))
    layer = layer_with_key(untouched, record["key"]) if "key" in record else None
    if layer is None:
        layer = getattr(viewer, f"add_{kind}")(data, **arguments)
        _note_painting(layer)
    else:
        layer.data = data
        layer.metadata = {**layer.metadata, NAMESPACE: record}
    layer.editable = isinstance(data, np.ndarray)
    return layer


def show_hidden(viewer: Any, layers: Sequence[LayerData]) -> list[Any]:
    """Show layers in the list alone: nothing is covered, and no other is active.

    Those that are there already stay as visible as they are.

    Returns
    -------
    list
        New layers that would be in view otherwise.
    """
    selection = viewer.layers.selection
    selected, before = set(selection), list(viewer.layers)
    held = []
    for data, arguments, kind in layers:
        layer = show(viewer, (data, {**arguments, "visible": False}, kind))
        if layer not in before and arguments.get("visible", True):
            held.append(layer)
    if set(selection) != selected:
        selection.clear()
        selection.update(selected)
    return held


def is_being_painted(layer: Any) -> bool:
    """Whether a person has a brush in hand on a layer of labels, or painted there."""
    if getattr(getattr(layer, "events", None), "paint", None) is None:
        return False
    return _is_painted(layer) or str(layer.mode) not in _WITHOUT_BRUSH


def refresh_live(layers: Any) -> None:
    """Show the new voxels of arrays that a job is filling."""
    for layer in layers:
        if record_of({"metadata": layer.metadata}).get("live") and layer.visible:
            layer.refresh(extent=False, thumbnail=False)


def _is_painted(layer: Any) -> bool:
    return bool(record_of({"metadata": layer.metadata}).get("painted"))


def _note_painting(layer: Any) -> None:
    """Have a layer of labels note in its metadata that a person changed them."""
    painted = getattr(getattr(layer, "events", None), "paint", None)
    if painted is None:
        return

    def note() -> None:
        record = record_of({"metadata": layer.metadata})
        layer.metadata = {**layer.metadata, NAMESPACE: {**record, "painted": True}}

    painted.connect(note)


def _sliced_axis(viewer: Any, offset: int) -> int:
    sliced = [axis - offset for axis in viewer.dims.not_displayed if axis >= offset]
    return sliced[-1] if sliced else 0
