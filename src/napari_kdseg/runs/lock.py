"""Who is executing a run: a small file with host and process, kept warm by a thread.

The lock holds host, process id, the process's start time and a random token; its
modification time is the heartbeat. On one host the process itself is asked, since a
suspended laptop stops every heartbeat; from another host only the heartbeat is seen.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from napari_kdseg.errors import RunError

HEARTBEAT_S = 5.0
DEAD_AFTER_S = 120.0  # many heartbeats: clocks of two hosts may differ by a minute
_START_TOLERANCE_S = 2.0  # psutil rounds start times differently after a clock change


@dataclass(frozen=True)
class Holder:
    """The process that holds, or held, a lock."""

    host: str
    pid: int
    started: float
    token: str

    @classmethod
    def this_process(cls) -> "Holder":
        """A new holder, with a token of its own, for the running process."""
        process = psutil.Process()
        return cls(
            socket.gethostname(), process.pid, process.create_time(), uuid.uuid4().hex
        )

    def is_alive(self, heartbeat: float) -> bool:
        """Whether the process still runs; `heartbeat` is in seconds since 1970."""
        if self.host != socket.gethostname():
            return time.time() - heartbeat < DEAD_AFTER_S
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _START_TOLERANCE_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


class Lock:
    """Exclusive right to execute one run, given back by `release`.

    Raises
    ------
    RunError
        When a living process holds the lock; names it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._holder = Holder.this_process()
        self._acquire()
        self._released = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, name=f"heartbeat {path.parent.name}", daemon=True
        )
        self._thread.start()

    def release(self) -> None:
        """Stop the heartbeat and remove the lock, if it is still this one's."""
        self._released.set()
        self._thread.join()
        held = read_holder(self._path)
        if held is not None and held.token == self._holder.token:
            self._path.unlink(missing_ok=True)

    def _acquire(self) -> None:
        for _ in range(10):  # each round somebody else came first or just left
            with contextlib.suppress(FileExistsError):
                _write_new(self._path, self._holder)
                return
            if is_held(self._path):
                raise RunError(_busy(self._path))
            _remove_dead(self._path)
        raise RunError(f"{self._path} could not be taken: others keep taking it.")

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            # A share that is away for a moment must not end the run.
            with contextlib.suppress(OSError):
                os.utime(self._path)


def read_holder(path: Path) -> Holder | None:
    """Who wrote the lock; none where it is missing or not yet written out."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        heartbeat = path.stat().st_mtime
    except OSError:
        return False
    holder = read_holder(path)
    if holder is None:  # being written right now, or cut off by a crash
        return time.time() - heartbeat < HEARTBEAT_S
    return holder.is_alive(heartbeat)


def _write_new(path: Path, holder: Holder) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(json.dumps(asdict(holder)))


def _remove_dead(path: Path) -> None:
    """Take a dead lock away, unless somebody replaced it by a living one meanwhile."""
    aside = path.with_name(f"{path.name}.dead-{uuid.uuid4().hex}")
    try:
        path.rename(aside)  # of several who try, one succeeds
    except OSError:
        return
    if is_held(aside):
        aside.rename(path)
    else:
        aside.unlink()


def _busy(path: Path) -> str:
    holder = read_holder(path)
    who = f"process {holder.pid} on {holder.host}" if holder else "another process"
    return (
        f"{path.parent} is being executed by {who}; wait for it, or ask it to stop "
        f"with an empty file {path.parent / 'stop'}."
    )
