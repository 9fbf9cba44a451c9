"""Makes damaged files of every format, each from a whole one by one change.

    python tests/volumes/damaged_corpus.py FOLDER

The whole files are written by other programs' libraries: nibabel, pynrrd, SimpleITK,
tifffile, pydicom and zarr.
"""

import gzip
import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everybody knows
import tifffile
import zarr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (6, 16, 12)  # z, y, x
DATA = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
AFFINE = np.diag([0.8, 0.9, 2.0, 1.0])

Damage = Callable[[bytes], bytes]


# ---- Whole files ----


def nifti(folder: Path) -> Path:
    path = folder / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(DATA.T, AFFINE), path)
    return path


def plain_nifti(folder: Path) -> Path:
    path = folder / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(DATA.T, AFFINE), path)
    return path


def pair(folder: Path) -> Path:
    path = folder / "scan.hdr"
    nibabel.save(nibabel.Nifti1Pair(DATA.T, AFFINE), path)
    return path


def nrrd_file(folder: Path, encoding: str = "gzip", **more: Any) -> Path:
    path = folder / "scan.nrrd"
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([0.8, 0.9, 2.0]),
        "space origin": [1.0, 2.0, 3.0],
        "encoding": encoding,
        **more,
    }
    nrrd.write(str(path), DATA.T, header)
    return path


def raw_nrrd(folder: Path) -> Path:
    return nrrd_file(folder, "raw")


def slicer(folder: Path) -> Path:
    path = folder / "organs.seg.nrrd"
    labels = (DATA.T % 3).astype(np.uint8)
    header = {
        "space": "left-posterior-superior",
        "space directions": np.eye(3),
        "space origin": [0.0, 0, 0],
        "Segment0_Name": "liver",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment1_Name": "spleen",
        "Segment1_LabelValue": "2",
        "Segment1_Layer": "0",
        "encoding": "gzip",
    }
    nrrd.write(str(path), labels, header)
    return path


def mha(folder: Path, *, packed: bool = True) -> Path:
    path = folder / "scan.mha"
    image = sitk.GetImageFromArray(DATA)
    image.SetSpacing((0.8, 0.9, 2.0))
    sitk.WriteImage(image, str(path), packed)
    return path


def plain_mha(folder: Path) -> Path:
    return mha(folder, packed=False)


def mhd(folder: Path) -> Path:
    path = folder / "scan.mhd"
    sitk.WriteImage(sitk.GetImageFromArray(DATA), str(path))
    return path


def tiff(folder: Path, **how: Any) -> Path:
    path = folder / "scan.tif"
    tifffile.imwrite(path, DATA, photometric="minisblack", **how)
    return path


def packed_tiff(folder: Path) -> Path:
    return tiff(folder, compression="zlib")


def ome_tiff(folder: Path) -> Path:
    path = folder / "scan.ome.tif"
    tifffile.imwrite(
        path, DATA, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 0.8}
    )
    return path


def pictures(folder: Path) -> Path:
    place = folder / "slices"
    place.mkdir(parents=True)
    for number, plane in enumerate(DATA):
        tifffile.imwrite(place / f"slice_{number:03d}.tif", plane)
    return place


def ome_zarr(folder: Path, fmt: int = 2) -> Path:
    path = folder / "scan.ome.zarr"
    group = zarr.create_group(store=str(path), zarr_format=fmt)
    array = group.create_array("0", shape=SHAPE, dtype="int16", chunks=(4, 8, 8))
    array[:] = DATA
    scale = {"type": "scale", "scale": [2.0, 0.9, 0.8]}
    image = {
        "axes": [
            {"name": n, "type": "space", "unit": "millimeter"} for n in ("z", "y", "x")
        ],
        "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
        "version": "0.4",
    }
    group.attrs["multiscales"] = [image]
    return path


