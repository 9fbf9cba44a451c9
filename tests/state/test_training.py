"""Trainings followed, stopped, resumed, found again; also those of other machines."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from napari_kdseg.runs.run import Run
from napari_kdseg.state.detached import Detached
from napari_kdseg.state.training import Training
from napari_kdseg.state.training_runs import KnownRuns, Pace

WAIT_S = 30.0

# Speaks as kdseg-train does: fit RECIPE --out RUN; run RUN; report RUN.
FAKE = """
import sys, time
from pathlib import Path
from napari_kdseg.errors import KdsegError
from napari_kdseg.runs.run import Run

words = sys.argv[1:]
if words[0] == "report":
    Path(words[3]).write_text("<html></html>")
    sys.exit(0)
if words[0] == "fit":
    run = Run.create(Path(words[3]), {"version": 1, "command": "fit", "method": "m"})
else:
    run = Run.open(Path(words[1]))
try:
    with run.executing():
        for epoch in range(1, 4):
            (run.checkpoints / "c").touch()
            run.metric(stage="training", step=epoch, epoch=epoch, loss=3 / epoch)
            while epoch == 2 and not (run.folder.parent / "go").exists():
                run.check_stop()
                time.sleep(0.01)
        run.model_folder.mkdir()
        (run.model_folder / "model.yaml").touch()
except KdsegError:
    sys.exit(3)
