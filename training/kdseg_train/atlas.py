"""The command atlas: where organs lie in many scans, once these lie over one of them.

::

    OUT/occupancy.ome.zarr   share of the scans with an organ there, 0 to 1; a channel
                             an organ
        variation.csv        a row an organ: volumes, how much they differ, how far the
                             middles lie apart after the alignment
        alignment.csv        a row a scan: how well it was laid over the reference
        .run                 the run; it goes on after a stop with the next scan

Each scan is laid over the reference by a rigid, then an affine transform
(`measure.alignment`), found on the scans themselves or on the masks of all organs
together. The atlas has the reference's grid, made coarser where that is large.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from kdseg_train import config
from kdseg_train.measurable import (
    MeasureConfig,
    Subject,
    channel_of,
    labels_of,
    subjects,
)
from kdseg_train.measure import measured
from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import DataSetError, UsageError
from napari_kdseg.measure.alignment import (
    Block,
    Likeness,
    align,
    binned_grid,
    factors_for,
    laid_over,
    reduced,
    thinned,
)
from napari_kdseg.measure.memory import Memory
from napari_kdseg.measure.tables import Value, write_table
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.channels import OneChannel
from napari_kdseg.volumes.formats import inspect_volume, write_volume
from napari_kdseg.volumes.volume import Affine, Grid

Format = Literal["ome-zarr", "nifti"]
_ENDINGS = {"ome-zarr": ".ome.zarr", "nifti": ".nii.gz"}
_FINER = 8
"""Voxels of a scan's labels for one of the atlas."""

VARIATION = (
    "class",
    "scans",
    "volume_mean_mm3",
    "volume_sd_mm3",
    "volume_cv",
    "centroid_x_mm",
    "centroid_y_mm",
    "centroid_z_mm",
    "centroid_spread_mm",
    "highest_occupancy",
)
"""Volumes are those of the scans as they are; centroids are in the reference's world.
The spread is the root mean square distance of the centroids from their mean."""
ALIGNMENT = ("case", "unlikeness", "scale_x", "scale_y", "scale_z", "turned_degrees")
"""``unlikeness``: negative mutual information of images, or mean square of masks."""


class AtlasConfig(config.Settings):
    """What becomes an atlas."""

    version: Literal[1] = 1
    command: Literal["atlas"] = "atlas"
    labels: Path = Field(description="project, OUT of predict, data set, or labels")
    images: Path | None = Field(None, description="scans, where labels do not tell")
    of: Literal["predictions", "labels"] = Field(
        "predictions", description="of a project: its predictions, or its own labels"
    )
    model: str | None = Field(None, description="of this model; none: the only one")
    reference: str = Field(description="the scan that all others are laid over")
    on: Likeness = Field(
        "images", description="what is compared: scans, or masks of all organs"
    )
    largest_vox: int = Field(2_000_000, ge=1000, description="voxels of the atlas")
    format: Format = "ome-zarr"
    out: Path = Field(description="folder of the results")
    memory: Path | None = Field(
        None, description="where measurements are remembered; none: the user's cache"
    )


@dataclass(frozen=True)
class Aligned:
    """A scan, and the way from a place of the reference to its own."""

    case: str
    transform: Affine
    unlikeness: float

    def as_row(self) -> dict[str, Value]:
        """Its row in the table of alignments."""
        turn, stretch = _polar(self.transform[:3, :3])
        cosine = (np.trace(turn) - 1) / 2
        x, y, z = (float(value) for value in np.diag(stretch))
        return {
            "case": self.case,
            "unlikeness": self.unlikeness,
            "scale_x": x,
            "scale_y": y,
            "scale_z": z,
            "turned_degrees": math.degrees(math.acos(np.clip(cosine, -1, 1))),
        }


