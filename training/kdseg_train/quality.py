"""The commands of the Quality Classifier: fit, score, filter, simulate.

``simulate`` and people make verdicts, ``fit`` learns from them, ``score`` judges every
slice of other predictions, ``filter`` keeps the slices that a student may learn from.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Integer
from pydantic import Field

from kdseg_train.classifier import (
    ClassifierSettings,
    JudgedSlice,
    Purpose,
    train_classifier,
)
from kdseg_train.config import Settings, parse
from kdseg_train.evaluate import (
    LabelFile,
    label_set,
    matched,
    predicted_files,
    renumbered,
)
from kdseg_train.layouts import Case, read_data_set
from kdseg_train.patches import read_case
from kdseg_train.publish import labels_hash
from kdseg_train.verdicts import (
    Verdict,
    drawn,
    read_verdicts,
    settled,
    slice_dice,
    write_verdicts,
)
from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import DataSetError
from napari_kdseg.inference.forward import pick_device
from napari_kdseg.inference.quality import QualityClassifier, Slices, stretched
from napari_kdseg.models.model import Model, Provenance
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.channels import stacked
from napari_kdseg.volumes.labels import LabelSet, values_in
from napari_kdseg.volumes.preprocessing import Preprocessing
from napari_kdseg.volumes.volume import Volume, check_same_grid

SCORE_COLUMNS = ("case", "axis", "index", "p_good")
BAD_BELOW = 0.7
Count = Callable[[int, int], None]


class FitConfig(ClassifierSettings):
    """Training the classifier on verdicts about predictions that lie in a folder."""

    version: Literal[1] = 1
    command: Literal["quality-fit"] = "quality-fit"
    reviews: Path = Field(description="verdicts, CSV")
    images: Path = Field(description="data set or folder with the scans")
    labels: Path = Field(description="the predictions that were judged")
    segmentation: Path | None = Field(
        None,
        description="model that made them: its classes, orientation and scaling are "
        "used; without it classes are read from the predictions, grey values z-scored",
    )
    name: str = Field("quality", description="name of the resulting model")
    licence: str = Field("", description="licence of the resulting weights")
    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu or cuda[:N]")


class ScoreConfig(Settings):
    """Judging every slice of predictions."""

    model: Path
    image: Path = Field(description="data set or folder with the scans")
    labels: Path = Field(description="predictions to be judged")
    out: Path = Field(description="the table, CSV")
    axis: int = Field(0, ge=0, le=2, description="of the stored array")
    device: str = "auto"


class SimulateConfig(Settings):
    """Verdicts from known truth, in place of a person's."""

    reference: Path = Field(description="data set, or folder of labels: the truth")
    labels: Path = Field(description="predictions to be judged")
    out: Path = Field(description="the verdicts, CSV")
    axis: int = Field(0, ge=0, le=2, description="of the stored array")
    bad_below: float = Field(
        BAD_BELOW, gt=0, le=1, description="slices with a lower Dice are bad"
    )
    slices: int | None = Field(None, ge=1, description="so many at random; none: all")
    seed: int = Field(0, ge=0)


# ---- fit ----


