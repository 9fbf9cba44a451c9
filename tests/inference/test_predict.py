"""Labels against MONAI's, orientation, previews, several models, stop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from monai.inferers import sliding_window_inference

from napari_kdseg.errors import ModelError, StopRequested, UsageError
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.predict import (
    FinishedTile,
    Settings,
    predict_tiles,
    predict_volume,
)
from napari_kdseg.inference.uncertainty import MEASURES
from napari_kdseg.models.model import Model, Postprocessing, Tiling
from napari_kdseg.volumes.labels import LabelClass, LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing, prepare
from napari_kdseg.volumes.volume import Grid, Volume

Make = Callable[..., Any]
CPU = Settings(device="cpu")
PLAIN = Settings(device="cpu", uncertainty=None)
AS_STORED = Preprocessing(orientation=None, intensity=(Intensity(kind="none"),))


def _monai(volume: Volume, model: Model) -> np.ndarray:
    """MONAI's mean logits in the volume's frame, class first."""
    card = model.card
    image = torch.from_numpy(prepare(volume, card.preprocessing).data)
    # A 2D network sees each slice as an image of its own.
    batch = image.unsqueeze(0) if card.dimensions == 3 else image.movedim(1, 0)
    with torch.inference_mode():
        logits = sliding_window_inference(
            batch,
            card.tiling.tile_vox,
            1,
            model.network(),
            overlap=card.tiling.overlap,
            mode=card.tiling.blending,
            cval=card.preprocessing.pad_value,
        )
    assert isinstance(logits, torch.Tensor)
    return (logits[0] if card.dimensions == 3 else logits.movedim(0, 1)).numpy()


def _assert_labels_follow(labels: np.ndarray, logits: np.ndarray) -> None:
    second, best = np.sort(logits, axis=0)[-2:]
    clear = best - second > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(labels[clear], logits.argmax(axis=0)[clear])
    assert len(np.unique(labels)) > 1


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
@pytest.mark.parametrize(
    ("tile", "shape"),
    [
        ((16, 16, 16), (21, 18, 27)),
        ((8, 16, 12), (33, 16, 5)),
        ((16, 16, 16), (9, 7, 11)),
        ((16, 16), (5, 21, 34)),
        ((16, 24), (3, 9, 40)),
    ],
)
def test_labels_equal_monais(
    make_model: Make,
    make_volume: Make,
    tile: tuple[int, ...],
    shape: tuple[int, int, int],
    overlap: float,
    blending: str,
) -> None:
    tiling = Tiling(tile_vox=tile, overlap=overlap, blending=blending, batch=1)
    preprocessing = Preprocessing(pad_value=-1.5)
    model = make_model(tile, tiling=tiling, preprocessing=preprocessing)
    volume = make_volume(shape)
    labels = predict_volume(volume, [model], PLAIN).labels[0]
    _assert_labels_follow(labels, _monai(volume, model))


def test_probabilities_are_the_softmax_of_monais_mean_logits(
    make_model: Make, make_volume: Make
) -> None:
    model, volume = make_model(), make_volume()
    prediction = predict_volume(volume, [model], Settings("cpu", probabilities=True))
    expected = torch.from_numpy(_monai(volume, model)).softmax(dim=0).numpy()
    assert prediction.probabilities is not None
    np.testing.assert_allclose(prediction.probabilities[0], expected, atol=1e-5)


@pytest.mark.parametrize("measure", ["entropy", "margin", "least-confidence"])
def test_uncertainty_is_that_of_the_mean_logits(
    make_model: Make, make_volume: Make, measure: str
) -> None:
    model, volume = make_model(), make_volume()
    prediction = predict_volume(volume, [model], Settings("cpu", uncertainty=measure))
    prob = torch.from_numpy(_monai(volume, model)).softmax(dim=0)
    assert prediction.uncertainty is not None
    found = prediction.uncertainty[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, MEASURES[measure](prob).numpy(), atol=1e-4)


@pytest.mark.parametrize("measure", [None, "margin", "test-time-variance"])
def test_the_measure_of_uncertainty_does_not_change_labels(
    make_model: Make, make_volume: Make, measure: str | None
) -> None:
    model, volume = make_model(), make_volume()
    expected = predict_volume(volume, [model], PLAIN).labels[0]
    found = predict_volume(volume, [model], Settings("cpu", uncertainty=measure))
    np.testing.assert_array_equal(found.labels[0], expected)


def test_a_network_that_flips_cannot_mislead_has_no_test_time_variance(
    make_simple: Make, make_volume: Make
) -> None:
    settings = Settings("cpu", uncertainty="test-time-variance")
    prediction = predict_volume(make_volume(), [make_simple()], settings)
    assert prediction.uncertainty is not None
    assert prediction.uncertainty[0].max() < 1e-6


def test_test_time_variance_of_a_2d_model_lies_between_zero_and_one(
    make_model: Make, make_volume: Make
) -> None:
    settings = Settings("cpu", uncertainty="test-time-variance")
    prediction = predict_volume(
        make_volume((4, 20, 20)), [make_model((16, 16))], settings
    )
    assert prediction.uncertainty is not None
    found = prediction.uncertainty[0]
    assert 0 <= found.min() < found.max() <= 1


@pytest.mark.parametrize("tile", [(16, 16, 16), (16, 16)])
@pytest.mark.parametrize("batch", [2, 3, 100])
def test_windows_at_once_do_not_change_labels(
    make_model: Make, make_volume: Make, tile: tuple[int, ...], batch: int
) -> None:
    model, volume = make_model(tile), make_volume((9, 20, 23))
    logits = _monai(volume, model)
    labels = predict_volume(volume, [model], Settings("cpu", batch=batch)).labels[0]
    _assert_labels_follow(labels, logits)


def test_labels_are_class_values_not_network_channels(
    make_simple: Make, make_volume: Make
) -> None:
    classes = LabelSet(
        classes=(
            LabelClass(value=7, name="a", color="#ff0000"),
            LabelClass(value=300, name="b", color="#00ff00"),
        )
    )
    grey = np.arange(3, dtype=np.float32).repeat(4).reshape(1, 1, 3, 4)
    model = make_simple((8, 8), classes=classes)
    labels = predict_volume(make_volume(data=grey), [model], CPU).labels[0]
    assert labels.dtype == np.uint16
    assert labels[0, :, 0].tolist() == [0, 7, 300]


@pytest.mark.parametrize(
    "directions", [(-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, -1)]
)
def test_a_flipped_volume_gets_flipped_labels(
    make_model: Make, make_volume: Make, directions: tuple[int, int, int]
) -> None:
    model, volume = make_model(), make_volume()
    flips = tuple(slice(None, None, step) for step in directions[::-1])
    stored = np.ascontiguousarray(volume.data[(slice(None), *flips)])
    flipped = make_volume(data=stored, directions=directions)
    expected = predict_volume(volume, [model], PLAIN).labels[0]
    labels = predict_volume(flipped, [model], PLAIN).labels[0]
    np.testing.assert_array_equal(labels[flips], expected)


def test_a_volume_stored_along_other_axes_gets_the_same_labels(
    make_model: Make, make_volume: Make
) -> None:
    model, volume = make_model((16, 16)), make_volume((6, 20, 23))
    # The stored first axis is the patient's left-right axis.
    affine = volume.grid.affine[:, [2, 1, 0, 3]]
    stored = np.ascontiguousarray(volume.data.transpose(0, 3, 2, 1))
    turned = Volume(stored, Grid.from_affine(affine, stored.shape[1:]), ("image",))
    expected = predict_volume(volume, [model], PLAIN).labels[0]
    labels = predict_volume(turned, [model], PLAIN).labels[0]
    np.testing.assert_array_equal(labels.transpose(2, 1, 0), expected)


def test_a_constant_volume_has_one_label_and_one_uncertainty(
    make_simple: Make, make_volume: Make
) -> None:
    grey = np.full((1, 19, 17, 23), 2, np.int16)
    prediction = predict_volume(make_volume(data=grey), [make_simple()], CPU)
    assert prediction.uncertainty is not None
    assert (prediction.labels[0] == 2).all()
    assert np.ptp(prediction.uncertainty[0]) < 1e-6


@pytest.mark.parametrize("shape", [(21, 18, 27), (3, 18, 27), (21, 2, 27)])
@pytest.mark.parametrize("tile", [(16, 16, 16), (16, 16)])
def test_tiles_cover_every_voxel_once_in_rising_order(
    make_model: Make,
    make_volume: Make,
    tile: tuple[int, ...],
    shape: tuple[int, int, int],
) -> None:
    times = np.zeros(shape, int)
    fractions = []
    for part in predict_tiles(make_volume(shape), [make_model(tile)], PLAIN):
        times[part.index] += 1
        fractions.append(part.fraction)
    assert (times == 1).all()
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


@pytest.mark.parametrize("tile", [(16, 16, 16), (16, 16)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("directions", [(1, 1, 1), (-1, 1, -1)])
def test_a_preview_equals_the_same_slice_of_the_whole(
    make_model: Make,
    make_volume: Make,
    tile: tuple[int, ...],
    axis: int,
    directions: tuple[int, int, int],
) -> None:
    model, volume = make_model(tile), make_volume(directions=directions)
    whole = predict_volume(volume, [model], CPU)
    spans = [slice(0, size) for size in volume.grid.shape]
    spans[axis] = slice(11, 12)
    box = (spans[0], spans[1], spans[2])
    labels = np.full(volume.grid.shape, 99, np.uint8)
    uncertainty = np.full(volume.grid.shape, np.nan, np.float32)
    for part in predict_tiles(volume, [model], CPU, box=box):
        labels[part.index] = part.labels[0]
        assert part.uncertainty is not None
        uncertainty[part.index] = part.uncertainty[0]
    np.testing.assert_array_equal(labels[box], whole.labels[0][box])
    assert whole.uncertainty is not None
    np.testing.assert_allclose(uncertainty[box], whole.uncertainty[0][box], atol=1e-6)
    assert (labels == 99).sum() == labels.size - labels[box].size


class _Counting(torch.nn.Module):
    """Counts the windows that go through."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.windows += len(image)
        return torch.cat([image, -image], dim=1)


