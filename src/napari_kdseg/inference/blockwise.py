"""Labels on disk made tidy block by block: what `clean` does, in little memory.

A block is read with one plane more at the low end of each axis. Its components are
joined with those of its neighbours where both hold the same voxel: of two voxels that
touch across a face, an edge or a corner, one block always holds both. A second reading
writes what stays. Memory is that of a block, of one face of the volume, and of a few
numbers for each component of each block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final, Literal, Protocol, runtime_checkable

import cc3d
import fastremap
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_kdseg.inference.postprocessing import kept_by_value
from napari_kdseg.models.model import Postprocessing
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Box, VoxelArray

BLOCK_VOX = (256, 256, 256)
_TOUCHING: Final = 26  # components of a class: by a face, an edge or a corner
_BY_FACES: Final = 6  # what is around a class: holes do not leak through corners
_LOW_BITS = 40  # of a pair of numbers in one

Neighbours = Literal[6, 18, 26]
Numbers = NDArray[np.int64]
Read = Callable[[Box], NDArray[Any]]


@runtime_checkable
class Target(Protocol):
    """An array that is filled block by block and read later."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along z, y, x."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels."""
        ...

    def __getitem__(self, box: Any) -> Any:
        """Read a box."""
        ...

    def __setitem__(self, box: Any, values: Any) -> None:
        """Write a box."""
        ...


@dataclass(frozen=True)
class Components:
    """Components of a volume that was looked at block by block; 0 is none.

    Attributes
    ----------
    number
        Of the component that each component of a block is a part of.
    start
        Place of each block's component 0 in ``number``.
    size_vox
        Voxels of each component.
    first
        Its first voxel, counted along the whole array.
    value
        What its voxels hold.
    is_open
        Whether it reaches the border of the volume.
    """

    number: Numbers
    start: tuple[int, ...]
    size_vox: Numbers
    first: Numbers
    value: Numbers
    is_open: NDArray[np.bool_]


def clean_stored(
    labels: VoxelArray,
    classes: LabelSet,
    rules: Postprocessing,
    *,
    voxel_mm3: float,
    new_array: Callable[[], Target],
    block_vox: Sequence[int] = BLOCK_VOX,
) -> VoxelArray:
    """Drop stray components and fill holes of labels that need not fit into memory.

    The result is that of `postprocessing.clean`, to the voxel.

    Parameters
    ----------
    labels
        Z, y, x, as they lie on disk; left alone.
    classes, rules, voxel_mm3
        As for `postprocessing.clean`.
    new_array
        Makes an array like the labels, filled with zeros; asked once for the
        components and once for each class whose holes are filled.
    block_vox
        Voxels of a block along z, y, x.

    Raises
    ------
    LabelError
        Where a rule names a class that the set does not have.
    """
    largest = kept_by_value(classes, rules)
    filled = [classes.by_name(name).value for name in rules.fill_holes]
    cleaned = labels
    if largest or rules.minimum_mm3 > 0:
        smallest_vox = rules.minimum_mm3 / voxel_mm3
        cleaned = _drop(cleaned, new_array(), largest, smallest_vox, block_vox)
    for value in filled:
        cleaned = _fill(cleaned, new_array(), value, block_vox)
    return cleaned


def find_components(
    read: Read,
    shape: Sequence[int],
    connectivity: Neighbours,
    block_vox: Sequence[int] = BLOCK_VOX,
) -> Components:
    """Find the components of equal values that touch; 0 belongs to none.

    Parameters
    ----------
    read
        Gives a box (z, y, x) of the volume, whole numbers or bools.
    shape
        Of the volume.
    connectivity
        6, 18 or 26 neighbours.
    block_vox
        Voxels of a block along z, y, x.
    """
    found = _Found()
    seams = _Seams(shape)
    for block in _blocks(shape, block_vox):
        values = read(block.wide)
        components = _labelled(values, connectivity)
        start = found.add(block, values, components, shape)
        seams.join(block, components, start)
    return found.joined(seams.pairs)


# ---- The two readings ----


def _drop(
    labels: VoxelArray,
    target: Target,
    largest: dict[int, int],
    smallest_vox: float,
    block_vox: Sequence[int],
) -> Target:
    """Keep the largest components of the classes given, and none that is too small."""

    def read(box: Box) -> NDArray[Any]:
        return np.ascontiguousarray(labels[box])

    found = find_components(read, labels.shape, _TOUCHING, block_vox)
    keep = found.size_vox >= smallest_vox
    for value, count in largest.items():
        own = np.flatnonzero(found.value == value)
        order = np.lexsort((found.first[own], -found.size_vox[own]))
        keep[own[order[count:]]] = False
    for start, block in zip(found.start, _blocks(labels.shape, block_vox), strict=True):
        values = read(block.wide)
        if values.any():
            stays = keep[found.number[start:]]
            components = _labelled(values, _TOUCHING)[block.inner]
            target[block.core] = _masked(values[block.inner], components, stays)
    return target


def _fill(
    labels: VoxelArray, target: Target, value: int, block_vox: Sequence[int]
) -> Target:
    """Give a class the background that it encloses."""

    def around(box: Box) -> NDArray[Any]:
        outside: NDArray[Any] = np.asarray(labels[box]) != value
        return outside

    found = find_components(around, labels.shape, _BY_FACES, block_vox)
    for start, block in zip(found.start, _blocks(labels.shape, block_vox), strict=True):
        values = np.array(labels[block.wide])
        enclosed = ~found.is_open[found.number[start:]]
        components = _labelled(values != value, _BY_FACES)[block.inner]
        inside = values[block.inner]
        for plane, numbers in zip(inside, components, strict=True):
            plane[enclosed[numbers] & (plane == 0)] = value
        target[block.core] = inside
    return target


def _masked(
    values: NDArray[Any], components: NDArray[Any], stays: NDArray[np.bool_]
) -> NDArray[Any]:
    kept = np.zeros_like(values)
    for place, (plane, numbers) in enumerate(zip(values, components, strict=True)):
        kept[place] = plane * stays[numbers]  # by plane: indices are 8 bytes each
    return kept


def _labelled(values: NDArray[Any], connectivity: Neighbours) -> NDArray[Any]:
    """Components numbered in the order of their first voxels."""
    found: NDArray[Any] = cc3d.connected_components(values, connectivity=connectivity)
    return found


# ---- Blocks ----


@dataclass(frozen=True)
class _Block:
    """A part of the volume, and the same with one plane more at its low ends."""

    core: Box
    wide: Box

    @property
    def inner(self) -> Box:
        """Where the core lies in the wide block."""
        z, y, x = (
            slice(core.start - wide.start, None)
            for core, wide in zip(self.core, self.wide, strict=True)
        )
        return (z, y, x)


def _blocks(shape: Sequence[int], block_vox: Sequence[int]) -> Iterator[_Block]:
    """All blocks, x fastest."""
    starts = (range(0, size, step) for size, step in zip(shape, block_vox, strict=True))
    for corner in product(*starts):
        parts = [
            (low, min(low + step, size))
            for low, step, size in zip(corner, block_vox, shape, strict=True)
        ]
        cz, cy, cx = (slice(low, high) for low, high in parts)
        wz, wy, wx = (slice(max(low - 1, 0), high) for low, high in parts)
        yield _Block((cz, cy, cx), (wz, wy, wx))


@dataclass
class _Found:
    """What is known of the components of each block, component 0 included."""

    start: list[int] = field(default_factory=list)
    size: list[Numbers] = field(default_factory=list)
    first: list[Numbers] = field(default_factory=list)
    value: list[Numbers] = field(default_factory=list)
    is_open: list[NDArray[np.bool_]] = field(default_factory=list)
    total: int = 0

    def add(
        self,
        block: _Block,
        values: NDArray[Any],
        components: NDArray[Any],
        shape: Sequence[int],
    ) -> int:
        """Take a block's components in, and give the place of the first number."""
        highest = np.maximum.accumulate(components.ravel())
        places = np.flatnonzero(np.diff(highest, prepend=0))  # of each first voxel
        count = len(places) + 1
        ids, voxels = fastremap.unique(components[block.inner], return_counts=True)
        size = np.zeros(count, np.int64)
        size[ids] = voxels
        spots = np.unravel_index(places, components.shape)
        whole = [
            spot + part.start for spot, part in zip(spots, block.wide, strict=True)
        ]
        first = np.ravel_multi_index(tuple(whole), tuple(shape))
        held = values.ravel()[places].astype(np.int64)
        self.start.append(self.total)
        self.size.append(size)
        self.first.append(np.concatenate([[0], first]))
        self.value.append(np.concatenate([[0], held]))
        self.is_open.append(_at_the_border(block, components, shape, count))
        self.total += count
        return self.start[-1]

    def joined(self, pairs: Numbers) -> Components:
        """Make one of the components that are parts of the same."""
        nothing = np.array(self.start)
        edges = np.concatenate(
            [pairs, np.stack([nothing, np.zeros_like(nothing)], axis=1)]
        )
        ones = np.ones(len(edges), np.bool_)
        graph = coo_array((ones, (edges[:, 0], edges[:, 1])), (self.total, self.total))
        count, number = connected_components(graph, directed=False)
        size, value = np.zeros((2, count), np.int64)
        np.add.at(size, number, np.concatenate(self.size))
        first = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(first, number, np.concatenate(self.first))
        value[number] = np.concatenate(self.value)
        is_open = np.zeros(count, np.bool_)
        np.logical_or.at(is_open, number, np.concatenate(self.is_open))
        return Components(
            number.astype(np.int64), tuple(self.start), size, first, value, is_open
        )


