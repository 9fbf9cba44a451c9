"""A line of the result table, and how contenders are run."""

import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["holds", "missed", "not run", ""]

MOST_SECONDS = 600


class PeerError(Exception):
    """A contender that did not come to its end, with its last words."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    figure: str
    """The number of the goal, such as ``1``."""
    what: str
    measured: str
    goal: str = ""
    verdict: Verdict = ""
    note: str = ""


def at_most(value: float, limit: float) -> Verdict:
    """Whether a value is small enough."""
    return "holds" if value <= limit else "missed"


def at_least(value: float, limit: float) -> Verdict:
    """Whether a value is large enough."""
    return "holds" if value >= limit else "missed"


def not_run(figure: str, what: str, goal: str, error: object) -> Row:
    """The row of something that could not be measured."""
    return Row(figure, what, "-", goal, "not run", str(error).replace("|", "/")[:200])


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def isolated(function: Callable[..., Any], **arguments: Any) -> Any:
    """What a function of a module here returns, in a process of its own.

    Raises
    ------
    PeerError
        Where it fails, or takes longer than `MOST_SECONDS`.
    """
    name = f"{function.__module__}:{function.__name__}"
    words = [sys.executable, str(Path(__file__).parents[1] / "bench.py"), "--worker"]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [*words, name, json.dumps(arguments)],
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{function.__name__} took over {MOST_SECONDS} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PeerError(f"{function.__name__}: {last}")
    say(f"  {function.__name__} {time.perf_counter() - started:.0f} s in all")
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(
    contenders: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, Any], dict[str, str]]:
    """Least seconds and last results of contenders that take turns in this process.

    Returns
    -------
    tuple
        Seconds, results, and the errors of those that failed.
    """
    seconds: dict[str, float] = {}
    results: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for turn in range(repeats):
        for name, work in contenders.items():
            if name in errors:
                continue
            started = time.perf_counter()
            try:
                results[name] = work()
            except Exception as error:  # noqa: BLE001 - a peer may fail in any way
                errors[name] = f"{type(error).__name__}: {error}"
                seconds.pop(name, None)
                continue
            took = time.perf_counter() - started
            seconds[name] = min(took, seconds.get(name, took))
            say(f"  turn {turn + 1} of {repeats}, {name}: {took:.1f} s")
    return seconds, results, errors


def resident_bytes(what: Literal["VmRSS", "VmHWM"]) -> int:
    """Resident memory of this process now, or its highest so far (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def measured_peak(work: Callable[[], Any]) -> dict[str, float]:
    """Highest memory beyond what there is now, and seconds, of some work."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free is given back, not used again
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak
    before = resident_bytes("VmRSS")
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return {"bytes": resident_bytes("VmHWM") - before, "seconds": seconds}


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| figure | what | measured | goal | verdict | |",
        "| ---: | --- | ---: | ---: | --- | --- |",
    ]
    lines += [
        f"| {r.figure} | {r.what} | {r.measured} | {r.goal} | {r.verdict} | {r.note} |"
        for r in rows
    ]
    return "\n".join(lines)
