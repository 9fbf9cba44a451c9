"""Overlapping windows added up, and handed on as soon as they are complete.

Windows come level by level along z, row by row along y, window by window along x.
Once a row of windows is added no later window touches the first of its planes and
rows again: those voxels are finished and are handed on. What later windows still add
to lies in two buffers, so the logits of the whole volume never exist.

``_carried``
    Planes that the next level along z adds to: all but one step of the tile, times
    the whole face.
``_strip``
    The row of windows at hand: the tile's planes and rows, times the whole width.

Every voxel receives its windows in the order in which MONAI adds them, so sums are
equal to the last bit. Weights are MONAI's as well (1.6, ``compute_importance_map``).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from napari_kdseg.inference.tiling import Lattice, Span

Blending = Literal["gaussian", "constant"]
Placing = Literal["monai", "nnunet"]

SIGMA_SCALE = 0.125
"""Standard deviation of the Gaussian weight, as a part of the tile's side."""

SMALLEST_WEIGHT = 1e-3
"""No voxel counts less than this: corners of a 3D Gaussian would vanish."""

SMALLEST_HALF = 6e-9
"""nnU-Net's: it keeps ten times the weights in float16, and this is its least."""


@dataclass(frozen=True)
class Finished:
    """Voxels that no later window touches.

    ``sums`` (channel, z, y, x) are weighted sums and lie in a buffer that the next
    window overwrites: use them at once.
    """

    z: slice
    y: slice
    x: slice
    sums: Tensor


def importance(
    tile: tuple[int, ...], blending: Blending, placing: Placing = "monai"
) -> Tensor:
    """How much a window's voxels count against those of its neighbours.

    ``constant`` counts all alike. ``gaussian`` trusts the middle most: a network sees
    less around a voxel near the window's edge. MONAI's middle lies between two voxels
    where a side is even, nnU-Net's on the latter of them.
    """
    if blending == "constant":
        return torch.ones(tile)
    weights = torch.ones(())
    for side in tile:
        middle = (side - 1) / 2.0 if placing == "monai" else float(side // 2)
        distance = torch.arange(side, dtype=torch.float32) - middle
        profile = torch.exp(distance**2 / (-2 * (side * SIGMA_SCALE) ** 2))
        weights = weights.unsqueeze(-1) * profile
    smallest = SMALLEST_WEIGHT if placing == "monai" else SMALLEST_HALF
    return weights.clamp(min=max(float(weights.min()), smallest))


class Blender:
    """Adds windows up in order and hands on what is finished.

    Parameters
    ----------
    lattice
        The windows to come, all of them, in the order of `Lattice.windows`.
    channels
        Channels to add up; all models of a pass share one blender.
    weights
        How much each voxel of a window counts, z, y, x.
    """

    def __init__(self, lattice: Lattice, channels: int, weights: Tensor) -> None:
        self._lattice = lattice
        self._weights = weights
        device = weights.device
        self._strip = torch.zeros((channels, *lattice.strip_shape), device=device)
        # Left uninitialised: pages that are never written never become resident.
        self._carried = torch.empty((channels, *lattice.carried_shape), device=device)
        self._level = self._row = self._column = 0
        self._row_open = False

    def add(self, values: Tensor, *, channel: int = 0) -> None:
        """Weigh the window that is due and add it to the channels from ``channel`` on.

        Parameters
        ----------
        values
            Channel, z, y, x of the tile; left alone.
        """
        if not self._row_open:
            self._open_row()
            self._row_open = True
        z, y, x = self._spans()
        inside = tuple(slice(s.low - s.start, s.high - s.start) for s in (z, y, x))
        left = self._lattice.x[0].low
        rows = slice(0, y.high - y.low)
        target = self._strip[:, : z.high - z.low, rows, x.low - left : x.high - left]
        weights = self._weights[inside]
        # One channel at a time: the product then stays in the processor's cache.
        for offset, value in enumerate(values):
            target[channel + offset] += value[inside].float() * weights

    def close_window(self) -> Finished | None:
        """Go on to the next window; at the end of a row, what the row finished.

        A window that nothing was added for is left out of the sums.
        """
        if not self._row_open:
            self._open_row()
            self._row_open = True
        self._column += 1
        if self._column < len(self._lattice.x):
            return None
        finished = self._close_row()
        self._row_open = False
        self._column = 0
        self._row += 1
        if self._row == len(self._lattice.y):
            self._row = 0
            self._level += 1
        return finished

    def _spans(self) -> tuple[Span, Span, Span]:
        lattice = self._lattice
        return lattice.z[self._level], lattice.y[self._row], lattice.x[self._column]

    def _open_row(self) -> None:
        """Bring the row's partial sums into the strip: from the row before, and below.

        Rows that the row before began are moved to the front; the others come from
        the level below, and are zero in the planes it did not reach.
        """
        z, y = self._lattice.z[self._level], self._lattice.y[self._row]
        reached = self._lattice.y[self._row - 1].high if self._row else y.low
        kept = reached - y.low
        if kept:
            shift = y.low - self._lattice.y[self._row - 1].low
            for channel in self._strip:
                channel[:, :kept] = channel[:, shift : shift + kept].clone()
        below = self._lattice.z[self._level - 1].high - z.low if self._level else 0
        fresh = slice(kept, y.high - y.low)
        top = self._lattice.y[0].low
        self._strip[:, :below, fresh] = self._carried[
            :, :below, reached - top : y.high - top
        ]
        self._strip[:, below:, fresh] = 0

    def _close_row(self) -> Finished | None:
        """Keep what the next level adds to and hand on the rest of the row."""
        z, y = self._lattice.z[self._level], self._lattice.y[self._row]
        next_z = _next_low(self._lattice.z, self._level)
        next_y = _next_low(self._lattice.y, self._row)
        done, rows = next_z - z.low, next_y - y.low
        top = self._lattice.y[0].low
        kept = z.high - next_z
        if kept:
            self._carried[:, :kept, y.low - top : next_y - top] = self._strip[
                :, done : done + kept, :rows
            ]
        if not done or not rows:
            return None
        return Finished(
            slice(z.low, next_z),
            slice(y.low, next_y),
            slice(self._lattice.x[0].low, self._lattice.x[-1].high),
            self._strip[:, :done, :rows],
        )


def _next_low(spans: tuple[Span, ...], index: int) -> int:
    """Where the next window begins: all voxels before it are complete."""
    return spans[index + 1].low if index + 1 < len(spans) else spans[-1].high
