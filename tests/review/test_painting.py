"""Labels that are painted on, against a NumPy array that is written to alike."""

from typing import Any

import numpy as np
import pytest

from napari_kdseg.review.painting import Painting, Written

SHAPE = (10, 13, 11)


@pytest.fixture
def below() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, SHAPE, dtype=np.uint8)


@pytest.fixture
def painting(below: np.ndarray) -> Painting:
    return Painting(below, edge=4)


def test_reading_is_as_from_an_array(painting: Painting, below: np.ndarray) -> None:
    for index in (3, (slice(None), 5), np.s_[..., 2], np.s_[2:9, ::3, 4], np.s_[::-1]):
        assert np.array_equal(painting[index], below[index])
    assert painting[1, 2, 3] == below[1, 2, 3]
    assert painting[-1, 2, 3] == below[-1, 2, 3]
    assert np.array_equal(np.asarray(painting), below)
    assert (painting.shape, painting.ndim, painting.size) == (SHAPE, 3, below.size)


def test_writing_is_as_to_an_array(painting: Painting, below: np.ndarray) -> None:
    expected = below.copy()
    rng = np.random.default_rng(1)
    voxels = tuple(rng.integers(0, size, 200) for size in SHAPE)
    writes: list[tuple[Any, Any]] = [
        (np.s_[2:7, 3:9, 5:6], 7),
        (np.s_[4], rng.integers(0, 9, SHAPE[1:], dtype=np.uint8)),
        (np.s_[:, 1:12, 3], rng.integers(0, 9, (10, 11), dtype=np.uint8)),
        (voxels, 5),
        ((9, 12, 10), 6),
    ]
    for index, value in writes:
        painting[index] = value
        expected[index] = value
        assert np.array_equal(np.asarray(painting), expected)
    assert np.array_equal(painting[voxels], expected[voxels])
    mask = expected == 5
    painting[mask] = 8
    assert np.array_equal(np.asarray(painting), np.where(mask, 8, expected))


def test_a_voxel_for_each_index_gets_its_own_value(painting: Painting) -> None:
    places = (np.array([0, 9, 5]), np.array([12, 0, 5]), np.array([0, 10, 5]))
    painting[places] = np.array([1, 2, 3], np.uint8)
    assert painting[places].tolist() == [1, 2, 3]
    assert (painting[0, 12, 0], painting[9, 0, 10], painting[5, 5, 5]) == (1, 2, 3)


def test_the_labels_below_stay_as_they_are(
    painting: Painting, below: np.ndarray
) -> None:
    before = below.copy()
    painting[3:5] = 9
    read = painting[8]
    read[:] = 9
    assert np.array_equal(below, before)
    assert np.array_equal(painting[8], before[8])


def test_only_blocks_that_are_written_to_are_held(painting: Painting) -> None:
    assert painting.blocks == {}
    painting[3:5, 0:4, 0:4] = 1
    assert sorted(painting.blocks) == [(0, 0, 0), (1, 0, 0)]
    assert sorted(painting.unkept) == [(0, 0, 0), (1, 0, 0)]
    painting.kept((0, 0, 0))
    assert painting.unkept == ((1, 0, 0),)
    assert painting.block((1, 0, 0)).shape == (4, 4, 4)


def test_every_write_is_told_with_the_planes_it_lies_in(below: np.ndarray) -> None:
    told: list[Written] = []
    painting = Painting(below, 4, told.append)
    painting[2:3, 4:6, 1:4] = 1
    painting[(np.array([7, 7, 1]), np.array([0, 5, 5]), np.array([2, 2, 2]))] = 1
    painting[3:3] = 1
    planes = [[places.tolist() for places in one.places] for one in told]
    assert planes == [[[2], [4, 5], [1, 2, 3]], [[1, 7], [0, 5], [2]]]
    assert [one.by_hand for one in told] == [True, False]


def test_a_plane_differs_until_it_is_painted_back(
    painting: Painting, below: np.ndarray
) -> None:
    painting[5, 2, 2] = 9
    assert painting.differing(0, range(10)) == {5}
    assert painting.differing(1, [2, 3]) == {2}
    assert painting.differing(2, [9]) == set()
    painting[5, 2, 2] = below[5, 2, 2]
    assert painting.differing(0, range(10)) == set()


def test_a_block_of_another_time_is_restored(painting: Painting) -> None:
    voxels = np.full((2, 1, 3), 9, np.uint8)  # the last block, cut by the edges
    painting.restore((2, 3, 2), voxels)
    assert (painting[8:, 12:, 8:] == 9).all()
    assert painting.unkept == ()
    with pytest.raises(ValueError, match="does not fit"):
        painting.restore((2, 3, 3), voxels)
    with pytest.raises(ValueError, match="int16"):
        painting.restore((2, 3, 2), voxels.astype(np.int16))


def test_settled_labels_lie_below(painting: Painting) -> None:
    painting[4] = 1
    painting.settle(np.asarray(painting), painting.blocks)
    assert painting.blocks == {}
    assert (painting[4] == 1).all()


def test_what_is_painted_while_labels_are_settled_stays(painting: Painting) -> None:
    painting[4, :4, :4] = 1
    painting[4, 4:8, :4] = 1
    written, noted = np.asarray(painting), painting.blocks
    painting[4, :4, :4] = 2
    painting.settle(written, noted)
    assert list(painting.blocks) == [(1, 0, 0)]
    assert (painting[4, :4, :4] == 2).all()
    assert (painting[4, 4:8, :4] == 1).all()


@pytest.mark.parametrize("index", [(99, 0, 0), ([99], [0], [0]), ([0], slice(None))])
def test_what_lies_outside_or_is_neither_is_an_index_error(
    painting: Painting, index: Any
) -> None:
    with pytest.raises(IndexError):
        painting[index]
