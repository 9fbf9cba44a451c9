"""Predictions of a run over many scans, as they come, for the scan that is open."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from napari_kdseg.errors import KdsegError
from napari_kdseg.models.model import Model
from napari_kdseg.state.layers import LayerData, Source
from napari_kdseg.state.results import published_layers

_Key = tuple[tuple[str, ...], tuple[str | None, ...]]
"""The files of a scan, and which volumes of them it is."""


class Arriving:
    """What a run has predicted so far, and what of it was shown.

    Parameters
    ----------
    predictions
        Settings of each, as the run's config lists them.
    """

    def __init__(self, predictions: Iterable[dict[str, Any]] = ()) -> None:
        self._listed = {_key_of(one): one for one in predictions}
        self._done: set[str] = set()
        self._shown: set[str] = set()
        self.shown = ""
        """The scan whose results were shown last; empty before the first."""

    def take(self, events: Sequence[dict[str, Any]]) -> None:
        """Note which scans are done."""
        done = (event["case"] for event in events if event["event"] == "prediction")
        self._done.update(done)

    def layers_for(self, source: Source | None) -> list[LayerData]:
        """The layers of an open scan's results: once, and none before they are done."""
        one = None if source is None else self._listed.get(_key_of_source(source))
        if one is None or one["case"] not in self._done - self._shown:
            return []
        case = one["case"]
        self._shown.add(case)
        try:
            layers = published_layers(Path(one["out"]) / case, case, _names(one))
        except KdsegError:
            return []  # somebody took them away meanwhile
        self.shown = case
        return layers


def _key_of(one: dict[str, Any]) -> _Key:
    part = one.get("part") or ()
    return tuple(one["inputs"]), tuple(part) if any(part) else ()


def _key_of_source(source: Source) -> _Key:
    files = source.files or ((source.path,) if source.path else ())
    parts = source.parts or (source.part,)
    inputs = tuple(str(file.absolute()) for file in files)
    return inputs, parts if any(parts) else ()


def _names(one: dict[str, Any]) -> list[str]:
    """What the models of a prediction are called, and so the folders of results."""
    names = []
    for folder in one["models"]:
        with contextlib.suppress(KdsegError):
            names.append(Model.open(Path(folder)).card.name)
    return names
