"""What a training will take, before it is begun: memory at once, and time.

Each network is run forwards and backwards on one small patch, or on some of a batch
where patches are smaller than that, on the device that will train it. What autograd
keeps for the way back, and the time, grow with the voxels of a batch, so both follow
for the recipe's patch and batch. Bytes of a stage, in each process::

    4 P (1 + 1 + M)              weights, gradients, what the optimiser remembers
    + 4 P (1 + M)                on processors: the moment that a roll-back leads to
    + V (kept + 3 largest)       activations of V voxels, and what is at hand
    + 4 V (6 C)                  logits, probabilities, targets, and their gradients
    + 4 P' + 3 V largest'        each frozen teacher
    + 200 MB                     what torch sets up

with P the weights of the networks that learn, M 2 for Adam, 3 for its AMSGrad form, 1
for SGD; C the classes. The time is that of the networks: reading patches, validation
and the test are left out, and so is the Quality Classifier, which is small.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from kdseg_train.config import Recipe, Training
from kdseg_train.ranks import here
from napari_kdseg.amounts import counted, size
from napari_kdseg.errors import RunError
from napari_kdseg.free_memory import free_bytes
from napari_kdseg.inference.forward import pick_device
from napari_kdseg.models.networks import build
from napari_kdseg.models.parameters import NetworkSpec, parameters_of

SET_UP_BYTES = 200_000_000
LOSS_MAPS = 6
AT_HAND = 3
"""Layers whose values are at hand at once, besides those that are kept."""
TRIAL_VOXELS = 1 << 15
"""Fewer, and the time would be that of calling torch."""
REPEATS = 2
LONG_S = 2.0
"""A trial that took so long is not repeated."""


@dataclass(frozen=True)
class Net:
    """A network as a stage has it: what it sees, what it tells apart."""

    spec: NetworkSpec
    channels: int
    classes: int
    """Background included."""

    @classmethod
    def of(cls, recipe: Recipe, spec: NetworkSpec | None = None) -> "Net":
        """The recipe's network, or another, for all its channels and classes."""
        assert recipe.frozen is not None
        classes = len(recipe.frozen.classes) + 1
        return cls(spec or recipe.network_spec, len(recipe.frozen.channels), classes)

    def of_one_class(self) -> "Net":
        """The same for one class and background."""
        return replace(self, classes=2)

    def of_one_channel(self) -> "Net":
        """The same for a single channel."""
        return replace(self, channels=1)


@dataclass(frozen=True)
class Planned:
    """A stage that a training will come to.

    Attributes
    ----------
    learns, listens
        Networks that it trains at once, and frozen ones that it asks.
    times
        How many such stages there are.
    setting
        Of the recipe, where `settings` stands.
    """

    stage: str
    settings: Training
    learns: tuple[Net, ...]
    listens: tuple[Net, ...] = ()
    times: int = 1
    setting: str = "training"


@dataclass(frozen=True)
class StageEstimate:
    """What a stage will take, in each process."""

    stage: str
    steps: int
    memory_bytes: int
    seconds: float
    setting: str
    batch: int
    bytes_per_sample: int