def fit(run: Run) -> None:
    """Train a classifier as a run's config says and keep it as ``RUN/model``.

    Raises
    ------
    DataSetError
        Where verdicts do not fit the scans and predictions, or do not suffice.
    """
    config = parse(FitConfig, run.config, str(run.folder / "config.yaml"))
    if run.model_folder.exists():
        return
    device = torch.device(pick_device(config.device))
    verdicts = settled_verdicts(config.reviews)
    scans = read_data_set(config.images)
    classes, preprocessing = _segmentation(config)
    files = Files(
        {case.id: case for case in scans.cases}, config.labels, classes, preprocessing
    )
    judged = judged_slices(verdicts, files, config.size_vox, run.check_stop)
    purpose = Purpose(
        folder=run.model_folder,
        metrics=run.folder / "metrics.csv",
        name=config.name,
        channels=scans.channels,
        classes=classes,
        preprocessing=preprocessing,
        provenance=Provenance(
            method="quality-fit",
            recipe=config.model_dump(mode="json"),
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        licence=config.licence or "not stated",
    )
    train_classifier(run, judged, purpose, config, seed=config.seed, device=device)


def _segmentation(config: FitConfig) -> tuple[LabelSet, Preprocessing]:
    if config.segmentation is not None:
        card = Model.open(config.segmentation).card
        return card.classes, card.preprocessing
    files = list(predicted_files(config.labels))
    names = dict.fromkeys(name for file in files for name in file.values or ())
    if names:
        return LabelSet.from_names(names), Preprocessing()
    found = {
        value
        for file in files
        for value in values_in(formats.read_labels(file.path)[0], str(file.path))
    }
    return LabelSet.from_names(str(v) for v in sorted(found - {0})), Preprocessing()


SettledVerdicts = tuple[Mapping[tuple[str, int, int], bool], Mapping[str, str]]
"""Slice -> whether it is good; case -> hash of the labels that were judged."""


def settled_verdicts(path: Path) -> SettledVerdicts:
    """Read what reviewers agree on.

    Raises
    ------
    DataSetError
        Where the file is damaged, lacks good or bad slices, or speaks about two
        predictions of one case.
    """
    verdicts = read_verdicts(path)
    hashes: dict[str, str] = {}
    for one in verdicts:
        if one.labels_hash and hashes.setdefault(one.case, one.labels_hash) != (
            one.labels_hash
        ):
            raise DataSetError(
                f"{path} judges two predictions of case {one.case} (labels_hash "
                f"{hashes[one.case][:12]} and {one.labels_hash[:12]}); keep the "
                "verdicts on one."
            )
    return settled(verdicts, str(path)), hashes


@dataclass(frozen=True)
class Files:
    """Scans by case id, predictions of them, and how a classifier looks at both."""

    scans: Mapping[str, Case]
    labels: Path
    classes: LabelSet
    preprocessing: Preprocessing

    def of(self, case: str, labels_hash_wanted: str = "") -> tuple[Volume, np.ndarray]:
        """Give a scan, and the class indices of its prediction.

        Raises
        ------
        DataSetError
            Where the scan or its prediction is missing, or the prediction has
            another hash.
        GridError
            Where the two lie differently.
        """
        if case not in self.scans:
            raise DataSetError(
                f"there is no scan {case!r} to its verdicts; scans are "
                f"{', '.join(sorted(self.scans)[:3])} ... Name the folder that has it."
            )
        found = [file for file in predicted_files(self.labels) if file.case == case]
        for file in found:
            values, grid = formats.read_labels(file.path)
            if labels_hash_wanted in ("", labels_hash(values)):
                scan = _scan(self.scans[case])
                check_same_grid(scan.grid, grid, scan.source, file.path)
                return scan, _indices(values, file, self.classes)
        wanted = f" with the hash {labels_hash_wanted[:12]}" if found else ""
        raise DataSetError(
            f"{self.labels} has no prediction of case {case}{wanted}; verdicts hold "
            "for the very labels that were judged. Name their folder, or judge anew."
        )


def judged_slices(
    verdicts: SettledVerdicts,
    files: Files,
    size: int,
    check_stop: Callable[[], None],
) -> list[JudgedSlice]:
    """Cut the slices that verdicts are about out of scans and predictions.

    Raises
    ------
    DataSetError, GridError
        As `Files.of`, and where an index lies outside the scan.
    """
    good, hashes = verdicts
    judged = []
    for case in sorted({place[0] for place in good}):
        check_stop()
        volume, labels = files.of(case, hashes.get(case, ""))
        slices = Slices(volume, labels, files.preprocessing)
        for place in sorted(place for place in good if place[0] == case):
            _, axis, index = place
            if index >= volume.grid.shape[axis]:
                raise DataSetError(
                    f"there is a verdict on slice {index} along axis {axis} of case "
                    f"{case}, which has {volume.grid.shape[axis]}; slices count from 0."
                )
            ((image, mask),) = slices.read(axis, index, index + 1)
            seen = stretched(image, mask, (size, size))
            judged.append(JudgedSlice(case, seen, good[place]))
    return judged


def _scan(case: Case) -> Volume:
    if case.intensity_offset:
        return read_case(case)
    return stacked([formats.read_volume(path) for path in case.images])


def _indices(
    values: Integer[np.ndarray, "Z Y X"], file: LabelFile, classes: LabelSet
) -> Integer[np.ndarray, "Z Y X"]:
    """Labels as indices into the classes; classes the classifier lacks become 0."""
    known = file.values or {item.name: (item.value,) for item in classes.classes}
    if not set(known) & set(classes.names):
        raise DataSetError(
            f"{file.path} shows {', '.join(known)}; the classifier judges "
            f"{', '.join(classes.names)}. Take predictions of these classes."
        )
    label_set(known).check(values, str(file.path))
    return renumbered(values, [known.get(name, ()) for name in classes.names])


# ---- score and filter ----


def score(config: ScoreConfig, count: Count) -> int:
    """Judge every slice of every prediction; write the table; give its rows.

    Raises
    ------
    ModelError
        Where the model is no quality-classifier or takes other channels.
    DataSetError
        Where no scan has a prediction.
    """
    classifier = QualityClassifier.of(Model.open(config.model), config.device)
    card = classifier.card
    scans = {case.id: case for case in read_data_set(config.image).cases}
    files = Files(scans, config.labels, card.classes, card.preprocessing)
    found = dict.fromkeys(file.case for file in predicted_files(config.labels))
    cases = [case for case in found if case in scans]
    if not cases:
        raise DataSetError(
            f"{config.labels} has no prediction of a scan in {config.image}; they are "
            "matched by the names of their files, without the ending."
        )
    rows: list[tuple[str, int, int, float]] = []
    for number, case in enumerate(cases, start=1):
        volume, labels = files.of(case)
        prob = classifier.score(volume, labels, config.axis)
        rows += [(case, config.axis, i, float(p)) for i, p in enumerate(prob)]
        count(number, len(cases))
    write_scores(config.out, rows)
    return len(rows)


def filter_scores(scores: Path, threshold: float, out: Path) -> tuple[int, int]:
    """Keep the slices with at least this P(good); give how many, and of how many.

    Raises
    ------
    DataSetError
        Where the table lacks a column or P(good) is no number.
    """
    rows = list(_read_scores(scores))
    kept = [row for row in rows if row[3] >= threshold]
    write_scores(out, kept)
    return len(kept), len(rows)


def write_scores(out: Path, rows: Iterable[tuple[str, int, int, float]]) -> None:
    """Write case, axis, index and P(good), a slice a line; replaces a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SCORE_COLUMNS)
    writer.writerows((*place, f"{p_good:.6f}") for *place, p_good in rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out, text.getvalue())


def _read_scores(path: Path) -> Iterator[tuple[str, int, int, float]]:
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        for row in reader:
            case, axis, index, p_good = (row[name] for name in SCORE_COLUMNS)
            yield case, int(axis), int(index), float(p_good)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataSetError(
            f"{path} is no table of scores ({type(error).__name__}: {error}); its "
            f"columns are {', '.join(SCORE_COLUMNS)}. kdseg-train quality score makes "
            "one."
        ) from error


# ---- simulate ----


def simulate(config: SimulateConfig, count: Count) -> list[Verdict]:
    """Judge slices by their Dice with the truth; marked as simulated.

    A slice is bad below `bad_below`; one that is empty in both is left out.

    Raises
    ------
    DataSetError, UsageError
        Where nothing can be compared.
    GridError, LabelError
        Where labels lie differently or hold values that mean nothing.
    """
    pairs = matched(config.reference, config.labels)
    verdicts: dict[tuple[str, int], Verdict] = {}
    for number, pair in enumerate(pairs, start=1):
        truth, guess, _, _ = pair.read()
        digest = labels_hash(formats.read_labels(pair.prediction.path)[0])
        for index, word in simulated(truth, guess, config.axis, config.bad_below):
            place = pair.case, index
            verdicts[place] = Verdict(
                pair.case, config.axis, index, word, "simulated", digest, "truth"
            )
        count(number, len(pairs))
    chosen = list(drawn(list(verdicts), config.slices, config.seed))
    found = [verdicts[place] for place in chosen]
    write_verdicts(config.out, found)
    return found


def simulated(
    truth: Integer[np.ndarray, "Z Y X"],
    guess: Integer[np.ndarray, "Z Y X"],
    axis: int,
    bad_below: float,
) -> list[tuple[int, Literal["good", "bad"]]]:
    """Verdict on each slice along an axis in which truth or guess show something."""
    dice = slice_dice(np.moveaxis(truth, axis, 0), np.moveaxis(guess, axis, 0))
    return [
        (index, "bad" if value < bad_below else "good")
        for index, value in enumerate(dice.tolist())
        if not np.isnan(value)
    ]
