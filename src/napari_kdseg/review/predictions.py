"""Which predictions there are, each with its labels and the scan it was made from.

A folder of results has ``CASE/MODEL/prediction.json`` beside the labels it tells of.
The scan is where it was then, or wherever the project finds the scan of that name now.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_kdseg.review.verdicts import About
from napari_kdseg.volumes.formats import is_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.scan import Scan
from napari_kdseg.volumes.volume import Grid

RECORD = "prediction.json"
VERSION = 1

Find = Callable[[str, Path], Path | None]
"""Gives the place of a file now, from the case and the place it had; None: gone."""


@dataclass(frozen=True)
class Prediction:
    """What one model said about one scan; it never changes."""

    case: str
    model: str
    """The model's name."""
    folder: Path
    """``CASE/MODEL``."""
    uuid: str
    labels_hash: str
    """SHA-256 of the labels: what a verdict is about."""
    fingerprint: str
    """Of the model."""
    scan_hash: str
    """SHA-256 of the scan's file; of several, that of their hashes in order."""
    grid: Grid
    labels: Path
    uncertainty: Path | None
    """The model's own, else the highest of all teachers; None where there is none."""
    regions: Path | None
    """Which teachers claim a voxel, one bit each; None where there is one teacher."""
    images: tuple[Path, ...]
    """One file with every channel, or one file a channel; as noted where missing."""
    parts: tuple[str | None, ...]
    """Which volume of each file, where it holds several."""
    classes: LabelSet
    missing: str = ""
    """Why the scan cannot be shown; empty where it can."""

    def about(self, axis: int, index: int) -> About:
        """Name one slice, as a verdict does."""
        return About(
            case=self.case,
            axis=axis,
            index=index,
            labels_hash=self.labels_hash,
            model=self.fingerprint,
            prediction=self.uuid,
            scan_hash=self.scan_hash,
        )

    def slices(self, axis: int) -> int:
        """Say how many slices there are across an axis of the stored array."""
        return self.grid.shape[axis]


def as_noted(case: str, path: Path) -> Path | None:
    """Look for a file only where it was."""
    del case
    return path if path.exists() else None


def finder(scans: Iterable[Scan], folder: Path) -> Find:
    """Look for files among the scans of a project, else where they were.

    Parameters
    ----------
    scans
        Of the project.
    folder
        The project's folder, which may have moved together with them.
    """
    by_case = {scan.case: scan for scan in scans}

    def find(case: str, path: Path) -> Path | None:
        scan = by_case.get(case)
        noted = () if scan is None else scan.images
        for image in noted:
            if image.file.name == path.name or Path(image.file.path) == path:
                found = image.file.find(folder)
                if found is not None:
                    return found
        return as_noted(case, path)

    return find


def records_in(folder: Path) -> tuple[Path, ...]:
    """List the records of all predictions in a folder of results, by case and model."""
    found = folder.glob(f"*/*/{RECORD}")
    return tuple(sorted(path for path in found if not _unfinished(path)))


def predictions_in(
    folder: Path,
    find: Find = as_noted,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[Prediction, ...]:
    """Find all predictions in a folder of results; only their records are read.

    Parameters
    ----------
    folder
        ``PROJECT/predictions``, or what was given to `kdseg-train predict` as --out.
    find
        Looks for the scans' files.
    note
        Told a sentence about each prediction that is damaged and left out.

    Returns
    -------
    tuple of Prediction
        By case, then model.
    """
    made = []
    for path in records_in(folder):
        try:
            made.append(_prediction(path, find))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            note(
                f"{path} cannot be used ({_in_brief(error)}), so that prediction is "
                "left out; the others can be reviewed. Make it anew."
            )
    return tuple(made)


def _prediction(path: Path, find: Find) -> Prediction:
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["version"] > VERSION:
        raise ValueError(
            f"version {record['version']}, and this program knows {VERSION}"
        )
    case, folder = str(record["case"]), path.parent
    sources = [Path(one["path"]) for one in record["source"]]
    places = [find(case, source) for source in sources]
    return Prediction(
        case=case,
        model=str(record["model"]["name"]),
        folder=folder,
        uuid=str(record["uuid"]),
        labels_hash=str(record["labels"]["sha256"]),
        fingerprint=str(record["model"]["fingerprint"]),
        scan_hash=_joined([str(one["sha256"]) for one in record["source"]]),
        grid=_grid(record["grid"]),
        labels=_beside(folder, str(record["labels"]["file"])),
        uncertainty=_first(folder, "uncertainty")
        or _first(folder.parent, "uncertainty"),
        regions=_first(folder.parent, "regions"),
        images=tuple(
            place or source for place, source in zip(places, sources, strict=True)
        ),
        parts=_parts(record["settings"].get("part"), len(sources)),
        classes=LabelSet(classes=record["labels"]["classes"]),
        missing=_missing(case, sources, places),
    )


def _grid(noted: dict[str, Any]) -> Grid:
    z, y, x = (int(size) for size in noted["shape"])
    dz, dy, dx = (float(size) for size in noted["spacing_mm"])
    wx, wy, wz = (float(place) for place in noted["origin_mm"])
    rows = noted["direction"]
    direction = tuple(tuple(float(value) for value in row) for row in rows)
    if min(z, y, x) < 1 or [len(row) for row in direction] != [3, 3, 3]:
        raise ValueError("its grid is none")
    return Grid((z, y, x), (dz, dy, dx), (wx, wy, wz), direction)


def _beside(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise ValueError(f"its labels {name!r} lie outside of its folder")
    if not (folder / name).exists():
        raise ValueError(f"its labels {name!r} are missing")
    return folder / name


def _first(folder: Path, kind: str) -> Path | None:
    found = sorted(path for path in folder.glob(f"{kind}.*") if is_volume(path))
    return found[0] if found else None


def _parts(noted: Any, count: int) -> tuple[str | None, ...]:
    if isinstance(noted, list) and len(noted) == count:
        return tuple(None if part is None else str(part) for part in noted)
    return (str(noted) if isinstance(noted, str) else None,) * count


def _joined(hashes: Sequence[str]) -> str:
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _missing(case: str, sources: Sequence[Path], places: Sequence[Path | None]) -> str:
    gone = [
        str(source)
        for source, place in zip(sources, places, strict=True)
        if place is None
    ]
    if not gone:
        return ""
    return (
        f"{gone[0]} is missing, so the prediction of {case!r} cannot be reviewed; the "
        "others can. Put the file back, or press Locate in the Volumes dock."
    )


def _unfinished(path: Path) -> bool:
    return any(".partial-" in part for part in path.parts[-3:-1])


def _in_brief(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it does not say {error.args[0]!r}"
    if isinstance(error, ValidationError):
        return f"its classes are none: {error.errors()[0]['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
