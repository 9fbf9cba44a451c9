"""Training patches, drawn from a counter.

Sample ``index`` of a stage is the same whenever it is asked for: case, place and
augmentation come from a generator keyed by ``(seed, stage, index)``, so a resumed run
needs no state of its loader. Cases lie prepared on disk; see `kdseg_train.prepared`.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from kdseg_train.augment import Sample, augmented
from kdseg_train.config import Recipe, Training
from kdseg_train.prepared import StoredCase
from kdseg_train.ranks import here

LARGEST_BYTE = 255


@dataclass(frozen=True)
class Batch:
    """Patches ready for a network.

    Attributes
    ----------
    image
        Normalised voxels.
    labels
        Class indices; 0 for background and for what is not annotated.
    annotated
        Which of the K organs the labels of each patch speak about.
    step
        The step it belongs to, from 0; ramps read it.
    soft
        What T frozen teachers said about C classes, where their outputs are cached:
        above 0, summing to 1.
    """

    image: Float[Tensor, "B F *S"]
    labels: Int[Tensor, "B ..."]
    annotated: Bool[Tensor, "B K"]
    step: int = 0
    soft: Float[Tensor, "B T C *S"] | None = None

    def to(self, device: torch.device) -> "Batch":
        """Copy on another device."""
        return replace(
            self,
            image=self.image.to(device),
            labels=self.labels.to(device),
            annotated=self.annotated.to(device),
            soft=None if self.soft is None else self.soft.to(device),
        )


class Patches:
    """Batches of training patches, one a step.

    A fixed share of the samples is centred on foreground: of samples 0, 1, 2 ... those
    where ``floor(i * share)`` steps up, so the share is exact in the long run.

    Parameters
    ----------
    cases
        Prepared cases; each is drawn with the same probability.
    recipe
        Patch size, augmentation and seed. Volumes smaller than a patch are padded.
    settings
        Batch size and share of foreground.
    stage
        Its name is part of the key that samples are drawn from.
    organs
        Which organs, counted from 0, are foreground; None: all of them.
    soft
        For each case the cached answers of T teachers, bytes of C Z Y X each; see
        `soft_labels`.
    """

    def __init__(
        self,
        cases: Sequence[StoredCase],
        recipe: Recipe,
        settings: Training,
        stage: str,
        organs: Sequence[int] | None = None,
        *,
        soft: Sequence[Sequence[np.ndarray]] | None = None,
    ) -> None:
        self.cases = list(cases)
        self.patch_vox = recipe.patch_vox
        self.batch_size = settings.batch
        self.share = here().share(settings.batch)
        self.foreground = settings.foreground
        self.augmentation = recipe.augmentation
        self.pad_value = recipe.preprocessing.pad_value
        seed = recipe.seed
        self.key = np.array([seed, zlib.crc32(stage.encode())], dtype=np.uint64)
        self._open = [
            (case.image, case.labels, _of_organs(case.places, organs))
            for case in self.cases
        ]
        self._soft = soft

    def batch(self, step: int) -> Batch:
        """Batch of a step, or this process's share; the same whenever asked for."""
        first = step * self.batch_size
        samples, annotated = zip(
            *(self._sample(first + i) for i in self.share), strict=True
        )
        soft = [sample.soft for sample in samples if sample.soft is not None]
        return Batch(
            torch.stack([sample.image for sample in samples]),
            torch.stack([sample.labels for sample in samples]),
            torch.tensor(annotated, dtype=torch.bool),
            step,
            torch.stack(soft) if soft else None,
        )

    def _sample(self, index: int) -> tuple[Sample, tuple[bool, ...]]:
        counter = np.array([0, 0, 0, index], dtype=np.uint64)
        rng = np.random.Generator(np.random.Philox(key=self.key, counter=counter))
        number, image, labels, places = self._drawn(rng, index)
        box = self._box(rng, image.shape[1:], self._place(rng, index, places))
        border = self._border
        box = [
            (low - beside, high + beside)
            for (low, high), beside in zip(box, border, strict=True)
        ]
        patch = torch.from_numpy(self._cut(image, box, self.pad_value))
        target = torch.zeros(patch.shape[1:], dtype=torch.int64)
        if labels is not None:
            target = torch.from_numpy(self._cut(labels, box, 0)).long()
        told = None
        if self._soft is not None:
            cuts = [self._cut(answer, box, 0) for answer in self._soft[number]]
            told = stored_probabilities(np.stack(cuts))
        if len(self.patch_vox) == 2:
            patch, target = patch[:, 0], target[0]
            told = None if told is None else told[:, :, 0]
        sample = augmented(
            Sample(patch.float(), target, told),
            self.augmentation,
            rng,
            pad_value=self.pad_value,
        )
        sample = sample.without(border[-len(self.patch_vox) :])
        if sample.soft is not None:
            sample = replace(sample, soft=floored(sample.soft))
        return sample, self.cases[number].annotated

    def _drawn(
        self, rng: np.random.Generator, index: int
    ) -> tuple[int, np.ndarray, np.ndarray | None, np.ndarray]:
        """Number of the case that a sample is of, its image, labels and places."""
        del index  # for samplers that choose by it
        number = int(rng.integers(len(self.cases)))
        return number, *self._open[number]

    def _place(
        self, rng: np.random.Generator, index: int, places: np.ndarray
    ) -> np.ndarray | None:
        if not self._is_centred(index) or len(places) == 0:
            return None
        organ = rng.choice(np.unique(places[:, 0]))
        candidates = places[places[:, 0] == organ]
        return np.asarray(candidates[rng.integers(len(candidates))][1:])

    def _is_centred(self, index: int) -> bool:
        return int((index + 1) * self.foreground) > int(index * self.foreground)

    def _box(
        self,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        place: np.ndarray | None,
    ) -> list[tuple[int, int]]:
        box = []
        every = zip(self._sizes, self._rooms, shape, strict=True)
        for axis, (size, room, length) in enumerate(every):
            padded = max(length, room)
            low = -((padded - length) // 2)
            high = low + padded - size
            if low == high:
                start = low
            else:
                if place is not None:
                    low = max(low, int(place[axis]) - size + 1)
                    high = min(high, int(place[axis]))
                start = int(rng.integers(low, high + 1))
            box.append((start, start + size))
        return box

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Of the patch along z, y, x."""
        return (1, *self.patch_vox) if len(self.patch_vox) == 2 else self.patch_vox

    @property
    def _rooms(self) -> tuple[int, ...]:
        """Least sizes of a volume in which the patch may lie anywhere."""
        room = self.augmentation.room
        return tuple(1 if size == 1 else round(size * room) for size in self._sizes)

    @property
    def _border(self) -> tuple[int, ...]:
        """Voxels beside the patch on each side, of which some may turn in."""
        if not self.augmentation.each_axis:
            return (0, 0, 0)
        pairs = zip(self._sizes, self._rooms, strict=True)
        return tuple((room - size) // 2 for size, room in pairs)

    def _cut(
        self, array: np.ndarray, box: list[tuple[int, int]], fill: float
    ) -> np.ndarray:
        shape = array.shape[-3:]
        inside = tuple(
            slice(max(low, 0), min(high, length))
            for (low, high), length in zip(box, shape, strict=True)
        )
        cut = np.asarray(array[..., inside[0], inside[1], inside[2]])
        missing = [
            (max(-low, 0), max(high - length, 0))
            for (low, high), length in zip(box, shape, strict=True)
        ]
        if not any(before or after for before, after in missing):
            return np.array(cut)
        extra = [(0, 0)] * (array.ndim - 3)
        return np.pad(cut, [*extra, *missing], constant_values=fill)


def stored_probabilities(stored: UInt8[np.ndarray, "T C ..."]) -> Tensor:
    """Probabilities from bytes; where all classes are 0, outside, is background."""
    told = torch.from_numpy(stored).float()
    told[:, 0].masked_fill_(told.sum(dim=1) == 0, LARGEST_BYTE)
    return told / LARGEST_BYTE


def floored(prob: Float[Tensor, "T C ..."]) -> Float[Tensor, "T C ..."]:
    """Probabilities of at least about 1/255: a zero could make a KL infinite."""
    prob = prob.clamp(min=1 / LARGEST_BYTE)
    return prob / prob.sum(dim=1, keepdim=True)


def _of_organs(places: np.ndarray, organs: Sequence[int] | None) -> np.ndarray:
    if organs is None:
        return places
    return places[np.isin(places[:, 0], [organ + 1 for organ in organs])]
