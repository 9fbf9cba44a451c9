"""Random changes of training patches; image, labels and soft labels move together.

Every number is drawn from the generator that is passed in, so a sample can be drawn
again exactly.
"""

import math
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


def augmented(
    sample: Sample,
    settings: Augmentation,
    rng: np.random.Generator,
    *,
    pad_value: float,
) -> Sample:
    """A sample, perhaps turned, zoomed, mirrored, its image noisier or brighter.

    Rotation and zoom are in the plane of the last two axes. What moves in from outside
    is filled with ``pad_value`` and background. Soft labels are interpolated linearly
    and still sum to 1: between two distributions lies a distribution.
    """
    if rng.random() < settings.probability:
        turn = math.radians(rng.uniform(-1, 1) * settings.rotation_degrees)
        zoom = 1 + rng.uniform(-1, 1) * settings.scale
        sample = _turned(sample, turn, zoom, pad_value)
    for axis in settings.mirror:
        if rng.random() < 0.5:
            sample = _mirrored(sample, axis - 3)
    return replace(sample, image=_shaded(sample.image, settings, rng))


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

    soft = sample.soft
    if soft is not None:
        outside = torch.zeros_like(soft)
        outside[:, 0] = 1  # background, whoever is asked
        soft = moved(soft - outside, "bilinear") + outside
    labels = moved(sample.labels.float(), "nearest").to(sample.labels.dtype)
    image = moved(sample.image - pad_value, "bilinear") + pad_value
    return Sample(image, labels, soft)


def _shaded(image: Tensor, settings: Augmentation, rng: np.random.Generator) -> Tensor:
    if settings.noise and rng.random() < settings.probability:
        noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
        image = image + torch.from_numpy(noise) * rng.uniform(0, settings.noise)
    if rng.random() < settings.probability:
        mean = image.mean()
        image = (image - mean) * (1 + rng.uniform(-1, 1) * settings.contrast) + mean
    if rng.random() < settings.probability:
        image = image + rng.uniform(-1, 1) * settings.brightness
    return image
