"""What a person chooses for a prediction. Needs no torch: docks read it too."""

from dataclasses import dataclass

from napari_kdseg.errors import UsageError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

BACKENDS = ("auto", "torch", "openvino")

ROIS = ("all", "coarse")

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
    """Windows that go through a network at once; None: as the model's card says, two at
    least with OpenVINO."""
    tile: tuple[int, ...] | None = None
    """Window in voxels, (z,) y, x; None: as the card says. It changes the labels."""
    overlap: float | None = None
    """Part of a window shared with the next; None: as the card says."""
    threads: int | None = None
    """Threads on a processor; None: as torch has it."""
    backend: str = "torch"
    """One of `BACKENDS`; ``auto`` is OpenVINO on a processor where it is installed."""
    roi: str = "all"
    """One of `ROIS`; ``coarse`` computes windows alone where a coarse pass of the same
    network found something. It changes the labels."""

    def __post_init__(self) -> None:
        if self.uncertainty is not None and self.uncertainty not in UNCERTAINTIES:
            raise UsageError(
                f"There is no uncertainty {self.uncertainty!r}; choose one of "
                f"{', '.join(UNCERTAINTIES)}, or none."
            )
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("backend", self.backend, BACKENDS),
            ("roi", self.roi, ROIS),
        ):
            if value not in known:
                raise UsageError(
                    f"There is no {name} {value!r}; choose one of {', '.join(known)}."
                )
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise UsageError(
                f"The overlap is {self.overlap:g}; it is a part of a window, from 0 to "
                "below 1. A half is usual."
            )
        for name, count in (("batch", self.batch), ("threads", self.threads)):
            if count is not None and count < 1:
                raise UsageError(f"{name} is {count}; it must be at least 1.")
