"""What presets cost with one's own model, measured by the command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdseg_train import preset_costs
from kdseg_train.preset_costs import measure_presets
from kdseg_train.samples import write_sample
from napari_kdseg import shipped
from napari_kdseg.errors import UsageError
from napari_kdseg.inference.presets import cost_in_words
from napari_kdseg.models.model import Model, Tiling

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "made"
    write_sample("abdomen", folder, cases=2, size=32)
    return folder


def test_costs_are_those_of_what_each_preset_finds(
    data: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # exact finds the liver whole, fast the lower half of its planes, draft none of it.
    model = model_folder(classes=("liver",))
    truths: list[np.ndarray] = []

    def find(volume: Any, models: Any, channels: Any, settings: Any) -> Any:
        del models, channels
        truth = truths[0]
        assert truth.shape == volume.grid.shape
        labels = truth.copy()
        if settings.overlap == 0.2:
            planes = np.flatnonzero(truth.any(axis=(1, 2)))
            labels[planes[len(planes) // 2] :] = 0
        if settings.overlap == 0.0:
            labels[:] = 0
        return [labels]

    read = preset_costs.read_case

    def read_case(case: Any) -> Any:
        volume = read(case)
        liver = preset_costs.read_case_labels(case, ("liver",), volume)
        truths[:] = [liver.astype(np.uint8)]
        return volume

    monkeypatch.setattr(preset_costs, "predicted", find)
    monkeypatch.setattr(preset_costs, "read_case", read_case)
    exact, fast, draft = measure_presets(model, data, most=1)
    truth = truths[0]
    planes = np.flatnonzero(truth.any(axis=(1, 2)))
    kept = truth[: planes[len(planes) // 2]].sum()
    assert (exact.dice, exact.lost) == (1.0, 0.0)
    assert fast.dice == pytest.approx(2 * kept / (truth.sum() + kept))
    assert (draft.dice, draft.lost) == (0.0, 1.0)
    kept_costs = json.loads((model.folder / "measurements.json").read_text())["presets"]
    assert kept_costs["draft"]["dice_lost"] == 1.0
    assert kept_costs["fast"]["dice_lost"] == pytest.approx(fast.lost, abs=1e-5)


def test_the_command_tells_what_it_measured_and_predict_tells_it_later(
    data: Path, model_folder: Any, call: Call
) -> None:
    model: Model = model_folder(classes=("liver", "spleen"))
    words = ("--model", model.folder, "--data", data, "--cases", 1, "--device", "cpu")
    fingerprint = model.fingerprint
    status, out, said = call("presets", *words)
    assert status == 0, said
    assert all(name in out for name in ("exact", "fast", "draft", "measurements.json"))
    assert "not measured" not in cost_in_words(model, "fast")
    assert Model.open(model.folder).fingerprint == fingerprint


def test_scans_that_fit_into_a_window_say_nothing_of_presets(
    data: Path, model_folder: Any
) -> None:
    tiling = Tiling(tile_vox=(64, 64))
    model = model_folder(classes=("liver",), tiling=tiling)
    with pytest.raises(UsageError, match="fits into one window of organs"):
        measure_presets(model, data)


def test_the_costs_of_a_model_that_comes_along_stay_as_they_are(
    data: Path, model_folder: Any, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_folder(classes=("liver", "spleen"))
    monkeypatch.setattr(shipped, "sample_folder", lambda: model.folder.parent)
    before = (model.folder / "measurements.json").read_bytes()
    words = ("--model", model.folder, "--data", data, "--cases", 1, "--device", "cpu")
    status, out, said = call("presets", *words)
    assert status == 0, said
    assert "Not kept: organs comes along" in out
    assert (model.folder / "measurements.json").read_bytes() == before


def test_a_data_set_without_labels_of_the_model_is_refused(
    data: Path, model_folder: Any
) -> None:
    with pytest.raises(UsageError, match="no scan with labels of heart"):
        measure_presets(model_folder(classes=("heart",)), data)
