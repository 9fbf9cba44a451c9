"""Cases prepared once and kept on disk, for patches to be cut from.

Scans of any size: image and labels are read, turned, scaled and resized a few planes at
a time and written uncompressed, so that a patch costs what it touches.
"""

import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer
from numpy.typing import DTypeLike

from kdseg_train.layouts import Case
from napari_kdseg.atomic import atomic_file, sync_tree, write_text_atomic
from napari_kdseg.errors import LabelError
from napari_kdseg.volumes.channels import stacked
from napari_kdseg.volumes.opening import open_labels, open_scan
from napari_kdseg.volumes.preprocessing import (
    Frame,
    Preprocessing,
    prepared_slabs,
    slabs_of,
)
from napari_kdseg.volumes.volume import Volume, VoxelArray, check_same_grid

PLACES_PER_CLASS = 4000
LARGEST_HALF = 256.0  # beyond it half precision is coarser than an eighth
DONE = "done.json"
"""Written last; without it a case is prepared again."""

Slab = tuple[slice, np.ndarray]


@dataclass(frozen=True)
class StoredCase:
    """A prepared case on disk: half-precision image, class indices, places of organs.

    Half precision halves the disk; on values of -1 to 1 its error is below 0.0005, a
    third of a Hounsfield unit in the paper's window. Images with values beyond 256 keep
    single precision.
    """

    id: str
    folder: Path
    annotated: tuple[bool, ...]

    @property
    def image(self) -> np.ndarray:
        """Memory-mapped voxels, C Z Y X."""
        return _mapped(self.folder / "image.npy")

    @property
    def labels(self) -> np.ndarray | None:
        """Memory-mapped class indices, Z Y X, or nothing where there is no label."""
        path = self.folder / "labels.npy"
        return _mapped(path) if path.exists() else None

    @property
    def places(self) -> np.ndarray:
        """Some voxels of each class: rows of class index, z, y, x."""
        return _mapped(self.folder / "places.npy")

    def set_places(self, labels: np.ndarray) -> None:
        """Remember where foreground lies, from labels or from somebody's prediction."""
        path, places = self.folder / "places.npy", places_in(labels, self.id)
        if path.exists() and np.array_equal(_mapped(path), places):
            return  # another process may be reading it
        with atomic_file(path) as file:
            np.save(file, places)

    @property
    def shown(self) -> frozenset[int]:
        """Class indices that its own labels have voxels of."""
        done = json.loads((self.folder / DONE).read_text(encoding="utf-8"))
        return frozenset(done["shown"])


def store(
    case: Case, folder: Path, classes: Sequence[str], preprocessing: Preprocessing
) -> StoredCase:
    """Prepare a case and keep it on disk; a case that is there already is kept.

    Raises
    ------
    GridError
        Where image and label lie on different grids.
    LabelError
        Where a label value means none of the classes.
    """
    stored = StoredCase(
        case.id, folder, tuple(name in case.annotated for name in classes)
    )
    labelled = case.label is not None and bool(case.annotated)
    names = [DONE, "image.npy", "places.npy", *["labels.npy"] * labelled]
    if all((folder / name).exists() for name in names):
        return stored
    # Some are there where a run was killed while it prepared, or while it cleared up.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    volume = open_case(case)
    frame = Frame.of(volume.grid, preprocessing)
    _store_image(folder / "image.npy", volume, frame, preprocessing)
    found = np.zeros((1, 1, 1), np.uint8)
    if labelled:
        labels = open_case_labels(case, classes, volume)
        path = folder / "labels.npy"
        write_slabs(path, frame.model.shape, np.uint8, _label_slabs(labels, frame))
        found = _mapped(path)
    stored.set_places(found)
    shown = [int(organ) for organ in np.unique(stored.places[:, 0])]
    done = json.dumps({"case": case.id, "shown": shown})
    sync_tree(folder)  # or a power cut leaves the record of a case without its voxels
    write_text_atomic(folder / DONE, done)
    return stored


