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


@pytest.fixture(params=["file", "server"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A store in a file, and one in a database that a lab shares."""
    if request.param == "file":
        return tmp_path / "verdicts.sqlite"
    url: str = request.getfixturevalue("postgres_url")
    return url


def writer(where: Path | str, name: str, count: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WRITER, str(where), name, str(count)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def acknowledged(process: subprocess.Popen[str]) -> list[str]:
    """What a writer said was kept; a line that the kill cut off does not count."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    process.wait()
    return [line.strip() for line in lines if line.endswith("\n")]


def test_all_that_a_killed_writer_acknowledged_is_in_the_store(
    where: Path | str,
) -> None:
    process = writer(where, "Ada", 100_000)
    assert process.stdout is not None
    first = [process.stdout.readline().strip() for _ in range(40)]
    process.send_signal(signal.SIGKILL)
    said = first + acknowledged(process)
    kept = [one.uuid for one in read_store(where)]
    assert kept[: len(said)] == said
    assert len(kept) <= len(said) + 1  # the one that it was about to acknowledge


@pytest.mark.slow
def test_four_writers_lose_nothing_when_one_is_killed(where: Path | str) -> None:
    lasting = [writer(where, name, 250) for name in ("Ada", "Ben", "Cai")]
    victim = writer(where, "Dan", 100_000)
    assert victim.stdout is not None
    first = [victim.stdout.readline().strip() for _ in range(60)]
    victim.kill()
    said = first + acknowledged(victim)
    for process in lasting:
        said += acknowledged(process)
        assert process.returncode == 0
    rows = read_store(where)
    assert set(said) <= {one.uuid for one in rows}
    counts = Counter(one.reviewer for one in rows)
    assert [counts[name] for name in ("Ada", "Ben", "Cai")] == [250] * 3
    for name in counts:  # each in the order in which it was written, without a gap
        seqs = [one.seq for one in rows if one.reviewer == name]
        assert seqs == [*range(1, len(seqs) + 1)]
    assert len({one.sitting for one in rows}) == 4


def test_two_processes_under_one_name_are_noticed_and_kept_apart(
    where: Path | str,
) -> None:
    process = writer(where, "Ada", 100_000)
    assert process.stdout is not None
    process.stdout.readline()
    store = Store.open(where)
    own = store.sit("Ada").number
    assert store.notes[0].startswith(f"Ada is reviewing in process {process.pid} on ")
    process.kill()
    acknowledged(process)
    assert own == 2
    assert {one.sitting for one in store.rows()[0]} == {1}
    store.sit("Ada")
    assert len(store.notes) == 1, "one who was killed no longer reviews"
    store.close()


def test_a_poll_misses_no_row_of_two_who_write_at_once(where: Path | str) -> None:
    Store.open(where).close()
    writers = [writer(where, name, 60) for name in ("Ada", "Ben")]
    store = Store.open(where)
    seen: list[str] = []
    last = 0
    while any(process.poll() is None for process in writers):
        rows, last = store.rows(last)
        seen += [one.uuid for one in rows]
    seen += [one.uuid for one in store.rows(last)[0]]
    store.close()
    said = [name for process in writers for name in acknowledged(process)]
    assert said
    assert set(said) <= set(seen)
    assert seen == [one.uuid for one in read_store(where)], "each once, in their order"
