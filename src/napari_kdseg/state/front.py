"""One scan in view at a time: which layers are a scan's, and bringing it to the front.

No napari is imported; a viewer is asked and set through its public face.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from napari_kdseg.state.layers import NAMESPACE, LayerData, record_of
from napari_kdseg.state.views import is_being_painted, show, show_hidden
from napari_kdseg.volumes.volume import Grid

_LEFT_VIEW = f"{NAMESPACE} left view"  # beside the record, which a new showing replaces


def bring_to_front(
    viewer: Any, layers: Sequence[LayerData], listed: Iterable[str]
) -> Any:
    """Show a scan in place of other scans, and go to it.

    Layers of other scans, their results among them, are hidden until those are brought
    to the front themselves; what belongs to no scan stays as it is. Slice and zoom stay
    where the scan lies on the grid of one that was in view, so that both compare.

    Parameters
    ----------
    viewer
        Where.
    layers
        Of the scan, an image first.
    listed
        Names of the scans that are known.

    Returns
    -------
    object
        The image layer that is active now.
    """
    record = record_of(layers[0][1])
    case, grid = str(record["scan"]), record["grid"]
    stays = any(layer.visible and _is_on(layer, grid) for layer in viewer.layers)
    known = {case, *listed, *filter(None, map(_opened_scan, viewer.layers))}
    for layer in viewer.layers:
        if _owner(layer) in known and not _is_of(layer, case, grid):
            _take_from_view(layer)
    shown = [show(viewer, layer_data) for layer_data in layers]
    for layer in viewer.layers:
        if _is_of(layer, case, grid):
            _give_back(layer)
    images = [
        one for one, (_, _, kind) in zip(shown, layers, strict=True) if kind == "image"
    ]
    front = next((one for one in images if one.visible), images[0])
    front.visible = True
    viewer.layers.selection.active = front
    if not stays:
        _go_to(viewer, front)
    return front


def keep_behind(viewer: Any, layers: Sequence[LayerData]) -> None:
    """Put a scan into the list of layers alone, until it is brought to the front.

    Of the labels that left the view with it only these come back, as if they had come
    while it was in view.
    """
    cases = {Path(record_of(one[1]).get("result", "")).name for one in layers}
    for layer in list(_in_the_way(viewer, layers)):
        if _owner(layer) in cases:
            _note(layer, left=False)
    for layer in show_hidden(viewer, layers):
        _note(layer, left=True)


def is_behind(viewer: Any, layers: Sequence[LayerData]) -> bool:
    """Whether results are of a scan that left the view for another one."""
    for _, arguments, _ in layers:
        record = record_of(arguments)
        case = Path(record.get("result", "")).name
        for layer in viewer.layers:
            if _opened_scan(layer) == case and _is_on(layer, record["grid"]):
                return bool(layer.metadata.get(_LEFT_VIEW)) and not layer.visible
    return False


def make_room(viewer: Any, layers: Sequence[LayerData]) -> None:
    """Hide labels that new results would be mixed with: drawn ones, earlier results.

    Where nothing new comes they stay as they are, and so does what a person paints on.
    """
    for layer in list(_in_the_way(viewer, layers)):
        layer.visible = False


def _in_the_way(viewer: Any, layers: Sequence[LayerData]) -> Iterator[Any]:
    """Labels that new ones among these layers would be mixed with."""
    keys = {record_of(arguments).get("key") for _, arguments, _ in layers}
    new = keys - {_record(layer).get("key") for layer in viewer.layers}
    for _, arguments, kind in layers:
        record = record_of(arguments)
        if kind != "labels" or record["key"] not in new:
            continue
        for layer in viewer.layers:
            own = _record(layer)
            is_old = own.get("kind") == "labels" and own.get("key") not in keys
            if is_old and _is_on(layer, record["grid"]) and not is_being_painted(layer):
                yield layer


def _record(layer: Any) -> dict[str, Any]:
    return record_of({"metadata": layer.metadata})


def _opened_scan(layer: Any) -> str | None:
    return _record(layer).get("scan")


def _owner(layer: Any) -> str | None:
    """Name of the scan that a layer shows, or shows results of; None: of no scan."""
    record = _record(layer)
    if "scan" in record:
        return str(record["scan"])
    if "result" in record:  # its folder has the name of the scan
        return Path(record["result"]).name
    return str(record["case"]) if {"key", "case"} <= record.keys() else None


def _is_of(layer: Any, case: str, grid: Grid) -> bool:
    """Whether a layer is of this scan, and not of one of the same name."""
    return _owner(layer) == case and _is_on(layer, grid)


def _is_on(layer: Any, grid: Grid) -> bool:
    own = _record(layer).get("grid")
    return isinstance(own, Grid) and own.matches(grid)


def _take_from_view(layer: Any) -> None:
    if layer.visible:
        layer.visible = False
        _note(layer, left=True)


def _give_back(layer: Any) -> None:
    if layer.metadata.get(_LEFT_VIEW):
        layer.visible = True
        _note(layer, left=False)


def _note(layer: Any, *, left: bool) -> None:
    layer.metadata = {**layer.metadata, _LEFT_VIEW: left}


def _go_to(viewer: Any, layer: Any) -> None:
    """Bring the middle of a layer into view, and all of the slice there."""
    data = layer.data[0] if layer.multiscale else layer.data
    middle = layer.data_to_world([(count - 1) // 2 for count in data.shape])
    beside = viewer.dims.ndim - layer.ndim  # axes of other layers come first
    axes = range(beside, viewer.dims.ndim)
    viewer.dims.set_point(axes, [float(place) for place in middle])
    viewer.reset_view(layers=[layer], reset_camera_angle=False)
