"""Which models go through a volume together, and with which windows. Needs no torch."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from napari_kdseg.errors import UsageError
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.tiling import Lattice, spans
from napari_kdseg.models.card import ModelCard
from napari_kdseg.models.parameters import multiples, parameters_of
from napari_kdseg.volumes.preprocessing import Preprocessing
from napari_kdseg.volumes.volume import Box

Sizes = tuple[int, int, int]

LEAST_PLANES = 8
"""Thinner slabs wait for the next, so that slices are not handed on one by one."""


@dataclass(frozen=True)
class Pass:
    """One sweep of windows over a volume, for models that want to see it alike."""

    members: tuple[int, ...]
    """Which of the models, by their place in the list."""
    preprocessing: Preprocessing
    dimensions: Literal[2, 3]
    """2: windows lie in slices across z of the model's frame."""
    tile: Sizes
    """Window, z, y, x; one plane for slices."""
    overlap: float
    blending: Literal["gaussian", "constant"]
    placing: Literal["monai", "nnunet"]
    """Where windows lie, and how a gaussian falls off."""
    batch: int
    """Windows at once."""
    divisors: Sizes
    """What the sides of a window, z, y, x, must be multiples of."""
    air_up_to: float | None = None
    """A window without a voxel above this, as the network sees it, is background."""

    def lattice(self, shape: Sizes, box: Box) -> Lattice:
        """The windows that touch a box of a volume of this shape (model's frame)."""
        z, y, x = (
            spans(size, tile, self.overlap, wanted, even=self.placing == "nnunet")
            for size, tile, wanted in zip(shape, self.tile, box, strict=True)
        )
        return Lattice(z, y, x)

    def rolled(self, order: Sequence[int]) -> "Pass":
        """The same with the axes of its windows in another order."""
        z, y, x = (self.tile[place] for place in order)
        by_z, by_y, by_x = (self.divisors[place] for place in order)
        return dataclasses.replace(self, tile=(z, y, x), divisors=(by_z, by_y, by_x))

    def smaller(self) -> "Pass | None":
        """The same with a window of half the sides, or None where that is too small.

        Sides stay multiples of the divisor, and the deepest stage of a network keeps
        at least two voxels to take a norm over.
        """
        first = 3 - self.dimensions
        sides, divisors = self.tile[first:], self.divisors[first:]
        halved = _nearest([side / 2 for side in sides], divisors)
        z, y, x = [*self.tile[:first], *halved]
        if (z, y, x) == self.tile or math.prod(halved) < 2 * math.prod(divisors):
            return None
        return dataclasses.replace(self, tile=(z, y, x), batch=1)


@dataclass(frozen=True)
class Channels:
    """What the channels of a pass hold: logits by model, variances, the weight."""

    logits: tuple[slice, ...]
    """The channels of each model."""
    variances: tuple[int, ...]
    """One channel a model with test-time variance, else none."""
    weight: int | None
    """The sum of the windows' weights; None where sums are all that is needed."""
    count: int
    """All of them."""

    @classmethod
    def plan(
        cls, cards: Sequence[ModelCard], settings: Settings, *, mean: bool
    ) -> "Channels":
        """Lay the channels of some models out.

        Parameters
        ----------
        cards, settings
            The models of one pass, and what is asked for.
        mean
            Whether mean logits are needed and not just the best class: the largest
            weighted sum belongs to the largest mean, whatever the weight.
        """
        ends = [0]
        for card in cards:
            ends.append(ends[-1] + card.classes.count)
        logits = tuple(slice(a, b) for a, b in pairwise(ends))
        flipped = settings.uncertainty == "test-time-variance"
        variances = tuple(range(ends[-1], ends[-1] + len(cards))) if flipped else ()
        count = ends[-1] + len(variances)
        if not mean:
            return cls(logits, variances, None, count)
        return cls(logits, variances, count, count + 1)


def plan_passes(
    cards: Sequence[ModelCard], settings: Settings, at_once: int = 1
) -> tuple[Pass, ...]:
    """Put models that share preprocessing and windows into one pass, in given order.

    Parameters
    ----------
    cards, settings
        The models, and what is asked for.
    at_once
        Windows that go through a network at once, at least, where the settings do not
        say how many; see `backends.windows_at_once`.

    Raises
    ------
    UsageError
        Where the tile of the settings does not suit a model, or models that cannot be
        compared voxel by voxel are to be.
    """
    passes: list[Pass] = []
    for index, card in enumerate(cards):
        alone = _alone(index, card, settings, at_once)
        for place, other in enumerate(passes):
            if _alike(alone, other):
                passes[place] = dataclasses.replace(
                    other,
                    members=(*other.members, index),
                    batch=min(other.batch, alone.batch),
                    divisors=_shared(other.divisors, alone.divisors),
                )
                break
        else:
            passes.append(alone)
    if settings.uncertainty == "disagreement":
        _check_comparable(passes, len(cards))
    return tuple(passes)


def _alone(index: int, card: ModelCard, settings: Settings, at_once: int) -> Pass:
    tiling, divisors = card.tiling, parameters_of(card.network).divisors
    tile = settings.tile or tiling.tile_vox
    if len(tile) != card.dimensions:
        raise UsageError(
            f"The tile {_by(tile)} has {len(tile)} sides; {card.name} is a "
            f"{card.dimensions}D model and takes {card.dimensions}. Leave the tile out "
            "to take the model's own."
        )
    if any(side < 1 or side % by for side, by in zip(tile, divisors, strict=True)):
        raise UsageError(
            f"The tile is {_by(tile)}; {card.name} takes sides that are multiples of "
            f"{multiples(divisors)}. Take {_by(_nearest(tile, divisors))}."
        )
    flat = 3 - len(tile)
    z, y, x = (*(1,) * flat, *tile)
    by_z, by_y, by_x = (*(1,) * flat, *divisors)
    return Pass(
        members=(index,),
        preprocessing=card.preprocessing,
        dimensions=card.dimensions,
        tile=(z, y, x),
        overlap=tiling.overlap if settings.overlap is None else settings.overlap,
        blending=tiling.blending,
        placing=tiling.placing,
        batch=settings.batch or max(tiling.batch, at_once),
        divisors=(by_z, by_y, by_x),
        air_up_to=tiling.air_up_to,
    )


def _alike(one: Pass, other: Pass) -> bool:
    def windows(sweep: Pass) -> tuple[object, ...]:
        how = (sweep.overlap, sweep.blending, sweep.placing, sweep.air_up_to)
        return (sweep.dimensions, sweep.tile, *how)

    return one.preprocessing == other.preprocessing and windows(one) == windows(other)


def _check_comparable(passes: Sequence[Pass], models: int) -> None:
    if models < 2:
        raise UsageError(
            "Disagreement was asked for with one model; it compares at least two. Add "
            "a model, or choose another uncertainty."
        )
    if len(passes) > 1:
        raise UsageError(
            "Disagreement was asked for with models of different preprocessing, tile "
            "or overlap; it compares them voxel by voxel in one pass. Choose another "
            "uncertainty, or models that share these."
        )


def _nearest(tile: Sequence[float], divisors: Sequence[int]) -> list[int]:
    return [
        max(math.ceil(side / by), 1) * by
        for side, by in zip(tile, divisors, strict=True)
    ]


def _shared(one: Sizes, other: Sizes) -> Sizes:
    z, y, x = (math.lcm(a, b) for a, b in zip(one, other, strict=True))
    return (z, y, x)


def _by(sides: Sequence[int]) -> str:
    return " x ".join(str(side) for side in sides)
