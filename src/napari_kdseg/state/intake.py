"""What a person brings, files and folders of any kind, sorted into scans."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from napari_kdseg.errors import KdsegError, VolumeError
from napari_kdseg.project_folder import is_project
from napari_kdseg.volumes.formats import (
    Header,
    blocks_of,
    inspect_volume,
    is_volume,
    parts_of,
    suffix_of,
)
from napari_kdseg.volumes.formats.sniff import is_dicom, is_zarr
from napari_kdseg.volumes.labels import values_in
from napari_kdseg.volumes.naming import (
    group_by_pattern,
    images_of_labels,
    labelled_case,
    lies_among_labels,
    looks_like_labels,
    unique_name,
)
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.volumes.volume import Grid

_DEEPEST = 6
_MOST_FOLDERS = 2000
_MOST_READ_BYTES = 2**24  # of all that is brought at once: the viewer waits
_VOXELS_OF_A_PAIR = (".img", ".img.gz")


LABELS = "labels"
"""What stands for the channel of labels."""


@dataclass(frozen=True)
class Found:
    """One volume that was found, and what it is proposed to be."""

    file: VolumeFile
    case: str
    channel: str = ""
    is_labels: bool = False

    def called(self, case: str, channel: str) -> "Found":
        """The same of another scan and channel; ``labels`` makes it the labels."""
        labels = channel.strip().casefold() == LABELS
        name = "" if labels else channel.strip()
        return Found(self.file, case.strip(), name, is_labels=labels)

    @property
    def what(self) -> str:
        """The volume in a word or two, for a list."""
        part = self.file.part
        name = self.file.path.name
        return name if part is None else f"{name}: {part}"


@dataclass(frozen=True)
class Intake:
    """What was brought."""

    found: tuple[Found, ...] = ()
    notes: tuple[str, ...] = ()
    """What was left out, and why, a sentence each."""
    project: Path | None = None
    """The project, where a project was brought and nothing else."""

    @property
    def choices(self) -> tuple[Found, ...]:
        """Volumes that lie several in one place, such as series, to choose from."""
        parts = tuple(one for one in self.found if one.file.part is not None)
        return parts if len(parts) > 1 else ()

    @property
    def needs_a_look(self) -> bool:
        """Whether names were read for channels or labels, and may have been misread."""
        return any(one.channel or one.is_labels for one in self.found)

    def without(self, dropped: Iterable[Found]) -> "Intake":
        """The same without some volumes; of the labels of a case the first stay."""
        gone = set(dropped)
        labelled: set[str] = set()
        kept = []
        for one in self.found:
            if one in gone or (one.is_labels and one.case in labelled):
                continue
            kept.append(one)
            if one.is_labels:
                labelled.add(one.case)
        return replace(self, found=tuple(kept))


def look_at(
    paths: Sequence[Path], pattern: str | None = None, taken: Iterable[str] = ()
) -> Intake:
    """Find the volumes in files and folders, and propose which make up a scan.

    Parameters
    ----------
    paths
        Files, DICOM folders, folders of pictures, OME-Zarr, folders of all these.
    pattern
        How names are read; see `group_by_pattern`.
    taken
        Names that scans have already.

    Raises
    ------
    UsageError
        Where the pattern cannot be used.
    """
    if len(paths) == 1 and is_project(paths[0]):
        return Intake(project=paths[0])
    look = _Look()
    for path in _with_series(paths):
        look.at(path)
    return Intake(tuple(look.sorted(pattern, taken)), tuple(look.notes))


def scans_of(found: Sequence[Found]) -> tuple[NewScan, ...]:
    """Put volumes of one case together, in their order."""
    cases: dict[str, list[Found]] = {}
    for one in found:
        again = one.called(one.case, LABELS if one.is_labels else one.channel)
        cases.setdefault(again.case, []).append(again)
    made = []
    for case, members in cases.items():
        images = tuple(
            replace(one.file, channel=one.channel)
            for one in members
            if not one.is_labels
        )
        labels = next((one.file for one in members if one.is_labels), None)
        if images:
            made.append(NewScan(images, labels, case))
    return tuple(made)


def unclear(found: Sequence[Found]) -> str:
    """Say which case has labels alone, or several of them; nothing where none has."""
    for case in dict.fromkeys(one.case for one in found):
        members = [one for one in found if one.case == case]
        labels = [one.what for one in members if one.is_labels]
        if len(labels) > 1:
            return (
                f"{case} was given several files of labels, {' and '.join(labels)}, "
                "and a scan has one. Add it again, and call others by another scan."
            )
        if len(labels) == len(members):
            return (
                f"{case} was given labels, {labels[0]}, and no image. Add it again, "
                "and call both by the same scan."
            )
    return ""


@dataclass
class _Look:
    """Volumes found so far, and their headers."""

    headers: dict[VolumeFile, Header] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    folders: int = 0
    pairs: dict[Path, dict[Path, Path]] = field(default_factory=dict)
    """Labels and their images that data sets list, by the folder of the data set."""
    given: dict[str, str] = field(default_factory=dict)
    """What files call the cases; these have other names where those are taken."""
    bytes_left: int = _MOST_READ_BYTES
    """Of voxels that may be read to tell labels from images."""

    def at(self, path: Path) -> None:
        before = len(self.headers) + len(self.notes)
        for volume in self._volumes(path, _DEEPEST):
            self._inspect(volume)
        if len(self.headers) + len(self.notes) == before:
            self.notes.append(
                f"{path} holds no volume of a known kind; convert it, for instance to "
                ".nii.gz."
            )

    def sorted(self, pattern: str | None, taken: Iterable[str]) -> Iterator[Found]:
        """Propose cases, images first, then the labels that belong to them."""
        labels = {one: None for one in self.headers if self._holds_labels(one)}
        images = [one for one in self.headers if one not in labels]
        cases = self._cases(images, pattern, taken)
        found = [
            Found(one, case, channel)
            for case, channels in cases.items()
            for channel, one in channels.items()
        ]
        found += self._matched([*labels], found)
        order = {case: number for number, case in enumerate(cases)}
        yield from sorted(found, key=lambda one: order[one.case])

    def _volumes(self, path: Path, depth: int) -> Iterator[Path]:
        if path.is_file():
            if _is_scan_file(path):
                yield path
            return
        try:
            is_whole, entries = is_volume(path), _entries(path)
        except OSError as error:
            self.notes.append(
                f"{path} cannot be looked into ({error.strerror}); what lies in it was "
                "left out. Ask for the right to read it, or leave it out."
            )
            return
        if is_whole:
            yield path
        self.folders += 1
        if depth and self.folders <= _MOST_FOLDERS and not is_zarr(path):
            inner = (entry for entry in entries if entry.is_dir() or not is_whole)
            for entry in inner:
                yield from self._volumes(entry, depth - 1)
        if self.folders == _MOST_FOLDERS + 1:
            self.folders += 1
            self.notes.append(
                f"Only the first {_MOST_FOLDERS} folders were looked into; bring the "
                "others after these."
            )

    def _inspect(self, path: Path) -> None:
        try:
            parts = parts_of(path) or (None,)
        except VolumeError as error:
            self.notes.append(str(error))
            return
        for part in parts:
            try:
                self.headers[VolumeFile(path, part)] = inspect_volume(path, part)
            except VolumeError as error:  # of a series; others may be whole
                self.notes.append(str(error))

    def _cases(
        self, images: Sequence[VolumeFile], pattern: str | None, taken: Iterable[str]
    ) -> dict[str, dict[str, VolumeFile]]:
        alone = {one.path: one for one in images if one.part is None}
        grouped = group_by_pattern(alone, pattern)
        cases: dict[str, dict[str, VolumeFile]] = {}
        names = set(taken)
        for case, channels in grouped.items():
            name = unique_name(VolumeFile(Path(case)).name, {*names, *cases})
            cases[name] = {channel: alone[path] for channel, path in channels.items()}
            self.given[name] = case
        parts = [one for one in images if one.part is not None]
        places = [one.path for one in parts]
        for one in parts:
            alone_there = places.count(one.path) == 1
            name = VolumeFile(one.path).name if alone_there else one.name
            cases[unique_name(name, {*names, *cases})] = {"": one}
        return cases

    def _matched(
        self, labels: Sequence[VolumeFile], images: Sequence[Found]
    ) -> Iterator[Found]:
        """Give labels to the case of their name, else to the one that can be meant."""
        labelled: set[str] = set()
        said = {one: self._case_said(one, images) for one in labels}
        for one in sorted(labels, key=lambda one: said[one] is None):
            case = said[one] or self._case_of(one, images, said)
            # Which of several parts is meant is asked later.
            if case is None or (case in labelled and one.part is None):
                why = "to no scan here" if case is None else f"to {case!r} as others do"
                what = Found(one, "").what
                self.notes.append(
                    f"{what} holds labels and belongs {why}; it was left out. Drop it "
                    "onto the picture to see it."
                )
                continue
            labelled.add(case)
            yield Found(one, case, is_labels=True)

    def _case_said(self, labels: VolumeFile, images: Sequence[Found]) -> str | None:
        """Name the case of labels, as a data set or a name says it.

        A name decides among scans of their grid, or where there is none. In a folder
        for labels it decides alone: those of another grid are not somebody else's.
        """
        listed, name = self._image_of(labels), labelled_case(labels.path)
        among = self._alike(labels, images) or images
        by_place = images if lies_among_labels(labels.path) else among
        return _only(one for one in images if one.file.path == listed) or _only(
            one for one in by_place if self.given.get(one.case, one.case) == name
        )

    def _case_of(
        self,
        labels: VolumeFile,
        images: Sequence[Found],
        said: dict[VolumeFile, str | None],
    ) -> str | None:
        """Name the case of labels of which nothing says it, by folder and grid.

        None in a folder for labels in which others are named as their scans.
        """
        folder = labels.path.parent
        beside = (case for one, case in said.items() if one.path.parent == folder)
        if lies_among_labels(labels.path) and any(beside):
            return None
        alike = self._alike(labels, images)
        among = alike or images
        return _only(one for one in among if one.file.path.parent == folder) or _only(
            alike
        )

    def _alike(self, labels: VolumeFile, images: Sequence[Found]) -> list[Found]:
        grid: Grid = self.headers[labels].grid
        return [one for one in images if self.headers[one.file].grid.matches(grid)]

    def _holds_labels(self, one: VolumeFile) -> bool:
        """Whether a volume holds labels; large ones are read when they are added."""
        header = self.headers[one]
        if header.holds_labels is not None:
            return header.holds_labels
        kind = np.dtype(header.dtype).kind
        if len(header.channels) != 1 or kind not in "uif":
            return False
        if lies_among_labels(one.path) or self._image_of(one) is not None:
            return True
        return looks_like_labels(one.path) and (
            kind != "f" or self._may_be_labels(header, one)
        )

    def _may_be_labels(self, header: Header, one: VolumeFile) -> bool:
        """Whether all numbers are whole, as far as they can be read at once."""
        self.bytes_left -= header.bytes
        if self.bytes_left < 0:
            return True  # looked at when it is added
        try:
            for _, block in blocks_of(one.path, one.part)[1]:
                values_in(block, str(one.path))
        except (KdsegError, OSError):
            return False
        return True

    def _image_of(self, labels: VolumeFile) -> Path | None:
        """The image that a data set lists with a file of labels."""
        folder = labels.path.parent.parent
        if folder not in self.pairs:
            self.pairs[folder] = images_of_labels(folder)
        return self.pairs[folder].get(labels.path)


def _with_series(paths: Sequence[Path]) -> list[Path]:
    """Replace several DICOM files of one folder by the folder: they are slices."""
    slices = [path for path in paths if path.is_file() and is_dicom(path)]
    folders = [path.parent for path in slices]
    several = {folder for folder in folders if folders.count(folder) > 1}
    kept = [
        path.parent if path in slices and path.parent in several else path
        for path in paths
    ]
    return list(dict.fromkeys(kept))


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without what is hidden."""
    found = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(found)


def _is_scan_file(path: Path) -> bool:
    """Whether a file is a volume; a pair counts by its header."""
    if (
        suffix_of(path) in _VOXELS_OF_A_PAIR
        and path.with_name(path.name[: -len(suffix_of(path))] + ".hdr").is_file()
    ):
        return False
    return is_volume(path)


def _only(candidates: Iterable[Found]) -> str | None:
    """The case of them all; None where there is none, or several."""
    cases = {one.case for one in candidates}
    return cases.pop() if len(cases) == 1 else None
