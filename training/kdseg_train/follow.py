"""A run executed in this terminal: progress on standard error, Ctrl+C as a wish."""

import contextlib
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from types import FrameType
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from napari_kdseg.errors import StopRequested, UsageError
from napari_kdseg.runs.run import Run

REFRESH_S = 0.2
TELL_S = 60.0
"""So often a log is told how far it is: bars are for terminals."""
Count = Callable[[int, int], None]
"""Told how many are done, and how many there are."""


def execute_and_show(run: Run, *, alone: bool = True, again: bool = True) -> None:
    """Execute a run here while its events are shown; then print its scores, if any.

    The first Ctrl+C, or a request to terminate, asks the run to stop in good order;
    the second Ctrl+C ends it at once.

    Parameters
    ----------
    run
        To execute.
    alone
        False: one of several processes, each of which may hear of one Ctrl+C twice.
    again
        Whether the same command goes on where it was stopped; else ``--resume`` does.

    Raises
    ------
    StopRequested
        Where it was stopped; it says how to go on here, which a dock does in its way.
    """
    from kdseg_train.execute import execute
    from kdseg_train.summary import read_summary

    try:
        with showing(run), stopping_on_signals(run, alone=alone):
            execute(run)
    except StopRequested as stop:
        if run.config["command"].startswith("bulk"):  # its report says so
            raise
        how = "The same command" if again else "The same command with --resume"
        raise type(stop)(f"{stop} {how} goes on with it.") from stop
    found = read_summary(run.folder / "metrics.csv")
    if found is not None:
        print_table(*found)


def prepare_and_execute(
    folder: Path, config: dict[str, Any], *, resume: bool, alone: bool = True
) -> None:
    """Execute a new run here, or go on with one that has this config.

    Raises
    ------
    UsageError
        Where the run is finished, or unfinished and not to be resumed.
    RunError
        Where the folder holds something else.
    """
    prepared = Run.create(folder, config)
    state = prepared.state()
    if state == "finished":
        if resume:
            return
        raise UsageError(f"{folder} is finished; choose a new folder.")
    if prepared.has_work and state != "running" and not resume:
        raise UsageError(
            f"{folder} holds the unfinished work of a run that is {state}; add "
            "--resume to go on with it, or choose a new folder."
        )
    execute_and_show(prepared, alone=alone, again=resume)


@contextlib.contextmanager
def showing(run: Run) -> Iterator[None]:
    """Show a run's events from now on, until the block ends."""
    _, start = run.events()
    shown = _Shown(run, _progress(), start)
    try:
        yield
    finally:
        shown.close()


@contextlib.contextmanager
def counting(stage: str) -> Iterator[Count]:
    """Show how many of something are done; gives the function to tell it with.

    There is no bar before the first is counted: an early error stands alone.
    """
    progress = _progress()
    with contextlib.ExitStack() as shown:

        def count(done: int, total: int) -> None:
            if not progress.tasks:
                progress.add_task(stage, total=total)
                shown.enter_context(progress)
            progress.update(progress.task_ids[0], completed=done, total=total)

        yield count


@contextlib.contextmanager
def stopping_on_signals(run: Run, *, alone: bool = True) -> Iterator[None]:
    """Turn signals into requests to the run while the block lasts.

    Ctrl+C asks it to stop. Whoever takes the machine back sends SIGTERM, or SIGUSR1
    where it warns some time before, as SLURM does: then the run makes way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may take signals
        return

    def ask(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(FileNotFoundError):  # the run is not made yet
            if number != signal.SIGINT:
                run.request_requeue()
                return
            run.request_stop()
        if alone:
            sys.stderr.write("Stopping in good order; Ctrl+C again ends it at once.\n")
            signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")


class _Shown:
    """Reads a run's events in a thread of its own and moves the bars."""

    def __init__(self, run: Run, progress: Progress, byte: int) -> None:
        self._run = run
        self._progress = progress
        self._byte = byte
        self._bars: dict[str, TaskID] = {}
        self._told = -TELL_S
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Show what is left, then end."""
        self._ended.set()
        self._thread.join()
        self._show_new()
        if self._bars:
            self._progress.stop()

    def _follow(self) -> None:
        while not self._ended.wait(REFRESH_S):
            self._show_new()

    def _show_new(self) -> None:
        events, self._byte = self._run.events(self._byte)
        for event in events:
            self._show(event)

    def _show(self, event: dict[str, Any]) -> None:
        console = self._progress.console
        match event:
            case {"event": "progress", "step": step, "total": total}:
                stage = str(event.get("stage") or "progress")
                shown = ", ".join([stage, *filter(None, [event.get("pace")])])
                self._move(stage, step, total, shown)
                if not console.is_terminal and event["time"] >= self._told + TELL_S:
                    self._told = event["time"]
                    _say(console, f"{shown}: {step} of {total}")
            case {"event": "warning", "message": message}:
                _say(console, f"warning: {message}", style="yellow")
            case {"event": "note" | "estimate", "message": message}:
                _say(console, str(message), style="dim")
            case {"event": "prediction", "folder": folder}:
                console.print(str(folder), markup=False, soft_wrap=True)

    def _move(self, stage: str, step: float, total: float, shown: str) -> None:
        if not self._bars:
            self._progress.start()
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=total)
        bar = self._bars[stage]
        self._progress.update(bar, completed=step, total=total, description=shown)


def print_table(rows: Sequence[Mapping[str, str | float]], caption: str) -> None:
    """Print rows that share their keys on standard output, a table a model."""
    console = Console()
    for model in dict.fromkeys(str(row.get("model", "")) for row in rows):
        table = Table(
            title=Text(model) if model else None,
            title_justify="left",
            box=SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            collapse_padding=True,
        )
        own = [row for row in rows if str(row.get("model", "")) == model]
        keys = [key for key in own[0] if key != "model"]
        for key in keys:
            side: Literal["left", "right"]
            side = "left" if isinstance(own[0][key], str) else "right"
            table.add_column(key, justify=side, overflow="fold")
        for row in own:
            table.add_row(*(Text(_cell(key, row[key])) for key in keys))
        console.print(table, "")
    _say(console, caption)


def print_failures(rows: Sequence[Mapping[str, str | float]], caption: str) -> None:
    """Print what failed and why on standard output, one below the other."""
    console = Console()
    for row in rows:
        tries = f" after {row['attempts']} attempts" * (row["attempts"] != 1)
        _say(console, f"{row['failed']} failed{tries}: {row['why']}")
    _say(console, caption)


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Print a text in lines between words; a path broken in two cannot be copied."""
    lines = (
        fill(line, console.width, break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _cell(key: str, value: str | float) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    return f"{value:.3g}" if key.endswith("_mm") else f"{value:.3f}"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
