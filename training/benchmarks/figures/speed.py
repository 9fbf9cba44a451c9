"""Figure 3: time of predicting a volume, beside nnU-Net's predictor and MONAI.

One network, the same windows and step, contenders in turns in one process. The network
is trained for some seconds on made organs, so that Dice means something.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from figures.made import (
    by_monai,
    by_nnunet,
    mean_dice,
    organs,
    trained,
    volume_of,
)
from figures.rows import Row, at_least, at_most, in_turns, isolated, not_run, say

CLASSES = 14
TILE = 64
STEPS = 300
LEAST_EQUAL = 0.9995


def measure(*, quick: bool) -> list[Row]:
    """All lines of the figure, from one process."""
    found = isolated(
        compared, size=128 if quick else 160, roi_size=192 if quick else 256
    )
    return [Row(*row) for row in found]


def compared(size: int, roi_size: int) -> list[list[Any]]:
    """Train, then let the contenders take turns; the rows."""
    with tempfile.TemporaryDirectory() as folder:
        say("  training a small network on made organs")
        model = trained(Path(folder) / "model", CLASSES, TILE, STEPS)
        say(f"  whole volume, {size}^3")
        rows = _whole(model, size)
        say(f"  a fifth of it foreground, {roi_size}^3")
        rows += _foreground(model, roi_size)
    return [list(vars(row).values()) for row in rows]


def _contenders(model: Any, grey: np.ndarray, ours: dict[str, Any]) -> dict[str, Any]:
    from napari_kdseg.inference.predict import predict_volume

    network, image = model.network(), torch.from_numpy(grey)
    monai = by_monai(network, TILE)
    nnunet = by_nnunet(network, CLASSES, TILE)
    work: dict[str, Callable[[], Any]] = {
        "nnunet": lambda: nnunet(image).numpy(),
        "monai": lambda: monai(image).argmax(0).to(torch.uint8).numpy(),
    }
    for name, settings in ours.items():
        work[name] = lambda s=settings: predict_volume(
            volume_of(grey), [model], s
        ).labels[0]
    return work


def _settings() -> dict[str, Any]:
    from napari_kdseg.inference.forward import has_bfloat16
    from napari_kdseg.inference.predict import Settings

    exact = Settings("cpu", uncertainty=None)
    compiled = replace(exact, backend="openvino")
    found = {"torch": exact, "openvino": compiled}
    if has_bfloat16():
        found["bfloat16"] = replace(compiled, precision="bfloat16")
    return found


def _whole(model: Any, size: int) -> list[Row]:
    grey, truth = organs(size, CLASSES, 0.4)
    ours = _settings()
    for settings in ours.values():  # converted and compiled before the clock runs
        _contenders(model, grey[:, :TILE, :TILE, :TILE], {"once": settings})["once"]()
    seconds, labels, errors = in_turns(_contenders(model, grey, ours), repeats=2)
    rows = [
        Row("3", f"{name}, {size}^3", f"{took:.1f} s", note=_dice(labels[name], truth))
        for name, took in seconds.items()
    ]
    rows += [
        not_run("3", f"{name}, {size}^3", "", errors[name])
        for name in errors
        if name not in seconds
    ]
    if "openvino" in seconds:
        rows += _ratios("float32, OpenVINO", "openvino", seconds, 2.5)
        equal = float((labels["openvino"] == labels["torch"]).mean())
        goal = f"at least {LEAST_EQUAL}"
        what = "  its labels equal to torch's"
        rows.append(Row("3", what, f"{equal:.5f}", goal, at_least(equal, LEAST_EQUAL)))
    if "bfloat16" in seconds:
        rows += _ratios("bfloat16, OpenVINO", "bfloat16", seconds, 3.5)
        dice = mean_dice(labels["bfloat16"], labels["torch"], CLASSES)
        what = "  its Dice to own float32"
        rows.append(
            Row("3", what, f"{dice:.4f}", "at least 0.999", at_least(dice, 0.999))
        )
    return rows


def _ratios(what: str, name: str, seconds: dict[str, float], goal: float) -> list[Row]:
    rows = []
    for peer, called in (("nnunet", "nnU-Net predictor"), ("monai", "MONAI")):
        if peer not in seconds:
            continue
        ratio = seconds[peer] / seconds[name]
        text, wanted = f"{ratio:.2f} times as fast", f"at least {goal}"
        verdict = at_least(ratio, goal)
        rows.append(Row("3", f"{what}, against {called}", text, wanted, verdict))
    return rows


def _foreground(model: Any, size: int) -> list[Row]:
    grey, truth = organs(size, CLASSES, 0.2, seed=1)
    ours = _settings()
    fastest = ours.get("bfloat16", ours["openvino"])
    asked = {
        "exact": ours["openvino"],
        "roi": replace(ours["openvino"], roi="coarse"),
        "roi, fastest": replace(fastest, roi="coarse"),
    }
    work = _contenders(model, grey, asked)
    del work["monai"]
    seconds, labels, errors = in_turns(work, repeats=1)
    rows = [not_run("3", name, "", text) for name, text in errors.items()]
    for name in ("roi", "roi, fastest"):
        if name not in seconds or "nnunet" not in seconds:
            continue
        kind = "float32" if name == "roi" else fastest.precision
        ratio = seconds["nnunet"] / seconds[name]
        what = f"coarse region ({kind}), {size}^3, 20 % foreground, against nnU-Net"
        goal = "at least 6" if name != "roi" else ""
        text = f"{ratio:.2f} times as fast"
        verdict = at_least(ratio, 6) if goal else ""
        note = f"{seconds['nnunet']:.1f} s and {seconds[name]:.1f} s"
        rows.append(Row("3", what, text, goal, verdict, note))
        lost = mean_dice(labels["exact"], truth, CLASSES) - mean_dice(
            labels[name], truth, CLASSES
        )
        rows.append(
            Row(
                "3",
                "  its Dice lost against exact",
                f"{lost:.4f}",
                "at most 0.002",
                at_most(lost, 0.002),
            )
        )
    return rows


def _dice(labels: np.ndarray, truth: np.ndarray) -> str:
    return f"Dice {mean_dice(labels, truth, CLASSES):.4f}"
