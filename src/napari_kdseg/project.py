"""The project folder: scans, what was predicted for them, and what people corrected.

::

    PROJECT/project.json            name, classes, scans: references to their files
            project.json.previous   as it was before the last change
            lock                    present: a process may change the project
            scans/CASE/             files that were copied or resampled
            predictions/CASE/MODEL/ what models said
            corrections/CASE/       what people made of it
            models/  runs/
            trash/                  what was removed; nothing is deleted

Only what cannot be seen from the files is kept in ``project.json``; whether a scan is
predicted, corrected or missing is looked up where it lies.
"""

from collections.abc import Collection, Generator, Mapping, Sequence
from pathlib import Path

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import ProjectError
from napari_kdseg.project_folder import (
    DOCUMENT,
    PREVIOUS,
    Document,
    clean_up,
    is_project,
    locked,
    put_aside,
    read,
    results_of,
    text_of,
)
from napari_kdseg.runs.lock import Lock
from napari_kdseg.volumes.copying import housed
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.naming import is_plain_name, plain_name, unique_name
from napari_kdseg.volumes.scan import (
    NewScan,
    Scan,
    StoredFile,
    Use,
    described,
    off_grid,
)
from napari_kdseg.volumes.scan_files import Move, ScanState, state_of, with_paths

KINDS = ("scans", "predictions", "corrections")
"""Folders with something of each scan: copies of its files, and what was made of it."""
FOLDERS = (*KINDS, "models", "runs")


