"""A volume: voxels, and the grid that says where in space they lie."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from nibabel.orientations import aff2axcodes

from napari_kdseg.errors import GridError, VolumeError

Affine = Float[np.ndarray, "4 4"]
Box = tuple[slice, slice, slice]

SUFFIXES = (
    *(".nii.gz", ".hdr.gz", ".img.gz", ".ome.zarr", ".ome.tiff", ".ome.tif"),
    *(".seg.nrrd", ".nii", ".hdr", ".img", ".zarr", ".nrrd", ".nhdr", ".mha", ".mhd"),
    *(".tiff", ".tif", ".dcm"),
)
"""Endings of the files we know, longer ones before those they end with."""

_DEGREES_OBLIQUE = 0.1
_MICROMETRES_BELOW_MM = 0.1


@runtime_checkable
class VoxelArray(Protocol):
    """Voxels in memory or on disk: a NumPy array, a zarr array, or a view of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        ...

    @property
    def dtype(self) -> Any:
        """NumPy's type of one voxel."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Read the voxels of a box (basic slicing) as a NumPy array."""
        ...


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an array lie in the patient or the specimen.

    The array's axes are z, y, x; its x axis is the one a NIfTI file calls i. World
    coordinates are RAS+: x to the right, y to the front, z to the head.
    """

    shape: tuple[int, int, int]
    """Voxels along z, y, x."""
    spacing_mm: tuple[float, float, float]
    """Distance of neighbouring voxels along z, y, x."""
    origin_mm: tuple[float, float, float]
    """World x, y, z of the centre of the first voxel."""
    direction: tuple[tuple[float, ...], ...]
    """3 x 3; column 0, 1, 2 is the unit world vector of voxel axis x, y, z."""

    @classmethod
    def from_affine(
        cls, affine: Float[np.ndarray, "4 4"], shape: tuple[int, ...]
    ) -> "Grid":
        """Take a grid from nibabel's affine, (i, j, k, 1) to RAS+ millimetres.

        Parameters
        ----------
        affine
            Finite, with three axes of which none is zero and none lies in the plane
            of the other two.
        shape
            Voxels along z, y, x.

        Raises
        ------
        VolumeError
            When the affine breaks that rule.
        """
        columns = np.asarray(affine, dtype=np.float64)[:3, :3]
        if not np.isfinite(affine).all():
            raise VolumeError(
                f"The affine {_in_brief(affine)} has entries that are no numbers; "
                "all must be finite. Write the file anew from its source."
            )
        lengths = np.sqrt((columns**2).sum(axis=0))
        if not (lengths > 0).all() or _flatness(columns / lengths) < 1e-4:
            raise VolumeError(
                f"The affine {_in_brief(affine)} does not span space; its three axes "
                "must have a length and point different ways. Write the file anew "
                "from its source."
            )
        z, y, x = (int(size) for size in shape)
        unit = columns / lengths
        return cls(
            shape=(z, y, x),
            spacing_mm=(float(lengths[2]), float(lengths[1]), float(lengths[0])),
            origin_mm=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
            direction=tuple(tuple(float(v) for v in row) for row in unit),
        )

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """From voxel (i, j, k, 1), which is x, y, z, to RAS+ millimetres; nibabel's."""
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(self.direction) * np.asarray(self.spacing_mm[::-1])
        affine[:3, 3] = self.origin_mm
        return affine

    @property
    def orientation(self) -> str:
        """Where the x, y and z voxel axes point, such as ``RAS`` (nearest axis)."""
        return "".join(aff2axcodes(self.affine))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres (1000 cubic millimetres)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def is_oblique(self) -> bool:
        """Whether a voxel axis leaves its nearest world axis by over 0.1 degrees."""
        cosines = np.abs(np.asarray(self.direction)).max(axis=0)
        return bool((cosines < np.cos(np.deg2rad(_DEGREES_OBLIQUE))).any())

    def matches(self, other: "Grid", tolerance_mm: float = 1e-3) -> bool:
        """Whether both have one shape, and all voxels lie within the tolerance."""
        return not self.difference(other, tolerance_mm)

    def difference(self, other: "Grid", tolerance_mm: float = 1e-3) -> str:
        """Say what differs, as part of a sentence; empty where nothing does."""
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape} (z, y, x)"
        apart_mm = np.abs(self._corners() - other._corners()).max()
        if apart_mm <= tolerance_mm:
            return ""
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=1e-3):
            return f"spacing {_mm(self.spacing_mm)} against {_mm(other.spacing_mm)} mm"
        if not np.allclose(self.direction, other.direction, atol=1e-3):
            return (
                f"direction {self.orientation} against {other.orientation}, "
                f"voxels up to {apart_mm:.3g} mm apart"
            )
        return (
            f"origin {_mm(self.origin_mm)} against {_mm(other.origin_mm)} mm, "
            f"voxels up to {apart_mm:.3g} mm apart"
        )

    def describe(self) -> str:
        """Say orientation and voxel size, as ``RAS, 0.8 x 0.8 x 2.0 mm`` (x, y, z)."""
        sizes, unit = self.spacing_mm[::-1], "mm"
        if max(sizes) < _MICROMETRES_BELOW_MM:
            sizes, unit = (sizes[0] * 1e3, sizes[1] * 1e3, sizes[2] * 1e3), "µm"
        text = " x ".join(_short(size) for size in sizes)
        oblique = " (oblique)" if self.is_oblique else ""
        return f"{self.orientation}{oblique}, {text} {unit}"

    def describe_briefly(self) -> str:
        """Say the same in less: ``RAS, 18.6 µm`` where voxels are cubes."""
        text = self.describe()
        sizes = {_short(size) for size in self.spacing_mm}
        if len(sizes) > 1:
            return text
        orientation, _, rest = text.partition(", ")
        return f"{orientation}, {rest.split(' x ')[-1]}"

    def cropped(self, box: tuple[slice, slice, slice]) -> "Grid":
        """Give the grid of ``array[box]``; slices without a step."""
        spans = [axis.indices(size) for axis, size in zip(box, self.shape, strict=True)]
        if any(step != 1 or stop <= start for start, stop, step in spans):
            raise VolumeError(
                f"The box {box} does not cut a grid of {self.shape} voxels; it needs "
                "at least one voxel along each axis, and steps of one."
            )
        first = np.array([spans[2][0], spans[1][0], spans[0][0], 1.0])
        affine = self.affine
        affine[:3, 3] = (affine @ first)[:3]
        return Grid.from_affine(affine, tuple(stop - start for start, stop, _ in spans))

    def _corners(self) -> Float[np.ndarray, "3 8"]:
        last = [size - 1 for size in self.shape[::-1]]
        corners = np.array(np.meshgrid(*[(0, end) for end in last])).reshape(3, 8)
        affine = self.affine
        world: np.ndarray = affine[:3, :3] @ corners + affine[:3, 3:]
        return world


