"""Jobs that outlive the viewer: processes of their own, followed by their events.

Training is done so. Nothing here waits: `Detached.poll` is called by a timer. A viewer
that is closed leaves its jobs running; another one follows them from their folders.
"""

import contextlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from psygnal import Signal

from napari_kdseg.errors import RunError
from napari_kdseg.runs.run import Run, State
from napari_kdseg.state.jobs import Job, take_all

COMMAND = (sys.executable, "-m", "kdseg_train")
CONSOLE = "console.txt"
"""What a process says that its run's events do not: how it failed to begin."""
BEGINS_WITHIN_S = 120.0
"""A run without an event counts as being started by somebody for so long."""
_ENDS: frozenset[State] = frozenset({"finished", "stopped", "failed", "interrupted"})
_APART: dict[str, Any] = (
    {
        "creationflags": getattr(subprocess, "DETACHED_PROCESS", 0)
        | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    }
    if sys.platform == "win32"
    else {"start_new_session": True}
)


class Detached:
    """Starts processes that the viewer does not take along when it ends.

    Parameters
    ----------
    command
        What is started, before its words; ``kdseg-train`` by default.

    Attributes
    ----------
    changed
        Emitted with a job whenever something about it is new.
    """

    changed = Signal(Job)

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = tuple(command)
        self._followed: list[_Followed] = []

    # ---- Public API ----

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Those that have not ended."""
        return tuple(one.job for one in self._followed)

    def start(self, run: Run) -> Job:
        """Execute a prepared run; one that is being executed is only followed."""
        if run.state() == "running":
            return self.open(run.folder)
        words = ["run", str(run.folder)]
        return self._begin(Job(run, message="starting"), words, run.folder / CONSOLE)

    def fit(self, recipe: Path, folder: Path) -> Job:
        """Train as a recipe says.

        Parameters
        ----------
        recipe
            The file; data paths in it start from its folder.
        folder
            Of the run; the process makes it, once the recipe is found to be good. What
            it says before that is written beside the recipe.

        Raises
        ------
        RunError
            Where the recipe cannot be read.
        """
        try:
            values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
            config = {"version": values["version"], "command": "fit"}
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            raise RunError(
                f"{recipe} is no recipe ({type(error).__name__}: {error}). Write it "
                "anew."
            ) from error
        recipe, folder = recipe.absolute(), folder.absolute()
        words = ["fit", str(recipe), "--out", str(folder)]
        job = Job(Run(folder, config), message="starting")
        job.command_line = shlex.join(["kdseg-train", *words])
        return self._begin(job, words, recipe.parent / CONSOLE)

    def open(self, folder: Path) -> Job:
        """Follow a run that this or another viewer started, from its first event.

        Raises
        ------
        RunError
            Where there is no run.
        """
        run = Run.open(folder)
        known = self._of(run)
        if known is not None:
            return known.job
        job = Job(run)
        self._followed.append(_Followed(job))
        self.poll()
        return job

    def cancel(self, job: Job) -> None:
        """Ask a job to stop in good order; it is followed until it has."""
        one = next((one for one in self._followed if one.job is job), None)
        if one is None:
            return
        job.message = "stopping"
        if job.run.folder.is_dir():
            job.run.request_stop()
        elif one.process is not None:  # it has not come so far as to make its run
            one.process.terminate()
        self.changed.emit(job)

    def poll(self) -> None:
        """Look what is new: events of the jobs, and which have ended."""
        for one in tuple(self._followed):
            if one.read():
                self.changed.emit(one.job)
            state = one.ended_as()
            if state is not None:
                one.read()  # what came between reading and ending
                self._end(one, state)

    # ---- Private ----

    def _of(self, run: Run) -> "_Followed | None":
        for one in self._followed:
            if one.job.run.folder == run.folder:
                return one
        return None

    def _begin(self, job: Job, words: Sequence[str], console: Path) -> Job:
        known = self._of(job.run)
        if known is not None:
            return known.job
        _, byte = job.run.events()  # earlier executions are not news
        with console.open("wb") as said:
            process = subprocess.Popen(
                [*self._command, *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=console.parent,  # not the viewer's, which may go away
                **_APART,
            )
        self._followed.append(_Followed(job, process, console, byte))
        self.changed.emit(job)
        return job

    def _end(self, one: "_Followed", state: State) -> None:
        self._followed.remove(one)
        job = one.job
        job.state = state
        if state in ("failed", "interrupted"):
            job.error = job.error or one.last_words()
        job.message = job.error or state
        if state == "finished":
            job.fraction = 1.0
        self.changed.emit(job)


@dataclass(eq=False)
class _Followed:
    """A job, how far its events were read, and its process where we started it."""

    job: Job
    process: "subprocess.Popen[bytes] | None" = None
    console: Path | None = None
    byte: int = 0
    began: int = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.byte

    def read(self) -> bool:
        """Take in new events; gives whether there were any."""
        job = self.job
        events, self.byte = job.run.events(self.byte)
        job.news = tuple(events)
        take_all(job, events)
        return bool(events)

    def ended_as(self) -> State | None:
        """How it ended; None while it goes on."""
        if self.process is not None and self.process.poll() is None:
            return None
        state = self.job.run.state()
        if self.process is None:
            given_up = state == "prepared" and _age(self.job.run) > BEGINS_WITHIN_S
            return "interrupted" if given_up else state if state in _ENDS else None
        if state == "running":  # somebody else executes it now
            return None
        # Before its first event, what the folder says is of an earlier execution.
        return state if state in _ENDS and self.byte > self.began else "failed"

    def last_words(self) -> str:
        """The last line that its process wrote."""
        lines: list[str] = []
        if self.console is not None:
            with contextlib.suppress(OSError):
                text = self.console.read_text(encoding="utf-8", errors="replace")
                lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            return lines[-1].removeprefix("kdseg-train: ")
        status = "" if self.process is None else f" (exit status {self.process.poll()})"
        return f"Its process ended without a word{status}."


def _age(run: Run) -> float:
    """Seconds since a run was prepared."""
    try:
        return time.time() - (run.folder / "config.yaml").stat().st_mtime
    except OSError:
        return float("inf")
