"""The commands about what scans hold: measure."""

import sys
from pathlib import Path
from typing import Annotated

import typer

# Whatever else a command needs is imported inside it: --help must answer at once.


def measure(
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS",
            help="Label file, folder of them, data set, OUT of predict, or project.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The table, .csv or .parquet; replaced.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Scan, or folder of scans named like the labels."),
    ] = None,
    own: Annotated[
        bool,
        typer.Option("--own", help="Of a project: its own labels, not predictions."),
    ] = False,
    case: Annotated[str | None, typer.Option(help="This scan alone.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model alone.")] = None,
    channel: Annotated[
        str | None, typer.Option(help="Whose intensity; the first by default.")
    ] = None,
) -> None:
    """Measure organs: volume, surface, axes, place, intensity, neighbours."""
    from kdseg_train import measure as command
    from kdseg_train.config import parse
    from kdseg_train.follow import counting
    from napari_kdseg.measure.organs import DEFINITIONS
    from napari_kdseg.measure.outliers import FAR

    values = {
        "labels": labels.absolute(),
        "images": None if images is None else images.absolute(),
        "of": "labels" if own else "predictions",
        "case": case,
        "model": model,
        "channel": channel,
        "out": out.absolute(),
    }
    settings = parse(command.MeasureConfig, values, "measure")
    with counting("scans") as count:
        rows = command.measure(settings, count)
    far = sum(abs(float(row["volume_robust_z"])) > FAR for row in rows)
    sys.stderr.write(
        f"{out} has {len(rows)} rows; {far} volumes lie far from the others of their "
        f"kind (|robust z| > {FAR}). {DEFINITIONS}\n"
    )
