"""What a training would refuse is found before it starts, and nothing is written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdseg_train import check as checking
from kdseg_train import estimate
from kdseg_train.check import check_folder
from kdseg_train.samples import write_sample
from napari_kdseg.errors import RunError
from napari_kdseg.volumes import formats

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_sample("fish", folder / "fish", cases=4, size=32, seed=1)
    return folder


@pytest.fixture
def samples(made: Path, tmp_path: Path) -> Path:
    """A copy of its own, to be damaged."""
    shutil.copytree(made, tmp_path / "samples")
    return tmp_path / "samples"


def recipe(folder: Path, **more: Any) -> Path:
    values = {
        "version": 1,
        "command": "fit",
        "method": "supervised",
        "data": [{"path": str(folder / "fish")}],
        "split": {"test": 0.25, "validation": 0.25},
        "network": {"name": "unet", "parameters": {"width": 4, "stages": 3}},
        "patch_vox": [32, 32],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values | more))
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_check_tells_what_would_be_learnt_from(
    call: Call, samples: Path, tmp_path: Path
) -> None:
    path, before = recipe(samples), files(tmp_path)
    status, out, said = call("fit", path, "--out", tmp_path / "run", "--check")
    found = json.loads(out)
    assert status == 0
    assert found["channels"] == ["micro-CT"]
    parts = ("training", "validation", "test", "unlabelled")
    assert [found[part] for part in parts] == [2, 1, 1, 0]
    assert "It can start: brain, eyes" in said
    assert "2 to learn from, 1 for validation, 1 for testing" in said
    assert files(tmp_path) == before


def test_the_room_on_the_disk_is_that_of_the_prepared_scans(
    samples: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load(recipe(samples).read_text())
    found = checking.check(values, "recipe", samples, tmp_path / "run")
    header = checking.formats.inspect_volume(next(samples.glob("fish/imagesTr/*.gz")))
    depth, height, width = header.grid.shape
    # Training and validation are kept: two bytes of image, one of labels a voxel.
    prepared = found.disk_bytes - checking.MODELS_BYTES
    assert prepared == pytest.approx(3 * depth * height * width * 3, rel=0.3)


def test_a_disk_without_room_is_refused(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda folder: usage)
    values = yaml.safe_load(recipe(samples).read_text())
    with pytest.raises(RunError, match="choose a folder on another disk"):
        checking.check(values, "recipe", samples, tmp_path / "run")


def test_a_scan_that_cannot_be_read_is_refused(
    call: Call, samples: Path, tmp_path: Path
) -> None:
    scan = next(samples.glob("fish/imagesTr/*.gz"))
    scan.write_bytes(scan.read_bytes()[:200])
    out = tmp_path / "run"
    status, _, said = call("fit", recipe(samples), "--out", out, "--check")
    assert status != 0
    assert scan.name in said
    assert not out.exists()


def test_a_setting_that_is_not_allowed_is_refused(
    call: Call, samples: Path, tmp_path: Path
) -> None:
    path = recipe(samples, training={"epochs": 0})
    status, _, said = call("fit", path, "--out", tmp_path / "run", "--check")
    assert status == 2
    assert "training.epochs" in said


def test_a_folder_with_a_run_or_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match="holds files and no run"):
        check_folder(tmp_path)
    (tmp_path / "config.yaml").write_text("{version: 1, command: fit}")
    with pytest.raises(RunError, match="holds a run already, which is prepared"):
        check_folder(tmp_path)


def test_a_place_that_nobody_may_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> object:
        raise OSError(30, os.strerror(30))  # a read-only file system

    monkeypatch.setattr("napari_kdseg.atomic.os.open", refuse)
    with pytest.raises(RunError, match=r"cannot be written to \(Read-only"):
        check_folder(tmp_path / "runs" / "run")
    assert not list(tmp_path.iterdir())


# ---- what fit refuses, by the same checks ----

CACHED = {"teachers_at": "cached", "distillation": {"feature_weight": 0}}
PROXY = {"network": {"name": "resnet18-unet"}, "quality": {"source": "proxy"}}
ONE = {"student_channel": 0, "folds": 1}


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"method": "ms-kd", "teachers": {"brain": "resultz"}}, "resultz"),
        ({"method": "cross-teaching"}, "needs unlabelled cases"),
        (
            {"method": "kd-net", "patch_vox": [32] * 3, **ONE},
            "no more than the student",
        ),
        ({"method": "medaka", **PROXY}, "no unlabelled case"),
    ],
    ids=lambda value: value["method"] if isinstance(value, dict) else "",
)
def test_a_check_refuses_what_a_method_cannot_learn_from_and_so_does_fit_without_a_run(
    call: Call, samples: Path, tmp_path: Path, settings: dict[str, Any], refused: str
) -> None:
    settings = {"split": {"test": 0.25}} | settings
    for more in (["--check"], []):
        path, out = recipe(samples, **settings), tmp_path / "run"
        status, _, said = call("fit", path, "--out", out, *more)
        assert status != 0
        assert refused in said
        assert not out.exists()  # so that the command may be put right


@pytest.mark.parametrize(
    ("names", "says", "refused"),
    [
        ("", {}, "has no prediction of case"),
        ("fish_001 fish_002 fish_003 fish_004", {"1": "fin"}, "nothing about brain"),
    ],
)
def test_a_folder_of_predictions_that_cannot_teach_is_refused_before_a_run_is_made(
    call: Call,
    samples: Path,
    tmp_path: Path,
    names: str,
    says: dict[str, str],
    refused: str,
) -> None:
    told, out = tmp_path / "told", tmp_path / "run"
    told.mkdir()
    for name in names.split():
        label = samples / "fish" / "labelsTr" / f"{name}.nii.gz"
        values, grid = formats.read_labels(label)
        formats.write_labels(told / label.name, values > 0, grid, None)
    (told / "dataset.json").write_text(json.dumps({"labels": says}))
    settings = {"method": "ms-kd", "teachers": {"brain": str(told)}, **CACHED}
    for more in (["--check"], []):
        path = recipe(samples, **settings)
        status, _, said = call("fit", path, "--out", out, *more)
        assert status != 0
        assert refused in said
        assert not out.exists()


def test_a_check_foresees_the_memory_as_fit_does(
    call: Call, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("fit", recipe(samples), "--out", tmp_path / "run", "--check")
    status, out, said = call(*words)
    assert status == 0
    assert json.loads(out)["foreseen"]["fits"]
    assert "It can start: brain, eyes" in said
    assert "Foreseen: 2" in said.splitlines()[-1]  # hundred and some megabytes
    monkeypatch.setattr(estimate, "_free_bytes", lambda device: 1_000_000)
    status, _, said = call(*words)
    assert status == 1
    assert "stage training needs about 2" in said
    status, _, said = call(*words, "--force")
    assert status == 0
    assert "Foreseen" not in said
