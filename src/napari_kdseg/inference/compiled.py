"""Networks compiled by OpenVINO for a processor: the extra ``fast``.

A network is converted once and kept in the user's cache, under the hash of its weights,
its parameters and its window; what is compiled stays for the life of the process.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from napari_kdseg.atomic import publish_folder, temporary_beside
from napari_kdseg.cores import threads_within_cores
from napari_kdseg.errors import UsageError
from napari_kdseg.inference.backends import STREAMS, backend_of, check_backend
from napari_kdseg.inference.forward import Network, memory_layout, pick_precision
from napari_kdseg.inference.plan import Pass
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import WEIGHTS, Model

COMPILED_KEPT = 16
LARGEST_DIFFERENCE = 0.01
"""Between logits of OpenVINO and of torch, both float32, of the largest of them."""
_IR = "network.xml"
_CHECKED = 1  # part of the key: what was kept before networks were compared is left
_refused: dict[Path, str] = {}
"""Why networks of this process could not be converted, by where they would lie."""

Make = Callable[[Model, Pass, str], Network]


def pick_backend(
    settings: Settings, device: str, log: Callable[[str], None] = lambda _: None
) -> Make:
    """What makes a network of a model, for a pass and a device.

    ``auto`` is OpenVINO on a processor where it is installed and computes what the
    network does, else torch; the log says where it does not.

    Raises
    ------
    UsageError
        Where OpenVINO was asked for and is not installed, cannot use the device, or
        has no such precision.
    """
    check_backend(settings, device)
    if backend_of(settings, device) == "torch":
        return _by_torch
    automatic = settings.backend == "auto"
    asked = pick_precision(settings.precision, device)
    precision = "bf16" if asked == torch.bfloat16 else "f32"
    threads = threads_within_cores(settings.threads) or torch.get_num_threads()

    def make(model: Model, sweep: Pass, device: str) -> Network:
        try:
            path = _converted(model, sweep, device)
        except _ConversionError as refused:
            name = model.card.name
            reason = f"OpenVINO does not compute the network of {name}: {refused}"
            if not automatic:
                raise UsageError(f"{reason}. Take the backend torch.") from refused
            log(f"{reason}; torch does.")
            return _by_torch(model, sweep, device)
        streams = min(sweep.batch, threads, STREAMS)
        return Compiled(_compiled(path, precision, threads, streams))

    return make


class Compiled:
    """A network that OpenVINO compiled for a window of one size.

    Parameters
    ----------
    requests
        The compiled network, ready to be asked for so many windows side by side.
    """

    def __init__(self, requests: Sequence[Any]) -> None:
        self._requests = requests

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of windows, each computed by itself."""
        found: list[Tensor] = []
        for some in images.split(len(self._requests)):
            asked = list(zip(self._requests, some.split(1), strict=False))
            for request, image in asked:
                request.start_async([image.numpy()], share_inputs=True)
            for request, _ in asked:
                request.wait()
                # A copy: the request's own buffer is filled again by the next windows.
                logits = request.get_output_tensor(0).data.copy()
                found.append(torch.from_numpy(logits))
        return torch.cat(found)


def _by_torch(model: Model, sweep: Pass, device: str) -> Network:
    del sweep
    network: Network = model.network(device)
    layout = memory_layout(device, model.card.dimensions)
    if isinstance(network, torch.nn.Module) and layout != torch.contiguous_format:
        network.to(memory_format=layout)  # type: ignore[call-overload]
    return network


def _converted(model: Model, sweep: Pass, device: str) -> Path:
    """Where a model's network lies as converted for the windows of a pass."""
    card = model.card
    side = sweep.tile[3 - card.dimensions :]
    shape = (1, len(card.channels), *side)
    folder = user_cache_path("napari-kdseg") / "openvino" / _key(model, shape)
    if folder in _refused:
        raise _ConversionError(_refused[folder])
    if not (folder / _IR).is_file():
        try:
            _convert(model.network(device), shape, folder)
        except _ConversionError as refused:
            _refused[folder] = str(refused)
            raise
    return folder / _IR


def _key(model: Model, shape: tuple[int, ...]) -> str:
    """Of everything that the converted network depends on."""
    with (model.folder / WEIGHTS).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    parts = [
        _CHECKED,
        weights,
        model.card.network.model_dump(mode="json"),
        list(shape),
        version("openvino"),
        version("torch"),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class _ConversionError(Exception):
    """Why a network cannot be converted."""


def _convert(network: Any, shape: tuple[int, ...], folder: Path) -> None:
    """Write a network in OpenVINO's own form; it appears complete or not at all.

    Raises
    ------
    _ConversionError
        Where it does something that cannot be traced, or comes out as another.
    """
    import openvino

    if not getattr(network, "traceable", True):
        raise _ConversionError("it has a runtime of its own")
    # Checks of the input's size are traced as constants: the size is one here.
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            converted = openvino.convert_model(
                network, example_input=torch.zeros(shape), input=[shape]
            )
            apart = _apart(network, converted, shape)
        except Exception as error:  # OpenVINO's errors have no class of their own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise _ConversionError(reason) from error
    if not apart <= LARGEST_DIFFERENCE:
        raise _ConversionError(f"its logits differ by {apart:.2g} of the largest")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    temporary.mkdir()
    openvino.save_model(converted, temporary / _IR, compress_to_fp16=False)
    try:
        publish_folder(temporary, folder)
    except FileExistsError:
        return  # another process converted it meanwhile


def _apart(network: Any, converted: Any, shape: tuple[int, ...]) -> float:
    """How far logits lie apart, of the largest: a trace holds for good what it saw."""
    import openvino

    image = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    found = openvino.Core().compile_model(converted, "CPU", exact)([image.numpy()])[0]
    expected = network(image).numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@lru_cache(maxsize=COMPILED_KEPT)
def _compiled(path: Path, precision: str, threads: int, streams: int) -> list[Any]:
    """What can be asked side by side, as many as there are streams."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": streams,
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return [compiled.create_infer_request() for _ in range(streams)]
