"""A label drawn on an oblique scan lies where it was drawn, in other programs too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everybody knows

from napari_kdseg.volumes.formats import inspect_volume, write_volume
from napari_kdseg.volumes.volume import Grid

TURN = np.deg2rad(20)
OBLIQUE = np.array(
    [
        [-1.5 * np.cos(TURN), 2.0 * np.sin(TURN), 0, 31],
        [-1.5 * np.sin(TURN), -2.0 * np.cos(TURN), 0, -12],
        [0, 0, 3, 7],
        [0, 0, 0, 1],
    ]
)
SHAPE = (6, 20, 16)
VOXEL = (4, 11, 7)  # z, y, x


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "oblique.nii.gz"
    data = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    write_volume(path, data, Grid.from_affine(OBLIQUE, SHAPE))
    return path


def painted(viewer: Any, scan: Path, voxel: tuple[int, int, int]) -> Any:
    """Labels as a person makes them: napari's own new layer, and its brush."""
    viewer.open(str(scan), plugin="napari-kdseg")
    viewer.layers.selection.active = viewer.layers[0]
    viewer._new_labels()
    labels = viewer.layers[-1]
    labels.brush_size = 1
    world = viewer.layers[0].data_to_world(voxel)
    labels.paint(labels.world_to_data(world), 3)
    assert np.argwhere(labels.data).tolist() == [list(voxel)]
    return labels


@pytest.mark.parametrize("ending", [".nii.gz", ".seg.nrrd", ".nrrd", ".mha"])
def test_a_drawn_voxel_is_at_its_place_for_nibabel_and_simpleitk(
    make_napari_viewer_proxy: Callable[..., Any],
    scan: Path,
    tmp_path: Path,
    ending: str,
) -> None:
    viewer = make_napari_viewer_proxy()
    painted(viewer, scan, VOXEL)
    out = tmp_path / f"drawn{ending}"
    assert viewer.layers[-1:].save(str(out), plugin="napari-kdseg") == [str(out)]
    world_ras = (OBLIQUE @ [*VOXEL[::-1], 1])[:3]
    world_lps = [-world_ras[0], -world_ras[1], world_ras[2]]
    image = sitk.ReadImage(str(out))
    index = image.TransformPhysicalPointToIndex(world_lps)
    assert sitk.GetArrayFromImage(image)[index[::-1]] == 3
    assert (sitk.GetArrayFromImage(image) != 0).sum() == 1
    if ending == ".nii.gz":
        found = nibabel.load(out)
        place = np.linalg.inv(found.affine) @ [*world_ras, 1]
        assert np.allclose(place[:3], VOXEL[::-1], atol=1e-4)
        assert np.asarray(found.dataobj)[VOXEL[::-1]] == 3


def test_a_drawn_voxel_on_a_real_oblique_series_is_at_its_place(
    make_napari_viewer_proxy: Callable[..., Any], real_data: Path, tmp_path: Path
) -> None:
    series = real_data / "dicom_mr_oblique"
    if not series.is_dir():
        pytest.skip(f"no {series}")
    voxel = (9, 100, 130)
    viewer = make_napari_viewer_proxy()
    painted(viewer, series, voxel)
    out = tmp_path / "drawn.nii.gz"
    viewer.layers[-1:].save(str(out), plugin="napari-kdseg")
    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(series))
    reader.SetFileNames(names)
    theirs = reader.Execute()
    header = inspect_volume(series)
    assert theirs.GetSize() == header.grid.shape[::-1]
    world_lps = theirs.TransformIndexToPhysicalPoint(voxel[::-1])
    image = sitk.ReadImage(str(out))
    index = image.TransformPhysicalPointToIndex(world_lps)
    assert sitk.GetArrayFromImage(image)[index[::-1]] == 3
    assert np.allclose(image.GetDirection(), theirs.GetDirection(), atol=1e-5)


def test_a_scan_that_lies_the_same_but_is_turned_otherwise_is_no_guess(
    make_napari_viewer_proxy: Callable[..., Any], scan: Path, tmp_path: Path
) -> None:
    # Turned about its own origin's axis so that both are shown at one place.
    other = OBLIQUE.copy()
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    other[:3] = turn @ OBLIQUE[:3]
    twin = tmp_path / "twin.nii.gz"
    write_volume(twin, np.zeros(SHAPE, np.int16), Grid.from_affine(other, SHAPE))
    viewer = make_napari_viewer_proxy()
    viewer.open(str(twin), plugin="napari-kdseg")
    viewer.open(str(scan), plugin="napari-kdseg")
    viewer.layers.selection.active = viewer.layers[-1]
    viewer._new_labels()
    out = tmp_path / "drawn.nii.gz"
    with pytest.raises(Exception, match="lies like scans with different grids"):
        viewer.layers[-1:].save(str(out), plugin="napari-kdseg")
    assert not out.exists()
