"""Windows read from a volume, as its models see them; each stored voxel once or twice.

A volume stays in its stored type; only the window at hand becomes float32. One that
lies on the disk is read in slabs, so that overlapping windows and several models share
the reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_kdseg.inference.plan import Pass, Sizes
from napari_kdseg.inference.tiling import Lattice, Span, Window
from napari_kdseg.volumes.intensity import IntensityParameters
from napari_kdseg.volumes.nnunet import prepare_whole
from napari_kdseg.volumes.preprocessing import Frame
from napari_kdseg.volumes.resampling import source_box
from napari_kdseg.volumes.volume import Box, Volume, VoxelArray


class SlabCache:
    """A lazy array that keeps the slab it read last.

    Parameters
    ----------
    data
        Channel, z, y, x.
    axis
        0, 1 or 2: the axis of the source along which slabs follow one another.
    needed
        The part of the source that will be asked for.
    """

    def __init__(self, data: VoxelArray, axis: int, needed: Box) -> None:
        self._data = data
        self._axis = axis
        self._needed = needed
        # Whole chunks: a chunk that is read in parts is decompressed for each part.
        chunks = getattr(data, "chunks", None)
        self._step = int(chunks[axis + 1]) if chunks else 1
        self._corner = [0, 0, 0]
        self._slab: NDArray[Any] | None = None
        self._held = slice(0, 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return self._data.shape

    @property
    def dtype(self) -> Any:
        """As stored."""
        return self._data.dtype

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        """Read a box of all channels, from the slab where it lies in it."""
        channels, *box = index
        wanted = box[self._axis]
        slab = self._slab
        if (
            slab is None
            or wanted.start < self._held.start
            or wanted.stop > self._held.stop
        ):
            self._slab = None  # freed before the next is read
            slab = self._slab = self._read(wanted)
        shifted = (
            slice(span.start - corner, span.stop - corner)
            for span, corner in zip(box, self._corner, strict=True)
        )
        return slab[(channels, *shifted)]

    def _read(self, wanted: slice) -> NDArray[Any]:
        size = self._data.shape[self._axis + 1]
        first = wanted.start // self._step * self._step
        last = min(-(-wanted.stop // self._step) * self._step, size)
        spans = list(self._needed)
        spans[self._axis] = self._held = slice(first, last)
        self._corner = [span.start for span in spans]
        return np.asarray(self._data[(slice(None), *spans)])


@dataclass(frozen=True)
class Source:
    """A volume in the frame of one pass."""

    data: VoxelArray
    frame: Frame
    parameters: tuple[IntensityParameters, ...]
    tile: Sizes
    pad_value: float

    @classmethod
    def open(
        cls,
        volume: Volume,
        frame: Frame,
        parameters: tuple[IntensityParameters, ...],
        sweep: Pass,
        lattice: Lattice,
    ) -> "Source":
        """Get ready to read the windows of a pass.

        Parameters
        ----------
        volume, frame
            The scan, and the pass's way to it.
        parameters
            Its grey values measured for the pass.
        sweep, lattice
            The windows to come.
        """
        data = volume.data
        if not isinstance(data, np.ndarray):
            touched = _touched(lattice, sweep.tile, frame.model.shape)
            needed = frame.orientation.source_index(_stored_box(frame, touched))
            data = SlabCache(data, frame.orientation.order[0], needed)
        return cls(data, frame, parameters, sweep.tile, sweep.preprocessing.pad_value)

    def read(self, window: Window) -> NDArray[np.float32]:
        """The voxels of a window, channel first, scaled, padded outside the volume."""
        starts = (window.z.start, window.y.start, window.x.start)
        inside = [
            slice(max(start, 0), min(start + side, size))
            for start, side, size in zip(
                starts, self.tile, self.frame.model.shape, strict=True
            )
        ]
        block = self._block((inside[0], inside[1], inside[2]))
        if block.shape[1:] == self.tile:
            return block
        padded = np.full((len(block), *self.tile), self.pad_value, np.float32)
        where = (
            slice(span.start - start, span.stop - start)
            for span, start in zip(inside, starts, strict=True)
        )
        padded[(slice(None), *where)] = block
        return padded

    def _block(self, box: Box) -> NDArray[np.float32]:
        """Voxels of the model's frame."""
        return self.frame.read(self.data, self.parameters, box)


@dataclass(frozen=True)
class PreparedSource(Source):
    """A volume that is in the model's frame already, as nnU-Net prepares it: whole."""

    @classmethod
    def of(cls, volume: Volume, frame: Frame, sweep: Pass) -> "PreparedSource":
        """Prepare a volume that is cut to what is not 0."""
        data = prepare_whole(volume, frame, sweep.preprocessing.intensity)
        return cls(data, frame, (), sweep.tile, sweep.preprocessing.pad_value)

    def _block(self, box: Box) -> NDArray[np.float32]:
        return np.asarray(self.data[(slice(None), *box)])


def _touched(lattice: Lattice, tile: Sizes, shape: Sizes) -> Box:
    """The part of the model's frame that some window reads."""

    def along(spans: Sequence[Span], side: int, size: int) -> slice:
        return slice(max(spans[0].start, 0), min(spans[-1].start + side, size))

    z, y, x = (
        along(spans, side, size)
        for spans, side, size in zip(
            (lattice.z, lattice.y, lattice.x), tile, shape, strict=True
        )
    )
    return (z, y, x)


def _stored_box(frame: Frame, box: Box) -> Box:
    """The voxels of the oriented source that a box of the model's frame needs."""
    if not frame.is_resampled:
        return box
    return source_box(frame.oriented.shape, frame.model.shape, box)
