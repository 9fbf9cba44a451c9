"""MetaImage in and out, with SimpleITK as an independent reader and writer."""

import gzip
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given, settings
from hypothesis import strategies as st
from made_volumes import DTYPES, RAS_TO_LPS, affines, lps_affine, voxels
from metaimage_files import NOISE, PACKED, head, packed

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

SLOPE, INTERCEPT = "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(2, 5)] * 3),
    st.integers(1, 3),
    st.sampled_from(DTYPES),
    affines(),
)
def test_what_we_write_simpleitk_reads(
    shape: tuple[int, int, int], channels: int, dtype: str, affine: np.ndarray
) -> None:
    data = voxels((channels, *shape), dtype)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.mha"
        write_volume(path, data, Grid.from_affine(affine, shape))
        image = sitk.ReadImage(str(path))
        theirs = sitk.GetArrayFromImage(image)
        assert np.array_equal(
            theirs, data[0] if channels == 1 else np.moveaxis(data, 0, -1)
        )
        assert theirs.dtype == np.dtype(dtype)
        assert np.allclose(lps_affine(image), affine, atol=1e-6)
        found = read_volume(path, lazy=True)
        assert np.array_equal(np.asarray(found.data), data)
        assert found.data.dtype == data.dtype
        assert found.grid.matches(Grid.from_affine(affine, shape), 1e-9)
        assert found.notes == ()


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(1, 5)] * 3),
    st.integers(1, 3),
    st.sampled_from(DTYPES),
    affines(),
    st.booleans(),
    st.sampled_from([".mha", ".mhd"]),
)
def test_what_simpleitk_writes_we_read(
    shape: tuple[int, int, int],
    channels: int,
    dtype: str,
    affine: np.ndarray,
    pack: bool,
    ending: str,
) -> None:
    data = voxels((*shape, channels), dtype)
    image = sitk.GetImageFromArray(data if channels > 1 else data[..., 0])
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    image.SetSpacing(sizes.tolist())
    image.SetDirection((RAS_TO_LPS @ (affine[:3, :3] / sizes)).ravel().tolist())
    image.SetOrigin((RAS_TO_LPS @ affine[:3, 3]).tolist())
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        sitk.WriteImage(image, str(path), pack)
        found = read_volume(path)
        assert np.array_equal(found.data, np.moveaxis(data, -1, 0))
        assert found.data.dtype == np.dtype(dtype)
        assert np.allclose(found.grid.affine, affine, atol=1e-6)
        assert found.notes == ()
        assert inspect_volume(path).packed == pack


def test_voxel_and_world_axes_are_those_of_the_hand_worked_header(
    tmp_path: Path,
) -> None:
    turned = {"TransformMatrix": "0 1 0 -1 0 0 0 0 1", "AnatomicalOrientation": "ALI"}
    found = read_volume(head(tmp_path, turned, np.arange(24, dtype="<i2").tobytes()))
    # x runs to P by 1 mm, y to R by 2 mm, z to S by 3 mm.
    assert found.grid.affine.tolist() == [
        [0, 2, 0, -10],
        [-1, 0, 0, -20],
        [0, 0, 3, 30],
        [0, 0, 0, 1],
    ]
    assert found.data[0, 3, 2, 1] == 23
    assert found.notes == ()


def test_a_fourth_axis_becomes_channels(tmp_path: Path) -> None:
    lines = {
        "NDims": "4",
        "DimSize": "2 3 2 2",
        "ElementSpacing": "1 2 3 0.5",
        "Offset": "1 2 3 4",
        "CenterOfRotation": "0 0 0 0",
        "TransformMatrix": " ".join(str(v) for v in np.eye(4).ravel()),
    }
    found = read_volume(head(tmp_path, lines))
    assert found.data.shape == (2, 2, 3, 2)
    assert found.data.tobytes() == NOISE
    assert found.grid.origin_mm == (-1.0, -2.0, 3.0)


def test_packed_voxels_are_read_and_gone_through(tmp_path: Path) -> None:
    for size in (str(len(PACKED)), f"{len(PACKED):020d}", None):
        path = packed(tmp_path, size)
        assert read_volume(path).data.tobytes() == NOISE
        assert np.asarray(read_volume(path, lazy=True).data).tobytes() == NOISE
    path = head(tmp_path, {"CompressedData": "True"}, gzip.compress(NOISE))
    assert read_volume(path).data.tobytes() == NOISE


