"""What a stage of training goes on from: after a kill, or after losses gone wrong."""

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from napari_kdseg.atomic import publish_folder


@dataclass
class State:
    """What changes while a stage runs, besides weights and optimiser."""

    step: int = 0
    rate: float = 0.0
    smoothed: float | None = None
    best: float = math.inf
    epochs_without_gain: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    bad_losses: int = 0
    rollbacks: int = 0


class Checkpoint:
    """Weights, optimiser and state of a stage in one folder, without pickle.

    The folder appears complete or not at all; the previous one stays until then. In
    ``good`` it holds the moment that a roll-back leads to, where that is an earlier
    one: a stage that goes on from here rolls back to where it would have otherwise.
    """

    def __init__(
        self, folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer
    ) -> None:
        self.folder = folder
        self.network = network
        self.optimiser = optimiser
        self._good: Snapshot | None = None

    def save(self, state: State) -> None:
        """Write everything needed to go on from here."""
        new = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        weights, moments = self.network.state_dict(), _moments(self.optimiser)
        Snapshot(weights, moments, state).write(new)
        if self._good is not None and self._good.state.step != state.step:
            self._good.write(new / "good")
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
        found = Snapshot.read(folder)
        good = folder / "good"
        self._good = Snapshot.read(good) if good.exists() else found
        return self._put(found)

    def keep_good(self, state: State) -> None:
        """Remember this moment as the one that a roll-back leads to."""
        weights, moments = self.network.state_dict(), _moments(self.optimiser)
        copy = State(**asdict(state))
        self._good = Snapshot(_copied(weights), _copied(moments), copy)

    def roll_back(self) -> State:
        """Put weights and optimiser back as they were at the good moment.

        `keep_good` or `load` has been called before.
        """
        assert self._good is not None
        return self._put(self._good)

    def digest(self, state: State) -> str:
        """SHA-256 of all that `save` would write of this moment."""
        digest = hashlib.sha256(json.dumps(asdict(state)).encode())
        moments = _contiguous(_moments(self.optimiser))
        for tensors in (_contiguous(self.network.state_dict()), moments):
            for name, value in sorted(tensors.items()):
                digest.update(name.encode())
                digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _put(self, found: "Snapshot") -> State:
        self.network.load_state_dict(found.weights)
        _put_moments(self.optimiser, _copied(found.moments))
        return State(**asdict(found.state))


@dataclass(frozen=True)
class Snapshot:
    """Weights, moments of the optimiser and state of one moment."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    state: State

    def write(self, folder: Path) -> None:
        """Write three files into a new folder."""
        folder.mkdir(parents=True)
        save_file(_contiguous(self.weights), folder / "weights.safetensors")
        save_file(_contiguous(self.moments), folder / "optimiser.safetensors")
        text = json.dumps(asdict(self.state))
        (folder / "state.json").write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Snapshot":
        """Read what `write` wrote."""
        text = (folder / "state.json").read_text(encoding="utf-8")
        values: dict[str, Any] = json.loads(text)
        return cls(
            load_file(folder / "weights.safetensors"),
            load_file(folder / "optimiser.safetensors"),
            State(**values),
        )


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
