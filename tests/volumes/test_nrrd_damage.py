"""Every damaged or doubtful NRRD file is refused, and the message says why."""

import bz2
import gzip
import re
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nrrd_files import BASE

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    blocks_of,
    inspect_volume,
    read_label_set,
    read_volume,
)

NOISE = np.random.default_rng(0).integers(0, 9999, 24).astype("<i2").tobytes()


def head(folder: Path, lines: dict[str, str | None] | None = None) -> Path:
    """A good file, but for the lines that are other, or None: not there."""
    fields = {**BASE, **(lines or {})}
    text = "".join(f"{k}: {v}\n" for k, v in fields.items() if v is not None)
    data = {"gzip": gzip.compress, "bzip2": bz2.compress}.get(
        fields["encoding"] or "", bytes
    )(NOISE)
    path = folder / "head.nrrd"
    path.write_bytes(f"NRRD0004\n{text}\n".encode() + data)
    return path


def detached(folder: Path, named: str, lines: dict[str, str] | None = None) -> Path:
    head(folder, {"data file": named, **(lines or {})}).rename(folder / "head.nhdr")
    return folder / "head.nhdr"


def refuse(path: Path, reason: str) -> None:
    """Refused when read whole, and when gone through; with the path in the message."""
    with pytest.raises(VolumeError, match=reason) as whole:
        read_volume(path)
    with pytest.raises(VolumeError, match=reason):
        list(blocks_of(path)[1])
    assert str(path) in str(whole.value)


