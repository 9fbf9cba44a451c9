"""Memory and time of a prediction in words, before Run."""

import shutil
from collections.abc import Sequence

from napari_kdseg.errors import KdsegError
from napari_kdseg.free_memory import free_bytes
from napari_kdseg.inference.estimate import estimate
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import Model
from napari_kdseg.state.layers import Source


def devices() -> tuple[str, ...]:
    """What a prediction can be asked to run on; told without loading torch."""
    cuda = ("cuda",) if shutil.which("nvidia-smi") else ()
    return ("auto", "cpu", *cuda)


def place_of(device: str) -> str:
    """Where ``auto`` leads."""
    if device != "auto":
        return device
    return "cuda" if "cuda" in devices() else "cpu"


def seconds_of(source: Source, model: Model, device: str) -> float | None:
    """Foreseen time of one model alone; None where it does not fit or is unmeasured."""
    settings = Settings(device=device, uncertainty=None)
    try:
        found = estimate(source, [model], settings, device=place_of(device))
    except KdsegError:
        return None
    return found.seconds


def in_words(source: Source, models: Sequence[Model], settings: Settings) -> str:
    """What a prediction will take, in a line or two.

    Raises
    ------
    UsageError, ModelError
        Where the models do not fit the scan, or the settings the models.
    """
    place = place_of(settings.device)
    found = estimate(source, models, settings, device=place)
    free = free_bytes()
    memory = f"About {size(found.memory_bytes)} of memory ({size(free)} free)"
    if found.seconds is None:
        time = f"time not known before a first run on {place}"
    else:
        time = f"{duration(found.seconds)} ({found.reason})"
    text = f"{memory}, {time}."
    if found.memory_bytes > free and place == "cpu":
        text += " This may not fit: close other programs, or choose fewer models."
    return text


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit, least in (("GB", 1e9), ("MB", 1e6)):
        if count >= least:
            return f"{count / least:.3g} {unit}"
    return f"{count / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds as people say them, not more exact than they are known."""
    if seconds < 1:
        return "< 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
