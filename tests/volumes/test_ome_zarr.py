"""OME-Zarr: what we write, what others wrote, and what is not finished."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    inspect_volume,
    read_label_set,
    read_labels,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.formats.ome_zarr import create_array, finish, open_array
from napari_kdseg.volumes.intensity import _boxes
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid, chunks_of

SHAPE = (6, 5, 4)
# x to the left in steps of 0.5 mm, y to the front in 1, z up in 2, all turned a little.
AFFINE = np.array(
    [[-0.5, 0.02, 0, 7], [0.01, 1, 0.1, -3], [0, -0.05, 2, 11], [0, 0, 0, 1]]
)
GRID = Grid.from_affine(AFFINE, SHAPE)
ORGANS = LabelSet.from_names(["spleen", "liver"])


def noise(*shape: int, dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, shape).astype(dtype)


def foreign(
    folder: Path, data: np.ndarray, order: str, version: str = "0.4", **more: Any
) -> Path:
    """An image as other programs write it: scale 2, 3, 4 along x, y, z."""
    path = folder / "theirs.ome.zarr"
    size = {"x": 2.0, "y": 3.0, "z": 4.0}
    place = {"x": 10.0, "y": 20.0, "z": 30.0}
    kinds = {"c": "channel", "t": "time"}
    multiscale = {
        "version": "0.4",
        "axes": [{"name": a, "type": kinds.get(a, "space")} for a in order],
        "datasets": [
            {
                "path": "full",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [size.get(a, 1.0) for a in order]},
                    {
                        "type": "translation",
                        "translation": [place.get(a, 0.0) for a in order],
                    },
                ],
            }
        ],
        **more,
    }
    old = version == "0.4"
    about: dict[str, Any] = {"multiscales": [multiscale]}
    group = zarr.create_group(
        store=str(path),
        zarr_format=2 if old else 3,
        attributes=about if old else {"ome": {"version": version, **about}},
    )
    group.create_array("full", data=data)
    return path


def test_an_image_comes_back_with_its_full_affine(tmp_path: Path) -> None:
    data = noise(2, *SHAPE)
    write_volume(tmp_path / "a.ome.zarr", data, GRID, channels=("T1", "T2"))
    found = read_volume(tmp_path / "a.ome.zarr")
    assert np.array_equal(found.data, data)
    assert found.data.dtype == data.dtype
    assert found.grid == GRID
    assert found.channels == ("T1", "T2")
    assert found.name == "a"


def test_labels_come_back_with_names_and_colours(tmp_path: Path) -> None:
    labels = noise(*SHAPE, dtype="uint8")
    write_labels(tmp_path / "a.ome.zarr", labels, GRID, ORGANS)
    found, grid = read_labels(tmp_path / "a.ome.zarr")
    assert np.array_equal(found, labels)
    assert grid == GRID
    assert read_label_set(tmp_path / "a.ome.zarr") == ORGANS


def test_the_metadata_are_those_of_the_standard(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.ome.zarr", noise(*SHAPE, dtype="uint8"), GRID, ORGANS)
    found = json.loads((tmp_path / "a.ome.zarr" / "zarr.json").read_text())
    assert found["zarr_format"] == 3
    ome = found["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (multiscale,) = ome["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["z", "y", "x"]
    assert {axis["unit"] for axis in multiscale["axes"]} == {"millimeter"}
    scale, translation = multiscale["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == list(GRID.spacing_mm)
    assert translation["translation"] == [11.0, -3.0, 7.0]
    label = ome["image-label"]
    assert label["properties"][0] == {"label-value": 1, "name": "spleen"}
    assert label["colors"][0] == {"label-value": 1, "rgba": [0xE6, 0x9F, 0x00, 255]}


def test_other_programs_find_a_plain_zarr_array(tmp_path: Path) -> None:
    data = noise(*SHAPE)
    write_volume(tmp_path / "a.ome.zarr", data, GRID)
    array = zarr.open_array(store=str(tmp_path / "a.ome.zarr" / "0"), mode="r")
    assert np.array_equal(array[:], data)
    assert array.metadata.dimension_names == ("z", "y", "x")


def test_a_lazy_image_reads_what_is_asked_for(tmp_path: Path) -> None:
    data = noise(2, *SHAPE)
    write_volume(tmp_path / "a.ome.zarr", data, GRID)
    found = read_volume(tmp_path / "a.ome.zarr", lazy=True).data
    assert not isinstance(found, np.ndarray)
    assert np.array_equal(found[1, 2:5, -1], data[1, 2:5, -1])
    assert np.array_equal(found[..., 1:3], data[..., 1:3])
    assert np.array_equal(np.asarray(found), data)


def test_measuring_decodes_each_chunk_once(tmp_path: Path) -> None:
    shape = (64, 260, 128)
    grid = Grid.from_affine(np.eye(4), shape)
    create_array(tmp_path / "a.ome.zarr", shape, "uint8", grid)[:] = 1
    finish(tmp_path / "a.ome.zarr")
    data = read_volume(tmp_path / "a.ome.zarr", lazy=True).data
    assert chunks_of(data) == (1, 64, 64, 64)
    boxes = list(_boxes(data))
    assert len(boxes) == 3
    assert all(box[0] == slice(0, 64) and box[1].start % 64 == 0 for box in boxes)


def test_stored_values_are_scaled_where_the_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    array = create_array(path, SHAPE, "uint8", GRID, kind="image", value_scale=1 / 255)
    array[:] = 51  # a fifth of 255
    finish(path)
    found = read_volume(path)
    assert found.data.dtype == np.float32
    assert found.data == pytest.approx(0.2)
    assert inspect_volume(path).dtype == np.float32


def test_a_result_can_be_looked_at_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    array = create_array(path, SHAPE, "uint8", GRID, chunks=(2, 5, 4))
    array[0:2] = 7
    seen = open_array(path, require_complete=False)
    assert seen[0, 0, 0] == 7
    assert seen[5, 0, 0] == 0
    assert seen.nchunks_initialized == 1


def test_an_empty_chunk_counts_once_it_is_written(tmp_path: Path) -> None:
    array = create_array(tmp_path / "a.ome.zarr", SHAPE, "uint8", GRID)
    array[:] = 0
    finish(tmp_path / "a.ome.zarr")
    assert open_array(tmp_path / "a.ome.zarr").nchunks_initialized == array.nchunks


def test_a_stopped_result_can_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    create_array(path, SHAPE, "uint8", GRID, chunks=(2, 5, 4))[0:2] = 1
    again = open_array(path, require_complete=False, writable=True)
    again[2:] = 2
    finish(path)
    assert open_array(path)[:, 0, 0].tolist() == [1, 1, 2, 2, 2, 2]


def test_a_result_with_a_chunk_too_few_cannot_be_finished(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    create_array(path, SHAPE, "uint8", GRID, chunks=(2, 5, 4))[0:4] = 1
    with pytest.raises(VolumeError, match="has 2 of its 3 chunks"):
        finish(path)
    assert not (path / "_complete.json").exists()


def test_a_result_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    create_array(path, SHAPE, "uint8", GRID)[:] = 1
    for read in (read_volume, read_labels, inspect_volume, open_array):
        with pytest.raises(VolumeError, match=r"has no _complete\.json"):
            read(path)


def test_a_finished_result_that_lost_a_chunk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    write_volume(path, noise(*SHAPE), GRID)
    (path / "0" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(VolumeError, match="has 0 chunks, and its record promises 1"):
        read_volume(path)


def test_a_record_that_says_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    write_volume(path, noise(*SHAPE), GRID)
    record = path / "_complete.json"
    record.write_text(record.read_text().replace("int16", "int32"))
    with pytest.raises(VolumeError, match=r"its record promises .* int32"):
        read_volume(path)


@pytest.mark.parametrize("place", [3, 20, -6, -1])
def test_a_flipped_bit_in_a_chunk_is_an_error(place: int, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    write_volume(path, noise(*SHAPE), GRID)
    chunk = path / "0" / "c" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[place] ^= 1
    chunk.write_bytes(bytes(content))
    with pytest.raises(VolumeError, match=r"a.ome.zarr cannot be decoded"):
        read_volume(path)


def test_a_chunk_cut_off_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    write_volume(path, noise(*SHAPE), GRID)
    chunk = path / "0" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(VolumeError, match=r"a.ome.zarr cannot be decoded"):
        read_volume(path)


def test_a_folder_is_never_replaced(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.ome.zarr", noise(*SHAPE), GRID)
    with pytest.raises(VolumeError, match="never replaced"):
        write_volume(tmp_path / "a.ome.zarr", noise(*SHAPE), GRID)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    class Failing:
        shape, dtype = SHAPE, np.dtype(np.uint8)

        def __getitem__(self, index: Any) -> np.ndarray:
            raise OSError("the disk is gone")

    with pytest.raises(VolumeError, match="the disk is gone"):
        write_volume(tmp_path / "a.ome.zarr", Failing(), GRID)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_axes_in_the_order_x_y_z_are_turned(tmp_path: Path, version: str) -> None:
    data = noise(*SHAPE)
    path = foreign(tmp_path, np.ascontiguousarray(data.T), "xyz", version)
    found = read_volume(path)
    assert np.array_equal(found.data[0], data)
    assert found.grid.spacing_mm == (4.0, 3.0, 2.0)
    assert found.grid.origin_mm == (10.0, 20.0, 30.0)
    assert "taken as R, A, S" in found.notes[0]
    assert "taken as millimetres" in found.notes[1]


def test_time_of_length_one_is_dropped_and_channels_come_first(tmp_path: Path) -> None:
    data = noise(1, 2, *SHAPE)
    found = read_volume(foreign(tmp_path, data, "tczyx"))
    assert np.array_equal(found.data, data[0])
    assert found.channels == ("channel 1", "channel 2")


def test_a_series_in_time_is_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path, noise(3, *SHAPE), "tzyx")
    with pytest.raises(VolumeError, match=r"has \{'t': 3\} beside channel"):
        read_volume(path)


def test_transformations_of_the_whole_image_come_on_top(tmp_path: Path) -> None:
    whole = [{"type": "scale", "scale": [10.0, 10.0, 10.0]}]
    path = foreign(tmp_path, noise(*SHAPE), "zyx", coordinateTransformations=whole)
    found = read_volume(path).grid
    assert found.spacing_mm == (40.0, 30.0, 20.0)
    assert found.origin_mm == (100.0, 200.0, 300.0)


def test_micrometres_become_millimetres(tmp_path: Path) -> None:
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    found = read_volume(foreign(tmp_path, noise(*SHAPE), "zyx", axes=axes))
    assert found.grid.spacing_mm == pytest.approx((0.004, 0.003, 0.002))
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"axes": [{"name": "y"}, {"name": "x"}]}, "Is it a single slice?"),
        ({"axes": None}, "cannot be understood"),
        ({"datasets": []}, "cannot be understood"),
        ({"datasets": [{"path": "full", "coordinateTransformations": [
            {"type": "rotation"}]}]}, "type 'rotation'"),
        ({"datasets": [{"path": "full", "coordinateTransformations": [
            {"type": "scale", "scale": [1, 0, 1]}]}]}, "must be above 0"),
        ({"datasets": [{"path": "gone", "coordinateTransformations": []}]},
         "has no array 'gone'"),
        ({"datasets": [{"path": "../theirs.ome.zarr.old/full",
                        "coordinateTransformations": []}]}, "lies outside"),
    ],
)  # fmt: skip
def test_metadata_that_make_no_volume_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = foreign(tmp_path, noise(*SHAPE), "zyx", **change)
    with pytest.raises(VolumeError, match=words) as refusal:
        read_volume(path)
    assert str(refusal.value).startswith(str(path))


def test_chunks_that_could_run_code_are_not_opened(tmp_path: Path) -> None:
    path = foreign(tmp_path, noise(*SHAPE), "zyx")
    about = path / "full" / ".zarray"
    found = json.loads(about.read_text())
    found["filters"] = [{"id": "pickle", "protocol": 5}]
    about.write_text(json.dumps(found))
    with pytest.raises(VolumeError, match="pickle"):
        read_volume(path)


def test_a_folder_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(VolumeError, match="is no zarr group"):
        read_volume(tmp_path / "a.zarr")
    zarr.create_group(store=str(tmp_path / "b.zarr"))
    with pytest.raises(VolumeError, match="has no multiscales metadata"):
        read_volume(tmp_path / "b.zarr")
    with pytest.raises(VolumeError, match="is no folder"):
        read_volume(tmp_path / "c.zarr")


def test_a_scale_that_was_changed_later_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    write_volume(path, noise(*SHAPE), GRID)
    group = zarr.open_group(store=str(path), mode="r+")
    ome: Any = group.attrs["ome"]
    dataset = ome["multiscales"][0]["datasets"][0]
    dataset["coordinateTransformations"][0]["scale"] = [1.0, 1.0, 1.0]
    group.attrs["ome"] = ome
    with pytest.raises(VolumeError, match="One was changed later"):
        read_volume(path)


def test_voxels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    data = np.ones(SHAPE, dtype=np.float32)
    data[3, 2, 1] = np.nan
    write_volume(tmp_path / "a.ome.zarr", data, GRID)
    with pytest.raises(VolumeError, match=r"such as nan at \(3, 2, 1\)"):
        read_volume(tmp_path / "a.ome.zarr")
    filled = read_volume(tmp_path / "a.ome.zarr", fill_nonfinite=0.0, lazy=True)
    assert filled.data[0, 3, 2].tolist() == [1, 0, 1, 1]
