"""Every figure beside its peers, in one run; writes the table ``RESULTS.md``.

    make bench                                       all of them
    python training/benchmarks/bench.py speed export --quick

Contenders of one figure take turns in one process, or each has a process of its own
where memory is measured. A peer that fails is told in its row; the others go on.
"""

import argparse
import importlib
import json
import platform
import sys
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from figures import FIGURES  # noqa: E402 - found beside this file
from figures.rows import Row, not_run, say, table  # noqa: E402

PACKAGES = ("torch", "openvino", "nnunetv2", "monai", "torchio", "napari-kdseg")


def main() -> None:
    """Measure what is asked for and write the table."""
    arguments = _parser().parse_args()
    if arguments.worker:
        print(json.dumps(_work(*arguments.worker)))
        return
    names = arguments.figures or list(FIGURES)
    rows: list[Row] = []
    started = time.perf_counter()
    for name in names:
        say(f"{name} ({time.perf_counter() - started:.0f} s so far)")
        rows += _measured(name, quick=arguments.quick)
        _write(arguments.out, rows, quick=arguments.quick)  # what there is, is kept
    say(f"done in {time.perf_counter() - started:.0f} s: {arguments.out}")
    print(table(rows))


def _measured(name: str, *, quick: bool) -> list[Row]:
    try:
        found: list[Row] = importlib.import_module(FIGURES[name]).measure(quick=quick)
    except Exception as error:  # noqa: BLE001 - the other figures go on
        return [not_run("", name, "", f"{type(error).__name__}: {error}")]
    return found


def _work(function: str, arguments: str) -> object:
    module, _, name = function.partition(":")
    given = json.loads(arguments)
    return getattr(importlib.import_module(module), name)(**given)


def _write(path: Path, rows: list[Row], *, quick: bool) -> None:
    size = ", smaller sizes (`--quick`)" if quick else ""
    head = (
        "# Results of `make bench`\n\n"
        f"{date.today().isoformat()}, {_processor()}, {platform.system()}, CPython "
        f"{platform.python_version()}, {_versions()}{size}. Written by "
        "`bench.py`; what each figure is stands in [README.md](README.md).\n\n"
    )
    path.write_text(head + table(rows) + "\n", encoding="utf-8")


def _versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if not listing.is_file():
        return platform.processor() or platform.machine()
    lines = listing.read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="*", help=f"some of {', '.join(FIGURES)}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
