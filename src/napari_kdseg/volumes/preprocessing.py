"""From a volume to what a network sees, and back to the volume's own grid.

Three steps, in this order: axes are turned to the model's orientation (nothing is
lost), grey values are scaled, and, where a model asks for it, voxels are resized. A
`Frame` knows the way in both directions for any box, so that inference can read, work
and write by the tile.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

from napari_kdseg.errors import GridError, VolumeError
from napari_kdseg.volumes.intensity import (
    Intensity,
    IntensityParameters,
    apply_intensity,
    fit_intensity,
)
from napari_kdseg.volumes.orientation import (
    Orientation,
    check_axcodes,
    orient,
    rolled_order,
    unorient,
)
from napari_kdseg.volumes.resampling import (
    interpolate_linear,
    nearest_taps,
    resampled_grid,
    resampled_shape,
    source_box,
    thick_axes,
)
from napari_kdseg.volumes.volume import Box, Grid, Volume, VoxelArray

__all__ = [
    "Frame",
    "Intensity",
    "IntensityParameters",
    "Orientation",
    "Prepared",
    "Preprocessing",
    "apply_intensity",
    "fit_intensity",
    "orient",
    "prepare",
    "prepare_labels",
    "prepared_slabs",
    "slabs_of",
    "unorient",
]

_SLAB_VOXELS = 1 << 20


def _axcodes(value: str | None) -> str | None:
    try:
        return None if value is None else check_axcodes(value)
    except VolumeError as error:
        raise ValueError(str(error)) from None


def _sizes(
    value: tuple[float | None, float | None, float | None] | None,
) -> tuple[float | None, float | None, float | None] | None:
    if value is not None and any(size is not None and size <= 0 for size in value):
        raise ValueError(f"spacing_mm is {value}; each entry must be above 0.")
    return value


def _voxels(value: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    if value is not None and min(value) < 1:
        raise ValueError(f"resize_vox is {value}; each entry must be at least 1.")
    return value


def _permuted(value: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    if value is not None and sorted(value) != [0, 1, 2]:
        raise ValueError(f"axes is {value}; it is 0, 1 and 2 in some order.")
    return value


class Preprocessing(BaseModel):
    """What a model wants done to a volume before it looks at it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    orientation: Annotated[str | None, AfterValidator(_axcodes)] = Field(
        "RAS",
        description="where the x, y, z axes point in the model's frame; axes are "
        "swapped and flipped, never resampled; empty keeps the stored axes",
    )
    spacing_mm: Annotated[
        tuple[float | None, float | None, float | None] | None, AfterValidator(_sizes)
    ] = Field(
        None,
        description="voxel size along z, y, x of the model's frame; empty, or an empty "
        "entry, keeps the stored size",
    )
    resize_vox: Annotated[tuple[int, int, int] | None, AfterValidator(_voxels)] = Field(
        None,
        description="the whole volume becomes this many voxels along z, y, x of the "
        "model's frame, whatever its size in mm; in place of spacing_mm",
    )
    intensity: tuple[Intensity, ...] = Field(
        (Intensity(),),
        min_length=1,
        description="one for all channels, or one a channel",
    )
    pad_value: float = Field(
        0.0, description="the scaled value that stands outside the volume"
    )
    scheme: Literal["tiles", "nnunet"] = Field(
        "tiles",
        description="tiles: piece by piece, linear; nnunet: as nnU-Net v2 does it, the "
        "volume whole: cropped to what is not 0, cubic, logits brought back",
    )
    axes: Annotated[tuple[int, int, int] | None, AfterValidator(_permuted)] = Field(
        None,
        description="nnunet: for each axis of the model the stored one, 0 1 2: z y x",
    )

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(
        self, handler: Callable[["Preprocessing"], dict[str, Any]]
    ) -> dict[str, Any]:
        # Settings that came later leave the fingerprints of older models as they were.
        values = handler(self)
        if self.scheme == "tiles":
            values.pop("scheme", None)
            values.pop("axes", None)
        return values

    @model_validator(mode="after")
    def _one_way_to_resize(self) -> "Preprocessing":
        if self.spacing_mm is not None and self.resize_vox is not None:
            raise ValueError(
                "spacing_mm and resize_vox are both given; a volume is resized to a "
                "voxel size or to a number of voxels. Leave one out."
            )
        if self.scheme == "tiles" and self.axes is not None:
            raise ValueError("axes is given and the scheme is tiles; leave axes out")
        if self.scheme == "nnunet" and self.resize_vox is not None:
            raise ValueError("resize_vox is given; the scheme nnunet takes spacing_mm")
        return self

    def turn(self, grid: Grid) -> Orientation:
        """Find the way from a grid's axes to the model's."""
        turn = Orientation.between(grid, self.orientation)
        return turn if self.axes is None else turn.then(self.axes)


