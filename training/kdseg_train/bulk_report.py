"""What became of every volume of a bulk command: for programs, and for people."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kdseg_train.crew import Outcome
from napari_kdseg.amounts import counted
from napari_kdseg.atomic import write_text_atomic

NAME = "bulk-report"
_WORDS = {
    "done": "done",
    "there": "there already",
    "failed": "failed",
    "stopped": "stopped on the way",
    "not begun": "not begun",
}


class Report:
    """Outcomes as they come, and what they add up to.

    Parameters
    ----------
    command
        Whose report it is.
    total
        Volumes that there are.
    began
        When the work began, seconds since 1970; now by default.
    """

    def __init__(self, command: str, total: int, began: float | None = None) -> None:
        self.command = command
        self.total = total
        self.outcomes: list[Outcome] = []
        self._began = time.time() if began is None else began

    def add(self, outcome: Outcome) -> None:
        """Take one in."""
        self.outcomes.append(outcome)

    @property
    def failed(self) -> list[Outcome]:
        """Those that failed."""
        return [one for one in self.outcomes if one.state == "failed"]

    @property
    def settled(self) -> int:
        """How many need nothing more: stopped ones are to be gone on with."""
        return sum(one.state != "stopped" for one in self.outcomes)

    @property
    def good(self) -> set[str]:
        """Cases whose results are there."""
        return {one.case for one in self.outcomes if one.state in ("done", "there")}

    @property
    def counts(self) -> dict[str, int]:
        """How many ended in which way."""
        counts = Counter(one.state for one in self.outcomes)
        found = {name: counts[name] for name in ("done", "there", "failed", "stopped")}
        return found | {"not begun": self.total - len(self.outcomes)}

    @property
    def summary(self) -> str:
        """The counts in words."""
        counts = self.counts
        return ", ".join(
            f"{count} {_WORDS[name]}" for name, count in counts.items() if count
        )

    @property
    def per_hour(self) -> float | None:
        """Volumes computed in an hour so far; None before the first."""
        done = self.counts["done"]
        return round(3600 * done / self._seconds, 1) if done else None

    @property
    def seconds_left(self) -> float | None:
        """What the others will take at that rate; None where it is not known."""
        left, rate = self.total - len(self.outcomes), self.per_hour
        return round(left * 3600 / rate, 1) if rate else None

    @property
    def pace(self) -> str:
        """Rate and time left, in words; empty where they are not known."""
        if self.per_hour is None or self.seconds_left is None:
            return ""
        left = timedelta(seconds=round(self.seconds_left))
        return f"{self.per_hour:.0f} an hour, {left} left"

    @property
    def _seconds(self) -> float:
        return max(time.time() - self._began, 1e-3)

    def write(self, out: Path) -> None:
        """Write ``bulk-report.json`` and ``bulk-report.md`` into a folder."""
        found = self._record()
        write_text_atomic(out / f"{NAME}.json", json.dumps(found, indent=2) + "\n")
        write_text_atomic(out / f"{NAME}.md", self._table())

    def _record(self) -> dict[str, Any]:
        began = datetime.fromtimestamp(self._began, UTC)
        return {
            "version": 1,
            "command": self.command,
            "began_utc": began.isoformat(timespec="seconds"),
            "seconds": round(self._seconds, 1),
            "volumes": self.total,
            "counts": self.counts,
            "per_hour": self.per_hour,
            "deaths": sum(one.attempts - 1 for one in self.outcomes),
            "cases": [asdict(one) for one in sorted(self.outcomes, key=_by_case)],
        }

    def _table(self) -> str:
        lines = [f"{self.summary or 'nothing'} of {counted(self.total, 'volume')}.", ""]
        if self.failed:
            lines += ["| failed | why |", "| --- | --- |"]
            lines += [f"| {one.case} | {_cell(one.error)} |" for one in self.failed]
        return "\n".join(lines) + "\n"


def read_failures(out: Path) -> tuple[list[dict[str, str | float]], str]:
    """Rows of what failed, and the counts in words, from a report; empty without one.

    Parameters
    ----------
    out
        Folder with ``bulk-report.json``.
    """
    try:
        found = json.loads((out / f"{NAME}.json").read_text(encoding="utf-8"))
        cases: Sequence[dict[str, Any]] = found["cases"]
        rows: list[dict[str, str | float]] = [
            {"failed": one["case"], "attempts": one["attempts"], "why": one["error"]}
            for one in cases
            if one["state"] == "failed"
        ]
        counts = {name: count for name, count in found["counts"].items() if count}
        words = ", ".join(f"{count} {_WORDS[name]}" for name, count in counts.items())
    except (OSError, ValueError, KeyError):
        return [], ""
    total = counted(found["volumes"], "volume")
    return rows, f"{words} of {total} in {found['seconds']:.0f} s."


def _by_case(outcome: Outcome) -> str:
    return outcome.case


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
