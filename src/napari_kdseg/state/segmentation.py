"""Segmenting one scan: with which models, what it will take, how far it is."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_path
from psygnal import Signal

from napari_kdseg.amounts import duration
from napari_kdseg.errors import KdsegError, VolumeError
from napari_kdseg.inference.presets import cost_in_words, with_preset
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import Model
from napari_kdseg.review.known_models import models_of_project
from napari_kdseg.runs.run import Run
from napari_kdseg.shipped import shipped_models
from napari_kdseg.state.earlier import Earlier, in_the_way
from napari_kdseg.state.estimates import in_words, seconds_of
from napari_kdseg.state.jobs import Job, Worker, command_line
from napari_kdseg.state.layers import LayerData, Source
from napari_kdseg.state.prediction import Wish, case_of, prepared
from napari_kdseg.state.results import Kind, Result, labels_of, published_layers
from napari_kdseg.state.scratch import COPIES, ScratchCopy, file_name
from napari_kdseg.state.ticks import Ticks
from napari_kdseg.state.training_runs import Pace
from napari_kdseg.volumes.volume import Grid

Phase = Literal[
    "idle", "preparing", "running", "cancelling", "finished", "cancelled", "failed"
]
_JUDGE = "quality-classifier"  # tells good slices from bad ones; segments nothing
COPYING = "Copying the layer for the worker"
_IN_THE_WAY = "There are results here that this would replace: see above Run."
_LOOKED_AT = (
    "Review shows slices that are judged or corrected, perhaps of these results, so "
    "nothing was replaced. Press Stop judging or Done there, or close the contact "
    "sheet, and then Replace and run."
)
BUSY: tuple[Phase, ...] = ("preparing", "running", "cancelling")


@dataclass(frozen=True)
class Status:
    """How far the segmentation is, for a bar and a line of text."""

    phase: Phase = "idle"
    fraction: float = 0.0
    text: str = ""

    @property
    def busy(self) -> bool:
        """Whether there is something to cancel."""
        return self.phase in BUSY


class Segmentation:
    """What the Segment dock shows and does.

    Parameters
    ----------
    worker
        Executes the runs; one that is given is shared, and stays open.
    scratch
        Where results go that nobody chose a folder for, and copies of arrays that
        have no file.

    Attributes
    ----------
    models_changed, source_changed, estimate_changed, out_changed
        Emitted when something else is to be shown.
    status_changed
        Emitted with the new `Status`.
    layers_started
        Emitted with the layers of arrays that a job begins to fill.
    tiles_finished
        Emitted when some of these arrays' voxels are new.
    layers_published
        Emitted with the layers of complete results; each has the ``key`` of the one
        it replaces in its metadata.
    """

    models_changed = Signal()
    source_changed = Signal()
    estimate_changed = Signal()
    out_changed = Signal()
    status_changed = Signal(Status)
    layers_started = Signal(list)
    tiles_finished = Signal()
    layers_published = Signal(list)

    def __init__(self, worker: Worker | None = None, scratch: Path | None = None):
        self._owns_worker = worker is None
        self.worker = worker or Worker()
        self._scratch = scratch or user_cache_path("napari-kdseg")
        self._models: list[Model] = []
        self._ticks = Ticks()
        self._source: Source | None = None
        self._uncertainty: str | None = "entropy"
        self._device = "auto"
        self._preset = "exact"
        self._out: Path | None = None
        self._out_is_chosen = False
        self._project: Path | None = None
        self._looked_at: set[Path] = set()
        self._models_of_project: list[Model] = []
        self._status = Status()
        self._run: Run | None = None
        self._job: Job | None = None
        self._seen: object = None
        self._shown = False
        self._began = 0.0
        self._pace, self._goes_on = Pace(), False
        self._wish: Wish | None = None
        self._ran: Source | None = None
        self._wanted_grid: Grid | None = None
        self._running: tuple[Model, ...] = ()
        self._grid: Grid | None = None
        self._copy: ScratchCopy | None = None
        self._aside = ""
        self.worker.changed.connect(self._on_job_changed)

    # ---- Models ----

    @property
    def models(self) -> tuple[Model, ...]:
        """The models to choose from."""
        return tuple(self._models)

    @property
    def chosen(self) -> tuple[Model, ...]:
        """The models that will run: teachers, then those they taught."""
        ticked = self._ticks.models
        chosen = (m for m in self._models if m in ticked and not self.misfit(m))
        return tuple(sorted(chosen, key=_is_taught))

    def add_shipped_models(self) -> None:
        """Offer the models that come with the package."""
        for folder in shipped_models().values():
            self.add_model(folder)

    def add_model(self, folder: Path) -> Model:
        """Offer a model folder; one that is offered already is returned.

        Raises
        ------
        ModelError
            Where the folder cannot be trusted.
        """
        for known in self._models:
            if known.folder == folder:
                return known
        model = Model.open(folder)
        self._models.append(model)
        self.models_changed.emit()
        return model

    def set_project(self, folder: Path | None) -> None:
        """Follow the project that is open: offer its models, and its place for results.

        To be called now and then, as trainings add models to a project. None, as when
        the dock with the project is closed, changes nothing.
        """
        if folder is None:
            return
        if folder != self._project:
            self._leave_project()
            self._project = folder
            self.out_changed.emit()
            self.estimate_changed.emit()
        new = [one for one in models_of_project(folder) if one not in self._looked_at]
        self._looked_at.update(new)
        for path in new:
            with suppress(KdsegError, OSError):  # a damaged one is no choice
                self._offer_of_project(path)

    def choose(self, model: Model, *, chosen: bool = True) -> None:
        """Take a model into the prediction, or out of it.

        The worker loads meanwhile: whoever ticks a model will soon press Run.
        """
        if chosen != (model in self.chosen):
            (self._ticks.tick if chosen else self._ticks.untick)(model)
            self.estimate_changed.emit()
        if not self.problem:
            self.worker.start()

    def misfit(self, model: Model) -> str:
        """Why a model cannot segment the scan; empty where it can, or none is open."""
        if self._source is None:
            return ""
        try:
            model.card.check_fits(self._source, self._source.name)
        except KdsegError as error:
            return str(error)
        return ""

    def seconds(self, model: Model) -> float | None:
        """How long a model alone would take; None where nobody has measured it."""
        if self._source is None:
            return None
        return seconds_of(self._source, model, self._device)

    # ---- The scan and the options ----

    @property
    def source(self) -> Source | None:
        """The scan to segment."""
        return self._source

    def set_source(self, source: Source | None) -> None:
        """Choose the scan to segment; what was told of another one goes.

        Models stay ticked for scans of the kind that they were ticked for.
        """
        before, self._source = self._source, source
        other = before is not None and not _alike(before, source)
        if other and self.about and not self._status.busy:
            self._set_status(Status())
        if source is not None:
            fitting = (model for model in self._models if not self.misfit(model))
            self._ticks.look_at(source, fitting)
        self.source_changed.emit()
        self.estimate_changed.emit()

    @property
    def settings(self) -> Settings:
        """How to predict."""
        chosen = Settings(device=self._device, uncertainty=self._uncertainty)
        return with_preset(chosen, self._preset)

    def set_uncertainty(self, measure: str | None) -> None:
        """Choose a measure of uncertainty, or none."""
        self._uncertainty = measure
        self.estimate_changed.emit()

    def set_device(self, device: str) -> None:
        """Choose ``auto``, ``cpu`` or ``cuda[:N]``."""
        self._device = device
        self.estimate_changed.emit()

    @property
    def preset(self) -> str:
        """The preset that is chosen."""
        return self._preset

    def set_preset(self, name: str) -> None:
        """Choose ``exact``, ``fast`` or ``draft``."""
        self._preset = name
        self.estimate_changed.emit()

    @property
    def preset_text(self) -> str:
        """What the preset costs with the ticked models, as it was measured."""
        if self._preset == "exact":
            return ""
        costs = [cost_in_words(model, self._preset) for model in self.chosen]
        return "; ".join(costs)

    @property
    def has_project(self) -> bool:
        """Whether there is a project that results can go to."""
        return self._project is not None

    @property
    def out(self) -> Path | None:
        """Where results are published; None: in the cache, until saved from there.

        Unless something else is chosen, the predictions of the project that is open.
        """
        if self._out_is_chosen or self._project is None:
            return self._out
        place = self._project / "predictions"
        writable = os.access(place if place.exists() else self._project, os.W_OK)
        return place if writable else None

    def set_out(self, folder: Path | None) -> None:
        """Choose where results are published; None: in the cache."""
        self._set_out(folder, chosen=True)

    def set_out_to_project(self) -> None:
        """Let results go to the project that is open again, as without a choice."""
        self._set_out(None, chosen=False)

    # ---- Before Run ----

    @property
    def problem(self) -> str:
        """Why Run cannot be pressed; empty where it can."""
        return self._foreseen()[0]

    @property
    def estimate_text(self) -> str:
        """Memory and time that Run will take; empty where it cannot be pressed."""
        return self._foreseen()[1]

    def _foreseen(self) -> tuple[str, str]:
        """Why Run cannot be pressed, or else what it will take."""
        if self._source is None:
            return (
                "Open a scan first: drop a file on the canvas, or File > Open Sample."
            ), ""
        if not self.chosen:
            asked = "Tick at least one model."
            return " ".join(filter(None, (asked, self._ticks.left_behind))), ""
        try:
            return "", in_words(self._source, self.chosen, self.settings)
        except KdsegError as error:
            return str(error), ""

    @property
    def replaced(self) -> str:
        """What Run would put aside to make it anew, in words; empty: nothing."""
        earlier = self._in_the_way()
        return "" if earlier is None else earlier.words

    # ---- Run ----

    @property
    def status(self) -> Status:
        """How far it is."""
        return self._status

    @property
    def about(self) -> str:
        """Name of the scan that the status is of, where another one is chosen."""
        ran = self._ran
        if ran is None or self._status.phase == "idle" or _alike(ran, self._source):
            return ""
        return ran.name

    @property
    def command_line(self) -> str:
        """What repeats the last run in a shell; empty before the first."""
        return command_line(self._run) if self._run is not None else ""

    def run(
        self,
        view: tuple[int, int] | None = None,
        *,
        replace_earlier: bool = False,
        judged: bool = False,
    ) -> None:
        """Segment the scan; the slice in view comes first.

        Parameters
        ----------
        view
            Axis of the stored array and index of the slice that is looked at.
        replace_earlier
            Whether results that are `replaced` may be put aside; nothing runs
            otherwise where there are such.
        judged
            Whether Review shows slices here: what is looked at stays.
        """
        if self._source is None or self.problem or self._status.busy:
            return
        self._ran = self._source  # what is told from here on is of this scan
        self._aside = ""
        earlier = self._in_the_way()
        if earlier is not None and not replace_earlier:
            self.estimate_changed.emit()  # they came after it was told
            self._set_status(Status("failed", 0.0, _IN_THE_WAY))
            return
        if earlier is not None and judged:
            self._set_status(Status("failed", 0.0, _LOOKED_AT))
            return
        if earlier is not None:
            try:
                aside = earlier.put_aside()
            except KdsegError as error:
                self._set_status(Status("failed", 0.0, str(error)))
                return
            self._aside = f" The earlier results are in {aside}."
        # What is asked now is what runs, whatever is chosen while the scan is prepared.
        self._wish = self._wish_for(self._source, view)
        self._wanted_grid = self._source.grid
        self.worker.start()  # loads while the scan is prepared
        if self._source.path is not None:
            self._submit(self._wish)
            return
        self._copy = ScratchCopy(self._source, self._scratch / COPIES)
        self._set_status(Status("preparing", 0.0, COPYING))

    def cancel(self) -> None:
        """Stop in good order; tiles that are finished stay."""
        if self._copy is not None:
            self._copy.cancel()
            self._copy = None
            self._end("cancelled", 0.0, "Cancelled.")
        elif self._job is not None and not self._job.ended:
            text = "Stopping after the tile at hand"
            self._set_status(Status("cancelling", self._job.fraction, text))
            self.worker.cancel(self._job)

    def poll(self) -> None:
        """Go on with what is under way; never waits."""
        if self._copy is not None:
            self._prepare(self._copy)
        self.worker.poll()

    def close(self) -> None:
        """Let go of the worker; a run at hand is cut off where it is."""
        if self._copy is not None:
            self._copy.cancel()
        self._copy = None
        self.worker.changed.disconnect(self._on_job_changed)
        if self._owns_worker:
            self.worker.close()
        elif self._job is not None and not self._job.ended:
            self.worker.cancel(self._job)

    # ---- The project ----

    def _set_out(self, folder: Path | None, *, chosen: bool) -> None:
        self._out, self._out_is_chosen = folder, chosen
        self.out_changed.emit()
        self.estimate_changed.emit()

    def _offer_of_project(self, folder: Path) -> None:
        if any(known.folder == folder for known in self._models):
            return
        model = Model.open(folder)
        if model.card.role != _JUDGE:
            self._models.append(model)
            self._models_of_project.append(model)
            self.models_changed.emit()

    def _leave_project(self) -> None:
        """Take the models of another project away, but those that are ticked."""
        left = [one for one in self._models_of_project if one not in self.chosen]
        self._models = [one for one in self._models if one not in left]
        self._models_of_project = []
        self._looked_at.clear()
        if left:
            self.models_changed.emit()

    # ---- Preparing a run ----

    def _wish_for(self, source: Source, view: tuple[int, int] | None = None) -> Wish:
        return Wish(
            source.path or Path(file_name(source)),
            self.chosen,
            self.settings,
            view,
            self.out,
            part=source.part,
            files=source.files,
            parts=source.parts,
            channels=source.channels,
            case=source.name if source.path else None,
            preset=self._preset,
        )

    def _in_the_way(self) -> Earlier | None:
        if self._source is None or self.out is None or self.problem:
            return None
        return in_the_way(self._wish_for(self._source))

    def _prepare(self, copy: ScratchCopy) -> None:
        try:
            fraction = copy.step()
        except KdsegError as error:
            self._copy = None
            self._end("failed", 0.0, str(error))
            return
        if fraction is None:
            self._copy = None
            assert self._wish is not None
            self._submit(replace(self._wish, scan=copy.path))
        else:
            self._set_status(Status("preparing", fraction, COPYING))

    def _submit(self, wish: Wish) -> None:
        try:
            run = prepared(wish, self._scratch)
        except KdsegError as error:
            self._end("failed", 0.0, str(error))
            return
        self._run, self._running = run, tuple(wish.models)
        self._grid = self._wanted_grid
        self._shown = False
        self._began = time.monotonic()
        self._pace, self._goes_on = Pace(), False
        if run.state() == "finished":
            self._publish("Computed before")
            return
        self._job = self.worker.submit(run)
        self._on_job_changed(self._job)

    # ---- Following a run ----

    def _on_job_changed(self, job: Job) -> None:
        if job is not self._job:
            return
        if job.news is not self._seen:
            self._seen = job.news
            self._note_pace(job)
            self._show_tiles(job.run)
        if job.state == "finished":
            took = duration(time.monotonic() - self._began)
            self._publish(f"Finished in {took}")
        elif job.state in ("failed", "interrupted"):
            self._end("failed", job.fraction, job.error or job.message)
        elif job.state == "stopped":
            text = "Cancelled; finished tiles stay. Run goes on from there."
            self._end("cancelled", job.fraction, text)
        elif self._status.phase != "cancelling":
            self._set_status(Status("running", job.fraction, self._progress_text(job)))

    def _progress_text(self, job: Job) -> str:
        if not self.worker.ready:
            return "Loading the networks"
        if job.fraction <= 0:
            return "Starting"
        done, left = f"{100 * job.fraction:.0f} %", self._pace.left_s
        return done if left is None else f"{done}, {duration(left)} left"

    def _note_pace(self, job: Job) -> None:
        """Take the pace from what this execution does; the rest was there before."""
        for event in job.news:
            if event["event"] == "resumed":
                self._goes_on = True
            elif event["event"] == "progress" and (event["step"] or not self._goes_on):
                self._pace.note(event)

    def _show_tiles(self, run: Run) -> None:
        if not self._shown:
            case = case_of(run)
            results = self._results("labels", run.partial / case)
            if not all(result.path for result in results):
                return
            try:
                layers = self._growing(results, case)
            except (VolumeError, FileNotFoundError):
                return  # the job has published them meanwhile, and tells so next
            self._shown = True
            self.layers_started.emit(layers)
        self.tiles_finished.emit()

    def _publish(self, words: str) -> None:
        assert self._run is not None
        assert self._wish is not None
        case = case_of(self._run)
        folder = Path(self._run.config["out"]) / case
        try:
            names = [model.card.name for model in self._running]
            layers = published_layers(folder, case, names)
        except KdsegError as error:
            self._end("failed", 1.0, str(error))
            return
        self.layers_published.emit(layers)
        in_cache = self._wish.out is None
        where = "kept in the cache until saved" if in_cache else str(folder)
        self._end("finished", 1.0, f"{words}; {where}.")
        self.models_changed.emit()  # how long each takes may be known better now
        self.estimate_changed.emit()

    def _growing(self, results: list[Result], case: str) -> list[LayerData]:
        assert self._grid is not None
        return [
            labels_of(result, case, self._grid, model.card.classes)
            for result, model in zip(results, self._running, strict=True)
        ]

    def _results(self, kind: Kind, folder: Path) -> list[Result]:
        # The folders of a prediction have the names of its models.
        return [Result(kind, folder, model.card.name) for model in self._running]

    def _end(self, phase: Phase, fraction: float, text: str) -> None:
        self._set_status(Status(phase, fraction, f"{text}{self._aside}"))

    def _set_status(self, status: Status) -> None:
        if status != self._status:
            self._status = status
            self.status_changed.emit(status)


def _is_taught(model: Model) -> bool:
    return model.card.role != "teacher"


def _alike(one: Source, other: Source | None) -> bool:
    """Whether both are of the same scan."""
    return other is not None and (one.name, one.path) == (other.name, other.path)
