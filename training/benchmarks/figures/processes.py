"""Figure 7: two processes train as one: hashes of the weights, distance to one process.

A small training of made abdomens on the processor: alone, in two processes (gloo), and
in two of which one is killed (SIGKILL) on the way and both go on afterwards. The hash
is that of weights, optimiser and state after the last step.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from figures.rows import PeerError, Row, Verdict, at_most, say
from kdseg_train.samples import write_partial_sample
from napari_kdseg.runs.run import Run

EPOCHS = 6
RECIPE = {
    "method": "supervised",
    "name": "made",
    "device": "cpu",
    "data": [{"path": "organs/liver"}, {"path": "organs/spleen"}],
    "network": {"name": "unet", "parameters": {"width": 8, "stages": 3}},
    "patch_vox": [32, 32],
    "training": {
        "epochs": EPOCHS,
        "iterations_per_epoch": 5,
        "batch": 4,
        "checkpoint_minutes": 0.01,
    },
}
TOLERANCE = 1e-4
"""Of the loss of an epoch, in two processes and in one."""
PATIENCE_S = 1200


def measure(*, quick: bool) -> list[Row]:
    """All lines; there is no smaller size."""
    del quick
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_partial_sample("abdomen", place / "organs", cases=6, size=32, seed=3)
        (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        trained(place, "one", 1)
        trained(place, "two", 2)
        cut_off(place, "killed")
        trained(place, "killed", 2)
        return rows(place)


def start(place: Path, name: str, processes: int) -> subprocess.Popen[bytes]:
    """Begin a training, or go on with it."""
    say(f"  training: {name}")
    launcher = ["-m", "torch.distributed.run", "--standalone"]
    launcher += [f"--nproc-per-node={processes}"]
    words = [] if processes == 1 else launcher
    given = [place / "recipe.yaml", "--out", place / name, "--data", place, "--resume"]
    command = [sys.executable, *words, "-m", "kdseg_train", "fit", *map(str, given)]
    with (place / f"{name}.txt").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def trained(place: Path, name: str, processes: int) -> None:
    """Train to the end, from wherever an earlier training came to."""
    if start(place, name, processes).wait(PATIENCE_S):
        said = (place / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        reasons = [line for line in said if line.startswith("kdseg-train:")]
        raise PeerError(f"the training {name!r} failed: {reasons[-1:] or said[-1:]}")


def cut_off(place: Path, name: str) -> None:
    """Begin a training in two processes; kill the second after half of the epochs."""
    process, until = start(place, name, 2), time.monotonic() + PATIENCE_S
    while len(epochs(place / name)) < EPOCHS // 2:
        if process.poll() is not None or time.monotonic() > until:
            raise PeerError("the training that was to be killed does not get on")
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children()
    killed = [one for one in workers if one.environ().get("RANK") == "1"]
    for worker in killed:
        worker.kill()
    if len(killed) != 1 or process.wait(PATIENCE_S) == 0:
        raise PeerError("the second of two processes was not killed in its training")


def epochs(run: Path) -> list[dict[str, Any]]:
    """What a run has said at the end of each epoch."""
    if not (run / "events.jsonl").exists():
        return []
    lines = (run / "events.jsonl").read_bytes().splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [one for one in events if "epoch" in one]


def hashes(run: Path) -> list[str]:
    """What each process held after the last step."""
    said = [one for one in Run.open(run).events()[0] if one["event"] == "alike"]
    return [str(one)[:12] for one in said[-1]["sha256"]]


def rows(place: Path) -> list[Row]:
    """Hashes, and how far two processes are from one."""
    told = [one["event"] for one in Run.open(place / "killed").events()[0]]
    if "resumed" not in told:
        raise PeerError("the training that was killed began anew")
    whole, resumed = hashes(place / "two"), hashes(place / "killed")
    alone, shared = (
        [one["loss"] for one in epochs(place / name)] for name in ("one", "two")
    )
    far = max(abs(a - b) / abs(a) for a, b in zip(alone, shared, strict=True))
    return [
        _equal("weights of two processes, gloo", whole, "equal", len({*whole}) == 1),
        _equal(
            "the same after SIGKILL of one and --resume",
            resumed,
            f"equal, {whole[0]}",
            whole == resumed,
        ),
        Row(
            "7",
            "loss of an epoch against one process, relative",
            f"{far:.1e} at most",
            f"at most {TOLERANCE:g}",
            at_most(far, TOLERANCE),
            f"{EPOCHS} epochs of 5 steps, float32",
        ),
    ]


def _equal(what: str, found: list[str], goal: str, holds: bool) -> Row:  # noqa: FBT001
    verdict: Verdict = "holds" if holds else "missed"
    return Row("7", what, ", ".join(found), goal, verdict)
