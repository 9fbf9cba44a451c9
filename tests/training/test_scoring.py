"""Scores: each model is given its own channels, and regions are unions of classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdseg_train.data import Cases
from kdseg_train.layouts import Case
from kdseg_train.scoring import only_channels, read_csv, scored, write_scores
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.volume import Grid, Volume

SHAPE = (4, 16, 16)
CLASSES = ("liver", "spleen")
MakeModelFolder = Callable[..., Model]


def a_run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run", {"version": 1, "command": "fit"})
    run.partial.mkdir(exist_ok=True)
    return run


def cases_of(tmp_path: Path) -> Cases:
    grid = Grid.from_affine(np.eye(4), SHAPE)
    noise = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    paths = (tmp_path / "anna_0.nii.gz", tmp_path / "anna_1.nii.gz")
    for path, data in zip(paths, noise, strict=True):
        write_volume(path, data, grid)
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, :8] = 1
    labels[:, 8:] = 2
    write_labels(tmp_path / "anna-labels.nii.gz", labels, grid, None)
    values: dict[str, tuple[int, ...]] = {"liver": (1,), "spleen": (2,)}
    case = Case("anna", paths, tmp_path / "anna-labels.nii.gz", values, CLASSES)
    return Cases(("t1", "t2"), CLASSES, (), (), (case,), ())


def test_a_model_of_one_channel_is_given_this_one_alone(
    tmp_path: Path, model_folder: MakeModelFolder
) -> None:
    cases = cases_of(tmp_path)
    alone = [model_folder(name, CLASSES, channels=(name,)) for name in ("t1", "t2")]
    both = model_folder("both", CLASSES, channels=("t1", "t2"))
    together = scored(a_run(tmp_path), [*alone, both], cases, "cpu")
    assert {row["model"] for row in together} == {"t1", "t2", "both"}
    # spoiling t1 changes what sees it, and nothing else
    grid = Grid.from_affine(np.eye(4), SHAPE)
    write_volume(cases.test[0].images[0], np.full(SHAPE, 9, np.float32), grid)
    spoilt = scored(a_run(tmp_path), [*alone, both], cases, "cpu")
    changed = {
        row["model"]
        for row, other in zip(together, spoilt, strict=True)
        if row != other
    }
    assert changed == {"t1", "both"}


def test_a_region_is_scored_as_the_union_of_its_classes(
    tmp_path: Path, model_folder: MakeModelFolder
) -> None:
    model = model_folder("both", CLASSES, channels=("t1", "t2"))
    regions = {"organs": CLASSES, "livers": ("liver",), "more": ("liver", "kidney")}
    rows = scored(a_run(tmp_path), [model], cases_of(tmp_path), "cpu", regions)
    found = {row["class"]: row for row in rows}
    assert set(found) == {"liver", "spleen", "organs", "livers"}
    assert found["livers"]["dice"] == found["liver"]["dice"]
    volumes = [float(found[name]["prediction_ml"]) for name in ("liver", "spleen")]
    assert float(found["organs"]["prediction_ml"]) == pytest.approx(sum(volumes))


def test_a_fish_of_micrometres_has_a_volume(
    tmp_path: Path, model_folder: MakeModelFolder
) -> None:
    # 512 voxels of liver, (0.002 mm)^3 each: 8e-9 mm^3 = 8e-12 ml, 4.096e-9 ml in all
    cases = cases_of(tmp_path)
    small = Grid.from_affine(np.diag([0.002, 0.002, 0.002, 1]), SHAPE)
    (case,) = cases.test
    for path in case.images:
        write_volume(path, np.zeros(SHAPE, np.float32), small)
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, :8] = 1
    assert case.label is not None
    write_labels(case.label, labels, small, None)
    model = model_folder("both", CLASSES, channels=("t1", "t2"))
    rows = scored(a_run(tmp_path), [model], cases, "cpu")
    found = {row["class"]: row for row in rows}
    assert float(found["liver"]["reference_ml"]) == pytest.approx(4.096e-9, rel=1e-5)


def test_channels_are_picked_in_the_order_asked_for() -> None:
    data = np.arange(3)[:, None, None, None] * np.ones((1, 2, 2, 2))
    volume = Volume(data, Grid.from_affine(np.eye(4), (2, 2, 2)), ("a", "b", "c"))
    picked = only_channels(volume, (2, 0))
    assert picked.channels == ("c", "a")
    assert np.asarray(picked.data)[:, 0, 0, 0].tolist() == [2, 0]
    assert only_channels(volume, (0, 1, 2)) is volume


def test_the_spread_of_folds_is_worked_out_by_hand(tmp_path: Path) -> None:
    # means of the folds: 0.5 and 0.7; standard deviation 0.1 · sqrt 2
    def row(fold: str, dice: str) -> dict[str, Any]:
        known = {"fold": fold, "model": "m", "class": "liver", "dice": dice}
        return known | dict.fromkeys(("iou", "hd_mm", "hd95_mm", "nsd"), "1")

    run = a_run(tmp_path)
    write_scores(run, [row("1", "0.4"), row("1", "0.6"), row("2", "0.7")])
    (event,) = [e for e in run.events()[0] if e["event"] == "metric"]
    assert event["dice_std"] == pytest.approx(0.1 * 2**0.5)
    assert event["dice"] == pytest.approx(1.7 / 3)


def test_a_test_leaves_rows_their_averages_and_what_they_mean(
    tmp_path: Path, model_folder: MakeModelFolder
) -> None:
    run = a_run(tmp_path)
    model = model_folder("both", CLASSES, channels=("t1", "t2"))
    regions = {"organs": CLASSES}
    rows = scored(run, [model], cases_of(tmp_path), "cpu", regions)
    write_scores(run, rows, regions)
    (row, *_) = read_csv(run.folder / "metrics.csv")
    voxels = [int(row[name]) for name in ("reference_vox", "prediction_vox")]
    assert float(row["dice"]) == pytest.approx(
        2 * int(row["both_vox"]) / sum(voxels), abs=1e-6
    )
    assert row["nsd_tolerance_mm"] == "1.0"
    summary = read_csv(run.folder / "metrics-summary.csv")
    assert [one["class"] for one in summary] == [*CLASSES, "organs", "mean"] * 2
    # one case is the same, averaged or pooled
    assert [one["dice"] for one in summary[:4]] == [one["dice"] for one in summary[4:]]
    assert "within 1 mm" in (run.folder / "metrics-summary.md").read_text("utf-8")
