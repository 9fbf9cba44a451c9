"""NRRD in and out, with pynrrd and SimpleITK as independent readers."""

import bz2
import gzip
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given, settings
from hypothesis import strategies as st
from made_volumes import DTYPES, RAS_TO_LPS, affines, lps_affine, voxels
from nrrd_files import BASE, VALUES

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    blocks_of,
    inspect_volume,
    read_label_set,
    read_labels,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelClass, LabelSet
from napari_kdseg.volumes.volume import Grid

PACK: dict[str, Any] = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}


def header(lines: dict[str, str] | None = None, without: tuple[str, ...] = ()) -> bytes:
    """A header of `BASE` with other lines in place of, or after, its own."""
    fields = {k: v for k, v in BASE.items() if k not in without} | (lines or {})
    text = "".join(
        f"{key}{'' if key.endswith('=') else ': '}{value}\n"
        for key, value in fields.items()
    )
    return f"NRRD0005\n# a comment\n{text}\n".encode()


def head(
    folder: Path,
    lines: dict[str, str] | None = None,
    without: tuple[str, ...] = (),
    data: bytes = VALUES.tobytes(),
) -> Path:
    path = folder / "head.nrrd"
    path.write_bytes(header(lines, without) + data)
    return path


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(2, 5)] * 3),
    st.integers(1, 3),
    st.sampled_from(DTYPES),
    affines(),
)
def test_what_we_write_others_read(
    shape: tuple[int, int, int], channels: int, dtype: str, affine: np.ndarray
) -> None:
    data = voxels((channels, *shape), dtype)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.nrrd"
        write_volume(path, data, Grid.from_affine(affine, shape))
        theirs, said = nrrd.read(str(path), index_order="C")
        expected = data[0] if channels == 1 else np.moveaxis(data, 0, -1)
        assert np.array_equal(theirs, expected)
        assert theirs.dtype == np.dtype(dtype)
        assert np.allclose(
            said["space directions"][-3:].T, (RAS_TO_LPS @ affine[:3, :3])
        )
        image = sitk.ReadImage(str(path))
        assert image.GetNumberOfComponentsPerPixel() == channels
        assert np.array_equal(sitk.GetArrayFromImage(image), expected)
        assert np.allclose(lps_affine(image), affine, atol=1e-6)
        found = read_volume(path)
        assert np.array_equal(found.data, data)
        assert found.data.dtype == data.dtype
        assert found.grid.matches(Grid.from_affine(affine, shape), 1e-9)
        assert found.notes == ()


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(1, 5)] * 3),
    st.sampled_from(DTYPES),
    st.sampled_from("<>"),
    affines(),
    st.sampled_from(["raw", "gzip", "bzip2"]),
)
def test_what_pynrrd_writes_we_read(
    shape: tuple[int, int, int],
    dtype: str,
    order: str,
    affine: np.ndarray,
    encoding: str,
) -> None:
    data = voxels(shape, dtype)
    said = {
        "space": "right-anterior-superior",
        "space directions": affine[:3, :3].T,
        "space origin": affine[:3, 3],
        "encoding": encoding,
    }
    stored = data.astype(np.dtype(dtype).newbyteorder(order))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.nrrd"
        nrrd.write(str(path), stored, said, index_order="C")
        for lazy in (False, True):
            found = read_volume(path, lazy=lazy)
            assert np.array_equal(np.asarray(found.data), data[np.newaxis])
            assert found.data.dtype == np.dtype(dtype)
            assert np.allclose(found.grid.affine, affine, atol=1e-9)
        assert inspect_volume(path).packed == (encoding != "raw")


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_a_detached_header_finds_its_voxels(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.nhdr"
    nrrd.write(str(path), VALUES, {"encoding": encoding}, index_order="C")
    assert len(list(tmp_path.iterdir())) == 2
    assert np.array_equal(read_volume(path).data[0], VALUES)


def test_voxel_and_world_axes_are_those_of_the_hand_worked_header(
    tmp_path: Path,
) -> None:
    found = read_volume(head(tmp_path))
    assert found.grid.affine.tolist() == [
        [-1, 0, 0, -10],
        [0, -2, 0, -20],
        [0, 0, 3, 30],
        [0, 0, 0, 1],
    ]
    assert found.grid.shape == (4, 3, 2)
    assert found.data[0, 3, 2, 1] == 23
    assert found.notes == ()


@pytest.mark.parametrize(
    ("space", "orientation"),
    [
        ("right-anterior-superior", "RAS"),
        ("RAS", "RAS"),
        ("left-anterior-superior", "LAS"),
        ("LAS", "LAS"),
        ("left-posterior-superior", "LPS"),
        ("lps", "LPS"),
    ],
)
def test_a_named_space_turns_the_axes(
    tmp_path: Path, space: str, orientation: str
) -> None:
    found = read_volume(head(tmp_path, {"space": space}))
    assert found.grid.orientation == orientation
    assert found.notes == ()


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed"])
def test_a_space_that_says_nothing_of_the_body_gets_a_note(
    tmp_path: Path, space: str
) -> None:
    found = read_volume(head(tmp_path, {"space": space}))
    assert found.grid.orientation == "RAS"
    assert "how it lies in the body is unknown" in found.notes[0]


def test_a_space_of_three_dimensions_without_a_name_gets_a_note(tmp_path: Path) -> None:
    path = head(tmp_path, {"space dimension": "3"}, without=("space",))
    found = read_volume(path)
    assert found.grid.origin_mm == (10.0, 20.0, 30.0)
    assert "has no space in its header" in found.notes[0]


def test_spacings_alone_are_taken_as_ras_with_a_note(tmp_path: Path) -> None:
    without = ("space", "space directions", "space origin")
    found = read_volume(head(tmp_path, {"spacings": "0.5 1 2"}, without))
    assert found.grid.affine.tolist() == np.diag([0.5, 1, 2, 1]).tolist()
    assert any("how it lies in the body is unknown" in note for note in found.notes)
    assert any("no space origin" in note for note in found.notes)


def test_a_header_without_any_place_is_read_with_notes(tmp_path: Path) -> None:
    without = ("space", "space directions", "space origin")
    found = read_volume(head(tmp_path, {}, without))
    assert found.grid.spacing_mm == (1.0, 1.0, 1.0)
    assert any("taken as 1 mm" in note for note in found.notes)


def test_ends_of_axes_are_not_read_and_a_note_says_so(tmp_path: Path) -> None:
    without = ("space", "space directions", "space origin")
    found = read_volume(head(tmp_path, {"axis mins": "3 3 3"}, without))
    assert any("gives the ends of its axes" in note for note in found.notes)


def test_a_space_without_directions_gets_a_note(tmp_path: Path) -> None:
    path = head(tmp_path, {"spacings": "1 2 3"}, ("space directions",))
    found = read_volume(path)
    assert found.grid.affine.diagonal().tolist() == [-1, -2, 3, 1]
    assert any("no space directions" in note for note in found.notes)


@pytest.mark.parametrize(("unit", "factor"), [("um", 1e-3), ("m", 1e3), ("cm", 10)])
def test_other_units_become_millimetres(
    tmp_path: Path, unit: str, factor: float
) -> None:
    path = head(tmp_path, {"space units": f'"{unit}" "{unit}" "{unit}"'})
    found = read_volume(path)
    assert found.grid.spacing_mm == pytest.approx((3 * factor, 2 * factor, factor))
    assert found.grid.origin_mm[2] == pytest.approx(30 * factor)
    assert found.notes == ()


def test_units_of_axes_count_where_there_are_spacings_alone(tmp_path: Path) -> None:
    without = ("space", "space directions", "space origin")
    lines = {"spacings": "5 5 5", "units": '"um" "um" "mm"'}
    found = read_volume(head(tmp_path, lines, without))
    assert found.grid.spacing_mm == pytest.approx((5, 0.005, 0.005))


def test_an_unknown_unit_is_taken_as_millimetres_with_a_note(tmp_path: Path) -> None:
    found = read_volume(head(tmp_path, {"space units": '"furlong" "mm" "mm"'}))
    assert found.grid.spacing_mm == (3.0, 2.0, 1.0)
    assert "'furlong'" in found.notes[0]


def test_spacings_that_contradict_the_directions_get_a_note(tmp_path: Path) -> None:
    found = read_volume(head(tmp_path, {"spacings": "1 1 1"}))
    assert found.grid.spacing_mm == (3.0, 2.0, 1.0)
    assert "gives its voxel sizes twice" in found.notes[0]
    for same in ("1 2 3", "nan nan nan"):
        assert read_volume(head(tmp_path, {"spacings": same})).notes == ()


def test_quantised_values_are_read_as_stored_with_a_note(tmp_path: Path) -> None:
    found = read_volume(head(tmp_path, {"old min": "-3", "old max": "7"}))
    assert found.data[0, 0, 0, 1] == 1
    assert "stood for -3 to 7 once" in found.notes[0]


@pytest.mark.parametrize("centering", ["node", "cell"])
def test_an_origin_is_the_centre_of_a_voxel_whatever_the_centering(
    tmp_path: Path, centering: str
) -> None:
    found = read_volume(head(tmp_path, {"centerings": " ".join([centering] * 3)}))
    assert found.grid.origin_mm == (-10.0, -20.0, 30.0)


CHANNELS = [
    ("list domain domain domain", "none (1,0,0) (0,2,0) (0,0,3)", 0),
    ("vector space space space", "none (1,0,0) (0,2,0) (0,0,3)", 0),
    ("space space space list", "(1,0,0) (0,2,0) (0,0,3) none", 3),
    ("domain RGB-color domain domain", "(1,0,0) none (0,2,0) (0,0,3)", 1),
    ("domain domain domain time", None, 3),
]


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize(("kinds", "directions", "place"), CHANNELS)
def test_an_axis_out_of_space_becomes_channels(
    tmp_path: Path, kinds: str, directions: str | None, place: int, encoding: str
) -> None:
    volume = np.arange(48, dtype=np.int16).reshape(2, 4, 3, 2)
    stored = np.moveaxis(volume, 0, 3 - place)
    lines = {
        "dimension": "4",
        "sizes": " ".join(map(str, stored.shape[::-1])),
        "kinds": kinds,
        "encoding": encoding,
        **({} if directions is None else {"space directions": directions}),
    }
    without = () if directions else ("space directions",)
    path = head(tmp_path, lines, without, PACK[encoding](stored.tobytes()))
    for lazy in (False, True):
        found = read_volume(path, lazy=lazy)
        assert np.array_equal(np.asarray(found.data), volume)
        assert found.channels == ("channel 1", "channel 2")
    rebuilt = np.zeros_like(volume)
    for where, block in blocks_of(path)[1]:
        rebuilt[where] = block
    assert np.array_equal(rebuilt, volume)


def test_an_axis_of_length_one_out_of_space_does_not_matter(tmp_path: Path) -> None:
    lines = {
        "dimension": "5",
        "sizes": "1 2 3 4 1",
        "space directions": "none (1,0,0) (0,2,0) (0,0,3) none",
    }
    assert np.array_equal(read_volume(head(tmp_path, lines)).data[0], VALUES)


def test_channel_names_come_back(tmp_path: Path) -> None:
    data, grid = voxels((2, 4, 3, 2), "i2"), Grid.from_affine(np.eye(4), (4, 3, 2))
    names = ("Kohlenstoff \\n", "µ\nT2")
    write_volume(tmp_path / "a.nrrd", data, grid, channels=names)
    assert read_volume(tmp_path / "a.nrrd").channels == names


@pytest.mark.parametrize("said", ["[1, 2]", "no json", '["a", "b"]', "[" * 99999])
def test_damaged_channel_names_are_passed_over(tmp_path: Path, said: str) -> None:
    found = read_volume(head(tmp_path, {"kdseg_channels:=": said}))
    assert found.channels == ("image",)


def test_label_names_values_and_colours_come_back(tmp_path: Path) -> None:
    labels = LabelSet(
        classes=(
            LabelClass(value=7, name="liver: left\\n", color="#0102ff"),
            LabelClass(value=300, name="Milz ü", color="#e69f00"),
        )
    )
    array = np.array([[[0, 7], [7, 300]]])
    grid = Grid.from_affine(np.eye(4), array.shape)
    write_labels(tmp_path / "a.nrrd", array, grid, labels)
    found, its_grid = read_labels(tmp_path / "a.nrrd")
    assert np.array_equal(found, array)
    assert its_grid == grid
    assert read_label_set(tmp_path / "a.nrrd") == labels
    assert inspect_volume(tmp_path / "a.nrrd").holds_labels is True


def test_a_plain_file_does_not_say_whether_it_holds_labels(tmp_path: Path) -> None:
    assert inspect_volume(head(tmp_path)).holds_labels is None
    assert read_label_set(head(tmp_path)) is None


def test_equal_volumes_give_equal_files(tmp_path: Path) -> None:
    data, grid = voxels((4, 3, 2), "i2"), Grid.from_affine(np.eye(4), (4, 3, 2))
    for name in ("a.nrrd", "b.nrrd"):
        write_volume(tmp_path / name, data, grid)
    assert (tmp_path / "a.nrrd").read_bytes() == (tmp_path / "b.nrrd").read_bytes()


def test_a_detached_header_is_not_written(tmp_path: Path) -> None:
    grid = Grid.from_affine(np.eye(4), (4, 3, 2))
    with pytest.raises(VolumeError, match=r"ending \.nrrd"):
        write_volume(tmp_path / "a.nhdr", VALUES, grid)
    assert list(tmp_path.iterdir()) == []


def test_real_volumes_are_read_as_others_read_them(real_data: Path) -> None:
    paths = [
        real_data / "ct_chest_segnrrd" / "CTChest4.nrrd",
        real_data / "dicom_ct_with_seg" / "liver_seg.nrrd",
    ]
    for path in paths:
        found = read_volume(path)
        theirs, _ = nrrd.read(str(path), index_order="C")
        image = sitk.ReadImage(str(path))
        assert np.array_equal(found.data[0], theirs)
        assert np.allclose(found.grid.affine, lps_affine(image), atol=1e-9)
        assert found.notes == ()
    assert read_volume(paths[0]).grid.orientation == "RAS"
    assert read_volume(paths[0]).data.min() == -3024
