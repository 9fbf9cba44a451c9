"""Cases cropped to where organs are, for the fine stage of two.

FLARE22 (arXiv 2211.05942, from the authors' code): the fine network sees nothing but
the box around all organs. Where there are labels the box is theirs; elsewhere it is
what the student of the coarse stage finds, as it will be at inference.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from kdseg_train.config import Recipe, Settings
from kdseg_train.data import Cases
from kdseg_train.layouts import Case
from kdseg_train.missing import existing
from kdseg_train.prepared import read_case, read_case_labels
from napari_kdseg.atomic import sync_tree, write_text_atomic
from napari_kdseg.errors import ModelError
from napari_kdseg.inference.coarse_to_fine import box_around, box_in_source, find_box
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.settings import Settings as Prediction
from napari_kdseg.models.model import CoarseToFine, Model, save_composite
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.volume import Box, Volume

STAGE = "crop"


class Crop(Settings):
    """Which model finds the boxes, and how large they are."""

    coarse: Path = Field(description="model folder of the coarse stage's student")
    way: CoarseToFine = Field(
        CoarseToFine(), description="margin of the boxes, and where nothing is found"
    )


def cropped(run: Run, config: Recipe, crop: Crop, cases: Cases) -> Cases:
    """The same cases, those for testing whole and all others cropped.

    Raises
    ------
    ModelError, RecipeError
        As `coarse_model`.
    """
    coarse = coarse_model(config, crop, cases)
    cropper = _Cropper(run, crop.way, coarse, cases, config.device)
    parts = (cases.training, cases.validation, cases.unlabelled)
    every = [case for part in parts for case in part]
    done = []
    for number, case in enumerate(every):
        run.check_stop()
        run.progress(number, len(every), stage=STAGE)
        folder = run.partial / "cases" / "crops" / f"{number:04d}-{case.id}"
        done.append(cropper.cropped(case, folder))
    training, validation = len(parts[0]), len(parts[1])
    return replace(
        cases,
        training=tuple(done[:training]),
        validation=tuple(done[training : training + validation]),
        unlabelled=tuple(done[training + validation :]),
    )


def coarse_model(config: Recipe, crop: Crop, cases: Cases) -> Model:
    """The model that finds the boxes.

    Raises
    ------
    ModelError
        Where it takes other channels than the cases have.
    RecipeError
        Where there is no such folder.
    """
    coarse = _coarse(config, crop)
    if len(coarse.card.channels) != len(cases.channels):
        raise ModelError(
            f"{coarse.folder} takes {', '.join(coarse.card.channels)} and the "
            f"cases have {', '.join(cases.channels)}; coarse and fine stage look "
            "at the same scans. Take a coarse model of these channels."
        )
    return coarse


def paired(run: Run, config: Recipe, crop: Crop, fine: Sequence[Model]) -> list[Model]:
    """The coarse model with each fine one; the first pair is kept in the run."""
    coarse, folder = _coarse(config, crop), run.folder / "composite"
    if not folder.exists():
        save_composite(folder, coarse, fine[0], crop.way)
    return [Model.paired(coarse, m, crop.way, m.card.name) for m in fine]


def _coarse(config: Recipe, crop: Crop) -> Model:
    return Model.open(existing(config, crop.coarse, "crop.coarse"))


class _Cropper:
    def __init__(
        self, run: Run, way: CoarseToFine, coarse: Model, cases: Cases, device: str
    ) -> None:
        self.run, self.way, self.coarse = run, way, coarse
        self.classes = cases.classes
        self.settings = Prediction(device=device, uncertainty=None)

    def cropped(self, case: Case, folder: Path) -> Case:
        if not (folder / "box.json").exists():
            self._write(case, folder)
        return replace(
            case,
            images=tuple(sorted(folder.glob("image-*.nii"))),
            label=None if case.label is None else folder / "labels.nii",
            intensity_offset=0.0,  # it is in the voxels now
        )

    def _write(self, case: Case, folder: Path) -> None:
        """Write a case cropped, a file a channel; what tells it is there comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        volume = read_case(case)
        box = self._box(case, volume)
        grid = volume.grid.cropped(box)
        for channel, voxels in enumerate(np.asarray(volume.data)):
            path = folder / f"image-{channel:04d}.nii"
            formats.write_volume(path, voxels[box], grid)
        if case.label is not None:
            stored, _ = formats.read_labels(case.label)
            formats.write_labels(folder / "labels.nii", stored[box], grid, None)
        spans = [[span.start, span.stop] for span in box]
        sync_tree(folder)
        write_text_atomic(folder / "box.json", json.dumps(spans))

    def _box(self, case: Case, volume: Volume) -> Box:
        """Around the labels where there are any, else where the coarse model says."""
        if case.label is not None and case.annotated:
            labels = read_case_labels(case, self.classes, volume)
            fractions = box_around(labels > 0, self.way.margin)
            if fractions is not None:
                return box_in_source(fractions, volume.grid.shape)
        hooks = Hooks(self.run.stop_requested)
        found = find_box(volume, self.coarse, self.way, self.settings, hooks)
        return found.box
