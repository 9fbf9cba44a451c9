"""Copies of packed scans: made once, found again, never half."""

import errno
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes import cache as module
from napari_kdseg.volumes.cache import Cache, default_cache
from napari_kdseg.volumes.formats import (
    Header,
    blocks_of,
    ome_zarr,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

SHAPE = (20, 70, 67)
AFFINE = np.array(
    [[-0.5, 0.02, 0, 7], [0.01, 1, 0.1, -3], [0, -0.05, 2, 11], [0, 0, 0, 1.0]]
)
GRID = Grid.from_affine(AFFINE, SHAPE)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.v2.nii.gz"
    write_volume(path, noise(), GRID)
    return path


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 1000, SHAPE).astype(np.int16)


def detached(folder: Path) -> Path:
    """The same in two files: a header of NRRD, and packed voxels."""
    (folder / "scan.raw.gz").write_bytes(gzip.compress(noise().tobytes()))
    (folder / "scan.nhdr").write_text(
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 67 70 20\nendian: little\n"
        "encoding: gzip\nspace: RAS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
        "space origin: (0,0,0)\ndata file: scan.raw.gz\n\n"
    )
    return folder / "scan.nhdr"


def test_a_copy_reads_as_its_source(cache: Cache, scan: Path) -> None:
    assert cache.find(scan) is None
    copy = cache.convert(scan)
    assert cache.find(scan) == copy == cache.partial_path(scan)
    source, found = read_volume(scan), cache.open(scan)
    assert not isinstance(found.data, np.ndarray)
    assert np.array_equal(np.asarray(found.data), source.data)
    assert found.data.dtype == np.int16
    assert found.grid.matches(source.grid)
    assert (found.name, found.source) == ("scan.v2", scan)
    assert (found.channels, found.notes) == (source.channels, source.notes)
    # Voxels of 2 x 1 x 0.5 mm: x is halved alone, then y and x.
    assert [level.shape for level in found.coarser] == [
        (1, 20, 70, 34),
        (1, 20, 35, 17),
    ]


def test_channels_and_notes_are_those_of_the_source(
    cache: Cache, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.nii.gz"
    write_volume(path, np.stack([noise(), noise(1)]), GRID)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:256] = bytes(4)  # neither qform nor sform
    path.write_bytes(gzip.compress(bytes(content)))
    cache.convert(path)
    found, source = cache.open(path), read_volume(path)
    assert found.notes == source.notes
    assert "does not say how it lies" in found.notes[0]
    assert found.channels == source.channels == ("channel 1", "channel 2")


def test_a_scan_is_converted_once(cache: Cache, scan: Path) -> None:
    cache.convert(scan)
    calls: list[int] = []
    cache.convert(scan, on_progress=lambda done, total: calls.append(done))
    assert calls == []


def test_progress_counts_planes_and_arrays_can_be_looked_at(
    cache: Cache, scan: Path
) -> None:
    seen: list[tuple[int, int]] = []

    def look(done: int, total: int) -> None:
        seen.append((done, total))
        copy = cache.partial_path(scan)
        full = ome_zarr.levels(copy, require_complete=False)[0]
        assert full.shape == (1, *SHAPE)
        assert cache.find(scan) is None

    cache.convert(scan, on_progress=look)
    assert (seen[0], seen[-1]) == ((0, 20), (20, 20))


def test_a_source_that_changed_has_no_copy(cache: Cache, scan: Path) -> None:
    cache.convert(scan)
    write_volume(scan, noise(1), GRID)
    assert cache.find(scan) is None
    with pytest.raises(VolumeError, match="has no finished copy"):
        cache.open(scan)
    cache.convert(scan)
    assert np.array_equal(np.asarray(cache.open(scan).data)[0], noise(1))


def test_the_voxels_beside_a_header_count_as_well(cache: Cache, tmp_path: Path) -> None:
    path = detached(tmp_path)
    before = cache.partial_path(path)
    os.utime(tmp_path / "scan.raw.gz", ns=(1, 1))
    assert cache.partial_path(path) != before


def test_every_file_of_a_folder_and_the_part_count(
    cache: Cache, tmp_path: Path
) -> None:
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"one")
    before = cache.partial_path(series, "T1")
    assert cache.partial_path(series, "T2") != before
    (series / "2.dcm").write_bytes(b"two")
    assert cache.partial_path(series, "T1") != before


