"""Networks that stages make: what they are drawn from, and the cards they get."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdseg_train.config import Recipe, Training, parse
from kdseg_train.data import Cases
from kdseg_train.loop import Stage
from kdseg_train.patches import Batch
from kdseg_train.targets import (
    Networks,
    Target,
    model_card,
    new_network,
    trained_together,
)
from napari_kdseg.models.model import Model, save_model
from napari_kdseg.models.parameters import NetworkSpec
from napari_kdseg.runs.run import Run

CASES = Cases(("t1", "t2"), ("liver", "spleen"), (), (), (), ())
STUDENT = Target(CASES.classes, Path("model"), "student", "student")


def recipe(**values: Any) -> Recipe:
    given = {
        "method": "supervised",
        "name": "made",
        "data": [{"path": "x"}],
        "network": {"name": "unet", "parameters": {"width": 4, "stages": 3}},
        "patch_vox": [16, 16],
        "device": "cpu",
        **values,
    }
    return parse(Recipe, given, "recipe")


def numbers(network: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in network.parameters()])


def test_targets_of_one_stage_begin_alike_and_others_do_not() -> None:
    baseline = replace(STUDENT, folder=Path("baseline"), suffix="baseline")
    other = replace(STUDENT, stage="teacher")
    own, same, unlike = (
        numbers(new_network(recipe(), CASES, target))
        for target in (STUDENT, baseline, other)
    )
    assert torch.equal(own, same)
    assert not torch.equal(own, unlike)


def test_a_model_is_named_after_the_recipe_and_what_it_is() -> None:
    teacher = replace(STUDENT, role="teacher", suffix="t1")
    assert model_card(recipe(), CASES, STUDENT).name == "made"
    assert model_card(recipe(), CASES, teacher).name == "made-t1"
    assert model_card(recipe(name=""), CASES, teacher).name == "supervised-t1"


def test_a_model_of_one_channel_knows_its_rule_alone() -> None:
    rules = [{"kind": "zscore"}, {"kind": "none"}]
    config = recipe(preprocessing={"intensity": rules})
    target = replace(STUDENT, channels=(1,))
    card = model_card(config, CASES, target)
    assert card.channels == ("t2",)
    assert [rule.kind for rule in card.preprocessing.intensity] == ["none"]
    assert new_network(config, CASES, target).in_channels == 1
    # and where one rule is for all, that one
    shared = model_card(recipe(), CASES, target).preprocessing
    assert shared == recipe().preprocessing


class Nothing:
    """Batches that no objective looks at."""

    def batch(self, step: int) -> Batch:
        labels = torch.zeros(1, 1, 1, dtype=torch.int64)
        return Batch(torch.zeros(1, 1, 1, 1), labels, torch.ones(1, 2) > 0)


def test_networks_of_one_stage_survive_a_kill_between_their_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = (
        recipe(),
        Run.create(tmp_path / "run", {"version": 1, "command": "fit"}),
    )
    wider = NetworkSpec(name="unet", parameters={"width": 6, "stages": 3})
    teacher = replace(
        STUDENT,
        folder=tmp_path / "teacher",
        role="teacher",
        stage="t",
        suffix="t",
        network=wider,
    )
    both = [teacher, replace(STUDENT, folder=tmp_path / "student")]

    def stage(networks: Networks, _: torch.device) -> Stage:
        together = nn.ModuleDict(dict(networks))

        def objective(batch: Batch) -> dict[str, Tensor]:
            return {"size": numbers(together).square().sum()}

        settings = Training(epochs=1, iterations_per_epoch=2)
        return Stage("both", together, objective, Nothing(), settings)

    def killed(folder: Path, *rest: Any) -> Model:
        if folder == tmp_path / "student":
            raise KeyboardInterrupt
        return save_model(folder, *rest)

    with monkeypatch.context() as patched:
        patched.setattr("kdseg_train.keep.save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            trained_together(run, config, CASES, both, stage)
    first = (tmp_path / "teacher" / "model.yaml").stat().st_mtime_ns
    models = trained_together(run, config, CASES, both, stage)
    assert (tmp_path / "teacher" / "model.yaml").stat().st_mtime_ns == first
    assert models[1].card.provenance.teachers == (models[0].fingerprint,)
    assert [model.card.role for model in models] == ["teacher", "student"]
    # there is nothing more to train
    again = trained_together(run, config, CASES, both, stage)
    assert [model.fingerprint for model in again] == [m.fingerprint for m in models]
