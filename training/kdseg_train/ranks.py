"""The processes that train together: one each GPU, or several on processors.

``torchrun`` starts the same command in each. Process 0 leads: it alone prepares cases,
writes the run folder and tests. The others follow one stage behind: each waits until
process 0 has come to a stage, does what leads there from what lies on the disk by then,
and trains that stage with it. A process that nobody started so is alone, and for it
everything here is nothing.

Each takes its part of every batch, which is drawn from a counter; gradients are
averaged after each step. Sums over a batch, such as those in Dice, go over the parts of
all (`summed`), so the loss is that of the whole batch, up to rounding.

Gradients are not averaged by torch's DistributedDataParallel. It orders them anew after
the first step of each execution, and with three processes or more the order decides the
last bits of a sum, so a resumed training would end elsewhere. Here the order is fixed.
"""

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from napari_kdseg.errors import KdsegError, RecipeError, RunError, UsageError
from napari_kdseg.extras import not_installed
from napari_kdseg.inference.forward import pick_device

STEP_TIMEOUT = timedelta(minutes=30)
"""So long one process waits for another within a stage; a checkpoint takes less."""
STAGE_TIMEOUT = timedelta(days=30)
"""Between stages, where process 0 prepares and tests; one that dies is noticed."""
BUCKET_VALUES = 1 << 24


class OthersLost(RunError):  # noqa: N818 - it says what happened
    """Another process of the training has died, or does not answer."""


class LeaderSpeaks(KdsegError):  # noqa: N818 - an order, not an error
    """Ends the work of a follower, where process 0 says why."""


@dataclass
class Ranks:
    """One process among those that train together.

    Attributes
    ----------
    number, count
        From 0; of how many.
    device
        Of this process, as a recipe names it.
    between
        Those same processes, for what is said between stages.
    neighbours
        How many of them share a machine with this one, itself included.
    """

    number: int = 0
    count: int = 1
    device: str = "cpu"
    between: Any = None
    neighbours: int = 1
    _in_stage: bool = False
    _told: str | None = None

    @property
    def leads(self) -> bool:
        """Whether it is process 0, which writes what the run makes."""
        return self.number == 0

    def share(self, batch: int, setting: str = "training.batch") -> range:
        """Which samples of a batch are this process's, from 0.

        Raises
        ------
        RecipeError
            Where the processes cannot share the batch evenly.
        """
        each, rest = divmod(batch, self.count)
        if rest:
            fits = " or ".join(str(n * self.count) for n in (each, each + 1) if n)
            raise RecipeError(
                f"{setting} is {batch}, which {self.count} processes cannot share "
                f"evenly; set it to {fits}, or start as many processes as divide it."
            )
        return range(self.number * each, (self.number + 1) * each)

    # ---- within a stage ----

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes; not finite where one is not."""
        if self.count == 1:
            return values
        total = values.clone()
        self._reduce(total)
        return total / self.count

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over the processes in the place of each, in the given order."""
        if self.count == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([one.reshape(-1) for one in bucket])
            self._reduce(flat)
            parts = (flat / self.count).split([one.numel() for one in bucket])
            for one, part in zip(bucket, parts, strict=True):
                one.copy_(part.view(one.shape))

    def decided(self, choice: int) -> int:
        """What process 0 has chosen."""
        if self.count == 1:
            return choice
        word = torch.tensor([choice], device=self.device)
        with _losing_others(self):
            dist.broadcast(word, src=0)
        return int(word.item())

    def of_all(self, error: KdsegError) -> KdsegError:
        """What to raise where all processes have decided to end so."""
        self._in_stage = False
        return error if self.leads else LeaderSpeaks(str(error))

    def _reduce(self, values: Tensor) -> None:
        with _losing_others(self):
            dist.all_reduce(values)

    # ---- between stages ----

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Context in which all processes train a stage."""
        if self.count == 1:
            yield
            return
        if self.leads:
            self._say(name)
        elif self._told != name:
            raise RunError(
                f"process {self.number} has come to stage {name} and process 0 to "
                f"{self._told}; do all see the same folders?"
            )
        self._in_stage = True
        yield
        self._in_stage = False
        if not self.leads:
            self.wait()

    def check_alike(self, digest: str) -> list[str]:
        """What each process holds, where that is the same.

        Raises
        ------
        RunError
            Where it is not.
        """
        found: list[Any] = [digest] * self.count
        if self.count > 1:
            with _losing_others(self):
                dist.all_gather_object(found, digest, group=self.between)
        if len({*found}) > 1:
            raise RunError(
                f"the processes hold different weights ({', '.join(found)}); nothing "
                "was saved. Do all have the same software and see the same folders?"
            )
        return found

    def wait(self) -> None:
        """Wait until process 0 has come to a stage; where it has ended, end like it."""
        word: list[Any] = [None]
        with _losing_others(self):
            dist.broadcast_object_list(word, src=0, group=self.between)
        if isinstance(word[0], int):
            raise SystemExit(word[0])
        self._told = word[0]

    def end(self, status: int) -> None:
        """Let the others end like process 0, which calls this as the last thing."""
        if self.count > 1 and not self._in_stage:
            self._say(status)

    def _say(self, word: str | int) -> None:
        with _losing_others(self):
            dist.broadcast_object_list([word], src=0, group=self.between)


_here = Ranks()


def here() -> Ranks:
    """Which process this is; alone, unless it has `joined` others."""
    return _here


def are_launched() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Context in which this process trains with all that torchrun started.

    Parameters
    ----------
    device
        As a recipe names it: ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    RunError
        Where Accelerate is missing.
    UsageError
        Where there are not enough GPUs, or one is named by its number.
    """
    global _here
    _here = own = _join(device)
    try:
        yield own
    finally:
        _here = Ranks()
    dist.destroy_process_group()


