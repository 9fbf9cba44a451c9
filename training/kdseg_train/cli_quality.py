"""The commands ``kdseg-train quality ...``: which slices of predictions are good."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kdseg_train.options import Device, Resume, Threads
from napari_kdseg.amounts import counted
from napari_kdseg.errors import UsageError

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


Reviews = Annotated[
    str, typer.Option(help="Verdicts: CSV, SQLite file or URL of a database.")
]


Images = Annotated[
    Path | None,
    typer.Option(
        help="Data set or folder of scans; else where the labels say they were."
    ),
]
ProjectFolder = Annotated[
    Path | None,
    typer.Option("--project", help="Project; in place of scans, labels and verdicts."),
]
Segmentation = Annotated[
    str | None,
    typer.Option(
        help="Folder or name of the model that made the labels; its scaling is used."
    ),
]
LabelsOrNone = Annotated[
    Path | None, typer.Option(help="OUT of predict, or a folder of label files.")
]


@app.command()
def fit(
    out: Annotated[Path, typer.Option(help="Run folder; the model will be in it.")],
    reviews: Annotated[
        str | None, typer.Option(help="Verdicts: CSV, SQLite file or URL.")
    ] = None,
    images: Images = None,
    labels: LabelsOrNone = None,
    project: ProjectFolder = None,
    segmentation: Segmentation = None,
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
    from kdseg_train.quality import FitConfig, what_was_judged
    from kdseg_train.ranks import are_launched
    from kdseg_train.together import execute_together

    values = {
        "reviews": _reviews(reviews, project),
        **_places(images, labels, project),
        **_model(segmentation),
        "device": device,
    }
    for override in set_ or ():
        apply_override(values, override)
    config = parse(FitConfig, values, "quality fit")

    def lead() -> None:
        if not resume:
            what_was_judged(config)  # refused before there is a run
        settings, alone = config.model_dump(mode="json"), not are_launched()
        prepare_and_execute(out, settings, resume=resume, alone=alone)
        _say(f"The classifier is in {out / 'model'}, how good it is in metrics.csv.")

    execute_together(out, config.device, lead)


@app.command()
def score(
    model: Annotated[Path, typer.Option(help="Folder of a quality classifier.")],
    out: Annotated[Path, typer.Option(help="The table, CSV; replaced.")],
    image: Images = None,
    labels: LabelsOrNone = None,
    project: ProjectFolder = None,
    segmentation: Segmentation = None,
    axis: Annotated[
        list[int] | None,
        typer.Option(
            min=0, max=2, help="Slices along this axis; 0 unless given, also twice."
        ),
    ] = None,
    keep_in: Annotated[
        Path | None,
        typer.Option(
            "--keep-in",
            help="Folder that keeps what is done scan by scan, to go on from there.",
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16.")
    ] = "auto",
    threads: Threads = None,
) -> None:
    """Give every slice its P(good): case, axis, index, p_good."""
    from kdseg_train.config import parse
    from kdseg_train.follow import counting
    from kdseg_train.scores import ScoreConfig, Watch, scored, write_scores

    values = {
        "model": model.absolute(),
        **_places(image, labels, project),
        "predicted_by": _model(segmentation)["predicted_by"],
        "axes": tuple(axis or (0,)),
        "scores": keep_in,
        "device": device,
        "precision": precision,
        "threads": threads,
    }

    class Shown(Watch):
        def scans(self, done: int, total: int, case: str) -> None:
            count(done, total)

        def warn(self, text: str) -> None:
            _say(text)

    with counting("scans") as count:
        found = scored(parse(ScoreConfig, values, "quality score"), Shown())
        rows = [row for one in found for row in one.rows]
    write_scores(out, rows)
    _say(f"{out} has {counted(len(rows), 'slice')}.")


@app.command("filter")
def keep(
    scores: Annotated[Path, typer.Option(help="Table of quality score.")],
    threshold: Annotated[
        float, typer.Option(min=0, help="Slices with at least this P(good) stay.")
    ],
    out: Annotated[Path, typer.Option(help="The table, CSV; replaced.")],
) -> None:
    """Keep the slices that are good enough."""
    from kdseg_train.scores import filter_scores

    kept, total = filter_scores(scores, threshold, out)
    _say(f"{out} has {kept} of {counted(total, 'slice')}.")


@app.command()
def simulate(
    reference: Annotated[Path, typer.Option(help="The truth: data set or labels.")],
    labels: Labels,
    out: Annotated[
        str,
        typer.Option(
            help="The verdicts: CSV, replaced; SQLite file or URL of a database, added."
        ),
    ],
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


@app.command("agreement")
def agree(reviews: Reviews) -> None:
    """Say how far reviewers agree, and on which slices they do not."""
    from kdseg_train.follow import print_table
    from napari_kdseg.review.agreement import agreement
    from napari_kdseg.review.verdicts import read_verdicts

    found = agreement(read_verdicts(reviews))
    counts: list[dict[str, str | float]] = [
        {"reviewer": name, **words} for name, words in found.reviewers.items()
    ]
    pairs: list[dict[str, str | float]] = [
        {
            "reviewers": f"{pair.first}, {pair.second}",
            "both judged": pair.slices,
            "said the same": pair.same,
            "Cohen's kappa": pair.kappa,
        }
        for pair in found.pairs
    ]
    disputes: list[dict[str, str | float]] = [
        {
            "disputed": one.place[0],
            "axis": one.place[1],
            "index": one.place[2],
            "labels": one.labels_hash[:12],
            "good for": ", ".join(one.good),
            "bad for": ", ".join(one.bad),
        }
        for one in found.disputes
    ]
    for rows in (counts, pairs, disputes):
        print_table(rows, "")
    sys.stdout.write("\n".join(found.sentences()) + "\n")


@app.command("export")
def export(
    reviews: Reviews,
    out: Annotated[Path, typer.Option(help="The table, CSV; replaced.")],
) -> None:
    """Write all rows of a store as CSV, take-backs among them."""
    from napari_kdseg.review.verdicts import read_verdicts, write_verdicts

    rows = read_verdicts(reviews)
    write_verdicts(out, rows)
    _say(f"{out} has {counted(len(rows), 'row')}.")


@app.command("import")
def import_(
    table: Annotated[str, typer.Argument(help="CSV, SQLite file or URL.")],
    reviews: Annotated[str, typer.Option(help="Store: SQLite file or URL.")],
) -> None:
    """Add rows to a store; people's are marked as imported."""
    from napari_kdseg.review.store import Store, imported
    from napari_kdseg.review.verdicts import read_verdicts

    rows = imported(read_verdicts(table))
    store = Store.open(reviews)
    try:
        new = store.add(rows)
    finally:
        store.close()
    old = len(rows) - new
    _say(f"{store.name} has {counted(new, 'new row')}; there already: {old}.")


