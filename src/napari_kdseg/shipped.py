"""The volumes, models and recipes that come with the package."""

from difflib import get_close_matches
from pathlib import Path

from napari_kdseg.errors import KdsegError, MissingModelError

_CARD = "model.yaml"
_VOLUME_SUFFIX = ".nii.gz"


def sample_folder() -> Path:
    """Find the sample data: inside the package, or at the root of the repository.

    A wheel has it inside the package; an editable installation leaves it where it is.

    Raises
    ------
    KdsegError
        When neither place has it.
    """
    package = Path(__file__).resolve().parent
    places = (package / "sample_data", package.parents[1] / "sample_data")
    for place in places:
        if place.is_dir():
            return place
    raise KdsegError(
        f"The sample data is neither in {places[0]} nor in {places[1]}; the package "
        "brings it along. Install napari-kdseg again."
    )


def shipped_models() -> dict[str, Path]:
    """Give the folders of the models that come along, by name."""
    cards = (sample_folder() / "models").glob(f"*/{_CARD}")
    return {card.parent.name: card.parent for card in sorted(cards)}


def find_model(name: str) -> Path:
    """Give a model folder, or the folder of a model that comes along, by its name.

    A folder of such a name that is no model, such as a data set, does not count.

    Raises
    ------
    MissingModelError
        When there is neither a folder nor a model of this name; says which there are.
    """
    folder = Path(name).absolute()
    if (folder / _CARD).is_file():
        return folder
    known = _known_models()
    if name in known:
        return known[name]
    if folder.exists() or Path(name).name != name or not known:
        return folder  # whoever opens it says what is wrong with it
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise MissingModelError(
        f"There is no model folder {name}, and no shipped model of that name{hint} "
        f"Shipped models are {', '.join(known)}."
    )


def _known_models() -> dict[str, Path]:
    try:
        return shipped_models()
    except KdsegError:  # an installation without them
        return {}


def is_shipped(folder: Path) -> bool:
    """Whether a model folder is one of those that come along, which nobody changes."""
    try:
        return folder.resolve().is_relative_to(sample_folder().resolve())
    except KdsegError:  # an installation without them
        return False


def shipped_volumes() -> dict[str, Path]:
    """Give the scans that come along, by name."""
    files = (sample_folder() / "volumes").glob(f"*{_VOLUME_SUFFIX}")
    return {file.name.removesuffix(_VOLUME_SUFFIX): file for file in sorted(files)}


def recipe_folder() -> Path:
    """Folder of the recipes that come along, in a wheel or in the repository."""
    package = Path(__file__).resolve().parent
    inside = package.parent / "kdseg_train" / "recipes"
    return inside if inside.is_dir() else package.parents[1] / "training" / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Give the recipes that come along, by name, such as ``ms-kd/small``."""
    folder = recipe_folder()
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.yaml"))
    }
