"""Cross-validation: every case is tested once, by a model that never saw it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdseg_train.layouts import Case
from kdseg_train.patches import StoredCase
from kdseg_train.supervised import Material
from napari_kdseg.errors import DataSetError


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


def divided(material: Material, count: int, seed: int) -> list[Fold]:
    """Divide the training cases into parts, each held out by one fold.

    Cases of one group, such as the scans of one patient, stay together. One fold is
    the material as it is, with its own test cases.

    Raises
    ------
    DataSetError
        Where there are fewer groups than folds, or a class is in none of the cases
        that a fold holds out, or in none of those it keeps.
    """
    if count == 1:
        return [Fold(1, material)]
    pairs = list(zip(material.cases.training, material.training, strict=True))
    groups: dict[str, list[tuple[Case, StoredCase]]] = {}
    for case, stored in sorted(pairs, key=lambda pair: pair[0].id):
        groups.setdefault(case.group or f"case {case.id}", []).append((case, stored))
    if len(groups) < count:
        raise DataSetError(
            f"{len(groups)} cases or groups cannot be divided into {count} folds; give "
            "more cases, or fewer folds."
        )
    units = list(groups.values())
    random.Random(seed).shuffle(units)
    folds = []
    for number in range(1, count + 1):
        parts = units[number - 1 :: count]
        held = [pair for unit in parts for pair in unit]
        kept = [pair for pair in pairs if pair not in held]
        folds.append(_fold(number, material, kept, held))
    return folds


def _fold(
    number: int,
    material: Material,
    kept: Sequence[tuple[Case, StoredCase]],
    held: Sequence[tuple[Case, StoredCase]],
) -> Fold:
    names = material.cases.classes
    for what, pairs in (("tests on", held), ("trains on", kept)):
        shown = {int(c) for _, stored in pairs for c in np.unique(stored.places[:, 0])}
        empty = [name for index, name in enumerate(names, 1) if index not in shown]
        if empty:
            raise DataSetError(
                f"fold {number} {what} {', '.join(case.id for case, _ in pairs)}, and "
                f"none of them shows {empty[0]}; take another split.seed, fewer folds "
                "or more cases."
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
