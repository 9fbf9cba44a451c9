"""The run folder: states, events that survive a crash, stopping, one executor."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from napari_kdseg.errors import RequeueRequested, RunError, StopRequested
from napari_kdseg.runs import lock as lock_module
from napari_kdseg.runs.lock import Holder, Lock, is_held
from napari_kdseg.runs.run import Run

CONFIG = {"version": 1, "command": "predict", "inputs": ["a.nii.gz"]}

EXECUTE_FOR_EVER = """
import sys, time
from pathlib import Path
from napari_kdseg.runs.run import Run
run = Run.open(Path(sys.argv[1]))
with run.executing():
    (run.partial / "half").write_text("done")
    for step in range(100_000):
        run.check_stop()
        run.progress(step, 100_000)
        time.sleep(0.01)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", CONFIG)


def kinds(run: Run) -> list[str]:
    events, _ = run.events()
    return [event["event"] for event in events]


def start_elsewhere(run: Run) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", EXECUTE_FOR_EVER, run.folder])
    deadline = time.monotonic() + 20
    while run.state() != "running" or "progress" not in kinds(run):
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.02)
    return process


# ---- Preparing and opening ----


def test_config_begins_with_version_and_command(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"zoom": 1, "command": "fit", "version": 1})
    text = (run.folder / "config.yaml").read_text()
    assert list(yaml.safe_load(text)) == ["version", "command", "zoom"]


def test_config_comes_back_as_plain_values(tmp_path: Path) -> None:
    config = CONFIG | {"out": Path("x"), "tile": (1, 2), "low": np.float32(0.5)}
    Run.create(tmp_path / "run", config)
    opened = Run.open(tmp_path / "run").config
    assert (opened["out"], opened["tile"], opened["low"]) == ("x", [1, 2], 0.5)


def test_changing_the_config_of_a_run_changes_a_copy(run: Run) -> None:
    run.config["inputs"].append("b.nii.gz")
    assert run.config["inputs"] == ["a.nii.gz"]


def test_config_keeps_infinity(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG | {"limit": float("inf")})
    assert Run.open(run.folder).config["limit"] == float("inf")


def test_the_same_run_is_opened_again(run: Run) -> None:
    assert Run.create(run.folder, CONFIG).config == run.config


def test_a_run_with_other_settings_is_refused_by_name_of_the_setting(run: Run) -> None:
    words = r"run that is prepared and has other settings \(inputs\).*remove it"
    with pytest.raises(RunError, match=words):
        Run.create(run.folder, CONFIG | {"inputs": ["b.nii.gz"]})


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(RunError, match="holds files and no run"):
        Run.create(tmp_path, CONFIG)


def test_a_config_that_was_cut_off_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "config.yaml.partial-0f3a").write_text("version: 1")
    assert Run.create(tmp_path, CONFIG).config["command"] == CONFIG["command"]


def test_a_config_without_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no command"):
        Run.create(tmp_path / "run", {"version": 1})


def test_a_folder_without_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        Run.open(tmp_path)


@pytest.mark.parametrize("text", ["[1, 2", "just words", "- 1\n- 2\n"])
def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunError, match=r"config\.yaml"):
        Run.open(tmp_path)


# ---- Events ----


def test_events_are_read_on_from_a_byte(run: Run) -> None:
    run.progress(1, 3, "case")
    _, byte = run.events()
    run.progress(2, 3, "case")
    events, _ = run.events(byte)
    assert [(e["step"], e["total"], e["stage"]) for e in events] == [(2, 3, "case")]


def test_a_torn_last_line_is_read_when_it_is_complete(run: Run) -> None:
    run.progress(1, 3)
    with run.events_path.open("ab") as file:
        file.write(b'{"v": 1, "event": "prog')
    events, byte = run.events()
    assert len(events) == 1
    with run.events_path.open("ab") as file:
        file.write(b'ress"}\n')
    assert run.events(byte)[0] == [{"v": 1, "event": "progress"}]


def test_a_line_torn_by_a_crash_does_not_take_the_next_one_with_it(run: Run) -> None:
    run.progress(1, 3)
    with run.events_path.open("ab") as file:
        file.write(b'{"v": 1, "event": "prog')
    with run.executing():
        pass
    assert kinds(run) == ["progress", "started", "finished"]


def test_numbers_that_are_not_finite_become_null(run: Run) -> None:
    run.metric(loss=float("nan"), dice=np.float64("inf"), step=np.int64(3))
    (event,), _ = run.events()
    assert (event["loss"], event["dice"], event["step"]) == (None, None, 3)


def test_two_writers_do_not_mix_their_lines(run: Run) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from napari_kdseg.runs.run import Run\n"
        "run = Run.open(Path(sys.argv[1]))\n"
        "for i in range(500): run.event('note', text=sys.argv[2] * 300)\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, run.folder, letter])
        for letter in "ab"
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = run.events_path.read_bytes().splitlines()
    assert {json.loads(line)["text"] for line in lines} == {"a" * 300, "b" * 300}
    assert len(lines) == 1000


# ---- States ----


def test_a_new_run_is_prepared(run: Run) -> None:
    assert run.state() == "prepared"


def test_a_run_is_running_then_finished(run: Run) -> None:
    with run.executing():
        assert run.state() == "running"
    assert run.state() == "finished"
    assert kinds(run) == ["started", "finished"]


def test_a_failed_run_says_why(run: Run) -> None:
    with pytest.raises(ValueError, match="odd"), run.executing():
        raise ValueError("odd number")
    events, _ = run.events()
    assert (run.state(), events[-1]["message"]) == ("failed", "odd number")


