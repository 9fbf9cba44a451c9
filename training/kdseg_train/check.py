"""What a training would do, found out before it starts; nothing is written.

Everything that ``fit`` refuses before it begins is refused here, by the same checks,
and what it would only meet on its way: an image that cannot be read, labels on another
grid, a disk without room.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdseg_train.config import Recipe, parse
from kdseg_train.data import Cases, resolve
from kdseg_train.estimate import Estimate
from kdseg_train.layouts import Case
from kdseg_train.methods import check as check_training
from kdseg_train.methods import module_of, prepare
from napari_kdseg.atomic import try_to_write
from napari_kdseg.errors import RunError
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.channels import SHARE_A_GRID
from napari_kdseg.volumes.preprocessing import Frame, Preprocessing
from napari_kdseg.volumes.volume import check_same_grid

IMAGE_BYTES, LABEL_BYTES = 2, 1
"""Of a voxel of a prepared case on disk."""
MODELS_BYTES = 500_000_000
"""What checkpoints and models may need besides."""


@dataclass(frozen=True)
class Findings:
    """What a training would work on, and what it needs."""

    channels: tuple[str, ...]
    classes: tuple[str, ...]
    training: int
    validation: int
    test: int
    unlabelled: int
    disk_bytes: int
    free_bytes: int
    foreseen: Estimate | None
    """Memory and time; none where any memory is to do."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        foreseen = None if self.foreseen is None else self.foreseen.as_json()
        return asdict(self) | {"foreseen": foreseen}

    @property
    def in_words(self) -> str:
        """One or two sentences for whoever asked."""
        parts = [f"{self.training} to learn from"]
        for count, use in (
            (self.unlabelled, "without labels"),
            (self.validation, "for validation"),
            (self.test, "for testing"),
        ):
            parts += [f"{count} {use}"] if count else []
        words = (
            f"{', '.join(self.classes)} from {', '.join(self.channels)}. Scans: "
            f"{', '.join(parts)}. About {self.disk_bytes / 1e9:.2g} GB on disk "
            f"({self.free_bytes / 1e9:.3g} GB free)."
        )
        return words if self.foreseen is None else f"{words} {self.foreseen.in_words}"


def check(
    values: dict[str, Any],
    where: str,
    root: Path,
    out: Path,
    *,
    any_memory: bool = False,
) -> Findings:
    """Find out whether a training can start.

    Parameters
    ----------
    values, where, root
        As `methods.prepare` takes them.
    out
        The run folder that is meant.
    any_memory
        As `methods.check` takes it.

    Raises
    ------
    RecipeError, DataSetError, ModelError, VolumeError, GridError, RunError
        The first thing that is wrong, and its fix.
    """
    check_folder(out)
    frozen = prepare(values, where, root)
    recipe: Recipe = parse(module_of(frozen["method"]).Config, frozen, where)
    cases = resolve(recipe, root)
    needed = sum(_bytes_of(case, recipe.preprocessing) for case in _stored(cases))
    needed += MODELS_BYTES
    free = shutil.disk_usage(_existing(out)).free
    if needed > free:
        raise RunError(
            f"{out} has {free / 1e9:.3g} GB of room and the training needs about "
            f"{needed / 1e9:.3g} GB for prepared scans, checkpoints and models; make "
            "room, or choose a folder on another disk."
        )
    for case in cases.test:
        _bytes_of(case, recipe.preprocessing)  # for what it refuses
    foreseen = check_training(frozen, cases, any_memory=any_memory)
    return Findings(
        cases.channels,
        cases.classes,
        len(cases.training),
        len(cases.validation),
        len(cases.test),
        len(cases.unlabelled),
        needed,
        free,
        foreseen,
    )


def check_folder(out: Path) -> None:
    """Refuse a run folder that is taken, or that nobody may write to.

    Raises
    ------
    RunError
        Where it is so.
    """
    out = out.absolute()
    if (out / "config.yaml").exists():
        state = Run.open(out).state()
        raise RunError(
            f"{out} holds a run already, which is {state}; choose a new folder."
        )
    if out.is_dir() and any(out.iterdir()):
        raise RunError(
            f"{out} holds files and no run (config.yaml); choose a new folder."
        )
    place = _existing(out)
    try:
        try_to_write(place, b" ")
    except OSError as error:
        raise RunError(
            f"{place} cannot be written to ({error.strerror}), and the run goes there. "
            "Ask for the right to write, make room, or choose another folder."
        ) from error


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _stored(cases: Cases) -> Sequence[Case]:
    """Cases that are prepared and kept on disk while a training lasts."""
    return (*cases.training, *cases.validation, *cases.unlabelled)


def _bytes_of(case: Case, preprocessing: Preprocessing) -> int:
    """What a prepared case takes on disk; its files are opened and compared."""
    headers = [formats.inspect_volume(path) for path in case.images]
    first = headers[0]
    for other in headers[1:]:
        check_same_grid(first.grid, other.grid, first.path, other.path, SHARE_A_GRID)
    labelled = case.label is not None and bool(case.annotated)
    if case.label is not None and labelled:
        label = formats.inspect_volume(case.label)
        fix = "An image and its label share one grid; resample the label first."
        check_same_grid(first.grid, label.grid, first.path, label.path, fix)
    depth, height, width = Frame.of(first.grid, preprocessing).model.shape
    channels = sum(len(header.channels) for header in headers)
    each = IMAGE_BYTES * channels + LABEL_BYTES * labelled
    return int(depth) * int(height) * int(width) * each
