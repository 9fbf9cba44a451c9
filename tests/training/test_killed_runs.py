"""Runs that are killed without a word, wherever they are, end with the same weights."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdseg_train.samples import write_partial_sample, write_sample
from napari_kdseg.runs.run import Run

KILLS = 2
LATEST_S = 0.05  # a kill comes up to this long after what it waits for
SHORT = {
    "epochs": 4,
    "iterations_per_epoch": 3,
    "batch": 2,
    "learning_rate": 0.003,
    "checkpoint_minutes": 0.002,  # a few times in a stage
}
SMALL = {"width": 4, "stages": 3}
UNET = {"name": "unet", "parameters": SMALL}
ORGANS = {
    "data": [{"path": "organs/liver"}, {"path": "organs/spleen"}],
    "test": [{"path": "organs/test"}],
    "split": {"validation": 0.25},
    "network": UNET,
    "patch_vox": [32, 32],
    "training": SHORT,
}
TINY = {**SMALL, "blocks": [1, 1, 1]}
REGIONS = ("necrotic core", "oedema", "enhancing tumour")

RECIPES: dict[str, dict[str, Any]] = {
    "supervised": ORGANS,
    "ms-kd": ORGANS,
    "cross-teaching": {
        "data": [{"path": "abdomen", "cases": "0:2"}],
        "unlabelled": [{"path": "abdomen", "cases": "2:4"}],
        "test": [{"path": "abdomen", "cases": "4:5"}],
        "network": {"name": "se_resunet", "parameters": {**TINY, "separable": True}},
        "teachers": [
            {"name": "se_resunet", "parameters": {**TINY, "upsampling": how}}
            for how in ("transposed", "resize")
        ],
        "preprocessing": {
            "resize_vox": [16, 24, 24],
            "intensity": [{"kind": "window_zscore", "low": -300, "high": 300}],
            "pad_value": -1,
        },
        "patch_vox": [16, 16, 24],
        "training": {**SHORT, "batch": 1, "momentum": 0.9},
        "baseline": True,
    },
    "kd-net": {
        "data": [{"path": "brain"}],
        "folds": 2,
        "network": {"name": "unet", "parameters": {**SMALL, "skips": 1}},
        "patch_vox": [16, 16, 16],
        "training": {**SHORT, "epochs": 2},
        "regions": {"WT": REGIONS, "TC": REGIONS[::2], "ET": REGIONS[2:]},
    },
    "medaka": {
        "data": [{"path": "fish", "cases": "0:3"}],
        "unlabelled": [{"path": "fish", "cases": "3:6"}],
        "test": [{"path": "fish", "cases": "6:7"}],
        "network": UNET,
        "patch_vox": [24, 32],
        "teacher_training": {**SHORT, "epochs": 10, "batch": 4, "foreground": 0.7},
        "training": SHORT,
        "quality": {
            "source": "proxy",
            "size_vox": 32,
            "width": 4,
            "bad_below": 0.02,
            "slices": 120,
            "training": {**SHORT, "batch": 8},
        },
    },
}
FOLDS = {f"folds/{n}/{name}" for n in (1, 2) for name in ("teacher", "baseline")}
MODELS = {
    "supervised": {"model"},
    "ms-kd": {"model", "teachers/liver", "teachers/spleen"},
    "cross-teaching": {"model", "teachers/t1", "teachers/t2", "baseline"},
    "kd-net": {"model", *FOLDS, "folds/1/student", "folds/2/student"},
    "medaka": {"model", "teacher", "quality", *(f"folds/fold-{n}" for n in (1, 2, 3))},
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made scans for every method, few and in few voxels."""
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder)
    return folder


def write_samples(folder: Path) -> None:
    write_partial_sample("abdomen", folder / "organs", cases=9, size=32, seed=3)
    write_sample("abdomen", folder / "abdomen", cases=5, size=32, seed=3)
    write_sample("brain", folder / "brain", cases=6, size=32, seed=1)
    write_sample("fish", folder / "fish", cases=7, size=32, seed=3)


def words(recipe: Path, samples: Path, folder: Path) -> list[str]:
    """What begins a run, and goes on with one that was cut off."""
    given = [recipe, "--out", folder, "--data", samples]
    return ["fit", *map(str, given), "--resume"]


Moment = tuple[Any, ...]


class Processes:
    """Begins, and begins again, the command that trains what a recipe says."""

    def __init__(self, recipe: Path, samples: Path) -> None:
        self.recipe, self.samples = recipe, samples

    def begun(self, folder: Path) -> subprocess.Popen[bytes]:
        given = words(self.recipe, self.samples, folder)
        return subprocess.Popen(
            [sys.executable, "-m", "kdseg_train", *given],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def killed(self, folder: Path, awaited: Moment, delay: float) -> str:
        """Execute to a moment and a bit on, then kill; the state of the run."""
        process = self.begun(folder)
        while process.poll() is None and awaited not in moments(folder):
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.wait()
        return Run.open(folder).state()


def moments(folder: Path) -> list[Moment]:
    """What a run has told and tells each time, in this order, before it ends."""
    if not (folder / "config.yaml").exists():
        return []
    events, _ = Run.open(folder).events()
    trained = {event["stage"] for event in events if "epoch" in event}
    names = ("event", "stage", "step", "model", "organ")
    return [
        tuple(event.get(name) for name in names)
        for event in events
        if (event["event"] == "metric" and event["stage"] != "test")
        # how often a training tells its progress is a matter of time
        or (event["event"] == "progress" and event["stage"] not in trained)
    ]


def results(folder: Path) -> dict[str, bytes]:
    """Weights of every model and all tables of a run, by their place in it."""
    found = {
        name: path.read_bytes()
        for path in [*folder.rglob("weights.safetensors"), *folder.rglob("*.csv")]
        if not (name := path.relative_to(folder).as_posix()).startswith(
            ("checkpoints", "partial")
        )
        and ".partial-" not in name
    }
    assert "metrics.csv" in found
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", RECIPES)
def test_a_run_killed_at_random_ends_as_one_that_was_not(
    samples: Path, tmp_path: Path, method: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    values = {"method": method, "name": "made", "device": "cpu", **RECIPES[method]}
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
    processes = Processes(recipe, samples)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert processes.begun(whole).wait() == 0
    assert set(results(whole)) >= {f"{n}/weights.safetensors" for n in MODELS[method]}

    rng = random.Random(method)
    states = []
    for kill in range(KILLS):
        ahead = [one for one in moments(whole)[:-1] if one not in moments(cut)]
        if ahead:
            awaited = rng.choice(ahead[: max(1, len(ahead) // (KILLS - kill))])
            states.append(processes.killed(cut, awaited, rng.uniform(0, LATEST_S)))
    assert "interrupted" in states
    assert processes.begun(cut).wait() == 0
    assert results(cut) == results(whole)
