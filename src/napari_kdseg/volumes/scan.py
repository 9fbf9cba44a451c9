"""A scan: the files of one case by channel, on one grid, and perhaps its labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import Header, inspect_volume
from napari_kdseg.volumes.naming import is_plain_name, plain_name
from napari_kdseg.volumes.references import FileReference
from napari_kdseg.volumes.volume import Grid, case_id, check_same_grid

SHARE_A_GRID = (
    "The files of a scan share one grid: have them resampled onto the first one's, or "
    "add them as scans of their own."
)

Use = Literal["training", "test", "none", "left-out"]
"""What a scan may be used for: to learn from, to measure with (held out), neither.

``none`` says that nobody chose, and such a scan is learnt from; ``left-out`` keeps it
from every training, as labelled, as unlabelled and as test.
"""


@dataclass(frozen=True)
class VolumeFile:
    """One volume on disk."""

    path: Path
    part: str | None = None
    """Which one, where the file or folder holds several."""
    channel: str = ""
    """What it shows; empty takes what the file says."""

    @property
    def name(self) -> str:
        """What to call a scan of it."""
        stem = case_id(self.path)
        return plain_name(stem if self.part is None else f"{stem}-{self.part}")


@dataclass(frozen=True)
class NewScan:
    """Files that are to become a scan."""

    images: tuple[VolumeFile, ...]
    """One at least; the grid of the first is the scan's."""
    labels: VolumeFile | None = None
    case: str = ""
    """Its name; empty takes that of the first file."""
    annotated: tuple[str, ...] = ()
    """Classes the labels speak about; empty: all."""
    history: tuple[str, ...] = ()
    """What was done to its files, a sentence each."""

    @property
    def files(self) -> tuple[VolumeFile, ...]:
        """Images, then labels."""
        return self.images if self.labels is None else (*self.images, self.labels)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredFile(_Record):
    """One volume of a scan, and where it lies."""

    file: FileReference
    part: str | None = None


class StoredImage(StoredFile):
    """An image of a scan, and what its channels show."""

    channels: tuple[str, ...] = Field(min_length=1)


class StoredGrid(_Record):
    """A grid in words that JSON has."""

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, float, float, float], ...] = Field(
        min_length=4, max_length=4
    )

    @model_validator(mode="after")
    def _check(self) -> "StoredGrid":
        try:
            _ = self.grid
        except VolumeError as error:
            raise ValueError(str(error)) from error
        return self

    @classmethod
    def of(cls, grid: Grid) -> "StoredGrid":
        """Write a grid down."""
        return cls(shape=grid.shape, affine=grid.affine.tolist())

    @property
    def grid(self) -> Grid:
        """The grid that was written down."""
        return Grid.from_affine(np.asarray(self.affine), self.shape)


