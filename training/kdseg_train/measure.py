"""The command measure: organ tables of label files, of predictions, of a project.

What is measured is told by what is given: a label file, a folder of label files, a data
set, the OUT of ``predict``, or a project. The table has a row a scan, model and class.
Each label volume is remembered by the hash of its voxels: measuring again, or after a
stop, takes up what is known.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from kdseg_train import config
from kdseg_train.evaluate import label_set, predicted_files
from kdseg_train.layouts import read_data_set
from napari_kdseg.errors import DataSetError, UsageError, VolumeError
from napari_kdseg.measure.memory import Memory, key_of
from napari_kdseg.measure.organ_rows import COLUMNS, as_record, as_row, from_record
from napari_kdseg.measure.organs import Organ, organ_table
from napari_kdseg.measure.outliers import robust_z
from napari_kdseg.measure.tables import Value, check_table, write_table
from napari_kdseg.project_folder import is_project, read
from napari_kdseg.review.predictions import finder, predictions_in
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.channels import stacked
from napari_kdseg.volumes.labels import LabelSet, labels_hash, values_in
from napari_kdseg.volumes.opening import LARGEST_DECODED_BYTES, open_scan
from napari_kdseg.volumes.references import FileReference
from napari_kdseg.volumes.renumbered import Renumbered
from napari_kdseg.volumes.volume import Grid, VoxelArray, check_same_grid

Count = Callable[[int, int], None]
"""Told how many label volumes are done, and how many there are."""
Of = Literal["predictions", "labels"]
_DATA_SETS = ("dataset.json", "dataset.yaml")


class MeasureConfig(config.Settings):
    """What is measured."""

    version: Literal[1] = 1
    command: Literal["measure"] = "measure"
    labels: Path = Field(
        description="label file, folder of them, data set, OUT of predict, or project"
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
    values: Mapping[str, tuple[int, ...]] | None = None
    """Class -> stored values; None where nobody says: classes are named by value."""
    model: str = ""
    group: str = ""
    images: tuple[Path, ...] = ()
    parts: tuple[str | None, ...] = ()
    noted_hash: str = ""
    """Of the labels, as their prediction's record has it."""


def execute_measurement(run: Run) -> None:
    """Do what a run's config says, and write the table it names."""
    settings = config.parse(MeasureConfig, run.config, str(run.folder))

    def count(done: int, total: int) -> None:
        run.check_stop()
        run.progress(done, total, "scans")

    measure(settings, count, run.check_stop)


def measure(
    settings: MeasureConfig, count: Count, check_stop: Callable[[], None] = lambda: None
) -> list[dict[str, Value]]:
    """Measure what the settings name, and write the table.

    Parameters
    ----------
    count
        Told of progress after each scan.
    check_stop
        Called often; may raise to stop. What is measured by then is remembered.

    Returns
    -------
    list of dict
        The rows that were written.

    Raises
    ------
    UsageError, DataSetError
        Where there is nothing to measure, or the table cannot be named so.
    GridError, LabelError, VolumeError
        Where scan and labels do not fit, or are damaged; no table is written.
    """
    check_table(settings.out)
    found = subjects(settings)
    memory = Memory(settings.memory)
    rows: list[dict[str, Value]] = []
    for number, subject in enumerate(found, start=1):
        rows += measured(subject, settings.channel, memory, check_stop)
        count(number, len(found))
    _mark(rows)
    write_table(settings.out, rows, COLUMNS)
    return rows


# ---- What there is to measure ----


