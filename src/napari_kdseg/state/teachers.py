"""What several models say of one scan: labels, uncertainty, regions, worst slices."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from psygnal import Signal

from napari_kdseg.errors import VolumeError
from napari_kdseg.inference.regions import conflict_code, shown
from napari_kdseg.state.layers import LayerData, record_of
from napari_kdseg.state.regions import CONFLICT, Region, Regions
from napari_kdseg.state.results import (
    Kind,
    Result,
    classes_of_file,
    key_of,
    labels_of,
    models_in,
    record_of_result,
    uncertainty_of,
)
from napari_kdseg.state.slices import FinishedTiles, SliceProfile, slabs_of
from napari_kdseg.volumes.volume import Box, Grid

UNCERTAINTY = "uncertainty"


@dataclass(frozen=True)
class Case:
    """The results of one scan, published or growing."""

    folder: Path
    grid: Grid | None = None
    """That of the scan while a job fills the arrays; None once they are published."""

    @property
    def name(self) -> str:
        """The case's id."""
        return self.folder.name

    @property
    def growing(self) -> bool:
        """Whether a job is filling the arrays, or was cancelled while it did."""
        return self.grid is not None


class Teachers:
    """What the Teachers dock shows and does.

    Attributes
    ----------
    cases_changed, case_changed, profile_changed
        Emitted when other cases are there, another one is looked at, or more of its
        slices are averaged.
    failed
        Emitted with a sentence when results cannot be read.
    """

    cases_changed = Signal()
    case_changed = Signal()
    profile_changed = Signal()
    failed = Signal(str)

    def __init__(self) -> None:
        self._opened: list[Case] = []
        self._cases: list[Case] = []
        self._case: Case | None = None
        self._colors: dict[str, str] = {}
        self._regions: Regions | None = None
        self._profile: SliceProfile | None = None
        self._tiles: FinishedTiles | None = None

    # ---- Which case ----

    @property
    def cases(self) -> tuple[Case, ...]:
        """Cases with layers in the viewer, and those that were opened."""
        return tuple(self._cases)

    @property
    def case(self) -> Case | None:
        """The case that is looked at."""
        return self._case

    def look(self, layers: Any) -> None:
        """Find the cases whose results a viewer shows; the newest is looked at."""
        records = [record_of({"metadata": layer.metadata}) for layer in layers]
        records = [record for record in records if "result" in record]
        shown_now = [
            Case(Path(r["result"]), r["grid"] if r.get("live") else None)
            for r in records
        ]
        cases = list(dict.fromkeys([*self._opened, *shown_now]))
        if cases == self._cases:
            return
        self._colors |= _colors_in(records)
        newest = [case for case in cases if case not in self._cases]
        self._cases = cases
        self.cases_changed.emit()
        if newest or self._case not in cases:
            candidates = newest or cases
            self.choose(candidates[-1] if candidates else None)

    def open_folder(self, folder: Path) -> None:
        """Look at published results: the folder of a case, or all of ``OUT``.

        The first case of OUT is chosen.

        Raises
        ------
        VolumeError
            Where the folder holds no labels of models.
        """
        places = (folder, *sorted(folder.iterdir())) if folder.is_dir() else ()
        found = {one: models for one in places if (models := models_in(one))}
        if folder in found:
            found = {folder: found[folder]}
        if not found:
            raise VolumeError(
                f"{folder} holds no results; choose the folder that predict wrote, or "
                "that of one case in it (OUT/CASE/MODEL/labels.*)."
            )
        seen: set[str] = set()
        for place, models in found.items():
            for model in models:
                if model not in seen:  # its classes look alike in all cases
                    self._colors |= _colors_of(Result("labels", place, model).path)
            seen |= {*models}
        cases = [Case(place) for place in found]
        self._opened = [*(c for c in self._opened if c not in cases), *cases]
        self._cases = [*(c for c in self._cases if c not in cases), *cases]
        self.cases_changed.emit()
        self.choose(cases[0])

    def choose(self, case: Case | None) -> None:
        """Look at another case."""
        self._case = case
        self._regions = self._profile = self._tiles = None
        if case is not None:
            self._regions = Regions.read(case.folder, self._colors)
            self._begin_profile(case)
        self.case_changed.emit()
        self.profile_changed.emit()

    # ---- What there is of it ----

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the models with results, teachers that claim regions first."""
        if self._case is None:
            return ()
        claiming = [c.teacher for c in self._regions.claims] if self._regions else []
        found = models_in(self._case.folder)
        first = [name for name in dict.fromkeys(claiming) if name in found]
        return (*first, *(name for name in found if name not in first))

    def has(self, kind: Kind, teacher: str = "") -> bool:
        """Whether there is such a result."""
        result = self._result(kind, teacher)
        return result is not None and result.path is not None

    def key(self, kind: Kind, teacher: str = "") -> str:
        """What the layer of a result is found by."""
        result = self._result(kind, teacher)
        return "" if result is None else key_of(result, result.case_folder.name)

    def layer(self, kind: Kind, teacher: str = "") -> LayerData | None:
        """The layer of a result; None, and `failed` says why, where it cannot be read.

        An empty teacher means all of them: the highest uncertainty, the regions.
        """
        case, result = self._case, self._result(kind, teacher)
        if case is None or result is None:
            return None
        try:
            if kind == "labels":
                return labels_of(result, case.name, case.grid)
            if kind == "uncertainty":
                return uncertainty_of(result, case.name, case.grid)
            return self._region_layer(case, result)
        except VolumeError as error:
            self.failed.emit(str(error))
            return None

    @property
    def legend(self) -> tuple[Region, ...]:
        """Regions with their colours and shares; empty where there are none."""
        return self._regions.legend if self._regions else ()

    @property
    def rule(self) -> str:
        """How voxels count that are claimed for two classes; empty without regions."""
        if self._regions is None:
            return ""
        said = {
            "sum": "counted in both regions",
            "ignore": "counted in no organ's region",
            "max_prob": "given to the surer teacher",
        }
        rule = self._regions.rule
        return f"Rule '{rule}': conflict is {said.get(rule, rule)}."

    @property
    def no_regions(self) -> str:
        """Why there are no regions, and how to get them; empty where there are."""
        if self._case is None or self._regions is not None:
            return ""
        found = self.teachers
        told = "There are no regions of these models together."
        if len(found) == 1:
            told = f"{found[0]} alone has results of this scan."
        return (
            f"{told} In Segment tick two or more teachers and run them at once: "
            "regions show which of them may teach where."
        )

    # ---- Slices ----

    @property
    def profile(self) -> SliceProfile | None:
        """Uncertainty and conflict by slice; None where there is neither."""
        return self._profile

    def poll(self) -> None:
        """Go on averaging slices; never works for long."""
        if self._profile is None:
            return
        if self._tiles is not None:
            self._profile.add(iter(self._tiles.new()))
        if self._profile.advance():
            self.profile_changed.emit()

    def worst_slice(self, name: str, axis: int) -> int | None:
        """The slice with most uncertainty or conflict; None where there is none."""
        if self._profile is None or name not in self._profile.names:
            return None
        return self._profile.worst(name, axis)

    # ---- Private ----

    def _result(self, kind: Kind, teacher: str) -> Result | None:
        return None if self._case is None else Result(kind, self._case.folder, teacher)

    def _array(self, case: Case, kind: Kind, teacher: str = "") -> Any:
        result = Result(kind, case.folder, teacher)
        if result.path is None:
            return None
        try:
            return result.read_unfinished() if case.growing else result.read()[0]
        except VolumeError as error:
            self.failed.emit(str(error))
            return None

    def _region_layer(self, case: Case, result: Result) -> LayerData | None:
        if self._regions is None:
            return None
        if case.grid is None:
            bits, grid = result.read()
        else:
            bits, grid = result.read_unfinished(), case.grid
        record = {**record_of_result(result, case.name), "live": case.growing}
        name = f"{case.name} regions"
        return self._regions.layer(bits, grid, name=name, record=record)

    def _begin_profile(self, case: Case) -> None:
        names = self.teachers
        alone = names[0] if len(names) == 1 else ""
        uncertainty = self._array(case, "uncertainty", alone)
        bits = self._array(case, "regions") if self._regions else None
        measures: dict[str, Callable[[Box], Any]] = {}
        if uncertainty is not None:
            measures[UNCERTAINTY] = _Share(uncertainty)
        if bits is not None and self._regions is not None:
            measures[CONFLICT] = _Conflict(bits, self._regions.values)
        array = uncertainty if uncertainty is not None else bits
        if array is None:
            return
        z, y, x = array.shape
        self._profile = SliceProfile((z, y, x), measures)
        if case.growing:
            self._tiles = FinishedTiles(case.folder / "tiles.jsonl")
        else:
            self._profile.add(slabs_of((slice(0, z), slice(0, y), slice(0, x))))


class _Share:
    """Values of a box as parts of one; bytes count from 0 to 255."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._scale = 1 / 255 if np.dtype(array.dtype) == np.uint8 else 1.0

    def __call__(self, box: Box) -> Any:
        return np.asarray(self._array[box]) * np.float32(self._scale)


class _Conflict:
    """Which voxels of a box are claimed for two classes."""

    def __init__(self, bits: Any, values: tuple[int, ...]) -> None:
        self._bits = bits
        self._values = values

    def __call__(self, box: Box) -> Any:
        codes = shown(np.asarray(self._bits[box]), self._values)
        return codes == conflict_code(self._values)


def _colors_in(records: list[dict[str, Any]]) -> dict[str, str]:
    sets = [record["classes"] for record in records if record.get("classes")]
    return {item.name: item.color for classes in sets for item in classes.classes}


def _colors_of(path: Path | None) -> dict[str, str]:
    classes = None if path is None else classes_of_file(path)
    return {} if classes is None else {c.name: c.color for c in classes.classes}
