"""The one door: which file is what, and what is refused before it is touched."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_kdseg.errors import LabelError, VolumeError
from napari_kdseg.volumes.formats import (
    FORMATS,
    is_volume,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.volume import Grid

GRID = Grid.from_affine(np.eye(4), (3, 2, 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii", True), ("a.NII.GZ", True), ("a.ome.zarr", True), ("a.zarr", True),
     ("a.gz", False), ("a.png", False), ("nii", False), ("a.nii.txt", False)],
)  # fmt: skip
def test_a_volume_is_known_by_its_ending(name: str, expected: bool) -> None:
    assert is_volume(Path(name)) is expected


def test_an_ending_we_do_not_read_is_answered_with_those_we_do(tmp_path: Path) -> None:
    (tmp_path / "scan.png").write_bytes(b"")
    with pytest.raises(VolumeError, match=r"no kind we know; .* end in .nii, .nii.gz"):
        read_volume(tmp_path / "scan.png")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_that_is_not_there_is_named(ending: str, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=f"scan{ending} "):
        read_volume(tmp_path / f"scan{ending}")


def test_a_folder_called_nii_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").mkdir()
    with pytest.raises(VolumeError, match="is a folder of no kind we know"):
        read_volume(tmp_path / "scan.nii")


@pytest.mark.parametrize(
    "ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".ome.tif", ".zarr", ".ome.zarr"]
)
def test_a_missing_folder_is_said_and_not_made(ending: str, tmp_path: Path) -> None:
    data = np.zeros((3, 2, 1), np.uint8)
    if "zarr" in ending:
        write_volume(tmp_path / "new" / f"a{ending}", data, GRID)
        return  # zarr makes the folders it needs
    with pytest.raises(VolumeError, match="could not be written"):
        write_volume(tmp_path / "new" / f"a{ending}", data, GRID)
    assert list(tmp_path.iterdir()) == []


def test_voxels_and_grid_must_agree_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"\(1, 2, 3\) voxels on a grid of"):
        write_volume(tmp_path / "a.nii", np.zeros((1, 2, 3)), GRID)
    assert list(tmp_path.iterdir()) == []


def test_channels_and_names_must_agree(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="1 channels and 2 channel names"):
        write_volume(tmp_path / "a.nii", np.zeros((3, 2, 1)), GRID, channels=("a", "b"))


def test_labels_of_two_channels_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="one channel, not 2"):
        write_labels(tmp_path / "a.nii", np.zeros((2, 3, 2, 1), np.uint8), GRID, None)


def test_a_mask_can_be_written_as_labels(tmp_path: Path) -> None:
    mask = np.array([True, False, True]).repeat(2).reshape(3, 2, 1)
    write_labels(tmp_path / "a.nii", mask, GRID, None)
    found = read_volume(tmp_path / "a.nii").data
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], mask)


def test_wide_bit_masks_keep_their_type(tmp_path: Path) -> None:
    bits = np.full((3, 2, 1), 1 << 20, dtype=np.uint32)
    write_labels(tmp_path / "a.nii", bits, GRID, None)
    assert read_volume(tmp_path / "a.nii").data.dtype == np.uint32


def loaded_with(modules: str, of: set[str]) -> set[str]:
    """Which of some modules a fresh interpreter has after importing others."""
    script = f"import sys, {modules}; print(*({of} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_reading_volumes_needs_neither_torch_nor_a_screen() -> None:
    modules = (
        "napari_kdseg.volumes.preprocessing, napari_kdseg.volumes.formats.nifti, "
        "napari_kdseg.volumes.formats.ome_zarr"
    )
    heavy = {"torch", "monai", "napari", "qtpy", "PyQt6", "SimpleITK", "skimage"}
    assert loaded_with(modules, heavy) == set()


def test_no_format_is_loaded_before_its_first_file() -> None:
    modules = "napari_kdseg.volumes.labels, napari_kdseg.volumes.formats"
    assert loaded_with(modules, {"zarr", "isal"}) == set()
