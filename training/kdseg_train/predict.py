"""The command predict: every case from file to published results, tile by tile."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdseg_train.config import parse
from kdseg_train.foreseen import refuse_lack_of_memory, tell
from kdseg_train.partial import Partial
from kdseg_train.plan import Plan, PredictConfig, plan
from kdseg_train.publish import publish, what_is_left
from kdseg_train.scans import Scan
from napari_kdseg.errors import RunError, VolumeError
from napari_kdseg.inference.coarse_to_fine import Found, look, predict_any_tiles
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.pipeline import Behind
from napari_kdseg.inference.predict import FinishedTile
from napari_kdseg.inference.presets import cost_in_words
from napari_kdseg.inference.speeds import record_seconds
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.channels import stacked
from napari_kdseg.volumes.opening import open_scan
from napari_kdseg.volumes.volume import Box, Volume

NETWORKS_KEPT = 8
PROGRESS_STEPS = 1000


def predict(run: Run) -> None:
    """Predict every case that a run's config names, and publish it when it is whole.

    A case whose voxels turn out to be no good is reported and left out; the others go
    on, and the run fails in the end.

    Raises
    ------
    KdsegError
        The first thing that is wrong, before anything is computed.
    VolumeError
        Where a case was no good.
    StopRequested
        Where somebody asked for it; finished tiles are kept.
    """
    config = parse(PredictConfig, run.config, str(run.folder / "config.yaml"))
    planned = _warm(plan(config, resume=True))
    left = {scan.id: what_is_left(planned, scan) for scan in planned.scans}
    _tell_notes(run, planned)
    tell(run, [(own, scan) for scan in planned.scans if (own := left[scan.id])])
    failures: list[VolumeError] = []
    for number, scan in enumerate(planned.scans):
        job = _Job(run, left[scan.id] or planned, scan, number)
        try:
            if left[scan.id] is None:
                job.tell_published()
            else:
                job.do()
        except VolumeError as error:
            failures.append(error)
            if len(planned.scans) > 1:
                run.warning(str(error))
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise VolumeError(
            f"{len(failures)} of {len(planned.scans)} cases could not be predicted; "
            f"the first: {failures[0]}"
        )


def _tell_notes(run: Run, planned: Plan) -> None:
    for note in planned.notes:
        run.event("note", message=note)
    for doubt in planned.doubts:
        run.warning(doubt)
    preset = planned.config.preset
    if preset != "exact":
        costs = "; ".join(cost_in_words(model, preset) for model in planned.models)
        run.event("note", message=f"The preset {preset}: {costs}.")


@dataclass(frozen=True)
class _Job:
    """One case of a run."""

    run: Run
    plan: Plan
    scan: Scan
    number: int

    def do(self) -> None:
        refuse_lack_of_memory(self.run, self.plan, self.scan)
        partial = Partial(self.run.partial / self.scan.id, self.plan, self.scan)
        self._progress(partial.finished)
        volume = read_scan(self.scan, self.plan.config.fill_nonfinite, self._converting)
        started = time.monotonic()
        self._preview(volume, partial)
        self._compute(volume, partial)
        seconds = time.monotonic() - started
        publish(self.plan, self.scan, partial, seconds)
        self.tell_published()
        shutil.rmtree(partial.folder, ignore_errors=True)

    def tell_published(self) -> None:
        self._progress(1.0)
        self.run.event(
            "prediction",
            case=self.scan.id,
            folder=self.plan.folder(self.scan),
            models=[model.card.name for model in self.plan.models],
        )

    def _converting(self, done: int, total: int) -> None:
        """Show how far a large packed scan is on its way into the cache."""
        self.run.check_stop()
        self.run.progress(done, total, f"converting {self.scan.id}")

    def _preview(self, volume: Volume, partial: Partial) -> None:
        """Compute the slice somebody looks at before all others."""
        asked = self.plan.config.preview
        if asked is None or not partial.untouched or self._has_composite:
            return  # a composite has nothing to show before it has seen everything
        axis, index = asked
        box = [slice(0, size) for size in self.scan.grid.shape]
        box[axis] = slice(index, index + 1)
        # Not timed: in so few windows much of it is setting up.
        hooks = Hooks(self.run.stop_requested, self._note)
        models, settings = self.plan.models, self.plan.config.settings
        for tile in predict_any_tiles(
            volume, models, settings, box=(box[0], box[1], box[2]), hooks=hooks
        ):
            partial.show(tile)
        self.run.event("preview", case=self.scan.id, axis=axis, index=index)

    def _compute(self, volume: Volume, partial: Partial) -> None:
        found = None
        while (box := partial.remaining) is not None:
            if found is None:
                found = self._looked(volume, partial)
            before = partial.finished
            self._compute_box(volume, partial, box, found)
            if partial.finished <= before:
                raise RunError(
                    f"{self.scan.name}: what was computed does not go with what was "
                    f"finished before. Remove {partial.folder} and begin anew."
                )

    def _looked(self, volume: Volume, partial: Partial) -> Found | None:
        """What a composite's coarse model found; every execution goes by the first."""
        models = self.plan.models
        if len(models) != 1 or models[0].parts is None:
            return None
        file = partial.folder / "coarse.npz"
        found = Found.read(file, volume.grid, models[0])
        if found is None:
            found = look(
                volume,
                models[0],
                self.plan.config.settings,
                self._hooks,
            )
            found.write(file)
        return found

    def _compute_box(
        self, volume: Volume, partial: Partial, box: Box, found: Found | None
    ) -> None:
        left = np.prod([part.stop - part.start for part in box])
        share = float(left / np.prod(self.scan.grid.shape))
        before = partial.finished
        if before > 0:  # whoever foresees the end counts from here
            self._progress(before)

        def keep(tile: FinishedTile) -> None:
            partial.add(tile)
            self._progress(
                before + share * tile.fraction,
                box=[[part.start, part.stop] for part in tile.index],
            )

        with Behind(keep) as behind:
            for tile in predict_any_tiles(
                volume,
                self.plan.models,
                self.plan.config.settings,
                box=box,
                found=found,
                hooks=self._hooks,
            ):
                behind.put(tile)

    @property
    def _has_composite(self) -> bool:
        return any(model.parts is not None for model in self.plan.models)

    @property
    def _hooks(self) -> Hooks:
        """What windows took is kept, for the estimates of later predictions."""
        return Hooks(self.run.stop_requested, self._note, record_seconds)

    def _note(self, message: str) -> None:
        self.run.event("note", message=message)

    def _progress(self, fraction: float, **extra: Any) -> None:
        self.run.progress(
            round(fraction * PROGRESS_STEPS),
            PROGRESS_STEPS,
            self.scan.id,
            case=self.number + 1,
            cases=len(self.plan.scans),
            **extra,
        )


