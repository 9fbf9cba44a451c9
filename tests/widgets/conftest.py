"""Tiny models and scans for the docks; a test that leaves a dock behind fails."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from napari._qt._qapp_model.qactions import init_qactions
from napari.plugins import _initialize_plugins
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QWidget

from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, Tiling, save_model
from napari_kdseg.models.networks import build
from napari_kdseg.volumes.formats import write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid

ORGANS = LabelSet.from_names(["spleen", "liver"])


def our_widgets() -> list[QWidget]:
    """Docks and parts of docks that are alive, wherever they hang."""
    return [
        widget
        for widget in QApplication.allWidgets()
        if type(widget).__module__.startswith("napari_kdseg")
    ]


def settle() -> None:
    """Let Qt delete what it was asked to delete, and Python what nobody holds."""
    app = QApplication.instance()
    if app is not None:
        app.processEvents()
        app.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
        app.processEvents()
    gc.collect()


@pytest.fixture(autouse=True)
def _no_leaked_docks() -> Iterator[None]:
    # Set up before the viewer, so checked after the viewer is gone.
    yield
    settle()
    left = our_widgets()
    assert not left, (
        f"{sorted({type(widget).__name__ for widget in left})} outlived the test. Look "
        "for functools.partial(self._method), lambda: self._method(), or a signal "
        "that was not disconnected."
    )


@pytest.fixture
def own_commands(mock_app_model: object) -> None:
    """Gives windows that a test opens itself commands of their own.

    napari refuses to register those of a plugin a second time, and registers its own
    once: a window of an earlier test has done both already.
    """
    _initialize_plugins.cache_clear()
    init_qactions.cache_clear()


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Model]:
    """A small 2D U-Net with random weights, in a model folder of its own."""

    def make(name: str, classes: LabelSet = ORGANS, **changes: Any) -> Model:
        spec = {"dimensions": 2, "width": 4, "stages": 3}
        values: dict[str, Any] = {
            "name": name,
            "network": NetworkSpec(name="unet", parameters=spec),
            "channels": ("CT",),
            "classes": classes,
            "preprocessing": Preprocessing(intensity=(Intensity(kind="none"),)),
            "tiling": Tiling(tile_vox=(32, 32), batch=4),
            "licence": "CC0-1.0",
        }
        card = ModelCard(**(values | changes))
        torch.manual_seed(len(name))
        network = build(card.network, len(card.channels), card.classes.count)
        with torch.no_grad():
            network.head.weight *= 3
        return save_model(tmp_path / "models" / name, card, network)

    return make


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A scan stored with both in-plane axes flipped (LPS), 24 x 40 x 36 voxels."""
    affine = np.diag([-1.0, -1.5, 2.0, 1.0])
    affine[:3, 3] = (10, 20, -30)
    voxels = np.random.default_rng(0).normal(size=(24, 40, 36)).astype(np.float32)
    for axis in range(3):
        voxels += np.roll(voxels, 1, axis)
    file = tmp_path / "case.nii.gz"
    write_volume(file, voxels, Grid.from_affine(affine, voxels.shape))
    return file
