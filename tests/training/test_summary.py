"""Averages of a table of scores: over volumes and pooled, with numbers by hand."""

import csv
import math
from pathlib import Path

import pytest

from kdseg_train.summary import (
    as_csv,
    definitions,
    read_csv,
    read_summary,
    scores_of,
    summarised,
    write_tables,
)
from napari_kdseg.measure.metrics import ClassScore, Overlap

Row = dict[str, str]


def row(
    case: str,
    voxels: tuple[int, int, int],
    name: str = "liver",
    model: str = "student",
    hd_mm: float = 2.0,
) -> Row:
    found = ClassScore(name, Overlap(*voxels), hd_mm, hd_mm / 2, 0.5, 0.1, 0.1)
    return {"case": case, "model": model} | scores_of(found, 1.5)


@pytest.fixture
def rows() -> list[Row]:
    # Of a large liver half, 2 · 50 / 200 = 0.5 and 50 / 150 = 1/3; of a small one all.
    # The spleen: 2 · 3 / 10 = 0.6 and 3 / 7; then missed, its distance infinite.
    return [
        row("a", (100, 100, 50)),
        row("a", (4, 6, 3), "spleen"),
        row("b", (10, 10, 10), hd_mm=0.0),
        row("b", (5, 0, 0), "spleen", hd_mm=math.inf),
    ]


def test_a_large_case_weighs_more_where_voxels_are_pooled(rows: list[Row]) -> None:
    found = {(e["averaging"], e["class"]): e for e in summarised(rows)}
    assert list(found) == [
        ("volumes", "liver"),
        ("volumes", "spleen"),
        ("volumes", "mean"),
        ("pooled", "liver"),
        ("pooled", "spleen"),
        ("pooled", "mean"),
    ]
    by_volume, together = found["volumes", "liver"], found["pooled", "liver"]
    assert by_volume["dice"] == pytest.approx((0.5 + 1) / 2)
    assert by_volume["iou"] == pytest.approx((1 / 3 + 1) / 2, abs=1e-6)
    assert together["dice"] == pytest.approx(2 * 60 / 220)
    assert together["iou"] == pytest.approx(60 / 160)
    assert together["cases"] == 2


def test_dice_and_iou_say_the_same_of_pooled_voxels_alone(rows: list[Row]) -> None:
    for entry in summarised(rows):
        if entry["class"] != "mean":
            dice, iou = float(entry["dice"]), float(entry["iou"])
            same = dice == pytest.approx(2 * iou / (1 + iou))
            assert same == (entry["averaging"] == "pooled")


def test_the_mean_over_classes_is_of_their_averages(rows: list[Row]) -> None:
    found = {e["averaging"]: e for e in summarised(rows) if e["class"] == "mean"}
    assert found["volumes"]["dice"] == pytest.approx((0.75 + 0.3) / 2)
    # pooled spleen: 2 · 3 / (9 + 6) = 0.4 and 3 / 12
    assert found["pooled"]["dice"] == pytest.approx((120 / 220 + 0.4) / 2)
    assert found["pooled"]["iou"] == pytest.approx((0.375 + 0.25) / 2)


def test_the_mean_over_classes_counts_each_case_once(rows: list[Row]) -> None:
    every = {e["class"]: e["cases"] for e in summarised(rows)}
    assert every == {"liver": 2, "spleen": 2, "mean": 2}


def test_infinite_distances_are_counted_and_not_averaged(rows: list[Row]) -> None:
    found = {(e["averaging"], e["class"]): e for e in summarised(rows)}
    spleen = found["volumes", "spleen"]
    assert (spleen["hd_mm"], spleen["hd95_mm"], spleen["infinite"]) == (2.0, 1.0, 1)
    pooled = found["pooled", "spleen"]
    assert [pooled[key] for key in ("hd_mm", "hd95_mm", "nsd", "infinite")] == [""] * 4


