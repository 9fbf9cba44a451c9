"""What a classifier said of every slice: one small file a scan and axis.

::

    SCORES/CASE.AXIS.HASH.npy    P(good) of each slice, float32; HASH are the first 16
                                 letters of the labels' SHA-256

A file appears whole or not at all and never changes, so scoring goes on where it was
cut off, and what was said of labels that have changed is not found any more.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from napari_kdseg.atomic import atomic_file
from napari_kdseg.review.verdicts import Place

_LETTERS = 16


class Scores(Mapping[Place, float]):
    """P(good) by slice.

    Parameters
    ----------
    arrays
        P(good) of all slices, by case and axis.
    """

    def __init__(self, arrays: Mapping[tuple[str, int], np.ndarray]) -> None:
        self.arrays = dict(arrays)
        self._count = sum(len(one) for one in self.arrays.values())

    def __getitem__(self, place: Place) -> float:
        """P(good) of a slice; `KeyError` where it has none."""
        case, axis, index = place
        found = self.arrays.get((case, axis))
        if found is None or not 0 <= index < len(found):
            raise KeyError(place)
        return float(found[index])

    def __iter__(self) -> Iterator[Place]:
        """All slices that have a score."""
        for (case, axis), found in self.arrays.items():
            for index in range(len(found)):
                yield case, axis, index

    def __len__(self) -> int:
        return self._count

    @property
    def values_there(self) -> Float32[np.ndarray, " N"]:
        """All of P(good), in the order of the slices."""
        return np.concatenate([np.empty(0, np.float32), *self.arrays.values()])


def file_of(folder: Path, case: str, axis: int, labels_hash: str) -> Path:
    """Say where P(good) of the slices of a scan lies, or will."""
    return folder / f"{case}.{axis}.{labels_hash[:_LETTERS]}.npy"


def keep(path: Path, prob: np.ndarray) -> None:
    """Write P(good) of the slices of a scan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        np.save(file, prob.astype(np.float32))


def read(path: Path) -> Float32[np.ndarray, " N"] | None:
    """Read P(good) of the slices of a scan.

    None where there is no such file, or it is damaged: it can be made again.
    """
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    sound = found.ndim == 1 and found.dtype == np.float32
    return found if sound and bool(np.isfinite(found).all()) else None
