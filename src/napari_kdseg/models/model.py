"""A model: a card and weights in one folder. The one door through which weights come.

::

    NAME/
    ├── model.yaml           the card (`ModelCard`), read without torch
    ├── weights.safetensors  tensors and nothing else; no pickle is ever loaded
    ├── README.md            the card in words
    └── measurements.json    seconds and memory by device; may change
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from napari_kdseg.atomic import publish_folder, temporary_beside
from napari_kdseg.errors import ModelError
from napari_kdseg.models.card import (
    VERSION,
    ModelCard,
    Postprocessing,
    Provenance,
    Tiling,
    in_words,
)
from napari_kdseg.models.parameters import NetworkSpec
from napari_kdseg.models.weights import check_weights

__all__ = [
    "Model",
    "ModelCard",
    "NetworkSpec",
    "Postprocessing",
    "Provenance",
    "Tiling",
    "save_model",
]

CARD = "model.yaml"
WEIGHTS = "weights.safetensors"
_LARGEST_CARD_BYTES = 4_000_000


@dataclass(frozen=True, eq=False)
class Model:
    """A model folder whose card is read and whose weights wait on the disk."""

    card: ModelCard
    folder: Path

    @classmethod
    def open(cls, folder: Path) -> "Model":
        """Read the card and look at the weights' header; torch is not needed.

        Parameters
        ----------
        folder
            The model folder, or the ``model.yaml`` in it.

        Raises
        ------
        ModelError
            When a file is missing, the card is of a newer version or has unknown
            keys, or the weights are a pickle, cut short, or no safetensors at all.
        """
        if folder.name == CARD and folder.is_file():
            folder = folder.parent
        if not folder.is_dir():
            found = "is a file" if folder.exists() else "does not exist"
            raise ModelError(
                f"{folder} {found}; a model is a folder with {CARD} and {WEIGHTS}."
            )
        card = _read_card(folder / CARD)
        check_weights(folder / WEIGHTS)
        return cls(card, folder)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the weights and of what changes labels in the card."""
        return _fingerprint(self.folder / WEIGHTS, self.card)

    def network(self, device: str = "cpu") -> Any:  # torch.nn.Module; see the module
        """Build the network with its weights, ready to predict.

        Parameters
        ----------
        device
            As torch writes it: ``cpu``, ``cuda``, ``cuda:1``.

        Returns
        -------
        SegmentationNetwork
            In evaluation mode, float32. Typed Any, so that a card needs no torch.

        Raises
        ------
        ModelError
            When the weights are not those of the network on the card.
        """
        from napari_kdseg.models.loading import load_network

        return load_network(self.card, self.folder / WEIGHTS, device)


def save_model(
    folder: Path,
    card: ModelCard,
    network: Any,
    *,
    precision: Literal["float32", "float16"] = "float32",
) -> Model:
    """Write a model folder; it appears complete or not at all.

    Parameters
    ----------
    folder
        Must not exist yet: a published model never changes.
    card
        What the network is and does.
    network
        The torch module whose weights are kept.
    precision
        Of the stored weights. Half precision halves the file of a model that is
        shipped; it still computes in float32, from the rounded weights.

    Raises
    ------
    ModelError
        When the folder exists, or the weights are not those of the network on the
        card.
    """
    from napari_kdseg.models.loading import save_weights

    if folder.exists() or folder.is_symlink():
        raise ModelError(
            f"{folder} exists already, and a published model never changes. Choose "
            "another name, or move the old one away."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    temporary.mkdir()
    try:
        save_weights(card, network, temporary / WEIGHTS, precision)
        fingerprint = _fingerprint(temporary / WEIGHTS, card)
        _write_text(temporary / CARD, _as_yaml(card))
        _write_text(temporary / "README.md", in_words(card, fingerprint))
        _write_text(temporary / "measurements.json", "{}\n")
        publish_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Model.open(folder)


class _PlainLoader(yaml.SafeLoader):
    """YAML without tags that make objects, and without aliases.

    Aliases of aliases let a card of a few lines unfold into billions of values.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it uses an alias, *name, which a card may not")
        return super().compose_node(parent, index)


class _PlainDumper(yaml.SafeDumper):
    """YAML without aliases, whatever is shared in memory."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _read_card(path: Path) -> ModelCard:
    if not path.is_file():
        raise ModelError(
            f"{path.parent} has no {CARD}; a model is a folder with {CARD} and "
            f"{WEIGHTS}. Is it a folder above or below?"
        )
    size = path.stat().st_size
    if size > _LARGEST_CARD_BYTES:
        raise ModelError(
            f"{path} has {size} bytes; a card has at most {_LARGEST_CARD_BYTES}. Get "
            "the model again from its source."
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{path} is no plain YAML file ({reason}). Get the model again from its "
            "source."
        ) from error
    if not isinstance(values, dict):
        raise ModelError(
            f"{path} holds {type(values).__name__}; a card is a mapping of settings. "
            "Get the model again from its source."
        )
    return _checked_card(path, values)


def _checked_card(path: Path, values: dict[str, Any]) -> ModelCard:
    version = values.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelError(
            f"{path} has version {version!r}; a card begins with version: {VERSION}. "
            "Is it a model of another program?"
        )
    if version > VERSION:
        raise ModelError(
            f"{path} has version {version}; this napari-kdseg reads versions up to "
            f"{VERSION}. Update napari-kdseg."
        )
    try:
        return ModelCard.model_validate(values)
    except ValidationError as error:
        raise ModelError(f"{path}: {_in_brief(error)}.") from error


def _in_brief(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"the key {key!r} is unknown to this version; remove it if it is a slip"
    if first["type"] == "missing":
        return f"the key {key!r} is missing; every card has it"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    # A whole mapping is no help in a message; a single value is.
    found = first["input"]
    shown = f" (found {found!r})" if isinstance(found, str | int | float) else ""
    return f"{key}: {message}{shown}" if key else message


def _as_yaml(card: ModelCard) -> str:
    values = card.model_dump(mode="json")
    return yaml.dump(
        values, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=88
    )


def _fingerprint(weights: Path, card: ModelCard) -> str:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    canonical = json.dumps(
        card.what_changes_labels(), sort_keys=True, separators=(",", ":")
    )
    digest.update(canonical.encode("utf-8"))
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
