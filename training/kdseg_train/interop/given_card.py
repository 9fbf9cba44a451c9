"""A card put together from what a file says and what a person gives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from napari_kdseg.errors import ModelError
from napari_kdseg.models.card import ModelCard, in_brief

_NEEDED = "channels, classes, preprocessing and tiling"


def card_with(
    source: Path,
    out: Path,
    given: Path | None,
    found: Mapping[str, Any] | None,
    network: tuple[str, Mapping[str, Any]],
) -> ModelCard:
    """Make the card of an imported model.

    Parameters
    ----------
    source
        What is imported.
    out
        Its name is that of the model.
    given
        A ``model.yaml`` without network, which comes before what the source says.
    found
        What the source says itself; None: nothing.
    network
        Name and settings of the network.

    Raises
    ------
    ModelError
        When neither says enough, or something in it is wrong.
    """
    if given is None and found is None:
        raise ModelError(
            f"{source} does not say what it segments and in what; write {_NEEDED} into "
            "a file as in any model.yaml, and give it with --card."
        )
    values = dict(found or {}) | ({} if given is None else _read(given))
    name, parameters = network
    values |= {
        "version": 1,
        "name": out.name,
        "network": {"name": name, "parameters": dict(parameters)},
    }
    values.setdefault("role", "teacher")
    try:
        return ModelCard.model_validate(values)
    except ValidationError as error:
        where = given or source
        raise ModelError(f"{where}: {in_brief(error)}.") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"{path} does not exist; --card names a file of YAML.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path} is no plain YAML ({reason}). Mend it.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is no mapping of settings; write {_NEEDED} into it.")
    return values
