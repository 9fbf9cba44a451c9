"""Small DICOM files made with pydicom, for tests."""

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imagecodecs
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

STUDY, SERIES = generate_uid(), generate_uid()
SPACING = (2.5, 0.8, 0.7)
ORIGIN = (-30.0, 12.5, 100.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def gradient(shape: tuple[int, int, int] = (4, 6, 8), dtype: str = "i2") -> np.ndarray:
    """Every voxel another value, some below zero where the type has those."""
    values = np.arange(np.prod(shape)).reshape(shape)
    return (values - (50 if dtype[0] == "i" else 0)).astype(dtype)


def image(plane: np.ndarray, position: Iterable[float], **tags: Any) -> Dataset:
    """One slice; tags given as None are left out."""
    bits = plane.dtype.itemsize * 8
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = STUDY, SERIES
    made.PatientName, made.Modality, made.SeriesNumber = "Secret^Name", "CT", 3
    made.SeriesDescription = "T1 axial"
    made.ImagePositionPatient = [f"{value:.6f}" for value in position]
    made.ImageOrientationPatient = list(AXIAL)
    made.PixelSpacing, made.SliceThickness = list(SPACING[1:]), 99
    made.Rows, made.Columns = plane.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(plane.dtype.kind == "i")
    for keyword, value in tags.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def save(
    made: Dataset, planes: np.ndarray, path: Path, syntax: UID = ExplicitVRLittleEndian
) -> Path:
    """Write a slice, or several planes, encoded as a transfer syntax asks."""
    if syntax in NATIVE:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        data = planes.astype(planes.dtype.newbyteorder(order)).tobytes()
        made.PixelData = data + b"\0" * (len(data) % 2)
        words = planes.dtype.itemsize > 1 or syntax == ImplicitVRLittleEndian
        made["PixelData"].VR = "OW" if words else "OB"
    else:
        frames = planes.reshape(-1, *planes.shape[-2:])
        made.PixelData = encapsulate([ENCODERS[syntax](frame) for frame in frames])
        made["PixelData"].VR = "OB"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(
        path,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return path


def write_series(
    folder: Path,
    data: np.ndarray,
    each: Callable[[int], dict[str, Any]] = lambda at: {},
    syntax: UID = ExplicitVRLittleEndian,
    prefix: str = "a",
    **tags: Any,
) -> Path:
    """Write slices (z, y, x) along the z axis; `each` gives the tags of slice z."""
    for at, plane in enumerate(data):
        position = (*ORIGIN[:2], ORIGIN[2] + at * SPACING[0])
        made = image(plane, position, **{**tags, **each(at)}, InstanceNumber=at + 1)
        save(made, plane, folder / f"{prefix}{at:03}.dcm", syntax)
    return folder


def write_enhanced(
    path: Path,
    data: np.ndarray,
    contents: Callable[[int], dict[str, Any]] = lambda at: {},
    syntax: UID = ExplicitVRLittleEndian,
) -> Path:
    """Write one file of many frames, each with its place in its own group."""
    made = image(data[0], ORIGIN, NumberOfFrames=len(data), InstanceNumber=1)
    made.SOPClassUID, made.Modality = EnhancedMRImageStorage, "MR"
    del made.ImagePositionPatient, made.ImageOrientationPatient, made.PixelSpacing
    measures = group(PixelSpacing=list(SPACING[1:]), SliceThickness=99)
    made.SharedFunctionalGroupsSequence = [
        group(
            PlaneOrientationSequence=[group(ImageOrientationPatient=list(AXIAL))],
            PixelMeasuresSequence=[measures],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [
        frame_group(at, contents(at)) for at in range(len(data))
    ]
    return save(made, data, path, syntax)


def frame_group(at: int, contents: dict[str, Any]) -> Dataset:
    place = contents.pop("place", at)
    position = [*ORIGIN[:2], ORIGIN[2] + place * SPACING[0]]
    rescale = {key: contents.pop(key) for key in list(contents) if "Rescale" in key}
    made = group(
        PlanePositionSequence=[group(ImagePositionPatient=position)],
        FrameContentSequence=[group(**contents)],
    )
    if rescale:
        made.PixelValueTransformationSequence = [group(**rescale)]
    return made


def group(**tags: Any) -> Dataset:
    made = Dataset()
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    return made


def changed(path: Path, change: Callable[[Dataset], None]) -> Path:
    """Rewrite a file after something was done to its tags."""
    made = dcmread(path)
    change(made)
    made.save_as(path)
    return path


def _gdcm_jpeg(plane: np.ndarray) -> bytes:
    """Encode as GDCM does, which is not what decodes it in the package."""
    with TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG")
        writer.SetFileName(f"{folder}/a.dcm")
        writer.Execute(sitk.GetImageFromArray(plane[np.newaxis]))
        return next(generate_frames(dcmread(f"{folder}/a.dcm").PixelData))


def _rle(plane: np.ndarray) -> bytes:
    return RLELosslessEncoder.encode(
        plane,
        rows=plane.shape[0],
        columns=plane.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=plane.dtype.itemsize * 8,
        bits_stored=plane.dtype.itemsize * 8,
        pixel_representation=int(plane.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2",
    )


def _unsigned(plane: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(plane).view(f"u{plane.dtype.itemsize}")


ENCODERS: dict[UID, Callable[[np.ndarray], bytes]] = {
    RLELossless: _rle,
    JPEGLosslessSV1: _gdcm_jpeg,
    JPEGLSLossless: lambda plane: imagecodecs.jpegls_encode(_unsigned(plane)),
    JPEG2000Lossless: lambda plane: imagecodecs.jpeg2k_encode(
        plane, level=0, codecformat="J2K", reversible=True
    ),
    HTJ2KLossless: lambda plane: imagecodecs.htj2k_encode(plane),
}
