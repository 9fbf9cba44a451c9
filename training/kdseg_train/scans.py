"""Cases by their headers, with their channels as models take them."""

import contextlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from kdseg_train.channel_files import in_order, shown_by
from kdseg_train.inputs import GivenCase, find_cases, one_case, refuse_doubles
from napari_kdseg.errors import KdsegError, ModelError, UsageError, VolumeError
from napari_kdseg.models.card import ModelCard
from napari_kdseg.models.model import Model
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.channels import SHARE_A_GRID, joined_names
from napari_kdseg.volumes.modalities import contradict, machine_of
from napari_kdseg.volumes.volume import Grid, check_same_grid

Part = str | tuple[str | None, ...] | None
_NAMED = 3  # files in a sentence


@dataclass(frozen=True)
class Scan:
    """One case to predict, known by its headers."""

    id: str
    images: tuple[Path, ...]
    """One file with every channel, or one file a channel."""
    headers: tuple[formats.Header, ...]
    parts: tuple[str | None, ...]
    """Which volume of each file, where it holds several."""
    said: tuple[str, ...] = ()
    """What each channel shows by a data set's or a person's word; empty: by none."""

    @property
    def grid(self) -> Grid:
        """Where the voxels of all channels lie."""
        return self.headers[0].grid

    @property
    def channels(self) -> tuple[str, ...]:
        """What each channel shows."""
        return joined_names([header.channels for header in self.headers])

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The smallest type that holds the voxels of all channels."""
        return np.result_type(*(header.dtype for header in self.headers))

    @property
    def decoded_bytes(self) -> int:
        """Memory that the open scan takes; 0 where its voxels stay on the disk."""
        return sum(header.decoded_bytes for header in self.headers)

    @property
    def name(self) -> str:
        """What errors call it: its first file."""
        return str(self.images[0])

    @property
    def says_labels(self) -> bool:
        """Whether its files say of themselves that they hold labels."""
        return all(header.holds_labels for header in self.headers)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each channel is by the file itself, or else by its data set."""
        own = tuple(name for header in self.headers for name in header.channels)
        if len(self.said) != len(own):
            return own
        pairs = zip(own, self.said, strict=True)
        return tuple(name if machine_of(name) else said for name, said in pairs)

    def shown(self, card: ModelCard) -> tuple[str, ...]:
        """What each channel shows, as far as a model's channels or names tell."""
        return shown_by(self.images, self.headers, self.said, card.channels)

    def files_of(self, card: ModelCard) -> list[tuple[Path, tuple[str, ...]]]:
        """Each file, with the channels of a model that it goes through it as."""
        names = iter(card.channels)
        return [
            (image, tuple(islice(names, len(header.channels))))
            for image, header in zip(self.images, self.headers, strict=True)
        ]

    def reordered(self, places: Sequence[int]) -> "Scan":
        """The same with its files, of one channel each, in another order."""
        return Scan(
            self.id,
            tuple(self.images[place] for place in places),
            tuple(self.headers[place] for place in places),
            tuple(self.parts[place] for place in places),
            tuple(self.said[place] for place in places if self.said),
        )


_OfFiles = TypeVar("_OfFiles", Scan, GivenCase)


def find_scans(
    inputs: Sequence[Path],
    part: Part = None,
    case: str | None = None,
    channels: Sequence[str] | None = None,
) -> tuple[Scan, ...]:
    """Find the cases of the inputs, without labels that lie among them.

    As `scans_and_labels`.
    """
    return scans_and_labels(inputs, part, case, channels)[0]


