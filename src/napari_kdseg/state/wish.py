"""What a person wishes to have measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from napari_kdseg.measure.metrics import NSD_TOLERANCE_MM

Of = Literal["predictions", "labels"]


@dataclass(frozen=True)
class Wish:
    """What is to be measured."""

    labels: Path | None = None
    """Label file, folder of them, data set, OUT of predict, or project."""
    of: Of = "predictions"
    """Of a project."""
    reference: Path | None = None
    """Data set, project or folder of labels; None measures organs."""
    images: Path | None = None
    """Scans, where the labels' records do not tell them."""
    case: str | None = None
    """This scan alone; of an atlas, the one that all others are laid over."""
    model: str | None = None
    tolerance_mm: float = NSD_TOLERANCE_MM
