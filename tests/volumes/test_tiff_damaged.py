"""TIFF files that are damaged, contradict themselves or are no volumes."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from tiff_files import GRID, STACK, notes, spacing, written

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    inspect_volume,
    read_volume,
    write_volume,
)
from napari_kdseg.volumes.volume import Grid, Volume


def test_what_is_no_stack_of_grey_slices_is_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tif"
    colours = np.zeros((4, 8, 8, 3), np.uint8)
    palette = np.zeros((3, 256), np.uint16)
    for data, how, message in (
        (colours, {"photometric": "rgb"}, "has RGB colours; a volume needs one grey"),
        (colours[..., 0], {"photometric": "palette", "colormap": palette}, "palette"),
        (STACK.astype("c8"), {}, "holds complex of 64 bits"),
        (STACK[0], {}, "one page for a channel; .* Give the folder of the slices"),
        (STACK, {"volumetric": True, "tile": (1, 16, 16)}, "is 5 slices deep"),
        (STACK.astype("f4"), {"compression": "lerc"}, "packed with LERC"),
        (np.zeros((2, 3, 8, 8), "u1"), {}, "has the axes QQ of"),
        (STACK, {"metadata": {"axes": "TYX"}}, "has 5 time points of one slice each"),
        (STACK, {"planarconfig": "separate"}, "has several values a voxel"),
        (STACK[:, 0], {"metadata": None}, "one page for a channel"),
    ):
        written(path, data, **how)
        with pytest.raises(VolumeError, match=message):
            read_volume(path)


def test_pages_that_differ_are_refused(tmp_path: Path) -> None:
    for other in (STACK[0][:, 1:], STACK[0].astype(np.uint8)):
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            for page in (STACK[0], other):
                writer.write(page, metadata=None, photometric="minisblack")
        with pytest.raises(VolumeError, match=r"\(page 2\); all pages .* be alike"):
            read_volume(tmp_path / "a.tif")


def edited(path: Path, *changes: str) -> None:
    """Replace texts of a file, such as ``SizeZ="5" -> SizeZ="9"``, of equal length."""
    raw = path.read_bytes()
    for change in changes:
        old, new = (text.strip().encode() for text in change.split("->"))
        assert old in raw
        assert len(old) == len(new)
        raw = raw.replace(old, new)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('SizeZ="5" -> SizeZ="9"', "has 5 pages, and its OME-XML promises 9"),
        ('IFD="0" -> IFD="1"', "has 5 pages for 5 planes, .* on page 6"),
        ('PlaneCount="5" -> PlaneCount="2"', "names the pages of 2"),
        ('SizeX="30" -> SizeX="60"', r"described as \(20, 60\)"),
        ('Type="uint16" -> Type="uint32"', r"described as \(20, 30\) uint32"),
        ("<Pixels -> <Pixel_", "has OME-XML that cannot be understood"),
        ('"XYZCT" -> "XYZZT"', "has OME-XML that cannot be understood"),
    ],
)
def test_ome_xml_that_contradicts_the_pages_is_refused(
    change: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.ome.tif"
    write_volume(path, STACK, GRID)
    edited(path, change)
    with pytest.raises(VolumeError, match=message):
        read_volume(path)


def test_pages_that_ome_xml_does_not_use_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    write_volume(path, STACK, GRID)
    edited(path, 'SizeZ="5" -> SizeZ="4"', 'PlaneCount="5" -> PlaneCount="4"')
    assert np.array_equal(read_volume(path).data[0], STACK[:4])
    assert "has 5 pages, and its OME-XML uses 4 of them" in notes(path)
    assert "it was made for (5, 20, 30) voxels, not (4, 20, 30)" in notes(path)


def test_one_file_of_a_set_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ome.tif", metadata={"axes": "ZYX"})
    mark = '<UUID FileName="b.ome.tif">urn:1</UUID>'
    xml = tifffile.tiffcomment(path).replace(
        'PlaneCount="5"/>', f'PlaneCount="5">{mark}</TiffData>'
    )
    assert "urn:1" in xml
    tifffile.tiffcomment(path, xml.encode())
    with pytest.raises(
        VolumeError, match=r"one of several files of a set, with b\.ome"
    ):
        read_volume(path)


def test_a_file_of_ours_that_was_rescaled_loses_its_place_and_says_so(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.ome.tif"
    turned = Grid.from_affine(
        np.array([[0, 0.6, 0, 9], [0.5, 0, 0, 8], [0, 0, 2, 7], [0, 0, 0, 1.0]]),
        STACK.shape,
    )
    write_volume(path, STACK, turned)
    assert inspect_volume(path).grid.matches(turned, 1e-4)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'SizeX="0.5"', b'SizeX="0.7"'))
    assert spacing(path) == (2.0, 0.6, 0.7)
    assert inspect_volume(path).grid.orientation == "RAS"
    assert "changed after it was written: voxels are 2 x 0.6 x 0.7 mm" in notes(path)
    path.write_bytes(raw.replace(b"affine_ras_mm", b"affine_ras_xx"))
    with pytest.raises(
        VolumeError, match="has a record of napari-kdseg that cannot be"
    ):
        read_volume(path)


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}, {"imagej": True}])
def test_a_file_cut_anywhere_is_refused(how: dict[str, Any], tmp_path: Path) -> None:
    about = {"axes": "ZYX"}
    path = written(tmp_path / "a.tif", STACK[:, :4, :6], metadata=about, **how)
    raw = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        ends = [page.offset + 2 + 12 * len(page.tags) + 4 for page in file.pages]
        ends += [
            sum(run)
            for p in file.pages
            for run in zip(p.dataoffsets, p.databytecounts, strict=True)
        ]
    for length in range(max(ends)):
        path.write_bytes(raw[:length])
        with pytest.raises(VolumeError, match=r"a\.tif"):
            read_volume(path)


def flipped(raw: bytes, step: int) -> Iterator[bytes]:
    """One bit after another turned round, of every so many bytes."""
    for place in range(0, len(raw), step):
        damaged = bytearray(raw)
        damaged[place] ^= 1 << place // step % 8
        yield bytes(damaged)


def found_in(path: Path) -> Volume | None:
    try:
        return read_volume(path)
    except VolumeError as error:
        if str(path) not in str(error):
            raise
        return None


def test_a_flipped_bit_in_a_file_of_ours_never_gives_other_voxels(
    tmp_path: Path,
) -> None:
    path, data = tmp_path / "a.tif", STACK[:2, :3, :4]
    grid = Grid.from_affine(np.diag([0.5, 0.6, 2.0, 1.0]), data.shape)
    write_volume(path, data, grid)
    raw = path.read_bytes()
    for number, damaged in enumerate(flipped(raw, 2)):
        path.write_bytes(damaged)
        found = found_in(path)
        if found is not None:
            assert np.array_equal(found.data[0], data), number
            # What is lost of its place in space is said.
            assert found.grid == grid or found.notes, number


@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits", "jpeg", None])
def test_a_flipped_bit_in_any_file_gives_a_volume_or_our_error(
    compression: str | None, tmp_path: Path
) -> None:
    path, data = tmp_path / "a.tif", STACK[:2, :8, :8].astype(np.uint8)
    raw = written(path, data, compression=compression).read_bytes()
    for damaged in flipped(raw, 3):
        path.write_bytes(damaged)
        found_in(path)


def test_a_short_strip_of_lzw_or_jpeg_is_refused(tmp_path: Path) -> None:
    # libjpeg fills with grey, LZW ends without a word.
    for compression in ("lzw", "jpeg"):
        path = written(
            tmp_path / "a.tif", STACK.astype(np.uint8), compression=compression
        )
        with tifffile.TiffFile(path, mode="r+") as file:
            tag = file.pages[1].tags[279]
            tag.overwrite(tag.value[0] // 2)
        with pytest.raises(VolumeError, match=r"\(page 2\) cannot be understood"):
            read_volume(path)


def test_a_chain_of_pages_that_runs_in_circles_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif")
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0].offset, file.pages[-1]
        end = last.offset + 2 + 12 * struct.unpack_from("<H", raw, last.offset)[0]
    raw[end : end + 4] = struct.pack("<I", first)
    path.write_bytes(raw)
    with pytest.raises(VolumeError, match=r"page 6 is said to be .* a page before it"):
        read_volume(path)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for content in (
        b"",
        b"II*\0",
        b"II*\0\0\0\0\0",
        b"hello" * 100,
        b"\x89PNG\r\n\x1a\n",
    ):
        path.write_bytes(content)
        with pytest.raises(VolumeError, match=r"a\.tif"):
            read_volume(path)
    with pytest.raises(VolumeError, match="does not exist; a TIFF file is needed"):
        read_volume(tmp_path / "b.tif")


def test_sizes_are_compared_with_the_file_before_memory_is_taken(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "a.tif", compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for page in file.pages:
            for code in (256, 257, 278):
                page.tags[code].overwrite(60000)
    with pytest.raises(VolumeError, match=r"promises 7,200,000,000 bytes, more than"):
        inspect_volume(path)
