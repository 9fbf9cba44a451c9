"""Jobs of a viewer: followed, queued, cancelled, killed, and gone with the viewer."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from kdseg_train import cli
from kdseg_train.plan import PredictConfig
from napari_kdseg.runs.run import Run
from napari_kdseg.state.jobs import Job, Worker, command_line, something_runs

WAIT_S = 20.0

# Speaks as kdseg_train.work does; what a run does is its command.
FAKE = """
import json, sys, time
from pathlib import Path
from napari_kdseg.errors import KdsegError
from napari_kdseg.runs.run import Run

def say(**answer):
    print(json.dumps(answer), flush=True)

def work(run):
    command = run.config["command"]
    if command == "die":
        sys.exit("Segmentation fault, more or less")
    if command == "refuse":
        raise KdsegError("The volume is no good.")
    for step in range(3):
        run.progress(step + 1, 4, "case_1", case=2, cases=2)
    while command == "obey":
        run.check_stop()
        time.sleep(0.01)
    while command == "ignore":
        time.sleep(0.01)

say(ready=True)
for line in sys.stdin:
    run = Run.open(Path(line.strip()))
    error = None
    try:
        with run.executing():
            work(run)
    except KdsegError as caught:
        error = str(caught)
    say(run=line.strip(), state=run.state(), error=error)
