"""Copies of scans that can only be decoded from start to end, to be read by piece.

A gzipped scan gives no single slice: all of it must be decoded. The cache keeps such a
scan as an OME-Zarr with coarser levels. A copy belongs to one state of its source: the
key is made of path, part, sizes and times of change, so that a source that changed has
no copy. A copy counts only with its record of completion; what a killed conversion
left is removed and begun anew.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    blocks_of,
    files_of,
    inspect_volume,
    ome_zarr,
    read_label_set,
    suffix_of,
)
from napari_kdseg.volumes.pyramid import Progress, fill_pyramid
from napari_kdseg.volumes.volume import Volume

_SCAN = "scan.ome.zarr"
_SOURCE = "source.json"
_LOCKS = "locks"
_VERSION = 1
_PICTURES = (".tif", ".tiff", ".ome.tif", ".ome.tiff")
_ROOM = 1.2  # levels add a seventh; noise is not compressed at all
_WAIT_S = 0.2
_OWN = re.compile("[0-9a-f]{32}")  # what `_key` gives
_LOCKED_BY_OTHERS = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


@dataclass(frozen=True)
class Entry:
    """A finished copy in the cache."""

    source: Path
    part: str | None
    bytes: int
    used: float
    """When it was made or last opened, in seconds since 1970."""
    folder: Path


class Cache:
    """Copies of scans in a folder of its own; several processes may share it.

    Parameters
    ----------
    folder
        Made when the first copy is. What else lies in it is neither counted nor
        removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def partial_path(self, path: Path, part: str | None = None) -> Path:
        """Say where the copy of a scan lies, or will.

        While `convert` is at work its arrays can be opened there, from its first call
        of `on_progress` on; see `levels` in `formats.ome_zarr`.

        Raises
        ------
        VolumeError
            When the scan does not exist, or does not say of which files it is.
        """
        return self.folder / _key(path, part) / _SCAN

    def find(self, path: Path, part: str | None = None) -> Path | None:
        """Give the finished copy of a scan as it is now; None where there is none."""
        copy = self.partial_path(path, part)
        return copy if _is_whole(copy) else None

    def open(
        self,
        path: Path,
        part: str | None = None,
        *,
        fill_nonfinite: float | None = None,
    ) -> Volume:
        """Read a scan lazily from its copy, with its own name, channels and notes.

        Raises
        ------
        VolumeError
            When it has no copy yet, or when it or the copy is damaged.
        """
        copy = self.find(path, part)
        if copy is None:
            raise VolumeError(
                f"{path} has no finished copy in {self.folder}; a scan is read from "
                "there after it was converted. Convert it first."
            )
        header = ome_zarr.inspect(copy)
        full, *coarser = [
            replace(level, name=str(path), checked=True, fill_nonfinite=fill_nonfinite)
            for level in ome_zarr.levels(copy)
        ]
        os.utime(copy.parent / _SOURCE)
        grid, names = header.grid, header.channels
        return Volume(full, grid, names, path, header.notes, tuple(coarser))

    def convert(
        self,
        path: Path,
        part: str | None = None,
        *,
        on_progress: Progress | None = None,
    ) -> Path:
        """Make the copy of a scan, in little memory, unless it is there already.

        Where another process is making it, this waits for it.

        Parameters
        ----------
        path, part
            The scan.
        on_progress
            Called with the planes converted and those there are; may raise to stop,
            and then nothing is left.

        Returns
        -------
        Path
            The OME-Zarr. NaN and infinite voxels are NaN there.

        Raises
        ------
        VolumeError
            When the scan is damaged or changes meanwhile, or the disk has no room.
        """
        header = inspect_volume(path, part)
        copy = self.partial_path(path, part)
        total = header.shape[0] * header.shape[1]
        while not _is_whole(copy):
            with self._locked(copy.parent.name) as is_ours:
                if is_ours and not _is_whole(copy):
                    self._make(copy, path, part, on_progress)
            if not is_ours:
                if on_progress is not None:
                    on_progress(0, total)
                time.sleep(_WAIT_S)
        return copy

    def size(self) -> int:
        """Bytes of all copies in the cache, unfinished ones too."""
        return sum(_bytes(folder) for folder in self._folders())

    def entries(self) -> tuple[Entry, ...]:
        """List the finished copies, the longest unused first."""
        found = [_entry(folder) for folder in self._folders()]
        return tuple(
            sorted((e for e in found if e is not None), key=lambda entry: entry.used)
        )

    def clear(self, path: Path | None = None) -> None:
        """Remove all copies of one scan, or all there are; not what is being made."""
        for folder in self._folders():
            entry = _entry(folder)
            wanted = path is None or (
                entry is not None and entry.source == path.resolve()
            )
            if wanted:
                self._remove(folder)

    def prune(self, max_bytes: int) -> None:
        """Remove the copies unused for longest until the cache has that size.

        What killed conversions left goes first.
        """
        kept = self.entries()
        for folder in {*self._folders()} - {entry.folder for entry in kept}:
            self._remove(folder)
        size = self.size()
        for entry in kept:
            if size <= max_bytes:
                return
            self._remove(entry.folder)
            size -= entry.bytes

    def _make(
        self, copy: Path, path: Path, part: str | None, on_progress: Progress | None
    ) -> None:
        folder = copy.parent
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
            # Any voxel that is no number stays one: whoever reads it decides.
            header, blocks = blocks_of(path, part, fill_nonfinite=np.nan)
            self._check_room(path, header.bytes)
            source = {"version": _VERSION, "source": str(path.resolve()), "part": part}
            write_text_atomic(folder / _SOURCE, json.dumps(source, indent=1) + "\n")
            fill_pyramid(
                copy,
                header,
                blocks,
                kind="labels" if header.holds_labels else "image",
                labels=read_label_set(path, part) if header.holds_labels else None,
                on_progress=on_progress,
            )
            if _key(path, part) != folder.name:
                raise VolumeError(
                    f"{path} was changed while it was converted; it must stay as it "
                    "is. Convert it again."
                )
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise VolumeError(
                f"{path} could not be copied to {folder}: {error}. Nothing was left "
                "behind; see that the folder may be written to and has room."
            ) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _check_room(self, path: Path, voxel_bytes: int) -> None:
        needed = int(voxel_bytes * _ROOM)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise VolumeError(
                f"{path} needs up to {needed / 1e9:.3g} GB in {self.folder}, where "
                f"{free / 1e9:.3g} GB are free; a copy to be read by piece must fit. "
                "Free some room, for instance by clearing this cache."
            )

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(
            entry
            for entry in self.folder.iterdir()
            if entry.is_dir() and _OWN.fullmatch(entry.name)
        )

    def _remove(self, folder: Path) -> None:
        with self._locked(folder.name) as is_ours:
            if is_ours:
                # The record first: half a copy must not count as one.
                (folder / _SCAN / ome_zarr.COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _locked(self, name: str) -> Iterator[bool]:
        """Lock one entry, without waiting; the system unlocks when a process dies."""
        locks = self.folder / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("a+b") as file:
            yield _try_lock(file.fileno())


def default_cache() -> Cache:
    """Give the cache of this user."""
    return Cache(user_cache_path("napari-kdseg") / "scans")


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network disks know no locks: two conversions at once then cost time, and
        # one of them an error, but chunks of one scan are alike.
        return error.errno not in _LOCKED_BY_OTHERS
    return True


def _key(path: Path, part: str | None) -> str:
    """Name one state of a scan; a change of any file it may lie in gives another."""
    if not path.exists():
        raise VolumeError(f"{path} does not exist; a scan is needed. Check the path.")
    whole = path.resolve()
    states = [
        (file.as_posix(), about.st_size, about.st_mtime_ns)
        for file in _files_that_count(whole)
        for about in [file.stat()]
    ]
    text = json.dumps([_VERSION, str(whole), part, sorted(states)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _files_that_count(path: Path) -> list[Path]:
    if path.is_file() and suffix_of(path) in _PICTURES:  # may speak of each other
        beside = (file for file in path.parent.iterdir() if file.is_file())
        return [file for file in beside if suffix_of(file) in _PICTURES]
    return list(files_of(path))


def _is_whole(copy: Path) -> bool:
    if not (copy / ome_zarr.COMPLETE).is_file():
        return False
    try:
        ome_zarr.open_array(copy)
    except VolumeError:
        return False
    return True


def _entry(folder: Path) -> Entry | None:
    try:
        text = (folder / _SOURCE).read_text(encoding="utf-8")
        used = (folder / _SOURCE).stat().st_mtime
        found = json.loads(text)
        source, part = Path(found["source"]), found["part"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (folder / _SCAN / ome_zarr.COMPLETE).is_file():
        return None
    return Entry(source, part, _bytes(folder), used, folder)


def _bytes(folder: Path) -> int:
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                total += Path(at, name).stat().st_size
    return total
