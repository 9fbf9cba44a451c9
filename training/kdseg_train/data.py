"""Which cases a recipe means, how they are divided, and whether they have changed."""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from kdseg_train.config import DataEntry, Recipe
from kdseg_train.layouts import Case, DataSet, read_data_set
from napari_kdseg.errors import DataSetError
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.labels import values_in


@dataclass(frozen=True)
class Cases:
    """The cases of one recipe, divided."""

    channels: tuple[str, ...]
    classes: tuple[str, ...]
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]
    unlabelled: tuple[Case, ...]

    @property
    def all(self) -> tuple[Case, ...]:
        """Every case, whatever it is for."""
        return (*self.training, *self.validation, *self.test, *self.unlabelled)


def resolve(recipe: Recipe, root: Path) -> Cases:
    """Find the cases a recipe means and divide them by scan.

    Raises
    ------
    DataSetError
        An empty selection, differing channels, a class no data set has, or one scan or
        patient on two sides: training, validation, testing.
    """
    cases = cases_meant(recipe, root)
    _refuse_leaks(cases)
    return cases


def cases_meant(recipe: Recipe, root: Path) -> Cases:
    """`resolve`, whether or not a scan or a patient is on two sides.

    Raises
    ------
    DataSetError
        As `resolve`, but for that.
    """
    given, sets = _entries(recipe.data, root)
    unlabelled, more_sets = _entries(recipe.unlabelled, root)
    explicit_test, test_sets = _entries(recipe.test, root)
    explicit_test += _held_out(given, explicit_test)
    given = [case for case in given if not case.held_out]
    labelled = [case for case in given if case.annotated]
    unlabelled += [case for case in given if not case.annotated]
    unlabelled = [case for case in unlabelled if not case.held_out]
    for case in explicit_test:
        _check_test(case)
    channels = _shared_channels([*sets, *more_sets, *test_sets])
    classes = _class_order(labelled, recipe.classes)
    training, validation, test = _divide(labelled, recipe)
    return Cases(
        channels=channels,
        classes=classes,
        training=training,
        validation=validation,
        test=test + tuple(explicit_test),
        unlabelled=tuple(
            replace(case, label=None, annotated=(), slices=()) for case in unlabelled
        ),
    )


