"""Networks at work on windows: where, in which precision, and with a check."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_kdseg.cores import threads_within_cores
from napari_kdseg.errors import ModelError, UsageError
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.uncertainty import test_time_variance
from napari_kdseg.models.card import ModelCard

Network = Callable[[Tensor], Tensor]
"""Windows (window, channel, z, y, x or y, x) in, logits of the same sides out."""

_TYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Forward:
    """The networks of one pass.

    Parameters
    ----------
    cards, networks
        The models; networks are in evaluation mode, on the device.
    settings
        Precision, and whether flips are asked for.
    device
        Where the networks are.
    order
        Which axis of the models' frame each axis of a window is.
    """

    def __init__(
        self,
        cards: Sequence[ModelCard],
        networks: Sequence[Network],
        settings: Settings,
        device: str,
        order: Sequence[int] = (0, 1, 2),
    ) -> None:
        self._models = list(zip(cards, networks, strict=True))
        self._order = (0, 1, *(2 + axis for axis in order))
        self._back = tuple(self._order.index(axis) for axis in range(5))
        self.device = device
        self._type = pick_precision(settings.precision, device)
        self._flips = settings.uncertainty == "test-time-variance"

    def __call__(self, windows: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Logits of each model, then, where asked for, the variance of each.

        Parameters
        ----------
        windows
            Channel, then three axes in the order given; one plane for a 2D model.

        Returns
        -------
        list of Tensor
            Window, channel, then the axes as they came.

        Raises
        ------
        ModelError
            Where a network gives another shape than its card says, or values that are
            no numbers.
        """
        images = torch.from_numpy(np.stack(windows)).to(self.device)
        images = images.permute(self._back).contiguous()
        logits, variances = [], []
        for card, network in self._models:
            own = self._mirrored(card, network, images)
            logits.append(own)
            if self._flips:
                variances.append(self._variance(card, network, images, own))
        return [values.permute(self._order) for values in (*logits, *variances)]

    def _logits(self, card: ModelCard, network: Network, images: Tensor) -> Tensor:
        slices = card.dimensions == 2
        autocast = torch.autocast(
            torch.device(self.device).type,
            dtype=self._type,
            enabled=self._type != torch.float32,
        )
        seen = images[:, :, 0] if slices else images
        seen = seen.contiguous(
            memory_format=memory_layout(self.device, card.dimensions)
        )
        with torch.inference_mode(), autocast:
            logits = network(seen)
            logits = logits.unsqueeze(2) if slices else logits
        wanted = (len(images), card.classes.count, *images.shape[2:])
        if tuple(logits.shape) != wanted:
            raise ModelError(
                f"The network of {card.name} gives {_by(logits.shape)} values for a "
                f"window; its card promises {_by(wanted)} (window, class, z, y, x). "
                "Get the model again from its source."
            )
        # One number says it for all, without a copy of the logits.
        if not bool(logits.sum(dtype=torch.float32).isfinite()):
            raise ModelError(self._not_finite(card))
        return logits

    def _mirrored(self, card: ModelCard, network: Network, images: Tensor) -> Tensor:
        """Logits, averaged over the ways to mirror that the card asks for."""
        axes = [5 - card.dimensions + axis for axis in card.tiling.mirror]
        logits = self._logits(card, network, images)
        for count in range(1, len(axes) + 1):
            for chosen in combinations(axes, count):
                turned = self._logits(card, network, images.flip(chosen))
                logits = logits + turned.flip(chosen)
        return logits / 2 ** len(axes) if axes else logits

    def _variance(
        self, card: ModelCard, network: Network, images: Tensor, logits: Tensor
    ) -> Tensor:
        """How much the probabilities change when a window is flipped along one axis."""
        predictions = [logits.float().softmax(dim=1)]
        for axis in range(5 - card.dimensions, 5):
            flipped = self._logits(card, network, images.flip(axis))
            predictions.append(flipped.flip(axis).float().softmax(dim=1))
        # N, window, class -> N, class, window: class stands second in a stack.
        stack = torch.stack(predictions).transpose(1, 2)
        return test_time_variance(stack).unsqueeze(1)

    def _not_finite(self, card: ModelCard) -> str:
        name = str(self._type).removeprefix("torch.")
        if self._type == torch.float32:
            return (
                f"{card.name} gives values that are no numbers; its weights or the "
                "volume's grey values are out of range. Does the volume show what the "
                "model was trained on?"
            )
        return (
            f"{card.name} gives values that are no numbers in {name}, which holds a "
            "smaller range than it needs. Take the precision float32."
        )


def pick_device(asked: str) -> str:
    """The device as torch writes it: ``auto`` is the first CUDA device, else the cpu.

    Raises
    ------
    UsageError
        Where there is no such device.
    """
    if asked == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if asked == "cpu":
        return "cpu"
    kind, _, number = asked.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        raise UsageError(
            f"There is no device {asked!r}; choose auto, cpu, cuda, or cuda:1 for the "
            "second."
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or "0") >= count:
        raise UsageError(
            f"The device {asked} was asked for and this machine has {count} CUDA "
            "devices. Choose auto or cpu."
        )
    return f"cuda:{number or '0'}"


def pick_precision(asked: str, device: str) -> torch.dtype:
    """The type that networks compute in; ``auto`` is float16 on a CUDA device.

    float16 keeps three bits more than bfloat16, so labels stay closer to those of
    float32; normalised networks stay within its range, and leaving it is an error.

    Raises
    ------
    UsageError
        Where bfloat16 was asked for on a processor that has to imitate it.
    """
    if asked == "auto":
        return torch.float16 if device.startswith("cuda") else torch.float32
    if asked == "bfloat16" and device == "cpu" and not has_bfloat16():
        raise UsageError(
            "This processor is not known to multiply in bfloat16 (avx512_bf16, amx, or "
            "Arm's bf16 on Linux), and would be slower with it than in float32 and "
            "less exact. Leave the precision at auto."
        )
    return _TYPES[asked]


def memory_layout(device: str, dimensions: int) -> torch.memory_format:
    """How images and weights lie: channels last on a graphics card.

    Tensor cores want them so, by PyTorch's guide. Instance norms give them back in the
    usual order, so there is a copy at each; what is gained was not measured here. On a
    processor 3D networks are up to a fifth slower with it.
    """
    if not device.startswith("cuda"):
        return torch.contiguous_format
    return torch.channels_last_3d if dimensions == 3 else torch.channels_last


def has_bfloat16(listing: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies in bfloat16; no where it does not say.

    Parameters
    ----------
    listing
        What Linux says of the processor.
    """
    if listing.is_file():
        words = {*listing.read_text(encoding="utf-8").split()}
        return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})  # the last is Arm's
    ask = getattr(torch.cpu, "get_capabilities", dict)  # torch 2.10 lacks it
    known: dict[str, Any] = ask()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _by(sizes: Sequence[Any]) -> str:
    return " x ".join(str(size) for size in sizes)


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads for a while, no more than cores; None: as ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads_within_cores(count) or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
