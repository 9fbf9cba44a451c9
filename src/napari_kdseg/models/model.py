"""A model: a card and weights in one folder. The one door through which weights come.

::

    NAME/
    ├── model.yaml           the card (`ModelCard`), read without torch
    ├── weights.safetensors  tensors and nothing else; no pickle is ever loaded
    ├── README.md            the card in words
    └── measurements.json    what presets cost, as measured; may change

A composite has two model folders, ``coarse`` and ``fine``, in place of weights.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from napari_kdseg.atomic import publish_folder, temporary_beside
from napari_kdseg.errors import MissingModelError, ModelError
from napari_kdseg.models.card import (
    VERSION,
    CoarseToFine,
    ModelCard,
    Postprocessing,
    Provenance,
    Tiling,
    in_brief,
    in_words,
)
from napari_kdseg.models.composite import check_composite, composite_card
from napari_kdseg.models.parameters import NetworkSpec
from napari_kdseg.models.weights import check_weights

__all__ = [
    "CoarseToFine",
    "Model",
    "ModelCard",
    "NetworkSpec",
    "Postprocessing",
    "Provenance",
    "Tiling",
    "save_composite",
    "save_model",
]

CARD = "model.yaml"
WEIGHTS = "weights.safetensors"
README = "README.md"
MEASUREMENTS = "measurements.json"
PARTS = ("coarse", "fine")
_LARGEST_CARD_BYTES = 4_000_000
_CARDS_KEPT = 64


@dataclass(frozen=True, eq=False)
class Model:
    """A model folder whose card is read and whose weights wait on the disk."""

    card: ModelCard
    folder: Path
    parts: tuple["Model", "Model"] | None = field(default=None, kw_only=True)
    """Of a composite: the coarse and the fine model."""

    @classmethod
    def open(cls, folder: Path) -> "Model":
        """Read the card and look at the weights' header; torch is not needed.

        Parameters
        ----------
        folder
            The model folder, or the ``model.yaml`` in it.

        Raises
        ------
        MissingModelError
            When there is no such folder.
        ModelError
            When a file is missing, the card is of a newer version or has unknown
            keys, or the weights are a pickle, cut short, or no safetensors at all.
        """
        if folder.name == CARD and folder.is_file():
            folder = folder.parent
        rule = f"a model is a folder with {CARD} and {WEIGHTS}."
        if not folder.exists():
            raise MissingModelError(f"{folder} does not exist; {rule}")
        if not folder.is_dir():
            raise ModelError(f"{folder} is a file; {rule}")
        card = _read_card(folder / CARD)
        if card.role == "composite":
            coarse, fine = (cls._open_part(folder / name) for name in PARTS)
            check_composite(card, fine.card, str(folder / CARD))
            return cls(card, folder, parts=(coarse, fine))
        check_weights(folder / WEIGHTS)
        return cls(card, folder)

    @classmethod
    def _open_part(cls, folder: Path) -> "Model":
        if _read_card(folder / CARD).role == "composite":
            raise ModelError(
                f"{folder} is a composite inside a composite; a composite has one "
                "coarse and one fine model. Make it anew from these."
            )
        return cls.open(folder)

    @classmethod
    def paired(
        cls,
        coarse: "Model",
        fine: "Model",
        settings: CoarseToFine | None = None,
        name: str = "",
    ) -> "Model":
        """Put a coarse and a fine model together, in memory.

        Parameters
        ----------
        coarse, fine
            Of the same channels; neither is a composite.
        settings
            Of the way from one to the other; None takes the defaults.
        name
            Of the composite; none given: that of the fine model and its way.

        Raises
        ------
        ModelError
            When they take different channels, or one is a composite itself.
        """
        card = composite_card(coarse.card, fine.card, settings or CoarseToFine(), name)
        return cls(card, fine.folder, parts=(coarse, fine))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the weights and of what changes labels in the card."""
        if self.parts is None:
            return _fingerprint(self.folder / WEIGHTS, self.card)
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(part.fingerprint.encode())
        digest.update(_canonical(self.card))
        return digest.hexdigest()

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
            When the weights are not those of the network on the card, or the model is
            a composite, which has two networks.
        """
        if self.parts is not None:
            raise ModelError(
                f"{self.card.name} is a composite of two networks; predict with "
                "it from the coarse to the fine, or open one of its parts."
            )
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

    with _new_folder(folder) as temporary:
        save_weights(card, network, temporary / WEIGHTS, precision)
        _write_words(temporary, card, _fingerprint(temporary / WEIGHTS, card))
    return Model.open(folder)


def save_composite(
    folder: Path,
    coarse: Model,
    fine: Model,
    settings: CoarseToFine | None = None,
    name: str = "",
) -> Model:
    """Write one folder with copies of a coarse and a fine model, to be opened as one.

    Parameters
    ----------
    folder
        Must not exist yet.
    coarse, fine, settings, name
        As `Model.paired` takes them.

    Raises
    ------
    ModelError
        When the folder exists, or the two do not go together.
    """
    pair = Model.paired(coarse, fine, settings, name)
    with _new_folder(folder) as temporary:
        for part, of_it in zip(PARTS, (coarse, fine), strict=True):
            (temporary / part).mkdir()
            for file in (CARD, WEIGHTS, README, MEASUREMENTS):
                if (of_it.folder / file).is_file():
                    shutil.copyfile(of_it.folder / file, temporary / part / file)
        _write_words(temporary, pair.card, pair.fingerprint)
    return Model.open(folder)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when all went well."""
    if folder.exists() or folder.is_symlink():
        raise ModelError(
            f"{folder} exists already, and a published model never changes. Choose "
            "another name, or move the old one away."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    temporary.mkdir()
    try:
        yield temporary
        publish_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_words(folder: Path, card: ModelCard, fingerprint: str) -> None:
    _write_text(folder / CARD, _as_yaml(card))
    _write_text(folder / README, in_words(card, fingerprint))
    _write_text(folder / MEASUREMENTS, "{}\n")


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
    found = path.stat()
    if found.st_size > _LARGEST_CARD_BYTES:
        raise ModelError(
            f"{path} has {found.st_size} bytes; a card has at most "
            f"{_LARGEST_CARD_BYTES}. Get the model again from its source."
        )
    return _parsed_card(path, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=_CARDS_KEPT)
def _parsed_card(path: Path, *_stamp: int) -> ModelCard:
    """Read a card, which takes a thirtieth of a second, once while it is the same."""
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
        raise ModelError(f"{path}: {in_brief(error)}.") from error


def _as_yaml(card: ModelCard) -> str:
    values = card.model_dump(mode="json")
    return yaml.dump(
        values, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=88
    )


def _fingerprint(weights: Path, card: ModelCard) -> str:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(_canonical(card))
    return digest.hexdigest()


def _canonical(card: ModelCard) -> bytes:
    values = card.what_changes_labels()
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode("utf-8")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
