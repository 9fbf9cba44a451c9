"""Processes that work for a bulk command: here, on a scheduler, or as SLURM jobs.

Every worker process takes one job at a time, so that models stay warm in it and memory
is that of one volume. A job that a dying worker takes along is given to another one, as
often as asked for; jobs write what they make in one rename, so none is done twice.
"""

import atexit
import contextlib
import gc
import signal
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import dask
import psutil
from distributed import (
    Client,
    Future,
    KilledWorker,
    LocalCluster,
    Worker,
    WorkerPlugin,
    wait,
)
from distributed.core import Status
from pydantic import Field, model_validator

from kdseg_train.config import Settings
from kdseg_train.slurm_jobs import Slurm, Submissions, slurm_cluster
from napari_kdseg.errors import RunError, UsageError

LOOK_S = 0.5
SAY_WAITING_S = 30.0
CONNECT_S = 30.0

State = Literal["done", "there", "failed", "stopped"]


class Crew(Settings):
    """Who does the work."""

    workers: int | None = Field(
        None, ge=1, description="processes; none: what memory and cores allow"
    )
    scheduler: str | None = Field(None, description="of workers that run, tcp://...")
    slurm: Slurm | None = Field(None, description="workers are SLURM jobs")
    retries: int = Field(
        2, ge=0, description="how often a volume is tried again when its worker died"
    )

    @property
    def works_here(self) -> bool:
        """Whether the workers are processes of this machine."""
        return self.scheduler is None and self.slurm is None

    @model_validator(mode="after")
    def _one_kind(self) -> "Crew":
        if self.scheduler is not None and self.slurm is not None:
            raise ValueError("a scheduler has its own workers; leave out --slurm")
        return self


