"""What a prediction will do: every input, model and setting checked before it begins.

Needs no torch, so that the command line refuses at once.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from kdseg_train import config
from kdseg_train.scans import (
    Part,
    Scan,
    as_models_take,
    doubts,
    left_out,
    pairings,
    scans_and_labels,
)
from napari_kdseg.errors import UsageError
from napari_kdseg.extras import not_installed
from napari_kdseg.inference.backends import check_backend
from napari_kdseg.inference.plan import plan_passes
from napari_kdseg.inference.presets import with_preset
from napari_kdseg.inference.regions import MOST_TEACHERS, Claimant, claims
from napari_kdseg.inference.rolling import slow_axis
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import Model
from napari_kdseg.review.predictions import RECORD
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

FormatName = Literal["source", "nifti", "nrrd", "mha", "tiff", "ome-zarr", "dicom-seg"]


class PredictConfig(config.Settings):
    """Everything a prediction depends on, but for the content of its files."""

    version: Literal[1] = 1
    command: Literal["predict"] = "predict"
    inputs: tuple[Path, ...] = Field(
        min_length=1, description="scans, folders of scans, data sets"
    )
    part: Part = Field(
        None,
        description="which volume of the inputs, where they hold several; of the "
        "channels of one case, one for each",
    )
    case: str | None = Field(
        None,
        min_length=1,
        description="name of the one case whose channels the inputs are, in this order "
        "unless their names say otherwise",
    )
    channels: tuple[str, ...] | None = Field(
        None,
        description="what the inputs of one case show, whatever their names say; none: "
        "as files and names have it",
    )
    models: tuple[Path, ...] = Field(min_length=1, description="model folders")
    out: Path = Field(description="gets a folder for each case")
    uncertainty: str | None = Field(
        None, description="entropy, margin, least-confidence, disagreement, ..."
    )
    regions: bool = Field(default=False, description="also write where who may teach")
    probabilities: bool = Field(
        default=False, description="also write class probabilities"
    )
    format: FormatName = Field("source", description="of the results")
    coarse_to_fine: bool = Field(
        default=False,
        description="the first of two models finds the box, the second segments it",
    )
    overlap_rule: Literal["sum", "ignore"] = Field(
        "sum", description="voxels claimed for two classes: in both regions, in none"
    )
    device: str = Field("auto", description="auto, cpu or cuda[:N]")
    precision: str = Field("auto", description="auto, float32, bfloat16 or float16")
    batch: int | None = Field(None, ge=1, description="windows at once")
    tile: tuple[int, ...] | None = Field(None, description="window, (z,) y, x")
    overlap: float | None = Field(None, ge=0, lt=1, description="of windows")
    threads: int | None = Field(None, ge=1, description="of the processor")
    preset: Literal["exact", "fast", "draft"] = Field(
        "exact", description="how far windows lie apart, and who computes"
    )
    backend: str = Field("torch", description="auto, torch or openvino")
    roi: str = Field("all", description="all, or coarse: where a coarse pass finds any")
    fill_nonfinite: float | None = Field(
        None, allow_inf_nan=False, description="put where voxels are NaN or infinite"
    )
    preview: tuple[int, int] | None = Field(
        None, description="axis and index of the stored slice to compute first"
    )

    @field_validator("uncertainty", mode="before")
    @classmethod
    def _none(cls, chosen: Any) -> Any:
        return None if chosen == "none" else chosen

    @property
    def settings(self) -> Settings:
        """What inference wants to know.

        Raises
        ------
        UsageError
            Where a value is none of those allowed.
        """
        chosen = Settings(
            device=self.device,
            precision=self.precision,
            uncertainty=self.uncertainty,
            probabilities=self.probabilities,
            batch=self.batch,
            tile=self.tile,
            overlap=self.overlap,
            threads=self.threads,
            backend=self.backend,
            roi=self.roi,
        )
        return with_preset(chosen, self.preset)


@dataclass(frozen=True)
class Plan:
    """A prediction that nothing known beforehand speaks against."""

    config: PredictConfig
    scans: tuple[Scan, ...]
    models: tuple[Model, ...]
    claimants: tuple[tuple[int, int, Claimant], ...]
    """The model's place, its own class value, and who claims what by it."""
    labels: tuple[Path, ...] = ()
    """Files of the inputs that are left out, as they say that they hold labels."""

    @property
    def teachers(self) -> tuple[int, ...]:
        """Places of the models that regions and fused uncertainty come from."""
        return tuple(dict.fromkeys(place for place, _, _ in self.claimants))

    @property
    def fuses(self) -> bool:
        """Whether the uncertainty of several teachers becomes one map."""
        return self.config.uncertainty is not None and len(self.teachers) > 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know before it begins, a sentence each."""
        cards = [model.card for model in self.models]
        return (*left_out(self.labels), *pairings(self.scans, cards))

    @property
    def doubts(self) -> tuple[str, ...]:
        """What should make a person think again, a sentence each."""
        return tuple(doubts(self.scans, [model.card for model in self.models]))

    def only(self, models: Sequence[Model]) -> "Plan":
        """The same with some of the models; without regions where no teacher is left.

        Whoever leaves some teachers out and keeps others gets regions of these alone.
        """
        kept = tuple(models)
        teachers = {self.models[place].folder for place in self.teachers}
        if any(model.folder in teachers for model in kept):
            return replace(self, models=kept, claimants=claimants(kept))
        config = self.config.model_copy(update={"regions": False})
        return replace(self, config=config, models=kept, claimants=())

    def folder(self, scan: Scan) -> Path:
        """Where the results of a scan will be."""
        return self.config.out / scan.id

    def endings(self, scan: Scan) -> tuple[str, str]:
        """Endings of the images and of the labels that are made from a scan."""
        if self.config.format == "source":
            return formats.result_endings(scan.images[0])
        return formats.RESULT_ENDINGS[self.config.format]

    def shared_files(self, scan: Scan) -> tuple[Path, ...]:
        """What is published of a scan for all teachers together."""
        folder, image = self.folder(scan), self.endings(scan)[0]
        regions = (
            folder / f"regions{self.region_ending(scan)}",
            folder / "regions.json",
        )
        fused = (folder / f"uncertainty{image}",)
        return (regions if self.config.regions else ()) + (fused if self.fuses else ())

    def region_ending(self, scan: Scan) -> str:
        """Ending of the regions, whose bits are no classes of a DICOM segmentation."""
        image, labels = self.endings(scan)
        return image if self.config.format == "dicom-seg" else labels

    def slow_axis(self, grid: Grid) -> int:
        """Axis of the stored array along which finished slabs follow one another."""
        cards = [model.card for model in self.models]
        return slow_axis(grid, cards, plan_passes(cards, self.config.settings))

    def bits(self, labels: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Who claims each voxel, from the labels of every model."""
        claimed = [labels[place] == value for place, value, _ in self.claimants]
        return claims([mask.view(np.uint8) for mask in claimed])


