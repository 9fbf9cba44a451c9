"""Cases are prepared a few planes at a time, with the result of doing it at once."""

import errno
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdseg_train import prepared
from kdseg_train.layouts import Case
from kdseg_train.prepared import PLACES_PER_CLASS, places_in, store, write_slabs
from napari_kdseg.errors import LabelError
from napari_kdseg.volumes import opening, preprocessing
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.preprocessing import (
    Intensity,
    Preprocessing,
    prepare,
    prepare_labels,
)
from napari_kdseg.volumes.volume import Grid

SHAPE = (9, 14, 11)
AFFINE = np.array([[-1.0, 0, 0, 9], [0, 0, 2, 0], [0, 3, 0, 0], [0, 0, 0, 1]])
RESIZED = Preprocessing(
    orientation="RAS", resize_vox=(13, 7, 12), intensity=(Intensity(kind="zscore"),)
)
CLASSES = ("liver", "spleen")


def case(folder: Path, ending: str, brightest: int = 90, offset: float = 0) -> Case:
    rng = np.random.default_rng(3)
    grid = Grid.from_affine(AFFINE, SHAPE)
    labels = rng.integers(0, 3, SHAPE).astype(np.uint8)
    voxels = rng.integers(0, brightest, SHAPE).astype(np.int16)
    write_volume(folder / f"a{ending}", voxels, grid)
    write_labels(folder / f"a-labels{ending}", labels, grid, None)
    values = {"liver": (1,), "spleen": (2,)}
    image, label = folder / f"a{ending}", folder / f"a-labels{ending}"
    return Case("a", (image,), label, values, CLASSES, intensity_offset=offset)


@pytest.mark.parametrize("ending", [".nii.gz", ".ome.zarr"])
def test_planes_by_planes_is_as_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    one = case(tmp_path, ending, offset=5)
    volume = prepared.read_case(one)
    whole = prepare(volume, RESIZED).data
    labels = prepared.read_case_labels(one, CLASSES, volume)
    turned, _ = prepare_labels(labels, volume.grid, RESIZED)
    monkeypatch.setattr(preprocessing, "_SLAB_VOXELS", 200)  # two planes at once
    monkeypatch.setattr(opening, "LARGEST_DECODED_BYTES", 1)  # as of a large scan
    kept = store(one, tmp_path / "stored", CLASSES, RESIZED)
    assert kept.image.shape == (1, 13, 7, 12)
    assert np.array_equal(kept.image, whole.astype(np.float16))
    assert kept.labels is not None
    assert np.array_equal(kept.labels, turned)
    assert np.array_equal(kept.places, places_in(turned, "a"))


def test_an_offset_is_added_before_anything_is_measured(tmp_path: Path) -> None:
    rule = Intensity(kind="window", low=0, high=200)
    window = Preprocessing(orientation=None, intensity=(rule,))
    kept = store(case(tmp_path, ".nii", offset=100), tmp_path / "b", CLASSES, window)
    # 0 to 89 in the file are 100 to 189 of 0 to 200, so 0 to 0.89 of -1 to 1
    assert kept.image.min() == 0
    assert float(kept.image.max()) == pytest.approx(0.89, abs=1e-3)


def test_values_beyond_half_precision_are_kept_in_single_precision(
    tmp_path: Path,
) -> None:
    plain = Preprocessing(orientation=None, intensity=(Intensity(kind="none"),))
    small = store(case(tmp_path, ".nii", 256), tmp_path / "a", CLASSES, plain)
    assert small.image.dtype == np.float16
    large = store(case(tmp_path, ".nii", 3000), tmp_path / "b", CLASSES, plain)
    assert large.image.dtype == np.float32
    read = prepared.read_case(case(tmp_path, ".nii", 3000))
    assert np.array_equal(large.image, read.data)


def test_a_value_of_no_class_is_refused_where_labels_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = case(tmp_path, ".ome.zarr")
    monkeypatch.setattr(opening, "LARGEST_DECODED_BYTES", 1)
    known = Case(one.id, one.images, one.label, {"liver": (1,)}, ("liver",))
    with pytest.raises(LabelError, match=r"holds the value 2; .* knows \[0, 1\]"):
        store(known, tmp_path / "stored", ("liver",), RESIZED)
    assert not (tmp_path / "stored" / "done.json").exists()


