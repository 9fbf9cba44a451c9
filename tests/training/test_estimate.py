"""Memory and time of a training, foreseen; and what does not fit, refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdseg_train import estimate
from kdseg_train.config import Frozen, Recipe, Training, load_recipe, recipe_folder
from kdseg_train.estimate import Estimate, Net, Planned, StageEstimate, foresee
from kdseg_train.methods import METHODS
from kdseg_train.ranks import Ranks
from kdseg_train.samples import write_sample
from napari_kdseg.errors import RunError
from napari_kdseg.models.networks import build

FROZEN = Frozen(
    root=Path(),
    channels=("one", "two"),
    classes=("liver", "spleen", "kidney"),
    training=(),
    validation=(),
    test=(),
    unlabelled=(),
    fingerprint="",
)
RECIPES = sorted(recipe_folder().rglob("*.yaml"))
Call = Callable[..., tuple[int, str, str]]


def recipe_of(**training: Any) -> Recipe:
    return Recipe(
        method="supervised",
        data=({"path": "none"},),
        network={"name": "unet", "parameters": {"width": 4, "stages": 3}},
        patch_vox=(16, 32),
        training=Training(epochs=2, iterations_per_epoch=5, **training),
        frozen=FROZEN,
        device="cpu",
    )


def foreseen(recipe: Recipe, **more: Any) -> StageEstimate:
    plan = Planned("training", recipe.training, (Net.of(recipe),), **more)
    (found,) = foresee([plan], recipe).stages
    return found


def test_memory_is_that_of_the_weights_and_of_each_sample() -> None:
    two, four = foreseen(recipe_of(batch=2)), foreseen(recipe_of(batch=4))
    # Every sample takes as much, but for some bytes that are kept once; what is left is
    # weights and a constant.
    assert four.memory_bytes - two.memory_bytes == pytest.approx(
        2 * two.bytes_per_sample, rel=0.01
    )
    network = build(recipe_of().network_spec, 2, 4)
    weights = 4 * sum(value.numel() for value in network.parameters())
    # Weights, gradients, three moments of AMSGrad; and the moment to roll back to:
    # weights and moments once more.
    fixed = two.memory_bytes - 2 * two.bytes_per_sample
    assert fixed == pytest.approx(200_000_000 + 9 * weights, abs=8)


def test_time_is_that_of_a_batch_and_not_of_its_samples_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = []

    def watched(*words: Any) -> torch.nn.Module:
        network = build(*words)
        network.register_forward_pre_hook(
            lambda _, given: samples.append(len(given[0]))
        )
        return network

    monkeypatch.setattr(estimate, "build", watched)
    foreseen(recipe_of(batch=3))
    assert set(samples) == {3}


def test_activations_are_counted_once_each_and_weights_are_none() -> None:
    # One convolution from 2 channels to 4 keeps its input; the norm its input, and the
    # activation its input or output: at least 2 + 4 + 4 values a voxel.
    recipe = recipe_of(batch=1)
    lone = recipe.model_copy(
        update={
            "network": recipe.network.model_copy(
                update={"parameters": {"width": 4, "stages": 2, "convolutions": 1}}
            )
        }
    )
    deep = recipe.model_copy(
        update={
            "network": recipe.network.model_copy(
                update={"parameters": {"width": 4, "stages": 2, "convolutions": 4}}
            )
        }
    )
    few, many = foreseen(lone).bytes_per_sample, foreseen(deep).bytes_per_sample
    assert few > 4 * (2 + 4 + 4) * 16 * 32
    # Three convolutions more at full resolution on either side of the network.
    assert many - few > 4 * (2 * 3 * 2 * 4) * 16 * 32


def test_the_time_is_that_of_all_steps_of_all_such_stages() -> None:
    once, thrice = foreseen(recipe_of()), foreseen(recipe_of(), times=3)
    assert (once.steps, thrice.steps) == (10, 30)
    assert once.seconds > 0


@pytest.mark.parametrize(
    ("patch_vox", "trial"),
    [
        ((16, 32), (16, 32)),  # no more than the recipe's
        ((512, 512), (180, 180)),  # 180 * 184 would be more than 2^15
        ((64, 64, 64), (32, 32, 32)),
    ],
)
def test_a_trial_takes_a_patch_of_a_few_voxels_that_the_network_takes(
    patch_vox: tuple[int, ...], trial: tuple[int, ...]
) -> None:
    probes = estimate._Probes(torch.device("cpu"), patch_vox, half=False)
    spec = recipe_of().network.model_copy(
        update={"parameters": {"stages": 3, "dimensions": len(patch_vox)}}
    )
    assert probes._patch(spec) == trial


def test_processes_share_the_batch_and_so_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = foreseen(recipe_of(batch=4))
    monkeypatch.setattr(estimate, "here", lambda: Ranks(1, 2, neighbours=2))
    shared = foreseen(recipe_of(batch=4))
    assert shared.batch == 2
    assert shared.memory_bytes < alone.memory_bytes


def stage(memory: int, batch: int = 4, each: int = 100) -> StageEstimate:
    return StageEstimate("student", 10, memory, 1.0, "training", batch, each)


def test_what_does_not_fit_is_refused_with_a_batch_that_does() -> None:
    found = Estimate((stage(1000),), "cpu", free_bytes=850)
    # 150 bytes too many are two samples of 100: of 4, two are left.
    with pytest.raises(RunError, match=r"stage student .* set training.batch to 2, or"):
        found.check_fits()
    Estimate((stage(800, batch=2),), "cpu", free_bytes=850).check_fits()


def test_where_no_batch_fits_the_patch_is_to_be_smaller() -> None:
    with pytest.raises(RunError, match="take a smaller patch_vox or a narrower"):
        Estimate((stage(1000),), "cpu", free_bytes=550).check_fits()


def test_the_batch_that_is_proposed_is_that_of_all_processes() -> None:
    found = Estimate((stage(1000),), "cpu", free_bytes=850, processes=3)
    with pytest.raises(RunError, match=r"set training.batch to 6"):
        found.check_fits()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_recipe_that_comes_along_knows_its_stages(path: Path) -> None:
    values = load_recipe(path)
    module = METHODS[values["method"]]
    config = module.Config.model_validate(values | {"frozen": FROZEN})
    plans = module.planned(config)
    assert sum(plan.settings.steps * plan.times for plan in plans) > 0
    for plan in plans:
        assert getattr(config, plan.setting).batch == plan.settings.batch


def test_processes_on_one_machine_share_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(estimate, "free_bytes", lambda: 2_000_000)
    plan = Planned("training", recipe_of().training, ())
    assert foresee([plan], recipe_of()).free_bytes == 2_000_000
    monkeypatch.setattr(estimate, "here", lambda: Ranks(1, 2, neighbours=2))
    assert foresee([plan], recipe_of(batch=2)).free_bytes == 1_000_000


# ---- commands ----


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    write_sample("abdomen", tmp_path / "abdomen", cases=3, size=32, seed=3)
    values = {
        "method": "supervised",
        "device": "cpu",
        "data": [{"path": "abdomen"}],
        "network": {"name": "unet", "parameters": {"width": 4, "stages": 3}},
        "patch_vox": [16, 16],
        "training": {"epochs": 1, "iterations_per_epoch": 2, "batch": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return [str(tmp_path / "recipe.yaml")]


def test_estimate_says_what_a_training_takes_and_makes_no_run(
    call: Call, words: list[str], tmp_path: Path
) -> None:
    status, said, _ = call("estimate", *words)
    assert status == 0
    assert said.startswith("Foreseen: 2")  # hundred and some megabytes
    assert said.endswith("for 2 steps.\n")
    status, said, _ = call("estimate", *words, "--json")
    found = json.loads(said)
    assert found["fits"] is True
    assert [one["stage"] for one in found["stages"]] == ["training"]
    assert {path.name for path in tmp_path.iterdir()} == {"abdomen", "recipe.yaml"}


def test_fit_refuses_what_does_not_fit_before_there_is_a_run_unless_forced(
    call: Call, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_free_bytes", lambda device: 1_000_000)
    run = tmp_path / "run"
    status, _, said = call("fit", *words, "--out", run)
    assert status == 1
    assert "stage training needs about 2" in said
    assert "are free on cpu; take a smaller patch_vox" in said
    assert not run.exists()
    status, _, _ = call("fit", *words, "--out", run, "--force")
    assert status == 0
    assert (run / "model").exists()
