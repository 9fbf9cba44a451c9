"""Short questions to ``kdseg-train``, answered by a process that nobody waits for.

What needs torch to be answered, such as which settings a method has, is asked so: the
viewer never imports it.
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COMMAND = (sys.executable, "-m", "kdseg_train")
_PREFIX = "kdseg-train: "


@dataclass(frozen=True)
class Answer:
    """What a process said."""

    good: bool
    text: str
    """Its standard output."""
    words: str
    """The last line of its standard error: a sentence for people."""


class Question:
    """One call of ``kdseg-train``; `poll` gives the answer once it is there.

    Parameters
    ----------
    words
        Of the command line, without the program.
    command
        The program.
    """

    def __init__(self, words: Sequence[str], command: Sequence[str] = COMMAND) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kdseg-question-"))
        # Files, not pipes: a pipe that nobody reads stops who writes.
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self._folder,
            )
        self._finalizer = weakref.finalize(self, _end, self._process, self._folder)

    @property
    def _out(self) -> Path:
        return self._folder / "out.txt"

    @property
    def _err(self) -> Path:
        return self._folder / "err.txt"

    def poll(self) -> Answer | None:
        """The answer, once; None while there is none."""
        status = self._process.poll()
        if status is None:
            return None
        lines = [line.strip() for line in _text(self._err).splitlines()]
        said = [line for line in lines if line]
        silent = f"Its process ended without a word (exit status {status})."
        words = said[-1].removeprefix(_PREFIX) if said else "" if not status else silent
        answer = Answer(status == 0, _text(self._out), words)
        self.close()
        return answer

    def close(self) -> None:
        """Ask no longer: the process is ended."""
        self._finalizer()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _end(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
