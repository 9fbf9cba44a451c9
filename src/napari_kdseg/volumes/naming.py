"""What the names of files tell: which case and channel they are, and which are labels.

Names only propose; a person may know better. nnU-Net writes ``CASE_0000``, others
``CASE_t1``, ``CASE/t1`` or ``CASE-labels``.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_kdseg.errors import UsageError
from napari_kdseg.json_files import object_in
from napari_kdseg.volumes.labels import LabelClass, LabelSet, distinct_color
from napari_kdseg.volumes.volume import case_id

MODALITIES = (
    *("t1", "t1w", "t1n", "t1c", "t1ce", "t1gd", "t2", "t2w", "t2f", "flair"),
    *("pd", "adc", "dwi", "swi", "dce", "mra", "ct", "cta", "cbct", "pet", "suv"),
)
"""Names that stand for a channel at the end of a file's name, in their order."""

PATTERNS = ("{case}_{channel}", "{case}-{channel}", "{case}/{channel}")
"""Patterns that are common; see `group_by_pattern`."""

# BIDS writes label-22 for what else a name tells, so no hyphen follows these.
_LABEL_WORDS = re.compile(
    r"(^|[-_. ])(labels?|seg|segmentation|mask|msk)([_. ]|$)", re.IGNORECASE
)
_LABEL_FOLDERS = ("labels", "labelstr", "labelsts", "corrections")
_NUMBER = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_MODALITY = re.compile(
    rf"(?P<case>.+)[-_. ](?P<channel>{'|'.join(MODALITIES)})", re.IGNORECASE
)
_RESERVED = {"con", "prn", "aux", "nul"} | {
    f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)
}
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_UNFINISHED = ".partial-"  # what is called so is removed after a crash
_MOST_BYTES = 120


@dataclass(frozen=True)
class Naming:
    """What a file is called: its case and its channel, empty where it names none."""

    case: str
    channel: str = ""


def group_by_pattern(
    paths: Iterable[Path], pattern: str | None = None
) -> dict[str, dict[str, Path]]:
    """Propose which files belong to one case.

    Parameters
    ----------
    paths
        Files or folders that hold volumes.
    pattern
        Such as ``{case}_{channel}`` for ``anna_t1.nii.gz``, or ``{case}/{channel}``
        for ``anna/t1.nii.gz``; endings are left out. None takes what is usual:
        nnU-Net's ``_0000``, a modality such as ``t1`` or ``ct`` at the end, or a
        modality as the whole name in the folder of a case.

    Returns
    -------
    dict
        Case -> channel -> file, in the order of channels. A file that names no channel
        has the channel ``""``. Cases of one name in different folders, and a channel
        that a case has already, get a number: ``anna-2``.

    Raises
    ------
    UsageError
        When the pattern has not one ``{case}``, or more than one ``{channel}``.
    """
    listed = sorted(paths)
    read = _usual(listed) if pattern is None else _reader(pattern)
    groups: dict[tuple[Path | None, str], list[tuple[str, Path]]] = {}
    for path in listed:
        found = read(path)
        # A pattern of one's own may gather channels from several folders.
        place = path.parent if pattern is None else None
        groups.setdefault((place, found.case), []).append((found.channel, path))
    cases: dict[str, dict[str, Path]] = {}
    for (_, case), files in groups.items():
        for channels in _without_doubles(files):
            cases[unique_name(case, cases)] = channels
    return cases


def unique_name(name: str, taken: Iterable[str]) -> str:
    """Give the name, or the first of ``NAME-2``, ``NAME-3`` ... that nobody has.

    Upper and lower case count as the same, as on many disks.
    """
    known = {other.casefold() for other in taken}
    number, candidate = 1, name
    while candidate.casefold() in known:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def plain_name(text: str) -> str:
    """Make a name that can be a folder's on every system."""
    plain = re.sub(rf"(?:{_FORBIDDEN.pattern}|\s)+", "_", text)
    plain = plain.replace(_UNFINISHED, "-").strip("._")
    plain = plain.encode()[:_MOST_BYTES].decode(errors="ignore").rstrip("._") or "scan"
    return plain if is_plain_name(plain) else f"scan_{plain}"


def is_plain_name(text: str) -> bool:
    """Whether a name can be a folder's on every system; blanks inside it are fine."""
    return (
        0 < len(text.encode()) <= _MOST_BYTES + len("scan_")
        and not _FORBIDDEN.search(text)
        and _UNFINISHED not in text
        and text == text.strip().rstrip(".")
        and not text.startswith(".")
        and text.split(".")[0].lower() not in _RESERVED
    )


def looks_like_labels(path: Path) -> bool:
    """Whether the name of a file, or of its folder, says that it holds labels."""
    return lies_among_labels(path) or _LABEL_WORDS.search(case_id(path)) is not None


def lies_among_labels(path: Path) -> bool:
    """Whether a file lies in a folder that is for labels, such as ``labelsTr``."""
    return path.parent.name.lower() in _LABEL_FOLDERS


def labelled_case(path: Path) -> str:
    """Name the case that a file of labels belongs to: ``anna`` for ``anna-labels``."""
    name = _LABEL_WORDS.sub(r"\3", case_id(path)).strip("-_. ")
    return name or path.parent.name


