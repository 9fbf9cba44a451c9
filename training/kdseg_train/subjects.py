"""Predictions under judgement, each with the scan that it was made from."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from kdseg_train.label_files import LabelFile, predicted_files
from kdseg_train.layouts import Case, read_data_set
from napari_kdseg.errors import DataSetError, VolumeError
from napari_kdseg.project_folder import is_project, read
from napari_kdseg.review.predictions import RECORD, finder, predictions_in
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.channels import joined_names, stacked
from napari_kdseg.volumes.formats.header import LARGEST_DECODED_BYTES
from napari_kdseg.volumes.labels import LabelSet, labels_hash
from napari_kdseg.volumes.opening import open_scan
from napari_kdseg.volumes.renumbered import Renumbered, label_set
from napari_kdseg.volumes.volume import Volume, VoxelArray, check_same_grid

Planes = Callable[[int, int], None]
"""Told how many planes of how many a conversion has done."""


def not_told(done: int, total: int) -> None:
    """Take no notice of a conversion."""
    del done, total


@dataclass(frozen=True)
class Subject:
    """A prediction under judgement, and the scan that it was made from."""

    case: str
    labels: Path
    values: Mapping[str, tuple[int, ...]] | None
    """Class -> stored values; None where the file does not say."""
    images: tuple[Path, ...]
    parts: tuple[str | None, ...] = ()
    intensity_offset: float = 0.0
    model: str = ""
    """Name of the model that predicted; empty where not known."""
    fingerprint: str = ""
    noted_hash: str = ""
    """Of the labels, as the prediction's record has it; empty where there is none."""
    fill_nonfinite: float | None = None
    missing: str = ""
    """Why the scan cannot be read; empty where it can."""

    @cached_property
    def labels_hash(self) -> str:
        """SHA-256 of the labels: what a verdict names."""
        return self.noted_hash or labels_hash(formats.read_labels(self.labels)[0])

    @property
    def channels(self) -> tuple[str, ...]:
        """What the channels of the scan show, from its headers.

        Raises
        ------
        VolumeError
            Where a file is missing or damaged.
        """
        if self.missing:
            raise VolumeError(self.missing)
        places = zip(self.images, self._parts, strict=True)
        return joined_names(
            [formats.inspect_volume(path, part).channels for path, part in places]
        )

    def open(
        self, classes: LabelSet, on_progress: Planes = not_told
    ) -> tuple[Volume, VoxelArray]:
        """Open the scan, and its labels as indices into some classes; z, y, x.

        What can be read by pieces is; classes that are not asked for become 0.

        Raises
        ------
        VolumeError
            Where a file is missing or damaged.
        DataSetError
            Where the labels show other classes, or are not those of the record.
        GridError
            Where scan and labels lie differently.
        """
        if self.missing:
            raise VolumeError(self.missing)
        volumes = [
            open_scan(
                path, part, fill_nonfinite=self.fill_nonfinite, on_progress=on_progress
            )
            for path, part in zip(self.images, self._parts, strict=True)
        ]
        scan = stacked(volumes)
        if self.intensity_offset:
            shifted = np.asarray(scan.data, np.float32) + self.intensity_offset
            scan = replace(scan, data=shifted)
        header = formats.inspect_volume(self.labels)
        check_same_grid(scan.grid, header.grid, scan.source, self.labels)
        return scan, self._indices(classes, header.bytes, on_progress)

    @property
    def _parts(self) -> tuple[str | None, ...]:
        return self.parts or (None,) * len(self.images)

    def _indices(self, classes: LabelSet, size: int, on_progress: Planes) -> Renumbered:
        known = self.values or {item.name: (item.value,) for item in classes.classes}
        if not set(known) & set(classes.names):
            raise DataSetError(
                f"{self.labels} shows {', '.join(known)}; the classifier judges "
                f"{', '.join(classes.names)}. Take predictions of these classes."
            )
        table = np.zeros(2**16, np.uint8)
        for number, name in enumerate(classes.names, start=1):
            table[list(known.get(name, ()))] = number
        if size > LARGEST_DECODED_BYTES:
            data = open_scan(self.labels, on_progress=on_progress).data
        else:
            data = self._whole()[None]
        return Renumbered(data, table, label_set(known), str(self.labels))

    def _whole(self) -> np.ndarray:
        values, _ = formats.read_labels(self.labels)
        if self.noted_hash and labels_hash(values) != self.noted_hash:
            raise DataSetError(
                f"{self.labels} is not as its {RECORD} says; what is published never "
                "changes, and verdicts hold for the labels that were judged. Predict "
                f"{self.case!r} again."
            )
        return values