def test_a_run_asked_to_stop_is_stopped_and_can_go_on(run: Run) -> None:
    with contextlib.suppress(StopRequested), run.executing():
        (run.partial / "half").touch()
        run.request_stop()
        run.check_stop()
    assert run.state() == "stopped"
    with run.executing():
        run.check_stop()
    assert kinds(run) == ["started", "stopped", "resumed", "finished"]


def test_a_stop_before_the_start_is_obeyed(run: Run) -> None:
    run.request_stop()
    with pytest.raises(StopRequested), run.executing():
        run.check_stop()
    assert run.state() == "stopped"


def test_a_run_asked_to_make_way_says_that_it_is_to_be_started_again(run: Run) -> None:
    with contextlib.suppress(RequeueRequested), run.executing():
        run.request_requeue()
        assert run.stop_requested()
        run.check_stop()
        raise AssertionError("it went on")
    assert RequeueRequested.exit_code == 75
    assert run.state() == "stopped"
    assert run.events()[0][-1]["requeue"] is True
    with run.executing():
        run.check_stop()
    assert run.state() == "finished"


@pytest.mark.parametrize(("asked", "status"), [("stop", 3), ("requeue", 75)])
def test_work_that_only_asks_whether_to_stop_ends_as_was_asked(
    run: Run, asked: str, status: int
) -> None:
    def work() -> None:
        (run.folder / asked).touch()
        raise StopRequested("Stopped as asked after 3 of 9 windows.")

    with pytest.raises(StopRequested, match="after 3 of 9") as stop, run.executing():
        work()
    assert stop.value.exit_code == status
    assert run.events()[0][-1]["requeue"] is (status == 75)


def test_a_wish_to_stop_goes_before_one_to_make_way(run: Run) -> None:
    run.request_requeue()
    run.request_stop()
    request = run.asked_to_stop()
    assert request is not None
    assert request.exit_code == 3


def test_a_wish_to_make_way_is_of_one_execution_and_not_of_the_next(run: Run) -> None:
    run.request_requeue()
    with run.executing():
        run.check_stop()
    assert run.state() == "finished"


def test_a_finished_run_is_not_executed_again(run: Run) -> None:
    with run.executing():
        pass
    with pytest.raises(RunError, match="is finished"), run.executing():
        pass
    assert run.state() == "finished"


def test_the_environment_is_written_down(run: Run) -> None:
    with run.executing():
        pass
    written = json.loads((run.folder / "environment.json").read_text())
    assert written["packages"]["numpy"] == np.__version__


# ---- Two processes ----


def test_a_living_process_keeps_others_out(run: Run) -> None:
    process = start_elsewhere(run)
    try:
        with (
            pytest.raises(RunError, match=f"process {process.pid} on"),
            run.executing(),
        ):
            pass
    finally:
        process.kill()
        process.wait()


def test_another_process_stops_when_asked(run: Run) -> None:
    process = start_elsewhere(run)
    run.request_stop()
    process.wait(timeout=10)
    assert run.state() == "stopped"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_run_is_interrupted_and_resumes(run: Run) -> None:
    process = start_elsewhere(run)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert run.state() == "interrupted"
    with run.executing():
        pass
    assert kinds(run)[-2:] == ["resumed", "finished"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_stop_that_a_killed_process_never_saw_is_forgotten(run: Run) -> None:
    process = start_elsewhere(run)
    process.kill()
    process.wait()
    run.request_stop()
    with run.executing():
        run.check_stop()
    assert run.state() == "finished"


# ---- The lock ----


def write_lock(path: Path, host: str, pid: int, age_s: float) -> None:
    holder = {"host": host, "pid": pid, "started": 0.0, "token": "t"}
    path.write_text(json.dumps(holder))
    then = time.time() - age_s
    os.utime(path, (then, then))


@pytest.mark.parametrize(("age_s", "held"), [(10, True), (600, False)])
def test_a_lock_of_another_host_lives_by_its_heartbeat(
    tmp_path: Path, age_s: float, held: bool
) -> None:
    write_lock(tmp_path / "lock", "elsewhere", 1, age_s)
    assert is_held(tmp_path / "lock") is held


def test_a_process_id_used_again_does_not_hold_the_lock(tmp_path: Path) -> None:
    write_lock(tmp_path / "lock", socket.gethostname(), os.getpid(), 1)
    assert not is_held(tmp_path / "lock")


def test_a_lock_cut_off_by_a_crash_is_replaced(run: Run) -> None:
    path = run.folder / "lock"
    path.write_text('{"host"')
    os.utime(path, (0, 0))
    with run.executing():
        assert is_held(path)


def test_a_slow_process_has_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    lock = Lock(tmp_path / "lock")
    os.utime(tmp_path / "lock", (0, 0))
    time.sleep(0.2)
    assert (tmp_path / "lock").stat().st_mtime > 0
    lock.release()


def test_a_released_lock_is_gone(tmp_path: Path) -> None:
    Lock(tmp_path / "lock").release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_taken_over_by_another_is_left_alone(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    write_lock(tmp_path / "lock", "elsewhere", 1, 0)
    lock.release()
    assert (tmp_path / "lock").exists()


def test_this_process_is_alive() -> None:
    assert Holder.this_process().is_alive(heartbeat=0.0)


def test_a_run_that_is_at_work_or_done_says_with_which_settings(run: Run) -> None:
    other = CONFIG | {"threads": 2}
    with run.executing():
        assert run.going_on_with(other).config == CONFIG
    assert run.going_on_with(other).config == CONFIG
    assert Run.open(run.folder).config == CONFIG
