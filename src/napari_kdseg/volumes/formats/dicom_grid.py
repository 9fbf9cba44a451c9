"""Where the slices of a DICOM volume lie: their order, their grid, what is refused.

Geometry comes from Image Position and Image Orientation (Patient) alone (PS3.3,
C.7.6.2.1.1). Slice Thickness and Spacing Between Slices often say something else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.dicom_headers import Frame
from napari_kdseg.volumes.volume import Grid

UNEVEN_SHARE = 0.01
"""How much of their mean the distances of slices may differ from it, ..."""
UNEVEN_MM = 0.01
"""... or how far in millimetres, ..."""
UNEVEN_AT_MOST = 0.1
"""... which in turn is at most this share of the mean."""
SHIFT_PIXELS = 0.1
"""How far slices may be shifted in their plane, all along the series."""
SAME_PLACE_MM = 1e-4
"""Nearer than this, two slices lie at one place."""
SAME_COSINE = 1e-4
"""How much the direction cosines of slices may differ, or be off a right angle."""
SAME_SPACING = 1e-4
"""Which share of itself Pixel Spacing may differ by."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MISSING_FROM = 1.5


@dataclass(frozen=True)
class Stack:
    """Frames in the order of their places along z, and the grid of their voxels."""

    frames: tuple[Frame, ...]
    grid: Grid


def stack(frames: Sequence[Frame], name: str) -> Stack:
    """Sort frames along their normal and give them a grid.

    Parameters
    ----------
    name
        The series, for messages.

    Raises
    ------
    VolumeError
        When slices are missing, doubled, tilted, unequal or too few.
    """
    check_alike(frames, name)
    if len(frames) < 2:
        raise VolumeError(
            f"{name} has a single slice, {frames[0].label}; a volume has at least two. "
            "Add the other slices, or choose another series."
        )
    row, column, normal = axes(frames[0], name)
    places = np.array([frame.position for frame in frames], dtype=np.float64)
    along = (places - places[0]) @ normal
    order = np.argsort(along, kind="stable")
    ordered = tuple(frames[at] for at in order)
    along, places = along[order], places[order] - places[order[0]]
    spacing = _distance(along, ordered, name)
    shift = places - np.outer(along - along[0], normal)
    check_shift(shift, float(along[-1] - along[0]), ordered, name)
    grid = grid_of(ordered[0], (row, column, normal * spacing), len(frames))
    return Stack(ordered, grid)


def grid_of(first: Frame, steps: tuple[np.ndarray, ...], depth: int) -> Grid:
    """Give the grid of slices above one another.

    Parameters
    ----------
    first
        The lowest along the normal.
    steps
        In LPS: unit vectors along a row and down a column, and from slice to slice in
        millimetres.
    depth
        How many slices.
    """
    between_rows, between_columns = _pair(first.spacing)
    row, column, slice_mm = steps
    affine = np.eye(4)
    affine[:3, :3] = np.stack(
        [row * between_columns, column * between_rows, slice_mm], axis=1
    )
    affine[:3, 3] = np.array(first.position)
    shape = (depth, first.pixels.rows, first.pixels.columns)
    return Grid.from_affine(_LPS_TO_RAS @ affine, shape)


def uneven_mm(mean: float) -> float:
    """Say how far the distance of two slices may be from their mean distance, in mm."""
    return max(mean * UNEVEN_SHARE, min(UNEVEN_MM, mean * UNEVEN_AT_MOST))


def check_alike(frames: Sequence[Frame], name: str) -> None:
    """Refuse slices without a place, or of different sizes, spacings, orientations.

    Raises
    ------
    VolumeError
        Naming what differs, and the first slice of each kind.
    """
    _check_said(frames, name, "position", "Image Position (Patient)")
    _check_said(frames, name, "orientation", "Image Orientation (Patient)")
    _check_said(frames, name, "spacing", "Pixel Spacing")
    first = frames[0]
    checks: tuple[tuple[str, Callable[[Frame], object], float], ...] = (
        ("sizes", lambda f: (f.pixels.rows, f.pixels.columns), 0.0),
        ("orientations", lambda f: f.orientation, SAME_COSINE),
        (
            "pixel spacings",
            lambda f: f.spacing,
            SAME_SPACING * min(_pair(first.spacing)),
        ),
        ("photometric interpretations", lambda f: f.pixels.photometric, 0.0),
    )
    for what, get, tolerance in checks:
        other = _first_unlike(frames, get, tolerance)
        if other is not None:
            raise VolumeError(
                f"{name} has slices of different {what}: {get(first)} in "
                f"{first.label}, {get(other)} in {other.label}; all slices of a "
                "volume are alike. Put those of each kind into a folder of their own."
            )


