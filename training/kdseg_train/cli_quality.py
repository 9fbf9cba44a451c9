"""The commands ``kdseg-train quality ...``: which slices of predictions are good."""

import sys
from pathlib import Path
from typing import Annotated

import typer

# Whatever else a command needs is imported inside it: --help must answer at once.

app = typer.Typer(
    help="Judge the slices of predictions: good or bad.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Labels = Annotated[
    Path, typer.Option(help="OUT of predict, or a folder of label files.")
]
Axis = Annotated[
    int, typer.Option(min=0, max=2, help="Slices along this axis of the stored array.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda[:N].")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where an earlier call was cut off.")
]


@app.command()
def fit(
    reviews: Annotated[Path, typer.Option(help="Verdicts, CSV.")],
    images: Annotated[
        Path, typer.Option("--images", "--project", help="Data set or folder of scans.")
    ],
    labels: Labels,
    out: Annotated[Path, typer.Option(help="Run folder; the model will be in it.")],
    segmentation: Annotated[
        Path | None,
        typer.Option(help="Model that made the labels; its scaling is used."),
    ] = None,
    device: Device = "auto",
    resume: Resume = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting in place of the default: a.b=value."),
    ] = None,
) -> None:
    """Train a classifier on verdicts."""
    from kdseg_train.config import apply_override, parse
    from kdseg_train.follow import prepare_and_execute
    from kdseg_train.quality import FitConfig, settled_verdicts

    values = {
        "reviews": reviews.absolute(),
        "images": images.absolute(),
        "labels": labels.absolute(),
        "segmentation": None if segmentation is None else segmentation.absolute(),
        "device": device,
    }
    for override in set_ or ():
        apply_override(values, override)
    config = parse(FitConfig, values, "quality fit")
    settled_verdicts(config.reviews)  # refused before there is a run
    prepare_and_execute(out, config.model_dump(mode="json"), resume=resume)
    _say(f"The classifier is in {out / 'model'}, how good it is in metrics.csv.")


@app.command()
def score(
    model: Annotated[Path, typer.Option(help="Folder of a quality classifier.")],
    image: Annotated[Path, typer.Option(help="Data set or folder of scans.")],
    labels: Labels,
    out: Annotated[Path, typer.Option(help="The table, CSV; replaced.")],
    axis: Axis = 0,
    device: Device = "auto",
) -> None:
    """Give every slice its P(good): case, axis, index, p_good."""
    from kdseg_train.config import parse
    from kdseg_train.follow import counting
    from kdseg_train.quality import ScoreConfig
    from kdseg_train.quality import score as judge

    values = {
        "model": model,
        "image": image,
        "labels": labels,
        "out": out,
        "axis": axis,
        "device": device,
    }
    with counting("cases") as count:
        slices = judge(parse(ScoreConfig, values, "quality score"), count)
    _say(f"{out} has {slices} slices.")


@app.command("filter")
def keep(
    scores: Annotated[Path, typer.Option(help="Table of quality score.")],
    threshold: Annotated[
        float, typer.Option(min=0, help="Slices with at least this P(good) stay.")
    ],
    out: Annotated[Path, typer.Option(help="The table, CSV; replaced.")],
) -> None:
    """Keep the slices that are good enough."""
    from kdseg_train.quality import filter_scores

    kept, total = filter_scores(scores, threshold, out)
    _say(f"{out} has {kept} of {total} slices.")


@app.command()
def simulate(
    reference: Annotated[Path, typer.Option(help="The truth: data set or labels.")],
    labels: Labels,
    out: Annotated[Path, typer.Option(help="The verdicts, CSV; replaced.")],
    axis: Axis = 0,
    bad_below: Annotated[
        float, typer.Option(min=0, max=1, help="Slices with a lower Dice are bad.")
    ] = 0.7,
    slices: Annotated[
        int | None, typer.Option(min=1, help="So many at random; all by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same slices.")] = 0,
) -> None:
    """Make verdicts from known truth, marked as simulated."""
    from kdseg_train.config import parse
    from kdseg_train.follow import counting
    from kdseg_train.quality import SimulateConfig
    from kdseg_train.quality import simulate as judge

    values = {
        "reference": reference,
        "labels": labels,
        "out": out,
        "axis": axis,
        "bad_below": bad_below,
        "slices": slices,
        "seed": seed,
    }
    with counting("cases") as count:
        verdicts = judge(parse(SimulateConfig, values, "quality simulate"), count)
    good = sum(one.verdict == "good" for one in verdicts)
    bad = len(verdicts) - good
    _say(f"{out} has {len(verdicts)} simulated verdicts: {good} good, {bad} bad.")


def _say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
