"""Two worker processes, one of them killed in the middle of a volume."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdseg_train.samples import write_sample
from napari_kdseg.runs.lock import read_holder
from napari_kdseg.runs.run import Run

pytestmark = pytest.mark.slow

CASES = 6
WAIT_S = 600.0


@dataclass(frozen=True)
class Scene:
    """What was seen of two calls, a worker killed during the first."""

    out: Path
    statuses: tuple[int, int]
    victim: str
    before_the_kill: dict[str, tuple[str, int]]
    first: dict[str, tuple[str, int]]
    second: dict[str, tuple[str, int]]
    report: dict[str, Any]
    second_report: dict[str, Any]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("bulk")
    write_sample("abdomen", folder / "made", cases=CASES, size=40)
    images, out = folder / "made" / "imagesTr", folder / "out"
    whole = (images / "abdomen_001.nii.gz").read_bytes()
    (images / "broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    process = begun(images, out)
    wait_until(lambda: len(records(out)) > 0)
    before = records(out)
    victim = kill_one_at_work(out)
    first_status, first = process.wait(WAIT_S), records(out)
    first_report = report(out)
    second_status = begun(images, out).wait(WAIT_S)
    return Scene(
        out,
        (first_status, second_status),
        victim,
        before,
        first,
        records(out),
        first_report,
        report(out),
    )


def begun(images: Path, out: Path) -> "subprocess.Popen[bytes]":
    words = ["bulk", "predict", str(images), "--model", "abdomen-liver"]
    words += ["--out", str(out), "--workers", "2", "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "kdseg_train", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_until(there: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not there() and time.monotonic() < deadline:
        time.sleep(0.005)


def kill_one_at_work(out: Path) -> str:
    """Kill a worker that holds a volume that is not published; give the volume."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for lock in (out / ".bulk-cases").glob("*/lock"):
            case, holder = lock.parent.name, read_holder(lock)
            if holder is None or (out / case).exists() or case == "broken":
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGKILL)
                return case
        time.sleep(0.002)
    raise AssertionError("no worker was ever seen at work")


def records(out: Path) -> dict[str, tuple[str, int]]:
    return {
        path.parts[-3]: (
            json.loads(path.read_text())["uuid"],
            path.stat().st_mtime_ns,
        )
        for path in out.glob("[!.]*/*/prediction.json")
        if ".partial-" not in str(path)
    }


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "bulk-report.json").read_text())
    return found


def test_every_good_volume_is_done(scene: Scene) -> None:
    assert len(scene.first) == CASES
    assert scene.report["counts"]["done"] == CASES
    assert not list(scene.out.glob("*.partial-*"))


def test_what_was_done_before_the_kill_is_not_done_again(scene: Scene) -> None:
    assert scene.before_the_kill
    for case, record in scene.before_the_kill.items():
        assert scene.first[case] == record


def test_the_volume_of_the_killed_worker_was_tried_again_and_said_so(
    scene: Scene,
) -> None:
    attempts = {one["case"]: one["attempts"] for one in scene.report["cases"]}
    assert attempts[scene.victim] == 2
    assert sum(attempts.values()) == CASES + 2  # the victim again, and the broken one
    events, _ = Run.open(scene.out / ".bulk").events()
    warnings = [one["message"] for one in events if one["event"] == "warning"]
    assert any(f"{scene.victim}: its worker died" in one for one in warnings)


def test_the_damaged_file_failed_with_its_reason(scene: Scene) -> None:
    assert scene.statuses == (1, 1)
    failed = [one for one in scene.report["cases"] if one["state"] == "failed"]
    assert [one["case"] for one in failed] == ["broken"]
    assert "broken.nii.gz" in failed[0]["error"]


def test_a_second_call_computes_nothing(scene: Scene) -> None:
    assert scene.second == scene.first
    assert scene.second_report["counts"]["there"] == CASES
    assert scene.second_report["counts"]["done"] == 0


def test_a_second_ctrl_c_leaves_no_worker_behind(tmp_path: Path) -> None:
    write_sample("abdomen", tmp_path / "made", cases=2, size=40)
    out = tmp_path / "out"
    process = begun(tmp_path / "made" / "imagesTr", out)
    wait_until(lambda: [*(out / ".bulk-cases").glob("*/lock")])
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    wait_until((out / ".bulk" / "stop").exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) in {3, 130}  # 3: it had stopped by then
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