def subjects(settings: MeasureConfig) -> list[Subject]:
    """Find the labels that the settings name, and their scans.

    Raises
    ------
    DataSetError
        Where there are none.
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
    if is_project(place):
        own = settings.of == "labels"
        return _annotated(place) if own else _predicted_in_project(place)
    if not place.exists():
        raise DataSetError(f"{place} is not there; give labels that are.")
    if formats.is_volume(place):
        return [_with_scan(_from_file(place), settings.images)]
    if any((place / name).is_file() for name in _DATA_SETS):
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
        group = case.group or ("test" if case.held_out else "")
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


def _from_file(path: Path) -> Subject:
    known = formats.read_label_set(path)
    values = None if known is None else {c.name: (c.value,) for c in known.classes}
    return Subject(formats.case_id(path), path, values)


def _with_scan(subject: Subject, image: Path | None) -> Subject:
    return subject if image is None else replace(subject, images=(image,))


# ---- One label volume ----


def measured(
    subject: Subject,
    channel: str | None,
    memory: Memory,
    check_stop: Callable[[], None] = lambda: None,
) -> list[dict[str, Value]]:
    """Measure one label volume, or take up what is remembered of it.

    Raises
    ------
    UsageError
        Where its scan has no such channel.
    GridError, LabelError, VolumeError
        Where scan and labels do not fit, or are damaged.
    """
    labels, grid = labels_of(subject)
    image, name = channel_of(subject, channel, grid)
    values = subject.values or _by_value(labels, subject.labels)
    key = key_of(
        "organs",
        labels=subject.noted_hash or labels_hash(labels[0]),
        grid=grid.affine.tolist(),
        values={organ: list(stored) for organ, stored in values.items()},
        images=[_stamp(path) for path in subject.images],
        parts=subject.parts,
        channel=name,
    )
    organs = _remembered(memory, key)
    if organs is None:
        organs = _organs(subject, labels, grid, values, image, check_stop)
        memory.keep(key, [as_record(organ) for organ in organs])
    about = {"case": subject.case, "model": subject.model, "group": subject.group}
    return [
        {**about, **as_row(organ), "channel": name, "volume_robust_z": math.nan}
        for organ in organs
    ]


def _organs(
    subject: Subject,
    labels: VoxelArray,
    grid: Grid,
    values: Mapping[str, tuple[int, ...]],
    image: VoxelArray | None,
    check_stop: Callable[[], None],
) -> list[Organ]:
    classes = LabelSet.from_names(values)
    table = np.zeros(2**16, classes.dtype)
    for number, stored in enumerate(values.values(), start=1):
        table[list(stored)] = number
    indices = Renumbered(labels, table, label_set(values), str(subject.labels))
    return organ_table(
        indices,
        grid,
        classes,
        image,
        name=str(subject.labels),
        count=lambda _done, _total: check_stop(),
    )


def _remembered(memory: Memory, key: str) -> list[Organ] | None:
    try:
        return [from_record(record) for record in memory.recall(key)]
    except (TypeError, ValueError, KeyError):
        return None  # nothing, or nothing of use


def labels_of(subject: Subject) -> tuple[VoxelArray, Grid]:
    """Open labels, 1, z, y, x: decoded where they are small, else read by pieces.

    Raises
    ------
    LabelError, VolumeError
        Where they are damaged, or no labels.
    """
    header = formats.inspect_volume(subject.labels)
    if header.bytes > LARGEST_DECODED_BYTES:
        volume = open_scan(subject.labels)
        return volume.data, volume.grid
    data, grid = formats.read_labels(subject.labels)
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


def _by_value(labels: VoxelArray, path: Path) -> dict[str, tuple[int, ...]]:
    """Classes called by their values, where nobody says what these mean."""
    found: set[int] = set()
    for start in range(0, labels.shape[1], 32):
        found |= {*values_in(np.asarray(labels[0, start : start + 32]), str(path))}
    return {str(value): (value,) for value in sorted(found - {0})}


def _stamp(path: Path) -> list[object]:
    try:
        noted = FileReference.to(path)
    except OSError as error:
        raise VolumeError(
            f"{path} cannot be read ({error.strerror}); put the scan back, or measure "
            "without it."
        ) from error
    return [noted.path, noted.bytes, noted.modified_ns]


# ---- The table ----


def _mark(rows: list[dict[str, Value]]) -> None:
    """Say how far each volume lies from those of its organ, model and group."""
    alike: dict[tuple[Value, ...], list[dict[str, Value]]] = {}
    for row in rows:
        alike.setdefault((row["class"], row["model"], row["group"]), []).append(row)
    for of_one_kind in alike.values():
        far = robust_z([float(row["volume_mm3"]) for row in of_one_kind])
        for row, z in zip(of_one_kind, far, strict=True):
            row["volume_robust_z"] = float(z)
