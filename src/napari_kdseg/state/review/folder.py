"""The folder under review: its predictions, and what is remembered of the review.

::

    PROJECT/predictions/CASE/MODEL/     or OUT/CASE/MODEL/
            review/                     made with the first verdict
                   verdicts.sqlite      what people said
                   database.json        or in which database that is
                   profiles/            what slices come to
                   state.json           where one stopped
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import KdsegError, ProjectError
from napari_kdseg.project_folder import is_project, read
from napari_kdseg.review.predictions import (
    Find,
    Prediction,
    as_noted,
    finder,
    predictions_in,
    records_in,
)
from napari_kdseg.review.queue import Filter, Order, Side
from napari_kdseg.review.verdicts import Place

STATE = "state.json"

Records = tuple[tuple[str, int], ...]
"""Path and time of the record of each prediction."""


class Remembered(BaseModel):
    """What ``state.json`` holds: where one stopped. What was judged is in the store."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = 1
    reviewer: str = ""
    model: str = ""
    axis: int = Field(0, ge=0, le=2)
    order: Order = "random"
    place: Place | None = None
    threshold: float = Field(0.5, ge=0, le=1)
    unjudged: bool = True
    by_anyone: bool = True
    hide_empty: bool = True
    cases: tuple[str, ...] | None = None
    side: Side = "all"
    sample: tuple[Place, ...] | None = None
    scored: bool = False
    """Whether there was a classifier's opinion."""

    @property
    def filters(self) -> Filter:
        """Which slices were shown."""
        cases = None if self.cases is None else frozenset(self.cases)
        return Filter(self.unjudged, self.by_anyone, self.hide_empty, cases, self.side)


@dataclass(frozen=True)
class ReviewFolder:
    """Where all lies that a review needs."""

    folder: Path
    results: Path
    """The folder with the cases."""
    find: Find
    name: str
    """The project's name, or the folder's."""
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path) -> "ReviewFolder":
        """Take a project, its folder of predictions, or the output of a prediction.

        Raises
        ------
        ProjectError
            Where it is no folder, or a project that cannot be read.
        """
        folder = Path(folder).absolute()
        if not folder.is_dir():
            raise ProjectError(
                f"{folder} is no folder; predictions lie in one. Choose a project, or "
                "the folder that a prediction was written to."
            )
        if folder.name == "predictions" and is_project(folder.parent):
            folder = folder.parent
        if not is_project(folder):
            return cls(folder, folder, as_noted, folder.name)
        document, damage = read(folder)
        notes = (f"{folder / 'project.json'} is damaged ({damage}).",) if damage else ()
        find = finder(document.scans, folder)
        return cls(folder, folder / "predictions", find, document.name, notes)

    @property
    def home(self) -> Path:
        """Where the review is kept; there once something is."""
        return self.folder / "review"

    @property
    def closed(self) -> str:
        """Why nothing can be kept here; empty where it can."""
        place = self.home if self.home.exists() else self.folder
        if os.access(place, os.W_OK):
            return ""
        return (
            f"{place} cannot be written to, so its predictions can only be looked at. "
            "Ask for the right to write, or copy the folder."
        )

    def records(self) -> Records:
        """Say which predictions there are, and of when; to notice other ones."""
        found = []
        for path in records_in(self.results):
            try:
                found.append((str(path), path.stat().st_mtime_ns))
            except OSError:
                continue
        return tuple(found)

    def predictions(self) -> tuple[tuple[Prediction, ...], tuple[str, ...]]:
        """Find the predictions, and what there is to say of them, a sentence each."""
        notes: list[str] = []
        found = predictions_in(self.results, self.find, notes.append)
        notes += [one.missing for one in found if one.missing]
        return found, tuple(dict.fromkeys(notes))

    def remembered(self) -> Remembered:
        """Read where one stopped; the beginning where nothing is known."""
        try:
            text = (self.home / STATE).read_text(encoding="utf-8")
            return Remembered.model_validate_json(text)
        except (OSError, ValueError, ValidationError):
            return Remembered()

    def remember(self, what: Remembered) -> None:
        """Keep where one stopped, once there is anything to go on with.

        Raises
        ------
        KdsegError
            Where that cannot be written.
        """
        if not self.home.exists():
            return
        try:
            write_text_atomic(self.home / STATE, what.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise KdsegError(
                f"{self.home / STATE} could not be written ({error.strerror}); the "
                "place is not remembered. All verdicts are in the store."
            ) from error
