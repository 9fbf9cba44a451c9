"""DICOM series and segmentations in; nothing is written as DICOM.

A series is a folder of slices or one file of many frames. Rules for geometry stand
in `dicom_series`, the decoding of pixels in `dicom_pixels`, segmentations in
`dicom_seg`. Nothing that names a person is read or shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.dicom_grid import Stack, uneven_mm
from napari_kdseg.volumes.formats.dicom_headers import (
    DicomFile,
    Frame,
    read_file,
    read_folder,
)
from napari_kdseg.volumes.formats.dicom_pixels import check_pixels, read_plane
from napari_kdseg.volumes.formats.dicom_seg import Segments, segments_in
from napari_kdseg.volumes.formats.dicom_series import (
    Series,
    file_name,
    series_in,
    unique,
)
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.voxels import LazyVoxels, guarded
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid, VoxelArray, check_same_grid

_INTEGERS = tuple(np.dtype(code) for code in ("u1", "i1", "i2", "u2", "i4", "u4", "i8"))


def parts(path: Path) -> tuple[str, ...]:
    """Name the series of a folder and its segmentations, or those of one file.

    Empty for a single file with one volume.

    Raises
    ------
    VolumeError
        When a header is damaged, or there is no volume.
    """
    found = tuple(part.name for part in _parts(path))
    return () if path.is_file() and len(found) == 1 else found


def inspect(path: Path, part: str | None = None) -> Header:
    """Read and check all headers of a volume.

    Raises
    ------
    VolumeError
        When slices do not make one volume, or a file is damaged.
    """
    chosen = _part(path, part)
    if isinstance(chosen, Segments):
        return chosen.header(path)
    return _header(path, chosen, chosen.stack(path))


def read(
    path: Path, part: str | None = None, *, lazy: bool
) -> tuple[VoxelArray, Header]:
    """Read voxels (channel, z, y, x): rescaled, z along the normal of the slices.

    Parameters
    ----------
    path
        A folder of slices, or a file of many frames.
    part
        One of `parts`.
    lazy
        Read slices when they are asked for. Segmentations are always read whole.

    Raises
    ------
    VolumeError
        As `inspect`, or when a slice cannot be decoded.
    """
    chosen = _part(path, part)
    if isinstance(chosen, Segments):
        return chosen.voxels(path)[np.newaxis], chosen.header(path)
    stack = chosen.stack(path)
    header = _header(path, chosen, stack)
    voxels = LazyVoxels(_Slices(stack.frames, header.dtype), (None, 0, 1, 2), str(path))
    return (voxels if lazy else guarded(lambda: voxels[:], str(path))), header


def read_label_set(path: Path, part: str | None = None) -> LabelSet | None:
    """Read what the segments of a segmentation are called; None for a series.

    Raises
    ------
    VolumeError
        As `inspect`.
    """
    chosen = _part(path, part)
    return chosen.label_set(path) if isinstance(chosen, Segments) else None


def write(path: Path, data: VoxelArray, grid: Grid, channels: tuple[str, ...]) -> None:
    """Refuse: DICOM is not written.

    Raises
    ------
    VolumeError
        Always.
    """
    del data, grid, channels
    _refuse_to_write(path, ".nii.gz")


def write_labels(
    path: Path, data: VoxelArray, grid: Grid, labels: LabelSet | None
) -> None:
    """Refuse: a DICOM segmentation refers to a series, which is not given here.

    Raises
    ------
    VolumeError
        Always.
    """
    del data, grid, labels
    raise VolumeError(
        f"{path} would be a DICOM segmentation, which refers to the DICOM series it "
        "was drawn on. Save labels of a DICOM series so, name the series with --onto, "
        "or save them as .seg.nrrd to keep names and colours."
    )


def is_series(path: Path, part: str | None = None) -> bool:
    """Whether a path holds a DICOM series, and not something else."""
    try:
        return isinstance(_part(path, part), Series)
    except VolumeError:
        return False


def write_labels_of(
    path: Path,
    data: VoxelArray,
    grid: Grid,
    labels: LabelSet | None,
    series: tuple[Path, str | None],
) -> None:
    """Write labels as a DICOM segmentation of the series they were drawn on.

    Parameters
    ----------
    path, data, grid, labels
        As for other formats.
    series
        Folder or file, and which part of it.

    Raises
    ------
    GridError
        When the labels do not lie on the grid of the series.
    VolumeError
        When it is no series, or cannot be referred to.
    """
    from napari_kdseg.volumes.formats.dicom_seg_write import write_segmentation

    source, part = series
    chosen = _part(source, part)
    if isinstance(chosen, Segments):
        raise VolumeError(
            f"{source} is a segmentation; another one refers to the series it was "
            "drawn on. Give the series."
        )
    stack = chosen.stack(source)
    fix = "A DICOM segmentation lies on the grid of its series; resample the labels."
    check_same_grid(stack.grid, grid, source, path, fix)
    write_segmentation(path, data, labels, stack.frames)


@dataclass(frozen=True)
class _Slices:
    """The slices of a volume (z, y, x), each read where it is asked for."""

    frames: tuple[Frame, ...]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        pixels = self.frames[0].pixels
        return len(self.frames), pixels.rows, pixels.columns

    @property
    def chunks(self) -> tuple[int, int, int]:
        """One slice: what is decoded at once."""
        return 1, *self.shape[1:]

    def __getitem__(self, index: tuple[slice, slice, slice]) -> np.ndarray:
        """Read a box."""
        depth, *plane = index
        chosen = self.frames[depth]
        if not chosen:
            return np.empty((0, *self.shape[1:]), self.dtype)[:, *plane]
        # Before memory is taken for all, the first shows that its size is true.
        first = _values(chosen[0], self.dtype)[*plane]
        block = np.empty((len(chosen), *first.shape), self.dtype)
        block[0] = first
        for at, frame in enumerate(chosen[1:], 1):
            block[at] = _values(frame, self.dtype)[*plane]
        return block


def _values(frame: Frame, dtype: np.dtype[Any]) -> np.ndarray:
    """Read a slice and rescale it: in whole numbers, or in float64 and rounded once."""
    stored = read_plane(frame.pixels, frame.index)
    if dtype.kind in "ui":
        return (stored + int(frame.intercept)).astype(dtype)
    with np.errstate(over="ignore"):  # infinite results are dealt with as any other
        return (stored * frame.slope + frame.intercept).astype(dtype)


def _parts(path: Path) -> list[Series | Segments]:
    if path.is_dir():
        files = read_folder(path)
        return [*_images(path, files), *_segmentations(files)]
    file = read_file(path)
    assert file is not None  # only in a folder
    if file.kind == "segmentation":
        return [*segments_in(file, "")]
    if file.kind == "image" and len(file.frames) == 1:
        raise VolumeError(
            f"{path} is one slice of a series; a volume is all of them. Give its "
            f"folder {path.parent}."
        )
    return [*_images(path, [file])]


def _images(path: Path, files: Sequence[DicomFile]) -> list[Series]:
    if all(file.kind == "other" for file in files):
        kinds = ", ".join(sorted({file.sop_class for file in files}))
        raise VolumeError(
            f"{path} holds no images but {kinds}; a volume is made of images. Choose "
            "the folder of the series."
        )
    return series_in(files)


def _segmentations(files: Sequence[DicomFile]) -> list[Segments]:
    chosen = [file for file in files if file.kind == "segmentation"]
    names = unique(f"segmentation: {file_name(file)}" for file in chosen)
    return [
        segments
        for file, name in zip(chosen, names, strict=True)
        for segments in segments_in(file, name)
    ]


def _part(path: Path, name: str | None) -> Series | Segments:
    if not path.exists():
        raise VolumeError(f"{path} does not exist; a DICOM file or folder is needed.")
    there = _parts(path)
    names = ", ".join(repr(part.name) for part in there)
    if name is None:
        if len(there) == 1:
            return there[0]
        raise VolumeError(
            f"{path} holds {len(there)} volumes: {names}; one is read at a time. "
            "Choose one, on the command line with --part NAME."
        )
    for part in there:
        if part.name == name:
            return part
    raise VolumeError(
        f"{path} has no part {name!r}; it has {names}. Choose one of these."
    )


def _header(path: Path, series: Series, stack: Stack) -> Header:
    for frame in {id(f.pixels): f for f in stack.frames}.values():
        check_pixels(frame.pixels)
    for file in series.files:
        if file.has_lut:
            raise VolumeError(
                f"{file.path} maps its values by a table (Modality LUT); only slope "
                "and intercept are applied. Convert it with dcm2niix or 3D Slicer."
            )
    dtype = _dtype(stack.frames, path)
    return Header(
        path,
        stack.grid,
        (series.files[0].modality or "image",),
        dtype,
        series.notes + tuple(_notes(path, series, stack, dtype)),
        holds_labels=False,
        by_plane=True,
    )


def _dtype(frames: Sequence[Frame], path: Path) -> np.dtype[Any]:
    """Choose the smallest integers that hold all values, or float32."""
    if any(frame.slope == 0 for frame in frames):
        raise VolumeError(
            f"{path} has a Rescale Slope of 0, which makes all voxels equal; it must "
            "be another number. The header is damaged: export the series anew."
        )
    if any(frame.slope != 1 or not frame.intercept.is_integer() for frame in frames):
        return np.dtype(np.float32)
    ranges = [np.add(frame.pixels.range, frame.intercept) for frame in frames]
    least, most = np.min(ranges), np.max(ranges)
    for dtype in _INTEGERS:
        info = np.iinfo(dtype)
        if info.min <= least and most <= info.max:
            return dtype
    return np.dtype(np.float32)


def _notes(path: Path, series: Series, stack: Stack, dtype: np.dtype[Any]) -> list[str]:
    first, files = stack.frames[0], series.files
    spacing = stack.grid.spacing_mm[0]
    said = {file.spacing_between for file in files} - {None}
    wrong = [
        mm for mm in said if mm is not None and abs(mm - spacing) > uneven_mm(spacing)
    ]
    notes = []
    if wrong:
        notes.append(
            f"{path}: slices lie {spacing:.4g} mm apart by their positions, which "
            f"count; Spacing Between Slices says {wrong[0]:.4g} mm."
        )
    if dtype.kind == "f":
        notes.append(
            f"{path} rescales its voxels (Rescale Slope); they become float32."
        )
    if first.pixels.photometric == "MONOCHROME1":
        notes.append(
            f"{path} is MONOCHROME1: low values are meant to be shown bright. The "
            "values are as stored."
        )
    padding = {file.padding for file in files if file.padding is not None}
    values = {pad * f.slope + f.intercept for pad in padding for f in stack.frames}
    if values:
        value = f"{min(values):g}" if len(values) == 1 else "values of their own"
        notes.append(f"{path} marks voxels outside the scan by {value}; they stay so.")
    if any(file.lossy for file in files):
        notes.append(
            f"{path} was compressed with losses; its values are not the scan's."
        )
    return notes


def _refuse_to_write(path: Path, ending: str) -> NoReturn:
    raise VolumeError(
        f"{path} would be a DICOM file, which is not written. Save it as {ending}."
    )
