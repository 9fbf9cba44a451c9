"""Slices between two corrected ones, against shapes worked out by hand."""

import numpy as np
import pytest

from napari_kdseg.review.interpolation import changes, interpolate, to_fill
from napari_kdseg.review.painting import Painting


def circle(radius: float, centre: tuple[float, float] = (30.0, 30.0)) -> np.ndarray:
    rows, columns = np.indices((61, 61))
    away = np.hypot(rows - centre[0], columns - centre[1])
    return (away <= radius).astype(np.uint8)


def square(top: int, left: int, edge: int, size: int = 40) -> np.ndarray:
    made = np.zeros((size, size), np.uint8)
    made[top : top + edge, left : left + edge] = 1
    return made


def radius_of(mask: np.ndarray) -> float:
    return float(np.sqrt(np.count_nonzero(mask) / np.pi))


def test_midway_between_circles_of_10_and_20_is_one_of_15() -> None:
    (middle,) = interpolate(circle(10), circle(20), 1)
    assert abs(radius_of(middle) - 15) < 0.3
    assert np.argwhere(middle).mean(axis=0).tolist() == [30, 30]


def test_radii_grow_evenly_through_several_slices() -> None:
    made = interpolate(circle(10), circle(20), 4)
    assert made.shape == (4, 61, 61)
    assert np.allclose([radius_of(one) for one in made], [12, 14, 16, 18], atol=0.3)


def test_the_way_back_is_the_way_there_in_reverse() -> None:
    there = interpolate(circle(10, (28, 33)), circle(20), 3)
    back = interpolate(circle(20), circle(10, (28, 33)), 3)
    assert np.array_equal(there, back[::-1])


def test_equal_slices_stay_as_they_are() -> None:
    slices = circle(12) + circle(6)
    assert np.array_equal(interpolate(slices, slices, 2), np.stack([slices] * 2))


def test_a_square_shifted_by_four_is_shifted_by_two_midway() -> None:
    # Left edges at 10 and 14, right edges at 20 and 24, in the rows of both.
    (middle,) = interpolate(square(15, 10, 10), square(15, 14, 10), 1)
    assert np.flatnonzero(middle[20]).tolist() == list(range(12, 22))
    assert np.flatnonzero(middle.any(1)).tolist() == list(range(15, 25))


def test_squares_that_lie_apart_move_instead_of_vanishing() -> None:
    made = interpolate(square(5, 2, 6), square(17, 26, 6), 3)
    for share, one in zip((0.25, 0.5, 0.75), made, strict=True):
        assert np.array_equal(one, square(5 + int(12 * share), 2 + int(24 * share), 6))


def test_shapes_at_the_edges_of_the_image_move_too() -> None:
    (middle,) = interpolate(square(0, 0, 6, 30), square(24, 24, 6, 30), 1)
    assert middle[12:18, 12:18].all()
    assert np.abs(np.argwhere(middle) - 14.5).max() < 6


def test_specks_make_no_difference_to_others() -> None:
    specks = np.zeros((40, 40), np.uint8)
    specks[::5, 36], specks[2::5, 38] = 1, 1
    (middle,) = interpolate(square(5, 5, 10), square(9, 5, 10) | specks, 1)
    assert np.array_equal(middle[:, :34], square(7, 5, 10)[:, :34])


def test_a_square_that_hardly_overlaps_itself_keeps_its_size() -> None:
    # As they lie, the two distance maps would leave a strip of two columns midway.
    (middle,) = interpolate(square(15, 6, 10), square(15, 14, 10), 1)
    assert np.array_equal(middle, square(15, 10, 10))


def test_each_of_two_shapes_of_a_class_goes_its_own_way() -> None:
    lower = square(2, 2, 10) | square(2, 26, 10)
    upper = square(8, 2, 10) | square(2, 20, 10)
    (middle,) = interpolate(lower, upper, 1)
    assert np.array_equal(middle, square(5, 2, 10) | square(2, 23, 10))


def test_a_shape_that_divides_becomes_two() -> None:
    lower, upper = np.zeros((2, 20, 40), np.uint8)
    lower[5:15, 5:35] = 1
    upper[5:15, 5:15], upper[5:15, 25:35] = 1, 1
    made = interpolate(lower, upper, 3)
    gaps = [int((one[10, 5:35] == 0).sum()) for one in made]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 2
    assert all(one[10, 7:13].all() and one[10, 27:33].all() for one in made)


def test_a_class_of_one_slice_alone_shrinks_to_nothing() -> None:
    empty = np.zeros((61, 61), np.uint8)
    made = interpolate(circle(20), empty, 3)
    assert np.allclose([radius_of(one) for one in made], [15, 10, 5], atol=0.6)
    assert np.array_equal(interpolate(empty, circle(20), 3), made[::-1])