def test_a_class_that_is_nowhere_is_perfect_in_both() -> None:
    for entry in summarised([row("a", (0, 0, 0)), row("b", (0, 0, 0))]):
        assert (entry["dice"], entry["iou"]) == (1.0, 1.0)


def test_models_are_averaged_apart(rows: list[Row]) -> None:
    teacher = row("a", (8, 8, 8), model="teacher")
    found = summarised([*rows, teacher])
    own = [e for e in found if e["model"] == "teacher"]
    assert [(e["averaging"], e["class"]) for e in own] == [
        ("volumes", "liver"),  # one class has no mean of classes
        ("pooled", "liver"),
    ]
    assert found[:6] == summarised(rows)


def test_regions_have_a_mean_of_their_own(rows: list[Row]) -> None:
    both = [row("a", (104, 106, 53), "organs"), row("a", (104, 106, 53), "all")]
    found = summarised([*rows, *both], regions=("organs", "all"))
    means = {
        e["class"]: e["dice"]
        for e in found
        if e["averaging"] == "volumes" and str(e["class"]).startswith("mean")
    }
    assert means["mean"] == pytest.approx((0.75 + 0.3) / 2)
    assert means["mean of regions"] == pytest.approx(106 / 210, abs=1e-6)


def test_rows_of_an_earlier_version_are_averaged_over_volumes_alone(
    rows: list[Row],
) -> None:
    old = [{k: v for k, v in one.items() if not k.endswith("_vox")} for one in rows]
    assert {e["averaging"] for e in summarised(old)} == {"volumes"}
    assert summarised(old) == summarised(rows)[:3]


# ---- files ----


def test_a_table_has_its_summary_beside_it(rows: list[Row], tmp_path: Path) -> None:
    written = write_tables(tmp_path / "metrics.csv", rows, definitions(1.5))
    assert read_csv(tmp_path / "metrics.csv") == rows
    with (tmp_path / "metrics-summary.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["averaging"], line["class"]) for line in lines] == [
        (e["averaging"], e["class"]) for e in written
    ]
    pooled = next(line for line in lines if line["averaging"] == "pooled")
    assert (pooled["dice"], pooled["iou"]) == ("0.545455", "0.375000")
    assert (pooled["hd95_mm"], pooled["nsd"]) == ("", "")


def test_every_table_names_tolerance_and_definitions(
    rows: list[Row], tmp_path: Path
) -> None:
    write_tables(tmp_path / "metrics.csv", rows, definitions(1.5))
    for name in ("metrics.csv", "metrics-summary.csv"):
        assert {one["nsd_tolerance_mm"] for one in read_csv(tmp_path / name)} == {"1.5"}
    text = (tmp_path / "metrics-summary.md").read_text(encoding="utf-8")
    for words in ("within 1.5 mm", "larger of both directed", "Both empty", "pooled:"):
        assert words in text
    assert "| student | liver | pooled | 2 | 0.5455 | 0.3750 |" in text


def test_a_summary_that_is_read_again_is_the_one_written(
    rows: list[Row], tmp_path: Path
) -> None:
    written = write_tables(tmp_path / "metrics.csv", rows, definitions(1.5))
    found = read_summary(tmp_path / "metrics.csv")
    assert found is not None
    entries, words = found
    assert words == definitions(1.5)
    for entry, other in zip(entries, written, strict=True):
        assert entry == pytest.approx(other, abs=1e-6, nan_ok=True)


def test_a_table_without_a_summary_is_said_to_have_none(tmp_path: Path) -> None:
    assert read_summary(tmp_path / "metrics.csv") is None


def test_names_with_a_bar_do_not_break_the_table(tmp_path: Path) -> None:
    write_tables(tmp_path / "t.csv", [row("a", (2, 2, 2), "left|right")], "words")
    text = (tmp_path / "t-summary.md").read_text(encoding="utf-8")
    assert "| left\\|right |" in text


def test_rows_with_other_columns_share_a_table() -> None:
    assert as_csv([{"a": "1"}, {"a": "2", "b": "3"}]) == "a,b\n1,\n2,3\n"
