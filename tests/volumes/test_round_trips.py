"""What is written in any format is what others read, and what we read again."""

from pathlib import Path

import independent
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    inspect_volume,
    is_volume,
    parts_of,
    read_label_set,
    read_labels,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelClass, LabelSet
from napari_kdseg.volumes.volume import Grid

IMAGES = (".nii", ".nii.gz", ".nrrd", ".mha", ".ome.tif", ".ome.zarr")
LABELS = (*IMAGES, ".seg.nrrd")
NAMING = (".nii", ".nii.gz", ".seg.nrrd", ".nrrd", ".ome.tif", ".ome.zarr")
TOLERANCE_MM = 1e-4
ORGANS = LabelSet(
    classes=(
        LabelClass(value=2, name="liver (left lobe)", color="#aa3311"),
        LabelClass(value=7, name="Milz, groß", color="#00ff80"),
        LabelClass(value=200, name="swim bladder", color="#0080ff"),
    )
)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Any small grid: turned, flipped, anisotropic, far away, from µm to cm."""
    shape = tuple(draw(st.integers(1, 6)) for _ in range(3))
    unit = draw(st.sampled_from([0.0007, 0.141, 1.0, 7.5]))
    spacing = [unit * draw(st.floats(0.5, 2.0)) for _ in range(3)]
    angles = [draw(st.floats(-3.1, 3.1)) for _ in range(3)]
    if draw(st.booleans()):
        angles = [0.0, 0.0, 0.0]
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [n for n in range(3) if n != axis]
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    flips = [draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(spacing) * flips
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return Grid.from_affine(affine, shape)


def far_apart(grid: Grid, affine: np.ndarray) -> float:
    """Largest distance of a voxel's place under two affines, in mm."""
    shape = grid.shape[::-1]
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape])).reshape(3, 8)
    gap = (grid.affine - affine)[:3]
    return float(np.abs(gap[:, :3] @ corners + gap[:, 3:]).max())


def check_as_others_read(path: Path, data: np.ndarray, grid: Grid) -> None:
    ending = "." + path.name.split(".", 1)[1]
    found, affine = independent.READERS[ending](path)
    assert np.array_equal(found.reshape(data.shape), data), ending
    if affine is not None:
        assert far_apart(grid, affine) < TOLERANCE_MM, ending


