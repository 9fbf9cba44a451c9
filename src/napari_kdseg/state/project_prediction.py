"""Segmenting all scans of a project, one after the other, in a process of its own.

It goes on when the viewer is closed, and a viewer that opens the project later follows
it from its folder, ``PROJECT/runs/predict-N``.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from psygnal import Signal

from napari_kdseg.errors import KdsegError
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import Model
from napari_kdseg.project_folder import DOCUMENT, read
from napari_kdseg.runs.run import Run
from napari_kdseg.state.detached import Detached
from napari_kdseg.state.estimates import duration
from napari_kdseg.state.jobs import Job
from napari_kdseg.state.prediction import Wish, config_of
from napari_kdseg.state.training_runs import Pace
from napari_kdseg.volumes.scan import Scan

_RUNS = "predict-"


class ProjectPrediction:
    """What the Segment dock shows and does of a whole project.

    Parameters
    ----------
    detached
        Starts and follows the process.

    Attributes
    ----------
    changed
        Emitted when there is something else to be told.
    """

    changed = Signal()

    def __init__(self, detached: Detached | None = None) -> None:
        self._detached = detached or Detached()
        self._project: Path | None = None
        self._models: tuple[Model, ...] = ()
        self._scans: tuple[str, ...] = ()
        self._gone: tuple[str, ...] = ()
        self._lacking: tuple[str, ...] = ()
        self._job: Job | None = None
        self._seen: object = None
        self._pace = Pace()
        self._problem = ""
        self._looked_at: tuple[object, ...] = ()
        self._detached.changed.connect(self._on_job_changed)

    # ---- What it is about ----

    @property
    def project(self) -> Path | None:
        """The project that is open."""
        return self._project

    @property
    def lacking(self) -> tuple[str, ...]:
        """Scans that a prediction by one of the models is missing of."""
        return self._lacking

    def look(self, project: Path | None, models: Sequence[Model]) -> None:
        """See which scans lack a prediction by these models.

        To be called often: it does something where something is new. A run of the
        project that is being executed is followed.
        """
        key = (project, *(model.folder for model in models), *_stamps(project))
        if key == self._looked_at:
            return
        self._looked_at = key
        new = project != self._project
        self._project, self._models = project, tuple(models)
        if new:
            self._job, self._problem = None, ""
        try:
            self._count()
            if new and project is not None:
                self._follow(project)
        except KdsegError as error:
            self._scans = self._lacking = ()
            self._problem = str(error)
        self.changed.emit()

    # ---- Run ----

    @property
    def busy(self) -> bool:
        """Whether there is something to stop."""
        return self._job is not None and not self._job.ended

    @property
    def can_run(self) -> bool:
        """Whether there is something to do, and a place for it."""
        project = self._project
        if project is None or self.busy or not self._lacking or not self._models:
            return False
        return os.access(project, os.W_OK)

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0 to 1."""
        return 0.0 if self._job is None else self._job.fraction

    @property
    def text(self) -> str:
        """What there is to tell, a sentence or two."""
        said = self._run_text()
        return said if self.busy else " ".join(filter(None, (said, self._count_text())))

    def run(self, settings: Settings, preset: str) -> None:
        """Segment the scans that lack it; a run that was stopped goes on."""
        if not self.can_run:
            return
        self._pace, self._problem = Pace(), ""
        try:
            self._job = self._detached.start(self._prepared(settings, preset))
        except (KdsegError, OSError) as error:
            self._problem = str(error)
        self.changed.emit()

    def stop(self) -> None:
        """Ask it to stop in good order; what is finished stays."""
        if self._job is not None and self.busy:
            self._detached.cancel(self._job)

    def poll(self) -> None:
        """Look what is new; never waits."""
        self._detached.poll()

    def close(self) -> None:
        """Let go; the run goes on."""
        self._detached.changed.disconnect(self._on_job_changed)

    # ---- Private ----

    def _count(self) -> None:
        self._scans = self._gone = self._lacking = ()
        project = self._project
        if project is None:
            return
        document, _ = read(project)
        scans = [scan for scan in document.scans if scan.use != "left-out"]
        gone = {scan.case for scan in scans if _is_gone(scan, project)}
        self._scans = tuple(scan.case for scan in scans)
        self._gone = tuple(case for case in self._scans if case in gone)
        self._lacking = tuple(
            case
            for case in self._scans
            if case not in gone and not self._has_all(project / "predictions" / case)
        )

    def _has_all(self, folder: Path) -> bool:
        return all((folder / model.card.name).exists() for model in self._models)

    def _prepared(self, settings: Settings, preset: str) -> Run:
        """The run that was begun with these settings, else a new one."""
        assert self._project is not None
        wish = Wish(
            self._project,
            self._models,
            settings,
            out=self._project / "predictions",
            preset=preset,
        )
        config = config_of(wish) | {
            "out": str(wish.out),
            "threads": max(1, (os.cpu_count() or 2) - 1),
        }
        earlier = _runs_of(self._project)
        if earlier and earlier[-1].state() != "finished":
            kept = {k: v for k, v in earlier[-1].config.items() if k != "cases"}
            if kept == {k: v for k, v in config.items() if k != "cases"}:
                return earlier[-1]
        number = 1 + (_number(earlier[-1].folder) if earlier else 0)
        folder = self._project / "runs" / f"{_RUNS}{number}"
        return Run.create(folder, config | {"cases": list(self._lacking)})

    def _follow(self, project: Path) -> None:
        for run in _runs_of(project)[-1:]:
            if run.state() == "running":
                self._pace = Pace()
                self._job = self._detached.open(run.folder)

    def _on_job_changed(self, job: Job) -> None:
        if self._job is None or job is not self._job:
            return
        if job.news is not self._seen:
            self._seen = job.news
            for event in job.news:
                if event["event"] == "progress":
                    self._pace.note(_of_all(event))
        if job.ended:
            self._count()
        self.changed.emit()

    def _run_text(self) -> str:
        job = self._job
        if self._problem or job is None:
            return self._problem
        if job.state == "finished":
            return "Finished: judge the predictions in Review."
        if job.state == "stopped":
            return "Stopped; finished scans stay, and the run goes on from there."
        if job.ended:
            return job.error or job.message
        if job.message == "stopping" or job.fraction <= 0:
            return f"{job.message.capitalize() or 'Starting'}."
        cases = list(job.run.config.get("cases") or ())
        if job.message not in cases:  # a note, between two scans
            return f"{job.message}."
        number, total = cases.index(job.message) + 1, len(cases)
        left = self._pace.left_s
        rest = "" if left is None else f"; about {duration(left)} left"
        return (
            f"Scan {number} of {total} ({job.message}), {100 * job.fraction:.0f} % of "
            f"all{rest}. It goes on when napari is closed."
        )

    def _count_text(self) -> str:
        if self._project is None or not self._scans:
            return ""
        if not self._models:
            return "Tick models to segment all scans of the project."
        total, gone = len(self._scans), len(self._gone)
        lost = f" The files of {gone} are gone." if gone else ""
        if not self._lacking:
            there = total - gone
            return f"{there} of {total} scans have predictions by these models.{lost}"
        lacking = len(self._lacking)
        return f"{lacking} of {total} scans lack a prediction by these models.{lost}"


def _stamps(project: Path | None) -> Iterator[int]:
    """When scans or predictions were last added, or taken away."""
    if project is None:
        return
    for name in (DOCUMENT, "predictions"):
        with contextlib.suppress(OSError):
            yield (project / name).stat().st_mtime_ns


def _is_gone(scan: Scan, project: Path) -> bool:
    return any(image.file.find(project) is None for image in scan.images)


def _of_all(event: dict[str, object]) -> dict[str, object]:
    """Progress of a scan as progress of the whole run."""
    cases, case = int(str(event.get("cases", 1))), int(str(event.get("case", 1)))
    share = float(str(event["step"])) / max(float(str(event["total"])), 1.0)
    return {**event, "step": case - 1 + share, "total": cases, "stage": "all"}


def _runs_of(project: Path) -> list[Run]:
    """Runs over all scans of a project, oldest first."""
    by_number = {
        _number(path.parent): path.parent
        for path in (project / "runs").glob(f"{_RUNS}*/config.yaml")
    }
    return [Run.open(by_number[number]) for number in sorted(by_number) if number]


def _number(folder: Path) -> int:
    ending = folder.name.removeprefix(_RUNS)
    return int(ending) if ending.isdecimal() else 0
