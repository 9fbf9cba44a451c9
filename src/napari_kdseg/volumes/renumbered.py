"""Labels seen as class indices where they are read, whatever values a file keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Integer

from napari_kdseg.volumes.labels import LabelClass, LabelSet, distinct_color
from napari_kdseg.volumes.volume import VoxelArray


@dataclass(frozen=True)
class Renumbered:
    """Labels (1, z, y, x) seen as class indices (z, y, x), where they are read."""

    array: VoxelArray
    table: Integer[np.ndarray, " V"]
    known: LabelSet
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along z, y, x."""
        return tuple(self.array.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the indices."""
        return self.table.dtype

    def __getitem__(self, box: Any) -> np.ndarray:
        """Read a box; values that mean nothing are refused."""
        picks = box if isinstance(box, tuple) else (box,)
        stored = np.asarray(self.array[(0, *picks)])
        self.known.check(stored, self.name)
        found: np.ndarray = self.table[stored.astype(np.uint16, copy=False)]
        return found


def renumbered(labels: np.ndarray, values: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Labels as 1, 2, ... in the order given; all others 0."""
    kind = np.uint8 if len(values) < 256 else np.uint16
    table = np.zeros(2**16, kind)
    for number, stored in enumerate(values, start=1):
        table[list(stored)] = number
    renumbered: np.ndarray = table[labels]
    return renumbered


def label_set(values: Mapping[str, tuple[int, ...]]) -> LabelSet:
    """The set that allows exactly these values."""
    return LabelSet(
        classes=tuple(
            LabelClass(
                value=value,
                name=name if len(stored) == 1 else f"{name} ({value})",
                color=distinct_color(value),
            )
            for name, stored in values.items()
            for value in stored
        )
    )
