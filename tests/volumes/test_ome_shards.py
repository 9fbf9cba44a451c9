"""Shards: few files for many chunks, read chunk by chunk, and checked."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import read_labels, write_labels
from napari_kdseg.volumes.formats.ome_chunks import Chunks, fastest
from napari_kdseg.volumes.formats.ome_shards import shards_of
from napari_kdseg.volumes.formats.ome_zarr import _add_array
from napari_kdseg.volumes.volume import Grid

SHAPE = (70, 130, 66)
GRID = Grid.from_affine(np.eye(4), SHAPE)
LABELS = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
SHARD = Path("0", "c", "0", "0", "0")


@pytest.mark.parametrize(
    ("shape", "chunks", "expected"),
    [
        ((3000, 1000, 1000), (32, 128, 128), (32, 1024, 1024)),
        ((500, 4000, 300), (16, 128, 128), (16, 1024, 384)),
        ((2, 100, 130, 60), (1, 64, 64, 60), (1, 64, 192, 60)),
        ((100, 2000, 2000), (10, 2000, 2000), None),
        ((100, 64, 64), (64, 64, 64), None),
    ],
)
def test_a_shard_holds_a_layer_of_chunks_up_to_1024_voxels_wide(
    shape: tuple[int, ...], chunks: tuple[int, ...], expected: tuple[int, ...] | None
) -> None:
    assert shards_of(shape, chunks) == expected


def test_labels_of_twelve_chunks_lie_in_two_files(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    write_labels(path, LABELS, GRID, None)
    assert sum(file.is_file() for file in (path / "0" / "c").rglob("*")) == 2
    assert zarr.open_array(store=str(path / "0")).chunks == (64, 64, 64)
    assert np.array_equal(read_labels(path)[0], LABELS)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), complete=st.booleans())
def test_chunks_of_shards_read_without_zarr_are_those_that_zarr_reads(
    seed: int, complete: bool
) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(1, 40, 3))
    chunks = tuple(int(rng.integers(1, size + 1)) for size in shape)
    shards = tuple(int(edge * rng.integers(1, 4)) for edge in chunks)
    box = tuple(slice(*sorted(rng.integers(0, size + 1, 2))) for size in shape)
    dtype = np.dtype(rng.choice(["uint8", "int16", "float64"]))
    with tempfile.TemporaryDirectory() as folder:
        group = zarr.create_group(store=folder, zarr_format=3)
        array = _add_array(group, "0", shape, chunks, dtype=dtype, shards=shards)
        array[:] = rng.integers(0, 99, shape)
        if not complete:
            Path(folder, SHARD).unlink()
        fast = fastest(array, Path(folder, "0"), complete=complete)
        assert isinstance(fast, Chunks)
        assert fast.shards is not None
        assert np.array_equal(fast[box], array[box])
        assert np.array_equal(fast[::2], array[::2])


def test_a_chunk_that_a_shard_leaves_out_reads_as_nothing(tmp_path: Path) -> None:
    group = zarr.create_group(store=str(tmp_path), zarr_format=3)
    array = _add_array(
        group, "0", (4, 4, 8), (4, 4, 4), dtype=np.dtype("uint8"), shards=(4, 4, 8)
    )
    array[:, :, 4:] = 7
    fast = fastest(array, tmp_path / "0")
    assert not fast[:, :, :4].any()
    assert (fast[:, :, 4:] == 7).all()
    with pytest.raises(ValueError, match=r"chunk \(0, 0, 0\) of .* is missing"):
        fastest(array, tmp_path / "0", complete=True)[:, :, :4]


def flipped(place: int) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[place] ^= 1
        return bytes(changed)

    return flip


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(flipped(20), id="a bit of a chunk"),
        pytest.param(flipped(-20), id="a bit of the index"),
        pytest.param(flipped(-1), id="a bit of its checksum"),
        pytest.param(lambda content: content[:-9], id="cut off"),
        pytest.param(lambda content: content[100:], id="its beginning lost"),
        pytest.param(lambda content: content[-60:], id="shorter than its index"),
        pytest.param(lambda content: b"", id="empty"),
    ],
)
def test_a_damaged_shard_is_an_error(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "a.ome.zarr"
    write_labels(path, LABELS, GRID, None)
    shard = path / SHARD
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(VolumeError, match=r"a\.ome\.zarr"):
        read_labels(path)


def test_a_shard_that_is_lost_makes_the_result_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    write_labels(path, LABELS, GRID, None)
    (path / SHARD).unlink()
    with pytest.raises(VolumeError, match="has 1 chunks, and its record promises 2"):
        read_labels(path)
