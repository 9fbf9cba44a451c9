"""Figure 6: many volumes with two workers, beside two serial halves, and with deaths.

1. Two ``kdseg-train predict`` processes at the same time, each with half of them.
2. ``kdseg-train bulk predict`` with two workers and all volumes: what it takes longer.
   Both in turns, least of two: what it takes to begin and end, some seconds, is in it.
3. The same while workers are killed at random in the middle of volumes: whether all are
   done, and whether anything that was published is ever computed again.

Every process has one thread; it needs two cores that are otherwise idle.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from figures.rows import PeerError, Row, Verdict, at_most, say
from kdseg_train.samples import write_sample
from napari_kdseg.runs.lock import read_holder

MODEL = "abdomen-liver"
VOLUMES = 100
MADE = 10  # each of them under several names
SIZE = 176  # voxels along x: a volume takes about two seconds
KILLS = 8
ROUNDS = 2
PAUSE_S = (2.0, 6.0)  # between two kills
LARGEST_OVERHEAD = 0.05
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def measure(*, quick: bool) -> list[Row]:
    """All lines."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        images = made_volumes(place / "made", 12 if quick else VOLUMES)
        halves, whole = in_turns(images, place, 1 if quick else ROUNDS)
        overhead = whole / halves - 1
        first = Row(
            "6",
            f"{len(images)} volumes, two workers, longer than two serial halves",
            f"{overhead:+.1%}",
            f"at most {LARGEST_OVERHEAD:+.0%}",
            at_most(overhead, LARGEST_OVERHEAD),
            f"{whole:.1f} s and {halves:.1f} s",
        )
        return [first, *with_deaths(images, place / "killed", 2 if quick else KILLS)]


def made_volumes(folder: Path, count: int) -> list[Path]:
    """So many files of some made abdomens."""
    say("  making volumes")
    write_sample("abdomen", folder, cases=min(MADE, count), size=SIZE)
    made = sorted((folder / "imagesTr").glob("*.nii.gz"))
    images = []
    for number in range(count):
        image = folder / f"volume_{number:03}.nii.gz"
        os.link(made[number % len(made)], image)
        images.append(image)
    return images


def in_turns(images: list[Path], place: Path, rounds: int) -> tuple[float, float]:
    """Least seconds of serial halves, and of bulk, over some rounds."""
    halves, whole = [], []
    for number in range(rounds):
        own = place / f"round-{number}"
        halves.append(serial_halves(images, own))
        whole.append(finished(bulk(images, own / "bulk")))
        say(f"  halves {halves[-1]:.1f} s, bulk {whole[-1]:.1f} s")
    return min(halves), min(whole)


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


def with_deaths(images: list[Path], out: Path, kills: int) -> list[Row]:
    """Kill workers in the middle of volumes; what became of the volumes."""
    process = bulk(images, out)
    rng = random.Random(0)
    killed = 0
    due = time.monotonic()
    while process.poll() is None:
        begun = any(published(out))
        if killed < kills and begun and time.monotonic() >= due and kill_one(out, rng):
            killed += 1
            say(f"  killed {killed} of {kills}")
            due = time.monotonic() + rng.uniform(*PAUSE_S)
        time.sleep(0.02)
    done, total = len([*published(out)]), len(images)
    again = computed_after_publication(out)
    finished(bulk(images, out))
    report = json.loads((out / "bulk-report.json").read_text())
    there = report["counts"]["there"]
    later = computed_after_publication(out, first=True)
    return [
        _row(
            f"volumes done, {killed} workers killed at random",
            f"{done}, exit status {process.returncode}",
            f"{total}, exit status 0",
            good=done == total and process.returncode == 0 and killed > 0,
        ),
        _row(
            "published volumes of which anything was computed again",
            str(again),
            "0",
            good=not again,
        ),
        _row(
            "the same command again",
            f"{there} there already, {later} computed",
            f"{total}, 0",
            good=there == total and not later,
        ),
    ]


def published(out: Path) -> Iterator[Path]:
    """The records of the volumes that are there now."""
    for path in out.glob(f"[!.]*/{MODEL}/prediction.json"):
        if ".partial-" not in path.parts[-3]:
            yield path


def computed_after_publication(out: Path, *, first: bool = False) -> int:
    """In how many volumes' runs windows were computed when all was published.

    Parameters
    ----------
    out
        Of the command.
    first
        Whether it was so from the first event on, in runs that began anew.
    """
    count = 0
    for path in (out / ".bulk-cases").glob("*/events.jsonl"):
        there = first
        for line in path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if there and "box" in event:
                count += 1
                break
            there = there or event["event"] == "prediction"
    return count


def _row(what: str, measured: str, goal: str, *, good: bool) -> Row:
    verdict: Verdict = "holds" if good else "missed"
    return Row("6", what, measured, goal, verdict)


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
        raise PeerError(f"a command ended with {process.returncode}")
    return time.monotonic() - started