def test_places_are_those_of_a_search_through_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (11, 40, 30)).astype(np.uint8)
    labels[labels == 2] = 0
    labels[3, 4, 5:8] = 2
    monkeypatch.setattr(preprocessing, "_SLAB_VOXELS", 3000)
    found = places_in(labels, "fish-7")
    first, second = (np.argwhere(labels == organ) for organ in (1, 2))
    rng = np.random.default_rng(zlib.crc32(b"fish-7"))
    assert len(first) > PLACES_PER_CLASS
    chosen = first[rng.choice(len(first), PLACES_PER_CLASS, replace=False)]
    assert np.array_equal(found[:PLACES_PER_CLASS, 1:], chosen)
    assert found[PLACES_PER_CLASS:].tolist() == [[2, 3, 4, x] for x in (5, 6, 7)]
    assert len(second) == 3


def test_an_array_written_by_planes_is_read_by_numpy(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    slabs = [(slice(1, 3), array[:, 1:3]), (slice(0, 1), array[:, :1])]
    write_slabs(tmp_path / "a.npy", array.shape, np.float32, slabs)
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(
    tmp_path: Path,
) -> None:
    code = f"""
        import resource, signal
        from pathlib import Path
        import numpy as np
        from kdseg_train.prepared import write_slabs
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        shape = (10, 20, 20)
        slabs = ((slice(z, z + 1), np.ones((1, 20, 20))) for z in range(10))
        try:
            write_slabs(Path({str(tmp_path / "a.npy")!r}), shape, np.float32, slabs)
        except OSError as error:
            print("refused", error.errno)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.stdout.startswith("refused"), done.stderr


def test_a_case_whose_record_was_cut_short_is_prepared_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, opened = case(tmp_path, ".nii"), Path.open

    def cut_short(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if path.name.startswith(prepared.DONE) and "r" not in mode:
            opened(path, mode, *more, **named).close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, mode, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", cut_short)
        with pytest.raises(OSError, match="No space left"):
            store(one, tmp_path / "stored", CLASSES, RESIZED)
    assert store(one, tmp_path / "stored", CLASSES, RESIZED).shown == {1, 2}


def test_voxels_are_on_the_disk_before_the_record_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, forced = tmp_path / "stored", []
    sync_tree = prepared.sync_tree
    monkeypatch.setattr(
        prepared,
        "sync_tree",
        lambda what: (forced.append({f.name for f in what.iterdir()}), sync_tree(what)),
    )
    store(case(tmp_path, ".nii"), folder, CLASSES, RESIZED)
    assert forced == [{"image.npy", "labels.npy", "places.npy"}]
    assert (folder / prepared.DONE).exists()


@pytest.mark.slow
def test_preparing_a_large_scan_needs_little_memory(
    tmp_path: Path, run_measured: Callable[..., int]
) -> None:
    grid = Grid.from_affine(np.eye(4), (300, 512, 512))
    rng = np.random.default_rng(0)
    plane = rng.integers(0, 200, (1, 512, 512)).astype(np.uint8)
    voxels = np.broadcast_to(plane, grid.shape)
    for name in ("a", "a-labels"):
        write_volume(tmp_path / f"{name}.ome.zarr", voxels // 100, grid)
    code = f"""
        from pathlib import Path
        from kdseg_train import prepared
        from kdseg_train.layouts import Case
        from napari_kdseg.volumes import opening
        from napari_kdseg.volumes.preprocessing import Preprocessing
        opening.LARGEST_DECODED_BYTES = 1 << 20
        folder = Path({str(tmp_path)!r})
        image, label = folder / "a.ome.zarr", folder / "a-labels.ome.zarr"
        case = Case("a", (image,), label, {{"x": (1,)}}, ("x",))
        before = peak_bytes()
        kept = prepared.store(case, folder / "s", ("x",), Preprocessing())
        assert kept.image.shape == (1, 300, 512, 512)
        print(peak_bytes() - before)
    """
    # 79 million voxels: 315 MB as float32, 157 MB as they are kept
    assert run_measured(code) < 150e6
