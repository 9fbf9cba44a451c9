"""What a measurement came to: its rows, what of them to plot, what was compared."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_kdseg.measure.disagreement import KINDS, Disagreement
from napari_kdseg.measure.organ_rows import NUMBERS
from napari_kdseg.measure.outliers import FAR, robust_z
from napari_kdseg.measure.tables import Value
from napari_kdseg.runs.run import Run
from napari_kdseg.state.layers import (
    LayerData,
    image_layers,
    labels_layer,
    record_of,
    with_record,
)
from napari_kdseg.state.results import classes_of_file
from napari_kdseg.state.scan_layers import labels_to_show
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.opening import open_scan
from napari_kdseg.volumes.scan import VolumeFile
from napari_kdseg.volumes.volume import check_same_grid

Mode = Literal["organs", "agreement"]
Row = dict[str, Value]

TABLE = "table.csv"
SLICES = "slices.csv"
SCORES = ("dice", "iou", "hd_mm", "hd95_mm", "nsd")
_LOW_IS_BAD = ("dice", "iou", "nsd")
_TEXT = ("case", "model", "group", "class", "channel", "neighbours_mm2", "at_edge")


@dataclass(frozen=True)
class Point:
    """One value of a plot."""

    case: str
    value: float
    z: float
    """Robust z among the values of its organ and group; NaN where it says nothing."""

    @property
    def far(self) -> bool:
        """Whether it is marked."""
        return abs(self.z) > FAR


@dataclass(frozen=True)
class Strip:
    """The values of one organ and group, side by side with others."""

    organ: str
    group: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Place:
    """A slice that differs from the reference."""

    case: str
    model: str
    axis: int
    index: int
    wrong_mm2: float
    dice: float


@dataclass(frozen=True)
class Pair:
    """The files that were compared, and how each keeps the classes of both."""

    case: str
    model: str
    reference: Path
    prediction: Path
    reference_values: dict[str, list[int]]
    prediction_values: dict[str, list[int]]
    images: tuple[Path, ...] = ()
    """The scan, where the reference tells it."""

    def layers(self, images: Sequence[VolumeFile] = ()) -> list[LayerData]:
        """Layers of the scan, of both labels, and of where they differ.

        Raises
        ------
        VolumeError
            Where a file is missing or damaged by now.
        """
        truth, grid = labels_to_show(VolumeFile(self.reference))
        guess, guessed = labels_to_show(VolumeFile(self.prediction))
        check_same_grid(grid, guessed, self.reference, self.prediction)
        made: list[LayerData] = []
        for one in images:
            volume = open_scan(one.path, one.part)
            made += [_keyed(layer, self._key("scan")) for layer in image_layers(volume)]
        classes = classes_of_file(self.reference) or _named(self.reference_values)
        predicted = classes_of_file(self.prediction) or _named(self.prediction_values)
        tables = _table(self.reference_values), _table(self.prediction_values)
        model = self.model or "labels"
        for data, known, name in (
            (truth, classes, "reference"),
            (guess, predicted, model),
            (Disagreement(truth, guess, *tables), KINDS, f"{model} disagreement"),
        ):
            record = {"case": self.case, "key": self._key(name)}
            layer = labels_layer(
                data, grid, known, name=f"{self.case} {name}", record=record
            )
            layer[1]["visible"] = known is KINDS  # else it would hide among the others
            made.append(layer)
        return made

    @property
    def key(self) -> str:
        """What the layer of the disagreement is found by."""
        return self._key(f"{self.model or 'labels'} disagreement")

    def _key(self, name: str) -> str:
        return "/".join(["measure", str(self.prediction), self.case, name])


@dataclass(frozen=True)
class Result:
    """A finished measurement."""

    mode: Mode
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    places: tuple[Place, ...] = ()
    pairs: tuple[Pair, ...] = ()

    @classmethod
    def read(cls, run: Run) -> "Result":
        """Read what a finished run wrote.

        Raises
        ------
        OSError, ValueError, KeyError
            Where it is not there, or not as it was written.
        """
        mode: Mode = "organs" if run.config["command"] == "measure" else "agreement"
        columns, rows = _read(run.folder / TABLE)
        if mode == "organs":
            return cls(mode, columns, rows)
        _, slices = _read(run.folder / SLICES)
        places = tuple(
            Place(
                str(row["case"]),
                str(row["model"]),
                int(row["axis"]),
                int(row["index"]),
                float(row["wrong_mm2"]),
                float(row["dice"]),
            )
            for row in slices
        )
        return cls(mode, columns, rows, places, tuple(_pairs(run)))

    @property
    def quantities(self) -> tuple[str, ...]:
        """Columns that are worth a plot, and have numbers."""
        names = NUMBERS if self.mode == "organs" else SCORES
        return tuple(name for name in names if self.has(name))

    @property
    def organs(self) -> tuple[str, ...]:
        """Classes, in the order of the table."""
        return tuple(dict.fromkeys(str(row["class"]) for row in self.rows))

    def shown(self) -> list[Row]:
        """Rows in the order to look at them: of scores the worst first."""
        if self.mode == "organs":
            return list(self.rows)
        return sorted(self.rows, key=lambda row: float(row["dice"]))

    def strips(self, quantity: str, organ: str = "") -> list[Strip]:
        """Values of a quantity by organ and group, with how far each lies off.

        Parameters
        ----------
        quantity
            A column.
        organ
            This class alone; empty: all.
        """
        found: dict[tuple[str, str], list[tuple[str, float]]] = {}
        for row in self.rows:
            value = float(row[quantity])
            if math.isfinite(value) and organ in ("", row["class"]):
                kind = str(row["class"]), self._group(row)
                found.setdefault(kind, []).append((str(row["case"]), value))
        strips = []
        for (name, group), values in found.items():
            far = robust_z([value for _, value in values])
            points = tuple(
                Point(case, value, float(z))
                for (case, value), z in zip(values, far, strict=True)
            )
            strips.append(Strip(name, group, points))
        return strips

    def has(self, column: str) -> bool:
        """Whether any row has a number, or a word, in a column."""
        found = [row[column] for row in self.rows]
        return any(
            math.isfinite(value) if isinstance(value, float) else value != ""
            for value in found
        )

    def outliers(self, quantity: str, organ: str = "") -> int:
        """How many values of a quantity are marked, among those of `strips`."""
        strips = self.strips(quantity, organ)
        return sum(point.far for strip in strips for point in strip.points)

    def pair(self, case: str, model: str) -> Pair | None:
        """The files of one comparison."""
        for pair in self.pairs:
            if (pair.case, pair.model) == (case, model):
                return pair
        return None

    def worst(self, most: int = 30) -> list[Place]:
        """Slices with most wrong area, along the stored array's first axis."""
        first = [place for place in self.places if place.axis == 0]
        return sorted(first, key=lambda place: -place.wrong_mm2)[:most]

    def _group(self, row: Row) -> str:
        words = (str(row.get("model", "")), str(row.get("group", "")))
        return " ".join(word for word in words if word not in ("", "none"))


