"""Voxels that are stored one slice at a time, and read where they are asked for."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Int

_THREADS = 8


class Planes:
    """Slices of equal size and type, seen as channel, z, y, x.

    Parameters
    ----------
    table
        The number of the slice that holds each channel and z.
    size
        Voxels of a slice along y, x.
    dtype
        Type of the voxels `fetch` gives.
    fetch
        Gives the voxels (y, x) of a slice by its number; called from several threads.
    decodes
        Whether `fetch` decodes a whole slice to give any voxel of it.
    """

    def __init__(
        self,
        table: Int[np.ndarray, "c z"],
        size: tuple[int, int],
        dtype: np.dtype[Any],
        fetch: Callable[[int], np.ndarray],
        *,
        decodes: bool,
    ) -> None:
        self.shape = (*(int(count) for count in table.shape), *size)
        self.dtype = dtype
        self.chunks = (1, 1, *size) if decodes else None
        self._table = table
        self._fetch = fetch

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        """Read a box: four slices, in the order channel, z, y, x."""
        table, rows, columns = self._table[box[:2]], box[2], box[3]
        height = len(range(*rows.indices(self.shape[2])))
        width = len(range(*columns.indices(self.shape[3])))
        found = np.empty((*table.shape, height, width), self.dtype)

        def fill(place: tuple[int, int]) -> None:
            found[place] = self._fetch(int(table[place]))[rows, columns]

        for _ in self._done(fill, table.shape):
            pass
        return found

    def _done(
        self, fill: Callable[[tuple[int, int]], None], shape: tuple[int, ...]
    ) -> Iterator[None]:
        places = list(product(range(shape[0]), range(shape[1])))
        if self.chunks is None or len(places) < 2:
            yield from map(fill, places)
            return
        with ThreadPoolExecutor(_THREADS) as threads:
            yield from threads.map(fill, places)
