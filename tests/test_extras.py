"""What lacks a package says so in one way, with the line that gets it."""

import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from kdseg_train.interop.exporting import needed
from kdseg_train.ranks import joined
from kdseg_train.slurm_jobs import Slurm, Submissions, slurm_cluster
from napari_kdseg.errors import (
    KdsegError,
    ModelError,
    RunError,
    UsageError,
    VolumeError,
)
from napari_kdseg.extras import EXTRAS, install_command, not_installed
from napari_kdseg.measure.tables import check_table
from napari_kdseg.models.networks.imported import open_graph
from napari_kdseg.volumes.formats.dicom_seg_write import write_segmentation

HERE = Path()


def test_the_packages_are_those_of_the_extras_but_for_the_viewer() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {
        (re.split(r"[\[>=]", requirement)[0], extra)
        for extra, requirements in project["optional-dependencies"].items()
        for requirement in requirements
        if extra != "all"
    }
    assert {(package.name, package.extra) for package in EXTRAS.values()} == wanted


@pytest.mark.parametrize("module", EXTRAS)
def test_a_package_brings_the_module_it_is_listed_under(module: str) -> None:
    try:
        files = metadata.files(EXTRAS[module].name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{EXTRAS[module].name} is not installed")
    assert module in {file.parts[0] for file in files or ()}


def test_a_sentence_names_what_needs_what_and_how_to_get_it() -> None:
    assert not_installed("Exporting", "ignite") == (
        "Exporting needs pytorch-ignite, which is not installed. Get it with: python "
        '-m pip install "napari-kdseg[interop]", in this environment.'
    )


def test_the_command_can_be_copied_into_any_shell() -> None:
    # cmd knows double quotes alone; zsh takes bare brackets for a pattern.
    command = install_command("dicom")
    assert command.endswith(' "napari-kdseg[dicom]"')
    assert shlex.split(command)[1:] == ["-m", "pip", "install", "napari-kdseg[dicom]"]


def write_dicom() -> None:
    labels = np.ones((1, 1, 2, 2), np.uint8)
    write_segmentation(HERE / "labels.dcm", labels, None, ())


@pytest.mark.parametrize(
    ("module", "act", "error"),
    [
        ("highdicom", write_dicom, VolumeError),
        ("onnx", lambda: needed("onnx", "Exporting to ONNX"), ModelError),
        ("onnxruntime", lambda: open_graph(b""), ModelError),
        ("pyarrow", lambda: check_table(HERE / "table.parquet"), UsageError),
        ("accelerate", lambda: joined("cpu").__enter__(), RunError),
        (
            "dask_jobqueue.slurm",
            lambda: slurm_cluster(Slurm(), HERE, Submissions()),
            UsageError,
        ),
    ],
)
def test_what_lacks_its_package_says_so(
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    act: Callable[[], object],
    error: type[KdsegError],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(error) as caught:
        act()
    assert type(caught.value) is error
    assert not_installed("", module.partition(".")[0]) in str(caught.value)
