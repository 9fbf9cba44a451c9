"""SLURM jobs as workers of a bulk command, by dask-jobqueue (extra ``cluster``)."""

import re
import shutil
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dask.utils import parse_bytes
from distributed.core import Status
from pydantic import Field, field_validator

from kdseg_train.config import Settings
from napari_kdseg.errors import UsageError
from napari_kdseg.extras import not_installed


class Slurm(Settings):
    """What one SLURM job, which is one worker, asks for."""

    cores: int = Field(4, ge=1, description="processor cores of a worker")
    memory: str = Field("16GB", description="memory of a worker, with its unit")
    walltime: str = Field(
        "24:00:00", description="longest time of a worker: hours:minutes:seconds"
    )
    partition: str | None = Field(None, description="where jobs go")
    account: str | None = Field(None, description="who pays")
    gpus: int = Field(0, ge=0, le=1, description="GPUs of a worker: none or one")
    directives: tuple[str, ...] = Field((), description="further lines after #SBATCH")

    @field_validator("memory")
    @classmethod
    def _has_a_unit(cls, memory: str) -> str:
        if not _MEMORY.fullmatch(memory):
            raise ValueError("memory is a number and its unit, such as 4GB or 512MB")
        return memory

    @field_validator("walltime")
    @classmethod
    def _is_no_bare_number(cls, walltime: str) -> str:
        if not _WALLTIME.fullmatch(walltime):
            raise ValueError(
                "write hours:minutes:seconds, such as 12:00:00, or 2-00:00:00 for two "
                "days; SLURM takes a bare number for minutes"
            )
        return walltime

    @property
    def memory_bytes(self) -> int:
        """Memory of a worker."""
        return int(parse_bytes(self.memory))


_MEMORY = re.compile(r"\d+(\.\d+)? ?[KMGT](i?B)?", re.IGNORECASE)
_WALLTIME = re.compile(r"\d+-\d+(:\d+){0,2}|\d+:\d+:\d+")


@dataclass
class Submissions:
    """What SLURM said to the jobs that it was given."""

    refused: list[str] = field(default_factory=list)
    """Its words, for each job that it did not take."""


def slurm_cluster(asked: Slurm, logs: Path, submissions: Submissions) -> Any:
    """A scheduler here, whose workers are SLURM jobs.

    Parameters
    ----------
    asked
        What each job asks for.
    logs
        Folder for what jobs print.
    submissions
        Told of jobs that SLURM refuses, which is no error here.

    Raises
    ------
    UsageError
        Where the extra is not installed, or no jobs can be submitted from here.
    """
    cluster_class, job_class = _classes()
    if shutil.which("sbatch") is None:
        raise UsageError(
            "There is no sbatch on this machine, which gives SLURM its jobs. Run it "
            "where jobs are submitted, or leave out --slurm."
        )

    class Job(job_class):  # type: ignore[misc, valid-type]
        """A job that tells of its refusal, which Dask would log and forget."""

        async def _submit_job(self, script: str) -> str:
            try:
                return str(await super()._submit_job(script))
            except (OSError, RuntimeError) as error:
                submissions.refused.append(_words(str(error)))
                return _NO_JOB

        async def close(self) -> None:
            if self.job_id != _NO_JOB:
                await super().close()
            self.status = Status.closed

    class Cluster(cluster_class):  # type: ignore[misc, valid-type]
        job_cls = Job

    gpus = [f"--gpus={asked.gpus}"] if asked.gpus else []
    return Cluster(
        cores=1,
        processes=1,
        job_cpu=asked.cores,
        memory=asked.memory,
        walltime=asked.walltime,
        queue=asked.partition,
        account=asked.account,
        job_extra_directives=[*gpus, *asked.directives],
        worker_extra_args=["--resources", "GPU=1"] if asked.gpus else [],
        log_directory=str(logs),
        scheduler_options={"dashboard_address": None},
        silence_logs="CRITICAL",  # what becomes of a volume is said by who hands it out
    )


_NO_JOB = "0"  # SLURM counts from 1


def _classes() -> tuple[Any, Any]:
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    except ImportError as error:
        raise UsageError(not_installed("SLURM", "dask_jobqueue")) from error
    if in_main:
        signal.signal(signal.SIGINT, before)  # the import takes Ctrl+C for itself
    return SLURMCluster, SLURMJob


def _words(error: str) -> str:
    """What sbatch printed, of dask-jobqueue's account of a failed command."""
    _, _, printed = error.partition("stderr:\n")
    lines = [line.removeprefix("sbatch: error: ") for line in printed.splitlines()]
    return "; ".join(line.strip() for line in lines if line.strip()) or error.strip()
