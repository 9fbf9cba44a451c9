"""Several processes write at once, and some are killed."""

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from napari_kdseg.review.store import Store, read_store

WRITER = """
import sys
from napari_kdseg.review.store import Store
from napari_kdseg.review.verdicts import About

store = Store.open(sys.argv[1])
sitting = store.sit(sys.argv[2])
for index in range(int(sys.argv[3])):
    print(sitting.judge(About("fish", 0, index, "ab"), "good").uuid, flush=True)
store.close()
"""


def writer(file: Path, name: str, count: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WRITER, str(file), name, str(count)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def acknowledged(process: subprocess.Popen[str]) -> list[str]:
    """What a writer said was kept; a line that the kill cut off does not count."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    process.wait()
    return [line.strip() for line in lines if line.endswith("\n")]


def test_all_that_a_killed_writer_acknowledged_is_in_the_store(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.sqlite"
    process = writer(file, "Ada", 100_000)
    assert process.stdout is not None
    first = [process.stdout.readline().strip() for _ in range(40)]
    process.send_signal(signal.SIGKILL)
    said = first + acknowledged(process)
    kept = [one.uuid for one in read_store(file)]
    assert kept[: len(said)] == said
    assert len(kept) <= len(said) + 1  # the one that it was about to acknowledge


@pytest.mark.slow
def test_four_writers_lose_nothing_when_one_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.sqlite"
    lasting = [writer(file, name, 250) for name in ("Ada", "Ben", "Cai")]
    victim = writer(file, "Dan", 100_000)
    assert victim.stdout is not None
    first = [victim.stdout.readline().strip() for _ in range(60)]
    victim.kill()
    said = first + acknowledged(victim)
    for process in lasting:
        said += acknowledged(process)
        assert process.returncode == 0
    rows = read_store(file)
    assert set(said) <= {one.uuid for one in rows}
    counts = Counter(one.reviewer for one in rows)
    assert [counts[name] for name in ("Ada", "Ben", "Cai")] == [250] * 3
    for name in counts:  # each in the order in which it was written, without a gap
        seqs = [one.seq for one in rows if one.reviewer == name]
        assert seqs == [*range(1, len(seqs) + 1)]
    assert len({one.sitting for one in rows}) == 4


def test_two_processes_under_one_name_are_noticed_and_kept_apart(
    tmp_path: Path,
) -> None:
    file = tmp_path / "verdicts.sqlite"
    process = writer(file, "Ada", 100_000)
    assert process.stdout is not None
    process.stdout.readline()
    store = Store.open(file)
    own = store.sit("Ada").number
    assert store.notes[0].startswith(f"Ada is reviewing in process {process.pid} on ")
    process.kill()
    acknowledged(process)
    assert own == 2
    assert {one.sitting for one in store.rows()[0]} == {1}
    store.sit("Ada")
    assert len(store.notes) == 1, "one who was killed no longer reviews"
    store.close()