def _join(asked: str) -> Ranks:
    kind = pick_device(asked).partition(":")[0]
    if asked.startswith("cuda:"):
        raise UsageError(
            f"device is {asked}, and several processes take a GPU each; set device: "
            "auto."
        )
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise RunError(
            not_installed("Training in several processes", "accelerate")
        ) from error
    backend = "gloo" if kind == "cpu" else "nccl"
    state = PartialState(cpu=kind == "cpu", backend=backend, timeout=STEP_TIMEOUT)
    here, there = state.local_process_index, torch.cuda.device_count()
    if kind == "cuda" and here >= there:
        raise UsageError(
            f"There are more processes than GPUs on this machine ({there}); start "
            "torchrun with --nproc-per-node=gpu, or set device: cpu."
        )
    between = dist.new_group(backend="gloo", timeout=STAGE_TIMEOUT)
    hosts: list[Any] = [None] * state.num_processes
    dist.all_gather_object(hosts, socket.gethostname(), group=between)
    return Ranks(
        number=state.process_index,
        count=state.num_processes,
        device="cpu" if kind == "cpu" else str(state.device),
        between=between,
        neighbours=hosts.count(socket.gethostname()),
    )


class _Summed(torch.autograd.Function):
    """Sum over the processes; what each adds gets the gradients of all sums."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        _here._reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        _here._reduce(total)
        return total


def summed(values: Tensor) -> Tensor:
    """Sum over the parts of a batch that the processes have; alone the value itself.

    A loss that is a function of such sums has one value on all processes. The mean over
    them of its gradients, which a step takes, is that of the whole batch: each process
    gets the gradients that its part has in the losses of all.
    """
    if _here.count == 1 or not _here._in_stage:
        return values
    total: Tensor = _Summed.apply(values)  # type: ignore[no-untyped-call]  # torch's
    return total


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, some at a time."""
    bucket: list[Tensor] = []
    for one in tensors:
        if bucket and sum(t.numel() for t in bucket) + one.numel() > BUCKET_VALUES:
            yield bucket
            bucket = []
        bucket.append(one)
    if bucket:
        yield bucket


@contextmanager
def _losing_others(own: Ranks) -> Iterator[None]:
    """Say in a sentence that another process has died, or does not answer."""
    try:
        yield
    except RuntimeError as error:
        # gloo begins with its own file and line, and ends with advice.
        reason = re.sub(r"^\[[^]]*\] ", "", str(error).splitlines()[0]).split(". ")[0]
        raise OthersLost(
            f"process {own.number} of {own.count} has lost the others: one of them "
            f"ended, and says why itself ({reason})."
        ) from error
