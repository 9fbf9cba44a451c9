"""Copies of layers that have no file, for the process that segments them."""

import hashlib
import re
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.atomic import publish_folder, temporary_beside
from napari_kdseg.errors import VolumeError
from napari_kdseg.state.layers import Source

COPIES = "copies"
"""Folder of the copies. Predictions refer to them, and what they were made of is lost
with the viewer: so they lie apart from converted scans, which are cleared at will."""
_PLANES = 64  # as deep as a chunk, so that each is written once


def file_name(source: Source) -> str:
    """What the copy of a layer is called."""
    name = re.sub(r"[^\w.-]+", "_", source.name).strip("._") or "scan"
    return f"{name}.ome.zarr"


class ScratchCopy:
    """A layer's array on its way into an OME-Zarr with its grid, a slab a step.

    The folder is named by its content: the same voxels are never copied twice, and
    what was computed from them is found again.

    Parameters
    ----------
    source
        A scan without a file.
    folder
        Where copies lie.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self._source = source
        self._folder = folder
        self._digest = hashlib.sha256(repr((source.grid, source.channels)).encode())
        self._steps = self._copy()

    @property
    def path(self) -> Path:
        """Where the copy is, once all steps are done."""
        return self._folder / self._digest.hexdigest()[:16] / file_name(self._source)

    def step(self) -> float | None:
        """Copy a slab; gives the part that is done, None where all is.

        Raises
        ------
        VolumeError
            Where the copy cannot be written.
        """
        try:
            return next(self._steps, None)
        except OSError as error:
            raise VolumeError(
                f"layer '{self._source.name}' could not be copied to {self._folder}: "
                f"{error}. Make room there, or save the layer as a file and open it."
            ) from error

    def cancel(self) -> None:
        """Leave it; nothing of a copy that is not complete stays."""
        self._steps.close()

    def _copy(self) -> Generator[float, None, None]:
        depth = self._source.grid.shape[0]
        slabs = [slice(z, z + _PLANES) for z in range(0, depth, _PLANES)]
        for slab in slabs:
            self._digest.update(self._read(slab).tobytes())
            yield 0.3 * slab.start / depth
        if self.path.exists():
            return
        yield from self._write(slabs)

    def _write(self, slabs: list[slice]) -> Generator[float, None, None]:
        from napari_kdseg.volumes.formats.ome_zarr import create_array, finish

        grid, final = self._source.grid, self.path
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(final)
        try:
            first = self._read(slice(0, 1))
            names = self._source.channels
            array: Any = create_array(
                temporary,
                (1, *grid.shape),
                first.dtype,
                grid,
                kind="image",
                channels=names,
                chunks=(1, *(min(_PLANES, size) for size in grid.shape)),
            )
            for slab in slabs:
                array[0, slab] = self._read(slab)
                yield 0.3 + 0.7 * slab.start / grid.shape[0]
            finish(temporary)
            publish_folder(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _read(self, slab: slice) -> np.ndarray:
        block = np.ascontiguousarray(self._source.data[slab])
        return block.view(np.uint8) if block.dtype == bool else block
