"""Workers that are SLURM jobs, where `sbatch` starts them on this machine."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdseg_train.cli_bulk import slurm_settings
from kdseg_train.slurm_jobs import Slurm, Submissions, slurm_cluster

SBATCH = """#!/bin/bash
# The script is gone once sbatch returns.
cp "$1" {folder}/job-$$.sh
setsid bash {folder}/job-$$.sh > {folder}/job-$$.out 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
for job in "$@"; do kill -- "-$job" 2>/dev/null; done
"""


REFUSES = """#!/bin/bash
echo "sbatch: error: invalid partition specified: gpu" >&2
echo "sbatch: error: Batch job submission failed: Invalid partition name" >&2
exit 1
"""
NEVER_BEGINS = """#!/bin/bash
echo "Submitted batch job 7"
"""


@pytest.fixture
def with_sbatch(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Environment in which SLURM's commands are these scripts."""

    def make(sbatch: str, scancel: str = "#!/bin/bash\n") -> dict[str, str]:
        fake = tmp_path / "bin"
        fake.mkdir()
        for name, text in (("sbatch", sbatch), ("scancel", scancel)):
            (fake / name).write_text(text.format(folder=tmp_path))
            (fake / name).chmod(0o755)
        return os.environ | {"PATH": f"{fake}:{os.environ['PATH']}"}

    return make


def bulk_predict(scan: Path, model: Path, out: Path) -> list[str]:
    words = ["bulk", "predict", str(scan), "--model", str(model), "--out", str(out)]
    return [sys.executable, "-m", "kdseg_train", *words, "--slurm", "--workers", "2"]


@pytest.mark.slow
def test_slurm_jobs_work_through_the_volumes_and_are_cancelled(
    tmp_path: Path, write_scan: Any, model_folder: Any, with_sbatch: Any
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    for number in range(3):
        write_scan(f"case_{number}.nii.gz", folder=scans)
    words = bulk_predict(scans, model_folder().folder, out)
    for asked in ("cores=1", "memory=2GB", "walltime=12:00:00"):
        words += ["--slurm-set", asked]
    done = subprocess.run(
        words,
        env=with_sbatch(SBATCH, SCANCEL),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("case_*/organs/prediction.json"))) == 3
    found = json.loads((out / "bulk-report.json").read_text())
    assert found["counts"]["done"] == 3
    scripts = [path.read_text() for path in tmp_path.glob("job-*.sh")]
    assert len(scripts) == 2
    assert all("#SBATCH --cpus-per-task=1" in script for script in scripts)
    assert all("#SBATCH -t 12:00:00" in script for script in scripts)


