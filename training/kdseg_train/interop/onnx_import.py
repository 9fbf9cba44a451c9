"""A file of ONNX becomes a model that onnxruntime executes.

ONNX says what a network computes and not what it is for. A file that this program
exported carries its card; for any other a card without network is given.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdseg_train.interop.exporting import needed
from kdseg_train.interop.given_card import card_with
from kdseg_train.interop.onnx_export import CARD_KEY
from napari_kdseg.errors import ModelError
from napari_kdseg.models.model import Model, save_model

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_LARGEST_BYTES = 2_000_000_000  # of a file of ONNX in one piece
_FLOAT = 1


def import_onnx(source: Path, out: Path, card: Path | None) -> Model:
    """Read a file and write a model folder.

    Parameters
    ----------
    source
        One input, a float image (batch, channel, (z,) y, x), and one output, logits.
    out
        The model folder.
    card
        A ``model.yaml`` without network; None takes the one in the file.

    Raises
    ------
    ModelError
        When the file is damaged, has other inputs, or does not say what it is for.
    """
    size = source.stat().st_size
    if size > _LARGEST_BYTES:
        raise ModelError(
            f"{source} has {size} bytes; ONNX in one piece has at most 2e9."
        )
    graph = source.read_bytes()
    found = _checked(source, graph)
    image = _image(source, found)
    sides = image.type.tensor_type.shape.dim[2:]
    parameters = {
        "dimensions": len(sides),
        "graph_bytes": len(graph),
        "steps": [side.dim_value or 1 for side in sides],
        "input_name": image.name,
    }
    given = next((e.value for e in found.metadata_props if e.key == CARD_KEY), None)
    values = None if given is None else _exported(source, given, parameters)
    made = card_with(source, out, card, values, ("onnx", parameters))
    return save_model(out, made, _network(source, made, graph))


def _exported(source: Path, text: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The card of a file that we wrote; its network halves as it says."""
    from napari_kdseg.models.parameters import NetworkSpec, parameters_of

    try:
        values = json.loads(text)
        own = parameters_of(NetworkSpec.model_validate(values.pop("network")))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{source} carries a card that cannot be read ({error}). Export it anew, "
            "or give one with --card."
        ) from error
    parameters["steps"] = list(own.divisors)
    return dict(values)


def _checked(source: Path, graph: bytes) -> Any:
    onnx = needed("onnx", "Importing ONNX")
    try:
        found = onnx.load_model_from_string(graph)
        onnx.checker.check_model(found)
    except Exception as error:  # protobuf's and onnx's errors share no class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "damaged"
        raise ModelError(
            f"{source} is no good file of ONNX ({reason}). Export it anew; weights "
            "must be in the file itself."
        ) from error
    strange = sorted({o.domain for o in found.opset_import} - set(_DOMAINS))
    if strange:
        raise ModelError(
            f"{source} uses operators of {', '.join(strange)}, which only their own "
            "code knows. Export it with the usual operators alone."
        )
    return found


def _image(source: Path, found: Any) -> Any:
    weights = {tensor.name for tensor in found.graph.initializer}
    inputs = [item for item in found.graph.input if item.name not in weights]
    tensors = [item.type.tensor_type for item in inputs]
    known = len(inputs) == 1 and len(found.graph.output) == 1
    known = known and all(
        tensor.elem_type == _FLOAT and len(tensor.shape.dim) in (4, 5)
        for tensor in tensors
    )
    if known:
        return inputs[0]
    said = ", ".join(
        f"{item.name} ({len(item.type.tensor_type.shape.dim)} axes)" for item in inputs
    )
    raise ModelError(
        f"{source} takes {said or 'nothing'} and gives {len(found.graph.output)} "
        "outputs; a network that segments takes one float image (batch, channel, z, y, "
        "x; without z for slices) and gives logits. Export the network alone."
    )


def _network(source: Path, card: Any, graph: bytes) -> Any:
    import torch

    from napari_kdseg.models.networks import build

    network = build(card.network, len(card.channels), card.classes.count)
    bytes_ = torch.from_numpy(np.frombuffer(graph, np.uint8).copy())
    network.load_state_dict({"graph": bytes_})
    image = torch.zeros(1, len(card.channels), *card.tiling.tile_vox)
    try:
        logits = network(image)
    except ModelError:
        raise
    except Exception as error:  # onnxruntime's errors have no class of their own
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{source} does not take a tile of {list(image.shape)}: {reason}. Give its "
            "channels and tile in the card."
        ) from error
    wanted = (1, card.classes.count, *card.tiling.tile_vox)
    if tuple(logits.shape) != wanted:
        raise ModelError(
            f"{source} gives {list(logits.shape)} values for a tile and the card "
            f"promises {list(wanted)} (batch, class, z, y, x). Give the classes in the "
            "order of the network in the card."
        )
    return network
