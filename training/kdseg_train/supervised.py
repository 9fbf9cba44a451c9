"""Supervised training from labels, also partly annotated ones.

The plain method, and the stages that every other method is made of: gather the cases,
train a network on labels, keep it as a model folder, test it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from kdseg_train.config import Augmentation, Frozen, Recipe, Training
from kdseg_train.data import Cases, fingerprint, resolve
from kdseg_train.estimate import Net, Planned
from kdseg_train.given_models import check_given_models, given_models
from kdseg_train.layouts import Case
from kdseg_train.loop import Stage
from kdseg_train.losses import dice_and_cross_entropy
from kdseg_train.patches import Batch, Patches
from kdseg_train.prepared import StoredCase, store_all
from kdseg_train.scoring import scored, write_scores
from kdseg_train.targets import Target, trained
from kdseg_train.watching import Watched
from napari_kdseg.errors import DataSetError
from napari_kdseg.models.model import Model
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.runs.run import Run

TITLE = "Supervised training"
OFTEN = 0.25
"""Of the cases that are to show a class: more without a voxel of it are told."""


class Config(Recipe):
    """One network, trained on labels with Dice + cross-entropy, 1:1.

    Where a case has not annotated a class, the class is unknown there: its probability
    is added to background's before the comparison.
    """

    method: Literal["supervised"] = "supervised"


def train(run: Run, config: Config) -> None:
    """Train one network on every class, keep it as ``RUN/model`` and test it."""
    material = gather(run, config)
    model = train_on_labels(
        run,
        config,
        material,
        Target(material.cases.classes, run.model_folder, "student", "training"),
        config.training,
    )
    test(run, config, [model], material.cases)


def checked(config: Config, cases: Cases) -> Cases:
    """The cases: any will do."""
    del config
    return cases


def planned(config: Config) -> list[Planned]:
    """The stages of the training, for estimates."""
    return [Planned("training", config.training, (Net.of(config),))]


@dataclass(frozen=True)
class Material:
    """The cases of a run, prepared and on disk."""

    cases: Cases
    training: tuple[StoredCase, ...]
    validation: tuple[StoredCase, ...]
    unlabelled: tuple[StoredCase, ...]


def gather(
    run: Run, config: Recipe, change: Callable[[Cases], Cases] | None = None
) -> Material:
    """Find the cases and prepare them once, with progress.

    Parameters
    ----------
    run, config
        Which cases, and how they are prepared.
    change
        Checks the cases, or puts others in their place, before any is prepared.

    Raises
    ------
    DataSetError
        Where the data has changed since the run was prepared, a model that the recipe
        names has learnt from test cases, or no training case shows some class.
    """
    if config.frozen is None:
        raise DataSetError(
            f"{run.folder} has no frozen cases; prepare it with `kdseg-train fit`."
        )
    cases = resolve(config, config.frozen.root)
    if run.leads:
        _check_unchanged(run, config.frozen, cases)
        for text in check_given_models(config, cases):
            run.event("note", message=text)
    if change is not None:
        cases = change(cases)

    def report(done: int, total: int) -> None:
        run.check_stop()
        run.progress(done, total, stage="prepare")

    stored = store_all(
        [*cases.training, *cases.validation, *cases.unlabelled],
        run.partial / "cases",
        cases.classes,
        config.preprocessing,
        report,
    )
    training, validation = len(cases.training), len(cases.validation)
    _refuse_unseen(config, cases.classes, stored[:training])
    if run.leads:
        for message in often_missing(cases.classes, stored[:training]):
            run.warning(message)
    return Material(
        cases,
        tuple(stored[:training]),
        tuple(stored[training : training + validation]),
        tuple(stored[training + validation :]),
    )


def often_missing(
    classes: Sequence[str], training: Sequence[StoredCase]
) -> Iterator[str]:
    """Say of which classes many cases have no voxel, though they are to speak of them.

    Perhaps nobody drew them there, and they would be learnt as background.
    """
    for place, name in enumerate(classes):
        speak = [case for case in training if case.annotated[place]]
        without = [case.id for case in speak if place + 1 not in case.shown]
        if len(without) > OFTEN * len(speak):
            yield (
                f"{name} has no voxel in {len(without)} of the {len(speak)} labelled "
                f"scans that are to show it, such as {without[0]}: there it counts as "
                "background. Where it was not drawn, say so, with annotated in the "
                "recipe or Organs drawn... in the Volumes dock."
            )


def _refuse_unseen(
    config: Recipe, classes: Sequence[str], training: Sequence[StoredCase]
) -> None:
    """Each class lies in some training case, or a model that is given knows it."""
    root = config.frozen.root if config.frozen else Path()
    known = {
        name
        for _, model in given_models(config, root)
        for name in model.card.classes.names
    }
    shown = frozenset[int]().union(*(case.shown for case in training))
    for index, name in enumerate(classes, start=1):
        if index not in shown and name not in known:
            raise DataSetError(
                f"the labels of the {len(training)} training cases have no voxel of "
                f"{name!r}, so nothing can learn it. Choose other cases, another "
                "split.seed, or `classes` without it."
            )


def _check_unchanged(run: Run, frozen: Frozen, cases: Cases) -> None:
    found = fingerprint(cases.all)
    if found != frozen.fingerprint:
        raise DataSetError(
            f"the data of {run.folder} has changed since the run was prepared "
            f"(fingerprint {found[:12]}, was {frozen.fingerprint[:12]}); start "
            "a new run, or put the data back."
        )


def gaps(cases: Sequence[Case], classes: Sequence[str]) -> Iterator[tuple[Case, str]]:
    """Cases that leave classes open, and these."""
    for case in cases:
        for name in classes:
            if name not in case.annotated:
                yield case, name


def train_on_labels(
    run: Run, config: Recipe, material: Material, target: Target, settings: Training
) -> Model:
    """Train a network on the labels of some classes; an existing model is taken.

    A network of one class sees a binary problem: cases that do not annotate any of its
    classes are left out.

    Raises
    ------
    DataSetError
        Where no training case annotates the classes.
    """
    everything = material.cases.classes
    wanted = [everything.index(name) for name in target.classes]

    def annotating(cases: Sequence[StoredCase]) -> list[StoredCase]:
        return [case for case in cases if any(case.annotated[i] for i in wanted)]

    stored = annotating(material.training)
    if not stored:
        raise DataSetError(f"no training case annotates {', '.join(target.classes)}.")
    narrow = _narrowed(wanted, len(everything))

    def stage(network: SegmentationNetwork, _: torch.device) -> Stage:
        def objective(batch: Batch) -> dict[str, torch.Tensor]:
            labels, annotated = narrow(batch)
            logits = network(batch.image).float()
            return dice_and_cross_entropy(logits, labels, annotated)

        return Stage(
            target.stage,
            network,
            objective,
            Patches(stored, config, settings, target.stage, organs=wanted),
            settings,
            kept_apart(annotating(material.validation), config, settings, target.stage),
            Watched(target.classes, network, narrow, config.examples),
        )

    return trained(run, config, material.cases, target, stage)


def kept_apart(
    stored: Sequence[StoredCase],
    config: Recipe,
    settings: Training,
    stage: str,
    soft: Sequence[Sequence[np.ndarray]] | None = None,
) -> Patches | None:
    """Patches of validation cases, not augmented; nothing where there is no case."""
    if not stored:
        return None
    plain = config.model_copy(update={"augmentation": Augmentation(probability=0)})
    return Patches(stored, plain, settings, f"{stage}-validation", soft=soft)


def _narrowed(
    wanted: Sequence[int], count: int
) -> Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]:
    """Labels of all classes -> labels of the wanted ones, numbered anew."""
    table = torch.zeros(count + 1, dtype=torch.int64)
    for new, old in enumerate(wanted, start=1):
        table[old + 1] = new
    columns = list(wanted)

    def narrow(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return table.to(batch.labels.device)[batch.labels], batch.annotated[:, columns]

    return narrow


# ---- testing ----


def test(run: Run, config: Recipe, models: Sequence[Model], cases: Cases) -> None:
    """Score models on the test cases, each on the classes it knows.

    Writes ``RUN/metrics.csv``: one row a case, model and class that the case annotates.
    """
    write_scores(run, scored(run, models, cases, config.device))