def axes(frame: Frame, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give LPS unit vectors along a row, down a column, and of their normal.

    Raises
    ------
    VolumeError
        When the header's orientation or pixel spacing is impossible.
    """
    cosines = np.array(frame.orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(cosines, axis=1)
    skew = abs(float(cosines[0] @ cosines[1]))
    if (np.abs(lengths - 1) > 10 * SAME_COSINE).any() or skew > 10 * SAME_COSINE:
        raise VolumeError(
            f"{name} has the Image Orientation (Patient) {frame.orientation} in "
            f"{frame.label}; it must be two unit vectors at a right angle. The header "
            "is damaged: export the series anew."
        )
    if min(_pair(frame.spacing)) <= 0:
        raise VolumeError(
            f"{name} has the Pixel Spacing {frame.spacing} in {frame.label}; both must "
            "be above 0. The header is damaged: export the series anew."
        )
    row, column = cosines / lengths[:, np.newaxis]
    normal = np.cross(row, column)
    return row, column, normal / np.linalg.norm(normal)


def check_shift(
    shift: np.ndarray, length: float, frames: tuple[Frame, ...], name: str
) -> None:
    """Refuse slices that do not lie straight above one another (gantry tilt)."""
    sizes = np.linalg.norm(shift, axis=1)
    if sizes.max() <= SHIFT_PIXELS * min(_pair(frames[0].spacing)):
        return
    farthest = int(sizes.argmax())
    degrees = float(np.rad2deg(np.arctan2(sizes[-1], length)))
    raise VolumeError(
        f"{name} has slices that are shifted against each other in their plane, by "
        f"{sizes[farthest]:.3g} mm at {frames[farthest].label} (a shear of "
        f"{degrees:.2g} degrees, as of a tilted gantry); voxels must stand at right "
        "angles. Resample it with dcm2niix or 3D Slicer."
    )


def _first_unlike(
    frames: Sequence[Frame], get: Callable[[Frame], object], tolerance: float
) -> Frame | None:
    expected = get(frames[0])
    if tolerance == 0.0:
        return next((frame for frame in frames if get(frame) != expected), None)
    apart = np.abs(np.array([get(frame) for frame in frames]) - np.array(expected))
    unlike = np.flatnonzero(apart.max(axis=1) > tolerance)
    return frames[int(unlike[0])] if unlike.size else None


def _check_said(frames: Sequence[Frame], name: str, field: str, tag: str) -> None:
    silent = [frame for frame in frames if getattr(frame, field) is None]
    if not silent:
        return
    hint = ""
    if field == "spacing" and silent[0].imager_spacing:
        hint = "; Imager Pixel Spacing holds at the detector, not in the patient"
    raise VolumeError(
        f"{name} has no {tag} in {silent[0].label}{hint}; without it nobody knows "
        "where in space the pixels lie. Export the series anew, or choose another."
    )


def _distance(along: np.ndarray, frames: tuple[Frame, ...], name: str) -> float:
    """Give the mean distance of slices, in mm, if they lie evenly."""
    gaps = np.diff(along)
    apart = gaps[gaps > SAME_PLACE_MM]
    if apart.size < gaps.size:
        at = int(np.flatnonzero(gaps <= SAME_PLACE_MM)[0])
        raise VolumeError(
            f"{name} has {gaps.size - apart.size} slices at the place of another, such "
            f"as {frames[at].label} and {frames[at + 1].label}; each place has one. "
            "They may be two times or echoes that the headers do not tell apart, or "
            "copies: keep one of each in the folder."
        )
    mean, usual = float(gaps.mean()), float(np.median(gaps))
    if np.abs(gaps - mean).max() <= uneven_mm(mean):
        return mean
    at = int(np.abs(gaps - usual).argmax())
    found = (
        f"{gaps[at]:.4g} mm from {frames[at].label} to {frames[at + 1].label}, "
        f"{usual:.4g} mm elsewhere"
    )
    if gaps[at] > usual * _MISSING_FROM:
        missing = max(1, round(gaps[at] / usual) - 1)
        raise VolumeError(
            f"{name} misses slices, about {missing} after {frames[at].label}: {found}; "
            "slices must be evenly apart. Fetch the series anew, with all its slices."
        )
    raise VolumeError(
        f"{name} has slices unevenly apart: {found}; they may differ by "
        f"{uneven_mm(usual):.3g} mm. Resample it to even slices with dcm2niix or 3D "
        "Slicer."
    )


def _pair(spacing: tuple[float, float] | None) -> tuple[float, float]:
    assert spacing is not None  # checked before
    return spacing
