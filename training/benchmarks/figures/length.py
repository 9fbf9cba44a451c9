"""Figure 2: memory does not grow with the length of a volume, and a scan of 3 GB fits.

The whole command: from an OME-Zarr on the disk to published labels, in a process of its
own, imports and all. The network is a single convolution of one voxel, in a U-Net's
place.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from figures.rows import (
    PeerError,
    Row,
    at_most,
    isolated,
    not_run,
    resident_bytes,
    say,
)

CLASSES = 5
LONG = (3000, 1000, 1000)
SHORT_LENGTH = 200
FACE = 192  # less than both lengths: slabs follow one another along the length
RUNS = 3
LIMIT_GB = 6.0


def measure(*, quick: bool) -> list[Row]:
    """Both lines."""
    return [_flat(), _long((600, 1000, 1000) if quick else LONG)]


def _flat() -> Row:
    what = f"memory of 8 times the length ({SHORT_LENGTH} planes of {FACE}^2)"
    goal = "at most 1.10"
    try:
        short, long = (
            [
                isolated(predicted, shape=[length, FACE, FACE], overlap=0.5)["bytes"]
                for _ in range(RUNS)
            ]
            for length in (SHORT_LENGTH, 8 * SHORT_LENGTH)
        )
    except PeerError as error:
        return not_run("2", what, goal, error)
    ratio = median(long) / median(short)
    most = f"at most {max(short) / 1e6:.0f} and {max(long) / 1e6:.0f}"
    note = (
        f"{median(short) / 1e6:.0f} and {median(long) / 1e6:.0f} MB in all, medians of "
        f"{RUNS}; {most}"
    )
    return Row("2", what, f"{ratio:.3f}", goal, at_most(ratio, 1.10), note)


def _long(shape: tuple[int, int, int]) -> Row:
    by = " x ".join(map(str, shape))
    what = f"{by}, {CLASSES} classes, OME-Zarr to OME-Zarr, step 0.9"
    goal = f"under {LIMIT_GB:g} GB"
    try:
        found = isolated(predicted, shape=shape, overlap=0.1)
    except PeerError as error:
        return not_run("2", what, goal, error)
    peak = found["bytes"] / 1e9
    seconds = f"{found['seconds']:.0f} s"
    return Row("2", what, f"{peak:.2f} GB", goal, at_most(peak, LIMIT_GB), seconds)


def predicted(shape: list[int], overlap: float) -> dict[str, float]:
    """Make a scan, predict it as the command does, and say what that took."""
    import time

    from figures.made import one_convolution
    from kdseg_train.execute import execute
    from napari_kdseg.models.model import Model
    from napari_kdseg.runs.run import Run

    depth, height, width = shape
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = folder / "scan.ome.zarr"
        started = time.perf_counter()
        _write_scan(scan, (depth, height, width))
        say(f"  written in {time.perf_counter() - started:.0f} s")
        _write_model(folder / "model")
        convolution = one_convolution(CLASSES, 96, kernel=1).inner
        # The card promises a U-Net, which would take hours on two cores.
        Model.network = lambda self, device="cpu": convolution  # type: ignore[method-assign]
        config: dict[str, Any] = {
            "version": 1,
            "command": "predict",
            "inputs": [str(scan)],
            "models": [str(folder / "model")],
            "out": str(folder / "out"),
            "device": "cpu",
            "format": "ome-zarr",
            "overlap": overlap,
        }
        started = time.perf_counter()
        execute(Run.create(folder / "out/.run", config))
        seconds = time.perf_counter() - started
        return {"bytes": resident_bytes("VmHWM"), "seconds": seconds}


def _write_model(folder: Path) -> None:
    from figures.made import card
    from napari_kdseg.models.model import save_model
    from napari_kdseg.models.networks import build
    from napari_kdseg.volumes.preprocessing import Intensity

    described = card(CLASSES, 96, Intensity(kind="window", low=0, high=65535))
    save_model(folder, described, build(described.network, 1, CLASSES))


def _write_scan(path: Path, shape: tuple[int, int, int]) -> None:
    """A 16-bit scan of blocks that repeat, shifted."""
    from napari_kdseg.volumes.formats import Header
    from napari_kdseg.volumes.pyramid import write_pyramid
    from napari_kdseg.volumes.volume import Grid

    grid = Grid.from_affine(np.diag([0.01, 0.01, 0.01, 1.0]), shape)
    header = Header(path, grid, ("image",), np.dtype(np.uint16))
    write_pyramid(path, header, _blocks(shape), kind="image")


def _blocks(
    shape: tuple[int, int, int],
) -> Iterator[tuple[tuple[int, slice], np.ndarray]]:
    depth, height, width = shape
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (32, height // 8 + 1, width // 8 + 1)) << 8
    block = small.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    block = block.astype(np.uint16)
    for start in range(0, depth, len(block)):
        stop = min(start + len(block), depth)
        shifted = np.roll(block, start, axis=2)[: stop - start]
        yield (0, slice(start, stop)), shifted