@pytest.mark.parametrize("ending", IMAGES)
@given(
    grid=grids(),
    dtype=st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"]),
    seed=st.integers(0, 2**16),
)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_image_on_any_grid_comes_back(
    ending: str,
    tmp_path_factory: pytest.TempPathFactory,
    grid: Grid,
    dtype: str,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    data = (rng.random(grid.shape) * 200).astype(dtype)
    path = tmp_path_factory.mktemp("trip") / f"scan{ending}"
    write_volume(path, data, grid)
    again = read_volume(path)
    assert again.data.dtype == dtype
    assert np.array_equal(again.data[0], data)
    assert far_apart(grid, again.grid.affine) < TOLERANCE_MM
    lazily = read_volume(path, lazy=True)
    assert np.array_equal(np.asarray(lazily.data[...]), again.data)
    check_as_others_read(path, data, grid)


@pytest.mark.parametrize("ending", LABELS)
@given(grid=grids(), seed=st.integers(0, 2**16))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_labels_come_back_with_names_and_colours(
    ending: str, tmp_path_factory: pytest.TempPathFactory, grid: Grid, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    data = rng.choice([0, 2, 7, 200], grid.shape).astype(np.uint8)
    path = tmp_path_factory.mktemp("trip") / f"organs{ending}"
    write_labels(path, data, grid, ORGANS)
    found, where = read_labels(path)
    assert np.array_equal(found, data)
    assert far_apart(grid, where.affine) < TOLERANCE_MM
    assert read_label_set(path) == (ORGANS if ending in NAMING else None)
    check_as_others_read(path, data, grid)


@pytest.mark.parametrize("ending", IMAGES)
def test_channels_come_back_in_their_order(ending: str, tmp_path: Path) -> None:
    grid = Grid.from_affine(np.diag([1.0, 2.0, 3.0, 1.0]), (4, 5, 6))
    data = np.random.default_rng(0).integers(0, 99, (3, 4, 5, 6)).astype(np.uint16)
    path = tmp_path / f"scan{ending}"
    write_volume(path, data, grid, channels=("t1", "t2", "flair"))
    again = read_volume(path)
    assert np.array_equal(again.data, data)
    if ending not in (".nii", ".nii.gz", ".mha"):  # which have no place for names
        assert again.channels == ("t1", "t2", "flair")


# ---- Real files ----

REFUSED = (
    "niftirs_complex32.nii",
    "niftirs_minimal_extended_hdr.nii",
    "niftirs_rgb_3D.nii",
    "niftirs_crash-1.nii",
)


def real_volumes(folder: Path) -> list[Path]:
    """One path a volume, of every kind; collections by their first files."""
    found = [path for path in folder.iterdir() if path.is_dir()]
    listed: list[Path] = []
    for place in found:
        if is_volume(place):
            listed.append(place)
            continue
        inner = sorted(place.iterdir())
        for sub in ("imagesTr", "labelsTr", "sample_ct", "sample_mri"):
            inner += sorted((place / sub).glob("*"))[:3]
        listed += [
            path
            for path in inner
            if path.suffix not in (".md", ".csv", ".json", ".gz~")
            and is_volume(path)
            and not path.name.endswith((".img.gz", *REFUSED))
        ]
    return listed


@pytest.mark.slow
def test_every_real_file_comes_back_from_every_format(
    real_data: Path, tmp_path: Path
) -> None:
    listed = real_volumes(real_data)
    assert len(listed) > 30
    for number, path in enumerate(listed):
        for part in parts_of(path) or (None,):
            volume = read_volume(path, part)
            ending = IMAGES[number % len(IMAGES)]
            for chosen in {ending, ".nii.gz", ".nrrd"}:
                out = tmp_path / f"{number}{chosen}"
                data = np.asarray(volume.data)
                single = data[0] if len(data) == 1 else data
                write_volume(out, single, volume.grid)
                again = read_volume(out)
                assert np.array_equal(again.data, data), (path, chosen)
                assert far_apart(volume.grid, again.grid.affine) < TOLERANCE_MM, path
                if len(data) == 1:
                    check_as_others_read(out, single, volume.grid)
                _remove(out)


@pytest.mark.slow
def test_names_and_colours_of_real_labels_come_back(
    real_data: Path, tmp_path: Path
) -> None:
    found = 0
    for number, path in enumerate(real_volumes(real_data)):
        for part in parts_of(path) or (None,):
            known = read_label_set(path, part)
            if known is None:
                continue
            found += 1
            data, grid = read_labels(path, part)
            for ending in NAMING:
                out = tmp_path / f"{number}-{found}{ending}"
                write_labels(out, data, grid, known)
                assert read_label_set(out) == known, (path, ending)
                again, where = read_labels(out)
                assert np.array_equal(again, data), (path, ending)
                assert far_apart(grid, where.affine) < TOLERANCE_MM, (path, ending)
                _remove(out)
    assert found >= 10  # TotalSegmentator, 3D Slicer, DICOM SEG


@pytest.mark.slow
def test_real_series_lie_where_simpleitk_puts_them(real_data: Path) -> None:
    for name in ("dicom_mr_oblique", "dicom_torchio_brain", "dicom_ct_with_seg/ct"):
        volume = read_volume(real_data / name)
        data, affine = independent.series(real_data / name)
        same = np.array_equal(volume.data[0], data)
        assert same or np.array_equal(volume.data[0], data[::-1]), name
        if same:
            assert far_apart(volume.grid, affine) < 1e-3, name


@pytest.mark.slow
def test_real_nrrd_files_are_read_as_pynrrd_reads_them(real_data: Path) -> None:
    path = real_data / "ct_chest_segnrrd" / "CTChest4.nrrd"
    volume = read_volume(path)
    data, affine = independent.nrrd_file(path)
    assert np.array_equal(volume.data[0], data)
    assert far_apart(volume.grid, affine) < TOLERANCE_MM


def test_a_refused_real_file_says_why(real_data: Path) -> None:
    for name in REFUSED:
        with pytest.raises(VolumeError, match=name):
            inspect_volume(real_data / "nifti_tricky" / name)


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path) if path.is_dir() else path.unlink()
