"""The command bulk predict: many volumes, many workers, one report.

::

    OUT/CASE/MODEL/...       as predict publishes it
    OUT/bulk-report.json     what became of every volume; bulk-report.md to read
    OUT/.bulk/               the run: events.jsonl, stop
    OUT/.bulk-cases/CASE/    a run for each volume, with what is unfinished of it

Given again, the same command does what is missing and nothing else. Needs no torch:
the workers have it.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from kdseg_train import bulk_job
from kdseg_train.bulk_report import Report
from kdseg_train.config import Settings, parse
from kdseg_train.crew import Crew, Foreman, Job, Outcome, Watch, at_work, gpus_for
from kdseg_train.inputs import GivenCase, find_cases, refuse_doubles
from kdseg_train.plan import PredictConfig, open_models
from kdseg_train.scans import (
    Part,
    Scan,
    as_models_take,
    called_alike,
    left_out,
    pairings,
    refuse_labels_alone,
    says_labels,
    scan_of,
)
from kdseg_train.slurm_jobs import Slurm
from napari_kdseg.cores import usable_cores
from napari_kdseg.errors import KdsegError, RunError, StopRequested, UsageError
from napari_kdseg.free_memory import free_bytes
from napari_kdseg.inference.estimate import estimate
from napari_kdseg.models.model import Model
from napari_kdseg.runs.in_turn import keep_aside
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats.sniff import is_zarr

FOLDER = ".bulk"
_CASES = ".bulk-cases"
_WORKER_BYTES = 800_000_000  # torch and its friends, before the first volume
UNKNOWN_BYTES = 2_000_000_000  # where no estimate can be made
_MEMORY_SHARE = 0.8  # of what is free


class BulkPredictConfig(Settings):
    """Predicting many volumes with several workers."""

    version: Literal[1] = 1
    command: Literal["bulk-predict"] = "bulk-predict"
    predict: PredictConfig = Field(description="as of the command predict")
    crew: Crew = Field(Crew(), description="who does the work")


def bulk_predict(run: Run) -> None:
    """Predict every volume that a run's config names; one that fails stops no other.

    Raises
    ------
    KdsegError
        What is wrong with the command itself, before anything is computed.
    RunError
        Where volumes failed; the report says why.
    StopRequested
        Where somebody asked for it; what is finished is kept.
    """
    config = parse(BulkPredictConfig, run.config, str(run.folder / "config.yaml"))
    asked = config.predict
    _check_workers(config.crew)
    models, found = check_prediction(asked)
    headers = _Headers(asked.part)
    cases, labels = _labels_apart(found, headers)
    for note in (*left_out(labels), *_told_channels(models, cases, headers)):
        run.event("note", message=note)

    def need_bytes(cases: Sequence[GivenCase]) -> int:
        if not all(case in headers for case in cases):
            message = "Reading all headers, to see what memory a worker needs."
            run.event("note", message=message)
        return _predict_bytes(asked, models, cases, headers)

    if config.crew.slurm is not None:
        quick = [case for case in cases if not _has_slices(case)]
        check_memory(config.crew.slurm, lambda: need_bytes(quick))
    count, gpus = team(
        config.crew, asked.device, lambda: need_bytes(cases) or UNKNOWN_BYTES
    )
    count = min(count, len(cases))
    threads = asked.threads or threads_of_each(config.crew, count)
    single = asked.model_copy(update={"threads": threads})
    jobs = [
        job(
            asked.out,
            case.id,
            single.model_copy(
                update={
                    "inputs": case.images,
                    "case": None if _names_itself(case) else case.id,
                    "channels": case.said or None,
                }
            ),
            gpus,
        )
        for case in cases
    ]
    with reporting(run, asked.out, len(jobs)) as report:
        for outcome in worked(run, jobs, config.crew, count, gpus):
            report.add(outcome)
            if outcome.state == "done":
                run.event(
                    "prediction",
                    case=outcome.case,
                    folder=asked.out / outcome.case,
                    models=[model.card.name for model in models],
                )
            tell(run, report, outcome)


def check_prediction(
    asked: PredictConfig,
) -> tuple[tuple[Model, ...], list[GivenCase]]:
    """Check what holds for all volumes alike; give the models and the cases.

    Raises
    ------
    UsageError, DataSetError, ModelError
        The first thing that is wrong, and its fix.
    """
    if asked.case is not None or isinstance(asked.part, tuple) or asked.preview:
        raise UsageError(
            "Many volumes have no common case, list of parts or preview; use predict "
            "for a single one."
        )
    models = open_models(asked)
    cases = find_cases(asked.inputs)
    refuse_doubles(cases)
    return models, cases


class _Headers:
    """Cases by their headers, each of which is read once."""

    def __init__(self, part: Part = None) -> None:
        self._part = part
        self._known: dict[GivenCase, Scan] = {}

    def __contains__(self, case: GivenCase) -> bool:
        return case in self._known

    def scan(self, case: GivenCase) -> Scan:
        """Look at a case; as `scan_of`."""
        if case not in self._known:
            self._known[case] = scan_of(case, self._part)
        return self._known[case]

    def are_labels(self, case: GivenCase) -> bool:
        """Whether the files of a case say that they hold labels."""
        try:
            return self.scan(case).says_labels
        except (KdsegError, OSError):
            return says_labels(case)  # of several parts, for instance


def _has_slices(case: GivenCase) -> bool:
    """Whether a case is in folders of slices, whose headers take long to read."""
    return any(path.is_dir() and not is_zarr(path) for path in case.images)


def _labels_apart(
    cases: Sequence[GivenCase], headers: _Headers
) -> tuple[list[GivenCase], list[Path]]:
    """Leave out files in folders that say that they hold labels.

    A folder of slices is not looked into: reading all its headers takes long.
    """
    kept: list[GivenCase] = []
    labels: list[Path] = []
    for case in cases:
        looked_at = not case.named and not _has_slices(case)
        if looked_at and headers.are_labels(case):
            labels += case.images
        else:
            kept.append(case)
    refuse_labels_alone(kept, labels)
    return kept, labels


def _told_channels(
    models: Sequence[Model], cases: Sequence[GivenCase], headers: _Headers
) -> Iterator[str]:
    """Say which file is which channel, for one case of those whose files are alike."""
    cards = [model.card for model in models]
    for case, *_ in called_alike(cases):
        with contextlib.suppress(KdsegError, OSError):  # told when its turn comes
            scans = as_models_take(models, [headers.scan(case)])
            yield from pairings(scans, cards)


def make_room(folder: Path) -> None:
    """Keep the record of a finished run under another name: what is new may follow.

    The folder of an unfinished one stays, since its volumes go on where they were.
    """
    if not (folder / "config.yaml").exists():
        return
    if Run.open(folder).state() == "finished":
        keep_aside(folder)


# ---- Doing it ----


@dataclass(frozen=True)
class _OfRun(Watch):
    run: Run

    def should_stop(self) -> bool:
        return self.run.stop_requested()

    def warn(self, text: str) -> None:
        self.run.warning(text)


def job(out: Path, case: str, config: Settings, gpus: tuple[str, ...]) -> Job:
    """Give a volume its job: the config of a single command, and a folder to run it."""
    return Job(case, out / _CASES / case, config.model_dump(mode="json"), gpus)


def worked(
    run: Run, jobs: Sequence[Job], crew: Crew, workers: int, gpus: tuple[str, ...]
) -> Iterator[Outcome]:
    """Do all jobs with a crew; each outcome as it comes."""
    if not jobs:
        return
    run.event("crew", workers=workers, gpus=len(gpus), volumes=len(jobs))
    logs = run.folder / "slurm"
    with at_work(crew, workers, gpu=bool(gpus), logs=logs) as hired:
        foreman = Foreman(hired, bulk_job.do, crew.retries, _OfRun(run))
        yield from foreman.outcomes(jobs)


@contextlib.contextmanager
def reporting(run: Run, out: Path, total: int) -> Iterator[Report]:
    """Write the report, however the work ends; fail where a volume did."""
    report = Report(run.config["command"], total)
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield report
    finally:
        report.write(out)
    if report.counts["stopped"] or report.counts["not begun"]:
        raise StopRequested(
            f"{run.folder} was asked to stop: {report.summary}. Give the same command "
            "again to go on."
        )
    if report.failed:
        first = report.failed[0]
        raise RunError(
            f"{len(report.failed)} of {total} volumes failed, and "
            f"{out / 'bulk-report.md'} says why; the first, {first.case}: {first.error}"
        )


def tell(run: Run, report: Report, outcome: Outcome) -> None:
    """Say in the run's events how a volume ended, and how far all of it is."""
    run.event(
        "volume",
        case=outcome.case,
        state=outcome.state,
        seconds=outcome.seconds,
        worker=outcome.worker,
        attempts=outcome.attempts,
        error=outcome.error,
    )
    for warning in outcome.warnings:
        run.warning(warning)
    if outcome.state == "failed":
        run.warning(f"{outcome.case}: {outcome.error}")
    run.progress(
        report.settled,
        report.total,
        "volumes",
        per_hour=report.per_hour,
        seconds_left=report.seconds_left,
        pace=report.pace,
    )


