"""Seconds and memory of the organ table: 512 x 512 x 400 voxels, 30 classes, an image.

Organs are the regions nearest to 30 scattered points inside an ellipsoid, so that all
of them touch and half of the volume is labelled: harder than a body with organs. Run::

    python training/benchmarks/organ_table.py [--size 512 512 400]
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from napari_kdseg.measure.organs import organ_table
from napari_kdseg.volumes.channels import OneChannel
from napari_kdseg.volumes.formats import read_volume, write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

CLASSES = 30


def main() -> None:
    """Make the volume, measure it, print a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--size", type=int, nargs=3, default=(512, 512, 400), metavar=("X", "Y", "Z")
    )
    shape = tuple(parser.parse_args().size[::-1])
    grid = Grid.from_affine(np.diag([0.8, 0.8, 1.5, 1.0]), shape)
    names = LabelSet.from_names(f"organ {number}" for number in range(CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        labels_file, image_file = (Path(folder) / f"{n}.ome.zarr" for n in ("l", "i"))
        write_labels(labels_file, _labels(shape), grid, names)
        write_volume(image_file, _image(shape), grid)
        labels = read_volume(labels_file, lazy=True).data
        image = read_volume(image_file, lazy=True).data
        before = _peak_mb()
        began = time.perf_counter()
        table = organ_table(OneChannel(labels), grid, names, OneChannel(image))
        seconds = time.perf_counter() - began
    size = " x ".join(str(length) for length in shape[::-1])
    print(
        f"{size}, {len(table)} classes: {seconds:.1f} s, peak {_peak_mb():.0f} MB in "
        f"all, {before:.0f} MB of it while the volume was made"
    )


def _labels(shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = rng.uniform(0.15, 0.85, (CLASSES, 3)) * shape
    labels = np.zeros(shape, np.uint8)
    y, x = (np.arange(size, dtype=np.float32) for size in shape[1:])
    for z in range(shape[0]):
        away = np.stack(
            [
                ((y - b) ** 2)[:, None] + ((x - c) ** 2)[None] + (z - a) ** 2
                for a, b, c in points.astype(np.float32)
            ]
        )
        inside = (
            (2 * z / shape[0] - 1) ** 2
            + ((2 * y / shape[1] - 1) ** 2)[:, None]
            + ((2 * x / shape[2] - 1) ** 2)[None]
        ) < 1
        labels[z] = np.where(inside, away.argmin(axis=0) + 1, 0)
    return labels


def _image(shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(1)
    image = np.empty(shape, np.int16)
    for plane in image:
        plane[...] = rng.normal(40, 20, plane.shape)
    return image


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
