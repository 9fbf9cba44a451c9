"""Segmenting all scans of a project, one after the other, in a process of its own.

It goes on when the viewer is closed, and a viewer that opens the project later follows
it from its folder, ``PROJECT/runs/predict-N``.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psygnal import Signal

from napari_kdseg.amounts import duration
from napari_kdseg.cores import cores_beside_viewer
from napari_kdseg.errors import KdsegError
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import Model
from napari_kdseg.project_folder import last_changes, read
from napari_kdseg.runs.lock import is_held
from napari_kdseg.runs.plain import given
from napari_kdseg.runs.run import Run
from napari_kdseg.state.arriving import Arriving
from napari_kdseg.state.detached import Detached
from napari_kdseg.state.jobs import Job
from napari_kdseg.state.layers import Source
from napari_kdseg.state.prediction import Wish, config_of
from napari_kdseg.state.training_runs import Pace
from napari_kdseg.volumes.scan import Scan
from napari_kdseg.volumes.volume import Grid

_RUNS = "predict-"


@dataclass(frozen=True)
class _Wanted:
    """A scan that lacks predictions, where its files are, and by which models."""

    case: str
    files: tuple[Path, ...]
    parts: tuple[str | None, ...]
    channels: tuple[str, ...]
    models: tuple[Model, ...]


@dataclass(frozen=True)
class _Found:
    """What there is to do in a project."""

    wanted: tuple[_Wanted, ...] = ()
    done: int = 0
    gone: int = 0
    unfit: tuple[str, ...] = ()
    """Why models do not fit, a sentence for each scan."""


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
    layers_published
        Emitted with the layers of complete results of the scan that is open.
    """

    changed = Signal()
    layers_published = Signal(list)

    def __init__(self, detached: Detached | None = None) -> None:
        self._detached = detached or Detached()
        self._project: Path | None = None
        self._models: tuple[Model, ...] = ()
        self._looked_at: tuple[object, ...] = ()
        self._found = _Found()
        self._job: Job | None = None
        self._seen: object = None
        self._pace = Pace()
        self._at: dict[str, Any] = {}
        self._source: Source | None = None
        self._arriving = Arriving()
        self._problem = ""
        self._detached.changed.connect(self._on_job_changed)

    # ---- What it is about ----

    @property
    def project(self) -> Path | None:
        """The project that is open, or was last."""
        return self._project

    @property
    def lacking(self) -> tuple[str, ...]:
        """Scans that a prediction by one of the models is missing of."""
        return tuple(one.case for one in self._found.wanted)

    def look(self, project: Path | None, models: Sequence[Model]) -> None:
        """See which scans lack a prediction by these models.

        To be called often: it does something where something is new. A run of the
        project that somebody executes is followed. None, as when the dock with the
        project is closed, leaves the project as it is.
        """
        project = project or self._project
        changes = () if project is None else last_changes(project)
        key = (project, *(model.folder for model in models), *changes)
        if key == self._looked_at:
            return
        self._looked_at = key
        if project != self._project:
            self._job, self._arriving = None, Arriving()
        self._project, self._models = project, tuple(models)
        self._count()
        if project is not None and not self.busy:
            self._follow(project)
        self.changed.emit()

    def set_source(self, source: Source | None) -> None:
        """Choose the scan that is open; its results are shown, once they are there."""
        self._source = source
        self._show_arrived()

    # ---- Run ----

    @property
    def busy(self) -> bool:
        """Whether there is something to stop."""
        return self._job is not None and not self._job.ended

    @property
    def can_run(self) -> bool:
        """Whether there is something to do, and a place for it."""
        project = self._project
        if project is None or self.busy or not self._found.wanted:
            return False
        return os.access(project, os.W_OK)

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0 to 1."""
        return 0.0 if self._job is None else self._job.fraction

    @property
    def text(self) -> str:
        """What there is to tell, a sentence or two."""
        if self.busy:
            return self._progress_text()
        return " ".join(filter(None, (self._end_text(), self._count_text())))

    @property
    def details(self) -> str:
        """Which scans cannot be segmented and why, a sentence a line."""
        return "\n".join(self._found.unfit)

    def run(self, settings: Settings, preset: str) -> None:
        """Segment the scans that lack it; a run that was stopped goes on."""
        if not self.can_run:
            return
        self._pace, self._at, self._problem = Pace(), {}, ""
        try:
            run = self._prepared(settings, preset)
            self._arriving = Arriving(run.config["predictions"])
            self._job = self._detached.start(run)
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

    # ---- Private: what lacks ----

    def _count(self) -> None:
        self._found, self._problem = _Found(), ""
        if self._project is None or not self._models:
            return
        try:
            self._found = _look_through(self._project, self._models)
        except KdsegError as error:
            self._problem = str(error)

    # ---- Private: the run ----

    def _prepared(self, settings: Settings, preset: str) -> Run:
        """The run that was begun with these scans and settings, else a new one."""
        assert self._project is not None
        predictions = [
            _config(one, self._project, settings, preset) for one in self._found.wanted
        ]
        config = {"version": 1, "command": "predict-each", "predictions": predictions}
        earlier = _last_run(self._project)
        if earlier is not None and given(_left_of(earlier)) == given(predictions):
            return earlier
        runs = self._project / "runs"
        number = 1 + max(map(_number, runs.glob(f"{_RUNS}*")), default=0)
        return Run.create(runs / f"{_RUNS}{number}", config)

    def _follow(self, project: Path) -> None:
        if not is_predicting(project):
            return
        with contextlib.suppress(KdsegError):
            job = self._detached.open(_folders_of(project)[0])
            self._job, self._seen = job, job.news
            self._pace, self._at = Pace(), {}
            self._arriving = Arriving(job.run.config["predictions"])
            self._take(job.news)

    def _on_job_changed(self, job: Job) -> None:
        if self._job is None or job.run.folder != self._job.run.folder:
            return
        if job.news is not self._seen:
            self._seen = job.news
            self._take(job.news)
        if job.ended:
            self._count()
        self._show_arrived()
        self.changed.emit()

    def _take(self, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            if event["event"] == "progress":
                self._at = event
                self._pace.note(_of_all(event))
        self._arriving.take(events)

    def _show_arrived(self) -> None:
        layers = self._arriving.layers_for(self._source)
        if layers:
            self.layers_published.emit(layers)

    # ---- Private: words ----

    def _progress_text(self) -> str:
        assert self._job is not None
        if self._job.message == "stopping":
            return "Stopping after the tile at hand."
        if not self._at:
            return "Starting."
        at, left = self._at, self._pace.left_s
        rest = "" if left is None else f"; about {duration(left)} left"
        return (
            f"Scan {at['case']} of {at['cases']} ({at['stage']}), "
            f"{100 * self._job.fraction:.0f} % of all{rest}. {self._whereabouts} "
            "It goes on when napari is closed."
        )

    @property
    def _whereabouts(self) -> str:
        assert self._project is not None
        place = self._project / "predictions"
        shown = self._arriving.shown
        told = f"; those of {shown} are in the viewer" if shown else ""
        return f"Results lie in {place}{told}."

    def _end_text(self) -> str:
        job = self._job
        if self._problem or job is None:
            return self._problem
        if job.state == "finished":
            return f"Finished: judge the predictions in Review. {self._whereabouts}"
        if job.state == "stopped":
            return "Stopped; finished scans stay, and the run goes on from there."
        return job.error or job.message

    def _count_text(self) -> str:
        found = self._found
        if self._project is None or self._problem:
            return ""
        if not self._models:
            return "Tick models to segment all scans of the project."
        lacking, unfit = len(found.wanted), len(found.unfit)
        told = [f"{_scans(lacking)} without predictions of these models"]
        told += [f"{found.done} with them"] if found.done else []
        told += [f"{unfit} that they are not for"] if unfit else []
        told += [f"{found.gone} whose files are gone"] if found.gone else []
        return f"{', '.join(told)}."


# ---- What lacks ----


@dataclass(frozen=True)
class _Header:
    """A scan as models are asked whether they fit it."""

    name: str
    grid: Grid = field(repr=False)
    channels: tuple[str, ...] = ()


def _look_through(project: Path, models: Sequence[Model]) -> _Found:
    """Sort the scans of a project that are not left out.

    Raises
    ------
    ProjectError
        Where the project cannot be read.
    """
    document, _ = read(project)
    wanted, unfit, done, gone = [], [], 0, 0
    for scan in document.scans:
        if scan.use == "left-out":
            continue
        results = project / "predictions" / scan.case
        lacking = [one for one in models if not (results / one.card.name).exists()]
        files = [image.file.find(project) for image in scan.images]
        found = tuple(file for file in files if file is not None)
        if not lacking:
            done += 1
        elif misfit := _misfit(scan, lacking):
            unfit.append(misfit)
        elif len(found) < len(files):
            gone += 1
        else:
            parts = tuple(image.part for image in scan.images)
            lacks = _Wanted(scan.case, found, parts, scan.channels, tuple(lacking))
            wanted.append(lacks)
    return _Found(tuple(wanted), done, gone, tuple(unfit))


def _misfit(scan: Scan, models: Sequence[Model]) -> str:
    for model in models:
        try:
            model.card.check_fits(_Header(scan.case, scan.grid.grid, scan.channels))
        except KdsegError as error:
            return str(error)
    return ""


def _scans(count: int) -> str:
    return {0: "No scan", 1: "1 scan"}.get(count, f"{count} scans")


# ---- Runs ----


def is_predicting(project: Path) -> bool:
    """Whether somebody segments the scans of a project; opens no run."""
    return any(is_held(folder / "lock") for folder in _folders_of(project)[:1])


def _config(
    one: _Wanted, project: Path, settings: Settings, preset: str
) -> dict[str, Any]:
    """The settings of one prediction, as JSON and YAML have them."""
    wish = Wish(
        one.files[0],
        one.models,
        settings,
        out=project / "predictions",
        files=one.files,
        parts=one.parts,
        channels=one.channels,
        preset=preset,
    )
    there = (project / "predictions" / one.case).exists()
    config = config_of(wish) | {
        "case": one.case,
        "part": list(one.parts) if any(one.parts) else None,
        "out": str(wish.out),
        "threads": cores_beside_viewer(),
    }
    # Regions of some of the teachers do not become those of all.
    return config | {"regions": config["regions"] and not there}


def _left_of(run: Run) -> list[dict[str, Any]] | None:
    """Predictions that a run has not done yet; None where it is of no more use."""
    if run.state() == "finished" or run.config["command"] != "predict-each":
        return None
    done = {e["case"] for e in run.events()[0] if e["event"] == "prediction"}
    listed: list[dict[str, Any]] = run.config["predictions"]
    return [one for one in listed if one["case"] not in done]


def _of_all(event: dict[str, Any]) -> dict[str, Any]:
    """Progress of a scan as progress of the whole run."""
    share = float(event["step"]) / max(float(event["total"]), 1.0)
    done = int(event["case"]) - 1 + share
    return {**event, "step": done, "total": event["cases"], "stage": "all"}


def _last_run(project: Path) -> Run | None:
    """The newest run over all scans that can be read; to open one takes a while."""
    for folder in _folders_of(project):
        with contextlib.suppress(KdsegError):
            return Run.open(folder)
    return None


def _folders_of(project: Path) -> list[Path]:
    """Folders of runs over all scans of a project, newest first."""
    found = [file.parent for file in (project / "runs").glob(f"{_RUNS}*/config.yaml")]
    return sorted(found, key=_number, reverse=True)


def _number(folder: Path) -> int:
    ending = folder.name.removeprefix(_RUNS)
    return int(ending) if ending.isdecimal() else 0
