"""What lies in a project's folder: its file, its lock, its trash."""

import contextlib
import glob
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from napari_kdseg.errors import ProjectError, RunError
from napari_kdseg.runs.lock import Lock, read_holder
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.naming import unique_name
from napari_kdseg.volumes.scan import Scan
from napari_kdseg.volumes.volume import case_id, suffix_of

VERSION = 1
DOCUMENT = "project.json"
PREVIOUS = "project.json.previous"
LOCK = "lock"


class Document(BaseModel):
    """What ``project.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    name: str
    classes: LabelSet | None = None
    scans: tuple[Scan, ...] = ()
    renamed: dict[str, str] = {}
    """What files call a class -> what people call it here."""

    @field_validator("scans")
    @classmethod
    def _refuse_doubles(cls, scans: tuple[Scan, ...]) -> tuple[Scan, ...]:
        names = [scan.case.casefold() for scan in scans]
        if len(set(names)) < len(names):
            raise ValueError("two scans have one name")
        return scans


def locked(folder: Path) -> tuple[Lock | None, str]:
    """Take the lock, or say who has it."""
    try:
        return Lock(folder / LOCK), ""
    except RunError:
        holder = read_holder(folder / LOCK)
        who = f"process {holder.pid} on {holder.host}" if holder else "another process"
        return None, (
            f"{folder} is open in {who}, so here it can only be looked at. Close it "
            "there and open it here again to change it."
        )
    except OSError as error:
        return None, (
            f"{folder} cannot be written to ({error.strerror}), so it can only be "
            "looked at. Ask for the right to write, or copy it."
        )


def read(folder: Path) -> tuple[Document, str]:
    """Read the document, or the copy and what is wrong with the document."""
    try:
        return _parsed(folder / DOCUMENT), ""
    except (OSError, ValueError) as error:
        damage = _in_brief(error)
    try:
        return _parsed(folder / PREVIOUS), damage
    except (OSError, ValueError) as error:
        raise ProjectError(
            f"{folder / DOCUMENT} is damaged ({damage}), and there is no good copy of "
            "it beside. Get it from a backup, or make a new project and add the scans."
        ) from error


def text_of(document: Document) -> str:
    """Write a document as it is kept."""
    return document.model_dump_json(indent=1) + "\n"


def is_project(folder: Path) -> bool:
    """Whether a folder is a project, perhaps a damaged one."""
    return any((folder / name).is_file() for name in (DOCUMENT, PREVIOUS))


def last_changes(folder: Path) -> tuple[int, ...]:
    """When scans and predictions of a project were last added or taken away, in ns."""
    places = (folder / name for name in (DOCUMENT, "predictions"))
    found = []
    for place in places:
        with contextlib.suppress(OSError):
            found.append(place.stat().st_mtime_ns)
    return tuple(found)


def results_of(folder: Path, kind: str, case: str) -> Iterator[Path]:
    """Find what a project has for a scan under `kind`: a folder, or files."""
    place = folder / kind / case
    if place.is_dir() and any(place.iterdir()):
        yield place
    for entry in sorted((folder / kind).glob(f"{glob.escape(case)}.*")):
        if suffix_of(entry) and case_id(entry) == case:
            yield entry


def put_aside(folder: Path, kind: str, case: str) -> None:
    """Move what a project has for a scan under `kind` to its trash."""
    trash = folder / "trash" / kind
    for path in results_of(folder, kind, case):
        trash.mkdir(parents=True, exist_ok=True)
        taken = [entry.name for entry in trash.iterdir()]
        path.rename(trash / unique_name(path.name, taken))
    with contextlib.suppress(OSError):
        (folder / kind / case).rmdir()  # it was empty


def clean_up(folder: Path) -> None:
    """Remove what a crash left half made, where the holder of the lock alone writes."""
    for pattern in ("", "scans/", "corrections/", "corrections/*/"):
        for left in folder.glob(f"{pattern}*.partial-*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _parsed(path: Path) -> Document:
    found = json.loads(path.read_text(encoding="utf-8"))
    version = found.get("version") if isinstance(found, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise ProjectError(
            f"{path} has version {version}, and this program knows {VERSION}; a newer "
            "one wrote it. Update napari-kdseg."
        )
    return Document.model_validate(found)


def _in_brief(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else first["msg"]
    return str(error).splitlines()[0]
