"""The results of one case while they grow: arrays that anybody may look at.

::

    partial/CASE/MODEL/labels.zarr         plain zarr arrays on the scan's own grid;
                       uncertainty.zarr    a missing chunk is not computed yet;
                       probabilities.zarr  uncertainty is uint8, 255 is 1
    partial/CASE/regions.zarr, regions.json, uncertainty.zarr   of all teachers
    partial/CASE/tiles.jsonl               what is finished, with checksums
    partial/CASE/scratch/                  labels on their way through the clean-up

A tile is in the ledger once its chunks have reached the disk, and so has the ledger
before the next tile is taken: a case that was cut off, also by a power failure, goes on
from the last tile whose checksum is right, and computes at most one anew.
"""

import contextlib
import itertools
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray

from kdseg_train.plan import Plan
from kdseg_train.scans import Scan
from napari_kdseg.atomic import sync_files, write_text_atomic
from napari_kdseg.inference.predict import FinishedTile
from napari_kdseg.inference.regions import shares
from napari_kdseg.volumes.formats import files_of
from napari_kdseg.volumes.volume import Box

SLAB_PLANES = 8  # as thin as finished slabs come
FACE_VOX = 256
_DAMAGED = (OSError, ValueError, KeyError, RuntimeError, zarr.errors.BaseZarrError)


