"""Measuring organs, or agreement with a reference: what the Measure dock shows."""

import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from psygnal import Signal

from napari_kdseg.errors import KdsegError, VolumeError
from napari_kdseg.measure.tables import write_table
from napari_kdseg.project_folder import is_project, last_changes, read
from napari_kdseg.review.predictions import (
    as_noted,
    finder,
    predictions_in,
    records_in,
)
from napari_kdseg.runs.run import Run
from napari_kdseg.state import atlas
from napari_kdseg.state.atlas import Atlas
from napari_kdseg.state.detached import Detached
from napari_kdseg.state.jobs import Job
from napari_kdseg.state.layers import LayerData
from napari_kdseg.state.measured import SLICES, TABLE, Pair, Place, Result
from napari_kdseg.state.wish import Wish
from napari_kdseg.volumes.formats import is_volume
from napari_kdseg.volumes.scan import VolumeFile


class Measurement:
    """What the Measure dock shows and does.

    Parameters
    ----------
    jobs
        Executes the measuring, in a process of its own.
    scratch
        Where runs lie while they are looked at, and what was measured is remembered.

    Attributes
    ----------
    wish_changed
        Emitted when something else is to be measured.
    job_changed
        Emitted when there is news of the job.
    result_changed
        Emitted when there is another result, or none.
    atlas_changed
        Emitted when an atlas is finished.
    failed
        Emitted with a sentence when something cannot be shown or written.
    """

    wish_changed = Signal()
    job_changed = Signal()
    result_changed = Signal()
    atlas_changed = Signal()
    failed = Signal(str)

    def __init__(
        self, jobs: Detached | None = None, scratch: Path | None = None
    ) -> None:
        self._jobs = jobs or Detached()
        self._scratch = scratch or user_cache_path("napari-kdseg")
        self._wish = Wish()
        self._choices: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._found: frozenset[tuple[str, str]] = frozenset()
        self._offered: Path | None = None
        self._seen: tuple[int, ...] = ()
        self._job: Job | None = None
        self._result: Result | None = None
        self._asked = self._measured = Wish()
        self._shown: Result | None = None
        self._atlas: Atlas | None = None
        self._jobs.changed.connect(self._on_job_changed)

    # ---- What is wished ----

    @property
    def wish(self) -> Wish:
        """What is to be measured."""
        return self._wish

    def set_labels(self, place: Path | None) -> None:
        """Choose what to measure; what does not fit it any more is forgotten."""
        self._wish = Wish(place, tolerance_mm=self._wish.tolerance_mm)
        self._look()
        self._tell_wish()

    def look_at_project(self, project: Path | None) -> None:
        """Offer the project that is open, and see what it has now.

        To be called now and then. What somebody chose is not changed.
        """
        if project is not None and project != self._offered:
            earlier, self._offered = self._offered, project
            if self._wish.labels in (None, earlier):
                self.set_labels(project)
                return
        if self._stamp() != self._seen:
            before = self._choices
            self._look()
            if self._choices != before:
                self._forget_lost()
                self._tell_wish()

    def change(self, **changes: Any) -> None:
        """Change a field of the wish."""
        self._wish = replace(self._wish, **changes)
        if changes.get("of"):
            self._look()
        self._tell_wish()

    @property
    def is_project(self) -> bool:
        """Whether a project is measured."""
        return self._wish.labels is not None and is_project(self._wish.labels)

    @property
    def cases(self) -> tuple[str, ...]:
        """Scans to choose one from; empty where they are not known before."""
        return self._choices[0]

    @property
    def models(self) -> tuple[str, ...]:
        """Models to choose one from."""
        return self._choices[1]

    @property
    def problem(self) -> str:
        """Why nothing can be measured; empty where it can."""
        place = self._wish.labels
        if place is None:
            return "Choose a project, the results of Segment, or a file of labels."
        if not place.exists():
            return f"{place} is not there any more; choose another place."
        against = self._wish.reference
        if against is not None and not against.is_dir():
            return f"{against} is no folder; a reference is a data set or a project."
        if against is not None and not place.is_dir():
            return "To compare with a reference, choose a folder of predictions."
        empty = self.is_project and self._wish.of == "predictions" and not self.cases
        if empty:
            return f"{place} has no predictions; measure its own labels, or Segment."
        return ""

    @property
    def atlas_problem(self) -> str:
        """Why no atlas can be made; empty where it can."""
        if self.problem:
            return self.problem
        if self.busy:
            return "Something is being measured; wait until it has ended, or cancel it."
        cases, model = self.cases, self._wish.model
        if model is not None:
            cases = tuple(case for case in cases if (case, model) in self._found)
        return atlas.problem_of(self._wish, cases, self.models)

    # ---- The job ----

    @property
    def job(self) -> Job | None:
        """The measuring at hand, or the last one."""
        return self._job

    @property
    def busy(self) -> bool:
        """Whether something is being measured."""
        return self._job is not None and not self._job.ended

    @property
    def command_line(self) -> str:
        """What repeats the last measuring in a shell; empty before the first."""
        return "" if self._job is None else self._job.command_line

    def run(self) -> None:
        """Measure, in a process of its own; the last result stays until then."""
        if self.busy or self.problem:
            return
        self._forget_run()
        self._asked = self._wish
        folder = self._runs / uuid.uuid4().hex
        try:
            run = Run.create(folder, self._config(folder))
            self._job = self._jobs.start(run)
        except (KdsegError, OSError) as error:
            self.failed.emit(f"Measuring could not begin: {error}")
            return
        self.job_changed.emit()

    def make_atlas(self, out: Path) -> None:
        """Lay all scans over the chosen one, in a process of its own.

        Parameters
        ----------
        out
            The folder of the atlas: new, empty, or of one that was stopped and had the
            same settings, which then goes on. `failed` says why, where it cannot be.
        """
        if self.atlas_problem:
            return
        config = atlas.config_of(self._wish, out, self._memory)
        try:
            run = atlas.prepare(config)
            self._forget_run()
            self._job = self._jobs.start(run)
        except (KdsegError, OSError) as error:
            self.failed.emit(f"No atlas could be begun: {error}")
            return
        self._job.command_line = atlas.command_line(config)
        self.job_changed.emit()

    def cancel(self) -> None:
        """Ask the job to stop; scans that are measured are remembered."""
        if self._job is not None and self.busy:
            self._jobs.cancel(self._job)

    def poll(self) -> None:
        """Look what is new."""
        self._jobs.poll()

    def close(self) -> None:
        """Let go of the job and of its files."""
        self._jobs.changed.disconnect(self._on_job_changed)
        self.cancel()
        self._forget_run()

    # ---- The result ----

    @property
    def result(self) -> Result | None:
        """What was measured of this choice; None where the last was another one."""
        return self._result if self._measured == self._wish else None

    @property
    def atlas(self) -> Atlas | None:
        """The atlas that was finished last."""
        return self._atlas

    def atlas_layers(self) -> list[LayerData]:
        """Layers of the reference's scan, and of the atlas one an organ.

        Empty, and `failed` says why, where they cannot be read.
        """
        if self._atlas is None:
            return []
        try:
            return self._atlas.layers()
        except (KdsegError, OSError, ValueError) as error:
            self.failed.emit(str(error))
            return []

    def export(self, path: Path) -> bool:
        """Write the table as CSV or Parquet; `failed` says why, where it cannot."""
        result = self.result
        if result is None:
            return False
        try:
            write_table(path, result.rows, result.columns)
        except KdsegError as error:
            self.failed.emit(str(error))
            return False
        return True

    def layers_of(self, case: str, model: str) -> list[LayerData]:
        """Layers of a scan, its labels, its reference and where they differ.

        Empty, and `failed` says why, where they cannot be read.
        """
        result = self.result
        pair = None if result is None else result.pair(case, model)
        if pair is None:
            return []
        try:
            return pair.layers(self._images_of(pair))
        except (VolumeError, OSError) as error:
            self.failed.emit(str(error))
            return []

    def key_of(self, place: Place) -> str:
        """What the layer of a slice's disagreement is found by."""
        result = self.result
        pair = None if result is None else result.pair(place.case, place.model)
        return "" if pair is None else pair.key

    # ---- Private ----

    @property
    def _runs(self) -> Path:
        """Where runs lie that nobody keeps."""
        return self._scratch / "measurements"

    @property
    def _memory(self) -> Path:
        return self._scratch / "measured"

    def _config(self, folder: Path) -> dict[str, Any]:
        wish = self._wish
        common: dict[str, Any] = {
            "version": 1,
            "out": str(folder / TABLE),
            "memory": str(self._memory),
        }
        if wish.reference is None:
            return common | {
                "command": "measure",
                "labels": str(wish.labels),
                "images": None if wish.images is None else str(wish.images),
                "of": wish.of,
                "case": wish.case,
                "model": wish.model,
            }
        return common | {
            "command": "evaluate",
            "reference": str(wish.reference),
            "prediction": str(wish.labels),
            "nsd_tolerance_mm": wish.tolerance_mm,
            "slices": str(folder / SLICES),
        }

    def _tell_wish(self) -> None:
        """Tell another wish; a table goes with its wish, and comes back with it."""
        self.wish_changed.emit()
        if self.result is not self._shown:
            self._shown = self.result
            self.result_changed.emit()

    def _look(self) -> None:
        """See which scans and models there are, from names alone."""
        place = self._wish.labels
        self._choices, self._found = ((), ()), frozenset()
        self._seen = self._stamp()
        if place is None or not place.is_dir() or is_volume(place):
            return
        if self._wish.of == "labels" and is_project(place):
            scans = [scan for scan in read(place)[0].scans if scan.labels is not None]
            self._choices = (tuple(scan.case for scan in scans), ())
            return
        results = place / "predictions" if is_project(place) else place
        folders = [path.parent for path in records_in(results)]
        self._found = frozenset((one.parent.name, one.name) for one in folders)
        cases, models = ({name[which] for name in self._found} for which in (0, 1))
        self._choices = (tuple(sorted(cases)), tuple(sorted(models)))

    def _forget_lost(self) -> None:
        """Choose all again where the chosen scan or model is no more."""
        (cases, models), wish = self._choices, self._wish
        case = wish.case if wish.case in cases else None
        model = wish.model if wish.model in models else None
        self._wish = replace(wish, case=case, model=model)

    def _stamp(self) -> tuple[int, ...]:
        """When what can be chosen may have changed last; only projects do."""
        place = self._wish.labels
        if place is None or not is_project(place):
            return ()
        return last_changes(place)

    def _images_of(self, pair: Pair) -> list[VolumeFile]:
        """The scan of a pair: its reference, its record or the project tells it."""
        place = self._wish.labels
        if place is None or pair.images:
            return [VolumeFile(path) for path in pair.images if path.exists()]
        project = is_project(place)
        find = finder(read(place)[0].scans, place) if project else as_noted
        results = place / "predictions" if project else place
        for one in predictions_in(results, find):
            if one.labels == pair.prediction and not one.missing:
                files = zip(one.images, one.parts, strict=True)
                return [VolumeFile(path, part) for path, part in files]
        return []

    def _on_job_changed(self, job: Job) -> None:
        if job is not self._job:
            return
        if job.state == "finished":
            self._take(job)
        elif job.state == "stopped" and job.run.config["command"] == "atlas":
            out = job.run.config["out"]
            self.failed.emit(
                f"The atlas was stopped; to go on, choose {out} again with the same "
                "scan and model."
            )
        self.job_changed.emit()

    def _take(self, job: Job) -> None:
        makes_atlas = job.run.config["command"] == "atlas"
        try:
            if makes_atlas:
                self._atlas = Atlas.read(job.run)
            else:
                self._result, self._measured = Result.read(job.run), self._asked
        except (OSError, ValueError, KeyError, KdsegError) as error:
            self.failed.emit(f"The result of {job.run.folder} cannot be read: {error}")
            return
        if makes_atlas:
            self.atlas_changed.emit()
            return
        self._shown = self.result
        self.result_changed.emit()
        if self._shown is None:
            self.failed.emit(
                "What was measured is of the choice before; its table is shown where "
                "that is chosen again."
            )

    def _forget_run(self) -> None:
        """Remove the run of a measurement; that of an atlas lies in it, and stays."""
        if self._job is None or not self._job.ended:
            return
        folder = self._job.run.folder
        if folder.parent == self._runs.absolute():
            shutil.rmtree(folder, ignore_errors=True)
