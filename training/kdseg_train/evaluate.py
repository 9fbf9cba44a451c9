"""The command evaluate: labels against a reference, matched by case id.

The reference is a data set, a project, or a folder with one label file a case. The
prediction is the OUT of ``predict``, with one model or several, a project, or again a
folder of label files.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from kdseg_train import config
from kdseg_train.agreement import SliceRow, agreement, write_slices
from kdseg_train.label_files import (
    LabelFile,
    Values,
    predicted_files,
    reference_files,
)
from kdseg_train.summary import (
    Entry,
    beside,
    definitions,
    scores_of,
    summarised,
    write_tables,
)
from napari_kdseg.atomic import check_writable
from napari_kdseg.errors import UsageError
from napari_kdseg.measure.memory import Memory
from napari_kdseg.measure.metrics import NSD_TOLERANCE_MM, ClassScore
from napari_kdseg.measure.tables import check_table
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.labels import LabelSet, values_in
from napari_kdseg.volumes.renumbered import label_set, renumbered
from napari_kdseg.volumes.volume import Grid, check_same_grid

COLUMNS = (
    "case",
    "class",
    "dice",
    "iou",
    "hd_mm",
    "hd95_mm",
    "nsd",
    "reference_ml",
    "prediction_ml",
    "model",
    "nsd_tolerance_mm",
    "reference_vox",
    "prediction_vox",
    "both_vox",
)
"""Of the table; ``model`` is empty where the prediction is a folder of labels."""


class EvaluateConfig(config.Settings):
    """What is compared with what."""

    version: Literal[1] = 1
    command: Literal["evaluate"] = "evaluate"
    reference: Path = Field(description="data set, or folder of labels")
    prediction: Path = Field(description="OUT of predict, or folder of labels")
    out: Path = Field(description="the table, CSV; its summary goes beside it")
    nsd_tolerance_mm: float = Field(
        NSD_TOLERANCE_MM,
        ge=0,
        allow_inf_nan=False,
        description="surfaces this close agree",
    )
    slices: Path | None = Field(
        None, description="also a table of the slices that differ most; none: no table"
    )
    memory: Path | None = Field(
        None, description="where scores are remembered by the labels' hashes"
    )


@dataclass(frozen=True)
class Row:
    """One class of one case under one model."""

    case: str
    model: str
    score: ClassScore


@dataclass(frozen=True)
class LeftOut:
    """What the means of one model do not count."""

    model: str
    cases: tuple[str, ...]
    """Of the reference, without prediction."""
    classes: Mapping[tuple[str, str], int]
    """Class and why it was not compared -> in how many cases."""
    compared: int
    """Cases that were."""

    def sentences(self) -> list[str]:
        """Say it; nothing where all was compared."""
        said = []
        if self.cases:
            whose = f" by {self.model}" if self.model else ""
            cases = _few(self.cases, 5)
            said.append(f"Without prediction{whose}, not counted: {cases}.")
        if self.classes:
            whose = f" for {self.model}" if self.model else ""
            said.append(f"Not compared{whose}: {self._classes()}.")
        return said

    def _classes(self) -> str:
        alike: dict[str, list[str]] = {}
        for (name, reason), cases in self.classes.items():
            why = reason
            if cases < self.compared:
                why = f"{why} in {cases} of {self.compared} cases"
            alike.setdefault(f"({why})", []).append(name)
        return "; ".join(f"{_few(names, 8)} {why}" for why, names in alike.items())


@dataclass(frozen=True)
class Comparison:
    """All scores, and what could not be compared."""

    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    tolerance_mm: float
    slices: tuple[SliceRow, ...] = ()
    in_part: tuple[str, ...] = ()
    """Cases of which people labelled some slices alone."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not compared, for each model."""
        said = tuple(text for one in self.left_out for text in one.sentences())
        if not self.in_part:
            return said
        cases = _few(self.in_part, 5)
        return (*said, f"Labelled in some slices alone, not compared: {cases}.")

    @property
    def caption(self) -> str:
        """Definitions, and what was not compared, to print beside a table."""
        return "\n".join([definitions(self.tolerance_mm), *self.notes])


Count = Callable[[int, int], None]
"""Told how many cases are done, and how many there are."""


