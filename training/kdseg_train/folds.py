"""Cross-validation: every case is tested once, by a model that never saw it.

``RUN/folds/1`` and so on hold the models of each fold. Several folds only measure; the
model that a run is for, ``RUN/model``, is that of the first one.
"""

import random
import shutil
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from kdseg_train.config import Training
from kdseg_train.data import content, few, shown_in
from kdseg_train.layouts import Case
from kdseg_train.prepared import StoredCase
from kdseg_train.scoring import Regions, Row, as_csv, read_csv, scored
from kdseg_train.supervised import Material
from kdseg_train.targets import Target
from napari_kdseg.atomic import publish_folder, temporary_beside, write_text_atomic
from napari_kdseg.errors import DataSetError
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run

Name = Literal["teacher", "baseline", "student"]


@dataclass(frozen=True)
class Part:
    """One network of a fold.

    Attributes
    ----------
    stage
        Its name in events and checkpoints.
    draws
        Whose weights and patches it draws: student and baseline begin alike, and see
        the same patches in the same order.
    channels
        Those it sees.
    """

    name: Name
    stage: str
    draws: str
    folder: Path
    channels: tuple[int, ...]

    def target(self, classes: tuple[str, ...]) -> Target:
        """What is made of it."""
        return Target(
            classes,
            self.folder,
            "teacher" if self.name == "teacher" else "student",
            self.draws,
            suffix="" if self.name == "student" else self.name,
            channels=self.channels,
        )


