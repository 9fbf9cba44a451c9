"""Nothing heavy is imported before it is needed, and no GUI below widgets."""

import json
import subprocess
import sys

import pytest

GUI = ("napari", "qtpy", "PyQt6", "superqt", "magicgui", "vispy")


def imported_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement."""
    code = (
        f"import json, sys\n{statement}\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_package_itself_loads_neither_torch_nor_napari_nor_qt() -> None:
    assert imported_by("import napari_kdseg").isdisjoint({*GUI, "torch", "numpy"})


def test_the_command_line_starts_without_torch() -> None:
    loaded = imported_by("import kdseg_train.cli")
    assert loaded.isdisjoint({*GUI, "torch", "monai", "scipy"})


@pytest.mark.parametrize(
    "module",
    [
        "napari_kdseg.volumes.formats",
        "napari_kdseg.volumes.preprocessing",
        "napari_kdseg.models.model",
        "napari_kdseg.measure.metrics",
        "napari_kdseg.runs.run",
        "napari_kdseg.contributions",
        "napari_kdseg.state.segmentation",
    ],
)
def test_reading_measuring_and_following_runs_needs_no_torch(module: str) -> None:
    assert "torch" not in imported_by(f"import {module}")


@pytest.mark.parametrize(
    "module",
    [
        "kdseg_train.methods",
        "kdseg_train.predict",
        "kdseg_train.evaluate",
        "kdseg_train.work",
        "napari_kdseg.inference.predict",
    ],
)
def test_training_and_prediction_know_no_gui(module: str) -> None:
    assert imported_by(f"import {module}").isdisjoint(GUI)
