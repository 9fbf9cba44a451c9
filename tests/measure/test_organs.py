"""The organ table, by hand and against scikit-image."""

import math
from typing import Any

import numpy as np
import pytest
from skimage.measure import regionprops_table

from napari_kdseg.errors import GridError, LabelError, StopRequested
from napari_kdseg.measure import organs
from napari_kdseg.measure.interfaces import DIRECTIONS, weights
from napari_kdseg.measure.organ_rows import as_record, as_row, from_record
from napari_kdseg.measure.organs import Organ, organ_table, pairs
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

ONE = LabelSet.from_names(["liver"])
TWO = LabelSet.from_names(["liver", "spleen"])
LEGLAND = {1: 0.04577789120476, 2: 0.03698062787608, 3: 0.03519563978232}
"""Of a cube's directions, by how many coordinates are not zero; Legland, table 2."""


def cubes(shape: tuple[int, ...]) -> Grid:
    return Grid.from_affine(np.eye(4), shape)


def box(shape: tuple[int, ...], *parts: slice, value: int = 1) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[parts] = value
    return labels


def turned(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Grid:
    """30 degrees about z, then 20 about the new x; voxel sizes x, y, z."""
    a, b = np.deg2rad(30), np.deg2rad(20)
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ about_x @ np.diag(spacing_mm)
    affine[:3, 3] = (5, -7, 11)
    return Grid.from_affine(affine, shape)


def ball(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], radius_mm: float
) -> Any:
    """Around a place that is not a voxel's centre."""
    axes = [
        (np.arange(size) - size / 2 + 0.3) * step
        for size, step in zip(shape, spacing_mm, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (z**2 + y**2 + x**2 < radius_mm**2).astype(np.uint8)


# ---- Size and place ----


def test_a_box_has_the_volume_and_extent_of_its_voxels() -> None:
    grid = Grid.from_affine(np.diag([0.5, 0.5, 2.0, 1.0]), (8, 9, 10))
    labels = box((8, 9, 10), slice(1, 4), slice(2, 6), slice(3, 8))  # 3 x 4 x 5
    liver = organ_table(labels, grid, ONE)[0]
    assert liver.voxels == 60
    assert liver.volume_mm3 == pytest.approx(60 * 0.5)
    assert liver.extent_mm == (6.0, 2.0, 2.5)
    # Middles of voxels 3..7, 2..5 and 1..3, times the spacing.
    assert liver.centroid_mm == pytest.approx((2.5, 1.75, 4.0))


def test_the_axes_of_a_box_follow_from_its_edges() -> None:
    labels = box((8, 9, 10), slice(1, 4), slice(2, 6), slice(3, 8))
    liver = organ_table(labels, cubes((8, 9, 10)), ONE)[0]
    # An edge L has the variance L^2 / 12; an ellipsoid of that is sqrt(20 / 12) L long.
    assert liver.axes_mm == pytest.approx([math.sqrt(5 / 3) * n for n in (5, 4, 3)])
    assert liver.direction == pytest.approx((1, 0, 0))


def test_on_an_oblique_grid_places_and_axes_are_the_worlds() -> None:
    shape = (12, 12, 24)
    grid = turned(shape, (1.5, 1.0, 2.0))
    labels = box(shape, slice(4, 8), slice(4, 8), slice(2, 22))  # long along x
    liver = organ_table(labels, grid, ONE)[0]
    middle = grid.affine @ [11.5, 5.5, 5.5, 1]
    assert liver.centroid_mm == pytest.approx(middle[:3])
    along_x = [math.cos(math.radians(30)), math.sin(math.radians(30)), 0]
    assert liver.direction == pytest.approx(along_x)
    assert liver.axes_mm == pytest.approx([math.sqrt(5 / 3) * n for n in (30, 8, 4)])
    assert liver.volume_mm3 == pytest.approx(30 * 4 * 8)


def test_an_organ_that_is_not_there_has_no_numbers_but_its_volume() -> None:
    labels = box((4, 4, 4), slice(0, 2), slice(0, 2), slice(0, 2))
    spleen = organ_table(labels, cubes((4, 4, 4)), TWO, labels)[1]
    assert (spleen.volume_mm3, spleen.voxels) == (0.0, 0)
    numbers = [spleen.surface_mm2, spleen.intensity_mean, *spleen.axes_mm]
    assert np.isnan([*numbers, *spleen.centroid_mm, *spleen.extent_mm]).all()
    assert spleen.neighbours == ()


def test_what_the_scan_cuts_off_is_said_to_be_at_the_edge() -> None:
    shape = (6, 6, 6)
    labels = box(shape, slice(1, 3), slice(1, 3), slice(1, 3))
    labels[3:6, 3, 3] = 2
    assert [o.at_edge for o in organ_table(labels, cubes(shape), TWO)] == [False, True]


# ---- scikit-image as the reference ----


def test_numbers_are_those_of_regionprops() -> None:
    rng = np.random.default_rng(3)
    smooth = rng.normal(size=(20, 24, 28))
    for axis in range(3):
        smooth = smooth + np.roll(smooth, 1, axis) + np.roll(smooth, 2, axis)
    labels = np.digitize(smooth, [-1.0, 1.5]).astype(np.uint8)  # 0, 1, 2
    image = rng.normal(1000, 50, labels.shape)
    spacing = (2.0, 1.5, 0.5)
    grid = Grid.from_affine(np.diag([0.5, 1.5, 2.0, 1.0]), labels.shape)
    wanted = regionprops_table(
        labels,
        image,
        spacing=spacing,
        properties=("area", "centroid", "intensity_mean", "intensity_std", "bbox"),
    )
    for row, found in enumerate(organ_table(labels, grid, TWO, image)):
        assert found.volume_mm3 == pytest.approx(wanted["area"][row])
        place = [wanted[f"centroid-{axis}"][row] for axis in (2, 1, 0)]
        assert found.centroid_mm == pytest.approx(place)
        assert found.intensity_mean == pytest.approx(wanted["intensity_mean"][row])
        assert found.intensity_sd == pytest.approx(wanted["intensity_std"][row])
        size = [
            (wanted[f"bbox-{axis + 3}"][row] - wanted[f"bbox-{axis}"][row]) * step
            for axis, step in enumerate(spacing)
        ]
        assert found.extent_mm == pytest.approx(size)


def test_axes_are_the_eigenvectors_of_the_voxels_places() -> None:
    rng = np.random.default_rng(5)
    labels = (rng.random((9, 10, 11)) < 0.3).astype(np.uint8)
    grid = turned(labels.shape, (0.7, 1.1, 1.9))
    places = np.argwhere(labels)[:, ::-1] @ grid.affine[:3, :3].T
    of_a_voxel = grid.affine[:3, :3] @ grid.affine[:3, :3].T / 12
    variances = np.linalg.eigvalsh(np.cov(places.T, bias=True) + of_a_voxel)
    liver = organ_table(labels, grid, ONE)[0]
    assert liver.axes_mm == pytest.approx(2 * np.sqrt(5 * variances[::-1]))


# ---- Surface ----


def test_directions_of_cubes_have_the_published_weights() -> None:
    shares, lengths = weights(cubes((2, 2, 2)))
    for step, share, length in zip(DIRECTIONS, shares, lengths, strict=True):
        apart = sum(abs(part) for part in step)
        assert share == pytest.approx(2 * LEGLAND[apart], rel=1e-6)
        assert length == pytest.approx(math.sqrt(apart))


def test_the_surface_of_a_box_is_what_its_lines_say() -> None:
    labels = box((8, 9, 10), slice(1, 4), slice(2, 6), slice(3, 8))
    liver = organ_table(labels, cubes((8, 9, 10)), ONE)[0]
    total = 0.0
    for step in DIRECTIONS:
        # Of 3 x 4 x 5 voxels all leave the box but those with a neighbour in it.
        stay = math.prod(n - abs(d) for n, d in zip((3, 4, 5), step, strict=True))
        apart = sum(abs(d) for d in step)
        total += 4 * 2 * LEGLAND[apart] * (60 - stay) / math.sqrt(apart)
    assert liver.surface_mm2 == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3, 1, 1), (1, 2, 1.5)])