def evaluate(run: Run) -> None:
    """Do what a run's config says, and write the tables it names."""
    settings = config.parse(EvaluateConfig, run.config, str(run.folder))

    def count(done: int, total: int) -> None:
        run.check_stop()
        run.progress(done, total, "cases")

    def note(pair: Pair) -> None:
        run.event("pair", **pair.described())

    comparison = compare(settings, count, note)
    write_table(settings, comparison)
    for message in comparison.notes:
        run.event("note", message=message)
    for values in means(comparison):
        run.metric(**{key: value for key, value in values.items() if value != ""})


def compare(
    settings: EvaluateConfig,
    count: Count,
    note: "Callable[[Pair], None]" = lambda _: None,
) -> Comparison:
    """Score every case that is in both places.

    Parameters
    ----------
    count
        Told of progress after each case.
    note
        Told of each pair before it is read.

    Raises
    ------
    UsageError, DataSetError
        Where there is nothing to compare, or the table cannot be written.
    GridError
        Where a prediction does not lie on its reference's grid; says what differs.
    LabelError
        Where labels hold values that mean nothing.
    """
    check_writable(settings.out)
    if settings.slices is not None:
        check_table(settings.slices)
    references = list(reference_files(settings.reference))
    whole = [file.case for file in references if not file.in_part]
    in_part = tuple(file.case for file in references if file.in_part)
    pairs = matched(settings.reference, settings.prediction, references)
    memory = None if settings.memory is None else Memory(settings.memory)
    rows: list[Row] = []
    slices: list[SliceRow] = []
    for number, pair in enumerate(pairs, start=1):
        note(pair)
        found = agreement(*pair.read(), settings.nsd_tolerance_mm, memory)
        model = pair.prediction.model
        rows += [Row(pair.case, model, one) for one in found.scores]
        slices += [SliceRow(pair.case, model, one) for one in found.slices]
        count(number, len(pairs))
    left_out = tuple(_left_out(whole, pairs))
    tolerance_mm = settings.nsd_tolerance_mm
    return Comparison(tuple(rows), left_out, tolerance_mm, tuple(slices), in_part)


def _left_out(references: Iterable[str], pairs: Sequence["Pair"]) -> Iterator[LeftOut]:
    for model in dict.fromkeys(pair.prediction.model for pair in pairs):
        own = [pair for pair in pairs if pair.prediction.model == model]
        missing = sorted(set(references) - {pair.case for pair in own})
        classes = Counter(one for pair in own for one in pair.not_compared().items())
        yield LeftOut(model, tuple(missing), classes, len(own))


def matched(
    reference: Path, prediction: Path, known: Iterable[LabelFile] | None = None
) -> list["Pair"]:
    """Find the labels that both places have of a case.

    A case of which some slices alone were labelled has no pair: all others are copies
    of a prediction.

    Parameters
    ----------
    reference, prediction
        The folders.
    known
        Label files of the reference, where they were listed before.

    Raises
    ------
    UsageError, DataSetError
        Where there are none.
    """
    listed = reference_files(reference) if known is None else known
    references = {file.case: file for file in listed}
    predictions = list(predicted_files(prediction))
    both = [(references[p.case], p) for p in predictions if p.case in references]
    if not both:
        raise UsageError(
            f"No case is both in {reference} ({_few(list(references))}) and "
            f"in {prediction} ({_few([p.case for p in predictions])}); cases "
            "are matched by the names of their files, without the ending."
        )
    both = [(known, guess) for known, guess in both if not known.in_part]
    if not both:
        raise UsageError(
            f"Of each scan in {reference} that is predicted some slices alone are "
            "labelled: nothing whole can be compared with them. Correct whole scans, "
            "or give another reference."
        )
    unnamed = _unnamed_classes([file for pair in both for file in pair])
    return [Pair(known, guess, unnamed) for known, guess in both]


def write_table(settings: EvaluateConfig, comparison: Comparison) -> list[Path]:
    """Write all rows as CSV, their summary beside it, and the slices if asked for.

    Returns
    -------
    list of Path
        The files; they take the place of earlier ones.
    """
    table = settings.out
    written = [table, beside(table, ".csv"), beside(table, ".md")]
    if settings.slices is not None:
        write_slices(settings.slices, comparison.slices)
        written.append(settings.slices)
    write_tables(table, _rows(comparison), comparison.caption)
    return written


