"""The templates for SLURM: they parse, name what there is, and put a job back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdseg_train.config import recipe_folder

TEMPLATES = sorted((recipe_folder() / "slurm").glob("fit-*.sbatch"))
ONE = """#!/bin/bash
# In place of the command: it waits for USR1, then makes way.
echo "$0 $@" >> "$CALLS"
make_way() {
  echo '{"event": "stopped", "requeue": true}' >> "$RUN/events.jsonl"
  exit 75
}
trap make_way USR1
mkdir -p "$RUN"; touch "$RUN/begun"
while :; do
  sleep 0.05
  # as `kdseg-train` does where somebody else asks
  if [ -e "$RUN/requeue" ]; then kill -USR1 $$; fi
done
"""
RECORD = '#!/bin/bash\necho "scontrol $@" >> "$CALLS"\n'

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SLURM is POSIX's")


def test_there_are_templates_for_one_gpu_for_many_and_for_seeds() -> None:
    names = [path.name for path in TEMPLATES]
    assert names == ["fit-many-gpus.sbatch", "fit-one-gpu.sbatch", "fit-seeds.sbatch"]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_is_a_shell_script_that_slurm_requeues(template: Path) -> None:
    subprocess.run(["bash", "-n", template], check=True)
    text = template.read_text()
    for line in ("--requeue", "--signal=B:USR1@120", "--open-mode=append"):
        assert f"#SBATCH {line}" in text
    directives = text.index("\nrecipe=")
    assert "#SBATCH" not in text[directives:]  # SLURM reads none after a command


def test_the_commands_that_templates_name_are_installed() -> None:
    commands = Path(sys.executable).parent
    for name in ("kdseg-train", "torchrun"):
        assert (commands / name).exists()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_job_that_is_warned_saves_and_puts_itself_back(
    template: Path, tmp_path: Path
) -> None:
    run, calls, commands = tmp_path / "run", tmp_path / "calls", tmp_path / "bin"
    commands.mkdir()
    if template.stem == "fit-seeds":
        run = run / "seed-2"
    for name in ("kdseg-train", "srun", "scontrol"):
        (commands / name).write_text(RECORD if name == "scontrol" else ONE)
        (commands / name).chmod(0o755)
    slurm = {"JOB_ID": "7", "JOB_NODELIST": "n1", "JOB_NUM_NODES": "1"}
    slurm |= {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "2"}
    process = subprocess.Popen(
        ["bash", template, "recipe.yaml", tmp_path / "run", "--set", "device=cpu"],
        env={
            **os.environ,
            **{f"SLURM_{name}": value for name, value in slurm.items()},
            "PATH": f"{commands}:{os.environ['PATH']}",
            "RUN": str(run),
            "CALLS": str(calls),
        },
    )
    while not (run / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 75
    said = calls.read_text().splitlines()
    started = next(line for line in said if "fit recipe.yaml" in line)
    assert started.endswith("--resume --set device=cpu")
    assert f"--out {run}" in started
    job = "7_2" if template.stem == "fit-seeds" else "7"
    assert said[-1] == f"scontrol requeue {job}"
