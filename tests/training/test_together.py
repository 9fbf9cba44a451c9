"""Trainings in two real processes: one result, whatever happens to one of them."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_killed_runs import MODELS, RECIPES, moments, results, write_samples

from napari_kdseg.runs.run import Run

# Every one of these tests waits for two processes to import torch, twice or more.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there"),
]

STAGES = {"supervised": 1, "ms-kd": 3, "cross-teaching": 2, "kd-net": 6, "medaka": 6}
PATIENCE_S = 600
SHARED = {"cross-teaching": ["--set", "training.batch=2"]}
"""Its recipe has a batch of 1, which two cannot share."""
MISCHIEF = """
import sys
from kdseg_train import cli, patches, ranks
from napari_kdseg.errors import VolumeError

kind, seen = sys.argv.pop(1), []
drawn = patches.Patches.batch

def batch(self, step):
    found = drawn(self, step)
    if ranks.here().number == 1 and step in (4, 5, 6) and step not in seen:
        seen.append(step)
        if kind == "raise":
            raise VolumeError("a scan has gone")
        found.image.fill_(float("inf"))
    return found

patches.Patches.batch = batch
cli.main()
"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder)
    return folder


class Pair:
    """Trains what a recipe says in two processes on the processor."""

    def __init__(self, samples: Path, folder: Path, method: str) -> None:
        self.samples, self.folder, self.method = samples, folder, method
        self.recipe = folder / "recipe.yaml"
        values = {"method": method, "name": "made", "device": "cpu", **RECIPES[method]}
        self.recipe.write_text(yaml.safe_dump(json.loads(json.dumps(values))))

    def words(self, name: str) -> list[str]:
        given = [self.recipe, "--out", self.folder / name, "--data", self.samples]
        more = SHARED.get(self.method, [])
        return ["fit", *map(str, given), "--resume", *more]

    def begun(
        self, name: str, program: Sequence[str] = ("-m", "kdseg_train")
    ) -> subprocess.Popen[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        return subprocess.Popen(
            [sys.executable, *launcher, *program, *self.words(name)],
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, name: str, program: Sequence[str] = ("-m", "kdseg_train")) -> int:
        process = self.begun(name, program)
        _, said = process.communicate(timeout=PATIENCE_S)
        sys.stderr.write(said)  # shown by pytest where the test fails
        return process.returncode

    def alone(self, name: str) -> int:
        command = [sys.executable, "-m", "kdseg_train", *self.words(name)]
        return subprocess.run(command, timeout=PATIENCE_S, check=False).returncode

    def events(self, name: str, kind: str) -> list[dict[str, Any]]:
        events, _ = Run.open(self.folder / name).events()
        return [event for event in events if event["event"] == kind]


def workers(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that torchrun started, in order."""
    found = {
        process.environ().get("RANK"): process
        for process in psutil.Process(launcher.pid).children()
    }
    return [found["0"], found["1"]]


def wait_for(moment: Any, folder: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and moment not in moments(folder):
        time.sleep(0.01)


@pytest.mark.parametrize("method", RECIPES)
def test_two_processes_hold_the_same_and_end_so_after_one_of_them_is_killed(
    samples: Path, tmp_path: Path, method: str
) -> None:
    pair = Pair(samples, tmp_path, method)
    assert pair.ended("whole") == 0
    whole = tmp_path / "whole"
    assert set(results(whole)) >= {f"{n}/weights.safetensors" for n in MODELS[method]}
    alike = pair.events("whole", "alike")
    assert len(alike) == 2 * STAGES[method]  # where each begins, and where it ends
    for one in alike:
        first, second = one["sha256"]
        assert first == second

    rng = random.Random(method)
    process = pair.begun("cut")
    wait_for(rng.choice(moments(whole)[:-1]), tmp_path / "cut", process)
    workers(process)[rng.randrange(2)].kill()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    # Between stages torchrun asks process 0 to make way; within one it loses the other.
    assert Run.open(tmp_path / "cut").state() in ("failed", "interrupted", "stopped")
    assert pair.ended("cut") == 0
    assert results(tmp_path / "cut") == results(whole)


def test_two_processes_train_like_one_up_to_rounding(
    samples: Path, tmp_path: Path
) -> None:
    pair = Pair(samples, tmp_path, "supervised")
    assert pair.ended("two") == 0
    assert pair.alone("one") == 0
    curves = [
        [one["loss"] for one in pair.events(name, "metric") if "loss" in one]
        for name in ("one", "two")
    ]
    assert len(curves[0]) == 4
    # Only the order of sums differs: 1e-7 here, and more with more steps.
    assert torch.allclose(*map(torch.tensor, curves), rtol=1e-5)
    weights = [
        load_file(tmp_path / name / "model" / "weights.safetensors")
        for name in ("one", "two")
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-5)


def test_a_signal_to_any_process_saves_and_asks_to_be_started_again(
    samples: Path, tmp_path: Path
) -> None:
    pair = Pair(samples, tmp_path, "supervised")
    assert pair.ended("whole") == 0
    process = pair.begun("cut")
    second = [one for one in moments(tmp_path / "whole") if one[0] == "metric"][1]
    wait_for(second, tmp_path / "cut", process)
    workers(process)[1].send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert "exitcode  : 75" in said
    run = Run.open(tmp_path / "cut")
    assert run.state() == "stopped"
    assert pair.events("cut", "stopped")[-1]["requeue"] is True
    assert not (run.folder / "requeue").exists()
    assert pair.ended("cut") == 0
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_an_error_in_one_process_ends_both_and_is_told(
    samples: Path, tmp_path: Path
) -> None:
    pair = Pair(samples, tmp_path, "supervised")
    script = tmp_path / "mischief.py"
    script.write_text(MISCHIEF)
    assert pair.ended("run", [str(script), "raise"]) != 0
    (warning,) = pair.events("run", "warning")
    assert warning["message"] == "process 1 ended: a scan has gone"
    assert Run.open(tmp_path / "run").state() in ("failed", "interrupted")


def test_a_loss_that_is_infinite_in_one_process_rolls_both_back(
    samples: Path, tmp_path: Path
) -> None:
    pair = Pair(samples, tmp_path, "supervised")
    script = tmp_path / "mischief.py"
    script.write_text(MISCHIEF)
    assert pair.ended("run", [str(script), "infinite"]) == 0
    (warning,) = pair.events("run", "warning")
    assert "went back to step 3" in warning["message"]
    last = pair.events("run", "alike")[-1]
    assert last["step"] == 12
    assert len({*last["sha256"]}) == 1