def plan(settings: PredictConfig, *, resume: bool) -> Plan:
    """Check all that can be checked without reading voxels.

    Parameters
    ----------
    settings
        What is asked for.
    resume
        Whether results that are there already are left as they are; else they are a
        reason to refuse.

    Raises
    ------
    UsageError, DataSetError, VolumeError, ModelError
        The first thing that is wrong, and its fix.
    """
    models = open_models(settings)
    given, labels = scans_and_labels(
        settings.inputs, settings.part, settings.case, settings.channels
    )
    for scan in given:
        _check_format(settings.format, scan)
    scans = as_models_take(models, given)
    found = Plan(settings, scans, models, claimants(models), labels)
    if settings.regions and len(found.claimants) > MOST_TEACHERS:
        raise UsageError(
            f"The models have {len(found.claimants)} classes in all; regions hold "
            f"{MOST_TEACHERS}. Predict with fewer models at a time."
        )
    _check_preview(found)
    if not resume:
        _refuse_existing(found)
    return found


def open_models(settings: PredictConfig) -> tuple[Model, ...]:
    """Open the models of a prediction, and see that the settings suit them.

    Raises
    ------
    UsageError, ModelError
        The first thing that is wrong, and its fix.
    """
    models = tuple(Model.open(folder) for folder in settings.models)
    if settings.coarse_to_fine:
        models = (_paired(models),)
    _refuse_namesakes(models)
    plan_passes([model.card for model in models], settings.settings)
    check_backend(settings.settings, settings.device)
    if settings.format == "dicom-seg" and find_spec("highdicom") is None:
        raise UsageError(not_installed("The format dicom-seg", "highdicom"))
    return models


