"""Workers that are SLURM jobs, where `sbatch` starts them on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SBATCH = """#!/bin/bash
# The script is gone once sbatch returns.
cp "$1" {folder}/job-$$.sh
setsid bash {folder}/job-$$.sh > {folder}/job-$$.out 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
for job in "$@"; do kill -- "-$job" 2>/dev/null; done
"""


@pytest.mark.slow
def test_slurm_jobs_work_through_the_volumes_and_are_cancelled(
    tmp_path: Path, write_scan: Any, model_folder: Any
) -> None:
    fake = tmp_path / "bin"
    fake.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (fake / name).write_text(text.format(folder=tmp_path))
        (fake / name).chmod(0o755)
    scans, out = tmp_path / "scans", tmp_path / "out"
    for number in range(3):
        write_scan(f"case_{number}.nii.gz", folder=scans)
    words = ["--model", str(model_folder().folder), "--out", str(out), "--slurm"]
    words += ["--workers", "2", "--slurm-set", "cores=1", "--slurm-set", "memory=2GB"]
    words += ["--slurm-set", "walltime=12:00:00"]
    done = subprocess.run(
        [sys.executable, "-m", "kdseg_train", "bulk", "predict", str(scans), *words],
        env=os.environ | {"PATH": f"{fake}:{os.environ['PATH']}"},
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
