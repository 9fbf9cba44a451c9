"""From summed logits to labels, uncertainty and probabilities, piece by piece."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_kdseg.inference.plan import Channels
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.uncertainty import MEASURES, disagreement
from napari_kdseg.models.card import ModelCard

PIECE_BYTES = 16_000_000
"""How much is worked on at once: temporary copies stay this small."""

SURE_LOGIT = 30.0
"""Of the background where no window was computed: beside zeros as good as certain."""


@dataclass(frozen=True)
class Maps:
    """Results of some voxels, an array a model; the last three axes are z, y, x."""

    labels: tuple[NDArray[Any], ...]
    """Class values."""
    uncertainty: tuple[NDArray[np.float32], ...] = ()
    """0 (sure) to 1; empty where none was asked for."""
    probabilities: tuple[NDArray[np.float32], ...] = ()
    """Class first, background at 0; empty where none were asked for."""

    def change(self, how: Callable[[NDArray[Any]], NDArray[Any]]) -> "Maps":
        """The same with every array changed."""
        return Maps(
            tuple(how(array) for array in self.labels),
            tuple(how(array) for array in self.uncertainty),
            tuple(how(array) for array in self.probabilities),
        )

    def put(self, where: tuple[slice, slice, slice], part: "Maps") -> None:
        """Write the results of some of the voxels into these."""
        for mine, theirs in zip(self.arrays(), part.arrays(), strict=True):
            mine[(..., *where)] = theirs

    def planes(self, which: slice) -> "Maps":
        """The results of some planes, as views."""
        return self.change(lambda array: array[..., which, :, :])

    @property
    def depth(self) -> int:
        """How many planes there are."""
        return int(self.labels[0].shape[0])

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All arrays, in one row."""
        return (*self.labels, *self.uncertainty, *self.probabilities)


def joined(parts: Sequence[Maps]) -> Maps:
    """Planes that follow one another, in one; a single part as it is."""
    if len(parts) == 1:
        return parts[0]
    arrays = zip(*(part.arrays() for part in parts), strict=True)
    whole = iter([np.concatenate(same, axis=-3) for same in arrays])
    return parts[0].change(lambda _: next(whole))


