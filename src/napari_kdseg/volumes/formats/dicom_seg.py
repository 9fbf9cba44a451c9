"""DICOM segmentations: frames of single bits, or of labels, on a grid of their own.

PS3.3, A.51 and C.8.20. A frame belongs to one segment and one place; places without
a frame are empty. Segments may overlap, which labels cannot: then each is a part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from skimage.color import lab2rgb

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.dicom_grid import (
    SAME_PLACE_MM,
    axes,
    check_alike,
    check_shift,
    grid_of,
    uneven_mm,
)
from napari_kdseg.volumes.formats.dicom_headers import DicomFile, Frame, Segment
from napari_kdseg.volumes.formats.dicom_pixels import (
    Pixels,
    check_bits,
    check_pixels,
    read_bits,
    read_plane,
)
from napari_kdseg.volumes.formats.dicom_series import unique
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.formats.voxels import guarded
from napari_kdseg.volumes.labels import (
    LabelClass,
    LabelSet,
    distinct_color,
    smallest_dtype,
)
from napari_kdseg.volumes.volume import Grid

_LABEL_MAP = "LABELMAP"
_READ_TYPES = ("BINARY", _LABEL_MAP)
_LAB_STEPS = 65535
_SINGLE_STEP = 1.5  # a distance below this many of the smallest is one slice
_MOST_SLICES = 65535


@dataclass(frozen=True)
class Segments:
    """Segments of one file that make one volume of labels."""

    name: str
    file: DicomFile
    segments: tuple[Segment, ...]

    def header(self, path: Path) -> Header:
        """Check all that the file's header says.

        Raises
        ------
        VolumeError
            When its frames lie on no grid, or it is of a kind not read.
        """
        _check(self.file)
        grid, _ = _places(self.file)
        notes: tuple[str, ...] = ()
        if grid.shape[0] == 1:
            notes = (
                f"{self.file.path} has frames at one place only; the thickness of that "
                f"slice, {grid.spacing_mm[0]:.4g} mm, is what the header says.",
            )
        dtype = smallest_dtype(max((s.number for s in self.segments), default=0))
        return Header(path, grid, ("segmentation",), dtype, notes, holds_labels=True)

    def voxels(self, path: Path) -> np.ndarray:
        """Read the labels (z, y, x); a segment's value is its number in the file.

        Raises
        ------
        VolumeError
            When a frame is damaged, or segments overlap.
        """
        header = self.header(path)
        labels: np.ndarray = guarded(
            lambda: np.zeros(header.grid.shape, header.dtype), str(path)
        )
        numbers = {segment.number for segment in self.segments}
        for place, there, values, frame in _planes(self.file, numbers):
            if labels[place][there].any():
                raise VolumeError(
                    f"{self.file.path} has segments that overlap in {frame.label}, and "
                    "says they do not; labels have one value a voxel. Export each "
                    "segment into a file of its own."
                )
            labels[place][there] = values
        return labels

    def label_set(self, path: Path) -> LabelSet:
        """Give the segments their names and colours."""
        del path
        names = unique(segment.label for segment in self.segments)
        return LabelSet(
            classes=tuple(
                LabelClass(value=segment.number, name=name, color=_color(segment))
                for segment, name in zip(self.segments, names, strict=True)
            )
        )


def segments_in(file: DicomFile, name: str) -> list[Segments]:
    """List the volumes of labels in a file: one, or one a segment if they overlap.

    Parameters
    ----------
    name
        What to put before the names of segments; may be empty.
    """
    segments = tuple(segment for segment in file.segments if segment.number > 0)
    whole = Segments(name or "segmentation", file, segments)
    try:
        overlap = _overlap(file)
    except VolumeError:
        return [whole]  # and the error comes when it is read
    if not overlap:
        return [whole]
    labels = unique(segment.label for segment in segments)
    return [
        Segments(f"{name}, {label}" if name else label, file, (segment,))
        for segment, label in zip(segments, labels, strict=True)
    ]


def _overlap(file: DicomFile) -> bool:
    _check(file)
    if file.segmentation_type == _LABEL_MAP or len(file.segments) < 2:
        return False
    if file.segments_overlap == "NO":
        return False  # if that is not so, it shows when labels are put together
    used: dict[int, np.ndarray] = {}
    for place, there, _, _ in _planes(file, {s.number for s in file.segments}):
        others = used.setdefault(place, np.zeros_like(there))
        if (others & there).any():
            return True
        others |= there
    return False


def _check(file: DicomFile) -> None:
    if file.segmentation_type not in _READ_TYPES:
        raise VolumeError(
            f"{file.path} is a segmentation of the type "
            f"{file.segmentation_type or 'none'}; BINARY and LABELMAP are read, since "
            "labels are whole numbers. Set a threshold in 3D Slicer and export it as "
            ".seg.nrrd."
        )
    numbers = {segment.number for segment in file.segments}
    if not numbers or len(numbers) != len(file.segments):
        raise VolumeError(
            f"{file.path} describes {len(file.segments)} segments by {len(numbers)} "
            "numbers; each needs its own. It is damaged: export it anew."
        )
    if file.segmentation_type == _LABEL_MAP:
        check_pixels(_pixels(file))
        return
    check_bits(_pixels(file))
    strangers = {frame.kinds["segment"] for frame in file.frames} - set(
        map(str, numbers)
    )
    if strangers:
        raise VolumeError(
            f"{file.path} has a frame of the segment "
            f"{min(strangers) or 'without number'}, and describes "
            f"{', '.join(map(str, sorted(numbers)))}; a frame belongs to one of these. "
            " It is damaged: export it anew."
        )


def _pixels(file: DicomFile) -> Pixels:
    assert file.pixels is not None  # of every segmentation
    return replace(file.pixels, photometric="MONOCHROME2")  # a palette only paints


def _planes(
    file: DicomFile, numbers: set[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray | int, Frame]]:
    """Go through frames of segments: place along z, mask, labels in it, frame."""
    pixels = _pixels(file)
    seen: set[tuple[int, str]] = set()
    for frame, place in zip(file.frames, _places(file)[1], strict=True):
        segment = frame.kinds["segment"]
        if (place, segment) in seen:
            raise VolumeError(
                f"{file.path} has {frame.label} at the place of another frame of the "
                "same segment; each place has one. It is damaged: export it anew."
            )
        seen.add((place, segment))
        if file.segmentation_type == _LABEL_MAP:
            values = _labels(file, frame)
            yield place, values != 0, values[values != 0], frame
        elif int(segment) in numbers:
            yield place, read_bits(pixels, frame.index), int(segment), frame


def _labels(file: DicomFile, frame: Frame) -> np.ndarray:
    values = read_plane(_pixels(file), frame.index)
    known = [0, *sorted(segment.number for segment in file.segments)]
    if not np.isin(values, known).all():
        raise VolumeError(
            f"{file.path} has values in {frame.label} that are no segment; it "
            f"describes {known[1:]}. It is damaged: export it anew."
        )
    return values


def _places(file: DicomFile) -> tuple[Grid, tuple[int, ...]]:
    """Find the grid the frames lie on, and the place of each along z.

    The smallest distance of frames is that of slices; larger ones are multiples.
    """
    name, frames = str(file.path), file.frames
    check_alike(frames, name)
    row, column, normal = axes(frames[0], name)
    positions = np.array([frame.position for frame in frames], dtype=np.float64)
    along = (positions - positions[0]) @ normal
    first = int(along.argmin())
    along -= along[first]
    spacing, places = _even(along, file)
    shift = positions - positions[first] - np.outer(along, normal)
    order = np.argsort(along, kind="stable")
    check_shift(
        shift[order], float(along.max()), tuple(frames[at] for at in order), name
    )
    grid = grid_of(
        frames[first], (row, column, normal * spacing), int(places.max()) + 1
    )
    return grid, tuple(int(place) for place in places)


def _even(along: np.ndarray, file: DicomFile) -> tuple[float, np.ndarray]:
    """Give the distance of slices, in mm, and which of them each frame is on."""
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    apart = gaps > SAME_PLACE_MM
    if not apart.any():
        return _thickness(file), np.zeros(len(along), dtype=np.int64)
    small = gaps[apart].min()
    usual = np.median(gaps[apart & (gaps < _SINGLE_STEP * small)])
    steps = np.where(apart, np.maximum(1, np.rint(gaps / usual)), 0)
    spacing = float(gaps.sum() / steps.sum())
    off = np.abs(gaps[apart] / steps[apart] - spacing).max()
    if off > uneven_mm(spacing) or steps.sum() > _MOST_SLICES:
        raise VolumeError(
            f"{file.path} has frames that lie on no even slices: distances from "
            f"{small:.4g} to {gaps.max():.4g} mm; all must be multiples of the "
            "smallest. Resample it in 3D Slicer and export it as .seg.nrrd."
        )
    places = np.zeros(len(along), dtype=np.int64)
    places[order[1:]] = steps.cumsum()
    return spacing, places


def _thickness(file: DicomFile) -> float:
    if file.thickness is not None and file.thickness > 0:
        return file.thickness
    raise VolumeError(
        f"{file.path} has frames at one place only, and does not say how thick that "
        "slice is; without it there is no volume. Export it from 3D Slicer as "
        ".seg.nrrd."
    )


def _color(segment: Segment) -> str:
    """Turn CIELab, as 16-bit integers (PS3.3, C.10.7.1.1), into #rrggbb.

    The white is D65, as 3D Slicer and dcmqi write it.
    """
    if segment.lab is None:
        return distinct_color(segment.number)
    light, red_green, yellow_blue = (value / _LAB_STEPS for value in segment.lab)
    lab = (light * 100, red_green * 255 - 128, yellow_blue * 255 - 128)
    return "#" + "".join(f"{round(part * 255):02x}" for part in _rgb(lab))


def _rgb(lab: Sequence[float]) -> list[float]:
    painted = lab2rgb(np.array(lab, dtype=np.float64).reshape(1, 1, 3))
    return [float(part) for part in np.clip(painted.ravel(), 0, 1)]
