"""From finished arrays to results: files that appear together, in one rename.

::

    OUT/CASE/MODEL/labels.*, uncertainty.*, probabilities.*, prediction.json
    OUT/CASE/regions.*, regions.json, uncertainty.*     of all teachers
"""

import json
import math
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdseg_train.data import file_hash
from kdseg_train.partial import Partial
from kdseg_train.plan import Plan
from kdseg_train.scans import Scan
from napari_kdseg.atomic import publish_folder, temporary_beside
from napari_kdseg.errors import RunError
from napari_kdseg.inference.blockwise import clean_stored
from napari_kdseg.inference.coarse_to_fine import final_card
from napari_kdseg.inference.predict import finish_labels
from napari_kdseg.inference.regions import shares, tally
from napari_kdseg.models.model import Model, Postprocessing
from napari_kdseg.runs.environment import version
from napari_kdseg.volumes.formats import ome_zarr, write_labels, write_volume
from napari_kdseg.volumes.formats.voxels import LazyVoxels
from napari_kdseg.volumes.labels import labels_hash
from napari_kdseg.volumes.volume import Grid, VoxelArray

RECORD = "prediction.json"
CLEANED_AT_ONCE_VOX = 1 << 26  # takes 0.4 GB; more is cleaned up block by block
_SETTINGS_THAT_CAME_LATER = {"preset": "exact", "backend": "torch", "roi": "all"}


