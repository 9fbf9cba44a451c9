"""A MONAI bundle becomes a model, where it consists of parts that we know.

Nothing of the bundle is executed: its configuration is read as values. References to
other entries (``@name``) are followed; of expressions (``$...``) only those that stand
for a value are understood. Weights are read from ``models/model.pt`` in a process of
its own.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kdseg_train.interop.given_card import card_with
from kdseg_train.interop.monai_export import CARD_KEY
from kdseg_train.interop.monai_transforms import preprocessing_of
from kdseg_train.interop.nnunet_plans import read_json
from kdseg_train.interop.untrusted import unpack
from napari_kdseg.errors import ModelError
from napari_kdseg.models.model import Model, ModelCard, save_model

METADATA = Path("configs/metadata.json")
WEIGHTS = Path("models/model.pt")
_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
_NETWORKS = ("UNet", "BasicUNet", "DynUNet", "SegResNet", "AttentionUnet", "VNet")
_CHANNELS = ("spatial_dims", "in_channels", "out_channels")
_SAFE = {"$True": True, "$False": False, "$None": None}
_REFERENCE = re.compile(r"[@$]@?([A-Za-z_]\w*)")
_DEEPEST = 32


def is_bundle(source: Path) -> bool:
    """Whether a folder looks like a bundle."""
    return (source / METADATA).is_file()


def import_bundle(source: Path, out: Path, card: Path | None) -> Model:
    """Read a bundle and write a model folder.

    Parameters
    ----------
    source
        The bundle.
    out
        The model folder.
    card
        A ``model.yaml`` without network, for what the bundle does not say.

    Raises
    ------
    ModelError
        When a file is missing, or the bundle needs code, a network or a transform
        that is not known here.
    """
    about = read_json(source / METADATA)
    own = about.get(CARD_KEY)
    if isinstance(own, dict):
        made = _own_card(source, out, own)
    else:
        config = _config(source)
        network, values = _network(source, config), _values(source, about, config)
        made = card_with(source, out, card, values, ("monai", network))
    return save_model(out, made, _with_weights(source, made))


def _own_card(source: Path, out: Path, own: dict[str, Any]) -> ModelCard:
    """The card in a bundle that we wrote."""
    network = own.get("network") or {}
    if not isinstance(network, dict) or "name" not in network:
        raise ModelError(
            f"{source / METADATA} has a card without network; export anew."
        )
    named = (str(network["name"]), network.get("parameters", {}))
    return card_with(source, out, None, own, named)


def _config(source: Path) -> dict[str, Any]:
    path = next((p for n in _CONFIGS if (p := source / "configs" / n).is_file()), None)
    if path is None:
        raise ModelError(
            f"{source / 'configs'} has none of {', '.join(_CONFIGS)}; a bundle says "
            "there how scans are prepared. Get the bundle again from its source."
        )
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}). Get it again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is no mapping of settings. Get the bundle again.")
    return found


class _Values:
    """Entries of a configuration as plain values."""

    def __init__(self, source: Path, config: Mapping[str, Any]) -> None:
        self._source, self._config = source, config

    def entry(self, name: str) -> Any:
        """One entry, references followed; None where it is not there."""
        return self.plain(self._config.get(name), name)

    def plain(self, value: Any, where: str, depth: int = 0) -> Any:
        """A value without references.

        Raises
        ------
        ModelError
            When it is an expression that must be executed to be known.
        """
        if depth > _DEEPEST:
            raise ModelError(f"{self._source}: {where} refers to itself. Mend it.")
        if isinstance(value, Mapping):
            return {
                k: self.plain(v, f"{where}.{k}", depth + 1) for k, v in value.items()
            }
        if isinstance(value, list):
            return [self.plain(inner, where, depth + 1) for inner in value]
        if not isinstance(value, str) or value[:1] not in ("$", "@"):
            return value
        if value in _SAFE:
            return _SAFE[value]
        found = _REFERENCE.fullmatch(value)
        if found is not None and found[1] in self._config:
            return self.plain(self._config[found[1]], where, depth + 1)
        raise ModelError(
            f"{self._source} has {where}: {value!r}, which is code; no code of a "
            "bundle is run here. Write the value in its place, or predict with "
            "MONAI and give the folder of predictions as the teacher."
        )


def _network(source: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    name = next((n for n in ("network_def", "network") if n in config), "network_def")
    found = _Values(source, config).entry(name)
    target = str(found.pop("_target_", None)) if isinstance(found, dict) else "nothing"
    kind = target.rpartition(".")[2]
    if kind not in _NETWORKS:
        raise ModelError(
            f"{source} has the network {target}; {', '.join(_NETWORKS)} of MONAI are "
            "known. Predict with MONAI, and give the folder of predictions as the "
            "teacher."
        )
    arguments = {k: v for k, v in found.items() if k not in _CHANNELS and k[:1] != "_"}
    step = _step(kind, arguments)
    dimensions = int(found.get("spatial_dims", 3))
    return {
        "dimensions": dimensions,
        "kind": kind,
        "arguments": arguments,
        "step": step,
    }


def _step(kind: str, arguments: Mapping[str, Any]) -> int:
    """What the sizes of a tile must be multiples of."""
    strides = arguments.get("strides")
    if kind in ("UNet", "DynUNet", "AttentionUnet") and strides:
        product = 1
        for stride in strides:
            product *= max(stride) if isinstance(stride, list) else int(stride)
        return product
    blocks = arguments.get("blocks_down", (1, 2, 2, 4))
    return int(2 ** (len(blocks) - 1)) if kind == "SegResNet" else 16


def _values(
    source: Path, about: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    values = _Values(source, config)
    try:
        formats = about["network_data_format"]
        image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
        channels = _ordered(image["channel_def"])
        background, *classes = _ordered(pred["channel_def"])
        inferer = values.entry("inferer")
        tiling = _tiling(source, inferer)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{source / METADATA} does not say channels, classes and tiles as bundles "
            f"({type(error).__name__}: {error}). Get the bundle again."
        ) from error
    del background
    name = "preprocessing" if "preprocessing" in config else "preprocess"
    after = values.entry("postprocessing")
    return {
        "channels": [c or f"channel {i}" for i, c in enumerate(channels)],
        "classes": {"classes": _classes(classes)},
        "preprocessing": preprocessing_of(source, values.entry(name), after),
        "tiling": tiling,
        "licence": str(about.get("license") or "not stated"),
        "description": f"MONAI bundle {about.get('name') or source.name}.",
    }


def _ordered(named: Mapping[str, Any]) -> list[str]:
    return [str(named[key]) for key in sorted(named, key=int)]


def _classes(names: list[str]) -> list[dict[str, Any]]:
    from napari_kdseg.volumes.labels import LabelSet

    found: list[dict[str, Any]] = LabelSet.from_names(names).model_dump(mode="json")[
        "classes"
    ]
    return found


def _tiling(source: Path, inferer: Any) -> dict[str, Any]:
    if str(inferer.get("_target_")).rpartition(".")[2] != "SlidingWindowInferer":
        raise ModelError(
            f"{source} cuts scans with {inferer.get('_target_')}; SlidingWindowInferer "
            "is known. Predict with MONAI, and give the folder of predictions as the "
            "teacher."
        )
    overlap = inferer.get("overlap", 0.25)
    return {
        "tile_vox": [int(size) for size in inferer["roi_size"]][::-1],
        "overlap": float(overlap[0] if isinstance(overlap, list) else overlap),
        "blending": str(inferer.get("mode", "constant")),
        "batch": int(inferer.get("sw_batch_size", 1)),
    }


def _with_weights(source: Path, card: ModelCard) -> Any:
    from napari_kdseg.models.networks import build

    with tempfile.TemporaryDirectory() as scratch:
        found = unpack(source / WEIGHTS, Path(scratch)).weights
    network = build(card.network, len(card.channels), card.classes.count)
    prefix = "inner." if card.network.name == "monai" else ""
    named = {prefix + key.removeprefix("module."): v for key, v in found.items()}
    wanted = network.state_dict()
    for key in sorted(wanted.keys() | named.keys()):
        if (
            key not in wanted
            or key not in named
            or wanted[key].shape != named[key].shape
        ):
            raise ModelError(
                f"{source / WEIGHTS} does not fit the network of the bundle at "
                f"{key.removeprefix(prefix)}; weights and configuration are of two "
                "networks. Get the bundle again."
            )
    network.load_state_dict(named)
    return network
