"""Named ways to predict, and what each costs in Dice. Needs no torch: docks read it.

The cost is never written by hand: a benchmark measures it on volumes whose labels are
known and keeps it beside the model.
"""

import json
from dataclasses import dataclass, replace

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.inference.settings import Settings
from napari_kdseg.json_files import object_in
from napari_kdseg.models.model import MEASUREMENTS, Model


@dataclass(frozen=True)
class Preset:
    """What a name stands for."""

    overlap: float | None
    """Of windows; None: as the model's card says."""
    backend: str
    told: str
    """In words, for a person who chooses."""


PRESETS = {
    "exact": Preset(None, "torch", "windows as the model's card says, by torch"),
    "fast": Preset(0.2, "auto", "windows a step of 0.8 apart, OpenVINO if installed"),
    "draft": Preset(0.0, "auto", "windows side by side, OpenVINO if installed"),
}


def with_preset(settings: Settings, name: str) -> Settings:
    """Settings of a preset; an overlap or a backend that was chosen by hand stays.

    Parameters
    ----------
    settings
        As chosen; the backend torch counts as not chosen.
    name
        One of `PRESETS`.
    """
    preset = PRESETS[name]
    return replace(
        settings,
        overlap=preset.overlap if settings.overlap is None else settings.overlap,
        backend=preset.backend if settings.backend == "torch" else settings.backend,
    )


def record_cost(model: Model, name: str, dice_lost: float, time_ratio: float) -> None:
    """Keep what a preset costs, beside the model.

    Parameters
    ----------
    model
        Its ``measurements.json`` is replaced.
    name
        One of `PRESETS`.
    dice_lost
        Mean Dice of ``exact`` less that of the preset, over the classes.
    time_ratio
        Time of the preset, in times of ``exact``.
    """
    found = object_in(model.folder / MEASUREMENTS)
    costs = found.setdefault("presets", {})
    costs[name] = {
        "dice_lost": round(dice_lost, 5),
        "time_ratio": round(time_ratio, 3),
    }
    text = json.dumps(found, indent=2) + "\n"
    write_text_atomic(model.folder / MEASUREMENTS, text)


def cost_in_words(model: Model, preset: str) -> str:
    """What a preset costs with a model, as it was measured, in a phrase."""
    if preset == "exact":
        return "what the others are compared with"
    try:
        cost = object_in(model.folder / MEASUREMENTS)["presets"][preset]
        lost, ratio = float(cost["dice_lost"]), float(cost["time_ratio"])
    except (KeyError, TypeError, ValueError):
        return f"not measured for {model.card.name}"
    change = f"{abs(lost):.4f} {'lower' if lost > 0 else 'higher'}"
    if round(lost, 4) == 0:
        change = "the same to 0.0001"
    name = model.card.name
    return (
        f"{name}: Dice {change} where windows cut the organs, {ratio:.2f} of the time "
        "of exact, as measured; no loss on a scan that fits into one window"
    )