"""


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    made = make_training(tmp_path)
    yield made
    while made.can_stop:
        made.stop()
        made.poll()


def make_training(tmp_path: Path, pages: list[str] | None = None) -> Training:
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    command = (sys.executable, str(script))
    known = KnownRuns(tmp_path / "data" / "trainings.json")
    shown: Callable[[str], object] = [].append if pages is None else pages.append
    return Training(Detached(command), known, command, shown)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "recipe.yaml"
    path.parent.mkdir()
    path.write_text("{version: 1, command: fit}")
    return path


def poll_until(training: Training, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, training.status
        training.poll()
        time.sleep(0.01)


def losses(training: Training) -> list[float]:
    stage = training.curves.stages.get("training")
    return [] if stage is None else stage.losses["loss"].values


def begun(training: Training, recipe: Path) -> None:
    training.begin(recipe, recipe.parent / "run")
    poll_until(training, lambda: len(losses(training)) == 2)


def ended(training: Training) -> bool:
    return training.job is not None and training.job.ended


def made_run(folder: Path, host: str, *events: tuple[str, dict[str, Any]]) -> Run:
    config = {"version": 1, "command": "fit", "method": "ms-kd", "name": "organs"}
    run = Run.create(folder, config)
    run.event("started", host=host, pid=1)
    for kind, fields in events:
        run.event(kind, **fields)
    return run


def epochs(count: int) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("metric", {"stage": "training", "step": i, "epoch": i, "loss": 1 / i})
        for i in range(1, count + 1)
    ]


def test_a_training_is_followed_to_its_model(training: Training, recipe: Path) -> None:
    begun(training, recipe)
    assert training.can_stop
    assert not training.can_resume
    assert training.model is None
    (recipe.parent / "go").touch()
    poll_until(training, lambda: ended(training))
    assert losses(training) == [3, 1.5, 1]
    assert training.model == recipe.parent / "run" / "model"
    assert training.state_text.startswith("Finished")


def test_a_training_that_was_stopped_goes_on(training: Training, recipe: Path) -> None:
    begun(training, recipe)
    training.stop()
    assert not training.can_stop
    poll_until(training, lambda: ended(training))
    assert training.job is not None
    assert training.job.state == "stopped"
    assert training.can_resume
    (recipe.parent / "go").touch()
    training.resume()
    poll_until(training, lambda: ended(training) and training.job.state == "finished")
    assert losses(training) == [3, 1.5, 1]  # nothing is there twice


def test_closing_leaves_it_running_and_another_viewer_finds_it(
    training: Training, recipe: Path, tmp_path: Path
) -> None:
    begun(training, recipe)
    training.close()
    again = make_training(tmp_path)
    again.look_for()
    assert again.job is not None
    assert again.job.run.folder == recipe.parent / "run"
    assert losses(again) == [3, 1.5]
    assert again.can_stop
    (recipe.parent / "go").touch()
    poll_until(again, lambda: ended(again))
    assert losses(again) == [3, 1.5, 1]


def test_the_time_that_is_left_follows_from_the_pace_of_the_stage() -> None:
    def event(time: float, step: int, stage: str = "student") -> dict[str, Any]:
        told = {"event": "progress", "stage": stage, "step": step, "total": 100}
        return told | {"time": time}

    pace = Pace()
    pace.note(event(10.0, 50, "teacher"))
    assert pace.left_s is None
    pace.note(event(100.0, 20))  # resumed at 20 of 100
    assert pace.left_s is None
    pace.note(event(130.0, 30))  # 10 steps in 30 s, and 70 are left
    assert pace.left_s == pytest.approx(210)


def test_opening_a_run_a_second_time_shows_it_whole(
    training: Training, recipe: Path, tmp_path: Path
) -> None:
    begun(training, recipe)
    made_run(tmp_path / "other", socket.gethostname(), *epochs(1), ("finished", {}))
    assert training.open(tmp_path / "other")
    assert losses(training) == [1]
    assert training.open(recipe.parent)  # the folder with recipe and run does, too
    assert losses(training) == [3, 1.5]
    assert list(training.runs.values()) == ["home (m)", "other (ms-kd)"]


def test_a_run_of_another_machine_is_only_looked_at(
    training: Training, tmp_path: Path
) -> None:
    run = made_run(tmp_path / "far", "elsewhere", *epochs(3))
    holder = {"host": "elsewhere", "pid": 1, "started": 0.0, "token": "t"}
    lock = run.folder / "lock"
    lock.write_text(json.dumps(holder))
    before = sorted(path.name for path in run.folder.iterdir())
    assert training.open(run.folder)
    assert len(losses(training)) == 3
    assert training.job is not None
    assert not training.job.ended
    assert not training.can_stop
    training.stop()
    assert "runs on elsewhere" in training.whereabouts.in_words

    hour_ago = time.time() - 3600  # its heart has stopped
    os.utime(lock, (hour_ago, hour_ago))
    training.poll()
    assert training.job.state == "interrupted"
    assert not training.can_resume
    assert "ran on elsewhere" in training.whereabouts.in_words
    assert sorted(path.name for path in run.folder.iterdir()) == before


def test_the_report_is_written_where_there_is_none_and_opened(tmp_path: Path) -> None:
    pages: list[str] = []
    training = make_training(tmp_path, pages)
    here = socket.gethostname()
    run = made_run(tmp_path / "run", here, *epochs(1), ("finished", {}))
    training.open(run.folder)
    training.report()
    poll_until(training, lambda: bool(pages))
    assert pages == [(run.folder / "report.html").as_uri()]
    training.report()  # the run has ended, and so has its report
    assert len(pages) == 2


def test_the_report_of_another_machines_run_is_written_elsewhere(
    tmp_path: Path,
) -> None:
    pages: list[str] = []
    training = make_training(tmp_path, pages)
    run = made_run(tmp_path / "run", "elsewhere", *epochs(1), ("finished", {}))
    training.open(run.folder)
    training.report()
    poll_until(training, lambda: bool(pages))
    assert not (run.folder / "report.html").exists()
    assert pages[0].endswith("report.html")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no run folder: config.yaml cannot be read"),
        ("version: 2\ncommand: fit\n", "Update napari-kdseg"),
        ("version: 1\ncommand: predict\n", "which has no curves"),
        ("[1, 2", "no YAML file"),
    ],
)
def test_a_folder_that_is_no_training_is_refused_in_a_sentence(
    training: Training, tmp_path: Path, config: str | None, words: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if config is not None:
        (folder / "config.yaml").write_text(config)
    before = sorted(tmp_path.rglob("*"))
    assert not training.open(folder)
    assert words in training.status
    assert training.job is None
    assert sorted(tmp_path.rglob("*")) == before
