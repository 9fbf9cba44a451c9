"""What a recipe names and what is not there: the answer leads on."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import parsed

from kdseg_train.config import Recipe, find_recipe, load_recipe, parse
from kdseg_train.methods import prepare
from kdseg_train.missing import existing
from kdseg_train.samples import SAMPLES, write_partial_sample
from napari_kdseg.errors import DataSetError, RecipeError
from napari_kdseg.shipped import shipped_recipes

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("data", [(), ("--data", ".")])
def test_data_that_are_not_there_are_answered_with_where_made_ones_come_from(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, said = call("fit", "supervised/small", "--out", "r1", *data)
    root = tmp_path if data else find_recipe(Path("supervised/small")).parent
    assert status == 2
    assert said == (
        f"kdseg-train: {root.resolve() / 'fish'} is no folder. --data says where the "
        "data of a recipe lie: the folder that fish is in. Made data come from "
        "`kdseg-train sample fish --out samples/fish`; then --data samples.\n"
    )
    assert not Path("r1").exists()


def made() -> list[str]:
    """Recipes that come along and train on made data."""
    return [
        name
        for name, path in shipped_recipes().items()
        if Path(str(load_recipe(path)["data"][0]["path"])).parts[0] in SAMPLES
    ]


@pytest.mark.parametrize("name", made())
def test_every_recipe_of_made_data_says_how_to_make_them(
    name: str, tmp_path: Path
) -> None:
    path = shipped_recipes()[name]
    with pytest.raises(DataSetError) as caught:
        prepare(load_recipe(path), str(path), tmp_path)
    _, command, after = str(caught.value).split("`")
    program, *words = shlex.split(command)
    assert program == "kdseg-train"
    assert str(parsed(words)["out"]).startswith("samples/")
    assert after == "; then --data samples."


def test_a_recipe_of_other_data_names_the_folder_and_the_option_alone(
    tmp_path: Path,
) -> None:
    path = shipped_recipes()["ms-kd/paper"]
    with pytest.raises(DataSetError, match=r"--data says where .* is in\.$"):
        prepare(load_recipe(path), str(path), tmp_path)


def test_a_whole_path_of_data_is_not_answered_with_where_paths_start(
    tmp_path: Path,
) -> None:
    values = load_recipe(shipped_recipes()["supervised/small"])
    values["data"] = [{"path": str(tmp_path / "nowhere")}]
    with pytest.raises(DataSetError, match="nowhere is no folder; give the folder"):
        prepare(values, "recipe", tmp_path)


def test_a_teacher_that_is_not_there_is_answered_with_both_places(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_partial_sample("abdomen", tmp_path / "samples/abdomen", cases=8, size=32)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    status, _, said = call(
        *("fit", "ms-kd/small", "--data", "../samples", "--out", "run"),
        *("--set", "teachers.liver=nowhere", "--set", "patch_vox=[32,32]"),
    )
    assert status == 2
    assert f"teachers.liver is nowhere, and there is neither {here / 'nowhere'}" in said
    assert f"nor {tmp_path / 'samples/nowhere'}: a relative path starts" in said


def test_a_whole_path_that_leads_nowhere_is_named_once(tmp_path: Path) -> None:
    values = {"method": "supervised", "data": [{"path": "x"}], "patch_vox": [128, 128]}
    recipe = parse(Recipe, values, "recipe")
    with pytest.raises(RecipeError) as caught:
        existing(recipe, tmp_path / "gone", "teacher")
    assert str(caught.value).count(str(tmp_path / "gone")) == 1
