"""Weights from a file that others pickled, read in a process of its own.

``python -m kdseg_train.interop.untrusted CHECKPOINT FOLDER`` leaves the tensors as
``weights.safetensors`` and the plain values that were asked for as ``facts.json``.
torch's ``weights_only`` refuses whatever is not on a list; what gets around it would
still meet a process that holds nothing.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_kdseg.errors import ModelError

WEIGHTS, FACTS = "weights.safetensors", "facts.json"
HOLDERS = ("network_weights", "state_dict", "model_state_dict", "model", "network")
"""Where tools keep a network's tensors in a checkpoint; else it is the tensors."""
KEPT = ("trainer_name", "inference_allowed_mirroring_axes", "init_args")
_REFUSED = 3


@dataclass(frozen=True)
class Unpacked:
    """What a checkpoint holds."""

    weights: dict[str, Any]
    """Tensors by name."""
    facts: dict[str, Any]
    """Those of `KEPT` that are there."""


def unpack(checkpoint: Path, folder: Path) -> Unpacked:
    """Read a pickled checkpoint in another process.

    Parameters
    ----------
    checkpoint
        The file.
    folder
        An empty one for what the process leaves.

    Raises
    ------
    ModelError
        When it is no checkpoint, or holds anything but tensors and plain values.
    """
    if not checkpoint.is_file():
        raise ModelError(
            f"{checkpoint} is not there; weights are read from it. Copy it from where "
            "the model was trained."
        )
    command = [sys.executable, "-m", __name__, str(checkpoint), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise ModelError(
            f"{checkpoint} was not read: {lines[-1].rstrip('.')}. A checkpoint is "
            "accepted where it holds tensors and plain values alone; ask its maker "
            "for such a file."
        )
    from safetensors.torch import load_file

    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return Unpacked(load_file(folder / WEIGHTS), facts)


def main(checkpoint: Path, folder: Path) -> int:
    """Do what `unpack` asks of the process."""
    import torch
    from safetensors.torch import save_file

    torch.serialization.add_safe_globals(_plain_types())
    try:
        found = torch.load(  # noqa: TID251 - nowhere else is a pickle read
            checkpoint, map_location="cpu", weights_only=True
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
        sys.stderr.write(_first_sentence(str(error)) + "\n")
        return _REFUSED
    tensors = _tensors(found)
    if not tensors:
        sys.stderr.write("it holds no tensors by name\n")
        return _REFUSED
    save_file(tensors, folder / WEIGHTS)
    facts = {key: _plain(found[key]) for key in KEPT if key in found}
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    return 0


def _tensors(found: Any) -> dict[str, Any]:
    import torch

    if not isinstance(found, Mapping):
        return {}
    inner = next((found[key] for key in HOLDERS if key in found), found)
    if not isinstance(inner, Mapping):
        return {}
    return {
        str(name): value.detach().clone().contiguous()
        for name, value in inner.items()
        if isinstance(value, torch.Tensor)
    }


def _plain_types() -> list[Any]:
    """The few types of numpy that logs and settings of a training hold."""
    import _codecs

    import numpy as np
    from numpy._core.multiarray import scalar

    kinds = ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")
    return [
        np.dtype,
        *(type(np.dtype(kind)) for kind in kinds),
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        _codecs.encode,
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def _first_sentence(text: str) -> str:
    for line in text.splitlines():
        if "Unsupported" in line or "GLOBAL" in line:
            return line.strip().rpartition("WeightsUnpickler error: ")[2]
    return next((line for line in text.splitlines() if line.strip()), "unknown reason")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
