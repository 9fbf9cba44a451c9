"""A file named so that it is found again after a move, and while it is the same."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from napari_kdseg.volumes.formats import files_of
from napari_kdseg.volumes.formats.sniff import is_zarr


class FileReference(BaseModel):
    """Where a file or folder lies, seen from anywhere and from one folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1, description="absolute, with forward slashes")
    relative: str | None = Field(
        None, description="from the folder, where it lies in or beside it"
    )
    bytes: int = Field(ge=0, description="size when it was noted")
    modified_ns: int = Field(description="time of its last change, since 1970")

    @classmethod
    def to(cls, path: Path, folder: Path | None = None) -> "FileReference":
        """Note where a file lies.

        Parameters
        ----------
        path
            A file or a folder of files.
        folder
            The folder that may be moved together with it; None where there is none.

        Raises
        ------
        OSError
            Where it is not there.
        """
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
        size, modified = _stamp(absolute)
        relative = None
        if folder is not None and absolute.is_relative_to(folder.absolute().parent):
            # Path.relative_to cannot climb before Python 3.12.
            relative = Path(os.path.relpath(absolute, folder.absolute())).as_posix()
        return cls(
            path=absolute.as_posix(),
            relative=relative,
            bytes=size,
            modified_ns=modified,
        )

    @property
    def name(self) -> str:
        """The name of the file or folder."""
        return Path(self.path).name

    def find(self, folder: Path | None = None) -> Path | None:
        """Find the file: as seen from the folder, else where it was, else nowhere."""
        places = [Path(self.path)]
        if folder is not None and self.relative is not None:
            joined = os.path.normpath(folder.absolute() / self.relative)
            places.insert(0, Path(joined))
        return next((place for place in places if place.exists()), None)

    def moved(self, place: Path, folder: Path | None = None) -> "FileReference":
        """Note that the file lies elsewhere now; whether it changed is still told."""
        now = type(self).to(place, folder)
        if now.bytes == self.bytes:
            return now
        return now.model_copy(
            update={"bytes": self.bytes, "modified_ns": self.modified_ns}
        )

    def has_changed(self, found: Path) -> bool:
        """Whether the file is another than was noted, by size and time.

        Copying gives a file a new time: at another place the size alone tells.
        """
        try:
            size, modified = _stamp(found)
        except OSError:
            return True
        moved = found != Path(self.path)
        return size != self.bytes or (not moved and modified != self.modified_ns)


def top_files(path: Path) -> list[Path]:
    """List the files of a volume, of a folder only those that lie in it directly.

    All files of a series do; of an OME-Zarr these are the ones that describe it.
    """
    if path.is_dir() and is_zarr(path):
        return sorted(entry for entry in path.iterdir() if entry.is_file())
    return list(files_of(path))


def _stamp(path: Path) -> tuple[int, int]:
    """Bytes of the files of a volume together, and when the newest was changed."""
    stats = [file.stat() for file in top_files(path) or [path]]
    newest = max(stat.st_mtime_ns for stat in stats)
    return sum(stat.st_size for stat in stats), newest