def fingerprint(cases: Iterable[Case]) -> str:
    """SHA-256 over the files of the cases and what their labels speak about."""
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda case: (case.id, case.annotated)):
        known = (case.id, case.annotated, case.values)
        digest.update(repr((*known, case.slices) if case.slices else known).encode())
        for path in (*case.images, *([case.label] if case.label else [])):
            digest.update(file_hash(path).encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a volume's file, or of all its files in order."""
    digest = hashlib.sha256()
    for file in formats.files_of(path):
        known = file.stat()
        digest.update(_digest(file, known.st_size, known.st_mtime_ns))
    return digest.hexdigest()


@cache
def _digest(file: Path, size: int, changed_ns: int) -> bytes:
    del size, changed_ns  # tell a file from what lay there before
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _entries(
    entries: Sequence[DataEntry], root: Path
) -> tuple[list[Case], list[DataSet]]:
    cases: list[Case] = []
    sets: list[DataSet] = []
    for entry in entries:
        data_set = read_data_set(root / entry.path)
        sets.append(data_set)
        # After the choice, so that a slice of cases means the same others as before.
        named = [case for case in _chosen(entry, data_set) if not case.left_out]
        cases += [_speaking_of(case, entry, data_set) for case in named]
    return cases, sets


def _held_out(given: Sequence[Case], test: Sequence[Case]) -> list[Case]:
    """Labelled cases that their data set keeps for testing, and that are not there."""
    there = {(case.id, case.images) for case in test}
    return [
        case
        for case in given
        if case.held_out and case.annotated and (case.id, case.images) not in there
    ]


def _check_test(case: Case) -> None:
    if not case.annotated:
        raise DataSetError(
            f"{case.images[0]} is kept for testing, but nothing is annotated in it; "
            "name test cases that have labels."
        )
    if case.slices:
        raise DataSetError(
            f"{case.images[0]} is kept for testing, and only {len(case.slices)} of its "
            "slices are labelled; correct the whole scan, or leave it out."
        )


def _chosen(entry: DataEntry, data_set: DataSet) -> list[Case]:
    by_id = {case.id: case for case in data_set.cases}
    is_list = isinstance(entry.cases, tuple)
    listed = entry.cases if isinstance(entry.cases, tuple) else ()
    for name in (*entry.exclude, *listed):
        if name not in by_id:
            raise DataSetError(
                f"{entry.path} has no case {name!r}; it has {few(sorted(by_id))}."
            )
    names = [name for name in sorted(by_id) if name not in entry.exclude]
    if is_list:
        names = [name for name in listed if name not in entry.exclude]
    elif isinstance(entry.cases, str):
        names = names[_slice(entry.cases, entry.path)]
    if not names:
        raise DataSetError(
            f"{entry.path}: cases {entry.cases!r} select none of {len(by_id)} cases."
        )
    return [by_id[name] for name in names]


def _slice(text: str, path: Path) -> slice:
    try:
        parts = [int(part) if part else None for part in text.split(":")]
        found = slice(*parts) if len(parts) > 1 else slice(int(text), int(text) + 1)
        found.indices(1)  # refuses a step of zero
        return found
    except (TypeError, ValueError) as error:
        raise DataSetError(
            f"{path}: cases {text!r} is no slice; write e.g. '0:120'."
        ) from error


def _speaking_of(case: Case, entry: DataEntry, data_set: DataSet) -> Case:
    values = {**case.values, **entry.map}
    wanted = entry.annotated if entry.annotated is not None else tuple(case.annotated)
    for name in wanted:
        if name not in values:
            raise DataSetError(
                f"{entry.path} annotates no {name!r}; its classes are "
                f"{', '.join(data_set.classes) or 'none'}. Add it to `map`."
            )
    annotated = wanted if case.label is not None else ()
    offset = case.intensity_offset + entry.intensity_offset
    return replace(case, values=values, annotated=annotated, intensity_offset=offset)


def _shared_channels(sets: Sequence[DataSet]) -> tuple[str, ...]:
    first = sets[0]
    for other in sets[1:]:
        if len(other.channels) != len(first.channels):
            raise DataSetError(
                f"{other.name} has the channels {', '.join(other.channels)}, "
                f"{first.name} has {', '.join(first.channels)}; one recipe needs the "
                "same channels everywhere."
            )
        same = set(other.channels) == set(first.channels)
        if same and other.channels != first.channels:
            raise DataSetError(
                f"{other.name} has the channels {', '.join(other.channels)}, "
                f"{first.name} the same in another order; put them in one order."
            )
    return first.channels


def _class_order(
    cases: Sequence[Case], wanted: tuple[str, ...] | None
) -> tuple[str, ...]:
    found = list(dict.fromkeys(name for case in cases for name in case.annotated))
    if wanted is None:
        if not found:
            raise DataSetError(
                "no case has labels whose classes are named: name a data set that has "
                "some. In a project, name them with Classes… in the Volumes dock."
            )
        return tuple(found)
    for name in wanted:
        if name not in found:
            raise DataSetError(
                f"no case annotates {name!r}; annotated are {', '.join(found)}."
            )
    return wanted


def _divide(
    cases: Sequence[Case], recipe: Recipe
) -> tuple[tuple[Case, ...], tuple[Case, ...], tuple[Case, ...]]:
    """Shuffle within each set of annotated classes, so that each is divided alike.

    Cases of one group, such as the scans of one patient, stay together, with the first
    of them where other classes are annotated in another one. Those with a few labelled
    slices are for training: nothing whole can be compared with them.
    """
    partly = [case for case in cases if case.slices]
    groups: dict[tuple[str, ...], list[Case]] = {}
    leading: dict[str, tuple[str, ...]] = {}
    for case in (case for case in cases if not case.slices):
        annotated = case.annotated
        if case.group:
            annotated = leading.setdefault(case.group, annotated)
        groups.setdefault(annotated, []).append(case)
    parts: tuple[list[Case], list[Case], list[Case]] = (partly, [], [])
    for group in groups.values():
        together: dict[str, list[Case]] = {}
        for case in sorted(group, key=lambda case: case.id):
            together.setdefault(case.unit, []).append(case)
        units = list(together.values())
        random.Random(recipe.split.seed).shuffle(units)
        test = round(recipe.split.test * len(units))
        validation = round(recipe.split.validation * len(units))
        parts[2].extend(case for unit in units[:test] for case in unit)
        parts[1].extend(
            case for unit in units[test : test + validation] for case in unit
        )
        parts[0].extend(case for unit in units[test + validation :] for case in unit)
    training, validation_cases, test_cases = (
        tuple(sorted(part, key=lambda case: case.id)) for part in parts
    )
    if not training:
        raise DataSetError("the split leaves no case for training; keep fewer apart.")
    return training, validation_cases, test_cases


def content(case: Case) -> tuple[str, ...]:
    """Hashes of a case's images: those of one scan are the same, whatever its name."""
    return tuple(file_hash(path) for path in case.images)


def sources(case: Case) -> list[tuple[str, ...]]:
    """What cases of one scan have in common, and cases of one patient.

    The scan is told by its bytes, the patient by the name of the group, in whatever
    data set.
    """
    scan = ("scan", *content(case))
    return [scan, ("group", case.group)] if case.group else [scan]


def shown_in(cases: Iterable[Case], classes: Sequence[str]) -> set[str]:
    """Classes that the labels of some case show; reads until all were seen."""
    found: set[str] = set()
    for case in cases:
        if found == set(classes):
            break
        if case.label is None:
            continue
        values = set(values_in(formats.read_labels(case.label)[0], str(case.label)))
        for name in set(classes) & set(case.annotated):
            if not values.isdisjoint(case.values[name]):
                found.add(name)
    return found


def _refuse_leaks(cases: Cases) -> None:
    """Each scan, and each patient, is on one side alone."""
    seen: dict[tuple[str, ...], tuple[str, Case]] = {}
    for side, part in (
        ("testing", cases.test),
        ("validation", cases.validation),
        ("training", (*cases.training, *cases.unlabelled)),
    ):
        for case in part:
            for source in sources(case):
                there, twin = seen.setdefault(source, (side, case))
                if there != side:
                    raise DataSetError(_leak(source[0], (side, case), (there, twin)))


def _leak(kind: str, one: tuple[str, Case], other: tuple[str, Case]) -> str:
    (side, case), (there, twin) = one, other
    if kind == "scan":
        return (
            f"{case.images[0]} is used for {side} and, as {twin.images[0]}, kept for "
            f"{there}; leave it out of one of them."
        )
    return (
        f"{case.images[0]} is used for {side} and {twin.images[0]}, of the same group "
        f"{case.group!r}, kept for {there}; scans of one patient go to one side. Leave "
        "one out with `exclude`, or name the groups apart where they are two patients."
    )


def few(names: Sequence[str]) -> str:
    """The first of some names, and how many there are."""
    shown = ", ".join(names[:3])
    return f"{shown} ... ({len(names)} in all)" if len(names) > 3 else shown
