"""Packages that not everyone needs: what for, and the line that gets them."""

from typing import NamedTuple


class Package(NamedTuple):
    """A package that comes with an extra."""

    name: str
    """As pip knows it."""
    extra: str
    purpose: str


EXTRAS = {
    "accelerate": Package("accelerate", "cluster", "one training on several GPUs"),
    "dask_jobqueue": Package("dask-jobqueue", "cluster", "bulk commands by SLURM jobs"),
    "openvino": Package("openvino", "fast", "networks compiled for the processor"),
    "highdicom": Package("highdicom", "dicom", "labels as DICOM segmentations"),
    "onnx": Package("onnx", "interop", "models as ONNX"),
    "onnxruntime": Package("onnxruntime", "interop", "models given as ONNX"),
    "ignite": Package("pytorch-ignite", "interop", "models as MONAI bundles"),
    "psycopg": Package("psycopg", "postgres", "verdicts of a lab in one database"),
    "pyarrow": Package("pyarrow", "parquet", "tables as Parquet"),
}
"""By the name that Python imports them by."""


def install_command(extra: str) -> str:
    """Give the line that gets an extra, quoted for bash, zsh and cmd alike.

    pip finds it without an index, as the package itself is installed.
    """
    return f'python -m pip install "napari-kdseg[{extra}]"'


def not_installed(what: str, module: str) -> str:
    """Say what lacks a module of `EXTRAS`, and how to get it.

    Parameters
    ----------
    what
        What cannot do without it, as the subject of a sentence.
    module
        The name that Python imports it by.
    """
    package = EXTRAS[module]
    return (
        f"{what} needs {package.name}, which is not installed. Get it with: "
        f"{install_command(package.extra)}, in this environment."
    )