def means(comparison: Comparison) -> list[Entry]:
    """Averages over cases, for each model and class, then over the classes of a model.

    Over volumes and pooled; distances that are infinite are left out of their means,
    and ``infinite`` counts them.
    """
    return summarised(_rows(comparison))


def _rows(comparison: Comparison) -> list[dict[str, str]]:
    rows = []
    for row in comparison.rows:
        named = {"case": row.case, "model": row.model}
        values = named | scores_of(row.score, comparison.tolerance_mm)
        rows.append({name: values[name] for name in COLUMNS})
    return rows


def _unnamed_classes(files: Sequence[LabelFile]) -> dict[str, tuple[int, ...]] | None:
    """Classes named by their values, where no file says what its values are called."""
    if any(file.values is not None for file in files):
        return None
    found: set[int] = set()
    for path in {file.path for file in files}:
        found.update(values_in(formats.read_labels(path)[0], str(path)))
    return {str(value): (value,) for value in sorted(found - {0})}


# ---- One case ----


@dataclass(frozen=True)
class Pair:
    """Labels of one case in both places."""

    reference: LabelFile
    prediction: LabelFile
    unnamed: Mapping[str, tuple[int, ...]] | None
    """Classes, where neither place says what its values mean."""

    @property
    def case(self) -> str:
        """The id that both share."""
        return self.prediction.case

    def described(self) -> dict[str, Any]:
        """Say which files these are, and how each keeps the classes of both."""
        names, known, predicted = self._common()
        return {
            "case": self.case,
            "model": self.prediction.model,
            "reference": str(self.reference.path),
            "prediction": str(self.prediction.path),
            "images": [str(path) for path in self.reference.images],
            "reference_values": {name: list(known[name]) for name in names},
            "prediction_values": {name: list(predicted[name]) for name in names},
        }

    def read(self) -> tuple[np.ndarray, np.ndarray, LabelSet, Grid]:
        """Read both as values 1, 2, ... of the classes that both speak about.

        Raises
        ------
        GridError, LabelError, UsageError
            Where they lie differently, hold values that mean nothing, or share none.
        """
        reference, prediction = self.reference, self.prediction
        truth, grid = formats.read_labels(reference.path)
        guess, guessed_grid = formats.read_labels(prediction.path)
        fix = "Predict the image of that reference, or resample one of them."
        check_same_grid(grid, guessed_grid, reference.path, prediction.path, fix)
        names, known, predicted = self._common()
        label_set(known).check(truth, str(reference.path))
        label_set(predicted).check(guess, str(prediction.path))
        return (
            renumbered(truth, [known[name] for name in names]),
            renumbered(guess, [predicted[name] for name in names]),
            LabelSet.from_names(names),
            grid,
        )

    def not_compared(self) -> dict[str, str]:
        """Classes that one side speaks about and the other does not, each with why."""
        names, known, predicted = self._common()
        spoken = self.reference.annotated
        found: dict[str, str] = {}
        for name in dict.fromkeys((*known, *predicted)):
            if name not in names and name not in known:
                found[name] = "only in the prediction"
            elif name not in names and name in predicted:
                found[name] = "not annotated in the reference"
            elif name not in names and (spoken is None or name in spoken):
                found[name] = "only in the reference"
        return found

    def _common(self) -> tuple[list[str], Values, Values]:
        """Classes of both, and the values that each has for what it knows."""
        reference, prediction = self.reference, self.prediction
        # Who does not name classes is taken to use the values of who does.
        known = reference.values or prediction.values or self.unnamed or {}
        predicted = prediction.values or known
        names = [name for name in known if name in predicted]
        if reference.annotated is not None:
            names = [name for name in names if name in reference.annotated]
        if not names:
            raise UsageError(
                f"{reference.path} knows the classes {', '.join(known)} and "
                f"{prediction.path} {', '.join(predicted)}; they share none, so "
                "nothing can be compared."
            )
        return names, known, predicted


def _few(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    more = len(names) > most
    return f"{shown}, ... {len(names)} in all" if more else shown or "none"
