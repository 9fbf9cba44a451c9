"""The templates for SLURM: they parse, name what there is, and put a job back."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import parsed

from kdseg_train.cli_bulk import slurm_settings
from kdseg_train.config import find_recipe, recipe_folder
from kdseg_train.crew import Slurm

TEMPLATES = {path.stem: path for path in (recipe_folder() / "slurm").glob("*.sbatch")}
NAMES = ["bulk-predict", "fit-many-gpus", "fit-one-gpu", "fit-seeds"]
FITS = NAMES[1:]
PATIENCE_S = 30

MAKES_WAY = """#!/bin/bash
# In place of the command: it waits for USR1, then makes way.
echo "$0 $@" >> "$CALLS"
make_way() {
  echo '{"event": "stopped", "requeue": true}' >> "$RUN/events.jsonl"
  exit STATUS
}
trap make_way USR1
mkdir -p "$RUN"; touch "$RUN/config.yaml" "$RUN/begun"
while :; do
  sleep 0.05
  # as `kdseg-train` does where somebody else asks
  if [ -e "$RUN/requeue" ]; then kill -USR1 $$; fi
done
"""
DIES = '#!/bin/bash\necho "$0 $@" >> "$CALLS"\nexit STATUS\n'
IS_STOPPED = """#!/bin/bash
echo "$0 $@" >> "$CALLS"
echo '{"event": "stopped", "requeue": false}' >> "$RUN/events.jsonl"
exit STATUS
"""
COMES_TO_NOTHING = """#!/bin/bash
trap 'exit 143' TERM
touch "$CALLS.begun"
while :; do sleep 0.05; done
"""
RECORD = '#!/bin/bash\necho "scontrol $@" >> "$CALLS"\n'

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SLURM is POSIX's")


class Job:
    """A template as SLURM starts it, with something else in place of the command."""

    def __init__(
        self, name: str, folder: Path, command: str, ends_with: int = 0, id_: str = "7"
    ) -> None:
        self.template, self.folder = TEMPLATES[name], folder
        self.run = folder / "run" / "seed-2" if name == "fit-seeds" else folder / "run"
        self.calls = folder / "calls"
        self.job = "7_2" if name == "fit-seeds" else id_
        commands = folder / "bin"
        commands.mkdir()
        # torchrun, which srun starts, ends with 1 whatever its processes end with.
        srun = command.replace("STATUS", str(min(ends_with, 1)))
        alone = command.replace("STATUS", str(ends_with))
        for place, text in ("srun", srun), ("kdseg-train", alone), ("scontrol", RECORD):
            (commands / place).write_text(text)
            (commands / place).chmod(0o755)
        slurm = {"JOB_ID": id_, "JOB_NODELIST": "n1", "JOB_NUM_NODES": "1"}
        slurm |= {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "2", "CPUS_PER_TASK": "32"}
        self.environment = {
            **os.environ,
            **{f"SLURM_{name}": value for name, value in slurm.items()},
            "PATH": f"{commands}:{os.environ['PATH']}",
            "RUN": str(self.run),
            "CALLS": str(self.calls),
        }

    def begun(self, more: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        given = ["first", self.folder / "run", *more]
        return subprocess.Popen(
            ["bash", self.template, *given], env=self.environment, cwd=self.folder
        )

    def ended(self, more: Sequence[str] = ()) -> int:
        return self.begun(more).wait(timeout=PATIENCE_S)

    def warned(self, by: signal.Signals, more: Sequence[str] = ()) -> int:
        """Begin it, warn it as soon as the command runs; its exit status."""
        process = self.begun(more)
        wait_for(self.run / "begun", process)
        process.send_signal(by)
        return process.wait(timeout=PATIENCE_S)

    @property
    def said(self) -> list[str]:
        return self.calls.read_text().splitlines()

    @property
    def came_back(self) -> bool:
        return f"scontrol requeue {self.job}" in self.said

    @property
    def command(self) -> list[str]:
        """What of the program was started, from its command on."""
        (line,) = [one for one in self.said if not one.startswith("scontrol")]
        program = r".*(-m kdseg_train|/kdseg-train) "
        return shlex.split(re.sub(program, "", line))


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)


def test_there_are_templates_for_one_gpu_for_many_for_seeds_and_for_volumes() -> None:
    assert sorted(TEMPLATES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_a_shell_script_that_slurm_requeues(name: str) -> None:
    subprocess.run(["bash", "-n", TEMPLATES[name]], check=True)
    text = TEMPLATES[name].read_text()
    for line in ("--requeue", "--signal=B:USR1@120", "--open-mode=append"):
        assert f"#SBATCH {line}" in text
    first = re.search(r"^\w+=", text, re.MULTILINE)
    assert first is not None
    assert "#SBATCH" not in text[first.start() :]  # SLURM reads none after a command


@pytest.mark.parametrize("name", NAMES)
def test_a_template_can_activate_an_environment_before_its_command(name: str) -> None:
    text = TEMPLATES[name].read_text()
    activation = text.index("\n# source /path/to/env/bin/activate\n")
    command = re.search(r"^(srun|kdseg-train) ", text, re.MULTILINE)
    assert command is not None
    assert text.index("\nshift 2\n") < activation < command.start()


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("where", ["template", "page"])
def test_a_training_is_shown_with_a_recipe_that_there_is(name: str, where: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "many-gpus.md"
    text = (TEMPLATES[name] if where == "template" else page).read_text()
    text = text.replace("\\\n#", "")
    shown = re.findall(rf"sbatch .*{name}\.sbatch (.*)", text)
    assert shown
    for one in shown:
        recipe, run, *more = shlex.split(one)
        found = parsed(["fit", recipe, "--out", run, *more])
        assert find_recipe(Path(recipe)).is_file()
        assert found["data"] == Path("samples")


def test_the_page_and_the_template_say_what_workers_ask_slurm_for() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "bulk.md"
    for path in (page, TEMPLATES["bulk-predict"]):
        assert "--slurm-set partition=X --slurm-set account=Y" in path.read_text()


def test_the_commands_that_templates_name_are_installed() -> None:
    commands = Path(sys.executable).parent
    for name in ("kdseg-train", "torchrun"):
        assert (commands / name).exists()


@pytest.mark.parametrize("by", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("name", NAMES)
def test_a_job_that_is_warned_saves_and_puts_itself_back(
    name: str, by: signal.Signals, tmp_path: Path
) -> None:
    job = Job(name, tmp_path, MAKES_WAY, ends_with=75)
    assert job.warned(by) == (1 if name == "fit-many-gpus" else 75)
    assert job.said[-1] == f"scontrol requeue {job.job}"


@pytest.mark.parametrize("name", FITS)
def test_a_training_is_started_with_what_the_job_was_given(
    name: str, tmp_path: Path
) -> None:
    job = Job(name, tmp_path, DIES)
    assert job.ended(["--set", "device=cpu"]) == 0
    found = parsed(job.command)
    assert job.command[0] == "fit"
    assert found["recipe"] == Path("first")
    assert found["out"] == job.run
    assert found["resume"] is True
    own = ["seed=2"] if name == "fit-seeds" else []
    assert found["set_"] == [*own, "device=cpu"]


def test_volumes_are_predicted_with_what_the_job_was_given(tmp_path: Path) -> None:
    job = Job("bulk-predict", tmp_path, DIES)
    assert job.ended(["--model", "fish", "--slurm-set", "gpus=0"]) == 0
    found = parsed(job.command)
    assert job.command[:2] == ["bulk", "predict"]
    assert found["inputs"] == [Path("first")]
    assert found["out"] == job.run
    assert found["slurm"] is True
    assert found["workers"] is not None
    settings = found["slurm_set"]
    assert isinstance(settings, list)
    asked = Slurm.model_validate(slurm_settings(True, settings)["slurm"])
    assert asked.gpus == 0  # what comes later counts
    assert asked.walltime == "12:00:00"


@pytest.mark.parametrize("status", [1, 2, 127])
@pytest.mark.parametrize("name", NAMES)
def test_a_job_that_dies_before_its_run_is_opened_does_not_come_back(
    name: str, status: int, tmp_path: Path
) -> None:
    job = Job(name, tmp_path, DIES, ends_with=status)
    job.run.mkdir(parents=True)
    # the execution before made way, in good order
    events = job.run / "events.jsonl"
    events.write_text('{"event": "stopped", "requeue": true}\n')
    assert job.ended() != 0
    assert not job.came_back


@pytest.mark.parametrize("name", NAMES)
def test_a_job_whose_run_is_asked_to_stop_does_not_come_back(
    name: str, tmp_path: Path
) -> None:
    job = Job(name, tmp_path, IS_STOPPED, ends_with=3)
    job.run.mkdir(parents=True)
    assert job.ended() != 0
    assert not job.came_back


# ---- Of many GPUs ----


def test_a_job_of_many_gpus_gives_its_cores_to_the_processes(tmp_path: Path) -> None:
    job = Job("fit-many-gpus", tmp_path, DIES)
    job.ended()
    assert "--cpus-per-task=32 torchrun" in job.said[-1]


def test_a_job_of_many_gpus_without_events_complains_of_nothing_else(
    tmp_path: Path,
) -> None:
    job = Job("fit-many-gpus", tmp_path, DIES, ends_with=1)
    given = ["bash", job.template, "first", tmp_path / "run"]
    environment = job.environment
    done = subprocess.run(
        given, env=environment, cwd=tmp_path, check=False, capture_output=True
    )
    assert done.returncode == 1
    assert done.stderr == b""


def test_two_jobs_on_one_machine_meet_at_ports_of_their_own(tmp_path: Path) -> None:
    ports = []
    for number in ("4294967290", "4294967291"):
        (tmp_path / number).mkdir()
        job = Job("fit-many-gpus", tmp_path / number, DIES, id_=number)
        job.ended()
        found = re.search(r"--rdzv-endpoint=\S*:(\d+)", job.said[-1])
        assert found is not None
        ports.append(int(found[1]))
    assert ports[0] != ports[1]
    # above those of services, and below those that Linux gives to whoever asks
    assert all(1024 <= port < 32768 for port in ports)


def test_a_job_of_many_gpus_that_is_warned_before_its_run_begins_just_ends(
    tmp_path: Path,
) -> None:
    job = Job("fit-many-gpus", tmp_path, COMES_TO_NOTHING)
    process = job.begun()
    wait_for(tmp_path / "calls.begun", process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=PATIENCE_S) == 143
    assert not job.came_back
    assert not job.run.exists()  # a folder with a file in it would be refused
