"""Curves from events: which there are, resumed runs, and how they are thinned."""

import json
from pathlib import Path
from typing import Any

from napari_kdseg.runs.curves import Curve, Curves
from napari_kdseg.runs.run import Run


def epoch(number: int, loss: float, stage: str = "training", **more: Any) -> dict:
    return {
        "event": "metric",
        "stage": stage,
        "step": 10 * number,
        "epoch": number,
        "epochs": 4,
        "learning_rate": 0.01,
        "dice": loss / 2,
        "loss": loss,
    } | more


def test_the_whole_loss_comes_first_then_validation_then_the_terms() -> None:
    curves = Curves()
    assert curves.take([epoch(1, 2.0, validation_loss=3.0)])
    stage = curves.stages["training"]
    assert list(stage.losses) == ["loss", "validation_loss", "dice"]
    assert stage.losses["dice"].values == [1.0]
    assert stage.epochs == 4


def test_dice_is_kept_by_class_and_as_their_mean() -> None:
    said = {"validation_dice": 0.5, "validation_dice_of": {"liver": 0.4, "gut": 0.6}}
    curves = Curves()
    curves.take([epoch(1, 2.0, **said)])
    dice = curves.stages["training"].dice
    assert {name: curve.values for name, curve in dice.items()} == {
        "mean": [0.5],
        "liver": [0.4],
        "gut": [0.6],
    }


def test_what_a_resumed_run_does_again_takes_the_place_of_what_was() -> None:
    curves = Curves()
    curves.take([epoch(1, 3.0), epoch(2, 2.0), epoch(3, 1.0)])
    curves.take([{"event": "resumed"}, epoch(2, 2.5)])
    curve = curves.stages["training"].losses["loss"]
    assert (curve.epochs, curve.values) == ([1, 2], [3.0, 2.5])


def test_progress_and_scores_of_the_test_are_no_curves() -> None:
    curves = Curves()
    told = [
        {"event": "progress", "stage": "training", "step": 1, "total": 2},
        {"event": "metric", "stage": "test", "organ": "liver", "dice": 0.9},
        {"event": "metric", "stage": "student", "slices": 12},
    ]
    assert not curves.take(told)
    assert not curves.stages


def test_a_loss_that_was_not_finite_leaves_a_gap() -> None:
    curves = Curves()
    curves.take([epoch(1, 3.0), {**epoch(2, 0.0), "loss": None}, epoch(3, 1.0)])
    assert curves.stages["training"].losses["loss"].epochs == [1, 3]


def test_examples_of_a_stage_follow_one_another() -> None:
    def example(number: int) -> dict:
        file = f"examples/training/{number:06d}.png"
        return {"event": "example", "stage": "training", "epoch": number, "file": file}

    curves = Curves()
    curves.take([example(1), example(2), example(2)])
    assert [one.epoch for one in curves.stages["training"].examples] == [1, 2]


def test_a_thinned_curve_keeps_its_last_point() -> None:
    curve = Curve("loss")
    for number in range(1, 1001):
        curve.put(number, float(number))
    epochs, values = curve.thinned(100)
    assert len(epochs) == 100
    assert epochs[-1] == values[-1] == 1000
    assert epochs[1] - epochs[0] == 10
    assert Curve("empty").thinned(10) == ([], [])


def test_a_hundred_thousand_events_are_read_by_pieces_as_at_once(
    tmp_path: Path,
) -> None:
    run = Run.create(tmp_path / "run", {"version": 1, "command": "fit"})
    lines = []
    for number in range(1, 10_001):
        step = {"event": "progress", "stage": "training", "step": number, "total": 9}
        lines += [json.dumps(step)] * 9 + [json.dumps(epoch(number, 1 / number))]
    text = "\n".join(lines) + "\n"
    run.events_path.write_text(text[: len(text) // 3])
    pieces, whole = Curves(), Curves()
    events, byte = run.events()
    pieces.take(events)
    run.events_path.write_text(text)
    pieces.take(run.events(byte)[0])
    whole.take(run.events()[0])
    loss = whole.stages["training"].losses["loss"]
    assert len(loss.epochs) == 10_000
    assert pieces == whole
