"""Bytes that passes over a scan take at once, of the computer and of a graphics card.

Needs no torch. `napari_kdseg.inference.estimate` has the formula.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from napari_kdseg.inference.plan import LEAST_PLANES, Channels, Pass
from napari_kdseg.inference.rolling import rolled, whole_lattice
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.tiling import Lattice
from napari_kdseg.models.card import ModelCard
from napari_kdseg.models.model import WEIGHTS, Model
from napari_kdseg.models.parameters import (
    SEResUNetParameters,
    UNetParameters,
    parameters_of,
)
from napari_kdseg.volumes.volume import Grid

_PIECES_BYTES = 48_000_000  # temporary copies of a piece, softmax and logarithm
_OTHER_WIDTH = 32  # a ResNet-18 encoder's layers, counted at full resolution


@dataclass(frozen=True)
class Need:
    """Bytes at once, beyond what the program takes anyhow."""

    host: int = 0
    """Of the computer's memory."""
    device: int = 0
    """Of a graphics card's memory; 0 where the processor computes."""

    def __add__(self, other: "Need") -> "Need":
        return Need(self.host + other.host, self.device + other.device)

    def at_worst(self, other: "Need") -> "Need":
        """Of two things that are not there at the same time, the larger."""
        return Need(max(self.host, other.host), max(self.device, other.device))


@dataclass(frozen=True)
class Sweeps:
    """Models that go over a volume in step, each with its pass."""

    models: tuple[Model, ...]
    passes: tuple[Pass, ...]
    settings: Settings
    grid: Grid
    """Of the volume."""
    axis: int
    """Of the stored array: slabs follow one another along it."""
    on_card: bool
    """Whether a graphics card computes."""

    @property
    def need(self) -> Need:
        """All passes at once, with as many windows at a time as was asked for."""
        return self._with(self.passes)

    @property
    def window(self) -> Need:
        """The same with one window at a time."""
        return self._with([replace(sweep, batch=1) for sweep in self.passes])

    @property
    def least(self) -> Need:
        """The same with the smallest windows that are tried where memory runs out."""
        return self._with([_smallest(sweep) for sweep in self.passes])

    @property
    def windows(self) -> tuple[int, ...]:
        """How many each pass has."""
        return tuple(self._lattice(sweep).count for sweep in self.passes)

    def _lattice(self, sweep: Pass) -> Lattice:
        frame, turned, _ = rolled(self.grid, sweep, self.axis)
        return whole_lattice(turned, frame)

    def _with(self, passes: Sequence[Pass]) -> Need:
        return sum((self._of_pass(sweep) for sweep in passes), Need())

    def _of_pass(self, sweep: Pass) -> Need:
        models = [self.models[member] for member in sweep.members]
        cards = [model.card for model in models]
        frame = rolled(self.grid, sweep, self.axis)[0]
        lattice = self._lattice(sweep)
        asked = self.settings.uncertainty is not None or self.settings.probabilities
        mean = asked or frame.is_resampled
        channels = 4 * Channels.plan(cards, self.settings, mean=mean).count
        sums = channels * (prod(lattice.carried_shape) + prod(lattice.strip_shape))
        deepest = _deepest_slab(lattice)
        depth = max(deepest, LEAST_PLANES)
        face = prod(frame.oriented.shape[1:])
        # One is made while the one before is written.
        slab = 2 * depth * face * result_bytes(cards, self.settings)
        if frame.is_resampled:
            sums += channels * deepest * prod(frame.model.shape[1:])
        if sweep.preprocessing.scheme == "nnunet":
            whole, seen = prod(frame.oriented.shape), prod(frame.model.shape)
            slab += 4 * len(cards[0].channels) * seen + 16 * max(whole, seen)
        if mean:
            sums += min(_PIECES_BYTES, 3 * channels * prod(lattice.strip_shape))
        weights = sum(_weights_bytes(model.folder) for model in models)
        voxels = sweep.batch * prod(sweep.tile)
        images = 4 * voxels * len(cards[0].channels)
        layers = voxels * (
            4 * sum(card.classes.count for card in cards)
            + self._value_bytes * max(_layer_values(card) for card in cards)
            + 4 * max(self._flipped_values(card) for card in cards)
        )
        computing = sums + images + layers + weights
        if self.on_card:  # windows are read and weights are loaded beside it
            return Need(slab + images + weights, computing)
        return Need(slab + computing)

    def _flipped_values(self, card: ModelCard) -> int:
        """Probabilities that wait to be compared, for each voxel of a window."""
        if self.settings.uncertainty != "test-time-variance":
            return 0
        return (1 + card.dimensions) * card.classes.count

    @property
    def _value_bytes(self) -> int:
        """Bytes of a value in a layer: cards compute in halves unless told not to."""
        return 2 if self.on_card and self.settings.precision != "float32" else 4


def result_bytes(cards: Sequence[ModelCard], settings: Settings) -> int:
    """Bytes that the results of one voxel take, over some models."""
    measured = 4 if settings.uncertainty is not None else 0
    return sum(
        card.classes.dtype.itemsize
        + measured
        + (4 * card.classes.count if settings.probabilities else 0)
        for card in cards
    )


def _smallest(sweep: Pass) -> Pass:
    halved = sweep.smaller()
    while halved is not None:
        sweep, halved = halved, halved.smaller()
    return replace(sweep, batch=1)


def _deepest_slab(lattice: Lattice) -> int:
    """Planes that the deepest level of windows finishes; the last finishes its tile."""
    lows = [span.low for span in lattice.z[1:]]
    ends = [*lows, lattice.z[-1].high]
    return max(e - span.low for e, span in zip(ends, lattice.z, strict=True))


def _layer_values(card: ModelCard) -> int:
    """Values alive at once in a network, for each voxel of its window."""
    parameters = parameters_of(card.network)
    width = _OTHER_WIDTH
    if isinstance(parameters, UNetParameters | SEResUNetParameters):
        width = parameters.widths[0]
    return 5 * width + 2 * card.classes.count


def _weights_bytes(folder: Path) -> int:
    weights = folder / WEIGHTS
    return weights.stat().st_size if weights.is_file() else 0
