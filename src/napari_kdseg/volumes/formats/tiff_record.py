"""What a TIFF file of ours says beside the standards: how it lies, and its labels."""

import json
import zlib
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.labels import LabelClass, LabelSet
from napari_kdseg.volumes.volume import Affine, Grid

OWN_KEY = "napari-kdseg"
"""Where we keep what TIFF has no place for."""


@dataclass(frozen=True)
class Own:
    """What a file of ours says beside the standards."""

    kind: str
    affine: Affine
    shape: tuple[int, int, int]
    channels: tuple[str, ...]
    labels: LabelSet | None


def own_record(
    kind: str, grid: Grid, channels: tuple[str, ...], labels: LabelSet | None
) -> dict[str, str]:
    """Write down what TIFF has no place for, as texts under keys."""
    classes = () if labels is None else labels.classes
    record = {
        "version": "1",
        "kind": kind,
        "affine_ras_mm": json.dumps(grid.affine.tolist()),
        "shape_zyx": json.dumps(grid.shape),
        "channels": json.dumps(channels),
        "labels": json.dumps([item.model_dump() for item in classes]),
    }
    return {**record, "crc32": _checksum(record)}


def own_of(record: dict[str, str] | None, name: str) -> Own | None:
    """Read our record; None where there is none.

    Raises
    ------
    VolumeError
        When it is there and makes no sense.
    """
    if not record:
        return None
    try:
        if record["crc32"] != _checksum(record):
            raise ValueError("its checksum is wrong")
        z, y, x = (int(size) for size in json.loads(record["shape_zyx"]))
        affine = np.asarray(json.loads(record["affine_ras_mm"]), dtype=np.float64)
        classes = [LabelClass(**item) for item in json.loads(record["labels"])]
        own = Own(
            kind=str(record["kind"]),
            affine=affine.reshape(4, 4),
            shape=(z, y, x),
            channels=tuple(str(item) for item in json.loads(record["channels"])),
            labels=LabelSet(classes=tuple(classes)) if classes else None,
        )
        Grid.from_affine(own.affine, own.shape)
    except (ValueError, KeyError, TypeError, ValidationError, VolumeError) as error:
        raise VolumeError(
            f"{name} has a record of {OWN_KEY} that cannot be understood "
            f"({type(error).__name__}: {error}). It is damaged: make it anew."
        ) from error
    return own


def _checksum(record: dict[str, str]) -> str:
    """Sum up the texts, so that a damaged one does not move a volume."""
    rest = {key: text for key, text in record.items() if key != "crc32"}
    return f"{zlib.crc32(json.dumps(rest, sort_keys=True).encode()):08x}"
