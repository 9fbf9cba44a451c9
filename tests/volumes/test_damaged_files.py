"""Files that are damaged, or are no volumes: each gets one clear sentence.

The files are made here, from one that is whole, by one change each.
"""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_kdseg.errors import LabelError, VolumeError
from napari_kdseg.volumes.formats import (
    inspect_volume,
    read_labels,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

SHAPE = (6, 5, 4)  # z, y, x
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1]])
# Where the fields of a NIfTI-1 header lie, and what they are.
DIM, DATATYPE, PIXDIM, VOX_OFFSET = (40, "h"), (70, "h"), (76, "f"), (108, "f")
SCL_SLOPE, QFORM_CODE, SFORM_CODE = (112, "f"), (252, "h"), (254, "h")
QUATERN_B, SROW_X = (256, "f"), (280, "f")


def whole(dtype: str = "int16") -> bytes:
    """A plain NIfTI file that is as it should be."""
    data = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    return bytes(nibabel.Nifti1Image(data.T, AFFINE).to_bytes())


def field(
    place: tuple[int, str], *values: float, skip: int = 0
) -> Callable[..., bytes]:
    """Write values into a field of the header, `skip` entries after its first."""

    def change(plain: bytes) -> bytes:
        start, code = place
        packed = struct.pack(f"<{len(values)}{code}", *values)
        start += skip * struct.calcsize(code)
        return plain[:start] + packed + plain[start + len(packed) :]

    return change


def qform_alone(plain: bytes) -> bytes:
    plain = field(QFORM_CODE, 1, 0)(plain)  # and sform_code behind it
    return field(QUATERN_B, 0.9, 0.9, 0.9)(plain)


def flipped(packed: bytes, place: int) -> bytes:
    return packed[:place] + bytes([packed[place] ^ 0x10]) + packed[place + 1 :]


