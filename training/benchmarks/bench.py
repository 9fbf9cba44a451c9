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
    earlier = ""
    if arguments.figures and not arguments.quick and arguments.out.is_file():
        earlier = arguments.out.read_text(encoding="utf-8")
    rows: list[Row] = []
    started = time.perf_counter()
    for name in names:
        say(f"{name} ({time.perf_counter() - started:.0f} s so far)")
        rows += _measured(name, quick=arguments.quick)
        text = (
            _merged(earlier, rows) if earlier else _whole(rows, quick=arguments.quick)
        )
        arguments.out.write_text(text, encoding="utf-8")  # what there is, is kept
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


def _merged(earlier: str, rows: list[Row]) -> str:
    """An earlier table with other lines for the figures of these rows."""
    head, _, _ = earlier.partition("| figure |")
    lines = table(rows).splitlines()
    again = {row.figure for row in rows}
    kept = [line for line in earlier.splitlines() if _number(line) not in {*again, ""}]
    body = sorted(kept + lines[2:], key=_number)
    told = f"Measured again by themselves, {date.today().isoformat()}: figures "
    told += f"{', '.join(sorted(again))}.\n\n"
    return "\n".join([head + told + lines[0], lines[1], *body]) + "\n"


def _number(line: str) -> str:
    """The figure of a line of the table; nothing of other lines."""
    found = line.partition("|")[2].partition("|")[0].strip()
    return found if found.isdigit() else ""


def _whole(rows: list[Row], *, quick: bool) -> str:
    size = ", smaller sizes (`--quick`)" if quick else ""
    head = (
        "# Results of `make bench`\n\n"
        f"{date.today().isoformat()}, {_processor()}, {platform.system()}, CPython "
        f"{platform.python_version()}, {_versions()}{size}. Written by "
        "`bench.py`; what each figure is stands in [README.md](README.md).\n\n"
    )
    return head + table(rows) + "\n"


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
