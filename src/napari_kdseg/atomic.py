"""Files and folders that appear complete or not at all.

Everything is written under a temporary name in the folder where it will lie, forced
to the disk, and renamed: a reader, a crash or a full disk never meets half a file.
"""

import os
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_SYNC_THREADS = 16


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
