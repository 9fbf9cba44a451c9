"""Scaling grey values, with the numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.intensity import Intensity, apply_intensity, fit_intensity


def scaled(data: np.ndarray, *rules: Intensity) -> np.ndarray:
    return apply_intensity(data, fit_intensity(data, rules))


def row(*values: float, dtype: str = "int16") -> np.ndarray:
    return np.array([[[values]]], dtype=dtype)


def test_a_window_runs_from_minus_one_to_one_and_clips() -> None:
    window = Intensity(kind="window", low=-325, high=325)
    # 162.5 is half way from 0 to 325.
    result = scaled(row(-1000, -325, 0, 162.5, 325, 3000, dtype="float32"), window)
    assert result.tolist() == [[[[-1, -1, 0, 0.5, 1, 1]]]]


def test_an_offset_is_added_before_the_window() -> None:
    window = Intensity(kind="window", low=-100, high=100, offset=-1000)
    assert scaled(row(900, 1000, 1100), window).tolist() == [[[[-1, 0, 1]]]]


def test_a_z_score_has_mean_zero_and_deviation_one() -> None:
    # Mean 3, deviation √((4 + 0 + 4) / 3) = 1.633.
    result = scaled(row(1, 3, 5), Intensity(kind="zscore"))
    assert result.ravel() == pytest.approx([-1.2247, 0, 1.2247], abs=1e-4)


def test_a_window_may_be_clipped_first_and_scored_then() -> None:
    # -300, -300, 0, 300 after clipping: mean -75, deviation 248.7; 4000 ends at 300
    rule = Intensity(kind="window_zscore", low=-300, high=300)
    result = scaled(row(-1000, -300, 0, 4000), rule).ravel()
    assert result == pytest.approx([-0.9045, -0.9045, 0.3015, 1.5076], abs=1e-4)


def test_a_window_to_be_scored_is_meant_after_the_offset() -> None:
    rule = Intensity(kind="window_zscore", low=-300, high=300)
    moved = rule.model_copy(update={"offset": -1024.0})
    plain, shifted = row(-1000, -300, 0, 4000), row(24, 724, 1024, 5024)
    assert np.array_equal(scaled(shifted, moved), scaled(plain, rule))


def test_a_window_without_contrast_becomes_zero() -> None:
    rule = Intensity(kind="window_zscore", low=-300, high=300)
    assert scaled(row(900, 1000, dtype="uint16"), rule).tolist() == [[[[0, 0]]]]


def test_a_z_score_of_nonzero_voxels_leaves_zero_alone() -> None:
    # Of 2 and 6 alone: mean 4, deviation 2.
    result = scaled(row(0, 2, 6, 0), Intensity(kind="zscore", nonzero=True))
    assert result.tolist() == [[[[0, -1, 1, 0]]]]


def test_a_constant_volume_becomes_zero() -> None:
    assert scaled(row(7, 7, 7), Intensity(kind="zscore")).tolist() == [[[[0, 0, 0]]]]


def test_an_empty_brain_becomes_zero() -> None:
    rule = Intensity(kind="zscore", nonzero=True)
    assert scaled(row(0, 0), rule).tolist() == [[[[0, 0]]]]


def test_percentiles_become_the_ends_of_the_range() -> None:
    rule = Intensity(kind="percentile", low_percentile=10, high_percentile=90)
    # Of 0..100 the 10th percentile is 10 and the 90th is 90.
    result = scaled(np.arange(101, dtype=np.int16).reshape(1, 1, 1, 101), rule).ravel()
    assert result[[0, 10, 50, 90, 100]] == pytest.approx([-1, -1, 0, 1, 1], abs=1e-6)


def test_none_gives_the_stored_values_with_their_offset() -> None:
    rule = Intensity(kind="none", offset=0.5)
    assert scaled(row(1, 2), rule).tolist() == [[[[1.5, 2.5]]]]


def test_each_channel_can_have_its_own_rule() -> None:
    data = np.array([[[[0, 10]]], [[[0, 10]]]], dtype=np.int16)
    result = scaled(
        data, Intensity(kind="window", low=0, high=10), Intensity(kind="none")
    )
    assert result.tolist() == [[[[-1, 1]]], [[[0, 10]]]]


def test_one_rule_measures_each_channel_by_itself() -> None:
    data = np.array([[[[0, 2]]], [[[10, 30]]]], dtype=np.int16)
    result = scaled(data, Intensity(kind="zscore"))
    assert result.tolist() == [[[[-1, 1]]], [[[-1, 1]]]]


def test_two_rules_do_not_fit_three_channels() -> None:
    data = np.zeros((3, 1, 1, 1), dtype=np.uint8)
    rules = (Intensity(kind="none"), Intensity(kind="none"))
    with pytest.raises(VolumeError, match="head has 3 channels and there are 2"):
        fit_intensity(data, rules, "head")


@pytest.mark.parametrize("kind", ["window", "zscore", "percentile", "none"])
def test_a_block_is_scaled_as_it_is_in_the_whole(kind: str) -> None:
    data = np.random.default_rng(1).integers(-1000, 2000, (2, 6, 5, 4), dtype=np.int16)
    rule = Intensity.model_validate({"kind": kind})
    parameters = fit_intensity(data, (rule,))
    whole = apply_intensity(data, parameters)
    assert np.array_equal(apply_intensity(data[:, 2:4], parameters), whole[:, 2:4])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float64"])
def test_stored_values_are_left_as_they_are(dtype: str) -> None:
    data = row(1, 2, 3, dtype=dtype)
    result = scaled(data, Intensity(kind="zscore"))
    assert result.dtype == np.float32
    assert data.tolist() == [[[[1, 2, 3]]]]


def test_moments_hold_far_from_zero() -> None:
    data = 1e6 + np.random.default_rng(2).normal(size=(1, 40, 40, 40))
    (found,) = fit_intensity(data, (Intensity(kind="zscore"),))
    assert found.centre == pytest.approx(data.mean(), abs=1e-6)
    assert 1 / found.scale == pytest.approx(data.std(), rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=200),
    st.floats(0, 40),
    st.floats(60, 100),
)
def test_percentiles_equal_those_of_numpy(
    values: list[float], low: float, high: float
) -> None:
    data = row(*values, dtype="float32")
    rule = Intensity(kind="percentile", low_percentile=low, high_percentile=high)
    (found,) = fit_intensity(data, (rule,))
    if found.scale == 1.0:  # both percentiles are one value
        return
    ends = [found.centre, found.centre + 2 / found.scale]
    wide = np.ptp(data) / 65536
    for end, percentile in zip(ends, (low, high), strict=True):
        rank = round(percentile / 100 * (data.size - 1))
        assert abs(end - np.sort(data, axis=None)[rank]) <= wide


@pytest.mark.parametrize(
    "rule",
    [{"kind": "window", "low": 5, "high": 5}, {"low_percentile": 80,
     "high_percentile": 20}, {"kind": "sigmoid"}, {"windw": 3}],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Intensity.model_validate(rule)
