"""Tables of scores, and their averages: over volumes, and over pooled voxels.

::

    NAME.csv             a row a case, model and class
    NAME-summary.csv     a row a model, averaging and class
    NAME-summary.md      the same to read, with what the numbers mean

Numbers of the summary are those that follow from the rows of ``NAME.csv``.
"""

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.measure.metrics import (
    AVERAGES,
    DEFINITIONS,
    QUANTITY,
    ClassScore,
    Overlap,
    pooled,
)

Row = dict[str, str]
"""Scores of one case, model and class, as text."""

Entry = dict[str, str | float]
"""Averages of one model and class; text is empty where there is no such average."""

RATIOS = ("dice", "iou", "nsd")
DISTANCES = ("hd_mm", "hd95_mm")
COUNTS = ("cases", "infinite")
NUMBERS = (*RATIOS, *DISTANCES, *COUNTS)
VOXELS = ("reference_vox", "prediction_vox", "both_vox")
TOLERANCE = "nsd_tolerance_mm"


def scores_of(found: ClassScore, nsd_tolerance_mm: float) -> Row:
    """Columns of one score; ``inf`` where one of the masks is empty."""
    return {
        "class": found.name,
        "dice": f"{found.dice:.6f}",
        "iou": f"{found.iou:.6f}",
        "hd_mm": f"{found.hd_mm:{QUANTITY}}",
        "hd95_mm": f"{found.hd95_mm:{QUANTITY}}",
        "nsd": f"{found.nsd:.6f}",
        "reference_ml": f"{found.reference_ml:{QUANTITY}}",
        "prediction_ml": f"{found.prediction_ml:{QUANTITY}}",
        "reference_vox": str(found.overlap.reference_vox),
        "prediction_vox": str(found.overlap.prediction_vox),
        "both_vox": str(found.overlap.both_vox),
        TOLERANCE: str(nsd_tolerance_mm),
    }


def definitions(nsd_tolerance_mm: float) -> str:
    """Say what the numbers of a summary mean."""
    return f"{DEFINITIONS.format(tolerance=nsd_tolerance_mm)} {AVERAGES}"


# ---- averages ----


def summarised(rows: Iterable[Row], regions: Collection[str] = ()) -> list[Entry]:
    """Average over cases, for each model and class, then over the classes of a model.

    Parameters
    ----------
    rows
        Of models, classes and cases, as `scores_of` makes them.
    regions
        Names among the classes that are unions of others; they have a mean of their
        own, and are left out of that of the classes.

    Returns
    -------
    list of dict
        By model: classes averaged over volumes, then pooled. Distances that are
        infinite are left out of their means, and ``infinite`` counts them; distances
        of surfaces and their shares are not pooled. Rows without numbers of voxels
        are not pooled either.
    """
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault(row["model"], {}).setdefault(row["class"], []).append(row)
    table: list[Entry] = []
    for model, classes in groups.items():
        for averaging, average in (("volumes", _over_volumes), ("pooled", _pooled)):
            named: Entry = {"model": model, "class": "", "averaging": averaging}
            every = {name: average(found) for name, found in classes.items()}
            entries = [
                named | {"class": name} | values
                for name, values in every.items()
                if values is not None
            ]
            table += [*entries, *_means(entries, regions, classes)]
    return table


def _over_volumes(rows: Sequence[Row]) -> Entry:
    finite = [row for row in rows if math.isfinite(float(row["hd_mm"]))]
    return {
        "cases": len(rows),
        "dice": _average(float(row["dice"]) for row in rows),
        "iou": _average(float(row["iou"]) for row in rows),
        "hd_mm": _average(float(row["hd_mm"]) for row in finite),
        "hd95_mm": _average(float(row["hd95_mm"]) for row in finite),
        "nsd": _average(float(row["nsd"]) for row in rows),
        "infinite": len(rows) - len(finite),
    }


def _pooled(rows: Sequence[Row]) -> Entry | None:
    if not all(set(VOXELS) <= set(row) for row in rows):
        return None
    every = pooled(Overlap(*(int(row[name]) for name in VOXELS)) for row in rows)
    known: Entry = {"cases": len(rows), "dice": every.dice, "iou": every.iou}
    return known | dict.fromkeys(("hd_mm", "hd95_mm", "nsd", "infinite"), "")