def test_a_ball_has_the_surface_of_a_ball(spacing: tuple[float, ...]) -> None:
    shape = tuple(round(50 / step) for step in spacing)
    labels = ball(shape, spacing, 20)
    straight = Grid.from_affine(np.diag([*spacing[::-1], 1.0]), shape)
    for grid in (straight, turned(shape, spacing[::-1])):
        liver = organ_table(labels, grid, ONE)[0]
        assert liver.surface_mm2 == pytest.approx(4 * math.pi * 400, rel=0.01)


def test_the_edge_of_the_scan_closes_a_surface() -> None:
    within = box((6, 6, 6), slice(1, 5), slice(1, 5), slice(1, 5))
    whole = np.ones((4, 4, 4), np.uint8)
    inside = organ_table(within, cubes((6, 6, 6)), ONE)[0]
    filling = organ_table(whole, cubes((4, 4, 4)), ONE)[0]
    assert filling.surface_mm2 == pytest.approx(inside.surface_mm2)


def test_touching_boxes_share_the_area_that_lines_cross() -> None:
    shape = (12, 10, 10)
    labels = box(shape, slice(2, 5), slice(2, 6), slice(2, 7))
    labels[5:9, 2:6, 2:7] = 2  # a face of 4 x 5
    liver, spleen = organ_table(labels, cubes(shape), TWO)
    area = 0.0
    for _, dy, dx in (step for step in DIRECTIONS if step[0] == 1):
        apart = 1 + abs(dy) + abs(dx)
        crossing = (4 - abs(dy)) * (5 - abs(dx))
        area += 2 * 2 * LEGLAND[apart] * crossing / math.sqrt(apart)
    assert [(near.name, near.area_mm2) for near in liver.neighbours] == [
        ("spleen", pytest.approx(area, rel=1e-6))
    ]
    assert spleen.neighbours[0].area_mm2 == liver.neighbours[0].area_mm2


