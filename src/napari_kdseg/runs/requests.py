"""What anybody may ask of a run: empty files in its folder.

``stop`` asks for an orderly end. ``requeue`` asks for one after which the run is to be
started again: the machine, or a part of it, is wanted back.
"""

from pathlib import Path

from napari_kdseg.errors import RequeueRequested, StopRequested

STOP = "stop"
REQUEUE = "requeue"


def is_asked(folder: Path) -> bool:
    """Whether somebody asked for an orderly end."""
    return any((folder / name).exists() for name in (STOP, REQUEUE))


def as_error(folder: Path) -> StopRequested | None:
    """What a run raises to obey; nothing where nobody asked. To stop goes first."""
    if (folder / STOP).exists():
        return StopRequested(f"{folder} was asked to stop; what is finished is kept.")
    if (folder / REQUEUE).exists():
        return RequeueRequested(
            f"{folder} was asked to make way; what is finished is kept."
        )
    return None


def forget(folder: Path, *names: str) -> None:
    """Take requests away, all where none is named."""
    for name in names or (STOP, REQUEUE):
        (folder / name).unlink(missing_ok=True)
