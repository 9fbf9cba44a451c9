"""A model as a MONAI bundle that MONAI runs without this package.

The network is TorchScript, so that no class of ours is needed; what comes before and
after it is written in MONAI's own transforms and inferer. Only what these do exactly as
we do is written; anything else is refused.

::

    OUT/
    ├── configs/metadata.json      channels, classes, versions; our card
    ├── configs/inference.json     for monai.bundle run, BundleWorkflow, ConfigWorkflow
    ├── models/model.ts            image B C X Y Z in, logits out
    ├── models/model.pt            the same weights, for training
    └── docs/README.md             the card in words
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdseg_train.interop.exporting import check_equal, new_path, random_images, traced
from napari_kdseg.errors import ModelError
from napari_kdseg.models.card import ModelCard, in_words, portable_card
from napari_kdseg.models.model import Model
from napari_kdseg.runs.environment import version
from napari_kdseg.volumes.intensity import Intensity

CARD_KEY = "napari_kdseg_card"
Transform = dict[str, Any]


def write(model: Model, out: Path) -> None:
    """Write a bundle, after its network was compared.

    Raises
    ------
    ModelError
        Where MONAI's transforms cannot do what the card says, or values differ.
    """
    import torch

    config = inference_config(model.card)
    network = _turned(model.network(), model.card.dimensions)
    images = [_turn_image(image) for image in random_images(model)]
    recorded = traced(network, images[0])
    check_equal(
        model.card.name,
        "TorchScript",
        network,
        lambda image: np.asarray(recorded(torch.from_numpy(image)).detach()),
        images,
    )
    with new_path(out) as folder:
        for part in ("configs", "models", "docs"):
            (folder / part).mkdir(parents=True)
        _write_json(folder / "configs" / "inference.json", config)
        _write_json(folder / "configs" / "metadata.json", _metadata(model.card))
        recorded.save(str(folder / "models" / "model.ts"))
        torch.save(model.network().state_dict(), folder / "models" / "model.pt")
        words = in_words(model.card, model.fingerprint)
        (folder / "docs" / "README.md").write_text(words, encoding="utf-8")


def inference_config(card: ModelCard) -> dict[str, Any]:
    """What MONAI does with scans.

    Raises
    ------
    ModelError
        Naming what has no equal there.
    """
    resized = card.preprocessing.resize_vox is not None
    return {
        "imports": ["$import pathlib", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "data": _data(),
        "network_def": {
            "_target_": "torch.jit.load",
            "f": "$@bundle_root + '/models/model.ts'",
            "map_location": "@device",
        },
        "network": "$@network_def.eval()",
        "preprocessing": _composed(_before(card)),
        "dataset": {
            "_target_": "Dataset",
            "data": "@data",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": _inferer(card),
        "postprocessing": _composed(_after(card, resized=resized)),
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "initialize": [],
        "run": ["$@evaluator.run()"],
        "finalize": [],
    }


def _data() -> str:
    """A file a case, or a folder with a file a channel, in the order of their names."""
    files = "[str(f) for f in sorted(p.iterdir())] if p.is_dir() else str(p)"
    return (
        f"$[{{'image': {files}}} for p in sorted(pathlib.Path(@dataset_dir).iterdir())]"
    )


# ---- before the network ----


def _before(card: ModelCard) -> list[Transform]:
    how, name = card.preprocessing, card.name
    if how.scheme != "tiles":
        _refuse(name, "cuts scans to what is not 0 as nnU-Net does")
    if how.spacing_mm is not None and any(how.spacing_mm):
        _refuse(name, "works at a voxel size, which MONAI's Spacing rounds otherwise")
    if len(set(how.intensity)) > 1:
        _refuse(name, "scales each channel by a rule of its own")
    transforms: list[Transform] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
    ]
    if how.orientation is not None:
        transforms.append(
            {"_target_": "Orientationd", "keys": "image", "axcodes": how.orientation}
        )
    transforms += _scaling(name, how.intensity[0])
    if how.resize_vox is not None:
        transforms.append(
            {
                "_target_": "Resized",
                "keys": "image",
                "spatial_size": list(how.resize_vox[::-1]),
                "mode": "trilinear",
                "align_corners": False,
            }
        )
    return transforms


def _scaling(name: str, rule: Intensity) -> list[Transform]:
    low, high = rule.low - rule.offset, rule.high - rule.offset
    zscore = {
        "_target_": "NormalizeIntensityd",
        "keys": "image",
        "nonzero": rule.nonzero,
        "channel_wise": True,
    }
    if rule.kind == "none":
        shift = {"_target_": "ShiftIntensityd", "keys": "image", "offset": rule.offset}
        return [shift] if rule.offset else []
    if rule.kind == "window":
        return [_range(low, high, -1.0, 1.0)]
    if rule.kind == "zscore":
        return [zscore]
    if rule.kind == "window_zscore":
        return [_range(low, high, low, high), {**zscore, "nonzero": False}]
    if rule.kind == "standard":
        ends = ((end - rule.mean) / rule.deviation for end in (rule.low, rule.high))
        return [_range(low, high, *ends)]
    _refuse(name, "scales by percentiles, which MONAI interpolates otherwise")
    return []


def _range(low: float, high: float, to_low: float, to_high: float) -> Transform:
    return {
        "_target_": "ScaleIntensityRanged",
        "keys": "image",
        "a_min": low,
        "a_max": high,
        "b_min": to_low,
        "b_max": to_high,
        "clip": True,
    }


# ---- the network, and after it ----


def _inferer(card: ModelCard) -> dict[str, Any]:
    tiling = card.tiling
    if tiling.placing != "monai" or tiling.mirror:
        _refuse(card.name, "places or mirrors its tiles as nnU-Net does")
    flat = [1] * (3 - card.dimensions)
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": [*tiling.tile_vox[::-1], *flat],
        "sw_batch_size": tiling.batch,
        "overlap": [tiling.overlap] * card.dimensions + [0.0] * len(flat),
        "mode": tiling.blending,
        "padding_mode": "constant",
        "cval": card.preprocessing.pad_value,
    }


def _after(card: ModelCard, *, resized: bool) -> list[Transform]:
    cleaning = card.postprocessing
    if cleaning.keep_largest or cleaning.fill_holes or cleaning.minimum_mm3:
        _refuse(card.name, "cleans its labels up by rules that MONAI lacks")
    invert = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": not resized,
        "to_tensor": True,
    }
    best = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    softmax = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
    steps = [softmax, invert, best] if resized else [best, invert]
    values = [0, *card.classes.values]
    if values != list(range(len(values))):
        steps.append(
            {
                "_target_": "MapLabelValued",
                "keys": "pred",
                "orig_labels": list(range(len(values))),
                "target_labels": values,
            }
        )
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "labels",
        "output_dtype": "$torch.uint8" if max(values) < 256 else "$torch.int32",
        "resample": False,
        "separate_folder": False,
    }
    return [*steps, save]


def _composed(transforms: list[Transform]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": transforms}


def _turned(network: Any, dimensions: int) -> Any:
    """The same network for MONAI's axes: x y z, and slices as volumes of one plane."""
    from torch import Tensor, nn

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, image: Tensor) -> Tensor:
            if dimensions == 3:
                logits: Tensor = self.inner(image.permute(0, 1, 4, 3, 2))
                return logits.permute(0, 1, 4, 3, 2)
            logits = self.inner(image[..., 0].transpose(2, 3))
            return logits.transpose(2, 3).unsqueeze(-1)

    return Turned().eval()


