"""One slice of a prediction at a time: scan, labels and uncertainty, along any axis.

Labels are always those of every voxel. The image of a slice that runs through very many
chunks, as those across y and x of a long scan do, comes from a coarser level of the
scan, its pixels repeated: a slice is read in a fraction of the time, and what is judged
are the outlines.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from napari_kdseg.review.arrays import Opener, cut, decoded_bytes, held_bytes
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.verdicts import About
from napari_kdseg.volumes.volume import Volume, VoxelArray, chunks_of

LARGEST_DECODED_BYTES = 1 << 28
"""An image slice that takes more comes from a coarser level."""
MOST_HELD_BYTES = 1 << 30
"""What is kept of files that were decoded whole, the longest unused goes first."""
THUMBNAIL_PX = 256
_SAMPLES = 64  # along each axis, to choose grey values from
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class View:
    """What of a slice is read."""

    channel: int = 0
    """Of the scan."""
    uncertainty: bool = False
    """Whether uncertainty is read as well."""
    most_px: int | None = None
    """Longest edge, for thumbnails: every n-th pixel is kept; None: all."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice; all arrays have the same rows and columns."""

    about: About
    image: np.ndarray
    """Grey values of one channel, as stored."""
    labels: np.ndarray
    """Class values."""
    uncertainty: np.ndarray | None
    """Bytes 0 to 255 for 0 (sure) to 1; None where there is none or none was read."""
    spacing_mm: tuple[float, float]
    """Size of a pixel: along rows downwards, along columns to the right."""
    limits: tuple[float, float]
    """Grey values to show as black and white; the same for all slices of a scan."""
    level: int
    """Which size of the scan the image is from; 0 is full."""

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        uncertainty = 0 if self.uncertainty is None else self.uncertainty.nbytes
        return self.image.nbytes + self.labels.nbytes + uncertainty


class Planes:
    """Reads slices, and keeps the files of the last predictions open.

    Two threads may use it at once; what both want opened is opened once.

    Parameters
    ----------
    most_bytes
        What may be kept of files that were decoded whole; at least those of the last
        prediction are.
    """

    def __init__(self, most_bytes: int = MOST_HELD_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, str], _Files] = OrderedDict()

    def open(
        self, prediction: Prediction, opener: Opener, view: View | None = None
    ) -> "_Files":
        """Open what is not open yet; a conversion takes minutes.

        Raises
        ------
        VolumeError, StopRequested
            As `read`.
        """
        asked = view or View()
        with self._lock:
            files = self._open.setdefault(_key(prediction), _Files())
            self._open.move_to_end(_key(prediction))
        if not files.has(asked):
            # Before the lock, since others would have to wait for a conversion.
            opener.convert(prediction, asked.channel, uncertainty=asked.uncertainty)
            with files.lock:
                files.open(prediction, asked, opener)
            self._make_room(files)
        return files

    def is_open(self, prediction: Prediction, view: View | None = None) -> bool:
        """Whether slices can be read without opening anything."""
        with self._lock:
            files = self._open.get(_key(prediction))
        return files is not None and files.has(view or View())

    def read(
        self,
        prediction: Prediction,
        axis: int,
        indices: Sequence[int],
        opener: Opener,
        view: View | None = None,
    ) -> list[Plane]:
        """Read slices; neighbours in the same chunks cost little more than one.

        Parameters
        ----------
        prediction, axis, indices
            Which slices.
        opener
            Opens what is not open yet, and says whether to go on.
        view
            What of them; by default the first channel, in all its pixels.

        Raises
        ------
        VolumeError
            Where the scan or the labels are gone, damaged or not converted.
        StopRequested
            Where the opener says that nobody wants them any more.
        """
        asked = view or View()
        files = self.open(prediction, opener, asked)
        labels, image = files.labels, files.images[asked.channel]
        assert labels is not None
        rows, columns = _picks(labels, axis, asked.most_px)
        level, seen = _image(image, axis, indices, (rows, columns), opener)
        masks = cut(labels, 0, axis, indices, opener.go_on)
        unsure = None
        if asked.uncertainty and files.uncertainty is not None:
            unsure = cut(files.uncertainty, 0, axis, indices, opener.go_on)
        return [
            Plane(
                about=prediction.about(axis, index),
                image=seen[n],
                labels=_picked(masks[n], rows, columns),
                uncertainty=None
                if unsure is None
                else _picked(unsure[n], rows, columns),
                spacing_mm=_spacing(prediction, axis, rows, columns),
                limits=image.limits,
                level=level,
            )
            for n, index in enumerate(indices)
        ]

    def together(self, prediction: Prediction, axis: int) -> int:
        """Say how many neighbouring slices share chunks; 1 where nothing is known."""
        with self._lock:
            files = self._open.get(_key(prediction))
        if files is None or files.labels is None:
            return 1
        return max(1, chunks_of(files.labels)[1 + axis])

    def forget(self) -> None:
        """Close all files."""
        with self._lock:
            self._open.clear()

    def _make_room(self, wanted: "_Files") -> None:
        with self._lock:
            total = sum(files.nbytes for files in self._open.values())
            for key, files in list(self._open.items()):
                if total <= self._most_bytes:
                    return
                if files is not wanted:
                    total -= files.nbytes
                    del self._open[key]


@dataclass
class _Image:
    """A channel of a scan."""

    volume: Volume
    channel: int
    limits: tuple[float, float]


