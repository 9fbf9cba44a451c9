"""Figure 3: time of predicting a volume, beside nnU-Net's predictor and MONAI.

One network, the same windows and step, contenders in turns in one process. A 3D U-Net
with drawn weights for time and equal labels, which are hardest to keep there: its best
two logits hardly differ. The shipped student of the abdomen where Dice is asked for,
its scan in the middle of air, a fifth of the volume.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from figures.made import (
    by_monai,
    by_nnunet,
    mean_dice,
    shipped_abdomen,
    u_net,
    volume_of,
)
from figures.made import noise as noise_of
from figures.rows import (
    PeerError,
    Row,
    at_least,
    at_most,
    in_turns,
    isolated,
    not_run,
    say,
)
from napari_kdseg.inference.forward import has_bfloat16
from napari_kdseg.inference.predict import Settings, predict_volume
from napari_kdseg.models.model import Model
from napari_kdseg.shipped import shipped_models, shipped_volumes
from napari_kdseg.volumes.formats import read_volume

CLASSES = 14
TILE = 64
FACE = 216  # the scan of 96 x 96 is a fifth of it
EXACT = Settings("cpu", uncertainty=None)
COMPILED = replace(EXACT, backend="openvino")

Works = dict[str, Callable[[], Any]]


def measure(*, quick: bool) -> list[Row]:
    """All lines of the figure."""
    size, repeats = (128, 1) if quick else (160, 4)
    rows = _of(whole, size=size, repeats=repeats)
    return rows + _of(trained, repeats=repeats) + _of(rounded)


def _of(part: Callable[..., Any], **given: Any) -> list[Row]:
    """Lines of a part; of one that fails, a line that says so."""
    try:
        return [Row(*row) for row in isolated(part, **given)]
    except PeerError as error:
        return [not_run("3", part.__name__, "", error)]


# ---- Each in a process of its own ----


def whole(size: int, repeats: int) -> list[list[Any]]:
    """Time of a whole volume with a 3D U-Net; the rows."""
    with tempfile.TemporaryDirectory() as folder:
        model = u_net(Path(folder) / "model", CLASSES, TILE)
        grey = noise_of((size, size, size)).astype(np.float32) / 400
        ours = {"torch": EXACT} | _compiled()
        _warm_up(model, grey, ours)
        work = _contenders(model, grey, ours)
        seconds, labels, errors = in_turns(work, repeats)
    rows = [Row("3", f"{name}, {size}^3", f"{s:.1f} s") for name, s in seconds.items()]
    rows += _failed(errors)
    goals = {"openvino": 2.5, "bfloat16": 3.5}
    for name, goal in goals.items():
        rows += _ratios(f"{name}, {size}^3", name, seconds, goal)
    if {"openvino", "torch"} <= labels.keys():
        equal = float((labels["openvino"] == labels["torch"]).mean())
        what, goal_text = "labels of openvino equal to torch's", "at least 0.9995"
        verdict = at_least(equal, 0.9995)
        rows.append(Row("3", what, f"{equal:.5f}", goal_text, verdict))
    return _plain(rows)


def trained(repeats: int) -> list[list[Any]]:
    """Time and Dice of the shipped student, everywhere and in a coarse region."""
    model, grey, truth = shipped_abdomen(FACE)
    classes = model.card.classes.count
    ours = {"float32": EXACT} | _compiled()
    ours |= {
        f"{name}, coarse region": replace(settings, roi="coarse")
        for name, settings in _compiled().items()
    }
    _warm_up(model, grey, ours)
    seconds, labels, errors = in_turns(_contenders(model, grey, ours), repeats)
    rows = _failed(errors)
    if {"bfloat16", "float32"} <= labels.keys():
        dice = mean_dice(labels["bfloat16"], labels["float32"], classes)
        rows.append(_dice_row("abdomen in air", labels, dice))
    for name in _compiled():
        region = f"{name}, coarse region"
        if region not in seconds:
            continue
        what = f"{region}, a fifth foreground"
        rows += _ratios(what, region, seconds, 6, peers=("nnunet",))
        lost = mean_dice(labels["float32"], truth, classes)
        lost -= mean_dice(labels[region], truth, classes)
        verdict = at_most(lost, 0.002)
        what = f"Dice lost by {region}"
        rows.append(Row("3", what, f"{lost:.4f}", "at most 0.002", verdict))
    return _plain(rows)


def rounded() -> list[list[Any]]:
    """Dice of bfloat16 to float32, of each shipped model on its own scan; the rows."""
    if not has_bfloat16():
        what = "Dice of bfloat16 to own float32, shipped models"
        return _plain([not_run("3", what, "at least 0.999", "no such processor")])
    scans, rows = shipped_volumes(), []
    for name, folder in shipped_models().items():
        model, scan = Model.open(folder), read_volume(scans[name.partition("-")[0]])
        labels = {
            precision: predict_volume(
                scan, [model], replace(COMPILED, precision=precision)
            ).labels[0]
            for precision in ("float32", "bfloat16")
        }
        count = max(model.card.classes.values) + 1
        dice = mean_dice(labels["bfloat16"], labels["float32"], count)
        rows.append(_dice_row(f"{name}, its scan", labels, dice))
    return _plain(rows)


def _dice_row(name: str, labels: Mapping[str, np.ndarray], dice: float) -> Row:
    changed = int((labels["bfloat16"] != labels["float32"]).sum())
    organs = int((labels["float32"] > 0).sum())
    return Row(
        "3",
        f"Dice of bfloat16 to own float32, shipped {name}",
        f"{dice:.4f}",
        "at least 0.999",
        at_least(dice, 0.999),
        f"{changed} voxels differ; {organs} are organs",
    )


def _compiled() -> dict[str, Settings]:
    found = {"openvino": COMPILED}
    if has_bfloat16():
        found["bfloat16"] = replace(COMPILED, precision="bfloat16")
    return found


def _contenders(model: Model, grey: np.ndarray, ours: Mapping[str, Settings]) -> Works:
    network, image = model.network(), torch.from_numpy(grey)
    tile, classes = model.card.tiling.tile_vox, model.card.classes.count
    monai = by_monai(network, tile)
    nnunet = by_nnunet(network, classes, tile)
    work: Works = {
        "nnunet": lambda: nnunet(image).numpy(),
        "monai": lambda: monai(image).argmax(0).to(torch.uint8).numpy(),
    }
    for name, settings in ours.items():
        work[name] = partial(_predicted, model, grey, settings)
    return work


def _predicted(model: Model, grey: np.ndarray, settings: Settings) -> np.ndarray:
    return predict_volume(volume_of(grey), [model], settings).labels[0]


def _warm_up(model: Model, grey: np.ndarray, ours: Mapping[str, Settings]) -> None:
    """Convert and compile before the clock runs; it is done once for each model."""
    say("  converting and compiling")
    for settings in ours.values():
        try:
            _predicted(model, grey[:, :TILE, :TILE, :TILE], settings)
        except Exception as error:  # noqa: BLE001 - told in its row later
            say(f"  {error}")


def _ratios(
    what: str,
    name: str,
    seconds: Mapping[str, float],
    goal: float,
    peers: tuple[str, ...] = ("nnunet", "monai"),
) -> list[Row]:
    rows = []
    for peer in peers:
        if not {peer, name} <= seconds.keys():
            continue
        ratio = seconds[peer] / seconds[name]
        text, wanted = f"{ratio:.2f} times as fast", f"at least {goal:g}"
        note = f"{seconds[peer]:.1f} s and {seconds[name]:.1f} s"
        verdict = at_least(ratio, goal)
        rows.append(Row("3", f"{what}, against {peer}", text, wanted, verdict, note))
    return rows


def _failed(errors: Mapping[str, str]) -> list[Row]:
    return [not_run("3", name, "", error) for name, error in errors.items()]


def _plain(rows: list[Row]) -> list[list[Any]]:
    return [list(vars(row).values()) for row in rows]
