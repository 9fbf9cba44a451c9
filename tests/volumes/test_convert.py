"""From any format that is read into any that is written."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from napari_kdseg.errors import LabelError, UsageError, VolumeError
from napari_kdseg.volumes import convert as module
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.convert import convert
from napari_kdseg.volumes.formats import (
    inspect_volume,
    read_label_set,
    read_labels,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.formats.ome_zarr import levels
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

SHAPE = (20, 70, 67)
AFFINE = np.array(
    [[-0.5, 0.02, 0, 7], [0.01, 1, 0.1, -3], [0, -0.05, 2, 11], [0, 0, 0, 1.0]]
)
GRID = Grid.from_affine(AFFINE, SHAPE)
ORGANS = LabelSet.from_names(["spleen", "liver"])


def noise(*channels: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(-9, 1000, (*channels, *SHAPE)).astype(np.int16)


def scan(folder: Path, ending: str = ".nii.gz") -> Path:
    path = folder / f"scan{ending}"
    write_volume(path, noise(), GRID)
    return path


def test_a_place_that_cannot_be_written_is_refused_before_the_source_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("napari_kdseg.atomic.os.open", refuse)
    with pytest.raises(UsageError, match=r"out\.nii cannot be written: .*Read-only"):
        convert(tmp_path / "nothing.nii", tmp_path / "out.nii")


@pytest.mark.parametrize("start", [".nii.gz", ".nii", ".ome.zarr"])
@pytest.mark.parametrize("end", [".nii.gz", ".nii", ".ome.zarr"])
def test_a_scan_comes_through_with_its_place(
    tmp_path: Path, start: str, end: str
) -> None:
    target = tmp_path / f"out{end}"
    seen: list[tuple[int, int]] = []
    done = convert(
        scan(tmp_path, start),
        target,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    found = read_volume(target)
    assert np.array_equal(found.data[0], noise())
    assert found.data.dtype == np.int16
    assert found.grid.matches(GRID)
    assert (done.path, done.grid, done.notes) == (target, found.grid, ())
    assert seen[-1] == (20, 20)
    assert seen == sorted(seen)


def test_nibabel_reads_what_came_from_ome_zarr(tmp_path: Path) -> None:
    convert(scan(tmp_path, ".ome.zarr"), tmp_path / "out.nii.gz")
    theirs = nibabel.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asanyarray(theirs.dataobj), noise().T)
    assert np.allclose(theirs.affine, AFFINE, atol=1e-5)


def test_an_ome_zarr_gets_coarser_levels(tmp_path: Path) -> None:
    convert(scan(tmp_path), tmp_path / "out.ome.zarr")
    found = levels(tmp_path / "out.ome.zarr")
    shapes = [level.shape[1:] for level in found]
    assert shapes == [(20, 70, 67), (20, 70, 34), (20, 35, 17)]


def test_names_of_channels_that_are_lost_are_noted(tmp_path: Path) -> None:
    source = tmp_path / "scan.ome.zarr"
    write_volume(source, noise(2), GRID, channels=("T1", "T2"))
    kept = convert(source, tmp_path / "kept.ome.zarr")
    assert kept.notes == ()
    assert inspect_volume(kept.path).channels == ("T1", "T2")
    lost = convert(source, tmp_path / "lost.nii.gz")
    assert "does not keep the names of the channels: T1, T2" in lost.notes[0]
    assert np.array_equal(read_volume(lost.path).data, noise(2))


def labels_file(folder: Path, ending: str, *, named: bool = True) -> Path:
    path = folder / f"labels{ending}"
    values = (noise() % 3).astype(np.uint8)
    write_labels(path, values, GRID, ORGANS if named else None)
    return path


def test_labels_keep_names_and_colours_where_the_target_can(tmp_path: Path) -> None:
    source = labels_file(tmp_path, ".ome.zarr")
    for ending in (".ome.zarr", ".nii.gz"):
        target = tmp_path / f"out{ending}"
        done = convert(source, target)
        assert np.array_equal(read_labels(target)[0], noise() % 3)
        kept = read_label_set(target) == ORGANS
        assert kept or "does not keep the names and colours" in done.notes[0]
        assert kept or "1 spleen, 2 liver" in done.notes[0]
    assert read_label_set(tmp_path / "out.ome.zarr") == ORGANS
    assert inspect_volume(tmp_path / "out.ome.zarr").holds_labels is True


def test_classes_may_be_given_and_values_beyond_them_are_named(
    tmp_path: Path,
) -> None:
    source = tmp_path / "labels.nii.gz"
    write_volume(source, (noise() % 4).astype(np.int16), GRID)
    convert(source, tmp_path / "out.ome.zarr", labels=ORGANS)
    found = read_label_set(tmp_path / "out.ome.zarr")
    assert found is not None
    assert found.names == ("spleen", "liver", "label 3")
    array, _ = read_labels(tmp_path / "out.ome.zarr")
    assert array.dtype == np.uint8
    assert np.array_equal(array, noise() % 4)


@pytest.mark.parametrize("ending", [".nii.gz", ".ome.zarr"])
@pytest.mark.parametrize(
    ("largest", "dtype"), [(3, np.uint8), (255, np.uint8), (256, np.uint16)]
)
def test_labels_take_the_smallest_type(
    tmp_path: Path, ending: str, largest: int, dtype: type
) -> None:
    data = (noise() % 3).astype(np.float32)
    data[0, 0, 0] = largest
    write_volume(tmp_path / "scan.nii.gz", data, GRID)
    target = tmp_path / f"out{ending}"
    convert(tmp_path / "scan.nii.gz", target, labels=True)
    assert inspect_volume(target).dtype == dtype
    assert np.array_equal(read_labels(target)[0], data)


def test_values_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    for ending in (".nii.gz", ".ome.zarr"):
        with pytest.raises(LabelError, match="holds the label value -"):
            convert(scan(tmp_path), tmp_path / f"out{ending}", labels=True)
        assert not (tmp_path / f"out{ending}").exists()
    write_volume(tmp_path / "two.nii.gz", noise(2), GRID)
    with pytest.raises(LabelError, match="has 2 channels; labels have one"):
        convert(tmp_path / "two.nii.gz", tmp_path / "out.nii", labels=True)


def test_labels_can_be_taken_as_an_image(tmp_path: Path) -> None:
    source = labels_file(tmp_path, ".ome.zarr")
    convert(source, tmp_path / "out.ome.zarr", labels=False)
    assert inspect_volume(tmp_path / "out.ome.zarr").holds_labels is False


def test_an_existing_target_is_not_touched(tmp_path: Path) -> None:
    source = scan(tmp_path)
    before = source.read_bytes()
    for target in (source, tmp_path):
        with pytest.raises(VolumeError, match="replaces nothing"):
            convert(source, target)
    assert source.read_bytes() == before


def test_targets_that_cannot_be_made_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="its ending chooses the format"):
        convert(scan(tmp_path), tmp_path / "out.xyz")
    with pytest.raises(VolumeError, match=r"Make it first"):
        convert(scan(tmp_path), tmp_path / "gone" / "out.nii")


def test_a_spacing_is_taken_and_noted(tmp_path: Path) -> None:
    source = scan(tmp_path)
    for ending in (".ome.zarr", ".nii"):
        target = tmp_path / f"out{ending}"
        done = convert(source, target, spacing_mm=(3.0, 2.0, 1.0))
        assert done.grid.spacing_mm == pytest.approx((3, 2, 1))
        assert done.grid.origin_mm == pytest.approx(GRID.origin_mm)
        assert np.allclose(done.grid.direction, GRID.direction, atol=1e-6)
        assert "got voxels of 3 x 2 x 1 mm" in done.notes[0]
    with pytest.raises(VolumeError, match="each size must be above 0"):
        convert(source, tmp_path / "b.nii", spacing_mm=(1.0, 0.0, 1.0))


@pytest.mark.parametrize("start", [".nii.gz", ".nii"])
@pytest.mark.parametrize("end", [".nii.gz", ".ome.zarr"])
def test_voxels_that_are_no_numbers_are_refused_or_filled(
    tmp_path: Path, start: str, end: str
) -> None:
    data = noise().astype(np.float32)
    data[3, 2, 1] = np.nan
    source, target = tmp_path / f"scan{start}", tmp_path / f"out{end}"
    write_volume(source, data, GRID)
    with pytest.raises(VolumeError, match="NaN or infinite"):
        convert(source, target)
    assert not target.exists()
    convert(source, target, fill_nonfinite=-5.0)
    data[3, 2, 1] = -5
    assert np.array_equal(read_volume(target).data[0], data)


@pytest.mark.parametrize("end", [".nii", ".ome.zarr"])
def test_damage_that_shows_at_the_end_leaves_nothing(tmp_path: Path, end: str) -> None:
    source = scan(tmp_path)
    content = bytearray(source.read_bytes())
    content[-6] ^= 1
    source.write_bytes(bytes(content))
    with pytest.raises(VolumeError, match=r"scan\.nii\.gz"):
        convert(source, tmp_path / f"out{end}")
    assert [entry.name for entry in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_large_packed_scans_go_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_DECODED_BYTES", 1)
    source, cache = scan(tmp_path), Cache(tmp_path / "cache")
    if not inspect_volume(source).packed:
        pytest.skip("the format reads it by piece")
    convert(source, tmp_path / "out.nii", cache=cache)
    assert cache.find(source) is not None
    assert np.array_equal(read_volume(tmp_path / "out.nii").data[0], noise())
    done = convert(source, tmp_path / "out.ome.zarr", cache=Cache(tmp_path / "other"))
    assert not (tmp_path / "other").exists()  # straight into OME-Zarr
    assert done.notes == ()


def test_a_source_can_be_brought_onto_another_grid(tmp_path: Path) -> None:
    grid = Grid.from_affine(np.diag([2.0, 2.0, 2.0, 1.0]), (10, 35, 33))
    write_volume(tmp_path / "onto.nii", np.zeros(grid.shape, np.uint8), grid)
    fine = Grid.from_affine(np.diag([1.0, 1.0, 1.0, 1.0]), SHAPE)
    values = (noise() % 3).astype(np.uint8)
    write_labels(tmp_path / "a.ome.zarr", values, fine, ORGANS)
    for ending in (".nii.gz", ".ome.zarr"):
        target = tmp_path / f"out{ending}"
        done = convert(tmp_path / "a.ome.zarr", target, onto=tmp_path / "onto.nii")
        assert done.grid.matches(grid)
        assert any("was resampled onto" in note for note in done.notes)
        assert np.array_equal(read_labels(target)[0], values[::2, ::2, :66:2])
    image = scan(tmp_path, ".nii")
    convert(image, tmp_path / "image.nii", onto=tmp_path / "onto.nii")
    assert read_volume(tmp_path / "image.nii").data.dtype == np.int16


MEMORY = """
import sys
from pathlib import Path
from napari_kdseg.volumes.convert import convert
import napari_kdseg.volumes.formats.nifti
before = peak_bytes()
convert(Path(sys.argv[1]), Path(sys.argv[2]))
print(peak_bytes() - before)
"""


@pytest.mark.slow
def test_a_packed_scan_is_converted_in_little_memory(
    tmp_path: Path, run_measured: Callable[..., int]
) -> None:
    shape, plane_bytes = (200, 700, 700), 700 * 700 * 2
    source = tmp_path / "scan.nii.gz"
    tiny = tmp_path / "tiny.nii"
    write_volume(
        tiny,
        np.zeros((1, 700, 700), np.int16),
        Grid.from_affine(np.eye(4), (1, 700, 700)),
    )
    start = bytearray(tiny.read_bytes()[:-plane_bytes])
    start[46:48] = np.int16(shape[0]).tobytes()  # dim[3]
    plane = np.random.default_rng(0).integers(0, 50, shape[1:]).astype(np.int16)
    with gzip.open(source, "wb", compresslevel=1) as file:
        file.write(bytes(start))
        for number in range(shape[0]):
            file.write((plane + number).astype(np.int16).tobytes())
    target = tmp_path / "out.ome.zarr"
    assert run_measured(MEMORY, source, target) < 0.75 * shape[0] * plane_bytes
    found = levels(target)[0]
    assert np.array_equal(found[0, 150], plane + 150)
