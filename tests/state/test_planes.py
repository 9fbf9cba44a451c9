"""Lazy voxels in a viewer: the same voxels as NumPy's, and few of them read."""

from typing import Any

import numpy as np
import pytest

from napari_kdseg.state import planes
from napari_kdseg.state.planes import SteppedVoxels

DATA = np.random.default_rng(0).integers(0, 999, (2, 10, 7, 9)).astype(np.int16)


class Counted:
    """An array in chunks that notes what is read of it."""

    shape, dtype, chunks = DATA.shape, DATA.dtype, (1, 4, 3, 5)

    def __init__(self) -> None:
        self.read: list[Any] = []

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        return DATA[index]


@pytest.mark.parametrize(
    "index",
    [
        np.s_[3],
        np.s_[:, 6],
        np.s_[:, :, 0],
        np.s_[..., 8],
        np.s_[2:5, 1:, ::2],
        np.s_[9, 2:4, 1:8],
        np.s_[-1],
        np.s_[:],
        np.s_[np.int64(4), :, 3],
    ],
)
def test_any_box_is_what_numpy_gives(index: Any) -> None:
    stepped = SteppedVoxels(Counted(), 1)
    for _ in range(2):  # read, and remembered
        assert np.array_equal(np.asarray(stepped[index]), DATA[1][index])
    assert np.array_equal(np.asarray(stepped), DATA[1])
    assert (stepped.shape, stepped.ndim, stepped.size) == ((10, 7, 9), 3, 630)


def test_steps_inside_a_layer_of_chunks_read_it_once() -> None:
    counted = Counted()
    stepped = SteppedVoxels(counted, 0)
    for z in (4, 5, 6, 7):
        assert np.array_equal(stepped[z], DATA[0, z])
    assert counted.read == [(0, slice(4, 8), slice(None), slice(None))]
    _ = stepped[8]
    assert len(counted.read) == 2


def test_a_layer_too_large_to_keep_is_read_for_the_plane_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planes, "LARGEST_LAYER_BYTES", 100)
    counted = Counted()
    stepped = SteppedVoxels(counted, 0)
    assert np.array_equal(stepped[:, 2], DATA[0, :, 2])
    whole = (slice(0, 10, 1), slice(2, 3, 1), slice(0, 9, 1))
    assert counted.read == [(0, *whole)]


def test_a_canvas_cut_out_of_all_planes_is_read_when_one_plane_is_taken() -> None:
    counted = Counted()
    canvas = SteppedVoxels(counted, 0)[:, 1:5, 2:9]
    assert (canvas.shape, counted.read) == ((10, 4, 7), [])
    plane = canvas[5:6]
    assert counted.read == []
    assert np.array_equal(np.asarray(plane), DATA[0, 5:6, 1:5, 2:9])
    assert counted.read == [(0, slice(4, 8), slice(None), slice(None))]
