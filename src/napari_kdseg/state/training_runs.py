"""Which trainings there were: remembered between viewers, newest first."""

import contextlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import KdsegError
from napari_kdseg.runs.lock import read_holder
from napari_kdseg.runs.run import Run, State
from napari_kdseg.state.training_data import RUN

MOST = 30


class KnownRuns:
    """Folders of the runs that were started or opened, kept in a small file.

    Parameters
    ----------
    path
        The file; the user's by default.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or user_data_path("napari-kdseg") / "trainings.json"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those that still lie where they were, newest first."""
        return tuple(path for path in self._all if (path / "config.yaml").is_file())

    def remember(self, folder: Path) -> None:
        """Put a run first."""
        others = [path for path in self._all if path != folder]
        listed = [str(path) for path in (folder, *others)][:MOST]
        with contextlib.suppress(OSError):  # it is found by its folder all the same
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(self._path, json.dumps(listed, indent=1) + "\n")

    @property
    def _all(self) -> list[Path]:
        try:
            listed = json.loads(self._path.read_text(encoding="utf-8"))
            return [Path(str(entry)) for entry in listed]
        except (OSError, ValueError, TypeError):
            return []


@dataclass(frozen=True)
class Whereabouts:
    """Whether a run lives, and on which machine."""

    state: State
    host: str
    """Who executes it, or did last; empty where nobody is known."""

    @property
    def elsewhere(self) -> bool:
        """Whether it is another machine's, and can only be looked at from here."""
        return bool(self.host) and self.host != socket.gethostname()

    @property
    def in_words(self) -> str:
        """A sentence for people, where there is something to say."""
        if not self.elsewhere:
            return ""
        if self.state == "running":
            return (
                f"It runs on {self.host} and can only be looked at from here; it is "
                "stopped or resumed there."
            )
        return f"It ran on {self.host}; it is resumed there."


@dataclass
class Pace:
    """How fast a stage goes, from what it told since somebody executes it."""

    stage: str = ""
    began: float = 0.0
    first: float = 0.0
    now: float = 0.0
    share: float = 0.0

    def note(self, event: dict[str, Any]) -> None:
        """Take in an event that tells of progress."""
        self.now = float(event.get("time", 0))
        self.share = float(event["step"]) / max(float(event["total"]), 1.0)
        stage = str(event.get("stage", ""))
        if stage != self.stage or self.began == 0:
            self.stage, self.began, self.first = stage, self.now, self.share

    @property
    def left_s(self) -> float | None:
        """Seconds until the stage ends; None while nobody can tell."""
        done = self.share - self.first
        if done <= 0:
            return None
        return (self.now - self.began) * (1 - self.share) / done


def whereabouts(run: Run, host: str = "") -> Whereabouts:
    """Where a run is.

    Parameters
    ----------
    run
        The run; the heartbeat of its lock tells whether it lives.
    host
        Who began it, as its events say; the lock knows better while there is one.
    """
    holder = read_holder(run.folder / "lock")
    return Whereabouts(run.state(), holder.host if holder else host)


def open_run(folder: Path) -> Run:
    """Open the run of a training: its folder, or the one that holds recipe and run.

    Raises
    ------
    RunError
        Where there is no run.
    KdsegError
        Where it is no training.
    """
    inner = folder / RUN
    found = inner if (inner / "config.yaml").is_file() else folder
    run = Run.open(found)
    command = run.config["command"]
    if command != "fit":
        raise KdsegError(
            f"{run.folder} is a run of {command!r}, which has no curves; choose the "
            "run of a training (fit)."
        )
    return run


def name_of(run: Run) -> str:
    """What a run is called in a list."""
    config = run.config
    folder = run.folder.parent if run.folder.name == RUN else run.folder
    return f"{folder.name} ({config.get('method', '')})"
