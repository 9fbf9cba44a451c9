"""Files of a scan on their way into a folder: copied, or resampled onto one grid.

Everything goes a step at a time, so that whoever waits can show how far it is, or stop.
"""

import shutil
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_kdseg.atomic import publish_folder, temporary_beside
from napari_kdseg.errors import GridError, VolumeError
from napari_kdseg.volumes.channels import onto_grid
from napari_kdseg.volumes.formats import (
    case_id,
    inspect_volume,
    read_label_set,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.formats.sniff import is_zarr
from napari_kdseg.volumes.naming import plain_name, unique_name
from napari_kdseg.volumes.references import top_files
from napari_kdseg.volumes.scan import NewScan, VolumeFile, described
from napari_kdseg.volumes.volume import Grid, Volume

_BLOCK_BYTES = 1 << 24

Steps = Generator[float, None, VolumeFile]
"""The share that is done, 0 to 1; returns the volume as it lies in the folder."""


def housed(
    new: NewScan, home: Path, *, copy: bool, off_grid: Sequence[VolumeFile] = ()
) -> Generator[float, None, NewScan]:
    """Bring the files of a scan into a folder that appears when all are there.

    Parameters
    ----------
    new, copy, off_grid
        As `gathered`.
    home
        The folder; nothing may lie there.

    Returns
    -------
    NewScan
        The scan, of the files as they lie now.

    Raises
    ------
    VolumeError
        When they cannot be read or written.
    GridError
        When they do not share a grid in the end.
    """
    temporary = temporary_beside(home)
    try:
        temporary.mkdir(parents=True)
        made = yield from gathered(new, temporary, copy=copy, off_grid=off_grid)
        described(made, home.name)
        publish_folder(temporary, home)
    except OSError as error:
        raise VolumeError(
            f"{home} could not be filled: {error}. Nothing was added; make room, and "
            "add the scan again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _rebased(made, temporary, home)


def copied(one: VolumeFile, folder: Path) -> Steps:
    """Copy the files of a volume into a folder, under their own names.

    Raises
    ------
    VolumeError
        When they cannot be copied, or the copy is not what its source is.
    """
    name = _free_name(one.path.name, folder)
    target = folder / name
    try:
        yield from _copy_files(list(_pairs(one.path, target)))
    except OSError as error:
        raise VolumeError(
            f"{one.path} could not be copied to {folder}: {error}. Make room there, or "
            "leave the file where it is and only refer to it."
        ) from error
    copy = replace(one, path=target)
    _check_copy(one, copy)
    return copy


def resampled(one: VolumeFile, grid: Grid, folder: Path, *, labels: bool) -> Steps:
    """Write a volume on another grid into a folder, as OME-Zarr.

    Images are interpolated linearly; where they do not reach they get their lowest
    value. Labels take the nearest voxel, and background where they do not reach.

    Raises
    ------
    VolumeError
        When it cannot be read or written.
    GridError
        When the two do not overlap.
    """
    yield 0.0
    volume = read_volume(one.path, one.part)
    _refuse_apart(volume.grid, grid, one.path)
    lowest = 0.0 if labels else float(np.min(np.asarray(volume.data)))
    moved = onto_grid(volume, grid, labels=labels, outside=lowest)
    yield 0.5
    target = folder / _free_name(f"{plain_name(case_id(one.path))}.ome.zarr", folder)
    _write(moved, target, one if labels else None)
    yield 1.0
    return VolumeFile(target, None, one.channel)


def gathered(
    new: NewScan, folder: Path, *, copy: bool, off_grid: Sequence[VolumeFile] = ()
) -> Generator[float, None, NewScan]:
    """Bring the files of a scan into a folder.

    Parameters
    ----------
    new
        The scan.
    folder
        An empty folder.
    copy
        Copy those that need no resampling; else they stay where they are.
    off_grid
        Those to resample onto the grid of the first image.

    Returns
    -------
    NewScan
        The scan, of the files as they lie in the folder.
    """
    first = new.images[0]
    grid = inspect_volume(first.path, first.part).grid
    done: list[VolumeFile] = []
    for one in new.files:
        is_labels = new.labels is not None and one == new.labels
        if one in off_grid:
            steps = resampled(one, grid, folder, labels=is_labels)
        elif copy:
            steps = copied(one, folder)
        else:
            done.append(one)
            continue
        before, count = len(done), len(new.files)
        done.append((yield from _scaled(steps, before / count, 1 / count)))
    return replace(
        new,
        images=tuple(done[: len(new.images)]),
        labels=None if new.labels is None else done[-1],
        history=tuple(
            f"{one.path.name} was resampled onto the grid of {first.path.name}."
            for one in off_grid
        ),
    )


def _rebased(new: NewScan, old: Path, folder: Path) -> NewScan:
    """The same files after their folder got its name."""

    def at(one: VolumeFile) -> VolumeFile:
        if not one.path.is_relative_to(old):
            return one
        return replace(one, path=folder / one.path.relative_to(old))

    labels = None if new.labels is None else at(new.labels)
    return replace(new, images=tuple(map(at, new.images)), labels=labels)


def _scaled(steps: Steps, start: float, share: float) -> Steps:
    while True:
        try:
            part = next(steps)
        except StopIteration as stop:
            made: VolumeFile = stop.value
            return made
        yield start + share * part


def _pairs(source: Path, target: Path) -> Iterable[tuple[Path, Path]]:
    """Every file of a volume, and where its copy goes."""
    if source.is_dir() and is_zarr(source):
        for file in sorted(source.rglob("*")):
            if file.is_file():
                yield file, target / file.relative_to(source)
        return
    if source.is_dir():
        for file in top_files(source):
            yield file, target / file.name
        return
    before = target.name.removesuffix(source.name)
    for file in top_files(source):
        yield file, target.with_name(before + file.name)


def _copy_files(pairs: Sequence[tuple[Path, Path]]) -> Generator[float, None, None]:
    total = max(1, sum(source.stat().st_size for source, _ in pairs))
    done = 0
    for source, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as reading, target.open("xb") as writing:
            while block := reading.read(_BLOCK_BYTES):
                writing.write(block)
                done += len(block)
                yield done / total


def _free_name(name: str, folder: Path) -> str:
    """Give a name that no file in a folder has; ``2-NAME`` where it is taken."""
    taken = [entry.name for entry in folder.iterdir()]
    if unique_name(name, taken) == name:
        return name
    numbers = range(2, len(taken) + 3)
    tried = (f"{number}-{name}" for number in numbers)
    return next(free for free in tried if unique_name(free, taken) == free)


def _check_copy(one: VolumeFile, copy: VolumeFile) -> None:
    try:
        if _told(copy) == _told(one):
            return
        reason = "it reads differently."
    except VolumeError as error:
        reason = str(error)
    raise VolumeError(
        f"The copy of {one.path} is not what its source is: {reason} Leave the file "
        "where it is and only refer to it."
    )


def _told(one: VolumeFile) -> tuple[object, ...]:
    header = inspect_volume(one.path, one.part)
    return header.grid, header.channels, header.dtype


def _refuse_apart(grid: Grid, onto: Grid, path: Path) -> None:
    low, high = _extent(grid)
    onto_low, onto_high = _extent(onto)
    if (high < onto_low).any() or (low > onto_high).any():
        raise GridError(
            f"{path} does not overlap with the scan it is to be resampled onto; both "
            "must show one place. Are they of the same patient or specimen?"
        )


def _extent(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest world x, y, z of the voxels' centres."""
    ends = [(0, size - 1) for size in grid.shape[::-1]]
    corners = np.array(np.meshgrid(*ends)).reshape(3, 8)
    world = grid.affine[:3, :3] @ corners + grid.affine[:3, 3:]
    return world.min(axis=1), world.max(axis=1)


def _write(volume: Volume, target: Path, labels_from: VolumeFile | None) -> None:
    if labels_from is None:
        write_volume(target, volume.data, volume.grid, channels=volume.channels)
        return
    known = read_label_set(labels_from.path, labels_from.part)
    write_labels(target, volume.data[0], volume.grid, known)
