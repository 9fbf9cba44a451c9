"""Opening a scan whose files may have to be converted before, in another process."""

import shutil
import uuid
from collections import deque
from pathlib import Path

from napari_kdseg.runs.run import Run
from napari_kdseg.state.jobs import Job, Worker
from napari_kdseg.state.layers import LayerData
from napari_kdseg.state.scan_layers import ScanFiles
from napari_kdseg.volumes.scan import VolumeFile


class Opening:
    """One scan on its way to its layers.

    Parameters
    ----------
    files
        The scan.
    worker
        Executes the conversions.
    scratch
        Where their runs lie while they last.

    Raises
    ------
    VolumeError
        Where a file is missing or damaged.
    """

    def __init__(self, files: ScanFiles, worker: Worker, scratch: Path) -> None:
        self._files = files
        self._worker = worker
        self._scratch = scratch
        self._waiting = deque(files.to_convert())
        self._at: VolumeFile | None = None
        self.job: Job | None = None

    @property
    def text(self) -> str:
        """What is under way."""
        return "" if self._at is None else converting(self._at)

    def begin(self) -> bool:
        """Convert the next file; gives whether there was one."""
        if not self._waiting:
            return False
        self._at = self._waiting.popleft()
        self.job = self._worker.submit(conversion(self._at, self._scratch))
        return True

    def end(self) -> None:
        """Remove what a conversion that ended left beside its result."""
        if self.job is not None:
            shutil.rmtree(self.job.run.folder, ignore_errors=True)
        self.job = None

    def cancel(self) -> None:
        """Ask the conversion at hand to stop; the worker tells when it has."""
        if self.job is not None and not self.job.ended:
            self._worker.cancel(self.job)

    def layers(self) -> list[LayerData]:
        """Give the layers, once all is converted.

        Raises
        ------
        VolumeError
            Where a file is missing or damaged.
        """
        return self._files.layers()


def conversion(one: VolumeFile, scratch: Path) -> Run:
    """Prepare the run that converts a file into the cache, in a folder of its own."""
    config = {
        "version": 1,
        "command": "convert",
        "source": str(one.path),
        "part": one.part,
        "target": None,  # into the cache
    }
    return Run.create(scratch / uuid.uuid4().hex, config)


def converting(one: VolumeFile) -> str:
    """Say what a conversion is for."""
    return f"Converting {one.path.name} once, so that it can be read by pieces"
