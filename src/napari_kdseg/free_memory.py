"""How much memory this process may still take: the computer's, a container's, a job's.

A cluster gives a job a part of a computer, and what the whole computer has free is then
no help: who takes more than his part is killed.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from napari_kdseg.control_groups import Version, groups

_MIB = 2**20


def free_bytes(
    root: Path = Path("/"), environment: Mapping[str, str] | None = None
) -> int:
    """Memory that may still be taken, in bytes: the least of all that limit it.

    What the computer has free; of each control group of Linux (version 1 and 2) that
    this process is in, its limit without what it holds, where files that the system
    keeps for later reading do not count; of a job of SLURM the memory it asked for,
    without what this process and those it started hold. At least 0.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    environment
        Where SLURM tells of its job; None: that of this process.
    """
    if environment is None:
        environment = os.environ  # noqa: TID251 - SLURM's own word, no setting of ours
    left = [int(psutil.virtual_memory().available), *_left_in_groups(root)]
    asked = _of_job(environment)
    if asked is not None:
        left.append(asked - _held())
    return max(0, min(left))


# ---- Control groups ----


@dataclass(frozen=True)
class _Names:
    """The names of one version's files."""

    limit: str
    held: str
    cache: str
    """The line of ``memory.stat`` with what is given back when memory is short."""


_NAMES: dict[Version, _Names] = {
    1: _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: _Names("memory.max", "memory.current", "inactive_file"),
}


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each group that this process is in leaves, and each above those."""
    for version, folder in groups(root, "memory"):
        left = _left_in(folder, _NAMES[version])
        if left is not None:
            yield left


def _left_in(folder: Path, names: _Names) -> int | None:
    """None where the group sets no limit, or is not there."""
    try:
        limit = int((folder / names.limit).read_text())
        held = int((folder / names.held).read_text())
    except (OSError, ValueError):  # "max" is no number
        return None
    return limit - max(0, held - _cached(folder / "memory.stat", names.cache))


def _cached(file: Path, name: str) -> int:
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
        return next((int(line[1]) for line in lines if line[:1] == [name]), 0)
    except (OSError, ValueError, IndexError):
        return 0


# ---- SLURM ----


def _of_job(environment: Mapping[str, str]) -> int | None:
    """What a job asked for on this node; None where it asked for all, or is none."""
    whole = _number(environment, "SLURM_MEM_PER_NODE")
    if whole:
        return whole * _MIB
    each = _number(environment, "SLURM_MEM_PER_CPU")
    return each * _number(environment, "SLURM_CPUS_ON_NODE") * _MIB or None


def _number(environment: Mapping[str, str], name: str) -> int:
    """A number of the job; 0 where it is not told."""
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else 0


def _held() -> int:
    """What this process and those that it started hold."""
    own = psutil.Process()
    total = 0
    for one in (own, *own.children(recursive=True)):
        try:
            total += int(one.memory_info().rss)
        except psutil.Error:  # it has ended meanwhile
            continue
    return total