def store_all(
    cases: Sequence[Case],
    folder: Path,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    on_progress: Callable[[int, int], None],
) -> list[StoredCase]:
    """Prepare cases one by one; cases of one id from several sets are kept apart."""
    stored = []
    for number, case in enumerate(cases):
        stored.append(
            store(case, folder / f"{number:04d}-{case.id}", classes, preprocessing)
        )
        on_progress(number + 1, len(cases))
    return stored


# ---- reading a case ----


def open_case(case: Case) -> Volume:
    """Every channel of a case on one grid, with its intensity offset added.

    Voxels are read where they are asked for, as far as the format allows; a large
    packed scan is converted into the user's cache first.

    Raises
    ------
    GridError
        Where the channels do not share a grid.
    """
    volume = stacked([open_scan(path) for path in case.images])
    if case.intensity_offset:
        shifted = _Shifted(volume.data, np.float32(case.intensity_offset))
        volume = replace(volume, data=shifted, coarser=())
    return volume


def read_case(case: Case) -> Volume:
    """As `open_case`, with all voxels in memory."""
    volume = open_case(case)
    return replace(volume, data=np.asarray(volume.data[...]))


def open_case_labels(case: Case, classes: Sequence[str], volume: Volume) -> "Indexed":
    """Labels of a case as indices into the classes, 1 for the first; 0 elsewhere.

    Values of classes that the case does not annotate become 0: unknown there. Values
    that no class has are refused where they are read.

    Raises
    ------
    GridError
        Where the label lies on another grid than the image.
    """
    if case.label is None:
        raise LabelError(f"case {case.id} has no label file.")
    stored, grid = open_labels(case.label)
    fix = "An image and its label share one grid; resample the label first."
    check_same_grid(volume.grid, grid, volume.source, case.label, fix)
    indices = {
        value: index
        for index, name in enumerate(classes, start=1)
        if name in case.annotated
        for value in case.values[name]
    }
    known = {value for values in case.values.values() for value in values} | {0}
    return Indexed(stored, case.label, indices, frozenset(known))


def read_case_labels(
    case: Case, classes: Sequence[str], volume: Volume
) -> Integer[np.ndarray, "Z Y X"]:
    """As `open_case_labels`, with all voxels in memory.

    Raises
    ------
    GridError, LabelError
        As there, and where the file holds a value that no class of its data set has.
    """
    return open_case_labels(case, classes, volume)[...]


@dataclass(frozen=True)
class Indexed:
    """Labels (z, y, x) that become class indices where they are read."""

    stored: VoxelArray
    path: Path
    indices: Mapping[int, int] = field(repr=False)
    """Class index of a stored value; other values become 0."""
    known: frozenset[int]
    """All values that the data set has."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along z, y, x."""
        return self.stored.shape

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Of the indices."""
        return np.dtype(np.uint8)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a box.

        Raises
        ------
        LabelError
            Where it holds a value that no class has.
        """
        stored = np.asarray(self.stored[index])
        strange = sorted(set(np.unique(stored).tolist()) - self.known)
        if strange:
            raise LabelError(
                f"{self.path} holds the value {strange[0]}; its data set knows "
                f"{sorted(self.known)}. Name the class of {strange[0]} in the data set "
                "or `map`."
            )
        indexed: np.ndarray = self._table[stored]
        return indexed

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.zeros(max(self.known) + 1, np.uint8)
        for value, index in self.indices.items():
            table[value] = index
        return table


@dataclass(frozen=True)
class _Shifted:
    """Voxels with an offset added where they are read, as float32."""

    stored: VoxelArray
    offset: np.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def dtype(self) -> np.dtype[np.float32]:
        return np.dtype(np.float32)

    @property
    def chunks(self) -> Any:
        return getattr(self.stored, "chunks", None)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self.stored[index]).astype(np.float32) + self.offset


# ---- writing it prepared ----


