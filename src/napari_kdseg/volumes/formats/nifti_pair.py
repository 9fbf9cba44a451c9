"""The two files of a NIfTI pair, header and voxels, found by the name of either."""

from pathlib import Path

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.volume import suffix_of

_HEADERS, _VOXELS = (".hdr", ".hdr.gz"), (".img", ".img.gz")


def is_half(path: Path) -> bool:
    """Whether a name is that of one file of a pair."""
    return suffix_of(path) in _HEADERS + _VOXELS


def files_of(path: Path) -> tuple[Path, Path]:
    """Give the file with the header and the file with the voxels: one, or a pair.

    Parameters
    ----------
    path
        A single file, or either half of a pair; each half may be gzipped.

    Raises
    ------
    VolumeError
        When the other half is missing, or there are two of it.
    """
    if not is_half(path) or not path.is_file():
        return path, path
    if suffix_of(path) in _HEADERS:
        return path, _partner(path, _VOXELS, "voxels")
    return _partner(path, _HEADERS, "header"), path


def _partner(path: Path, endings: tuple[str, ...], what: str) -> Path:
    own = path.name[-len(suffix_of(path)) :]
    stem = path.name[: -len(own)]
    names = [stem + (end.upper() if own.isupper() else end) for end in endings]
    found = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    if not found:
        raise VolumeError(
            f"{path} is half of a pair of files, and neither {' nor '.join(names)} "
            f"lies beside it; one must hold its {what}. Put it there."
        )
    if len(found) > 1:
        raise VolumeError(
            f"{path} is half of a pair of files, and both {' and '.join(names)} lie "
            f"beside it; only one may hold its {what}. Take the other away."
        )
    return found[0]
