"""Scans predicted as nnU-Net v2 does it, against the same steps on whole arrays.

The reference is written from nnU-Net's description with scikit-image and scipy, and
keeps everything in memory; tests with the package itself are in
`training/benchmarks/nnunet_teacher.py`.
"""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.transform import resize

from napari_kdseg.inference.predict import Settings, predict_volume
from napari_kdseg.inference.tiling import even_starts
from napari_kdseg.models.model import Model, NetworkSpec, Tiling
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid, Volume

TILE = (8, 12, 12)
SETTINGS = Settings(device="cpu", uncertainty=None)


def scan(spacing_mm: tuple[float, float, float]) -> Volume:
    """Smooth noise in a box, 0 around it; spacing along z, y, x."""
    generator = np.random.default_rng(5)
    data = np.zeros((1, 17, 31, 29), np.float32)
    noise = ndimage.gaussian_filter(generator.normal(size=(13, 24, 25)), 1.5)
    data[0, 2:15, 3:27, 1:26] = 100 + 900 * noise
    affine = np.diag([*spacing_mm[::-1], 1.0])
    return Volume(data, Grid.from_affine(affine, data.shape[1:]), ("image",))


def model_for(make_model: Any, preprocessing: Preprocessing) -> Model:
    spec = {"dimensions": 3, "width": 4, "stages": 3}
    return make_model(
        TILE,
        network=NetworkSpec(name="unet", parameters=spec),
        preprocessing=preprocessing,
        tiling=Tiling(tile_vox=TILE, overlap=0.5, placing="nnunet"),
    )


def windows(network: Any, image: np.ndarray) -> np.ndarray:
    """Logits of an image that is no smaller than the tile."""
    peak = np.zeros(TILE)
    peak[tuple(side // 2 for side in TILE)] = 1
    weight = ndimage.gaussian_filter(peak, [side / 8 for side in TILE], mode="constant")
    weight = np.maximum(weight / weight.max(), 1e-8)
    sums, total = np.zeros((4, *image.shape)), np.zeros(image.shape)
    steps = [
        np.round(np.linspace(0, size - side, math.ceil((size - side) / (side / 2)) + 1))
        for size, side in zip(image.shape, TILE, strict=True)
    ]
    for corner in product(*steps):
        box = tuple(
            slice(int(first), int(first) + side)
            for first, side in zip(corner, TILE, strict=True)
        )
        tile = torch.from_numpy(image[box].astype(np.float32))[None, None]
        with torch.inference_mode():
            sums[(slice(None), *box)] += network(tile)[0].numpy() * weight
        total[box] += weight
    return sums / total


def usual(image: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    return resize(image, shape, order, mode="edge", anti_aliasing=False)


def by_slice(image: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """Slices resized one by one, then taken from the nearest along the first axis."""
    planes = np.stack([usual(plane, shape[1:], order) for plane in image])
    places = len(image) / shape[0] * (np.arange(shape[0]) + 0.5) - 0.5
    where = np.meshgrid(places, *map(np.arange, shape[1:]), indexing="ij")
    return ndimage.map_coordinates(planes, where, order=0, mode="nearest")


def reference(
    volume: Volume, model: Model, axes: tuple[int, int, int], resample: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and by how much the best class leads, on the scan's grid."""
    whole = np.asarray(volume.data[0]).transpose(axes)
    spacing = [volume.grid.spacing_mm[axis] for axis in axes]
    box = ndimage.find_objects((whole != 0).astype(int))[0]
    image = whole[box]
    image = (image - image.mean()) / image.std()
    target = model.card.preprocessing.spacing_mm
    shape = tuple(
        round(size * own / new)
        for size, own, new in zip(image.shape, spacing, target, strict=True)
    )
    seen = resample(image.astype(np.float64), shape, 3).astype(np.float32)
    logits = windows(model.network(), seen)
    back = np.stack([resample(one, image.shape, 1) for one in logits])
    first, second = np.sort(back, axis=0)[-1], np.sort(back, axis=0)[-2]
    labels, lead = np.zeros(whole.shape, np.uint8), np.full(whole.shape, np.inf)
    labels[box], lead[box] = back.argmax(0), first - second
    back_again = np.argsort(axes)
    return labels.transpose(back_again), lead.transpose(back_again)


@pytest.mark.parametrize(
    ("spacing_mm", "target_mm", "axes", "resample"),
    [
        ((1.0, 1.0, 1.0), (0.8, 1.1, 0.9), (0, 1, 2), usual),
        ((1.0, 0.9, 1.2), (0.9, 1.0, 0.8), (2, 0, 1), usual),
        ((4.0, 1.0, 1.0), (3.0, 0.9, 0.8), (0, 1, 2), by_slice),
    ],
    ids=["resampled", "axes-in-another-order", "thick-slices"],
)
def test_labels_are_those_of_the_steps_on_whole_arrays(
    make_model, spacing_mm, target_mm, axes, resample
):
    preprocessing = Preprocessing(
        orientation=None,
        spacing_mm=target_mm,
        intensity=(Intensity(kind="zscore"),),
        scheme="nnunet",
        axes=axes,
    )
    volume, model = scan(spacing_mm), model_for(make_model, preprocessing)
    found = predict_volume(volume, [model], SETTINGS).labels[0]
    wanted, lead = reference(volume, model, axes, resample)
    assert len(np.unique(wanted)) > 2
    sure = lead > 1e-4
    assert sure.mean() > 0.99
    assert np.array_equal(found[sure], wanted[sure])


def test_a_scan_smaller_than_the_tile_is_padded_by_zeros(make_model):
    preprocessing = Preprocessing(
        orientation=None,
        spacing_mm=(1, 1, 1),
        intensity=(Intensity(kind="none"),),
        scheme="nnunet",
    )
    model = model_for(make_model, preprocessing)
    data = np.random.default_rng(0).normal(size=(1, 7, 10, 12)).astype(np.float32)
    volume = Volume(data, Grid.from_affine(np.eye(4), data.shape[1:]), ("image",))
    found = predict_volume(volume, [model], SETTINGS).labels[0]
    padded = np.pad(data[0], ((0, 1), (1, 1), (0, 0)))  # the odd voxel at the end
    with torch.inference_mode():
        logits = model.network()(torch.from_numpy(padded)[None, None])[0]
    assert np.array_equal(found, logits.argmax(0)[:7, 1:11].numpy())


def test_windows_are_spread_evenly():
    # nnU-Net's own example: 110 voxels, tiles of 64, half a tile at most between them
    assert even_starts(110, 64, 0.5) == (0, 23, 46)
    assert even_starts(64, 64, 0.5) == (0,)
    assert even_starts(50, 64, 0.5) == (0,)
    assert even_starts(3, 1, 0.5) == (0, 1, 2)


def test_ct_is_scaled_by_the_numbers_of_the_training_set():
    from napari_kdseg.volumes.intensity import apply_intensity, fit_intensity

    rule = Intensity(kind="standard", low=-100, high=150, mean=50, deviation=25)
    stored = np.array([-1000, -100, 50, 75, 150, 2000], np.int16).reshape(1, 1, 1, 6)
    found = apply_intensity(stored, fit_intensity(stored, (rule,)))
    # (-100 - 50) / 25 = -6, (75 - 50) / 25 = 1, (150 - 50) / 25 = 4
    np.testing.assert_allclose(found.ravel(), [-6, -6, 0, 1, 4, 4], atol=1e-6)
