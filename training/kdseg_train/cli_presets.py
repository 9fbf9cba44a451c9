"""What the presets cost: measured by a command, and read from there for the help."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from kdseg_train.options import Device
from napari_kdseg.errors import KdsegError
from napari_kdseg.shipped import shipped_models

SHOWN = ("fast", "draft")


def presets(
    model: Annotated[str, typer.Option(help="Model folder or shipped model.")],
    data: Annotated[Path, typer.Option(help="Data set with labels; see `fit`.")],
    cases: Annotated[
        int | None, typer.Option(min=1, help="Scans at most; all by default.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure what the presets cost with a model, and keep it beside the model."""
    from kdseg_train.follow import counting, print_table
    from kdseg_train.preset_costs import measure_presets
    from napari_kdseg.models.model import Model
    from napari_kdseg.shipped import find_model, is_shipped

    opened = Model.open(find_model(model))
    with counting("predictions") as count:
        found = measure_presets(
            opened, data, most=cases, device=device, on_progress=count
        )
    rows: list[dict[str, str | float]] = [
        {
            "preset": one.preset,
            "dice": one.dice,
            "lost": one.lost,
            "time_of_exact": one.time_ratio,
        }
        for one in found
    ]
    kept = f"Kept in {opened.folder / 'measurements.json'}."
    if is_shipped(opened.folder):
        kept = f"Not kept: {opened.card.name} comes along and stays as it is."
    print_table(rows, kept)


def costs() -> str:
    """What each preset loses in Dice with the shipped models that were measured."""
    told = [told for name in SHOWN if (told := _told(name))]
    if not told:
        return "What they cost in Dice is told before a prediction begins."
    return (
        "Dice lost where windows cut the organs, as measured with the shipped models, "
        f"which learnt whole slices: {'; '.join(told)}. A scan that fits into one "
        "window loses nothing."
    )


def _told(preset: str) -> str:
    found = _measured(preset)
    costs = ", ".join(f"{name} {cost:.4f}" for name, cost in found.items())
    return f"{preset} {costs}" if found else ""


def _measured(preset: str) -> dict[str, float]:
    try:
        folders = shipped_models()
    except KdsegError:
        return {}
    found: dict[str, float] = {}
    for name, folder in folders.items():
        try:
            text = (folder / "measurements.json").read_text(encoding="utf-8")
            measured: Any = json.loads(text)
            found[name] = float(measured["presets"][preset]["dice_lost"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
