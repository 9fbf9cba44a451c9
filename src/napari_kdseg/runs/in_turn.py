"""Several runs of one folder, one after the other: each makes way for the next."""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from napari_kdseg.errors import RunError
from napari_kdseg.runs.plain import are_alike
from napari_kdseg.runs.run import Run, State

_TO_GO_ON_WITH: tuple[State, ...] = ("stopped", "failed", "interrupted")


def make_way(
    folder: Path, config: dict[str, Any], but: Collection[str] = ()
) -> Run | None:
    """Make a folder ready for a run: its own, begun earlier, or none.

    An earlier run of another config is kept under another name: ``NAME`` becomes
    ``NAME-1``, ``NAME-2`` ... Nothing happens where it is being executed. A run of this
    config that was kept so, and left work that can be gone on with, gets its name back.

    Parameters
    ----------
    folder
        Where the run is to lie.
    config
        Its settings.
    but
        Settings that do not matter to a run that goes on, which takes those given.

    Returns
    -------
    Run or None
        The run of this config that lies in the folder now; None where none does.
    """
    if (folder / "config.yaml").exists():
        earlier = Run.open(folder)
        if are_alike(earlier.config, config, but):
            return earlier.going_on_with(config)
        if earlier.state() == "running":
            return None
        keep_aside(folder)
    if folder.exists():
        return None
    for kept in _kept_aside(folder):
        if (
            are_alike(kept.config, config, but)
            and kept.has_work
            and kept.state() in _TO_GO_ON_WITH
        ):
            kept.folder.rename(folder)
            return Run.open(folder).going_on_with(config)
    return None


def keep_aside(folder: Path) -> None:
    """Keep a run under the next of the names ``NAME-1``, ``NAME-2`` ..."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    folder.rename(aside)


def _kept_aside(folder: Path) -> Iterator[Run]:
    """Runs that made way in this folder, the newest first."""
    endings = (
        path.name.removeprefix(f"{folder.name}-")
        for path in folder.parent.glob(f"{folder.name}-*")
    )
    numbers = [int(ending) for ending in endings if ending.isdecimal()]
    for number in sorted(numbers, reverse=True):
        with contextlib.suppress(RunError):  # a damaged one is of no use
            yield Run.open(folder.with_name(f"{folder.name}-{number}"))
