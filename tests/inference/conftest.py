"""Small models and volumes for the tests of inference."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, Tiling, save_model
from napari_kdseg.models.networks import build
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid, Volume

MakeModel = Callable[..., Model]
MakeVolume = Callable[..., Volume]


@dataclass(frozen=True, eq=False)
class ModelInHand(Model):
    """A model whose network is not on the disk: a stand-in for the outside."""

    inner: Any = None

    def network(self, device: str = "cpu") -> Any:
        return self.inner.to(device)


class Thresholds(nn.Module):
    """Class c wins where the first channel lies nearest to c; looks at no neighbour."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: Tensor) -> Tensor:
        levels = torch.arange(self.classes, device=image.device).float()
        shape = (1, -1, *[1] * (image.ndim - 2))
        return -4 * (image[:, :1] - levels.reshape(shape)) ** 2


def _card(
    tile: tuple[int, ...], classes: tuple[str, ...] | LabelSet, **changes: Any
) -> ModelCard:
    spec = {"dimensions": len(tile), "width": 4, "stages": 3}
    values: dict[str, Any] = {
        "name": "model",
        "network": NetworkSpec(name="unet", parameters=spec),
        "channels": ("image",),
        "classes": classes
        if isinstance(classes, LabelSet)
        else LabelSet.from_names(classes),
        "preprocessing": Preprocessing(intensity=(Intensity(kind="none"),)),
        "tiling": Tiling(tile_vox=tile, overlap=0.5, batch=1),
    }
    return ModelCard(**(values | changes))


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """A U-Net with random weights, frozen by a seed, in a model folder of its own."""

    def make(
        tile: tuple[int, ...] = (16, 16, 16),
        classes: tuple[str, ...] = ("a", "b", "c"),
        seed: int = 0,
        **changes: Any,
    ) -> Model:
        card = _card(tile, classes, **changes)
        torch.manual_seed(seed)
        network = build(card.network, len(card.channels), card.classes.count)
        # Drawn logits hardly differ; an untrained head would be one long tie.
        with torch.no_grad():
            network.head.weight *= 3
        return save_model(tmp_path / f"{card.name}-{seed}-{len(tile)}", card, network)

    return make


@pytest.fixture
def make_simple() -> MakeModel:
    """A model whose labels are known by hand: grey value 1 is class a, 2 is b, ..."""

    def make(
        tile: tuple[int, ...] = (8, 8, 8),
        classes: tuple[str, ...] | LabelSet = ("a", "b", "c"),
        inner: nn.Module | None = None,
        **changes: Any,
    ) -> Model:
        card = _card(tile, classes, **changes)
        network = inner or Thresholds(card.classes.count)
        return ModelInHand(card, Path("nowhere"), network)

    return make


@pytest.fixture
def make_volume() -> MakeVolume:
    """Smooth random voxels, or those given, RAS unless flipped."""

    def make(
        shape: tuple[int, int, int] = (21, 18, 27),
        data: Any = None,
        channels: tuple[str, ...] = ("image",),
        directions: tuple[int, int, int] = (1, 1, 1),
        spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> Volume:
        if data is None:
            generator = np.random.default_rng(0)
            data = generator.normal(size=(len(channels), *shape)).astype(np.float32)
            for axis in (1, 2, 3):
                data = data + np.roll(data, 1, axis)
        affine = np.diag([*np.multiply(directions, spacing_mm[::-1]), 1.0])
        return Volume(data, Grid.from_affine(affine, data.shape[1:]), channels)

    return make