def test_two_empty_slices_have_empty_ones_between() -> None:
    empty = np.zeros((5, 6), np.uint16)
    made = interpolate(empty, empty, 2)
    assert made.shape == (2, 5, 6)
    assert made.dtype == np.uint16
    assert not made.any()


def test_where_classes_would_overlap_the_deeper_one_wins() -> None:
    # Class 1 keeps columns 0-19. Class 2 comes in from the right, over half of it.
    lower, upper = np.zeros((2, 1, 40), np.uint8)
    lower[0, :20], upper[0, :20] = 1, 1
    lower[0, 30:], upper[0, 20:] = 2, 2
    (middle,) = interpolate(lower, upper, 1)
    assert np.flatnonzero(middle[0] == 1).tolist() == list(range(20))
    assert np.flatnonzero(middle[0] == 2).tolist() == list(range(25, 40))


def test_touching_classes_leave_no_gap_where_their_border_moves() -> None:
    # The border moves by one pixel, so midway a column lies on the outline of both.
    lower, upper = np.zeros((2, 20, 20), np.uint8)
    lower[5:15, 2:10], lower[5:15, 10:18] = 1, 2
    upper[5:15, 2:11], upper[5:15, 11:18] = 1, 2
    (middle,) = interpolate(lower, upper, 1)
    assert (middle[7:13, 2:18] > 0).all()
    assert set(np.unique(middle[7:13, 2:10])) == {1}
    assert set(np.unique(middle[7:13, 11:18])) == {2}


def test_distances_are_those_of_the_specimen_where_pixels_are_oblong() -> None:
    # 3 mm high, 1 mm wide. A bar of 2 rows and one of 6 around it: as far from its
    # outline, in mm, above and below as a bar of 4 rows.
    lower, upper = np.zeros((2, 20, 90), np.uint8)
    lower[9:11, 10:80], upper[7:13, 10:80] = 1, 1
    (middle,) = interpolate(lower, upper, 1, (3.0, 1.0))
    assert np.flatnonzero(middle[:, 45]).tolist() == list(range(8, 12))


def test_a_class_at_the_edge_of_the_image_does_not_shrink_from_it() -> None:
    (middle,) = interpolate(square(0, 0, 10), square(0, 0, 20), 1)
    assert middle[:13, :13].all()
    assert not middle[16:].any()


def test_a_slice_of_one_class_alone_stays_whole() -> None:
    whole = np.ones((6, 7), np.uint8)
    assert interpolate(whole, whole, 1).all()


# ---- between which slices ----


@pytest.mark.parametrize(
    ("painted", "interpolated", "pairs"),
    [
        ([], [], []),
        ([5], [], []),
        ([5, 6], [], []),
        ([5, 9], [], [(5, 9)]),
        ([9, 5], [], [(5, 9)]),
        ([2, 20, 5, 9], [], [(5, 9)]),  # the last two
        ([7, 5, 9], [], [(5, 7), (7, 9)]),  # what was painted between stays
        ([5, 9, 7], [], [(7, 9)]),
        ([5, 9, 7], [6, 8], [(5, 7), (7, 9)]),  # made from 5 and 9, and now from 7
    ],
)
def test_slices_between_the_last_two_are_filled(
    painted: list[int], interpolated: list[int], pairs: list[tuple[int, int]]
) -> None:
    assert to_fill(painted, interpolated) == pairs


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_the_slices_between_change(axis: int) -> None:
    before = np.zeros((9, 30, 30), np.uint8)
    before[3, 20:25, 20:25] = 3  # a slip of the network
    before[2, 5:15, 5:15], before[6, 5:15, 9:19] = 1, 1
    before = np.moveaxis(before, 0, axis)
    labels = Painting(np.ascontiguousarray(before), 16)
    places, values = changes(labels, axis, [(2, 6)], (1.0, 1.0, 1.0))
    assert labels.blocks == {}
    labels[places] = values
    planes = np.moveaxis(np.asarray(labels), axis, 0)
    expected = np.moveaxis(before, axis, 0).copy()
    for number, left in ((3, 6), (4, 7), (5, 8)):
        expected[number] = 0
        expected[number, 5:15, left : left + 10] = 1
    assert np.array_equal(planes[[0, 1, 2, 6, 7, 8]], expected[[0, 1, 2, 6, 7, 8]])
    same = planes[3:6, 8:12] == expected[3:6, 8:12]  # away from the rounded corners
    assert same.all()
    assert not planes[3:6, 20:].any()


def test_nothing_changes_where_there_is_nothing_between() -> None:
    labels = Painting(np.zeros((4, 5, 6), np.uint8), 16)
    places, values = changes(labels, 0, [], (1.0, 1.0, 1.0))
    assert [len(one) for one in (*places, values)] == [0, 0, 0, 0]
