"""What a prediction will take is said before it begins, and what cannot fit refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdseg_train import foreseen, predict
from kdseg_train.config import parse
from kdseg_train.execute import execute
from kdseg_train.plan import PredictConfig, plan
from napari_kdseg.errors import UsageError
from napari_kdseg.inference.estimate import estimate
from napari_kdseg.models.model import save_composite
from napari_kdseg.runs.run import Run

Prepare = Callable[..., Run]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def prepare(tmp_path: Path, model_folder: Any, write_scan: Any) -> Prepare:
    """A prepared prediction of one scan by one model, unless told otherwise."""

    def make(**changes: Any) -> Run:
        config: dict[str, Any] = {
            "version": 1,
            "command": "predict",
            "out": tmp_path / "out",
            "device": "cpu",
            "inputs": changes.pop("inputs", None) or [write_scan()],
            "models": changes.pop("models", None) or [model_folder().folder],
        }
        config |= changes
        return Run.create(Path(config["out"]) / ".run", config)

    return make


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events()[0] if event["event"] == kind]


def refused(run: Run, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        execute(run)


def test_a_scan_that_memory_does_not_suffice_for_is_refused(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdseg_train.foreseen.free_bytes", lambda: 50_000_000)
    # 150 MB for what torch sets up, and little else for a scan as small as this.
    refused(prepare(), r"about 15\d MB of memory and 50 MB are free")


def test_a_composite_is_refused_too_where_memory_does_not_suffice(
    prepare: Prepare,
    model_folder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = model_folder("coarse"), model_folder("fine")
    both = save_composite(tmp_path / "both", *pair)
    monkeypatch.setattr("kdseg_train.foreseen.free_bytes", lambda: 50_000_000)
    refused(prepare(models=[both.folder]), r"of memory and 50 MB are free")


def on_a_card(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Pretend that there is a card; nothing is computed on it."""
    monkeypatch.setattr("kdseg_train.foreseen.pick_device", lambda asked: "cuda:0")
    monkeypatch.setattr("kdseg_train.foreseen.free_on_card", lambda device: free)


def test_a_card_without_room_for_the_smallest_window_is_refused(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(monkeypatch, 1000)
    words = r"of cuda:0 even with the smallest windows, and 1 kB are free.*--device cpu"
    refused(prepare(device="cuda:0"), words)


def test_a_card_with_room_for_smaller_windows_alone_is_warned_of(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(device="cuda:0")
    config = parse(PredictConfig, run.config, "config")
    planned = plan(config, resume=True)
    found = estimate(planned.scans[0], planned.models, config.settings)
    assert found.least_bytes < found.window_bytes
    on_a_card(monkeypatch, found.window_bytes - 1)
    foreseen.refuse_lack_of_memory(run, planned, planned.scans[0])
    (warning,) = events(run, "warning")
    assert "smaller --tile, or --device cpu" in warning["message"]
    on_a_card(monkeypatch, found.window_bytes)
    foreseen.refuse_lack_of_memory(run, planned, planned.scans[0])
    assert len(events(run, "warning")) == 1


def measurements(own_cache: Path) -> list[Path]:
    return list(own_cache.rglob("speeds/*.json"))


def test_a_prediction_of_all_windows_is_measured(
    prepare: Prepare, own_cache: Path
) -> None:
    execute(prepare(threads=1))
    (file,) = measurements(own_cache)
    assert list(json.loads(file.read_text())) == ["cpu, torch, float32, threads 1"]


def test_the_slice_that_is_shown_first_is_not_measured(
    prepare: Prepare, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(predict, "record_seconds", lambda *each: told.append(each))
    execute(prepare(preview=(0, 1)))
    assert len(told) == 1


def test_a_run_says_what_it_will_take_before_it_begins(
    prepare: Prepare, write_scan: Any
) -> None:
    run = prepare(inputs=[write_scan("a.nii.gz"), write_scan("b.nii.gz")])
    execute(run)
    (said,) = events(run, "estimate")
    assert said["message"].startswith("2 cases: About 15")
    assert "MB of memory (" in said["message"]
    assert said["message"].endswith("time not known before a first run on cpu.")
    assert said["host_bytes"] > 100_000_000
    assert said["seconds"] is None
    kinds = [event["event"] for event in run.events()[0]]
    assert kinds.index("estimate") < kinds.index("progress")
