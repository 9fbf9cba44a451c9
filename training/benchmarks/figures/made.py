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


def u_net(folder: Path, classes: int, tile: int) -> Model:
    """A small U-Net with drawn weights, in a model folder."""
    described = card(classes, tile, Intensity(kind="none"))
    torch.manual_seed(0)
    return save_model(folder, described, build(described.network, 1, classes))


def shipped_abdomen(face: int) -> tuple[Model, np.ndarray, np.ndarray]:
    """The shipped student of the abdomen, and its scan in the middle of air.

    Parameters
    ----------
    face
        Voxels along y and x of the volume that the scan lies in.

    Returns
    -------
    tuple
        The model, for voxels that are scaled already; these, channel first; the labels.
    """
    from napari_kdseg.inference.foreground import as_it_is
    from napari_kdseg.shipped import shipped_models, shipped_volumes
    from napari_kdseg.volumes.formats import read_labels, read_volume
    from napari_kdseg.volumes.preprocessing import prepare

    model = Model.open(shipped_models()["abdomen"])
    scans = shipped_volumes()
    seen = prepare(read_volume(scans["abdomen"]), model.card.preprocessing)
    stored, _ = read_labels(scans["abdomen-labels"])
    truth = seen.frame.read_labels(stored)
    truth[~np.isin(truth, model.card.classes.values)] = 0  # what it was never taught
    depth, height, width = truth.shape
    top, left = (face - height) // 2, (face - width) // 2
    middle = (slice(0, depth), slice(top, top + height), slice(left, left + width))
    air = model.card.preprocessing.pad_value
    grey = np.full((1, depth, face, face), air, np.float32)
    labels = np.zeros((depth, face, face), np.uint8)
    grey[(slice(None), *middle)], labels[middle] = seen.data, truth
    return as_it_is(model), grey, labels


def mean_dice(labels: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """Mean over the classes but the background, of those that occur."""
    counts = np.bincount(
        truth.ravel().astype(np.intp) * classes + labels.ravel(), minlength=classes**2
    ).reshape(classes, classes)
    both = np.diag(counts)[1:]
    either = counts.sum(0)[1:] + counts.sum(1)[1:]
    return float((2 * both[either > 0] / either[either > 0]).mean())


def by_nnunet(
    network: nn.Module, classes: int, tile: tuple[int, ...]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Labels (uint8) of an image (channel, z, y, x) by nnU-Net's predictor.

    It gets our weights: of its plans it asks for two numbers alone.
    """
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
    predictor.configuration_manager = SimpleNamespace(patch_size=tile)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)
    predictor.allowed_mirroring_axes = None

    def predict(image: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits = predictor.predict_sliding_window_return_logits(image)
            return torch.as_tensor(logits).argmax(0).to(torch.uint8)

    return predict


def by_monai(
    network: nn.Module, tile: tuple[int, ...]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Logits of an image by MONAI's sliding windows, Gaussian, float32."""
    from monai.inferers.utils import sliding_window_inference

    def predict(image: torch.Tensor) -> torch.Tensor:
        slices = len(tile) == 2  # each an image of its own
        batch = image.movedim(1, 0) if slices else image[None]
        with torch.inference_mode():
            logits = sliding_window_inference(
                batch, tile, 1, network, OVERLAP, mode="gaussian"
            )
        assert isinstance(logits, torch.Tensor)
        return logits.movedim(0, 1) if slices else logits[0]

    return predict
