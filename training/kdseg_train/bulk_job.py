"""One volume of a bulk command, as a worker does it: a run folder of its own.

The code is that of the single commands, so are the labels and scores, and so is going
on where an earlier execution was cut off. Who hands out jobs needs no torch, so what
the commands import is imported in the worker.
"""

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import get_worker

from kdseg_train.allocation import keep_freed_memory
from kdseg_train.config import MAY_CHANGE
from kdseg_train.crew import Job, Outcome, State
from napari_kdseg.errors import KdsegError, RunError, StopRequested
from napari_kdseg.review.predictions import RECORD
from napari_kdseg.runs.lock import DEAD_AFTER_S, is_held
from napari_kdseg.runs.plain import are_alike
from napari_kdseg.runs.run import Run

_LOOK_S = 0.5
_OF_THE_FOLDER = ("case", "channels")  # its name and its files tell them
_KEPT = re.compile(r"\.\d\.[0-9a-f]+\.npy$")


def do(job: Job) -> Outcome:
    """Do a job, and say in words what went wrong: no volume ends a worker."""
    started = time.monotonic()
    keep_freed_memory()  # Dask has its workers do the contrary
    state: State = "failed"
    error = ""
    warnings: tuple[str, ...] = ()
    try:
        state, warnings = _done(job)
    except StopRequested:
        state = "stopped"
    except KdsegError as refused:
        error = str(refused)
    except OSError as failed:
        error = f"{failed.filename or job.case}: {failed.strerror or failed}."
    except Exception as fault:  # noqa: BLE001 - one volume must not end the others
        error = f"{type(fault).__name__}: {fault}"
    seconds = round(time.monotonic() - started, 3)
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return Outcome(job.case, state, seconds, worker, error, warnings=warnings)


def _done(job: Job) -> tuple[State, tuple[str, ...]]:
    config = job.config | {"device": _device(job)}
    made, command = _COMMANDS[config["command"]]
    run = _prepared(job.folder, config)
    before = made(config, job.case)
    _, start = run.events()
    with run.executing():
        command(run)
    told = run.events(start)[0]
    odd = tuple(event["message"] for event in told if event["event"] == "warning")
    same = before and made(config, job.case) == before
    return "there" if same else "done", odd


def _prepared(folder: Path, config: dict[str, Any]) -> Run:
    """The volume's run: a new one, or the unfinished one of the same settings."""
    _wait_for_the_dead(folder)
    if (folder / "config.yaml").exists():
        run = Run.open(folder)
        free = (*MAY_CHANGE, *_OF_THE_FOLDER)
        if run.state() == "finished" or not are_alike(run.config, config, free):
            shutil.rmtree(folder)
        else:
            return run.going_on_with(config)
    return Run.create(folder, config)


def _wait_for_the_dead(folder: Path) -> None:
    """A worker that died on another machine seems to live until its lock is cold."""
    deadline = time.monotonic() + DEAD_AFTER_S + 30
    while is_held(folder / "lock"):
        if time.monotonic() > deadline:
            raise RunError(
                f"{folder} is being executed by another process; wait for it, or give "
                "the same command again later."
            )
        time.sleep(_LOOK_S)


def _device(job: Job) -> str:
    """The worker's own GPU where this machine's are shared out, else as asked for."""
    device = str(job.config["device"])
    if not job.devices:
        return device
    return job.devices[int(get_worker().name) % len(job.devices)]


# ---- What is there already: the same before and after is nothing recomputed ----


def _records(config: dict[str, Any], case: str) -> dict[str, Any]:
    """Identity of every published prediction of a case."""
    found = {}
    for path in sorted((Path(config["out"]) / case).glob(f"*/{RECORD}")):
        found[str(path)] = json.loads(path.read_text(encoding="utf-8")).get("uuid")
    return found


def _scores(config: dict[str, Any], case: str) -> dict[str, Any]:
    """When every kept file of scores of a case was written."""
    kept = Path(config["scores"]).glob("*.npy")
    return {
        path.name: path.stat().st_mtime_ns
        for path in kept
        if _KEPT.sub("", path.name) == case
    }


def _predict(run: Run) -> None:
    from kdseg_train.predict import predict

    predict(run)


def _score(run: Run) -> None:
    from kdseg_train.scores import score

    score(run)


_COMMANDS: dict[
    str, tuple[Callable[[dict[str, Any], str], dict[str, Any]], Callable[[Run], None]]
] = {"predict": (_records, _predict), "quality-score": (_scores, _score)}