def _at_the_border(
    block: _Block, components: NDArray[Any], shape: Sequence[int], count: int
) -> NDArray[np.bool_]:
    """Which components have a voxel on a face of the volume; 0 has."""
    reach = np.zeros(count, np.bool_)
    reach[0] = True
    for axis, (part, size) in enumerate(zip(block.wide, shape, strict=True)):
        planes = np.moveaxis(components, axis, 0)
        if part.start == 0:
            reach[planes[0]] = True
        if part.stop == size:
            reach[planes[-1]] = True
    return reach


class _Seams:
    """The last planes of blocks gone by, and who met whom at them."""

    def __init__(self, shape: Sequence[int]) -> None:
        _, height, width = shape
        self._above = self._above_next = np.zeros((height, width), np.int64)
        self._before = self._before_next = np.zeros((0, width), np.int64)
        self._beside = np.zeros((0, 0), np.int64)
        self._pairs: list[Numbers] = []

    @property
    def pairs(self) -> Numbers:
        """Numbers of components that share a voxel, two a row."""
        return np.concatenate([np.zeros((0, 2), np.int64), *self._pairs])

    def join(self, block: _Block, components: NDArray[Any], start: int) -> None:
        """Meet the neighbours below, then stand where the next ones meet this one."""
        z, y, x = block.core
        z_in, y_in, _ = block.inner
        self._turn_over(block)
        if z.start:
            above = self._above[block.wide[1], block.wide[2]]
            self._meet(components[0], above, start)
        if y.start:
            self._meet(components[z_in, 0], self._before[:, block.wide[2]], start)
        if x.start:
            self._meet(components[z_in, y_in, 0], self._beside, start)
        own = components[block.inner]
        self._above_next[y, x] = _numbered(own[-1], start)
        self._before_next[:, x] = _numbered(own[:, -1], start)
        self._beside = _numbered(own[:, :, -1], start)

    def _turn_over(self, block: _Block) -> None:
        z, y, x = block.core
        if x.start == 0:
            self._before = self._before_next
            self._before_next = np.zeros(
                (z.stop - z.start, self._above.shape[1]), np.int64
            )
        if x.start == 0 and y.start == 0:
            self._above = self._above_next
            self._above_next = np.zeros_like(self._above)

    def _meet(self, mine: NDArray[Any], theirs: Numbers, start: int) -> None:
        here = mine > 0
        both = (_numbered(mine[here], start) << _LOW_BITS) | theirs[here]
        met = np.unique(both)
        self._pairs.append(
            np.stack([met >> _LOW_BITS, met & ((1 << _LOW_BITS) - 1)], axis=1)
        )


def _numbered(components: NDArray[Any], start: int) -> Numbers:
    """Numbers of a block's components among those of all blocks; 0 stays 0."""
    wide = components.astype(np.int64)
    return np.where(wide > 0, wide + start, 0)
