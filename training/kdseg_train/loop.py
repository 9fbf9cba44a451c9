"""One stage of training: steps, schedule, checkpoints, curves.

Methods hand in a network, where batches come from and an objective; everything else is
the same for all of them. A stage that is killed goes on from its last checkpoint and
ends with the same weights, bit for bit, on one device type, torch build, thread and
process count: batches come from a counter, and the checkpoint holds all other state.

Several processes may train a stage together (`ranks`): each has its share of every
batch, and all take every decision alike.
"""

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kdseg_train.checkpoint import Checkpoint, State
from kdseg_train.config import Plateau, Training
from kdseg_train.patches import Batch
from kdseg_train.ranks import here
from kdseg_train.watching import Look, Watched, is_pictured, look, write_pictures
from napari_kdseg.errors import RunError, StopRequested
from napari_kdseg.runs.run import Run

PROGRESS_SECONDS = 0.5
MOST_BAD_LOSSES = 3
VALIDATION_BATCHES = 8
GO_ON, SAVE, STOP = range(3)
"""What process 0 may choose after a step."""

Objective = Callable[[Batch], dict[str, Tensor]]


@runtime_checkable
class Source(Protocol):
    """Where batches come from; the same step gives the same batch."""

    def batch(self, step: int) -> Batch:
        """Batch of a step; of several processes, the share of this one."""
        ...


@dataclass(frozen=True)
class Stage:
    """A network, what teaches it, and for how long.

    The objective returns the terms of the loss by name; their sum is minimised, but for
    those that are ``only_told``. It may run under autocast, so it brings what a network
    answers to float32 first.
    """

    name: str
    network: nn.Module
    objective: Objective
    source: Source
    settings: Training
    validation: Source | None = None
    """Batches of cases kept apart, for a curve beside that of the training."""
    watched: Watched | None = None
    """How their Dice is measured and pictured; None: not at all."""
    only_told: frozenset[str] = frozenset()
    """Numbers among the terms that have a curve and are not minimised."""

    def loss(self, terms: dict[str, Tensor]) -> Tensor:
        """What is minimised."""
        parts = [value for name, value in terms.items() if name not in self.only_told]
        return torch.stack(parts).sum()


def train(stage: Stage, run: Run, device: torch.device) -> None:
    """Train one stage to its last step, from its checkpoint where there is one.

    After three losses or gradients in a row that are not finite, the stage goes back to
    where its last epoch ended (or where it began) and on from there at half the rate;
    the second time it gives up.

    Raises
    ------
    StopRequested
        When the run is asked to stop; the step it had reached is saved.
    RunError
        When the loss is not finite again after that; when several processes come to
        hold different weights.
    """
    with repeatable(device), here().stage(stage.name):
        _train(stage, run, device)


def _train(stage: Stage, run: Run, device: torch.device) -> None:
    network, settings = stage.network, stage.settings
    optimiser = new_optimiser(network, settings)
    checkpoint = Checkpoint(run.checkpoints / stage.name, network, optimiser)
    state = checkpoint.load()
    if state is None:
        state = State(rate=settings.learning_rate)
        checkpoint.keep_good(state)
    _check_alike(checkpoint, state, run, stage.name)
    shown = Interval(PROGRESS_SECONDS)
    saved = Interval(settings.checkpoint_minutes * 60)
    network.train()
    while state.step < settings.steps:
        for batch in _ahead(stage.source, state.step, settings.steps):
            _step(stage, optimiser, state, batch.to(device))
            if state.bad_losses >= MOST_BAD_LOSSES:
                state = _rolled_back(stage, run, checkpoint, state)
                break
            if shown.is_over() or state.step == settings.steps:
                run.progress(state.step, settings.steps, stage=stage.name)
            if state.step % settings.iterations_per_epoch == 0:
                _end_epoch(stage, checkpoint, state, run, device)
            _save_if_asked(checkpoint, state, run, saved)
    _check_alike(checkpoint, state, run, stage.name)
    if run.leads:
        checkpoint.save(state)
    network.eval()


def _save_if_asked(
    checkpoint: Checkpoint, state: State, run: Run, saved: "Interval"
) -> None:
    """Save where somebody asks to stop, and now and then; process 0 decides."""
    request = run.asked_to_stop()
    choice = here().decided(STOP if request else SAVE if saved.is_over() else GO_ON)
    if choice == GO_ON:
        return
    if run.leads:
        checkpoint.save(state)
    if choice == STOP:
        raise here().of_all(request or StopRequested("process 0 was asked to stop"))


def _check_alike(checkpoint: Checkpoint, state: State, run: Run, stage: str) -> None:
    """See that all processes hold the same, and tell it; nothing where one is alone."""
    if here().count > 1:
        found = here().check_alike(checkpoint.digest(state))
        run.event("alike", stage=stage, step=state.step, sha256=found)