HEADERS: list[tuple[dict[str, str | None], str]] = [
    ({"sizes": "2 3 0"}, "each must be at least 1"),
    ({"sizes": "2 3 -4"}, "each must be at least 1"),
    ({"sizes": "2 3"}, "3 whole numbers"),
    ({"sizes": "2 3 4.5"}, "3 whole numbers"),
    ({"sizes": "2 3 ٤"}, "3 whole numbers"),
    ({"sizes": "2 3 1_0"}, "3 whole numbers"),
    ({"sizes": "32767 32767 32767"}, "both must be equal"),
    ({"sizes": "32767 32767 32767", "encoding": "gzip"}, "more than gzip can pack"),
    ({"sizes": "32767 32767 32767", "encoding": "bzip2"}, "more than bzip2 can pack"),
    ({"sizes": "2 3 5"}, "both must be equal"),
    ({"sizes": "2 3 3"}, "both must be equal"),
    ({"sizes": "2 3 5", "encoding": "gzip"}, "ends 12 bytes before"),
    ({"sizes": "2 3 3", "encoding": "gzip"}, "goes on after"),
    ({"sizes": "2 3 5", "encoding": "bzip2"}, "ends 12 bytes before"),
    ({"sizes": "2 3 3", "encoding": "bzip2"}, "goes on after"),
    ({"dimension": "0", "sizes": ""}, "NRRD allows 1 to 16"),
    ({"dimension": "99999"}, "NRRD allows 1 to 16"),
    ({"dimension": "three"}, "must be a whole number"),
    ({"dimension": None}, "has no dimension"),
    ({"sizes": None, "type": None}, "has no type and no sizes"),
    ({"encoding": None}, "has no encoding"),
    ({"dimension": "2", "sizes": "6 4", "space directions": "(1,0,0) (0,1,0)"},
     "single slice"),
    ({"dimension": "4", "sizes": "2 3 4 1", "space directions": None}, "4 axes in"),
    ({"dimension": "5", "sizes": "2 3 2 1 2", "kinds": "list list domain domain domain",
      "space directions": "none none (1,0,0) (0,1,0) (0,0,1)"}, "one more axis"),
    ({"kinds": "domain domain"}, "2 kinds"),
    ({"kinds": "domain domain complex"}, "complex numbers"),
    ({"kinds": "domain domain flavour"}, "no kind that NRRD knows"),
    ({"kinds": "list domain domain"}, "with a direction in space"),
    ({"type": "block"}, "of the type 'block'"),
    ({"type": "quadruple"}, "of the type 'quadruple'"),
    ({"encoding": "ascii"}, "which is text"),
    ({"encoding": "hex"}, "which is text"),
    ({"encoding": "zstd"}, "no encoding that NRRD knows"),
    ({"endian": None}, "need 'little' or 'big'"),
    ({"endian": "middle"}, "need 'little' or 'big'"),
    ({"space": "upside-down"}, "space 'upside-down'"),
    ({"space": "3D-left-handed"}, "space '3D-left-handed'"),
    ({"space": "left-posterior-superior-time"}, "must be one of"),
    ({"space": None, "space dimension": "2"}, "2 dimensions"),
    ({"space directions": "(1,0,0) (0,2,0)"}, "3 axes need as many"),
    ({"space directions": "(1,0,0) (0,2,0) (0,0,3) (0,0,1)"}, "3 axes need as many"),
    ({"space directions": "(1,0,0) (0,2,0) (0,0,3"}, "3 axes need as many"),
    ({"space directions": "(1,0) (0,2) (0,3)"}, "3 finite numbers"),
    ({"space directions": "(1,0,0) (0,2,0) (0,0,nan)"}, "3 finite numbers"),
    ({"space directions": "(1,0,0) (0,2,0) (0,0,inf)"}, "3 finite numbers"),
    ({"space directions": "(1,0,0) (0,2,0) (0,0,1e999)"}, "3 finite numbers"),
    ({"space directions": "(1,0,0) (0,2,0) (0,0,1e200)"}, "3 finite numbers"),
    ({"space directions": "(1,0,0) (0,2,0) (1,2,0)"}, "does not span space"),
    ({"space directions": "(1,0,0) (0,2,0) (0,0,0)"}, "does not span space"),
    ({"space directions": "(1,0,0) (0,2,0) (0,0,1e-200)"}, "does not span space"),
    ({"space origin": "(1,2)"}, "3 finite numbers"),
    ({"space origin": "none"}, "3 finite numbers"),
    ({"space origin": "(1,2,nan)"}, "3 finite numbers"),
    ({"space directions": None, "spacings": "1 1 0"}, "each must be above 0"),
    ({"space directions": None, "spacings": "1 1 -1"}, "each must be above 0"),
    ({"space directions": None, "spacings": "1 1"}, "3 finite numbers"),
    ({"space directions": None, "spacings": "1 1 nan"}, "2 axes in space"),
    ({"space units": '"mm" "mm"'}, "2 units"),
    ({"line skip": "-1"}, "both must be 0 or more"),
    ({"byte skip": "-2"}, "both must be 0 or more"),
    ({"byte skip": "-1", "encoding": "gzip"}, "both must be 0 or more"),
    ({"byte skip": "7"}, "both must be equal"),
    ({"byte skip": "7", "encoding": "gzip"}, "ends 7 bytes before"),
    ({"byte skip": "999999999", "encoding": "bzip2"}, "more than bzip2|before the 48"),
    ({"line skip": "999999999"}, "lines come before its"),
    ({"data file": "a_%03d.raw 1 4 1"}, "in several files"),
    ({"data file": "LIST"}, "in several files"),
    ({"space  direction": "(1,0,0)"}, "which NRRD does not know"),
    ({"Space": "RAS"}, "twice"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "reason"), HEADERS)
def test_a_header_that_cannot_be_believed_is_refused(
    tmp_path: Path, lines: dict[str, str | None], reason: str
) -> None:
    refuse(head(tmp_path, lines), reason)


def test_the_file_these_are_made_of_is_good(tmp_path: Path) -> None:
    for encoding in ("raw", "gzip", "bzip2"):
        found = read_volume(head(tmp_path, {"encoding": encoding}))
        assert found.data.tobytes() == NOISE


def test_a_line_that_is_no_field_is_refused(tmp_path: Path) -> None:
    path = head(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"space origin: ", b"space origin "))
    refuse(path, "lines are 'field: value'")


@pytest.mark.parametrize("start", [b"NRRD0006\n", b"\x1f\x8b", b"", b"P5\n1 1\n"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, start: bytes) -> None:
    path = head(tmp_path)
    path.write_bytes(start + path.read_bytes()[9:] if start else b"")
    refuse(path, "is no NRRD file")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="does not exist"):
        read_volume(tmp_path / "a.nrrd")