def test_jobs_that_slurm_refuses_end_the_command_with_slurm_s_words(
    tmp_path: Path, write_scan: Any, model_folder: Any, with_sbatch: Any
) -> None:
    done = subprocess.run(
        bulk_predict(write_scan(), model_folder().folder, tmp_path / "out"),
        env=with_sbatch(REFUSES),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "SLURM takes no worker: invalid partition specified: gpu" in done.stderr
    assert "--slurm-set partition=NAME" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_no_jobs_are_submitted_that_is_said(
    call: Any,
    write_scan: Any,
    model_folder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    words = ("--model", model_folder().folder, "--out", tmp_path / "out", "--slurm")
    status, _, told = call("bulk", "predict", write_scan(), *words, "--workers", 1)
    assert status == 2
    assert "There is no sbatch on this machine" in told


@pytest.mark.parametrize(
    ("by", "status"), [(signal.SIGINT, 3), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_who_waits_for_slurm_can_be_stopped(
    tmp_path: Path,
    write_scan: Any,
    model_folder: Any,
    with_sbatch: Any,
    by: signal.Signals,
    status: int,
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        bulk_predict(write_scan(), model_folder().folder, out),
        env=with_sbatch(NEVER_BEGINS),
        stderr=subprocess.PIPE,
        text=True,
    )
    events = out / ".bulk" / "events.jsonl"
    while not (events.exists() and "crew" in events.read_text()):
        time.sleep(0.1)
    time.sleep(2)  # until the workers are asked for
    process.send_signal(by)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "1 not begun" in said
    assert "Traceback" not in said


def test_slurm_needs_to_know_how_many_workers(
    call: Any, write_scan: Any, model_folder: Any, tmp_path: Path
) -> None:
    words = ("--model", model_folder().folder, "--out", tmp_path / "out", "--slurm")
    status, _, told = call("bulk", "predict", write_scan(), *words)
    assert status == 2
    assert "--workers" in told


def test_what_slurm_is_asked_for_without_it_is_refused(
    call: Any, write_scan: Any, model_folder: Any, tmp_path: Path
) -> None:
    words = ("--model", model_folder().folder, "--out", tmp_path / "out")
    status, _, told = call(
        "bulk", "predict", write_scan(), *words, "--slurm-set", "a=1"
    )
    assert status == 2
    assert "add --slurm" in told


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("memory=32", "a number and its unit, such as 4GB or 512MB (found '32')"),
        ("memory=abc", "such as 4GB"),
        ("memory=4096", "such as 4GB"),
        ("memory", "--slurm-set 'memory' has no '='; write --slurm-set memory=VALUE"),
        ("walltime=24", "SLURM takes a bare number for minutes"),
        ("walltime=soon", "such as 12:00:00"),
        ("memory=200MB", "memory=1GB, or smaller tiles"),
    ],
)
def test_what_slurm_would_take_otherwise_or_not_at_all_is_refused_with_its_form(
    call: Any, write_scan: Any, model_folder: Any, tmp_path: Path, wrong: str, says: str
) -> None:
    words = ("--model", model_folder().folder, "--out", tmp_path / "out", "--slurm")
    more = ("--workers", 1, "--slurm-set", wrong)
    status, _, told = call("bulk", "predict", write_scan(), *words, *more)
    assert status == 2
    assert says in told
    assert "Value error" not in told


def test_settings_of_slurm_are_taken_as_sbatch_has_them() -> None:
    for memory in ("4GB", "4gb", "1.5 GiB", "512MB", "32G"):
        assert Slurm(memory=memory).memory_bytes > 500_000_000
    for walltime in ("12:00:00", "2-00:00:00", "2-12"):
        assert Slurm(walltime=walltime).walltime == walltime


def test_directives_are_given_one_at_a_time_or_as_a_list() -> None:
    given = ["directives=--exclusive", "directives=[--nice, --hint=nomultithread]"]
    asked = Slurm.model_validate(slurm_settings(True, given)["slurm"])
    assert asked.directives == ("--exclusive", "--nice", "--hint=nomultithread")


def test_a_slurm_job_asks_for_what_its_worker_needs(
    tmp_path: Path, with_sbatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", with_sbatch(NEVER_BEGINS)["PATH"])
    asked = Slurm(
        cores=8,
        memory="32GB",
        walltime="02:00:00",
        partition="long",
        account="fish",
        gpus=1,
        directives=("--constraint=a100",),
    )
    with slurm_cluster(asked, tmp_path, Submissions()) as cluster:
        script = cluster.job_script()
    lines = script.splitlines()
    for wanted in (
        "#SBATCH -p long",
        "#SBATCH -A fish",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH -t 02:00:00",
        "#SBATCH --gpus=1",
        "#SBATCH --constraint=a100",
    ):
        assert wanted in lines
    assert "--nthreads 1" in script
    assert "--resources GPU=1" in script


def test_what_dask_says_of_jobs_that_died_is_not_shown(
    tmp_path: Path, with_sbatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", with_sbatch(NEVER_BEGINS)["PATH"])
    screen = logging.StreamHandler(io.StringIO())
    logger = logging.getLogger("distributed")
    logger.addHandler(screen)
    try:
        with slurm_cluster(Slurm(), tmp_path, Submissions()):
            logger.getChild("scheduler").error("marked as failed")
        assert not screen.stream.getvalue()
        logger.error("heard again")
        assert screen.stream.getvalue()
    finally:
        logger.removeHandler(screen)