class Project:
    """A folder of scans and of all that is made from them.

    One process may change it, the one that opened it first; others look on.

    Examples
    --------
    >>> with Project.create(Path("fish"), "Medaka") as project:
    ...     project.add_scan(NewScan((VolumeFile(Path("scan-1.nii.gz")),)))
    """

    def __init__(
        self, folder: Path, document: Document, lock: Lock | None, closed: str = ""
    ) -> None:
        self._folder = folder
        self._document = document
        self._kept = text_of(document)
        self._lock = lock
        self._closed = closed
        self._damage = ""

    # ---- Opening ----

    @classmethod
    def create(cls, folder: Path, name: str = "") -> "Project":
        """Make a folder a project; it may hold other files already.

        Raises
        ------
        ProjectError
            Where it is a project already, or cannot be written to.
        """
        folder = Path(folder).absolute()
        if is_project(folder):
            raise ProjectError(f"{folder} is a project already; open it.")
        try:
            for inner in FOLDERS:
                (folder / inner).mkdir(parents=True, exist_ok=True)
            document = Document(name=name.strip() or folder.name)
            write_text_atomic(folder / DOCUMENT, text_of(document))
        except OSError as error:
            raise ProjectError(
                f"{folder} cannot become a project: {error.strerror}. Choose a folder "
                "that may be written to."
            ) from error
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Project":
        """Open a project; to look at it only, where another process has it open.

        Raises
        ------
        ProjectError
            Where the folder is none, a newer version wrote it, or it is damaged and
            there is no good copy.
        """
        folder = Path(folder).absolute()
        if not is_project(folder):
            raise ProjectError(
                f"{folder} is no project: it has no {DOCUMENT}. Choose another folder, "
                "or make a new project there."
            )
        lock, closed = locked(folder)
        try:
            document, damage = read(folder)
            project = cls(folder, document, lock, closed)
            if damage:
                project._recover(damage)
            if project.writable:
                clean_up(folder)
                project._follow()
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return project

    def close(self) -> None:
        """Let others change the project."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None
        self._closed = f"{self._folder} was closed; open it again to change it."

    def __enter__(self) -> "Project":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- What it holds ----

    @property
    def folder(self) -> Path:
        """The folder, absolute."""
        return self._folder

    @property
    def name(self) -> str:
        """What people call it."""
        return self._document.name

    @property
    def classes(self) -> LabelSet | None:
        """The classes that its labels know; None where nobody said."""
        return self._document.classes

    @property
    def scans(self) -> tuple[Scan, ...]:
        """All scans, in the order they were added."""
        return self._document.scans

    @property
    def writable(self) -> bool:
        """Whether this process may change it."""
        return self._lock is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about the project, a sentence each."""
        return tuple(note for note in (self._closed, self._damage) if note)

    def scan(self, case: str) -> Scan:
        """Find a scan by its name.

        Raises
        ------
        ProjectError
            Where there is none.
        """
        for scan in self.scans:
            if scan.case == case:
                return scan
        raise ProjectError(
            f"{self._folder} has no scan {case!r}; it has {len(self.scans)} others. "
            "Choose one of these."
        )

    def path_of(self, stored: StoredFile) -> Path | None:
        """Find a file of a scan; None where it is missing."""
        return stored.file.find(self._folder)

    def state(self, case: str) -> ScanState:
        """Look up how far a scan is; reads only headers of files that changed."""
        scan = self.scan(case)
        return state_of(
            scan,
            self._folder,
            predicted=any((self._folder / "predictions" / case).glob("*/labels.*")),
            corrected=any(results_of(self._folder, "corrections", case)),
        )

    # ---- Changing it ----

    def add_scan(
        self, new: NewScan, *, copy: bool = False, resample: bool = False
    ) -> Scan:
        """Add a scan; see `adding`, which does the same step by step."""
        steps = self.adding(new, copy=copy, resample=resample)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                scan: Scan = stop.value
                return scan

    def adding(
        self, new: NewScan, *, copy: bool = False, resample: bool = False
    ) -> Generator[float, None, Scan]:
        """Add a scan step by step; closing the generator leaves nothing behind.

        Parameters
        ----------
        new
            Its files. A case that is given must be new; one that comes from the name
            of the first file gets a number where the name is taken.
        copy
            Copy the files into the project; else they are referred to.
        resample
            Write files that are not on the grid of the first image anew, on that grid,
            into the project.

        Yields
        ------
        float
            The share that is done, 0 to 1.

        Returns
        -------
        Scan
            As it is kept.

        Raises
        ------
        ProjectError
            Where the name is no good, or the scan is there already.
        VolumeError
            Where a file is missing or damaged, or cannot be copied.
        GridError
            Where the files do not share a grid and are not to be resampled.
        """
        self._check_writable()
        case = self._case_for(new)
        strangers = list(off_grid(new)) if resample else []
        if not strangers:
            scan = described(new, case, self._folder)
        if copy or strangers:
            put_aside(self._folder, "scans", case)
            home = self._folder / "scans" / case
            new = yield from housed(new, home, copy=copy, off_grid=strangers)
            scan = described(new, case, self._folder)
        self._save(scans=(*self.scans, scan))
        return scan

    def remove_scan(self, case: str) -> None:
        """Forget a scan; see `remove_scans`."""
        self.remove_scans([case])

    def remove_scans(self, cases: Sequence[str]) -> None:
        """Forget scans.

        What the project has of them goes to ``trash``: copies, predictions,
        corrections; files that it only refers to stay where they are.
        """
        self._check_writable()
        gone = [self.scan(case) for case in cases]
        self._save(scans=tuple(scan for scan in self.scans if scan not in gone))
        for scan in gone:
            for kind in KINDS:
                put_aside(self._folder, kind, scan.case)

    def has_of(self, case: str) -> tuple[str, ...]:
        """Say of which `KINDS` the project has something of a scan."""
        return tuple(
            kind for kind in KINDS if any(results_of(self._folder, kind, case))
        )

    def relocate(self, case: str, folder: Path) -> tuple[str, ...]:
        """Say where the files of a missing scan lie now.

        The other missing scans are looked for by the same move.

        Parameters
        ----------
        case
            The scan.
        folder
            Where its files lie, or a folder above them.

        Returns
        -------
        tuple
            The scans that were found, this one first.

        Raises
        ------
        VolumeError
            Where the folder does not have its files, or one is damaged.
        GridError
            Where a file of that name lies on another grid.
        """
        self._check_writable()
        move = Move(self._folder)
        found = [move.learn(self.scan(case), Path(folder).absolute())]
        others = (scan for scan in self.scans if scan.case != case)
        found += [scan for scan in map(move.apply, others) if scan is not None]
        self._replace(*found)
        return tuple(scan.case for scan in found)

    def accept(self, case: str) -> None:
        """Take the files of a scan as they are now.

        Raises
        ------
        VolumeError
            Where one is missing or damaged.
        GridError
            Where they do not share a grid any more.
        """
        self._check_writable()
        scan = self.scan(case)
        now = described(scan.as_new(self._folder), case, self._folder)
        self._replace(now.model_copy(update={"use": scan.use}))

    def set_use(self, case: str, use: Use) -> None:
        """Say what a scan may be used for."""
        self.set_uses([case], use)

    def set_uses(self, cases: Sequence[str], use: Use) -> None:
        """Say what several scans may be used for."""
        self._check_writable()
        scans = [self.scan(case) for case in cases]
        self._replace(*(scan.model_copy(update={"use": use}) for scan in scans))

    def set_annotated(self, cases: Sequence[str], names: Sequence[str]) -> None:
        """Say which classes the labels of scans speak about; none given: all.

        Raises
        ------
        ProjectError
            Where the project has no such class or scan, a scan has no labels, or
            nothing can be changed.
        """
        self._check_writable()
        known = () if self.classes is None else self.classes.names
        for name in names:
            if name not in known:
                raise ProjectError(
                    f"The project has no class {name!r}; it has "
                    f"{', '.join(known) or 'none yet'}."
                )
        scans = [self.scan(case) for case in cases]
        for scan in scans:
            if scan.labels is None:
                raise ProjectError(f"The scan {scan.case!r} has no labels.")
        named = {"annotated": tuple(name for name in known if name in names)}
        self._replace(*(scan.model_copy(update=named) for scan in scans))

    def set_classes(self, classes: LabelSet | None) -> None:
        """Say which classes the labels know; scans follow a class that is renamed.

        Raises
        ------
        ProjectError
            Where nothing is left of what was drawn in a scan, or it is read only.
        """
        self._check_writable()
        before = () if self.classes is None else self.classes.classes
        after = {} if classes is None else {c.value: c.name for c in classes.classes}
        changed = {
            one.name: after[one.value]
            for one in before
            if one.value in after and after[one.value] != one.name
        }
        of_files = {
            file: changed.get(name, name) for file, name in self.renamed.items()
        }
        self._save(
            classes=classes,
            scans=tuple(_renamed(s, changed, after.values()) for s in self.scans),
            renamed=changed | of_files,
        )

    @property
    def renamed(self) -> Mapping[str, str]:
        """What files call a class, and what people call it here instead."""
        return self._document.renamed

    # ---- Private ----

    def _check_writable(self) -> None:
        if not self.writable:
            raise ProjectError(self._closed)

    def _case_for(self, new: NewScan) -> str:
        known = [scan.case for scan in self.scans]
        first = new.images[0]
        there = next((s for s in self.scans if s.holds(first.path, first.part)), None)
        if there is not None:
            raise ProjectError(
                f"{first.path} is in the project as the scan {there.case!r} already."
            )
        if not new.case:
            return unique_name(first.name, known)
        if not is_plain_name(new.case):
            raise ProjectError(
                f"The scan cannot be called {new.case!r}; names become folders, so "
                "they have no separators, and begin and end with a letter or digit. "
                f"Call it {plain_name(new.case)!r}."
            )
        if unique_name(new.case, known) != new.case:
            raise ProjectError(
                f"{self._folder} has a scan {new.case!r} already; every scan needs a "
                f"name of its own. Call it {unique_name(new.case, known)!r}."
            )
        return new.case

    def _replace(self, *changed: Scan) -> None:
        now = {scan.case: scan for scan in changed}
        self._save(scans=tuple(now.get(scan.case, scan) for scan in self.scans))

    def _save(self, **changes: object) -> None:
        document = self._document.model_copy(update=changes)
        text = text_of(document)
        try:
            write_text_atomic(self._folder / PREVIOUS, self._kept)
            write_text_atomic(self._folder / DOCUMENT, text)
        except OSError as error:
            raise ProjectError(
                f"{self._folder / DOCUMENT} could not be written: {error}. It is as it "
                "was; make room, and do it again."
            ) from error
        self._document, self._kept = document, text

    def _recover(self, damage: str) -> None:
        """Say that the copy is in use, and keep the damaged file for whoever asks."""
        self._damage = (
            f"{self._folder / DOCUMENT} is damaged ({damage}); the copy from before "
            "the last change is in use. Look whether the newest scan is there."
        )
        if self.writable:
            damaged = self._folder / DOCUMENT
            if damaged.exists():
                damaged.replace(self._folder / f"{DOCUMENT}.damaged")
            self._save()

    def _follow(self) -> None:
        """Note the new places of files that moved with the project."""
        now = []
        for scan in self.scans:
            found = {one.file.path: self.path_of(one) for one in scan.files}
            elsewhere = {
                noted: place
                for noted, place in found.items()
                if place is not None and place != Path(noted)
            }
            now.append(with_paths(scan, self._folder, elsewhere))
        if tuple(now) != self.scans:
            self._save(scans=tuple(now))


def _renamed(scan: Scan, changed: Mapping[str, str], known: Collection[str]) -> Scan:
    """A scan whose drawn classes follow their names."""
    now = [changed.get(name, name) for name in scan.annotated]
    kept = tuple(name for name in now if name in known)
    if scan.annotated and known and not kept:
        raise ProjectError(
            f"In the scan {scan.case!r} only {', '.join(scan.annotated)} was drawn, "
            "and the project would know none of it. Say first what was drawn there, or "
            "remove the scan."
        )
    return scan.model_copy(update={"annotated": kept or scan.annotated})
