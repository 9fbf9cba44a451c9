"""Every NIfTI file of a folder of real volumes is read, or refused for a known reason.

Needs ``pytest --real-data=DIR``.
"""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import inspect_volume, read_volume, write_volume
from napari_kdseg.volumes.preprocessing import orient, unorient

# What must be refused, by the end of its path, and what must be said.
REFUSED = {
    "nifti_tricky/niftirs_complex32.nii": "has 2 axes",
    "nifti_tricky/niftirs_minimal_extended_hdr.nii": "has 2 axes",
    "nifti_tricky/niftirs_rgb_3D.nii": "RGB colours",
    "nifti_tricky/niftirs_crash-1.nii": "is no NIfTI file",
}
# What is read with a note, and what it must say.
NOTED = {"nifti_tricky/niftirs_minimal.nii": "does not say how it lies"}


def named(path: Path, table: dict[str, str]) -> str | None:
    endings = [end for end in table if path.as_posix().endswith(end)]
    return table[endings[0]] if endings else None


def check_equals_nibabel(path: Path) -> None:
    found, theirs = read_volume(path), nibabel.load(path)
    expected = np.asanyarray(theirs.dataobj).T.reshape(found.data.shape)
    is_scaled = (theirs.dataobj.slope, theirs.dataobj.inter) != (1.0, 0.0)
    if is_scaled:  # nibabel gives float64, we round it once
        expected = expected.astype(np.float32)
    assert found.data.dtype == expected.dtype.newbyteorder("="), path
    assert np.array_equal(found.data, expected), path
    assert np.allclose(found.grid.affine, theirs.affine, rtol=0, atol=1e-9), path
    header = inspect_volume(path)
    assert (header.shape, header.grid) == (found.data.shape, found.grid), path
    assert header.dtype == found.data.dtype, path
    note = named(path, NOTED)
    assert (note is None and not found.notes) or (note or "") in found.notes[0], path


def check_turns_and_returns(path: Path, folder: Path) -> None:
    """What is made on the turned volume lies on the source's grid, also on disk."""
    found = read_volume(path)
    turned, grid = orient(np.asarray(found.data), found.grid, "RAS")
    assert grid.orientation == "RAS", path
    back = unorient(np.ascontiguousarray(turned), found.grid, "RAS")
    out = folder / "out.nii"
    write_volume(out, back, found.grid)
    again = read_volume(out)
    assert np.array_equal(again.data, found.data), path
    assert again.grid.matches(found.grid, tolerance_mm=1e-4), path


@pytest.mark.slow
def test_every_file_is_read_as_nibabel_reads_it_or_refused(
    real_data: Path, tmp_path: Path
) -> None:
    paths = sorted([*real_data.rglob("*.nii"), *real_data.rglob("*.nii.gz")])
    assert paths, f"no NIfTI file below {real_data}"
    for path in paths:
        reason = named(path, REFUSED)
        if reason is None:
            check_equals_nibabel(path)
            check_turns_and_returns(path, tmp_path)
        else:
            with pytest.raises(VolumeError, match=reason):
                read_volume(path)


def test_the_ome_zarr_of_another_program_is_read(real_data: Path) -> None:
    path = real_data / "ome_zarr" / "mni152_lowres.ome.zarr"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    found = read_volume(path, lazy=True)
    assert found.data.shape == (1, 53, 64, 51)
    # The stored order is x, y, z: world places in the metadata are in that order too.
    assert found.grid.origin_mm == pytest.approx((-74.656, -109.656, -70.656), abs=1e-3)
    assert found.grid.spacing_mm == pytest.approx((2.95, 2.95, 2.95), abs=1e-3)
    middle = np.asarray(found.data[0, 26, 32, 25])
    assert np.isfinite(middle)
    assert middle > 0
