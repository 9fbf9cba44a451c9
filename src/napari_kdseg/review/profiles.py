"""What the slices of a prediction come to along each axis, from going over it once.

Kept beside the verdicts, so that each prediction is gone over once and for all::

    REVIEW/profiles/NAME.npz    area_0 .. area_2, uncertainty_0 .., conflict_0 ..
"""

import hashlib
import io
import json
import zipfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_kdseg.atomic import write_bytes_atomic
from napari_kdseg.errors import VolumeError
from napari_kdseg.review.arrays import Opener, boxes_of
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.volumes.volume import Box, VoxelArray

_VERSION = 1
_MOST_BITS = 16  # a table of 65 536 codes is small

Numbers = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""One number a slice, across z, y and x."""


@dataclass(frozen=True, eq=False)
class Profile:
    """Numbers of all slices of a prediction."""

    area: Numbers
    """Labelled voxels."""
    uncertainty: Numbers | None = None
    """Mean over the voxels of the slice, 0 to 1; None where there is none."""
    conflict: Numbers | None = None
    """Share of voxels that teachers claim for two classes; None without regions."""


def profile_path(home: Path, prediction: Prediction) -> Path:
    """Say where the numbers of a prediction are kept.

    Its labels alone would not tell it: two scans without an organ have the same.
    """
    name = hashlib.sha256(f"{prediction.labels_hash} {prediction.uuid}".encode())
    return home / "profiles" / f"{name.hexdigest()[:32]}.npz"


def read_profile(home: Path, prediction: Prediction) -> Profile | None:
    """Read what was kept; None where that is nothing, or it is damaged."""
    try:
        with np.load(profile_path(home, prediction), allow_pickle=False) as stored:
            if int(stored["version"]) != _VERSION:
                return None
            found = Profile(
                _stored(stored, "area", prediction),
                _optional(stored, "uncertainty", prediction),
                _optional(stored, "conflict", prediction),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return found


def write_profile(home: Path, prediction: Prediction, profile: Profile) -> None:
    """Keep the numbers of a prediction.

    Raises
    ------
    OSError
        Where the folder cannot be written to.
    """
    values = {"version": np.asarray(_VERSION)}
    for name in ("area", "uncertainty", "conflict"):
        numbers = getattr(profile, name)
        for axis, one in enumerate(numbers or ()):
            values[f"{name}_{axis}"] = one
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **values)
    path = profile_path(home, prediction)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, file.getvalue())


class Profiler:
    """Goes over a prediction, a box at a time.

    Parameters
    ----------
    prediction
        What to go over.
    opener
        Opens its arrays, at the first step.
    """

    def __init__(self, prediction: Prediction, opener: Opener) -> None:
        self.prediction = prediction
        self._opener = opener
        self._measures: dict[str, _Measure] = {}
        self._boxes: deque[tuple[str, Box]] = deque()
        self._total = 0

    @property
    def fraction(self) -> float:
        """How much is done, 0 to 1."""
        return 1 - len(self._boxes) / self._total if self._total else 0.0

    def step(self) -> bool:
        """Take one box in; gives whether there is more.

        Raises
        ------
        VolumeError
            Where an array is damaged.
        StopRequested
            Where the opener says not to go on.
        """
        if not self._total:
            self._open()
            return bool(self._boxes)
        name, box = self._boxes.popleft()
        self._measures[name].take_in(box)
        return bool(self._boxes)

    def result(self) -> Profile:
        """Give the numbers, once there is no more to take in."""
        means = {name: one.numbers() for name, one in self._measures.items()}
        return Profile(means["area"], means.get("uncertainty"), means.get("conflict"))

    def _open(self) -> None:
        opener, prediction = self._opener, self.prediction
        opener.convert_results(prediction)
        self._measures["area"] = _Area(opener.labels(prediction))
        uncertainty = opener.uncertainty(prediction)
        if uncertainty is not None:
            self._measures["uncertainty"] = _Uncertainty(uncertainty)
        masks = claimed_bits(prediction)
        regions = opener.regions(prediction) if masks else None
        if regions is not None:
            self._measures["conflict"] = _Conflict(regions, masks)
        for name, one in self._measures.items():
            self._boxes.extend((name, box) for box in boxes_of(one.array))
        self._total = len(self._boxes)


def claimed_bits(prediction: Prediction) -> tuple[int, ...]:
    """Give the bits of each class in the claims of teachers; none where not known.

    Teachers that claim the same class do not conflict, so they have one mask together.
    """
    path = prediction.folder.parent / "regions.json"
    masks: dict[int, int] = {}
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        for one in noted["claimants"]:
            value, bit = int(one["value"]), int(one["bit"])
            masks[value] = masks.get(value, 0) | 1 << bit
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(masks.values())


class _Measure:
    """Sums of something over slices, from boxes of an array."""

    def __init__(self, array: VoxelArray) -> None:
        self.array = array
        self.shape = array.shape[1:]
        self._sums = [np.zeros(size) for size in self.shape]

    def take_in(self, box: Box) -> None:
        """Add the voxels of a box."""
        found = np.asarray(self.array[(0, *box)])
        if not found.any():
            return
        voxels = self.values(found)
        whole = np.uint32 if voxels.dtype.itemsize == 1 else np.float64
        # Along z first, which adds whole planes: the rest is then small.
        flat = voxels.sum(axis=0, dtype=whole)
        along_z = [plane.sum(dtype=np.float64) for plane in voxels]
        self._sums[0][box[0]] += along_z
        self._sums[1][box[1]] += flat.sum(axis=1, dtype=np.float64)
        self._sums[2][box[2]] += flat.sum(axis=0, dtype=np.float64)

    def values(self, voxels: np.ndarray) -> np.ndarray:
        """Say what counts, z, y, x."""
        raise NotImplementedError

    def numbers(self) -> Numbers:
        """Give one number a slice."""
        return self._sums[0], self._sums[1], self._sums[2]

    def _means(self, top: float) -> Numbers:
        z, y, x = self.shape
        sums = self._sums
        return (
            sums[0] / (y * x * top),
            sums[1] / (z * x * top),
            sums[2] / (z * y * top),
        )


class _Area(_Measure):
    def values(self, voxels: np.ndarray) -> np.ndarray:
        labelled: np.ndarray = (voxels != 0).view(np.uint8)
        return labelled


class _Uncertainty(_Measure):
    def values(self, voxels: np.ndarray) -> np.ndarray:
        return voxels

    def numbers(self) -> Numbers:
        return self._means(255.0)


class _Conflict(_Measure):
    def __init__(self, array: VoxelArray, masks: tuple[int, ...]) -> None:
        super().__init__(array)
        self._masks = masks
        bits = max(masks).bit_length()
        self._table = None
        if bits <= _MOST_BITS:
            self._table = self._conflicting(np.arange(1 << bits, dtype=np.uint32))

    def values(self, voxels: np.ndarray) -> np.ndarray:
        if self._table is None:
            return self._conflicting(voxels)
        if voxels.size and int(voxels.max()) >= len(self._table):
            raise VolumeError(
                f"The regions hold the claims {int(voxels.max())}, and regions.json "
                f"knows claims below {len(self._table)}. They are damaged: make them "
                "anew."
            )
        found: np.ndarray = self._table[voxels]
        return found

    def numbers(self) -> Numbers:
        return self._means(1.0)

    def _conflicting(self, bits: np.ndarray) -> np.ndarray:
        claimed = np.zeros(bits.shape, np.uint8)
        for mask in self._masks:
            claimed += (bits & bits.dtype.type(mask)) != 0
        found: np.ndarray = (claimed > 1).view(np.uint8)
        return found


def _stored(stored: np.lib.npyio.NpzFile, name: str, prediction: Prediction) -> Numbers:
    z, y, x = (stored[f"{name}_{axis}"] for axis in range(3))
    if (len(z), len(y), len(x)) != prediction.grid.shape:
        raise ValueError("numbers of another prediction")
    return z, y, x


def _optional(
    stored: np.lib.npyio.NpzFile, name: str, prediction: Prediction
) -> Numbers | None:
    return _stored(stored, name, prediction) if f"{name}_0" in stored else None
