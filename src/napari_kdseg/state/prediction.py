"""The run folder of a prediction, prepared from what a person chose."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_kdseg.cores import cores_beside_viewer
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import WEIGHTS, Model
from napari_kdseg.runs.in_turn import keep_aside, make_way
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import files_of
from napari_kdseg.volumes.volume import case_id, without_channel


@dataclass(frozen=True)
class Wish:
    """What a person wants predicted."""

    scan: Path
    models: Sequence[Model]
    settings: Settings
    view: tuple[int, int] | None = None
    """Axis of the stored array and index of the slice to compute first."""
    out: Path | None = None
    """Where results are published; None: in the cache."""
    part: str | None = None
    """Which volume of the scan's file, where it holds several."""
    files: tuple[Path, ...] = ()
    """The files of all channels, where they have one each."""
    parts: tuple[str | None, ...] = ()
    """Which volume of each of these."""
    channels: tuple[str, ...] = ()
    """What each of these shows, as the project calls it."""
    case: str | None = None
    """What the scan is called, where files do not say it or say it otherwise."""
    preset: str = "exact"
    """One of `inference.presets.PRESETS`."""


def prepared(wish: Wish, cache: Path) -> Run:
    """The run of a wish: a new one, or the one that was begun with the same settings.

    Which slice comes first does not matter to a run that goes on, nor what else was
    predicted into the folder since. Results in the cache lie in a folder named by
    settings, scan and models, so that what was computed before is found again, and
    never taken for that of another file.

    Raises
    ------
    RunError
        Where the chosen folder holds another run that is being executed.
    """
    config = config_of(wish)
    name = config["case"] or case_id(wish.scan)
    out = wish.out or cache / f"{name}-{_digest(config)}"
    config |= {
        "out": str(out),
        "preview": list(wish.view) if wish.view else None,
        "threads": cores_beside_viewer(),
    }
    folder = out / ".run"
    if (folder / "config.yaml").exists():
        known = Run.open(folder)
        if known.state() == "finished" and not _is_there(known):
            if wish.out is None:
                shutil.rmtree(out)  # somebody cleared a part of the cache
            else:
                keep_aside(folder)  # its results made way for others
    free = {"preview", "threads"}
    return make_way(folder, config, but=free) or Run.create(folder, config)


def case_wanted(wish: Wish) -> str:
    """The name that the results of a wish will have."""
    return wish.case or _called_by(wish.scan)


def case_of(run: Run) -> str:
    """The name of the one scan that a run of a dock predicts."""
    named = run.config.get("case")
    return str(named) if named else _called_by(Path(run.config["inputs"][0]))


def _is_there(run: Run) -> bool:
    """Whether the results of a finished run lie where it put them."""
    folder = Path(run.config["out"]) / case_of(run)
    done = [e["models"] for e in run.events()[0] if e["event"] == "prediction"]
    names = done[-1] if done else ()
    return folder.exists() and all((folder / name).exists() for name in names)


def _called_by(file: Path) -> str:
    """What a scan is called after its file."""
    name = case_id(file)
    return without_channel(name) if name.endswith("_0000") else name


def config_of(wish: Wish) -> dict[str, Any]:
    """Give all settings of a wish but those that change no result."""
    teachers = [model for model in wish.models if model.card.role == "teacher"]
    by_file = len(wish.files) < 2 and wish.case in {None, _called_by(wish.scan)}
    return {
        "version": 1,
        "command": "predict",
        "inputs": [str(file) for file in wish.files or (wish.scan,)],
        "case": None if by_file else wish.case,
        "part": list(wish.parts) if any(wish.parts) else wish.part,
        # What people call channels counts more than what names of files say.
        **({"channels": list(wish.channels)} if len(wish.files) > 1 else {}),
        "models": [str(model.folder) for model in wish.models],
        "uncertainty": wish.settings.uncertainty,
        # Without a teacher among them all models count as teachers.
        "regions": len(teachers or wish.models) > 1,
        "format": "ome-zarr" if wish.out is None else "source",
        "device": wish.settings.device,
        # Left out where it changes nothing: what was computed before is still found.
        **({} if wish.preset == "exact" else {"preset": wish.preset}),
    }


def _digest(config: dict[str, Any]) -> str:
    """The same for the same settings, scan and models; files count by size and time."""
    weights = [Path(model, WEIGHTS) for model in config["models"]]
    scans = [file for scan in config["inputs"] for file in files_of(Path(scan))]
    stamps = [(f.stat().st_size, f.stat().st_mtime_ns) for f in (*scans, *weights)]
    return hashlib.sha256(json.dumps([config, stamps]).encode()).hexdigest()[:12]
