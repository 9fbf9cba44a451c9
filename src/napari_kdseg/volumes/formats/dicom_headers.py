"""What the headers of DICOM files say of their frames; pixels stay on disk.

Names of tags are those of DICOM PS3.6. No tag that may name a person is read.
"""

import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.dicom_codecs import LOSSY
from napari_kdseg.volumes.formats.dicom_pixels import Pixels, find_pixels
from napari_kdseg.volumes.formats.dicom_tags import Tags
from napari_kdseg.volumes.formats.sniff import is_dicom, visible_files

Kind = Literal["image", "segmentation", "other"]
Three = tuple[float, float, float]

ENDINGS = (".dcm", ".dicom", ".ima")
_TAGS = [
    *("SOPClassUID", "Modality", "ImageType", "StudyInstanceUID", "SeriesInstanceUID"),
    *("SeriesNumber", "SeriesDescription", "InstanceNumber", "AcquisitionNumber"),
    *("EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "TriggerTime"),
    *("DiffusionBValue", "SpacingBetweenSlices", "SliceThickness"),
    *("ImagePositionPatient",),
    *("ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "Rows"),
    *("Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PixelPaddingValue"),
    *("LossyImageCompression", "SharedFunctionalGroupsSequence"),
    *(
        "PerFrameFunctionalGroupsSequence",
        "SegmentationType",
        "SegmentSequence",
        "SegmentsOverlap",
    ),
    "SpecificCharacterSet",
]
_FAILURES = (
    *(InvalidDicomError, EOFError, struct.error, ValueError, KeyError, TypeError),
    *(AttributeError, IndexError, NotImplementedError, OverflowError, RecursionError),
    *(MemoryError, OSError, zlib.error, LookupError, BytesLengthException),
)
_LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # not in every pydicom
_STANDARD = "1.2.840.10008."
_UNMARKED = (b"\x08\x00", b"\x02\x00", b"\x00\x08")


_REMEMBERED = 8192


@dataclass(frozen=True)
class Frame:
    """One plane of pixels, and what its header says of its place and values."""

    pixels: Pixels
    index: int
    """Which frame of the file, from 0."""
    position: Three | None
    """Image Position (Patient): LPS millimetres of the centre of the first pixel."""
    orientation: tuple[float, ...] | None
    """Image Orientation (Patient): along a row, then down a column."""
    spacing: tuple[float, float] | None
    """Pixel Spacing: between rows, between columns."""
    slope: float
    intercept: float
    imager_spacing: bool
    """Whether the spacing at the detector is given (Imager Pixel Spacing)."""
    kinds: dict[str, str]
    """What tells apart frames at one place: image type, echo, time, ..."""

    @property
    def label(self) -> str:
        """What to call it in a message: its file, and which frame of several."""
        name = self.pixels.path.name
        return name if self.pixels.frames == 1 else f"frame {self.index + 1} of {name}"


@dataclass(frozen=True)
class Segment:
    """One structure of a segmentation."""

    number: int
    label: str
    lab: tuple[int, int, int] | None
    """Recommended Display CIELab Value, each from 0 to 65535."""


@dataclass(frozen=True)
class DicomFile:
    """The header of one file."""

    path: Path
    kind: Kind
    sop_class: str
    series: str
    """What files of one series share."""
    number: str
    """Series Number; empty where there is none."""
    description: str
    modality: str
    frames: tuple[Frame, ...] = ()
    pixels: Pixels | None = None
    padding: int | None = None
    lossy: bool = False
    has_lut: bool = False
    spacing_between: float | None = None
    """Spacing Between Slices; never used but to say that it differs."""
    thickness: float | None = None
    """Slice Thickness, or Spacing Between Slices; used where there is one slice."""
    segmentation_type: str = ""
    segments: tuple[Segment, ...] = ()
    segments_overlap: str = ""
    """YES, NO or UNDEFINED; empty where it is not said."""


def read_folder(folder: Path) -> list[DicomFile]:
    """Read the headers of all DICOM files that lie directly in a folder.

    Raises
    ------
    VolumeError
        When a file is damaged, or none is DICOM.
    """
    found = []
    for path in visible_files(folder):
        about = path.stat()
        found.append(_remembered(path, about.st_size, about.st_mtime_ns))
    files = [file for file in found if file is not None]
    if files:
        return files
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
    having = [
        name for name in inner if any(map(is_dicom, visible_files(folder / name)))
    ]
    if having:
        raise VolumeError(
            f"{folder} holds no DICOM file itself, but its folders "
            f"{', '.join(having[:5])} do; one folder is read at a time. Choose one."
        )
    raise VolumeError(
        f"{folder} holds no DICOM file; a series is a folder of them. Check the path."
    )


@lru_cache(_REMEMBERED)
def _remembered(path: Path, size: int, changed_ns: int) -> DicomFile | None:
    """Read a header once: a folder's are asked for by each of its series."""
    del size, changed_ns  # tell a file from what lay there before
    return read_file(path, in_folder=True)


def read_file(path: Path, *, in_folder: bool = False) -> DicomFile | None:
    """Read and check the header of one file.

    Parameters
    ----------
    in_folder
        Whether other files than DICOM may lie there, which give None.

    Raises
    ------
    VolumeError
        When it is damaged or no DICOM file.
    """
    marked = is_dicom(path)
    if in_folder and not marked and not _may_be_dicom(path):
        return None
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of values that are not used
            found = _parsed(path, file, marked=marked)
    except _FAILURES as error:
        if not marked and in_folder and path.suffix.lower() not in ENDINGS:
            return None
        raise VolumeError(
            f"{path} has a header that cannot be read ({type(error).__name__}). It is "
            "no DICOM file, is damaged or was cut off; remove it, or fetch it anew."
        ) from error
    if found is None and (not in_folder or path.suffix.lower() in ENDINGS):
        raise VolumeError(
            f"{path} is no DICOM file: it has neither the mark DICM nor tags of an "
            "image. Remove it, or fetch it anew."
        )
    return found


def _may_be_dicom(path: Path) -> bool:
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(2) in _UNMARKED
    except OSError:
        return False


def _parsed(path: Path, file: BinaryIO, *, marked: bool) -> DicomFile | None:
    header = dcmread(
        file, stop_before_pixels=True, force=not marked, specific_tags=_TAGS
    )
    meta = getattr(header, "file_meta", Dataset())
    sop_class = str(
        meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID", "")
    )
    has_size = "Rows" in header and "Columns" in header
    if not marked and not has_size:
        return None
    if not has_size and _is_cut(sop_class):
        raise EOFError
    kind = _kind(sop_class, has_size=has_size)
    base: dict[str, Any] = {
        "path": path,
        "kind": kind,
        "sop_class": UID(sop_class).name if sop_class else "no kind it names",
        "series": _series(header),
        "number": _text(header, "SeriesNumber"),
        "description": _text(header, "SeriesDescription"),
        "modality": _text(header, "Modality"),
    }
    if kind == "other":
        return DicomFile(**base)
    pixels, tags = _pixels(header, file, path), Tags(header, 0, path)
    between, thickness = (
        tags.number(key) for key in ("SpacingBetweenSlices", "SliceThickness")
    )
    return DicomFile(
        **base,
        pixels=pixels,
        frames=_frames(header, pixels),
        padding=_padding(header, pixels),
        lossy=header.get("LossyImageCompression") == "01" or pixels.syntax in LOSSY,
        has_lut=bool(header.get("ModalityLUTSequence")),
        spacing_between=between,
        thickness=between or thickness,
        segmentation_type=_text(header, "SegmentationType"),
        segments_overlap=_text(header, "SegmentsOverlap"),
        segments=tuple(_segment(item) for item in header.get("SegmentSequence") or ()),
    )


def _segment(item: Dataset) -> Segment:
    number, lab = int(item.SegmentNumber), item.get("RecommendedDisplayCIELabValue")
    color = None if lab is None else (int(lab[0]), int(lab[1]), int(lab[2]))
    return Segment(number, _text(item, "SegmentLabel") or f"segment {number}", color)


def _is_cut(sop_class: str) -> bool:
    """Whether the UID of what a file holds is but the beginning of one."""
    if len(sop_class) < len(_STANDARD):
        return _STANDARD.startswith(sop_class)
    return sop_class.startswith(_STANDARD) and UID(sop_class).name == sop_class


def _kind(sop_class: str, *, has_size: bool) -> Kind:
    name = UID(sop_class).name if sop_class else ""
    if sop_class in (SegmentationStorage, _LABEL_MAP_STORAGE):
        return "segmentation"
    if "Image Storage" in name or (has_size and "Storage" not in name):
        return "image"
    return "other"


def _series(header: Dataset) -> str:
    """Say what the files of one series share: its UID, or all else that names it."""
    uid = _text(header, "SeriesInstanceUID")
    if uid:
        return uid
    keys = ("StudyInstanceUID", "SeriesNumber", "SeriesDescription", "Modality")
    geometry = ("ImageOrientationPatient", "Rows", "Columns")
    return "|".join(str(header.get(key, "")) for key in (*keys, *geometry))


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    readable = "".join(c if c.isprintable() else " " for c in str(value or ""))
    return " ".join(readable.split())


def _pixels(header: Dataset, file: BinaryIO, path: Path) -> Pixels:
    implicit, little = header.original_encoding
    syntax = str(header.file_meta.get("TransferSyntaxUID", "")) or _guess(header)
    if syntax == DeflatedExplicitVRLittleEndian:
        place = (0, 0, True)
    else:
        place = find_pixels(file, implicit=bool(implicit), little=bool(little))
    keys = ("Rows", "Columns", "BitsAllocated", "BitsStored")
    rows, columns, allocated, stored = (_needed(header, key, path) for key in keys)
    high_bit = _whole(header, "HighBit", path)
    return Pixels(
        path,
        rows,
        columns,
        frames=_whole(header, "NumberOfFrames", path) or 1,
        samples=_whole(header, "SamplesPerPixel", path) or 1,
        photometric=_text(header, "PhotometricInterpretation"),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=stored - 1 if high_bit is None else high_bit,
        signed=bool(_whole(header, "PixelRepresentation", path)),
        syntax=syntax,
        offset=place[0],
        length=place[1],
        words=place[2],
    )


def _guess(header: Dataset) -> str:
    implicit, little = header.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def _whole(header: Dataset, keyword: str, path: Path) -> int | None:
    value = header.get(keyword)
    if value is None or value == "":
        return None
    if not isinstance(value, int) or value < 0:
        raise VolumeError(
            f"{path} has the {keyword} {value}; it must be one whole number. The "
            "header is damaged: fetch or make it anew."
        )
    return int(value)


def _needed(header: Dataset, keyword: str, path: Path) -> int:
    value = _whole(header, keyword, path)
    if not value:
        raise VolumeError(
            f"{path} has no {keyword}, or it is 0; an image needs it. It is damaged or "
            "was cut off: fetch or make it anew."
        )
    return value


def _padding(header: Dataset, pixels: Pixels) -> int | None:
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    # Some writers give a negative value as an unsigned one.
    span = 1 << pixels.bits_allocated
    wraps = pixels.signed and value > pixels.range[1]
    return value - span if wraps else value


def _frames(header: Dataset, pixels: Pixels) -> tuple[Frame, ...]:
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if groups is not None and len(groups) != pixels.frames:
        raise VolumeError(
            f"{pixels.path} describes {len(groups)} frames and says it has "
            f"{pixels.frames}; both must be equal. It is damaged: fetch or make it "
            "anew."
        )
    return tuple(_frame(header, pixels, index) for index in range(pixels.frames))


def _frame(header: Dataset, pixels: Pixels, index: int) -> Frame:
    tags = Tags(header, index, pixels.path)
    position = tags.numbers("ImagePositionPatient", 3)
    spacing = tags.numbers("PixelSpacing", 2)
    slope, intercept = tags.number("RescaleSlope"), tags.number("RescaleIntercept")
    if pixels.frames > 1 and not tags.is_enhanced:
        position = None  # one for all frames says nothing of where each lies
    return Frame(
        pixels,
        index,
        None if position is None else (position[0], position[1], position[2]),
        tags.numbers("ImageOrientationPatient", 6),
        None if spacing is None else (spacing[0], spacing[1]),
        1.0 if slope is None else slope,
        0.0 if intercept is None else intercept,
        tags.get("ImagerPixelSpacing") is not None,
        tags.kinds(pixels.frames),
    )
