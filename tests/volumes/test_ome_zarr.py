"""OME-Zarr: what we write, what others wrote, and what is not finished."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import (
    inspect_volume,
    ome_zarr,
    parts_of,
    read_label_set,
    read_labels,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.formats.ome_chunks import Chunks, fastest
from napari_kdseg.volumes.formats.ome_zarr import (
    create_array,
    finish,
    label_images,
    levels,
    open_array,
)
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
    fifth = np.full((1, *SHAPE), 51, np.uint8)
    ome_zarr.write(path, fifth, GRID, ("likely",), value_scale=1 / 255)
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


def test_points_in_time_are_parts(tmp_path: Path) -> None:
    data = noise(3, *SHAPE)
    path = foreign(tmp_path, data, "tzyx")
    assert parts_of(path) == ("time 1", "time 2", "time 3")
    found = read_volume(path, "time 2", lazy=True)
    assert found.data.shape == (1, *SHAPE)
    assert np.array_equal(np.asarray(found.data)[0], data[1])
    assert np.array_equal(found.data[0, 2:4, :, 1], data[1, 2:4, :, 1])
    with pytest.raises(VolumeError, match=r"holds 3 volumes: time 1, time 2, time 3"):
        read_volume(path)
    with pytest.raises(VolumeError, match="has no part 'time 4'; it holds time 1"):
        read_volume(path, "time 4")


def test_an_axis_that_is_neither_space_nor_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"has \{'w': 3\} beside channel"):
        read_volume(foreign(tmp_path, noise(3, *SHAPE), "wzyx"))


def test_a_part_of_a_single_image_is_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path, noise(*SHAPE), "zyx")
    assert parts_of(path) == ()
    with pytest.raises(VolumeError, match="has no part 'a'; it holds one volume"):
        inspect_volume(path, "a")


def attributes(path: Path, version: str, **about: Any) -> None:
    """Make a group, or give one more attributes, as the version of OME-Zarr has it."""
    kind: Any = 2 if version == "0.4" else 3
    group = zarr.open_group(store=str(path), mode="a", zarr_format=kind)
    if version == "0.4":
        group.attrs.update(about)
    else:
        group.attrs["ome"] = {**dict(group.attrs.get("ome", {})), **about}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_inside_an_image_are_listed_and_read(
    tmp_path: Path, version: str
) -> None:
    image = foreign(tmp_path, noise(*SHAPE), "zyx", version)
    assert label_images(image) == ()
    cells = noise(*SHAPE, dtype="uint8")
    attributes(image / "labels", version, labels=["cells"])
    inner = foreign(image / "labels", cells, "zyx", version)
    inner.rename(image / "labels" / "cells")
    attributes(
        image / "labels" / "cells",
        version,
        **{
            "image-label": {
                "colors": [{"label-value": 1, "rgba": [255, 0, 128, 255]}],
                "properties": [
                    {"label-value": 1, "name": "cell"},
                    {"label-value": 2, "name": "cell"},
                    {"label-value": 3, "area": 7},
                ],
            }
        },
    )
    (path,) = label_images(image)
    assert path == image / "labels" / "cells"
    assert inspect_volume(path).holds_labels is True
    assert inspect_volume(image).holds_labels is None
    assert np.array_equal(read_labels(path)[0], cells)
    found = read_label_set(path)
    assert found is not None
    assert found.names == ("cell (1)", "cell (2)", "label 3")
    assert found.classes[0].color == "#ff0080"
    # The folder of all labels is a collection of which this is the only one.
    assert np.array_equal(read_labels(image / "labels")[0], cells)


def test_labels_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    image = foreign(tmp_path, noise(*SHAPE), "zyx")
    attributes(image / "labels", "0.4", labels=["../../other"])
    with pytest.raises(VolumeError, match="lies outside"):
        label_images(image)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("series", [None, ["0", "1"]])
def test_the_images_of_a_collection_are_parts(
    tmp_path: Path, version: str, series: list[str] | None
) -> None:
    path = tmp_path / "many.zarr"
    attributes(path, version, **{"bioformats2raw.layout": 3})
    for number in range(2):
        image = foreign(path, noise(*SHAPE) + number, "zyx", version)
        image.rename(path / str(number))
    if series is not None:
        attributes(path / "OME", version, series=series)
    assert parts_of(path) == ("0", "1")
    assert np.array_equal(read_volume(path, "1").data[0], noise(*SHAPE) + 1)
    with pytest.raises(VolumeError, match="holds 2 volumes: 0, 1"):
        read_volume(path)


def test_images_of_a_collection_are_called_as_they_call_themselves(
    tmp_path: Path,
) -> None:
    path = tmp_path / "many.zarr"
    attributes(path, "0.4", **{"bioformats2raw.layout": 3})
    for number, name in enumerate(("left", "right")):
        image = foreign(path, noise(*SHAPE) + number, "zyx", name=name)
        image.rename(path / str(number))
    assert parts_of(path) == ("left", "right")
    for part in ("right", "1"):
        assert np.array_equal(read_volume(path, part).data[0], noise(*SHAPE) + 1)


def test_a_collection_without_images_is_refused(tmp_path: Path) -> None:
    attributes(tmp_path / "many.zarr", "0.4", **{"bioformats2raw.layout": 3})
    with pytest.raises(VolumeError, match="without an image"):
        parts_of(tmp_path / "many.zarr")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_several_images_in_one_group_are_parts(tmp_path: Path, version: str) -> None:
    data = noise(*SHAPE)
    path = foreign(tmp_path, data, "zyx", version, name="first")
    group = zarr.open_group(store=str(path), mode="r+")
    group.create_array("other", data=data + 5)
    attrs: Any = dict(group.attrs)
    about = attrs if version == "0.4" else attrs["ome"]
    second = json.loads(json.dumps(about["multiscales"][0]))
    second["datasets"][0]["path"] = "other"
    second["name"] = "second"
    attributes(path, version, multiscales=[about["multiscales"][0], second])
    assert parts_of(path) == ("first", "second")
    assert np.array_equal(read_volume(path, "second").data[0], data + 5)
    attributes(path, version, multiscales=[second, second])
    assert parts_of(path) == ("image 1", "image 2")


@pytest.mark.parametrize("kind", ["plate", "well"])
def test_plates_of_wells_are_refused(tmp_path: Path, kind: str) -> None:
    attributes(tmp_path / "a.zarr", "0.4", **{kind: {"wells": []}})
    for read in (parts_of, inspect_volume, read_volume):
        with pytest.raises(VolumeError, match=f"is a .*{kind}.*single image"):
            read(tmp_path / "a.zarr")


def two_levels(folder: Path, data: np.ndarray, small: np.ndarray) -> Path:
    path = foreign(folder, data, "zyx", omero={"channels": [{"label": "DAPI"}]})
    group = zarr.open_group(store=str(path), mode="r+")
    group.create_array("half", data=small)
    attrs: Any = dict(group.attrs)
    datasets = attrs["multiscales"][0]["datasets"]
    datasets.append({**datasets[0], "path": "half"})
    group.attrs["multiscales"] = attrs["multiscales"]
    return path


def test_coarser_levels_come_after_the_full_size(tmp_path: Path) -> None:
    data = noise(*SHAPE)
    full, half = levels(two_levels(tmp_path, data, data[::2, ::2, ::2]))
    assert np.array_equal(np.asarray(full)[0], data)
    assert np.array_equal(half[0, 1], data[2, ::2, ::2])


def test_a_coarser_level_that_is_missing_is_left_out_with_a_note(
    tmp_path: Path,
) -> None:
    data = noise(*SHAPE)
    path = two_levels(tmp_path, data, data[::2, ::2, ::2])
    (path / "half" / ".zarray").unlink()
    assert len(levels(path)) == 1
    assert "without its coarser level" in inspect_volume(path).notes[-1]


@pytest.mark.parametrize("small", [noise(7, 5, 4), noise(3, 3, 2, dtype="uint8")])
def test_a_coarser_level_that_is_none_is_left_out(
    tmp_path: Path, small: np.ndarray
) -> None:
    path = two_levels(tmp_path, noise(*SHAPE), small)
    assert len(levels(path)) == 1
    assert "it must be smaller" in inspect_volume(path).notes[-1]


def test_chunks_that_others_left_out_are_noted(tmp_path: Path) -> None:
    path = foreign(tmp_path, noise(*SHAPE), "zyx")
    assert not any("lacks" in note for note in inspect_volume(path).notes)
    (path / "full" / "0.0.0").unlink()
    found = read_volume(path)
    assert "lacks 1 of 1 chunks; they read as 0" in found.notes[-1]
    assert not np.asarray(found.data).any()


def test_shards_are_read_and_what_is_in_them_is_checked(tmp_path: Path) -> None:
    data = noise(*SHAPE)
    path = foreign(tmp_path, data, "zyx", "0.5")
    group = zarr.open_group(store=str(path), mode="r+")
    del group["full"]
    group.create_array("full", data=data, chunks=(2, 5, 4), shards=(4, 5, 4))
    found = read_volume(path)
    assert np.array_equal(found.data[0], data)
    assert not any("lacks" in note for note in found.notes)
    about = path / "full" / "zarr.json"
    text = about.read_text().replace('"name": "zstd"', '"name": "numcodecs.pickle"')
    about.write_text(text.replace('"level": 0', '"protocol": 5'))
    with pytest.raises(VolumeError, match="pickle"):
        read_volume(path)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_chunks_read_without_zarr_are_those_that_zarr_reads(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(1, 40, 3))
    chunks = tuple(int(rng.integers(1, size + 1)) for size in shape)
    box = tuple(slice(*sorted(rng.integers(0, size + 1, 2))) for size in shape)
    dtype = rng.choice(["uint8", "int16", "float64"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ome.zarr"
        grid = Grid.from_affine(np.eye(4), shape)
        array = create_array(path, shape, dtype, grid, chunks=chunks)
        array[:] = rng.integers(0, 99, shape)
        (path / "0" / "c" / "0" / "0" / "0").unlink()
        fast = fastest(array, path / "0")
        assert isinstance(fast, Chunks)
        assert np.array_equal(fast[box], array[box])
        assert np.array_equal(fast[::2], array[::2])


def test_points_of_the_real_levels_lie_where_the_full_size_says(
    real_data: Path,
) -> None:
    path = real_data / "ome_zarr" / "mni152_lowres.ome.zarr"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    found = levels(path)
    shapes = [level.shape for level in found]
    assert shapes == [(1, 53, 64, 51), (1, 26, 32, 25), (1, 13, 16, 12)]
    full, half, _ = (np.asarray(level)[0] for level in found)
    means = full[:52, :, :50].reshape(26, 2, 32, 2, 25, 2).mean(axis=(1, 3, 5))
    assert np.corrcoef(means.ravel(), half.ravel())[0, 1] > 0.98  # theirs are smoothed


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
