"""What a prediction is given: files, folders and data sets become cases."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdseg_train.channel_files import group_channels
from kdseg_train.layouts import describes_cases, read_data_set
from napari_kdseg.errors import UsageError
from napari_kdseg.volumes import formats


@dataclass(frozen=True)
class GivenCase:
    """One case by its files; nothing of them was read."""

    id: str
    images: tuple[Path, ...]
    """One file with every channel, or one file a channel."""
    said: tuple[str, ...] = ()
    """What each channel shows by a data set's or a person's word; empty: by none."""
    named: bool = field(default=True, compare=False)
    """Whether somebody named it; else it was found by looking through a folder."""


def find_cases(inputs: Sequence[Path]) -> list[GivenCase]:
    """Expand files, folders of files and data sets into cases, by their names alone.

    Raises
    ------
    UsageError, DataSetError
        An input that is not there, or that holds no scan.
    """
    cases: list[GivenCase] = []
    files: dict[Path, list[Path]] = {}
    for path in inputs:
        _check_exists(path)
        if path.is_dir() and not formats.is_volume(path):
            cases += _cases_in(path)
        elif formats.is_volume(path):
            files.setdefault(path.parent, []).append(path)
        else:
            formats.inspect_volume(path)  # says which endings are known
    for together in files.values():
        cases += [GivenCase(*one) for one in group_channels(together).items()]
    return cases


def one_case(
    name: str, inputs: Sequence[Path], said: Sequence[str] | None = None
) -> GivenCase:
    """Take all inputs for the channels of one case.

    Parameters
    ----------
    name
        Of the case.
    inputs
        Its files.
    said
        What each channel shows, where somebody said it.

    Raises
    ------
    UsageError
        An input that is not there.
    """
    for path in inputs:
        _check_exists(path)
    return GivenCase(name, tuple(inputs), tuple(said or ()))


def refuse_doubles(cases: Sequence[GivenCase]) -> None:
    """Refuse cases whose results would lie in one folder, or outside theirs.

    Raises
    ------
    UsageError
        Naming the files.
    """
    seen: dict[str, Path] = {}
    for case in cases:
        name, first = case.id, case.images[0]
        if name != Path(name).name or name.startswith("."):
            raise UsageError(
                f"The case of {first} is called {name!r}; results go into a folder of "
                "that name, so it may not begin with a dot or hold a separator."
            )
        if name in seen:
            raise UsageError(
                f"{seen[name]} and {first} are both called {name!r}, and their results "
                "would lie in one folder. Rename one, or predict them apart."
            )
        seen[name] = first


def _cases_in(folder: Path) -> list[GivenCase]:
    found = read_data_set(folder)
    if not describes_cases(folder):
        return [GivenCase(case.id, case.images, named=False) for case in found.cases]
    return [
        GivenCase(case.id, case.images, found.channels_of(case.id))
        for case in found.cases
    ]


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise UsageError(f"{path} does not exist; give scans or folders of them.")
