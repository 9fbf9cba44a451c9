"""Which files stand for a volume, and what those made from it are called."""

from collections.abc import Iterable
from pathlib import Path

from napari_kdseg.volumes.volume import case_id, suffix_of

RESULT_ENDINGS = {
    "nifti": (".nii.gz", ".nii.gz"),
    "nrrd": (".nrrd", ".seg.nrrd"),
    "mha": (".mha", ".mha"),
    "tiff": (".ome.tif", ".ome.tif"),
    "ome-zarr": (".ome.zarr", ".ome.zarr"),
    "dicom-seg": (".nii.gz", ".dcm"),
}
"""Endings of images and of labels, by the name of a format that is written."""

_WRITTEN_AS = {
    **dict.fromkeys((".nrrd", ".nhdr", ".seg.nrrd"), "nrrd"),
    **dict.fromkeys((".mha", ".mhd"), "mha"),
    **dict.fromkeys((".tif", ".tiff", ".ome.tif", ".ome.tiff"), "tiff"),
    **dict.fromkeys((".zarr", ".ome.zarr"), "ome-zarr"),
}
_HEADERS = (".hdr", ".hdr.gz")
_VOXELS = (".img", ".img.gz")


def volumes_among(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Keep one path for each volume: of a pair of files, the header."""
    listed = tuple(paths)
    headers = {
        (path.parent, case_id(path)) for path in listed if suffix_of(path) in _HEADERS
    }
    return tuple(
        path
        for path in listed
        if suffix_of(path) not in _VOXELS or (path.parent, case_id(path)) not in headers
    )


def result_endings(source: Path) -> tuple[str, str]:
    """Give the endings of images and labels made from a scan.

    They are its own where those are written; what is read only, such as DICOM, gets
    NIfTI.
    """
    if suffix_of(source) == ".nii":
        return (".nii", ".nii")
    return RESULT_ENDINGS[_WRITTEN_AS.get(suffix_of(source), "nifti")]