def _store_image(
    path: Path, volume: Volume, frame: Frame, preprocessing: Preprocessing
) -> None:
    shape = (volume.data.shape[0], *frame.model.shape)
    for kind in (np.float16, np.float32):
        largest = 0.0

        def slabs(kind: DTypeLike = kind) -> Iterator[Slab]:
            nonlocal largest
            for span, slab in prepared_slabs(volume, frame, preprocessing):
                largest = max(largest, float(np.abs(slab).max(initial=0.0)))
                if kind == np.float16 and largest > LARGEST_HALF:
                    return
                yield span, slab

        write_slabs(path, shape, kind, slabs())
        if largest <= LARGEST_HALF:
            return


def _label_slabs(labels: Indexed, frame: Frame) -> Iterator[Slab]:
    _, height, width = frame.model.shape
    for span in slabs_of(frame.model.shape):
        box = (span, slice(0, height), slice(0, width))
        yield span, frame.read_labels(labels, box)


def write_slabs(
    path: Path, shape: Sequence[int], dtype: DTypeLike, slabs: Iterable[Slab]
) -> None:
    """Write an array (last axes z, y, x) in NumPy's format, planes by planes.

    Parameters
    ----------
    path
        Where to.
    shape
        Of the whole array.
    dtype
        Its type.
    slabs
        Planes along z, and their voxels with all leading axes.

    Raises
    ------
    OSError
        Where the disk is full; a mapped file would end the process in its place.
    """
    kind = np.dtype(dtype)
    face = int(np.prod(shape[-2:])) * kind.itemsize
    header = {
        "descr": np.lib.format.dtype_to_descr(kind),
        "fortran_order": False,
        "shape": tuple(shape),
    }
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        first = file.tell()
        file.truncate(first + int(np.prod(shape[:-2])) * face)
        for span, slab in slabs:
            volumes = slab.astype(kind, copy=False).reshape(-1, *slab.shape[-3:])
            for number, voxels in enumerate(volumes):
                file.seek(first + (number * shape[-3] + span.start) * face)
                file.write(np.ascontiguousarray(voxels).data)


def places_in(
    labels: Integer[np.ndarray, "Z Y X"], case: str
) -> Integer[np.ndarray, "rows 4"]:
    """At most PLACES_PER_CLASS voxels of each class, chosen by the name of the case.

    Parameters
    ----------
    labels
        Class indices, in memory or memory-mapped; read twice, planes by planes.
    case
        What the choice depends on.

    Returns
    -------
    numpy.ndarray
        Rows of class index, z, y, x.
    """
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    counts = np.zeros(np.iinfo(np.uint8).max + 1, np.int64)
    for span in slabs_of(shape):
        counts += np.bincount(labels[span].ravel(), minlength=len(counts))
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    ranks = {
        int(organ): _chosen(int(counts[organ]), rng)
        for organ in np.flatnonzero(counts[1:]) + 1
    }
    flat = {organ: np.zeros(len(some), np.int64) for organ, some in ranks.items()}
    seen = dict.fromkeys(ranks, 0)
    for span in slabs_of(shape):
        slab, before = labels[span].ravel(), span.start * shape[1] * shape[2]
        for organ, some in ranks.items():
            here = np.flatnonzero(slab == organ) + before
            met = (some >= seen[organ]) & (some < seen[organ] + len(here))
            flat[organ][met] = here[some[met] - seen[organ]]
            seen[organ] += len(here)
    rows = [
        np.column_stack([np.full(len(places), organ), *np.unravel_index(places, shape)])
        for organ, places in flat.items()
    ]
    return np.concatenate(rows) if rows else np.zeros((0, 4), dtype=np.int64)


def _chosen(count: int, rng: np.random.Generator) -> np.ndarray:
    """Which of so many voxels, counted as they lie."""
    if count <= PLACES_PER_CLASS:
        return np.arange(count)
    return rng.choice(count, PLACES_PER_CLASS, replace=False)


def _mapped(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array
