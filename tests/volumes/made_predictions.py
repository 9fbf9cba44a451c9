"""Predictions as `kdseg-train predict` publishes them, made without predicting."""

import hashlib
import json
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

CLASSES = LabelSet.from_names(["gut", "heart"])


def grid_of(shape: tuple[int, ...], spacing_mm: tuple[float, ...] = (1, 1, 1)) -> Grid:
    """A grid along the world's axes; spacing z, y, x."""
    return Grid.from_affine(np.diag([*spacing_mm[::-1], 1.0]), shape)


def write_prediction(
    out: Path,
    case: str,
    labels: np.ndarray,
    *,
    model: str = "student",
    scan: Path | None = None,
    image: np.ndarray | None = None,
    uncertainty: np.ndarray | None = None,
    ending: str = ".nii.gz",
    fingerprint: str = "",
    spacing_mm: tuple[float, ...] = (1, 1, 1),
) -> Path:
    """Publish one prediction; the scan is written too, beside `out`, where not given.

    Returns ``OUT/CASE/MODEL``.
    """
    grid = grid_of(labels.shape, spacing_mm)
    if scan is None:
        scan = out.parent / "scans" / f"{case}{ending}"
        scan.parent.mkdir(parents=True, exist_ok=True)
        if image is None:
            image = np.arange(labels.size, dtype=np.int16).reshape(labels.shape)
        if not scan.exists():
            write_volume(scan, image, grid)
    folder = out / case / model
    folder.mkdir(parents=True)
    write_labels(folder / f"labels{ending}", labels, grid, CLASSES)
    if uncertainty is not None:
        write_volume(folder / f"uncertainty{ending}", uncertainty, grid)
    record: dict[str, Any] = {
        "version": 1,
        "uuid": str(uuid.uuid4()),
        "case": case,
        "model": {
            "name": model,
            "role": "student",
            "fingerprint": fingerprint or hash_of(model.encode()),
            "licence": "",
        },
        "labels": {
            "file": f"labels{ending}",
            "sha256": hash_of(np.ascontiguousarray(labels).tobytes()),
            "classes": CLASSES.model_dump(mode="json")["classes"],
        },
        "source": [{"path": str(scan), "sha256": hash_of(case.encode())}],
        "grid": asdict(grid),
        "settings": {"version": 1, "command": "predict", "part": None},
        "seconds": 1.0,
    }
    (folder / "prediction.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def write_regions(case_folder: Path, bits: np.ndarray, ending: str = ".nii.gz") -> None:
    """Publish claims of two teachers on two classes, beside their predictions."""
    write_labels(case_folder / f"regions{ending}", bits, grid_of(bits.shape), None)
    claims = [
        {"bit": 0, "teacher": "one", "class": "gut", "value": 1},
        {"bit": 1, "teacher": "two", "class": "heart", "value": 2},
    ]
    noted = {"version": 1, "overlap_rule": "sum", "claimants": claims}
    (case_folder / "regions.json").write_text(json.dumps(noted), encoding="utf-8")


def change_record(folder: Path, **changes: Any) -> None:
    """Change what ``prediction.json`` says."""
    path = folder / "prediction.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, **changes}), encoding="utf-8")


def hash_of(data: bytes) -> str:
    """SHA-256, as in the records."""
    return hashlib.sha256(data).hexdigest()
