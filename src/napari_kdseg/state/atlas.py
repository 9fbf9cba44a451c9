"""An atlas of many scans: what asks for one, where it goes, how it is shown."""

import csv
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_kdseg.errors import RunError, UsageError
from napari_kdseg.project_folder import is_project, read
from napari_kdseg.review.predictions import predictions_in
from napari_kdseg.runs.run import Run
from napari_kdseg.state.layers import LayerData, image_layers, with_record
from napari_kdseg.state.scan_layers import ScanFiles
from napari_kdseg.state.wish import Wish
from napari_kdseg.volumes.cache import default_cache
from napari_kdseg.volumes.labels import distinct_color
from napari_kdseg.volumes.opening import open_scan

OCCUPANCY = "occupancy.ome.zarr"
VARIATION = "variation.csv"
ALIGNMENT = "alignment.csv"
RUN = ".run"
"""The run's folder, in that of the atlas; kept, so that a stopped one goes on."""
_VISIBLE = 6
"""Organs that are seen at once; more hide one another."""


@dataclass(frozen=True)
class Spread:
    """How one organ differs between the scans of an atlas."""

    organ: str
    color: str
    """As #rrggbb."""
    scans: int
    """Scans that have it."""
    volume_mm3: float
    """Mean over the scans as they are; NaN where none has it."""
    volume_cv: float
    """Standard deviation of the volumes by their mean; NaN below two scans."""
    spread_mm: float
    """Root mean square distance of the middles from their mean, after alignment."""


@dataclass(frozen=True)
class Atlas:
    """A finished atlas."""

    folder: Path
    labels: Path
    """The project, or the folder of results, that it was made of."""
    reference: str
    """The scan that all others are laid over."""
    spreads: tuple[Spread, ...]
    """An organ each, in the order of the occupancy's channels."""

    @classmethod
    def read(cls, run: Run) -> "Atlas":
        """Read what a finished run wrote.

        Raises
        ------
        OSError, ValueError, KeyError
            Where it is not there, or not as it was written.
        """
        config = run.config
        folder = Path(config["out"])
        with (folder / VARIATION).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        labels = Path(config["labels"])
        colors = _colors_of(labels)
        spreads = tuple(
            Spread(
                row["class"],
                colors.get(row["class"]) or distinct_color(number),
                int(row["scans"]),
                _number(row["volume_mean_mm3"]),
                _number(row["volume_cv"]),
                _number(row["centroid_spread_mm"]),
            )
            for number, row in enumerate(rows, start=1)
        )
        return cls(folder, labels, str(config["reference"]), spreads)

    def layers(self) -> list[LayerData]:
        """Layers of the reference's scan, and over it one an organ; z, y, x.

        Those of organs are shares of scans, 0 to 1, whose voxels stay on disk. They lie
        on the grid of the reference, or on a coarser one of the same extent.

        Raises
        ------
        VolumeError, ProjectError
            Where a volume is missing or damaged, or the project is.
        """
        volume = open_scan(self.folder / OCCUPANCY)
        made = _scan_layers(self.labels, self.reference)
        found = zip(image_layers(volume), self.spreads, strict=True)
        for number, ((data, arguments, kind), spread) in enumerate(found):
            looks: dict[str, Any] = {
                "name": f"{spread.organ} occupancy",
                "colormap": spread.color,
                "blending": "additive",
                "contrast_limits": (0.0, 1.0),
                "visible": number < _VISIBLE,
            }
            key = f"atlas/{self.folder}/{spread.organ}"
            layer = (data, {**arguments, **looks}, kind)
            made.append(with_record(layer, kind="occupancy", key=key))
        return made