def subjects(images: Path | None, labels: Path, model: str = "") -> dict[str, Subject]:
    """Find the predictions of one model, by case, and the scans they were made from.

    Parameters
    ----------
    images
        A project, a data set or a folder of scans; None: where the predictions' records
        say that their scans were.
    labels
        OUT of ``kdseg-train predict``, or a folder with one label file a case.
    model
        Name or fingerprint of the model, where several predicted.

    Raises
    ------
    DataSetError
        Where there are no predictions, or of several models and none was chosen; where
        scans cannot be found.
    """
    if images is None or is_project(images):
        found = list(_published(images, labels))
        if not found and any(predicted_files(labels)):
            raise DataSetError(
                f"{labels} has labels without a {RECORD}, so nobody knows their scans; "
                "name the folder of these."
            )
        return _of_one_model(found, labels, model)
    cases = {case.id: case for case in read_data_set(images).cases}
    return subjects_of(cases, labels, model)


def subjects_of(
    cases: Mapping[str, Case], labels: Path, model: str = ""
) -> dict[str, Subject]:
    """Find the predictions of some cases; others are left out.

    Raises
    ------
    DataSetError
        As `subjects`.
    """
    recorded = {one.labels: one for one in _published(None, labels)}
    found = []
    for file in predicted_files(labels):
        if file.case not in cases:
            continue
        case = cases[file.case]
        known = recorded.get(file.path)
        if known is None:
            found.append(_plain(file, case))
        else:
            found.append(
                replace(
                    known,
                    images=case.images,
                    parts=(),
                    intensity_offset=case.intensity_offset,
                    missing="",
                )
            )
    return _of_one_model(found, labels, model)


def _plain(file: LabelFile, case: Case) -> Subject:
    offset = case.intensity_offset
    return Subject(
        case.id, file.path, file.values, case.images, intensity_offset=offset
    )


def _published(project: Path | None, labels: Path) -> Iterator[Subject]:
    if not labels.is_dir():
        raise DataSetError(f"{labels} is no folder; give the OUT of predict.")
    scans = () if project is None else read(project)[0].scans
    found = (
        predictions_in(labels)
        if project is None
        else predictions_in(labels, finder(scans, project))
    )
    for one in found:
        yield Subject(
            one.case,
            one.labels,
            {item.name: (item.value,) for item in one.classes.classes},
            one.images,
            one.parts,
            model=one.model,
            fingerprint=one.fingerprint,
            noted_hash=one.labels_hash,
            fill_nonfinite=_filled(one.folder),
            missing=one.missing,
        )


def _filled(folder: Path) -> float | None:
    """What the prediction put in place of voxels that are no numbers."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        value = record["settings"].get("fill_nonfinite")
        return None if value is None else float(value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _of_one_model(
    found: Iterable[Subject], labels: Path, model: str
) -> dict[str, Subject]:
    every = list(found)
    makers = sorted({(one.model, one.fingerprint) for one in every})
    told = ", ".join(f"{name} ({print_[:8]})" for name, print_ in makers)
    chosen = [maker for maker in makers if model in ("", *maker)]
    if makers and any(maker != ("", "") for maker in makers):
        if not chosen:
            raise DataSetError(
                f"{labels} has no predictions of {model!r}; there are those of {told}."
            )
        if len(chosen) > 1:
            raise DataSetError(
                f"{labels} has predictions of several models ({told}), and a "
                "classifier judges one. Choose it with --segmentation, by its name or "
                "its fingerprint."
            )
        every = [one for one in every if (one.model, one.fingerprint) == chosen[0]]
    return {one.case: one for one in reversed(every)}
