"""Free memory, as the computer, control groups and SLURM limit it."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from napari_kdseg import free_memory
from napari_kdseg.free_memory import free_bytes

GB = 10**9
SECOND = "sys/fs/cgroup"
FIRST = "sys/fs/cgroup/memory"


@pytest.fixture(autouse=True)
def _large_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(available=500 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)


def member(root: Path, *lines: str) -> None:
    """Put this process into control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("\n".join(lines) + "\n")


def group(folder: Path, limit: int | str, held: int, cache: int = 0) -> None:
    """Make a group of version 2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{held}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nshmem 7\n")


def old_group(folder: Path, limit: int, held: int, cache: int = 0) -> None:
    """Make a group of version 1."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{held}\n")
    text = f"inactive_file 1\ntotal_inactive_file {cache}\n"
    (folder / "memory.stat").write_text(text)


def test_without_limits_it_is_what_the_computer_has(tmp_path: Path) -> None:
    assert free_bytes(tmp_path, {}) == 500 * GB
    member(tmp_path, "0::/user.slice")
    group(tmp_path / SECOND / "user.slice", "max", 3 * GB)
    assert free_bytes(tmp_path, {}) == 500 * GB


def test_a_group_above_that_of_the_process_limits_it(tmp_path: Path) -> None:
    member(tmp_path, "0::/system.slice/job_7/step_0/task_0")
    job = tmp_path / SECOND / "system.slice/job_7"
    group(job, 32 * GB, 2 * GB)
    group(job / "step_0/task_0", "max", 1 * GB)
    assert free_bytes(tmp_path, {}) == 30 * GB


def test_the_tightest_of_several_groups_counts(tmp_path: Path) -> None:
    member(tmp_path, "0::/job/step")
    group(tmp_path / SECOND, 60 * GB, 0)
    group(tmp_path / SECOND / "job", 40 * GB, 35 * GB)
    group(tmp_path / SECOND / "job/step", 20 * GB, 1 * GB)
    assert free_bytes(tmp_path, {}) == 5 * GB


def test_files_kept_for_later_reading_are_free(tmp_path: Path) -> None:
    member(tmp_path, "0::/")
    # A container that has read 7 GB of scans, and holds 1 GB itself.
    group(tmp_path / SECOND, 8 * GB, 8 * GB, cache=7 * GB)
    assert free_bytes(tmp_path, {}) == 7 * GB


@pytest.mark.parametrize("place", ["/docker/1a2b", "/../../pod/1a2b"])
def test_a_container_that_is_told_a_place_outside_finds_its_own_limit(
    tmp_path: Path, place: str
) -> None:
    member(tmp_path, f"0::{place}")
    group(tmp_path / SECOND, 4 * GB, 1 * GB)
    assert free_bytes(tmp_path, {}) == 3 * GB


def test_groups_of_the_first_version_limit_it(tmp_path: Path) -> None:
    member(tmp_path, "5:devices:/job", "4:cpu,memory:/slurm/job_7/step_0", "0::/")
    folder = tmp_path / FIRST
    old_group(folder, 2**63 - 4096, 9 * GB)  # none
    old_group(folder / "slurm/job_7", 32 * GB, 12 * GB, cache=2 * GB)
    assert free_bytes(tmp_path, {}) == 22 * GB


def test_a_group_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    member(tmp_path, "0::/")
    group(tmp_path / SECOND, 4 * GB, 5 * GB)
    assert free_bytes(tmp_path, {}) == 0


@pytest.mark.parametrize("stat", [None, "inactive_file\n", "inactive_file much\n"])
def test_without_statistics_all_that_is_held_counts(
    tmp_path: Path, stat: str | None
) -> None:
    member(tmp_path, "0::/")
    group(tmp_path / SECOND, 4 * GB, 1 * GB)
    file = tmp_path / SECOND / "memory.stat"
    file.unlink() if stat is None else file.write_text(stat)
    assert free_bytes(tmp_path, {}) == 3 * GB


@pytest.mark.parametrize(
    "told",
    [
        {"SLURM_MEM_PER_NODE": "32768"},
        {"SLURM_MEM_PER_CPU": "4096", "SLURM_CPUS_ON_NODE": "8"},
        {"SLURM_MEM_PER_NODE": "0", "SLURM_MEM_PER_CPU": "4096"}
        | {"SLURM_CPUS_ON_NODE": "8"},
    ],
)
def test_a_job_of_slurm_has_what_it_asked_for(
    tmp_path: Path, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "_held", lambda: 2**30)
    assert free_bytes(tmp_path, told) == 31 * 2**30


@pytest.mark.parametrize(
    "told",
    [
        {"SLURM_MEM_PER_NODE": "0"},  # all of the node
        {"SLURM_MEM_PER_CPU": "4096"},
        {"SLURM_MEM_PER_NODE": "32G"},
    ],
)
def test_a_job_that_tells_no_size_is_no_limit(
    tmp_path: Path, told: dict[str, str]
) -> None:
    assert free_bytes(tmp_path, told) == 500 * GB


def test_what_a_job_holds_is_that_of_its_processes_too(tmp_path: Path) -> None:
    alone = free_bytes(tmp_path, {"SLURM_MEM_PER_NODE": "65536"})
    code = "held = b'1' * 100_000_000; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with_child = free_bytes(tmp_path, {"SLURM_MEM_PER_NODE": "65536"})
        child.communicate(b"\n")
    assert alone - with_child > 90_000_000


def test_by_itself_it_asks_this_computer() -> None:
    assert 0 < free_bytes() <= 500 * GB


def test_it_needs_no_torch() -> None:
    code = "import sys, napari_kdseg.free_memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
