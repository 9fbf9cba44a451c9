"""The Quality Classifier at work: a slice and its labels in, P(good) out.

Medaka paper (arXiv 2302.12562), section 2.1. The network sees the slice, scaled as for
the segmentation, then one channel an organ of the labels under judgement; background
has none. Slices lie as in the model's orientation and are stretched to one size: the
image linearly, labels by nearest neighbour. The answer is calibrated as the card says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Integer, UInt8
from torch import Tensor, nn
from torch.nn import functional

from napari_kdseg.errors import GridError, ModelError, StopRequested
from napari_kdseg.inference.forward import pick_device, pick_precision
from napari_kdseg.models.card import Calibration, ModelCard
from napari_kdseg.models.model import Model
from napari_kdseg.volumes.intensity import fit_intensity
from napari_kdseg.volumes.preprocessing import Frame, Preprocessing
from napari_kdseg.volumes.volume import Box, Volume, VoxelArray

SLICES_AT_ONCE = 16


@dataclass(frozen=True)
class Judged:
    """A slice as the classifier sees it, but for the channels that labels become."""

    image: Float32[np.ndarray, "F Y X"]
    labels: UInt8[np.ndarray, "Y X"]
    """Class indices: 0 background, 1 the first class."""


def stretched(
    image: Float[np.ndarray, "F y x"],
    labels: Integer[np.ndarray, "y x"],
    size: Sequence[int],
) -> Judged:
    """Bring a slice and its class indices to the size the classifier works at."""
    rows, columns = size
    voxels = torch.from_numpy(np.array(image, np.float32))[None]
    values = torch.from_numpy(np.array(labels, np.float32))[None, None]
    small = functional.interpolate(
        voxels, (rows, columns), mode="bilinear", align_corners=False, antialias=True
    )
    nearest = functional.interpolate(values, (rows, columns), mode="nearest-exact")
    return Judged(small[0].numpy(), nearest[0, 0].numpy().astype(np.uint8))


def classifier_input(
    image: Float[Tensor, "B F Y X"], labels: Integer[Tensor, "B Y X"], organs: int
) -> Float[Tensor, "B C Y X"]:
    """Image channels, then a channel of 0 and 1 for each organ; C = F + organs."""
    masks = functional.one_hot(labels.long(), organs + 1).movedim(-1, 1)[:, 1:]
    return torch.cat([image, masks.to(image.dtype)], dim=1)


def calibration_of(card: ModelCard) -> Calibration:
    """What makes P(good) of a classifier's answer.

    Raises
    ------
    ModelError
        Where the model is no quality-classifier.
    """
    if card.calibration is None:
        raise ModelError(
            f"{card.name} is a {card.role}; slices are judged by a quality-classifier. "
            "Make one with kdseg-train quality fit."
        )
    return card.calibration


class QualityClassifier:
    """A trained classifier, ready to judge.

    Parameters
    ----------
    card
        Of a quality-classifier.
    network
        Its network, in evaluation mode, on the device.
    device
        Where the network is.
    precision
        ``float32``, ``bfloat16``, ``float16``, or ``auto``: float16 on a GPU, else
        float32. bfloat16 is faster on processors with avx512_bf16 or AMX; it keeps
        three digits, so that P(good) moves by some thousandths.

    Examples
    --------
    >>> classifier = QualityClassifier.of(Model.open(folder))
    >>> p_good = classifier.score(volume, labels, axis=0)
    """

    def __init__(
        self,
        card: ModelCard,
        network: nn.Module,
        device: str,
        precision: str = "float32",
    ) -> None:
        self.calibration = calibration_of(card)
        self.card = card
        self.size = card.tiling.tile_vox
        # Stored channels last, convolutions of a processor are a third faster.
        self._network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs do not know it
        self._device = device
        self._type = pick_precision(precision, device)

    @classmethod
    def of(
        cls, model: Model, device: str = "auto", precision: str = "float32"
    ) -> "QualityClassifier":
        """Load the network of a model.

        Raises
        ------
        ModelError
            When the model is no quality-classifier.
        UsageError
            When there is no such device.
        """
        place = pick_device(device)
        return cls(model.card, model.network(place), place, precision)

    def judge(self, slices: Sequence[Judged]) -> Float[np.ndarray, " N"]:
        """P(good) of some slices, 0 to 1."""
        image = torch.from_numpy(np.stack([one.image for one in slices]))
        labels = torch.from_numpy(np.stack([one.labels for one in slices]))
        organs = self.card.classes.count - 1
        seen = classifier_input(image, labels, organs).to(
            self._device, memory_format=torch.channels_last
        )
        with torch.inference_mode(), self._autocast():
            answer = self._network(seen)
        if not bool(answer.isfinite().all()):
            raise ModelError(
                f"{self.card.name} gives values that are no numbers; its weights or "
                "the grey values are out of range. Was it trained on such scans?"
            )
        prob = calibrated(
            answer.double().cpu(), self.calibration.slope, self.calibration.intercept
        )
        found: np.ndarray = prob.numpy()
        return found

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            torch.device(self._device).type,
            dtype=self._type,
            enabled=self._type != torch.float32,
        )

    def score(
        self,
        volume: Volume,
        labels: VoxelArray,
        axis: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Float[np.ndarray, " N"]:
        """P(good) of every slice of a volume along an axis of the stored array.

        Parameters
        ----------
        volume
            The scan; read by slabs.
        labels
            Class indices (z, y, x) on its grid: 0, and 1 for the first class of the
            card; read by slabs, too.
        axis
            0, 1 or 2: z, y or x as stored.
        should_stop
            Asked before each batch of slices.

        Raises
        ------
        ModelError
            When the scan has other channels than the classifier takes.
        GridError
            When the labels have another shape than the scan.
        StopRequested
            When ``should_stop`` said so.
        """
        self.check_channels(volume)
        slices = Slices(volume, labels, self.card.preprocessing)
        found = []
        for start in range(0, volume.grid.shape[axis], SLICES_AT_ONCE):
            if should_stop():
                raise StopRequested(f"{volume.name}: judging was asked to stop.")
            stop = min(start + SLICES_AT_ONCE, volume.grid.shape[axis])
            planes = slices.read(axis, start, stop)
            found.append(self.judge([stretched(*one, self.size) for one in planes]))
        return np.concatenate(found)

    def check_channels(self, volume: Volume) -> None:
        """Refuse a scan with another number of channels.

        Raises
        ------
        ModelError
            Naming both numbers.
        """
        wanted, found = self.card.channels, volume.channels
        if len(wanted) != len(found):
            raise ModelError(
                f"{volume.name} has {len(found)} channels ({', '.join(found)}); "
                f"{self.card.name} takes {len(wanted)} ({', '.join(wanted)}). Give it "
                "these channels in this order."
            )


def calibrated(
    answer: Float[Tensor, " N"], slope: float, intercept: float
) -> Float[Tensor, " N"]:
    """P(good) from what the network says: Platt's logistic curve (1999)."""
    return torch.sigmoid(slope * answer + intercept)