@dataclass
class _Files:
    """What is open of one prediction."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by who opens, so that the other waits for what both need."""
    labels: VoxelArray | None = None
    uncertainty: VoxelArray | None = None
    sought: bool = False
    """Whether uncertainty was looked for."""
    images: dict[int, _Image] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        volumes = {id(one.volume.data): one.volume.data for one in self.images.values()}
        arrays = [self.labels, self.uncertainty, *volumes.values()]
        return sum(held_bytes(array) for array in arrays)

    def has(self, view: View) -> bool:
        """Whether all is open that a view needs."""
        seen = view.channel in self.images and self.labels is not None
        return seen and (self.sought or not view.uncertainty)

    def open(self, prediction: Prediction, view: View, opener: Opener) -> None:
        """Open what a view needs."""
        if view.channel not in self.images:
            volume, channel = opener.image(prediction, view.channel)
            for one in self.images.values():  # another channel of the same file
                volume = one.volume if one.volume.source == volume.source else volume
            limits = _limits(volume, channel, opener.go_on)
            self.images[view.channel] = _Image(volume, channel, limits)
        if self.labels is None:
            self.labels = opener.labels(prediction)
        if view.uncertainty and not self.sought:
            self.uncertainty = opener.uncertainty(prediction)
            self.sought = True


def _key(prediction: Prediction) -> tuple[str, str]:
    return str(prediction.folder), prediction.labels_hash


def _image(
    image: _Image,
    axis: int,
    indices: Sequence[int],
    picks: tuple[range, range],
    opener: Opener,
) -> tuple[int, list[np.ndarray]]:
    """Read slices of a scan from the level that fits; gives which one that is."""
    levels = (image.volume.data, *image.volume.coarser)
    level = _level(levels, axis, (picks[0].step, picks[1].step))
    array = levels[level]
    steps = _steps(levels[0], array)
    last = array.shape[1 + axis] - 1
    places = [min(index // steps[axis], last) for index in indices]
    unique = sorted(set(places))
    found = cut(array, image.channel, axis, unique, opener.go_on)
    across = [step for other, step in enumerate(steps) if other != axis]
    made = {
        place: _picked(found[n], *picks, (across[0], across[1]))
        for n, place in enumerate(unique)
    }
    return level, [made[place] for place in places]


def _level(levels: Sequence[VoxelArray], axis: int, picked: tuple[int, int]) -> int:
    """Choose the level of a scan to show slices of.

    That is the finest one of which a slice is decoded quickly, or the coarsest one
    that still has all pixels that are picked.
    """
    quick = [decoded_bytes(one, axis) <= LARGEST_DECODED_BYTES for one in levels]
    chosen = quick.index(True) if any(quick) else len(levels) - 1
    for number, level in enumerate(levels if max(picked) > 1 else ()):
        steps = [s for a, s in enumerate(_steps(levels[0], level)) if a != axis]
        if steps[0] <= picked[0] and steps[1] <= picked[1]:
            chosen = max(chosen, number)
    return chosen


def _steps(full: VoxelArray, coarse: VoxelArray) -> tuple[int, int, int]:
    """Give how many voxels one of a coarser level spans along z, y, x."""
    z, y, x = (
        max(1, round(large / small))
        for large, small in zip(full.shape[1:], coarse.shape[1:], strict=True)
    )
    return z, y, x


def _picks(labels: VoxelArray, axis: int, most_px: int | None) -> tuple[range, range]:
    """Choose rows and columns: all of them, or every n-th."""
    rows, columns = (s for other, s in enumerate(labels.shape[1:]) if other != axis)
    step = 1 if most_px is None else max(1, -(-max(rows, columns) // most_px))
    return range(0, rows, step), range(0, columns, step)


def _picked(
    plane: np.ndarray, rows: range, columns: range, steps: tuple[int, int] = (1, 1)
) -> np.ndarray:
    """Take these pixels of a plane of which one spans `steps`; a copy of its own."""
    if rows.step == columns.step == 1 and max(steps) > 1:
        repeated = plane.repeat(steps[0], axis=0).repeat(steps[1], axis=1)
        rest = (len(rows) - repeated.shape[0], len(columns) - repeated.shape[1])
        if max(rest) > 0:  # a level that is not ours may be cut short
            repeated = np.pad(repeated, [(0, max(0, more)) for more in rest], "edge")
        return np.ascontiguousarray(repeated[: len(rows), : len(columns)])
    if steps == (1, 1):
        return plane[rows.start : rows.stop : rows.step, :: columns.step].copy()
    down = np.minimum(np.asarray(rows) // steps[0], plane.shape[0] - 1)
    right = np.minimum(np.asarray(columns) // steps[1], plane.shape[1] - 1)
    picked: np.ndarray = plane[np.ix_(down, right)]
    return picked


def _spacing(
    prediction: Prediction, axis: int, rows: range, columns: range
) -> tuple[float, float]:
    sizes = [mm for a, mm in enumerate(prediction.grid.spacing_mm) if a != axis]
    return sizes[0] * rows.step, sizes[1] * columns.step


def _limits(
    volume: Volume, channel: int, go_on: Callable[[], bool]
) -> tuple[float, float]:
    """Choose grey values for black and white, from a sample of the whole scan."""
    array = (volume.data, *volume.coarser)[-1]
    shape = array.shape[1:]
    if isinstance(array, np.ndarray):
        steps = [max(1, size // _SAMPLES) for size in shape]
        sample = array[channel, :: steps[0], :: steps[1], :: steps[2]]
    else:
        few = sorted({shape[0] // 4, shape[0] // 2, shape[0] * 3 // 4})
        sample = cut(array, channel, 0, few, go_on)
    low, high = (float(value) for value in np.percentile(sample, _PERCENTILES))
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    return (low, high) if high > low else (low, low + 1.0)
