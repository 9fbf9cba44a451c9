"""What people made of predictions, and what of it counts as labelled.

A correction is a copy: the prediction that it was made from never changes. It lies in a
folder of its own, in a project or beside any results of `kdseg-train predict`::

    corrections/CASE/MODEL/
        labels.*         all labels of the scan: as predicted, but for what was painted;
                         in the prediction's format, large ones in OME-Zarr
        correction.json  the record: what it was made from, and what a person did
        changed/*.npz    blocks that were painted since labels.* was written

``MODEL`` has a number behind it where the same model predicted the scan anew: each
prediction has a correction of its own. The record is one object:

    version         1
    case            id of the scan
    model           name of the model
    prediction      uuid of the prediction
    labels_hash     SHA-256 of the predicted labels
    fingerprint     of the model
    scan_hash       SHA-256 of the scan
    images          files of the scan, each with `path`, and `part` or null
    labels          name of the file of labels beside the record
    classes         what the labels mean: objects with `value`, `name`, `color`
    slices          slices that are not as predicted, in the order in which they were
                    corrected last; objects with
                        axis     0, 1, 2: z, y, x of the stored array
                        index    along that axis, from 0
                        how      painted or interpolated
                        by, utc  who and when
    sent            slices that count as labelled; objects with axis, index, by, utc
    sent_whole      null, or where all slices count as labelled an object with by, utc
    merging         true while blocks are being written into labels.*

**The labelled set** of a folder are the slices in `sent` of all its records, and the
volumes with `sent_whole`; `labelled` reads it. Whatever else lies in labels.* is a
prediction, and nothing is to be learnt from it as if it were true. A slice is noted as
sent after labels.* has it, so labels.* is there and whole wherever something is sent.
What is painted on a slice after it was sent is labelled too, once labels.* has it.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import ReviewError
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.volumes.labels import LabelClass, LabelSet
from napari_kdseg.volumes.naming import unique_name

FOLDER = "corrections"
RECORD = "correction.json"
LOCKS = ("review", "correcting")
"""Folders of a project, or of results, that have ``CASE/*.lock`` of who paints."""
VERSION = 1

How = Literal["painted", "interpolated"]
Axis = Literal[0, 1, 2]
Place = tuple[int, int]
"""Axis of the stored array, and index of a slice."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageFile(_Part):
    """A file of the scan, as it was found when the correction was begun."""

    path: Path
    part: str | None = None


class Signed(_Part):
    """Something a person did, and when."""

    by: str = ""
    utc: str = Field(default_factory=lambda: _now())


class SentSlice(Signed):
    """A slice that counts as labelled."""

    axis: Axis
    index: int = Field(ge=0)

    @property
    def place(self) -> Place:
        """Axis and index."""
        return self.axis, self.index


class CorrectedSlice(SentSlice):
    """A slice that is not as predicted."""

    how: How


class Record(_Part):
    """What ``correction.json`` holds."""

    version: Literal[1] = 1
    case: str
    model: str
    prediction: str
    labels_hash: str
    fingerprint: str = ""
    scan_hash: str = ""
    images: tuple[ImageFile, ...] = ()
    labels: str = Field(pattern=r"^labels\.[A-Za-z.]+$")
    classes: tuple[LabelClass, ...]
    slices: tuple[CorrectedSlice, ...] = ()
    sent: tuple[SentSlice, ...] = ()
    sent_whole: Signed | None = None
    merging: bool = False

    @classmethod
    def of(cls, prediction: Prediction, labels: str) -> "Record":
        """Begin the record of a correction.

        Parameters
        ----------
        prediction
            What is corrected.
        labels
            Name of the file that the copy will have.
        """
        files = zip(prediction.images, prediction.parts, strict=True)
        return cls(
            case=prediction.case,
            model=prediction.model,
            prediction=prediction.uuid,
            labels_hash=prediction.labels_hash,
            fingerprint=prediction.fingerprint,
            scan_hash=prediction.scan_hash,
            images=tuple(ImageFile(path=path, part=part) for path, part in files),
            labels=labels,
            classes=prediction.classes.classes,
        )

    @property
    def label_set(self) -> LabelSet:
        """The classes."""
        return LabelSet(classes=self.classes)

    def with_slices(
        self, changed: Mapping[Place, How], by: str, undone: Collection[Place] = ()
    ) -> "Record":
        """Note slices as corrected now, and others as they were predicted.

        Parameters
        ----------
        changed
            How each was corrected; the last of them stands last.
        by
            Who corrected them.
        undone
            Those that are not corrected any more.
        """
        kept = tuple(
            one
            for one in self.slices
            if one.place not in changed and one.place not in undone
        )
        new = tuple(
            CorrectedSlice.model_validate(
                {"axis": axis, "index": index, "how": how, "by": by}
            )
            for (axis, index), how in changed.items()
        )
        return self.model_copy(update={"slices": (*kept, *new)})

    def with_sent(self, axis: int, index: int, by: str) -> "Record":
        """Count a slice as labelled."""
        new = SentSlice.model_validate({"axis": axis, "index": index, "by": by})
        return self.model_copy(
            update={"sent": (*self.without_sent(axis, index).sent, new)}
        )

    def without_sent(self, axis: int, index: int) -> "Record":
        """Do not count a slice as labelled any more."""
        kept = tuple(one for one in self.sent if one.place != (axis, index))
        return self.model_copy(update={"sent": kept})

    def with_whole(self, by: str) -> "Record":
        """Count all slices as labelled."""
        return self.model_copy(update={"sent_whole": Signed(by=by)})

    def without_whole(self) -> "Record":
        """Count only those slices as labelled that were sent one by one."""
        return self.model_copy(update={"sent_whole": None})


@dataclass(frozen=True)
class Corrected:
    """A scan of which slices, or all, count as labelled."""

    case: str
    model: str
    """Which model had predicted it."""
    labels: Path
    """All labels of the scan; only those of `slices` count, or all where `whole`."""
    classes: LabelSet
    slices: Mapping[int, tuple[int, ...]]
    """Indices, ascending, by axis of the stored array; empty where `whole`."""
    whole: bool
    images: tuple[Path, ...]
    """Files of the scan, as found when the correction was begun."""
    parts: tuple[str | None, ...]
    """Which volume of each, where it holds several."""
    prediction: str
    """Uuid of what was corrected."""
    labels_hash: str
    """SHA-256 of the labels that were predicted."""
    scan_hash: str


def labelled(
    folder: Path, note: Callable[[str], None] | None = None
) -> tuple[Corrected, ...]:
    """Find what counts as labelled among the corrections of a project.

    Parameters
    ----------
    folder
        The project, or what was given to `kdseg-train predict` as --out.
    note
        Told a sentence about each correction that is damaged and left out; without
        it, a damaged one is an error.

    Returns
    -------
    tuple of Corrected
        By case, then by folder.

    Raises
    ------
    ReviewError
        Where a record is damaged, of a newer version, or lacks its labels.
    """
    found = []
    for path in records_in(folder):
        try:
            record = read_record(path)
            if record.sent or record.sent_whole is not None:
                found.append(_corrected(path, record))
        except ReviewError as error:
            if note is None:
                raise
            note(str(error))
    return tuple(found)


def corrected(folder: Path, case: str, model: str, labels_hash: str = "") -> set[Place]:
    """Find the slices of a scan that are not as a model predicted them.

    Parameters
    ----------
    folder
        As `labelled`.
    case, model
        Names of both.
    labels_hash
        Counts only what was made from this very prediction; empty: from any.

    Returns
    -------
    set of tuple
        Axis and index. What cannot be read is left out.
    """
    found: set[Place] = set()
    for path in records_in(folder, case):
        try:
            record = read_record(path)
        except ReviewError:
            continue
        if record.model == model and labels_hash in ("", record.labels_hash):
            found |= {one.place for one in record.slices}
    return found


def records_in(folder: Path, case: str = "") -> tuple[Path, ...]:
    """List the records of all corrections, or of those of one scan."""
    home = folder / FOLDER
    cases = [home / case] if case else sorted(home.glob("*"))
    return tuple(path for one in cases for path in sorted(one.glob(f"*/{RECORD}")))


