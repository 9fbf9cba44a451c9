"""The scans of a project, or those opened without one: what the Volumes dock shows."""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from platformdirs import user_cache_path
from psygnal import Signal

from napari_kdseg.amounts import size
from napari_kdseg.errors import KdsegError, ProjectError
from napari_kdseg.project import Project
from napari_kdseg.state.adding import Adding, Status
from napari_kdseg.state.classes import adding_and_learning, refusing_fractions
from napari_kdseg.state.intake import Found, Intake, look_at, scans_of, unclear
from napari_kdseg.state.jobs import Job, Worker, something_runs
from napari_kdseg.state.opening import Opening
from napari_kdseg.state.project_prediction import is_predicting
from napari_kdseg.state.reviewed import reviewed
from napari_kdseg.state.scan_layers import ScanFiles
from napari_kdseg.state.scan_rows import Row, details_of, row_of
from napari_kdseg.volumes.cache import Cache, default_cache
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.naming import unique_name
from napari_kdseg.volumes.scan import NewScan, Scan, Use, described
from napari_kdseg.volumes.scan_files import ScanState, state_of

_STEP_S = 0.03  # what a poll may take: a picture or two of the viewer
_OF_SCANS = {
    "scans": "copies of files",
    "predictions": "predictions",
    "corrections": "corrections",
}
NO_PROJECT = "The list is forgotten with the viewer; New keeps it in a project."


