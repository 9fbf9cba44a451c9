"""Every damaged or doubtful MetaImage file is refused, and the message says why."""

import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metaimage_files import NOISE, PACKED, head, packed

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    blocks_of,
    inspect_volume,
    read_label_set,
    read_volume,
)

SLOPE, INTERCEPT = "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"


def detached(folder: Path, named: str, lines: dict[str, str] | None = None) -> Path:
    head(folder, {"ElementDataFile": named, **(lines or {})}, b"")
    return (folder / "head.mha").rename(folder / "head.mhd")


def refuse(path: Path, reason: str) -> None:
    """Refused when read whole, and when gone through; with the path in the message."""
    with pytest.raises(VolumeError, match=reason) as whole:
        read_volume(path)
    with pytest.raises(VolumeError, match=reason):
        list(blocks_of(path)[1])
    assert str(path) in str(whole.value)


HEADERS: list[tuple[dict[str, str | None], str]] = [
    ({"ObjectType": "Tube"}, "only an Image"),
    ({"NDims": None}, "has no NDims"),
    ({"NDims": "2"}, "has 2 axes.*Stack the slices"),
    ({"NDims": "5"}, "has 5 axes"),
    ({"NDims": "-3"}, "has -3 axes"),
    ({"NDims": "3.0"}, "whole number"),
    ({"DimSize": "2 3"}, "3 whole numbers"),
    ({"DimSize": "2 3 0"}, "each must be at least 1"),
    ({"DimSize": "2 3 -4"}, "each must be at least 1"),
    ({"DimSize": "32767 32767 32767"}, "both must be equal"),
    ({"DimSize": "2 3 5"}, "both must be equal"),
    ({"DimSize": "2 3 3"}, "both must be equal"),
    ({"ElementType": "MET_FLOAT"}, "both must be equal"),
    ({"ElementType": "MET_OTHER"}, "of the type 'MET_OTHER'"),
    ({"ElementType": None}, "has no ElementType"),
    ({"ElementNumberOfChannels": "0"}, "has 0 values in each voxel"),
    ({"ElementNumberOfChannels": "2"}, "both must be equal"),
    ({"BinaryData": "False"}, "voxels as text"),
    ({"BinaryData": "Perhaps"}, "must be True or False"),
    ({"ElementByteOrderMSB": "True"}, "they must agree"),
    ({"Position": "1 2 3"}, "they must agree"),
    ({"ElementSpacing": "1 2 0"}, "each must be above 0"),
    ({"ElementSpacing": "1 2 -3"}, "each must be above 0"),
    ({"ElementSpacing": "1 2"}, "3 finite numbers"),
    ({"ElementSpacing": "1 2 nan"}, "3 finite numbers"),
    ({"Offset": "1 2"}, "3 finite numbers"),
    ({"Offset": "1 2 inf"}, "3 finite numbers"),
    ({"TransformMatrix": "1 0 0 0 1 0"}, "9 finite numbers"),
    ({"TransformMatrix": "1 0 0 0 1 0 0 0 nan"}, "9 finite numbers"),
    ({"TransformMatrix": "1 0 0 0 1 0 0 0 0"}, "does not span space"),
    ({"TransformMatrix": "1 0 0 0 1 0 1 0 0"}, "does not span space"),
    ({SLOPE: "2"}, "scales its voxels"),
    ({INTERCEPT: "-1024"}, "scales its voxels"),
    ({"HeaderSize": "5"}, r"skips 5 bytes"),
    ({"HeaderSize": "-2"}, r"skips -2 bytes"),
    ({"ElementDataFile": "LIST"}, "in several files"),
    ({"ElementDataFile": "slice%03d.raw 1 4 1"}, "in several files"),
    ({"CompressedData": "True"}, "cannot be read to its end"),
    ({"": "x"}, "lines are 'key = value'"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "reason"), HEADERS)