class Scan(_Record):
    """One scan as a project keeps it: references to files, never their voxels."""

    case: str = Field(min_length=1)
    images: tuple[StoredImage, ...] = Field(min_length=1)
    labels: StoredFile | None = None
    annotated: tuple[str, ...] = ()
    use: Use = "none"
    grid: StoredGrid
    bytes: int = Field(ge=0, description="memory that its voxels take once read")
    notes: tuple[str, ...] = Field((), description="what the files say of themselves")
    history: tuple[str, ...] = Field((), description="what was done to the files")

    @field_validator("case")
    @classmethod
    def _check_case(cls, case: str) -> str:
        # Names become folders, also those that come from a file.
        if not is_plain_name(case):
            raise ValueError(f"{case!r} cannot be the name of a folder")
        return case

    @property
    def channels(self) -> tuple[str, ...]:
        """What its channels show, in the order of its files."""
        return tuple(name for image in self.images for name in image.channels)

    @property
    def badge(self) -> str:
        """Orientation and voxel size, as ``RAS, 0.8 x 0.8 x 2.0 mm``."""
        return self.grid.grid.describe()

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Images, then labels."""
        return self.images if self.labels is None else (*self.images, self.labels)

    def as_new(self, folder: Path | None = None) -> NewScan:
        """Give its files as they are found now, to be looked at again."""

        def at(stored: StoredFile, channel: str = "") -> VolumeFile:
            path = stored.file.find(folder) or Path(stored.file.path)
            return VolumeFile(path, stored.part, channel)

        images = tuple(
            at(image, image.channels[0] if len(image.channels) == 1 else "")
            for image in self.images
        )
        labels = None if self.labels is None else at(self.labels)
        return NewScan(images, labels, self.case, self.annotated, self.history)

    def holds(self, path: Path, part: str | None) -> bool:
        """Whether a volume is one of its images."""
        wanted = path.absolute().as_posix()
        return any(
            image.file.path == wanted and image.part == part for image in self.images
        )


def described(new: NewScan, case: str, folder: Path | None = None) -> Scan:
    """Look at the files of a scan, and write down what they are.

    Parameters
    ----------
    new
        The files.
    case
        The scan's name.
    folder
        The project's folder, which may be moved together with the files.

    Raises
    ------
    VolumeError
        When a file is missing or damaged, or two channels have one name.
    GridError
        When the files do not share a grid.
    """
    headers = [inspect_volume(one.path, one.part) for one in new.files]
    first = headers[0]
    for other in headers[1:]:
        check_same_grid(first.grid, other.grid, first.path, other.path, SHARE_A_GRID)
    images = headers[: len(new.images)]
    names = [
        _channels(one, header) for one, header in zip(new.images, images, strict=True)
    ]
    _refuse_doubles(case, names)
    _check_labels(new)
    return Scan(
        case=case,
        images=tuple(
            StoredImage(file=_noted(one, folder), part=one.part, channels=channels)
            for one, channels in zip(new.images, names, strict=True)
        ),
        labels=None
        if new.labels is None
        else StoredFile(file=_noted(new.labels, folder), part=new.labels.part),
        annotated=new.annotated,
        grid=StoredGrid.of(first.grid),
        bytes=sum(header.bytes for header in images),
        notes=tuple(dict.fromkeys(note for header in headers for note in header.notes)),
        history=new.history,
    )


def off_grid(new: NewScan) -> Iterator[VolumeFile]:
    """Find the files that are not on the grid of the first image."""
    first = inspect_volume(new.images[0].path, new.images[0].part).grid
    for one in new.files[1:]:
        if not inspect_volume(one.path, one.part).grid.matches(first):
            yield one


def _channels(one: VolumeFile, header: Header) -> tuple[str, ...]:
    if not one.channel:
        return header.channels
    if len(header.channels) == 1:
        return (one.channel,)
    return tuple(f"{one.channel} {name}" for name in header.channels)


def _refuse_doubles(case: str, names: list[tuple[str, ...]]) -> None:
    flat = [name for one in names for name in one]
    double = next((name for name in flat if flat.count(name) > 1), None)
    if double is not None:
        raise VolumeError(
            f"The scan {case} has two channels called {double!r}; each needs a name of "
            "its own. Name the channels of its files, such as t1 and t2."
        )


def _check_labels(new: NewScan) -> None:
    if new.labels is None:
        if new.annotated:
            raise VolumeError(
                f"{new.images[0].path} is to have {', '.join(new.annotated)} annotated "
                "and has no labels; only labels speak of classes. Give its labels too."
            )
        return
    header = inspect_volume(new.labels.path, new.labels.part)
    if len(header.channels) != 1:
        raise VolumeError(
            f"{new.labels.path} has {len(header.channels)} channels; labels have one. "
            "Combine them into one value a voxel."
        )


def _noted(one: VolumeFile, folder: Path | None) -> FileReference:
    try:
        return FileReference.to(one.path, folder)
    except OSError as error:
        raise VolumeError(
            f"{one.path} cannot be read ({error.strerror}); a scan needs all its "
            "files. Look whether it was moved."
        ) from error