class Volumes:
    """What the Volumes dock shows and does.

    What goes wrong is told in `status`; nothing is raised.

    Parameters
    ----------
    worker
        Executes conversions; one that is given is shared, and stays open.
    cache
        Where converted scans lie, by default the user's.
    scratch
        Where the runs of conversions lie while they last.

    Attributes
    ----------
    rows_changed
        Emitted when other scans, or other things about them, are to be shown.
    project_changed
        Emitted when another project is open, or none.
    selection_changed
        Emitted when another scan is selected, or there is more to say of it.
    status_changed
        Emitted with the new `Status`.
    layers_opened
        Emitted with the layers of a scan.
    """

    rows_changed = Signal()
    project_changed = Signal()
    selection_changed = Signal()
    status_changed = Signal(Status)
    layers_opened = Signal(list)

    def __init__(
        self,
        worker: Worker | None = None,
        cache: Cache | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._owns_worker = worker is None
        self.worker = worker or Worker()
        self.cache = cache or default_cache()
        self._scratch = scratch or user_cache_path("napari-kdseg") / "conversions"
        self._project: Project | None = None
        self._session: list[Scan] = []
        self._states: dict[str, ScanState] = {}
        self._reviewed: dict[str, str] | None = None
        self._selected: str | None = None
        self._chosen: frozenset[str] = frozenset()
        self._status = Status()
        self._adding: Adding | None = None
        self._off_grid: list[NewScan] = []
        self._opening: Opening | None = None
        self.worker.changed.connect(self._on_job_changed)

    # ---- The project ----

    @property
    def project(self) -> Project | None:
        """The open project."""
        return self._project

    @property
    def project_text(self) -> str:
        """What is to be known of the project; empty where nothing is."""
        return NO_PROJECT if self._project is None else " ".join(self._project.notes)

    @property
    def writable(self) -> bool:
        """Whether scans can be added."""
        return self._project is None or self._project.writable

    def create_project(self, folder: Path, name: str = "") -> None:
        """Make a project of a folder; scans that were opened without one come along."""
        self._try(lambda: self._take(Project.create(folder, name), self._session))

    def open_project(self, folder: Path) -> None:
        """Open a project in place of the one that is open."""
        known = self._project
        if known is not None and known.folder == folder.absolute():
            known.close()  # else this dock would be the one that has it open
        self._try(lambda: self._take(Project.open(folder), []))

    # ---- The list ----

    @property
    def scans(self) -> tuple[Scan, ...]:
        """The scans of the project, or those opened without one."""
        return tuple(self._session) if self._project is None else self._project.scans

    @property
    def rows(self) -> tuple[Row, ...]:
        """A row for each scan."""
        return tuple(row_of(scan, self._state(scan)) for scan in self.scans)

    @property
    def selected(self) -> Scan | None:
        """The scan that is looked at in the list."""
        found = (scan for scan in self.scans if scan.case == self._selected)
        return next(found, None)

    @property
    def chosen(self) -> tuple[Scan, ...]:
        """All scans that are selected in the list, the one looked at among them."""
        names = {*self._chosen, self._selected}
        return tuple(scan for scan in self.scans if scan.case in names)

    @property
    def selected_state(self) -> ScanState:
        """How far the selected scan is."""
        return ScanState() if self.selected is None else self._state(self.selected)

    @property
    def details(self) -> str:
        """What a person should know of the selected scan, a sentence a line."""
        scan = self.selected
        if scan is None:
            return ""
        told = details_of(scan, self._state(scan))
        count = len(self.chosen)
        return told if count == 1 else f"{count} scans. {scan.case}:\n{told}"

    def select(self, case: str | None, chosen: Iterable[str] = ()) -> None:
        """Look at a scan in the list, and choose others with it."""
        others = frozenset(chosen)
        if (case, others) != (self._selected, self._chosen):
            self._selected, self._chosen = case, others
            self.selection_changed.emit()

    def refresh(self) -> None:
        """Look again where files are and what was made from them."""
        self._states.clear()
        self._reviewed = None
        self.rows_changed.emit()
        self.selection_changed.emit()

    def locate(self, case: str, folder: Path) -> None:
        """Say where the files of a missing scan lie; others are found by that move."""
        self._change(lambda project: project.relocate(case, folder))

    def accept(self, case: str) -> None:
        """Take the files of a scan that changed as they are now."""
        self._change(lambda project: project.accept(case))

    def set_use(self, case: str, use: Use) -> None:
        """Say what a scan may be used for."""
        self._change(lambda project: project.set_use(case, use))

    def set_use_of_chosen(self, use: Use) -> None:
        """Say what all chosen scans may be used for."""
        cases = [scan.case for scan in self.chosen]
        self._change(lambda project: project.set_uses(cases, use))

    @property
    def drawn_in_chosen(self) -> dict[str, bool | None]:
        """Which organs were drawn in the chosen scans with labels; None: they differ.

        Empty where there is no choice: no labels, or one class.
        """
        classes = None if self._project is None else self._project.classes
        if classes is None or len(classes.names) < 2:
            return {}
        found = [scan.annotated or classes.names for scan in self._chosen_labelled]
        said = {name: {name in one for one in found} for name in classes.names}
        return {n: h.pop() if len(h) == 1 else None for n, h in said.items() if h}

    def set_drawn_in_chosen(self, drawn: Mapping[str, bool]) -> None:
        """Say which organs were drawn in the chosen scans; others stay as they are."""
        known = None if self._project is None else self._project.classes
        names = () if known is None else known.names
        by_answer: dict[tuple[str, ...], list[str]] = {}
        for scan in self._chosen_labelled:
            before = scan.annotated or names
            now = tuple(name for name in names if drawn.get(name, name in before))
            if not now:
                self._say(f"Nothing would be drawn in {scan.case}; it stays as it is.")
                return
            by_answer.setdefault(now if now != names else (), []).append(scan.case)

        def note(project: Project) -> None:
            for now, cases in by_answer.items():
                project.set_annotated(cases, now)

        self._change(note)

    @property
    def _chosen_labelled(self) -> list[Scan]:
        return [scan for scan in self.chosen if scan.labels is not None]

    def set_classes(self, classes: LabelSet | None) -> None:
        """Say what the values of labels mean; None: nobody knows."""
        self._change(lambda project: project.set_classes(classes))

    def remove(self, *cases: str) -> None:
        """Take scans off the list; files that were not copied stay where they are.

        What the project has of them goes to its trash; see `trashed_with`.
        """
        if self._project is not None:
            self._change(lambda project: project.remove_scans(cases))
        else:
            self._session = [scan for scan in self._session if scan.case not in cases]
            self.refresh()

    def trashed_with(self, cases: Sequence[str]) -> str:
        """Say what of the project goes to its trash with scans; empty: nothing."""
        if self._project is None:
            return ""
        kinds = [kind for case in cases for kind in self._project.has_of(case)]
        told = [f"{words} of {kinds.count(kind)}" for kind, words in _OF_SCANS.items()]
        kept = [one for kind, one in zip(_OF_SCANS, told, strict=True) if kind in kinds]
        if not kept:
            return ""
        many = "1 scan" if len(cases) == 1 else f"{len(cases)} scans"
        return (
            f"Of {many}, the project has {', '.join(kept)}. They go to "
            f"{self._project.folder / 'trash'}, where nothing is deleted. Files that "
            "were not copied into the project stay where they are."
        )

    # ---- Adding ----

    def look_at(self, paths: Sequence[Path], pattern: str | None = None) -> Intake:
        """Find volumes in what was brought, and propose scans.

        A project is opened at once, and nothing is proposed.
        """
        try:
            intake = look_at(paths, pattern, [scan.case for scan in self.scans])
        except (KdsegError, OSError) as error:
            self._say(str(error))
            return Intake()
        if intake.project is not None:
            self.open_project(intake.project)
            return Intake()
        if intake.notes:
            more = len(intake.notes) - 1
            self._say(intake.notes[0] + (f" ({more} more left out.)" if more else ""))
        return intake

    def named_by(
        self, found: Sequence[Found], pattern: str | None
    ) -> tuple[Found, ...]:
        """Read the names of volumes by another pattern; a bad one changes nothing."""
        paths = list(dict.fromkeys(one.file.path for one in found))
        again = self.look_at(paths, pattern).found
        files = {one.file for one in found}
        return tuple(one for one in again if one.file in files) or tuple(found)

    def add(
        self, scans: Sequence[NewScan], *, copy: bool = False, resample: bool = False
    ) -> None:
        """Begin to add scans; `poll` goes on with it."""
        if self._status.busy or not scans:
            return
        self._off_grid = []
        begin = (
            self._added_to_session
            if self._project is None
            else partial(
                adding_and_learning, self._project, copy=copy, resample=resample
            )
        )
        self._adding = Adding(scans, begin)
        self._set_status(Status(self._adding.text, busy=True))

    def take(self, found: Sequence[Found], *, copy: bool = False) -> None:
        """Begin to add what a person called scans, channels and labels."""
        if why := unclear(found):
            self._say(why)
        else:
            self.add(scans_of(found), copy=copy)

    @property
    def can_resample(self) -> bool:
        """Whether scans were refused that could be added resampled."""
        return bool(self._off_grid) and self._project is not None

    def add_resampled(self) -> None:
        """Add what was refused for its grids, resampled onto the first file's."""
        self.add(self._off_grid, resample=True)

    # ---- Opening ----

    def open(self, case: str) -> None:
        """Open a scan as layers; a large packed one is converted before."""
        if not self._status.busy:
            self._try(lambda: self._open(case))

    @property
    def cache_text(self) -> str:
        """How much was converted, and where it lies."""
        return f"{size(self.cache.size())} in {self.cache.folder}"

    def clear_cache(self) -> None:
        """Remove all converted scans; layers that show one lose it.

        Not while something runs, in a dock or over the whole project: it may read one.
        """
        folder = None if self._project is None else self._project.folder
        predicts = folder is not None and is_predicting(folder)
        if self._status.busy or something_runs() or predicts:
            self._say(
                "A job is running and may read converted scans, so they were kept. "
                "Clear them when it has ended."
            )
            return
        self._say("")
        self._try(self.cache.clear)

    # ---- What is under way ----

    @property
    def status(self) -> Status:
        """What is under way, or what came of it."""
        return self._status

    def cancel(self) -> None:
        """Stop what is under way; scans that were added stay."""
        if self._adding is not None:
            self._adding.cancel()
        elif self._opening is not None:
            self._say("Stopping")
            self._opening.cancel()

    def poll(self) -> None:
        """Go on with what is under way, for a few hundredths of a second."""
        if self._adding is not None:
            self._add_more(self._adding)
        self.worker.poll()

    def close(self) -> None:
        """Let go of project and worker; what is under way is cut off."""
        if self._adding is not None:
            self._adding.cancel()
        self.worker.changed.disconnect(self._on_job_changed)
        if self._owns_worker:
            self.worker.close()
        elif self._opening is not None:
            self._opening.cancel()
        if self._project is not None:
            self._project.close()

    # ---- Private ----

    def _try(self, act: Callable[[], object]) -> None:
        """Do what a person asked for, or say in a sentence why not."""
        try:
            act()
        except (KdsegError, OSError) as error:
            self._say(str(error))

    def _change(self, act: Callable[[Project], object]) -> None:
        def acted() -> None:
            if self._project is None:
                raise ProjectError(
                    "There is no project to note this in; press New to make one, which "
                    "takes the listed scans along."
                )
            act(self._project)
            self._say("")

        self._try(acted)
        self.refresh()

    def _say(self, text: str) -> None:
        self._set_status(replace(self._status, text=text))

    def _set_status(self, status: Status) -> None:
        if status != self._status:
            self._status = status
            self.status_changed.emit(status)

    def _take(self, project: Project, session: Sequence[Scan]) -> None:
        if self._project is not None:
            self._project.close()
        self._project = project
        self._session = []
        self._selected, self._chosen = None, frozenset()
        self._off_grid = []
        self._set_status(Status())
        self.project_changed.emit()
        self.refresh()
        self.add([scan.as_new() for scan in session])

    def _state(self, scan: Scan) -> ScanState:
        if scan.case not in self._states:
            self._states[scan.case] = (
                state_of(scan, None)
                if self._project is None
                else self._state_in(self._project, scan)
            )
        return self._states[scan.case]

    def _state_in(self, project: Project, scan: Scan) -> ScanState:
        if self._reviewed is None:
            self._reviewed = reviewed(project.folder, project.scans)
        judged = self._reviewed.get(scan.case, "")
        return replace(project.state(scan.case), reviewed=judged)

    # ---- Private: adding ----

    def _added_to_session(self, new: NewScan) -> Generator[float, None, Scan]:
        taken = [scan.case for scan in self._session]
        name = unique_name(new.case or new.images[0].name, taken)
        yield 0.0
        if new.labels is not None:
            yield from refusing_fractions(new.labels)
        scan = described(new, name)
        self._session.append(scan)
        return scan

    def _add_more(self, adding: Adding) -> None:
        until = time.monotonic() + _STEP_S
        more = adding.step()
        while more and time.monotonic() < until:
            more = adding.step()
        if more:
            self._set_status(Status(adding.text, adding.fraction, busy=True))
            return
        self._adding = None
        self._off_grid = adding.off_grid
        self._set_status(Status(adding.result))
        if adding.added:
            self._selected, self._chosen = adding.added[-1].case, frozenset()
        self.refresh()

    # ---- Private: opening ----

    def _files(self, scan: Scan) -> ScanFiles:
        project = self._project
        folder = None if project is None else project.folder
        classes = None if project is None else project.classes
        return ScanFiles(scan, folder, classes, self.cache)

    def _open(self, case: str) -> None:
        scan = next(scan for scan in self.scans if scan.case == case)
        self._opening = Opening(self._files(scan), self.worker, self._scratch)
        self._go_on(self._opening)

    def _go_on(self, opening: Opening) -> None:
        self._set_status(Status())  # what fails from here on is not under way
        if opening.begin():
            self._set_status(Status(opening.text, busy=True))
            return
        self._opening = None
        self.layers_opened.emit(opening.layers())

    def _on_job_changed(self, job: Job) -> None:
        opening = self._opening
        if opening is None or job is not opening.job:
            return
        if not job.ended:
            self._set_status(replace(self._status, fraction=job.fraction))
            return
        opening.end()
        if job.state == "finished":
            self._try(partial(self._go_on, opening))
            return
        self._opening = None
        stopped = "Cancelled; nothing was kept."
        self._set_status(Status(stopped if job.state == "stopped" else job.message))
