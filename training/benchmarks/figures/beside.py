"""Figure 8: inference beside a busy program, and how soon Cancel is heard.

The busy program keeps one core at work, as a viewer that draws without pause. We use
the threads that the docks give: the cores less one, waiting passively. Memory of a
graphics card is not measured here: it needs one.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures.rows import PeerError, Row, at_most, isolated, not_run, say
from napari_kdseg.cores import cores_beside_viewer

SIZE = 128
TILE = 64
CLASSES = 5
CANCELS = 8
BUSY = "while True: sum(i * i for i in range(100000))"


def measure(*, quick: bool) -> list[Row]:
    """All lines."""
    size = 96 if quick else SIZE
    return [_beside(size), *_cancel(size)]


def _beside(size: int) -> Row:
    what, goal = "time beside a busy program, of alone on one thread", "at most 1.3"
    alone, beside = [], []
    try:
        for _ in range(2):
            alone.append(isolated(predicted, size=size, threads=1))
            viewer = subprocess.Popen([sys.executable, "-c", BUSY])
            try:
                threads = cores_beside_viewer()
                beside.append(isolated(predicted, size=size, threads=threads))
            finally:
                viewer.kill()
                viewer.wait()
    except PeerError as error:
        return not_run("8", what, goal, error)
    ratio = min(beside) / min(alone)
    note = f"{min(beside):.1f} s and {min(alone):.1f} s"
    return Row("8", what, f"{ratio:.2f}", goal, at_most(ratio, 1.3), note)


def predicted(size: int, threads: int) -> float:
    """Seconds of predicting a volume with so many threads."""
    import torch

    from figures.made import noise, volume_of
    from napari_kdseg.inference.predict import Settings, predict_volume

    torch.set_num_threads(threads)
    settings = Settings("cpu", uncertainty=None, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        model = _model(Path(folder) / "model")
        volume = volume_of(noise((size, size, size)))
        started = time.perf_counter()
        predict_volume(volume, [model], settings)
        return time.perf_counter() - started


def _cancel(size: int) -> list[Row]:
    """Until the run has stopped, and until its process and its memory are gone."""
    names = ("the run has stopped", "its process is gone")
    whats = [f"from Cancel until {name}, in times of one tile" for name in names]
    goal = "at most 1"
    try:
        *ends, tiles = isolated(cancelled, size=size)
    except PeerError as error:
        return [not_run("8", what, goal, error) for what in whats]
    tile = statistics.median(tiles)
    rows = []
    for what, seconds in zip(whats, ends, strict=True):
        middle = statistics.median(seconds)
        note = (
            f"{middle:.2f} s, {max(seconds):.2f} s at most; a tile takes {tile:.2f} s; "
            f"{CANCELS} runs"
        )
        verdict = at_most(middle / tile, 1)
        rows.append(Row("8", what, f"{middle / tile:.2f}", goal, verdict, note))
    return rows


def cancelled(size: int) -> list[list[float]]:
    """Stop runs from outside: seconds until stopped, until gone, and those of a tile.

    Of several runs, each asked at another moment of a tile.
    """
    from figures.made import noise, volume_of
    from napari_kdseg.volumes.formats import write_volume

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _model(folder / "model")
        volume = volume_of(noise((size * 4, size, size)))
        write_volume(folder / "scan.nii.gz", volume.data, volume.grid)
        found = [_cancelled_once(folder, size, number) for number in range(CANCELS)]
    return [list(times) for times in zip(*found, strict=True)]


def _cancelled_once(folder: Path, size: int, number: int) -> tuple[float, float, float]:
    from napari_kdseg.runs.run import Run

    config: dict[str, Any] = {
        "version": 1,
        "command": "predict",
        "inputs": [str(folder / "scan.nii.gz")],
        "models": [str(folder / "model")],
        "out": str(folder / f"out-{number}"),
        "device": "cpu",
    }
    run = Run.create(folder / f"out-{number}/.run", config)
    process = subprocess.Popen(
        [sys.executable, "-m", "kdseg_train", "run", str(run.folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    times = _until_slabs(run, process, 2)
    step = TILE // 2
    tile_s = (times[-1] - times[-2]) / (-(-(size - TILE) // step) + 1) ** 2
    # A slab has just been told of: each run is asked at another moment of a tile.
    time.sleep(tile_s * number / CANCELS)
    say("  asking for the end")
    began, started = time.time(), time.perf_counter()
    run.request_stop()
    process.wait()  # with a timeout it would only look twenty times a second
    gone = time.perf_counter() - started
    assert run.state() == "stopped", run.state()
    stopped = run.events()[0][-1]["time"] - began
    return stopped, gone, tile_s


def _until_slabs(run: Any, process: Any, count: int) -> list[float]:
    """When so many slabs were told of."""
    while True:
        told = [e["time"] for e in run.events()[0] if "box" in e]
        if len(told) >= count:
            return told
        assert process.poll() is None, json.dumps(run.events()[0][-1])
        time.sleep(0.01)


def _model(folder: Path) -> Any:
    import torch

    from figures.made import card
    from napari_kdseg.models.model import save_model
    from napari_kdseg.models.networks import build
    from napari_kdseg.volumes.preprocessing import Intensity

    torch.manual_seed(0)
    described = card(CLASSES, TILE, Intensity(kind="window", low=-1000, high=1000))
    return save_model(folder, described, build(described.network, 1, CLASSES))