PLAIN = {
    "cut in half": (lambda b: b[:472], "has 472 bytes, and its header promises 592"),
    "one byte short": (lambda b: b[:-1], "has 591 bytes, and its header promises 592"),
    "a byte too long": (lambda b: b + b"x", "has 593 bytes"),
    "empty": (lambda b: b"", "ends after 0 bytes"),
    "cut in the header": (lambda b: b[:200], "ends after 200 bytes"),
    "text": (lambda b: b"Dear colleague, " * 40, "is no NIfTI file"),
    "all zeros": (lambda b: bytes(len(b)), "is no NIfTI file"),
    "half of a pair": (lambda b: b[:344] + b"ni1\0" + b[348:], "pair of files"),
    "Analyze 7.5": (lambda b: b[:344] + bytes(4) + b[348:], "mark"),
    "promises more": (field(DIM, 3, 4, 5, 60), "promises 2,752"),
    "promises less": (field(DIM, 3, 4, 5, 3), "promises 472"),
    "largest sizes": (field(DIM, 3, 32767, 32767, 32767), "promises 70,36"),
    "two axes": (field(DIM, 2, 4, 5, 6), "has 2 axes"),
    "no axes": (field(DIM, 0), "first must be 3 to 7"),
    "nine axes": (field(DIM, 9), "first must be 3 to 7"),
    "an axis of zero": (field(DIM, 0, skip=2), "at least 1"),
    "an axis below zero": (field(DIM, -5, skip=2), "at least 1"),
    "time and kind": (field(DIM, 5, 2, 2, 2, 3, 5), "one more axis, the channels"),
    "complex": (field(DATATYPE, 32), "complex numbers (datatype 32)"),
    "RGB": (field(DATATYPE, 128), "RGB colours (datatype 128)"),
    "long double": (field(DATATYPE, 1536), "128-bit floats"),
    "unknown type": (field(DATATYPE, -9510), "no type that NIfTI knows"),
    "voxel size 0": (field(PIXDIM, 0, skip=2), "voxel sizes (2, 0, 3)"),
    "voxel size below 0": (field(PIXDIM, -2, skip=1), "voxel sizes (-2, 2, 3)"),
    "voxel size NaN": (field(PIXDIM, np.nan, skip=3), "voxel sizes (2, 2, nan)"),
    "offset in the header": (field(VOX_OFFSET, 0), "begin at byte 0"),
    "offset far away": (field(VOX_OFFSET, 1e9), "promises 1,000,000,240"),
    "offset a fraction": (field(VOX_OFFSET, 352.5), "begin at byte 352.5"),
    "offset NaN": (field(VOX_OFFSET, np.nan), "begin at byte nan"),
    "offset shifted": (field(VOX_OFFSET, 368), "header promises 608"),
    "affine NaN": (field(SROW_X, np.nan), "must be finite"),
    "affine infinite": (field(SROW_X, np.inf, skip=3), "must be finite"),
    "affine flat": (field(SROW_X, 0, 0, 0), "span space"),
    "unknown form code": (field(SFORM_CODE, 77), "sform_code 77"),
    "no rotation": (qform_alone, "sum of its squares"),
    "scaling infinite": (field(SCL_SLOPE, 2.0, np.inf), "adds inf (scl_inter)"),
}
PACKED = {
    "cut in half": (lambda b: b[: len(b) // 2], "cannot be read to its end"),
    "cut in the trailer": (lambda b: b[:-3], "cannot be read to its end"),
    "a flipped bit": (lambda b: flipped(b, len(b) // 2), "cannot be read to its end"),
    "a wrong checksum": (lambda b: flipped(b, len(b) - 8), "cannot be read to its end"),
    "a wrong length": (lambda b: flipped(b, len(b) - 4), "cannot be read to its end"),
    "something behind": (lambda b: b + b"garbage", "cannot be read to its end"),
    "a header of gzip alone": (lambda b: b[:10], "cannot be read to its end"),
    "an unknown method": (lambda b: b[:2] + b"\7" + b[3:], "cannot be read to its end"),
    "a file inside cut off": (
        lambda b: gzip.compress(gzip.decompress(b)[:-9]),
        "ends 9 bytes before the 240",
    ),
    "a file inside too long": (
        lambda b: gzip.compress(gzip.decompress(b) + b"x"),
        "goes on after the 240 bytes",
    ),
    "sizes no stream can hold": (
        lambda b: gzip.compress(
            field(DIM, 3, 32767, 32767, 32767)(gzip.decompress(b)),
        ),
        "more than gzip can pack",
    ),
}


def check_sentence(message: str, path: Path, words: str) -> None:
    assert words in message
    assert message.startswith(str(path))
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_file_is_refused_when_it(kind: str, tmp_path: Path) -> None:
    change, words = PLAIN[kind]
    path = tmp_path / "head.nii"
    path.write_bytes(change(whole()))
    for read in (read_volume, read_labels, inspect_volume):
        with pytest.raises(VolumeError) as refusal:
            read(path)
        check_sentence(str(refusal.value), path, words)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_packed_file_is_refused_when_inside_it(kind: str, tmp_path: Path) -> None:
    change, _ = PLAIN[kind]
    path = tmp_path / "head.nii.gz"
    path.write_bytes(gzip.compress(change(whole())))
    with pytest.raises(VolumeError) as refusal:
        read_volume(path)
    check_sentence(str(refusal.value), path, "")


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_file_is_refused_when_it_has(kind: str, tmp_path: Path) -> None:
    change, words = PACKED[kind]
    path = tmp_path / "head.nii.gz"
    path.write_bytes(change(gzip.compress(whole())))
    for read in (read_volume, read_labels):
        with pytest.raises(VolumeError) as refusal:
            read(path)
        check_sentence(str(refusal.value), path, words)


def test_the_file_all_others_are_made_from_is_read(tmp_path: Path) -> None:
    (tmp_path / "head.nii").write_bytes(whole())
    (tmp_path / "head.nii.gz").write_bytes(gzip.compress(whole()))
    for name in ("head.nii", "head.nii.gz"):
        assert read_volume(tmp_path / name).data.shape == (1, *SHAPE)


@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_no_change_of_a_packed_file_gives_wrong_voxels(
    tmp_path: Path, data: st.DataObject
) -> None:
    packed = bytearray(gzip.compress(whole(), mtime=0))
    right = read_bytes(tmp_path, bytes(packed))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(packed) - 1))
        packed[place] = data.draw(st.integers(0, 255))
    packed = packed[: data.draw(st.integers(len(packed) // 2, len(packed)))]
    try:
        found = read_bytes(tmp_path, bytes(packed))
    except VolumeError:
        return
    assert np.array_equal(found, right)


def read_bytes(folder: Path, content: bytes) -> np.ndarray:
    (folder / "any.nii.gz").write_bytes(content)
    return np.asarray(read_volume(folder / "any.nii.gz").data)


@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4
    )
)
def test_any_header_is_read_as_nibabel_reads_it_or_refused(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    plain = bytearray(whole())
    for place, value in changes:
        plain[place] = value
    path = tmp_path / "any.nii"
    path.write_bytes(bytes(plain))
    try:
        found = read_volume(path, fill_nonfinite=0.0)
    except VolumeError as refusal:
        check_sentence(str(refusal), path, "")
        return
    with np.errstate(all="ignore"):
        theirs = nibabel.load(path)
        expected = np.asanyarray(theirs.dataobj).T
        shown = expected.astype(found.data.dtype).reshape(found.data.shape)
    finite = np.isfinite(shown)
    assert np.array_equal(found.data[finite], shown[finite])
    unit = {1: 1e3, 3: 1e-3}.get(int(theirs.header["xyzt_units"]) & 7, 1.0)
    scale = np.diag([unit, unit, unit, 1.0])
    assert np.allclose(found.grid.affine, scale @ theirs.affine, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_voxel_that_is_no_number_is_named(value: float, tmp_path: Path) -> None:
    data = np.zeros(SHAPE, dtype=np.float32)
    data[4, 3, 2] = value
    nibabel.save(nibabel.Nifti1Image(data.T, AFFINE), tmp_path / "a.nii")
    with pytest.raises(VolumeError) as refusal:
        read_volume(tmp_path / "a.nii")
    words = f"has 1 voxels that are NaN or infinite, such as {value} at (4, 3, 2)"
    check_sentence(str(refusal.value), tmp_path / "a.nii", words)
    assert "--fill-nonfinite" in str(refusal.value)


def test_voxels_that_are_no_numbers_are_filled_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    data = np.ones(SHAPE, dtype=np.float32)
    data[4, 3, 2], data[0, 0, 0] = np.nan, np.inf
    nibabel.save(nibabel.Nifti1Image(data.T, AFFINE), tmp_path / "a.nii")
    for lazy in (False, True):
        found = read_volume(tmp_path / "a.nii", fill_nonfinite=-5.0, lazy=lazy)
        expected = np.where(np.isfinite(data), data, -5.0)
        assert np.array_equal(np.asarray(found.data)[0], expected)


def test_a_voxel_that_scaling_makes_infinite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(field(SCL_SLOPE, 3e38, 1.0)(whole()))
    with pytest.raises(VolumeError, match="NaN or infinite, such as inf"):
        read_volume(tmp_path / "a.nii")


def test_a_lazy_volume_refuses_such_voxels_when_it_reads_them(tmp_path: Path) -> None:
    data = np.ones(SHAPE, dtype=np.float32)
    data[4, 3, 2] = np.nan
    nibabel.save(nibabel.Nifti1Image(data.T, AFFINE), tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii", lazy=True)
    assert found.data[0, :4].all()
    with pytest.raises(VolumeError, match="NaN or infinite"):
        found.data[0, 4]


@pytest.mark.parametrize("value", [1.5, -1.0, 70000.0, np.nan])
def test_a_value_that_is_no_label_is_refused(value: float, tmp_path: Path) -> None:
    data = np.zeros(SHAPE, dtype=np.float32)
    data[1, 1, 1] = value
    nibabel.save(nibabel.Nifti1Image(data.T, AFFINE), tmp_path / "a.nii")
    with pytest.raises(LabelError) as refusal:
        read_labels(tmp_path / "a.nii")
    check_sentence(str(refusal.value), tmp_path / "a.nii", f"label value {value:g}")


def test_labels_with_channels_are_refused(tmp_path: Path) -> None:
    data = np.zeros((4, 5, 6, 2), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), tmp_path / "a.nii")
    with pytest.raises(LabelError, match="has 2 channels; labels have one"):
        read_labels(tmp_path / "a.nii")


def test_labels_outside_the_set_are_not_published(tmp_path: Path) -> None:
    labels = np.full(SHAPE, 9, dtype=np.uint8)
    grid = Grid.from_affine(AFFINE, SHAPE)
    for name in ("a.nii.gz", "a.ome.zarr"):
        with pytest.raises(LabelError, match="holds the label values 9"):
            write_labels(tmp_path / name, labels, grid, LabelSet.from_names(["liver"]))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_old_file_and_leaves_no_litter(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path, grid = tmp_path / "a.nii.gz", Grid.from_affine(np.eye(4), (40, 50, 60))
    write_volume(path, np.zeros((40, 50, 60), np.uint8), grid)
    old = path.read_bytes()
    noise = np.random.default_rng(0).normal(size=(40, 50, 60))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        with pytest.raises(VolumeError, match="could not be written") as refusal:
            write_volume(path, noise, grid)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check_sentence(str(refusal.value), path, "Nothing was left behind")
    assert "Errno" not in str(refusal.value)
    assert ".partial-" not in str(refusal.value)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
