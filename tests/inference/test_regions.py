import numpy as np
import pytest

from napari_kdseg.errors import UsageError
from napari_kdseg.inference.regions import (
    Claimant,
    claims,
    conflict_code,
    shares,
    shown,
    tally,
    winners,
)

SPLEEN, KIDNEY, OTHER = (
    Claimant("teacher-a", "spleen", 1),
    Claimant("teacher-b", "kidney", 2),
    Claimant("teacher-c", "spleen", 1),
)


def _row(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_each_claimant_has_its_bit() -> None:
    bits = claims([_row(0, 1, 0, 1), _row(0, 0, 1, 1), _row(0, 0, 0, 7)])
    assert bits.ravel().tolist() == [0b000, 0b001, 0b010, 0b111]


@pytest.mark.parametrize(
    ("count", "kind"),
    [(1, np.uint8), (8, np.uint8), (9, np.uint16), (17, np.uint32), (32, np.uint32)],
)
def test_the_mask_is_as_wide_as_the_claimants_need(count: int, kind: type) -> None:
    bits = claims([_row(0, 1)] * count)
    assert bits.dtype == kind
    assert int(bits[0, 0, 1]) == 2**count - 1


def test_more_claimants_than_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="33 teachers"):
        claims([_row(1)] * 33)


def test_organ_regions_and_true_background_cover_every_voxel() -> None:
    # sum of M^k plus M^B is 1 everywhere, more only in overlaps.
    generator = np.random.default_rng(0)
    masks = [generator.integers(0, 2, (4, 5, 6), np.uint8) for _ in range(3)]
    bits = claims(masks)
    background = bits == 0
    total = sum(mask.astype(int) for mask in masks) + background
    assert (total >= 1).all()
    overlap = sum(mask.astype(int) for mask in masks) > 1
    np.testing.assert_array_equal(total > 1, overlap)


def test_true_background_is_what_nobody_claims() -> None:
    # M^B = 1 - max_k M^k
    masks = [_row(0, 1, 0, 1), _row(0, 0, 1, 1)]
    expected = 1 - np.maximum(*masks)
    np.testing.assert_array_equal((claims(masks) == 0).astype(np.uint8), expected)


def test_one_claimant_leaves_its_region_and_the_rest() -> None:
    # with K = 1 the regions cover the image, without conflict.
    found = shares(tally(claims([_row(0, 1, 1, 0)])), [SPLEEN], "sum")["shares"]
    assert found == {"true background": 0.5, "spleen": 0.5, "conflict": 0.0}


def test_shown_codes_are_background_class_and_conflict() -> None:
    bits = claims([_row(0, 1, 0, 1), _row(0, 0, 1, 1)])
    assert shown(bits, [1, 2]).ravel().tolist() == [0, 1, 2, 255]


def test_claimants_of_one_class_do_not_conflict() -> None:
    bits = claims([_row(1, 1, 1), _row(0, 0, 1), _row(0, 1, 1)])
    assert shown(bits, [1, 2, 1]).ravel().tolist() == [1, 1, 255]


def test_values_near_the_end_of_uint8_are_shown_in_uint16() -> None:
    codes = shown(claims([_row(0, 1, 1), _row(0, 0, 1)]), [255, 2])
    assert codes.dtype == np.uint16
    assert codes.ravel().tolist() == [0, 255, 65535]
    assert conflict_code([255, 2]) == 65535


def test_many_claimants_are_shown_as_few_are() -> None:
    generator = np.random.default_rng(1)
    masks = [generator.integers(0, 2, (3, 4, 5), np.uint8) for _ in range(3)]
    nothing = [np.zeros_like(masks[0])] * 17
    many = shown(claims([*masks, *nothing]), [1, 2, 3, *range(4, 21)])
    np.testing.assert_array_equal(many, shown(claims(masks), [1, 2, 3]))


def test_under_sum_a_conflict_lies_in_both_regions() -> None:
    # Of 10 voxels: 4 nobody's, 3 spleen, 2 kidney, 1 both.
    bits = claims([_row(0, 0, 0, 0, 1, 1, 1, 0, 0, 1), _row(*[0] * 7, 1, 1, 1)])
    found = shares(tally(bits), [SPLEEN, KIDNEY], "sum")["shares"]
    expected = {"true background": 0.4, "spleen": 0.4, "kidney": 0.3, "conflict": 0.1}
    assert found == pytest.approx(expected)


def test_under_ignore_a_conflict_lies_in_no_region() -> None:
    bits = claims([_row(0, 0, 0, 0, 1, 1, 1, 0, 0, 1), _row(*[0] * 7, 1, 1, 1)])
    found = shares(tally(bits), [SPLEEN, KIDNEY], "ignore")["shares"]
    expected = {"true background": 0.4, "spleen": 0.3, "kidney": 0.2, "conflict": 0.1}
    assert found == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(1)


def test_under_max_prob_the_surer_claimant_gets_the_voxel() -> None:
    bits = claims([_row(0, 1, 1, 1), _row(0, 0, 1, 1)])
    prob = [
        np.array([[[0.1, 0.9, 0.6, 0.8]]], np.float32),
        np.array([[[0.2, 0.4, 0.7, 0.8]]], np.float32),
    ]
    winner = winners(bits, prob)
    # The third voxel goes to the kidney; a tie stays with the first.
    assert winner.ravel().tolist() == [0, 1, 2, 1]
    found = shares(tally(bits, winner), [SPLEEN, KIDNEY], "max_prob")["shares"]
    expected = {"true background": 0.25, "spleen": 0.5, "kidney": 0.25, "conflict": 0.0}
    assert found == pytest.approx(expected)


def test_max_prob_needs_winners_where_claims_conflict() -> None:
    with pytest.raises(UsageError, match="1 voxels are claimed for two classes"):
        shares(tally(claims([_row(1), _row(1)])), [SPLEEN, KIDNEY], "max_prob")


def test_a_class_of_two_teachers_is_one_region() -> None:
    bits = claims([_row(1, 0, 0, 1), _row(0, 0, 0, 0), _row(0, 1, 0, 1)])
    found = shares(tally(bits), [SPLEEN, KIDNEY, OTHER], "sum")["shares"]
    expected = {"true background": 0.25, "spleen": 0.75, "kidney": 0.0, "conflict": 0.0}
    assert found == pytest.approx(expected)


def test_tallies_of_slabs_add_up_to_the_volumes() -> None:
    generator = np.random.default_rng(2)
    masks = [generator.integers(0, 2, (6, 5, 4), np.uint8) for _ in range(9)]
    bits = claims(masks)
    assert tally(bits[:2]) + tally(bits[2:]) == tally(bits)


def test_the_summary_names_codes_claimants_and_rule() -> None:
    summary = shares(tally(claims([_row(1), _row(0)])), [SPLEEN, KIDNEY], "sum")
    assert summary["overlap_rule"] == "sum"
    assert summary["codes"] == {
        "0": "true background",
        "1": "spleen",
        "2": "kidney",
        "255": "conflict",
    }
    assert summary["claimants"][1] == {
        "bit": 1,
        "teacher": "teacher-b",
        "class": "kidney",
        "value": 2,
    }
