"""What the presets cost in Dice, measured with the shipped models on the shipped scans.

    python training/benchmarks/preset_cost.py

A shipped scan is no wider than one window of its model, and then presets differ in
nothing. So each lies in air, off the middle, where it is cut by windows of all presets.

Writes the costs beside each model, into its ``measurements.json``; help, docks and the
command ``predict`` tell them from there.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_kdseg.inference.foreground import as_it_is
from napari_kdseg.inference.predict import Settings, predict_volume
from napari_kdseg.inference.presets import PRESETS, record_cost, with_preset
from napari_kdseg.models.model import Model
from napari_kdseg.shipped import shipped_models, shipped_volumes
from napari_kdseg.volumes.formats import read_labels, read_volume
from napari_kdseg.volumes.preprocessing import prepare
from napari_kdseg.volumes.volume import Grid, Volume

REPEATS = 2
EXACT = Settings("cpu", uncertainty=None)


@dataclass(frozen=True)
class Measured:
    """What one preset gave."""

    dice: float
    seconds: float


def main() -> None:
    """Measure all students that have a scan, and print the table."""
    scans = shipped_volumes()
    print("| model | preset | Dice | lost | time of exact |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name, folder in shipped_models().items():
        if name not in scans:
            continue
        model = Model.open(folder)
        volume, truth = in_air(model, scans[name], scans[f"{name}-labels"])
        found = {p: measured(as_it_is(model), volume, truth, p) for p in PRESETS}
        exact = found["exact"]
        for preset, one in found.items():
            lost, ratio = exact.dice - one.dice, one.seconds / exact.seconds
            if preset != "exact":
                record_cost(model, preset, lost, ratio)
            print(f"| {name} | {preset} | {one.dice:.4f} | {lost:.4f} | {ratio:.2f} |")


def in_air(model: Model, scan: Path, labels: Path) -> tuple[Volume, np.ndarray]:
    """A scan as its model sees it, twice as wide and high with air, and its labels."""
    seen = prepare(read_volume(scan), model.card.preprocessing)
    truth = seen.frame.read_labels(read_labels(labels)[0])
    around = [(side // 3, side - side // 3) for side in model.card.tiling.tile_vox]
    pads = [(0, 0)] * (4 - len(around)) + around
    air = model.card.preprocessing.pad_value
    data = np.pad(seen.data, pads, constant_values=air)
    grid = Grid.from_affine(np.eye(4), data.shape[1:])
    return Volume(data, grid, model.card.channels), np.pad(truth, pads[1:])


def measured(model: Model, volume: Volume, truth: np.ndarray, preset: str) -> Measured:
    """Mean Dice of the model's classes, and least seconds."""
    settings = with_preset(EXACT, preset)
    predict_volume(volume, [model], settings)  # converted and compiled, where it is
    taken = []
    for _ in range(REPEATS):
        started = time.process_time()
        labels = predict_volume(volume, [model], settings).labels[0]
        taken.append(time.process_time() - started)
    dice = [
        2
        * np.sum((labels == value) & (truth == value))
        / (np.sum(labels == value) + np.sum(truth == value))
        for value in model.card.classes.values
        if (truth == value).any()
    ]
    return Measured(float(np.mean(dice)), min(taken))


if __name__ == "__main__":
    main()
