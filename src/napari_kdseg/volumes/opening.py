"""Opening a scan to look at it or to predict it, whatever its size and format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.volumes.cache import Cache, default_cache
from napari_kdseg.volumes.channels import OneChannel
from napari_kdseg.volumes.formats import (
    Header,
    inspect_volume,
    read_labels,
    read_volume,
)
from napari_kdseg.volumes.formats.header import LARGEST_DECODED_BYTES
from napari_kdseg.volumes.labels import smallest_dtype, values_in
from napari_kdseg.volumes.volume import Grid, Volume, VoxelArray


def open_scan(
    path: Path,
    part: str | None = None,
    *,
    fill_nonfinite: float | None = None,
    cache: Cache | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Volume:
    """Open a scan so that it need not fit into memory.

    Where its format can be read by pieces, voxels stay where they are. Small packed
    files are decoded whole; large ones, and large stacks of packed pages or of single
    slices, are converted into the cache once.

    Parameters
    ----------
    path, part, fill_nonfinite
        As `napari_kdseg.volumes.formats.read_volume`.
    cache
        Where converted scans lie; by default the user's.
    on_progress
        Told how many planes of how many a conversion has done.

    Raises
    ------
    VolumeError
        When the scan is damaged, or the cache has no room for it.
    """
    header = inspect_volume(path, part)
    if not needs_conversion(header):
        return read_volume(path, part, fill_nonfinite=fill_nonfinite, lazy=True)
    store = cache or default_cache()
    if store.find(path, part) is None:
        store.convert(path, part, on_progress=on_progress)
    return store.open(path, part, fill_nonfinite=fill_nonfinite)


def needs_conversion(header: Header) -> bool:
    """Whether a scan is large, and reading a piece of it means reading far more."""
    whole = header.packed or header.by_plane
    return whole and header.bytes > LARGEST_DECODED_BYTES


def open_labels(path: Path, *, cache: Cache | None = None) -> tuple[VoxelArray, Grid]:
    """Open labels (z, y, x) so that they need not fit into memory, and their grid.

    Small ones are read whole, as `napari_kdseg.volumes.formats.read_labels` does.

    Parameters
    ----------
    path, cache
        As `open_scan`.

    Raises
    ------
    VolumeError
        As `open_scan`.
    LabelError
        When there are channels, or, where they are read, when values are not whole
        numbers from 0 to 65535.
    """
    header = inspect_volume(path)
    if header.bytes <= LARGEST_DECODED_BYTES or len(header.channels) != 1:
        return read_labels(path)
    volume = open_scan(path, cache=cache)
    return _Labels(volume.data, str(path)), volume.grid


@dataclass(frozen=True)
class _Labels(OneChannel):
    """The one channel of a volume, checked where it is read."""

    name: str

    def __getitem__(self, index: Any) -> np.ndarray:
        found = super().__getitem__(index)
        if found.dtype == np.uint8:
            return found  # every value is a label
        largest = max(values_in(found, self.name), default=0)
        return found.astype(smallest_dtype(largest), copy=False)
