"""Presets, and their cost as it was measured."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from napari_kdseg.inference.presets import cost_in_words, record_cost, with_preset
from napari_kdseg.inference.settings import Settings

Make = Callable[..., Any]


def test_exact_leaves_everything_to_the_card() -> None:
    assert with_preset(Settings(), "exact") == Settings()


def test_fast_takes_a_step_of_eight_tenths() -> None:
    assert with_preset(Settings(), "fast").overlap == 0.2


def test_what_was_chosen_by_hand_stays() -> None:
    chosen = Settings(overlap=0.5, backend="openvino")
    assert with_preset(chosen, "draft") == replace(chosen)


def test_the_cost_told_is_the_cost_measured(make_model: Make) -> None:
    model = make_model()
    assert cost_in_words(model, "fast") == "not measured for model"
    record_cost(model, "fast", 0.00123, 0.41)
    record_cost(model, "draft", -0.0004, 0.2)
    assert (
        "Dice 0.0012 lower where windows cut the organs, 0.41 of the time"
        in cost_in_words(model, "fast")
    )
    assert "Dice 0.0004 higher where windows cut the organs, 0.20 of" in cost_in_words(
        model, "draft"
    )
