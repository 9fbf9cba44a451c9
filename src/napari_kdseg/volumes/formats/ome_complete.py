"""The record of a finished OME-Zarr, and the checks that it is whole.

A zarr array reads without an error when chunks are missing. So all chunks of ours are
written, also empty ones, and a finished result has a record, `_complete.json`; without
it, or with a chunk too few, the result is refused.
"""

import json
from pathlib import Path
from typing import Any

import zarr

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.ome_chunks import (
    brief,
    expected_chunks,
    open_zarr,
    stored_chunks,
)

COMPLETE = "_complete.json"
"""Name of the record that a finished result has."""
FULL_SIZE = "0"
"""Name of the full-size array in a group of ours; coarser ones count on."""


def finish(path: Path) -> None:
    """Write the record that makes an array, and its coarser levels, a finished result.

    Raises
    ------
    VolumeError
        When a chunk was never written.
    """
    full, *coarser = [_described(path, name) for name in _levels(path)]
    record = {"version": 1, **full, "levels": coarser}
    write_text_atomic(path / COMPLETE, json.dumps(record, indent=1) + "\n")


def check_complete(path: Path, array: zarr.Array[Any], level: str = FULL_SIZE) -> None:
    """Refuse a level without a record, or with another shape or number of chunks.

    Raises
    ------
    VolumeError
        Saying what is missing.
    """
    promised = _promised(path, level)
    expected = expected_chunks(array)
    if promised != (list(array.shape), str(array.dtype), expected):
        raise VolumeError(
            f"{path} has {array.shape} {array.dtype} voxels, and its record promises "
            f"{promised[0]} {promised[1]}; both must be equal. Make the result anew."
        )
    stored = stored_chunks(path / level)
    if stored != expected:
        raise VolumeError(
            f"{path} has {stored} chunks, and its record promises {expected}; "
            "none may be missing. Make the result anew."
        )


def _promised(path: Path, level: str) -> tuple[Any, Any, Any]:
    record = path / COMPLETE
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        if level != FULL_SIZE:
            found = {item["path"]: item for item in found.get("levels", ())}[level]
        return found["shape"], found["dtype"], found["chunks"]
    except FileNotFoundError:
        raise VolumeError(
            f"{path} has no {COMPLETE}; a finished result has one. It is still being "
            "written, or its job was stopped: run that again with --resume."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise VolumeError(
            f"{record} cannot be read ({brief(error)}); it must name shape, dtype and "
            "chunks. It is damaged: make the result anew."
        ) from None


def _levels(path: Path) -> list[str]:
    found = [entry.name for entry in path.iterdir() if entry.is_dir()]
    return sorted((name for name in found if name.isdecimal()), key=int)


def _described(path: Path, level: str) -> dict[str, Any]:
    array = open_zarr(path, level)
    expected, stored = expected_chunks(array), stored_chunks(path / level)
    if stored != expected:
        raise VolumeError(
            f"{path} has {stored} of its {expected} chunks; a finished result has "
            "all. Run the job again with --resume."
        )
    return {
        "path": level,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "chunks": expected,
    }
