"""Filters and orders, on numbers small enough to be worked out by hand."""

import numpy as np
import pytest

from napari_kdseg.review.queue import ORDERS, Filter, Order, Slices, ordered, shown


def slices(*sizes: int) -> Slices:
    return Slices.of(sizes)


def all_of(made: Slices) -> np.ndarray:
    return np.ones(len(made.scan), bool)


def order_of(made: Slices, order: Order, **more: float) -> list[int]:
    return ordered(made, all_of(made), order, **more).tolist()  # type: ignore[arg-type]


# ---- Rows ----


def test_rows_count_the_slices_of_one_scan_after_those_of_another() -> None:
    made = slices(2, 0, 3)
    assert made.scan.tolist() == [0, 0, 2, 2, 2]
    assert made.index.tolist() == [0, 1, 0, 1, 2]


# ---- Filters ----


def test_empty_slices_are_hidden_and_those_not_counted_yet_are_not() -> None:
    made = slices(3)
    made.area[:] = [0, 7, np.nan]
    assert shown(made, Filter(), ["a"], 0.5).tolist() == [False, True, True]
    everything = Filter(hide_empty=False)
    assert shown(made, everything, ["a"], 0.5).tolist() == [True, True, True]


def test_only_the_slices_of_chosen_scans_are_shown() -> None:
    made = slices(1, 2)
    only = Filter(cases=frozenset({"b"}))
    assert shown(made, only, ["a", "b"], 0.5).tolist() == [False, True, True]


def test_slices_are_shown_by_their_side_of_the_threshold() -> None:
    made = slices(4)
    made.score[:] = [0.2, 0.5, 0.9, np.nan]
    accepted, refused = Filter(side="accepted"), Filter(side="refused")
    assert shown(made, accepted, ["a"], 0.5).tolist() == [False, True, True, False]
    assert shown(made, refused, ["a"], 0.5).tolist() == [True, False, False, False]


# ---- Orders ----


def test_the_sequence_goes_through_one_scan_after_the_other() -> None:
    assert order_of(slices(2, 2), "sequence") == [0, 1, 2, 3]


def test_the_most_doubtful_slice_is_the_one_nearest_to_the_threshold() -> None:
    made = slices(1, 1, 1)
    made.score[:] = [0.1, 0.75, 0.95]
    assert order_of(made, "doubt", threshold=0.9) == [2, 1, 0]
    assert order_of(made, "doubt", threshold=0.5) == [1, 0, 2]


@pytest.mark.parametrize("order", ["uncertainty", "conflict"])
def test_the_highest_comes_first(order: Order) -> None:
    made = slices(1, 1, 1)
    getattr(made, order)[:] = [0.1, 0.3, 0.2]
    assert order_of(made, order) == [1, 2, 0]


def test_what_is_not_known_yet_comes_last_in_sequence() -> None:
    made = slices(2, 2)
    made.uncertainty[:] = [np.nan, 0.1, np.nan, 0.2]
    assert order_of(made, "uncertainty") == [3, 1, 0, 2]


def test_with_nothing_known_an_order_is_the_sequence() -> None:
    assert order_of(slices(2, 2), "doubt") == [0, 1, 2, 3]


def test_scans_take_turns_where_slices_tell_as_much() -> None:
    made = slices(100, 100)
    made.uncertainty[:] = 0.5
    made.uncertainty[:6] = 0.9  # the tenth that tells most has both
    made.uncertainty[100:106] = 0.8
    first = order_of(made, "uncertainty")[:4]
    assert [made.scan[row] for row in first] == [0, 1, 0, 1]


def test_the_first_slice_is_the_most_telling_of_all() -> None:
    made = slices(50, 50)
    rng = np.random.default_rng(0)
    made.conflict[:] = rng.random(100)
    assert order_of(made, "conflict")[0] == int(made.conflict.argmax())


def test_much_less_telling_slices_do_not_come_before_telling_ones() -> None:
    made = slices(100, 100)
    made.uncertainty[:100] = np.linspace(1, 0.9, 100)  # all of the first scan
    made.uncertainty[100:] = np.linspace(0.2, 0.1, 100)
    assert set(order_of(made, "uncertainty")[:100]) == set(range(100))


def test_neighbours_that_look_alike_do_not_follow_one_another() -> None:
    made = slices(160)
    made.uncertainty[:] = 0.1
    made.uncertainty[0:4] = 0.9
    made.uncertainty[80:84] = 0.8
    # The first twentieth are these eight slices, of two stretches that take turns.
    assert order_of(made, "uncertainty")[:4] == [0, 80, 1, 81]


def test_disputed_slices_come_alone_the_most_evenly_split_first() -> None:
    made = slices(2, 2)
    made.dispute[:] = [0, 0.5, 1 / 3, 0]
    assert order_of(made, "disagreement") == [1, 2]


def test_at_random_each_scan_comes_as_often_as_any_other() -> None:
    made = slices(1000, 10, 100)
    first = made.scan[order_of(made, "random")[:30]]
    assert np.bincount(first).tolist() == [10, 10, 10]
    # Once a scan is through, the others go on.
    assert sorted(order_of(made, "random")) == list(range(1110))


def test_a_random_order_is_the_same_whatever_else_is_shown() -> None:
    made = slices(40)
    some = np.arange(40) % 3 != 0
    everything = order_of(made, "random")
    thinned = ordered(made, some, "random").tolist()
    assert thinned == [row for row in everything if some[row]]


def test_another_seed_gives_another_random_order() -> None:
    made = slices(40)
    one, other = (ordered(made, all_of(made), "random", seed=s) for s in (0, 1))
    assert one.tolist() != other.tolist()
    assert one.tolist() != sorted(one.tolist())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", [(), (0,), (1,), (3, 0, 5)])
def test_every_order_has_each_slice_that_is_kept_at_most_once(
    order: Order, sizes: tuple[int, ...]
) -> None:
    made = slices(*sizes)
    made.uncertainty[::2] = 0.5
    rows = order_of(made, order)
    assert len(set(rows)) == len(rows)
    if order != "disagreement":
        assert sorted(rows) == list(range(sum(sizes)))


@pytest.mark.parametrize("values", [[-2.5, 3.0, -1e-30, 0.0, 1e20, -7.0]])
def test_numbers_of_any_sign_and_size_are_put_in_order(values: list[float]) -> None:
    made = slices(*[1] * len(values))
    made.conflict[:] = values
    expected = np.argsort(-np.array(values)).tolist()
    assert order_of(made, "conflict") == expected