def scans_and_labels(
    inputs: Sequence[Path],
    part: Part = None,
    case: str | None = None,
    channels: Sequence[str] | None = None,
) -> tuple[tuple[Scan, ...], tuple[Path, ...]]:
    """Find the cases of the inputs, and read their headers.

    Parameters
    ----------
    inputs
        Files, folders of files and data sets.
    part
        Which volume of each, where they hold several; one for each input where these
        are the channels of one case.
    case
        The one case whose channels the inputs are, in their order.
    channels
        What these show, where somebody said it.

    Returns
    -------
    tuple of Scan
        The cases.
    tuple of Path
        Files in folders that say of themselves that they hold labels. One that is
        named is a case all the same.

    Raises
    ------
    UsageError, DataSetError
        An input that is not there, or that holds no scan; one id for two cases.
    VolumeError
        A header that cannot be trusted, or channels on different grids.
    """
    if isinstance(part, tuple) and (case is None or len(part) != len(inputs)):
        raise UsageError(
            f"The part {part} does not name one volume for each of {len(inputs)} "
            "channels of one case; a list does. Give one part, or a case and a part "
            "for each input."
        )
    cases = find_cases(inputs) if case is None else [one_case(case, inputs, channels)]
    refuse_doubles(cases)
    scans: list[Scan] = []
    labels: list[Path] = []
    for one in cases:
        try:
            scan = scan_of(one, part)
        except VolumeError:
            if one.named or not says_labels(one):
                raise
            labels += one.images
            continue
        if not one.named and scan.says_labels:
            labels += one.images
        else:
            scans.append(scan)
    refuse_labels_alone(scans, labels)
    return tuple(scans), tuple(labels)


def says_labels(case: GivenCase) -> bool:
    """Whether files say of themselves that they hold labels; not where damaged."""
    with contextlib.suppress(KdsegError, OSError):
        return all(
            formats.inspect_volume(path, part).holds_labels
            for path in case.images
            for part in formats.parts_of(path) or (None,)
        )
    return False


def refuse_labels_alone(scans: Sequence[object], labels: Sequence[Path]) -> None:
    """Refuse folders in which there is nothing but labels.

    Raises
    ------
    UsageError
        Naming a file.
    """
    if labels and not scans:
        raise UsageError(
            f"There is no scan in {labels[0].parent}: {labels[0].name} says that it "
            "holds labels. Name the file to segment it all the same."
        )


def left_out(labels: Sequence[Path]) -> Iterator[str]:
    """Say that labels were left out, if any were."""
    if labels:
        names = ", ".join(path.name for path in labels[:_NAMED])
        more = len(labels) - _NAMED
        yield (
            f"Left out as labels, which they say they are: {names}"
            f"{f' and {more} more' if more > 0 else ''}. Name a file to segment it."
        )


def scan_of(case: GivenCase, part: Part = None) -> Scan:
    """Read the headers of one case.

    Raises
    ------
    VolumeError
        A header that cannot be trusted, or channels on different grids.
    """
    parts = part if isinstance(part, tuple) else (part,) * len(case.images)
    headers = tuple(map(formats.inspect_volume, case.images, parts))
    first = headers[0]
    for other in headers[1:]:
        check_same_grid(first.grid, other.grid, first.path, other.path, SHARE_A_GRID)
    return Scan(case.id, case.images, headers, parts, case.said)


def as_models_take(models: Sequence[Model], given: Sequence[Scan]) -> tuple[Scan, ...]:
    """Put the files of each case in the order of the models' channels, by their names.

    Raises
    ------
    ModelError
        Where a model is not for a case, a name contradicts a model's channels, or two
        models want another order.
    """
    cards = [model.card for model in models]
    for scan in given:
        for card in cards:
            _check_count(card, scan, given)
    scans = tuple(_in_order_of(cards, scan) for scan in given)
    for scan in scans:
        for card in cards:
            card.check_fits(scan)
    return scans


def pairings(scans: Sequence[Scan], cards: Sequence[ModelCard]) -> Iterator[str]:
    """Say which file is which channel, once for cases whose files are called alike."""
    for card in {card.channels: card for card in reversed(cards)}.values():
        for first, *others in called_alike(scans):
            pairs = ", ".join(
                f"{' and '.join(names)} = {path.name}"
                for path, names in first.files_of(card)
            )
            more = f"; {len(others)} more likewise" if others else ""
            yield f"{first.id}: {pairs}{more}."


