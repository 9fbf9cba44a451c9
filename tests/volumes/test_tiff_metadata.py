"""Axes, sizes, units and parts of TIFF files as other programs write them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from tiff_files import STACK, notes, same, spacing, written

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    inspect_volume,
    parts_of,
    read_volume,
)
from napari_kdseg.volumes.volume import Grid


def test_a_file_without_a_size_gets_one_millimetre_and_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif")
    header = inspect_volume(path)
    assert header.grid == Grid.from_affine(np.eye(4), STACK.shape)
    assert header.holds_labels is None
    assert header.channels == ("image",)
    assert "stores no voxel size; 1 x 1 x 1 mm is taken. Give it with" in notes(path)
    assert "does not say how it lies; its x, y, z are taken as R, A, S" in notes(path)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((100, 50), "CENTIMETER", (0.1, 0.2, 0.1)),
        ((254, 254), "INCH", (0.1, 0.1, 0.1)),
        ((100, 50), "NONE", (1, 1, 1)),
        ((1, 1), "NONE", (1, 1, 1)),
        ((72, 72), "INCH", (1, 1, 1)),
        ((96, 96), "INCH", (1, 1, 1)),
        ((72 / 2.54, 72 / 2.54), "CENTIMETER", (1, 1, 1)),
    ],
)
def test_resolution_tags_count_where_they_have_a_unit_and_are_not_for_print(
    resolution: tuple[float, float],
    unit: str,
    expected: tuple[float, ...],
    tmp_path: Path,
) -> None:
    path = written(
        tmp_path / "a.tif", resolution=resolution, resolutionunit=unit, metadata=None
    )
    assert spacing(path) == pytest.approx(expected)
    assert "stores no voxel size" in notes(path)
    assert ("along z; it is taken from the others" in notes(path)) == (
        expected != (1, 1, 1)
    )
    for_print = "which programs write where they know none; it is not believed"
    assert (for_print in notes(path)) == (unit != "NONE" and expected == (1, 1, 1))


@pytest.mark.parametrize(
    ("unit", "mm"),
    [("um", 1e-3), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("mm", 1), ("cm", 10),
     ("inch", 25.4), ("nm", 1e-6)],
)  # fmt: skip
def test_imagej_units_are_known_in_all_spellings(
    unit: str, mm: float, tmp_path: Path
) -> None:
    path = written(
        tmp_path / "a.tif",
        imagej=True,
        resolution=(4, 2),
        metadata={"unit": unit, "spacing": 3, "axes": "ZYX"},
    )
    assert spacing(path) == pytest.approx((3 * mm, 0.5 * mm, 0.25 * mm))
    assert notes(path).count(". ") == 0  # nothing but how it lies
    same(path, STACK[np.newaxis])


def test_imagej_leaves_out_a_spacing_of_one(tmp_path: Path) -> None:
    how = {"imagej": True, "resolution": (4, 4)}
    path = written(tmp_path / "a.tif", **how, metadata={"unit": "mm", "axes": "ZYX"})
    assert spacing(path) == (1, 0.25, 0.25)
    assert "no distance of its slices; 1 mm is taken" in notes(path)
    path = written(tmp_path / "b.tif", **how, metadata={"unit": "pixel", "axes": "ZYX"})
    assert spacing(path) == (1, 1, 1)
    assert "stores no voxel size" in notes(path)


def test_a_hyperstack_of_imagej_has_channels_and_times(tmp_path: Path) -> None:
    data = np.arange(2 * 3 * 4 * 6 * 5, dtype=np.uint16).reshape(2, 3, 4, 6, 5)
    path = written(tmp_path / "a.tif", data, imagej=True, metadata={"axes": "TZCYX"})
    assert parts_of(path) == ("time 1", "time 2")
    for number, part in enumerate(parts_of(path)):
        same(path, data[number].swapaxes(0, 1), part)
    assert inspect_volume(path, "time 1").channels[0] == "channel 1"
    with pytest.raises(
        VolumeError, match=r"holds 2 volumes: 'time 1', 'time 2'; .* --part NAME"
    ):
        read_volume(path)
    with pytest.raises(VolumeError, match="no part 'time 3'; it holds the parts"):
        read_volume(path, "time 3")


def test_a_stack_called_times_by_imagej_is_taken_as_slices(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", imagej=True, metadata={"axes": "TYX"})
    same(path, STACK[np.newaxis])
    assert "calls its 5 pages time points; they are taken as slices" in notes(path)


def test_signed_values_of_imagej_are_restored(tmp_path: Path) -> None:
    # ImageJ stores int16 as uint16 with this calibration: Hounsfield units of a CT.
    description = "ImageJ=1.54f\nimages=5\nslices=5\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=x"
    values = STACK.astype(np.int16) - 1000
    stored = (values.astype(np.int32) + 32768).astype(np.uint16)
    how = {"metadata": None, "description": description}
    path = written(tmp_path / "a.tif", stored, **how)
    same(path, values[np.newaxis])
    assert read_volume(path).data.dtype == np.int16
    how["description"] = description.replace("-32768.0", "-5").replace("1.0", "0.5")
    same(written(tmp_path / "b.tif", **how), STACK[np.newaxis] * np.float32(0.5) - 5)
    how["description"] = description.replace("cf=0", "cf=4")
    same(written(tmp_path / "c.tif", **how), STACK[np.newaxis])
    assert "calibrated by a curve of ImageJ (cf=4)" in notes(tmp_path / "c.tif")


@pytest.mark.parametrize("axes", ["TCZYX", "CTZYX", "TZCYX", "ZCTYX", "CZTYX", "ZTCYX"])
def test_axes_of_ome_come_in_any_order(axes: str, tmp_path: Path) -> None:
    sizes = {"T": 2, "C": 3, "Z": 4, "Y": 6, "X": 5}
    shape = [sizes[axis] for axis in axes]
    data = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    path = tmp_path / "a.ome.tif"
    written(path, data, metadata={"axes": axes, "Channel": {"Name": ["a", "b", "c"]}})
    expected = data.transpose([axes.index(axis) for axis in "TCZYX"])
    same(path, expected[1], "time 2")
    assert inspect_volume(path, "time 1").channels == ("a", "b", "c")


def test_sizes_of_ome_have_units(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    about = {
        "axes": "ZYX",
        "PhysicalSizeX": 250,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.5,
        "PhysicalSizeZ": 2e-3,
        "PhysicalSizeZUnit": "mm",
    }
    written(path, metadata=about)
    assert spacing(path) == pytest.approx((2e-3, 0.5e-3, 0.25e-3))
    assert "voxel size" not in notes(path)
    del about["PhysicalSizeZ"]
    written(path, metadata=about)
    assert spacing(path) == pytest.approx((0.25e-3, 0.5e-3, 0.25e-3))
    assert "no voxel size along z" in notes(path)
    written(path, metadata={**about, "PhysicalSizeXUnit": "pixel"})
    assert "no voxel size along z, x" in notes(path)


def test_images_of_an_ome_file_are_parts_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        for name, step in (("liver", 1), ("other", 2), ("other", 3)):
            writer.write(
                STACK[::step],
                photometric="minisblack",
                metadata={"axes": "ZYX", "Name": name},
            )
    assert parts_of(path) == ("liver", "other (2)", "other (3)")
    same(path, STACK[np.newaxis, ::2], "other (2)")


def test_pages_written_one_by_one_are_one_volume(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in STACK:
            writer.write(plane)  # each page becomes a series of its own
    assert parts_of(path) == ()
    same(path, STACK[np.newaxis])


def test_series_of_tifffile_are_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 2):
            writer.write(STACK[::step], photometric="minisblack")
    assert parts_of(path) == ("series 1", "series 2")
    same(path, STACK[np.newaxis, ::2], "series 2")


@pytest.mark.parametrize(
    ("shape", "axes", "channels"),
    [
        ((5, 1, 20, 30), "ZCYX", 1),
        ((5, 20, 30, 1), None, 1),
        ((1, 5, 20, 30), None, 1),
        ((5, 20, 30), "IYX", 1),
        ((2, 5, 20, 30), "CQYX", 2),
        ((5, 2, 20, 30), "ZCYX", 2),
    ],
)
def test_shapes_of_tifffile_are_read(
    shape: tuple[int, ...], axes: str | None, channels: int, tmp_path: Path
) -> None:
    data = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    path = written(tmp_path / "a.tif", data, metadata={"axes": axes} if axes else {})
    order = (axes or "").startswith("ZC")
    expected = data.swapaxes(0, 1) if order else data.reshape(-1, 5, 20, 30)
    same(path, expected)
    assert len(inspect_volume(path).channels) == channels


def test_the_full_size_of_a_pyramid_is_read(tmp_path: Path) -> None:
    for name in ("a.ome.tif", "b.tif"):
        with tifffile.TiffWriter(tmp_path / name) as writer:
            how = {"photometric": "minisblack"}
            writer.write(STACK, subifds=1, metadata={"axes": "ZYX"}, **how)
            writer.write(STACK[:, ::2, ::2], subfiletype=1, **how)
        same(tmp_path / name, STACK[np.newaxis])
    with tifffile.TiffWriter(tmp_path / "c.tif") as writer:
        for page in STACK:
            writer.write(page, metadata=None, photometric="minisblack")
            writer.write(page[::2, ::2], metadata=None, subfiletype=1)
    same(tmp_path / "c.tif", STACK[np.newaxis])
