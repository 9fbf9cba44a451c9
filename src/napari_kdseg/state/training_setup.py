"""A training that is being set up: data, method, settings, and where it goes."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from psygnal import Signal

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.cores import cores_beside_viewer
from napari_kdseg.errors import KdsegError, RecipeError, RunError
from napari_kdseg.project_folder import is_project
from napari_kdseg.shipped import shipped_recipes
from napari_kdseg.state.asking import COMMAND, Answer, Question
from napari_kdseg.state.training_data import KEYS, RECIPE, RUN, Entry, Use, new_home
from napari_kdseg.state.training_form import Form
from napari_kdseg.state.training_schema import Methods
from napari_kdseg.volumes.naming import plain_name

FROM_DATA, OWN = "Fitted to the data", "The method's own values"
FIRST_METHOD = "supervised"
_OF_ITS_DATA = ("licence", "description")
"""What a recipe that comes along says of weights made of its data, not of others."""
VALIDATION = 0.1
"""Share kept for curves where nothing else is said: without it they show no Dice."""


class Setup:
    """What the first page of the Train dock shows and does.

    What goes wrong is told in `status`; nothing is raised. `poll` is called by a timer.

    Parameters
    ----------
    methods
        Knows the methods.
    command
        The program that is asked.

    Attributes
    ----------
    methods_changed
        Emitted when the methods are known.
    form_changed
        Emitted when another form, or other values in it, are to be shown.
    entries_changed
        Emitted when there is other data.
    status_changed
        Emitted with what there is to tell, a sentence or nothing.
    ready
        Emitted with recipe and run folder when a training may start.
    """

    methods_changed = Signal()
    form_changed = Signal()
    entries_changed = Signal()
    status_changed = Signal(str)
    ready = Signal(Path, Path)

    def __init__(
        self, methods: Methods | None = None, command: Sequence[str] = COMMAND
    ) -> None:
        self.methods = methods or Methods()
        self._command = tuple(command)
        self._method = ""
        self._form: Form | None = None
        self._entries: list[Entry] = []
        self._start = OWN
        self._edits: dict[tuple[str, ...], Any] = {}
        self._name = ""
        self._out: Path | None = None
        self._status = ""
        self._filling: _Asked | None = None
        self._checking: _Asked | None = None
        self._starts = False
        self._choose_first()

    # ---- Method and settings ----

    @property
    def titles(self) -> dict[str, str]:
        """What each method is, by name."""
        return {name: one["title"] for name, one in self.methods.known.items()}

    @property
    def method(self) -> str:
        """Name of the chosen method; empty while none is known."""
        return self._method

    @property
    def form(self) -> Form | None:
        """The settings of the method."""
        return self._form

    def choose_method(self, name: str) -> None:
        """Train by another method."""
        if name in self.methods.known and name != self._method:
            self._method = name
            self._form = Form(self.methods.known[name]["settings"])
            self._apply(FROM_DATA if self._entries else OWN)

    @property
    def starting_points(self) -> tuple[str, ...]:
        """Where the settings may come from."""
        fitted = (FROM_DATA,) if self._labelled else ()
        return (*fitted, OWN, *_recipes_of(self._method))

    @property
    def starting_point(self) -> str:
        """Where the settings come from, but for what was changed since."""
        return self._start

    def start_from(self, name: str) -> None:
        """Put the settings of a starting point into the form."""
        self._apply(name)

    def edit(self, path: tuple[str, ...], value: Any) -> None:
        """Give a setting another value."""
        assert self._form is not None
        self._form.set(path, value)
        self._edits[path] = value
        self._forget_check()
        self.form_changed.emit()

    # ---- Data ----

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The data sets."""
        return tuple(self._entries)

    def add(self, path: Path, use: Use = "labelled") -> None:
        """Add a data set, or a project."""
        path = path.absolute()
        if any(entry.path == path for entry in self._entries):
            self._tell(f"{path.name} is in the list already.")
            return
        if not path.is_dir():
            self._tell(f"{path} is no folder; give the folder of a data set.")
            return
        self._entries.append(Entry(path, use))
        self._on_entries()

    def change(self, place: int, **values: Any) -> None:
        """Say something else about a data set: its ``use``, what is ``annotated``."""
        self._entries[place] = replace(self._entries[place], **values)
        self._on_entries()

    def remove(self, place: int) -> None:
        """Take a data set off the list."""
        del self._entries[place]
        self._on_entries()

    # ---- Where it goes ----

    @property
    def name(self) -> str:
        """Of the model and of the run's folder."""
        if self._name:
            return self._name
        first = self._entries[0].path.name if self._entries else ""
        return plain_name(f"{first}-{self._method}") if first else self._method

    def set_name(self, name: str) -> None:
        """Call the model otherwise; nothing: as the data and the method."""
        before = self.name
        self._name = plain_name(name) if name.strip() else ""
        if self.name != before:
            self._forget_check()

    @property
    def out(self) -> Path | None:
        """Folder that gets one for the run; a project's ``runs``, else one beside."""
        if self._out is not None or not self._entries:
            return self._out
        first = self._entries[0].path
        return first / "runs" if is_project(first) else first.parent / "runs"

    def set_out(self, folder: Path | None) -> None:
        """Put runs into another folder; None: where they go by themselves."""
        if folder != self._out:
            self._forget_check()
        self._out = folder

    # ---- Checking and starting ----

    @property
    def status(self) -> str:
        """What there is to tell."""
        return self._status

    @property
    def busy(self) -> bool:
        """Whether something is being found out."""
        return self._filling is not None or self._checking is not None

    @property
    def problem(self) -> str:
        """Why nothing can be started; empty where it can be tried."""
        if self.methods.problem:
            return self.methods.problem
        if self._form is None:
            return "Asking for the methods; the first time takes some seconds."
        if not self._labelled:
            return "Add the folder of a data set with labels, or the open project."
        return ""

    def check(self, *, start: bool = False) -> None:
        """Find out whether a training can start, and start it then if that is asked."""
        if self.problem or self.busy or self.out is None:
            return
        try:
            home = new_home(self.out, self.name)
            folder = Path(tempfile.mkdtemp(prefix="kdseg-check-"))
            write_text_atomic(folder / RECIPE, self.recipe_text())
        except (OSError, KdsegError) as error:
            self._tell(str(error))
            return
        words = ["fit", str(folder / RECIPE), "--out", str(home / RUN), "--check"]
        self._starts = start
        self._checking = _Asked(Question(words, self._command), folder, home)
        self._tell("Checking data, settings, memory and room on the disk.")

    def cancel(self) -> None:
        """Ask no longer."""
        for asked in (self._filling, self._checking):
            if asked is not None:
                asked.close()
        self._filling = self._checking = None
        self._tell("")

    def recipe_text(self) -> str:
        """The recipe, as ``kdseg-train fit`` takes it."""
        assert self._form is not None
        values: dict[str, Any] = {
            "version": 1,
            "command": "fit",
            "method": self._method,
            "name": self.name,
            "threads": cores_beside_viewer(),  # unless a person says otherwise
        }
        for use, key in KEYS.items():
            entries = [one.plain for one in self._entries if one.use == use]
            values |= {key: entries} if entries else {}
        values |= self._form.recipe
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def poll(self) -> None:
        """Look for answers; never waits."""
        if self.methods.poll():
            self._choose_first()
            self.methods_changed.emit()
            self._tell("")
        filled, checked = _answer_to(self._filling), _answer_to(self._checking)
        if self._filling is not None and filled is not None:
            asked, self._filling = self._filling, None
            self._try(asked, filled, self._on_filled)
        if self._checking is not None and checked is not None:
            asked, self._checking = self._checking, None
            self._try(asked, checked, self._on_checked)

    def close(self) -> None:
        """Let go of what is being found out."""
        self.cancel()
        self.methods.close()

    # ---- Private ----

    @property
    def _labelled(self) -> list[Entry]:
        return [entry for entry in self._entries if entry.use == "labelled"]

    def _choose_first(self) -> None:
        known = self.methods.known
        if known:
            self.choose_method(FIRST_METHOD if FIRST_METHOD in known else min(known))

    def _forget_check(self) -> None:
        """What was found out is of other settings than those there now.

        A start goes on: it is of the settings there were when it was asked for.
        """
        if self._checking is not None and not self._starts:
            self._checking.close()
            self._checking = None
        if not self.busy:
            self._tell("")

    def _on_entries(self) -> None:
        self._forget_check()
        self.entries_changed.emit()
        if self._start in (OWN, FROM_DATA) and not self._edits:
            self._apply(FROM_DATA if self._labelled else OWN)

    def _apply(self, start: str) -> None:
        if self._form is None:
            return
        self._start, self._edits = start, {}
        if self._filling is not None:  # what was asked for is not wanted any more
            self._filling.close()
            self._filling = None
        self._forget_check()
        if start == FROM_DATA:
            self._ask_for_recipe()
        elif start == OWN:
            self._form.reset()
            self._form.set(("split", "validation"), VALIDATION)
        else:
            path = shipped_recipes()[start]
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
            self._take({k: v for k, v in recipe.items() if k not in _OF_ITS_DATA})
        self.form_changed.emit()

    def _take(self, recipe: dict[str, Any]) -> None:
        assert self._form is not None
        self._form.take(recipe)
        if not self._form.value(("split", "validation")):
            self._form.set(("split", "validation"), VALIDATION)
        for path, value in self._edits.items():  # made while the data was looked at
            self._form.set(path, value)

    def _ask_for_recipe(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="kdseg-new-"))
        words = ["new", self._method, "--out", str(folder / RECIPE)]
        for entry in self._labelled:
            words += ["--data", str(entry.path)]
        self._filling = _Asked(Question(words, self._command), folder, folder)
        self._tell("Looking at the data for patch size and grey values.")

    def _try(
        self, asked: "_Asked", answer: Answer, then: Callable[["_Asked", Answer], None]
    ) -> None:
        try:
            then(asked, answer)
        except (OSError, KdsegError, yaml.YAMLError) as error:
            self._tell(str(error))
        asked.close()

    def _on_filled(self, asked: "_Asked", answer: Answer) -> None:
        if not answer.good:
            raise RecipeError(answer.words)
        text = (asked.folder / RECIPE).read_text(encoding="utf-8")
        self._take(yaml.safe_load(text))
        self._tell("")
        self.form_changed.emit()

    def _on_checked(self, asked: "_Asked", answer: Answer) -> None:
        self._tell(answer.words)
        if not answer.good or not self._starts:
            return
        recipe = asked.home / RECIPE
        try:
            asked.home.mkdir(parents=True)
            shutil.copyfile(asked.folder / RECIPE, recipe)
        except OSError as error:
            raise RunError(
                f"{asked.home} could not be written ({error.strerror}), and the run "
                "goes there. Make room, or choose another folder."
            ) from error
        self.ready.emit(recipe, asked.home / RUN)

    def _tell(self, text: str) -> None:
        """Say something; whoever shows it looks whether we are `busy`, too."""
        self._status = text
        self.status_changed.emit(text)


@dataclass(frozen=True)
class _Asked:
    """A question, the folder with what it is about, and where the run would go."""

    question: Question
    folder: Path
    home: Path

    def close(self) -> None:
        self.question.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def _recipes_of(method: str) -> tuple[str, ...]:
    """Names of the recipes of a method that come along, as their files say."""
    return tuple(
        name
        for name, path in shipped_recipes().items()
        if f"method: {method}" in path.read_text(encoding="utf-8").splitlines()
    )


def _answer_to(asked: _Asked | None) -> Answer | None:
    return None if asked is None else asked.question.poll()
