"""How long a window takes on this computer, as measured: what estimates rest on.

Kept in the user's cache and not beside the model, which may be shared with people who
have other computers. Networks of one shape, computed in one way, take one time,
whatever they have learnt.
"""

import hashlib
import json
from math import prod
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.inference.backends import backend_of, kind_of
from napari_kdseg.inference.plan import Sizes
from napari_kdseg.inference.settings import Settings
from napari_kdseg.json_files import object_in
from napari_kdseg.models.card import ModelCard

LONGER = 10
"""So many times as long a measurement counts more than a newer one."""


def seconds_per_window(
    card: ModelCard, device: str, tile: Sizes, settings: Settings | None = None
) -> float | None:
    """As measured before, in proportion to the voxels of the window.

    Parameters
    ----------
    card
        Of the model.
    device
        ``cpu``, ``cuda``, ``cuda:1``; known by kind.
    tile
        The window in voxels, z, y, x.
    settings
        How it is computed; None takes the defaults.
    """
    way = _way(card, device, settings or Settings())
    known = _known(object_in(_file(card)).get(way, {}), tile)
    return None if known is None else known[0]


def record_seconds(
    card: ModelCard,
    device: str,
    tile: Sizes,
    seconds: float,
    windows: int,
    settings: Settings | None = None,
) -> None:
    """Keep how long windows took, for later estimates; the labels do not depend on it.

    A measurement that this one confirms, to a factor of two, stays as it is, as does
    one that was ten times as long: much of a short one is what begins slowly. Nothing
    happens where the cache cannot be written.

    Parameters
    ----------
    card, device, tile, settings
        As `seconds_per_window` takes them.
    seconds, windows
        Of so many windows on their way from the source to the sums; of those that were
        computed, not passed over.
    """
    file, way = _file(card), _way(card, device, settings or Settings())
    found, one = object_in(file), seconds / windows
    known = _known(found.get(way, {}), tile)
    if known is not None:
        pace, of = known
        if pace / 2 <= one <= pace * 2 or of > LONGER * seconds:
            return
    found[way] = {
        "tile_vox": list(tile),
        "seconds_per_window": round(one, 6),
        "of_seconds": round(seconds, 3),
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(file, json.dumps(found, indent=2) + "\n")
    except OSError:
        return


def _known(found: Any, tile: Sizes) -> tuple[float, float] | None:
    """Seconds of a window, and of all that were measured."""
    try:
        measured_vox = prod([int(side) for side in found["tile_vox"]])
        one = float(found["seconds_per_window"]) * prod(tile) / measured_vox
        return one, float(found["of_seconds"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None  # never measured, or written by hand and wrong: no estimate


def _way(card: ModelCard, device: str, settings: Settings) -> str:
    """All that a window's time depends on, but for the network and the computer."""
    place = kind_of(device)
    precision = settings.precision
    if precision == "auto":
        precision = "float16" if place == "cuda" else "float32"
    words = [place, backend_of(settings, device), precision]
    if place == "cpu":
        words.append(f"threads {settings.threads or 'all'}")
    if card.tiling.mirror:
        words.append(f"mirrored {len(card.tiling.mirror)}")
    if settings.uncertainty == "test-time-variance":
        words.append("flipped")
    return ", ".join(words)


def _file(card: ModelCard) -> Path:
    shape = [
        card.network.model_dump(mode="json"),
        len(card.channels),
        card.classes.count,
    ]
    key = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
    return user_cache_path("napari-kdseg") / "speeds" / f"{key[:16]}.json"
