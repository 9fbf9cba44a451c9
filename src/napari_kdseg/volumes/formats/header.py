"""What every format tells about a file before its voxels are read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_kdseg.volumes.volume import Grid

LARGEST_DECODED_BYTES = 2**29
"""Scans above this size that cannot be read by pieces are converted first."""


@dataclass(frozen=True)
class Header:
    """A file's grid, channels and size, known without reading a voxel."""

    path: Path
    grid: Grid
    channels: tuple[str, ...]
    dtype: np.dtype[np.generic]
    """The type the voxels have once read."""
    notes: tuple[str, ...] = ()
    """What a person should know about the file, a sentence each."""
    holds_labels: bool | None = None
    """Whether the values are labels; None where the file does not say."""
    packed: bool = False
    """Whether it can only be decoded from its start to its end."""
    by_plane: bool = False
    """Whether whole planes are decoded, or read from a file each, for any piece."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Channels, and voxels along z, y, x."""
        return (len(self.channels), *self.grid.shape)

    @property
    def bytes(self) -> int:
        """Memory the voxels take once read."""
        depth, height, width = self.grid.shape
        voxels = len(self.channels) * depth * height * width
        return voxels * self.dtype.itemsize

    @property
    def decoded_bytes(self) -> int:
        """Memory that the open scan takes; 0 where its voxels stay on the disk."""
        whole = self.packed and self.bytes <= LARGEST_DECODED_BYTES
        return self.bytes if whole else 0
