"""A form from a JSON schema: kinds, limits, folding, and what goes into a recipe."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from kdseg_train.config import Recipe, load_recipe
from napari_kdseg.errors import RecipeError
from napari_kdseg.shipped import shipped_recipes
from napari_kdseg.state.training_form import Form


class Inner(BaseModel):
    """How fast."""

    epochs: int = Field(1000, ge=1)
    learning_rate: float = Field(3e-4, gt=0, description="of the optimiser")
    schedule: Literal["poly", "constant"] = "poly"
    gradient_clip: float | None = Field(12.0, gt=0)


class Settings(BaseModel):
    version: int = 1
    method: str = "made"
    training: Inner = Inner(epochs=5)
    patch_vox: tuple[int, ...] = (64, 64)
    mirror: bool = Field(default=False, description="left is right")


@pytest.fixture
def form() -> Form:
    return Form(Settings.model_json_schema())


def field(form: Form, *path: str) -> Any:
    every = [*form.first, *(f for group in form.groups for f in group.fields)]
    return next(one for one in every if one.path == path)


def test_what_is_changed_most_comes_first_and_the_rest_by_group(form: Form) -> None:
    assert [one.title for one in form.first] == [
        "Epochs",
        "Learning rate",
        "Patch (voxels)",
    ]
    general, training = form.groups
    assert [one.title for one in general.fields] == ["Mirror"]
    assert (training.title, training.description) == ("Training", "How fast.")
    assert [one.kind for one in training.fields] == ["choice", "number"]


def test_defaults_are_those_of_the_method_and_not_of_the_group(form: Form) -> None:
    assert form.value(("training", "epochs")) == 5
    assert form.recipe == {}


def test_a_changed_setting_brings_its_whole_group_into_the_recipe(form: Form) -> None:
    form.set(("training", "learning_rate"), 0.01)
    # Alone, it would leave epochs at 1000, the default of the group.
    again = Settings.model_validate(form.recipe)
    assert (again.training.learning_rate, again.training.epochs) == (0.01, 5)
    assert set(form.recipe) == {"training"}


def test_a_recipe_that_leaves_settings_out_means_the_defaults_of_the_group(
    form: Form,
) -> None:
    form.take({"method": "made", "training": {"schedule": "constant"}})
    assert form.value(("training", "epochs")) == 1000
    assert form.value(("training", "schedule")) == "constant"
    form.reset()
    assert form.value(("training", "epochs")) == 5


def test_texts_become_values_and_back(form: Form) -> None:
    rate = field(form, "training", "learning_rate")
    assert rate.parse(" 3e-4 ") == 0.0003
    assert rate.shown(0.0003) == "0.0003"
    patch = field(form, "patch_vox")
    assert patch.parse("[32, 48]") == [32, 48]
    assert patch.shown([32, 48]) == "[32, 48]"
    clip = field(form, "training", "gradient_clip")
    assert clip.parse("") is None
    assert clip.parse("none") is None
    assert clip.shown(None) == ""


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        (("training", "epochs"), "0", "must be at least 1"),
        (("training", "epochs"), "2.5", "write a whole number"),
        (("training", "learning_rate"), "0", "must be above 0"),
        (("training", "learning_rate"), "nan", "must be above 0"),
        (("training", "learning_rate"), "fast", "write a number"),
        (("patch_vox",), "[64, ", "no list or group"),
    ],
)
def test_what_is_not_allowed_is_refused_in_a_sentence(
    form: Form, path: tuple[str, ...], text: str, words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        field(form, *path).parse(text)


def test_tips_tell_meaning_limits_and_the_methods_own_value(form: Form) -> None:
    assert field(form, "training", "learning_rate").tip == (
        "Of the optimiser\nAllowed: above 0.\nThe method's own value: 0.0003"
    )


def test_every_recipe_that_comes_along_goes_through_the_form_unchanged() -> None:
    form = Form(Recipe.model_json_schema())
    for path in shipped_recipes().values():
        known = set(Recipe.model_fields)
        values = load_recipe(path)
        recipe = {key: values[key] for key in values if key in known}
        form.take(recipe)
        stated = {"version": 1, "method": values["method"], "data": values["data"]}
        once = Recipe.model_validate(recipe | stated)
        again = Recipe.model_validate(form.recipe | stated)
        same = {"training", "network", "patch_vox", "preprocessing", "augmentation"}
        assert again.model_dump(include=same) == once.model_dump(include=same), path


def test_a_default_that_leaves_values_out_is_filled_from_its_group() -> None:
    """As medaka's preprocessing is written: what is usual is left out of it."""
    inner = {
        "type": "object",
        "properties": {
            "scheme": {"type": "string", "default": "tiles"},
            "pad": {"type": "number", "default": 0},
        },
    }
    schema = {
        "$defs": {"How": inner},
        "properties": {"how": {"$ref": "#/$defs/How", "default": {"pad": 2}}},
    }
    form = Form(schema)
    assert form.value(("how", "scheme")) == "tiles"
    assert form.value(("how", "pad")) == 2
    assert form.recipe == {}
