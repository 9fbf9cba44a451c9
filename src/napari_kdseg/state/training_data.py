"""What a training learns from, and the folder that its run gets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from napari_kdseg.volumes.naming import unique_name

Use = Literal["labelled", "unlabelled", "test"]
USES: dict[Use, str] = {
    "labelled": "learn from its labels",
    "unlabelled": "learn without labels",
    "test": "test only",
}
KEYS: dict[Use, str] = {"labelled": "data", "unlabelled": "unlabelled", "test": "test"}
"""Where a recipe lists data sets of each use."""
RECIPE, RUN = "recipe.yaml", "run"
"""What lies in the folder of a training: its recipe, and its run."""


@dataclass(frozen=True)
class Entry:
    """A data set or project, and what it is for."""

    path: Path
    use: Use = "labelled"
    annotated: tuple[str, ...] = ()
    """Classes its labels speak about; none given: all that it has."""

    @property
    def plain(self) -> dict[str, Any]:
        """The entry as a recipe has it."""
        plain: dict[str, Any] = {"path": str(self.path)}
        return plain | ({"annotated": list(self.annotated)} if self.annotated else {})


def new_home(out: Path, name: str) -> Path:
    """A folder for a run that nothing lies in yet: ``NAME``, ``NAME-2`` ..."""
    return out / unique_name(name, [path.name for path in out.glob("*")])
