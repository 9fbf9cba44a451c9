"""The commands about what scans hold: measure, atlas, report."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kdseg_train.options import Resume
from napari_kdseg.errors import UsageError

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
    part: Annotated[
        str | None,
        typer.Option(help="Which volume, where a label file holds several."),
    ] = None,
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
    from kdseg_train.measurable import MeasureConfig
    from napari_kdseg.amounts import counted
    from napari_kdseg.measure.organs import DEFINITIONS
    from napari_kdseg.measure.outliers import FAR

    values = {
        "labels": labels.absolute(),
        "part": part,
        "images": None if images is None else images.absolute(),
        "of": "labels" if own else "predictions",
        "case": case,
        "model": model,
        "channel": channel,
        "out": out.absolute(),
    }
    settings = parse(MeasureConfig, values, "measure")
    with counting("scans") as count:
        rows = command.measure(settings, count)
    far = sum(abs(float(row["volume_robust_z"])) > FAR for row in rows)
    sys.stderr.write(
        f"{out} has {counted(len(rows), 'row')}; {counted(far, 'volume')} far from the "
        f"others of their kind (|robust z| > {FAR}). {DEFINITIONS}\n"
    )


def atlas(
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS", help="Project, OUT of predict, data set, or labels."
        ),
    ],
    reference: Annotated[
        str, typer.Option(help="The scan that all others are laid over.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    on: Annotated[
        str, typer.Option(help="Compare images, or masks of all organs together.")
    ] = "images",
    images: Annotated[
        Path | None, typer.Option(help="Folder of scans named like the labels.")
    ] = None,
    own: Annotated[
        bool,
        typer.Option("--own", help="Of a project: its own labels, not predictions."),
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Whose predictions, where there are several.")
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="Of the occupancy: ome-zarr or nifti.")
    ] = "ome-zarr",
    resume: Resume = False,
) -> None:
    """Lay scans over one of them: mean occupancy of organs, and how they vary."""
    from kdseg_train.atlas import AtlasConfig, cases_of
    from kdseg_train.config import parse
    from kdseg_train.follow import prepare_and_execute

    values = {
        "labels": labels.absolute(),
        "images": None if images is None else images.absolute(),
        "of": "labels" if own else "predictions",
        "model": model,
        "reference": reference,
        "on": on,
        "format": format_,
        "out": out.absolute(),
    }
    settings = parse(AtlasConfig, values, "atlas")
    cases_of(settings)  # what cannot become one is said before anything is made
    asked = settings.model_dump(mode="json")
    prepare_and_execute(out / ".run", asked, resume=resume)
    sys.stderr.write(f"The atlas is in {out}.\n")


def report(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Run folder of a training.")
    ] = None,
    project: Annotated[
        Path | None, typer.Option(help="Folder of a project, in place of a run.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="RUN/report.html by default; of a project PROJECT/report."),
    ] = None,
) -> None:
    """Tell a training in one HTML file, or a project in a methods section and a table.

    Of a run: curves, scores, example slices, settings, environment. Of a project: who
    did what, with what and when, from its stamps.
    """
    if (run is None) == (project is None):
        raise UsageError("Name a run folder, or a project with --project; one of them.")
    if run is not None:
        from kdseg_train.report import write_report

        written = write_report(run, out)
        sys.stderr.write(f"{written} is written; open it in a browser.\n")
        return
    assert project is not None
    from kdseg_train.project_report import write_project_report

    written = write_project_report(project.absolute(), out)
    sys.stderr.write(f"{written} is written, and stamps.csv beside it.\n")