def called_alike(cases: Iterable[_OfFiles]) -> list[list[_OfFiles]]:
    """Put cases of several files together where the case alone differs in the names."""
    alike: dict[tuple[str, ...], list[_OfFiles]] = {}
    for case in cases:
        if len(case.images) > 1:
            names = (path.name.replace(case.id, "*") for path in case.images)
            alike.setdefault(tuple(names), []).append(case)
    return list(alike.values())


def doubts(scans: Sequence[Scan], cards: Sequence[ModelCard]) -> Iterator[str]:
    """Say where files of another machine than a model's meet it, once for all alike."""
    alike: dict[tuple[str, str, str], list[Scan]] = {}
    for card in cards:
        for scan in scans:
            for found, wanted in zip(scan.kinds, card.channels, strict=True):
                if contradict(found, wanted) and machine_of(found) != machine_of(
                    wanted
                ):
                    alike.setdefault((card.name, found, wanted), []).append(scan)
    for (model, found, wanted), (first, *others) in alike.items():
        more = f" and {len(others)} more are" if others else " is"
        yield (
            f"{first.name}{more} {found}, and {model} is for {wanted}; what it finds "
            "there may mean nothing."
        )


def _in_order_of(cards: Sequence[ModelCard], scan: Scan) -> Scan:
    first = cards[0]
    places = _places(first, scan)
    if places != tuple(range(len(places))):
        if len(places) > len(scan.images):
            raise ModelError(
                f"{scan.name} has the channels {', '.join(scan.shown(first))}; "
                f"{first.name} takes {', '.join(first.channels)}. Give it the same "
                "channels in this order, for instance a file each."
            )
        scan = scan.reordered(places)
    for card in cards[1:]:
        if (there := _places(card, scan)) != tuple(range(len(there))):
            raise ModelError(
                f"{first.name} takes {', '.join(first.channels)}, and {card.name} "
                f"{', '.join(card.channels)}: another order. Predict with one of them "
                "at a time."
            )
    return scan


def _places(card: ModelCard, scan: Scan) -> tuple[int, ...]:
    """Which channel of a case is each of a model's; as they come where more differs."""
    shown = scan.shown(card)
    if len(shown) != len(card.channels) or len(shown) == 1:
        return tuple(range(len(shown)))
    called = [file for file, names in scan.files_of(card) for _ in names]
    return in_order(called, shown, card)


def _check_count(card: ModelCard, scan: Scan, given: Sequence[Scan]) -> None:
    """Refuse a case with too few files, or too many, by the files it has.

    Raises
    ------
    ModelError
        Naming the files, and how to give those that belong together.
    """
    found, wanted = len(scan.channels), len(card.channels)
    takes = f"{card.name} takes {wanted} ({', '.join(card.channels)})"
    if found != wanted and len(scan.images) > 1:
        files = ", ".join(path.name for path in scan.images)
        raise ModelError(
            f"{scan.id} has {found} channels, in {files}; {takes}. Give a file of each."
        )
    if found == 1 < wanted:
        raise ModelError(
            f"{scan.name} has 1 channel; {takes}. Where these are files of one scan, "
            "give them in this order to predict, with --case NAME"
            f"{_in_words(card, given)}."
        )


def _in_words(card: ModelCard, given: Sequence[Scan]) -> str:
    """The files in the order of a model's channels, where their names tell it."""
    files = [scan.images[0] for scan in given]
    shown = [name for scan in given for name in scan.shown(card)]
    with contextlib.suppress(ModelError):
        if len(files) == len(shown) == len(card.channels) and all(shown):
            places = in_order(files, shown, card)
            return f": {' '.join(shlex.quote(str(files[at])) for at in places)}"
    return ""
