"""Where the model may lie that made some predictions."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from napari_kdseg.errors import KdsegError
from napari_kdseg.models.model import CARD, Model
from napari_kdseg.shipped import shipped_models

# A run lies in its own folder, or beside the recipe that a dock has written.
_OF_A_RUN = ("model", "teacher", "teachers/*")
_MADE_HERE = (
    "models/*",
    *(f"runs/*/{place}" for place in _OF_A_RUN),
    *(f"runs/*/run/{place}" for place in _OF_A_RUN),
)
_PREDICTION_RUNS = ("predictions/.run*", ".run*")


def model_folders(folder: Path) -> tuple[Path, ...]:
    """List the model folders that a project or a folder of results knows of.

    Those in it, those that its predictions were made with, and those that come along.
    """
    found = [path for pattern in _MADE_HERE for path in sorted(folder.glob(pattern))]
    for pattern in _PREDICTION_RUNS:
        for run in sorted(folder.glob(pattern)):
            found += _models_of(run)
    with contextlib.suppress(KdsegError):  # an installation may lack the samples
        found += shipped_models().values()
    return tuple(dict.fromkeys(path for path in found if (path / CARD).is_file()))


def models_of_project(folder: Path) -> tuple[Path, ...]:
    """List the model folders that are a project's own: kept in it, or trained there."""
    found = (path for pattern in _MADE_HERE for path in sorted(folder.glob(pattern)))
    return tuple(path for path in found if (path / CARD).is_file())


def model_with(fingerprint: str, folders: Iterable[Path]) -> Model | None:
    """Find the model of a fingerprint; folders that hold a damaged one are left out."""
    for folder in folders:
        try:
            model = Model.open(folder)
            if model.fingerprint == fingerprint:
                return model
        except (KdsegError, OSError):
            continue
    return None


def _models_of(run: Path) -> Iterator[Path]:
    """Models that a run of ``kdseg-train predict`` was told to take."""
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        yield from (Path(str(model)) for model in config["models"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return
