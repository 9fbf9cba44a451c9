"""NIfTI in and out, with nibabel and SimpleITK as independent readers."""

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from made_volumes import DTYPES, affines, lps_affine, voxels

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    inspect_volume,
    read_labels,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid


def head(folder: Path, name: str = "head.nii.gz", dtype: str = "<i2") -> Path:
    """A file written by nibabel: 2 x 3 x 4 voxels along x, y, z."""
    data = np.arange(24).reshape(4, 3, 2).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(data.T, np.diag([1, 2, 3, 1])), folder / name)
    return folder / name


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(2, 5)] * 3),
    st.sampled_from(DTYPES),
    affines(),
    st.sampled_from([".nii", ".nii.gz"]),
)
def test_what_we_write_others_read(
    shape: tuple[int, int, int], dtype: str, affine: np.ndarray, ending: str
) -> None:
    data, grid = voxels(shape, dtype), Grid.from_affine(affine, shape)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        write_volume(path, data, grid)
        theirs = nibabel.load(path)
        assert np.array_equal(np.asanyarray(theirs.dataobj).T, data)
        assert theirs.get_data_dtype() == np.dtype(dtype)
        assert np.allclose(theirs.affine, affine, atol=1e-4)
        assert np.allclose(theirs.get_qform(), affine, atol=1e-3)
        image = sitk.ReadImage(str(path))
        assert np.array_equal(sitk.GetArrayFromImage(image), data)
        assert np.allclose(lps_affine(image), affine, atol=1e-3)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(1, 5)] * 3),
    st.sampled_from(DTYPES),
    st.sampled_from("<>"),
    affines(),
    st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
    st.sampled_from(["sform", "qform"]),
)
def test_what_nibabel_writes_we_read(
    shape: tuple[int, int, int],
    dtype: str,
    order: str,
    affine: np.ndarray,
    kind: type,
    form: str,
) -> None:
    data = voxels(shape, dtype)
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    image = kind(data.T, None, header)
    try:
        getattr(image, f"set_{form}")(affine, code=1)
    except ValueError:  # half a turn, whose quaternion nibabel finds a trifle too long
        reject()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.nii.gz"
        nibabel.save(image, path)
        found = read_volume(path)
        theirs = nibabel.load(path)
        assert np.array_equal(found.data, data[np.newaxis])
        assert found.data.dtype == np.dtype(dtype)
        assert np.allclose(found.grid.affine, theirs.affine, atol=1e-9)
        assert found.channels == ("image",)


@settings(deadline=None, max_examples=40)
@given(st.tuples(*[st.integers(1, 4)] * 4), st.sampled_from(DTYPES), affines())
def test_a_volume_comes_back_as_it_was(
    shape: tuple[int, int, int, int], dtype: str, affine: np.ndarray
) -> None:
    data, grid = voxels(shape, dtype), Grid.from_affine(affine, shape[1:])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.nii.gz"
        write_volume(path, data, grid)
        found = read_volume(path)
        assert np.array_equal(found.data, data)
        assert found.data.dtype == data.dtype
        assert found.grid.matches(grid)


def test_the_first_axis_of_the_array_is_the_last_of_the_file(tmp_path: Path) -> None:
    found = read_volume(head(tmp_path))
    assert found.data.shape == (1, 4, 3, 2)
    assert found.grid.spacing_mm == (3.0, 2.0, 1.0)
    assert found.data[0, 3, 2, 1] == 23


def test_a_fourth_axis_becomes_channels(tmp_path: Path) -> None:
    data = np.arange(48, dtype=np.int16).reshape(2, 4, 3, 2)
    nibabel.save(nibabel.Nifti1Image(data.T, np.eye(4)), tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii")
    assert np.array_equal(found.data, data)
    assert found.channels == ("channel 1", "channel 2")


def test_a_vector_image_has_channels_in_its_fifth_axis(tmp_path: Path) -> None:
    data = np.arange(48, dtype=np.float32).reshape(2, 1, 4, 3, 2)
    nibabel.save(nibabel.Nifti1Image(data.T, np.eye(4)), tmp_path / "a.nii")
    assert np.array_equal(read_volume(tmp_path / "a.nii").data, data[:, 0])


def test_scaled_voxels_are_rounded_once_to_float32(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), None)
    image.header.set_slope_inter(0.1, -3.3)
    nibabel.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii")
    theirs = np.asanyarray(nibabel.load(tmp_path / "a.nii").dataobj).T
    assert found.data.dtype == np.float32
    assert np.array_equal(found.data[0], theirs.astype(np.float32))
    assert inspect_volume(tmp_path / "a.nii").dtype == np.float32


def test_header_extensions_are_passed_over(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), None)
    image.header.extensions.append(
        nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000)
    )
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert read_volume(tmp_path / "a.nii.gz").data[0, 1, 1, 0] == 3


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1e-3), ("meter", 1e3)])
def test_other_units_become_millimetres(
    tmp_path: Path, unit: str, factor: float
) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([5, 5, 5, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii")
    assert found.grid.spacing_mm == pytest.approx((5 * factor,) * 3)


def test_a_file_that_does_not_say_how_it_lies_is_read_with_a_note(
    tmp_path: Path,
) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), None)
    nibabel.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii")
    assert found.grid.orientation == "LAS"
    assert "does not say how it lies" in found.notes[0]


