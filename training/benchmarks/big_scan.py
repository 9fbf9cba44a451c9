"""A scan of 3000 x 1000 x 1000 voxels: converting, opening, stepping through it.

Three parts, each in a process of its own, memory counted beyond imports:

    python training/benchmarks/big_scan.py memory --gigabytes 2
    xvfb-run -a -s "-screen 0 1600x1000x24" \
        python training/benchmarks/big_scan.py steps
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

FACE = (1000, 1000)  # y, x
SPACING_MM = 0.01
STEPS = 40


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "steps", *STAGES))
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--depth", type=int, default=3000)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.what in STAGES:
        print(json.dumps(staged(arguments.what, arguments.folder)))
        return
    print(f"{date.today().isoformat()}, {platform.processor() or platform.machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "memory":
            memory(Path(folder), arguments.gigabytes)
        else:
            steps(Path(folder), arguments.depth)


# ---- Memory ----


def memory(folder: Path, gigabytes: float) -> None:
    """Convert, open and predict a packed scan; peak memory and seconds of each."""
    depth = int(gigabytes * 1e9 / 2 / FACE[0] / FACE[1])
    for ending in (".nii.gz", ".tif"):
        make_scan(folder / f"scan{ending}", depth)
    print(f"{depth} x {FACE[0]} x {FACE[1]} voxels, uint16, {gigabytes:g} GB\n")
    print("| | peak memory beyond imports | seconds |\n| --- | ---: | ---: |")
    for stage, (title, _) in STAGES.items():
        done = subprocess.run(
            [sys.executable, __file__, stage, f"--folder={folder}"],
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"| {title} | {found['bytes'] / 1e6:.0f} MB | {found['seconds']:.1f} |")


def staged(stage: str, folder: Path) -> dict[str, float]:
    """Do one stage in this process and say what it took."""
    call = STAGES[stage][1](folder)
    before = peak_bytes()
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return {"bytes": peak_bytes() - before, "seconds": seconds}


def convert_stage(ending: str) -> Callable[[Path], Callable[[], Any]]:
    """Prepare the conversion of a packed file into the cache."""

    def prepare(folder: Path) -> Callable[[], Any]:
        from napari_kdseg.volumes.cache import Cache

        return lambda: Cache(folder / "cache").convert(folder / f"scan{ending}")

    return prepare


def open_stage(folder: Path) -> Callable[[], Any]:
    """Prepare opening the converted scan and reading a slice of it."""
    from napari_kdseg.volumes.cache import Cache

    def call() -> None:
        volume = Cache(folder / "cache").open(folder / "scan.nii.gz")
        np.asarray(volume.data[0, volume.grid.shape[0] // 2])

    return call


def predict_stage(folder: Path) -> Callable[[], Any]:
    """Prepare a prediction with the shipped fish model."""
    from kdseg_train.execute import execute
    from kdseg_train.work import warm_up
    from napari_kdseg.runs.run import Run
    from napari_kdseg.shipped import shipped_models

    warm_up()
    source = next((folder / "cache").rglob("*.ome.zarr"))
    config = {
        "version": 1,
        "command": "predict",
        "inputs": [str(source)],
        "models": [str(shipped_models()["fish"])],
        "out": str(folder / "out"),
        "device": "cpu",
        "format": "ome-zarr",
        "tile": [256, 256],
        "overlap": 0.0,
    }
    return lambda: execute(Run.create(folder / "out" / ".run", config))


def peak_bytes() -> int:
    """Give the highest resident memory of this program so far (Linux)."""
    # ru_maxrss would count what the parent had before this program began.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


STAGES: dict[str, tuple[str, Callable[[Path], Callable[[], Any]]]] = {
    "convert-nifti": (".nii.gz into the cache", convert_stage(".nii.gz")),
    "convert-tiff": ("deflated TIFF into the cache", convert_stage(".tif")),
    "open": ("open it from the cache, read a slice", open_stage),
    "predict": ("predict it (shipped fish model)", predict_stage),
}


# ---- Steps ----


def steps(folder: Path, depth: int) -> None:
    """Step through a converted scan in the real window, along each axis."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_kdseg.contributions import read
    from napari_kdseg.volumes.formats import Header
    from napari_kdseg.volumes.pyramid import write_pyramid
    from napari_kdseg.volumes.volume import Grid

    grid = Grid.from_affine(
        np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0]), (depth, *FACE)
    )
    path = folder / "scan.ome.zarr"
    header = Header(path, grid, ("image",), np.dtype(np.uint16))
    started = time.perf_counter()
    write_pyramid(path, header, blocks(depth), kind="image")
    print(f"written with its pyramid in {time.perf_counter() - started:.0f} s")
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1600, 1000)
    started = time.perf_counter()
    for data, arguments, _ in read(str(path)):
        viewer.add_image(data, **arguments)
    QApplication.processEvents()
    print(f"opened in {time.perf_counter() - started:.2f} s\n")
    print("| stepping along | level shown | median ms | 95th percentile ms |")
    print("| --- | ---: | ---: | ---: |")
    for axis, name in enumerate("zyx"):
        found = step_times(viewer, axis)
        median, high = np.percentile(found, (50, 95))
        level = viewer.layers[0].data_level
        print(f"| stored axis {axis} ({name}) | {level} | {median:.0f} | {high:.0f} |")
    viewer.close()


def step_times(viewer: Any, axis: int) -> np.ndarray:
    """Time single steps, from setting the slice to its drawing, in milliseconds."""
    from qtpy.QtWidgets import QApplication

    others = [a for a in range(3) if a != axis]
    viewer.dims.order = (axis, *others)
    viewer.reset_view()
    QApplication.processEvents()
    size = viewer.dims.nsteps[axis]
    found = []
    for step in range(STEPS):
        index = size // 3 + step
        started = time.perf_counter()
        viewer.dims.set_current_step(axis, index)
        QApplication.processEvents()
        viewer.window._qt_viewer.canvas.native.grabFramebuffer()
        found.append((time.perf_counter() - started) * 1e3)
    return np.array(found[1:])


# ---- A made scan ----


def blocks(depth: int) -> Iterator[tuple[tuple[int, slice], np.ndarray]]:
    """Give planes of smooth shapes and noise; a block repeats, shifted."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    coarse = rng.random((3, FACE[0] // 20, FACE[1] // 20))
    smooth = ndimage.zoom(coarse, (11, 20, 20), order=1)[:32] * 30000
    noisy = (smooth + rng.normal(0, 300, smooth.shape)).clip(0, 65535)
    block = noisy.astype(np.uint16)
    for start in range(0, depth, len(block)):
        stop = min(start + len(block), depth)
        shifted = np.roll(block, start, axis=2)[: stop - start]
        yield (0, slice(start, stop)), shifted


def make_scan(path: Path, depth: int) -> None:
    """Write a packed file plane by plane."""
    if path.suffix == ".tif":
        make_tiff(path, depth)
        return
    import nibabel
    from isal import igzip

    header: Any = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint16)
    header.set_data_shape((FACE[1], FACE[0], depth))
    header.set_sform(np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0]), 1)
    header.set_xyzt_units("mm")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with igzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.binaryblock + bytes(4))
        for _, block in blocks(depth):
            file.write(np.ascontiguousarray(block).data)


def make_tiff(path: Path, depth: int) -> None:
    """Write a deflated TIFF, a page a plane."""
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for _, block in blocks(depth):
            for plane in block:
                writer.write(plane, compression="zlib", contiguous=False)


if __name__ == "__main__":
    main()
