"""What became of the files of scans: missing, damaged, changed, found elsewhere."""

from dataclasses import dataclass, field
from pathlib import Path

from napari_kdseg.errors import GridError, VolumeError
from napari_kdseg.volumes.formats import inspect_volume
from napari_kdseg.volumes.scan import Scan, StoredFile, Use


@dataclass(frozen=True)
class ScanState:
    """What can be seen of a scan now."""

    missing: tuple[str, ...] = ()
    """Files that are not where they were."""
    damage: str = ""
    """Why a file cannot be read; empty where all can."""
    changed: tuple[str, ...] = ()
    """Files that are not as they were when they were added."""
    labelled: bool = False
    predicted: bool = False
    corrected: bool = False
    reviewed: str = ""
    """How far its review is, such as ``reviewed 12/80``; empty where none was begun."""
    use: Use = "none"

    @property
    def words(self) -> str:
        """The state as people say it, such as ``predicted, training``."""
        told = (
            ("missing", bool(self.missing)),
            ("damaged", bool(self.damage)),
            ("changed since it was added", bool(self.changed) and not self.damage),
            ("labelled", self.labelled),
            ("predicted", self.predicted and not self.corrected),
            (self.reviewed, bool(self.reviewed)),
            ("corrected", self.corrected),
            ("training", self.use == "training"),
            ("held out", self.use == "test"),
            ("left out", self.use == "left-out"),
        )
        return ", ".join(word for word, holds in told if holds) or "new"


def state_of(
    scan: Scan, folder: Path | None, *, predicted: bool = False, corrected: bool = False
) -> ScanState:
    """Look where the files of a scan are; reads only headers of those that changed.

    Parameters
    ----------
    scan
        The scan.
    folder
        The project's folder, None where there is no project.
    predicted, corrected
        What else is known of it.
    """
    missing, changed, damage = [], [], ""
    for stored in scan.files:
        found = stored.file.find(folder)
        if found is None:
            missing.append(stored.file.name)
        elif stored.file.has_changed(found):
            changed.append(stored.file.name)
            damage = damage or _damage(found, stored.part)
    return ScanState(
        missing=tuple(missing),
        damage=damage,
        changed=tuple(changed),
        labelled=scan.labels is not None,
        predicted=predicted,
        corrected=corrected,
        use=scan.use,
    )


def with_paths(scan: Scan, folder: Path | None, places: dict[str, Path]) -> Scan:
    """Give a scan whose files are noted at other places.

    Parameters
    ----------
    scan
        The scan.
    folder
        The project's folder.
    places
        Path that is noted -> where that file is now; others stay as they are.
    """

    def moved(stored: StoredFile) -> StoredFile:
        place = places.get(stored.file.path)
        if place is None:
            return stored
        return stored.model_copy(update={"file": stored.file.moved(place, folder)})

    return scan.model_copy(
        update={
            "images": tuple(moved(image) for image in scan.images),
            "labels": None if scan.labels is None else moved(scan.labels),
        }
    )


@dataclass
class Move:
    """Where files went, learned from some and tried on others."""

    folder: Path | None
    """The project's folder."""
    prefixes: dict[Path, Path] = field(default_factory=dict)
    """Folder that files lay in -> folder that they lie in."""

    def learn(self, scan: Scan, where: Path) -> Scan:
        """Find the missing files of a scan in a folder, or some way below it.

        Raises
        ------
        VolumeError
            Where one is not there, or damaged.
        GridError
            Where one lies on another grid than it did.
        """
        places = {}
        for stored in self._missing(scan):
            old = Path(stored.file.path)
            new = _below(old, where)
            if new is None:
                raise VolumeError(
                    f"{where} has no {old.name}, which the scan {scan.case!r} needs; "
                    f"it lay in {old.parent}. Choose the folder it lies in now."
                )
            if not inspect_volume(new, stored.part).grid.matches(scan.grid.grid):
                raise GridError(
                    f"{new} is not on the grid of the scan {scan.case!r} "
                    f"({scan.badge}), so it is another file of that name. Choose the "
                    "folder of the one that was added."
                )
            places[stored.file.path] = new
            self._note(old, new)
        return with_paths(scan, self.folder, places)

    def apply(self, scan: Scan) -> Scan | None:
        """Find the missing files of a scan by what was learned; None where some stay.

        Only files of the size that was noted count.
        """
        places = {}
        for stored in self._missing(scan):
            found = self._tried(stored)
            if found is None:
                return None
            places[stored.file.path] = found
        return with_paths(scan, self.folder, places) if places else None

    def _missing(self, scan: Scan) -> list[StoredFile]:
        return [one for one in scan.files if one.file.find(self.folder) is None]

    def _tried(self, stored: StoredFile) -> Path | None:
        old = Path(stored.file.path)
        for before, after in self.prefixes.items():
            if old.is_relative_to(before):
                place = after / old.relative_to(before)
                if place.exists() and not stored.file.has_changed(place):
                    return place
        return None

    def _note(self, old: Path, new: Path) -> None:
        self.prefixes[old.parent] = new.parent
        # What both have in common at the end did not move: the rest did.
        while old.name == new.name and old.name:
            old, new = old.parent, new.parent
        self.prefixes[old] = new


def _below(old: Path, where: Path) -> Path | None:
    """Find a file in a folder, by its name or by its name and the folders above it."""
    parts = old.parts[1:]
    tails = (Path(*parts[-count:]) for count in range(1, len(parts) + 1))
    return next((where / tail for tail in tails if (where / tail).exists()), None)


def _damage(path: Path, part: str | None) -> str:
    try:
        inspect_volume(path, part)
    except VolumeError as error:
        return str(error)
    return ""