def read_scan(
    scan: Scan,
    fill_nonfinite: float | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Volume:
    """Read every channel of a case; left on disk where its format can be.

    Parameters
    ----------
    scan, fill_nonfinite
        What is read, and what stands where a voxel is NaN or infinite.
    on_progress
        Told how many planes of how many are in the cache, where a large scan that
        cannot be read by pieces is converted into it first.

    Raises
    ------
    VolumeError
        Where a file is damaged, or holds voxels that are not finite.
    """
    volumes = [
        open_scan(path, part, fill_nonfinite=fill_nonfinite, on_progress=on_progress)
        for path, part in zip(scan.images, scan.parts, strict=True)
    ]
    return stacked(volumes, scan.channels)


@dataclass(frozen=True, eq=False)
class WarmModel(Model):
    """A model whose network, once built, stays for the next prediction."""

    def network(self, device: str = "cpu") -> Any:
        """The network on a device, shared by all who ask; nobody changes it."""
        return _network(self.folder, self.fingerprint, device)


def _warm(planned: Plan) -> Plan:
    return replace(planned, models=tuple(_warmed(model) for model in planned.models))


def _warmed(model: Model) -> WarmModel:
    if model.parts is None:
        return WarmModel(model.card, model.folder)
    coarse, fine = map(_warmed, model.parts)
    return WarmModel(model.card, model.folder, parts=(coarse, fine))


@lru_cache(maxsize=NETWORKS_KEPT)
def _network(folder: Path, fingerprint: str, device: str) -> Any:
    del fingerprint  # tells a model from another that lay in its folder before
    return Model.open(folder).network(device)