@dataclass(frozen=True)
class Job:
    """One volume's share of a bulk command: a run folder, prepared by the worker."""

    case: str
    folder: Path
    config: dict[str, Any]
    devices: tuple[str, ...] = ()
    """GPUs of this machine, of which each worker takes its own; empty: the config's."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    case: str
    state: State
    """done; there: nothing was left to do; failed; stopped on request."""
    seconds: float
    worker: str
    """Host and process."""
    error: str = ""
    attempts: int = 1
    warnings: tuple[str, ...] = ()
    """What was odd, a sentence each."""


Task = Callable[[Job], Outcome]


class Watch:
    """Whom to tell what happens, and whether to go on; this one listens to nobody."""

    def should_stop(self) -> bool:
        """Whether to end in good order."""
        return False

    def warn(self, text: str) -> None:
        """Something odd does not end it."""


def gpus_for(device: str) -> tuple[str, ...]:
    """GPUs of this machine that a setting of the device allows."""
    if device == "auto":
        import torch  # takes seconds, and is not needed where the device is named

        return tuple(f"cuda:{place}" for place in range(torch.cuda.device_count()))
    return (device,) if device.startswith("cuda") else ()


@dataclass(frozen=True)
class Team:
    """Workers, as they are reached."""

    client: Client
    asked: int
    """How many were asked for, where they are started."""
    counts_gpus: bool
    """Whether a job can ask for the GPU of its worker."""
    crew: Crew = field(default_factory=Crew)
    """As it was asked for."""
    submissions: Submissions = field(default_factory=Submissions)
    """What SLURM says to jobs that it is given."""

    @property
    def more_memory(self) -> str:
        """What to do where a worker perhaps had too little memory."""
        slurm = self.crew.slurm
        if slurm is not None:
            return (
                f"Perhaps its {slurm.memory} of memory did not suffice: ask for "
                "more with --slurm-set memory=. Or its walltime was over: ask for a "
                "longer one with --slurm-set walltime=, and give the same command "
                "again to go on."
            )
        fewer = "take fewer workers" if self.asked > 1 else "close other programs"
        if self.crew.scheduler is not None:
            fewer = "start fewer workers on its machine"
        return (
            f"Perhaps memory did not suffice: {fewer}, or compute smaller tiles, as "
            "bulk predict does with --set tile=64,64."
        )


@contextlib.contextmanager
def at_work(crew: Crew, workers: int, *, gpu: bool, logs: Path) -> Iterator[Team]:
    """Have workers while the block lasts.

    Parameters
    ----------
    crew, workers
        Who works, and how many where they are started here.
    gpu
        Whether each worker started here has a GPU of its own.
    logs
        Folder for what SLURM jobs print.

    Raises
    ------
    UsageError
        Where the scheduler does not answer, or SLURM's extra is not installed.
    """
    quiet = {
        "distributed.admin.tick.limit": "10m",  # reading holds the interpreter
        "distributed.worker.profile.enabled": False,  # a tenth of the time
        "distributed.admin.tick.interval": "1s",  # fifty times a second costs 2 %
        "distributed.nanny.pre-spawn-environ.OMP_WAIT_POLICY": "PASSIVE",
        # A death counts at once; who is tried again is decided here, and said.
        "distributed.scheduler.allowed-failures": 0,
    }
    submissions = Submissions()
    with dask.config.set(quiet), _at_once() as here, contextlib.ExitStack() as stack:
        if crew.scheduler is not None:
            client = _connected(crew.scheduler)
            workers_there = client.scheduler_info()["workers"].values()
            counts_gpus = any("GPU" in one["resources"] for one in workers_there)
        elif crew.slurm is not None:
            cluster = stack.enter_context(slurm_cluster(crew.slurm, logs, submissions))
            # Unlike scale, this replaces jobs whose time is over.
            cluster.adapt(minimum_jobs=workers, maximum_jobs=workers)
            client, counts_gpus = Client(cluster), crew.slurm.gpus > 0
        else:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,  # foreseen before; Dask would only kill
                dashboard_address=None,
                resources={"GPU": 1} if gpu else None,
                silence_logs="CRITICAL",
            )
            here.append(cluster)
            client, counts_gpus = Client(stack.enter_context(cluster)), gpu
        stack.enter_context(client)
        client.register_plugin(Manners())
        yield Team(client, workers, counts_gpus, crew, submissions)


@contextlib.contextmanager
def _at_once() -> Iterator[list[LocalCluster]]:
    """Where a person presses Ctrl+C again, wait for none of the workers started here.

    Gives a list for their cluster, which would wait for them at the end of Python.
    """
    here: list[LocalCluster] = []
    try:
        yield here
    except KeyboardInterrupt:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "resource_tracker" not in " ".join(process.cmdline()):
                    process.kill()  # Python's own tracker tidies up after them
        for cluster in here:
            cluster.status = Status.closed
        raise


class Manners(WorkerPlugin):
    """What a worker process leaves to others, and how it ends.

    Ctrl+C is for the process that a person sees, which lets workers end in order. At
    its end Python would look for cycles among all of torch's objects, most of a second.
    """

    name = "kdseg-manners"

    def setup(self, worker: Worker) -> None:
        """Run once in each worker, also in those that replace dead ones."""
        del worker
        atexit.register(gc.freeze)
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)


class Foreman:
    """Hands out jobs, one to a worker, and takes back how they ended.

    Parameters
    ----------
    team
        Who works.
    task
        Does one job in a worker; what goes wrong with the volume it says in words.
    retries
        How often a job is handed out again when its worker died.
    watch
        Told of deaths; asked whether to stop.
    """

    def __init__(self, team: Team, task: Task, retries: int, watch: Watch) -> None:
        self._team = team
        self._client = team.client
        self._task = task
        self._retries = retries
        self._watch = watch
        self._resources = {"GPU": 1} if team.counts_gpus else None
        self._waiting: deque[tuple[Job, int]] = deque()
        self._running: dict[Future[Any], tuple[Job, int]] = {}
        self._alone_since = time.monotonic()
        self._refused = 0

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Do all jobs; each outcome as it comes.

        After a request to stop, jobs that have begun end at their next step, and the
        others are not begun: they have no outcome.

        Raises
        ------
        RunError
            Where the scheduler is gone.
        UsageError
            Where SLURM takes none of the jobs that would be workers.
        """
        self._waiting.extend((job, 1) for job in jobs)
        while self._waiting or self._running:
            if self._client.status != "running":
                raise RunError(
                    "The scheduler of the workers is gone; what is finished is kept. "
                    "Start it, and give the same command again."
                )
            if self._watch.should_stop():
                self._stop()
            self._hand_out()
            ended = [(one, *self._running.pop(one)) for one in self._finished()]
            if not self._watch.should_stop():
                self._hand_out()  # nobody waits while results are fetched and written
            for future, job, attempt in ended:
                outcome = self._ended(future, job, attempt)
                future.release()
                if outcome is not None:
                    yield outcome

    def _hand_out(self) -> None:
        """Give every worker without a job one: a death then costs a single job."""
        workers = len(self._client.nthreads())
        self._tell_of_refusals(workers)
        self._tell_of_waiting(workers)
        while self._waiting and len(self._running) < workers:
            job, attempt = self._waiting.popleft()
            future = self._client.submit(
                self._task,
                job,
                key=f"{job.case}-{attempt}-{uuid.uuid4().hex}",
                pure=False,
                resources=self._resources,
            )
            self._running[future] = (job, attempt)

    def _finished(self) -> "list[Future[Any]]":
        if not self._running:
            time.sleep(LOOK_S)
            return []
        with contextlib.suppress(TimeoutError, CancelledError):
            wait(list(self._running), timeout=LOOK_S, return_when="FIRST_COMPLETED")
        return [future for future in self._running if future.status != "pending"]

    def _ended(self, future: "Future[Any]", job: Job, attempt: int) -> Outcome | None:
        if future.status == "finished":
            outcome: Outcome = future.result()
            return replace(outcome, attempts=attempt)
        if future.status == "error":
            error = future.exception()
            if not isinstance(error, KilledWorker):
                text = f"{type(error).__name__}: {error}"
                return Outcome(job.case, "failed", 0.0, "", text, attempt)
        if attempt <= self._retries:
            if not self._watch.should_stop():
                self._watch.warn(f"{job.case}: its worker died; it is tried again.")
                self._waiting.append((job, attempt + 1))
            return None
        times = "" if attempt == 1 else f" {attempt} times"
        text = f"its worker died{times}. {self._team.more_memory}"
        return Outcome(job.case, "failed", 0.0, "", text, attempt)

    def _stop(self) -> None:
        """Begin nothing more, and ask what has begun to end at its next step."""
        self._waiting.clear()
        taken = {key for keys in self._client.processing().values() for key in keys}
        for future, (job, _) in list(self._running.items()):
            if future.status == "pending" and future.key not in taken:
                future.cancel()  # no worker has it yet
                del self._running[future]
            elif job.folder.is_dir():
                (job.folder / "stop").touch()

    def _tell_of_refusals(self, workers: int) -> None:
        refused = self._team.submissions.refused
        if len(refused) == self._refused:
            return
        self._refused = len(refused)
        if workers == 0 and self._refused >= self._team.asked:
            raise UsageError(
                f"SLURM takes no worker: {refused[-1]}. Ask for what it has, as with "
                "--slurm-set partition=NAME or --slurm-set account=NAME."
            )
        self._watch.warn(f"SLURM does not take a worker: {refused[-1]}")

    def _tell_of_waiting(self, workers: int) -> None:
        now = time.monotonic()
        if workers:
            self._alone_since = now
        elif now - self._alone_since > SAY_WAITING_S:
            self._watch.warn("There is no worker yet; waiting for one.")
            self._alone_since = now


def _connected(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The scheduler {address} does not answer ({error}). Start it with dask "
            f"scheduler, and its workers with dask worker {address} --nthreads 1."
        ) from error
