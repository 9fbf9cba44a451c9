"""Channels written voxel by voxel, the way NRRD and MetaImage keep vectors."""

from typing import Any

import numpy as np

from napari_kdseg.volumes.volume import VoxelArray


class Interleaved:
    """A volume (channel, z, y, x) seen as one channel of lines x1c1, x1c2, x2c1, ..."""

    def __init__(self, data: VoxelArray) -> None:
        channels, depth, height, width = data.shape
        self._data = data
        self.shape: tuple[int, ...] = (1, depth, height, width * channels)
        self.dtype: Any = np.dtype(data.dtype)

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Read planes: the index is channel, slice along z."""
        _, planes = index
        block = np.stack([self._data[c, planes] for c in range(self._data.shape[0])])
        lines = block.transpose(1, 2, 3, 0)
        return np.ascontiguousarray(lines).reshape(*lines.shape[:2], -1)
