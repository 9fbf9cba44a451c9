"""What a recipe names and what is not there: where it was sought, where to get it."""

from pathlib import Path

from kdseg_train.config import Recipe
from napari_kdseg.errors import DataSetError, RecipeError

_MAKES_DATA = "kdseg-train sample "


def check_data(config: Recipe, where: str, root: Path) -> None:
    """Refuse relative paths of data that lead nowhere, and say what they start from.

    Parameters
    ----------
    config
        A recipe.
    where
        Its file. What its first comments say about made data is passed on.
    root
        Folder that relative data paths start from.

    Raises
    ------
    DataSetError
        Naming the first folder that is not there.
    """
    for entry in (*config.data, *config.unlabelled, *config.test):
        folder = (root / entry.path).resolve()
        if not entry.path.is_absolute() and not folder.is_dir():
            raise DataSetError(
                f"{folder} is no folder. --data says where the data of a recipe lie: "
                f"the folder that {entry.path} is in.{_made(Path(where))}"
            )


def existing(config: Recipe, path: Path, what: str) -> Path:
    """Folder that a recipe names and that is no data set, such as a teacher.

    Parameters
    ----------
    what
        The setting, as a command line has it.

    Raises
    ------
    RecipeError
        Naming all places that were looked at, where it is in none of them.
    """
    found = config.found(path)
    if found.exists():
        return found
    places = list(dict.fromkeys(one.absolute() for one in (path, config.root / path)))
    if len(places) == 1:
        raise RecipeError(
            f"{what} is {path}, which does not exist; give a folder that does."
        )
    raise RecipeError(
        f"{what} is {path}, and there is neither {places[0]} nor {places[1]}: a "
        "relative path starts from the current folder, or else from that of the data."
    )


def _made(recipe: Path) -> str:
    """How to make the data of a recipe, where its first comments say so."""
    if not recipe.is_file():
        return ""
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        said = line.removeprefix("#").strip()
        if said.startswith(_MAKES_DATA):
            place = Path(said.partition("--out ")[2].split(" ")[0]).parent
            return f" Made data come from `{said}`; then --data {place}."
    return ""