# ---- Reading ----


def _read(path: Path) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = tuple(
            {name: _value(name, text) for name, text in row.items()} for row in reader
        )
        return tuple(reader.fieldnames or ()), rows


def _value(name: str, text: str) -> Value:
    if name in _TEXT:
        return text
    if name.endswith("_vox") or name in ("voxels", "axis", "index"):
        return int(text)
    return float(text) if text else math.nan


def _pairs(run: Run) -> Iterator[Pair]:
    events, _ = run.events()
    for event in events:
        if event["event"] == "pair":
            yield Pair(
                str(event["case"]),
                str(event["model"]),
                Path(event["reference"]),
                Path(event["prediction"]),
                event["reference_values"],
                event["prediction_values"],
                tuple(Path(name) for name in event["images"]),
            )


def _table(values: dict[str, list[int]]) -> np.ndarray:
    table = np.zeros(2**16, np.uint16)
    for number, stored in enumerate(values.values(), start=1):
        table[stored] = number
    return table


def _named(values: dict[str, list[int]]) -> LabelSet | None:
    if any(len(stored) != 1 for stored in values.values()):
        return None
    known = LabelSet.from_names(values)
    return LabelSet(
        classes=tuple(
            item.model_copy(update={"value": values[item.name][0]})
            for item in known.classes
        )
    )


def _keyed(layer: LayerData, key: str) -> LayerData:
    channel: Any = record_of(layer[1]).get("channel", 0)
    return with_record(layer, key=f"{key}/{channel}")
