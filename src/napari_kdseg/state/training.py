"""Trainings, begun, followed, stopped and resumed: what the Train dock shows."""

import tempfile
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from psygnal import Signal

from napari_kdseg.amounts import duration
from napari_kdseg.errors import KdsegError, RunError
from napari_kdseg.runs.curves import Curves
from napari_kdseg.runs.run import Run
from napari_kdseg.state.asking import COMMAND, Question
from napari_kdseg.state.detached import Detached
from napari_kdseg.state.jobs import Job
from napari_kdseg.state.training_runs import (
    KnownRuns,
    Pace,
    Whereabouts,
    name_of,
    open_run,
    whereabouts,
)

REPORT = "report.html"


class Training:
    """The runs of trainings, and the one that is looked at.

    What goes wrong is told in `status`; nothing is raised. `poll` is called by a timer.
    A training goes on without the viewer.

    Parameters
    ----------
    detached
        Starts and follows the processes.
    known
        Remembers the runs.
    command
        The program that writes reports.
    show_page
        Opens a file in the browser.

    Attributes
    ----------
    runs_changed
        Emitted when there are other runs to choose from.
    run_changed
        Emitted when another run is looked at.
    job_changed
        Emitted when something about it is new.
    curves_changed
        Emitted when its curves or examples grew.
    status_changed
        Emitted with what there is to tell, a sentence or nothing.
    """

    runs_changed = Signal()
    run_changed = Signal()
    job_changed = Signal()
    curves_changed = Signal()
    status_changed = Signal(str)

    def __init__(
        self,
        detached: Detached | None = None,
        known: KnownRuns | None = None,
        command: Sequence[str] = COMMAND,
        show_page: Callable[[str], object] = webbrowser.open,
    ) -> None:
        self._detached = detached or Detached()
        self._known = known or KnownRuns()
        self._command = tuple(command)
        self._show_page = show_page
        self._job: Job | None = None
        self._opening: Path | None = None
        self._seen: object = None
        self._host = ""
        self._began = self._last = 0.0
        self._pace = Pace()
        self.curves = Curves()
        self._status = ""
        self._report: tuple[Path, Question] | None = None
        self._detached.changed.connect(self._on_job_changed)

    # ---- Which runs ----

    @property
    def runs(self) -> dict[Path, str]:
        """Names of the runs to choose from, by folder, newest first."""
        found: dict[Path, str] = {}
        current = () if self._job is None else (self._job.run.folder,)
        for folder in dict.fromkeys((*current, *self._known.folders)):
            try:
                found[folder] = name_of(Run.open(folder))
            except RunError:
                if folder in current:  # its process has not come so far as to make it
                    found[folder] = folder.parent.name
        return found

    def look_for(self) -> None:
        """Look at the newest run again, as after the viewer was closed."""
        for folder in self._known.folders[:1]:
            self.open(folder)

    def open(self, folder: Path) -> bool:
        """Look at a run, of whatever machine; gives whether it can be."""
        try:
            run = open_run(folder)
            known = [j for j in self._detached.jobs if j.run.folder == run.folder]
            if known:
                self._look_at(known[0], run.events()[0])
                return True
            self._forget()
            self._opening = run.folder
            self._look_at(self._detached.open(run.folder), ())
        except KdsegError as error:
            self._tell(str(error))
            return False
        finally:
            self._opening = None
        return True

    def begin(self, recipe: Path, folder: Path) -> None:
        """Train as a recipe says, into a new folder."""
        try:
            self._forget()
            self._look_at(self._detached.fit(recipe, folder), ())
        except (KdsegError, OSError) as error:
            self._tell(str(error))

    # ---- The run that is looked at ----

    @property
    def job(self) -> Job | None:
        """The run that is looked at, as a job."""
        return self._job

    @property
    def whereabouts(self) -> Whereabouts | None:
        """Whether it lives, and on which machine."""
        return None if self._job is None else whereabouts(self._job.run, self._host)

    @property
    def can_stop(self) -> bool:
        """Whether it can be asked to stop."""
        if self._job is None or self._job.ended or self._job.message == "stopping":
            return False
        return not whereabouts(self._job.run, self._host).elsewhere

    @property
    def can_resume(self) -> bool:
        """Whether it can go on."""
        if self._job is None or self._job.state in ("running", "finished"):
            return False
        if not (self._job.ended and self._job.run.folder.is_dir()):
            return False
        return not whereabouts(self._job.run, self._host).elsewhere

    @property
    def model(self) -> Path | None:
        """The model it made; None while there is none."""
        if self._job is None:
            return None
        folder = self._job.run.model_folder
        return folder if (folder / "model.yaml").is_file() else None

    @property
    def state_text(self) -> str:
        """How it is, in a line."""
        job = self._job
        if job is None:
            return "No run yet: set one up, or open the folder of one."
        words = job.state if job.ended else job.message or job.state
        took = duration(self._last - self._began) if self._last > self._began else ""
        if job.ended:
            return f"{words.capitalize()}{f' after {took}' if took else ''}."
        stage = self._stage_text(words)
        return f"{stage}{f'; {took} so far' if took else ''}."

    def stop(self) -> None:
        """Ask it to stop in good order; the step it had reached is kept."""
        if self._job is not None and self.can_stop:
            self._detached.cancel(self._job)

    def resume(self) -> None:
        """Have it go on from its last checkpoint."""
        if self._job is None or not self.can_resume:
            return
        try:
            run = open_run(self._job.run.folder)
            job = self._detached.start(run)
        except (KdsegError, OSError) as error:
            self._tell(str(error))
            return
        self._tell("")
        self._job, self._seen = job, None
        self._on_job_changed(job)

    def report(self) -> None:
        """Open the report of the run in the browser; it is written where need be."""
        if self._job is None or self._report is not None:
            return
        folder = self._job.run.folder
        page = folder / REPORT
        if self._job.ended and page.is_file():
            self._show_page(page.as_uri())
            return
        if whereabouts(self._job.run, self._host).elsewhere:  # nothing is written there
            page = Path(tempfile.mkdtemp(prefix="kdseg-report-")) / REPORT
        words = ["report", str(folder), "--out", str(page)]
        self._report = page, Question(words, self._command)
        self._tell("Writing the report.")

    # ---- In the background ----

    @property
    def status(self) -> str:
        """What there is to tell."""
        return self._status

    def poll(self) -> None:
        """Look what is new; never waits."""
        self._detached.poll()
        if self._report is None:
            return
        page, question = self._report
        answer = question.poll()
        if answer is None:
            return
        self._report = None
        self._tell("" if answer.good else answer.words)
        if answer.good:
            self._show_page(page.as_uri())

    def close(self) -> None:
        """Let go; trainings go on."""
        self._detached.changed.disconnect(self._on_job_changed)
        if self._report is not None:
            self._report[1].close()

    # ---- Private ----

    def _forget(self) -> None:
        self._job, self._seen = None, None
        self._host, self._began, self._last = "", 0.0, 0.0
        self._pace = Pace()
        self.curves = Curves()

    def _look_at(self, job: Job, events: Sequence[dict[str, Any]]) -> None:
        """Show a job, after these events, which are those it had so far."""
        self._tell("")
        if events:
            self._forget()
            self._take(events)
        self._known.remember(job.run.folder)
        self._job, self._seen = job, job.news
        self.runs_changed.emit()
        self.run_changed.emit()
        self.job_changed.emit()
        self.curves_changed.emit()

    def _on_job_changed(self, job: Job) -> None:
        if job is not self._job and job.run.folder != self._opening:
            return
        grew = False
        if job.news is not self._seen:
            self._seen = job.news
            grew = self._take(job.news)
        if job is not self._job:
            return
        if grew:
            self.curves_changed.emit()
        if any(event["event"] == "started" for event in job.news):
            self.runs_changed.emit()  # only now its config tells its name
        self.job_changed.emit()

    def _take(self, events: Sequence[dict[str, Any]]) -> bool:
        for event in events:
            if event["event"] == "progress":
                self._pace.note(event)
            elif event["event"] in ("started", "resumed"):
                self._host = str(event.get("host", ""))
                self._began = float(event.get("time", 0))
                self._pace = Pace()
        if events:
            self._last = float(events[-1].get("time", 0))
        return self.curves.take(events)

    def _stage_text(self, words: str) -> str:
        assert self._job is not None
        if self._job.fraction <= 0:
            return words.capitalize()
        left = self._pace.left_s
        words = f"Stage {words}: {100 * self._job.fraction:.0f} %"
        return words if left is None else f"{words}, about {duration(left)} left"

    def _tell(self, text: str) -> None:
        if text != self._status:
            self._status = text
            self.status_changed.emit(text)
