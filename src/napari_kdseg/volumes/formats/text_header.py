"""What the text headers of NRRD and MetaImage share, and of the files they name."""

import re
from math import isfinite
from pathlib import Path, PurePosixPath, PureWindowsPath

from napari_kdseg.errors import VolumeError

_PIECE_BYTES = 1 << 16
_MOST_BYTES = 1 << 24  # real headers have some kilobytes
_FLOAT = re.compile(
    r"[+-]?(\d{1,400}\.?\d{0,400}|\.\d{1,400})([eE][+-]?\d{1,4})?", re.ASCII
)
_INTEGER = re.compile(r"[+-]?0{0,40}\d{1,18}", re.ASCII)
_LARGEST = 1e15  # what is beyond would overflow where lengths are computed


def read_until(path: Path, end: re.Pattern[bytes], kind: str) -> tuple[str, int]:
    """Read a file's header.

    Parameters
    ----------
    path
        The file.
    end
        What the header ends with; a file may end without it.
    kind
        Of file, for messages, such as ``NRRD``.

    Returns
    -------
    str
        The header with its end, decoded as UTF-8, else as Latin-1.
    int
        How many bytes it takes.

    Raises
    ------
    VolumeError
        When there is no file, or no end within 16 MiB.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise VolumeError(f"{path} {what}; a file of {kind} is needed. Check the path.")
    start, found = bytearray(), None
    with path.open("rb") as file:
        while found is None and len(start) < _MOST_BYTES:
            piece = file.read(_PIECE_BYTES)
            # What ends a header may straddle two pieces.
            seen = start.rfind(b"\n", 0, max(0, len(start) - 1)) if start else 0
            start += piece
            found = end.search(start, max(0, seen))
            if not piece:
                break
    if found is None and len(start) >= _MOST_BYTES:
        raise VolumeError(
            f"{path} has no end of its {kind} header within {_MOST_BYTES:,} bytes; a "
            f"header has some thousands. It is no {kind} file, or is damaged: make it "
            "anew."
        )
    size = len(start) if found is None else found.end()
    return _text(bytes(start[:size])), size


def refuse_part(path: Path, part: str | None) -> None:
    """Refuse to look for a part in a file that holds one volume.

    Raises
    ------
    VolumeError
        When a part is named.
    """
    if part is not None:
        raise VolumeError(
            f"{path} has no part {part!r}; it holds one volume. Leave the part out."
        )


def data_file(header: Path, named: str) -> Path:
    """Find the file that a header names as the one with its voxels.

    Raises
    ------
    VolumeError
        When it would lie outside the header's folder, or is no file.
    """
    readings = (PurePosixPath(named), PureWindowsPath(named))
    leaves = any(".." in reading.parts or reading.anchor for reading in readings)
    if leaves or not named or not named.isprintable():
        raise VolumeError(
            f"{header} names {named!r} as its data file; it must be the name of a file "
            "in the header's folder or below. Move it there, and name it so."
        )
    found = header.parent / named
    try:
        exists = found.is_file()
    except OSError:  # a name too long for the file system
        exists = False
    if not exists:
        raise VolumeError(
            f"{header} names {named!r} as its data file, which is not there; both must "
            "be kept together. Put it where the header says it lies."
        )
    return found


def floats(text: str, count: int, what: str, name: str) -> tuple[float, ...]:
    """Read finite numbers with spaces between them.

    Parameters
    ----------
    count
        How many there must be.
    what, name
        The field and the file, for messages.

    Raises
    ------
    VolumeError
        When there are more or fewer, or one is no number from -1e15 to 1e15.
    """
    words = text.split()
    if len(words) == count and all(map(_FLOAT.fullmatch, words)):
        values = tuple(float(word) for word in words)
        if all(isfinite(value) and abs(value) <= _LARGEST for value in values):
            return values
    raise VolumeError(
        f"{name} has {_short(text)} as its {what}; it must be "
        f"{_counted(count, 'finite number')}. The header is damaged: make it anew."
    )


def integers(text: str, count: int, what: str, name: str) -> tuple[int, ...]:
    """Read whole numbers with spaces between them; see `floats`."""
    words = text.split()
    if len(words) == count and all(map(_INTEGER.fullmatch, words)):
        return tuple(int(word) for word in words)
    raise VolumeError(
        f"{name} has {_short(text)} as its {what}; it must be "
        f"{_counted(count, 'whole number')}. The header is damaged: make it anew."
    )


def axis_sizes(text: str, count: int, what: str, name: str) -> tuple[int, ...]:
    """Read how many voxels there are along each axis: whole numbers above 0."""
    sizes = integers(text, count, what, name)
    if min(sizes) < 1:
        raise VolumeError(
            f"{name} has the sizes {' x '.join(map(str, sizes))}; each must be at "
            "least 1. The header is damaged: make it anew."
        )
    return sizes


def start_of_last(data: Path, count: int, earliest: int, name: str) -> int:
    """Find where the last `count` bytes of a file begin, which are its voxels.

    Raises
    ------
    VolumeError
        When that is before the byte `earliest`; `name` is the header's file.
    """
    size = data.stat().st_size
    if size - count < earliest:
        where = name if name == str(data) else f"{name}: its data file {data}"
        raise VolumeError(
            f"{where} has {size:,} bytes, and {count:,} must be its voxels, the last "
            "of it. It is damaged or was cut off: fetch or make it anew."
        )
    return size - count


def decimal(value: float) -> str:
    """Write a number so that reading it gives the same one, and zero without a sign."""
    text = repr(float(value) + 0.0)
    return text.removesuffix(".0")


def _text(start: bytes) -> str:
    try:
        return start.decode("utf-8")
    except UnicodeDecodeError:
        return start.decode("latin-1")


def _short(text: str, most: int = 80) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")


def _counted(count: int, thing: str) -> str:
    return f"a {thing}" if count == 1 else f"{count} {thing}s"
