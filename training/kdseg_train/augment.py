"""Random changes of training patches; image, labels and soft labels move together.

Every number is drawn from the generator that is passed in, so a sample can be drawn
again exactly.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from kdseg_train.config import Augmentation


@dataclass(frozen=True)
class Sample:
    """One patch: what moves together.

    Attributes
    ----------
    soft
        What T frozen teachers give, as probabilities of C classes.
    """

    image: Float[Tensor, "F ..."]
    labels: Int[Tensor, "..."]
    soft: Float[Tensor, "T C ..."] | None = None

    def without(self, border: Sequence[int]) -> "Sample":
        """The middle, so many voxels from each side away."""
        if not any(border):
            return self
        inner = (..., *(slice(width, -width or None) for width in border))
        soft = None if self.soft is None else self.soft[inner]
        return Sample(self.image[inner], self.labels[inner], soft)


def augmented(
    sample: Sample,
    settings: Augmentation,
    rng: np.random.Generator,
    *,
    pad_value: float,
) -> Sample:
    """A sample, perhaps turned, zoomed, mirrored, its image noisier or brighter.

    Rotation and zoom are in the plane of the last two axes, or about and along each
    axis. What moves in from outside is filled with ``pad_value`` and background. Soft
    labels are interpolated linearly and still sum to 1: between two distributions lies
    a distribution.
    """
    if settings.each_axis:
        matrix = _drawn_matrix(settings, rng, sample.labels.ndim)
        if not np.array_equal(matrix, np.eye(len(matrix))):
            sample = moved_by(sample, matrix, pad_value)
    elif rng.random() < settings.probability:
        turn = math.radians(rng.uniform(-1, 1) * settings.rotation_degrees)
        zoom = 1 + rng.uniform(-1, 1) * settings.scale
        sample = _turned(sample, turn, zoom, pad_value)
    for axis in settings.mirror:
        if rng.random() < 0.5:
            sample = _mirrored(sample, axis - 3)
    return replace(sample, image=_shaded(sample.image, settings, rng))


def _drawn_matrix(
    settings: Augmentation, rng: np.random.Generator, dimensions: int
) -> np.ndarray:
    """From places in the patch to places in what is seen: turns after zooms."""
    matrix = np.eye(dimensions)
    for axis, (least, most) in enumerate(settings.zoom[-dimensions:]):
        if rng.random() < settings.probability:
            matrix[axis] /= rng.uniform(least, most)
    planes = [(1, 2), (0, 2), (0, 1)] if dimensions == 3 else [(0, 1)]
    for first, second in planes:
        if rng.random() < settings.probability:
            turn = math.radians(rng.uniform(-1, 1) * settings.rotation_degrees)
            rotation = np.eye(dimensions)
            rotation[first, first] = rotation[second, second] = math.cos(turn)
            rotation[first, second] = -math.sin(turn)
            rotation[second, first] = math.sin(turn)
            matrix = rotation @ matrix
    return matrix


def moved_by(
    sample: Sample, matrix: Float[np.ndarray, "A A"], pad_value: float
) -> Sample:
    """A sample in which each place shows what lay somewhere else.

    Parameters
    ----------
    matrix
        From a place to where its value is taken from, in voxels from the middle, axes
        as those of the labels.
    pad_value
        Of the image, outside.
    """
    sides = np.array(sample.labels.shape)
    # grid_sample counts -1..1 along each axis, the last one first
    unit = matrix * sides[None, :] / sides[:, None]
    turned = torch.from_numpy(unit[::-1, ::-1].copy()).float()
    still = torch.zeros(len(sides), 1)
    whole = [1, 1, *sample.labels.shape]
    grid = functional.affine_grid(
        torch.cat([turned, still], dim=1)[None], whole, align_corners=False
    )

    def moved(values: Tensor, how: str) -> Tensor:
        maps = values.reshape(1, -1, *values.shape[values.ndim - len(sides) :])
        found = functional.grid_sample(maps, grid, how, align_corners=False)
        return found.reshape(values.shape)

    return _moved_sample(sample, moved, pad_value)


def _mirrored(sample: Sample, axis: int) -> Sample:
    soft = None if sample.soft is None else sample.soft.flip(axis)
    return Sample(sample.image.flip(axis), sample.labels.flip(axis), soft)


def _turned(sample: Sample, turn: float, zoom: float, pad_value: float) -> Sample:
    height, width = sample.image.shape[-2:]
    cosine, sine = math.cos(turn) / zoom, math.sin(turn) / zoom
    # grid_sample works in -1..1 along each axis; unequal sides need the ratio
    matrix = torch.tensor(
        [[[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]]],
        dtype=torch.float32,
    )
    grid = functional.affine_grid(matrix, [1, 1, height, width], align_corners=False)

    def moved(values: Tensor, how: str) -> Tensor:
        planes = values.reshape(1, -1, height, width)
        found = functional.grid_sample(planes, grid, how, align_corners=False)
        return found.reshape(values.shape)

    return _moved_sample(sample, moved, pad_value)


def _moved_sample(
    sample: Sample, moved: Callable[[Tensor, str], Tensor], pad_value: float
) -> Sample:
    """Move image, labels and soft labels; outside is background, whoever is asked."""
    soft = sample.soft
    if soft is not None:
        outside = torch.zeros_like(soft)
        outside[:, 0] = 1
        soft = moved(soft - outside, "bilinear") + outside
    labels = moved(sample.labels.float(), "nearest").to(sample.labels.dtype)
    image = moved(sample.image - pad_value, "bilinear") + pad_value
    return Sample(image, labels, soft)


def _shaded(image: Tensor, settings: Augmentation, rng: np.random.Generator) -> Tensor:
    often = settings.noise_probability
    if settings.noise and rng.random() < (
        settings.probability if often is None else often
    ):
        noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
        image = image + torch.from_numpy(noise) * rng.uniform(0, settings.noise)
    if rng.random() < settings.probability:
        mean = image.mean()
        image = (image - mean) * (1 + rng.uniform(-1, 1) * settings.contrast) + mean
    if rng.random() < settings.probability:
        image = image + rng.uniform(-1, 1) * settings.brightness
    if settings.gain and rng.random() < settings.probability:
        image = image * (1 + rng.uniform(-1, 1) * settings.gain)
    return image