class Slices:
    """Slices of a scan with their labels, turned and scaled for a classifier.

    Parameters
    ----------
    volume
        The scan; nothing but the slices asked for is read, after its grey values have
        been measured once.
    labels
        Class indices on the scan's grid.
    preprocessing
        Orientation and scaling count; voxels are not resized.

    Raises
    ------
    GridError
        When shapes differ.
    """

    def __init__(
        self, volume: Volume, labels: VoxelArray, preprocessing: Preprocessing
    ) -> None:
        if tuple(labels.shape) != volume.grid.shape:
            raise GridError(
                f"{volume.name} has {volume.grid.shape} voxels and its labels "
                f"{tuple(labels.shape)} (z, y, x); take the labels of this scan."
            )
        as_it_lies = {"spacing_mm": None, "resize_vox": None}
        still = preprocessing.model_copy(update=as_it_lies)
        self._volume, self._labels = volume, labels
        self._frame = Frame.of(volume.grid, still)
        self._scaling = fit_intensity(volume.data, still.intensity, volume.name)

    def read(
        self, axis: int, start: int, stop: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Slices ``start`` to before ``stop`` along a stored axis: image, labels."""
        spans = [slice(0, size) for size in self._volume.grid.shape]
        spans[axis] = slice(start, stop)
        box: Box = (spans[0], spans[1], spans[2])
        turn = self._frame.orientation
        image = self._frame.read(
            self._volume.data, self._scaling, turn.oriented_index(box)
        )
        labels = turn.to_oriented(np.asarray(self._labels[box]))
        across = turn.order.index(axis)
        images, masks = (
            np.moveaxis(image, across + 1, 0),
            np.moveaxis(labels, across, 0),
        )
        order = slice(None, None, -1 if turn.flipped[across] else None)
        return list(zip(images[order], masks[order], strict=True))
