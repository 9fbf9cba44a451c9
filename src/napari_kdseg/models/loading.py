"""Weights from the disk into a network, and back; the part of `model` with torch."""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from napari_kdseg.errors import ModelError
from napari_kdseg.models.card import ModelCard
from napari_kdseg.models.networks import build, build_classifier


def load_network(card: ModelCard, path: Path, device: str) -> nn.Module:
    """Build the network of a card with the weights of a file, in evaluation mode.

    Weights that were stored in half precision come back as float32.

    Raises
    ------
    ModelError
        When the file cannot be read, or its tensors are not those of the network.
    """
    try:
        stored = load_file(path, device=device)
    except SafetensorError as error:
        raise ModelError(
            f"{path} is no safetensors file ({error}). Get the model again from its "
            "source."
        ) from error
    network = _without_weights(card)
    _check_fit(str(path), network, stored)
    weights = {
        name: value.float() if value.is_floating_point() else value
        for name, value in stored.items()
    }
    network.load_state_dict(weights, assign=True)
    return network.eval()


def save_weights(
    card: ModelCard,
    network: nn.Module,
    path: Path,
    precision: Literal["float32", "float16"],
) -> None:
    """Write the weights of a network, after a look whether they fit the card.

    Raises
    ------
    ModelError
        When the network is not the one on the card.
    """
    dtype = torch.float16 if precision == "float16" else torch.float32
    weights = {
        name: _as_stored(value, dtype) for name, value in network.state_dict().items()
    }
    _check_fit(f"The network for {card.name}", _without_weights(card), weights)
    # save_file would leave a file that only its owner may read; labs share models
    path.write_bytes(save(weights))


def _as_stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.to(dtype) if value.is_floating_point() else value


def _without_weights(card: ModelCard) -> nn.Module:
    make = build_classifier if card.role == "quality-classifier" else build
    # On the meta device nothing is allocated and no random number is drawn.
    with torch.device("meta"):
        return make(card.network, len(card.channels), card.classes.count)


def _check_fit(where: str, network: nn.Module, found: dict[str, Tensor]) -> None:
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    if wanted == shapes:
        return
    for name in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(name) == shapes.get(name):
            continue
        raise ModelError(
            f"{where} has {_described(name, shapes)} where the network on the card has "
            f"{_described(name, wanted)}; both must be of one network, with the card's "
            "channels and classes. Get card and weights from the same source."
        )


def _described(name: str, shapes: dict[str, tuple[int, ...]]) -> str:
    if name not in shapes:
        return f"no {name}"
    return f"{name} of {list(shapes[name])}"
