"""Finding the model that made some predictions."""

from pathlib import Path

import pytest
import yaml

from napari_kdseg.models.model import Model
from napari_kdseg.review.known_models import model_folders, model_with
from napari_kdseg.shipped import shipped_models


def copied(model: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def fish() -> Path:
    return next(path for name, path in shipped_models().items() if "fish" in name)


def test_models_of_a_project_come_before_those_that_come_along(
    tmp_path: Path, fish: Path
) -> None:
    wanted = [
        copied(fish, tmp_path / place)
        for place in ("models/mine", "runs/one/model", "runs/two/run/model")
    ]
    found = model_folders(tmp_path)
    assert list(found[:3]) == wanted
    assert set(found[3:]) == set(shipped_models().values())


@pytest.mark.parametrize("place", ["predictions/.run", ".run", "predictions/.run-1"])
def test_models_that_predictions_were_made_with_are_known(
    tmp_path: Path, fish: Path, place: str
) -> None:
    model = copied(fish, tmp_path / "elsewhere")
    run = tmp_path / "out" / place
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"models": [str(model), "gone"]}))
    assert model_folders(tmp_path / "out")[0] == model


@pytest.mark.parametrize("text", ["", "models: 3", ": :", "- a"])
def test_a_damaged_run_is_no_reason_to_stop(tmp_path: Path, text: str) -> None:
    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "config.yaml").write_text(text)
    assert set(model_folders(tmp_path)) == set(shipped_models().values())


def test_a_model_is_known_by_its_fingerprint(tmp_path: Path, fish: Path) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "model.yaml").write_text("- no card")
    folders = [tmp_path / "damaged", *shipped_models().values()]
    found = model_with(Model.open(fish).fingerprint, folders)
    assert found is not None
    assert found.folder == fish
    assert model_with("f" * 64, folders) is None
