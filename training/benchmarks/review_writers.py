"""Verdicts that are lost, and how long one takes: four write at once, one is killed.

Four processes write verdicts to one store, each as fast as it can or at a pace. One is
killed (SIGKILL) half way, and another does the rest. Every verdict is noted outside the
store once `judge` has returned, and must be in it at the end. Timed is each `judge`,
with the data forced to the disk as always, and for comparison without::

    python training/benchmarks/review_writers.py
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from napari_kdseg.review import database
from napari_kdseg.review.store import Store, read_store
from napari_kdseg.review.verdicts import About

WRITERS = 4
VERDICTS = 10_000
PAGE = 25
PATIENCE_S = 1200


@dataclass(frozen=True)
class Setting:
    """How the writers write."""

    words: str
    synchronous: str
    pause_s: float
    verdicts: int


SETTINGS = (
    Setting("without pause", "FULL", 0.0, VERDICTS),
    Setting("without pause, no fsync", "OFF", 0.0, VERDICTS),
    Setting("ten a second each", "FULL", 0.1, VERDICTS // 5),
)


def main() -> None:
    """Measure and print, or be one of the writers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verdicts", type=int, help="instead of the settings' own")
    parser.add_argument("--write", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        file, name, count, pause, synchronous = given.write
        database.SYNCHRONOUS = synchronous
        write(Path(file), name, int(count), float(pause))
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}, {WRITERS} writers, one killed half way\n")
    print("| | verdicts | lost | median, ms | 95 %, ms | longest, ms | a second |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for setting in SETTINGS:
        print(measured(setting, given.verdicts or setting.verdicts), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(f"\na page of {PAGE} by one writer alone: {page_ms(Path(folder)):.1f} ms")


def write(file: Path, name: str, count: int, pause: float) -> None:
    """Judge slices; after each print its uuid and the milliseconds."""
    store = Store.open(file)
    sitting = store.sit(name)
    for index in range(count):
        started = time.perf_counter()
        one = sitting.judge(About("fish", 0, index, "ab" * 32), "good", 0.7)
        took = time.perf_counter() - started
        print(one.uuid, f"{1000 * took:.3f}", flush=True)
        time.sleep(pause)
    store.close()


def measured(setting: Setting, verdicts: int) -> str:
    """One row of the table."""
    share = verdicts // WRITERS
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        started = time.perf_counter()
        lasting = [start(place, str(i), share, setting) for i in range(WRITERS - 1)]
        victim = start(place, "victim", share, setting)
        wait_for_lines(place / "victim", share // 2)
        victim.kill()
        victim.wait()
        rest = share - len(noted(place / "victim"))
        lasting.append(start(place, "heir", rest, setting))
        for process in lasting:
            if process.wait(PATIENCE_S):
                raise SystemExit(f"a writer failed with status {process.returncode}")
        took = time.perf_counter() - started
        rows = [
            row for path in place.iterdir() if not path.suffix for row in noted(path)
        ]
        kept = {one.uuid for one in read_store(place / "v.sqlite")}
    lost = sum(name not in kept for name, _ in rows)
    times = np.array([ms for _, ms in rows])
    median, high = np.percentile(times, (50, 95))
    return (
        f"| {setting.words} | {len(rows)} | {lost} | {median:.1f} | {high:.1f} | "
        f"{times.max():.0f} | {len(rows) / took:.0f} |"
    )


def start(
    folder: Path, name: str, count: int, setting: Setting
) -> subprocess.Popen[bytes]:
    """Start a writer that notes what is kept in a file of its name."""
    words = (folder / "v.sqlite", name, count, setting.pause_s, setting.synchronous)
    command = [sys.executable, __file__, "--write", *map(str, words)]
    with (folder / name).open("wb") as out:
        return subprocess.Popen(command, stdout=out)


def wait_for_lines(path: Path, count: int) -> None:
    """Wait until a writer has noted so many verdicts."""
    until = time.monotonic() + PATIENCE_S
    while len(noted(path)) < count:
        if time.monotonic() > until:
            raise SystemExit(f"{path.name} does not get on")
        time.sleep(0.02)


def noted(path: Path) -> list[tuple[str, float]]:
    """Names and milliseconds of a writer; a line that a kill cut off does not count."""
    lines = path.read_text().splitlines(keepends=True)
    whole = [line.split() for line in lines if line.endswith("\n")]
    return [(name, float(ms)) for name, ms in whole]


def page_ms(folder: Path) -> float:
    """Median milliseconds to keep the verdicts on a page of the contact sheet."""
    store = Store.open(folder / "page.sqlite")
    sitting = store.sit("Ada")
    times = []
    for page in range(40):
        slices = [About("fish", 0, PAGE * page + i, "ab" * 32) for i in range(PAGE)]
        started = time.perf_counter()
        sitting.judge_all([(one, "good") for one in slices], 5.0)
        times.append(time.perf_counter() - started)
    store.close()
    return 1000 * float(np.median(times))


if __name__ == "__main__":
    main()
