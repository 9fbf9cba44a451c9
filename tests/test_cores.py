"""Cores that may be used, as bindings and control groups limit them."""

import os
from pathlib import Path

import pytest

from napari_kdseg.cores import (
    cores_beside_viewer,
    threads_within_cores,
    told_of_threads,
    usable_cores,
)

SECOND = "sys/fs/cgroup"


@pytest.fixture(autouse=True)
def _bound_to_eight_of_sixty_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def member(root: Path, line: str) -> None:
    """Put this process into a control group."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"{line}\n")


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("cpu_", "cpu.", 1)).write_text(f"{text}\n")


def test_those_that_the_process_is_bound_to_count(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8
    member(tmp_path, "0::/user.slice")
    group(tmp_path / SECOND / "user.slice", cpu_max="max 100000")
    assert usable_cores(tmp_path) == 8


def test_without_bindings_all_of_the_computer_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    assert usable_cores(tmp_path) == 64


@pytest.mark.parametrize(
    ("share", "cores"), [("400000 100000", 4), ("250000 100000", 2), ("5000 100000", 1)]
)
def test_a_container_with_a_share_of_the_time_has_as_many_whole_cores(
    tmp_path: Path, share: str, cores: int
) -> None:
    member(tmp_path, "0::/")
    group(tmp_path / SECOND, cpu_max=share)
    assert usable_cores(tmp_path) == cores


def test_a_group_above_that_of_the_process_limits_it(tmp_path: Path) -> None:
    member(tmp_path, "0::/job/step")
    group(tmp_path / SECOND / "job", cpu_max="300000 100000")
    group(tmp_path / SECOND / "job/step", cpu_max="max 100000")
    assert usable_cores(tmp_path) == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_groups_of_the_first_version_limit_it(tmp_path: Path, mount: str) -> None:
    member(tmp_path, "4:cpu,cpuacct:/job")
    folder = tmp_path / "sys/fs/cgroup" / mount
    group(folder, cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    group(folder / "job", cpu_cfs_quota_us="200000", cpu_cfs_period_us="100000")
    assert usable_cores(tmp_path) == 2


def test_one_of_them_is_the_viewer_s_but_never_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert cores_beside_viewer() == 1


def test_more_threads_than_cores_are_not_taken_and_that_is_said() -> None:
    cores = usable_cores()
    assert threads_within_cores(100_000) == cores <= 8
    assert threads_within_cores(1) == 1
    assert threads_within_cores(None) is None
    assert told_of_threads(100_000).endswith(f"are taken: {cores}.")
    assert not told_of_threads(cores)
    assert not told_of_threads(None)