def dicom(folder: Path) -> Path:
    place = folder / "series"
    place.mkdir(parents=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for number, plane in enumerate(DATA):
        one = _slice(number, plane)
        one.SeriesInstanceUID, one.StudyInstanceUID = series, study
        one.FrameOfReferenceUID = frame
        one.save_as(place / f"{number:03d}.dcm", enforce_file_format=True)
    return place


def _slice(number: int, plane: np.ndarray) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = Dataset()
    one.file_meta = meta
    one.SOPClassUID = CTImageStorage
    one.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    one.Modality, one.PatientName, one.PatientID = "CT", "", ""
    one.SeriesNumber, one.InstanceNumber = 3, number + 1
    one.ImagePositionPatient = [0.0, 0.0, 2.0 * number]
    one.ImageOrientationPatient = [1.0, 0, 0, 0, 1, 0]
    one.PixelSpacing = [0.9, 0.8]
    one.SliceThickness = 2.0
    one.Rows, one.Columns = plane.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    one.RescaleSlope, one.RescaleIntercept = 1, 0
    one.PixelData = plane.tobytes()
    return one


WHOLE = {
    "nii.gz": nifti,
    "nii": plain_nifti,
    "hdr + img": pair,
    "nrrd": nrrd_file,
    "raw nrrd": raw_nrrd,
    "seg.nrrd": slicer,
    "mha": mha,
    "raw mha": plain_mha,
    "mhd": mhd,
    "tif": tiff,
    "packed tif": packed_tiff,
    "ome.tif": ome_tiff,
    "pictures": pictures,
    "ome.zarr": ome_zarr,
    "DICOM": dicom,
}


# ---- Changes ----


def cut(share: float) -> Damage:
    return lambda data: data[: int(len(data) * share)]


def flip(share: float, mask: int = 0x10) -> Damage:
    def change(data: bytes) -> bytes:
        place = int(len(data) * share)
        return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]

    return change


def longer(data: bytes) -> bytes:
    return data + b"more than there should be"


def swap(old: bytes, new: bytes) -> Damage:
    def change(data: bytes) -> bytes:
        assert old in data, f"{old!r} is not in the whole file"
        return data.replace(old, new, 1)

    return change


def wrong_sum(data: bytes) -> bytes:
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


def inside_gzip(change: Damage) -> Damage:
    return lambda data: gzip.compress(change(gzip.decompress(data)))


def number(place: int, code: str, *values: float) -> Damage:
    def change(data: bytes) -> bytes:
        packed = struct.pack(f"<{code}", *values)
        return data[:place] + packed + data[place + len(packed) :]

    return change


