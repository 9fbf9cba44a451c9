"""Models that see some of a case's channels, and cases that lack one."""

from collections.abc import Sequence
from dataclasses import replace

from kdseg_train.config import Recipe, parse
from kdseg_train.data import Cases
from kdseg_train.layouts import Case
from kdseg_train.patches import StoredCase
from kdseg_train.supervised import Target, model_card
from napari_kdseg.errors import DataSetError, RecipeError
from napari_kdseg.models.model import Model, ModelCard
from napari_kdseg.volumes import formats


def channel_index(channels: Sequence[str], wanted: str | int) -> int:
    """Where a channel stands that is given by name or by number from 0.

    Raises
    ------
    RecipeError
        Where there is no such channel; those there are are listed.
    """
    if isinstance(wanted, int) and 0 <= wanted < len(channels):
        return wanted
    if wanted in channels:
        return channels.index(str(wanted))
    listed = ", ".join(f"{name} ({i})" for i, name in enumerate(channels))
    raise RecipeError(f"there is no channel {wanted!r}; the data has {listed}.")


def check_channels(cases: Cases) -> None:
    """Refuse a case whose files do not have as many channels as the data set names.

    Raises
    ------
    DataSetError
        Naming the first such case.
    """
    for case in cases.all:
        found = sum(_count(case))
        if found != len(cases.channels):
            raise DataSetError(
                f"case {case.id} has {found} channels and {len(cases.channels)} are "
                f"needed ({', '.join(cases.channels)}); complete it, or leave it out "
                "with `exclude`."
            )


def check_images(stored: Sequence[StoredCase], channels: Sequence[str]) -> None:
    """Refuse a prepared case that has a modality in name alone: the same everywhere.

    Raises
    ------
    DataSetError
        Naming the first such case and its channel.
    """
    for case in stored:
        for name, image in zip(channels, case.image, strict=True):
            if image.min() == image.max():
                raise DataSetError(
                    f"case {case.id} shows nothing in {name}: every voxel is "
                    f"{float(image.flat[0]):g}; complete it, or leave it out with "
                    "`exclude`."
                )


def card_for_channels(
    config: Recipe,
    cases: Cases,
    target: Target,
    picks: Sequence[int],
    teachers: Sequence[Model] = (),
) -> ModelCard:
    """Card of a model that sees the picked channels alone.

    Raises
    ------
    RecipeError
        As `model_card`.
    """
    rules = config.preprocessing.intensity
    if len(rules) > 1:
        rules = tuple(rules[pick] for pick in picks)
    seen = config.preprocessing.model_copy(update={"intensity": rules})
    narrow = config.model_copy(update={"preprocessing": seen})
    card = model_card(narrow, of_channels(cases, picks), target, teachers)
    told = {"recipe": config.model_dump(mode="json", exclude={"frozen"})}
    provenance = card.provenance.model_copy(update=told)
    return card.model_copy(update={"provenance": provenance})


def renamed(card: ModelCard, name: str) -> ModelCard:
    """The same card with another name, checked like a name in a recipe.

    Raises
    ------
    RecipeError
        Where it is none.
    """
    values = card.model_dump() | {"name": name}
    return parse(ModelCard, values, f"the model {name}")


def of_channels(cases: Cases, picks: Sequence[int]) -> Cases:
    """The same cases, told with the picked channels alone."""
    return replace(cases, channels=tuple(cases.channels[pick] for pick in picks))


def _count(case: Case) -> list[int]:
    return [len(formats.inspect_volume(path).channels) for path in case.images]
