"""Coarse-to-fine inference against one stage: Dice and seconds on the test cases.

    python training/benchmarks/stages_table.py --coarse RUN --fine RUN

Both runs are of ``cross-teaching`` on the same cases. One stage is the coarse run's
student on the whole scan; two stages are that student and the fine run's. The same for
the students that learnt from labels alone (``baseline``). Contenders take turns on each
scan, in one process; seconds are the process's own.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from kdseg_train.data import resolve
from kdseg_train.methods.cross_teaching import Config
from kdseg_train.prepared import read_case, read_case_labels
from napari_kdseg.inference.coarse_to_fine import predict_any_volume
from napari_kdseg.inference.settings import Settings
from napari_kdseg.measure.metrics import score
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coarse", type=Path, required=True)
    parser.add_argument("--fine", type=Path, required=True)
    asked = parser.parse_args()
    run = Run.open(asked.fine)
    config = Config.model_validate(run.config)
    assert config.frozen is not None
    assert config.crop is not None
    cases = resolve(config, config.frozen.root)
    way = config.crop.way
    coarse = {
        "student": Model.open(asked.coarse / "model"),
        "labels alone": Model.open(asked.coarse / "baseline"),
    }
    fine = {
        "student": Model.open(asked.fine / "model"),
        "labels alone": Model.open(asked.fine / "baseline"),
    }
    first = coarse["student"]
    contenders = {f"one stage, {name}": model for name, model in coarse.items()}
    contenders |= {
        f"coarse-to-fine, {name}": Model.paired(first, model, way, name)
        for name, model in fine.items()
    }
    dice: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, list[float]] = defaultdict(list)
    settings = Settings(device="cpu", uncertainty=None, threads=1)
    for case in cases.test:
        volume = read_case(case)
        truth = read_case_labels(case, cases.classes, volume)
        for name, model in contenders.items():
            started = time.process_time()
            (labels,) = predict_any_volume(volume, [model], settings).labels
            seconds[name].append(time.process_time() - started)
            for found in score(
                truth, labels, model.card.classes, volume.grid.spacing_mm
            ):
                dice[name][found.name].append(found.dice)
    show(dice, seconds)


def show(
    dice: Mapping[str, Mapping[str, list[float]]], seconds: Mapping[str, list[float]]
) -> None:
    """Print a row a contender, a column a class."""
    classes = list(next(iter(dice.values())))
    print("| |", " | ".join(classes), "| mean Dice | seconds a scan |")
    print("| --- |", " | ".join("---:" for _ in classes), "| ---: | ---: |")
    for name, found in dice.items():
        cells = [f"{mean(found[one]):.4f}" for one in classes]
        every = mean(mean(values) for values in found.values())
        print(f"| {name} |", " | ".join(cells), end=" ")
        print(f"| {every:.4f} | {mean(seconds[name]):.2f} |")


if __name__ == "__main__":
    main()
