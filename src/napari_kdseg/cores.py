"""How many processor cores this process may use, and how many beside a viewer.

A cluster and a container give a process a part of a computer; threads beyond that part
wait for one another.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from napari_kdseg.control_groups import Version, groups


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1: the least of all that limit it.

    Those that it is bound to, as by ``taskset`` or SLURM, and the share of time that
    control groups of Linux (version 1 and 2) give it, in whole cores.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    """
    if hasattr(os, "sched_getaffinity"):
        bound = len(os.sched_getaffinity(0))
    else:
        bound = os.cpu_count() or 1
    return max(1, int(min([bound, *_shares(root)])))


def threads_within_cores(asked: int | None) -> int | None:
    """As many threads as were asked for, but no more than cores; None: not said."""
    return None if asked is None else min(asked, usable_cores())


def told_of_threads(asked: int | None) -> str:
    """What to say where more were asked for than there are cores; else nothing."""
    if asked is None or asked <= usable_cores():
        return ""
    return (
        f"{asked} threads were asked for; as many as there are cores to use are taken: "
        f"{usable_cores()}."
    )


def cores_beside_viewer() -> int:
    """One core is the viewer's: threads that wait for a busy core wait long."""
    return max(1, usable_cores() - 1)


def _shares(root: Path) -> Iterator[float]:
    """Cores' worth of time that each group gives; nothing of one without a limit."""
    for version, folder in groups(root, "cpu"):
        try:
            quota, period = _time_in(folder, version)
        except (OSError, ValueError):  # "max" is no number
            continue
        if quota > 0 and period > 0:  # -1: no limit
            yield quota / period


def _time_in(folder: Path, version: Version) -> tuple[int, int]:
    """Microseconds that a group may compute, and in how many."""
    if version == 2:
        quota, period = (folder / "cpu.max").read_text().split()
    else:
        quota, period = (
            (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
        )
    return int(quota), int(period)
