"""The report of a training: one file that needs neither network nor other files.

``RUN/report.html`` is made from what lies in the run folder alone, so that a run that
goes on, was killed or came from another machine has one, too.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import yaml

from kdseg_train.summary import Entry, read_summary, shown
from napari_kdseg.amounts import counted
from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import RunError
from napari_kdseg.runs.curves import Curve, Curves, Example, StageCurves
from napari_kdseg.runs.run import Run

NAME = "report.html"
MOST_POINTS = 1000
PICTURES_OF_A_STAGE = 4
_INCHES = (5.4, 3.1)


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run, in place of an earlier one; gives its file.

    Parameters
    ----------
    folder
        Of the run.
    out
        The file; by default ``report.html`` in the run folder.

    Raises
    ------
    RunError
        Where the folder holds no run of a training, or the file cannot be written.
    """
    run = Run.open(folder)
    if run.config["command"] != "fit":
        raise RunError(
            f"{run.folder} is a run of {run.config['command']!r}; reports are made of "
            "trainings (fit)."
        )
    path = out or run.folder / NAME
    try:
        write_text_atomic(path, report_of(run))
    except OSError as error:
        raise RunError(
            f"{path} could not be written ({error.strerror}). Make room, or choose "
            "another file with --out."
        ) from error
    return path


def report_of(run: Run) -> str:
    """HTML of the report of a run."""
    events, _ = run.events()
    curves = Curves()
    curves.take(events)
    config = run.config
    frozen = config.pop("frozen", None) or {}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template(
        "report.html.j2"
    )
    return template.render(
        name=config.get("name") or run.folder.name,
        method=config.get("method", ""),
        description=config.get("description", ""),
        facts=_facts(run, events),
        troubles=[
            (event["event"], event.get("message", ""))
            for event in events
            if event["event"] in ("warning", "error")
        ],
        stages=[_stage(run, stage) for stage in curves.stages.values()],
        scores=_scores(run),
        parts=_parts(frozen),
        fingerprint=frozen.get("fingerprint", ""),
        settings=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        environment=_environment(run),
        command_line=f"kdseg-train run {run.folder}",
    )


# ---- what the run says of itself ----


def _facts(run: Run, events: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    starts = [e for e in events if e["event"] in ("started", "resumed")]
    facts = [("State", run.state()), ("Folder", str(run.folder))]
    if not starts:
        return facts
    facts.append(("Started", _moment(starts[0]["time"])))
    facts.append(("Last event", _moment(events[-1]["time"])))
    facts.append(("Executed for", _duration(_executed(events))))
    hosts = dict.fromkeys(str(event.get("host", "")) for event in starts)
    facts.append(("On", ", ".join(hosts)))
    if len(starts) > 1:
        facts.append(("Resumed", counted(len(starts) - 1, "time")))
    return facts


def _executed(events: Sequence[dict[str, Any]]) -> float:
    """Seconds of all executions, the time between them left out."""
    total, last = 0.0, None
    for event in events:
        if last is not None and event["event"] not in ("started", "resumed"):
            total += max(0.0, float(event["time"]) - last)
        last = float(event["time"])
    return total


def _parts(frozen: dict[str, Any]) -> list[tuple[str, int, str]]:
    found = []
    for part in ("training", "validation", "test", "unlabelled"):
        cases = frozen.get(part) or []
        if cases:
            found.append((part, len(cases), ", ".join(map(str, cases))))
    return found


def _environment(run: Run) -> list[tuple[str, str]]:
    try:
        text = (run.folder / "environment.json").read_text(encoding="utf-8")
        described = json.loads(text)
    except (OSError, ValueError):
        return []
    packages = described.pop("packages", None) or {}
    rows = {**described, **packages}
    return [(str(key), str(value)) for key, value in rows.items() if value is not None]


@dataclass(frozen=True)
class _Scores:
    titles: list[str]
    rows: list[list[str]]
    words: str


def _scores(run: Run) -> _Scores | None:
    found = read_summary(run.folder / "metrics.csv")
    if found is None or not found[0]:
        return None
    entries, words = found
    titles = list(entries[0])

    def cells(entry: Entry) -> list[str]:
        return [shown(key, entry[key]) for key in titles]

    return _Scores(titles, [cells(entry) for entry in entries], words)


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(float(seconds), UTC):%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


# ---- curves and pictures ----


@dataclass(frozen=True)
class _Stage:
    name: str
    charts: list[str]
    pictures: list[tuple[int, str]]
    """Epoch, and the picture as a data address."""


def _stage(run: Run, stage: StageCurves) -> _Stage:
    charts = []
    if stage.losses:
        curves = list(stage.losses.values())
        charts.append(_chart(curves, "Loss", f"{stage.name}-loss"))
    if stage.dice:
        curves = list(stage.dice.values())
        charts.append(_chart(curves, "Dice of validation patches", f"{stage.name}-d"))
    pictures = [
        (example.epoch, address)
        for example in _spread(stage.examples, PICTURES_OF_A_STAGE)
        if (address := _address(run, example))
    ]
    return _Stage(stage.name, charts, pictures)


def _spread(examples: Sequence[Example], most: int) -> list[Example]:
    """The first, the last, and some evenly between."""
    if len(examples) <= most:
        return list(examples)
    last = len(examples) - 1
    return [examples[round(place * last / (most - 1))] for place in range(most)]


def _address(run: Run, example: Example) -> str:
    path = (run.folder / example.file).resolve()
    if not path.is_relative_to(run.folder.resolve()):  # a run may come from anywhere
        return ""
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""


def _chart(curves: Sequence[Curve], title: str, salt: str) -> str:
    """Curves over epochs as SVG that can stand in HTML."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            epochs, values = curve.thinned(MOST_POINTS)
            dots = "." if len(epochs) < 30 else ""
            axes.plot(epochs, values, label=curve.name, marker=dots, linewidth=1.4)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title, loc="left", fontsize="medium")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if title.startswith("Dice"):
            axes.set_ylim(0, 1)
        axes.legend(
            fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1, 1)
        )
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