def _means(
    entries: Sequence[Entry],
    regions: Collection[str],
    classes: Mapping[str, Sequence[Row]],
) -> list[Entry]:
    """Mean over classes and mean over regions, each where there are several."""
    found = []
    for name, is_region in (("mean", False), ("mean of regions", True)):
        part = [entry for entry in entries if (entry["class"] in regions) == is_region]
        if len(part) > 1:
            cases = {
                row["case"] for entry in part for row in classes[str(entry["class"])]
            }
            mean = {**_mean(part), "cases": len(cases)}
            found.append({**part[0], "class": name, **mean})
    return found


def _mean(entries: Sequence[Entry]) -> Entry:
    values = {
        key: [v for entry in entries if isinstance(v := entry[key], int | float)]
        for key in NUMBERS
    }
    known = {key: found for key, found in values.items() if found}
    return {
        key: sum(found)
        if key in COUNTS
        else _average(value for value in found if not math.isnan(value))
        for key, found in known.items()
    }


def _average(values: Iterable[float]) -> float:
    found = tuple(values)
    return sum(found) / len(found) if found else math.nan


# ---- files ----


def write_tables(
    table: Path, rows: Sequence[Row], words: str, regions: Collection[str] = ()
) -> list[Entry]:
    """Write a table, its summary, and both to read; the table comes last.

    Parameters
    ----------
    table
        Gets the rows; existing files are replaced.
    rows, regions
        As `summarised` takes them.
    words
        What the numbers mean.
    """
    table.parent.mkdir(parents=True, exist_ok=True)
    entries = summarised(rows, regions)
    tolerance = rows[0].get(TOLERANCE, "") if rows else ""
    lines = [_as_text(entry) | {TOLERANCE: tolerance} for entry in entries]
    write_text_atomic(beside(table, ".csv"), as_csv(lines))
    write_text_atomic(beside(table, ".md"), _as_markdown(entries, words))
    write_text_atomic(table, as_csv(rows))
    return entries


def read_summary(table: Path) -> tuple[list[Entry], str] | None:
    """Summary of a table and what its numbers mean; None where there is none."""
    path = beside(table, ".csv")
    if not path.is_file():
        return None
    rows = read_csv(path)
    tolerance = next((row.pop(TOLERANCE) for row in rows[:1]), "")
    for row in rows:
        row.pop(TOLERANCE, None)
    words = definitions(float(tolerance)) if tolerance else AVERAGES
    return [{key: _number(key, row[key]) for key in row} for row in rows], words


def as_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a table with a line of names on top; what a row lacks is left empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path: Path) -> list[Row]:
    """Rows of a table that `as_csv` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def beside(table: Path, ending: str) -> Path:
    """Where the summary of a table lies, with an ending such as ``.md``."""
    return table.with_name(f"{table.stem}-summary{ending}")


def _as_text(entry: Entry) -> Row:
    return {key: _text(key, value) for key, value in entry.items()}


def _text(key: str, value: str | float) -> str:
    if isinstance(value, str):
        return value
    if key in RATIOS:
        return f"{value:.6f}"
    return f"{value:{QUANTITY}}" if key in DISTANCES else str(value)


def _number(key: str, text: str) -> str | float:
    if not text or key not in NUMBERS:
        return text
    return int(text) if key in COUNTS else float(text)


def _as_markdown(entries: Sequence[Entry], words: str) -> str:
    names = list(entries[0]) if entries else []
    kinds = ["---:" if key in NUMBERS else "---" for key in names]
    cells = [
        [shown(key, entry[key]).replace("|", "\\|") for key in names]
        for entry in entries
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (names, kinds, *cells)]
    return "\n".join([*lines, "", words, ""])


def shown(key: str, value: str | float) -> str:
    """Text of one average as people read it; empty where there is none."""
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return ""
    return f"{value:.4f}" if key in RATIOS else f"{value:.4g}"