def publish(plan: Plan, scan: Scan, partial: Partial, seconds: float) -> Path:
    """Write the results of a case and give them their name.

    Parameters
    ----------
    plan, scan
        What was predicted.
    partial
        The finished arrays.
    seconds
        What computing them took.

    Returns
    -------
    Path
        ``OUT/CASE``. Results of other models may be there; they are left alone.
    """
    final = plan.folder(scan)
    final.parent.mkdir(parents=True, exist_ok=True)
    for left_over in final.parent.glob(f"{final.name}.partial-*"):
        shutil.rmtree(left_over, ignore_errors=True)  # of a process that was killed
    temporary = temporary_beside(final)
    try:
        _write_case(_Case(plan, scan, partial, temporary, seconds))
        if final.exists():
            _publish_into(temporary, final)
        else:
            publish_folder(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def what_is_left(plan: Plan, scan: Scan) -> Plan | None:
    """The plan without what is published already; None where all of it is.

    Raises
    ------
    RunError
        Where other results lie in the place of these, or regions and fused
        uncertainty would have to change.
    """
    folder = plan.folder(scan)
    wanted = plan.shared_files(scan)
    there = [path for path in wanted if path.exists()]
    done = {
        place
        for place, model in enumerate(plan.models)
        if (folder / model.card.name).exists()
    }
    teachers_done = set(plan.teachers) & done
    complete = teachers_done == set(plan.teachers) and len(there) == len(wanted)
    untouched = not teachers_done and not there
    same = all(_is_published(plan, scan, plan.models[place]) for place in done)
    if not same or (wanted and not complete and not untouched):
        raise RunError(
            f"{folder} holds results of other models, files or settings, and what is "
            "published never changes. Choose another folder for the results, or move "
            "these away."
        )
    if len(done) == len(plan.models):
        return None
    return plan.only([m for i, m in enumerate(plan.models) if i not in done])


def _is_published(plan: Plan, scan: Scan, model: Model) -> bool:
    """Whether a record names this model, these files and these settings."""
    path = plan.folder(scan) / model.card.name / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same_model = record["model"]["fingerprint"] == model.fingerprint
        settings = _deciding(record["settings"])
        hashes = [file["sha256"] for file in record["source"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    wanted = _deciding(_asked(plan, scan))
    same_files = hashes == [file_hash(path) for path in scan.images]
    return bool(same_model and same_files and settings == wanted)


def _asked(plan: Plan, scan: Scan) -> dict[str, Any]:
    """The settings as they are recorded: parts in the order of the files there."""
    settings = plan.config.model_dump(mode="json", exclude={"inputs", "models", "out"})
    if isinstance(settings["part"], list):
        settings["part"] = [*scan.parts]
    return settings


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that the results of one model depend on."""
    without = {"version", "command", "case", "channels", "preview"}
    without |= {"device", "batch", "threads", "regions", "overlap_rule"}
    known = _SETTINGS_THAT_CAME_LATER | settings
    return {key: value for key, value in known.items() if key not in without}


def _publish_into(temporary: Path, final: Path) -> None:
    """Add what one model after the other made to what others made before."""
    for path in sorted(temporary.iterdir(), key=Path.is_dir):
        if path.is_dir():
            publish_folder(path, final / path.name)
        else:
            path.rename(final / path.name)
    temporary.rmdir()


class _Case:
    """A case on its way out."""

    def __init__(
        self, plan: Plan, scan: Scan, partial: Partial, folder: Path, seconds: float
    ) -> None:
        self.plan = plan
        self.scan = scan
        self.partial = partial
        self.folder = folder
        self.seconds = seconds
        self.image_ending, self.labels_ending = plan.endings(scan)
        self.source = [
            {"path": str(path), "sha256": file_hash(path)} for path in scan.images
        ]
        self.labels: list[VoxelArray] = [self._clean(model) for model in plan.models]

    @property
    def grid(self) -> Grid:
        return self.scan.grid

    @property
    def is_cleaned(self) -> bool:
        cards = map(final_card, self.plan.models)
        return any(card.postprocessing != Postprocessing() for card in cards)

    def cleaned_bits(self) -> VoxelArray:
        """Who claims each voxel, by the labels that are published."""
        target = self.partial.scratch("regions")
        depth = target.chunks[0]
        for start in range(0, target.shape[0], depth):
            planes = slice(start, start + depth)
            parts = [np.asarray(labels[planes]) for labels in self.labels]
            target[planes] = self.plan.bits(parts)
        return target

    def _clean(self, model: Model) -> VoxelArray:
        name, card = f"{model.card.name}/labels", final_card(model)
        stored: VoxelArray = self.partial.array(name)
        voxel_mm3 = self.grid.voxel_ml * 1000
        if card.postprocessing == Postprocessing():
            return stored
        if math.prod(stored.shape) <= CLEANED_AT_ONCE_VOX:
            return finish_labels(stored[...], card, voxel_mm3)
        return clean_stored(
            stored,
            card.classes,
            card.postprocessing,
            voxel_mm3=voxel_mm3,
            new_array=lambda: self.partial.scratch(name),
        )


def _write_case(case: _Case) -> None:
    for place, model in enumerate(case.plan.models):
        folder = case.folder / model.card.name
        folder.mkdir(parents=True)
        _write_model(case, place, folder)
    if case.plan.config.regions:
        _write_regions(case)
    if case.plan.fuses:
        _write_unit(case, "uncertainty", case.folder)


def _write_model(case: _Case, place: int, folder: Path) -> None:
    model, config = case.plan.models[place], case.plan.config
    classes, labels = model.card.classes, case.labels[place]
    file = folder / f"labels{case.labels_ending}"
    scan = (case.scan.images[0], case.scan.parts[0])
    write_labels(file, labels, case.grid, classes, of=scan)
    if config.uncertainty is not None:
        _write_unit(case, f"{model.card.name}/uncertainty", folder)
    if config.probabilities:
        write_volume(
            folder / f"probabilities{case.image_ending}",
            case.partial.array(f"{model.card.name}/probabilities"),
            case.grid,
            channels=("background", *classes.names),
        )
    record = _record(case, model, labels)
    _write_json(folder / RECORD, record)


def _record(case: _Case, model: Model, labels: VoxelArray) -> dict[str, Any]:
    card = model.card
    shown = [list(names) for _, names in case.scan.files_of(card)]
    return {
        "version": 1,
        "uuid": str(uuid.uuid4()),
        "case": case.scan.id,
        "model": {
            "name": card.name,
            "role": card.role,
            "fingerprint": model.fingerprint,
            "licence": card.licence,
        },
        "labels": {
            "file": f"labels{case.labels_ending}",
            "sha256": labels_hash(labels),
            "classes": card.classes.model_dump(mode="json")["classes"],
        },
        "source": [
            {**file, "channels": names}
            for file, names in zip(case.source, shown, strict=True)
        ],
        "grid": asdict(case.grid),
        "settings": _asked(case.plan, case.scan),
        "seconds": round(case.seconds, 3),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("napari-kdseg", "torch")},
    }


def _write_regions(case: _Case) -> None:
    bits: VoxelArray = case.partial.array("regions")
    if case.is_cleaned:
        bits = case.cleaned_bits()
    counts = sum((tally(slab) for slab in _slabs(bits)), Counter[int]())
    ending = case.plan.region_ending(case.scan)
    write_labels(case.folder / f"regions{ending}", bits, case.grid, None)
    known = [claimant for _, _, claimant in case.plan.claimants]
    legend = shares(counts, known, case.plan.config.overlap_rule)
    _write_json(case.folder / "regions.json", {"version": 1, **legend})


def _write_unit(case: _Case, name: str, folder: Path) -> None:
    """Write numbers from 0 to 1 that are kept as 0 to 255."""
    array, path = case.partial.array(name), folder / f"uncertainty{case.image_ending}"
    if case.image_ending == ".ome.zarr":
        stored = LazyVoxels(array, (None, 0, 1, 2), str(path))
        channels = ("uncertainty",)
        ome_zarr.write(path, stored, case.grid, channels, value_scale=1 / 255)
        return
    unit = LazyVoxels(array, (None, 0, 1, 2), str(path), scale=1 / 255)
    write_volume(path, unit, case.grid, channels=("uncertainty",))


def _slabs(array: VoxelArray) -> Iterator[NDArray[Any]]:
    chunks = getattr(array, "chunks", None)
    depth = chunks[0] if chunks else 32
    for start in range(0, array.shape[0], depth):
        yield np.asarray(array[start : start + depth])


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
