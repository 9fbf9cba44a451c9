"""A model described as bioimage.io describes models, version 0.5.4 of its format.

The network is TorchScript; ``rdf.yaml`` names its axes, what is done to grey values and
a tile to test with. Cutting scans into tiles, orientation and what is cleaned up have
no words there; the README in the folder says so.
"""

import hashlib
import importlib.metadata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdseg_train.interop.exporting import check_equal, new_path, random_images, traced
from napari_kdseg.errors import ModelError
from napari_kdseg.models.card import ModelCard, in_words
from napari_kdseg.models.model import Model
from napari_kdseg.models.parameters import parameters_of
from napari_kdseg.volumes.intensity import Intensity, apply_intensity, fit_intensity

Entry = dict[str, Any]


def write(model: Model, out: Path) -> None:
    """Write a folder with ``rdf.yaml``, weights and test arrays.

    Raises
    ------
    ModelError
        Where grey values are scaled in a way that bioimage.io has no words for, or the
        licence is none that it knows.
    """
    import torch

    card, network = model.card, model.network()
    if " " in card.licence:
        raise ModelError(
            f"{model.folder} has the licence {card.licence!r}; bioimage.io asks for "
            "one of SPDX, such as CC-BY-4.0. Write it into model.yaml, as licence."
        )
    steps = _scaling(card)
    images = random_images(model)
    recorded = traced(network, images[0])
    check_equal(
        card.name,
        "TorchScript",
        network,
        lambda image: np.asarray(recorded(torch.from_numpy(image)).detach()),
        images,
    )
    raw = _test_image(card)
    with torch.inference_mode():
        logits = network(torch.from_numpy(_as_seen(card, raw))).numpy()
    with new_path(out) as folder:
        folder.mkdir()
        np.save(folder / "test_input.npy", raw)
        np.save(folder / "test_output.npy", logits)
        recorded.save(str(folder / "weights.pt"))
        words = in_words(card, model.fingerprint)
        (folder / "README.md").write_text(words + _LIMITS, encoding="utf-8")
        described = _description(card, steps, folder)
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        (folder / "rdf.yaml").write_text(text, encoding="utf-8")


_LIMITS = """
## Validation

The test output is what torch gives for the test input; the weights were compared with
it before they were kept.

bioimage.io describes one tile: the image above is cut, turned and put together by
napari-kdseg alone. The output holds logits, the class with the largest is the label.
"""


def _scaling(card: ModelCard) -> list[Entry]:
    rules = set(card.preprocessing.intensity)
    rule = next(iter(rules))
    if len(rules) > 1 or rule.nonzero or rule.kind in ("percentile", "window_zscore"):
        raise ModelError(
            f"{card.name} scales grey values by {rule.kind}"
            f"{' of each channel' if len(rules) > 1 else ''}"
            f"{' where they are not 0' if rule.nonzero else ''}, which bioimage.io has "
            "no words for. Export it to onnx, which holds the network alone."
        )
    return [
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        *_steps(rule, card.dimensions),
    ]


def _steps(rule: Intensity, dimensions: int) -> list[Entry]:
    low, high = rule.low - rule.offset, rule.high - rule.offset
    clip = {"id": "clip", "kwargs": {"min": low, "max": high}}
    if rule.kind == "none":
        return [_linear(1.0, rule.offset)] if rule.offset else []
    if rule.kind == "window":
        gain = 2 / (high - low)
        return [clip, _linear(gain, -1 - low * gain)]
    if rule.kind == "standard":
        gain = 1 / rule.deviation
        return [clip, _linear(gain, (rule.offset - rule.mean) * gain)]
    axes = ["z", "y", "x"][3 - dimensions :]
    return [{"id": "zero_mean_unit_variance", "kwargs": {"axes": axes, "eps": 1e-6}}]


def _linear(gain: float, offset: float) -> Entry:
    return {"id": "scale_linear", "kwargs": {"gain": gain, "offset": offset}}


def _test_image(card: ModelCard) -> np.ndarray:
    """Grey values that the scaling spreads over its range."""
    rule = card.preprocessing.intensity[0]
    shape = (1, len(card.channels), *card.tiling.tile_vox)
    drawn = np.random.default_rng(0).normal(size=shape)
    if rule.kind in ("window", "standard"):
        middle, half = (rule.low + rule.high) / 2, (rule.high - rule.low) / 2
        drawn = drawn * half * 0.5 + middle - rule.offset
    return drawn.astype(np.float32)


def _as_seen(card: ModelCard, raw: np.ndarray) -> np.ndarray:
    volume = raw[0] if card.dimensions == 3 else raw[0][:, np.newaxis]
    fits = fit_intensity(volume, card.preprocessing.intensity, card.name)
    return apply_intensity(volume, fits).reshape(raw.shape)


def _description(card: ModelCard, steps: list[Entry], folder: Path) -> Entry:
    return {
        "type": "model",
        "format_version": "0.5.4",
        "name": f"{card.name} of napari-kdseg",  # five letters at least
        "description": (
            card.description or f"Segments {', '.join(card.classes.names)}"
        )[:1000],
        "authors": [{"name": "see documentation"}],
        "cite": [{"text": "napari-kdseg", "url": "https://napari.org"}],
        "license": card.licence,
        "documentation": _file(folder, "README.md"),
        "tags": ["segmentation", "3d" if card.dimensions == 3 else "2d"],
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": [
            {
                "id": "image",
                "description": "",
                "axes": _axes(card, list(card.channels), image=True),
                "test_tensor": _file(folder, "test_input.npy"),
                "data": {"type": "float32"},
                "preprocessing": steps,
            }
        ],
        "outputs": [
            {
                "id": "logits",
                "description": "the class with the largest is the label",
                "axes": _axes(card, ["background", *card.classes.names], image=False),
                "test_tensor": _file(folder, "test_output.npy"),
                "data": {"type": "float32"},
            }
        ],
        "weights": {
            "torchscript": {
                **_file(folder, "weights.pt"),
                "pytorch_version": importlib.metadata.version("torch").partition("+")[
                    0
                ],
            }
        },
        "config": {"bioimageio": {}, "napari_kdseg": {"tiling": card.tiling.overlap}},
    }


def _axes(card: ModelCard, channels: list[str], *, image: bool) -> list[Entry]:
    axes: list[Entry] = [
        {"type": "batch"},
        {"type": "channel", "channel_names": [_identifier(name) for name in channels]},
    ]
    names = "zyx"[3 - card.dimensions :]
    steps = parameters_of(card.network).divisors
    for name, size, step in zip(names, card.tiling.tile_vox, steps, strict=True):
        free = {"min": size, "step": step}
        shape = free if image else {"tensor_id": "image", "axis_id": name}
        axes.append({"type": "space", "id": name, "size": shape})
    return axes


def _identifier(name: str) -> str:
    kept = "".join(c if c.isalnum() and c.isascii() else "_" for c in name).lower()
    return kept if kept[:1].isalpha() else f"c_{kept}"


def _file(folder: Path, name: str) -> Entry:
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return {"source": name, "sha256": digest}
