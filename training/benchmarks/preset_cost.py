"""What the presets cost in Dice, measured with the shipped models on the shipped scans.

    python training/benchmarks/preset_cost.py

A shipped scan is no wider than one window of its model, and then presets differ in
nothing. So all of them take windows of half the sides, which lose more.

Writes the costs beside each model, into its ``measurements.json``; help, docks and the
command ``predict`` tell them from there.
"""

import time
from dataclasses import dataclass, replace

import numpy as np

from napari_kdseg.inference.predict import Settings, predict_volume
from napari_kdseg.inference.presets import PRESETS, record_cost, with_preset
from napari_kdseg.models.model import Model
from napari_kdseg.shipped import shipped_models, shipped_volumes
from napari_kdseg.volumes.formats import read_labels, read_volume
from napari_kdseg.volumes.volume import Volume

REPEATS = 3
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
        volume = read_volume(scans[name])
        truth, _ = read_labels(scans[f"{name}-labels"])
        found = {preset: measured(model, volume, truth, preset) for preset in PRESETS}
        exact = found["exact"]
        for preset, one in found.items():
            lost, ratio = exact.dice - one.dice, one.seconds / exact.seconds
            if preset != "exact":
                record_cost(model, preset, lost, ratio)
            print(f"| {name} | {preset} | {one.dice:.4f} | {lost:.4f} | {ratio:.2f} |")


def measured(model: Model, volume: Volume, truth: np.ndarray, preset: str) -> Measured:
    """Mean Dice of the model's classes, and least seconds."""
    halved = tuple(side // 2 for side in model.card.tiling.tile_vox)
    settings = with_preset(replace(EXACT, tile=halved), preset)
    labels = predict_volume(volume, [model], settings).labels[0]
    taken = []
    for _ in range(REPEATS):
        started = time.process_time()
        predict_volume(volume, [model], settings)
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
