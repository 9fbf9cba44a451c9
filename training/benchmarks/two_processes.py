"""Two processes train as one: hashes of the weights, and the distance to one process.

A small training of made abdomens on the processor: alone, in two processes (gloo), and
in two of which one is killed (SIGKILL) on the way and both go on afterwards. Prints
Markdown, and takes less than two minutes on two quiet cores::

    python training/benchmarks/two_processes.py
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

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


def main() -> None:
    """Train three times and print the table."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_partial_sample("abdomen", place / "organs", cases=6, size=32, seed=3)
        (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        finish(start(place, "one", 1))
        finish(start(place, "two", 2))
        cut_off(place, "killed")
        finish(start(place, "killed", 2))
        report(place)


def start(place: Path, name: str, processes: int) -> subprocess.Popen[bytes]:
    """Begin a training, or go on with it."""
    launcher = ["-m", "torch.distributed.run", "--standalone"]
    launcher += [f"--nproc-per-node={processes}"]
    words = [] if processes == 1 else launcher
    given = [place / "recipe.yaml", "--out", place / name, "--data", place, "--resume"]
    command = [sys.executable, *words, "-m", "kdseg_train", "fit", *map(str, given)]
    with (place / f"{name}.txt").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a training to end well."""
    if process.wait(PATIENCE_S):
        raise SystemExit(f"a training failed with status {process.returncode}")


def cut_off(place: Path, name: str) -> None:
    """Begin a training in two processes; kill the second after half of the epochs."""
    process, until = start(place, name, 2), time.monotonic() + PATIENCE_S
    while len(epochs(place / name)) < EPOCHS // 2:
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit("the training that was to be killed does not get on")
        time.sleep(0.01)
    for worker in psutil.Process(process.pid).children():
        if worker.environ().get("RANK") == "1":
            worker.kill()
    process.wait(PATIENCE_S)


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


def report(place: Path) -> None:
    """Print hashes, and how far two processes are from one."""
    whole, resumed = hashes(place / "two"), hashes(place / "killed")
    alone, shared = (
        [one["loss"] for one in epochs(place / name)] for name in ("one", "two")
    )
    far = max(abs(a - b) / abs(a) for a, b in zip(alone, shared, strict=True))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {EPOCHS} epochs of 5 steps, gloo, float32\n")
    print("| two processes | process 0 | process 1 | goal | verdict |")
    print("| --- | --- | --- | --- | --- |")
    same = verdict(len({*whole}) == 1)
    print(f"| weights, optimiser and state | {' | '.join(whole)} | equal | {same} |")
    same = verdict(whole == resumed)
    again = f"equal, {whole[0]}"
    print(f"| after SIGKILL and --resume | {' | '.join(resumed)} | {again} | {same} |")
    close = verdict(far <= TOLERANCE)
    print(
        f"| loss of an epoch against one process | {far:.1e} relative, at most | | "
        f"{TOLERANCE:g} | {close} |"
    )


def verdict(holds: bool) -> str:  # noqa: FBT001 - it is what is said
    """Word for a goal."""
    return "holds" if holds else "MISSED"


if __name__ == "__main__":
    main()
