"""A command executed in several processes: process 0 leads, the others follow.

Followers do what the run says, as it is, but for two things: they write nothing, and
they go no further than process 0 has come (`ranks`).
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdseg_train import ranks
from kdseg_train.execute import COMMANDS
from kdseg_train.follow import stopping_on_signals
from kdseg_train.ranks import LeaderSpeaks, OthersLost, Ranks
from napari_kdseg.errors import KdsegError, StopRequested
from napari_kdseg.runs.run import Run


class Follower(Run):
    """A run as a process sees it that does not lead: it writes and decides nothing."""

    @property
    def leads(self) -> bool:
        """It does not."""
        return False

    @property
    def config(self) -> dict[str, Any]:
        """The settings, with the device of this process."""
        return {**super().config, "device": ranks.here().device}

    def event(self, kind: str, **fields: Any) -> None:
        """Say nothing: process 0 does."""

    def stop_requested(self) -> bool:
        """Never: process 0 looks for requests, and says so."""
        return False

    def asked_to_stop(self) -> StopRequested | None:
        """Nothing, likewise."""
        return None


def execute_together(folder: Path, device: str, lead: Callable[[], None]) -> None:
    """Execute a command here; where torchrun started several processes, in process 0.

    Parameters
    ----------
    folder
        The run that the others follow.
    device
        As its recipe names it.
    lead
        Prepares and executes the run.

    Raises
    ------
    SystemExit
        In the others, with the status that process 0 ends with, where it is not 0.
    """
    if not ranks.are_launched():
        lead()
        return
    status = 0
    with ranks.joined(device) as own:
        if own.leads:
            _lead(own, lead)
        else:
            status = _follow(own, folder)
    if status:
        raise SystemExit(status)


def _lead(own: Ranks, lead: Callable[[], None]) -> None:
    try:
        lead()
    except BaseException as error:
        # Where the others have gone too, there is nobody to tell.
        with contextlib.suppress(OthersLost):
            own.end(error.exit_code if isinstance(error, KdsegError) else 1)
        raise
    own.end(0)


def _follow(own: Ranks, folder: Path) -> int:
    """Follow to the end; gives the status of process 0."""
    try:
        # What it is asked to, it asks of process 0.
        with stopping_on_signals(Follower(folder, {}), alone=False):
            try:
                own.wait()
                run = Follower.open(folder)
                COMMANDS[run.config["command"]](run)
            except LeaderSpeaks:
                pass
            own.wait()
    except SystemExit as end:
        return int(end.code or 0)
    except OthersLost:
        raise
    except BaseException as error:
        # Process 0 sees no more than that this one has gone.
        with contextlib.suppress(KdsegError, OSError):
            said = str(error) or type(error).__name__
            Run.open(folder).warning(f"process {own.number} ended: {said}")
        raise
    raise AssertionError("process 0 has spoken and not ended")
