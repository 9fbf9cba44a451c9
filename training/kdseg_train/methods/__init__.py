"""The methods, by name. A method is a module; adding one is one line here.

Each has ``TITLE``, ``Config`` (a recipe with the method's own settings),
``checked(config, cases)``, which refuses what it cannot learn from before anything is
prepared, ``planned(config)``, the stages that a training comes to, and
``train(run, config)``.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from kdseg_train import supervised
from kdseg_train.config import Frozen, Recipe, Training, parse
from kdseg_train.data import Cases, fingerprint, resolve
from kdseg_train.estimate import Estimate, foresee
from kdseg_train.given_models import check_given_models
from kdseg_train.methods import cross_teaching, kd_net, medaka, ms_kd
from kdseg_train.missing import check_data
from kdseg_train.ranks import here
from napari_kdseg.errors import DataSetError, RecipeError
from napari_kdseg.inference.forward import using_threads
from napari_kdseg.runs.run import Run

METHODS: dict[str, ModuleType] = {
    "supervised": supervised,
    "ms-kd": ms_kd,
    "cross-teaching": cross_teaching,
    "kd-net": kd_net,
    "medaka": medaka,
}


def prepare(values: dict[str, Any], where: str, root: Path) -> dict[str, Any]:
    """Check a recipe and freeze what it means: the content of a run's config.

    Parameters
    ----------
    values
        A recipe as read from its file.
    where
        Name of the file, for errors.
    root
        Folder that relative data paths start from.

    Raises
    ------
    RecipeError, DataSetError
        Naming the first thing that is wrong and its fix.
    """
    config = _config(values, where)
    for name, training in _trainings(config):
        here().share(training.batch, f"{name}.batch")
    check_data(config, where, root)
    cases = resolve(config, root)
    _refuse_slices(config, cases)
    frozen = Frozen(
        root=root.resolve(),
        channels=cases.channels,
        classes=cases.classes,
        training=tuple(case.id for case in cases.training),
        validation=tuple(case.id for case in cases.validation),
        test=tuple(case.id for case in cases.test),
        unlabelled=tuple(case.id for case in cases.unlabelled),
        fingerprint=fingerprint(cases.all),
    )
    return config.model_copy(update={"frozen": frozen}).model_dump(mode="json")


def check(
    values: dict[str, Any], cases: Cases | None = None, *, any_memory: bool = False
) -> Estimate | None:
    """Refuse a training with a prepared config that cannot be done here.

    Parameters
    ----------
    values, cases
        The config, and its cases where they were found before.
    any_memory
        Whether it is to be tried however little memory is free; then nothing is
        foreseen.

    Returns
    -------
    Estimate or None
        What it will take.

    Raises
    ------
    DataSetError, ModelError, RecipeError
        As the method's ``checked`` and `check_given_models`.
    RunError
        As `foresee` and `Estimate.check_fits`.
    """
    config = _config(values, "The config")
    cases = resolve(config, config.root) if cases is None else cases
    check_given_models(config, cases)
    module_of(config.method).checked(config, cases)
    if any_memory:
        return None
    foreseen = estimate(values)
    foreseen.check_fits()
    return foreseen


def estimate(values: dict[str, Any]) -> Estimate:
    """What a training with a prepared config will take on this machine.

    Raises
    ------
    RunError
        As `foresee`.
    """
    config = _config(values, "The config")
    plans = module_of(config.method).planned(config)
    with using_threads(config.threads):
        return foresee(plans, config)


def fit(run: Run) -> None:
    """Train what a prepared run says."""
    config = _config(run.config, str(run.folder / "config.yaml"))
    with using_threads(config.threads):
        METHODS[config.method].train(run, config)
    # What is left is a copy of the data: needed only to go on, and then whole.
    cases, doomed = run.partial / "cases", run.partial / "cases-no-more"
    shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(OSError):  # Windows: where a file is still open
        cases.rename(doomed)
    for folder in (doomed, cases):
        shutil.rmtree(folder, ignore_errors=True)


def describe(method: str | None = None) -> dict[str, Any]:
    """JSON schema of a method's settings, or of every method's by name."""
    if method is None:
        return {name: describe(name) for name in METHODS}
    return {
        "title": module_of(method).TITLE,
        "settings": module_of(method).Config.model_json_schema(),
    }


def module_of(method: str) -> ModuleType:
    """Module of a method.

    Raises
    ------
    RecipeError
        Where there is no such method.
    """
    if method not in METHODS:
        raise RecipeError(
            f"there is no method {method!r}; there are {', '.join(METHODS)}."
        )
    return METHODS[method]


def _config(values: dict[str, Any], where: str) -> Recipe:
    method = values.get("method")
    if not isinstance(method, str):
        raise RecipeError(
            f"{where}: no method is named; write `method:` and one of "
            f"{', '.join(METHODS)}."
        )
    config: Recipe = parse(module_of(method).Config, values, where)
    return config


def _trainings(settings: BaseModel, name: str = "") -> Iterator[tuple[str, Training]]:
    """Every training that settings ask for, with the name of its group."""
    for key in type(settings).model_fields:
        value, place = getattr(settings, key), f"{name}.{key}" if name else key
        if isinstance(value, Training):
            yield place, value
        elif isinstance(value, BaseModel):
            yield from _trainings(value, place)


def _refuse_slices(config: Recipe, cases: Cases) -> None:
    """Most methods see whole volumes, or compare with whole labels."""
    if getattr(module_of(config.method), "TAKES_SLICES", False):
        return
    for case in cases.training:
        if case.slices:
            raise DataSetError(
                f"of {case.id} only {len(case.slices)} slices are labelled, and "
                f"{config.method} needs whole labels; leave it out with `exclude`, "
                "correct the whole scan, or take the method medaka."
            )