def test_the_preview_of_a_slice_costs_a_2d_network_that_slice(
    make_simple: Make, make_volume: Make
) -> None:
    network = _Counting()
    model = make_simple((16, 16), classes=("a",), inner=network)
    box = (slice(7, 8), slice(0, 16), slice(0, 16))
    list(predict_tiles(make_volume((30, 16, 16)), [model], CPU, box=box))
    assert network.windows == 1


def test_the_preview_of_a_slice_costs_a_3d_network_two_levels(
    make_simple: Make, make_volume: Make
) -> None:
    network = _Counting()
    model = make_simple((8, 16, 16), classes=("a",), inner=network)
    box = (slice(9, 10), slice(0, 16), slice(0, 16))
    # Levels begin at 0, 4, 8, ...; those at 4 and 8 hold plane 9.
    list(predict_tiles(make_volume((32, 16, 16)), [model], CPU, box=box))
    assert network.windows == 2


def test_a_box_outside_the_volume_is_refused(
    make_simple: Make, make_volume: Make
) -> None:
    box = (slice(50, 51), slice(0, 5), slice(0, 5))
    with pytest.raises(UsageError, match="holds no voxels"):
        next(predict_tiles(make_volume(), [make_simple()], CPU, box=box))


def test_several_models_in_one_pass_equal_each_alone(
    make_model: Make, make_volume: Make
) -> None:
    volume = make_volume()
    models = [
        make_model(seed=1),
        make_model(seed=2, classes=("a",)),
        make_model((16, 16), seed=3),
        make_model((8, 8, 8), seed=4),
        make_model(seed=5, preprocessing=AS_STORED),
    ]
    together = predict_volume(volume, models, CPU)
    assert together.uncertainty is not None
    for place, model in enumerate(models):
        alone = predict_volume(volume, [model], CPU)
        assert alone.uncertainty is not None
        np.testing.assert_array_equal(together.labels[place], alone.labels[0])
        # Together they may go along another axis, and windows add up in another order.
        np.testing.assert_allclose(
            together.uncertainty[place], alone.uncertainty[0], atol=1e-6
        )


