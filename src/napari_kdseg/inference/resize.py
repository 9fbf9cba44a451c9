"""Probabilities brought from a model's voxels to the source's, a plane at a time."""

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from napari_kdseg.volumes.resampling import linear_taps, nearest_taps
from napari_kdseg.volumes.volume import Box


class Taps:
    """The two neighbours of each wanted voxel along an axis, and the upper's weight.

    Along the axis ``nearest`` both are the nearest one.
    """

    def __init__(
        self,
        axis: int,
        size: int,
        target: int,
        wanted: slice,
        nearest: int | None,
        device: str,
    ) -> None:
        lower, upper, weight = linear_taps(size, target, wanted)
        if axis == nearest:
            lower = upper = nearest_taps(size, target, wanted)
            weight = np.zeros_like(weight)
        self.lower = torch.from_numpy(lower).to(device)
        self.upper = torch.from_numpy(upper).to(device)
        self.weight = torch.from_numpy(weight).to(device)


class PlaneResizer:
    """Takes finished planes in rising order, gives planes of the source's size.

    Interpolation is linear: along x once for each plane handed in, then between
    neighbouring planes, then along y, where whole rows are read. Only the two planes
    that the next ones still need are kept.

    Parameters
    ----------
    shape, target
        Voxels (z, y, x) of the model's frame and of the source turned to it.
    box, wanted
        Which voxels of each are at hand, and are wanted.
    device
        Where the planes lie.
    nearest
        Axis along which the nearest voxel is taken over; None: none.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        target: tuple[int, int, int],
        *,
        box: Box,
        wanted: Box,
        device: str,
        nearest: int | None = None,
    ) -> None:
        z, self._y, self._x = (
            Taps(axis, *sizes, nearest, device)
            for axis, sizes in enumerate(zip(shape, target, wanted, strict=True))
        )
        along_z = (z.lower.tolist(), z.upper.tolist(), z.weight.tolist())
        self._along_z = deque(zip(*along_z, strict=True))
        self._corner = (box[1].start, box[2].start)
        self._kept: dict[int, Tensor] = {}
        self._scratches: dict[str, Tensor] = {}

    def push(self, first: int, planes: Tensor) -> Iterator[Tensor]:
        """Add planes (channel, z, y, x) from ``first`` on; give what they complete.

        Yields
        ------
        Tensor
            Channel, y, x of the next wanted plane.
        """
        reached = first + planes.shape[1]
        while self._along_z and self._along_z[0][1] < reached:
            lower, upper, weight = self._along_z.popleft()
            self._kept = {z: p for z, p in self._kept.items() if z >= lower}
            for z in (lower, upper):
                if z not in self._kept:
                    self._kept[z] = self._wide(planes[:, z - first])
            yield self._plane(self._kept[lower], self._kept[upper], weight)
        needed = self._along_z[0][0] if self._along_z else reached
        for z in range(max(needed, first), reached):
            if z not in self._kept:
                self._kept[z] = self._wide(planes[:, z - first])
        self._kept = {z: p for z, p in self._kept.items() if z >= needed}

    def _wide(self, plane: Tensor) -> Tensor:
        """A plane with the wanted voxels along x."""
        corner = self._corner[1]
        low = plane.index_select(2, self._x.lower - corner)
        high = self._scratch("x", plane)
        torch.index_select(plane, 2, self._x.upper - corner, out=high)
        return low.lerp_(high, self._x.weight)

    def _plane(self, low: Tensor, high: Tensor, weight_z: float) -> Tensor:
        plane = low
        if weight_z != 0:
            plane = torch.lerp(low, high, weight_z, out=self._scratch("z", low))
        corner, weight = self._corner[0], self._y.weight[:, None]
        above = plane.index_select(1, self._y.lower - corner)
        below = self._scratch("y", plane)
        torch.index_select(plane, 1, self._y.upper - corner, out=below)
        return above.lerp_(below, weight)

    def _scratch(self, use: str, like: Tensor) -> Tensor:
        """Memory that one plane after the other is worked out in."""
        return self._scratches.setdefault(use, like.new_empty(0))