def test_a_header_that_cannot_be_believed_is_refused(
    tmp_path: Path, lines: dict[str, str | None], reason: str
) -> None:
    refuse(head(tmp_path, lines), reason)


def test_four_axes_with_a_turn_into_time_are_refused(tmp_path: Path) -> None:
    matrix = np.eye(4)
    matrix[3, 0] = 0.1
    lines = {"NDims": "4", "DimSize": "2 3 2 2", "ElementSpacing": "1 2 3 1"}
    lines |= {
        "Offset": "1 2 3 4",
        "TransformMatrix": " ".join(map(str, matrix.ravel())),
    }
    refuse(head(tmp_path, lines), "mixes its fourth axis")
    lines |= {"ElementNumberOfChannels": "3"}
    refuse(head(tmp_path, lines), "3 values in each voxel and 2 volumes")


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_file_cut_off_anywhere_or_continued_is_refused(
    tmp_path: Path, is_packed: bool
) -> None:
    path = packed(tmp_path) if is_packed else head(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(VolumeError, match=re.escape(str(path))):
            read_volume(path)
    path.write_bytes(whole + b"x")
    refuse(path, "both must be equal")


def test_packed_voxels_that_end_early_or_go_on_are_refused(tmp_path: Path) -> None:
    for data, reason in (
        (zlib.compress(NOISE[:-1]), "ends 1 bytes before"),
        (zlib.compress(NOISE + b"x"), "goes on after"),
        (PACKED + b"x", "cannot be read to its end"),
        (PACKED[:-1], "cannot be read to its end"),
        (PACKED[:-4] + struct.pack(">I", 1), "cannot be read to its end"),
    ):
        refuse(head(tmp_path, {"CompressedData": "True"}, data), reason)
    lines = {"CompressedData": "True", "DimSize": "32767 32767 32767"}
    refuse(head(tmp_path, lines, PACKED), "more than zlib can pack")
    refuse(packed(tmp_path, "17"), "promises 17 bytes of packed voxels")


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 360), st.integers(0, 7))
def test_a_flipped_bit_gives_a_volume_or_a_message(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    path = packed(tmp_path_factory.mktemp("flip"))
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    with suppress(VolumeError):  # and no other error
        assert read_volume(path).data.size == 24


def test_a_flipped_bit_in_packed_voxels_is_never_read_as_voxels(tmp_path: Path) -> None:
    path = packed(tmp_path)
    good = path.read_bytes()
    for place in range(good.index(b"LOCAL\n") + 6, len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with suppress(VolumeError):
            assert read_volume(path).data.tobytes() == NOISE


@pytest.mark.parametrize("named", ["../a.raw", "/etc/passwd", "C:\\a.raw", "b/../../a"])
def test_a_data_file_outside_the_folder_is_refused(tmp_path: Path, named: str) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.raw").write_bytes(NOISE)
    refuse(detached(tmp_path / "inner", named), "header's folder or below")


def test_a_data_file_that_is_missing_or_of_another_length_is_refused(
    tmp_path: Path,
) -> None:
    path = detached(tmp_path, "a.raw")
    refuse(path, "which is not there")
    (tmp_path / "a.raw").write_bytes(NOISE[1:])
    refuse(path, "both must be equal")
    refuse(detached(tmp_path, "a.raw", {"HeaderSize": "-1"}), "the last of it")


def test_bytes_before_the_voxels_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"whatever" + NOISE)
    for size in ("8", "-1"):
        path = detached(tmp_path, "a.raw", {"HeaderSize": size})
        assert read_volume(path).data.tobytes() == NOISE


def test_a_part_is_not_looked_for_in_a_file_of_one_volume(tmp_path: Path) -> None:
    path = head(tmp_path)
    for look in (inspect_volume, read_volume, read_label_set, blocks_of):
        with pytest.raises(VolumeError, match="no part 'layer 1'; it holds one"):
            look(path, "layer 1")