def test_models_with_other_axes_join_in(make_model: Make, make_volume: Make) -> None:
    volume = make_volume(directions=(-1, 1, -1))
    models = [
        make_model(seed=1),
        make_model(
            seed=2, preprocessing=AS_STORED.model_copy(update={"orientation": "SRA"})
        ),
    ]
    together = predict_volume(volume, models, CPU)
    for place, model in enumerate(models):
        alone = predict_volume(volume, [model], CPU).labels[0]
        np.testing.assert_array_equal(together.labels[place], alone)


class _CountingVoxels:
    """An array on the disk that counts what is read from it."""

    def __init__(self, data: np.ndarray) -> None:
        self._data = data
        self.shape, self.dtype = data.shape, data.dtype
        self.voxels = 0

    def __getitem__(self, index: Any, /) -> np.ndarray:
        block = self._data[index]
        self.voxels += block.size
        return block


def test_several_models_share_one_read(make_model: Make, make_volume: Make) -> None:
    whole = make_volume((32, 32, 32))
    lazy = _CountingVoxels(whole.data)
    volume = Volume(lazy, whole.grid, whole.channels)
    models = [make_model(seed=1), make_model(seed=2)]
    labels = predict_volume(volume, models, PLAIN).labels
    # Levels begin at 0, 8 and 16 and are 16 planes deep, whatever the models.
    assert lazy.voxels == 3 * 16 * 32 * 32
    np.testing.assert_array_equal(
        labels[0], predict_volume(whole, models[:1], PLAIN).labels[0]
    )


