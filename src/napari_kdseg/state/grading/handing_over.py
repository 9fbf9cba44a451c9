"""From accepted slices to a student: its recipe, written into the project.

The student learns, by the method ``medaka``, from the project's labels, from slices
that people corrected, and from the predictions that people or the classifier accept.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.cores import cores_beside_viewer
from napari_kdseg.errors import KdsegError, ProjectError
from napari_kdseg.models.model import Model
from napari_kdseg.project_folder import Document, is_project, read
from napari_kdseg.review.labelled_set import labelled_set
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.verdicts import Verdict, write_verdicts
from napari_kdseg.volumes.formats import read_label_set
from napari_kdseg.volumes.naming import plain_name, unique_name
from napari_kdseg.volumes.preprocessing import Frame
from napari_kdseg.volumes.scan import Scan

RECIPE = "recipe.yaml"
VERDICTS = "verdicts.csv"
RUN = "run"
BACKGROUND_FROM = 2
"""Reviews hide empty slices: beyond the one next to an organ they are background."""


@dataclass(frozen=True)
class Labels:
    """Which scans of a project have labels of all classes."""

    training: tuple[str, ...]
    partly: tuple[str, ...]
    """Scans of which people corrected some slices."""
    test: tuple[str, ...]
    """Held out: nothing is learnt from them."""
    held_out: frozenset[str]
    """All that are held out or left out, labelled or not."""
    unnamed: frozenset[str]
    """Those whose files do not say what their values are called."""

    @property
    def whole(self) -> tuple[str, ...]:
        """Scans that need no pseudo-labels."""
        return (*self.training, *self.test)

    @classmethod
    def of(cls, folder: Path, classes: Sequence[str]) -> "Labels":
        """Look which scans of a project have labels of all these classes.

        Raises
        ------
        ProjectError, ReviewError
            Where the project or a record of a correction cannot be read.
        """
        document, _ = read(folder)
        corrected = labelled_set(folder)
        training: list[str] = []
        partly: list[str] = []
        test: list[str] = []
        unnamed: set[str] = set()
        used = [scan for scan in document.scans if scan.use != "left-out"]
        for scan in used:
            names = _annotated(scan, document, folder)
            if scan.labels is not None and names is None:
                unnamed.add(scan.case)
            if names is not None and not set(classes) <= set(names):
                continue
            if scan.labels is not None:
                (test if scan.use == "test" else training).append(scan.case)
            elif scan.case in corrected and scan.use != "test":
                own = corrected[scan.case]
                if set(classes) <= set(own.classes.names):
                    (training if own.whole else partly).append(scan.case)
        kept = ("test", "left-out")
        held_out = frozenset(s.case for s in document.scans if s.use in kept)
        return cls(
            tuple(training), tuple(partly), tuple(test), held_out, frozenset(unnamed)
        )


def _annotated(scan: Scan, document: Document, folder: Path) -> tuple[str, ...] | None:
    """Classes the labels speak about; None where there are none, or nobody said."""
    if scan.labels is None:
        return None
    if scan.annotated:
        return scan.annotated
    if document.classes is not None:
        return document.classes.names
    path = scan.labels.file.find(folder)
    known = None if path is None else read_label_set(path)
    return None if known is None else known.names


@dataclass(frozen=True)
class Wish:
    """What is to be handed to a student."""

    folder: Path
    """The project."""
    teacher: Model
    classifier: Path
    """Folder of the model."""
    threshold: float
    predictions: tuple[Prediction, ...]
    """Of the teacher."""
    verdicts: tuple[Verdict, ...]
    """Those that count, on these predictions."""
    name: str = ""

    @property
    def student(self) -> str:
        """What the student is called."""
        return plain_name(self.name or f"{self.teacher.card.name}-student")


def axes_of(teacher: Model, predictions: Sequence[Prediction]) -> set[int]:
    """Find along which stored axes a student of this teacher sees slices of scans."""
    how = teacher.card.preprocessing
    return {Frame.of(one.grid, how).orientation.order[0] for one in predictions}


def refusal(
    folder: Path, teacher: Model, predictions: Sequence[Prediction], axes: Sequence[int]
) -> str:
    """Say why a student cannot be trained; empty where it can.

    Parameters
    ----------
    folder
        What is under review.
    teacher
        The model that made the predictions.
    predictions
        Its predictions.
    axes
        Along which the classifier learnt slices.
    """
    if not is_project(folder):
        return (
            f"{folder.name} is no project, so nobody knows the labelled scans that a "
            "student learns from besides. Make a project of the scans, and predict "
            "them there."
        )
    card = teacher.card
    if card.role == "composite":
        return (
            f"{card.name} goes from coarse to fine, and a student of slices cannot "
            "start from two models. Predict with one of them, and judge that."
        )
    wanted = axes_of(teacher, predictions)
    if predictions and not wanted & set(axes):
        seen = ", ".join(str(axis) for axis in axes)
        need = ", ".join(str(axis) for axis in sorted(wanted))
        return (
            f"The classifier learnt slices along axis {seen}, and a student of "
            f"{card.name} learns slices along axis {need}. Judge slices along that "
            "axis, and train the classifier again."
        )
    try:
        return _lacking(Labels.of(folder, card.classes.names), teacher, predictions)
    except KdsegError as error:
        return str(error)


def _lacking(labels: Labels, teacher: Model, predictions: Sequence[Prediction]) -> str:
    names = ", ".join(teacher.card.classes.names)
    if not labels.training and not labels.partly:
        return (
            f"The project has no labels of {names} to learn from besides accepted "
            "slices. Correct a slice and send it to the labelled set, or add a scan "
            "with its labels."
        )
    if not _unlabelled(labels, predictions):
        return (
            "All predicted scans have labels of their own, or are held out or left "
            "out, so there is nothing to accept. Predict scans without labels."
        )
    return ""


def _unlabelled(labels: Labels, predictions: Sequence[Prediction]) -> list[str]:
    apart = {*labels.whole, *labels.held_out}
    return sorted({p.case for p in predictions if not p.missing} - apart)


def write_recipe(wish: Wish, settings: Mapping[str, Any]) -> Path:
    """Write recipe and verdicts into a new folder under ``runs``; gives the recipe.

    Parameters
    ----------
    wish
        What is handed over.
    settings
        In place of the recipe's own, with dots.

    Raises
    ------
    ProjectError
        Where it cannot be written.
    """
    runs = wish.folder / "runs"
    taken = [entry.name for entry in runs.glob("*")]
    home = runs / unique_name(wish.student, taken)
    labels = Labels.of(wish.folder, wish.teacher.card.classes.names)
    values = _recipe(wish, labels, home)
    for key, value in settings.items():
        put(values, key, value)
    known = {*labels.training, *labels.partly, *_unlabelled(labels, wish.predictions)}
    try:
        home.mkdir(parents=True)
        write_verdicts(
            home / VERDICTS, [one for one in wish.verdicts if one.case in known]
        )
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_text_atomic(home / RECIPE, text)
    except OSError as error:
        raise ProjectError(
            f"{home} could not be written ({error.strerror}); the student's recipe "
            "goes there. Make room, or ask for the right to write."
        ) from error
    return home / RECIPE


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Put a value where a key with dots says."""
    *groups, last = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    values[last] = value


