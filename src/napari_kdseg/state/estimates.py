"""Memory and time of a prediction in words, before Run."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from napari_kdseg.cores import cores_beside_viewer
from napari_kdseg.errors import KdsegError
from napari_kdseg.free_memory import free_bytes
from napari_kdseg.inference.estimate import estimate
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import Model
from napari_kdseg.state.layers import Source


def devices() -> tuple[str, ...]:
    """What a prediction can be asked to run on; told without loading torch.

    A graphics card takes its driver, and a torch that was built for it.
    """
    there = shutil.which("nvidia-smi") is not None and torch_is_for_cuda()
    return ("auto", "cpu", "cuda") if there else ("auto", "cpu")


def torch_is_for_cuda() -> bool:
    """Whether the installed torch was built for CUDA: what its ``version.py`` says."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return False
    try:
        text = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return True  # not told; the driver alone decides
    built = re.search(r"^cuda\b[^=\n]*=\s*(.+)$", text, re.MULTILINE)
    return built is None or built[1].strip() != "None"


def place_of(device: str) -> str:
    """Where ``auto`` leads."""
    if device != "auto":
        return device
    return "cuda" if "cuda" in devices() else "cpu"


def seconds_of(source: Source, model: Model, device: str) -> float | None:
    """Foreseen time of one model alone; None where it does not fit or is unmeasured."""
    settings = _as_run(Settings(device=device, uncertainty=None))
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
    device = place_of(settings.device)
    found = estimate(source, models, _as_run(settings), device=device)
    free = free_bytes()
    text = found.in_words(free)
    if found.host_bytes > free:
        text += " This may not fit: close other programs, or choose fewer models."
    return text


def _as_run(settings: Settings) -> Settings:
    """The settings with the threads that a run of a dock gets: times depend on them."""
    return replace(settings, threads=cores_beside_viewer())