def _turn_image(image: np.ndarray) -> np.ndarray:
    lead, axes = (0, 1), range(image.ndim - 1, 1, -1)
    turned = image.transpose(*lead, *axes)
    turned = turned if image.ndim == 5 else turned[..., np.newaxis]
    return np.ascontiguousarray(turned)


def _refuse(name: str, what: str) -> None:
    raise ModelError(
        f"{name} {what}; the bundle would give other labels. Export it to onnx or "
        "bioimageio, which hold the network alone."
    )


# ---- words about it ----


def _metadata(card: ModelCard) -> dict[str, Any]:
    tile = [*card.tiling.tile_vox[::-1], *[1] * (3 - card.dimensions)]
    image = {
        "type": "image",
        "format": "magnitude",
        "num_channels": len(card.channels),
        "spatial_shape": tile,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(i): name for i, name in enumerate(card.channels)},
    }
    labels = {
        **image,
        "format": "segmentation",
        "num_channels": card.classes.count,
        "channel_def": {
            str(i): name for i, name in enumerate(("background", *card.classes.names))
        },
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/"
        "download/0.8.1/meta_schema_20240725.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": "exported by napari-kdseg"},
        "monai_version": version("monai"),
        "pytorch_version": str(version("torch")).partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"pytorch-ignite": "0.5", "nibabel": "5.2"},
        "name": card.name,
        "task": f"segmentation of {', '.join(card.classes.names)}",
        "description": card.description or f"{card.name}, of napari-kdseg",
        "authors": "see docs/README.md",
        "copyright": card.licence,
        "network_data_format": {
            "inputs": {"image": image},
            "outputs": {"pred": labels},
        },
        CARD_KEY: portable_card(card),
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
