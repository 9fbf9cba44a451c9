"""One stage of training: steps, schedule, checkpoints, curves.

Methods hand in a network, where batches come from and an objective; everything else is
the same for all of them. A stage that is killed goes on from its last checkpoint and
ends with the same weights, bit for bit, on one device type, torch build and thread
count: batches come from a counter, and the checkpoint holds all other state.
"""

import json
import math
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdseg_train.config import Plateau, Training
from kdseg_train.patches import Batch
from napari_kdseg.atomic import publish_folder
from napari_kdseg.errors import RunError
from napari_kdseg.runs.run import Run

PROGRESS_SECONDS = 0.5
MOST_BAD_LOSSES = 3
VALIDATION_BATCHES = 8

Objective = Callable[[Batch], dict[str, Tensor]]


@runtime_checkable
class Source(Protocol):
    """Where batches come from; the same step gives the same batch."""

    def batch(self, step: int) -> Batch:
        """Batch of a step."""
        ...


@dataclass
class State:
    """What changes while a stage runs, besides weights and optimiser."""

    step: int = 0
    rate: float = 0.0
    smoothed: float | None = None
    best: float = math.inf
    epochs_without_gain: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0
    bad_losses: int = 0
    rollbacks: int = 0


@dataclass(frozen=True)
class Stage:
    """A network, what teaches it, and for how long.

    The objective returns the terms of the loss by name; their sum is minimised. It may
    run under autocast, so it brings what a network answers to float32 first.
    """

    name: str
    network: nn.Module
    objective: Objective
    source: Source
    settings: Training
    validation: Source | None = None
    """Batches of cases kept apart, for a curve beside that of the training."""


def train(stage: Stage, run: Run, device: torch.device) -> None:
    """Train one stage to its last step, from its checkpoint where there is one.

    After three losses or gradients in a row that are not finite, the stage goes back to
    where its last epoch ended (or where it began, or was resumed) and on from there at
    half the rate; the second time it gives up.

    Raises
    ------
    StopRequested
        When the run is asked to stop; the step it had reached is saved.
    RunError
        When the loss is not finite again after that.
    """
    network, settings = stage.network, stage.settings
    optimiser = new_optimiser(network, settings)
    checkpoint = Checkpoint(run.checkpoints / stage.name, network, optimiser)
    state = checkpoint.load() or State(rate=settings.learning_rate)
    good = Snapshot(network, optimiser, state)
    shown = Interval(PROGRESS_SECONDS)
    saved = Interval(settings.checkpoint_minutes * 60)
    network.train()
    while state.step < settings.steps:
        for batch in _ahead(stage.source, state.step, settings.steps):
            _step(stage, optimiser, state, batch.to(device))
            if state.bad_losses >= MOST_BAD_LOSSES:
                state = _rolled_back(stage, run, good, state)
                break
            if shown.is_over() or state.step == settings.steps:
                run.progress(state.step, settings.steps, stage=stage.name)
            if state.step % settings.iterations_per_epoch == 0:
                _end_epoch(stage, optimiser, state, run, device)
                good = good if state.bad_losses else Snapshot(network, optimiser, state)
            if run.stop_requested() or saved.is_over():
                checkpoint.save(state)
                run.check_stop()
    checkpoint.save(state)
    network.eval()


def _rolled_back(stage: Stage, run: Run, good: "Snapshot", broken: State) -> State:
    """Weights, optimiser and state of a good moment, to go on at half the rate."""
    found = (
        f"stage {stage.name}: the loss was not finite {MOST_BAD_LOSSES} times in a row "
        f"(step {broken.step})"
    )
    if broken.rollbacks:
        raise RunError(
            f"{found}, and again at half the rate; lower training.learning_rate."
        )
    state = good.restore()
    state.rollbacks = broken.rollbacks + 1
    run.warning(f"{found}; went back to step {state.step} and halved the rate.")
    return state


class Interval:
    """Says once in a number of seconds that they are over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.since = time.monotonic()

    def is_over(self) -> bool:
        """Whether the seconds have passed; if so they are counted anew."""
        now = time.monotonic()
        if now - self.since <= self.seconds:
            return False
        self.since = now
        return True


def new_optimiser(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Optimiser of a recipe for all parameters of a network."""
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.Adam(
        network.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        amsgrad=settings.amsgrad,
    )


