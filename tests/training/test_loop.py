"""Stages: they learn, stop, and go on where they were."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdseg_train.checkpoint import Checkpoint, State
from kdseg_train.config import Plateau, Training
from kdseg_train.loop import (
    Stage,
    new_optimiser,
    repeatable,
    seeded,
    train,
    watch_plateau,
)
from kdseg_train.patches import Batch
from napari_kdseg.errors import RunError, StopRequested
from napari_kdseg.runs.run import Run

CPU = torch.device("cpu")
SETTINGS = Training(epochs=4, iterations_per_epoch=5, learning_rate=0.05)


class Line:
    """Batches on a line; the same step gives the same batch."""

    def __init__(self, run: Run | None = None, stop_at: int | None = None) -> None:
        self.run, self.stop_at = run, stop_at

    def batch(self, step: int) -> Batch:
        if self.run is not None and step == self.stop_at:
            self.run.request_stop()
        generator = torch.Generator().manual_seed(step)
        image = torch.randn(4, 1, 2, 2, generator=generator)
        labels = torch.zeros(4, 2, 2, dtype=torch.int64)
        return Batch(image, labels, torch.ones(4, 1, dtype=torch.bool), step)


def stage_of(source: Line, settings: Training = SETTINGS) -> Stage:
    with seeded(0, "line"):
        network = nn.Conv2d(1, 1, 1)

    def objective(batch: Batch) -> dict[str, Tensor]:
        return {"squares": (network(batch.image) - 3 * batch.image).square().mean()}

    return Stage("line", network, objective, source, settings)


def weights(stage: Stage) -> list[float]:
    return [float(value) for value in stage.network.parameters()]


def new_run(folder: Path) -> Run:
    return Run.create(folder, {"version": 1, "command": "fit"})


def test_a_stage_lowers_its_loss(tmp_path: Path) -> None:
    run, stage = new_run(tmp_path / "run"), stage_of(Line())
    train(stage, run, CPU)
    events, _ = run.events()
    losses = [event["loss"] for event in events if event["event"] == "metric"]
    assert len(losses) == SETTINGS.epochs
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("schedule", ["plateau", "poly"])
def test_a_stopped_stage_goes_on_to_the_same_weights(
    tmp_path: Path, schedule: str
) -> None:
    settings = SETTINGS.model_copy(update={"schedule": schedule})
    whole = stage_of(Line(), settings)
    train(whole, new_run(tmp_path / "whole"), CPU)

    run = new_run(tmp_path / "stopped")
    with pytest.raises(StopRequested):
        train(stage_of(Line(run, stop_at=7), settings), run, CPU)
    (run.folder / "stop").unlink(missing_ok=True)
    resumed = stage_of(Line(), settings)
    train(resumed, run, CPU)
    assert weights(resumed) == weights(whole)


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    run, stage = new_run(tmp_path / "run"), stage_of(Line())
    train(stage, run, CPU)
    names = {path.name for path in (run.checkpoints / "line").iterdir()}
    assert names == {"weights.safetensors", "optimiser.safetensors", "state.json"}


def test_a_save_that_dies_halfway_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    stage = stage_of(Line())
    optimiser = torch.optim.Adam(stage.network.parameters())
    checkpoint = Checkpoint(tmp_path / "line", stage.network, optimiser)
    checkpoint.save(State(step=3))
    # killed after the old folder was moved away, before the new one took its name
    (tmp_path / "line").rename(tmp_path / "line.old")
    state = checkpoint.load()
    assert state is not None
    assert state.step == 3


def test_the_moment_to_roll_back_to_stays_the_same_however_often_it_is_gone_to(
    tmp_path: Path,
) -> None:
    stage = stage_of(Line())
    optimiser = new_optimiser(stage.network, SETTINGS)
    checkpoint = Checkpoint(tmp_path / "line", stage.network, optimiser)

    def steps(*numbers: int) -> None:
        for number in numbers:
            optimiser.zero_grad()
            stage.objective(Line().batch(number))["squares"].backward()
            optimiser.step()

    steps(0, 1)
    checkpoint.keep_good(State(step=2, sums={"loss": 1.0}))
    steps(2, 3)
    wanted = weights(stage)
    for _ in range(2):
        state = checkpoint.roll_back()
        state.sums["loss"] += 1  # what goes on from there must not change it
        assert state.sums == {"loss": 2.0}
        steps(2, 3)
        assert weights(stage) == wanted


def test_batches_are_all_drawn_in_one_other_thread(tmp_path: Path) -> None:
    threads: list[int] = []

    class Watched(Line):
        def batch(self, step: int) -> Batch:
            threads.append(threading.get_ident())
            return super().batch(step)

    train(stage_of(Watched()), new_run(tmp_path / "run"), CPU)
    assert len(threads) == SETTINGS.steps
    assert len({*threads}) == 1
    assert threading.get_ident() not in threads


def test_a_loss_that_stays_infinite_ends_the_run_with_the_step(tmp_path: Path) -> None:
    stage = stage_of(Line())
    broken = Stage(
        "line",
        stage.network,
        lambda batch: {"loss": batch.image.sum() * float("inf")},
        Line(),
        SETTINGS,
    )
    with pytest.raises(RunError, match="step 3"):
        train(broken, new_run(tmp_path / "run"), CPU)


def test_the_rate_falls_to_a_fifth_when_the_loss_stands_still() -> None:
    state = State(rate=1.0)
    settings = Plateau(patience_epochs=2, smoothing=0.0)
    for _ in range(3):  # the first epoch is a gain over nothing
        watch_plateau(state, 1.0, settings)
    assert state.rate == 1.0
    watch_plateau(state, 1.0, settings)  # the third without a gain
    assert state.rate == pytest.approx(0.2)


def test_a_reduction_below_the_threshold_is_none() -> None:
    state = State(rate=1.0)
    settings = Plateau(patience_epochs=0, smoothing=0.0)
    watch_plateau(state, 1.0, settings)
    watch_plateau(state, 0.9995, settings)
    assert state.rate == pytest.approx(0.2)


def test_the_same_seed_draws_the_same_weights_and_other_draws_go_on() -> None:
    torch.manual_seed(1)
    first = torch.rand(1)
    torch.manual_seed(1)
    with seeded(5, "a"):
        one = torch.rand(3)
    assert torch.equal(torch.rand(1), first)
    with seeded(5, "a"):
        assert torch.equal(torch.rand(3), one)
    with seeded(5, "b"):
        assert not torch.equal(torch.rand(3), one)


def test_cases_kept_apart_have_a_curve_of_their_own_and_teach_nothing(
    tmp_path: Path,
) -> None:
    alone, beside = stage_of(Line()), stage_of(Line())
    train(alone, new_run(tmp_path / "alone"), CPU)
    run = new_run(tmp_path / "beside")
    watched = Stage(
        "line", beside.network, beside.objective, Line(), SETTINGS, validation=Line()
    )
    train(watched, run, CPU)
    events, _ = run.events()
    curve = [e["validation_loss"] for e in events if e["event"] == "metric"]
    assert len(curve) == SETTINGS.epochs
    assert curve[-1] < curve[0]
    assert weights(beside) == weights(alone)


def test_a_term_of_every_other_step_is_averaged_over_its_own_steps(
    tmp_path: Path,
) -> None:
    stage, run = stage_of(Line()), new_run(tmp_path)

    def objective(batch: Batch) -> dict[str, Tensor]:
        other = {"even": torch.tensor(-1.0)} if batch.step % 2 == 0 else {}
        return stage.objective(batch) | other

    train(replace(stage, objective=objective), run, CPU)
    curve = [e["even"] for e in run.events()[0] if e["event"] == "metric"]
    assert curve == [-1.0] * SETTINGS.epochs


def test_what_is_only_told_has_a_curve_and_teaches_nothing(tmp_path: Path) -> None:
    alone, beside = stage_of(Line()), stage_of(Line())
    train(alone, new_run(tmp_path / "alone"), CPU)

    def objective(batch: Batch) -> dict[str, Tensor]:
        doubled = 2 * sum(value.sum() for value in beside.network.parameters())
        return beside.objective(batch) | {"share": doubled}

    run, told = new_run(tmp_path / "beside"), frozenset({"share"})
    train(replace(beside, objective=objective, only_told=told), run, CPU)
    assert weights(beside) == weights(alone)
    last = [e for e in run.events()[0] if e["event"] == "metric"][-1]
    assert last["loss"] == last["squares"] != last["share"]


def test_terms_of_cases_kept_apart_are_weighed_as_those_of_the_training(
    tmp_path: Path,
) -> None:
    stage, seen = stage_of(Line()), []

    def objective(batch: Batch) -> dict[str, Tensor]:
        if not torch.is_grad_enabled():
            seen.append(batch.step)
        return stage.objective(batch)

    watched = replace(stage, objective=objective, validation=Line())
    train(watched, new_run(tmp_path), CPU)
    assert sorted(set(seen)) == [5, 10, 15, 20]


# ---- losses that are not finite ----


def broken_at(
    stage: Stage,
    *steps: int,
    always_from: int = 10**9,
    seen: list[int] | None = None,
    stop: Callable[[int], None] = lambda step: None,
) -> Stage:
    """The same stage, whose loss is infinite in some steps of the first attempt.

    `seen` are the steps of earlier executions; `stop` may end this one.
    """
    seen = [] if seen is None else seen

    def objective(batch: Batch) -> dict[str, Tensor]:
        terms = stage.objective(batch)
        first = batch.step not in seen
        seen.append(batch.step)
        stop(len(seen))
        if batch.step >= always_from or (first and batch.step in steps):
            terms["broken"] = batch.image.sum() * float("inf")
        return terms

    return Stage("line", stage.network, objective, Line(), stage.settings)


def warnings_of(run: Run) -> list[str]:
    return [e["message"] for e in run.events()[0] if e["event"] == "warning"]


def test_three_infinite_losses_go_back_to_the_end_of_the_last_epoch_at_half_the_rate(
    tmp_path: Path,
) -> None:
    run, stage = new_run(tmp_path / "run"), stage_of(Line())
    train(broken_at(stage, 6, 7, 8), run, CPU)
    (warning,) = warnings_of(run)
    assert "step 9" in warning
    assert "went back to step 5" in warning
    rates = [e["learning_rate"] for e in run.events()[0] if e["event"] == "metric"]
    assert rates == [0.05, 0.025, 0.025, 0.025]


def test_what_was_rolled_back_to_is_what_was_left(tmp_path: Path) -> None:
    # a stage of one epoch ends where the other one goes back to
    short = stage_of(Line(), SETTINGS.model_copy(update={"epochs": 1}))
    train(short, new_run(tmp_path / "short"), CPU)
    stage = stage_of(Line())
    found: list[list[float]] = []

    def objective(batch: Batch) -> dict[str, Tensor]:
        if batch.step == 5:
            found.append(weights(stage))
        terms = stage.objective(batch)
        if batch.step in (6, 7, 8) and len(found) == 1:
            terms["broken"] = batch.image.sum() * float("nan")
        return terms

    train(
        Stage("line", stage.network, objective, Line(), SETTINGS),
        new_run(tmp_path / "run"),
        CPU,
    )
    assert found == [weights(short), weights(short)]


# steps from 0: 0 to 8, of which 6 to 8 are bad, then back to the fifth: 5, 6, ...
@pytest.mark.parametrize("taken", [6, 7, 8, 10, 13])
def test_a_stage_stopped_about_a_roll_back_ends_with_the_same_weights(
    tmp_path: Path, taken: int
) -> None:
    whole = stage_of(Line())
    train(broken_at(whole, 6, 7, 8), new_run(tmp_path / "whole"), CPU)

    run, seen = new_run(tmp_path / "stopped"), list[int]()

    def stop(count: int) -> None:
        if count == taken:
            run.request_stop()

    with pytest.raises(StopRequested):
        train(broken_at(stage_of(Line()), 6, 7, 8, seen=seen, stop=stop), run, CPU)
    assert (run.checkpoints / "line" / "good" / "state.json").exists()
    (run.folder / "stop").unlink()
    resumed = stage_of(Line())
    train(broken_at(resumed, 6, 7, 8, seen=seen), run, CPU)
    assert weights(resumed) == weights(whole)
    (warning,) = warnings_of(run)
    assert "went back to step 5" in warning


def test_two_infinite_losses_are_only_left_out(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    train(broken_at(stage_of(Line()), 6, 7), run, CPU)
    assert warnings_of(run) == []


def test_the_second_time_the_run_ends_with_the_step(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"step 10.*again at half the rate"):
        train(broken_at(stage_of(Line()), always_from=7), run, CPU)
    assert len(warnings_of(run)) == 1


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    tmp_path: Path,
) -> None:
    stage = stage_of(Line())
    (weight, _) = stage.network.parameters()

    def objective(batch: Batch) -> dict[str, Tensor]:
        terms = stage.objective(batch)
        if batch.step == 2:  # the root of 0 is finite, its slope is not
            terms["root"] = (weight.sum() - weight.detach().sum()).sqrt()
        return terms

    train(
        Stage("line", stage.network, objective, Line(), SETTINGS),
        new_run(tmp_path / "run"),
        CPU,
    )
    assert all(torch.isfinite(value).all() for value in stage.network.parameters())


def test_a_loss_that_is_not_finite_is_no_best() -> None:
    state = State(rate=1.0)
    settings = Plateau(patience_epochs=0, smoothing=0.5)
    watch_plateau(state, 1.0, settings)
    watch_plateau(state, float("nan"), settings)
    watch_plateau(state, float("-inf"), settings)
    assert (state.best, state.smoothed, state.rate) == (1.0, 1.0, 1.0)


# ---- what a GPU is asked for ----


def asked_of_a_gpu() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )


def test_a_gpu_is_asked_to_repeat_itself_while_it_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = asked_of_a_gpu()
    assert before == (False, False, False, True)

    def fail() -> None:
        assert asked_of_a_gpu() == (True, True, True, False)
        raise RunError("full.")

    with pytest.raises(RunError), repeatable(torch.device("cuda")):
        fail()
    assert asked_of_a_gpu() == before


def test_a_processor_is_asked_for_nothing() -> None:
    before = asked_of_a_gpu()
    with repeatable(CPU):
        assert asked_of_a_gpu() == before


# ---- the optimiser, and what the rate follows ----


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_takes_the_step_worked_out_by_hand(nesterov: bool) -> None:
    # w = 1, gradient 2, rate 0.1, momentum 0.5: the buffer is 2, nesterov adds
    # 0.5 times the buffer to the gradient; step 2: buffer 0.5 * 2 + 2 = 3
    settings = Training(
        optimiser="sgd",
        learning_rate=0.1,
        momentum=0.5,
        nesterov=nesterov,
        weight_decay=0,
    )
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    optimiser = new_optimiser(network, settings)
    for _ in range(2):
        network.weight.grad = torch.full((1, 1), 2.0)
        optimiser.step()
    steps = (2 + 0.5 * 2) + (2 + 0.5 * 3) if nesterov else 2 + 3
    assert network.weight.item() == pytest.approx(1 - 0.1 * steps)


def test_a_stopped_stage_with_sgd_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"optimiser": "sgd", "learning_rate": 1e-3})
    whole = stage_of(Line(), settings)
    train(whole, new_run(tmp_path / "whole"), CPU)
    run = new_run(tmp_path / "stopped")
    with pytest.raises(StopRequested):
        train(stage_of(Line(run, stop_at=7), settings), run, CPU)
    (run.folder / "stop").unlink(missing_ok=True)
    resumed = stage_of(Line(), settings)
    train(resumed, run, CPU)
    assert weights(resumed) == weights(whole)


def test_the_rate_may_follow_the_cases_kept_apart(tmp_path: Path) -> None:
    plateau = Plateau(patience_epochs=0, smoothing=0, threshold=1e9, watch="validation")
    settings = SETTINGS.model_copy(update={"plateau": plateau})
    stage = stage_of(Line(), settings)
    alone, beside = new_run(tmp_path / "alone"), new_run(tmp_path / "beside")
    train(stage, alone, CPU)
    watched = stage_of(Line(), settings)
    train(replace(watched, validation=Line()), beside, CPU)
    rates = [
        [e["learning_rate"] for e in run.events()[0] if e["event"] == "metric"]
        for run in (alone, beside)
    ]
    assert rates[0] == [0.05] * 4  # there was nothing to follow
    assert rates[1] == pytest.approx([0.05, 0.05, 0.01, 0.002])


def test_several_networks_may_be_trained_in_one_stage(tmp_path: Path) -> None:
    with seeded(0, "pair"):
        pair = nn.ModuleDict({"one": nn.Conv2d(1, 1, 1), "other": nn.Conv2d(1, 1, 1)})

    def objective(batch: Batch) -> dict[str, Tensor]:
        return {
            name: (network(batch.image) - batch.image).square().mean()
            for name, network in pair.items()
        }

    run = new_run(tmp_path / "run")
    train(Stage("pair", pair, objective, Line(), SETTINGS), run, CPU)
    again = nn.ModuleDict({"one": nn.Conv2d(1, 1, 1), "other": nn.Conv2d(1, 1, 1)})
    Checkpoint(run.checkpoints / "pair", again, new_optimiser(again, SETTINGS)).load()
    for name, value in pair.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
