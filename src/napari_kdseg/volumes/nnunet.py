"""A whole volume prepared as nnU-Net v2 prepares it, for models that come from there.

Isensee et al., Nature Methods 18:203-211 (2021): the box of what is not 0 is cut out,
grey values are scaled over the box (or what is not 0 in it), and voxels are resized by
cubic splines with scikit-image, slice by slice where slices are thick.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from napari_kdseg.volumes.intensity import Intensity, apply_intensity, fit_intensity
from napari_kdseg.volumes.preprocessing import Frame
from napari_kdseg.volumes.resampling import nearest_taps
from napari_kdseg.volumes.volume import Box, Volume

_SMALLEST = 1e-8


def nonzero_box(volume: Volume) -> Box:
    """Find the smallest box (z, y, x as stored) around voxels that are not 0.

    The whole volume where all are 0.
    """
    depth = volume.grid.shape[0]
    found = [np.zeros(size, dtype=bool) for size in volume.grid.shape]
    for z in range(depth):
        plane: np.ndarray = (np.asarray(volume.data[:, z]) != 0).any(axis=0)
        found[0][z] = plane.any()
        found[1] |= plane.any(axis=1)
        found[2] |= plane.any(axis=0)
    spans = []
    for along in found:
        places = np.flatnonzero(along)
        first, last = (places[0], places[-1]) if places.size else (0, along.size - 1)
        spans.append(slice(int(first), int(last) + 1))
    return (spans[0], spans[1], spans[2])


def cut(volume: Volume, box: Box) -> Volume:
    """Cut a box (z, y, x as stored) out of a volume; in memory."""
    data = np.asarray(volume.data[(slice(None), *box)])
    return replace(volume, data=data, grid=volume.grid.cropped(box), coarser=())


def prepare_whole(
    volume: Volume, frame: Frame, intensity: Sequence[Intensity]
) -> Float32[np.ndarray, "c z y x"]:
    """Scale and resize a volume, cut to what is not 0, to the model's frame.

    Parameters
    ----------
    volume
        From `cut`.
    frame
        Its way to the model.
    intensity
        One for all channels, or one a channel; ``nonzero`` measures and scales what
        lies inside the outline of what is not 0 in any channel.
    """
    stored = frame.orientation.to_oriented(np.asarray(volume.data))
    masked = any(rule.nonzero for rule in intensity)
    inside = _inside(stored) if masked else None
    every = tuple(intensity) * (1 if len(intensity) > 1 else len(stored))
    scaled = np.empty((len(stored), *frame.model.shape), np.float32)
    for channel, rule in enumerate(every):
        image = _scaled(stored[channel], rule, inside, volume.name)
        scaled[channel] = _resized(image, frame)
    return scaled


def _inside(stored: np.ndarray) -> Bool[np.ndarray, "z y x"]:
    filled: np.ndarray = ndimage.binary_fill_holes(stored.any(axis=0))
    return filled


def _scaled(
    stored: np.ndarray, rule: Intensity, inside: np.ndarray | None, name: str
) -> Float32[np.ndarray, "z y x"]:
    if rule.kind != "zscore":
        one = stored[np.newaxis]
        whole: np.ndarray = apply_intensity(one, fit_intensity(one, (rule,), name))[0]
        return whole
    image = stored.astype(np.float32)
    where = inside if rule.nonzero and inside is not None else np.True_
    measured = image[where] if rule.nonzero else image
    mean, deviation = measured.mean(), max(measured.std(), _SMALLEST)
    scaled: np.ndarray = np.where(where, (image - mean) / np.float32(deviation), image)
    return scaled


def _resized(
    image: Float32[np.ndarray, "z y x"], frame: Frame
) -> Float32[np.ndarray, "z2 y2 x2"]:
    shape = frame.model.shape
    if image.shape == shape:
        return image
    thick = frame.thick[0]
    exact = image.astype(np.float64)
    if thick is None:
        return _cubic(exact, shape)
    flat = [size for axis, size in enumerate(shape) if axis != thick]
    planes = [_cubic(plane, flat) for plane in np.moveaxis(exact, thick, 0)]
    taken = nearest_taps(len(planes), shape[thick], slice(None))
    return np.moveaxis(np.stack(planes)[taken], 0, thick)


def _cubic(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    from skimage.transform import resize  # half a second, and few models ask for it

    how = {"order": 3, "mode": "edge", "anti_aliasing": False}
    resized = resize(image, tuple(shape), **how)  # type: ignore[no-untyped-call]
    return np.asarray(resized, np.float32)