class Reducer:
    """Turns the summed logits of one pass into maps.

    Parameters
    ----------
    cards
        The models of the pass.
    settings
        What is asked for.
    resized
        Whether probabilities are interpolated before labels are taken.
    of_logits
        Whether logits are interpolated in their place.
    """

    def __init__(
        self,
        cards: Sequence[ModelCard],
        settings: Settings,
        *,
        resized: bool,
        of_logits: bool = False,
    ) -> None:
        asked = settings.uncertainty is not None or settings.probabilities
        self.channels = Channels.plan(cards, settings, mean=asked or resized)
        self._settings = settings
        self._classes = [card.classes for card in cards]
        self._asked = asked
        self._of_logits = of_logits
        self._slots, self._known = _union(cards)

    def empty(self, shape: tuple[int, int, int]) -> Maps:
        """Maps of a shape to be filled."""
        counts = [classes.count for classes in self._classes]
        measured = self._settings.uncertainty is not None
        handed_on = self._settings.probabilities
        return Maps(
            tuple(np.empty(shape, classes.dtype) for classes in self._classes),
            tuple(np.empty(shape, np.float32) for _ in counts if measured),
            tuple(np.empty((n, *shape), np.float32) for n in counts if handed_on),
        )

    def background(self, shape: tuple[int, int, int]) -> Maps:
        """Maps of a shape without any organ, of which they are sure."""
        maps = self.empty(shape)
        for array in maps.arrays():
            array.fill(0)
        for prob in maps.probabilities:
            prob[0] = 1
        return maps

    def fields(self, sums: Tensor) -> Tensor:
        """What is interpolated, from weighted sums; channels as in the pass.

        Probabilities, or logits where the models want that, and variances.
        """
        means = self._means(sums)
        return means if self._of_logits else self._probable(means)

    def _means(self, sums: Tensor) -> Tensor:
        assert self.channels.weight is not None
        weight = sums[self.channels.weight]
        unseen = weight == 0  # in no window that was computed: background
        means = sums[: self.channels.weight] / weight.masked_fill(unseen, 1)
        for part in self.channels.logits:
            means[part.start].masked_fill_(unseen, SURE_LOGIT)
        return means

    def _probable(self, means: Tensor) -> Tensor:
        for part in self.channels.logits:
            means[part] = means[part].softmax(dim=0)
        return means

    def from_sums(self, sums: Tensor) -> Maps:
        """Reduce weighted sums (channel, z, y, x)."""
        fields = self._probable(self._means(sums)) if self._asked else None
        return self._maps(sums, fields)

    def from_fields(self, fields: Tensor) -> Maps:
        """Reduce interpolated `fields` (channel, z, y, x)."""
        if self._of_logits and self._asked:
            return self._maps(fields, self._probable(fields.clone()))
        return self._maps(fields, fields)

    def _maps(self, scores: Tensor, fields: Tensor | None) -> Maps:
        labels = []
        for classes, part in zip(self._classes, self.channels.logits, strict=True):
            values = np.array([0, *classes.values], classes.dtype)
            labels.append(values[best_class(scores[part]).cpu().numpy()])
        if fields is None:
            return Maps(tuple(labels))
        return Maps(
            tuple(labels),
            tuple(_array(measured) for measured in self._uncertainty(fields)),
            tuple(
                _array(fields[part])
                for part in self.channels.logits
                if self._settings.probabilities
            ),
        )

    def _uncertainty(self, fields: Tensor) -> list[Tensor]:
        name = self._settings.uncertainty
        if name is None:
            return []
        if name == "test-time-variance":
            return [fields[place] for place in self.channels.variances]
        probabilities = [fields[part] for part in self.channels.logits]
        if name == "disagreement":
            shared = disagreement(self._stacked(probabilities), self._known)
            return [shared] * len(probabilities)
        return [MEASURES[name](prob) for prob in probabilities]

    def _stacked(self, probabilities: list[Tensor]) -> Tensor:
        """Every model's probabilities with the classes of all of them."""
        count = self._known.shape[1]
        shape = (len(probabilities), count, *probabilities[0].shape[1:])
        stack = torch.zeros(shape, device=probabilities[0].device)
        for row, slots, prob in zip(stack, self._slots, probabilities, strict=True):
            row[slots] = prob
        return stack


def best_class(scores: Tensor) -> Tensor:
    """The class with the highest score at each voxel, the first of equal ones.

    Parameters
    ----------
    scores
        Class first.

    Returns
    -------
    Tensor
        uint8, or int32 for more than 256 classes. One class after the other is
        compared: three times faster than ``argmax`` across a tensor's first axis on a
        processor, and without its eight bytes a voxel.
    """
    kind = torch.uint8 if len(scores) <= 256 else torch.int32
    best = scores[0].clone()
    index = torch.zeros(best.shape, dtype=kind, device=best.device)
    for number, score in enumerate(scores[1:], start=1):
        index.masked_fill_(score > best, number)
        torch.maximum(best, score, out=best)
    return index


def pieces(shape: Sequence[int]) -> Iterator[slice]:
    """Cut the planes of (channel, z, y, x) into runs of about `PIECE_BYTES`."""
    channels, depth, height, width = shape
    step = max(PIECE_BYTES // (4 * channels * height * width), 1)
    for first in range(0, depth, step):
        yield slice(first, min(first + step, depth))


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.cpu().numpy(), np.float32)


def _union(cards: Sequence[ModelCard]) -> tuple[list[list[int]], Tensor]:
    """Where each model's classes stand among those of all, and which it speaks about.

    Classes are the same where their names are. A model that lacks some of the classes
    cannot tell the true background: to it they are background.
    """
    names = list(dict.fromkeys(n for card in cards for n in card.classes.names))
    slots = [[0, *(1 + names.index(n) for n in card.classes.names)] for card in cards]
    known = torch.zeros((len(cards), len(names) + 1), dtype=torch.bool)
    for row, own in zip(known, slots, strict=True):
        row[own] = True
        row[0] = len(own) == len(names) + 1
    return slots, known
