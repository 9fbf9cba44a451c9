"""Small models and scans on disk for the tests of commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdseg_train import cli
from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, Tiling, save_model
from napari_kdseg.models.networks import build
from napari_kdseg.volumes.formats import write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid

MakeModelFolder = Callable[..., Model]
WriteScan = Callable[..., Path]

SCAN_SHAPE = (20, 24, 32)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line here; exit status, output, errors."""

    def run(*words: object) -> tuple[int, str, str]:
        status = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def model_folder(tmp_path: Path) -> MakeModelFolder:
    """A U-Net with random weights in a folder of its own; the same for each name."""

    def make(
        name: str = "organs",
        classes: tuple[str, ...] | LabelSet = ("liver", "spleen"),
        **changes: Any,
    ) -> Model:
        if not isinstance(classes, LabelSet):
            classes = LabelSet.from_names(classes)
        spec = {"dimensions": 2, "width": 4, "stages": 3}
        values: dict[str, Any] = {
            "name": name,
            "network": NetworkSpec(name="unet", parameters=spec),
            "channels": ("image",),
            "classes": classes,
            "preprocessing": Preprocessing(intensity=(Intensity(kind="none"),)),
            "tiling": Tiling(tile_vox=(16, 16), overlap=0.5, batch=4),
        }
        card = ModelCard(**(values | changes))
        torch.manual_seed(len(name) + sum(map(ord, name)))
        network = build(card.network, len(card.channels), card.classes.count)
        with torch.no_grad():  # drawn logits hardly differ
            network.head.weight *= 3
        return save_model(tmp_path / "models" / name, card, network)

    return make


@pytest.fixture
def write_scan(tmp_path: Path) -> WriteScan:
    """A file of smooth noise; the same for the same name."""

    def write(
        name: str = "case_1.nii.gz",
        shape: tuple[int, ...] = SCAN_SHAPE,
        directions: tuple[int, int, int] = (1, 1, 1),
        folder: Path | None = None,
        **changes: Any,
    ) -> Path:
        path = (folder or tmp_path / "scans") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(sum(map(ord, name)))
        data = generator.normal(size=shape).astype(np.float32)
        for axis in (-1, -2, -3):
            data = data + np.roll(data, 1, axis)
        data = changes.get("data", data)
        spacing_xyz = (0.8, 0.9, 2.0)
        affine = np.diag([*np.multiply(directions, spacing_xyz), 1.0])
        affine[:3, 3] = (5.0, -7.0, 11.0)
        write_volume(path, data, Grid.from_affine(affine, data.shape[-3:]))
        return path

    return write
