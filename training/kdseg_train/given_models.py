"""Models that a recipe is given, and whether they have seen the cases it tests on.

A card names no case. It has the recipe that the model was trained by, and a fingerprint
of the data. Where that recipe, read from the same place, means data of that very
fingerprint, the cases are known, and a leak is refused; elsewhere the run log says that
nobody knows.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from pydantic import BaseModel, JsonValue, ValidationError

from kdseg_train.config import Recipe
from kdseg_train.data import Cases, cases_meant, fingerprint, sources
from kdseg_train.layouts import Case, read_data_set
from napari_kdseg.errors import DataSetError, KdsegError
from napari_kdseg.models.model import CARD, Model, ModelCard
from napari_kdseg.review.verdicts import read_verdicts

DATA = ("data", "unlabelled", "test")
DECIDES_CASES = ("method", "split", "classes", *DATA)


def check_given_models(config: Recipe, cases: Cases) -> list[str]:
    """Refuse models that have learnt from test cases; tell of those nobody knows of.

    Raises
    ------
    DataSetError
        Naming the setting, the model and the case.
    ModelError
        Where a folder that a setting names holds a damaged model.
    """
    root = config.frozen.root if config.frozen else Path()
    kept = {source: case for case in cases.test for source in sources(case)}
    unknown = []
    for setting, model in given_models(config, root) if kept else ():
        for part in model.parts or (model,):
            learnt = learnt_from(part.card, root)
            if learnt is None:
                unknown.append(_unknown(setting, part))
            for case in learnt or ():
                twins = [kept[source] for source in sources(case) if source in kept]
                if twins:
                    raise DataSetError(_leak(setting, part, case, twins[0]))
    return unknown


def given_models(config: Recipe, root: Path) -> Iterator[tuple[str, Model]]:
    """Every model folder that a recipe names, with the name of the setting."""
    for setting, path in _paths(config):
        folders = dict.fromkeys(folder.absolute() for folder in (path, root / path))
        for folder in folders:
            if (folder / CARD).is_file():
                yield setting, Model.open(folder)


def learnt_from(card: ModelCard, root: Path) -> list[Case] | None:
    """Cases that a model was trained on, as far as its card tells; None: unknown.

    Parameters
    ----------
    card
        Of the model.
    root
        Where relative paths of its recipe are looked for.
    """
    source = card.provenance
    values = source.recipe or {}
    try:
        if source.method == "quality-fit":
            return _judged(values)
        if any(_is_remote(text) for text in _data_paths(values)):
            return None
        meant = {key: values[key] for key in DECIDES_CASES if key in values}
        found = cases_meant(Recipe.model_validate(meant), root)
        if fingerprint(found.all) != source.data_fingerprint:
            return None
    except (KdsegError, OSError, ValidationError, KeyError, TypeError):
        return None
    own = set(card.classes.names)
    labelled = [case for case in found.training if own & set(case.annotated)]
    # Teachers learn from labels, but for those that teach each other.
    if card.role == "teacher" and source.method != "cross-teaching":
        return labelled
    return [*labelled, *found.unlabelled]


def _judged(values: Mapping[str, JsonValue]) -> list[Case] | None:
    """Cases with verdicts that a classifier was fitted to, where these are at hand."""
    reviews, images = str(values["reviews"]), str(values["images"])
    if _is_remote(reviews) or _is_remote(images) or not Path(reviews).is_file():
        return None
    judged = {verdict.case for verdict in read_verdicts(Path(reviews))}
    return [case for case in read_data_set(Path(images)).cases if case.id in judged]


def _data_paths(values: Mapping[str, JsonValue]) -> Iterator[str]:
    for key in DATA:
        entries = values.get(key, [])
        for entry in entries if isinstance(entries, list) else []:
            yield str(entry["path"] if isinstance(entry, dict) else entry)


def _is_remote(path: str) -> bool:
    """Whether a path is on another computer: a card must not make this one call it."""
    return "://" in path or PureWindowsPath(path).drive.startswith("\\\\")


def _paths(value: Any, name: str = "") -> Iterator[tuple[str, Path]]:
    """Every path in settings, but for those of data, with the dotted name."""
    if isinstance(value, Path):
        yield name, value
        return
    parts: dict[str, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        parts = {key: getattr(value, key) for key in names}
        if isinstance(value, Recipe):
            parts = {k: v for k, v in parts.items() if k not in (*DATA, "frozen")}
    for key, part in parts.items():
        yield from _paths(part, f"{name}.{key}" if name else key)


def _leak(setting: str, model: Model, case: Case, twin: Case) -> str:
    same = "that scan is kept for testing"
    if case.group and case.group == twin.group:
        same = f"the same patient (group {case.group!r}) is kept for testing"
    return (
        f"{setting} names {model.folder}, which has learnt from {case.images[0]}; "
        f"{same}, as {twin.images[0]}. Test on other cases, or give a model that has "
        "not seen them."
    )


def _unknown(setting: str, model: Model) -> str:
    return (
        f"{setting}: whether {model.folder} has learnt from cases that are tested on "
        "here is not known, as the data it was trained on is not here or has changed."
    )
