"""Dice and pictures of cases kept apart: numbers by hand, nothing left to chance."""

import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from torch import Tensor

from kdseg_train.methods import fit, prepare
from kdseg_train.patches import Batch
from kdseg_train.samples import write_sample
from kdseg_train.watching import (
    Watched,
    is_pictured,
    look,
    picture,
    side_by_side,
    write_pictures,
)
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.labels import LabelSet

CPU = torch.device("cpu")


def batch_of(labels: list[list[int]], annotated: list[bool]) -> Batch:
    rows = torch.tensor([labels])
    return Batch(torch.zeros(1, 1, *rows.shape[1:]), rows, torch.tensor([annotated]))


def saying(labels: list[list[int]]) -> Any:
    """A network that says the same of every image."""

    def predict(image: Tensor) -> Tensor:
        hot = torch.nn.functional.one_hot(torch.tensor(labels), 3)
        return hot.movedim(-1, 0).float()[None].expand(len(image), -1, -1, -1)

    return predict


def test_dice_is_pooled_over_patches_and_the_mean_is_of_classes() -> None:
    watched = Watched(("liver", "gut"), saying([[1, 1, 0, 2]]))
    batches = [
        batch_of([[1, 0, 0, 2]], [True, True]),
        batch_of([[1, 1, 1, 0]], [True, True]),
    ]
    found = look(watched, batches, CPU)
    # liver: 1 + 2 voxels in both, 2 + 2 said, 1 + 3 true
    # gut: 1 voxel in both, 1 + 1 said, 1 true
    assert found.dice == {"liver": pytest.approx(6 / 8), "gut": pytest.approx(2 / 3)}
    assert found.measured["validation_dice"] == pytest.approx((6 / 8 + 2 / 3) / 2)


def test_a_patch_speaks_only_for_the_classes_its_case_annotates() -> None:
    watched = Watched(("liver", "gut"), saying([[1, 1, 0, 2]]))
    found = look(watched, [batch_of([[1, 1, 0, 0]], [True, False])], CPU)
    assert found.dice == {"liver": 1.0}


def test_nothing_is_measured_where_no_class_is_there() -> None:
    watched = Watched(("liver", "gut"), saying([[0, 0]]), pictures=4)
    found = look(watched, [batch_of([[0, 0]], [True, True])], CPU)
    assert found.measured == {}
    assert found.pictures == ()


def test_labels_lie_above_and_what_the_network_says_below() -> None:
    image = torch.linspace(0, 1, 12).reshape(3, 4)
    truth, found = torch.zeros(3, 4).long(), torch.zeros(3, 4).long()
    truth[0, 0], found[2, 3] = 1, 2
    drawn = picture(image, truth, found, ("liver", "gut"))
    assert drawn.shape == (3 + 4 + 3, 4, 3)
    coloured = np.argwhere(np.ptp(drawn, axis=2) > 0)
    assert coloured.tolist() == [[0, 0], [9, 3]]
    # The first voxel is black, so that 45 % of the colour of the first class are left.
    color = LabelSet.from_names(("liver", "gut")).classes[0].color
    rgb = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    assert drawn[0, 0].tolist() == [round(0.45 * value) for value in rgb]


def test_of_a_volume_the_slice_with_most_labels_is_pictured() -> None:
    image = torch.stack([torch.full((2, 2), float(z)) for z in range(3)])
    truth = torch.zeros(3, 2, 2).long()
    truth[1] = 1
    drawn = picture(image, truth, torch.zeros(3, 2, 2).long(), ("liver",))
    assert (np.ptp(drawn[:2], axis=2) > 0).all()


def test_about_twenty_epochs_are_pictured_the_first_and_the_last_among_them() -> None:
    shown = [epoch for epoch in range(1, 1001) if is_pictured(epoch, 1000)]
    assert (shown[0], shown[-1], len(shown)) == (1, 1000, 21)
    assert all(is_pictured(epoch, 5) for epoch in range(1, 6))


def test_pictures_are_files_of_the_run_that_an_event_names(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"version": 1, "command": "fit"})
    watched = Watched(("liver", "gut"), saying([[1, 1, 0, 2]]), pictures=1)
    found = look(watched, [batch_of([[1, 1, 0, 0]], [True, True])] * 2, CPU)
    assert len(found.pictures) == 1
    write_pictures(run, "training", 3, found)
    [event], _ = run.events()
    assert (event["event"], event["stage"], event["epoch"]) == (
        "example",
        "training",
        3,
    )
    written = imagecodecs.png_decode((run.folder / event["file"]).read_bytes())
    assert np.array_equal(written, side_by_side(found.pictures))


@pytest.mark.slow
def test_looking_on_changes_no_weight(tmp_path: Path) -> None:
    write_sample("fish", tmp_path / "fish", cases=3, size=32, seed=1)
    weights = []
    for examples in (0, 2):
        recipe = {
            "method": "supervised",
            "data": [{"path": "fish"}],
            "split": {"validation": 0.34},
            "network": {"name": "unet", "parameters": {"width": 4, "stages": 3}},
            "patch_vox": [32, 32],
            "training": {"epochs": 2, "iterations_per_epoch": 2, "batch": 2},
            "examples": examples,
            "device": "cpu",
        }
        folder = tmp_path / f"run-{examples}"
        run = Run.create(folder, prepare(recipe, "recipe", tmp_path))
        with run.executing():
            fit(run)
        weights.append((run.model_folder / "weights.safetensors").read_bytes())
        pictures = sorted(folder.glob("examples/training/*.png"))
        assert len(pictures) == (2 if examples else 0)
        lines = (folder / "events.jsonl").read_text().splitlines()
        metrics = [e for e in map(json.loads, lines) if e.get("epoch")]
        measured = [e for e in metrics if "validation_dice" in e]
        assert [e["epoch"] for e in measured] == [1, 2]
    assert weights[0] == weights[1]
