"""What a person chooses for a prediction. Needs no torch: docks read it too."""

from dataclasses import dataclass

from napari_kdseg.errors import UsageError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

UNCERTAINTIES = (
    "entropy",
    "margin",
    "least-confidence",
    "test-time-variance",
    "disagreement",
)
"""Measures of uncertainty by name; see `napari_kdseg.inference.uncertainty`."""


@dataclass(frozen=True)
class Settings:
    """How to predict; none of it is part of a model.

    Raises
    ------
    UsageError
        Where a value is none of those allowed.
    """

    device: str = "auto"
    """``auto`` (the first CUDA device, else the processor), ``cpu``, ``cuda[:N]``."""
    precision: str = "auto"
    """One of `PRECISIONS`; ``auto`` is float16 on a CUDA device, else float32."""
    uncertainty: str | None = "entropy"
    """One of `UNCERTAINTIES`, or None. ``disagreement`` compares the models."""
    probabilities: bool = False
    """Whether to hand on the probabilities of every class, float32."""
    batch: int | None = None
    """Windows that go through a network at once; None: as the model's card says."""
    tile: tuple[int, ...] | None = None
    """Window in voxels, (z,) y, x; None: as the card says. It changes the labels."""
    overlap: float | None = None
    """Part of a window shared with the next; None: as the card says."""
    threads: int | None = None
    """Threads on a processor; None: as torch has it."""

    def __post_init__(self) -> None:
        if self.uncertainty is not None and self.uncertainty not in UNCERTAINTIES:
            raise UsageError(
                f"There is no uncertainty {self.uncertainty!r}; choose one of "
                f"{', '.join(UNCERTAINTIES)}, or none."
            )
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"There is no precision {self.precision!r}; choose one of "
                f"{', '.join(PRECISIONS)}."
            )
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise UsageError(
                f"The overlap is {self.overlap:g}; it is a part of a window, from 0 to "
                "below 1. A half is usual."
            )
        for name, count in (("batch", self.batch), ("threads", self.threads)):
            if count is not None and count < 1:
                raise UsageError(f"{name} is {count}; it must be at least 1.")
