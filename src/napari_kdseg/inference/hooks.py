"""How a prediction hears from and speaks to whoever started it."""

from collections.abc import Callable
from dataclasses import dataclass

from napari_kdseg.inference.plan import Sizes
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.card import ModelCard

Timed = Callable[[ModelCard, str, Sizes, float, int, Settings], None]
"""Takes what `record_seconds` takes: how long some windows were on their way."""


def _never() -> bool:
    return False


def _nothing(*told: object) -> None:
    del told


@dataclass(frozen=True)
class Hooks:
    """What a prediction asks and tells while it is at work; each may be left out."""

    should_stop: Callable[[], bool] = _never
    """Asked before each batch of windows."""
    log: Callable[[str], None] = _nothing
    """Told what a person should know, a sentence each."""
    timed: Timed = _nothing
    """Told after each pass what its windows took; those passed over do not count."""


NO_HOOKS = Hooks()
