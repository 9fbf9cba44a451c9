"""What a run was executed with: interpreter, machine, versions of packages."""

import os
import platform
import socket
import sys
from functools import cache
from importlib import metadata
from typing import Any

PACKAGES = (
    "napari-kdseg",
    "connected-components-3d",
    "fastremap",
    "isal",
    "monai",
    "nibabel",
    "numpy",
    "pydantic",
    "safetensors",
    "scikit-image",
    "scipy",
    "SimpleITK",
    "torch",
    "zarr",
)


def environment() -> dict[str, Any]:
    """Everything outside the config that a result may depend on.

    Versions are read from the installed packages' records, so that nothing heavy is
    imported; a package that is not installed is null.
    """
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "host": socket.gethostname(),
        "packages": {name: version(name) for name in PACKAGES},
    }


@cache
def version(package: str) -> str | None:
    """Installed version of a package, none where it is not installed.

    Remembered, since a warm process executes many runs and looking takes 0.1 s.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
