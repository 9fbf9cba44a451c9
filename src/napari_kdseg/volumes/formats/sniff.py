"""Which format a path without a telling name has: looked up in its first bytes."""

from itertools import islice
from pathlib import Path

from napari_kdseg.volumes.volume import suffix_of

_DICOM_MARK = (128, b"DICM")
_DICOM_ENDINGS = (".dcm", ".ima")
_IMAGE_ENDINGS = (".tif", ".tiff", ".png", ".bmp", ".jpg", ".jpeg")
_ZARR_FILES = ("zarr.json", ".zgroup", ".zattrs")
_LOOKED_AT = 64


def is_dicom(path: Path) -> bool:
    """Whether a file is marked as DICOM after its preamble."""
    offset, mark = _DICOM_MARK
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(len(mark)) == mark
    except OSError:
        return False


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a zarr group, whatever it is called."""
    return any((folder / name).is_file() for name in _ZARR_FILES)


def holds_dicom(folder: Path) -> bool:
    """Whether a DICOM file is among the first files of a folder.

    Old files lack the mark; their ending tells them then.
    """
    return any(
        is_dicom(file) or file.suffix.lower() in _DICOM_ENDINGS
        for file in islice(visible_files(folder), _LOOKED_AT)
    )


def is_image_stack(folder: Path) -> bool:
    """Whether all files of a folder are pictures of one page, two at least.

    Descriptions beside them, such as a text file, do not matter; a volume of another
    format does.
    """
    pictures = image_files(folder)
    if len(pictures) < 2 or _pages(pictures[0]) != 1:
        return False
    endings = {suffix_of(file) for file in visible_files(folder)}
    return endings <= {"", ".tif", ".tiff"}


def image_files(folder: Path) -> list[Path]:
    """List the pictures in a folder, by name."""
    return [
        file for file in visible_files(folder) if file.suffix.lower() in _IMAGE_ENDINGS
    ]


def visible_files(folder: Path) -> list[Path]:
    """List the files in a folder, by name, without hidden ones."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.is_file()
    )


def _pages(picture: Path) -> int:
    if picture.suffix.lower() not in (".tif", ".tiff"):
        return 1
    from tifffile import TiffFile, TiffFileError

    try:
        with TiffFile(picture) as file:
            return len(file.pages)
    except (OSError, TiffFileError):
        return 0
