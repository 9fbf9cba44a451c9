"""Scans written with their coarser levels, a few planes at a time."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes import pyramid
from napari_kdseg.volumes.formats import (
    Header,
    inspect_volume,
    read_label_set,
    read_volume,
)
from napari_kdseg.volumes.formats.ome_zarr import levels
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.pyramid import (
    fill_pyramid,
    halved,
    levels_of,
    write_pyramid,
)
from napari_kdseg.volumes.volume import Grid

AFFINE = np.array(
    [[-0.5, 0.02, 0, 7], [0.01, 0.5, 0.1, -3], [0, -0.05, 0.5, 11], [0, 0, 0, 1]]
)


def header(data: np.ndarray, affine: np.ndarray = AFFINE, **more: Any) -> Header:
    names = tuple(f"T{number}" for number in range(data.shape[0]))
    grid = Grid.from_affine(affine, data.shape[1:])
    return Header(Path("scan.nii.gz"), grid, names, data.dtype, **more)


def runs(data: np.ndarray, planes: int = 7) -> Iterator[Any]:
    for channel in range(data.shape[0]):
        for start in range(0, data.shape[1], planes):
            stop = min(start + planes, data.shape[1])
            yield (channel, slice(start, stop)), data[channel, start:stop]


def noise(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, shape).astype(dtype)


def means(data: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 x 2 voxels; the last of an odd axis counts twice."""
    odd = [(0, size % 2) for size in data.shape]
    z, y, x = ((size + 1) // 2 for size in data.shape)
    whole = np.pad(data.astype(float), odd, mode="edge")
    return whole.reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("planes", [1, 7, 200])
def test_every_level_is_the_mean_of_the_one_above(
    tmp_path: Path, channels: int, planes: int
) -> None:
    data = noise(channels, 131, 70, 67)
    path = tmp_path / "a.ome.zarr"
    write_pyramid(path, header(data), runs(data, planes), kind="image")
    found = levels(path)
    assert [level.shape[1:] for level in found] == [
        (131, 70, 67),
        (66, 35, 34),
        (33, 18, 17),
    ]
    assert np.array_equal(np.asarray(found[0]), data)
    for above, below in pairwise(found):
        for channel in range(channels):
            expected = np.floor(means(np.asarray(above)[channel]) + 0.5)
            assert np.array_equal(np.asarray(below)[channel], expected)


def test_the_volume_reads_back_with_grid_channels_and_notes(tmp_path: Path) -> None:
    data = noise(2, 9, 70, 67)
    about = header(data, notes=("scan.nii.gz has a doubtful spacing.",))
    write_pyramid(tmp_path / "a.ome.zarr", about, runs(data), kind="image")
    found = read_volume(tmp_path / "a.ome.zarr")
    assert np.array_equal(found.data, data)
    assert found.grid == about.grid
    assert found.channels == ("T0", "T1")
    assert found.notes == about.notes
    assert inspect_volume(tmp_path / "a.ome.zarr").holds_labels is False


def test_labels_keep_their_values_in_all_levels(tmp_path: Path) -> None:
    data = (noise(1, 70, 70, 67) % 3 * 100).astype(np.uint8)
    organs = LabelSet.from_names(["spleen", "liver"])
    path = tmp_path / "a.ome.zarr"
    write_pyramid(path, header(data), runs(data), kind="labels", labels=organs)
    full, half = levels(path)
    assert np.array_equal(np.asarray(half)[0], data[0, ::2, ::2, ::2])
    assert np.array_equal(np.asarray(full), data)
    assert read_label_set(path) == organs
    assert inspect_volume(path).holds_labels is True


def test_centres_of_coarser_voxels_lie_between_those_they_span(tmp_path: Path) -> None:
    data = noise(1, 130, 20, 70)
    affine = np.diag([0.5, 1.0, 0.5, 1.0])
    affine[:3, 3] = 10, 20, 30
    path = tmp_path / "a.ome.zarr"
    write_pyramid(path, header(data, affine), runs(data), kind="image")
    about = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    (image,) = about["multiscales"]
    found = [
        [
            transform[transform["type"]]
            for transform in item["coordinateTransformations"]
        ]
        for item in image["datasets"]
    ]
    # y waits once: its voxels are twice as long as the others.
    assert found == [
        [[0.5, 1.0, 0.5], [30.0, 20.0, 10.0]],
        [[1.0, 1.0, 1.0], [30.25, 20.0, 10.25]],
        [[2.0, 2.0, 2.0], [30.75, 20.5, 10.75]],
    ]
    assert [item["path"] for item in image["datasets"]] == ["0", "1", "2"]


def test_a_long_axis_waits_until_the_others_have_caught_up() -> None:
    grid = Grid.from_affine(np.diag([1.0, 1.0, 5.0, 1.0]), (60, 512, 512))
    shapes = [level.shape for level in levels_of(grid, 2)]
    assert shapes == [(60, 512, 512), (60, 256, 256), (60, 128, 128), (30, 64, 64)]


def test_there_are_at_most_six_levels_and_flat_volumes_end() -> None:
    wide = Grid.from_affine(np.eye(4), (1, 40_000, 40_000))
    shapes = [level.shape for level in levels_of(wide, 2)]
    assert shapes[-1] == (1, 1250, 1250)
    small = Grid.from_affine(np.eye(4), (64, 64, 64))
    assert len(levels_of(small, 2)) == 1


def test_a_row_of_chunks_stays_below_a_quarter_gigabyte() -> None:
    wide = Grid.from_affine(np.eye(4), (500, 4000, 4000))
    for level in levels_of(wide, 4):
        depth, height, width = level.chunks[0], *level.shape[1:]
        assert depth * height * width * 4 <= 256 << 20
        assert depth % 2 == 0


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1, 2, 2, 2, 2, 2, 2, 2], "uint8", 2),
        ([0, 0, 0, 0, 1, 1, 1, 1], "uint8", 1),  # a half is rounded up
        ([255] * 8, "uint8", 255),
        ([65535] * 8, "uint16", 65535),
        ([-1, 0, 0, 0, 0, 0, 0, 0], "int16", 0),
        ([-3] * 8, "int8", -3),
        ([-(2**31)] * 8, "int32", -(2**31)),
        ([2**32 - 1] * 8, "uint32", 2**32 - 1),
        ([2**40] * 8, "int64", 2**40),
        ([3e38] * 8, "float32", np.float32(3e38)),
        ([0.5, 1.5] * 4, "float64", 1.0),
    ],
)
def test_means_neither_overflow_nor_lean(
    values: list[float], dtype: str, expected: float
) -> None:
    block = np.array(values).astype(dtype).reshape(2, 2, 2)
    found = halved(block, (2, 2, 2), "image")
    assert found.dtype == block.dtype
    assert found.tolist() == [[[expected]]]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_blocks_of_any_length_give_the_same_mean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    block = rng.integers(-500, 500, rng.integers(1, 9, 3)).astype(np.int16)
    assert np.array_equal(
        halved(block, (2, 2, 2), "image"), np.floor(means(block) + 0.5)
    )


