"""Networks as teachers and students: frozen, and with what they compute inside."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from napari_kdseg.models.model import Model
from napari_kdseg.models.networks.network import SegmentationNetwork


@runtime_checkable
class Tapped(Protocol):
    """A network whose decoder features can be taken out."""

    def features(
        self, image: Tensor, levels: Sequence[int], /
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Give the logits, and by level the decoder's features there."""
        ...


@runtime_checkable
class Bottled(Protocol):
    """A network whose bottleneck, the encoder's last features, can be taken out."""

    def with_bottleneck(self, image: Tensor, /) -> tuple[Tensor, Tensor]:
        """Give the logits and the bottleneck."""
        ...


def frozen_network(model: Model, device: torch.device) -> SegmentationNetwork:
    """Network of a model that nothing can change: no gradient, no training mode."""
    network: SegmentationNetwork = model.network(str(device))
    return network.eval().requires_grad_(requires_grad=False)


def answer(
    network: Tapped, image: Tensor, levels: Sequence[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits and features of a network in float32, whatever it computed in."""
    logits, features = network.features(image, levels)
    return logits.float(), {level: found.float() for level, found in features.items()}