# ---- How many ----


def team(
    crew: Crew, device: str, need_bytes: Callable[[], int]
) -> tuple[int, tuple[str, ...]]:
    """Workers to start, and the GPUs of this machine that they share.

    Parameters
    ----------
    crew, device
        As asked for.
    need_bytes
        Says what one volume takes, where nobody said how many workers.

    Raises
    ------
    UsageError
        Where SLURM shall start nobody knows how many.
    """
    if crew.scheduler is not None:
        return 1, ()  # they are there already; nobody is started
    if crew.slurm is not None:
        return _check_workers(crew), ()
    gpus = gpus_for(device)
    if crew.workers is not None:
        return crew.workers, gpus
    if gpus:
        return len(gpus), gpus
    free = free_bytes() * _MEMORY_SHARE
    fitting = int(free // (need_bytes() + _WORKER_BYTES))
    return max(1, min(usable_cores(), fitting)), ()


def _check_workers(crew: Crew) -> int:
    if crew.slurm is not None and crew.workers is None:
        raise UsageError("--slurm needs --workers: how many jobs to ask for.")
    return crew.workers or 1


def check_memory(slurm: Slurm, need_bytes: Callable[[], int]) -> None:
    """Refuse jobs that would die of too little memory one after another.

    What they take on another machine's GPU is not known here.

    Raises
    ------
    UsageError
        Where the largest volume needs more than a job asks for.
    """
    if slurm.gpus:
        return
    need = need_bytes() + _WORKER_BYTES
    if need > slurm.memory_bytes:
        raise UsageError(
            f"A worker needs about {need / 1e9:.2g} GB for the largest volume, and its "
            f"SLURM job asks for {slurm.memory}; take --slurm-set "
            f"memory={math.ceil(need / 1e9)}GB, or smaller tiles."
        )


def threads_of_each(crew: Crew, workers: int) -> int | None:
    """Processor threads of a worker; None where its machine is not known."""
    if crew.slurm is not None:
        return crew.slurm.cores
    if crew.scheduler is not None:
        return None
    return max(1, usable_cores() // workers)


def _predict_bytes(
    asked: PredictConfig,
    models: Sequence[Model],
    cases: Sequence[GivenCase],
    headers: _Headers,
) -> int:
    """What the largest volume takes, 0: unknown; damaged ones fail later."""
    largest = 0
    for case in cases:
        with contextlib.suppress(KdsegError, OSError):
            need = estimate(headers.scan(case), models, asked.settings).host_bytes
            largest = max(largest, need)
    return largest


def _names_itself(case: GivenCase) -> bool:
    """Whether the files alone give the case its name, and tell all that is known."""
    with contextlib.suppress(KdsegError):
        return find_cases(case.images) == [case]
    return False