def test_an_sform_counts_before_a_qform_and_a_note_says_so(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 0.5
    image.set_qform(moved, code=1)
    nibabel.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii")
    assert found.grid.origin_mm == (0.0, 0.0, 0.0)
    assert "twice, up to 0.5 mm apart" in found.notes[0]


def test_forms_within_a_twentieth_of_a_millimetre_agree(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 0.04
    image.set_qform(moved, code=1)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").notes == ()


def test_voxel_sizes_that_contradict_the_sform_get_a_note(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.diag([1, 1, 3, 1]))
    image.header["pixdim"][1:4] = 1
    image.header["qform_code"] = 0
    nibabel.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii")
    assert found.grid.spacing_mm == (3.0, 1.0, 1.0)
    assert "(1, 1, 1) (pixdim) and as (1, 1, 3) (sform)" in found.notes[0]


@pytest.mark.parametrize(("name", "is_packed"), [("a.nii", True), ("a.nii.gz", False)])
def test_what_is_in_a_file_counts_and_not_its_name(
    tmp_path: Path, name: str, is_packed: bool
) -> None:
    plain = head(tmp_path, "head.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(plain) if is_packed else plain)
    found = read_volume(tmp_path / name)
    assert found.data[0, 3, 2, 1] == 23
    assert "rename it" in found.notes[0]


def test_a_stream_of_several_gzip_members_is_one_file(tmp_path: Path) -> None:
    plain = head(tmp_path, "head.nii").read_bytes()
    parts = gzip.compress(plain[:370]) + gzip.compress(plain[370:])
    (tmp_path / "a.nii.gz").write_bytes(parts)
    assert read_volume(tmp_path / "a.nii.gz").data[0, 3, 2, 1] == 23


def test_a_plain_file_can_stay_on_disk(tmp_path: Path) -> None:
    found = read_volume(head(tmp_path, "head.nii", ">i2"), lazy=True)
    assert not isinstance(found.data, np.ndarray)
    assert found.data.dtype == np.dtype("=i2")
    assert found.data[0, 3, 1:, 1].tolist() == [21, 23]


def test_a_header_is_read_without_the_voxels(tmp_path: Path) -> None:
    found = inspect_volume(head(tmp_path))
    assert found.shape == (1, 4, 3, 2)
    assert found.dtype == np.int16
    assert found.bytes == 48
    assert found.grid == read_volume(tmp_path / "head.nii.gz").grid


def test_equal_volumes_give_equal_files(tmp_path: Path) -> None:
    data, grid = voxels((4, 3, 2), "i2"), Grid.from_affine(np.eye(4), (4, 3, 2))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, data, grid)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_an_axis_beyond_nifti1_gives_nifti2(tmp_path: Path) -> None:
    data = np.zeros((1, 1, 40000), dtype=np.uint8)
    write_volume(tmp_path / "a.nii", data, Grid.from_affine(np.eye(4), data.shape))
    assert isinstance(nibabel.load(tmp_path / "a.nii"), nibabel.Nifti2Image)
    assert read_volume(tmp_path / "a.nii").grid.shape == (1, 1, 40000)


def test_a_shear_is_kept_in_the_sform_alone(tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    data = np.zeros((2, 2, 2), dtype=np.uint8)
    write_volume(tmp_path / "a.nii", data, Grid.from_affine(sheared, data.shape))
    found = nibabel.load(tmp_path / "a.nii")
    assert found.header["qform_code"] == 0
    assert np.allclose(found.affine, sheared, atol=1e-6)
    assert read_volume(tmp_path / "a.nii").notes == ()


@pytest.mark.parametrize(("given", "stored"), [("bool", "u1"), ("float16", "f4")])
def test_types_nifti_lacks_are_stored_wider(
    tmp_path: Path, given: str, stored: str
) -> None:
    data = np.array([[[0, 1]]], dtype=given)
    write_volume(tmp_path / "a.nii", data, Grid.from_affine(np.eye(4), data.shape))
    found = read_volume(tmp_path / "a.nii").data
    assert found.dtype == np.dtype(stored)
    assert found.ravel().tolist() == [0, 1]


def test_complex_voxels_are_not_written(tmp_path: Path) -> None:
    data = np.zeros((1, 1, 1), dtype=complex)
    with pytest.raises(VolumeError, match="type complex128; they must be"):
        write_volume(tmp_path / "a.nii", data, Grid.from_affine(np.eye(4), (1, 1, 1)))
    assert list(tmp_path.iterdir()) == []


def test_labels_come_back_in_the_smallest_type(tmp_path: Path) -> None:
    labels = np.array([[[0, 2], [1, 300]]])
    grid = Grid.from_affine(np.eye(4), labels.shape)
    write_labels(tmp_path / "a.nii.gz", labels, grid, None)
    found, its_grid = read_labels(tmp_path / "a.nii.gz")
    assert found.dtype == np.uint16
    assert np.array_equal(found, labels)
    assert its_grid == grid


def test_labels_stored_as_floats_are_read_as_integers(tmp_path: Path) -> None:
    data = np.array([[[0.0, 2.0]]], dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(data.T, np.eye(4)), tmp_path / "a.nii")
    found, _ = read_labels(tmp_path / "a.nii")
    assert found.dtype == np.uint8
    assert found.tolist() == [[[0, 2]]]


def test_labels_are_marked_as_labels(tmp_path: Path) -> None:
    labels = np.array([[[0, 1]]], dtype=np.uint8)
    grid = Grid.from_affine(np.eye(4), labels.shape)
    write_labels(tmp_path / "a.nii", labels, grid, LabelSet.from_names(["liver"]))
    assert nibabel.load(tmp_path / "a.nii").header.get_intent()[0] == "label"
