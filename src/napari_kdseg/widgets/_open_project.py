"""The project that is open beside a dock."""

from pathlib import Path
from typing import Any

from napari_kdseg.state.volumes import Volumes


def open_project(viewer: Any) -> Path | None:
    """The folder of the project that is open in a viewer's Volumes dock."""
    for widget in viewer.window.dock_widgets.values():
        volumes = getattr(widget, "state", None)
        if isinstance(volumes, Volumes) and volumes.project is not None:
            return volumes.project.folder
    return None
