"""Options that several commands have."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kdseg_train.options import within_cores
from kdseg_train.samples import write_sample
from napari_kdseg import cores
from napari_kdseg.inference.forward import using_threads
from napari_kdseg.runs.run import Run


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 1)


def test_more_threads_than_cores_are_as_many_as_cores_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert within_cores(100_000) == 1
    assert "100000 threads were asked for; " in capsys.readouterr().err
    assert within_cores(1) == 1
    assert within_cores(None) is None
    assert not capsys.readouterr().err


def test_torch_gets_no_more_threads_than_cores_whatever_a_run_says() -> None:
    with using_threads(2):
        assert torch.get_num_threads() == 1


def test_a_prediction_is_made_with_the_cores_that_there_are(
    call: Any, write_scan: Any, model_folder: Any, tmp_path: Path
) -> None:
    words = ("--model", model_folder().folder, "--out", tmp_path, "--threads", 2)
    status, _, told = call("predict", write_scan(), *words)
    assert status == 0
    assert "2 threads were asked for; " in told
    assert Run.open(tmp_path / ".run").config["threads"] == 1


def test_a_training_says_that_it_takes_fewer_threads_than_asked_for(
    call: Any, tmp_path: Path
) -> None:
    write_sample("fish", tmp_path / "fish", cases=3, size=32, seed=3)
    words = ["fit", "supervised/small", "--data", tmp_path, "--out", tmp_path / "run"]
    short = ("epochs=1", "iterations_per_epoch=1", "batch=1")
    for changed in ("threads=2", *(f"training.{one}" for one in short)):
        words += ["--set", changed]
    status, _, told = call(*words)
    assert status == 0
    assert "2 threads were asked for; " in told