def test_other_names_of_fields_are_known(tmp_path: Path) -> None:
    lines = {"Offset": None, "Position": "1 2 3", "ElementSpacing": None}
    lines |= {"ElementSize": "1 2 3", "TransformMatrix": None}
    lines |= {"Rotation": "1 0 0 0 1 0 0 0 1", "BinaryDataByteOrderMSB": None}
    data = np.frombuffer(NOISE, "<i2").astype(">i2").tobytes()
    found = read_volume(head(tmp_path, lines | {"ElementByteOrderMSB": "True"}, data))
    assert found.grid.origin_mm == (-1.0, -2.0, 3.0)
    assert found.grid.spacing_mm == (3.0, 2.0, 1.0)
    assert found.data.tobytes() == NOISE
    assert found.notes == ()


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        ({"ElementSpacing": None}, "taken as 1 mm"),
        ({"Offset": None}, "does not say where it begins"),
        ({"TransformMatrix": None}, "does not say how it lies"),
        ({"CenterOfRotation": "0 0 1"}, "turned around 0 0 1"),
        ({"AnatomicalOrientation": "LPS"}, "come from LPS .* come from RAI"),
        ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, "no unit vectors"),
        ({"DistanceUnits": "um"}, "measures in 'um' .*converted"),
        ({"DistanceUnits": "ell"}, "not known; millimetres are taken"),
    ],
)
def test_what_is_doubtful_gets_a_note(
    tmp_path: Path, lines: dict[str, str | None], note: str
) -> None:
    found = read_volume(head(tmp_path, lines))
    assert len(found.notes) == 1
    assert re.search(note, found.notes[0])


def test_micrometres_become_millimetres(tmp_path: Path) -> None:
    found = read_volume(head(tmp_path, {"DistanceUnits": "um"}))
    assert found.grid.spacing_mm == pytest.approx((0.003, 0.002, 0.001))
    assert found.grid.origin_mm == pytest.approx((-0.01, -0.02, 0.03))


def test_what_says_nothing_gets_no_note(tmp_path: Path) -> None:
    lines = {"DistanceUnits": "mm", "Comment": "ü = ?", SLOPE: "1", INTERCEPT: "0"}
    lines |= {"AnatomicalOrientation": "???"}
    assert read_volume(head(tmp_path, lines)).notes == ()


def test_labels_are_packed_and_come_back_without_names(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), dtype=np.uint16)
    labels[3:9, 4, 5] = 300
    grid = Grid.from_affine(np.diag([0.1, 0.2, 0.3, 1]), labels.shape)
    path = tmp_path / "a.mha"
    write_labels(path, labels, grid, None)
    found, its_grid = read_labels(path)
    assert np.array_equal(found, labels)
    assert its_grid.matches(grid, 1e-9)
    assert path.stat().st_size < 1000
    assert inspect_volume(path).packed
    image = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image), labels)
    said = re.search(rb"CompressedDataSize = (\d+)\n", path.read_bytes())
    assert said is not None
    rest = path.read_bytes().split(b"LOCAL\n", 1)[1]
    assert int(said[1]) == len(rest)


def test_names_of_labels_are_not_kept(tmp_path: Path) -> None:
    array = np.array([[[0, 1]]], dtype=np.uint8)
    grid = Grid.from_affine(np.eye(4), array.shape)
    write_labels(tmp_path / "a.mha", array, grid, LabelSet.from_names(["liver"]))
    assert read_label_set(tmp_path / "a.mha") is None
    assert inspect_volume(tmp_path / "a.mha").holds_labels is None


def test_an_image_is_written_so_that_pieces_can_be_read_alone(tmp_path: Path) -> None:
    data, grid = voxels((4, 3, 2), "f4"), Grid.from_affine(np.eye(4), (4, 3, 2))
    write_volume(tmp_path / "a.mha", data, grid)
    assert not inspect_volume(tmp_path / "a.mha").packed
    found = read_volume(tmp_path / "a.mha", lazy=True).data
    assert np.array_equal(found[0, 1:3, 2], data[1:3, 2])


def test_a_detached_header_is_not_written(tmp_path: Path) -> None:
    data, grid = voxels((4, 3, 2), "f4"), Grid.from_affine(np.eye(4), (4, 3, 2))
    with pytest.raises(VolumeError, match=r"ending \.mha"):
        write_volume(tmp_path / "a.mhd", data, grid)
    assert list(tmp_path.iterdir()) == []
