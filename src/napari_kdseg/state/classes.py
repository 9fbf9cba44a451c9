"""The classes of a project: learnt from labels as these are added, named by people."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress

import numpy as np
from pydantic import ValidationError

from napari_kdseg.errors import KdsegError, LabelError
from napari_kdseg.project import Project
from napari_kdseg.state.scan_layers import classes_of_labels
from napari_kdseg.volumes.formats import blocks_of, inspect_volume
from napari_kdseg.volumes.labels import LabelClass, LabelSet, unnamed, values_in
from napari_kdseg.volumes.scan import NewScan, Scan, VolumeFile

MOST_VALUES = 255
"""Labels with more values number objects, not organs."""


def adding_and_learning(
    project: Project, new: NewScan, *, copy: bool = False, resample: bool = False
) -> Generator[float, None, Scan]:
    """Add a scan as `Project.adding` does; the project learns classes of its labels.

    Where nobody named them, every value that occurs is a class called after it. Labels
    that name some of the project's classes alone say nothing of the others, nor do
    earlier ones of classes that come with these.

    Raises
    ------
    LabelError
        Where the labels call a value otherwise than the project does, or have one that
        is not a whole number.
    """
    # Of the file where it lies now: what names its classes may lie beside it, and does
    # not come along into a copy.
    if new.labels is not None:
        yield from refusing_fractions(new.labels)
    found = None if new.labels is None else (yield from _found_in(new.labels))
    known = project.classes
    found = _as_called_here(found, known, project.renamed)
    classes = _merged(known, found, "" if new.labels is None else new.labels.path.name)
    scan = yield from project.adding(new, copy=copy, resample=resample)
    if classes != known:
        project.set_classes(classes)
    if found is not None and not unnamed(found):
        _know_only(project, found, [scan])
        if known is not None and not unnamed(known):
            _know_only(
                project, known, [s for s in project.scans if s.case != scan.case]
            )
    return project.scan(scan.case)


def refusing_fractions(labels: VolumeFile) -> Generator[float, None, None]:
    """Read labels that are stored as floats, a piece at a time.

    Raises
    ------
    LabelError
        Where one is not a whole number.
    """
    if np.dtype(inspect_volume(labels.path, labels.part).dtype).kind != "f":
        return
    for _, block in blocks_of(labels.path, labels.part)[1]:
        values_in(block, str(labels.path))
        yield 0.0


def _know_only(project: Project, drawn: LabelSet, scans: Sequence[Scan]) -> None:
    """Note what the labels of scans know, where the project knows more by now.

    What somebody said of a scan stays.
    """
    cases = [scan.case for scan in scans if scan.labels and not scan.annotated]
    every = project.classes
    if every is not None and set(drawn.names) < set(every.names):
        project.set_annotated(cases, drawn.names)


def classes_from(rows: Sequence[tuple[str, str, str]]) -> LabelSet | None:
    """Read value, name and colour of each class; rows without a name are left out.

    Raises
    ------
    LabelError
        Where a value is none, or values or names are given twice.
    """
    made = []
    for value, name, color in rows:
        if not name.strip():
            continue
        try:
            made.append(
                LabelClass(value=int(value), name=name.strip(), color=color.strip())
            )
        except ValueError as error:
            raise LabelError(
                f"The class {name.strip()!r} has the value {value!r} and the colour "
                f"{color!r}; a value is a whole number from 1 to 65535, a colour as "
                "#e69f00."
            ) from error
    try:
        return LabelSet(classes=tuple(made)) if made else None
    except ValidationError as error:
        raise LabelError(str(error.errors()[0]["ctx"]["error"])) from error


def next_class(values: Sequence[int]) -> LabelClass:
    """Propose one more class, after those that have these values."""
    [one] = LabelSet.from_values([max(values, default=0) + 1]).classes
    return one


def _found_in(one: VolumeFile) -> Generator[float, None, LabelSet | None]:
    """Classes of labels; None where they cannot be read as such: adding tells why."""
    with suppress(KdsegError, OSError):
        known = classes_of_labels(one)
        if known is not None:
            return known
        values: set[int] = set()
        for _, block in blocks_of(one.path, one.part)[1]:
            values.update(values_in(block, str(one.path)))
            if len(values) > MOST_VALUES + 1:
                return None
            yield 0.0
        return LabelSet.from_values(values - {0}) if values - {0} else None
    return None


def _as_called_here(
    found: LabelSet | None, known: LabelSet | None, renamed: Mapping[str, str]
) -> LabelSet | None:
    """The classes of a file by the names that people gave them in the project."""
    if found is None or known is None:
        return found
    alike = {name.casefold(): name for name in known.names}
    names = [renamed.get(n, alike.get(n.casefold(), n)) for n in found.names]
    if len(set(names)) < len(names):
        return found
    pairs = zip(found.classes, names, strict=True)
    return LabelSet(classes=tuple(c.model_copy(update={"name": n}) for c, n in pairs))


def _merged(
    known: LabelSet | None, found: LabelSet | None, file: str
) -> LabelSet | None:
    """What is known with what was found; names that somebody gave come first."""
    if found is None or known is None:
        return known or found
    if unnamed(found):
        more = known.with_values(found.values)
        return LabelSet.from_values(more.values) if unnamed(known) else more
    if unnamed(known):
        return found.with_values(known.values)
    _refuse_clash(known, found, file)
    new = [one for one in found.classes if one.name not in known.names]
    return LabelSet(classes=(*known.classes, *new))


def _refuse_clash(known: LabelSet, found: LabelSet, file: str) -> None:
    by_value = dict(zip(known.values, known.names, strict=True))
    by_name = dict(zip(known.names, known.values, strict=True))
    for one in found.classes:
        here = by_value.get(one.value, one.name)
        if here != one.name:
            raise LabelError(
                f"{file} calls the value {one.value} {one.name!r}, and this project "
                f"calls it {here!r}. If both mean the same, name it alike under "
                "Classes; else add these scans to a project of their own: a training "
                "takes several."
            )
        value = by_name.get(one.name, one.value)
        if value != one.value:
            raise LabelError(
                f"{file} has {one.name!r} as the value {one.value}, and this project "
                f"as {value}. Add these scans to a project of their own: a training "
                "takes several."
            )
