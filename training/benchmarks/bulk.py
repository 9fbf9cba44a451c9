"""A hundred volumes with two workers, beside two serial halves, and with deaths.

1. Two ``kdseg-train predict`` processes at the same time, each with half of them.
2. ``kdseg-train bulk predict`` with two workers and all volumes: what it takes longer.
   Both in turns, least of two: what it takes to begin and end, some seconds, is in it.
3. The same while workers are killed at random in the middle of volumes: whether all are
   done, and whether anything that was published is ever computed again.

Every process has one thread; two cores, otherwise idle. ::

    python training/benchmarks/bulk.py
"""

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from kdseg_train.samples import write_sample
from napari_kdseg.runs.lock import read_holder

MODEL = "abdomen-liver"
LARGEST_OVERHEAD = 0.05
ROUNDS = 2
PAUSE_S = (2.0, 6.0)  # between two kills
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

Record = tuple[str, int]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=100)
    parser.add_argument("--size", type=int, default=144, help="voxels along x")
    parser.add_argument("--kills", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_sample("abdomen", place / "made", cases=asked.volumes, size=asked.size)
        images = sorted((place / "made" / "imagesTr").glob("*.nii.gz"))
        halves, quiet = in_turns(images, place)
        overhead = quiet / halves - 1
        print(
            f"{asked.volumes} made abdomens, {asked.size} voxels along x, two workers; "
            f"{date.today().isoformat()}, "
            f"{platform.processor() or platform.machine()}.\n"
        )
        print("| | measured | goal | verdict |\n| --- | --- | --- | --- |")
        row(
            "bulk against two serial halves at once",
            f"{quiet:.1f} s against {halves:.1f} s: {overhead:+.1%}",
            f"at most {LARGEST_OVERHEAD:+.0%}",
            good=overhead <= LARGEST_OVERHEAD,
        )
        with_deaths(images, place / "killed", asked.kills)


def row(what: str, measured: str, goal: str, *, good: bool) -> None:
    """Print a line of the table."""
    verdict = "holds" if good else "missed"
    print(f"| {what} | {measured} | {goal} | {verdict} |", flush=True)


def in_turns(images: list[Path], place: Path) -> tuple[float, float]:
    """Least seconds of serial halves, and of bulk, over some rounds."""
    halves, quiet = [], []
    for number in range(ROUNDS):
        own = place / f"round-{number}"
        halves.append(serial_halves(images, own))
        quiet.append(finished(bulk(images, own / "bulk")))
    return min(halves), min(quiet)


def serial_halves(images: list[Path], place: Path) -> float:
    """Seconds until both halves are predicted, each by a process of its own."""
    started = time.monotonic()
    processes = [
        command("predict", images[first::2], place / f"half-{first}", "--threads", "1")
        for first in (0, 1)
    ]
    for process in processes:
        finished(process)
    return time.monotonic() - started


def with_deaths(images: list[Path], out: Path, kills: int) -> None:
    """Kill workers in the middle of volumes; print what became of the volumes."""
    process = bulk(images, out)
    rng = random.Random(0)
    seen: dict[str, Record] = {}
    changed: set[str] = set()
    killed = 0
    due = time.monotonic()
    while process.poll() is None:
        look(out, seen, changed)
        if killed < kills and seen and time.monotonic() >= due and kill_one(out, rng):
            killed += 1
            due = time.monotonic() + rng.uniform(*PAUSE_S)
        time.sleep(0.02)
    look(out, seen, changed)
    row(
        f"volumes done, {killed} workers killed",
        f"{len(seen)}, exit status {process.returncode}",
        f"{len(images)}, exit status 0",
        good=len(seen) == len(images) and process.returncode == 0 and killed > 0,
    )
    row(
        "published volumes that were computed again",
        str(len(changed)),
        "0",
        good=not changed,
    )
    finished(bulk(images, out))
    after = dict(seen)
    look(out, after, changed)
    report = json.loads((out / "bulk-report.json").read_text())
    there = report["counts"]["there"]
    row(
        "the same command again",
        f"{there} there already, {len(changed)} computed",
        f"{len(images)}, 0",
        good=there == len(images) and not changed,
    )


def look(out: Path, seen: dict[str, Record], changed: set[str]) -> None:
    """Take in what is published now, and which of it is not what it was."""
    for path in out.glob(f"[!.]*/{MODEL}/prediction.json"):
        if ".partial-" in path.parts[-3]:
            continue
        with contextlib.suppress(OSError, ValueError):
            record = (
                json.loads(path.read_text())["uuid"],
                path.stat().st_mtime_ns,
            )
            if seen.setdefault(path.parts[-3], record) != record:
                changed.add(path.parts[-3])


def kill_one(out: Path, rng: random.Random) -> bool:
    """Kill a process that holds the run of a volume; say whether there was one."""
    locks = list((out / ".bulk-cases").glob("*/lock"))
    rng.shuffle(locks)
    for lock in locks:
        holder = read_holder(lock)
        if holder is not None and holder.is_alive(time.time()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGKILL)
                return True
    return False


def bulk(images: list[Path], out: Path) -> "subprocess.Popen[bytes]":
    """Begin a bulk prediction; deaths are not the volumes' fault, so many retries."""
    words = ("--workers", "2", "--threads", "1", "--retries", "20")
    return command("bulk", images, out, *words)


def command(
    name: str, images: list[Path], out: Path, *words: str
) -> "subprocess.Popen[bytes]":
    """Begin a command on some volumes, with one thread a process."""
    names = ["bulk", "predict"] if name == "bulk" else [name]
    given = [*names, *map(str, images), "--model", MODEL, "--out", str(out), *words]
    return subprocess.Popen(
        [sys.executable, "-m", "kdseg_train", *given, "--device", "cpu"],
        env=os.environ | ONE_THREAD,  # noqa: TID251 - libraries read it, we do not
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finished(process: "subprocess.Popen[bytes]") -> float:
    """Wait for a process that must succeed; give the seconds that it took."""
    started = time.monotonic()
    if process.wait() != 0:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    return time.monotonic() - started


if __name__ == "__main__":
    main()
