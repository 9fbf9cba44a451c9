"""What was done in a project, by whom, with what, when: read from the stamps it bears.

Predictions have ``prediction.json``, verdicts their rows, corrections
``correction.json`` and runs ``config.yaml``, ``events.jsonl`` and ``environment.json``.
Nothing is written.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from napari_kdseg.errors import KdsegError, ModelError, RunError
from napari_kdseg.models.model import Model
from napari_kdseg.project_folder import Document, read
from napari_kdseg.review.corrections import read_record
from napari_kdseg.review.corrections import records_in as corrections_in
from napari_kdseg.review.predictions import records_in as predictions_in
from napari_kdseg.review.store import read_store
from napari_kdseg.review.verdicts import Verdict
from napari_kdseg.runs.run import Run

Kind = Literal["model", "run", "prediction", "verdicts", "correction"]
STORE = Path("review") / "verdicts.sqlite"


@dataclass(frozen=True)
class Stamp:
    """One thing that was done."""

    kind: Kind
    name: str
    """Of the model or the run; of what is about a scan, the model that predicted it."""
    case: str = ""
    by: str = ""
    """Who did it, where a person did."""
    first_utc: str = ""
    last_utc: str = ""
    """When it began and ended; empty where nobody noted it."""
    fingerprint: str = ""
    """Of the model."""
    count: int = 1
    """Slices, or 1."""
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stamps:
    """All that was done in a project."""

    project: Document
    stamps: tuple[Stamp, ...]
    notes: tuple[str, ...]
    """What could not be read, a sentence each."""

    def of(self, kind: Kind) -> tuple[Stamp, ...]:
        """Those of one kind."""
        return tuple(one for one in self.stamps if one.kind == kind)


def stamps_of(folder: Path) -> Stamps:
    """Read the stamps of a project; what is damaged is noted and left out.

    Raises
    ------
    ProjectError
        Where the project itself is damaged.
    """
    document, damage = read(folder)
    notes = [damage] if damage else []
    stamps = [
        *_models(folder, notes.append),
        *_runs(folder, notes.append),
        *_predictions(folder, notes.append),
        *_verdicts(folder, notes.append),
        *_corrections(folder, notes.append),
    ]
    return Stamps(document, tuple(stamps), tuple(notes))


Note = Callable[[str], None]


def _models(folder: Path, note: Note) -> Iterator[Stamp]:
    places = [*folder.glob("models/*"), *folder.glob("runs/*/model")]
    for place in sorted(path for path in places if (path / "model.yaml").exists()):
        try:
            model = Model.open(place)
        except ModelError as error:
            note(str(error))
            continue
        card = model.card
        settings = {
            "network": card.network.name,
            "classes": list(card.classes.names),
            "channels": list(card.channels),
            "licence": card.licence,
        }
        yield Stamp(
            "model", card.name, fingerprint=model.fingerprint, settings=settings
        )


def _runs(folder: Path, note: Note) -> Iterator[Stamp]:
    for config in sorted(folder.glob("runs/*/config.yaml")):
        try:
            run = Run.open(config.parent)
            events, _ = run.events()
        except (RunError, OSError) as error:
            note(str(error))
            continue
        times = [float(event["time"]) for event in events if "time" in event]
        found = run.config
        kept = ("command", "method", "name", "seed", "training", "data", "test")
        settings = {key: found[key] for key in kept if key in found}
        yield Stamp(
            "run",
            run.folder.name,
            first_utc=_utc(times[0]) if times else "",
            last_utc=_utc(times[-1]) if times else "",
            settings={**settings, "state": run.state()},
            versions=_versions(run.folder / "environment.json"),
        )


def _predictions(folder: Path, note: Note) -> Iterator[Stamp]:
    for path in predictions_in(folder / "predictions"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            created = str(record.get("created_utc", ""))
            yield Stamp(
                "prediction",
                str(record["model"]["name"]),
                case=str(record["case"]),
                first_utc=created,
                last_utc=created,
                fingerprint=str(record["model"]["fingerprint"]),
                settings=dict(record["settings"]),
                versions=_known(record.get("versions", {})),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            note(f"{path} cannot be read ({type(error).__name__}: {error}).")


def _verdicts(folder: Path, note: Note) -> Iterator[Stamp]:
    if not (folder / STORE).exists():
        return
    try:
        rows = read_store(folder / STORE)
    except KdsegError as error:
        note(str(error))
        return
    groups: dict[tuple[str, str, str, str], list[Verdict]] = {}
    for row in rows:
        key = row.reviewer, row.model, row.source, row.case
        groups.setdefault(key, []).append(row)
    for (reviewer, model, source, case), found in groups.items():
        words = [row.verdict for row in found if row.kind == "verdict"]
        times = sorted(row.created_utc for row in found if row.created_utc)
        yield Stamp(
            "verdicts",
            model[:8],
            case=case,
            by=reviewer,
            first_utc=times[0] if times else "",
            last_utc=times[-1] if times else "",
            fingerprint=model,
            count=len(words),
            settings={
                "source": source,
                **{word: words.count(word) for word in ("good", "bad", "unsure")},
                "taken back": len(found) - len(words),
            },
        )


def _corrections(folder: Path, note: Note) -> Iterator[Stamp]:
    for path in corrections_in(folder):
        try:
            record = read_record(path)
        except KdsegError as error:
            note(str(error))
            continue
        signed = [*record.slices, *record.sent]
        whole = [] if record.sent_whole is None else [record.sent_whole]
        for who in sorted({one.by for one in (*signed, *whole)}):
            own = [one for one in record.slices if one.by == who]
            times = sorted(one.utc for one in (*signed, *whole) if one.by == who)
            yield Stamp(
                "correction",
                record.model,
                case=record.case,
                by=who,
                first_utc=times[0],
                last_utc=times[-1],
                fingerprint=record.fingerprint,
                count=len(own),
                settings={
                    "painted": sum(one.how == "painted" for one in own),
                    "interpolated": sum(one.how == "interpolated" for one in own),
                    "slices handed over": sum(one.by == who for one in record.sent),
                    "whole scan handed over": any(one.by == who for one in whole),
                },
            )


def _versions(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return _known({"Python": found["python"], **found["packages"]})
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _known(versions: dict[str, Any]) -> dict[str, str]:
    return {name: str(version) for name, version in versions.items() if version}


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
