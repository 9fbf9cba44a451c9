"""Jobs that outlive the viewer: started, followed, stopped, found again."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from napari_kdseg.errors import RunError
from napari_kdseg.runs.run import Run
from napari_kdseg.state.detached import Detached
from napari_kdseg.state.jobs import Job

WAIT_S = 30.0

# Speaks as kdseg-train does: `run RUN`, or `fit RECIPE --out RUN`.
FAKE = """
import sys, time
from pathlib import Path
from napari_kdseg.errors import KdsegError
from napari_kdseg.runs.run import Run

words = sys.argv[1:]
if words[0] == "fit":
    if "refuse" in Path(words[1]).read_text():
        sys.exit("kdseg-train: The recipe is no good.")
    run = Run.create(Path(words[3]), {"version": 1, "command": "pass"})
else:
    run = Run.open(Path(words[1]))
command = run.config["command"]
if command == "die":
    sys.exit("Killed, more or less")
try:
    with run.executing():
        run.progress(1, 4, "quality")
        if command == "refuse":
            raise KdsegError("There are no verdicts.")
        while command == "obey":
            run.check_stop()
            time.sleep(0.01)
except KdsegError:
    sys.exit(3)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "fake.py"
    path.write_text(FAKE)
    return path


@pytest.fixture
def detached(script: Path) -> Iterator[Detached]:
    made = Detached([sys.executable, str(script)])
    yield made
    for job in made.jobs:
        made.cancel(job)
        finish(made, job)


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[str], Run]:
    def make(command: str) -> Run:
        return Run.create(tmp_path / command, {"version": 1, "command": command})

    return make


def poll_until(detached: Detached, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        detached.poll()
        time.sleep(0.01)


def finish(detached: Detached, job: Job) -> Job:
    poll_until(detached, lambda: job.ended)
    return job


def test_a_job_is_followed_to_its_end(detached: Detached, prepared: Callable) -> None:
    seen: list[str] = []
    job = detached.start(prepared("pass"))
    job.events.news.connect(lambda news: seen.extend(e["event"] for e in news))
    assert job.command_line.startswith("kdseg-train run ")
    finish(detached, job)
    assert (job.state, job.fraction, job.error) == ("finished", 1.0, "")
    assert seen == ["started", "progress", "finished"]
    assert detached.jobs == ()


def test_a_job_stops_when_asked(detached: Detached, prepared: Callable) -> None:
    job = detached.start(prepared("obey"))
    poll_until(detached, lambda: job.fraction == 0.25)
    detached.cancel(job)
    assert job.message == "stopping"
    assert finish(detached, job).state == "stopped"


def test_a_stop_before_the_process_is_there_is_obeyed(
    detached: Detached, prepared: Callable
) -> None:
    job = detached.start(prepared("obey"))
    detached.cancel(job)
    assert finish(detached, job).state == "stopped"


def test_why_a_job_failed_is_told(detached: Detached, prepared: Callable) -> None:
    job = finish(detached, detached.start(prepared("refuse")))
    assert (job.state, job.error) == ("failed", "There are no verdicts.")


def test_a_process_that_dies_before_its_first_event_is_noticed(
    detached: Detached, prepared: Callable
) -> None:
    job = finish(detached, detached.start(prepared("die")))
    assert (job.state, job.error) == ("failed", "Killed, more or less")


def test_a_run_that_failed_before_and_dies_again_has_not_ended_as_before(
    detached: Detached, prepared: Callable
) -> None:
    run = prepared("die")
    run.event("stopped", message="long ago")
    assert finish(detached, detached.start(run)).state == "failed"


def test_what_was_said_long_ago_is_no_news(
    detached: Detached, prepared: Callable
) -> None:
    run = prepared("pass")
    run.progress(1, 2, "long ago")
    job = detached.start(run)
    assert job.fraction == 0
    finish(detached, job)


def test_the_process_belongs_to_no_terminal(
    detached: Detached, prepared: Callable
) -> None:
    run = prepared("obey")
    job = detached.start(run)
    poll_until(detached, lambda: job.state == "running")
    (started,) = (e for e in run.events()[0] if e["event"] == "started")
    assert psutil.Process(started["pid"]).terminal() is None
    if sys.platform != "win32":
        assert os.getsid(started["pid"]) != os.getsid(0)


def test_another_viewer_follows_from_the_folder(
    detached: Detached, prepared: Callable
) -> None:
    run = prepared("obey")
    first = detached.start(run)
    poll_until(detached, lambda: first.fraction == 0.25)
    other = Detached()
    job = other.open(run.folder)
    assert (job.state, job.fraction) == ("running", 0.25)
    assert other.start(run) is job
    other.cancel(job)
    poll_until(other, lambda: job.ended)
    assert job.state == "stopped"
    finish(detached, first)


def test_a_run_that_ended_meanwhile_is_told_as_it_ended(
    detached: Detached, prepared: Callable
) -> None:
    run = prepared("pass")
    finish(detached, detached.start(run))
    job = Detached().open(run.folder)
    assert (job.state, job.fraction) == ("finished", 1.0)


def test_a_run_that_nobody_began_is_given_up(prepared: Callable) -> None:
    run = prepared("pass")
    assert not Detached().open(run.folder).ended
    os.utime(run.folder / "config.yaml", (0, 0))
    assert Detached().open(run.folder).state == "interrupted"


def test_a_recipe_is_trained_in_a_folder_of_its_own(
    detached: Detached, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("version: 1\nmethod: medaka\n")
    job = detached.fit(recipe, tmp_path / "run")
    assert job.command_line == f"kdseg-train fit {recipe} --out {tmp_path / 'run'}"
    assert finish(detached, job).state == "finished"
    assert job.run.state() == "finished"


def test_a_recipe_that_is_refused_leaves_no_run(
    detached: Detached, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("version: 1\nmethod: refuse\n")
    job = finish(detached, detached.fit(recipe, tmp_path / "run"))
    assert (job.state, job.error) == ("failed", "The recipe is no good.")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, "", "- a\n", ": :"])
def test_what_is_no_recipe_is_not_begun(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(RunError, match=r"recipe\.yaml is no recipe"):
        Detached().fit(tmp_path / "recipe.yaml", tmp_path / "run")
