"""Folders of pictures, with Pillow and tifffile as independent writers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    blocks_of,
    images,
    inspect_volume,
    is_volume,
    parts_of,
    read_label_set,
    read_volume,
)
from napari_kdseg.volumes.formats.sniff import is_image_stack
from napari_kdseg.volumes.volume import Grid

SLICES = (np.arange(12 * 9 * 7).reshape(12, 9, 7) % 251).astype(np.uint8)


def folder_of(
    folder: Path, names: list[str], data: np.ndarray = SLICES, **how: Any
) -> Path:
    """A folder with slice after slice under these names."""
    folder.mkdir(exist_ok=True)
    for name, plane in zip(names, data, strict=False):
        if name.endswith((".tif", ".tiff")):
            grey = {"photometric": "minisblack", "metadata": None}
            tifffile.imwrite(folder / name, plane, **{**grey, **how})
        else:
            Image.fromarray(plane).save(folder / name, **how)
    return folder


def numbered(ending: str, count: int = 12) -> list[str]:
    return [f"slice{number}{ending}" for number in range(1, count + 1)]


def notes(folder: Path) -> str:
    return " ".join(inspect_volume(folder).notes)


@pytest.mark.parametrize("ending", [".tif", ".tiff", ".png", ".bmp"])
def test_slices_are_read_in_the_order_of_their_numbers(
    ending: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "scan", numbered(ending))
    (folder / "README.txt").write_text("about")
    (folder / ".hidden.png").write_bytes(b"")
    assert is_volume(folder)
    assert parts_of(folder) == ()
    assert read_label_set(folder) is None
    assert np.array_equal(read_volume(folder).data[0], SLICES)
    lazy = read_volume(folder, lazy=True).data
    assert np.array_equal(lazy[0, 3:10:2, 4, 1:], SLICES[3:10:2, 4, 1:])
    assert np.array_equal(np.concatenate([b for _, b in blocks_of(folder)[1]]), SLICES)
    header = inspect_volume(folder)
    assert (header.shape, header.dtype) == ((1, 12, 9, 7), np.uint8)
    assert (header.holds_labels, header.packed) == (None, False)


@pytest.mark.parametrize("ending", [".tif", ".png"])
def test_sixteen_bits_keep_their_values(ending: str, tmp_path: Path) -> None:
    data = SLICES.astype(np.uint16) * 257
    folder = folder_of(tmp_path / "scan", numbered(ending), data)
    assert np.array_equal(read_volume(folder).data[0], data)


def test_a_bmp_from_its_top_and_one_from_its_bottom_are_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", numbered(".bmp"), SLICES[:, :, :5])
    for file in folder.iterdir():
        raw = bytearray(file.read_bytes())
        start = int.from_bytes(raw[10:14], "little")
        rows = [raw[start + 8 * row : start + 8 * row + 8] for row in range(9)]
        raw[start:] = b"".join(reversed(rows))
        raw[22:26] = (-9).to_bytes(4, "little", signed=True)
        file.write_bytes(raw)
    assert np.array_equal(read_volume(folder).data[0], SLICES[:, :, :5])


def test_jpeg_slices_are_read_with_a_note(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", numbered(".jpg"), quality=95)
    found = read_volume(folder)
    with Image.open(folder / "slice3.jpg") as theirs:
        # Two decoders round differently.
        gap = np.asarray(theirs).astype(int) - np.asarray(found.data[0, 2])
    assert np.abs(gap).max() <= 2
    assert "has JPEG pictures, which change values" in notes(folder)


@pytest.mark.parametrize(
    ("ending", "how", "expected"),
    [
        (".tif", {"resolution": (100, 50), "resolutionunit": 3}, (0.1, 0.2, 0.1)),
        (".tif", {"resolution": (72, 72), "resolutionunit": 2}, (1, 1, 1)),
        (".tif", {}, (1, 1, 1)),
        (".png", {"dpi": (254, 254)}, (0.1, 0.1, 0.1)),
        (".png", {"dpi": (96, 96)}, (1, 1, 1)),
        (".png", {}, (1, 1, 1)),
        (".bmp", {"dpi": (254, 254)}, (0.1, 0.1, 0.1)),
        (".bmp", {}, (1, 1, 1)),  # Pillow writes 96 per inch
        (".jpg", {"dpi": (254, 127)}, (0.1, 0.2, 0.1)),
        (".jpg", {}, (1, 1, 1)),
    ],
)
def test_resolutions_count_where_they_have_a_unit_and_are_not_for_print(
    ending: str, how: dict[str, Any], expected: tuple[float, ...], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "scan", numbered(ending), **how)
    assert inspect_volume(folder).grid.spacing_mm == pytest.approx(expected)
    assert "stores no voxel size" in notes(folder)
    assert "does not say how it lies" in notes(folder)


def test_pictures_of_two_resolutions_are_noted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", numbered(".png"), dpi=(254, 254))
    folder_of(folder, ["slice12.png"], dpi=(127, 127))
    assert "has pictures of several resolutions; the first's is used" in notes(folder)


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", [f"s_{n:03}.png" for n in range(12)])
    for number in (3, 4, 9):
        (folder / f"s_{number:03}.png").unlink()
    with pytest.raises(VolumeError, match="no picture with the number 3, 4, 9 between"):
        inspect_volume(folder)


def order(*names: str) -> list[str]:
    files = [Path(name) for name in sorted(names)]
    return [file.name for file in images.ordered(files, Path("scan"))]


def test_names_may_hold_other_numbers_and_steps() -> None:
    ten = ["p2_z30.tif", "p2_z5.tif", "p2_z10.tif", "p2_z15.tif", "p2_z20.tif"]
    with pytest.raises(VolumeError, match="no picture with the number 25 between 5"):
        order(*ten)
    assert order(*ten[1:]) == ["p2_z5.tif", *ten[2:]]
    assert order("a7_t0933.png", "a8_t0931.png", "A9_t1020.png") == [
        "a7_t0933.png",
        "a8_t0931.png",
        "A9_t1020.png",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["z1.png", "z2.png", "overview.png"], "has the pictures overview.png and z1"),
        (["z1.png", "z2_mask.png"], "all must be named alike but for their number"),
        (["z1_c1.png", "z1_c2.png", "z2_c1.png", "z2_c2.png"], "a number of their own"),
        (["z1.png", "z01.png"], "a number of their own"),
        (["a.png", "b.png"], "all must be named alike"),
        (
            ["z1.png", "z1000000.png", "z3.png"],
            r"number 2, 4, 5, 6, 7, \.\.\. between",
        ),
    ],
)
def test_names_that_leave_the_order_in_doubt_are_refused(
    names: list[str], message: str
) -> None:
    with pytest.raises(VolumeError, match=message):
        order(*names)


def test_pictures_of_two_kinds_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", numbered(".png", 3))
    folder_of(folder, ["slice4.tif"])
    with pytest.raises(VolumeError, match=r"pictures that end in \.png, \.tif"):
        images.inspect(folder)


def test_a_slice_of_another_size_or_type_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", numbered(".png"))
    Image.fromarray(SLICES[0][:, 1:]).save(folder / "slice7.png")
    with pytest.raises(VolumeError, match=r"slice7.png has 6 x 9 uint8 voxels, and sl"):
        inspect_volume(folder)
    Image.fromarray(SLICES[0].astype(np.uint16)).save(folder / "slice7.png")
    with pytest.raises(VolumeError, match=r"slice7.png has 7 x 9 uint16 voxels"):
        inspect_volume(folder)


@pytest.mark.parametrize(
    ("ending", "mode"),
    [(".png", "RGB"), (".png", "P"), (".png", "LA"), (".bmp", "RGB"), (".bmp", "P"),
     (".jpg", "RGB"), (".tif", "RGB")],
)  # fmt: skip
def test_colours_are_refused_with_what_to_do(
    ending: str, mode: str, tmp_path: Path
) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    colours = Image.fromarray(np.dstack([SLICES[0], SLICES[1], SLICES[2]]))
    for name in numbered(ending, 3):
        colours.convert(mode).save(folder / name)
    with pytest.raises(VolumeError, match=r"colours?; a \w+ needs one grey value"):
        inspect_volume(folder)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".jpg", ".tif"])
def test_a_picture_cut_anywhere_is_refused_by_name(ending: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", numbered(ending))
    damaged = folder / f"slice5{ending}"
    raw = damaged.read_bytes()
    for length in range(len(raw) - 1):
        damaged.write_bytes(raw[:length])
        with pytest.raises(VolumeError, match=rf"slice5\{ending}"):
            read_volume(folder)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".jpg", ".tif"])
def test_a_flipped_bit_gives_a_volume_or_our_error(ending: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", numbered(ending, 3))
    damaged = folder / f"slice2{ending}"
    raw = damaged.read_bytes()
    for place in range(0, len(raw), 3):
        flipped = bytearray(raw)
        flipped[place] ^= 1 << place % 8
        damaged.write_bytes(flipped)
        try:
            found = read_volume(folder).data
        except VolumeError as error:
            if "slice2" not in str(error):
                raise
        else:
            assert found.shape == (1, 3, 9, 7)
            if ending == ".png":  # its checksums notice everything
                assert np.array_equal(found[0], SLICES[:3])


def test_a_stack_among_the_pictures_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", numbered(".tif"))
    tifffile.imwrite(folder / "slice3.tif", SLICES, photometric="minisblack")
    with pytest.raises(VolumeError, match=r"slice3.tif has 12 pages; .* one slice"):
        inspect_volume(folder)


def test_a_single_picture_is_no_volume(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", ["slice1.png"])
    assert not is_volume(folder)
    with pytest.raises(VolumeError, match="has 1 pictures; a volume needs two slices"):
        images.inspect(folder)
    with pytest.raises(VolumeError, match="is no folder; pictures of slices lie in"):
        images.inspect(folder / "slice1.png")


def test_a_folder_of_pictures_has_no_parts_and_is_not_written(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scan", numbered(".png"))
    with pytest.raises(
        VolumeError, match="no part 'a'; a folder of pictures holds one"
    ):
        read_volume(folder, "a")
    grid = Grid.from_affine(np.eye(4), SLICES.shape)
    with pytest.raises(VolumeError, match=r"Give a file that ends in \.ome\.tif"):
        images.write(tmp_path / "new", SLICES[np.newaxis], grid, ("a",))
    with pytest.raises(VolumeError, match=r"Give a file that ends in \.ome\.tif"):
        images.write_labels(tmp_path / "new", SLICES[np.newaxis], grid, None)


def test_pictures_beside_scans_are_no_stack(tmp_path: Path) -> None:
    for number in range(2):
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / f"{number}.png")
    assert is_image_stack(tmp_path)
    (tmp_path / "scan.nii.gz").touch()
    assert not is_image_stack(tmp_path)