@dataclass(frozen=True)
class Fold:
    """One part of a cross-validation.

    Attributes
    ----------
    number
        From 1.
    material
        The cases to train on; its test cases are those held out.
    held_out
        The cases held out as they are prepared; none where there is but one fold.
    """

    number: int
    material: Material
    held_out: tuple[StoredCase, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether it is the only fold."""
        return not self.held_out

    def part(self, run: Run, name: Name, channels: tuple[int, ...]) -> Part:
        """One of its networks; of the only fold, the student is that of the run."""
        drawn = "teacher" if name == "teacher" else "student"
        folder = (
            run.folder if self.is_whole else run.folder / "folds" / f"{self.number}"
        )
        folder = folder / name
        if self.is_whole and name == "student":
            folder = run.model_folder
        return Part(name, self._stage(name), self._stage(drawn), folder, channels)

    def kept_apart(self, settings: Training) -> tuple[StoredCase, ...]:
        """Cases for validation; where the rate needs some, those held out if none."""
        kept = self.material.validation
        return kept or (self.held_out if watches_validation(settings) else ())

    def _stage(self, name: str) -> str:
        return name if self.is_whole else f"fold-{self.number}-{name}"


def watches_validation(settings: Training) -> bool:
    """Whether the rate follows the loss of cases kept apart."""
    return settings.schedule == "plateau" and settings.plateau.watch == "validation"


def divided(material: Material, count: int, seed: int) -> list[Fold]:
    """Divide the training cases into parts, each held out by one fold.

    Cases of one group, such as the scans of one patient, stay together. One fold is
    the material as it is, with its own test cases.

    Raises
    ------
    DataSetError
        As `check_folds`; where a class is in none of the cases that a fold trains on,
        or in none of those it tests on.
    """
    if count == 1:
        _check_whole(material)
        return [Fold(1, material)]
    check_folds(material.cases.training, count)
    pairs = list(zip(material.cases.training, material.training, strict=True))
    groups: dict[str, list[tuple[Case, StoredCase]]] = {}
    for case, stored in sorted(pairs, key=lambda pair: pair[0].id):
        groups.setdefault(case.unit, []).append((case, stored))
    units = list(groups.values())
    random.Random(seed).shuffle(units)
    folds = []
    for number in range(1, count + 1):
        parts = units[number - 1 :: count]
        held = [pair for unit in parts for pair in unit]
        kept = [pair for pair in pairs if pair not in held]
        folds.append(_fold(number, material, kept, held))
    return folds


def check_folds(cases: Sequence[Case], count: int) -> None:
    """Refuse cases that cannot be divided, whatever their labels show.

    Raises
    ------
    DataSetError
        Where there are fewer groups than folds, or one scan is two cases.
    """
    if count == 1:
        return
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.unit, []).append(case)
    if len(groups) < count:
        raise DataSetError(
            f"{len(groups)} cases or groups cannot be divided into {count} folds; give "
            "more cases, or fewer folds."
        )
    _refuse_doubles([*groups.values()])


def _fold(
    number: int,
    material: Material,
    kept: Sequence[tuple[Case, StoredCase]],
    held: Sequence[tuple[Case, StoredCase]],
) -> Fold:
    for what, pairs in (("tests on", held), ("trains on", kept)):
        _refuse_empty(
            f"fold {number} {what}",
            [case for case, _ in pairs],
            material.cases.classes,
            _shown([stored for _, stored in pairs], material.cases.classes),
        )
    cases = replace(
        material.cases,
        training=tuple(case for case, _ in kept),
        test=tuple(case for case, _ in held),
    )
    return Fold(
        number,
        replace(material, cases=cases, training=tuple(stored for _, stored in kept)),
        tuple(stored for _, stored in held),
    )


def _check_whole(material: Material) -> None:
    """Where there is but one fold: its own test cases, which nobody has prepared.

    What no test case annotates is not tested, and so need not be there.
    """
    cases = material.cases
    shown = _shown(material.training, cases.classes)
    _refuse_empty("the run trains on", cases.training, cases.classes, shown)
    tested = {name for case in cases.test for name in case.annotated}
    names = [name for name in cases.classes if name in tested]
    _refuse_empty("the run tests on", cases.test, names, shown_in(cases.test, names))


def _shown(stored: Sequence[StoredCase], classes: Sequence[str]) -> set[str]:
    """Classes that prepared cases show."""
    return {classes[int(c) - 1] for one in stored for c in np.unique(one.places[:, 0])}


def _refuse_empty(
    what: str, cases: Sequence[Case], classes: Sequence[str], shown: Set[str]
) -> None:
    empty = [name for name in classes if name not in shown]
    if empty:
        raise DataSetError(
            f"{what} {few([case.id for case in cases])}, and none of them shows "
            f"{empty[0]}; take another split.seed, fewer folds or more cases, or leave "
            "the class out of `classes`."
        )


def _refuse_doubles(units: Sequence[Sequence[Case]]) -> None:
    """Refuse a scan that is in two units, which folds may part."""
    seen: dict[tuple[str, ...], tuple[int, Case]] = {}
    for number, unit in enumerate(units):
        for case in unit:
            there, twin = seen.setdefault(content(case), (number, case))
            if there != number:
                raise DataSetError(
                    f"{case.images[0]} and {twin.images[0]} are the same scan, and a "
                    "fold may train on one and test on the other; leave one out with "
                    "`exclude`, or give both one `group`."
                )


# ---- models of folds ----


def scores_of_fold(
    run: Run, fold: Fold, models: Sequence[Model], device: str, regions: Regions
) -> list[Row]:
    """Score models on the test cases of a fold, once; each row tells the fold."""
    cases = fold.material.cases
    scores = run.partial / f"scores-{fold.number}.csv"
    if cases.test and not scores.exists():
        rows = scored(run, models, cases, device, regions)
        rows = [{"fold": str(fold.number)} | row for row in rows]
        write_text_atomic(scores, as_csv(rows))
    return read_csv(scores) if cases.test else []


def keep_first(run: Run, name: str) -> None:
    """Make the first fold's model of a name that of the run, where there is none."""
    if not run.model_folder.exists():
        copy = temporary_beside(run.model_folder)
        shutil.copytree(run.folder / "folds" / "1" / name, copy)
        publish_folder(copy, run.model_folder)