# name: (whole file, the file inside its folder or "", change)
BYTES: dict[str, tuple[str, str, Damage]] = {
    "nii.gz cut in half": ("nii.gz", "", cut(0.5)),
    "nii.gz cut in its trailer": ("nii.gz", "", lambda b: b[:-3]),
    "nii.gz with a flipped bit": ("nii.gz", "", flip(0.6)),
    "nii.gz with a wrong checksum": ("nii.gz", "", wrong_sum),
    "nii.gz with rubbish behind": ("nii.gz", "", longer),
    "nii.gz of too few voxels": ("nii.gz", "", inside_gzip(cut(0.7))),
    "nii.gz of too many voxels": ("nii.gz", "", inside_gzip(longer)),
    "nii.gz promising 32767 cubed": (
        "nii.gz",
        "",
        inside_gzip(number(42, "3h", 32767, 32767, 32767)),
    ),
    "nii cut in half": ("nii", "", cut(0.5)),
    "nii a byte too long": ("nii", "", lambda b: b + b"x"),
    "nii with an absurd vox_offset": ("nii", "", number(108, "f", 1e9)),
    "nii with a size of zero": ("nii", "", number(42, "h", 0)),
    "nii with a negative size": ("nii", "", number(44, "h", -5)),
    "nii of an unknown type": ("nii", "", number(70, "h", 77)),
    "nii of complex numbers": ("nii", "", number(70, "h", 32)),
    "nii with a voxel size of zero": ("nii", "", number(80, "f", 0.0)),
    "nii with NaN in its sform": ("nii", "", number(280, "f", float("nan"))),
    "nii that is text": ("nii", "", lambda b: b"Dear colleague, " * 60),
    "nii that is empty": ("nii", "", lambda b: b""),
    "img cut in half": ("hdr + img", "scan.img", cut(0.5)),
    "hdr cut in half": ("hdr + img", "scan.hdr", cut(0.5)),
    "nrrd cut in half": ("nrrd", "", cut(0.5)),
    "nrrd with a flipped bit": ("nrrd", "", flip(0.8)),
    "nrrd with a wrong checksum": ("nrrd", "", wrong_sum),
    "nrrd with rubbish behind": ("nrrd", "", longer),
    "nrrd that promises more": ("nrrd", "", swap(b"sizes: 12 16 6", b"sizes: 12 16 9")),
    "nrrd that promises less": ("nrrd", "", swap(b"sizes: 12 16 6", b"sizes: 12 16 5")),
    "nrrd with a negative size": (
        "nrrd",
        "",
        swap(b"sizes: 12 16 6", b"sizes: 12 16 -6"),
    ),
    "nrrd of 32767 cubed": (
        "nrrd",
        "",
        swap(b"sizes: 12 16 6", b"sizes: 32767 32767 32767"),
    ),
    "nrrd of an unknown type": ("nrrd", "", swap(b"type: int16", b"type: quark")),
    "nrrd of an unknown encoding": (
        "nrrd",
        "",
        swap(b"encoding: gzip", b"encoding: magic"),
    ),
    "nrrd with two directions": (
        "nrrd",
        "",
        swap(b"space directions: (0.8", b"space directions: (0.8,0,0) none #(0.8"),
    ),
    "nrrd cut in its header": ("nrrd", "", lambda b: b[:60]),
    "raw nrrd cut": ("raw nrrd", "", lambda b: b[:-1]),
    "raw nrrd too long": ("raw nrrd", "", longer),
    "seg.nrrd cut in half": ("seg.nrrd", "", cut(0.7)),
    "mha cut in half": ("mha", "", cut(0.7)),
    "mha with a flipped bit": ("mha", "", flip(0.8)),
    "mha of an unknown type": ("mha", "", swap(b"MET_SHORT", b"MET_QUARK")),
    "mha that promises more": (
        "mha",
        "",
        swap(b"DimSize = 12 16 6", b"DimSize = 12 16 9"),
    ),
    "mha of two axes": ("mha", "", swap(b"NDims = 3", b"NDims = 2")),
    "mha with a flat matrix": (
        "mha",
        "",
        swap(
            b"TransformMatrix = 1 0 0 0 1 0 0 0 1",
            b"TransformMatrix = 1 0 0 0 1 0 0 1 0",
        ),
    ),
    "raw mha cut": ("raw mha", "", lambda b: b[:-1]),
    "raw mha too long": ("raw mha", "", longer),
    "mhd whose raw file is cut": ("mhd", "scan.raw", cut(0.5)),
    "mhd that climbs out": ("mhd", "", swap(b"= scan.raw", b"= ../../etc/passwd")),
    "tif cut in half": ("tif", "", cut(0.5)),
    "tif that is text": ("tif", "", lambda b: b"Dear colleague, " * 60),
    "packed tif cut": ("packed tif", "", cut(0.8)),
    "packed tif with a flipped bit": ("packed tif", "", flip(0.5)),
    "ome.tif that promises more": ("ome.tif", "", swap(b'SizeZ="6"', b'SizeZ="9"')),
    "picture cut": ("pictures", "slice_003.tif", cut(0.5)),
    "zarr chunk cut": ("ome.zarr", "0/0.0.0", cut(0.5)),
    "zarr without its sizes": ("ome.zarr", "0/.zarray", lambda b: b"{}"),
    "zarr with torn metadata": ("ome.zarr", ".zattrs", cut(0.5)),
    "DICOM slice cut": ("DICOM", "003.dcm", lambda b: b[:-40]),
    "DICOM slice cut in its header": ("DICOM", "003.dcm", cut(0.4)),
}


