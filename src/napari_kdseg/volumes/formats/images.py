"""Folders of pictures, one a slice: TIFF, PNG, BMP and JPEG, in alone.

Slices follow one another by the number in their names, not by the alphabet: slice2
comes before slice10. A number that is missing is an error, because the slices after it
would lie in the wrong place.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd
from pathlib import Path

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.picture import Picture, picture_of, voxels_of
from napari_kdseg.volumes.formats.planes import Planes
from napari_kdseg.volumes.formats.sniff import image_files
from napari_kdseg.volumes.formats.tiff_units import settled_spacing
from napari_kdseg.volumes.formats.voxels import LazyVoxels, guarded
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid, VoxelArray, default_channels

_SAME_ENDINGS = {".tiff": ".tif", ".jpeg": ".jpg"}
_SHOWN = 5


@dataclass(frozen=True)
class Slices:
    """The pictures of a folder, decoded when they are asked for."""

    pictures: tuple[Picture, ...]

    def __call__(self, number: int) -> np.ndarray:
        """Decode a slice, y, x."""
        return voxels_of(self.pictures[number])


def parts(path: Path) -> tuple[str, ...]:
    """Return nothing: a folder of pictures holds one volume."""
    del path
    return ()


def inspect(path: Path, part: str | None = None) -> Header:
    """Read and compare the headers of all pictures; none is decoded.

    Raises
    ------
    VolumeError
        When pictures differ, are damaged, or one is missing between others.
    """
    return _opened(path, part)[1]


def read(
    path: Path, part: str | None = None, *, lazy: bool
) -> tuple[VoxelArray, Header]:
    """Read the slices as one volume, each when it is asked for or all at once.

    Raises
    ------
    VolumeError
        As `inspect`, and when a picture that is read is damaged.
    """
    planes, header = _opened(path, part)
    voxels = LazyVoxels(planes, (0, 1, 2, 3), str(path))
    if lazy:
        return voxels, header
    return guarded(voxels.__array__, str(path)), header


def read_label_set(path: Path, part: str | None = None) -> LabelSet | None:
    """Return None: pictures do not name their labels."""
    del path, part
    return None


def write(path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]) -> None:
    """Refuse: a folder of pictures is read and not written.

    Raises
    ------
    VolumeError
        Always.
    """
    del data, grid, channels
    _refuse(path)


def write_labels(
    path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
) -> None:
    """Refuse: a folder of pictures is read and not written.

    Raises
    ------
    VolumeError
        Always.
    """
    del data, grid, labels
    _refuse(path)


def ordered(files: Sequence[Path], folder: Path) -> list[Path]:
    """Put pictures into the order of their numbers.

    Parameters
    ----------
    files
        Two or more, all of one folder.

    Raises
    ------
    VolumeError
        When names are not alike but for one number, or a number is missing.
    """
    split = {file: re.split(r"(\d+)", file.stem.casefold()) for file in files}
    first = split[files[0]]
    for file, pieces in split.items():
        if pieces[::2] != first[::2]:
            raise VolumeError(
                f"{folder} has the pictures {files[0].name} and {file.name}; all must "
                "be named alike but for their number. Move what is no slice elsewhere."
            )
    numberings = [
        [int(pieces[place]) for pieces in split.values()]
        for place in range(1, len(first), 2)
    ]
    telling = [found for found in numberings if len(set(found)) == len(files)]
    if not telling:
        raise VolumeError(
            f"{folder} has pictures without a number of their own each, such as "
            f"{files[0].name} and {files[1].name}; slices need one. Give each channel "
            "or time point a folder of its own."
        )
    missing, numbers = min(
        ((_missing(found), found) for found in telling), key=lambda pair: pair[0][0]
    )
    if missing[0]:
        shown = ", ".join(map(str, missing[1]))
        more = ", ..." if missing[0] > len(missing[1]) else ""
        raise VolumeError(
            f"{folder} has no picture with the number {shown}{more} between "
            f"{min(numbers)} and {max(numbers)}; no slice may be missing. Add it, or "
            "number the pictures anew if there never was one."
        )
    return [file for _, file in sorted(zip(numbers, files, strict=True))]


def _missing(numbers: list[int]) -> tuple[int, list[int]]:
    """Count the numbers that are missing, and list the first of them."""
    present = sorted(numbers)
    gaps = np.diff(np.array(present, dtype=object)).tolist()
    step = reduce(gcd, gaps)
    count = (present[-1] - present[0]) // step + 1 - len(present)
    listed = [
        start + step * number
        for start, gap in zip(present, gaps, strict=False)
        for number in range(1, min(gap // step, _SHOWN + 1))
    ]
    return count, listed[:_SHOWN]


def _opened(path: Path, part: str | None) -> tuple[Planes, Header]:
    if part is not None:
        raise VolumeError(
            f"{path} has no part {part!r}; a folder of pictures holds one volume. "
            "Leave the part out."
        )
    pictures = [picture_of(file) for file in ordered(_files(path), path)]
    first = pictures[0]
    for picture in pictures:
        if picture.kind != first.kind:
            raise VolumeError(
                f"{picture.path} has {picture.kind}, and {first.path.name} has "
                f"{first.kind}; all slices must be alike. Move it elsewhere, or save "
                "it like the others."
            )
    spacing, notes = first.resolution.spacing(str(path))
    sizes, more = settled_spacing(spacing, str(path))
    notes = [*notes, *more]
    if len({picture.resolution for picture in pictures}) > 1:
        notes.append(
            f"{path} has pictures of several resolutions; the first's is used."
        )
    if first.is_lossy:
        notes.append(f"{path} has JPEG pictures, which change values.")
    notes.append(f"{path} does not say how it lies; its x, y, z are taken as R, A, S.")
    shape = (len(pictures), first.rows, first.columns)
    grid = Grid.from_affine(np.diag([*sizes[::-1], 1.0]), shape)
    planes = Planes(
        np.arange(len(pictures))[np.newaxis],
        shape[1:],
        first.dtype,
        Slices(tuple(pictures)),
        decodes=True,
    )
    return planes, Header(
        path, grid, default_channels(1), first.dtype, tuple(notes), by_plane=True
    )


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise VolumeError(
            f"{folder} is no folder; pictures of slices lie in one. Check the path."
        )
    files = image_files(folder)
    endings = sorted(
        {_SAME_ENDINGS.get(end, end) for end in (f.suffix.lower() for f in files)}
    )
    if len(endings) > 1:
        raise VolumeError(
            f"{folder} has pictures that end in {', '.join(endings)}; all slices must "
            "be of one kind. Move the others elsewhere."
        )
    if len(files) < 2:
        raise VolumeError(
            f"{folder} has {len(files)} pictures; a volume needs two slices or more. "
            "Check the path."
        )
    return files


def _refuse(path: Path) -> None:
    raise VolumeError(
        f"{path} would be a folder of pictures, which is read and not written. Give a "
        "file that ends in .ome.tif."
    )
