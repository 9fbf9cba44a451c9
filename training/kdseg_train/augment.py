"""Random changes of training patches; image and labels move together.

Every number is drawn from the generator that is passed in, so a sample can be drawn
again exactly.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from kdseg_train.config import Augmentation


def augmented(
    image: Float[Tensor, "C ..."],
    labels: Int[Tensor, "..."],
    settings: Augmentation,
    rng: np.random.Generator,
    *,
    pad_value: float,
) -> tuple[Float[Tensor, "C ..."], Int[Tensor, "..."]]:
    """Patch and labels, perhaps turned, zoomed, mirrored, noisier or brighter.

    Rotation and zoom are in the plane of the last two axes. What moves in from outside
    is filled with ``pad_value`` and background.
    """
    if rng.random() < settings.probability:
        turn = math.radians(rng.uniform(-1, 1) * settings.rotation_degrees)
        zoom = 1 + rng.uniform(-1, 1) * settings.scale
        image, labels = _turned(image, labels, turn, zoom, pad_value)
    for axis in settings.mirror:
        if rng.random() < 0.5:
            image, labels = image.flip(axis - 3), labels.flip(axis - 3)
    return _shaded(image, settings, rng), labels


def _turned(
    image: Tensor, labels: Tensor, turn: float, zoom: float, pad_value: float
) -> tuple[Tensor, Tensor]:
    height, width = image.shape[-2:]
    cosine, sine = math.cos(turn) / zoom, math.sin(turn) / zoom
    # grid_sample works in -1..1 along each axis; unequal sides need the ratio
    matrix = torch.tensor(
        [[[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]]],
        dtype=torch.float32,
    )
    planes = image.reshape(1, -1, height, width) - pad_value
    grid = functional.affine_grid(matrix, [1, 1, height, width], align_corners=False)
    moved = functional.grid_sample(planes, grid, "bilinear", align_corners=False)
    flat = labels.reshape(1, -1, height, width).float()
    nearest = functional.grid_sample(flat, grid, "nearest", align_corners=False)
    return (
        (moved + pad_value).reshape(image.shape),
        nearest.reshape(labels.shape).to(labels.dtype),
    )


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