def test_progress_counts_planes_and_may_stop(tmp_path: Path) -> None:
    data = noise(2, 9, 8, 8)
    seen: list[tuple[int, int]] = []
    write_pyramid(
        tmp_path / "a.ome.zarr",
        header(data),
        runs(data, 5),
        kind="image",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(0, 18), (5, 18), (9, 18), (14, 18), (18, 18)]

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pyramid(
            tmp_path / "b.ome.zarr",
            header(data),
            runs(data, 5),
            kind="image",
            on_progress=stop,
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_blocks_that_end_early_or_come_twice_are_refused(tmp_path: Path) -> None:
    data = noise(1, 9, 8, 8)
    some = list(runs(data, 3))
    for wrong, words in (
        (some[:2], "gave 6 of its 9 planes"),
        ([some[0], some[0]], "came where"),
        ([some[0], some[2]], "came where"),
        ([((0, slice(0, 12)), np.zeros((12, 8, 8), np.uint16))], "no more"),
        ([((0, slice(0, 9)), np.zeros((9, 8, 7), np.uint16))], "came where"),
    ):
        with pytest.raises(VolumeError, match=words):
            write_pyramid(
                tmp_path / "a.ome.zarr", header(data), iter(wrong), kind="image"
            )
    assert list(tmp_path.iterdir()) == []


def test_an_error_after_the_last_block_leaves_nothing(tmp_path: Path) -> None:
    data = noise(1, 9, 8, 8)

    def damaged() -> Iterator[Any]:
        yield from runs(data)
        raise VolumeError("the checksum is wrong")

    with pytest.raises(VolumeError, match="the checksum is wrong"):
        write_pyramid(tmp_path / "a.ome.zarr", header(data), damaged(), kind="image")
    assert list(tmp_path.iterdir()) == []


def test_channels_may_come_in_turns(tmp_path: Path) -> None:
    data = noise(2, 66, 8, 8)
    turns = [
        ((channel, slice(z, z + 1)), data[channel, z : z + 1])
        for z in range(66)
        for channel in range(2)
    ]
    write_pyramid(tmp_path / "a.ome.zarr", header(data), turns, kind="image")
    assert np.array_equal(read_volume(tmp_path / "a.ome.zarr").data, data)


def test_truth_values_become_numbers(tmp_path: Path) -> None:
    data = noise(1, 9, 8, 8) > 500
    write_pyramid(tmp_path / "a.ome.zarr", header(data), runs(data), kind="image")
    found = read_volume(tmp_path / "a.ome.zarr").data
    assert np.array_equal(found, data.astype(np.uint8))


def test_a_finished_level_that_lost_a_chunk_is_left_out(tmp_path: Path) -> None:
    data = noise(1, 70, 70, 67)
    path = tmp_path / "a.ome.zarr"
    write_pyramid(path, header(data), runs(data), kind="image")
    assert len(levels(path)) == 2
    next((path / "1" / "c").rglob("0")).joinpath("0", "0").unlink()
    assert len(levels(path)) == 1
    assert "has 1 chunks, and its record promises 2" in inspect_volume(path).notes[-1]


def test_what_is_not_finished_can_be_looked_at(tmp_path: Path) -> None:
    data = noise(1, 70, 70, 67)
    path = tmp_path / "a.ome.zarr"

    def look(done: int, total: int) -> None:
        full, half = levels(path, require_complete=False)
        assert np.array_equal(full[0, :32], data[0, :32] * (done >= 32))
        assert half.shape == (1, 35, 35, 34)
        with pytest.raises(VolumeError, match="no _complete"):
            levels(path)

    fill_pyramid(path, header(data), runs(data, 16), kind="image", on_progress=look)
    assert np.array_equal(np.asarray(levels(path)[0]), data)


def test_wide_planes_are_halved_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "_STEP_VOXELS", 1)
    data = noise(1, 67, 9, 8)
    path = tmp_path / "a.ome.zarr"
    write_pyramid(path, header(data), runs(data), kind="image")
    assert np.array_equal(
        np.asarray(levels(path)[1])[0], np.floor(means(data[0]) + 0.5)
    )
