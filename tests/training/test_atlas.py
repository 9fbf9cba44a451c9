"""The command atlas on made fish that were turned and scaled in known ways."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdseg_train import atlas
from kdseg_train.samples import write_sample
from napari_kdseg.measure.alignment import laid_over
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import (
    read_labels,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Affine, Grid

Call = Callable[..., tuple[int, str, str]]
KNOWN = LabelSet.from_names(["gut", "heart"])
GUT, HEART = 6, 4
"""Of the made fish."""


def turned(grid: Grid, degrees: float, scale: float) -> Affine:
    """From the reference to the scan, turned about z through the middle."""
    angle = math.radians(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [
        [math.cos(angle), -math.sin(angle)],
        [math.sin(angle), math.cos(angle)],
    ]
    matrix[:3, :3] *= scale
    middle = grid.affine[:3] @ [*((n - 1) / 2 for n in grid.shape[::-1]), 1]
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle
    return matrix


@pytest.fixture(scope="module")
def fish(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One made fish three times: as it is, turned, and turned back and smaller."""
    folder = tmp_path_factory.mktemp("fish")
    write_sample("fish", folder / "made", cases=1, size=40, seed=1)
    image_file = next((folder / "made" / "imagesTr").iterdir())
    image = read_volume(image_file)
    labels, grid = read_labels(folder / "made" / "labelsTr" / image_file.name)
    for place in ("scans", "labels"):
        (folder / place).mkdir()
    for name, degrees, scale in (("a", 0, 1.0), ("b", 10, 1.0), ("c", -8, 0.95)):
        way = np.linalg.inv(turned(grid, degrees, scale))
        seen = laid_over(np.asarray(image.data[0], float), grid, way, grid)
        write_volume(folder / "scans" / f"{name}.nii.gz", seen.astype(np.float32), grid)
        kept = np.zeros(labels.shape, np.uint8)
        for value, stored in enumerate((GUT, HEART), start=1):
            mask = (labels == stored).astype(float)
            kept[laid_over(mask, grid, way, grid) > 0.5] = value
        write_labels(folder / "labels" / f"{name}.nii.gz", kept, grid, KNOWN)
    return folder


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


def words(fish: Path, out: Path, *more: object) -> tuple[object, ...]:
    return (
        *("atlas", fish / "labels", "--images", fish / "scans"),
        *("--reference", "a", "--out", out, *more),
    )


@pytest.mark.slow
def test_turned_and_smaller_fish_lie_over_one_another(
    fish: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "atlas"
    status, _, said = call(*words(fish, out, "--format", "nifti"))
    assert status == 0, said
    found = rows_of(out / "alignment.csv")
    assert float(found["b"]["turned_degrees"]) == pytest.approx(10, abs=1)
    assert float(found["c"]["turned_degrees"]) == pytest.approx(8, abs=1)
    assert float(found["c"]["scale_z"]) == pytest.approx(0.95, abs=0.01)
    variation = rows_of(out / "variation.csv")
    gut = variation["gut"]
    files = [fish / "labels" / f"{name}.nii.gz" for name in "abc"]
    voxels = [np.count_nonzero(read_labels(file)[0] == 1) for file in files]
    cv = np.std(voxels, ddof=1) / np.mean(voxels)
    assert float(gut["volume_cv"]) == pytest.approx(cv, rel=1e-5)
    occupancy = read_volume(out / "occupancy.nii.gz")
    labels, grid = read_labels(files[0])
    assert float(gut["centroid_spread_mm"]) < 0.5 * max(grid.spacing_mm)
    assert occupancy.data.shape == (2, *grid.shape)
    share = np.asarray(occupancy.data[0])
    assert share.min() >= 0
    assert share.max() == pytest.approx(1)
    both = (share > 0.5) & (labels == 1)
    assert 2 * both.sum() / ((share > 0.5).sum() + (labels == 1).sum()) > 0.9


@pytest.mark.slow
def test_a_stopped_atlas_goes_on_with_the_next_scan(
    fish: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, aligned = tmp_path / "atlas", []
    align = atlas.align

    def counted(*words: Any) -> Any:
        aligned.append(words)
        if len(aligned) == 1:
            Run.open(out / ".run").request_stop()
            return align(*words[:5])  # this one is finished
        return align(*words)

    monkeypatch.setattr(atlas, "align", counted)
    status, _, _ = call(*words(fish, out, "--on", "masks"))
    assert (status, len(aligned)) == (3, 1)
    assert not (out / "variation.csv").exists()
    status, _, said = call(*words(fish, out, "--on", "masks", "--resume"))
    assert (status, len(aligned)) == (0, 2), said
    assert (out / "occupancy.ome.zarr").exists()


def test_a_reference_that_is_not_there_is_said_and_nothing_made(
    fish: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "atlas"
    status, _, said = call("atlas", fish / "labels", "--reference", "z", "--out", out)
    assert status == 2
    assert "no labels of the reference 'z'; it has those of a, b, c" in said
    assert not out.exists()


def test_without_scans_images_cannot_be_compared(
    fish: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "atlas"
    status, _, said = call("atlas", fish / "labels", "--reference", "a", "--out", out)
    assert status == 2
    assert "use --on masks" in said
