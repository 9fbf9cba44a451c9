"""The commands ``kdseg-train bulk ...``: many volumes on many workers."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kdseg_train.options import (
    UNCERTAINTIES,
    CoarseToFine,
    Device,
    Format,
    Inputs,
    Models,
    Out,
    Precision,
    Regions,
    say_of_threads,
)
from napari_kdseg.errors import UsageError

# Whatever else a command needs is imported inside it: --help must answer at once.

app = typer.Typer(
    help="Many volumes on many workers: here, on a Dask scheduler, or as SLURM jobs. "
    "Given again, a command does what is missing and nothing else.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes; what memory, cores and GPUs allow by default."
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Dask scheduler whose workers do it, tcp://HOST:PORT."),
]
Slurm = Annotated[
    bool, typer.Option("--slurm", help="Workers are SLURM jobs, so many as --workers.")
]
SlurmSet = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm-set",
        help="cores, memory, walltime, partition, account, gpus or directives, as "
        "memory=4GB or directives=--exclusive; give several times.",
    ),
]
Retries = Annotated[
    int,
    typer.Option(min=0, help="So often a volume is tried again if its worker dies."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processor threads of each worker; its share of all by default, and with "
        "--scheduler what its machine sets, which Dask sets to 1.",
    ),
]


@app.command()
def predict(
    inputs: Inputs,
    model: Models,
    out: Out,
    workers: Workers = None,
    scheduler: Scheduler = None,
    slurm: Slurm = False,
    slurm_set: SlurmSet = None,
    retries: Retries = 2,
    uncertainty: Annotated[str | None, typer.Option(help=f"{UNCERTAINTIES}.")] = None,
    regions: Regions = False,
    coarse_to_fine: CoarseToFine = False,
    format_: Format = "source",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting of predict: overlap=0.25."),
    ] = None,
) -> None:
    """Segment many scans: OUT/CASE/MODEL/labels, as predict makes them."""
    from kdseg_train.bulk import BulkPredictConfig, check_prediction
    from kdseg_train.config import apply_override, parse
    from napari_kdseg.shipped import find_model

    values: dict[str, Any] = {
        "command": "predict",
        "inputs": [path.absolute() for path in inputs],
        "models": [find_model(name) for name in model],
        "out": out.absolute(),
        "uncertainty": uncertainty,
        "regions": regions,
        "coarse_to_fine": coarse_to_fine,
        "format": format_,
        "device": device,
        "precision": precision,
        "threads": threads,
    }
    for override in set_ or ():
        apply_override(values, override)
    crew = {"workers": workers, "scheduler": scheduler, "retries": retries}
    whole = {"predict": values, "crew": crew | slurm_settings(slurm, slurm_set)}
    config = parse(BulkPredictConfig, whole, "bulk predict")
    check_prediction(config.predict)
    if config.crew.works_here:
        say_of_threads(config.predict.threads)
    _execute(out, config.model_dump(mode="json"))


@app.command()
def score(
    model: Annotated[Path, typer.Option(help="Folder of a quality classifier.")],
    labels: Annotated[
        Path, typer.Option(help="OUT of predict, or a folder of label files.")
    ],
    out: Out,
    image: Annotated[
        Path | None,
        typer.Option(
            help="Project, data set or folder of scans; else where the labels say "
            "they were."
        ),
    ] = None,
    segmentation: Annotated[
        str, typer.Option(help="Name of the model that made the labels, of several.")
    ] = "",
    axis: Annotated[
        list[int] | None,
        typer.Option(min=0, max=2, help="Slices along this axis; 0 unless given."),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    slurm: Slurm = False,
    slurm_set: SlurmSet = None,
    retries: Retries = 2,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Give every slice of many predictions its P(good): OUT/scores.csv."""
    from kdseg_train.bulk_score import BulkScoreConfig
    from kdseg_train.config import parse
    from kdseg_train.scores import to_judge

    values = {
        "model": model.absolute(),
        "images": None if image is None else image.absolute(),
        "labels": labels.absolute(),
        "predicted_by": segmentation,
        "axes": tuple(axis or (0,)),
        "device": device,
        "precision": precision,
        "threads": threads,
    }
    crew = {"workers": workers, "scheduler": scheduler, "retries": retries}
    whole = {
        "score": values,
        "out": out.absolute(),
        "crew": crew | slurm_settings(slurm, slurm_set),
    }
    config = parse(BulkScoreConfig, whole, "bulk score")
    to_judge(config.score)
    if config.crew.works_here:
        say_of_threads(config.score.threads)
    _execute(out, config.model_dump(mode="json"))


def slurm_settings(wanted: bool, settings: list[str] | None) -> dict[str, Any]:
    """What the workers ask of SLURM, where they are its jobs.

    Raises
    ------
    UsageError
        Where something is asked of SLURM and they are none.
    """
    from kdseg_train.config import apply_override

    if settings and not wanted:
        raise UsageError("--slurm-set is for workers that are SLURM jobs; add --slurm.")
    asked: dict[str, Any] = {}
    directives: list[Any] = []
    for override in settings or ():
        apply_override(asked, override, "--slurm-set")
        key, _, text = override.partition("=")
        if isinstance(asked.get(key), int | float):  # as 12:00:00 is in YAML
            asked[key] = text
        if key == "directives":  # each call adds some
            given = asked[key]
            directives += given if isinstance(given, list) else [given]
            asked[key] = list(directives)
    return {"slurm": asked} if wanted else {}


def _execute(out: Path, config: dict[str, Any]) -> None:
    from kdseg_train.bulk import FOLDER, make_room
    from kdseg_train.bulk_report import read_failures
    from kdseg_train.follow import prepare_and_execute, print_failures
    from napari_kdseg.runs.in_turn import make_way

    folder = out / FOLDER
    make_room(folder)
    make_way(folder, config)
    try:
        prepare_and_execute(folder, config, resume=True)
    finally:
        rows, words = read_failures(out)
        print_failures(rows, words)
    sys.stderr.write(f"The report is {out / 'bulk-report.json'}.\n")