"""


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker([sys.executable, "-c", FAKE])
    yield made
    made.close()


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[str], Run]:
    def make(command: str) -> Run:
        folder = tmp_path / f"{command}-{len(list(tmp_path.iterdir()))}"
        return Run.create(folder, {"version": 1, "command": command})

    return make


def poll_until(worker: Worker, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        worker.poll()
        time.sleep(0.01)


def finish(worker: Worker, job: Job) -> Job:
    poll_until(worker, lambda: job.ended)
    return job


def process_of(worker: Worker) -> psutil.Process:
    assert worker._process is not None
    return psutil.Process(worker._process._popen.pid)


# ---- Following ----


def test_nothing_is_started_before_it_is_needed(worker: Worker) -> None:
    worker.poll()
    assert worker._process is None


def test_a_job_is_followed_to_its_end(worker: Worker, prepared: Callable) -> None:
    job = finish(worker, worker.submit(prepared("pass")))
    assert (job.state, job.fraction, job.error) == ("finished", 1.0, "")


def test_progress_counts_the_cases_before(worker: Worker, prepared: Callable) -> None:
    job = worker.submit(prepared("obey"))
    # The second of two cases, three quarters through it.
    poll_until(worker, lambda: job.fraction == 0.875)
    assert (job.state, job.message) == ("running", "case_1")


def test_whoever_asks_is_told_that_something_runs(
    worker: Worker, prepared: Callable
) -> None:
    assert not something_runs()
    job = worker.submit(prepared("work"))
    assert something_runs()
    poll_until(worker, lambda: job.ended)
    assert not something_runs()
    worker.submit(prepared("obey"))
    worker.close()  # with its dock: what was cut off does not run
    assert not something_runs()


def test_every_event_is_handed_on_once(worker: Worker, prepared: Callable) -> None:
    seen: list[str] = []
    job = worker.submit(prepared("pass"))
    job.events.news.connect(lambda news: seen.extend(e["event"] for e in news))
    finish(worker, job)
    assert seen == ["started", *["progress"] * 3, "finished"]


def test_changes_are_signalled(worker: Worker, prepared: Callable) -> None:
    states: list[str] = []
    worker.changed.connect(lambda job: states.append(job.state))
    finish(worker, worker.submit(prepared("pass")))
    assert states[0] == "prepared"
    assert states[-1] == "finished"


def test_a_worker_says_when_it_is_warm(worker: Worker) -> None:
    seen: list[bool] = []
    worker.ready_changed.connect(seen.append)
    worker.start()
    poll_until(worker, lambda: worker.ready)
    assert seen == [True]


def test_jobs_are_done_in_order_by_one_process(
    worker: Worker, prepared: Callable
) -> None:
    first, second = (worker.submit(prepared("pass")) for _ in range(2))
    poll_until(worker, lambda: first.ended)
    process = process_of(worker).pid
    finish(worker, second)
    assert process_of(worker).pid == process


def test_a_resumed_run_does_not_tell_its_past(
    worker: Worker, prepared: Callable
) -> None:
    run = prepared("pass")
    run.progress(1, 1, "long ago")
    seen: list[str] = []
    job = worker.submit(run)
    job.events.message.connect(seen.append)
    finish(worker, job)
    assert "long ago" not in seen


# ---- Failing ----


def test_a_job_that_fails_says_why(worker: Worker, prepared: Callable) -> None:
    job = finish(worker, worker.submit(prepared("refuse")))
    assert (job.state, job.error) == ("failed", "The volume is no good.")


def test_a_process_that_dies_fails_its_job_with_its_last_words(
    worker: Worker, prepared: Callable
) -> None:
    job = finish(worker, worker.submit(prepared("die")))
    assert job.state == "failed"
    assert "Segmentation fault, more or less" in job.error


def test_the_next_job_gets_a_new_process(worker: Worker, prepared: Callable) -> None:
    finish(worker, worker.submit(prepared("die")))
    assert finish(worker, worker.submit(prepared("pass"))).state == "finished"


def test_a_process_that_cannot_start_fails_its_job(prepared: Callable) -> None:
    worker = Worker([sys.executable, "-c", "import nothing_of_that_name"])
    job = finish(worker, worker.submit(prepared("pass")))
    assert "nothing_of_that_name" in job.error


# ---- Cancelling ----


def test_a_cancelled_job_stops_in_good_order(
    worker: Worker, prepared: Callable
) -> None:
    job = worker.submit(prepared("obey"))
    poll_until(worker, lambda: job.state == "running")
    process = process_of(worker)
    worker.cancel(job)
    finish(worker, job)
    assert (job.state, job.run.state()) == ("stopped", "stopped")
    assert process_of(worker) == process


def test_a_job_that_does_not_stop_is_killed_after_two_seconds(
    worker: Worker, prepared: Callable
) -> None:
    job = worker.submit(prepared("ignore"))
    poll_until(worker, lambda: job.state == "running")
    process = process_of(worker)
    asked = time.monotonic()
    worker.cancel(job)
    finish(worker, job)
    assert 2.0 <= time.monotonic() - asked < 4.0
    assert (job.state, job.error) == ("stopped", "")
    assert not process.is_running()
    poll_until(worker, lambda: worker.ready)  # a new one is warm already


def test_jobs_that_wait_survive_the_kill(worker: Worker, prepared: Callable) -> None:
    first, second = worker.submit(prepared("ignore")), worker.submit(prepared("pass"))
    poll_until(worker, lambda: first.state == "running")
    worker.cancel(first)
    assert finish(worker, second).state == "finished"


def test_a_job_that_waits_is_taken_off_the_queue(
    worker: Worker, prepared: Callable
) -> None:
    first, second = worker.submit(prepared("obey")), worker.submit(prepared("pass"))
    worker.cancel(second)
    assert (second.state, second.run.state()) == ("stopped", "prepared")
    worker.cancel(first)
    finish(worker, first)
    assert not worker.busy


# ---- The end of the viewer ----


def test_closing_ends_the_process(worker: Worker, prepared: Callable) -> None:
    job = worker.submit(prepared("ignore"))
    poll_until(worker, lambda: job.state == "running")
    process = process_of(worker)
    worker.close()
    assert not process.is_running()


@pytest.mark.parametrize("ending", ["pass", "os.kill(os.getpid(), 9)"])
def test_the_process_dies_with_the_viewer(tmp_path: Path, ending: str) -> None:
    if sys.platform == "win32" and "kill" in ending:
        pytest.skip("no SIGKILL there")
    viewer = (
        "import os, sys\nfrom napari_kdseg.state.jobs import Worker\n"
        "worker = Worker([sys.executable, '-c', 'import sys; sys.stdin.read()'])\n"
        "worker.start()\nprint(worker._process._popen.pid, flush=True)\n" + ending
    )
    done = subprocess.run([sys.executable, "-c", viewer], stdout=subprocess.PIPE)
    deadline = time.monotonic() + WAIT_S
    while psutil.pid_exists(int(done.stdout)):
        assert time.monotonic() < deadline, "the worker outlived the viewer"
        time.sleep(0.05)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, napari_kdseg.state.jobs\n"
        "heavy = {'torch', 'napari', 'qtpy', 'PyQt6', 'numpy', 'zarr', 'kdseg_train'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- The command line that repeats a job ----


def test_a_prediction_is_repeated_by_its_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PredictConfig(
        inputs=(tmp_path / "my scan.nii.gz",),
        models=(tmp_path / "a", tmp_path / "b"),
        out=tmp_path / "out",
        uncertainty="entropy",
        regions=True,
        probabilities=True,
        format="ome-zarr",
        overlap_rule="ignore",
        device="cpu",
        precision="float32",
        batch=2,
        tile=(64, 32),
        overlap=0.25,
        threads=1,
        fill_nonfinite=-1000.0,
        preview=(2, 17),
    )
    run = Run.create(tmp_path / "run", config.model_dump(mode="json"))
    parsed: list[PredictConfig] = []
    monkeypatch.setattr(
        "kdseg_train.plan.plan", lambda config, resume: parsed.append(config)
    )
    monkeypatch.setattr(cli, "_execute", lambda *_, **__: None)
    program, *words = shlex.split(command_line(run))
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert program == "kdseg-train"
    # Not to its own OUT, where its results lie; and nobody looks at a slice meanwhile.
    changed = {"out": Path("predicted").absolute(), "preview": None}
    assert parsed == [config.model_copy(update=changed)]


def test_other_runs_are_repeated_from_their_folder(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "my run", {"version": 1, "command": "fit"})
    assert command_line(run) == f"kdseg-train run '{tmp_path}/my run'"
