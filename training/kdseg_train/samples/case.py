"""One made scan, with its truth."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8

from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid


@dataclass(frozen=True)
class Case:
    """A made scan in memory and what every voxel of it is.

    Attributes
    ----------
    images
        Grey values in the type they are stored in.
    labels
        Values of `classes`; 0 is everything else.
    """

    images: Shaped[np.ndarray, "channel z y x"]
    labels: UInt8[np.ndarray, "z y x"]
    grid: Grid
    channels: tuple[str, ...]
    classes: LabelSet


def upright_grid(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    first_mm: tuple[float, float, float],
) -> Grid:
    """Give the RAS grid whose first voxel lies at `first_mm`; all are z, y, x."""
    affine = np.diag([*spacing_mm[::-1], 1.0])
    affine[:3, 3] = first_mm[::-1]
    return Grid.from_affine(affine, shape)
