"""A volume from any format that is read into any that is written.

Large volumes go through in pieces: into OME-Zarr in one pass with coarser levels, into
other formats a few planes at a time. A packed source too large to be decoded into
memory goes through the cache then.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_kdseg.atomic import check_writable
from napari_kdseg.errors import LabelError, VolumeError
from napari_kdseg.volumes.cache import Cache, default_cache
from napari_kdseg.volumes.channels import onto_grid
from napari_kdseg.volumes.formats import (
    Header,
    blocks_of,
    inspect_volume,
    is_volume,
    read_label_set,
    read_volume,
    suffix_of,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.formats.header import LARGEST_DECODED_BYTES
from napari_kdseg.volumes.formats.ome_metadata import Kind
from napari_kdseg.volumes.formats.voxels import Block, slabs
from napari_kdseg.volumes.labels import (
    LabelClass,
    LabelSet,
    distinct_color,
    smallest_dtype,
    values_in,
)
from napari_kdseg.volumes.pyramid import Progress, write_pyramid
from napari_kdseg.volumes.volume import Grid, Volume, VoxelArray, default_channels


@dataclass(frozen=True)
class Converted:
    """A volume that was written in another format."""

    path: Path
    grid: Grid
    """Where its voxels lie, as read back."""
    notes: tuple[str, ...]
    """What a person should know: of the source, and what the target does not keep."""


def convert(  # noqa: PLR0913 - independent options, named by the caller
    source: Path,
    target: Path,
    *,
    part: str | None = None,
    labels: LabelSet | bool | None = None,
    onto: Path | None = None,
    fill_nonfinite: float | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    cache: Cache | None = None,
    on_progress: Progress | None = None,
) -> Converted:
    """Write a volume in the format that the target's ending names.

    Parameters
    ----------
    source
        A file or folder of a known format.
    target
        A new file, or a new folder where it ends in ``.zarr``.
    part
        Which volume of the source, where it holds several.
    labels
        Whether the values are labels, or the classes themselves; None takes what the
        source says.
    onto
        A volume whose grid is taken over. The source is resampled onto it in memory:
        linearly, or to the nearest voxel where it holds labels.
    fill_nonfinite
        What to put where voxels are NaN or infinite; None refuses them.
    spacing_mm
        Voxel size along z, y, x in place of what the source says.
    cache
        Where large packed sources are unpacked; None takes the user's.
    on_progress
        Called with the planes done and those there are; may raise to stop.

    Raises
    ------
    VolumeError
        When the target exists already, the source is damaged, or the target's format
        cannot hold it.
    LabelError
        When labels are asked for and the values are none.
    """
    _check_target(target)
    header = inspect_volume(source, part)
    work = _Work(
        source,
        part,
        target,
        _replaced(header, spacing_mm, source),
        fill_nonfinite,
        cache,
        on_progress or _silent,
    )
    is_labels = bool(header.holds_labels) if labels is None else labels is not False
    known = labels if isinstance(labels, LabelSet) else None
    if is_labels:
        known, dtype = _examined(work, known or read_label_set(source, part))
        work = replace(work, header=replace(work.header, dtype=dtype))
    if onto is not None:
        written = _write_resampled(work, onto, known, is_labels=is_labels)
    elif suffix_of(target).endswith(".zarr"):
        written = _write_levels(work, known, is_labels=is_labels)
    else:
        written = _write_plain(work, known, is_labels=is_labels)
    return _compared(work, written, known)


@dataclass(frozen=True)
class _Work:
    """What is converted, and how."""

    source: Path
    part: str | None
    target: Path
    header: Header
    fill_nonfinite: float | None
    cache: Cache | None
    on_progress: Progress

    def blocks(self) -> Iterator[tuple[Block, np.ndarray]]:
        """Go through the source once."""
        return blocks_of(self.source, self.part, fill_nonfinite=self.fill_nonfinite)[1]

    def planes(self) -> int:
        """How many planes it has, over all channels."""
        return self.header.shape[0] * self.header.shape[1]


def _check_target(target: Path) -> None:
    if target.exists():
        raise VolumeError(
            f"{target} exists already; a conversion replaces nothing. Choose another "
            "name, or move the old one away."
        )
    if not is_volume(target):
        raise VolumeError(
            f"{target} does not end as a volume; its ending chooses the format. Take "
            "one such as .nii.gz, .nrrd, .mha, .ome.tif or .ome.zarr."
        )
    if not target.parent.is_dir():
        raise VolumeError(
            f"{target.parent} is no folder; the target is made in one that exists. "
            "Make it first."
        )
    check_writable(target)


def _replaced(
    header: Header, spacing_mm: tuple[float, float, float] | None, source: Path
) -> Header:
    """Give the header with the voxel size that a person set."""
    if spacing_mm is None:
        return header
    if not (np.isfinite(spacing_mm).all() and min(spacing_mm) > 0):
        raise VolumeError(
            f"{source} would get voxels of {spacing_mm} mm (z, y, x); each size must "
            "be above 0. Give three sizes in millimetres."
        )
    old, new = (
        " x ".join(f"{size:g}" for size in sizes)
        for sizes in (header.grid.spacing_mm, spacing_mm)
    )
    note = (
        f"{source} got voxels of {new} mm (z, y, x), as was asked, in place of {old}."
    )
    grid = replace(header.grid, spacing_mm=spacing_mm)
    return replace(header, grid=grid, notes=(*header.notes, note))


def _examined(
    work: _Work, known: LabelSet | None
) -> tuple[LabelSet | None, np.dtype[np.generic]]:
    """Check that all values are labels; name those that the set does not know."""
    if len(work.header.channels) != 1:
        raise LabelError(
            f"{work.source} has {len(work.header.channels)} channels; labels have one. "
            "Combine them into one value a voxel, or convert it as an image."
        )
    values: set[int] = set()
    for _, block in work.blocks():
        values.update(values_in(block, str(work.source)))
    dtype: np.dtype[np.generic] = smallest_dtype(max(values, default=0))
    stored = work.header.dtype
    if stored.kind == "u" and stored.itemsize <= 2:
        dtype = stored.newbyteorder("=")
    unknown = sorted(values - {0, *(() if known is None else known.values)})
    if known is None or not unknown:
        return known, dtype
    return LabelSet(classes=(*known.classes, *_added(known, unknown))), dtype


def _added(known: LabelSet, values: list[int]) -> list[LabelClass]:
    return [
        LabelClass(
            value=value,
            name=f"label {value}" + " (unnamed)" * (f"label {value}" in known.names),
            color=distinct_color(value),
        )
        for value in values
    ]


def _write_levels(work: _Work, known: LabelSet | None, *, is_labels: bool) -> Header:
    write_pyramid(
        work.target,
        work.header,
        work.blocks(),
        kind="labels" if is_labels else "image",
        labels=known,
        on_progress=work.on_progress,
    )
    return work.header


def _write_plain(work: _Work, known: LabelSet | None, *, is_labels: bool) -> Header:
    header = work.header
    data: VoxelArray = _Counted(_voxels(work).data, work.planes(), work.on_progress)
    if is_labels:
        plane = _Cast(data, np.dtype(header.dtype))
        write_labels(work.target, plane, header.grid, known)
    else:
        write_volume(work.target, data, header.grid, channels=header.channels)
    work.on_progress(work.planes(), work.planes())
    return header


def _write_resampled(
    work: _Work, onto: Path, known: LabelSet | None, *, is_labels: bool
) -> Header:
    volume = replace(_voxels(work), grid=work.header.grid)
    moved = onto_grid(volume, inspect_volume(onto).grid, labels=is_labels)
    header = replace(work.header, grid=moved.grid, notes=moved.notes)
    data = np.asarray(moved.data).astype(header.dtype, copy=False)
    pieces = ((place, data[place]) for place in slabs(data))
    if suffix_of(work.target).endswith(".zarr"):
        kind: Kind = "labels" if is_labels else "image"
        write_pyramid(work.target, header, pieces, kind=kind, labels=known)
    elif is_labels:
        write_labels(work.target, data[0], header.grid, known, of=(onto, None))
    else:
        write_volume(work.target, data, header.grid, channels=header.channels)
    work.on_progress(work.planes(), work.planes())
    return header


def _voxels(work: _Work) -> Volume:
    """Open the source so that a few planes can be read at a time."""
    fill = work.fill_nonfinite
    if work.header.packed and work.header.bytes > LARGEST_DECODED_BYTES:
        cache = work.cache or default_cache()
        cache.convert(work.source, work.part, on_progress=work.on_progress)
        return cache.open(work.source, work.part, fill_nonfinite=fill)
    lazy = not work.header.packed
    return read_volume(work.source, work.part, fill_nonfinite=fill, lazy=lazy)


@dataclass(frozen=True)
class _Counted:
    """Voxels that tell how far they have been read, where they are read in order."""

    array: VoxelArray
    planes: int
    on_progress: Progress

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        found: np.dtype[np.generic] = np.dtype(self.array.dtype)
        return found

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(getattr(self.array, "chunks", None) or (1, 1, 1, 1))

    def __getitem__(self, index: object) -> np.ndarray:
        if isinstance(index, tuple) and isinstance(index[0], int):
            span = index[1] if len(index) > 1 else None
            start = span.start if isinstance(span, slice) else 0
            done = index[0] * self.array.shape[1] + (start or 0)
            self.on_progress(done, self.planes)
        return np.asarray(self.array[index])


@dataclass(frozen=True)
class _Cast:
    """The one channel of labels, z, y, x, in another type that holds all of them."""

    array: VoxelArray
    dtype: np.dtype[np.generic]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape[1:])

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(getattr(self.array, "chunks", None) or (1, 1, 1, 1))[1:]

    def __getitem__(self, index: object) -> np.ndarray:
        picks = index if isinstance(index, tuple) else (index,)
        return np.asarray(self.array[(0, *picks)]).astype(self.dtype, copy=False)


def _compared(work: _Work, written: Header, known: LabelSet | None) -> Converted:
    """Read back what the target says of itself, and note what it does not keep."""
    target = work.target
    found = inspect_volume(target)
    notes = [*written.notes]
    difference = found.grid.difference(written.grid)
    if difference:
        notes.append(f"{target} does not keep where the voxels lie: {difference}.")
    named = written.channels != default_channels(len(written.channels))
    if known is None and named and found.channels != written.channels:
        notes.append(
            f"{target} does not keep the names of the channels: "
            f"{', '.join(written.channels)}."
        )
    if found.dtype != written.dtype:
        notes.append(f"{target} holds {found.dtype} in place of {written.dtype}.")
    if known is not None:
        notes += _lost_labels(target, known)
    return Converted(target, found.grid, tuple(dict.fromkeys(notes)))


def _lost_labels(target: Path, known: LabelSet) -> list[str]:
    kept = read_label_set(target)
    if kept is None:
        return [
            f"{target} does not keep the names and colours of its labels: "
            f"{', '.join(f'{item.value} {item.name}' for item in known.classes)}."
        ]
    found = {item.value: item for item in kept.classes}
    changed = [item.name for item in known.classes if found.get(item.value) != item]
    if not changed:
        return []
    return [f"{target} does not keep name or colour of {', '.join(changed)} as it was."]


def _silent(done: int, total: int) -> None:
    pass
