"""Volumes, networks and models that several figures use; nothing comes from outside."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, Tiling, save_model
from napari_kdseg.models.networks import build
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid, Volume

OVERLAP = 0.5


@dataclass(frozen=True, eq=False)
class InHand(Model):
    """A model whose network is not on the disk."""

    inner: Any = None

    def network(self, device: str = "cpu") -> Any:
        """The network itself."""
        return self.inner.to(device)


def card(classes: int, tile: int, intensity: Intensity, **changes: Any) -> ModelCard:
    """A card of a 3D U-Net."""
    spec = NetworkSpec(
        name="unet", parameters={"dimensions": 3, "stages": 4, "width": 8}
    )
    names = [f"class {number}" for number in range(1, classes)]
    values: dict[str, Any] = {
        "name": "made",
        "network": spec,
        "channels": ("image",),
        "classes": LabelSet.from_names(names),
        "preprocessing": Preprocessing(intensity=(intensity,)),
        "tiling": Tiling(tile_vox=(tile,) * 3, overlap=OVERLAP),
    }
    return ModelCard(**(values | changes))


def one_convolution(classes: int, tile: int, kernel: int = 3) -> InHand:
    """A model of one convolution: time and memory are those of all but the network."""
    torch.manual_seed(0)
    window = Intensity(kind="window", low=-1000, high=1000)
    network = nn.Conv3d(1, classes, kernel, padding=kernel // 2).eval()
    return InHand(card(classes, tile, window), Path("in-hand"), inner=network)


def noise(shape: tuple[int, int, int]) -> np.ndarray:
    """A made 16-bit scan, channel first."""
    generator = np.random.default_rng(0)
    data = np.empty((1, *shape), np.int16)
    for plane in range(shape[0]):
        data[0, plane] = generator.normal(0, 400, shape[1:])
    return data


def volume_of(data: np.ndarray) -> Volume:
    """Voxels with a grid of 1 mm."""
    return Volume(data, Grid.from_affine(np.eye(4), data.shape[1:]), ("image",))


def organs(
    size: int, classes: int, share: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A ball of organs in a noisy volume: grey values (channel first) and labels.

    Parameters
    ----------
    size
        Voxels along each axis.
    classes
        Background included; each organ has a grey value of its own.
    share
        Part of the volume that is organs.
    seed
        Same seed, same volume.
    """
    generator = np.random.default_rng(seed)
    axes = np.ogrid[:size, :size, :size]
    radius = size * (3 * share / (4 * np.pi)) ** (1 / 3)
    squares = [(axis - size / 2) ** 2 for axis in axes]
    distance = squares[0] + squares[1] + squares[2]
    seeds = generator.normal(0, radius / 2, (classes - 1, 3)) + size / 2
    nearest = np.full((size,) * 3, np.inf, np.float32)
    labels = np.zeros((size,) * 3, np.uint8)
    for number, seed_vox in enumerate(seeds, start=1):
        squares = [
            (axis - place) ** 2 for axis, place in zip(axes, seed_vox, strict=True)
        ]
        from_seed = (squares[0] + squares[1] + squares[2]).astype(np.float32)
        closer = from_seed < nearest
        nearest[closer] = from_seed[closer]
        labels[closer] = number
    labels[distance > radius**2] = 0
    grey = labels * np.float32(4.0) + generator.normal(0, 1, labels.shape)
    return grey[None].astype(np.float32), labels


def trained(folder: Path, classes: int, tile: int, steps: int) -> Model:
    """A small U-Net trained for some seconds on made organs, in a model folder."""
    spec_card = card(classes, tile, Intensity(kind="none"))
    torch.manual_seed(0)
    network = build(spec_card.network, 1, classes)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    side = 32
    generator = np.random.default_rng(1)
    scans = [organs(96, classes, 0.4, seed) for seed in range(2, 6)]
    for _ in range(steps):
        grey, labels = scans[generator.integers(len(scans))]
        z, y, x = generator.integers(0, 96 - side, 3)
        box = (slice(z, z + side), slice(y, y + side), slice(x, x + side))
        image = torch.from_numpy(grey[(slice(None), *box)])[None]
        target = torch.from_numpy(labels[box]).long()[None]
        loss = nn.functional.cross_entropy(network(image), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return save_model(folder, spec_card, network.eval())


def mean_dice(labels: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """Mean over the classes but the background, of those that occur."""
    counts = np.bincount(
        truth.ravel().astype(np.intp) * classes + labels.ravel(), minlength=classes**2
    ).reshape(classes, classes)
    both = np.diag(counts)[1:]
    either = counts.sum(0)[1:] + counts.sum(1)[1:]
    return float((2 * both[either > 0] / either[either > 0]).mean())


def nnunet_predictor(network: nn.Module, classes: int, tile: int) -> Any:
    """nnU-Net's predictor with our weights: it asks its plans for two numbers alone."""
    from types import SimpleNamespace

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=(tile,) * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)
    predictor.allowed_mirroring_axes = None
    return predictor


def by_nnunet(network: nn.Module, classes: int, tile: int) -> Callable[[Any], Any]:
    """Labels (uint8) of an image (channel, z, y, x) by nnU-Net's predictor."""
    predictor = nnunet_predictor(network, classes, tile)

    def predict(image: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits = predictor.predict_sliding_window_return_logits(image)
            return logits.argmax(0).to(torch.uint8)

    return predict


def by_monai(network: nn.Module, tile: int) -> Callable[[Any], Any]:
    """Logits of an image by MONAI's sliding windows, Gaussian, float32."""
    from monai.inferers.utils import sliding_window_inference

    def predict(image: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits = sliding_window_inference(
                image[None], (tile,) * 3, 1, network, OVERLAP, mode="gaussian"
            )
        assert isinstance(logits, torch.Tensor)
        return logits[0]

    return predict
