"""Windows where there is something: found by the same network on a coarser volume.

Most of a scan is background. The network looks once at the volume with half the voxels
along each axis, an eighth of the work, and without much overlap; only windows whose
middle comes near something that it found are computed at full size. All other voxels
are background.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_kdseg.inference.plan import Pass, Sizes
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.tiling import Span, Window
from napari_kdseg.models.model import Model
from napari_kdseg.volumes.intensity import Intensity, IntensityParameters
from napari_kdseg.volumes.preprocessing import Frame, Preprocessing
from napari_kdseg.volumes.resampling import resampled_grid
from napari_kdseg.volumes.volume import Volume, VoxelArray

COARSER = 2
"""How many voxels become one along each axis."""

COARSE_OVERLAP = 0.25

MARGIN_VOX = 6
"""How far from what was found a window still counts: the coarse pass is not exact."""

_LEAST_VOXELS = 2  # along each axis: a 3D network needs a stack


@dataclass(frozen=True)
class Foreground:
    """What the coarse pass found, on the axes of one pass over the whole volume."""

    mask: NDArray[np.bool_]
    """Z, y, x of the coarse volume."""
    shape: Sizes
    """Voxels of the volume that the pass goes over."""
    sweep: Pass

    def touches(self, window: Window) -> bool:
        """Whether the middle of a window comes near the foreground.

        The middles of all windows cover the volume once: each voxel of the foreground
        is computed at least by the window that sees it best.
        """
        box = tuple(
            self._coarse(axis, span)
            for axis, span in enumerate((window.z, window.y, window.x))
        )
        return bool(self.mask[box].any())

    def _coarse(self, axis: int, span: Span) -> slice:
        side, size = self.sweep.tile[axis], self.shape[axis]
        rim = int(side * self.sweep.overlap / 2)
        low = 0 if span.start <= 0 else span.start + rim - MARGIN_VOX
        stop = span.start + side
        high = size if stop >= size else stop - rim + MARGIN_VOX
        ratio = self.mask.shape[axis] / size
        return slice(max(int(low * ratio), 0), int(np.ceil(high * ratio)))


class CoarseVoxels:
    """A volume as a model sees it, with fewer voxels; made where it is read.

    Parameters
    ----------
    data
        Channel, z, y, x as stored.
    frame
        The way from the stored voxels to the coarse ones.
    parameters
        The grey values of the volume, measured.
    """

    def __init__(
        self,
        data: VoxelArray,
        frame: Frame,
        parameters: tuple[IntensityParameters, ...],
    ) -> None:
        self._data, self._frame, self._parameters = data, frame, parameters
        self.shape = (data.shape[0], *frame.model.shape)
        self.dtype: Any = np.dtype(np.float32)

    def __getitem__(self, index: Any, /) -> NDArray[np.float32]:
        """Read a box of all channels."""
        channels, *box = index
        spans = [
            slice(*span.indices(size)[:2])
            for span, size in zip(box, self.shape[1:], strict=True)
        ]
        box_read = (spans[0], spans[1], spans[2])
        found: NDArray[np.float32] = self._frame.read(
            self._data, self._parameters, box_read
        )[channels]
        return found


def coarse_volume(
    volume: Volume, frame: Frame, parameters: tuple[IntensityParameters, ...]
) -> Volume:
    """The volume in a model's frame, with half the voxels along each axis.

    Parameters
    ----------
    volume, frame
        The scan, and the model's way to it.
    parameters
        Its grey values measured for the model.
    """
    z, y, x = (
        min(size, max(_LEAST_VOXELS, -(-size // COARSER))) for size in frame.model.shape
    )
    grid = resampled_grid(frame.oriented, (z, y, x))
    coarse = replace(frame, model=grid)
    data = CoarseVoxels(volume.data, coarse, parameters)
    return Volume(data, grid, volume.channels, volume.source)


def coarse_settings(settings: Settings) -> Settings:
    """How the coarse pass goes: labels alone, of all windows."""
    return replace(
        settings,
        uncertainty=None,
        probabilities=False,
        roi="all",
        overlap=COARSE_OVERLAP,
    )


def as_it_is(model: Model) -> Model:
    """The model for a volume that is turned, scaled and resized already."""
    nothing = Preprocessing(
        orientation=None,
        intensity=(Intensity(kind="none"),),
        pad_value=model.card.preprocessing.pad_value,
    )
    changes = {"preprocessing": nothing, "spacing_range_mm": None}
    return replace(model, card=model.card.model_copy(update=changes))
