"""The command evaluate: matching, class names, refusals, the table."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from kdseg_train.evaluate import COLUMNS, EvaluateConfig, compare, evaluate, means
from kdseg_train.evaluate import write_table as write
from kdseg_train.follow import print_table
from kdseg_train.label_files import LabelFile, reference_files
from napari_kdseg.errors import DataSetError, GridError, LabelError, UsageError
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

SHAPE = (12, 12, 12)


def ignore(done: int, total: int) -> None:
    """Nobody looks on."""


def grid(spacing_mm: float = 1.0) -> Grid:
    return Grid.from_affine(np.diag([spacing_mm] * 3 + [1.0]), SHAPE)


def cube(start: int = 4, value: int = 1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[start : start + 4, 4:8, 4:8] = value
    return labels


def save(path: Path, labels: np.ndarray, on: Grid | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_labels(path, labels, on or grid(), None)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> EvaluateConfig:
    return EvaluateConfig(
        reference=tmp_path / "truth",
        prediction=tmp_path / "guess",
        out=tmp_path / "metrics.csv",
        nsd_tolerance_mm=1.0,
    )


def publish(
    folder: Path, case: str, model: str, labels: np.ndarray, **values: int
) -> None:
    """What `predict` leaves behind."""
    save(folder / case / model / "labels.nii.gz", labels)
    record = {
        "case": case,
        "model": {"name": model},
        "labels": {
            "file": "labels.nii.gz",
            "classes": [{"name": name, "value": v} for name, v in values.items()],
        },
    }
    (folder / case / model / "prediction.json").write_text(json.dumps(record))


def data_set(
    folder: Path, labels: dict[str, np.ndarray], names: dict[str, str]
) -> None:
    """Decathlon layout."""
    training = []
    for case, array in labels.items():
        save(folder / f"labelsTr/{case}.nii.gz", array)
        (folder / "imagesTr").mkdir(exist_ok=True)
        image = folder / f"imagesTr/{case}.nii.gz"
        write_volume(image, array.astype(np.float32), grid())
        training.append(
            {"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz"}
        )
    description = {"labels": names, "training": training, "modality": {"0": "CT"}}
    (folder / "dataset.json").write_text(json.dumps(description))


# ---- Matching ----


def test_folders_of_labels_are_matched_by_file_name(settings: EvaluateConfig) -> None:
    save(settings.reference / "a.nii.gz", cube())
    save(settings.reference / "b.nii.gz", cube())
    save(settings.prediction / "a.nii", cube(start=5))
    found = compare(settings, ignore)
    assert [(row.case, row.score.name, row.score.dice) for row in found.rows] == [
        ("a", "1", 0.75)
    ]
    assert found.notes == ("Without prediction, not counted: b.",)


def test_the_reference_is_looked_through_once(
    settings: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def counted(folder: Path) -> Iterator[LabelFile]:
        looked.append(folder)
        return reference_files(folder)

    monkeypatch.setattr("kdseg_train.evaluate.reference_files", counted)
    for folder in (settings.reference, settings.prediction):
        save(folder / "a.nii.gz", cube())
    assert compare(settings, ignore).rows
    assert looked == [settings.reference]


def test_classes_are_matched_by_name_whatever_their_values(
    settings: EvaluateConfig,
) -> None:
    truth = cube(value=3)
    names = {"0": "background", "3": "liver", "4": "spleen"}
    data_set(settings.reference, {"a": truth}, names)
    publish(settings.prediction, "a", "student", cube(value=2), spleen=1, liver=2)
    rows = compare(settings, ignore).rows
    scores = {(row.model, row.score.name): row.score.dice for row in rows}
    assert scores == {("student", "liver"): 1.0, ("student", "spleen"): 1.0}


def test_each_model_is_scored_on_the_classes_it_knows(settings: EvaluateConfig) -> None:
    names = {"0": "background", "1": "liver", "2": "spleen"}
    data_set(settings.reference, {"a": cube()}, names)
    publish(settings.prediction, "a", "teacher", cube(), liver=1)
    publish(settings.prediction, "a", "student", cube(), liver=1, spleen=2)
    rows = compare(settings, ignore).rows
    assert [(row.model, row.score.name) for row in rows] == [
        ("student", "liver"),
        ("student", "spleen"),
        ("teacher", "liver"),
    ]


def test_classes_a_case_does_not_annotate_are_left_out(
    settings: EvaluateConfig,
) -> None:
    save(settings.reference / "a.nii.gz", cube())
    save(settings.reference / "image.nii.gz", cube())
    (settings.reference / "dataset.yaml").write_text(
        "channels: [CT]\nclasses: {liver: 1, spleen: 2}\ncases:\n"
        "- {id: a, images: {CT: image.nii.gz}, label: a.nii.gz, annotated: [liver]}\n"
    )
    publish(settings.prediction, "a", "student", cube(), liver=1, spleen=2)
    rows = compare(settings, ignore).rows
    assert [row.score.name for row in rows] == ["liver"]


def test_unnamed_classes_of_all_cases_count_in_each(settings: EvaluateConfig) -> None:
    for case, value in (("a", 1), ("b", 2)):
        save(settings.reference / f"{case}.nii.gz", cube(value=value))
        save(settings.prediction / f"{case}.nii.gz", cube(value=value))
    rows = compare(settings, ignore).rows
    assert [(row.case, row.score.name) for row in rows] == [
        ("a", "1"),
        ("a", "2"),
        ("b", "1"),
        ("b", "2"),
    ]


def test_names_in_an_ome_zarr_are_used(settings: EvaluateConfig) -> None:
    settings.reference.mkdir()
    liver = LabelSet.from_names(["liver"])
    write_labels(settings.reference / "a.ome.zarr", cube(), grid(), liver)
    save(settings.prediction / "a.nii.gz", cube())
    assert compare(settings, ignore).rows[0].score.name == "liver"


# ---- What the means do not count ----


def test_organs_that_one_side_does_not_know_are_named(settings: EvaluateConfig) -> None:
    names = {"0": "background", "1": "liver", "2": "kidneys", "3": "pancreas"}
    data_set(settings.reference, {"a": cube(), "b": cube()}, names)
    for case in ("a", "b"):
        publish(settings.prediction, case, "whole", cube(), liver=1, kidney=2)
    publish(settings.prediction, "a", "all", cube(), liver=1, kidneys=2, pancreas=3)
    publish(settings.prediction, "b", "all", cube(), liver=1, kidneys=2, pancreas=3)
    assert compare(settings, ignore).notes == (
        "Not compared for whole: kidneys, pancreas (only in the reference); "
        "kidney (only in the prediction).",
    )


def test_organs_that_only_some_files_know_are_told_with_their_number(
    settings: EvaluateConfig,
) -> None:
    names = {"0": "background", "1": "liver", "2": "spleen"}
    data_set(settings.reference, {"a": cube(), "b": cube()}, names)
    publish(settings.prediction, "a", "student", cube(), liver=1, spleen=2)
    publish(settings.prediction, "b", "student", cube(), liver=1)
    assert compare(settings, ignore).notes == (
        "Not compared for student: spleen (only in the reference in 1 of 2 cases).",
    )


def test_organs_that_the_reference_has_not_annotated_are_told(
    settings: EvaluateConfig,
) -> None:
    save(settings.reference / "a.nii.gz", cube())
    save(settings.reference / "image.nii.gz", cube())
    (settings.reference / "dataset.yaml").write_text(
        "channels: [CT]\nclasses: {liver: 1, spleen: 2, eye: 3}\ncases:\n"
        "- {id: a, images: {CT: image.nii.gz}, label: a.nii.gz, annotated: [liver]}\n"
    )
    publish(settings.prediction, "a", "student", cube(), liver=1, spleen=2)
    assert compare(settings, ignore).notes == (
        "Not compared for student: spleen (not annotated in the reference).",
    )


def test_an_organ_that_the_model_knows_and_did_not_find_counts(
    settings: EvaluateConfig,
) -> None:
    names = {"0": "background", "1": "liver", "2": "spleen"}
    data_set(settings.reference, {"a": cube(value=2)}, names)
    publish(settings.prediction, "a", "student", 0 * cube(), liver=1, spleen=2)
    found = compare(settings, ignore)
    assert [row.score.dice for row in found.rows] == [1.0, 0.0]
    assert found.notes == ()


def test_cases_without_prediction_are_told_for_each_model(
    settings: EvaluateConfig,
) -> None:
    for case in "abc":
        save(settings.reference / f"{case}.nii.gz", cube())
    publish(settings.prediction, "a", "abdomen", cube(), liver=1)
    publish(settings.prediction, "b", "abdomen", cube(), liver=1)
    publish(settings.prediction, "a", "fish", cube(), liver=1)
    assert compare(settings, ignore).notes == (
        "Without prediction by abdomen, not counted: c.",
        "Without prediction by fish, not counted: b, c.",
    )


def test_what_is_not_compared_stands_below_the_table_in_the_summary_and_the_run(
    settings: EvaluateConfig, tmp_path: Path
) -> None:
    names = {"0": "background", "1": "liver", "2": "spleen"}
    data_set(settings.reference, {"a": cube()}, names)
    publish(settings.prediction, "a", "student", cube(), liver=1)
    said = "Not compared for student: spleen (only in the reference)."
    assert said in compare(settings, ignore).caption
    run = Run.create(tmp_path / "run", settings.model_dump(mode="json"))
    with run.executing():
        evaluate(run)
    assert said in settings.out.with_name("metrics-summary.md").read_text()
    assert {"event": "note", "message": said}.items() <= next(
        event for event in run.events()[0] if event["event"] == "note"
    ).items()


# ---- Names from elsewhere ----

NNUNET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "spleen": 1}}


def test_a_dataset_json_beside_predictions_says_what_their_values_mean(
    settings: EvaluateConfig,
) -> None:
    names = {"0": "background", "1": "liver", "2": "spleen"}
    data_set(settings.reference, {"a": cube(value=2)}, names)
    save(settings.prediction / "a.nii.gz", cube())
    (settings.prediction / "dataset.json").write_text(json.dumps(NNUNET))
    rows = compare(settings, ignore).rows
    assert [(row.score.name, row.score.dice) for row in rows] == [("spleen", 1.0)]


def test_predictions_of_nnu_net_are_compared_with_each_other(
    settings: EvaluateConfig,
) -> None:
    for folder in (settings.reference, settings.prediction):
        save(folder / "a.nii.gz", cube())
        (folder / "dataset.json").write_text(json.dumps(NNUNET))
    rows = compare(settings, ignore).rows
    assert [(row.score.name, row.score.dice) for row in rows] == [("spleen", 1.0)]


def test_results_being_published_are_passed_over(settings: EvaluateConfig) -> None:
    save(settings.reference / "a.nii.gz", cube())
    publish(settings.prediction, "a", "student", cube(), liver=1)
    publish(settings.prediction, "a.partial-0f", "student", cube(), liver=1)
    assert len(compare(settings, ignore).rows) == 1


# ---- Refusals ----


def test_different_grids_are_refused_with_the_difference(
    settings: EvaluateConfig,
) -> None:
    save(settings.reference / "a.nii.gz", cube())
    save(settings.prediction / "a.nii.gz", cube(), grid(spacing_mm=2.0))
    with pytest.raises(GridError, match=r"spacing \(2, 2, 2\) against \(1, 1, 1\) mm"):
        compare(settings, ignore)


def test_label_values_outside_the_set_are_refused(settings: EvaluateConfig) -> None:
    names = {"0": "background", "1": "liver"}
    data_set(settings.reference, {"a": cube(value=7)}, names)
    publish(settings.prediction, "a", "student", cube(), liver=1)
    with pytest.raises(LabelError, match=r"a\.nii\.gz holds the label values 7"):
        compare(settings, ignore)


def test_no_common_case_is_refused_with_examples(settings: EvaluateConfig) -> None:
    save(settings.reference / "a.nii.gz", cube())
    save(settings.prediction / "b.nii.gz", cube())
    with pytest.raises(UsageError, match=r"No case is both in .*\(a\).*\(b\)"):
        compare(settings, ignore)


def test_no_common_class_is_refused(settings: EvaluateConfig) -> None:
    data_set(settings.reference, {"a": cube()}, {"0": "background", "1": "liver"})
    publish(settings.prediction, "a", "student", cube(), spleen=1)
    with pytest.raises(UsageError, match="they share none"):
        compare(settings, ignore)


@pytest.mark.parametrize("make", [True, False])
def test_a_folder_without_labels_is_refused(
    settings: EvaluateConfig, make: bool
) -> None:
    if make:
        settings.reference.mkdir()
    with pytest.raises(DataSetError, match="truth"):
        compare(settings, ignore)


def test_a_damaged_record_is_refused(settings: EvaluateConfig) -> None:
    save(settings.reference / "a.nii.gz", cube())
    publish(settings.prediction, "a", "student", cube(), liver=1)
    (settings.prediction / "a/student/prediction.json").write_text("{}")
    with pytest.raises(DataSetError, match=r"prediction\.json is no record"):
        compare(settings, ignore)


@pytest.mark.parametrize("which", ["out", "slices"])
def test_a_table_that_cannot_be_written_is_refused_before_anything_is_scored(
    settings: EvaluateConfig, which: str
) -> None:
    folder = settings.out.with_name("folder.csv")
    folder.mkdir()
    with pytest.raises(UsageError, match=r"folder\.csv is a folder"):
        compare(settings.model_copy(update={which: folder}), ignore)


# ---- The table ----


@pytest.fixture
def compared(settings: EvaluateConfig) -> Any:
    names = {"0": "background", "1": "liver", "2": "spleen"}
    truth = {"a": cube(), "b": cube(), "c": np.zeros(SHAPE, np.uint8)}
    data_set(settings.reference, truth, names)
    publish(settings.prediction, "a", "student", cube(), liver=1, spleen=2)
    publish(settings.prediction, "b", "student", cube(start=5), liver=1, spleen=2)
    publish(settings.prediction, "c", "student", cube(), liver=1, spleen=2)
    return compare(settings, ignore)


def test_the_table_has_the_columns_of_its_definition(
    settings: EvaluateConfig, compared: Any
) -> None:
    write(settings, compared)
    with settings.out.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    shifted = next(r for r in rows if (r["case"], r["class"]) == ("b", "liver"))
    assert (shifted["dice"], shifted["hd_mm"]) == ("0.750000", "1")
    assert (shifted["reference_ml"], shifted["nsd_tolerance_mm"]) == ("0.064", "1.0")
    missing = next(r for r in rows if (r["case"], r["class"]) == ("c", "liver"))
    assert (missing["dice"], missing["hd95_mm"]) == ("0.000000", "inf")


def test_means_leave_infinite_distances_out_and_count_them(compared: Any) -> None:
    liver, spleen, both, *_ = means(compared)
    # Liver: Dice 1, 0.75 and 0; HD 0, 1 and infinite. Spleen: empty in all.
    assert (liver["class"], liver["cases"], liver["infinite"]) == ("liver", 3, 1)
    assert liver["dice"] == pytest.approx(1.75 / 3)
    assert liver["hd_mm"] == pytest.approx(0.5)
    assert (spleen["dice"], spleen["hd_mm"]) == (1.0, 0.0)
    assert (both["class"], both["dice"]) == ("mean", pytest.approx((1.75 / 3 + 1) / 2))


def test_means_of_pooled_voxels_come_after_those_of_volumes(compared: Any) -> None:
    *_, liver, spleen, both = means(compared)
    # Liver: 64 voxels of 64, 48 of 64, none of 0 and 64: 112 of 128 and 192.
    assert (liver["averaging"], liver["dice"]) == ("pooled", 2 * 112 / (128 + 192))
    assert liver["iou"] == 112 / (128 + 192 - 112)
    assert (spleen["dice"], both["dice"]) == (1.0, (0.7 + 1) / 2)


def test_the_summary_lies_beside_the_table(
    settings: EvaluateConfig, compared: Any
) -> None:
    write(settings, compared)
    with settings.out.with_name("metrics-summary.csv").open() as file:
        rows = [(r["class"], r["averaging"], r["dice"]) for r in csv.DictReader(file)]
    assert rows[0] == ("liver", "volumes", "0.583333")
    assert rows[3] == ("liver", "pooled", "0.700000")


def test_the_caption_says_definition_and_empty_rule(compared: Any) -> None:
    assert "within 1 mm" in compared.caption
    assert "Both empty" in compared.caption


def test_a_run_writes_the_table_and_its_means(
    settings: EvaluateConfig, compared: Any, tmp_path: Path
) -> None:
    run = Run.create(tmp_path / "run", settings.model_dump(mode="json"))
    with run.executing():
        evaluate(run)
    metrics = [event for event in run.events()[0] if event["event"] == "metric"]
    assert settings.out.exists()
    assert [event["class"] for event in metrics] == ["liver", "spleen", "mean"] * 2
    assert [event["averaging"] for event in metrics[2:4]] == ["volumes", "pooled"]
    assert "nsd" not in metrics[3]


def test_a_table_puts_every_value_under_its_own_heading(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows: list[dict[str, str | float]] = [
        {"class": "liver", "cases": 4, "dice": 0.5, "hd_mm": 12.34},
        {"class": "mean", "dice": 0.25, "hd_mm": 10.0, "cases": 4},
    ]
    print_table(rows, "")
    printed = capsys.readouterr().out.splitlines()
    last = next(line for line in printed if "mean" in line)
    assert last.split() == ["mean", "4", "0.250", "10"]


def test_a_path_that_is_wider_than_the_window_stays_in_one_piece(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = "/data/" + "deep/" * 40 + "measurements.json"
    print_table([{"class": "liver", "dice": 0.5}], f"Kept in {path}")
    assert path in capsys.readouterr().out.splitlines()


def test_each_model_has_a_table_under_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(
        [
            {"model": "a [red]", "class": "liver", "dice": 0.5, "hd_mm": 0.0123},
            {"model": "b", "class": "liver", "dice": 0.25, "hd_mm": math.nan},
        ],
        "Dice is [sic] 2|A∩B|/(|A|+|B|).",
    )
    printed = capsys.readouterr().out
    said = [line.split() for line in printed.splitlines() if line.strip("─ ")]
    assert said == [
        ["a", "[red]"],
        ["class", "dice", "hd_mm"],
        ["liver", "0.500", "0.0123"],
        ["b"],
        ["class", "dice", "hd_mm"],
        ["liver", "0.250"],
        ["Dice", "is", "[sic]", "2|A∩B|/(|A|+|B|)."],
    ]


def test_a_header_and_its_voxels_are_one_label_file(tmp_path: Path) -> None:
    labels = np.zeros((5, 4, 3), np.uint8)
    labels[1:3] = 1
    for name in ("truth", "guess"):
        (tmp_path / name).mkdir()
        pair = nibabel.Nifti1Pair(labels, np.eye(4))
        nibabel.save(pair, tmp_path / name / "anna.img")
    config = EvaluateConfig(
        reference=tmp_path / "truth",
        prediction=tmp_path / "guess",
        out=tmp_path / "table.csv",
    )
    rows = compare(config, lambda done, total: None).rows
    assert [(row.case, row.score.dice) for row in rows] == [("anna", 1.0)]