class Partial:
    """The growing arrays of one case.

    Parameters
    ----------
    folder
        Where they lie or shall lie. Those of other files or models are thrown away.
    plan, scan
        What is predicted.
    """

    def __init__(self, folder: Path, plan: Plan, scan: Scan) -> None:
        self.folder = folder
        self._plan = plan
        self._grid = scan.grid
        self._axis = plan.slow_axis(scan.grid)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._scratches = 0
        self._done: slice | None = None
        self._entries: list[dict[str, Any]] = []
        """Finished tiles, in the order in which they were computed."""
        self._opening = {
            "files": [_stamp(path) for path in scan.images],
            "parts": [*scan.parts],
            "models": [model.fingerprint for model in plan.models],
            "axis": self._axis,
        }
        if not self._taken_up():
            self._begin()

    @property
    def remaining(self) -> Box | None:
        """What is to be finished next, in the stored array; None where all is.

        Where both ends are missing, which no execution leaves behind, one at a time.
        """
        whole = [slice(0, size) for size in self._grid.shape]
        if self._done is not None:
            size = self._grid.shape[self._axis]
            start, stop = self._done.start, self._done.stop
            if stop - start == size:
                return None
            whole[self._axis] = slice(stop, size) if stop < size else slice(0, start)
        return (whole[0], whole[1], whole[2])

    @property
    def finished(self) -> float:
        """The part of the scan that is finished, 0 to 1."""
        if self._done is None:
            return 0.0
        planes: int = self._done.stop - self._done.start
        return planes / self._grid.shape[self._axis]

    @property
    def untouched(self) -> bool:
        """Whether nothing is finished yet."""
        return self._done is None

    def array(self, name: str) -> zarr.Array[Any]:
        """The array of that name, such as ``MODEL/labels`` or ``regions``."""
        return self._arrays[name]

    def scratch(self, name: str) -> zarr.Array[Any]:
        """A new array of zeros like the one of that name, to work with."""
        like = self._arrays[name]
        self._scratches += 1
        return zarr.create_array(
            store=str(self.folder / "scratch" / f"{self._scratches}.zarr"),
            shape=like.shape,
            dtype=like.dtype,
            chunks=like.chunks,
            fill_value=0,
            overwrite=True,
        )

    def show(self, tile: FinishedTile) -> None:
        """Write a tile to look at; it will be computed again."""
        for name, block in self._blocks(tile).items():
            self._array_for(name, block)[(..., *tile.index)] = block

    def add(self, tile: FinishedTile) -> None:
        """Write a finished tile; after this it is not computed again."""
        blocks = self._blocks(tile)
        for name, block in blocks.items():
            self._array_for(name, block)[(..., *tile.index)] = block
        sync_files(path for name in blocks for path in self._chunks(name, tile.index))
        span = tile.index[self._axis]
        if _joined(self._done, span) is None:
            # Memory ran out, and what this execution had to do began anew.
            self._forget_from(span)
            if _joined(self._done, span) is None:  # it lies apart from all of them
                self._entries, self._done = [], None
                self._write_ledger()
        self._done = _joined(self._done, span)
        entry = {
            "index": [[part.start, part.stop] for part in tile.index],
            "arrays": list(blocks),
            "crc32": _checksum(blocks),
        }
        self._entries.append(entry)
        with (self.folder / "tiles.jsonl").open("ab", buffering=0) as file:
            file.write(json.dumps(entry).encode() + b"\n")
            os.fsync(file.fileno())

    # ---- What a tile says to each array ----

    def _blocks(self, tile: FinishedTile) -> dict[str, NDArray[Any]]:
        plan = self._plan
        blocks: dict[str, NDArray[Any]] = {}
        for place, model in enumerate(plan.models):
            name = model.card.name
            blocks[f"{name}/labels"] = tile.labels[place]
            if tile.uncertainty is not None:
                blocks[f"{name}/uncertainty"] = _bytes(tile.uncertainty[place])
            if tile.probabilities is not None:
                blocks[f"{name}/probabilities"] = tile.probabilities[place]
        if plan.config.regions:
            blocks["regions"] = plan.bits(tile.labels)
        if tile.uncertainty is not None and plan.fuses:
            of_teachers = [_bytes(tile.uncertainty[place]) for place in plan.teachers]
            blocks["uncertainty"] = np.maximum.reduce(of_teachers)
        return blocks

    def _array_for(self, name: str, block: NDArray[Any]) -> zarr.Array[Any]:
        if name not in self._arrays:
            lead = block.shape[:-3]
            chunks = [min(size, FACE_VOX) for size in self._grid.shape]
            chunks[self._axis] = min(SLAB_PLANES, self._grid.shape[self._axis])
            self._arrays[name] = zarr.create_array(
                store=str(self._path(name)),
                shape=(*lead, *self._grid.shape),
                dtype=block.dtype,
                chunks=(*(1 for _ in lead), *chunks),
                fill_value=0,
                # What is finished has files to sync, though it be background.
                config={"write_empty_chunks": True},
            )
        return self._arrays[name]

    def _chunks(self, name: str, index: Box) -> Iterator[Path]:
        """The files that hold a box of an array."""
        array = self._arrays[name]
        lead = (slice(0, size) for size in array.shape[:-3])
        places = (
            range(span.start // side, -(-span.stop // side))
            for span, side in zip((*lead, *index), array.chunks, strict=True)
        )
        for place in itertools.product(*places):
            yield self._path(name).joinpath("c", *map(str, place))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.zarr"

    # ---- Going on ----

    def _begin(self) -> None:
        self._arrays.clear()
        self._entries.clear()
        self._done = None
        shutil.rmtree(self.folder, ignore_errors=True)
        for model in self._plan.models:
            (self.folder / model.card.name).mkdir(parents=True)
        if self._plan.config.regions:
            # Who looks at the regions while they grow must know what they mean.
            known = [claimant for _, _, claimant in self._plan.claimants]
            legend = shares(Counter(), known, self._plan.config.overlap_rule)
            del legend["shares"]
            write_text_atomic(
                self.folder / "regions.json", json.dumps(legend, indent=2) + "\n"
            )
        self._write_ledger()

    def _write_ledger(self) -> None:
        """Write down which files and models these are, and all that is finished."""
        lines = [self._opening, *self._entries]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_text_atomic(self.folder / "tiles.jsonl", text)

    def _forget_from(self, span: slice) -> None:
        """Forget the first finished tile that reaches into a span, and all after it.

        Tiles of earlier executions, where this one went on, stay.
        """
        kept, self._done = self._entries, None
        self._entries = []
        for entry in kept:
            own = self._span(entry)
            if own.start < span.stop and span.start < own.stop:
                break
            self._done = _joined(self._done, own)
            self._entries.append(entry)
        self._write_ledger()

    def _span(self, entry: dict[str, Any]) -> slice:
        """Along which planes a tile lies."""
        return slice(*entry["index"][self._axis])

    def _taken_up(self) -> bool:
        """Whether an earlier execution's tiles are there, and still good."""
        try:
            data = (self.folder / "tiles.jsonl").read_bytes()
        except FileNotFoundError:
            return False
        opening, *entries = _complete_lines(data)
        if opening != self._opening:
            return False
        # Where one is damaged, tiles are computed again from there on.
        with contextlib.suppress(*_DAMAGED):
            for entry in entries:
                self._take_up(entry)
                self._entries.append(entry)
        if len(self._entries) < len(entries) or not data.endswith(b"\n"):
            self._write_ledger()
        return bool(self._entries)

    def _take_up(self, entry: dict[str, Any]) -> None:
        z, y, x = (slice(start, stop) for start, stop in entry["index"])
        index = (z, y, x)
        blocks = {
            name: np.asarray(self._opened(name)[(..., *index)])
            for name in entry["arrays"]
        }
        joined = _joined(self._done, index[self._axis])
        if _checksum(blocks) != entry["crc32"] or joined is None:
            raise ValueError("a tile that is not as it was written")
        self._done = joined

    def _opened(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            array = zarr.open_array(store=str(self._path(name)), mode="r+")
            # How chunks are written is not among what an array remembers.
            self._arrays[name] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name]


def _bytes(uncertainty: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(uncertainty * 255).astype(np.uint8)


def _checksum(blocks: Mapping[str, NDArray[Any]]) -> int:
    crc = 0
    for block in blocks.values():
        crc = zlib.crc32(np.ascontiguousarray(block).data, crc)
    return crc


def _joined(done: slice | None, new: slice) -> slice | None:
    """Both spans as one; None where they overlap or leave a gap."""
    if done is None:
        return new
    if new.start == done.stop:
        return slice(done.start, new.stop)
    if new.stop == done.start:
        return slice(new.start, done.stop)
    return None


def _stamp(path: Path) -> list[Any]:
    """What changes when a file, or one in a folder, is replaced."""
    stats = [file.stat() for file in files_of(path)]
    newest = max((stat.st_mtime_ns for stat in stats), default=0)
    return [str(path), sum(stat.st_size for stat in stats), newest]


def _complete_lines(data: bytes) -> list[dict[str, Any]]:
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return [json.loads(line) for line in lines] or [{}]
