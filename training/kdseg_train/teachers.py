"""Teachers: models that a recipe names, and networks with what they compute inside."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kdseg_train.config import Recipe
from kdseg_train.missing import existing
from napari_kdseg.errors import ModelError, RecipeError
from napari_kdseg.models.model import CARD, Model
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.models.parameters import parameters_of


@runtime_checkable
class Tapped(Protocol):
    """A network whose decoder features can be taken out."""

    def features(
        self, image: Tensor, levels: Sequence[int], /
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Give the logits, and by level the decoder's features there."""
        ...


@runtime_checkable
class Bottled(Protocol):
    """A network whose bottleneck, the encoder's last features, can be taken out."""

    def with_bottleneck(self, image: Tensor, /) -> tuple[Tensor, Tensor]:
        """Give the logits and the bottleneck."""
        ...


def frozen_network(model: Model, device: torch.device) -> SegmentationNetwork:
    """Network of a model that nothing can change: no gradient, no training mode."""
    network: SegmentationNetwork = model.network(str(device))
    return network.eval().requires_grad_(requires_grad=False)


def answer(
    network: Tapped, image: Tensor, levels: Sequence[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits and features of a network in float32, whatever it computed in."""
    logits, features = network.features(image, levels)
    return logits.float(), {level: found.float() for level, found in features.items()}


def bottled_answer(network: Bottled, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and bottleneck of a network in float32, whatever it computed in."""
    logits, bottleneck = network.with_bottleneck(image)
    return logits.float(), bottleneck.float()


# ---- models that a recipe names ----


def given_teacher(
    recipe: Recipe,
    path: Path,
    classes: Sequence[str],
    *,
    setting: str = "teacher",
    to_start_from: bool = False,
) -> Model:
    """Model that a recipe names as the teacher of some classes.

    Parameters
    ----------
    setting
        That names it.
    to_start_from
        Whether the student takes over its weights.

    Raises
    ------
    ModelError
        Where it segments others, or sees scans in another way than the student; where
        the student could not take over its weights.
    RecipeError
        Where there is no such folder.
    """
    model = Model.open(existing(recipe, path, setting))
    card = model.card
    if card.classes.names != tuple(classes):
        wanted = f"the recipe has {', '.join(classes)}. Both need the same in one order"
        if len(classes) == 1:
            wanted = f"the teacher of {classes[0]} must segment {classes[0]} alone"
        raise ModelError(f"{path} segments {', '.join(card.classes.names)}; {wanted}.")
    if card.preprocessing != recipe.preprocessing:
        raise ModelError(
            f"{path} expects other preprocessing than the recipe; teacher and student "
            "need the same one."
        )
    own = recipe.network_spec
    alike = card.network.name == own.name and (
        parameters_of(card.network) == parameters_of(own)
    )
    if to_start_from and not alike:
        raise ModelError(
            f"{path} is another network than the recipe's; a student that starts from "
            "it needs the same one, or set init: scratch."
        )
    return model


def given_by_class(
    recipe: Recipe,
    teachers: Mapping[str, Path],
    classes: Sequence[str],
    *,
    predictions: bool,
) -> dict[str, Model | Path]:
    """Teachers that a recipe names for some of its classes, one each.

    Parameters
    ----------
    predictions
        Whether what is no model may be a folder of predictions, which stays a path.

    Raises
    ------
    ModelError
        As `given_teacher`.
    RecipeError
        Where a teacher is named for a class that there is not, or is not there itself.
    """
    found: dict[str, Model | Path] = {}
    for name, path in teachers.items():
        if name not in classes:
            raise RecipeError(
                f"teachers names {name!r}, which no case annotates; the classes are "
                f"{', '.join(classes)}."
            )
        setting = f"teachers.{name}"
        folder = existing(recipe, path, setting)
        if predictions and not (folder / CARD).exists():
            found[name] = folder
        else:
            found[name] = given_teacher(recipe, path, (name,), setting=setting)
    return found


def check_widths(
    student: SegmentationNetwork, teachers: Iterable[Model], levels: Sequence[int]
) -> None:
    """Refuse teachers whose features the student's cannot be compared with.

    Raises
    ------
    ModelError
        Where a decoder lacks one of the levels, or has another number of channels.
    """
    if not levels:
        return
    widths = {level: student.feature_channels(level) for level in levels}
    for model in teachers:
        network = frozen_network(model, torch.device("cpu"))
        for level, own in widths.items():
            theirs = network.feature_channels(level)
            if theirs != own:
                raise ModelError(
                    f"teacher {model.card.name} has {theirs} features at level {level}"
                    f", the student {own}; feature-wise supervision needs as many: "
                    "set network.width alike, or distillation.feature_weight to 0."
                )