def read_record(path: Path) -> Record:
    """Read a record.

    Raises
    ------
    ReviewError
        Where it is damaged, or a newer version wrote it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["version"]
        if isinstance(version, int) and version > VERSION:
            raise ReviewError(
                f"{path} has version {version}, and this program knows {VERSION}; a "
                "newer one wrote it. Update napari-kdseg."
            )
        return Record.model_validate(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReviewError(
            f"{path} cannot be used ({_in_brief(error)}); the labels beside it are "
            "as they were. Get it from a backup, or move its folder away and correct "
            "the scan anew."
        ) from error


def write_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    write_text_atomic(path, record.model_dump_json(indent=1) + "\n")


def home_of(folder: Path, prediction: Prediction) -> Path:
    """Say where the correction of a prediction lies, or will.

    Raises
    ------
    ReviewError
        Where a record among the corrections of that scan is damaged: it might be the
        one that is looked for.
    """
    for path in records_in(folder, prediction.case):
        if read_record(path).labels_hash == prediction.labels_hash:
            return path.parent
    home = folder / FOLDER / prediction.case
    return home / unique_name(prediction.folder.name, _taken(home))


def _taken(home: Path) -> Iterator[str]:
    """Name the folders that are somebody's."""
    for path in sorted(home.glob("*")):
        if not path.is_dir() or any(path.iterdir()):
            yield path.name


def _corrected(path: Path, record: Record) -> Corrected:
    labels = path.parent / record.labels
    if not labels.exists():
        raise ReviewError(
            f"{labels} is missing, and {path.name} beside it says that slices of "
            f"{record.case!r} count as labelled. Put it back, or move the folder away."
        )
    whole = record.sent_whole is not None
    axes = sorted({one.axis for one in record.sent})
    slices: dict[int, tuple[int, ...]] = {
        axis: tuple(sorted(one.index for one in record.sent if one.axis == axis))
        for axis in ([] if whole else axes)
    }
    return Corrected(
        case=record.case,
        model=record.model,
        labels=labels,
        classes=record.label_set,
        slices=slices,
        whole=whole,
        images=tuple(image.path for image in record.images),
        parts=tuple(image.part for image in record.images),
        prediction=record.prediction,
        labels_hash=record.labels_hash,
        scan_hash=record.scan_hash,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _in_brief(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it does not say {error.args[0]!r}"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
