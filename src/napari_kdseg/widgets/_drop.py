"""A dock on which files and folders can be dropped."""

from pathlib import Path

from qtpy.QtCore import Signal  # type: ignore[attr-defined]  # qtpy makes Signal
from qtpy.QtGui import QDragEnterEvent, QDragMoveEvent, QDropEvent
from qtpy.QtWidgets import QWidget

from napari_kdseg.widgets._form import Dock


class DropDock(Dock):
    """A dock that says which files and folders were dropped anywhere on it."""

    dropped = Signal(list)
    """Emitted with the paths."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        # A scroll area gets the events of its viewport, and of nothing else.
        viewport = self.viewport()
        assert viewport is not None
        viewport.setAcceptDrops(True)

    def dragEnterEvent(self, a0: QDragEnterEvent | None) -> None:
        """Take files and folders."""
        if a0 is not None and _paths(a0):
            a0.acceptProposedAction()

    def dragMoveEvent(self, a0: QDragMoveEvent | None) -> None:
        """Take them anywhere on the dock."""
        if a0 is not None and _paths(a0):
            a0.acceptProposedAction()

    def dropEvent(self, a0: QDropEvent | None) -> None:
        """Say what was dropped."""
        if a0 is not None and (paths := _paths(a0)):
            a0.acceptProposedAction()
            self.dropped.emit(paths)


def _paths(event: QDropEvent) -> list[Path]:
    """Files and folders on this computer that are being dropped."""
    data = event.mimeData()
    urls = data.urls() if data is not None else []
    return [Path(url.toLocalFile()) for url in urls if url.isLocalFile()]
