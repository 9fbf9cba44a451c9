"""Which files and frames of a DICOM folder belong together, and what to call them.

One series may hold several volumes: echoes, times, kinds of image. It is split only
where it is no volume as a whole, and only if each part is one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.dicom_grid import UNEVEN_MM, Stack, stack
from napari_kdseg.volumes.formats.dicom_headers import DicomFile, Frame

_SPLITS = ("image type", "echo", "time", "phase", "b-value", "acquisition", "instance")
_SAME_PLACES = ("echo", "time", "phase", "b-value", "acquisition")
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Series:
    """Frames that make one volume, or should."""

    name: str
    frames: tuple[Frame, ...]
    files: tuple[DicomFile, ...]
    notes: tuple[str, ...] = ()

    def stack(self, path: Path) -> Stack:
        """Put the frames in order.

        Raises
        ------
        VolumeError
            When they do not make one volume.
        """
        return stack(self.frames, f"{path} ({self.name})")


def series_in(files: Sequence[DicomFile]) -> list[Series]:
    """Sort the files of images into series, and those into volumes.

    Images that cannot be part of a volume, such as scouts and screenshots, are left
    out where there are others; the others then have a note of it.
    """
    groups: dict[str, list[DicomFile]] = {}
    for file in files:
        if file.kind == "image":
            groups.setdefault(file.series, []).append(file)
    everything = [
        series for group in groups.values() for series in _volumes(tuple(group))
    ]
    everything.sort(key=lambda series: _number(series.files[0].number))
    likely = [series for series in everything if _may_be_volume(series.frames)]
    kept, left_out = likely or everything, len(everything) - len(likely)
    notes: tuple[str, ...] = ()
    if likely and left_out:
        names = ", ".join(series.name for series in everything if series not in likely)
        notes = (f"Left out were images that are no volumes: {names}.",)
    return [
        Series(name, series.frames, series.files, series.notes + notes)
        for name, series in zip(unique(s.name for s in kept), kept, strict=True)
    ]


def file_name(file: DicomFile) -> str:
    """Name a series as people know it: its description, and its number."""
    number = f"series {file.number}" if file.number else ""
    if file.description and number:
        return f"{file.description} ({number})"
    return file.description or number or "unnamed series"


def _volumes(files: tuple[DicomFile, ...]) -> list[Series]:
    """Take a series for one volume; where it is none, for those it splits into."""
    base = file_name(files[0])
    frames = tuple(frame for file in files for frame in file.frames)
    scouts = [f for f in frames if "LOCALIZER" in f.kinds["image type"].upper()]
    note: tuple[str, ...] = ()
    if len(scouts) == 1 and len(frames) > 2:  # often sent along with a CT
        frames = tuple(frame for frame in frames if frame is not scouts[0])
        note = (f"Left out was {scouts[0].label}, a single localizer image.",)
    split = _split(frames, _SPLITS) or [("", frames)]
    return [
        Series(f"{base} {label}".strip(), part, files, note) for label, part in split
    ]


def _split(
    frames: tuple[Frame, ...], kinds: tuple[str, ...]
) -> list[tuple[str, tuple[Frame, ...]]] | None:
    """Split frames by what tells them apart, until each group makes a volume."""
    if _is_stack(frames):
        return [("", frames)]
    if not _may_be_volume(frames):
        return None
    for at, kind in enumerate(kinds):
        groups = _groups(frames, kind)
        split = _split_all(groups, kinds[at + 1 :])
        if split and (kind not in _SAME_PLACES or _at_same_places(groups)):
            return split
    return _split_all(_geometries(frames), ())


def _split_all(
    groups: dict[str, list[Frame]], kinds: tuple[str, ...]
) -> list[tuple[str, tuple[Frame, ...]]] | None:
    if len(groups) < 2:
        return None
    found = []
    for label, frames in groups.items():
        inner = _split(tuple(frames), kinds)
        if inner is None:
            return None
        found += [(f"{label} {more}".strip(), part) for more, part in inner]
    return found


def _groups(frames: Iterable[Frame], kind: str) -> dict[str, list[Frame]]:
    """Group frames by one kind; none where a frame does not say its own."""
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.kinds[kind], []).append(frame)
    if "" in groups:
        return {}
    values = sorted(groups, key=_number)
    if kind == "image type":
        return {_apart(value, values): groups[value] for value in values}
    return {f"{kind} {at}": groups[value] for at, value in enumerate(values, 1)}


def _apart(value: str, values: list[str]) -> str:
    """Name an image type by the words that others lack."""
    others = [set(other.split("\\")) for other in values if other != value]
    words = [
        word
        for word in value.split("\\")
        if word and not all(word in other for other in others)
    ]
    return " ".join(words) or value.replace("\\", " ")


def _geometries(frames: Iterable[Frame]) -> dict[str, list[Frame]]:
    """Group frames by orientation, size and pixel spacing."""
    groups: dict[tuple[object, ...], list[Frame]] = {}
    for frame in frames:
        turned = tuple(round(value, 3) + 0.0 for value in frame.orientation or ())
        size = (frame.pixels.rows, frame.pixels.columns)
        spacing = tuple(round(value, 4) for value in frame.spacing or ())
        groups.setdefault((turned, size, spacing), []).append(frame)
    named = unique(_plane(group[0]) for group in groups.values())
    return dict(zip(named, groups.values(), strict=True))


def _plane(frame: Frame) -> str:
    cosines = np.array(frame.orientation or (1, 0, 0, 0, 1, 0)).reshape(2, 3)
    return _PLANES[int(np.abs(np.cross(*cosines)).argmax())]


def _at_same_places(groups: dict[str, list[Frame]]) -> bool:
    places = [
        np.array(sorted(frame.position or () for frame in group))
        for group in groups.values()
    ]
    first = places[0]
    return all(
        other.shape == first.shape and np.allclose(other, first, rtol=0, atol=UNEVEN_MM)
        for other in places
    )


def _is_stack(frames: tuple[Frame, ...]) -> bool:
    try:
        stack(frames, "")
    except VolumeError:
        return False
    return True


def _may_be_volume(frames: Sequence[Frame]) -> bool:
    """Whether frames have places at all, and are several."""
    return len(frames) > 1 and any(frame.position is not None for frame in frames)


def _number(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return np.inf, value


def unique(names: Iterable[str]) -> list[str]:
    """Number names that come again: ``T1``, ``T1 (2)``."""
    found: list[str] = []
    for name in names:
        tries = (name, *(f"{name} ({at})" for at in range(2, len(found) + 3)))
        found.append(next(option for option in tries if option not in found))
    return found
