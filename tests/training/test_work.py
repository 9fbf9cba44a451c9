"""The warm worker: answers, order, and its end with whoever started it."""

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdseg_train import execute as execute_module
from kdseg_train import work
from napari_kdseg.errors import VolumeError
from napari_kdseg.runs.run import Run

WAIT_S = 30.0


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Run], None]]:
    """Commands that take no time, and a worker that has nothing to load."""

    def wait_for_stop(run: Run) -> None:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            run.check_stop()
            time.sleep(0.01)

    def refuse(run: Run) -> None:
        raise VolumeError("The volume is no good.")

    def break_down(run: Run) -> None:
        raise ZeroDivisionError("by nought")

    fakes = {
        "pass": lambda run: None,
        "wait": wait_for_stop,
        "refuse": refuse,
        "break": break_down,
    }
    monkeypatch.setattr(execute_module, "COMMANDS", fakes)
    monkeypatch.setattr(work, "warm_up", lambda: None)
    return fakes


def prepared(tmp_path: Path, name: str, command: str) -> Run:
    return Run.create(tmp_path / name, {"version": 1, "command": command})


def answers_to(*folders: Path | str) -> list[dict[str, Any]]:
    out = io.StringIO()
    lines = LinesThatStayOpen([f"{folder}\n" for folder in folders], out)
    work.Worker(take(out), parent=psutil.Process()).serve(lines)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def take(out: io.StringIO) -> Callable[[str], None]:
    def say(line: str) -> None:
        out.write(line)

    return say


class LinesThatStayOpen:
    """Input that ends once every line has been answered."""

    def __init__(self, lines: list[str], out: io.StringIO) -> None:
        self._lines, self._out = lines, out

    def __iter__(self) -> Iterator[str]:
        yield from self._lines
        wanted = 1 + sum(1 for line in self._lines if line.strip())
        while self._out.getvalue().count("\n") < wanted:
            time.sleep(0.01)


@pytest.mark.usefixtures("commands")
def test_each_run_is_answered_in_order(tmp_path: Path) -> None:
    runs = [prepared(tmp_path, name, "pass") for name in "ab"]
    ready, *answers = answers_to(*(run.folder for run in runs))
    assert ready == {"ready": True}
    assert answers == [
        {"run": str(run.folder), "state": "finished", "error": None} for run in runs
    ]


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("refuse", "The volume is no good."),
        ("break", "ZeroDivisionError: by nought"),
    ],
)
def test_a_run_that_fails_does_not_end_the_worker(
    tmp_path: Path, command: str, error: str
) -> None:
    bad, good = prepared(tmp_path, "a", command), prepared(tmp_path, "b", "pass")
    _, first, second = answers_to(bad.folder, good.folder)
    assert (first["state"], first["error"]) == ("failed", error)
    assert second["state"] == "finished"


@pytest.mark.usefixtures("commands")
def test_a_folder_that_is_no_run_is_answered(tmp_path: Path) -> None:
    _, answer = answers_to(tmp_path / "nothing")
    assert answer["state"] == "failed"
    assert "no run folder" in answer["error"]


@pytest.mark.usefixtures("commands")
def test_empty_lines_are_passed_over(tmp_path: Path) -> None:
    run = prepared(tmp_path, "a", "pass")
    assert len(answers_to("", run.folder)) == 2


@pytest.mark.usefixtures("commands")
def test_a_stopped_run_is_answered_as_stopped(tmp_path: Path) -> None:
    run = prepared(tmp_path, "a", "wait")
    run.request_stop()
    _, answer = answers_to(run.folder)
    assert answer["state"] == "stopped"


@pytest.mark.usefixtures("commands")
def test_the_end_of_input_stops_the_run_at_hand(tmp_path: Path) -> None:
    run = prepared(tmp_path, "a", "wait")
    out = io.StringIO()
    work.Worker(take(out)).serve(io.StringIO(f"{run.folder}\n"))
    assert run.state() == "stopped"


@pytest.mark.usefixtures("commands")
def test_the_death_of_the_parent_stops_the_run_at_hand(tmp_path: Path) -> None:
    # Input stays open: another child of the parent may have inherited it.
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run = prepared(tmp_path, "a", "wait")
    never = threading.Event()

    class Lines:
        def __iter__(self) -> Iterator[str]:
            yield f"{run.folder}\n"
            never.wait(WAIT_S)

    worker = work.Worker(take(io.StringIO()), parent=psutil.Process(parent.pid))
    thread = threading.Thread(target=worker.serve, args=(Lines(),))
    thread.start()
    while run.state() != "running":
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    thread.join(WAIT_S)
    never.set()
    assert run.state() == "stopped"


def test_the_process_says_when_it_is_ready_and_keeps_prints_apart(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kdseg_train.work"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    out, _ = process.communicate(f"{tmp_path}\n".encode(), timeout=120)
    ready, answer = (json.loads(line) for line in out.splitlines())
    assert ready == {"ready": True}
    assert "no run folder" in answer["error"]
