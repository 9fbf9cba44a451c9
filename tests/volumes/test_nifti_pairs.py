"""Headers and voxels in two files, and files with both times and channels."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    blocks_of,
    case_id,
    inspect_volume,
    parts_of,
    read_label_set,
    read_volume,
    write_volume,
)
from napari_kdseg.volumes.volume import Grid

DATA = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
KINDS = [nibabel.Nifti1Pair, nibabel.Nifti2Pair]


def pair(folder: Path, kind: type = nibabel.Nifti1Pair, packed: str = "") -> Path:
    """The header of a pair written by nibabel; `packed` names what to gzip."""
    nibabel.save(kind(DATA.T, AFFINE), folder / "a.hdr")
    for half in packed.split():
        path = folder / f"a.{half}"
        path.with_name(f"a.{half}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return folder / "a.hdr"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", ["", "img", "hdr", "hdr img"])
def test_a_pair_is_read_by_the_name_of_its_voxels(
    kind: type, packed: str, tmp_path: Path
) -> None:
    pair(tmp_path, kind, packed)
    path = tmp_path / ("a.img.gz" if "img" in packed else "a.img")
    for lazy in (False, True):
        found = read_volume(path, lazy=lazy)
        assert np.array_equal(np.asarray(found.data)[0], DATA)
        assert np.array_equal(found.grid.affine, AFFINE)
        assert found.notes == ()
        assert found.name == case_id(path) == "a"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", ["", "img"])
def test_a_pair_is_read_by_the_name_of_its_header(
    kind: type, packed: str, tmp_path: Path
) -> None:
    path = pair(tmp_path, kind, packed)
    assert np.array_equal(read_volume(path).data[0], DATA)
    assert inspect_volume(path).packed is (packed == "img")
    assert read_label_set(path) is None


def test_names_in_capitals_are_a_pair_too(tmp_path: Path) -> None:
    pair(tmp_path)
    for name in ("hdr", "img"):
        (tmp_path / f"a.{name}").rename(tmp_path / f"A.{name.upper()}")
    assert np.array_equal(read_volume(tmp_path / "A.HDR").data[0], DATA)


def test_voxels_may_begin_later_in_their_file(tmp_path: Path) -> None:
    path = pair(tmp_path)
    header = bytearray(path.read_bytes())
    header[108:112] = np.float32(16).tobytes()
    path.write_bytes(header)
    img = tmp_path / "a.img"
    img.write_bytes(bytes(16) + img.read_bytes())
    assert np.array_equal(read_volume(path).data[0], DATA)
    img.with_name("a.img.gz").write_bytes(gzip.compress(img.read_bytes()))
    img.unlink()
    assert np.array_equal(read_volume(path).data[0], DATA)


@pytest.mark.parametrize(
    ("missing", "opened", "words"),
    [
        ("img", "hdr", r"neither a\.img nor a\.img\.gz lies beside it"),
        ("hdr", "img", r"neither a\.hdr nor a\.hdr\.gz lies beside it"),
    ],
)
def test_a_missing_half_is_named(
    missing: str, opened: str, words: str, tmp_path: Path
) -> None:
    pair(tmp_path)
    (tmp_path / f"a.{missing}").unlink()
    with pytest.raises(VolumeError, match=words):
        read_volume(tmp_path / f"a.{opened}")


def test_two_halves_of_one_kind_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    path = pair(tmp_path)
    (tmp_path / "a.img.gz").write_bytes(gzip.compress(bytes(DATA.nbytes)))
    with pytest.raises(VolumeError, match=r"both a\.img and a\.img\.gz lie beside it"):
        read_volume(path)
    assert np.array_equal(read_volume(tmp_path / "a.img").data[0], DATA)


@pytest.mark.parametrize("packed", [False, True])
def test_the_voxels_of_another_header_are_refused_by_name(
    packed: bool, tmp_path: Path
) -> None:
    path = pair(tmp_path, packed="img" if packed else "")
    img = tmp_path / ("a.img.gz" if packed else "a.img")
    img.write_bytes(gzip.compress(bytes(20)) if packed else bytes(20))
    words = "ends 28 bytes before the 48" if packed else "has 20 bytes, and its header"
    for lazy in (False, True):
        with pytest.raises(VolumeError, match=words) as refusal:
            np.asarray(read_volume(path, lazy=lazy).data)
        assert str(refusal.value).startswith(f"{path}: its data file {img} ")


def test_an_analyze_header_is_refused_with_the_reason(tmp_path: Path) -> None:
    image = nibabel.AnalyzeImage(DATA.T, AFFINE)
    nibabel.save(image, tmp_path / "a.img")
    for name in ("a.hdr", "a.img"):
        with pytest.raises(VolumeError, match=r"an Analyze 7\.5 header") as refusal:
            read_volume(tmp_path / name)
        assert str(refusal.value).startswith(str(tmp_path / "a.hdr"))
        assert "does not say which side is left" in str(refusal.value)


def test_a_text_header_of_another_format_is_no_nifti(tmp_path: Path) -> None:
    (tmp_path / "a.hdr").write_text("ENVI\nsamples = 4\n" * 40)
    (tmp_path / "a.img").write_bytes(bytes(48))
    with pytest.raises(VolumeError, match="is no NIfTI file"):
        read_volume(tmp_path / "a.hdr")


def test_a_single_file_named_as_half_a_pair_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(DATA.T, AFFINE), tmp_path / "a.nii")
    (tmp_path / "a.nii").rename(tmp_path / "a.hdr")
    (tmp_path / "a.img").write_bytes(bytes(48))
    with pytest.raises(VolumeError, match=r"Give it the ending \.nii"):
        read_volume(tmp_path / "a.hdr")


@pytest.mark.parametrize("name", ["a.hdr", "a.img", "a.img.gz"])
def test_pairs_are_not_written(name: str, tmp_path: Path) -> None:
    grid = Grid.from_affine(AFFINE, DATA.shape)
    with pytest.raises(VolumeError, match="pairs are only read"):
        write_volume(tmp_path / name, DATA, grid)
    assert list(tmp_path.iterdir()) == []


def test_the_real_pair_is_read_as_itk_reads_it(real_data: Path) -> None:
    path = real_data / "nifti_tricky" / "niftirs_minimal.hdr"
    if not path.is_file():
        pytest.skip(f"no {path}")
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    for name in (path, path.with_name("niftirs_minimal.img.gz")):
        found = read_volume(name)
        assert found.data.shape == (1, 10, 64, 64)
        assert np.array_equal(found.data[0], expected)
        assert found.grid.spacing_mm == (3.0, 3.0, 3.0)
        assert "does not say how it lies" in found.notes[0]


# Five channels at each of three times; in a NIfTI file x, y, z, time, channel.
SERIES = np.arange(5 * 3 * 4 * 3 * 2, dtype=np.int16).reshape(5, 3, 4, 3, 2)


def series(folder: Path, name: str, slope: float = 1.0) -> Path:
    image = nibabel.Nifti1Image(SERIES.T, AFFINE)
    image.header.set_slope_inter(slope, 0.0)
    nibabel.save(image, folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_each_time_of_a_series_with_channels_is_a_part(
    name: str, slope: float, tmp_path: Path
) -> None:
    path = series(tmp_path, name, slope)
    assert parts_of(path) == ("time 1", "time 2", "time 3")
    for number, part in enumerate(parts_of(path)):
        expected = SERIES[:, number] * slope
        for lazy in (False, True):
            found = read_volume(path, part, lazy=lazy)
            assert np.array_equal(np.asarray(found.data), expected)
            assert found.channels[4] == "channel 5"
        header, blocks = blocks_of(path, part)
        assert header.shape == (5, 4, 3, 2)
        assert header.dtype == found.data.dtype
        for place, block in blocks:
            assert np.array_equal(block, expected[place])


def test_a_series_needs_a_part_that_it_has(tmp_path: Path) -> None:
    path = series(tmp_path, "a.nii")
    for part, words in ((None, "has 3 times"), ("time 4", "no part 'time 4', and 3")):
        for read in (read_volume, inspect_volume):
            with pytest.raises(VolumeError, match=words) as refusal:
                read(path, part)
            assert "Choose one of time 1 to time 3" in str(refusal.value)


def test_a_single_volume_has_no_parts(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(DATA.T, AFFINE), tmp_path / "a.nii")
    assert parts_of(tmp_path / "a.nii") == ()
    with pytest.raises(VolumeError, match="no part 'time 1'; it holds one volume"):
        read_volume(tmp_path / "a.nii", "time 1")


def test_a_third_axis_beyond_space_is_refused(tmp_path: Path) -> None:
    data = np.zeros((2, 2, 2, 2, 2, 2), np.uint8)
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), tmp_path / "a.nii")
    with pytest.raises(VolumeError, match="one more axis, the channels"):
        parts_of(tmp_path / "a.nii")


def test_plain_scaled_voxels_stay_on_disk(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(DATA.T, AFFINE)
    image.header.set_slope_inter(0.1, -3.3)
    nibabel.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii", lazy=True)
    whole = read_volume(tmp_path / "a.nii").data
    assert not isinstance(found.data, np.ndarray)
    assert found.data.dtype == whole.dtype == np.float32
    assert np.array_equal(found.data[0, 1:3], whole[0, 1:3])
