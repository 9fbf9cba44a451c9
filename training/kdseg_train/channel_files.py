"""Files of one case as channels: which belong together, and which shows what.

nnU-Net numbers the channels of a case. Where there are no numbers a person lists the
files, and names such as ``anna_t1`` are believed more than the order they come in.
"""

from collections.abc import Sequence
from pathlib import Path

from napari_kdseg.errors import DataSetError, ModelError
from napari_kdseg.models.card import ModelCard
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.modalities import (
    contradict,
    is_machine,
    machine_of,
    word_of,
)
from napari_kdseg.volumes.naming import channel_told
from napari_kdseg.volumes.volume import default_channels, without_channel


def shown_by(
    files: Sequence[Path],
    headers: Sequence[formats.Header],
    said: Sequence[str],
    channels: Sequence[str],
) -> tuple[str, ...]:
    """Tell what each channel of a case shows, or is said to show; empty: nobody knows.

    Parameters
    ----------
    files, headers
        Of the case, in the order they were given.
    said
        What each channel shows by a person's word or a data set's, which counts most;
        then comes what a file says of itself, then its name. Empty where nobody did.
    channels
        Of a model; their names count beside those of known modalities.
    """
    found: list[str] = []
    for file, header in zip(files, headers, strict=True):
        count = len(header.channels)
        own = list(header.channels)
        if header.channels == default_channels(count):
            own = [""] * count
        if count == 1 and (is_machine(own[0]) or not _is_known(own[0], channels)):
            own = [channel_told(file, channels) or own[0]]
        found += own
    if len(said) == len(found):
        pairs = zip(said, found, strict=True)
        found = [a if _is_known(a, channels) else b for a, b in pairs]
    return tuple(found)


def in_order(
    called: Sequence[Path], shown: Sequence[str], card: ModelCard
) -> tuple[int, ...]:
    """Find the place of each channel of a model among the channels of a case.

    Parameters
    ----------
    called
        The file of each channel of the case.
    shown
        From `shown_by`; as many as the model has.
    card
        Of the model.

    Returns
    -------
    tuple of int
        A place for each channel of the model. Where not all names are told it is the
        order that the files came in.

    Raises
    ------
    ModelError
        Where a name says that its file is another channel, or none of the model's.
    """
    wanted = [word_of(name) for name in card.channels]
    words = [word_of(name) for name in shown]
    if sorted(words) == sorted(wanted) and len(set(words)) == len(words):
        return tuple(words.index(word) for word in wanted)
    for place, (file, word) in enumerate(zip(called, words, strict=True)):
        elsewhere = word in wanted and word != wanted[place]
        if elsewhere or contradict(word, wanted[place]):
            raise ModelError(
                f"{file} would be the channel {card.channels[place]} of {card.name}, "
                f"and is {shown[place]} by its name or its data set. Give a file each "
                f"of {', '.join(card.channels)}, or rename it."
            )
    return tuple(range(len(words)))


def _is_known(name: str, channels: Sequence[str]) -> bool:
    words = {word_of(channel) for channel in channels}
    return bool(machine_of(name)) or word_of(name) in words


def group_channels(paths: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """Case id -> its files in channel order.

    ``CASE_0000`` and ``CASE_0001`` belong together; without a ``CASE_0000`` the numbers
    are those of cases. What is no volume is left out.

    Raises
    ------
    DataSetError
        Where two files of a case have one number or none, or a number is missing.
    """
    volumes = [path for path in formats.volumes_among(paths) if formats.is_volume(path)]
    names = {formats.case_id(path) for path in volumes}
    groups: dict[str, list[Path]] = {}
    for path in volumes:
        name = formats.case_id(path)
        case = without_channel(name)
        known = name if f"{case}_0000" not in names else case
        groups.setdefault(known, []).append(path)
    return {case: _by_number(case, files) for case, files in sorted(groups.items())}


def _by_number(case: str, files: Sequence[Path]) -> tuple[Path, ...]:
    """Put the files of a case in the order of nnU-Net's numbers, all of them there."""
    by_number: dict[str, Path] = {}
    for path in sorted(files):
        number = formats.case_id(path).removeprefix(case).removeprefix("_") or "0000"
        if number in by_number:
            raise DataSetError(_doubled(case, by_number[number], path))
        by_number[number] = path
    there = list(by_number)
    missing = [n for n in (f"{i:04d}" for i in range(len(there))) if n not in there]
    if missing:
        raise DataSetError(
            f"{files[0].parent} has the files {', '.join(there)} of {case!r} and no "
            f"{case}_{missing[0]}; channels are numbered from 0000 without a gap. Add "
            "the file that is missing, or rename the others."
        )
    return tuple(by_number.values())


def _doubled(case: str, first: Path, second: Path) -> str:
    if first == second:
        return f"{first} is given twice; give each file once."
    return (
        f"{first} and {second.name} are both called {case!r}, and files of one case "
        "differ in nnU-Net's number. Rename or move one of them."
    )
