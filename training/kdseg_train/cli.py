"""kdseg-train: everything of napari-kdseg that needs no screen.

Exit status: 0 done, 1 failed, 2 wrong use, 3 stopped on request, 75 stopped to make way
and to be started again. Errors are one sentence on standard error; ``--debug`` adds the
traceback.
"""

import atexit
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from kdseg_train import (
    cli_bulk,
    cli_interop,
    cli_measure,
    cli_presets,
    cli_quality,
    cli_training,
    cli_volumes,
)
from kdseg_train.allocation import keep_freed_memory
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
    Resume,
    Threads,
)
from napari_kdseg.amounts import counted
from napari_kdseg.atomic import refusal
from napari_kdseg.errors import KdsegError, RequeueRequested, UsageError

# Whatever else a command needs is imported inside it: --help must answer at once.

app = typer.Typer(
    name="kdseg-train",
    help="Segment 3D scans and train the networks that do it; no screen needed.",
    epilog="Exit status: 0 done, 1 failed, 2 wrong use, 3 stopped on request, "
    "75 to be started again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Segment 3D scans and train the networks that do it; no screen needed."""


@app.command()
def sample(
    name: Annotated[str, typer.Argument(help="abdomen, brain or fish.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set; must be new.")],
    cases: Annotated[int, typer.Option(min=1, help="Number of scans.")] = 20,
    size: Annotated[
        int | None, typer.Option(help="Voxels along x; the sample's own by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same scans.")] = 0,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="A data set an organ, and one for testing."),
    ] = False,
) -> None:
    """Make a data set to try things on, in Decathlon layout."""
    from kdseg_train.follow import counting
    from kdseg_train.samples import write_partial_sample, write_sample

    write = write_partial_sample if partial else write_sample
    with counting(f"{name} scans") as count:
        write(name, out, cases=cases, size=size, seed=seed, on_progress=count)
    _say(f"{out} holds {counted(cases, 'scan')}.")


@app.command()
def new(
    method: Annotated[str, typer.Argument(help="A method, such as ms-kd or medaka.")],
    data: Annotated[list[Path], typer.Option(help="Data set; give several times.")],
    out: Annotated[Path, typer.Option(help="The recipe; must be new.")],
) -> None:
    """Write a commented recipe, filled in from the data."""
    from kdseg_train.new import new_recipe

    new_recipe(method, data, out)
    _say(f"{out} is ready: read it, then kdseg-train fit {out} --out RUN")


for command in (cli_training.estimate, cli_training.fit):
    app.command()(command)


@app.command()
def predict(
    inputs: Inputs,
    model: Models,
    out: Out,
    part: cli_volumes.Part = None,
    case: Annotated[
        str | None,
        typer.Option(
            help="The inputs are the channels of this one case: as their names say "
            "(t1, ct ...), else in the model's order."
        ),
    ] = None,
    uncertainty: Annotated[
        str | None,
        typer.Option(help=f"Also write uncertainty, 0 (sure) to 1: {UNCERTAINTIES}."),
    ] = None,
    regions: Regions = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write class probabilities.")
    ] = False,
    coarse_to_fine: CoarseToFine = False,
    format_: Format = "source",
    overlap_rule: Annotated[
        str,
        typer.Option(help="Voxels claimed for two classes: sum (in both) or ignore."),
    ] = "sum",
    device: Device = "auto",
    precision: Precision = "auto",
    batch: Annotated[
        int | None,
        typer.Option(
            help="Tiles at once; the model's by default, with OpenVINO two at least."
        ),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            help="Voxels of a tile: 64,64 for a 2D model, 64,128,128 (z, y, x) for a "
            "3D one; the model's by default."
        ),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(help="Share of neighbouring tiles; the model's by default."),
    ] = None,
    threads: Threads = None,
    fill_nonfinite: Annotated[
        float | None,
        typer.Option(help="Put this where a voxel is NaN or infinite."),
    ] = None,
    preset: Annotated[
        str, typer.Option(help=f"exact, fast or draft. {cli_presets.costs()}")
    ] = "exact",
    backend: Annotated[
        str,
        typer.Option(help="auto, torch or openvino (extra fast), on a processor."),
    ] = "torch",
    roi: Annotated[
        str,
        typer.Option(
            help="all, or coarse: only where a coarse pass of the same network finds "
            "something."
        ),
    ] = "all",
    preview: Annotated[
        str | None,
        typer.Option(help="Slice to compute first, as AXIS,INDEX of the stored array."),
    ] = None,
    resume: Resume = False,
) -> None:
    """Segment scans: OUT/CASE/MODEL/labels and what else is asked for."""
    from kdseg_train.config import MAY_CHANGE, parse
    from kdseg_train.plan import PredictConfig, plan
    from napari_kdseg.runs.in_turn import make_way
    from napari_kdseg.shipped import find_model

    values = {
        "command": "predict",
        "inputs": [path.absolute() for path in inputs],
        "part": part,
        "case": case,
        "models": [find_model(name) for name in model],
        "out": out.absolute(),
        "uncertainty": uncertainty,
        "regions": regions,
        "probabilities": probabilities,
        "coarse_to_fine": coarse_to_fine,
        "format": format_,
        "overlap_rule": overlap_rule,
        "device": device,
        "precision": precision,
        "batch": batch,
        "tile": _numbers(tile, "--tile", "64,64"),
        "overlap": overlap,
        "threads": threads,
        "fill_nonfinite": fill_nonfinite,
        "preset": preset,
        "backend": backend,
        "roi": roi,
        "preview": _numbers(preview, "--preview", "0,12 (AXIS,INDEX)", 2),
    }
    config = parse(PredictConfig, values, "predict")
    plan(config, resume=resume)
    asked = config.model_dump(mode="json")
    make_way(out / ".run", asked, but=(*MAY_CHANGE, "preview"))
    _execute(out / ".run", asked, resume=resume)
    _say(f"The results are in {out}.")


