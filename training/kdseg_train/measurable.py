"""What there is to measure: labels of a file, a folder, a data set, a project."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from kdseg_train import config
from kdseg_train.label_files import (
    Values,
    predicted_files,
    values_said,
)
from kdseg_train.layouts import describes_cases, read_data_set
from napari_kdseg.errors import DataSetError, UsageError
from napari_kdseg.project_folder import is_project, read
from napari_kdseg.review.predictions import finder, predictions_in
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.channels import stacked
from napari_kdseg.volumes.formats.header import LARGEST_DECODED_BYTES
from napari_kdseg.volumes.opening import open_scan
from napari_kdseg.volumes.volume import Grid, VoxelArray, check_same_grid

Of = Literal["predictions", "labels"]


class MeasureConfig(config.Settings):
    """What is measured."""

    version: Literal[1] = 1
    command: Literal["measure"] = "measure"
    labels: Path = Field(
        description="label file, folder of them, data set, OUT of predict, or project"
    )
    part: str | None = Field(
        None, description="which volume of a label file that holds several"
    )
    images: Path | None = Field(
        None,
        description="scan, or folder of scans named like the labels; none: where the "
        "labels' own records say",
    )
    of: Of = Field(
        "predictions", description="of a project: its predictions, or its own labels"
    )
    case: str | None = Field(None, description="this scan alone; none: all")
    model: str | None = Field(None, description="of this model alone; none: of all")
    channel: str | None = Field(
        None, description="whose intensity is measured; none: the first"
    )
    out: Path = Field(description="the table: .csv or .parquet")
    memory: Path | None = Field(
        None, description="where measurements are remembered; none: the user's cache"
    )


@dataclass(frozen=True)
class Subject:
    """Labels to measure, and the scan they belong to."""

    case: str
    labels: Path
    values: Values | None = None
    """Class -> stored values; None where nobody says: classes are named by value."""
    model: str = ""
    group: str = ""
    images: tuple[Path, ...] = ()
    parts: tuple[str | None, ...] = ()
    noted_hash: str = ""
    """Of the labels, as their prediction's record has it."""
    labels_part: str | None = None
    """Which volume of the label file, where it holds several."""


def subjects(settings: MeasureConfig) -> list[Subject]:
    """Find the labels that the settings name, and their scans.

    Raises
    ------
    DataSetError
        Where there are none.
    UsageError
        Where a part is asked for of what is no file.
    """
    found = [
        one
        for one in _listed(settings)
        if settings.case in (None, one.case) and settings.model in (None, one.model)
    ]
    if not found:
        asked = [name for name in (settings.case, settings.model) if name is not None]
        which = f" of {' by '.join(asked)}" if asked else ""
        raise DataSetError(
            f"{settings.labels} has no {settings.of}{which} to measure. Predict first, "
            "or choose another scan or model."
        )
    return found


def _listed(settings: MeasureConfig) -> Iterable[Subject]:
    place = settings.labels
    if settings.part is not None and not formats.is_volume(place):
        raise UsageError(
            f"{place} is no label file, and a part ({settings.part!r}) is one volume "
            "of a file. Name the file, or leave --part out."
        )
    if is_project(place):
        own = settings.of == "labels"
        return _annotated(place) if own else _predicted_in_project(place)
    if not place.exists():
        raise DataSetError(f"{place} is not there; give labels that are.")
    if formats.is_volume(place):
        return [_with_scan(_from_file(place, settings.part), settings.images)]
    if describes_cases(place):
        return _annotated(place)
    return _from_folder(place, settings.images)


def _predicted_in_project(project: Path) -> Iterator[Subject]:
    scans = read(project)[0].scans
    groups = {scan.case: scan.use for scan in scans}
    for one in predictions_in(project / "predictions", finder(scans, project)):
        yield Subject(
            one.case,
            one.labels,
            {item.name: (item.value,) for item in one.classes.classes},
            one.model,
            groups.get(one.case, ""),
            () if one.missing else one.images,
            one.parts,
            one.labels_hash,
        )


def _annotated(folder: Path) -> Iterator[Subject]:
    for case in read_data_set(folder).cases:
        if case.label is None:
            continue
        spoken = {name: case.values[name] for name in case.annotated}
        use = "test" if case.held_out else "left-out" if case.left_out else ""
        group = case.group or use
        images = tuple(path for path in case.images if path.exists())
        yield Subject(case.id, case.label, spoken or None, "", group, images)


def _from_folder(folder: Path, images: Path | None) -> Iterator[Subject]:
    scans: dict[str, tuple[Path, ...]] = {}
    if images is not None:
        scans = {case.id: case.images for case in read_data_set(images).cases}
    records = {one.labels: one for one in predictions_in(folder)}
    for file in predicted_files(folder):
        record = records.get(file.path)
        one = Subject(file.case, file.path, file.values, file.model)
        if record is not None:
            own = () if record.missing else record.images
            one = replace(
                one, images=own, parts=record.parts, noted_hash=record.labels_hash
            )
        if file.case in scans:
            one = replace(one, images=scans[file.case], parts=())
        yield one


def _from_file(path: Path, part: str | None) -> Subject:
    said = values_said(path, part)
    return Subject(formats.case_id(path), path, said, labels_part=part)


def _with_scan(subject: Subject, image: Path | None) -> Subject:
    return subject if image is None else replace(subject, images=(image,))


# ---- Opening ----


def labels_of(subject: Subject) -> tuple[VoxelArray, Grid]:
    """Open labels, 1, z, y, x: decoded where they are small, else read by pieces.

    Raises
    ------
    LabelError, VolumeError
        Where they are damaged, or no labels.
    """
    path, part = subject.labels, subject.labels_part
    if formats.inspect_volume(path, part).bytes > LARGEST_DECODED_BYTES:
        volume = open_scan(path, part)
        return volume.data, volume.grid
    data, grid = formats.read_labels(path, part)
    return data[None], grid


def channel_of(
    subject: Subject, channel: str | None, grid: Grid
) -> tuple[VoxelArray | None, str]:
    """Open one channel of a scan, z, y, x, and say its name; None without a scan.

    Raises
    ------
    UsageError
        Where there is no such channel.
    GridError, VolumeError
        Where it does not lie on the grid of the labels, or is damaged.
    """
    if not subject.images:
        if channel is not None:
            raise UsageError(
                f"The scan of {subject.case!r} is not known, so there is no channel "
                f"{channel!r} to measure. Give the folder of the scans."
            )
        return None, ""
    parts = subject.parts or (None,) * len(subject.images)
    volumes = [
        open_scan(path, part) for path, part in zip(subject.images, parts, strict=True)
    ]
    scan = stacked(volumes)
    check_same_grid(
        scan.grid,
        grid,
        subject.images[0],
        subject.labels,
        "Give the scan that the labels were made from, or resample one of them.",
    )
    name = channel or scan.channels[0]
    if name not in scan.channels:
        raise UsageError(
            f"{subject.images[0]} has no channel {name!r}; it has "
            f"{', '.join(scan.channels)}. Choose one of these."
        )
    return _OneChannel(scan.data, scan.channels.index(name)), name


@dataclass(frozen=True)
class _OneChannel:
    """One channel of a scan, z, y, x."""

    data: VoxelArray
    channel: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape[1:])

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    def __getitem__(self, planes: Any) -> np.ndarray:
        found: np.ndarray = np.asarray(self.data[self.channel, planes])
        return found
