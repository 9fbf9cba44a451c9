"""What all tests share: checked shapes, real data where it is given, a leak check.

And a PostgreSQL server of their own, where one can be started.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook(  # every shape and type in an annotation is checked
    [
        "napari_kdseg.volumes",
        "napari_kdseg.models",
        "napari_kdseg.inference",
        "napari_kdseg.measure",
        "napari_kdseg.review",
        "kdseg_train",
    ],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-data",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder with real volumes, one folder a data set; without it they skip",
    )


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What was measured, compiled or trained here before must not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache that no other test has written to."""
    folder = tmp_path / "own-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real volumes; the test skips, and says so, where none is given."""
    folder = request.config.getoption("--real-data")
    if folder is None or not folder.is_dir():
        pytest.skip("no real volumes: give their folder with --real-data=DIR")
    return Path(folder)


# The resource module would count what the program had that this one began from.
_PEAK = """
def peak_bytes():
    rows = open("/proc/self/status").read().splitlines()
    return next(int(row.split()[1]) << 10 for row in rows if row.startswith("VmHWM"))
"""
# Large blocks go back to the system as soon as they are free: what is free and
# scattered is 15 % more or less from run to run.
_AT_ONCE = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}


@pytest.fixture
def run_measured() -> Callable[..., int]:
    """Runs code in a process of its own, and gives the number that it prints.

    The code may ask for `peak_bytes()`, the most memory that its process has had.
    """
    if sys.platform != "linux":
        pytest.skip("asks /proc for the peak")

    def run(code: str, *words: object) -> int:
        line = [sys.executable, "-c", _PEAK + textwrap.dedent(code), *map(str, words)]
        environment = {**os.environ, **_AT_ONCE}
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    return run


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of an empty server on this computer; without one the test skips."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = programs[-1] if programs else shutil.which("initdb")
    if found is None:
        pytest.skip("no PostgreSQL: install the package postgresql (initdb, pg_ctl)")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("no driver for PostgreSQL: pip install 'psycopg[binary]'")
    place = Path(tempfile.mkdtemp(prefix="kdseg-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(place, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *words: object) -> None:
        line = [*as_user, str(Path(found).with_name(program)), *map(str, words)]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, cwd=place)

    data = place / "data"
    run("initdb", "-D", data, "-U", "lab", "-A", "trust", "--no-sync")
    options = f"-p {port} -k {place} -c listen_addresses=127.0.0.1"
    run("pg_ctl", "-D", data, "-w", "-l", place / "log", "-o", options, "start")
    yield f"postgresql://lab@127.0.0.1:{port}"
    run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(place)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """A database in which nothing is yet."""
    import psycopg

    name = f"fish_{uuid.uuid4().hex}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{postgres_server}/{name}"
