"""Labels as a DICOM segmentation that refers to the series they were drawn on.

highdicom (extra ``dicom``) puts the object together, PS3.3 A.51: a frame of single bits
a segment and slice, patient and study copied from the series, every slice referred to.
Segments are numbered from 1 without gaps, as DICOM wants it.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from skimage.color import rgb2lab

from napari_kdseg.atomic import atomic_file
from napari_kdseg.errors import VolumeError
from napari_kdseg.extras import not_installed
from napari_kdseg.volumes.formats.dicom_headers import Frame
from napari_kdseg.volumes.labels import (
    LabelClass,
    LabelSet,
    distinct_color,
    smallest_dtype,
    values_in,
)
from napari_kdseg.volumes.volume import VoxelArray

_MAKER = "napari-kdseg"
_HOW = "drawn by people and networks"
_LONGEST_LABEL = 64
# Empty slices are written too, so that readers see the whole grid of the series; above
# half a gigabyte they are left out, and readers see the slices with labels.
_MOST_BITS = 4_000_000_000


def write_segmentation(
    path: Path, data: VoxelArray, labels: LabelSet | None, frames: Sequence[Frame]
) -> None:
    """Write one file, complete or not at all.

    Parameters
    ----------
    path
        Where to.
    data
        Labels 1, z, y, x on the grid of the series.
    labels
        The classes; None numbers them by their value.
    frames
        The slices of the series in the order of z.

    Raises
    ------
    VolumeError
        When highdicom is missing, nothing is labelled, or a slice cannot be referred
        to.
    """
    hd = _highdicom(path)
    array = np.asarray(data[0])
    classes = _present(path, array, labels)
    numbered = np.zeros(array.shape, np.uint16)
    for number, item in enumerate(classes, start=1):
        numbered[array == item.value] = number
    sources = [_source(file) for file in _files(frames)]
    try:
        made = _made(hd, path, sources, numbered, classes)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise VolumeError(
            f"{path} could not be made: {error}. The series {frames[0].pixels.path} "
            "lacks what a segmentation refers to; save the labels as .seg.nrrd."
        ) from error
    with atomic_file(path) as file:
        made.save_as(file)


def _made(
    hd: Any,
    path: Path,
    sources: Sequence[Any],
    numbered: np.ndarray,
    classes: Sequence[LabelClass],
) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of persons, which we do not change
        return hd.seg.Segmentation(
            source_images=sources,
            pixel_array=numbered.astype(smallest_dtype(len(classes))),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _segment(hd, number, item) for number, item in enumerate(classes, 1)
            ],
            series_instance_uid=hd.UID(),
            series_number=_series_number(sources[0]),
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name=_MAKER,
            software_versions=_version(),
            device_serial_number="0",
            series_description=path.name.partition(".")[0][:_LONGEST_LABEL],
            omit_empty_frames=len(classes) * numbered.size > _MOST_BITS,
        )


def _highdicom(path: Path) -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise VolumeError(
            not_installed(f"{path}, a DICOM segmentation,", "highdicom")
        ) from error
    return highdicom


def _present(
    path: Path, array: np.ndarray, labels: LabelSet | None
) -> list[LabelClass]:
    """The classes to be written: all that are known, or those that occur."""
    values = [value for value in values_in(array, str(path)) if value]
    if not values:
        raise VolumeError(
            f"{path} would have no labelled voxel; a DICOM segmentation has at least "
            "one. Save the empty labels as .seg.nrrd."
        )
    if labels is not None:
        return list(labels.classes)
    return [
        LabelClass(value=value, name=f"label {value}", color=distinct_color(value))
        for value in sorted(values)
    ]


def _files(frames: Sequence[Frame]) -> list[Path]:
    """One file a slice, or the one that holds them all."""
    return list(dict.fromkeys(frame.pixels.path for frame in frames))


def _source(file: Path) -> Any:
    """A slice in Unicode, so that names of any script go along."""
    source = dcmread(file)
    source.decode()
    source.SpecificCharacterSet = "ISO_IR 192"
    return source


def _segment(hd: Any, number: int, item: LabelClass) -> Any:
    from pydicom.sr.codedict import codes

    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=item.name[:_LONGEST_LABEL],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Organ,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=_MAKER,
            version=_version(),
            family=codes.DCM.ArtificialIntelligence,
            source=_HOW,
        ),
        display_color=hd.color.CIELabColor(*_lab(item.color)),
    )


def _lab(color: str) -> tuple[float, float, float]:
    """#rrggbb in CIELab; white is D65, as 3D Slicer and dcmqi read it."""
    rgb = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    light, red_green, yellow_blue = rgb2lab(np.array(rgb).reshape(1, 1, 3)).ravel()
    limited = (min(max(float(v), -128.0), 127.0) for v in (red_green, yellow_blue))
    red_green, yellow_blue = limited
    return min(max(float(light), 0.0), 100.0), red_green, yellow_blue


def _series_number(source: Any) -> int:
    return int(source.get("SeriesNumber") or 0) + 1000


def _version() -> str:
    from importlib.metadata import version

    return version(_MAKER)
