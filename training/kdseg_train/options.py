"""Options that several commands have, each said once.

Imports nothing heavy: ``--help`` must answer at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from napari_kdseg.cores import threads_within_cores, told_of_threads

FORMATS = "source, nifti, nrrd, mha, tiff, ome-zarr or dicom-seg"
UNCERTAINTIES = (
    "entropy, margin, least-confidence, test-time-variance, disagreement (of several "
    "models) or none"
)

Inputs = Annotated[
    list[Path], typer.Argument(help="Scans, folders of scans, data sets.")
]
Models = Annotated[
    list[str],
    typer.Option("--model", help="Model folder or shipped model; give several times."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results.")]
Regions = Annotated[
    bool,
    typer.Option("--regions", help="Also write where which teacher may teach."),
]
CoarseToFine = Annotated[
    bool,
    typer.Option(
        "--coarse-to-fine",
        help="The first of two models finds the box, the second segments it.",
    ),
]
Format = Annotated[str, typer.Option("--format", help=f"Of the results: {FORMATS}.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda[:N].")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]


def within_cores(asked: int | None) -> int | None:
    """No more threads than cores, and a word about it where more were asked for."""
    say_of_threads(asked)
    return threads_within_cores(asked)


def say_of_threads(asked: int | None) -> None:
    """Tell on standard error where more threads are asked for than there are cores."""
    if words := told_of_threads(asked):
        sys.stderr.write(f"{words}\n")


Threads = Annotated[
    int | None,
    typer.Option(
        min=1, callback=within_cores, help="Processor threads; all cores by default."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where an earlier call was cut off.")
]
