"""Which models are ticked for which kind of scan.

Who goes through the scans of a project keeps the models that were ticked for them. A
scan of another kind has ticks of its own: what was ticked for a CT is not meant for a
fish, even where its channels would fit.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from napari_kdseg.models.model import Model
from napari_kdseg.state.layers import Source
from napari_kdseg.volumes.volume import default_channels

FINER_AT_MOST = 10.0
"""Scans of one kind have voxels of about one size; thick slices count for little, since
edges are averaged."""


@dataclass(frozen=True)
class Kind:
    """What scans have in common that are segmented by the same models."""

    count: int
    """Of channels."""
    channels: tuple[str, ...]
    """Their names; empty where nobody named them."""
    spacing_mm: float
    """Edge of a cube as large as a voxel."""

    @classmethod
    def of(cls, source: Source) -> "Kind":
        """The kind of a scan."""
        count = len(source.channels)
        nameless = source.path is None or source.channels == default_channels(count)
        names = () if nameless else tuple(one.casefold() for one in source.channels)
        return cls(count, names, math.prod(source.grid.spacing_mm) ** (1 / 3))

    def unlike(self, other: "Kind") -> str:
        """How another kind differs, in words; empty where it is the same."""
        if self.count != other.count:
            return f"{_channels(self.count)}, not {other.count}"
        if self.channels and other.channels and self.channels != other.channels:
            return f"{', '.join(self.channels)}, not {', '.join(other.channels)}"
        finest, coarsest = sorted((self.spacing_mm, other.spacing_mm))
        if coarsest > FINER_AT_MOST * finest:
            return f"voxels of {self.spacing_mm:.2g} mm, not {other.spacing_mm:.2g} mm"
        return ""


class Ticks:
    """The models that are ticked, each for the kind of scan it was ticked for."""

    def __init__(self) -> None:
        self._kind: Kind | None = None
        self._ticked: list[tuple[Model, Kind | None]] = []

    @property
    def models(self) -> list[Model]:
        """Those that are ticked for the kind of the scan that was looked at last."""
        found = (model for model, kind in self._ticked if not self._unlike(kind))
        return list(dict.fromkeys(found))

    @property
    def left_behind(self) -> str:
        """Which are ticked for other kinds alone and why, a sentence or nothing."""
        here = self.models
        others = [pair for pair in self._ticked if pair[0] not in here]
        if not others:
            return ""
        names = dict.fromkeys(model.card.name for model, _ in others)
        return (
            f"Ticked for another kind of scan: {', '.join(names)}. This one has "
            f"{self._unlike(others[-1][1])}."
        )

    def tick(self, model: Model) -> None:
        """Take a model for scans of this kind."""
        if model not in self.models:
            self._ticked.append((model, self._kind))

    def untick(self, model: Model) -> None:
        """Take it no more for scans of this kind."""
        self._ticked = [
            (one, kind)
            for one, kind in self._ticked
            if one is not model or self._unlike(kind)
        ]

    def look_at(self, source: Source, fitting: Iterable[Model]) -> None:
        """Go on to a scan; what was ticked before there was any is meant for its kind.

        Parameters
        ----------
        source
            The scan.
        fitting
            Models that can segment it.
        """
        self._kind, meant = Kind.of(source), list(fitting)
        self._ticked = [
            (model, self._kind if kind is None and model in meant else kind)
            for model, kind in self._ticked
        ]

    def _unlike(self, kind: Kind | None) -> str:
        """How the scan differs from a kind; nobody knows before there is one."""
        if kind is None or self._kind is None:
            return ""
        return self._kind.unlike(kind)


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"