def test_a_header_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(b"NRRD0004\n" + b"#" * (1 << 24))
    refuse(path, "has no end of its NRRD header")


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, encoding: str) -> None:
    path = head(tmp_path, {"encoding": encoding})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(VolumeError, match=re.escape(str(path))):
            read_volume(path)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_bytes_after_the_voxels_are_refused(tmp_path: Path, encoding: str) -> None:
    path = head(tmp_path, {"encoding": encoding})
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(VolumeError):
        read_volume(path)


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
def test_a_flipped_bit_in_packed_voxels_is_never_read_as_voxels(
    tmp_path: Path, encoding: str
) -> None:
    path = head(tmp_path, {"encoding": encoding})
    good = path.read_bytes()
    start = good.index(b"\n\n") + 2
    for place in range(start, len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        try:
            found = read_volume(path).data.tobytes()
        except VolumeError:
            continue
        assert found == NOISE  # a bit of the gzip header that says nothing of the data


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = head(tmp_path, {"encoding": "gzip"})
    good = path.read_bytes()
    path.write_bytes(good[:-8] + struct.pack("<II", 1, len(NOISE)))
    refuse(path, "cannot be read to its end")


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 200), st.integers(0, 7))
def test_a_flipped_bit_in_the_header_gives_a_volume_or_a_message(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    path = head(tmp_path_factory.mktemp("flip"))
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    with suppress(VolumeError):  # and no other error
        assert read_volume(path).data.size == 24


@pytest.mark.parametrize(
    "named",
    ["../a.raw", "/etc/passwd", "b/../../a.raw", "C:\\a.raw", "..\\a.raw", "", "a\0b"],
)
def test_a_data_file_outside_the_folder_is_refused(tmp_path: Path, named: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "a.raw").write_bytes(NOISE)
    refuse(detached(folder, named), "header's folder or below")


@pytest.mark.parametrize("named", ["none.raw", "a" * 5000, "folder"])
def test_a_missing_data_file_is_refused(tmp_path: Path, named: str) -> None:
    (tmp_path / "folder").mkdir()
    refuse(detached(tmp_path, named), "which is not there")


def test_a_data_file_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    path = detached(tmp_path, "./a.raw")
    for length in (0, 47, 49):
        (tmp_path / "a.raw").write_bytes(bytes(length))
        refuse(path, "both must be equal")
    (tmp_path / "a.raw").write_bytes(NOISE)
    assert read_volume(path).data.tobytes() == NOISE


def test_a_data_file_below_the_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.raw").write_bytes(NOISE)
    assert read_volume(detached(tmp_path, "b/a.raw")).data.tobytes() == NOISE


def test_lines_and_bytes_before_the_voxels_are_passed_over(tmp_path: Path) -> None:
    for skips, before in (
        ({"line skip": "2", "byte skip": "3"}, b"P5\n1 \xff\nxyz"),
        ({"byte skip": "-1"}, b"whatever"),
        ({"byte skip": "8"}, b"whatever"),
    ):
        (tmp_path / "a.raw").write_bytes(before + NOISE)
        assert read_volume(detached(tmp_path, "a.raw", skips)).data.tobytes() == NOISE


def test_bytes_are_skipped_within_the_packed_stream_and_lines_before(
    tmp_path: Path,
) -> None:
    packed = b"one line\n" + gzip.compress(b"xyz" + NOISE)
    (tmp_path / "a.raw.gz").write_bytes(packed)
    lines = {"line skip": "1", "byte skip": "3", "encoding": "gz"}
    path = detached(tmp_path, "a.raw.gz", lines)
    for lazy in (False, True):
        assert np.asarray(read_volume(path, lazy=lazy).data).tobytes() == NOISE


def test_a_data_file_shorter_than_its_voxels_at_the_end_is_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.raw").write_bytes(NOISE[1:])
    refuse(detached(tmp_path, "a.raw", {"byte skip": "-1"}), "the last of it")


def test_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    path = head(tmp_path)
    text, data = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(text.replace(b"\n", b"\r\n") + b"\r\n\r\n" + data)
    assert read_volume(path).data.tobytes() == NOISE
    assert inspect_volume(path).notes == ()


def test_names_that_are_no_utf8_do_not_matter(tmp_path: Path) -> None:
    path = head(tmp_path, {"content": "Sch\u00e4del"})
    path.write_bytes(path.read_bytes().replace("\u00e4".encode(), b"\xe4"))
    assert read_volume(path).data.tobytes() == NOISE


def test_a_part_is_not_looked_for_in_a_file_of_one_volume(tmp_path: Path) -> None:
    path = head(tmp_path)
    for look in (inspect_volume, read_volume, read_label_set, blocks_of):
        with pytest.raises(VolumeError, match="no part 'layer 1'; it holds one"):
            look(path, "layer 1")
