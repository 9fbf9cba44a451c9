"""The command predict with two models in a row, and with a composite folder."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdseg_train.cli import main
from kdseg_train.partial import Partial
from kdseg_train.plan import PredictConfig, plan
from napari_kdseg.inference import coarse_to_fine
from napari_kdseg.inference.coarse_to_fine import (
    predict_any_tiles,
    predict_coarse_to_fine,
)
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import Model, NetworkSpec, Tiling, save_composite
from napari_kdseg.volumes.formats import read_labels, read_volume
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing

SMALL = Preprocessing(resize_vox=(16, 16, 16), intensity=(Intensity(kind="zscore"),))


@pytest.fixture
def pair(model_folder: Callable[..., Model]) -> tuple[Model, Model]:
    return model_folder("coarse", preprocessing=SMALL), model_folder("fine")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, words)])
    return int(ended.value.code or 0)


def predicted(out: Path, model: str, case: str = "case_1") -> np.ndarray:
    labels, _ = read_labels(out / case / model / "labels.nii.gz")
    return labels


def expected(scan: Path, coarse: Model, fine: Model) -> np.ndarray:
    settings = Settings(device="cpu", uncertainty=None)
    pair = Model.paired(coarse, fine)
    return np.asarray(
        predict_coarse_to_fine(read_volume(scan), pair, settings).labels[0]
    )


def test_two_models_predict_from_coarse_to_fine(
    pair: tuple[Model, Model], write_scan: Callable[..., Path], tmp_path: Path
) -> None:
    scan, out = write_scan(directions=(1, -1, 1)), tmp_path / "out"
    models = [arg for m in pair for arg in ("--model", str(m.folder))]
    assert run(scan, *models, "--coarse-to-fine", "--out", out) == 0
    found = predicted(out, "fine-coarse-to-fine")
    assert np.array_equal(found, expected(scan, *pair))
    record = out / "case_1" / "fine-coarse-to-fine" / "prediction.json"
    said = json.loads(record.read_text())
    assert said["settings"]["coarse_to_fine"] is True
    assert said["model"]["fingerprint"] == Model.paired(*pair).fingerprint


def test_a_composite_folder_is_given_as_one_model(
    pair: tuple[Model, Model], write_scan: Callable[..., Path], tmp_path: Path
) -> None:
    save_composite(tmp_path / "both", *pair, name="both")
    scan, out = write_scan(), tmp_path / "out"
    alone = ["--model", str(pair[1].folder)]
    asked = ["--model", str(tmp_path / "both"), *alone, "--uncertainty", "entropy"]
    assert run(scan, *asked, "--out", out) == 0
    assert np.array_equal(predicted(out, "both"), expected(scan, *pair))
    assert (out / "case_1" / "both" / "uncertainty.nii.gz").exists()
    assert predicted(out, "fine").any()


def test_a_preview_of_a_composite_waits_for_the_whole(
    pair: tuple[Model, Model], write_scan: Callable[..., Path], tmp_path: Path
) -> None:
    save_composite(tmp_path / "both", *pair, name="both")
    scan, out = write_scan(), tmp_path / "out"
    asked = ["--model", str(tmp_path / "both"), "--preview", "0,3"]
    assert run(scan, *asked, "--out", out) == 0
    assert np.array_equal(predicted(out, "both"), expected(scan, *pair))


@pytest.mark.parametrize("count", [1, 3])
def test_two_models_are_needed(
    pair: tuple[Model, Model],
    write_scan: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count: int,
) -> None:
    models = ["--model", str(pair[0].folder)] * count
    words = [write_scan(), *models, "--coarse-to-fine", "--out", tmp_path / "out"]
    assert run(*words) == 2
    assert f"takes two models, the coarse one first; there are {count}" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("directions", [(1, 1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_composite_goes_on_from_its_last_slab(
    pair: tuple[Model, Model],
    model_folder: Callable[..., Model],
    write_scan: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    directions: tuple[int, int, int],
    overlap: float,
) -> None:
    middle = ((0.2, 0.8), (0.1, 0.7), (0.3, 0.8))
    monkeypatch.setattr(coarse_to_fine, "box_around", lambda *_: middle)
    deep = NetworkSpec(
        name="unet", parameters={"dimensions": 3, "width": 4, "stages": 2}
    )
    tiling = Tiling(tile_vox=(16, 16, 16), overlap=0.5)
    fine = model_folder("deep", network=deep, tiling=tiling)
    both = save_composite(tmp_path / "both", pair[0], fine)
    scan = write_scan(shape=(60, 20, 24), directions=directions)
    config = PredictConfig(
        inputs=(scan,),
        models=(both.folder,),
        out=tmp_path / "out",
        device="cpu",
        overlap=overlap,
    )
    planned, volume = plan(config, resume=False), read_volume(scan)
    settings, name = planned.config.settings, f"{both.card.name}/labels"
    tiles = list(predict_any_tiles(volume, planned.models, settings))
    whole = np.zeros(volume.grid.shape, np.uint8)
    for tile in tiles:
        whole[tile.index] = tile.labels[0]
    assert 0 < whole.any(axis=(1, 2)).sum() < len(whole)
    for finished in range(1, len(tiles)):
        folder = tmp_path / f"partial-{finished}"
        partial = Partial(folder, planned, planned.scans[0])
        for tile in tiles[:finished]:
            partial.add(tile)
        resumed = Partial(folder, planned, planned.scans[0])
        while (box := resumed.remaining) is not None:
            for tile in predict_any_tiles(volume, planned.models, settings, box=box):
                before = resumed.finished
                resumed.add(tile)
                assert resumed.finished > before
        assert np.array_equal(resumed.array(name)[:], whole)
