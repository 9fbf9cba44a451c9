"""The warm worker: one process that keeps torch and opened networks for many runs.

Run folders come on standard input, one a line; each is answered with one JSON line on
standard output: ``{"run": FOLDER, "state": "finished", "error": null}``. The first line
out is ``{"ready": true}``. The end of input, or of the process that started the worker,
stops the run at hand at its next tile, and then the worker.
"""

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from kdseg_train.allocation import keep_freed_memory
from kdseg_train.execute import execute
from napari_kdseg.errors import KdsegError
from napari_kdseg.runs.run import Run
from napari_kdseg.shipped import shipped_models

PARENT_CHECK_S = 1.0


def serve() -> None:
    """Work for the process at the other end of standard input and output."""
    # OpenMP asks for it when torch is loaded, later: threads that wait for one another
    # must not keep the core busy that the viewer draws with.
    os.putenv("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()
    answers = sys.stdout

    def say(line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more
            answers.write(line)
            answers.flush()

    # Whatever a library prints must not get among the answers.
    with contextlib.redirect_stdout(sys.stderr):
        Worker(say).serve(sys.stdin)


@dataclass
class Worker:
    """Executes runs one after the other and answers each.

    Attributes
    ----------
    say
        Takes each answer, a line.
    parent
        The process to end with, by default the one that started this one.
    """

    say: Callable[[str], None]
    parent: psutil.Process | None = None
    _lines: "queue.SimpleQueue[str | None]" = field(default_factory=queue.SimpleQueue)
    _current: Run | None = None
    _orphaned: threading.Event = field(default_factory=threading.Event)

    def serve(self, lines: Iterable[str]) -> None:
        """Answer every line until there are no more."""
        parent = self.parent or _parent()
        for target, argument in ((self._read, lines), (self._watch, parent)):
            threading.Thread(target=target, args=(argument,), daemon=True).start()
        warm_up()
        self._tell({"ready": True})
        for line in self._taken():
            self._tell(self._answer(Path(line)))

    def _answer(self, folder: Path) -> dict[str, Any]:
        answer: dict[str, Any] = {"run": str(folder), "state": "failed", "error": None}
        try:
            self._current = run = Run.open(folder)
            if self._orphaned.is_set():
                run.request_stop()
            try:
                execute(run)
            finally:
                self._current = None
                answer["state"] = run.state()
        except KdsegError as error:
            answer["error"] = str(error)
        except Exception as error:  # noqa: BLE001 - one run must not end the others
            answer["error"] = f"{type(error).__name__}: {error}"
        return answer

    def _taken(self) -> Iterator[str]:
        while (line := self._lines.get()) is not None:
            if line.strip():
                yield line.strip()

    def _tell(self, answer: dict[str, Any]) -> None:
        self.say(json.dumps(answer) + "\n")

    # ---- Threads: input and the parent ----

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._lines.put(line)
        self._end()

    def _watch(self, parent: psutil.Process | None) -> None:
        # Another child of the parent may hold our input open after its death.
        while parent is not None and parent.is_running():
            if self._orphaned.wait(PARENT_CHECK_S):
                return
        if parent is not None:
            self._end()

    def _end(self) -> None:
        self._orphaned.set()
        run = self._current
        if run is not None:
            run.request_stop()
        self._lines.put(None)


def warm_up() -> None:
    """Load what the first prediction would otherwise wait for.

    Building a first network makes torch import another second's worth; those that
    come along are small, and likely to be asked for.
    """
    from kdseg_train.predict import WarmModel

    with contextlib.suppress(KdsegError):
        for folder in shipped_models().values():
            WarmModel.open(folder).network()


def _parent() -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(os.getppid())
    return None


if __name__ == "__main__":
    serve()