@app.command()
def mend(store: Annotated[Path, typer.Argument(help="Damaged SQLite file.")]) -> None:
    """Make a damaged store whole, from its copy and what can still be read."""
    from napari_kdseg.review.recovery import mend as make_whole

    _say(make_whole(store))


def _places(
    images: Path | None, labels: Path | None, project: Path | None
) -> dict[str, Path | None]:
    """Where scans and labels are; a project says where its own are."""
    if project is not None and labels is None:
        labels = project / "predictions"
    if labels is None:
        raise UsageError("nothing says which labels are meant; give --labels.")
    place = images or project
    return {
        "images": None if place is None else place.absolute(),
        "labels": labels.absolute(),
    }


def _reviews(reviews: str | None, project: Path | None) -> str:
    if reviews is not None:
        return _absolute(reviews)
    if project is None:
        raise UsageError("nothing says where the verdicts are; give --reviews.")
    from napari_kdseg.review.shared import store_of

    return str(store_of(project.absolute() / "review"))


def _model(segmentation: str | None) -> dict[str, Any]:
    """A folder is opened; anything else is the name of a model."""
    if segmentation is None:
        return {"predicted_by": "", "segmentation": None}
    folder = Path(segmentation)
    if not folder.is_dir():
        return {"predicted_by": segmentation, "segmentation": None}
    from napari_kdseg.models.model import Model

    name = Model.open(folder).card.name
    return {"predicted_by": name, "segmentation": folder.absolute()}


def _absolute(where: str) -> str:
    return where if "://" in where else str(Path(where).absolute())


def _say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