@dataclass(frozen=True)
class Volume:
    """A scan: its voxels by channel, and the grid they lie on."""

    data: VoxelArray
    """Axes channel, z, y, x; in memory or lazy."""
    grid: Grid
    channels: tuple[str, ...]
    """What each channel shows, such as ``CT``."""
    source: Path | None = None
    """The file it was read from."""
    notes: tuple[str, ...] = ()
    """What a person should know about the file, a sentence each."""
    coarser: tuple[VoxelArray, ...] = ()
    """The same space in ever fewer voxels, to be looked at; axes as `data`."""

    def __post_init__(self) -> None:
        if len(self.data.shape) != 4:
            raise VolumeError(
                f"{self.name} has {len(self.data.shape)} axes; a volume has four: "
                "channel, z, y, x. Is it a single slice?"
            )
        if tuple(self.data.shape[1:]) != self.grid.shape:
            raise VolumeError(
                f"{self.name} has {tuple(self.data.shape[1:])} voxels on a grid of "
                f"{self.grid.shape} (z, y, x); both must be equal. Give it its grid."
            )
        if len(self.channels) != self.data.shape[0]:
            raise VolumeError(
                f"{self.name} has {self.data.shape[0]} channels and "
                f"{len(self.channels)} channel names; give each channel one name."
            )

    @property
    def name(self) -> str:
        """The case id: the file's name without its ending."""
        return "volume" if self.source is None else case_id(self.source)


def case_id(path: Path) -> str:
    """Name the case a file holds: its name without the ending of its format.

    Dots inside the name stay: ``scan.v2.nii.gz`` is the case ``scan.v2``, and so do all
    of a name without a known ending, such as that of a DICOM folder, ``1.2.840.1``.
    """
    ending = suffix_of(path)
    return path.name[: -len(ending)] if ending else path.name


def without_channel(name: str) -> str:
    """Take the channel off a case id, as nnU-Net writes it: ``CASE_0001``."""
    return re.sub(r"(?<=.)_\d{4}$", "", name)


def suffix_of(path: Path) -> str:
    """Give the ending that tells the format, such as ``.nii.gz``; empty if unknown."""
    name = path.name.lower()
    for ending in SUFFIXES:
        if name.endswith(ending) and len(name) > len(ending):
            return ending
    return ""


def default_channels(count: int) -> tuple[str, ...]:
    """Name the channels of a file that does not: ``image``, or ``channel 1`` and on."""
    if count == 1:
        return ("image",)
    return tuple(f"channel {number}" for number in range(1, count + 1))


def check_same_grid(
    grid: Grid,
    other: Grid,
    name: object,
    other_name: object,
    fix: str = "Both must share one: resample it, or take the one that belongs to it.",
) -> None:
    """Refuse two volumes, such as an image and its labels, that lie differently.

    Parameters
    ----------
    name, other_name
        What to call them: names or paths.
    fix
        What to do about it, a sentence.

    Raises
    ------
    GridError
        Naming both and what differs.
    """
    difference = other.difference(grid)
    if difference:
        raise GridError(
            f"{other_name} is not on the grid of {name}: {difference}. {fix}"
        )


def chunks_of(data: VoxelArray) -> tuple[int, ...]:
    """Give the size of the pieces an array is stored in; ones where there are none."""
    chunks = getattr(data, "chunks", None)
    return tuple(chunks) if chunks else (1,) * len(data.shape)


def _flatness(unit: Float[np.ndarray, "3 3"]) -> float:
    return float(abs(np.linalg.det(unit)))


def _in_brief(affine: np.ndarray) -> str:
    return np.array2string(np.asarray(affine)[:3], precision=4).replace("\n", "")


def _mm(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _short(size: float) -> str:
    # One digit after the point at least, three that count at most: 0.8, 2.0, 0.141;
    # rounded before, so that what float32 made of equal sizes reads the same.
    digits = f"{round(size, 6):.3g}"
    return digits if "." in digits or "e" in digits else f"{digits}.0"
