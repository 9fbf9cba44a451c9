"""The axis that a volume is gone through along, and that it changes no label."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from napari_kdseg.inference import rolling
from napari_kdseg.inference.plan import plan_passes
from napari_kdseg.inference.predict import Settings, predict_tiles, predict_volume
from napari_kdseg.inference.rolling import slow_axis
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid

Make = Callable[..., Any]
CPU = Settings("cpu")


def axis_of(model: Any, shape: tuple[int, int, int]) -> int:
    cards = [model.card]
    grid = Grid.from_affine(np.eye(4), shape)
    return slow_axis(grid, cards, plan_passes(cards, CPU))


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((200, 40, 40), 0), ((40, 200, 40), 1), ((40, 40, 200), 2), ((40, 40, 40), 0)],
)
def test_slabs_follow_one_another_along_the_longest_axis(
    make_simple: Make, shape: tuple[int, int, int], axis: int
) -> None:
    assert axis_of(make_simple((16, 16, 16)), shape) == axis


def test_a_little_less_memory_is_not_worth_another_axis(make_simple: Make) -> None:
    # Half a tile of 16 across a face, and a strip, for each of four classes, and the
    # labels of a slab: 4 * (8 * 40 * 48 + 16 * 16 * 48) + 16 * 40 * 48 = 141 312 along
    # y against 4 * (8 * 48 * 48 + 16 * 16 * 48) + 16 * 48 * 48 = 159 744 along z.
    assert axis_of(make_simple((16, 16, 16)), (40, 48, 48)) == 0


@pytest.mark.parametrize("spacing_mm", [None, (1.1, 1.1, 1.1)])
@pytest.mark.parametrize("shape", [(50, 16, 16), (16, 50, 16), (400, 16, 16)])
def test_a_volume_that_fits_one_window_but_for_its_length_comes_in_slabs(
    make_simple: Make, shape: tuple[int, int, int], spacing_mm: Any
) -> None:
    preprocessing = Preprocessing(
        intensity=(Intensity(kind="none"),), spacing_mm=spacing_mm
    )
    model = make_simple((16, 16, 16), preprocessing=preprocessing)
    assert axis_of(model, shape) == int(np.argmax(shape))


def test_slices_keep_to_their_own_axis(make_simple: Make) -> None:
    # Slices share nothing along z; along y half of each would have to be kept.
    assert axis_of(make_simple((16, 16)), (20, 30, 300)) == 0


@pytest.mark.parametrize("spacing_mm", [None, (1.3, 1.1, 1.2)])
@pytest.mark.parametrize("tile", [(16, 16, 16), (8, 16, 24), (16, 16)])
@pytest.mark.parametrize("axis", [1, 2])
def test_labels_are_the_same_whichever_axis_is_slow(
    make_model: Make,
    make_volume: Make,
    monkeypatch: pytest.MonkeyPatch,
    tile: tuple[int, ...],
    spacing_mm: Any,
    axis: int,
) -> None:
    preprocessing = Preprocessing(
        intensity=(Intensity(kind="none"),), spacing_mm=spacing_mm
    )
    model = make_model(tile, preprocessing=preprocessing)
    volume = make_volume((20, 19, 26), directions=(-1, 1, -1))
    settings = Settings("cpu", uncertainty="entropy", probabilities=True)
    monkeypatch.setattr("napari_kdseg.inference.predict.slow_axis", lambda *_: 0)
    own = predict_volume(volume, [model], settings)
    monkeypatch.setattr("napari_kdseg.inference.predict.slow_axis", lambda *_: axis)
    other = predict_volume(volume, [model], settings)
    assert own.probabilities is not None
    assert other.probabilities is not None
    second, best = np.sort(own.probabilities[0], axis=0)[-2:]
    clear = best - second > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(own.labels[0][clear], other.labels[0][clear])
    np.testing.assert_allclose(own.probabilities[0], other.probabilities[0], atol=1e-5)


def test_a_box_comes_along_the_axis_of_the_whole_volume(
    make_simple: Make, make_volume: Make
) -> None:
    model, volume = make_simple((8, 8, 8)), make_volume((10, 10, 64))
    box = (slice(0, 10), slice(0, 10), slice(20, 60))
    starts = [
        tile.index[2].start for tile in predict_tiles(volume, [model], CPU, box=box)
    ]
    assert axis_of(model, (10, 10, 64)) == 2
    assert starts == sorted(starts)
    assert starts[0] == 20
    assert len(starts) > 1


def test_what_is_kept_does_not_grow_with_the_length(make_simple: Make) -> None:
    model = make_simple((16, 16, 16))
    (sweep,) = plan_passes([model.card], CPU)
    kept = [
        rolling._kept(Grid.from_affine(np.eye(4), shape), [model.card], sweep, axis)
        for shape, axis in (((30, 40, 96), 2), ((30, 40, 800), 2))
    ]
    assert kept[0] == kept[1]