@dataclass(frozen=True)
class Frame:
    """How the grid of a source and a model's frame hang together."""

    source: Grid
    """The grid as stored."""
    oriented: Grid
    """The same voxels on the model's axes."""
    model: Grid
    """What the network sees: `oriented`, resized where the model asks for it."""
    orientation: Orientation
    """The turn between `source` and `oriented`."""
    thick: tuple[int | None, int | None] = (None, None)
    """Axes along which voxels are taken over, not interpolated: there, and back."""

    @classmethod
    def of(cls, grid: Grid, preprocessing: Preprocessing) -> "Frame":
        """Plan the way from a grid to a model's frame."""
        turn = preprocessing.turn(grid)
        oriented = turn.grid(grid)
        shape = preprocessing.resize_vox or oriented.shape
        if preprocessing.spacing_mm is not None:
            shape = resampled_shape(oriented, preprocessing.spacing_mm)
        if shape == oriented.shape:
            return cls(grid, oriented, oriented, turn)
        thick: tuple[int | None, int | None] = (None, None)
        if preprocessing.scheme == "nnunet":
            thick = thick_axes(oriented.spacing_mm, preprocessing.spacing_mm)
        return cls(grid, oriented, resampled_grid(oriented, shape), turn, thick)

    def rolled(self, axis: int) -> "Frame":
        """The same voxels with another axis first; the other two keep their order.

        Parameters
        ----------
        axis
            Of the source, 0 to 2.
        """
        order = rolled_order(self.orientation.order.index(axis))
        turn = self.orientation.reordered(order)
        oriented = turn.grid(self.source)
        z, y, x = (self.model.shape[place] for place in order)
        model = resampled_grid(oriented, (z, y, x)) if self.is_resampled else oriented
        return Frame(self.source, oriented, model, turn)

    @property
    def is_resampled(self) -> bool:
        """Whether the model's voxels differ from the source's."""
        return self.model.shape != self.oriented.shape

    def read(
        self, data: VoxelArray, parameters: Sequence[IntensityParameters], box: Box
    ) -> Float32[np.ndarray, "c z y x"]:
        """Read a box of the model's frame as the network shall see it.

        Parameters
        ----------
        data
            The source's voxels, channel first, in memory or lazy; only what the box
            needs is read.
        parameters
            From `fit_intensity` on the same data.
        box
            Of the model's frame; each slice within it and not empty.
        """
        wanted = box
        if self.is_resampled:
            wanted = source_box(self.oriented.shape, self.model.shape, box)
        index = self.orientation.source_index(wanted)
        stored = np.asarray(data[(slice(None), *index)])
        scaled = apply_intensity(self.orientation.to_oriented(stored), parameters)
        if not self.is_resampled:
            return scaled
        shapes = self.oriented.shape, self.model.shape
        return interpolate_linear(scaled, *shapes, box)

    def read_labels(self, labels: VoxelArray, box: Box | None = None) -> np.ndarray:
        """Bring labels (z, y, x) from the source to the model's frame.

        Parameters
        ----------
        labels
            On the source's grid, in memory or lazy; only what the box needs is read.
        box
            Of the model's frame; each slice within it and not empty. None: all.
        """
        self._check(labels, self.source)
        spans = box or tuple(slice(0, size) for size in self.model.shape)
        taps = [
            nearest_taps(old, new, span)
            for old, new, span in zip(
                self.oriented.shape, self.model.shape, spans, strict=True
            )
        ]
        z, y, x = (slice(int(cells[0]), int(cells[-1]) + 1) for cells in taps)
        stored = np.asarray(labels[self.orientation.source_index((z, y, x))])
        turned = self.orientation.to_oriented(stored)
        for axis, (cells, size) in enumerate(zip(taps, turned.shape, strict=True)):
            if len(cells) != size:
                turned = turned.take(cells - cells[0], axis=axis)
        return np.ascontiguousarray(turned)

    def restore_labels(self, labels: np.ndarray, box: Box | None = None) -> np.ndarray:
        """Bring labels (last axes z, y, x) from the model's frame to the source.

        Parameters
        ----------
        labels
            On the model's grid.
        box
            Of the source array; only its voxels are made. None: all.
        """
        self._check(labels, self.model)
        spans = self.orientation.oriented_index(box or (slice(None),) * 3)
        for axis, (new, span) in enumerate(
            zip(self.oriented.shape, spans, strict=True), start=labels.ndim - 3
        ):
            if labels.shape[axis] == new:
                labels = labels[(*[slice(None)] * axis, span)]
                continue
            taps = nearest_taps(labels.shape[axis], new, span)
            labels = labels.take(taps, axis=axis)
        return np.ascontiguousarray(self.orientation.to_source(labels))

    def source_index(self, box: Sequence[slice]) -> Box:
        """Find where a box of the oriented frame lies in the source array."""
        return self.orientation.source_index(box)

    def to_source(self, block: np.ndarray) -> np.ndarray:
        """Turn a block of the oriented frame to the source's axes; a view."""
        return self.orientation.to_source(block)

    def _check(self, labels: VoxelArray, grid: Grid) -> None:
        if tuple(labels.shape[-3:]) != grid.shape:
            raise GridError(
                f"The labels have {tuple(labels.shape[-3:])} voxels and their grid "
                f"{grid.shape} (z, y, x); both must be equal. Take the labels of this "
                "volume."
            )


