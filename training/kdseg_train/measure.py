"""The command measure: organ tables of label files, of predictions, of a project.

What is measured is told by what is given: a label file, a folder of label files, a data
set, the OUT of ``predict``, or a project. The table has a row a scan, model and class.
Each label volume is remembered by the hash of its voxels: measuring again, or after a
stop, takes up what is known.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kdseg_train import config
from kdseg_train.measurable import (
    MeasureConfig,
    Subject,
    channel_of,
    labels_of,
    subjects,
)
from napari_kdseg.errors import VolumeError
from napari_kdseg.measure.memory import Memory, key_of
from napari_kdseg.measure.organ_rows import COLUMNS, as_record, as_row, from_record
from napari_kdseg.measure.organs import Organ, organ_table
from napari_kdseg.measure.outliers import robust_z
from napari_kdseg.measure.tables import Value, check_table, write_table
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.labels import LabelSet, labels_hash, values_in
from napari_kdseg.volumes.references import FileReference
from napari_kdseg.volumes.renumbered import Renumbered, label_set
from napari_kdseg.volumes.volume import Grid, VoxelArray

Count = Callable[[int, int], None]
"""Told how many label volumes are done, and how many there are."""


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
