"""Jobs of a viewer: run folders given to a warm process, followed by their events.

Nothing here waits: `Worker.poll` is called by a timer, looks at files and returns. The
process ends with the viewer, since its input ends then.
"""

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from psygnal import Signal, SignalGroupDescriptor

from napari_kdseg.runs.run import Run, State

COMMAND = (sys.executable, "-m", "kdseg_train.work")
OUT = "predicted"
_SAID_OTHERWISE = {"version", "command", "inputs", "preview"}
KILL_AFTER_S = 2.0
# Ctrl+C in the viewer's terminal is for the viewer alone.
_APART: dict[str, Any] = (
    {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    if sys.platform == "win32"
    else {"start_new_session": True}
)
_ENDED = frozenset({"finished", "stopped", "failed", "interrupted"})
_OPEN: "weakref.WeakSet[Worker]" = weakref.WeakSet()  # each dock has one of its own


@dataclass(eq=False)
class Job:
    """One run as a dock shows it; ``events`` has a signal for each field."""

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    run: Run
    state: State = "prepared"
    fraction: float = 0.0
    """How much is done, 0 to 1."""
    message: str = ""
    """The newest thing to tell: a stage, a warning."""
    error: str = ""
    """Why it failed; empty where it did not."""
    command_line: str = ""
    """What repeats the job in a shell."""
    news: tuple[dict[str, Any], ...] = ()
    """The run's events that came with the last poll, in order."""

    def __post_init__(self) -> None:
        self.command_line = command_line(self.run)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in _ENDED


class Worker:
    """The viewer's one process for inference: started when first needed, kept warm.

    Jobs are done one after the other, in the order of `submit`.

    Parameters
    ----------
    command
        The process; ``kdseg-train work`` by default.

    Attributes
    ----------
    changed
        Emitted with a job whenever something about it is new.
    ready_changed
        Emitted with whether the process is warm.
    """

    changed = Signal(Job)
    ready_changed = Signal(bool)

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = tuple(command)
        self._process: _Process | None = None
        self._waiting: deque[Job] = deque()
        self._job: Job | None = None
        self._byte = 0
        self._kill_at = float("inf")
        self._ready = False

    # ---- Public API ----

    @property
    def ready(self) -> bool:
        """Whether the process has loaded what it needs."""
        return self._ready

    @property
    def job(self) -> Job | None:
        """The job at hand."""
        return self._job

    @property
    def busy(self) -> bool:
        """Whether a job is at hand or waits."""
        return self._job is not None or bool(self._waiting)

    def start(self) -> None:
        """Start the process, unless it runs; it takes some seconds to be ready."""
        _OPEN.add(self)
        if self._process is None:
            self._process = _Process(self._command)

    def submit(self, run: Run) -> Job:
        """Have a prepared run executed, after the jobs that wait already."""
        job = Job(run, message="waiting" if self.busy else "starting")
        self._waiting.append(job)
        self.poll()
        return job

    def cancel(self, job: Job) -> None:
        """Ask a job to stop; finished tiles are kept. After 2 s its process is killed.

        A job that waits is taken off the queue. `poll` does the rest.
        """
        if job in self._waiting:
            self._waiting.remove(job)
            self._end(job, "stopped")
        elif job is self._job and self._kill_at == float("inf"):
            job.run.request_stop()
            job.message = "stopping"
            self._kill_at = time.monotonic() + KILL_AFTER_S
            self.changed.emit(job)

    def poll(self) -> None:
        """Look what is new: answers of the process, events of the job, its death."""
        if self._process is not None:
            self._hear(self._process)
        if self._job is not None:
            self._follow(self._job)
        self._bury()
        if self._job is None and self._waiting:
            self._begin(self._waiting.popleft())

    def close(self) -> None:
        """End the process with the viewer; a job at hand is cut off."""
        _OPEN.discard(self)
        self._waiting.clear()
        if self._process is not None:
            self._process.end()
            self._process = None
        self._set_ready(ready=False)

    # ---- One job after the other ----

    def _begin(self, job: Job) -> None:
        self.start()
        assert self._process is not None
        self._job = job
        _, self._byte = job.run.events()  # earlier executions are not news
        self._kill_at = float("inf")
        job.message = "starting" if self._ready else "loading"
        self._process.send(str(job.run.folder))
        self.changed.emit(job)

    def _hear(self, process: "_Process") -> None:
        for answer in process.answers():
            if answer.get("ready"):
                self._set_ready(ready=True)
            elif self._job and answer.get("run") == str(self._job.run.folder):
                self._follow(self._job)
                self._job.error = answer.get("error") or ""
                self._end(self._job, answer["state"])

    def _follow(self, job: Job) -> None:
        events, self._byte = job.run.events(self._byte)
        if not events:
            return
        job.news = tuple(events)
        for event in events:
            take(job, event)
        self.changed.emit(job)

    def _bury(self) -> None:
        """Kill a process that does not stop; tell of one that died by itself."""
        process = self._process
        if process is None:
            return
        killed = time.monotonic() > self._kill_at
        if killed:
            process.kill()
        elif process.is_alive():
            return
        last_words = process.last_words()
        process.end()
        self._process = None
        self._set_ready(ready=False)
        if self._job is not None:
            self._follow(self._job)
            self._job.error = "" if killed else f"The worker died: {last_words}"
            self._end(self._job, "stopped" if killed else "failed")
        if killed:
            self.start()  # warm again before the next job

    def _end(self, job: Job, state: State) -> None:
        if job is self._job:
            self._job = None
            self._kill_at = float("inf")
        job.state = state
        job.message = job.error or state
        if state == "finished":
            job.fraction = 1.0
        self.changed.emit(job)

    def _set_ready(self, *, ready: bool) -> None:
        if ready != self._ready:
            self._ready = ready
            self.ready_changed.emit(ready)


def something_runs() -> bool:
    """Whether a worker of any dock has a job at hand, or one that waits."""
    return any(worker.busy for worker in _OPEN)


def command_line(run: Run) -> str:
    """What repeats a run in a shell.

    A prediction is spelled out where options can say it, and goes to a folder
    ``predicted`` of the shell's, since its own OUT has results by then; any other run
    is executed from its folder.
    """
    config = run.config
    part_of_each = isinstance(config.get("part"), list)  # has no option of its own
    if config["command"] != "predict" or part_of_each:
        return shlex.join(["kdseg-train", "run", str(run.folder)])
    words = ["kdseg-train", "predict", *config.get("inputs", ())]
    for key, value in {**config, "out": OUT}.items():
        words += _option(key, value)
    return shlex.join(str(word) for word in words)


def _option(key: str, value: Any) -> list[str]:
    if (
        key in {"version", "command", "inputs", "preview"}
        or value is None
        or value is False
    ):
        return []
    if key == "models":
        return [word for model in value for word in ("--model", model)]
    name = "--" + key.replace("_", "-")
    if value is True:
        return [name]
    if isinstance(value, list):
        return [name, ",".join(str(item) for item in value)]
    return [name, str(value)]


def take_all(job: Job, events: Sequence[dict[str, Any]]) -> None:
    """Note what events say about the state of a job; of progress the last counts.

    A training that is opened late has told of a hundred thousand steps, and whoever
    follows the job would be told of each.
    """
    places = [i for i, event in enumerate(events) if event["event"] == "progress"]
    last = places[-1] if places else -1
    for place, event in enumerate(events):
        if event["event"] != "progress" or place == last:
            take(job, event)


def take(job: Job, event: dict[str, Any]) -> None:
    """Note what one event says about the state of a job."""
    match event:
        case {"event": "started" | "resumed"}:
            job.state = "running"
        case {"event": "progress", "step": step, "total": total}:
            done = int(event.get("case", 1)) - 1
            cases = int(event.get("cases", 1))
            job.fraction = (done + step / max(total, 1)) / cases
            job.message = str(event.get("stage", ""))
        case {"event": "warning" | "note", "message": message}:
            job.message = str(message)
        case {"event": "error", "message": message}:
            job.error = str(message)


@dataclass
class _Process:
    """A started worker; its output goes to files, so that nobody waits for a pipe."""

    command: tuple[str, ...]
    _byte: int = 0
    _folder: Path = field(init=False)
    _popen: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kdseg-worker-"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                **_APART,
            )
        # The interpreter may end without `close`: then this still ends the process.
        self._finalizer = weakref.finalize(self, _clear, self._popen, self._folder)

    @property
    def _out(self) -> Path:
        return self._folder / "answers.jsonl"

    @property
    def _err(self) -> Path:
        return self._folder / "errors.txt"

    @property
    def _input(self) -> BinaryIO:
        assert self._popen.stdin is not None
        return self._popen.stdin  # type: ignore[return-value]

    def send(self, line: str) -> None:
        # A dead process is noticed by the next poll.
        with contextlib.suppress(OSError):
            self._input.write(line.encode() + b"\n")
            self._input.flush()

    def answers(self) -> list[dict[str, Any]]:
        """Complete lines since the last call."""
        with self._out.open("rb") as file:
            file.seek(self._byte)
            data = file.read()
        lines = data[: data.rfind(b"\n") + 1]
        self._byte += len(lines)
        return [json.loads(line) for line in lines.splitlines()]

    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def last_words(self) -> str:
        """The last line of standard error, or the exit status."""
        lines = self._err.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else f"exit status {self._popen.poll()}"

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def end(self) -> None:
        """Kill the process if need be, and remove its files."""
        self._finalizer()


def _clear(popen: "subprocess.Popen[bytes]", folder: Path) -> None:
    with contextlib.suppress(OSError):
        if popen.stdin is not None:
            popen.stdin.close()
    popen.kill()
    popen.wait()
    shutil.rmtree(folder, ignore_errors=True)