def drop(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).unlink()

    return change


def beside(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.with_name(name).unlink()

    return change


def retagged(file: str, **tags: Any) -> Callable[[Path], None]:
    """Change tags of one slice of a series."""

    def change(path: Path) -> None:
        from pydicom import dcmread

        one = dcmread(path / file)
        for tag, value in tags.items():
            if value is None:
                delattr(one, tag)
            else:
                setattr(one, tag, value)
        one.save_as(path / file)

    return change


def doubled(path: Path) -> None:
    retagged("003.dcm", ImagePositionPatient=[0.0, 0.0, 4.0])(path)


def tilted(path: Path) -> None:
    for number_ in range(SHAPE[0]):
        place = [0.0, 0.7 * number_, 2.0 * number_]
        retagged(f"{number_:03d}.dcm", ImagePositionPatient=place)(path)


def of_other_size(path: Path) -> None:
    tifffile.imwrite(path / "slice_003.tif", DATA[0, :-1])


def attributes(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        file = path / ".zattrs"
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))

    return apply


def _no_axes(values: Any) -> None:
    values["multiscales"][0]["axes"] = []


def _flat(values: Any) -> None:
    dataset = values["multiscales"][0]["datasets"][0]
    dataset["coordinateTransformations"][0]["scale"] = [0, 1, 1]


def _climbing(values: Any) -> None:
    values["multiscales"][0]["datasets"][0]["path"] = "../../elsewhere"


# name: (whole file, change of what lies there)
FOLDERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "img missing": ("hdr + img", beside("scan.img")),
    "raw file missing": ("mhd", beside("scan.raw")),
    "pictures with a gap": ("pictures", drop("slice_002.tif")),
    "pictures of two sizes": ("pictures", of_other_size),
    "zarr without its array": ("ome.zarr", lambda p: shutil.rmtree(p / "0")),
    "zarr without axes": ("ome.zarr", attributes(_no_axes)),
    "zarr with a voxel size of zero": ("ome.zarr", attributes(_flat)),
    "zarr that climbs out": ("ome.zarr", attributes(_climbing)),
    "DICOM slice missing": ("DICOM", drop("002.dcm")),
    "DICOM slice doubled": ("DICOM", doubled),
    "DICOM with a tilted gantry": ("DICOM", tilted),
    "DICOM slice turned": (
        "DICOM",
        retagged("003.dcm", ImageOrientationPatient=[0.0, 1, 0, 1, 0, 0]),
    ),
    "DICOM slice of another voxel size": (
        "DICOM",
        retagged("003.dcm", PixelSpacing=[0.5, 0.5]),
    ),
    "DICOM without positions": (
        "DICOM",
        retagged("003.dcm", ImagePositionPatient=None),
    ),
    "DICOM in colour": (
        "DICOM",
        retagged("003.dcm", SamplesPerPixel=3, PhotometricInterpretation="RGB"),
    ),
}

NAMES = (*BYTES, *FOLDERS)


def make(name: str, folder: Path) -> Path:
    """Make one damaged file, or folder of files, in an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in FOLDERS:
        whole, alter = FOLDERS[name]
        path = WHOLE[whole](folder)
        alter(path)
        return path
    whole, inner, change = BYTES[name]
    path = WHOLE[whole](folder)
    if not inner:
        file = path
    else:
        file = path / inner if path.is_dir() else path.with_name(inner)
    file.write_bytes(change(file.read_bytes()))
    return path


if __name__ == "__main__":
    for place, title in enumerate(NAMES):
        print(make(title, Path(sys.argv[1]) / f"{place:03d}"), title)  # noqa: T201
