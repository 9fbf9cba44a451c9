"""What the presets cost, for the help: read from what was measured."""

import json
from typing import Any

from napari_kdseg.errors import KdsegError
from napari_kdseg.shipped import shipped_models

SHOWN = ("fast", "draft")


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
