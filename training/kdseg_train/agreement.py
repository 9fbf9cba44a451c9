"""How one prediction agrees with its reference: scores by class, and worst slices.

Surface distances of a large scan take many seconds, so they can be remembered by the
hashes of both labels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.measure.disagreement import WrongSlice, worst_slices
from napari_kdseg.measure.memory import Memory, key_of
from napari_kdseg.measure.metrics import ClassScore, Overlap, score
from napari_kdseg.measure.tables import write_table
from napari_kdseg.volumes.labels import LabelSet, labels_hash
from napari_kdseg.volumes.volume import Grid

SLICE_COLUMNS = ("case", "model", "axis", "index", "wrong_vox", "wrong_mm2", "dice")
"""``axis`` is that of the stored array: 0, 1, 2 for z, y, x."""


@dataclass(frozen=True)
class Agreement:
    """Of one case under one model."""

    scores: tuple[ClassScore, ...]
    slices: tuple[WrongSlice, ...]


@dataclass(frozen=True)
class SliceRow:
    """A slice that differs from its reference."""

    case: str
    model: str
    slice: WrongSlice


def agreement(
    truth: np.ndarray,
    guess: np.ndarray,
    classes: LabelSet,
    grid: Grid,
    nsd_tolerance_mm: float,
    memory: Memory | None = None,
) -> Agreement:
    """Compare labels by class and by slice, or take up what is remembered.

    Parameters
    ----------
    truth, guess
        Class indices z, y, x on one grid.

    Raises
    ------
    GridError
        Where the shapes differ.
    """
    if memory is None:
        return _compared(truth, guess, classes, grid, nsd_tolerance_mm)
    key = key_of(
        "agreement",
        truth=labels_hash(truth),
        guess=labels_hash(guess),
        classes=classes.names,
        spacing_mm=grid.spacing_mm,
        nsd_tolerance_mm=nsd_tolerance_mm,
    )
    found = _from_record(memory.recall(key))
    if found is None:
        found = _compared(truth, guess, classes, grid, nsd_tolerance_mm)
        memory.keep(key, asdict(found))
    return found


def write_slices(path: Path, rows: Sequence[SliceRow]) -> None:
    """Write the slices that differ most as a table, CSV or Parquet.

    Raises
    ------
    UsageError, VolumeError
        Where its name is no table's, or it cannot be written.
    """
    written = [
        {"case": row.case, "model": row.model, **asdict(row.slice)} for row in rows
    ]
    write_table(path, written, SLICE_COLUMNS)


def _compared(
    truth: np.ndarray,
    guess: np.ndarray,
    classes: LabelSet,
    grid: Grid,
    nsd_tolerance_mm: float,
) -> Agreement:
    scores = score(truth, guess, classes, grid.spacing_mm, nsd_tolerance_mm)
    return Agreement(tuple(scores), tuple(worst_slices(truth, guess, grid.spacing_mm)))


def _from_record(record: Any) -> Agreement | None:
    try:
        scores = tuple(
            ClassScore(**{**one, "overlap": Overlap(**one["overlap"])})
            for one in record["scores"]
        )
        return Agreement(scores, tuple(WrongSlice(**one) for one in record["slices"]))
    except (TypeError, KeyError):
        return None  # nothing, or nothing of use
