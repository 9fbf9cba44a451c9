"""Models that see other voxels than the source has."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_kdseg.inference.predict import Settings, predict_tiles, predict_volume
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing, prepare
from napari_kdseg.volumes.resampling import interpolate_linear

Make = Callable[..., Any]
CPU = Settings(device="cpu")


def _at(*spacing_mm: float) -> Preprocessing:
    return Preprocessing(
        spacing_mm=(spacing_mm[0], spacing_mm[1], spacing_mm[2]),
        intensity=(Intensity(kind="none"),),
    )


@pytest.mark.parametrize(
    "spacing_mm", [(2.0, 2.0, 2.0), (0.5, 1.5, 0.8), (3.0, 1.0, 1.0)]
)
@pytest.mark.parametrize("tile", [(8, 8, 8), (16, 16)])
def test_constant_maps_stay_constant(
    make_simple: Make,
    make_volume: Make,
    spacing_mm: tuple[float, float, float],
    tile: tuple[int, ...],
) -> None:
    grey = np.full((1, 14, 11, 13), 2, np.int16)
    model = make_simple(tile, preprocessing=_at(*spacing_mm))
    found = predict_volume(make_volume(data=grey), [model], CPU)
    assert found.uncertainty is not None
    assert (found.labels[0] == 2).all()
    assert np.ptp(found.uncertainty[0]) < 1e-6


@pytest.mark.parametrize("spacing_mm", [(2.0, 1.7, 1.3), (0.6, 0.7, 2.0)])
@pytest.mark.parametrize("tile", [(8, 8, 8), (8, 16)])
@pytest.mark.parametrize("directions", [(1, 1, 1), (-1, 1, -1)])
def test_probabilities_are_interpolated_before_labels_are_taken(
    make_model: Make,
    make_volume: Make,
    spacing_mm: tuple[float, float, float],
    tile: tuple[int, ...],
    directions: tuple[int, int, int],
) -> None:
    model = make_model(tile, preprocessing=_at(*spacing_mm))
    volume = make_volume((13, 10, 15), directions=directions)
    settings = Settings("cpu", probabilities=True)
    found = predict_volume(volume, [model], settings)
    # The same model on the resized volume, then interpolated all at once.
    prepared = prepare(volume, model.card.preprocessing)
    frame = prepared.frame
    plain = make_model(tile, name="plain")
    resized = make_volume(data=prepared.data)
    coarse = predict_volume(resized, [plain], settings).probabilities
    assert coarse is not None
    whole = tuple(slice(0, size) for size in frame.oriented.shape)
    fine = interpolate_linear(
        coarse[0],
        frame.model.shape,
        frame.oriented.shape,
        (whole[0], whole[1], whole[2]),
    )
    expected = frame.to_source(fine)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities[0], expected, atol=1e-5)
    second, best = np.sort(expected, axis=0)[-2:]
    clear = best - second > 1e-4
    np.testing.assert_array_equal(
        found.labels[0][clear], expected.argmax(axis=0)[clear]
    )
    assert len(np.unique(found.labels[0])) > 1


class Torn(nn.Module):
    """Grey 0 has the probabilities 0.5, 0.45 and 0.05, grey 1 the same from behind."""

    def forward(self, image: Tensor) -> Tensor:
        prob = torch.tensor([0.5, 0.45, 0.05]).reshape(1, 3, *[1] * (image.ndim - 2))
        return (prob * (1 - image) + prob.flip(1) * image).log()


def test_between_two_classes_a_third_may_be_the_likeliest(
    make_simple: Make, make_volume: Make
) -> None:
    # Four voxels from two: the inner ones are 3/4 of one and 1/4 of the other, so
    # 0.3875, 0.45 and 0.1625, and the like from behind. Of labels 0 and 2 alone, 0 0 2
    # 2 would come.
    grey = np.zeros((1, 4, 4, 4), np.float32)
    grey[..., 2:] = 1
    model = make_simple((4, 4, 4), ("a", "b"), Torn(), preprocessing=_at(1.0, 1.0, 2.0))
    labels = predict_volume(make_volume(data=grey), [model], CPU).labels[0]
    np.testing.assert_array_equal(labels, np.broadcast_to([0, 1, 1, 2], (4, 4, 4)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_preview_equals_the_same_slice_of_the_whole(
    make_model: Make, make_volume: Make, axis: int
) -> None:
    model = make_model(preprocessing=_at(1.6, 1.3, 0.9))
    volume = make_volume((29, 14, 17))
    whole = predict_volume(volume, [model], CPU)
    spans = [slice(0, size) for size in volume.grid.shape]
    spans[axis] = slice(13, 14)
    box = (spans[0], spans[1], spans[2])
    times = np.zeros(volume.grid.shape, int)
    for part in predict_tiles(volume, [model], CPU, box=box):
        times[part.index] += 1
        np.testing.assert_array_equal(part.labels[0], whole.labels[0][part.index])
    assert (times[box] == 1).all()
    assert times.sum() == times[box].size


def test_models_of_other_spacing_keep_in_step(
    make_model: Make, make_volume: Make
) -> None:
    volume = make_volume((20, 10, 12))
    models = [
        make_model((8, 8, 8), seed=1),
        make_model((8, 16), seed=2, preprocessing=_at(2.0, 1.5, 1.5)),
        make_model((8, 8, 8), seed=3, preprocessing=_at(0.7, 1.0, 1.0)),
    ]
    together = predict_volume(volume, models, CPU).labels
    for found, model in zip(together, models, strict=True):
        alone = predict_volume(volume, [model], CPU).labels[0]
        np.testing.assert_array_equal(found, alone)


def test_test_time_variance_is_interpolated_too(
    make_model: Make, make_volume: Make
) -> None:
    model = make_model(preprocessing=_at(2.0, 2.0, 2.0))
    settings = Settings("cpu", uncertainty="test-time-variance")
    found = predict_volume(make_volume(), [model], settings).uncertainty
    assert found is not None
    assert 0 <= found[0].min() < found[0].max() <= 1


def test_a_single_slice_can_be_resampled(make_simple: Make, make_volume: Make) -> None:
    grey = np.ones((1, 1, 10, 12), np.float32)
    model = make_simple((8, 8), preprocessing=_at(5.0, 2.0, 2.0))
    labels = predict_volume(make_volume(data=grey), [model], CPU).labels[0]
    assert labels.shape == (1, 10, 12)
    assert (labels == 1).all()


def test_the_edge_between_two_labels_lies_where_the_source_has_it(
    make_simple: Make, make_volume: Make
) -> None:
    # Grey 0 up to x = 12, then 1; voxels twice as wide have their edge at 6.
    grey = np.zeros((1, 4, 4, 24), np.float32)
    grey[..., 12:] = 1
    model = make_simple((4, 4, 8), preprocessing=_at(1.0, 1.0, 2.0))
    labels = predict_volume(make_volume(data=grey), [model], CPU).labels[0]
    np.testing.assert_array_equal(labels, grey[0].astype(np.uint8))
