"""Patches of labelled and of unlabelled cases, in turn."""

from dataclasses import dataclass, replace

from kdseg_train.config import Recipe, Training
from kdseg_train.loop import Source
from kdseg_train.patches import Batch, Patches
from kdseg_train.supervised import Material


@dataclass(frozen=True)
class InTurn:
    """A labelled batch at even steps, an unlabelled one at odd steps."""

    labelled: Source
    unlabelled: Source

    def batch(self, step: int) -> Batch:
        """Batch of a step."""
        source = self.unlabelled if step % 2 else self.labelled
        return replace(source.batch(step // 2), step=step)


def in_turn(
    material: Material, recipe: Recipe, settings: Training, stage: str
) -> InTurn:
    """Patches of the labelled and the unlabelled cases of a run, for one stage."""
    return InTurn(
        Patches(material.training, recipe, settings, f"{stage}-labelled"),
        Patches(material.unlabelled, recipe, settings, f"{stage}-unlabelled"),
    )
