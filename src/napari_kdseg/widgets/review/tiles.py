"""Small pictures of slices: grey values, and outlines of labels in class colours."""

from dataclasses import dataclass

import numpy as np
from qtpy.QtGui import QColor, QImage

from napari_kdseg.state.layers import UNKNOWN_CLASS_COLOR
from napari_kdseg.volumes.labels import LabelSet

Range = tuple[float, float]


@dataclass(frozen=True)
class Tile:
    """One slice of a contact sheet."""

    picture: QImage
    outlines: QImage
    """As large as the picture, transparent but for the outlines."""
    aspect: float
    """Width by height, as they are in the world."""


def grey(image: np.ndarray, contrast: Range) -> QImage:
    """Paint grey values, black at one end of the contrast and white at the other.

    Parameters
    ----------
    image
        Any number type, rows and columns; NaN is black.
    contrast
        The values that are black and white.
    """
    low, high = contrast
    scale = 255 / (high - low) if high > low else 0.0
    shade = (image.astype(np.float32) - low) * scale
    np.nan_to_num(shade, copy=False, nan=0.0)
    pixels = np.clip(shade, 0, 255).astype(np.uint8)
    rows, columns = pixels.shape
    kind = QImage.Format.Format_Grayscale8
    return QImage(pixels.tobytes(), columns, rows, columns, kind).copy()


def outlines(labels: np.ndarray, classes: LabelSet) -> QImage:
    """Paint the outer pixels of each class in its colour, and nothing else.

    Parameters
    ----------
    labels
        Rows and columns; 0 is background.
    classes
        Gives the colours; a value that is not among them is white.
    """
    rows, columns = labels.shape
    pixels = np.zeros((rows, columns), np.uint32)
    rim = rim_of(labels)
    colors = {item.value: item.color for item in classes.classes}
    for value in np.unique(labels[rim]):
        color = QColor(colors.get(int(value), UNKNOWN_CLASS_COLOR))
        pixels[rim & (labels == value)] = color.rgba()
    kind = QImage.Format.Format_ARGB32
    return QImage(pixels.tobytes(), columns, rows, 4 * columns, kind).copy()


def rim_of(labels: np.ndarray) -> np.ndarray:
    """Find labelled pixels beside one of another value, or at the picture's edge."""
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    differs = np.zeros(labels.shape, bool)
    for other in beside:
        differs |= other != inner
    rim: np.ndarray = differs & (labels != 0)
    return rim
