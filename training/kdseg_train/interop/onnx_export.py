"""A network as ONNX: image in, logits out, with the card beside them in the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdseg_train.interop.exporting import (
    check_equal,
    needed,
    new_path,
    quiet,
    random_images,
)
from napari_kdseg.models.card import portable_card
from napari_kdseg.models.model import Model

CARD_KEY = "napari_kdseg_card"
OPSET = 17
IMAGE, LOGITS = "image", "logits"


def write(model: Model, out: Path) -> None:
    """Write one ``.onnx`` file, after its values were compared in onnxruntime.

    Batch and sizes stay free; sizes are multiples of what the network halves. The
    card's JSON is in the file's metadata under ``napari_kdseg_card``: channels,
    classes, preprocessing and tiling, which ONNX has no words for.

    Raises
    ------
    ModelError
        Where a package is missing, or onnxruntime gives other values than torch.
    """
    onnx = needed("onnx", "Exporting to ONNX")
    needed("onnxruntime", "Exporting to ONNX")
    network = model.network()
    images = random_images(model)
    with new_path(out) as temporary:
        write_graph(network, images[0], temporary)
        graph = onnx.load(temporary)
        entry = graph.metadata_props.add()
        entry.key, entry.value = CARD_KEY, json.dumps(portable_card(model.card))
        onnx.save(graph, temporary)
        check_equal(model.card.name, "onnxruntime", network, runner(temporary), images)


def write_graph(network: Any, image: np.ndarray, path: Path) -> None:
    """Write a network alone, batch and sizes free."""
    import torch

    free = {axis: f"size_{axis}" for axis in range(2, image.ndim)} | {0: "batch"}
    with quiet(), torch.inference_mode():
        torch.onnx.export(
            network,
            (torch.from_numpy(image),),
            str(path),
            dynamo=False,  # the newer way needs onnxscript, and fixes the sizes
            opset_version=OPSET,
            input_names=[IMAGE],
            output_names=[LOGITS],
            dynamic_axes={IMAGE: free, LOGITS: free},
        )


def runner(path: Path) -> Any:
    """A function from image to logits, in onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )

    def run(image: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {IMAGE: image})[0])

    return run
