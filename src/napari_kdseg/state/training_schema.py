"""The methods and their settings, as ``kdseg-train describe`` tells them.

Asking takes seconds, since the methods import torch; so the answer is kept, and asked
for anew only where the program is another one.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import RecipeError
from napari_kdseg.state.asking import COMMAND, Answer, Question

Described = dict[str, dict[str, Any]]
"""Method -> its ``title`` and the JSON schema of its ``settings``."""


class Methods:
    """Knows the methods, or asks for them; `poll` until `known` is there.

    Parameters
    ----------
    cache
        Folder where answers are kept; the user's by default.
    command
        The program that is asked.
    """

    def __init__(
        self, cache: Path | None = None, command: Sequence[str] = COMMAND
    ) -> None:
        folder = cache or user_cache_path("napari-kdseg")
        self._path = folder / f"methods-{program_version()}.json"
        self._command = tuple(command)
        self._question: Question | None = None
        self.known: Described = _read(self._path)
        """Empty while nobody has answered."""
        self.problem = ""
        """Why there is no answer."""

    @property
    def asking(self) -> bool:
        """Whether an answer is waited for."""
        return self._question is not None

    def poll(self) -> bool:
        """Ask where nobody did, or look for the answer; gives whether it just came."""
        if self.known or self.problem:
            return False
        if self._question is None:
            self._question = Question(["describe"], self._command)
            return False
        answer = self._question.poll()
        if answer is None:
            return False
        self._question = None
        self._take(answer)
        return True

    def close(self) -> None:
        """Ask no longer."""
        if self._question is not None:
            self._question.close()

    def _take(self, answer: Answer) -> None:
        try:
            if not answer.good:
                raise RecipeError(answer.words)
            self.known = checked(json.loads(answer.text))
        except (RecipeError, ValueError) as error:
            self.problem = (
                f"The methods could not be asked for: {error} `kdseg-train doctor` "
                "says what is missing."
            )
            return
        with contextlib.suppress(OSError):  # then it is asked again next time
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(self._path, answer.text)


def checked(described: Any) -> Described:
    """The methods, where this has the form that is known here.

    Raises
    ------
    RecipeError
        Where it has another one, such as that of a newer program.
    """
    good = isinstance(described, dict) and all(
        isinstance(one, dict)
        and isinstance(one.get("title"), str)
        and isinstance(one.get("settings"), dict)
        and "properties" in one["settings"]
        for one in described.values()
    )
    if not good or not described:
        raise RecipeError(
            "kdseg-train describes its methods in a form that is not known here: the "
            "two are of different versions. Install napari-kdseg again."
        )
    return dict(described)


def program_version() -> str:
    """Tells one program from another: its version, and the state of its files."""
    digest = hashlib.sha256(metadata.version("napari-kdseg").encode())
    for name in ("kdseg_train", "napari_kdseg.models", "napari_kdseg.volumes"):
        found = util.find_spec(name)
        places = [] if found is None else found.submodule_search_locations or []
        for path in sorted(p for place in places for p in Path(place).rglob("*.py")):
            stat = path.stat()
            digest.update(f"{path}{stat.st_size}{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _read(path: Path) -> Described:
    try:
        return checked(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecipeError):
        return {}