@pytest.mark.parametrize("directions", [(1, 1, 1), (1, -1, -1)])
def test_a_volume_on_disk_gets_the_labels_of_one_in_memory(
    make_model: Make, make_volume: Make, tmp_path: Any, directions: tuple[int, int, int]
) -> None:
    volume = make_volume(directions=directions)
    stored = zarr.create_array(
        tmp_path / "v.zarr",
        shape=volume.data.shape,
        chunks=(1, 8, 8, 8),
        dtype="float32",
    )
    stored[:] = volume.data
    models = [make_model(seed=1), make_model((16, 16), seed=2)]
    lazy = predict_volume(Volume(stored, volume.grid, ("image",)), models, PLAIN)
    for found, expected in zip(
        lazy.labels, predict_volume(volume, models, PLAIN).labels, strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_a_stop_is_heard_before_the_next_windows(
    make_simple: Make, make_volume: Make
) -> None:
    network = _Counting()
    model = make_simple((8, 8, 8), classes=("a",), inner=network)
    asked = iter([False, False, True])
    tiles = predict_tiles(
        make_volume((16, 16, 16)), [model], CPU, hooks=Hooks(lambda: next(asked))
    )
    with pytest.raises(StopRequested, match="after 2 of 27 windows"):
        list(tiles)
    assert network.windows == 2


def test_tiles_before_a_stop_are_good(make_model: Make, make_volume: Make) -> None:
    model, volume = make_model((16, 16)), make_volume((30, 16, 16))
    whole = predict_volume(volume, [model], PLAIN).labels[0]
    seen: list[FinishedTile] = []
    with pytest.raises(StopRequested):
        seen.extend(
            predict_tiles(volume, [model], PLAIN, hooks=Hooks(lambda: len(seen) > 1))
        )
    for tile in seen:
        np.testing.assert_array_equal(tile.labels[0], whole[tile.index])


def test_labels_are_cleaned_after_the_pass(
    make_simple: Make, make_volume: Make
) -> None:
    grey = np.zeros((1, 12, 12, 12), np.int16)
    grey[0, 1:5, 1:5, 1:5] = 1
    grey[0, 9, 9, 9] = 1
    rules = Postprocessing(keep_largest={"a": 1})
    model = make_simple(postprocessing=rules)
    labels = predict_volume(make_volume(data=grey), [model], CPU).labels[0]
    assert labels.sum() == 64


def test_a_volume_that_does_not_fit_is_refused(
    make_simple: Make, make_volume: Make
) -> None:
    volume = make_volume(channels=("t1", "t2"))
    with pytest.raises(ModelError, match="2 channels"):
        next(predict_tiles(volume, [make_simple()], CPU))


def test_no_model_is_refused(make_volume: Make) -> None:
    with pytest.raises(UsageError, match="No model"):
        next(predict_tiles(make_volume(), [], CPU))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings("cpu", tile=(16, 16)), "takes 3"),
        (Settings("cpu", tile=(16, 18, 16)), "Take 16 x 20 x 16"),
        (Settings("cpu", uncertainty="disagreement"), "at least two"),
        (Settings("cuda:99"), "CUDA devices"),
        (Settings("tpu"), "no device"),
    ],
)
def test_settings_that_suit_no_model_are_refused(
    make_model: Make, make_volume: Make, settings: Settings, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        next(predict_tiles(make_volume(), [make_model()], settings))


@pytest.mark.parametrize(
    "values",
    [{"uncertainty": "doubt"}, {"overlap": 1.0}, {"batch": 0}, {"precision": "int8"}],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Settings(**values)


def test_disagreement_is_one_where_models_are_sure_of_different_classes(
    make_simple: Make, make_volume: Make
) -> None:
    class Sure(torch.nn.Module):
        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros((len(image), 3, *image.shape[2:]))
            logits[:, self.index] = 40
            return logits

    models = [make_simple(classes=("a", "b"), inner=Sure(k)) for k in (1, 2)]
    settings = Settings("cpu", uncertainty="disagreement")
    prediction = predict_volume(make_volume(), models, settings)
    assert prediction.uncertainty is not None
    np.testing.assert_allclose(prediction.uncertainty[0], 1, atol=1e-6)
    np.testing.assert_array_equal(*prediction.uncertainty)


def test_teachers_of_unlike_organs_disagree_only_where_both_claim(
    make_simple: Make, make_volume: Make
) -> None:
    class Claims(torch.nn.Module):
        """Sure of its organ where the grey value holds its bit."""

        def __init__(self, bit: int) -> None:
            super().__init__()
            self.bit = bit

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            mine = (image.int() & self.bit) > 0
            return torch.cat([~mine * 40.0, mine * 40.0], dim=1)

    grey = np.array([0, 1, 2, 3], np.int16).reshape(1, 1, 1, 4)
    grey = grey.repeat(3, axis=1).repeat(2, axis=2)
    models = [
        make_simple(classes=(name,), inner=Claims(bit))
        for name, bit in (("a", 1), ("b", 2))
    ]
    settings = Settings("cpu", uncertainty="disagreement")
    prediction = predict_volume(make_volume(data=grey), models, settings)
    assert prediction.uncertainty is not None
    found = prediction.uncertainty[0][0, 0]
    np.testing.assert_allclose(found, [0, 0, 0, 1], atol=1e-6)


def test_values_that_are_no_numbers_are_an_error(
    make_simple: Make, make_volume: Make
) -> None:
    class Broken(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.full((len(image), 4, *image.shape[2:]), float("nan"))

    with pytest.raises(ModelError, match="no numbers"):
        predict_volume(make_volume(), [make_simple(inner=Broken())], CPU)


def test_threads_are_given_back(make_simple: Make, make_volume: Make) -> None:
    before = torch.get_num_threads()
    predict_volume(make_volume(), [make_simple()], Settings("cpu", threads=1))
    assert torch.get_num_threads() == before


def test_bfloat16_on_a_processor_gives_nearly_the_same_labels(
    make_model: Make, make_volume: Make
) -> None:
    model, volume = make_model(), make_volume()
    exact = predict_volume(volume, [model], PLAIN).labels[0]
    rough = predict_volume(
        volume, [model], Settings("cpu", "bfloat16", uncertainty=None)
    ).labels[0]
    assert (rough == exact).mean() > 0.9