@dataclass(frozen=True)
class Estimate:
    """What a training will take."""

    stages: tuple[StageEstimate, ...]
    device: str
    free_bytes: int
    """On the device, for one process, before the training begins."""
    processes: int = 1

    @property
    def memory_bytes(self) -> int:
        """Most memory at once, in each process."""
        return max((one.memory_bytes for one in self.stages), default=0)

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(one.seconds for one in self.stages)

    @property
    def in_words(self) -> str:
        """A line for whoever starts it."""
        steps = sum(one.steps for one in self.stages)
        each = " in each process" if self.processes > 1 else ""
        return (
            f"Foreseen: {size(self.memory_bytes)} of memory{each} "
            f"({size(self.free_bytes)} free on {self.device}), "
            f"{_duration(self.seconds)} for {counted(steps, 'step')}."
        )

    def as_json(self) -> dict[str, Any]:
        """Numbers for a program."""
        return {
            "device": self.device,
            "processes": self.processes,
            "free_bytes": self.free_bytes,
            "memory_bytes": self.memory_bytes,
            "seconds": round(self.seconds, 1),
            "fits": self.memory_bytes <= self.free_bytes,
            "stages": [asdict(one) for one in self.stages],
        }

    def check_fits(self) -> None:
        """Refuse a training that the memory is too small for.

        Raises
        ------
        RunError
            Naming the stage, and a batch that fits, where one does.
        """
        if self.memory_bytes <= self.free_bytes:
            return
        worst = max(self.stages, key=lambda one: one.memory_bytes)
        raise RunError(
            f"stage {worst.stage} needs about {size(worst.memory_bytes)} and "
            f"{size(self.free_bytes)} are free on {self.device}; "
            f"{self._fix(worst)}, or try it all the same with --force."
        )

    def _fix(self, worst: StageEstimate) -> str:
        over = worst.memory_bytes - self.free_bytes
        samples = -(-over // worst.bytes_per_sample)
        # Samples of one process; the recipe names those of all.
        batch = (worst.batch - samples) * self.processes
        if batch > 0:
            return f"set {worst.setting}.batch to {batch}"
        return "take a smaller patch_vox or a narrower network"


def foresee(plans: Sequence[Planned], recipe: Recipe) -> Estimate:
    """Foresee what stages will take here, by running each network once.

    Raises
    ------
    RunError
        Where the device has no room even for that.
    """
    device = torch.device(pick_device(recipe.device))
    precision = recipe.training.precision
    probes = _Probes(device, recipe.patch_vox, half=precision == "bfloat16")
    stages = tuple(
        _of_stage(plan, recipe.patch_vox, probes) for plan in plans if plan.times
    )
    return Estimate(stages, str(device), _free_bytes(device), here().count)


def _of_stage(
    plan: Planned, patch_vox: Sequence[int], probes: "_Probes"
) -> StageEstimate:
    settings = plan.settings
    batch = len(here().share(settings.batch, f"{plan.setting}.batch"))
    voxels = prod(patch_vox)
    learns = [probes.of(net, batch) for net in plan.learns]
    listens = [probes.of(net, batch) for net in plan.listens]
    moments = 1 if settings.optimiser == "sgd" else 3 if settings.amsgrad else 2
    copies = 2 + moments + (1 + moments) * (probes.device.type == "cpu")
    fixed = SET_UP_BYTES + copies * sum(one.weights for one in learns)
    fixed += sum(one.weights for one in listens)
    each = sum(one.kept + AT_HAND * one.largest for one in learns)
    each += 4 * LOSS_MAPS * sum(net.classes for net in plan.learns)
    each += AT_HAND * max((one.largest for one in listens), default=0)
    each += 4 * sum(net.classes for net in plan.listens)
    seconds = sum(one.both_ways for one in learns) + sum(one.there for one in listens)
    steps = settings.steps * plan.times
    return StageEstimate(
        stage=plan.stage if plan.times == 1 else f"{plan.stage} ({plan.times} of them)",
        steps=steps,
        memory_bytes=int(fixed + batch * voxels * each),
        seconds=steps * batch * voxels * seconds,
        setting=plan.setting,
        batch=batch,
        bytes_per_sample=int(voxels * each),
    )


# ---- one network ----


@dataclass(frozen=True)
class _Probe:
    """What a network takes: bytes of its weights; bytes and seconds a voxel."""

    weights: int
    kept: float
    largest: float
    there: float
    both_ways: float


class _Probes:
    """Runs networks on some voxels and remembers what they took."""

    def __init__(
        self, device: torch.device, patch_vox: Sequence[int], *, half: bool
    ) -> None:
        self.device = device
        self.patch_vox = patch_vox
        self.half = half
        self._known: dict[str, _Probe] = {}

    def of(self, net: Net, batch: int) -> _Probe:
        """What a network takes where a step has so many samples."""
        patch = self._patch(net.spec)
        count = max(1, min(batch, TRIAL_VOXELS // prod(patch)))
        key = f"{net.spec.model_dump_json()} {net.channels} {net.classes} {count}"
        if key not in self._known:
            with torch.random.fork_rng(devices=[]), _having_room(self.device):
                self._known[key] = self._run(net, (count, net.channels, *patch))
        return self._known[key]

    def _run(self, net: Net, shape: tuple[int, ...]) -> _Probe:
        network = build(net.spec, net.channels, net.classes).to(self.device)
        # By shape, since autocast makes copies of them.
        own = {value.shape for value in network.parameters()}
        voxels = prod(shape) // net.channels
        image = torch.zeros(shape, device=self.device)
        kept: dict[int, int] = {}

        def note(value: Tensor) -> Tensor:
            if value.shape not in own:
                kept[value.data_ptr()] = value.numel() * value.element_size()
            return value

        there, both = [], []
        for _ in range(REPEATS):
            kept.clear()
            began = self._now()
            hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda value: value)
            with (
                hooks,
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.half),
            ):
                logits = network(image)
            there.append(self._now() - began)
            logits.float().square().mean().backward()
            both.append(self._now() - began)
            if both[0] > LONG_S:
                break
        weights = sum(v.numel() * v.element_size() for v in network.parameters())
        total, most = sum(kept.values()), max(kept.values(), default=0)
        numbers = (total, most, min(there), min(both))
        return _Probe(weights, *(number / voxels for number in numbers))

    def _patch(self, spec: NetworkSpec) -> tuple[int, ...]:
        """A patch of about so many voxels; on a GPU the recipe's own."""
        if self.device.type != "cpu":
            return tuple(self.patch_vox)
        unit = parameters_of(spec).divisor
        sides = [unit] * (len(self.patch_vox) - 1) + [2 * unit]
        sides = [min(pair) for pair in zip(sides, self.patch_vox, strict=True)]
        grows = True
        while grows:
            grows = False
            for axis, limit in enumerate(self.patch_vox):
                wider = [*sides[:axis], sides[axis] + unit, *sides[axis + 1 :]]
                if wider[axis] <= limit and prod(wider) <= TRIAL_VOXELS:
                    sides, grows = wider, True
        return tuple(sides)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@contextmanager
def _having_room(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"one patch of this recipe does not fit into the memory of {device}; take "
            "a smaller patch_vox or a narrower network, or try it with --force."
        ) from error


# ---- the machine, and words ----


def _free_bytes(device: torch.device) -> int:
    """Memory that this process may still take of the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the trial took
        return int(torch.cuda.mem_get_info(device)[0])
    return free_bytes() // here().neighbours


def _duration(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return counted(round(seconds / length), unit)
    return counted(max(round(seconds), 1), "second")
