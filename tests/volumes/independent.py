"""What other programs' libraries read: voxels z, y, x, and the affine to RAS+ mm."""

from pathlib import Path

import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everybody knows
import tifffile
import zarr

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    found = nibabel.load(path)
    return np.asanyarray(found.dataobj).T, found.affine


def nrrd_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data, header = nrrd.read(str(path))
    directions = np.asarray(header["space directions"], float)
    affine = np.eye(4)
    affine[:3, :3] = directions[~np.isnan(directions).any(axis=1)].T
    affine[:3, 3] = header["space origin"]
    assert header["space"] == "left-posterior-superior"
    # Channels are the fastest axis in the file, so pynrrd's first.
    axes = range(data.ndim)[::-1] if data.ndim == 3 else (0, 3, 2, 1)
    return data.transpose(*axes), TO_RAS @ affine


def itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return placed(sitk.ReadImage(str(path)))


def placed(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    data = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        data = np.moveaxis(data, -1, 0)
    affine = np.eye(4)
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = direction * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return data, TO_RAS @ affine


def series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return placed(reader.Execute())


def tiff(path: Path) -> tuple[np.ndarray, None]:
    return tifffile.imread(path), None


def ome_zarr(path: Path) -> tuple[np.ndarray, None]:
    return np.asarray(zarr.open_array(store=str(path / "0"), mode="r")[...]), None


READERS = {
    ".nii": nifti,
    ".nii.gz": nifti,
    ".nrrd": nrrd_file,
    ".seg.nrrd": nrrd_file,
    ".mha": itk,
    ".ome.tif": tiff,
    ".ome.zarr": ome_zarr,
}
"""By ending; TIFF and OME-Zarr keep no affine that others read."""