def _check_format(name: FormatName, scan: Scan) -> None:
    if name == "dicom-seg" and not formats.is_dicom_series(scan.images[0]):
        raise UsageError(
            f"{scan.images[0]} is no DICOM series, and a DICOM segmentation refers to "
            "one. Leave --format out to take that of the scan, or choose another."
        )


def claimants(models: Sequence[Model]) -> tuple[tuple[int, int, Claimant], ...]:
    """Who may claim voxels: each class of each teacher; of every model without one.

    The values are those of a student among the models where it knows the classes,
    else those that the teachers share, else 1, 2, ... in order.
    """
    places = [i for i, model in enumerate(models) if model.card.role == "teacher"]
    teachers = places or list(range(len(models)))
    values = _common_values(models, teachers)
    return tuple(
        (
            place,
            item.value,
            Claimant(models[place].card.name, item.name, values[item.name]),
        )
        for place in teachers
        for item in models[place].card.classes.classes
    )


def _common_values(models: Sequence[Model], teachers: Sequence[int]) -> dict[str, int]:
    names = list(
        dict.fromkeys(n for i in teachers for n in models[i].card.classes.names)
    )
    for place, model in enumerate(models):
        known = model.card.classes
        if place not in teachers and set(names) <= set(known.names):
            return {name: known.by_name(name).value for name in names}
    shared = {
        (item.name, item.value)
        for place in teachers
        for item in models[place].card.classes.classes
    }
    if len({value for _, value in shared}) == len(names) == len(shared):
        return dict(shared)
    return {c.name: c.value for c in LabelSet.from_names(names).classes}


def _paired(models: Sequence[Model]) -> Model:
    if len(models) != 2:
        raise UsageError(
            f"From coarse to fine takes two models, the coarse one first; there are "
            f"{len(models)}. A composite model needs no --coarse-to-fine."
        )
    coarse, fine = models
    return Model.paired(coarse, fine)


def _refuse_namesakes(models: Sequence[Model]) -> None:
    seen: dict[str, Path] = {}
    for model in models:
        name = model.card.name
        if name in seen:
            raise UsageError(
                f"{seen[name]} and {model.folder} are both called {name!r}, and their "
                "results would lie in one folder. Leave one out."
            )
        seen[name] = model.folder


def _check_preview(found: Plan) -> None:
    if found.config.preview is None:
        return
    axis, index = found.config.preview
    for scan in found.scans:
        if not (0 <= axis < 3 and 0 <= index < scan.grid.shape[axis]):
            raise UsageError(
                f"The preview {axis},{index} is no slice of {scan.name}, which has "
                f"{scan.grid.shape} voxels along the axes 0, 1, 2 (z, y, x)."
            )


def _refuse_existing(found: Plan) -> None:
    for scan in found.scans:
        folder = found.folder(scan)
        wanted = [folder / model.card.name for model in found.models]
        there = [one for one in (*wanted, *found.shared_files(scan)) if one.exists()]
        if there or not _is_of(scan, folder):
            path = there[0] if there else folder
            raise UsageError(
                f"{path} exists already, and what is published never changes. Choose "
                "another --out, or add --resume to predict only what is missing."
            )


def _is_of(scan: Scan, folder: Path) -> bool:
    """Whether all results in a folder, if any, were made from the files of a scan."""
    files = {str(path) for path in scan.images}
    try:
        records = [json.loads(path.read_bytes()) for path in folder.glob(f"*/{RECORD}")]
        made_from = [{str(one["path"]) for one in made["source"]} for made in records]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all(paths == files for paths in made_from)
