"""Stages: they learn, stop, and go on where they were."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdseg_train.config import Plateau, Training
from kdseg_train.loop import Checkpoint, Stage, State, seeded, train, watch_plateau
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
        return Batch(image, labels, torch.ones(4, 1, dtype=torch.bool))


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
