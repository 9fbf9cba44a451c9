"""What a panel shows of a correction, and what it is to change in a layer."""

from dataclasses import dataclass

import numpy as np

from napari_kdseg.review.corrections import Place

AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Edit:
    """Voxels to be changed in one step, by whatever shows them."""

    indices: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Z, y, x."""
    values: np.ndarray
    text: str
    """What is done, a sentence."""


@dataclass(frozen=True)
class Shown:
    """How far a correction is."""

    slices: tuple[Place, ...] = ()
    """Those a person painted, by axis and index."""
    interpolated: tuple[Place, ...] = ()
    sent: tuple[Place, ...] = ()
    """Those in the labelled set."""
    whole: bool = False
    """Whether all of the volume is in the labelled set."""
    place: Place | None = None
    """The slice that is looked at."""
    kept: bool = True
    """Whether all that was painted is on disk."""
    fraction: float | None = None
    """How much of the labels is written; None while none are."""
    pair: tuple[int, int] | None = None
    """The lowest and the highest slice to interpolate between."""

    @property
    def place_is_sent(self) -> bool:
        """Whether the slice that is looked at is in the labelled set."""
        return self.place in self.sent

    @property
    def text(self) -> str:
        """What was corrected and sent, in words."""
        parts = [
            f"{word} {listed(places)}"
            for word, places in (
                ("painted", self.slices),
                ("interpolated", self.interpolated),
            )
            if places
        ]
        sent = "the whole volume" if self.whole else listed(self.sent)
        parts += [f"in the labelled set: {sent}"] if sent else []
        return " · ".join(parts) or "nothing corrected yet"


def listed(places: tuple[Place, ...]) -> str:
    """Name slices briefly: ``z 3, 5-9 and y 12``."""
    words = []
    for axis in sorted({axis for axis, _ in places}):
        runs: list[list[int]] = []
        for index in sorted(index for other, index in places if other == axis):
            if runs and runs[-1][-1] == index - 1:
                runs[-1] = [runs[-1][0], index]
            else:
                runs.append([index])
        spans = ", ".join("-".join(map(str, run)) for run in runs)
        words.append(f"{AXES[axis]} {spans}")
    return " and ".join(words)
