"""Every recipe that comes along is one that can be run, and a slip in one is named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdseg_train.config import (
    Training,
    apply_override,
    find_recipe,
    load_recipe,
    parse,
)
from kdseg_train.methods import METHODS, describe, prepare
from kdseg_train.methods.ms_kd import Config
from napari_kdseg.errors import RecipeError
from napari_kdseg.models.parameters import parameters_of
from napari_kdseg.shipped import recipe_folder

RECIPES = sorted(recipe_folder().rglob("*.yaml"))
ANY: dict[str, Any] = {"method": "ms-kd", "data": [{"path": "x"}]}


@pytest.mark.parametrize(
    "path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_a_recipe_that_comes_along_is_understood(path: Path) -> None:
    values = load_recipe(path)
    parse(METHODS[values["method"]].Config, values, str(path))


def test_the_paper_s_recipe_has_the_paper_s_numbers() -> None:
    values = load_recipe(find_recipe(Path("ms-kd/paper")))
    config = parse(Config, values, "paper")
    assert config.patch_vox == (512, 512)
    training = config.training
    assert (training.batch, training.iterations_per_epoch, training.epochs) == (
        4,
        250,
        1000,
    )
    assert (training.learning_rate, training.foreground) == (3e-4, 0.33)
    rule = config.preprocessing.intensity[0]
    assert (rule.kind, rule.low, rule.high) == ("window", -325, 325)
    told = config.distillation
    assert (told.background_weight, told.feature_weight) == (1, 10)
    assert told.feature_levels == (1,)


def test_what_a_recipe_leaves_out_has_the_paper_s_value() -> None:
    config = parse(Config, ANY, "short")
    written = parse(Config, load_recipe(find_recipe(Path("ms-kd/paper"))), "paper")
    assert config.training == written.training
    assert config.distillation == written.distillation
    assert parameters_of(config.network_spec) == parameters_of(written.network_spec)
    assert config.preprocessing == written.preprocessing


def test_an_unknown_key_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(
        RecipeError, match=r"r\.yaml: unknown key 'distilation'.*mean 'distillation'"
    ):
        parse(Config, {**ANY, "distilation": {}}, "r.yaml")


def test_an_unknown_key_inside_a_group_is_named_with_its_group() -> None:
    with pytest.raises(RecipeError, match=r"'training\.epoch'.*mean 'epochs'"):
        parse(Config, {**ANY, "training": {"epoch": 3}}, "r.yaml")


def test_a_value_out_of_range_is_named_with_its_limit() -> None:
    with pytest.raises(
        RecipeError, match=r"training\.batch.*greater than or equal to 1.*0"
    ):
        parse(Config, {**ANY, "training": {"batch": 0}}, "r.yaml")


def test_a_patch_that_the_network_cannot_halve_is_refused_with_the_rule() -> None:
    with pytest.raises(RecipeError, match="multiples of 128"):
        parse(Config, {**ANY, "patch_vox": [500, 512]}, "r.yaml")


def test_an_unknown_method_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match="no method 'mskd'; there are supervised, ms-kd"
    ):
        prepare({**ANY, "method": "mskd"}, "r.yaml", tmp_path)


def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("- just\n- a list\n")
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        load_recipe(path)


def test_a_setting_can_be_changed_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(ANY))
    values = load_recipe(path, ("training.epochs=3", "seed=5"))
    assert values["training"] == {"epochs": 3}
    assert values["seed"] == 5


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("64,64", [64, 64]),
        ("[64,64]", [64, 64]),
        ("64, 128,128", [64, 128, 128]),
        ("0.5,-2", [0.5, -2]),
        ("'64,64'", "64,64"),
        ("0:120", "0:120"),
        ("left,right", "left,right"),
    ],
)
def test_numbers_with_commas_are_a_list_with_or_without_brackets(
    text: str, means: object
) -> None:
    values: dict[str, Any] = {}
    apply_override(values, f"training.some={text}")
    assert values == {"training": {"some": means}}


def test_a_recipe_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(RecipeError, match="ms-kd/paper"):
        find_recipe(Path("nothing/here"))


def test_describe_says_what_each_setting_means() -> None:
    schema = describe("ms-kd")["settings"]
    fields = schema["$defs"]["Distillation"]["properties"]
    assert fields["feature_weight"]["default"] == 10
    assert "eq. 8" in fields["feature_weight"]["description"]


def test_every_setting_of_training_has_a_default() -> None:
    assert Training() == Training.model_validate({})


def test_a_mirror_axis_that_slices_do_not_have_is_refused() -> None:
    with pytest.raises(RecipeError, match="slices have no z"):
        parse(Config, {**ANY, "augmentation": {"mirror": [0]}}, "r.yaml")


def test_a_device_that_is_none_is_refused_before_anything_is_read() -> None:
    with pytest.raises(RecipeError, match="device"):
        parse(Config, {**ANY, "device": "gpu"}, "r.yaml")
