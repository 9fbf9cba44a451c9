"""Files and folders that appear complete or not at all.

Everything is written under a temporary name in the folder where it will lie, forced
to the disk, and renamed: a reader, a crash or a full disk never meets half a file.
"""

import errno
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from napari_kdseg.errors import UsageError

_SYNC_THREADS = 16
_FIXES = {
    errno.EACCES: "Ask for the right to use it, or take another place.",
    errno.EISDIR: "Give the name of a file.",
    errno.ENOSPC: "Make room, or take another place.",
    errno.ENOTDIR: "Take another place, or move the file away.",
    errno.EROFS: "Take a place that may be written to.",
}


def check_writable(path: Path) -> None:
    """Refuse a place where no file can come to lie, before the work is done.

    Parameters
    ----------
    path
        Of a file that will be written or replaced; folders above it may be missing.

    Raises
    ------
    UsageError
        Where it is a folder, or the folder it goes to cannot be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file in it.")
    above = next(one for one in path.absolute().parents if one.exists())
    try:
        try_to_write(above)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {refusal(error, above)}"
        ) from error


def try_to_write(folder: Path, data: bytes = b"") -> None:
    """Make a file in a folder and take it away again.

    Parameters
    ----------
    folder
        Where.
    data
        What is forced to the disk in it; a byte needs room.

    Raises
    ------
    OSError
        Where that cannot be done.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    # Once: tempfile tries for ever where Windows protects a folder.
    file = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        if data:
            os.write(file, data)
            os.fsync(file)
    finally:
        os.close(file)
        probe.unlink()


def refusal(error: OSError, path: Path | None = None) -> str:
    """What the system refused, as a sentence, and what to do about it.

    Parameters
    ----------
    error
        A file that it names under a temporary name is told by its own.
    path
        Of the file, in place of the one that the error names.
    """
    name = str(path or error.filename or "")
    where = re.sub(r"\.partial-[0-9a-f]{32}", "", name)
    reason = error.strerror or str(error)
    told = f"{where}: {reason}." if where else f"{reason}."
    fix = _FIXES.get(error.errno or 0)
    return f"{told} {fix}" if fix else told


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name only when the block ends without an error.

    An existing file is replaced in the same instant. After an error, an existing
    file is as it was and no temporary one is left.

    Parameters
    ----------
    path
        Where the file will lie; its folder must exist.

    Yields
    ------
    BinaryIO
        The temporary file, open for writing; ``.name`` is its path.
    """
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a whole file at once: it has all of `data`, or stays as it was."""
    with atomic_file(path) as file:
        file.write(data)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a whole text file at once, as UTF-8 and with its line ends untouched."""
    write_bytes_atomic(path, text.encode("utf-8"))


def publish_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its final name, after all of it has reached the disk.

    Parameters
    ----------
    temporary
        The finished folder, on the same disk as `final`.
    final
        Its name from now on; nothing may lie there.

    Raises
    ------
    FileExistsError
        When something has that name already: what is published is never replaced.
    """
    if final.exists() or final.is_symlink():
        raise FileExistsError(
            f"{final} exists already, and what is published is never replaced. "
            "Choose another name, or move the old folder away."
        )
    sync_tree(temporary)
    temporary.rename(final)
    _sync_folder(final.parent)


def sync_tree(folder: Path) -> None:
    """Force a folder and all that lies in it to the disk."""
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    sync_files([path for path in paths if not path.is_dir()])
    for inner in (*(path for path in paths if path.is_dir()), folder):
        _sync_folder(inner)


def sync_files(files: Iterable[Path]) -> None:
    """Force files, and that they are in their folders, to the disk."""
    found = list(files)
    # File systems write the syncs of several threads at once: 64 files in a tenth of
    # the time. A failure comes out of the list.
    with ThreadPoolExecutor(_SYNC_THREADS) as threads:
        list(threads.map(_sync_file, found))
    for folder in {path.parent for path in found}:
        _sync_folder(folder)


def temporary_beside(path: Path) -> Path:
    """Give a name nobody uses, in the folder of `path`: ``NAME.partial-<uuid>``."""
    return path.with_name(f"{path.name}.partial-{uuid.uuid4().hex}")


def _sync_file(path: Path) -> None:
    # Windows refuses to sync what is open for reading only.
    with path.open("rb" if os.name == "posix" else "r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder; its journal keeps the rename by itself.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
