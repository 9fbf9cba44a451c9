"""What the Teachers dock knows of results, without Qt."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer

from napari_kdseg.errors import VolumeError
from napari_kdseg.state.regions import CONFLICT, TRUE_BACKGROUND, Regions
from napari_kdseg.state.results import Result, key_of, labels_of
from napari_kdseg.state.slices import FinishedTiles, SliceProfile, slabs_of
from napari_kdseg.state.teachers import UNCERTAINTY, Teachers
from napari_kdseg.state.views import (
    go_to_slice,
    is_scan,
    layer_with_key,
    show,
    slice_in_view,
    sliced_axis,
)
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Box, Grid

SHAPE = (4, 2, 5)
SPLEEN = LabelSet.from_names(["spleen"])
GRID = Grid.from_affine(np.diag([1.0, 1.0, 2.0, 1.0]), SHAPE)
WHOLE = (slice(0, 4), slice(0, 2), slice(0, 5))


def claimant(bit: int, teacher: str, name: str, value: int) -> dict[str, Any]:
    return {"bit": bit, "teacher": teacher, "class": name, "value": value}


def write_regions_json(folder: Path, *claimants: dict[str, Any], **more: Any) -> None:
    noted = {"overlap_rule": "sum", "claimants": list(claimants), **more}
    (folder / "regions.json").write_text(json.dumps(noted))


def published(out: Path, format_: str = ".nii.gz") -> Path:
    """Two teachers; slice 2 is half unsure, and in slice 3 they quarrel."""
    case = out / "case"
    for name in ("one", "two"):
        (case / name).mkdir(parents=True)
        labels = np.zeros(SHAPE, np.uint8)
        write_labels(case / name / f"labels{format_}", labels, GRID, SPLEEN)
    uncertainty = np.zeros(SHAPE, np.float32)
    uncertainty[2] = 0.5
    write_volume(case / f"uncertainty{format_}", uncertainty, GRID)
    bits = np.zeros(SHAPE, np.uint8)
    bits[3, 0] = 0b11
    bits[1] = 0b01
    write_labels(case / f"regions{format_}", bits, GRID, None)
    shares = {TRUE_BACKGROUND: 0.625, "spleen": 0.375, "liver": 0.125, CONFLICT: 0.125}
    write_regions_json(
        case,
        claimant(0, "two", "spleen", 1),
        claimant(1, "one", "liver", 2),
        shares=shares,
    )
    return case


# ---- Regions ----


def regions(tmp_path: Path, *claimants: dict[str, Any]) -> Regions:
    write_regions_json(tmp_path, *claimants)
    found = Regions.read(tmp_path, {"spleen": "#ff0000"})
    assert found is not None
    return found


def test_a_voxel_claimed_for_two_classes_is_in_conflict(tmp_path: Path) -> None:
    found = regions(
        tmp_path, claimant(0, "a", "spleen", 1), claimant(1, "b", "liver", 2)
    )
    bits = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    grid = Grid.from_affine(np.eye(4), (1, 2, 2))
    layer = Layer.create(*found.layer(bits, grid, name="regions", record={}))
    assert layer.features["region"].tolist() == [
        "true background",
        "spleen",
        "liver",
        "conflict: spleen + liver",
    ]
    colors = [tuple(layer.colormap.map(code)) for code in range(4)]
    assert colors[1] == (1, 0, 0, 1)
    assert len(set(colors)) == 4


def test_teachers_of_one_class_do_not_conflict(tmp_path: Path) -> None:
    found = regions(
        tmp_path, claimant(0, "a", "spleen", 1), claimant(1, "b", "spleen", 1)
    )
    bits = np.full((1, 1, 1), 3, np.uint8)
    grid = Grid.from_affine(np.eye(4), (1, 1, 1))
    layer = Layer.create(*found.layer(bits, grid, name="regions", record={}))
    assert np.allclose(layer.get_color(3), (1, 0, 0, 1))
    assert [row.name for row in found.legend] == ["true background", "spleen", CONFLICT]


def test_what_is_not_computed_is_not_shown_as_background(tmp_path: Path) -> None:
    found = regions(tmp_path, claimant(0, "a", "spleen", 1))
    bits = np.zeros((1, 1, 1), np.uint8)
    grid = Grid.from_affine(np.eye(4), (1, 1, 1))
    growing = found.layer(bits, grid, name="regions", record={"live": True})
    done = found.layer(bits, grid, name="regions", record={"live": False})
    assert growing[1]["colormap"][0] == "transparent"
    assert done[1]["colormap"][0] != "transparent"


def test_ten_claimants_are_coloured_without_a_thousand_entries(tmp_path: Path) -> None:
    found = regions(
        tmp_path, *(claimant(k, f"t{k}", f"c{k}", k + 1) for k in range(10))
    )
    bits = np.full((1, 1, 1), 0b11, np.uint16)
    grid = Grid.from_affine(np.eye(4), (1, 1, 1))
    layer = Layer.create(*found.layer(bits, grid, name="regions", record={}))
    assert len(layer.features) == 11
    conflict = found.legend[-1].color
    assert layer.get_color(0b11)[0] == pytest.approx(int(conflict[1:3], 16) / 255)


# ---- Slices ----


def test_means_of_slices_are_those_worked_out_by_hand() -> None:
    values = np.zeros(SHAPE)
    values[2] = 0.5
    values[3, 0] = 1.0
    profile = SliceProfile(SHAPE, {"x": lambda box: values[box]})
    profile.add(slabs_of(WHOLE))
    while profile.advance():
        pass
    assert profile.means("x", 0).tolist() == [0, 0, 0.5, 0.5]
    # Along y: row 0 has 5 * (0.5 + 1) of 20 voxels, row 1 has 5 * 0.5.
    assert profile.means("x", 1).tolist() == [0.375, 0.125]
    assert profile.worst("x", 1) == 0


def test_slices_that_are_not_computed_are_left_out() -> None:
    profile = SliceProfile(SHAPE, {"x": lambda box: np.ones([5, 2, 5])[:1]})
    profile.add(iter([(slice(1, 2), slice(0, 2), slice(0, 5))]))
    profile.advance()
    assert np.isnan(profile.means("x", 0)).tolist() == [True, False, True, True]
    assert profile.worst("x", 0) == 1


def test_a_profile_without_uncertainty_has_no_worst_slice() -> None:
    profile = SliceProfile(SHAPE, {"x": lambda box: np.zeros(SHAPE)[box]})
    profile.add(slabs_of(WHOLE))
    profile.advance()
    assert profile.worst("x", 0) is None


def test_large_volumes_are_averaged_by_the_slab() -> None:
    box = (slice(0, 100), slice(0, 1000), slice(0, 1000))
    slabs: list[Box] = list(slabs_of(box))
    assert len(slabs) == 50
    assert slabs[-1][0] == slice(98, 100)


def test_a_torn_line_of_tiles_waits_for_its_end(tmp_path: Path) -> None:
    file = tmp_path / "tiles.jsonl"
    tile = json.dumps({"index": [[0, 2], [0, 4], [0, 4]], "crc32": 1})
    file.write_text('{"files": []}\n' + tile + "\n" + tile[:9])
    tiles = FinishedTiles(file)
    assert tiles.new() == [(slice(0, 2), slice(0, 4), slice(0, 4))]
    with file.open("a") as more:
        more.write(tile[9:] + "\n")
    assert len(tiles.new()) == 1
    assert tiles.new() == []


# ---- Cases ----


@pytest.mark.parametrize("format_", [".nii.gz", ".ome.zarr"])
def test_published_results_are_opened_by_their_folder(
    tmp_path: Path, format_: str
) -> None:
    state = Teachers()
    state.open_folder(published(tmp_path, format_))
    assert state.teachers == ("two", "one")  # in the order of the bits
    assert state.has("labels", "one")
    assert not state.has("uncertainty", "one")
    state.poll()
    assert state.worst_slice(UNCERTAINTY, 0) == 2
    assert state.worst_slice(CONFLICT, 0) == 3
    assert state.profile is not None
    assert state.profile.means(CONFLICT, 0).tolist() == [0, 0, 0, 0.5]
    assert state.profile.means(UNCERTAINTY, 0)[2] == pytest.approx(0.5)


def test_the_legend_says_the_shares(tmp_path: Path) -> None:
    state = Teachers()
    state.open_folder(published(tmp_path))
    rows = [(row.name, row.share) for row in state.legend]
    assert rows == [
        (TRUE_BACKGROUND, 0.625),
        ("spleen", 0.375),
        ("liver", 0.125),
        (CONFLICT, 0.125),
    ]
    assert "counted in both regions" in state.rule


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="holds no results"):
        Teachers().open_folder(tmp_path)


def test_a_folder_of_many_cases_offers_all_and_opens_the_first(tmp_path: Path) -> None:
    first = published(tmp_path)
    second = shutil.copytree(first, first.with_name("second"))
    (first.parent / ".run").mkdir()
    state = Teachers()
    state.open_folder(first.parent)
    assert [case.folder for case in state.cases] == sorted([first, second])
    assert state.case is not None
    assert state.case.folder == min(first, second)


def test_layers_of_results_lead_to_their_case(tmp_path: Path) -> None:
    case = published(tmp_path)
    viewer = ViewerModel()
    show(viewer, labels_of(Result("labels", case, "one"), "case"))
    state = Teachers()
    state.look(viewer.layers)
    assert state.case is not None
    assert state.case.folder == case
    viewer.layers.clear()
    state.look(viewer.layers)
    assert state.case is None


def test_damaged_results_are_reported_in_a_sentence(tmp_path: Path) -> None:
    case = published(tmp_path)
    (case / "regions.nii.gz").write_bytes(b"nothing")
    state = Teachers()
    said: list[str] = []
    state.failed.connect(said.append)
    state.open_folder(case)
    assert state.layer("regions") is None
    assert "regions.nii.gz" in said[0]


# ---- What a viewer shows ----


def viewer_with_scan() -> tuple[Any, Any]:
    viewer = ViewerModel()
    layer = viewer.add_image(
        np.zeros((6, 7, 8), np.float32), scale=(2, 1, 1), translate=(10, 0, 0)
    )
    return viewer, layer


def test_the_slice_in_view_is_that_of_the_stored_array() -> None:
    viewer, layer = viewer_with_scan()
    viewer.dims.set_point(0, 14.0)  # (14 - 10) / 2
    assert slice_in_view(viewer, layer) == (0, 2)
    viewer.dims.order = (2, 0, 1)
    viewer.dims.set_point(2, 5.0)
    assert slice_in_view(viewer, layer) == (2, 5)
    assert sliced_axis(viewer, layer) == 2


def test_in_three_dimensions_no_slice_is_in_view() -> None:
    viewer, layer = viewer_with_scan()
    viewer.dims.ndisplay = 3
    assert slice_in_view(viewer, layer) is None
    assert sliced_axis(viewer, layer) == 0


def test_a_viewer_with_a_time_axis_steps_through_the_right_one() -> None:
    viewer, layer = viewer_with_scan()
    viewer.add_image(np.zeros((3, 6, 7, 8)), name="movie")
    go_to_slice(viewer, layer, 0, 4)
    assert viewer.dims.point[1] == 18.0  # 10 + 4 * 2
    assert slice_in_view(viewer, layer) == (0, 4)


def test_colour_pictures_and_results_are_no_scans(tmp_path: Path) -> None:
    viewer, layer = viewer_with_scan()
    assert is_scan(layer)
    assert not is_scan(viewer.add_image(np.zeros((6, 7, 3), np.uint8), rgb=True))
    assert not is_scan(viewer.add_labels(np.zeros((6, 7, 8), np.uint8)))
    assert not is_scan(viewer.add_image(np.zeros((3, 6, 7, 8))))


def test_a_result_shown_again_keeps_its_looks(tmp_path: Path) -> None:
    case = published(tmp_path)
    viewer = ViewerModel()
    layer_data = labels_of(Result("labels", case, "one"), "case")
    first = show(viewer, layer_data)
    first.opacity = 0.25
    data, arguments, kind = layer_data
    again = show(viewer, (np.ones_like(data), arguments, kind))
    assert again is first
    assert again.opacity == 0.25
    assert again.data.all()
    key = first.metadata["napari-kdseg"]["key"]
    assert layer_with_key(viewer.layers, key) is first


def test_what_was_painted_is_not_replaced(tmp_path: Path) -> None:
    layer_data = labels_of(Result("labels", published(tmp_path), "one"), "case")
    viewer = ViewerModel()
    painted = show(viewer, layer_data)
    painted.brush_size = 1
    painted.paint((1, 1, 3), 7)
    data, arguments, kind = layer_data
    again = show(viewer, (np.zeros_like(data), arguments, kind))
    assert again is not painted
    assert painted.data[1, 1, 3] == 7


def test_results_of_scans_of_one_name_are_layers_of_their_own(tmp_path: Path) -> None:
    one = Result("labels", tmp_path / "a" / "scan", "model")
    other = Result("labels", tmp_path / "b" / "scan", "model")
    growing = Result("labels", tmp_path / "a/.run/partial/scan", "model")
    assert key_of(one, "scan") != key_of(other, "scan")
    assert key_of(one, "scan") == key_of(growing, "scan")
