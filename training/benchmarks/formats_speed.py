"""Reading and writing .nii.gz beside nibabel and SimpleITK; patches from the cache.

All contenders take turns in one process, so that what else the machine does falls on
each alike; the least of the repeats counts. Pin the process for steady ratios::

    taskset -c 0 python training/benchmarks/formats_speed.py
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everybody knows
from scipy import ndimage

from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.formats import read_volume, write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

SHAPE = (150, 512, 512)  # z, y, x
PATCH = 128
ORGANS = LabelSet.from_names([f"organ {number}" for number in range(1, 14)])

Contenders = dict[str, Callable[[], Any]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    depth, height, width = SHAPE
    print(
        f"{width} x {height} x {depth} voxels; {date.today().isoformat()}, "
        f"{platform.processor() or platform.machine()}, least of {repeats}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        image, labels = made_scan(), made_labels()
        table("write an image (int16)", writers(place, image), repeats)
        table("write labels (uint8), values checked", writers(place, labels), repeats)
        table("read the image", readers(place / "ours-int16.nii.gz"), repeats)
        table("read the labels", readers(place / "ours-uint8.nii.gz"), repeats)
        patches(place, repeats)


def made_scan() -> np.ndarray:
    """Smooth shapes and noise in Hounsfield units: packs like a real CT."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 400, [size // 8 + 1 for size in SHAPE])
    smooth = ndimage.zoom(coarse, 8, order=1)[tuple(slice(size) for size in SHAPE)]
    scan: np.ndarray = (smooth + rng.normal(0, 12, SHAPE)).astype(np.int16)
    return scan


def made_labels() -> np.ndarray:
    """Fourteen classes in blobs, background around them."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(-20, 14, [size // 16 + 1 for size in SHAPE])
    blobs = ndimage.zoom(np.maximum(coarse, 0), 16, order=0)
    labels: np.ndarray = blobs[tuple(slice(size) for size in SHAPE)].astype(np.uint8)
    return labels


def writers(folder: Path, data: np.ndarray) -> Contenders:
    """What writes the same voxels with the same affine."""
    grid = Grid.from_affine(np.diag([0.8, 0.8, 2.0, 1.0]), data.shape)
    is_label = data.dtype == np.uint8

    def ours() -> None:
        path = folder / f"ours-{data.dtype}.nii.gz"
        if is_label:
            write_labels(path, data, grid, ORGANS)
        else:
            write_volume(path, data, grid)

    def theirs() -> None:
        nibabel.save(nibabel.Nifti1Image(data.T, grid.affine), folder / "nib.nii.gz")

    def itk() -> None:
        sitk.WriteImage(sitk.GetImageFromArray(data), str(folder / "itk.nii.gz"))

    return {"napari-kdseg": ours, "nibabel": theirs, "SimpleITK": itk}


def readers(path: Path) -> Contenders:
    """What reads the same file; nibabel without its turn to float64."""
    return {
        "napari-kdseg, checksum verified": lambda: read_volume(path),
        "nibabel": lambda: np.asanyarray(loaded(path).dataobj),
        "SimpleITK": lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(path))),  # noqa: TID251 - a contender
    }


def patches(folder: Path, repeats: int) -> None:
    """Random patches from the converted scan, beside decoding the whole file."""
    path = folder / "ours-int16.nii.gz"
    cache = Cache(folder / "cache")
    cache.convert(path)
    lazy = cache.open(path).data
    rng = np.random.default_rng(2)

    def patch() -> None:
        z, y, x = (int(rng.integers(size - PATCH + 1)) for size in SHAPE)
        np.asarray(lazy[0, z : z + PATCH, y : y + PATCH, x : x + PATCH])

    contenders: Contenders = {
        f"{PATCH} x {PATCH} x {PATCH} from the cache (median of 20)": patch,
        "nibabel, whole file": lambda: np.asanyarray(loaded(path).dataobj),
        "napari-kdseg, whole file": lambda: read_volume(path),
    }
    table("a patch", contenders, repeats, medians={0: 20})


def loaded(path: Path) -> Any:
    """Open a file with nibabel, which has no types."""
    return nibabel.load(path)


def table(
    title: str,
    contenders: Contenders,
    repeats: int,
    medians: dict[int, int] | None = None,
) -> None:
    """Time contenders in turns and print seconds and ratios to the first."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for place, (name, call) in enumerate(contenders.items()):
            runs = (medians or {}).get(place, 1)
            times[name].append(float(np.median([timed(call) for _ in range(runs)])))
    first = min(next(iter(times.values())))
    print(f"| {title} | seconds | times ours |\n| --- | ---: | ---: |")
    for name, found in times.items():
        print(f"| {name} | {min(found):.4f} | {min(found) / first:.1f} |")
    print()


def timed(call: Callable[[], Any]) -> float:
    """Give the seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
