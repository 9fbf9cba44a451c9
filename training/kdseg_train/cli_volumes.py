"""The commands about files of volumes: convert, inspect, cache."""

import contextlib
import sys
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from napari_kdseg.errors import KdsegError, UsageError

# Whatever else a command needs is imported inside it: --help must answer at once.

Part = Annotated[
    str | None,
    typer.Option(help="Which volume, where a file or folder holds several."),
]


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A scan or labels, of any format.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Its ending chooses the format.")
    ],
    part: Part = None,
    split: Annotated[
        bool,
        typer.Option("--split", help="Every volume in IN, into OUT-NAME each."),
    ] = False,
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--image", help="What the values are; as the file says by default."
        ),
    ] = None,
    onto: Annotated[
        Path | None,
        typer.Option(help="Resample onto the grid of this volume."),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(help="Voxel size in mm as Z,Y,X, in place of the file's."),
    ] = None,
    fill_nonfinite: Annotated[
        float | None, typer.Option(help="Put this where a voxel is NaN or infinite.")
    ] = None,
) -> None:
    """Write a scan or labels in another format, where it lies in the world."""
    from kdseg_train.config import parse
    from kdseg_train.convert import ConvertConfig, converted, each_part
    from kdseg_train.follow import counting

    values = {
        "source": source.absolute(),
        "part": part,
        "target": target.absolute(),
        "labels": labels,
        "onto": None if onto is None else onto.absolute(),
        "spacing_mm": _sizes(spacing),
        "fill_nonfinite": fill_nonfinite,
    }
    config = parse(ConvertConfig, values, "convert")
    for one in each_part(config) if split else [config]:
        with counting("planes") as count:
            done = converted(one, count)
        for note in done.notes:
            sys.stderr.write(f"note: {note}\n")
        sys.stderr.write(f"{done.path}: {done.grid.describe()}\n")


def inspect(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files or folders.")
    ],
    part: Part = None,
) -> None:
    """Say what volumes are: orientation, voxel size, channels, type, notes."""
    from kdseg_train.convert import each_described

    failed = False
    for told in chain.from_iterable(each_described(path, part) for path in paths):
        if isinstance(told, KdsegError):
            failed = True
            sys.stderr.write(f"{told}\n")
        else:
            sys.stdout.write(told + "\n")
    if failed:
        raise typer.Exit(KdsegError.exit_code)


def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove all converted scans.")
    ] = False,
) -> None:
    """Say where converted copies of packed scans lie, and how large they are."""
    from napari_kdseg.amounts import counted
    from napari_kdseg.volumes.cache import default_cache

    found = default_cache()
    entries = found.entries()
    for entry in entries:
        sys.stdout.write(f"{entry.bytes / 1e6:10.1f} MB  {entry.source}\n")
    scans = counted(len(entries), "scan")
    said = f"{found.folder} holds {found.size() / 1e6:.1f} MB in {scans}"
    if clear:
        found.clear()
        said += "; all removed"
    sys.stdout.write(f"{said}.\n")


def _sizes(text: str | None) -> list[float] | None:
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        found = [float(part) for part in text.split(",")]
        if len(found) == 3:
            return found
    raise UsageError(
        f"--spacing is {text!r}; give millimetres along z, y, x, as 2.0,0.8,0.8."
    )