def problem_of(wish: Wish, cases: Sequence[str], models: Sequence[str]) -> str:
    """Say why no atlas can be made; empty where one can.

    Parameters
    ----------
    wish
        Its scan is the one that all others are laid over.
    cases
        Scans with labels; those of the chosen model, where one is chosen.
    models
        Whose labels there are; empty for a project's own labels.
    """
    place, model = wish.labels, wish.model
    if wish.reference is not None:
        return "Choose no reference: an atlas compares scans with one another."
    if place is None or not place.is_dir():
        return "An atlas needs a project, or a folder with results of many scans."
    if not cases and model is None and not is_project(place):
        return (
            f"{place} is no project and has no results of Segment, so its scans are "
            "not known; choose one that is or has."
        )
    if model is None and len(models) > 1:
        return "Choose a model: an atlas has the labels of one."
    if len(cases) < 2:
        return f"An atlas needs two or more scans with labels; here: {len(cases)}."
    if wish.case is None:
        return "Choose the scan that all others are laid over."
    if wish.case not in cases:
        return f"{wish.case} has no labels by {model}; choose another scan or model."
    return ""


def config_of(wish: Wish, out: Path, memory: Path) -> dict[str, Any]:
    """The settings of an atlas, as the command line makes them.

    Parameters
    ----------
    wish
        Without a `problem_of`.
    out
        The folder of the atlas.
    memory
        Where measurements are remembered.
    """
    assert wish.labels is not None
    return {
        "version": 1,
        "command": "atlas",
        "labels": str(wish.labels.absolute()),
        "images": None if wish.images is None else str(wish.images.absolute()),
        "of": wish.of,
        "model": wish.model,
        "reference": wish.case,
        "on": "images",
        "format": "ome-zarr",
        "out": str(out.absolute()),
        "memory": str(memory.absolute()),
    }


def prepare(config: dict[str, Any]) -> Run:
    """Make the run of an atlas; one that was stopped is taken up where it was.

    Raises
    ------
    UsageError
        Where the atlas's folder holds files, other than an unfinished atlas of the
        same settings.
    RunError
        Where the folder cannot be made.
    """
    out = Path(config["out"])
    if _holds_files(out) and not _is_unfinished(out / RUN, config):
        raise UsageError(
            f"{out} holds files already; choose a new or an empty folder for the atlas."
        )
    return Run.create(out / RUN, config)


def command_line(config: dict[str, Any]) -> str:
    """What makes the same atlas in a shell."""
    words = ["kdseg-train", "atlas", config["labels"]]
    words += ["--reference", config["reference"], "--out", config["out"]]
    for name in ("images", "model"):
        if config[name] is not None:
            words += [f"--{name}", config[name]]
    if config["of"] == "labels":
        words.append("--own")
    return shlex.join(words)


# ---- What is shown ----


def _scan_layers(place: Path, case: str) -> list[LayerData]:
    """Layers of a scan of a project or of results, as when it is opened by itself."""
    if is_project(place):
        document, _ = read(place)
        for scan in document.scans:
            if scan.case == case:
                files = ScanFiles(scan, place, document.classes, default_cache())
                return [layer for layer in files.layers() if layer[2] == "image"]
    for one in predictions_in(place):
        if one.case == case and not one.missing:
            found = [
                layer
                for path, part in zip(one.images, one.parts, strict=True)
                for layer in image_layers(open_scan(path, part), part)
            ]
            return [
                with_record(layer, key=f"atlas/{one.folder}/{number}")
                for number, layer in enumerate(found)
            ]
    return []


def _colors_of(place: Path) -> dict[str, str]:
    """The colours in which labels are painted, by class."""
    project = is_project(place)
    results = place / "predictions" if project else place
    known = [one.classes for one in predictions_in(results)[:1]]
    own = read(place)[0].classes if project else None
    if own is not None:
        known.append(own)  # the project's colours go first
    return {item.name: item.color for one in known for item in one.classes}


def _number(text: str) -> float:
    return float(text) if text else math.nan


# ---- Looking at folders ----


def _holds_files(folder: Path) -> bool:
    """Whether a folder holds more than what a system hides in each it shows."""
    if not folder.exists():
        return False
    names = [path.name for path in folder.iterdir()]
    return any(name == RUN or not name.startswith(".") for name in names)


def _is_unfinished(folder: Path, config: dict[str, Any]) -> bool:
    try:
        earlier = Run.open(folder)
    except RunError:
        return False
    return earlier.config == config and earlier.state() != "finished"