def _ahead(source: Source, first: int, last: int) -> Iterator[Batch]:
    """Batches in order, the next one being drawn while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Batch] | None = None
        for step in range(first, last):
            batch = waiting.result() if waiting else source.batch(step)
            waiting = pool.submit(source.batch, step + 1) if step + 1 < last else None
            yield batch


def _step(
    stage: Stage, optimiser: torch.optim.Optimizer, state: State, batch: Batch
) -> None:
    settings = stage.settings
    for group in optimiser.param_groups:
        group["lr"] = _rate(settings, state)
    half = settings.precision == "bfloat16"
    with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=half):
        terms = stage.objective(batch)
    loss = torch.stack(list(terms.values())).sum()
    state.step += 1
    if not (torch.isfinite(loss) and _has_gradient(stage, optimiser, loss)):
        state.bad_losses += 1
        return
    state.bad_losses = 0
    optimiser.step()
    state.summed += 1
    for name, term in (*terms.items(), ("loss", loss)):
        state.sums[name] = state.sums.get(name, 0.0) + float(term.detach())


def _has_gradient(stage: Stage, optimiser: torch.optim.Optimizer, loss: Tensor) -> bool:
    """Put the gradient of a loss, clipped, where the optimiser looks for it.

    False where it is not finite: one step along it, and every weight would be NaN.
    """
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    parameters = list(stage.network.parameters())
    gradients = [value.grad for value in parameters if value.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if stage.settings.gradient_clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, stage.settings.gradient_clip, norm)
    return bool(torch.isfinite(norm))


def _rate(settings: Training, state: State) -> float:
    rate = state.rate if settings.schedule == "plateau" else settings.learning_rate
    if settings.schedule == "poly":
        rate *= (1 - state.step / settings.steps) ** 0.9
    return float(rate * 0.5**state.rollbacks)


@torch.no_grad()
def _validated(stage: Stage, device: torch.device) -> dict[str, float]:
    """Mean loss on the same few batches of cases kept apart."""
    if stage.validation is None:
        return {}
    stage.network.eval()
    losses = [
        float(torch.stack(list(stage.objective(batch.to(device)).values())).sum())
        for batch in map(stage.validation.batch, range(VALIDATION_BATCHES))
    ]
    stage.network.train()
    return {"validation_loss": sum(losses) / len(losses)}


def _end_epoch(
    stage: Stage,
    optimiser: torch.optim.Optimizer,
    state: State,
    run: Run,
    device: torch.device,
) -> None:
    settings = stage.settings
    count = settings.iterations_per_epoch
    means = {name: total / state.summed for name, total in state.sums.items()}
    state.sums, state.summed = {}, 0
    watched = means | _validated(stage, device)
    run.metric(
        stage=stage.name,
        step=state.step,
        epoch=state.step // count,
        learning_rate=optimiser.param_groups[0]["lr"],
        **watched,
    )
    name = {"training": "loss", "validation": "validation_loss"}
    loss = watched.get(name[settings.plateau.watch])
    if settings.schedule == "plateau" and loss is not None:
        watch_plateau(state, loss, settings.plateau)


def watch_plateau(state: State, loss: float, settings: Plateau) -> None:
    """Lower the rate when the smoothed loss has stopped falling.

    A reduction counts when it is larger than ``threshold``; after more than
    ``patience_epochs`` epochs without one the rate is multiplied by ``factor``. A loss
    that is not finite says nothing.
    """
    if not math.isfinite(loss):
        return
    previous = state.smoothed if state.smoothed is not None else loss
    state.smoothed = settings.smoothing * previous + (1 - settings.smoothing) * loss
    if state.smoothed < state.best - settings.threshold:
        state.best = state.smoothed
        state.epochs_without_gain = 0
        return
    state.epochs_without_gain += 1
    if state.epochs_without_gain > settings.patience_epochs:
        state.rate = max(state.rate * settings.factor, settings.minimum_rate)
        state.epochs_without_gain = 0


class Checkpoint:
    """Weights, optimiser and state of a stage in one folder, without pickle.

    The folder appears complete or not at all; the previous one stays until then.
    """

    def __init__(
        self, folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer
    ) -> None:
        self.folder = folder
        self.network = network
        self.optimiser = optimiser

    def save(self, state: State) -> None:
        """Write everything needed to go on from here."""
        new = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        save_file(_contiguous(self.network.state_dict()), new / "weights.safetensors")
        moments = _contiguous(_moments(self.optimiser))
        save_file(moments, new / "optimiser.safetensors")
        (new / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
        old = self.folder.with_name(f"{self.folder.name}.old")
        if self.folder.exists():  # else `old` is the only checkpoint there is
            shutil.rmtree(old, ignore_errors=True)
            self.folder.rename(old)
        publish_folder(new, self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def load(self) -> State | None:
        """Put weights and optimiser back; nothing where there is no checkpoint."""
        folder = self.folder
        if not folder.exists():
            folder = self.folder.with_name(f"{self.folder.name}.old")
        if not folder.exists():
            return None
        self.network.load_state_dict(load_file(folder / "weights.safetensors"))
        _put_moments(self.optimiser, load_file(folder / "optimiser.safetensors"))
        text = (folder / "state.json").read_text(encoding="utf-8")
        values: dict[str, Any] = json.loads(text)
        return State(**values)


class Snapshot:
    """Weights, optimiser and state of one moment, copied in memory."""

    def __init__(
        self, network: nn.Module, optimiser: torch.optim.Optimizer, state: State
    ) -> None:
        self.network, self.optimiser = network, optimiser
        self.state = asdict(state)
        self.weights = _copied(network.state_dict())
        self.moments = _copied(_moments(optimiser))

    def restore(self) -> State:
        """Put weights and optimiser back as they were."""
        self.network.load_state_dict(self.weights)
        _put_moments(self.optimiser, self.moments)
        return State(**{**self.state, "bad_losses": 0})


def _moments(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, under flat names."""
    return {
        f"{number}.{name}": value
        for number, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }


def _put_moments(optimiser: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        number, name = key.split(".", 1)
        entries.setdefault(int(number), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": entries, "param_groups": groups})


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.detach().to("cpu", copy=True) for name, value in tensors.items()
    }


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


@contextmanager
def seeded(seed: int, stage: str) -> Iterator[None]:
    """Context in which weights come from seed and stage; other draws go on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1_000_003 + zlib.crc32(stage.encode()))
        yield
