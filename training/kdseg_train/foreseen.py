"""What a prediction will take, said before it begins; what cannot fit, refused."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from kdseg_train.plan import Plan
from kdseg_train.scans import Scan
from napari_kdseg.amounts import size
from napari_kdseg.errors import UsageError
from napari_kdseg.free_memory import free_bytes
from napari_kdseg.inference.estimate import Estimate, estimate, together
from napari_kdseg.inference.forward import pick_device
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.volume import Grid

_KEPT = 128  # estimates, each asked for thrice while a scan is predicted


def tell(run: Run, work: Sequence[tuple[Plan, Scan]]) -> None:
    """Say in an event of the run what some scans, one after the other, will take."""
    if not work:
        return
    found = together([foreseen(plan, scan) for plan, scan in work])
    cases = f"{len(work)} cases: " if len(work) > 1 else ""
    run.event(
        "estimate",
        message=f"{cases}{found.in_words(free_bytes())}",
        host_bytes=found.host_bytes,
        device_bytes=found.device_bytes,
        seconds=found.seconds,
        device=found.place,
        cases=len(work),
    )


def foreseen(plan: Plan, scan: Scan) -> Estimate:
    """What a scan will take, on the device that the plan asks for."""
    settings = plan.config.settings
    grid = replace(scan.grid, origin_mm=(0.0, 0.0, 0.0))  # where it lies takes nothing
    alike = _Alike(grid, scan.channels, scan.dtype, scan.decoded_bytes)
    return _foreseen(alike, plan.models, settings, pick_device(settings.device))


@dataclass(frozen=True)
class _Alike:
    """All that an estimate asks of a scan."""

    grid: Grid
    channels: tuple[str, ...]
    dtype: np.dtype[np.generic]
    decoded_bytes: int


@lru_cache(maxsize=_KEPT)
def _foreseen(
    scan: _Alike, models: tuple[Model, ...], settings: Settings, device: str
) -> Estimate:
    return estimate(scan, models, settings, device=device)


def refuse_lack_of_memory(run: Run, plan: Plan, scan: Scan) -> None:
    """Say before a scan is begun what would end it hours later.

    Where a graphics card has room for smaller windows alone the run warns of it: they
    are tried then, and change the labels.

    Raises
    ------
    UsageError
        Where the computer's memory does not suffice, or the card's not even for the
        smallest windows.
    """
    found = foreseen(plan, scan)
    free = free_bytes()
    if found.host_bytes > free:
        raise UsageError(
            f"{scan.name} takes about {size(found.host_bytes)} of memory and "
            f"{size(free)} are free. Take a smaller --tile, fewer models at a time, or "
            "close other programs."
        )
    device = pick_device(plan.config.device)
    if device == "cpu":
        return
    room = free_on_card(device)
    if found.least_bytes > room:
        raise UsageError(
            f"{scan.name} takes about {size(found.least_bytes)} of the memory of "
            f"{device} even with the smallest windows, and {size(room)} are free. Take "
            "--device cpu, fewer models at a time, or close what else uses the card."
        )
    if found.window_bytes > room:
        run.warning(
            f"{scan.name}: with one window at a time about {size(found.window_bytes)} "
            f"of the memory of {device} are needed and {size(room)} are free. Where "
            "that runs out windows are halved, which changes the labels; take a "
            "smaller --tile, or --device cpu."
        )


def free_on_card(device: str) -> int:
    """Bytes of a card's memory that this process may take.

    Parameters
    ----------
    device
        As torch writes it: ``cuda:0``.
    """
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept
