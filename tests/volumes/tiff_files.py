"""TIFF files written by tifffile, and what is read of them."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_kdseg.volumes.formats import (
    blocks_of,
    inspect_volume,
    read_volume,
)
from napari_kdseg.volumes.volume import Grid

STACK = np.arange(5 * 20 * 30, dtype=np.uint16).reshape(5, 20, 30) % 251


GRID = Grid.from_affine(np.diag([0.5, 0.6, 2.0, 1.0]), (5, 20, 30))


def written(path: Path, data: np.ndarray = STACK, **how: Any) -> Path:
    """A file by tifffile; grey pages unless said otherwise."""
    tifffile.imwrite(path, data, **{"photometric": "minisblack", **how})
    return path


def same(path: Path, expected: np.ndarray, part: str | None = None) -> None:
    """Read whole, lazily, by pieces and by blocks: always the same voxels."""
    whole = read_volume(path, part).data
    assert np.array_equal(whole, expected)
    header = inspect_volume(path, part)
    assert (header.shape, header.dtype) == (whole.shape, whole.dtype)
    lazy = read_volume(path, part, lazy=True).data
    assert np.array_equal(lazy[-1, 1:, 2:7, ::3], expected[-1, 1:, 2:7, ::3])
    assert np.array_equal(lazy[:, -1, :, 0], expected[:, -1, :, 0])
    blocks = np.zeros_like(whole)
    for place, block in blocks_of(path, part)[1]:
        blocks[place] = block
    assert np.array_equal(blocks, expected)


def notes(path: Path) -> str:
    return " ".join(inspect_volume(path).notes)


def spacing(path: Path) -> tuple[float, ...]:
    return inspect_volume(path).grid.spacing_mm