@dataclass(frozen=True)
class Prepared:
    """A volume as the network sees it, with the way back."""

    data: Float32[np.ndarray, "c z y x"]
    """Scaled voxels in the model's frame."""
    grid: Grid
    """The grid of `data`."""
    frame: Frame
    """The way there and back."""

    def restore_labels(self, labels: np.ndarray) -> np.ndarray:
        """Bring labels made on `data` back to the volume's own grid and axes."""
        return self.frame.restore_labels(labels)


def prepare(volume: Volume, preprocessing: Preprocessing) -> Prepared:
    """Turn, scale and resize a whole volume for a network.

    Needs the result and little more: the source is read a few planes at a time.

    Raises
    ------
    VolumeError
        When channels and intensity settings do not fit, or the scheme is nnU-Net's.
    """
    frame = Frame.of(volume.grid, preprocessing)
    data = np.empty((volume.data.shape[0], *frame.model.shape), dtype=np.float32)
    for span, slab in prepared_slabs(volume, frame, preprocessing):
        data[:, span] = slab
    return Prepared(data, frame.model, frame)


def prepared_slabs(
    volume: Volume, frame: Frame, preprocessing: Preprocessing
) -> Iterator[tuple[slice, Float32[np.ndarray, "c z y x"]]]:
    """Turn, scale and resize a volume of any size, a few planes at a time.

    Parameters
    ----------
    volume
        In memory or lazy; measured for its scaling first, then read once.
    frame
        Between its grid and the model's.
    preprocessing
        What the frame was made of.

    Yields
    ------
    tuple
        Planes along z of the model's frame, and their voxels; together all of them.

    Raises
    ------
    VolumeError
        When channels and intensity settings do not fit, or the scheme is nnU-Net's.
    """
    if preprocessing.scheme == "nnunet":
        raise VolumeError(
            f"{volume.name} would be prepared as nnU-Net does it, which is for "
            "predicting with a whole imported model alone. Predict with it first, and "
            "use the folder of predictions."
        )
    parameters = fit_intensity(volume.data, preprocessing.intensity, volume.name)
    for span in slabs_of(frame.model.shape, volume.data.shape[0]):
        height, width = frame.model.shape[1:]
        box = (span, slice(0, height), slice(0, width))
        yield span, frame.read(volume.data, parameters, box)


def slabs_of(shape: tuple[int, int, int], channels: int = 1) -> Iterator[slice]:
    """Cut the planes of a volume (z, y, x) into slabs of about a million voxels."""
    depth, height, width = shape
    planes = max(1, _SLAB_VOXELS // (height * width * channels))
    for start in range(0, depth, planes):
        yield slice(start, min(start + planes, depth))


def prepare_labels(
    array: np.ndarray, grid: Grid, preprocessing: Preprocessing
) -> tuple[np.ndarray, Grid]:
    """Bring labels (z, y, x) to the model's frame, by nearest neighbour.

    Parameters
    ----------
    array
        Labels on `grid`.
    grid
        Their grid.
    preprocessing
        What the model does to images; only orientation and voxel size count here.

    Returns
    -------
    tuple
        Labels of the same type, and their grid.
    """
    frame = Frame.of(grid, preprocessing)
    return frame.read_labels(array), frame.model
