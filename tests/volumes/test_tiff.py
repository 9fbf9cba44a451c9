"""TIFF stacks and OME-TIFF in and out, with tifffile as the independent reader."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from tiff_files import GRID, STACK, notes, same, spacing, written

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    inspect_volume,
    read_label_set,
    read_labels,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Any turn (a quaternion), flip, voxel size and place."""
    part, size = st.floats(-1, 1), st.floats(0.0005, 5)
    quaternion = np.array(draw(st.tuples(part, part, part, part)))
    if np.linalg.norm(quaternion) < 0.1:
        quaternion = np.array([1.0, 0, 0, 0])
    affine = np.eye(4)
    affine[:3, :3] = nibabel.quaternions.quat2mat(quaternion)
    affine[:3, :3] *= draw(st.tuples(size, size, size))
    affine[:3, 0] *= draw(st.sampled_from([1, -1]))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(1, 5)] * 4),
    st.sampled_from(DTYPES),
    affines(),
    st.sampled_from([".tif", ".ome.tif", ".tiff"]),
)
def test_what_we_write_comes_back_and_tifffile_reads_it(
    shape: tuple[int, int, int, int], dtype: str, affine: np.ndarray, ending: str
) -> None:
    rng = np.random.default_rng(0)
    data = (rng.normal(size=shape) * 50 % 120).astype(dtype)
    grid = Grid.from_affine(affine, shape[1:])
    names = tuple(f"<channel> µ{number} \x07" for number in range(shape[0]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        write_volume(path, data, grid, channels=names)
        found = read_volume(path)
        assert np.array_equal(found.data, data)
        assert found.data.dtype == np.dtype(dtype)
        assert np.allclose(found.grid.affine, affine, rtol=0, atol=1e-4)
        assert (found.channels, found.notes) == (names, ())
        theirs = tifffile.imread(path)
        assert np.array_equal(theirs.reshape(shape), data)
        assert inspect_volume(path).holds_labels is False


def test_other_programs_see_sizes_units_and_channel_names(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    write_volume(path, np.stack([STACK, STACK]), GRID, channels=("a", "b & c"))
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        assert (file.series[0].axes, file.series[0].shape) == ("CZYX", (2, 5, 20, 30))
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert file.pages[0].tags.valueof(282) == (20, 1)  # voxels per centimetre
    sizes = [pixels[f"PhysicalSize{axis}"] for axis in "ZYX"]
    assert sizes == [2.0, 0.6, 0.5]
    assert {pixels[f"PhysicalSize{axis}Unit"] for axis in "ZYX"} == {"mm"}
    assert [channel["Name"] for channel in pixels["Channel"]] == ["a", "b & c"]
    image = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image)[:5], STACK)


def test_small_voxels_are_written_in_micrometres(tmp_path: Path) -> None:
    grid = Grid.from_affine(np.diag([0.001, 0.001, 0.002, 1]), (5, 20, 30))
    write_volume(tmp_path / "a.tif", STACK, grid)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert 'PhysicalSizeZ="2.0" PhysicalSizeZUnit="µm"' in file.ome_metadata
    assert spacing(tmp_path / "a.tif") == pytest.approx((0.002, 0.001, 0.001))


def test_labels_keep_names_values_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    labels = LabelSet.from_names(["liver <1>", "Milz ä"])
    array = (STACK % 3).astype(np.uint8)
    write_labels(path, array, GRID, labels)
    assert read_label_set(path) == labels
    assert inspect_volume(path).holds_labels is True
    found, grid = read_labels(path)
    assert np.array_equal(found, array)
    assert found.dtype == np.uint8
    assert grid.matches(GRID, 1e-4)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
def test_labels_keep_their_type(dtype: str, tmp_path: Path) -> None:
    write_labels(tmp_path / "a.tif", (STACK % 3).astype(dtype), GRID, None)
    assert inspect_volume(tmp_path / "a.tif").dtype == np.dtype(dtype)
    assert inspect_volume(tmp_path / "a.tif").holds_labels is True
    assert read_label_set(tmp_path / "a.tif") is None


def test_half_floats_and_masks_are_widened_and_complex_numbers_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tif"
    for dtype, wider in (("f2", "f4"), ("?", "u1")):
        write_volume(path, (STACK % 2).astype(dtype), GRID)
        assert read_volume(path).data.dtype == np.dtype(wider)
    with pytest.raises(VolumeError, match="type complex64; they must be integers"):
        write_volume(tmp_path / "b.tif", STACK.astype("c8"), GRID)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


def test_lazy_and_big_endian_voxels_are_written(tmp_path: Path) -> None:
    written(tmp_path / "a.tif", STACK.astype(">u2"), byteorder=">")
    lazy = read_volume(tmp_path / "a.tif", lazy=True)
    write_volume(tmp_path / "b.tif", lazy.data, lazy.grid)
    same(tmp_path / "b.tif", STACK[np.newaxis])


def test_a_source_that_breaks_leaves_nothing_behind(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", compression="zlib")
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        raw[file.pages[3].dataoffsets[0] + 20] ^= 4
    path.write_bytes(raw)
    lazy = read_volume(path, lazy=True)
    with pytest.raises(VolumeError, match=r"a.tif \(page 4\)"):
        write_volume(tmp_path / "b.tif", lazy.data, lazy.grid)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"bigtiff": True, "byteorder": ">", "compression": "zlib", "predictor": True},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 7},
        {"compression": "lzw", "predictor": True, "byteorder": ">"},
        {"compression": "lzw", "rowsperstrip": 3},
        {"compression": "packbits"},
        {"compression": "zstd"},
        {"compression": "lzma"},
        {"compression": "jpeg2000"},
        {"tile": (16, 16)},
        {"tile": (16, 16), "compression": "zlib", "predictor": True},
        {"rowsperstrip": 8},
        {"contiguous": True},
    ],
)
def test_every_way_to_store_pages_is_read(how: dict[str, Any], tmp_path: Path) -> None:
    same(written(tmp_path / "a.tif", **how), STACK[np.newaxis])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_with_their_predictor_are_read(
    dtype: str, byteorder: str, tmp_path: Path
) -> None:
    data = np.random.default_rng(0).normal(size=STACK.shape).astype(dtype)
    how = {"compression": "zlib", "predictor": 3, "byteorder": byteorder}
    same(written(tmp_path / "a.tif", data, **how), data[np.newaxis])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_is_read(dtype: str, tmp_path: Path) -> None:
    data = STACK.astype(dtype)
    same(written(tmp_path / "a.tif", data, byteorder=">"), data[np.newaxis])
    assert read_volume(tmp_path / "a.tif").data.dtype == np.dtype(dtype)


