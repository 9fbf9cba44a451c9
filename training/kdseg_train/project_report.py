"""The methods section of a project, written from the stamps that its parts bear.

::

    OUT/methods.md    text for a paper, to be checked and shortened by a person
        stamps.csv    a row for each thing that was done: what, with what, by whom, when
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kdseg_train.project_stamps import Stamp, Stamps, stamps_of
from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import ProjectError
from napari_kdseg.measure.tables import Value, write_table
from napari_kdseg.project_folder import is_project
from napari_kdseg.volumes.scan import Scan, Use

COLUMNS = (
    "kind",
    "name",
    "case",
    "by",
    "first_utc",
    "last_utc",
    "fingerprint",
    "count",
    "settings",
    "versions",
)
_SHOWN_SETTINGS = ("uncertainty", "precision", "overlap_rule", "fill_nonfinite")
_NOBODY = "A person who gave no name"
_USES: dict[Use, str] = {
    "training": "for training",
    "test": "held out for testing",
    "none": "whose use nobody chose",
    "left-out": "left out of training",
}


def write_project_report(project: Path, out: Path | None = None) -> Path:
    """Write the methods section and the table of a project.

    Parameters
    ----------
    project
        The folder.
    out
        Where both go; ``PROJECT/report`` by default.

    Returns
    -------
    Path
        The text.

    Raises
    ------
    ProjectError
        Where it is no project, or the folder cannot be written to; nothing is
        written then.
    """
    if not is_project(project):
        raise ProjectError(
            f"{project} is no project: it has no project.json. Give the folder that "
            "the Volumes dock made."
        )
    folder = out or project / "report"
    found = stamps_of(project)
    text = methods_text(found)
    path = folder / "methods.md"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, text)
    except OSError as error:
        raise ProjectError(
            f"{path} could not be written: {error.strerror or error}. The project is "
            "as it was; give a folder with room that may be written to, with --out."
        ) from error
    write_table(folder / "stamps.csv", [_row(one) for one in found.stamps], COLUMNS)
    return path


def methods_text(found: Stamps) -> str:
    """The methods section, as Markdown."""
    parts = [
        f"# Methods: {found.project.name}",
        "Written by `kdseg-train report` from the stamps in the project; every line "
        "has its rows in `stamps.csv`. Check it, then shorten it.",
        "## Scans",
        *_scans(found),
        "## Models and training",
        *_models(found),
        "## Predictions",
        *_predictions(found),
        "## Review and correction",
        *_reviews(found),
        *_corrections(found),
        "## Software",
        _software(found),
    ]
    if found.notes:
        parts += ["## Left out", *(f"- {note}" for note in found.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


# ---- Sections ----


def _scans(found: Stamps) -> Iterator[str]:
    scans = found.project.scans
    if not scans:
        yield "The project has no scans."
        return
    uses = Counter(scan.use for scan in scans)
    told = ", ".join(
        f"{uses[use]} {words}" for use, words in _USES.items() if uses[use]
    )
    badges = Counter(scan.badge for scan in scans)
    labelled = sum(scan.labels is not None for scan in scans)
    yield (
        f"{_many(len(scans), 'scan')} ({told}), {labelled} with labels of their own. "
        f"Channels: {', '.join(_channels(scans))}. Orientation and voxel size (x, y, "
        f"z): {'; '.join(f'{badge} ({n})' for badge, n in badges.most_common())}."
    )
    if found.project.classes is not None:
        yield f"Classes: {', '.join(found.project.classes.names)}."


def _models(found: Stamps) -> Iterator[str]:
    if not found.of("model") and not found.of("run"):
        yield "No model was kept and no run was made in the project."
    for one in found.of("model"):
        classes = ", ".join(one.settings["classes"])
        licence = one.settings["licence"] or "no licence stated"
        yield (
            f"- Model **{one.name}** (fingerprint `{one.fingerprint[:12]}`): "
            f"{one.settings['network']}, classes {classes}; {licence}."
        )
    for one in found.of("run"):
        method = one.settings.get("method") or one.settings["command"]
        seed = one.settings.get("seed")
        said = "" if seed is None else f", seed {seed}"
        when = _when([one])
        yield f"- Run **{one.name}**: {method}{said}, {one.settings['state']}{when}."


def _predictions(found: Stamps) -> Iterator[str]:
    if not found.of("prediction"):
        yield "Nothing was predicted in the project."
    for (name, fingerprint), own in _grouped(
        found.of("prediction"), lambda one: (one.name, one.fingerprint)
    ):
        cases = len({one.case for one in own})
        yield (
            f"- **{name}** (`{fingerprint[:12]}`) segmented {_many(cases, 'scan')}"
            f"{_when(own)}{_settings(own)}."
        )


def _reviews(found: Stamps) -> Iterator[str]:
    if not found.of("verdicts"):
        yield "No slice was judged."
    for (who, source), own in _grouped(
        found.of("verdicts"), lambda one: (one.by, str(one.settings["source"]))
    ):
        words = ", ".join(
            f"{sum(int(one.settings[word]) for one in own)} {word}"
            for word in ("good", "bad", "unsure")
        )
        judged = _many(sum(one.count for one in own), "verdict")
        cases = _many(len({one.case for one in own}), "scan")
        yield (
            f"- **{who or _NOBODY}** ({source}): {judged} ({words}) on slices of "
            f"{cases}{_when(own)}."
        )


def _corrections(found: Stamps) -> Iterator[str]:
    if not found.of("correction"):
        yield "No prediction was corrected."
    for (who,), own in _grouped(found.of("correction"), lambda one: (one.by,)):
        slices = _many(sum(one.count for one in own), "slice")
        cases = _many(len({one.case for one in own}), "scan")
        yield (f"- **{who or _NOBODY}** corrected {slices} of {cases}{_when(own)}.")


def _software(found: Stamps) -> str:
    versions: dict[str, set[str]] = {}
    for one in found.stamps:
        for name, version in one.versions.items():
            versions.setdefault(name, set()).add(version)
    told = [f"{name} {', '.join(sorted(all_))}" for name, all_ in versions.items()]
    return f"{'; '.join(told)}." if told else "No versions were noted."


# ---- Words ----


def _grouped(
    stamps: Iterable[Stamp], key: Callable[[Stamp], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], list[Stamp]]]:
    groups: dict[tuple[str, ...], list[Stamp]] = {}
    for one in stamps:
        groups.setdefault(key(one), []).append(one)
    return list(groups.items())


def _channels(scans: Iterable[Scan]) -> list[str]:
    return list(dict.fromkeys(name for scan in scans for name in scan.channels))


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _when(stamps: Iterable[Stamp]) -> str:
    """From which day to which; nothing where nobody noted it."""
    times = [time for one in stamps for time in (one.first_utc, one.last_utc) if time]
    if not times:
        return ""
    first, last = min(times)[:10], max(times)[:10]
    return f", {first}" if first == last else f", {first} to {last}"


def _settings(stamps: Iterable[Stamp]) -> str:
    """The settings that change labels or uncertainty, as far as all share them."""
    told = []
    every = list(stamps)
    for name in _SHOWN_SETTINGS:
        values = {str(one.settings.get(name)) for one in every}
        if values != {"None"}:
            told.append(f"{name} {' or '.join(sorted(values))}")
    return f"; {', '.join(told)}" if told else ""


def _row(stamp: Stamp) -> dict[str, Value]:
    return {
        "kind": stamp.kind,
        "name": stamp.name,
        "case": stamp.case,
        "by": stamp.by,
        "first_utc": stamp.first_utc,
        "last_utc": stamp.last_utc,
        "fingerprint": stamp.fingerprint,
        "count": stamp.count,
        "settings": json.dumps(stamp.settings, sort_keys=True, default=str),
        "versions": json.dumps(stamp.versions, sort_keys=True),
    }