def execute_atlas(run: Run) -> None:
    """Do what a run's config says: align, average, tell the variation.

    Raises
    ------
    UsageError, DataSetError
        Where there is no such reference, or fewer than two scans.
    VolumeError, GridError
        Where a scan is damaged, or cannot be laid over the reference.
    """
    settings = config.parse(AtlasConfig, run.config, str(run.folder))
    found = cases_of(settings)
    reference = next(one for one in found if one.case == settings.reference)
    fixed = _to_align(reference, settings)
    aligned = []
    for number, subject in enumerate(found, start=1):
        run.check_stop()
        aligned.append(_aligned(run, subject, reference, fixed, settings))
        run.progress(number, len(found), "aligning")
    grid = _grid_of(reference, settings)
    classes, occupancy = _averaged(run, found, aligned, grid)
    shares = dict(zip(classes, occupancy, strict=True))
    rows = _variation(run, found, aligned, settings, shares)
    ways = [one.as_row() for one in aligned]
    write_table(settings.out / "alignment.csv", ways, ALIGNMENT)
    write_table(settings.out / "variation.csv", rows, VARIATION)
    write_volume(
        settings.out / f"occupancy{_ENDINGS[settings.format]}",
        occupancy.astype(np.float32),
        grid,
        channels=classes,
    )


def cases_of(settings: AtlasConfig) -> list[Subject]:
    """Find the scans of an atlas, one label volume each.

    Raises
    ------
    UsageError, DataSetError
        Where the reference is not among them, they are fewer than two, or a scan has
        predictions of several models.
    """
    found = subjects(
        MeasureConfig(
            labels=settings.labels,
            images=settings.images,
            of=settings.of,
            model=settings.model,
            out=settings.out / "variation.csv",
        )
    )
    cases = [one.case for one in found]
    if len(set(cases)) < len(cases):
        models = ", ".join(sorted({one.model for one in found}))
        raise UsageError(
            f"{settings.labels} has predictions of several models ({models}); an atlas "
            "has one label volume a scan. Choose one with --model."
        )
    if settings.reference not in cases:
        shown = ", ".join(cases[:5]) + (", ..." if len(cases) > 5 else "")
        raise DataSetError(
            f"{settings.labels} has no labels of the reference "
            f"{settings.reference!r}; it has those of {shown}. Choose one of these."
        )
    if len(cases) < 2:
        raise DataSetError(
            f"{settings.labels} has one scan with labels; an atlas needs two or more."
        )
    return found


# ---- Aligning ----


def _to_align(subject: Subject, settings: AtlasConfig) -> tuple[Block, Grid]:
    labels, grid = labels_of(subject)
    if settings.on == "masks":
        return reduced(_Foreground(labels), grid)
    image, _ = channel_of(subject, None, grid)
    if image is None:
        raise UsageError(
            f"The scan of {subject.case!r} is not known, so it cannot be laid over "
            "others by its image. Give the scans with --images, or use --on masks."
        )
    return reduced(image, grid)


class _Foreground(OneChannel):
    """Whether a voxel has any label; z, y, x."""

    @property
    def dtype(self) -> Any:
        return np.dtype(bool)

    def __getitem__(self, index: Any) -> np.ndarray:
        found: np.ndarray = super().__getitem__(index) != 0
        return found


def _aligned(
    run: Run,
    subject: Subject,
    reference: Subject,
    fixed: tuple[Block, Grid],
    settings: AtlasConfig,
) -> Aligned:
    """Align a scan, or take up what an earlier execution of this run found."""
    if subject.case == reference.case:
        return Aligned(subject.case, np.eye(4), 0.0)
    kept = run.partial / f"{subject.case}.json"
    if kept.exists():
        noted = json.loads(kept.read_text(encoding="utf-8"))
        return Aligned(subject.case, np.array(noted["transform"]), noted["unlikeness"])
    transform, unlikeness = align(
        *fixed, *_to_align(subject, settings), settings.on, run.check_stop
    )
    noted = {"transform": transform.tolist(), "unlikeness": unlikeness}
    write_text_atomic(kept, json.dumps(noted))
    return Aligned(subject.case, transform, unlikeness)