def _recipe(wish: Wish, labels: Labels, home: Path) -> dict[str, Any]:
    card = wish.teacher.card
    network = card.network.model_dump(mode="json")
    flat = card.dimensions == 2
    recipe: dict[str, Any] = {
        "version": 1,
        "command": "fit",
        "method": "medaka",
        "name": wish.student,
        "threads": cores_beside_viewer(),
        "data": _entries(wish, labels, [*labels.training, *labels.partly], home),
        "unlabelled": [
            {
                "path": _seen_from(home, wish.folder),
                "cases": _unlabelled(labels, wish.predictions),
            }
        ],
        "test": _entries(wish, labels, labels.test, home),
        "classes": list(card.classes.names),
        "preprocessing": card.preprocessing.model_dump(mode="json"),
        "teacher": _seen_from(home, wish.teacher.folder),
    }
    if flat:
        recipe |= {
            "network": network,
            "patch_vox": list(card.tiling.tile_vox),
            "overlap": card.tiling.overlap,
        }
    else:  # the student sees slices, so it cannot start from this teacher
        recipe |= {"init": "scratch", "distillation": {"alpha": 0}}
    quality = {
        "source": "model",
        "model": _seen_from(home, wish.classifier),
        "threshold": wish.threshold,
        "background_from": BACKGROUND_FROM,
        # Found from any current folder, even from one with a table of that name.
        "reviews": f"../{home.name}/{VERDICTS}",
        "labels": _seen_from(home, wish.folder / "predictions"),
        "predicted_by": wish.teacher.fingerprint,
    }
    return recipe | {"quality": quality}


def _entries(
    wish: Wish, labels: Labels, cases: Sequence[str], home: Path
) -> list[dict[str, Any]]:
    """Entries of data: where files do not name classes, values are the teacher's."""
    classes = wish.teacher.card.classes
    path = _seen_from(home, wish.folder)
    entries: list[dict[str, Any]] = []
    for unnamed in (False, True):
        some = [case for case in cases if (case in labels.unnamed) == unnamed]
        if not some:
            continue
        entry: dict[str, Any] = {
            "path": path,
            "annotated": list(classes.names),
            "cases": some,
        }
        if unnamed:
            entry["map"] = {item.name: [item.value] for item in classes.classes}
        entries.append(entry)
    return entries


def _seen_from(home: Path, path: Path) -> str:
    """A path inside the project as seen from the recipe, so that both can move."""
    project = home.parent.parent
    if path == project or path.is_relative_to(project):
        return Path(os.path.relpath(path, home)).as_posix()
    return path.as_posix()
