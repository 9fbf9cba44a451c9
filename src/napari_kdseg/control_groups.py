"""The control groups of Linux that this process is in, by which it may be limited."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

Version = Literal[1, 2]


def groups(root: Path, controller: str) -> Iterator[tuple[Version, Path]]:
    """Folders of all groups that may limit this process, and their versions.

    Each group that it is in, and each above those. A folder need not exist.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    controller
        What is limited: ``memory`` or ``cpu``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # no Linux
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        version: Version
        if number == "0" and not controllers:
            version, mounts = 2, (".", "unified")
        elif controller in controllers.split(","):
            version, mounts = 1, (controller, controllers)
        else:
            continue
        for mount in dict.fromkeys(mounts):
            for folder in _upwards(root / "sys/fs/cgroup" / mount, place):
                yield version, folder


def _upwards(mount: Path, place: str) -> Iterator[Path]:
    """The folder of a group and all above it.

    Seen from a container the place may begin with ``..``, or be one that only the
    computer around it has; the container's own group is then the mount itself.
    """
    parts = [part for part in PurePosixPath(place).parts if part not in ("/", "..")]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])
