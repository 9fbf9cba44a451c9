"""The commands of the Quality Classifier that make it: fit and simulate.

``simulate`` and people make verdicts, ``fit`` learns from them. `scores` has what it is
used for.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Integer
from pydantic import BeforeValidator, Field

from kdseg_train.classifier import Purpose, train_classifier
from kdseg_train.classifier_settings import ClassifierSettings
from kdseg_train.config import Settings, parse
from kdseg_train.evaluate import matched
from kdseg_train.judged import Settled, cut_out, settle, verdicts_in
from kdseg_train.subjects import Subject, subjects
from napari_kdseg.inference.forward import pick_device, using_threads
from napari_kdseg.models.model import Model, Provenance
from napari_kdseg.review.known_models import model_folders, model_with
from napari_kdseg.review.verdicts import (
    Verdict,
    drawn,
    keep_verdicts,
    slice_dice,
    write_verdicts,
)
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.labels import LabelSet, labels_hash, values_in
from napari_kdseg.volumes.preprocessing import Preprocessing

BAD_BELOW = 0.7
VERDICTS = "verdicts.csv"
"""In a run: the verdicts that it learns from, as they were when it began."""
Count = Callable[[int, int], None]
VerdictPlace = Annotated[str, BeforeValidator(str)]  # a path may be given, too


class FitConfig(ClassifierSettings):
    """Training the classifier on verdicts about predictions that lie in a folder."""

    version: Literal[1] = 1
    command: Literal["quality-fit"] = "quality-fit"
    reviews: VerdictPlace = Field(description="verdicts: CSV, SQLite file or URL")
    images: Path | None = Field(
        None,
        description="project, data set or folder with the scans; none: where the "
        "predictions say that they were",
    )
    labels: Path = Field(description="the predictions that were judged")
    predicted_by: str = Field(
        "",
        description="name or fingerprint of the model that made them, where several "
        "did",
    )
    segmentation: Path | None = Field(
        None,
        description="folder of that model: its classes, orientation and scaling are "
        "used. None: it is looked for where the predictions lie; where it is not "
        "found, classes are read from the predictions and grey values z-scored",
    )
    passes: float | None = Field(
        30,
        gt=0,
        description="training ends earlier where each slice was drawn so often, on "
        "average: few verdicts need few steps; none: never",
    )
    name: str = Field("quality", description="name of the resulting model")
    licence: str = Field("", description="licence of the resulting weights")
    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu or cuda[:N]")
    threads: int | None = Field(None, ge=1, description="of the processor; none: all")


class SimulateConfig(Settings):
    """Verdicts from known truth, in place of a person's."""

    reference: Path = Field(description="data set, or folder of labels: the truth")
    labels: Path = Field(description="predictions to be judged")
    out: VerdictPlace = Field(description="the verdicts: CSV, SQLite file or URL")
    axis: int = Field(0, ge=0, le=2, description="of the stored array")
    bad_below: float = Field(
        BAD_BELOW, gt=0, le=1, description="slices with a lower Dice are bad"
    )
    slices: int | None = Field(None, ge=1, description="so many at random; none: all")
    seed: int = Field(0, ge=0)


# ---- fit ----


def fit(run: Run) -> None:
    """Train a classifier as a run's config says and keep it as ``RUN/model``.

    ``RUN/verdicts.csv`` has the verdicts, ``RUN/validation.csv`` what it says of the
    slices that it was measured on, ``RUN/metrics.csv`` what that comes to.

    Raises
    ------
    DataSetError
        Where verdicts do not fit the scans and predictions, or do not suffice.
    """
    config = parse(FitConfig, run.config, str(run.folder / "config.yaml"))
    if run.model_folder.exists():
        return
    device = torch.device(pick_device(config.device))
    known, settled = what_was_judged(config, run.folder / VERDICTS)
    if settled.warning:
        run.warning(settled.warning)
    judged = {case: known[case] for case in {place[0] for place in settled.good}}
    classes, preprocessing = _segmentation(config, judged, run)

    def each(done: int, total: int) -> None:
        run.check_stop()
        run.progress(done, total, stage="read")

    slices = cut_out(
        settled, known, classes, preprocessing, size=config.size_vox, each=each
    )
    purpose = Purpose(
        folder=run.model_folder,
        metrics=run.folder / "metrics.csv",
        held_out=run.folder / "validation.csv",
        name=config.name,
        channels=next(iter(judged.values())).channels,
        classes=classes,
        preprocessing=preprocessing,
        provenance=_provenance(config, run.folder / VERDICTS, judged),
        licence=config.licence or "not stated",
    )
    with using_threads(config.threads):
        train_classifier(run, slices, purpose, config, seed=config.seed, device=device)


def what_was_judged(
    config: FitConfig, frozen: Path | None = None
) -> tuple[dict[str, Subject], Settled]:
    """Find the predictions, and what people said of them.

    Parameters
    ----------
    config
        Where they are.
    frozen
        A table of the verdicts that count; written where it is missing, so that a run
        goes on with the verdicts that it began with.

    Raises
    ------
    DataSetError
        Where verdicts do not fit the scans and predictions, or do not suffice.
    """
    begun = frozen is not None and frozen.exists()
    where = str(frozen) if begun else config.reviews
    rows = verdicts_in(where)
    known = subjects(config.images, config.labels, config.predicted_by)
    settled = settle(rows, known, where)
    if frozen is not None and not begun:
        write_verdicts(frozen, settled.rows)
    return known, settled


def _provenance(
    config: FitConfig, verdicts: Path, judged: dict[str, Subject]
) -> Provenance:
    recipe = config.model_copy(update={"reviews": str(verdicts)})
    return Provenance(
        method="quality-fit",
        recipe=recipe.model_dump(mode="json"),
        metrics={"judges": sorted({one.fingerprint for one in judged.values()} - {""})},
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _segmentation(
    config: FitConfig, judged: dict[str, Subject], run: Run
) -> tuple[LabelSet, Preprocessing]:
    """Classes, and how scans are turned and scaled, as the segmentation has it."""
    if config.segmentation is not None:
        card = Model.open(config.segmentation).card
        return card.classes, card.preprocessing
    makers = {one.fingerprint for one in judged.values()} - {""}
    if len(makers) == 1:
        places = [config.labels, *([config.images] if config.images else [])]
        folders = [folder for place in places for folder in model_folders(place)]
        model = model_with(makers.pop(), folders)
        if model is not None:
            return model.card.classes, model.card.preprocessing
        run.warning(
            "The model that made the predictions was not found, so the classifier "
            "scales grey values in its own way (z-score), and cannot be handed to a "
            "student of that model. Name its folder with --segmentation."
        )
    names = dict.fromkeys(name for one in judged.values() for name in one.values or ())
    if names:
        return LabelSet.from_names(names), Preprocessing()
    found = {
        value
        for one in judged.values()
        for value in values_in(formats.read_labels(one.labels)[0], str(one.labels))
    }
    return LabelSet.from_names(str(v) for v in sorted(found - {0})), Preprocessing()


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
    keep_verdicts(config.out, found, "truth")
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