def _polar(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix as a turn after a stretch."""
    left, sizes, right = np.linalg.svd(matrix)
    return left @ right, right.T @ np.diag(sizes) @ right


# ---- Averaging ----


def _grid_of(reference: Subject, settings: AtlasConfig) -> Grid:
    grid = inspect_volume(reference.labels).grid
    return binned_grid(grid, factors_for(grid, settings.largest_vox))[1]


def _averaged(
    run: Run, found: Sequence[Subject], aligned: Sequence[Aligned], grid: Grid
) -> tuple[tuple[str, ...], np.ndarray]:
    """Mean occupancy of each class on the atlas's grid: class, z, y, x."""
    sums: dict[str, np.ndarray] = {}
    largest = _FINER * math.prod(grid.shape)
    for number, (subject, way) in enumerate(zip(found, aligned, strict=True), start=1):
        run.check_stop()
        labels, own = labels_of(subject)
        values = subject.values or {}
        thin, small = thinned(OneChannel(labels), own, largest)
        for name, stored in (values or _by_value(thin)).items():
            mask = np.isin(thin, stored).astype(np.float32)
            laid = laid_over(mask, small, way.transform, grid)
            sums[name] = sums.get(name, 0.0) + laid
        run.progress(number, len(found), "averaging")
    return tuple(sums), np.stack(list(sums.values())) / len(found)


def _by_value(labels: np.ndarray) -> dict[str, tuple[int, ...]]:
    return {str(value): (int(value),) for value in np.unique(labels) if value}


# ---- Variation ----


def _variation(
    run: Run,
    found: Sequence[Subject],
    aligned: Sequence[Aligned],
    settings: AtlasConfig,
    occupancy: dict[str, np.ndarray],
) -> list[dict[str, Value]]:
    memory = Memory(settings.memory)
    ways = {one.case: np.linalg.inv(one.transform) for one in aligned}
    rows: dict[str, list[dict[str, Value]]] = {}
    for number, subject in enumerate(found, start=1):
        bare = Subject(subject.case, subject.labels, subject.values)
        for row in measured(bare, None, memory, run.check_stop):
            if row["voxels"]:
                rows.setdefault(str(row["class"]), []).append(row)
        run.progress(number, len(found), "measuring")
    return [
        _spread(name, rows.get(name, []), ways, float(share.max()))
        for name, share in occupancy.items()
    ]


def _spread(
    name: str, rows: Sequence[dict[str, Value]], ways: dict[str, Affine], highest: float
) -> dict[str, Value]:
    volumes = np.array([float(row["volume_mm3"]) for row in rows])
    middles = np.array([*_middles(rows, ways)]).reshape(-1, 3)
    mean = float(volumes.mean()) if len(rows) else math.nan
    sd = float(volumes.std(ddof=1)) if len(rows) > 1 else math.nan
    middle = middles.mean(axis=0) if len(rows) else np.full(3, math.nan)
    apart = ((middles - middle) ** 2).sum(axis=1)
    return {
        "class": name,
        "scans": len(rows),
        "volume_mean_mm3": mean,
        "volume_sd_mm3": sd,
        "volume_cv": sd / mean,
        "centroid_x_mm": float(middle[0]),
        "centroid_y_mm": float(middle[1]),
        "centroid_z_mm": float(middle[2]),
        "centroid_spread_mm": math.sqrt(apart.mean()) if len(rows) else math.nan,
        "highest_occupancy": highest,
    }


def _middles(
    rows: Sequence[dict[str, Value]], ways: dict[str, Affine]
) -> Iterator[np.ndarray]:
    for row in rows:
        own = [float(row[f"centroid_{axis}_mm"]) for axis in "xyz"]
        yield (ways[str(row["case"])] @ [*own, 1.0])[:3]
