"""What is installed, which devices there are, what is missing and how to get it."""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import psutil

from napari_kdseg.cores import usable_cores
from napari_kdseg.errors import KdsegError
from napari_kdseg.extras import EXTRAS, Package, install_command
from napari_kdseg.free_memory import free_bytes
from napari_kdseg.runs.environment import version
from napari_kdseg.shipped import shipped_models

PACKAGES = {
    "torch": "networks",
    "monai": "losses and sliding windows",
    "nibabel": "NIfTI",
    "pydicom": "DICOM",
    "tifffile": "TIFF",
    "imagecodecs": "compressed TIFF and DICOM",
    "SimpleITK": "resampling",
    "isal": "gzip",
    "zarr": "OME-Zarr",
    "connected-components-3d": "components",
    "fastremap": "label values",
    "scipy": "surface distances",
    "safetensors": "weights",
    "pydantic": "settings",
    "napari": "the viewer",
}
"""Packages that everything needs, and what for; import names differ for some."""

QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    detail: str
    good: bool = True
    needed: bool = True
    """Whether the command line cannot do without it."""
    fix: str = ""
    """The exact line to get it."""


def examine() -> list[Finding]:
    """Look at everything a prediction, a training or the viewer needs."""
    return [
        _python(),
        _program(),
        *(_package(name, purpose) for name, purpose in PACKAGES.items()),
        *_devices(),
        _memory(),
        *(_extra(package) for package in EXTRAS.values()),
        _models(),
        _qt(),
        _display(),
    ]


def report(findings: list[Finding]) -> str:
    """Put the findings into lines: a mark, the name, what was found, the fix."""
    wide = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        mark = "ok" if finding.good else ("MISSING" if finding.needed else "none")
        lines.append(f"{mark:8}{finding.name:{wide}}  {finding.detail}")
        if finding.fix and not finding.good:
            lines.append(f"{'':8}{'':{wide}}  get it: {finding.fix}")
    return "\n".join(lines)


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    detail = f"{platform.python_version()} on {platform.platform()}"
    return Finding("python", detail, good, fix="install Python 3.11 or newer")


def _program() -> Finding:
    found = version("napari-kdseg")
    return Finding(
        "napari-kdseg",
        found or "not installed, run from its sources",
        found is not None,
        needed=False,
        fix="python -m pip install -e .  # in the clone",
    )


def _package(name: str, purpose: str) -> Finding:
    found = version(name)
    detail = f"{found} ({purpose})" if found else f"not installed ({purpose})"
    return Finding(
        name, detail, found is not None, fix=f'python -m pip install "{name}"'
    )


def _devices() -> Iterator[Finding]:
    yield Finding("processor", f"{usable_cores()} threads, {platform.machine()}")
    if find_spec("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        yield Finding(
            "cuda",
            "no device that this torch can use; predictions run on the processor",
            good=False,
            needed=False,
            fix="see https://pytorch.org/get-started/locally for your driver",
        )
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        detail = f"{about.name}, {about.total_memory / _GIB:.0f} GiB"
        yield Finding(f"cuda:{index}", detail)


def _memory() -> Finding:
    total, free = psutil.virtual_memory().total, free_bytes()
    detail = f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} GiB free for this program"
    return Finding("memory", detail)


def _extra(package: Package) -> Finding:
    found = version(package.name)
    return Finding(
        package.name,
        f"{found or 'not installed'} ({package.purpose}; extra {package.extra})",
        found is not None,
        needed=False,
        fix=install_command(package.extra),
    )


def _models() -> Finding:
    fix = "python -m pip install --force-reinstall --no-deps .  # in the clone"
    try:
        names = sorted(shipped_models())
    except KdsegError as error:
        return Finding("models", str(error), good=False, needed=False, fix=fix)
    found = ", ".join(names) or "none come with this installation"
    return Finding("models", found, bool(names), needed=False, fix=fix)


def _qt() -> Finding:
    found = [name for name in QT_BINDINGS if version(name) is not None]
    detail = f"{found[0]} {version(found[0])}" if found else "no binding installed"
    return Finding(
        "Qt",
        f"{detail} (the viewer)",
        bool(found),
        needed=False,
        fix=install_command("all"),
    )


def _display() -> Finding:
    # Where a screen is: the system's own setting, not one of ours.
    screens = [os.getenv(name) for name in ("WAYLAND_DISPLAY", "DISPLAY")]
    shown = next((screen for screen in screens if screen), None)
    if sys.platform != "linux":
        shown = sys.platform
    return Finding(
        "display",
        shown or "none: the command line works, the viewer needs one",
        shown is not None,
        needed=False,
        fix="xvfb-run -a napari, after apt-get install xvfb",
    )
