"""Opening files by napari's own menu: large packed ones are converted, with a bar."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QProgressDialog

from napari_kdseg import contributions
from napari_kdseg.errors import VolumeError
from napari_kdseg.state.jobs import Job, Worker
from napari_kdseg.state.opening import conversion, converting
from napari_kdseg.volumes.cache import default_cache
from napari_kdseg.volumes.formats import inspect_volume, parts_of
from napari_kdseg.volumes.opening import needs_conversion
from napari_kdseg.volumes.scan import VolumeFile

_POLL_MS = 50
_STEPS = 1000

Layers = list[tuple[Any, ...]]


def get_reader(path: str | Sequence[str]) -> Callable[[Any], Layers] | None:
    """Offer to read a scan or its labels; None for what is neither."""
    return None if contributions.get_reader(path) is None else read


def read(paths: str | Sequence[str]) -> Layers:
    """Layers of files; what cannot be read by pieces is converted before, in sight.

    After Cancel there are no layers.

    Raises
    ------
    VolumeError
        Where a file is damaged, or cannot be converted.
    """
    listed = [paths] if isinstance(paths, str) else list(paths)
    waiting = [target for path in listed for target in to_convert(Path(path))]
    if waiting and QApplication.instance() is not None:
        worker = Worker()
        try:
            if not all(Conversion(target, worker).shown() for target in waiting):
                return [(None,)]  # napari: read, and there is nothing to show
        finally:
            worker.close()
    return [*contributions.read_several(listed)]


def to_convert(path: Path) -> list[VolumeFile]:
    """List the volumes of a file that can only be shown after a conversion."""
    return [
        VolumeFile(path, part)
        for part in parts_of(path) or (None,)
        if needs_conversion(inspect_volume(path, part))
        and default_cache().find(path, part) is None
    ]


class Conversion(QProgressDialog):
    """A conversion into the cache, in a process of its own, with Cancel.

    Parameters
    ----------
    target
        The file, and which of its volumes.
    worker
        Executes it.
    """

    def __init__(self, target: VolumeFile, worker: Worker) -> None:
        super().__init__(converting(target), "Cancel", 0, _STEPS)
        self.setWindowTitle("napari-kdseg")
        self.setAutoClose(False)
        self.setAutoReset(False)
        scratch = user_cache_path("napari-kdseg") / "conversions"
        self._worker = worker
        self._job: Job = worker.submit(conversion(target, scratch))
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._on_tick)
        self.canceled.connect(self._on_cancel)

    def shown(self) -> bool:
        """Wait until it ended while the window lives; gives whether it finished.

        Raises
        ------
        VolumeError
            Where it failed.
        """
        self._timer.start(_POLL_MS)
        self.exec()
        self._timer.stop()
        job = self._job
        self.deleteLater()
        shutil.rmtree(job.run.folder, ignore_errors=True)
        if job.state == "failed":
            raise VolumeError(job.error)
        return job.state == "finished"

    def _on_tick(self) -> None:
        self._worker.poll()
        self.setValue(round(self._job.fraction * _STEPS))
        if self._job.ended:
            self.accept()

    def _on_cancel(self) -> None:
        self._worker.cancel(self._job)
        self.show()  # until it has stopped
