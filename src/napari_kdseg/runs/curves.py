"""Curves of a training, from the events of its run.

A stage tells of each epoch in a ``metric``: the terms of its loss, and of cases kept
apart the loss and the Dice. Whoever shows them takes in new events as they come.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

LOSS = "loss"
VALIDATION_LOSS = "validation_loss"
DICE = "validation_dice"
MEAN = "mean"
"""Name of the curve of the Dice over all classes."""
_CLASSES = "validation_dice_of"
_NO_TERMS = frozenset(
    {"v", "time", "event", "stage", "step", "epoch", "epochs", "learning_rate", DICE}
)


@dataclass
class Curve:
    """Values over epochs, in the order of the epochs."""

    name: str
    epochs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def put(self, epoch: float, value: float) -> None:
        """Add a value; what a resumed run does again takes the place of what was."""
        while self.epochs and self.epochs[-1] >= epoch:
            self.epochs.pop()
            self.values.pop()
        self.epochs.append(epoch)
        self.values.append(value)

    def thinned(self, most: int) -> tuple[list[float], list[float]]:
        """At most so many of its points, evenly spread; the last is among them."""
        every = max(1, -(-len(self.epochs) // max(1, most)))
        last = len(self.epochs) - 1
        places = range(last % every, last + 1, every) if last >= 0 else range(0)
        return [self.epochs[i] for i in places], [self.values[i] for i in places]


@dataclass(frozen=True)
class Example:
    """A picture of what a stage made of cases kept apart after an epoch."""

    stage: str
    epoch: int
    file: str
    """Seen from the run folder."""


@dataclass
class StageCurves:
    """What one stage told of itself."""

    name: str
    losses: dict[str, Curve] = field(default_factory=dict)
    """The whole first, then its terms."""
    dice: dict[str, Curve] = field(default_factory=dict)
    """The mean first, then the classes."""
    examples: list[Example] = field(default_factory=list)
    epochs: int = 0
    """How many there will be; 0 where that is not known."""


@dataclass
class Curves:
    """The curves of all stages of a run, in the order in which they began."""

    stages: dict[str, StageCurves] = field(default_factory=dict)

    def take(self, events: Iterable[dict[str, Any]]) -> bool:
        """Take in new events; gives whether any of them adds to what is shown."""
        new = False
        for event in events:
            kind = event.get("event")
            if kind == "metric" and "epoch" in event and LOSS in event:
                self._take_epoch(event)
            elif kind == "example":
                self._take_example(event)
            else:
                continue
            new = True
        return new

    def _stage(self, event: dict[str, Any]) -> StageCurves:
        name = str(event.get("stage", ""))
        return self.stages.setdefault(name, StageCurves(name))

    def _take_epoch(self, event: dict[str, Any]) -> None:
        stage, epoch = self._stage(event), float(event["epoch"])
        stage.epochs = int(event.get("epochs") or 0)
        for name, value in _terms(event):
            stage.losses.setdefault(name, Curve(name)).put(epoch, value)
        if isinstance(event.get(DICE), int | float):
            stage.dice.setdefault(MEAN, Curve(MEAN)).put(epoch, float(event[DICE]))
        for name, value in (event.get(_CLASSES) or {}).items():
            if isinstance(value, int | float):
                stage.dice.setdefault(name, Curve(name)).put(epoch, float(value))

    def _take_example(self, event: dict[str, Any]) -> None:
        examples = self._stage(event).examples
        found = Example(
            str(event.get("stage", "")), int(event["epoch"]), str(event["file"])
        )
        while examples and examples[-1].epoch >= found.epoch:
            examples.pop()
        examples.append(found)


def _terms(event: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers of an epoch that are losses: the whole, that of cases apart, the terms.

    A value that was not finite is null, and leaves a gap.
    """
    names = [name for name in event if name not in _NO_TERMS]
    first = [name for name in (LOSS, VALIDATION_LOSS) if name in event]
    for name in dict.fromkeys([*first, *names]):
        value = event[name]
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