def test_damage_that_shows_at_the_end_leaves_nothing(cache: Cache, scan: Path) -> None:
    content = bytearray(scan.read_bytes())
    content[-6] ^= 1  # the checksum of the gzip stream
    scan.write_bytes(bytes(content))
    with pytest.raises(VolumeError, match=r"scan\.v2\.nii\.gz"):
        cache.convert(scan)
    assert cache.find(scan) is None
    assert cache.size() == 0


def test_a_conversion_that_is_stopped_leaves_nothing(cache: Cache, scan: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.convert(scan, on_progress=stop)
    assert cache.size() == 0
    cache.convert(scan)


def test_a_source_that_changes_meanwhile_is_refused(cache: Cache, scan: Path) -> None:
    def touch(done: int, total: int) -> None:
        os.utime(scan, ns=(done, done))

    with pytest.raises(VolumeError, match="was changed while it was converted"):
        cache.convert(scan, on_progress=touch)
    assert cache.size() == 0


KILLED = """
import os, sys, time
from pathlib import Path
from napari_kdseg.volumes.cache import Cache
def hang(done, total):
    if done:
        print("halfway", flush=True)
        time.sleep(60)
Cache(Path(sys.argv[1])).convert(Path(sys.argv[2]), on_progress=hang)
"""


@pytest.mark.slow
def test_what_a_killed_conversion_left_is_begun_anew(cache: Cache, scan: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(cache.folder), str(scan)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "halfway\n"
        assert cache.find(scan) is None
        cache.clear()  # what is being made stays
        assert cache.partial_path(scan).is_dir()
        process.kill()
    assert cache.find(scan) is None
    assert cache.entries() == ()
    (cache.partial_path(scan) / "0" / "left").write_text("half")
    cache.convert(scan)
    assert not (cache.partial_path(scan) / "0" / "left").exists()
    assert np.array_equal(np.asarray(cache.open(scan).data)[0], noise())


def test_two_at_once_make_one_copy(
    cache: Cache, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def slow_blocks(*arguments: object, **more: object) -> object:
        made.append(scan)
        time.sleep(0.3)
        return blocks_of(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "blocks_of", slow_blocks)
    monkeypatch.setattr(module, "_WAIT_S", 0.01)
    waits: list[tuple[int, int]] = []
    threads = [
        threading.Thread(
            target=cache.convert,
            args=(scan,),
            kwargs={"on_progress": lambda done, total: waits.append((done, total))},
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert waits.count((0, 20)) > 1
    assert np.array_equal(np.asarray(cache.open(scan).data)[0], noise())


def test_a_disk_without_locks_will_do(
    cache: Cache, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def unknown(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    assert cache.convert(scan) == cache.find(scan)


def test_a_copy_that_lost_a_chunk_is_made_anew(cache: Cache, scan: Path) -> None:
    copy = cache.convert(scan)
    (copy / "0" / "c" / "0" / "0" / "0").unlink()
    assert cache.find(scan) is None
    cache.convert(scan)
    assert np.array_equal(np.asarray(cache.open(scan).data)[0], noise())


def test_voxels_that_are_no_numbers_are_for_the_reader_to_decide(
    cache: Cache, tmp_path: Path
) -> None:
    data = noise().astype(np.float32)
    data[3, 2, 1], data[4, 2, 1] = np.nan, np.inf
    path = tmp_path / "scan.nii.gz"
    write_volume(path, data, GRID)
    cache.convert(path)
    with pytest.raises(VolumeError, match=r"scan\.nii\.gz has 2 voxels that are NaN"):
        np.asarray(cache.open(path).data)
    filled = cache.open(path, fill_nonfinite=-1.0).data
    assert filled[0, 3:5, 2, 1].tolist() == [-1, -1]


def test_labels_stay_labels(cache: Cache, tmp_path: Path) -> None:
    labels = (noise() % 3).astype(np.uint8)
    path = tmp_path / "labels.nii.gz"
    write_labels(path, labels, GRID, LabelSet.from_names(["spleen", "liver"]))
    copy = cache.convert(path)
    found = ome_zarr.inspect(copy)
    assert found.dtype == np.uint8
    assert found.holds_labels is True
    half = np.asarray(ome_zarr.levels(copy)[1])
    assert np.array_equal(half[0], labels[:, :, ::2])


def test_a_full_disk_is_said_before_anything_is_written(
    cache: Cache, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        free = 10**5

    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Full)
    with pytest.raises(VolumeError, match=r"needs up to .* GB .* GB are free"):
        cache.convert(scan)
    assert cache.size() == 0


def test_an_error_of_the_disk_names_the_scan(
    cache: Cache, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "fill_pyramid", failing)
    with pytest.raises(VolumeError, match=r"could not be copied .* No space left"):
        cache.convert(scan)
    assert cache.size() == 0


def test_entries_size_clear_and_prune(cache: Cache, tmp_path: Path) -> None:
    assert (cache.entries(), cache.size()) == ((), 0)
    cache.clear()
    paths = [tmp_path / f"{name}.nii.gz" for name in "abc"]
    for age, path in enumerate(paths):
        write_volume(path, noise(age), GRID)
        copy = cache.convert(path)
        os.utime(copy.parent / "source.json", (age, age))
    assert [entry.source for entry in cache.entries()] == paths
    assert cache.size() == sum(entry.bytes for entry in cache.entries())
    cache.open(paths[0])  # used again, so the last to go
    cache.prune(cache.size() - 1)
    assert [entry.source for entry in cache.entries()] == [paths[2], paths[0]]
    cache.clear(paths[2])
    assert [entry.source for entry in cache.entries()] == [paths[0]]
    left = cache.folder / ("0" * 32)  # of a conversion that was killed
    left.mkdir()
    cache.prune(10**12)
    assert not left.exists()
    cache.clear()
    assert (cache.entries(), cache.size()) == ((), 0)


def test_what_is_no_copy_of_a_scan_is_neither_counted_nor_cleared(
    cache: Cache, scan: Path
) -> None:
    # Copies of layers lay here once, and predictions refer to them still.
    stranger = cache.folder / "0123456789abcdef" / "layer.ome.zarr" / "zarr.json"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("{}")
    cache.convert(scan)
    cache.clear()
    cache.prune(0)
    assert stranger.is_file()
    assert cache.size() == 0
    assert cache.entries() == ()


def test_an_entry_says_where_it_comes_from(cache: Cache, scan: Path) -> None:
    copy = cache.convert(scan)
    record = json.loads((copy.parent / "source.json").read_text())
    assert record == {"version": 1, "source": str(scan.resolve()), "part": None}
    (entry,) = cache.entries()
    assert (entry.source, entry.part) == (scan.resolve(), None)


def test_a_scan_that_is_not_there_is_said(cache: Cache, tmp_path: Path) -> None:
    for ask in (cache.find, cache.convert, cache.partial_path, cache.open):
        with pytest.raises(VolumeError, match="does not exist"):
            ask(tmp_path / "gone.nii.gz")


def test_the_cache_of_the_user_is_no_folder_of_the_project() -> None:
    found = default_cache().folder
    assert found.name == "scans"
    assert "napari-kdseg" in found.parts


def test_planes_that_never_come_are_an_error(
    cache: Cache, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fewer(*arguments: object, **more: object) -> tuple[Header, object]:
        header, blocks = blocks_of(*arguments, **more)  # type: ignore[arg-type]
        return header, list(blocks)[:-1]

    monkeypatch.setattr(module, "blocks_of", fewer)
    with pytest.raises(VolumeError, match="planes; all must be there"):
        cache.convert(scan)
    assert cache.size() == 0


def test_voxels_of_a_copy_that_was_cleared_are_an_error_and_not_zero(
    cache: Cache, scan: Path
) -> None:
    cache.convert(scan)
    opened = cache.open(scan).data
    cache.clear()
    with pytest.raises(VolumeError, match=r"chunk .* is missing"):
        opened[0, 3:5]
    with pytest.raises(VolumeError, match="damaged"):
        opened[0, ::7, ::5]


def test_labels_saved_beside_a_header_leave_the_copy(
    cache: Cache, tmp_path: Path
) -> None:
    path = detached(tmp_path)
    copy = cache.convert(path)
    (tmp_path / "scan-labels.nii.gz").write_bytes(b"labels")
    assert cache.find(path) == copy
