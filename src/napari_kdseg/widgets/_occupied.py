"""Whether a person is at work in the canvas, so that nothing may come in between."""

from typing import Any

from napari_kdseg.state.views import is_being_painted


def is_occupied(viewer: Any) -> bool:
    """Whether slices are judged or corrected in a viewer, or a layer is painted on."""
    return is_judged(viewer) or is_being_painted(viewer.layers.selection.active)


def is_judged(viewer: Any) -> bool:
    """Whether slices are judged or corrected in a viewer."""
    return _any_dock(viewer, "holds_canvas")


def are_results_read(viewer: Any) -> bool:
    """Whether Review shows slices of results, so that those have to stay."""
    return _any_dock(viewer, "reads_results")


def _any_dock(viewer: Any, what: str) -> bool:
    docks = viewer.window.dock_widgets.values()
    return any(getattr(dock, what, False) for dock in docks)
