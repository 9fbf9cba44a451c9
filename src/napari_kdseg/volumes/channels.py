"""Several files of one case as the channels of one volume."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.volume import Grid, Volume, VoxelArray, check_same_grid

SHARE_A_GRID = "Channels of a case share one grid; resample them first."


@dataclass(frozen=True)
class StackedVoxels:
    """Arrays (channel, z, y, x) one after the other; each is read where it lies."""

    arrays: tuple[VoxelArray, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """All channels, and voxels along z, y, x."""
        count = sum(array.shape[0] for array in self.arrays)
        return (count, *self.arrays[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds the voxels of all channels."""
        return np.result_type(*(array.dtype for array in self.arrays))

    @property
    def chunks(self) -> tuple[int, ...]:
        """Voxels of one stored piece of the first array that has pieces."""
        found = (getattr(array, "chunks", None) for array in self.arrays)
        first = next((chunks for chunks in found if chunks), (1, 1, 1, 1))
        return (1, *first[1:])

    def __getitem__(self, index: Any) -> Any:
        """Read a box of some channels, or of one."""
        picks = index if isinstance(index, tuple) else (index,)
        channel, box = picks[0], picks[1:]
        if channel is Ellipsis:
            channel, box = slice(None), picks
        places = np.arange(self.shape[0])[channel]
        if np.ndim(places) == 0:
            return self._one(int(places), box)
        return np.stack([self._one(int(place), box) for place in places])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001 - NumPy calls it so
        """Read everything."""
        whole: np.ndarray = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _one(self, channel: int, box: tuple[Any, ...]) -> np.ndarray:
        for array in self.arrays:
            if channel < array.shape[0]:
                found = np.asarray(array[(channel, *box)])
                return found.astype(self.dtype, copy=False)
            channel -= array.shape[0]
        raise IndexError(f"There is no channel {channel} beyond {self.shape[0]}.")


@dataclass(frozen=True)
class OneChannel:
    """The first channel of an array (channel, z, y, x), read where it lies; z, y, x."""

    data: VoxelArray

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along z, y, x."""
        return self.data.shape[1:]

    @property
    def dtype(self) -> Any:
        """The type of one voxel."""
        return self.data.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a box."""
        box = index if isinstance(index, tuple) else (index,)
        return np.asarray(self.data[(0, *box)])


def stacked(volumes: Sequence[Volume], channels: Sequence[str] = ()) -> Volume:
    """Put volumes that share a grid into one, channel after channel.

    Parameters
    ----------
    volumes
        One at least. Nothing is read; the voxels stay where they are.
    channels
        What each channel shows; by default the volumes' own names where they differ,
        else ``0000``, ``0001`` and on.

    Raises
    ------
    GridError
        When they do not share a grid.
    VolumeError
        When the names are not as many as the channels.
    """
    first = volumes[0]
    for other in volumes[1:]:
        check_same_grid(
            first.grid, other.grid, first.source, other.source, SHARE_A_GRID
        )
    names = tuple(channels) or joined_names([volume.channels for volume in volumes])
    data = first.data
    if len(volumes) > 1:
        data = StackedVoxels(tuple(volume.data for volume in volumes))
    if len(names) != data.shape[0]:
        raise VolumeError(
            f"{first.source} and its companions have {data.shape[0]} channels and "
            f"{len(names)} names; give each channel one name."
        )
    notes = tuple(dict.fromkeys(note for volume in volumes for note in volume.notes))
    return Volume(data, first.grid, names, first.source, notes)


def joined_names(channels: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Name the channels of several files; numbers where two would be called alike."""
    names = tuple(name for one in channels for name in one)
    if len(set(names)) < len(names):
        return tuple(f"{number:04d}" for number in range(len(names)))
    return names


def onto_grid(
    volume: Volume, grid: Grid, *, labels: bool = False, outside: float = 0
) -> Volume:
    """Resample a volume onto another grid by place in the world (SimpleITK).

    Parameters
    ----------
    volume
        What is resampled; read whole, a channel at a time.
    grid
        Where its voxels shall lie.
    labels
        Take the nearest voxel, so that no new values arise; else interpolate linearly
        and keep the type, rounded where it has no fractions.
    outside
        What stands where `volume` does not reach.
    """
    done = [
        _resampled(np.asarray(volume.data[channel]), volume.grid, grid, labels, outside)
        for channel in range(volume.data.shape[0])
    ]
    note = f"{volume.source} was resampled onto {grid.describe()}."
    return Volume(
        np.stack(done), grid, volume.channels, volume.source, (*volume.notes, note)
    )


def _resampled(
    array: np.ndarray,
    source: Grid,
    target: Grid,
    labels: bool,  # noqa: FBT001 - private
    outside: float,
) -> np.ndarray:
    import SimpleITK as sitk  # noqa: N813 - the name everybody knows

    image = sitk.GetImageFromArray(
        array if labels or array.dtype == np.float64 else array.astype(np.float32)
    )
    _place(image, source)
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(size) for size in target.shape[::-1]])
    resampler.SetOutputSpacing([float(size) for size in target.spacing_mm[::-1]])
    resampler.SetOutputOrigin(target.origin_mm)
    resampler.SetOutputDirection([value for row in target.direction for value in row])
    resampler.SetInterpolator(sitk.sitkNearestNeighbor if labels else sitk.sitkLinear)
    resampler.SetDefaultPixelValue(float(outside))
    made: np.ndarray = sitk.GetArrayFromImage(resampler.Execute(image))
    if made.dtype == array.dtype:
        return made
    if array.dtype.kind in "ui":
        limits = np.iinfo(array.dtype)
        made = np.clip(np.rint(made), limits.min, limits.max)
    return made.astype(array.dtype)


def _place(image: Any, grid: Grid) -> None:
    """Tell SimpleITK where an image lies; both sides in one world, RAS+."""
    image.SetSpacing([float(size) for size in grid.spacing_mm[::-1]])
    image.SetOrigin(grid.origin_mm)
    image.SetDirection([value for row in grid.direction for value in row])
