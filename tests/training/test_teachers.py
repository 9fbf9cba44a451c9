"""What a recipe names by a path: where it is looked for, and what a teacher must be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdseg_train.config import Frozen, Recipe, parse
from kdseg_train.crops import Crop, cropped
from kdseg_train.data import Cases
from kdseg_train.quality_source import QualitySettings
from kdseg_train.teachers import given_by_class, given_teacher
from napari_kdseg.errors import ModelError, RecipeError
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run

MakeModelFolder = Callable[..., Model]
NOTHING = (("image",), ("liver", "spleen"), (), (), (), ())


def recipe(root: Path, **values: Any) -> Recipe:
    """A recipe whose data lie in a folder, for the models of `model_folder`."""
    names = ("channels", "classes", "training", "validation", "test", "unlabelled")
    empty = dict.fromkeys(names, ())
    given = {
        "method": "supervised",
        "data": [{"path": "x"}],
        "network": {"name": "unet", "parameters": {"width": 4, "stages": 3}},
        "patch_vox": [16, 16],
        "preprocessing": {"intensity": [{"kind": "none"}]},
        "frozen": Frozen(root=root, fingerprint="", **empty),
        **values,
    }
    return parse(Recipe, given, "recipe")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, beside that of the data."""
    for name in ("here", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


# ---- one rule for all paths ----


def test_a_path_starts_from_the_current_folder_and_else_from_that_of_the_data(
    here: Path,
) -> None:
    root = here.parent / "data"
    config = recipe(root)
    for folder in (here / "both", root / "both", root / "there"):
        folder.mkdir()
    assert config.found(Path("both")).resolve() == here / "both"
    assert config.found(Path("there")) == root / "there"
    # so that an error names a whole path
    assert config.found(Path("nowhere")) == root / "nowhere"
    assert config.found(root / "both") == root / "both"


@pytest.mark.parametrize("where", ["here", "data"])
def test_teachers_coarse_models_and_classifiers_are_looked_for_alike(
    here: Path, model_folder: MakeModelFolder, where: str
) -> None:
    model = model_folder()
    target = here.parent / where / "organs"
    model.folder.rename(target)
    config, path = recipe(here.parent / "data"), Path("organs")
    found = [given_teacher(config, path, ("liver", "spleen")).folder]
    settings = QualitySettings(
        source="model", model=path, reviews=str(path), labels=path
    )
    quality = settings.found_by(config)
    assert quality.model is not None
    assert quality.reviews is not None
    found += [quality.model, Path(quality.reviews)]
    assert {folder.resolve() for folder in found} == {target}
    two = Cases(("a", "b"), *NOTHING[1:])
    run = Run.create(here / "run", {"version": 1, "command": "fit"})
    with pytest.raises(ModelError, match="organs takes image and the cases have a, b"):
        cropped(run, config, Crop(coarse=path), two)


def test_a_data_set_starts_from_the_folder_of_the_data_alone(here: Path) -> None:
    (here / "fish").mkdir()  # another one, and not what `data` means by its name
    config = recipe(here.parent / "data")
    settings = QualitySettings(source="simulated", reference=Path("fish"))
    assert settings.found_by(config).reference == here.parent / "data" / "fish"


# ---- what a teacher must be ----


def test_a_teacher_of_other_classes_is_refused(
    here: Path, model_folder: MakeModelFolder
) -> None:
    model, config = model_folder(), recipe(here)
    with pytest.raises(ModelError, match=r"segments liver, spleen; .* has spleen, liv"):
        given_teacher(config, model.folder, ("spleen", "liver"))
    with pytest.raises(ModelError, match="of liver must segment liver alone"):
        given_teacher(config, model.folder, ("liver",))


def test_a_teacher_that_sees_scans_in_another_way_is_refused(
    here: Path, model_folder: MakeModelFolder
) -> None:
    config = recipe(here, preprocessing={"intensity": [{"kind": "zscore"}]})
    with pytest.raises(ModelError, match="expects other preprocessing"):
        given_teacher(config, model_folder().folder, ("liver", "spleen"))


def test_only_a_student_that_starts_from_a_teacher_needs_the_same_network(
    here: Path, model_folder: MakeModelFolder
) -> None:
    folder = model_folder().folder
    wider = {"name": "unet", "parameters": {"width": 6, "stages": 3}}
    classes = ("liver", "spleen")
    given_teacher(recipe(here), folder, classes, to_start_from=True)
    other = recipe(here, network=wider)
    given_teacher(other, folder, classes)
    with pytest.raises(ModelError, match="is another network than the recipe's"):
        given_teacher(other, folder, classes, to_start_from=True)


def test_what_is_no_model_may_be_predictions_where_these_can_teach(
    here: Path, model_folder: MakeModelFolder
) -> None:
    (here / "told").mkdir()
    folder = model_folder("livers", ("liver",)).folder
    teachers, classes = {"spleen": Path("told"), "liver": folder}, ("liver", "spleen")
    config = recipe(here)
    found = given_by_class(config, teachers, classes, predictions=True)
    assert found["spleen"] == Path("told")
    assert isinstance(found["liver"], Model)
    with pytest.raises(ModelError, match="told"):
        given_by_class(config, teachers, classes, predictions=False)
    with pytest.raises(RecipeError, match="names 'spleen', which no case annotates"):
        given_by_class(config, teachers, ("liver",), predictions=True)