def _rolled_back(
    stage: Stage, run: Run, checkpoint: Checkpoint, broken: State
) -> State:
    """Weights, optimiser and state of a good moment, to go on at half the rate."""
    found = (
        f"stage {stage.name}: the loss was not finite {MOST_BAD_LOSSES} times in a row "
        f"(step {broken.step})"
    )
    if broken.rollbacks:
        error = RunError(
            f"{found}, and again at half the rate; lower training.learning_rate."
        )
        raise here().of_all(error)
    state = checkpoint.roll_back()
    state.bad_losses, state.rollbacks = 0, broken.rollbacks + 1
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
    """Batches in order, the next one being drawn while this one is used.

    All are drawn in one other thread, also the first: how many threads an operation
    takes may differ from one thread to another, and with it the order of a sum.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(source.batch, first)
        for step in range(first + 1, last):
            batch = waiting.result()
            waiting = pool.submit(source.batch, step)
            yield batch
        yield waiting.result()


def _step(
    stage: Stage, optimiser: torch.optim.Optimizer, state: State, batch: Batch
) -> None:
    settings = stage.settings
    for group in optimiser.param_groups:
        group["lr"] = _rate(settings, state)
    half = settings.precision == "bfloat16"
    with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=half):
        terms = stage.objective(batch)
    loss = stage.loss(terms)
    state.step += 1
    found = here().mean(torch.stack([*terms.values(), loss]).detach())
    is_good = torch.isfinite(found[-1]) and _has_gradient(stage, optimiser, loss)
    # Not earlier: the way back reads them.
    here().average(_means_of_batches(stage.network))
    if not is_good:
        state.bad_losses += 1
        return
    state.bad_losses = 0
    optimiser.step()
    for name, value in zip((*terms, "loss"), found.tolist(), strict=True):
        state.sums[name] = state.sums.get(name, 0.0) + value
        state.counts[name] = state.counts.get(name, 0) + 1


def _means_of_batches(network: nn.Module) -> list[Tensor]:
    """What batch normalisation remembers, which each process sees a part of."""
    return [value for value in network.buffers() if value.is_floating_point()]


def _has_gradient(stage: Stage, optimiser: torch.optim.Optimizer, loss: Tensor) -> bool:
    """Put the gradient of a loss, clipped, where the optimiser looks for it.

    False where it is not finite: one step along it, and every weight would be NaN.
    """
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    parameters = list(stage.network.parameters())
    gradients = [value.grad for value in parameters if value.grad is not None]
    here().average(gradients)
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
def _validated(
    stage: Stage, step: int, device: torch.device
) -> tuple[dict[str, float], Look]:
    """Mean loss, Dice and pictures of the same few batches of cases kept apart.

    Terms are weighed as those of the training are at that step.
    """
    if stage.validation is None:
        return {}, Look({}, ())
    stage.network.eval()
    batches = [stage.validation.batch(number) for number in range(VALIDATION_BATCHES)]
    current = [replace(batch.to(device), step=step) for batch in batches]
    losses = [float(stage.loss(stage.objective(batch))) for batch in current]
    seen = Look({}, ())
    if stage.watched is not None:
        seen = look(stage.watched, batches, device)
    stage.network.train()
    mean = torch.tensor([sum(losses) / len(losses)], dtype=torch.float64, device=device)
    return {"validation_loss": float(here().mean(mean).item())}, seen


def _end_epoch(
    stage: Stage,
    checkpoint: Checkpoint,
    state: State,
    run: Run,
    device: torch.device,
) -> None:
    settings = stage.settings
    count = settings.iterations_per_epoch
    # Of the steps that had a term: some have terms of labels, others have not.
    means = {name: total / state.counts[name] for name, total in state.sums.items()}
    state.sums, state.counts = {}, {}
    validated, seen = _validated(stage, state.step, device)
    watched, epoch = means | validated, state.step // count
    run.metric(
        stage=stage.name,
        step=state.step,
        epoch=epoch,
        epochs=settings.epochs,
        learning_rate=checkpoint.optimiser.param_groups[0]["lr"],
        **watched,
        **seen.measured,
    )
    if run.leads and is_pictured(epoch, settings.epochs):
        write_pictures(run, stage.name, epoch, seen)
    name = {"training": "loss", "validation": "validation_loss"}
    loss = watched.get(name[settings.plateau.watch])
    if settings.schedule == "plateau" and loss is not None:
        watch_plateau(state, loss, settings.plateau)
    if not state.bad_losses:
        checkpoint.keep_good(state)


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


@contextmanager
def seeded(seed: int, stage: str) -> Iterator[None]:
    """Context in which weights come from seed and stage; other draws go on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1_000_003 + zlib.crc32(stage.encode()))
        yield


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Context in which a GPU computes the same from the same, bit for bit.

    Operations of torch that cannot do so warn and go on. Where other work uses the GPU
    at the same time from this process, cuBLAS promises it only with
    ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` in the environment.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, checks = torch.backends.cudnn, torch.utils.deterministic
    wanted = (
        (cudnn, "deterministic", True),
        (cudnn, "benchmark", False),
        (checks, "fill_uninitialized_memory", False),  # it costs time
    )
    before = [(place, name, getattr(place, name)) for place, name, _ in wanted]
    mode = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        _set(wanted)
        yield
    finally:
        _set(before)
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)


def _set(values: Iterable[tuple[object, str, bool]]) -> None:
    for place, name, value in values:
        setattr(place, name, value)