def channel_names(path: Path) -> dict[str, str]:
    """Name the channels ``0000`` and on, as the data set of a file lists them.

    Empty where the file lies in no data set of nnU-Net.
    """
    listed = _description(path).get("channel_names")
    if not isinstance(listed, dict):
        return {}
    numbers = {str(key): str(name) for key, name in listed.items()}
    return {f"{int(key):04d}": name for key, name in numbers.items() if key.isdigit()}


def channel_told(path: Path, known: Iterable[str] = ()) -> str:
    """Tell what a file shows, as its name or its data set has it; empty: neither says.

    Parameters
    ----------
    path
        The file: ``anna_t1.nii.gz``, ``t1.nii.gz``, or ``anna_0000.nii.gz`` in a data
        set of nnU-Net, which lists what each number is.
    known
        Words that count beside `MODALITIES`, such as the channels of a model.
    """
    name = case_id(path)
    numbered = _NUMBER.fullmatch(name)
    if numbered is not None:
        return channel_names(path).get(numbered["channel"], "")
    words = sorted({*MODALITIES, *known}, key=len, reverse=True)
    ending = rf"(?:.*[-_. ])?({'|'.join(map(re.escape, words))})"
    found = re.fullmatch(ending, name, re.IGNORECASE | re.DOTALL)
    return "" if found is None else found[1]


def images_of_labels(folder: Path) -> dict[Path, Path]:
    """Files of labels that the data set in a folder lists, and the image of each."""
    listed = object_in(folder / "dataset.json").get("training")
    pairs = listed if isinstance(listed, list) else []
    named = [
        (one.get("label"), one.get("image")) for one in pairs if isinstance(one, dict)
    ]
    return {
        folder / label: folder / image
        for label, image in named
        if isinstance(label, str) and isinstance(image, str)
    }


def classes_of_data_set(path: Path) -> LabelSet | None:
    """Give the classes that the data set of a file lists (Decathlon, nnU-Net)."""
    try:
        listed = dict(_description(path)["labels"])
        # Decathlon has {"1": name}, nnU-Net {name: 1}.
        pairs = [(k, v) if isinstance(v, str) else (v, k) for k, v in listed.items()]
        named = {int(value): str(name) for value, name in pairs if int(value) > 0}
        return LabelSet(
            classes=tuple(
                LabelClass(value=value, name=name, color=distinct_color(value))
                for value, name in sorted(named.items())
            )
        )
    except (ValueError, KeyError, TypeError):
        return None


def _usual(listed: Sequence[Path]) -> Callable[[Path], Naming]:
    """Read names as is usual; numbers are channels where ``_0000`` is there."""
    there = {(path.parent, case_id(path)) for path in listed}

    def read(path: Path) -> Naming:
        name = case_id(path)
        found = _NUMBER.fullmatch(name)
        if found is not None:
            case, number = found["case"], found["channel"]
            known = channel_names(path)
            if number in known or (path.parent, f"{case}_0000") in there:
                return Naming(case, known.get(number, number))
        if name.lower() in MODALITIES:
            return Naming(path.parent.name or name, name)
        found = _MODALITY.fullmatch(name)
        return (
            Naming(name) if found is None else Naming(found["case"], found["channel"])
        )

    return read


def _reader(pattern: str) -> Callable[[Path], Naming]:
    """Turn a pattern into a function that reads names."""
    if pattern.count("{case}") != 1 or pattern.count("{channel}") > 1:
        raise UsageError(
            f"The pattern {pattern!r} does not name one case; it needs {{case}} once, "
            "and {channel} at most once. Write for instance {case}_{channel}."
        )
    escaped = re.escape(pattern).replace(r"\{case\}", "(?P<case>[^/]+)")
    expression = re.compile(escaped.replace(r"\{channel\}", "(?P<channel>[^/]+?)"))
    levels = pattern.count("/")

    def read(path: Path) -> Naming:
        name = case_id(path)
        above = path.parent.parts[-levels:] if levels else ()
        found = expression.fullmatch("/".join([*above, name]))
        if found is None:
            return Naming(name)
        return Naming(found["case"], found.groupdict().get("channel") or "")

    return read


def _without_doubles(files: Sequence[tuple[str, Path]]) -> list[dict[str, Path]]:
    """Split the files of a case so that no channel comes twice in a part."""
    parts: list[dict[str, Path]] = []
    for channel, path in sorted(files, key=_in_order):
        free = next((part for part in parts if channel not in part), None)
        if free is None or "" in (channel, *free):
            free = {}
            parts.append(free)
        free[channel] = path
    return parts


def _in_order(item: tuple[str, Path]) -> tuple[int, str, Path]:
    channel, path = item
    known = channel.lower() in MODALITIES
    # Channels that a data set names keep the order of their numbers.
    place = MODALITIES.index(channel.lower()) if known else 0
    return place, path.name, path


def _description(path: Path) -> dict[str, Any]:
    """Read the description of the data set that a file lies in; empty without one."""
    return object_in(path.parent.parent / "dataset.json")