@app.command()
def evaluate(
    reference: Annotated[Path, typer.Option(help="Data set, or folder of labels.")],
    prediction: Annotated[
        Path, typer.Option(help="OUT of predict, or a folder of labels.")
    ],
    out: Annotated[
        Path, typer.Option(help="The table, CSV; its summary beside it; replaced.")
    ],
    nsd_tolerance_mm: Annotated[
        float, typer.Option(min=0, help="Surfaces this close agree, in mm.")
    ] = 1.0,
    slices: Annotated[
        Path | None, typer.Option(help="Also a CSV of the slices that differ most.")
    ] = None,
) -> None:
    """Compare labels with a reference, matched by case id."""
    from kdseg_train.config import parse
    from kdseg_train.evaluate import EvaluateConfig, compare, means, write_table
    from kdseg_train.follow import counting, print_table

    values = {
        "reference": reference,
        "prediction": prediction,
        "out": out,
        "nsd_tolerance_mm": nsd_tolerance_mm,
        "slices": slices,
    }
    config = parse(EvaluateConfig, values, "evaluate")
    with counting("cases") as count:
        comparison = compare(config, count)
    written = write_table(config, comparison)
    print_table(means(comparison), comparison.caption)
    _say(f"Written: {', '.join(map(str, written))}.")


for measuring in (cli_measure.measure, cli_measure.atlas, cli_measure.report):
    app.command()(measuring)
app.command()(cli_presets.presets)
for handling in (cli_volumes.convert, cli_volumes.inspect, cli_volumes.cache):
    app.command()(handling)
app.command("import")(cli_interop.import_model)
app.command("export")(cli_interop.export_model)
app.add_typer(cli_quality.app, name="quality")
app.add_typer(cli_bulk.app, name="bulk")


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A prepared run.")],
) -> None:
    """Execute any prepared run folder; one that was cut off goes on."""
    from kdseg_train.follow import execute_and_show
    from napari_kdseg.runs.run import Run

    prepared = Run.open(folder)
    if prepared.config["command"] not in ("fit", "quality-fit"):
        execute_and_show(prepared)
        return
    from kdseg_train.ranks import are_launched
    from kdseg_train.together import execute_together

    def lead() -> None:
        execute_and_show(prepared, alone=not are_launched())

    execute_together(folder, prepared.config.get("device", "auto"), lead)


@app.command()
def work() -> None:
    """Wait for run folders on standard input, one a line; networks stay warm."""
    from kdseg_train.work import serve

    serve()


@app.command()
def describe(
    method: Annotated[str | None, typer.Argument(help="All without it.")] = None,
) -> None:
    """Print the JSON schema of a method's settings."""
    from kdseg_train.methods import describe as schema

    sys.stdout.write(json.dumps(schema(method), indent=2) + "\n")


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing, and how to get it."""
    from kdseg_train.doctor import examine, report

    findings = examine()
    sys.stdout.write(report(findings) + "\n")
    if any(finding.needed and not finding.good for finding in findings):
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors become one sentence and an exit status."""
    keep_freed_memory()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    # Accepted behind the command as well, where it is remembered.
    words = [word for word in given if word != "--debug"]
    try:
        app(words, prog_name="kdseg-train")
    except KdsegError as error:
        _fail(str(error), error.exit_code, debug=debug)
    except OSError as error:
        _fail(refusal(error), KdsegError.exit_code, debug=debug)
    except Exception as error:  # noqa: BLE001 - here a person is told
        text = f"{type(error).__name__}: {error}. This is a fault of the program"
        hint = "" if debug else "; add --debug to see where"
        _fail(f"{text}{hint}.", KdsegError.exit_code, debug=debug)


def script() -> None:
    """Run the command line as a process of its own, which ends as soon as it is done.

    Python's own end takes torch apart, object by object: most of a second, in which a
    person who pressed Cancel waits for the memory. The system takes it back at once.
    """
    for name in ("SIGTERM", "SIGUSR1"):  # until a run takes them in good order
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _make_way)
    status: list[int] = []
    atexit.register(_leave, status)  # the first to be registered is the last to be run
    try:
        main()
    except SystemExit as end:
        said = end.code is not None  # words are an error, as Python sees it
        status.append(end.code if isinstance(end.code, int) else int(said))
        raise


def _make_way(number: int, frame: FrameType | None) -> None:
    del number, frame
    os.write(2, b"kdseg-train: stopped to make way; start it again.\n")
    os._exit(RequeueRequested.exit_code)


def _leave(status: list[int]) -> None:
    if not status:
        return  # an interrupt: Python shows it, and ends by itself
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status[0])


def _fail(sentence: str, status: int, *, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"kdseg-train: {sentence}\n")
    raise SystemExit(status)


def _say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")


def _execute(folder: Path, config: dict[str, Any], *, resume: bool) -> None:
    from kdseg_train.follow import prepare_and_execute

    prepare_and_execute(folder, config, resume=resume)


def _numbers(
    text: str | None, option: str, example: str, count: int | None = None
) -> list[int] | None:
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        found = [int(part) for part in text.split(",")]
        if count in (None, len(found)):
            return found
    raise UsageError(
        f"{option} is {text!r}; give whole numbers with commas, such as {example}."
    )