def test_single_bits_and_twelve_bits_are_read(tmp_path: Path) -> None:
    mask = STACK[:, :, :13] % 3 == 0
    same(written(tmp_path / "a.tif", mask), mask[np.newaxis].astype(np.uint8))
    path = written(tmp_path / "b.tif", STACK, bitspersample=12)
    same(path, STACK[np.newaxis])


def test_jpeg_pages_are_read_with_a_note(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", STACK.astype(np.uint8), compression="jpeg")
    same(path, tifffile.imread(path)[np.newaxis])
    assert "packed with JPEG, which changes values" in notes(path)


def test_a_single_description_stands_for_all_pages_in_large_files(
    tmp_path: Path,
) -> None:
    # ImageJ above 4 GB, and tifffile with truncate: one page, voxels one after another.
    path = written(
        tmp_path / "a.tif", imagej=True, truncate=True, metadata={"axes": "ZYX"}
    )
    same(path, STACK[np.newaxis])
    path = written(tmp_path / "b.tif", truncate=True)
    same(path, STACK[np.newaxis])
    for file in (tmp_path / "a.tif", tmp_path / "b.tif"):
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(VolumeError, match=r"\(page 5\) has a strip or tile of"):
            inspect_volume(file)


def test_real_stacks_are_read_as_tifffile_reads_them(real_data: Path) -> None:
    for folder in ("tiff_mouse_brain", "tiff_stardist3d"):
        paths = sorted((real_data / folder).glob("*.tif*"))
        assert paths, folder
        for path in paths:
            same(path, tifffile.imread(path)[np.newaxis])
            assert "stores no voxel size" in notes(path)
