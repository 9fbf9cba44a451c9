"""What a stage of training makes: a network, its card, the model that both become."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch

from kdseg_train.config import Recipe, parse
from kdseg_train.data import Cases
from kdseg_train.keep import keep_model
from kdseg_train.loop import Stage, seeded
from kdseg_train.loop import train as train_stage
from napari_kdseg.inference.forward import pick_device
from napari_kdseg.models.model import Model, ModelCard, Provenance
from napari_kdseg.models.networks import build
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.models.parameters import NetworkSpec
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Preprocessing

Networks = Mapping[str, SegmentationNetwork]


@dataclass(frozen=True)
class Target:
    """What a stage makes: a model of some classes in a folder, in a role.

    Attributes
    ----------
    stage
        What the first weights are drawn for: targets of one stage begin alike.
    suffix
        Of the model's name, after the recipe's.
    network
        None: the recipe's.
    channels
        Numbers of those that it sees; none: all.
    """

    classes: tuple[str, ...]
    folder: Path
    role: Literal["teacher", "student"]
    stage: str
    suffix: str = ""
    network: NetworkSpec | None = None
    channels: tuple[int, ...] | None = None

    def seen_of(self, cases: Cases) -> tuple[str, ...]:
        """Names of the channels that it sees."""
        if self.channels is None:
            return cases.channels
        return tuple(cases.channels[place] for place in self.channels)


def trained(
    run: Run,
    config: Recipe,
    cases: Cases,
    target: Target,
    stage_of: Callable[[SegmentationNetwork, torch.device], Stage],
    *,
    teachers: Sequence[Model] = (),
) -> Model:
    """Train a network and keep it as a model; one that is there already is taken.

    Parameters
    ----------
    stage_of
        Gives the stage that trains a network on a device.
    teachers
        Who is named on its card.

    Raises
    ------
    RecipeError
        As `model_card`.
    """

    def stage(networks: Networks, device: torch.device) -> Stage:
        return stage_of(networks[target.stage], device)

    together = trained_together(run, config, cases, [target], stage, teachers=teachers)
    return together[0]


def trained_together(
    run: Run,
    config: Recipe,
    cases: Cases,
    targets: Sequence[Target],
    stage_of: Callable[[Networks, torch.device], Stage],
    *,
    teachers: Sequence[Model] = (),
) -> list[Model]:
    """Train networks in one stage and keep each as a model; what is there is taken.

    Parameters
    ----------
    targets
        Teachers come first: they are named on the cards of the students after them.
    stage_of
        Gives the stage that trains networks, by the stages of their targets, on a
        device.
    teachers
        Others who are named on the cards of the students.

    Raises
    ------
    RecipeError
        As `model_card`.
    """
    if all(target.folder.exists() for target in targets):
        return [Model.open(target.folder) for target in targets]
    cards = [model_card(config, cases, target) for target in targets]
    device = torch.device(pick_device(config.device))
    networks = {
        target.stage: new_network(config, cases, target).to(device)
        for target in targets
    }
    train_stage(stage_of(networks, device), run, device)
    models: list[Model] = []
    for target, card in zip(targets, cards, strict=True):
        if target.folder.exists():  # the run was killed between two of them
            models.append(Model.open(target.folder))
            continue
        if target.role == "student":
            card = taught_by(card, [*teachers, *models])
        models.append(keep_model(run, target.folder, card, networks[target.stage]))
    return models


def new_network(config: Recipe, cases: Cases, target: Target) -> SegmentationNetwork:
    """Network of a target with freshly drawn weights."""
    with seeded(config.seed, target.stage):
        return build(
            target.network or config.network_spec,
            len(target.seen_of(cases)),
            len(target.classes) + 1,
        )


def model_card(config: Recipe, cases: Cases, target: Target) -> ModelCard:
    """Card of the model that a stage makes; made first, so that it fails first.

    Raises
    ------
    RecipeError
        Where the recipe asks for a model that cannot be.
    """
    base = config.name or config.method
    values = {
        "name": f"{base}-{target.suffix}" if target.suffix else base,
        "role": target.role,
        "network": target.network or config.network_spec,
        "channels": target.seen_of(cases),
        "classes": LabelSet.from_names(cases.classes).subset(target.classes),
        "preprocessing": _of_channels(config.preprocessing, target.channels),
        "tiling": {"tile_vox": config.patch_vox, "overlap": config.overlap, "batch": 4},
        "provenance": Provenance(
            method=config.method,
            recipe=config.model_dump(mode="json", exclude={"frozen"}),
            data_fingerprint=config.frozen.fingerprint if config.frozen else "",
            versions=_versions(),
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        "licence": config.licence or "not stated",
        "description": config.description,
    }
    return parse(ModelCard, values, f"the model of stage {target.stage}")


def taught_by(card: ModelCard, teachers: Sequence[Model]) -> ModelCard:
    """The same card with the names of teachers, which are known only in the end."""
    known = tuple(teacher.fingerprint for teacher in teachers)
    source = card.provenance.model_copy(update={"teachers": known})
    return card.model_copy(update={"provenance": source})


def _of_channels(
    preprocessing: Preprocessing, channels: Sequence[int] | None
) -> Preprocessing:
    rules = preprocessing.intensity
    if channels is None or len(rules) == 1:  # one for all
        return preprocessing
    seen = tuple(rules[place] for place in channels)
    return preprocessing.model_copy(update={"intensity": seen})


def _versions() -> dict[str, str]:
    names = ("napari-kdseg", "torch", "monai", "numpy")
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in names
    }
