"""Where the verdicts of a review lie: in its folder, or in a database of the lab.

``review/verdicts.sqlite`` holds them, unless ``review/database.json`` names a database.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import make_url

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import ReviewError
from napari_kdseg.review.database import file_of
from napari_kdseg.review.store import Store, read_store
from napari_kdseg.review.verdicts import Verdict

STORE = "verdicts.sqlite"
DATABASE = "database.json"


class _Noted(BaseModel):
    """What ``database.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    url: str


def store_of(home: Path) -> Path | str:
    """Say where verdicts are kept: the file, or the URL of the database.

    Parameters
    ----------
    home
        The folder ``review`` of a project, or of predictions.

    Raises
    ------
    ReviewError
        Where the note of it cannot be read.
    """
    path = home / DATABASE
    try:
        return _Noted.model_validate_json(path.read_text(encoding="utf-8")).url
    except FileNotFoundError:
        return home / STORE
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ReviewError(
            f"{path} says in which database the verdicts are, and cannot be read. Name "
            "the database again, or remove the file to keep verdicts beside it."
        ) from error


def share(home: Path, url: str, project: str = "") -> Path | str:
    """Keep verdicts in another place from now on; those that are there are copied.

    Parameters
    ----------
    home
        The folder ``review`` of a project, or of predictions.
    url
        Of a PostgreSQL database, without a password; empty for the file in `home`.
    project
        Name that new rows carry.

    Returns
    -------
    Path or str
        Where they are kept now.

    Raises
    ------
    ReviewError
        Where the address is none or holds a password, or either place is out of
        reach; all is as it was then.
    """
    new = _server(url) if url else home / STORE
    try:
        old = store_of(home)
    except ReviewError:  # nobody can read which one it was
        old = home / STORE
    # Somebody who had the file open meanwhile may have gone on writing to it.
    _copy({old, home / STORE} - {new}, new, project)
    try:
        home.mkdir(parents=True, exist_ok=True)
        if url:
            text = _Noted(url=str(new)).model_dump_json(indent=1)
            write_text_atomic(home / DATABASE, text + "\n")
        else:
            (home / DATABASE).unlink(missing_ok=True)
    except OSError as error:
        raise ReviewError(
            f"{home / DATABASE} could not be written ({error.strerror}), so verdicts "
            "are kept where they were. Ask for the right to write."
        ) from error
    return new


def _server(url: str) -> str:
    if file_of(url) is not None:
        raise ReviewError(
            f"{url!r} is no address of a database; one looks like "
            "postgresql://HOST/DATABASE."
        )
    if make_url(url).password is not None:
        shown = make_url(url).render_as_string(hide_password=True)
        raise ReviewError(
            f"{shown} holds a password, which everybody could read in the project. "
            "Leave it out, and write it into the file ~/.pgpass of each reviewer."
        )
    return url


def _copy(places: Iterable[Path | str], new: Path | str, project: str) -> None:
    rows: list[Verdict] = []
    for place in places:
        file = file_of(place)
        if file is None or file.exists():
            rows += read_store(place)
    store = Store.open(new, project)
    try:
        store.add(rows)
    finally:
        store.close()