def test_boxes_that_meet_in_an_edge_do_not_touch() -> None:
    labels = box((6, 6, 6), slice(1, 3), slice(1, 3), slice(1, 3))
    labels[3:5, 3:5, 1:3] = 2
    assert organ_table(labels, cubes((6, 6, 6)), TWO)[0].neighbours == ()


# ---- Pairs ----


def test_pairs_differ_in_left_and_right_alone() -> None:
    names = ["left kidney", "Kidney_Right", "left eye", "liver", "lung left upper"]
    assert pairs(names) == {
        "left kidney": ("left kidney", "Kidney_Right"),
        "Kidney_Right": ("left kidney", "Kidney_Right"),
    }


def test_the_ratio_is_the_left_volume_by_the_right_one() -> None:
    names = LabelSet.from_names(["kidney left", "kidney right", "liver"])
    labels = np.zeros((4, 4, 8), np.uint8)
    labels[0, 0, :6], labels[2, 2, :4], labels[3, 3] = 1, 2, 3
    found = [
        one.left_right_ratio for one in organ_table(labels, cubes((4, 4, 8)), names)
    ]
    assert found[:2] == [1.5, 1.5]
    assert math.isnan(found[2])


# ---- In slabs ----


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, (11, 12, 13), np.uint8)
    image = rng.normal(1e6, 1, labels.shape)
    grid = turned(labels.shape, (1.0, 1.2, 2.0))
    whole = organ_table(labels, grid, TWO, image)
    monkeypatch.setattr(organs, "SLAB_VOX", 2 * 12 * 13)
    for one, other in zip(whole, organ_table(labels, grid, TWO, image), strict=True):
        assert (one.name, one.at_edge) == (other.name, other.at_edge)
        assert one.neighbours == other.neighbours
        kept, again = as_record(one), as_record(other)
        for name in set(kept) - {"name", "at_edge", "neighbours"}:
            wanted = pytest.approx(kept[name], rel=1e-9, nan_ok=True)
            assert again[name] == wanted, name


def test_telling_of_progress_may_stop_it() -> None:
    def stop(done: int, total: int) -> None:
        assert (done, total) == (4, 4)
        raise StopRequested("enough")

    with pytest.raises(StopRequested):
        organ_table(np.zeros((4, 4, 4), np.uint8), cubes((4, 4, 4)), ONE, count=stop)


# ---- Bad input ----


def test_strange_values_are_refused_by_name() -> None:
    labels = box((4, 4, 4), slice(0, 1), slice(0, 1), slice(0, 1), value=7)
    with pytest.raises(LabelError, match=r"scan\.nii holds the label values 7"):
        organ_table(labels, cubes((4, 4, 4)), ONE, name="scan.nii")


def test_an_image_of_another_shape_is_refused() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(GridError, match=r"image has \(4, 4, 5\) voxels"):
        organ_table(labels, cubes((4, 4, 4)), ONE, np.zeros((4, 4, 5)))


# ---- Rows ----


def test_a_row_names_units_and_neighbours() -> None:
    labels = box((6, 6, 6), slice(1, 3), slice(1, 3), slice(1, 3))
    labels[3:5, 1:3, 1:3] = 2
    liver = organ_table(labels, cubes((6, 6, 6)), TWO)[0]
    row = as_row(liver)
    assert (row["volume_mm3"], row["extent_z_mm"], row["class"]) == (8.0, 2.0, "liver")
    assert row["neighbours_mm2"] == f"spleen: {liver.neighbours[0].area_mm2:.4g}"


def test_an_organ_comes_back_from_its_record() -> None:
    labels = box((6, 6, 6), slice(1, 3), slice(1, 3), slice(1, 3))
    labels[3:5, 1:3, 1:3] = 2
    liver: Organ = organ_table(labels, cubes((6, 6, 6)), TWO, labels)[0]
    again = from_record(as_record(liver))
    assert as_row(again).items() >= {"class": "liver", "intensity_mean": 1.0}.items()
    assert again.neighbours == liver.neighbours
