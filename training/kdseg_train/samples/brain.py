"""A made brain with a tumour, as four magnetic resonance sequences show it.

x runs to the right, y to the front and z to the crown, in millimetres from the middle
of the head. The skull is stripped: outside the brain every channel is 0.
"""

from dataclasses import dataclass

import numpy as np

from kdseg_train.samples.case import Case, upright_grid
from kdseg_train.samples.shapes import (
    Canvas,
    Level,
    Node,
    Space,
    Triple,
    any_of,
    common,
    ellipsoid,
    grain,
    smooth_noise,
    stripes,
    tube,
    vary,
    white_noise,
)
from napari_kdseg.volumes.labels import LabelSet

# BraTS has 1, 2 and 4; here the values follow one another.
CLASSES = ("necrotic core", "oedema", "enhancing tumour")
NECROTIC, OEDEMA, ENHANCING = 1, 2, 3
CHANNELS = ("t1", "t1ce", "t2", "flair")
WIDTH_MM = 176.0

# Mean signal in t1, t1ce, t2 and flair, in the scanner's arbitrary units. In t1 and
# t1ce oedema lies between grey and white matter, so that they hardly show it; the
# enhancing rim stands out in t1ce and nowhere else.
CSF = (160.0, 165.0, 950.0, 120.0)
GREY = (450.0, 465.0, 500.0, 530.0)
DEEP_GREY = (590.0, 600.0, 400.0, 470.0)
WHITE = (720.0, 735.0, 330.0, 390.0)
AGED_WHITE = (640.0, 650.0, 480.0, 610.0)
ARTERY = (400.0, 1000.0, 250.0, 200.0)
SINUS = (420.0, 980.0, 500.0, 250.0)
PLEXUS = (300.0, 850.0, 700.0, 330.0)
OEDEMATOUS = (590.0, 600.0, 740.0, 830.0)
ENHANCED = (550.0, 1050.0, 650.0, 740.0)
DEAD = (390.0, 400.0, 830.0, 600.0)


@dataclass(frozen=True)
class Tumour:
    """Where the tumour sits, and how far its core and then its oedema reach."""

    centre: Triple
    core_mm: float
    margin_mm: float


@dataclass(frozen=True)
class Head:
    """One patient before the scan."""

    rng: np.random.Generator
    canvas: Canvas
    space: Space  # where things lay before the tumour pushed them
    scale: float

    @property
    def radii_mm(self) -> Triple:
        """Half the cerebrum along z, y, x."""
        return (60 * self.scale, 83 * self.scale, 66 * self.scale)


def make(rng: np.random.Generator, size: int) -> Case:
    """Draw a patient and scan him; `size` voxels along each axis."""
    step = WIDTH_MM / size
    shape = (size, size, size)
    first = (-step * (size - 1) / 2,) * 3
    still = Space.of(shape, (step, step, step), first)
    tumour = _tumour(rng)
    head = Head(
        rng=rng,
        canvas=Canvas(shape, 0.9 * step, channels=len(CHANNELS)),
        space=_pushed_aside(still, tumour).bent(rng, 4, 2.5),
        scale=vary(rng, 0.99, 0.05),
    )
    hindbrain = _hindbrain(head)
    depth, sulci = _cortex(head)
    ventricles = _depths(head)
    _vessels(head)
    _grow(head, tumour, still, (depth, sulci, ventricles))
    return Case(
        images=_scanned(head, any_of(depth, hindbrain)),
        labels=head.canvas.labels,
        grid=upright_grid(shape, (step, step, step), first),
        channels=CHANNELS,
        classes=LabelSet.from_names(CLASSES),
    )


def _tumour(rng: np.random.Generator) -> Tumour:
    side = float(rng.choice([-1, 1]))
    centre = (vary(rng, 14, 12), vary(rng, -1, 41), side * vary(rng, 31, 7))
    return Tumour(centre, vary(rng, 15.5, 3.5), vary(rng, 10.5, 3.5))


def _pushed_aside(space: Space, tumour: Tumour) -> Space:
    """Mass effect: what lies around the tumour is drawn further out."""
    z, y, x = space.offset(tumour.centre)
    near = (z**2 + y**2 + x**2) / (tumour.core_mm + 8) ** 2
    pull = 0.3 * np.exp(-near)
    return Space(space.z - pull * z, space.y - pull * y, space.x - pull * x)


def _hindbrain(head: Head) -> Level:
    """Cerebellum with its leaves, brainstem, fourth ventricle; the level of both."""
    space, scale, paint = head.space, head.scale, head.canvas.paint
    place, radii = (-35, -44 * scale, 0), (27, 31 * scale, 50 * scale)
    cerebellum = ellipsoid(space, place, radii, (0, 0, 10))
    stem = tube(space, [(-10, -8, 0, 13), (-34, -12, 0, 13), (-80, -26, 0, 9)])
    leaves = stripes((cerebellum + 0.35 * space.z) / 6.5)
    paint(cerebellum, CSF)
    paint(common(cerebellum - 1, 2 + 9 * (0.42 - leaves)), GREY)
    paint(common(cerebellum - 5, 7 * (0.28 - leaves)), WHITE)
    paint(ellipsoid(space, (-34, -38 * scale, 0), (9, 14, 30)), WHITE)
    paint(stem, WHITE)
    paint(ellipsoid(space, (-36, -25, 0), (10, 5, 7)), CSF)
    return any_of(cerebellum, stem)


def _cortex(head: Head) -> tuple[Level, Level]:
    """Grey ribbon on folded white matter; the levels of the cerebrum and its sulci."""
    space, scale, paint = head.space, head.scale, head.canvas.paint
    depth = ellipsoid(space, (4, 0, 0), head.radii_mm)
    depth = common(depth, space.z + 22 - 0.08 * space.y)
    folds = smooth_noise(head.rng, space.shape, (15, 17, 15))
    middle = ellipsoid(space, (-4, 0, 0), (26, 42, 40))
    fissure = common(1.9 - np.abs(space.x), -middle)
    sylvian = []
    for side in (-1, 1):
        place, tilt = (-24, 10, side * 42 * scale), (side * 8, 0, -8)
        depth = any_of(depth, ellipsoid(space, place, (24, 40, 22), tilt))
        cleft = [(-14, 36, side * 48 * scale, 3), (-6, 12, side * 47 * scale, 3.5)]
        sylvian.append(tube(space, [*cleft, (6, -18, side * 56 * scale, 2)]))
    # A sulcus runs where the noise changes its sign, and closes with depth.
    opening = 0.42 * np.clip(1 - depth / 26, 0, 1)
    sulci = any_of(4.5 * (opening - np.abs(folds)), fissure, *sylvian)
    paint(depth, CSF)
    paint(common(depth - 1, -sulci), GREY)
    paint(common(depth - 5.5, -sulci - 2.6), WHITE)
    return depth, sulci


def _depths(head: Head) -> Level:
    """White core, deep grey matter and ventricles; the level of the ventricles."""
    space, paint, wide = head.space, head.canvas.paint, vary(head.rng, 1.35, 0.45)
    paint(ellipsoid(space, (2, -2, 0), (22, 40, 30)), WHITE)
    water = [ellipsoid(space, (-4, -2, 0), (11, 13, 2 * wide))]
    for side in (-1, 1):
        caudate = [(10, 28, side * 15, 6), (17, 2, side * 20, 4)]
        paint(tube(space, caudate), DEEP_GREY)
        putamen, thalamus = (-1, 10, side * 27), (1, -11, side * 12)
        paint(ellipsoid(space, putamen, (12, 19, 6.5), (side * 15, 0, 0)), DEEP_GREY)
        paint(ellipsoid(space, thalamus, (11, 15, 9), (side * 15, 0, 0)), DEEP_GREY)
        trunk: Node = (10, -24, side * 19, 5 * wide)
        horn = [(8, 34, side * 7, 4 * wide), (14, 6, side * 9, 4.5 * wide), trunk]
        water.append(tube(space, [*horn, (0, -50, side * 21, 2.5 * wide)]))
        temporal = [trunk, (-16, -16, side * 31, 2.5 * wide), (-20, 10, side * 31, 2)]
        water.append(tube(space, temporal))
    ventricles = any_of(*water)
    # Ageing white matter around the horns shines in flair and is no oedema.
    halo = np.where(space.z > 0, ventricles + vary(head.rng, 2.5, 1.5), -9)
    paint(halo, AGED_WHITE)
    paint(ventricles, CSF)
    return ventricles


def _vessels(head: Head) -> None:
    """Arteries, choroid plexus and sagittal sinus: they, too, take up contrast."""
    space, scale, paint = head.space, head.scale, head.canvas.paint
    for side in (-1, 1):
        artery = [(-16, 14, side * 10, 1.8), (-12, 20, side * 40 * scale, 1.8)]
        paint(tube(space, [*artery, (4, -10, side * 54 * scale, 1.3)]), ARTERY)
        plexus = [(11, -10, side * 14, 1.5), (8, -26, side * 20, 2.6)]
        paint(tube(space, plexus), PLEXUS)
    surface = ellipsoid(space, (4, 0, 0), head.radii_mm)
    paint(common(2.2 - np.abs(space.x), 5 - surface, space.z - 10), SINUS)


def _grow(
    head: Head, tumour: Tumour, still: Space, bounds: tuple[Level, Level, Level]
) -> None:
    """Paint the tumour: each region encloses the next with some millimetres to spare.

    Parameters
    ----------
    bounds
        Levels of cerebrum, sulci and ventricles.
    """
    depth, sulci, ventricles = bounds
    z, y, x = still.offset(tumour.centre)
    away = np.sqrt(z**2 + y**2 + x**2)
    ragged, fingers, thick = (
        smooth_noise(head.rng, still.shape, waves) for waves in (9, 11, 10)
    )
    core = tumour.core_mm * (1 + 0.22 * ragged) - away
    whole = tumour.core_mm + tumour.margin_mm * (1 + 0.6 * fingers) - away
    # Oedema follows the white matter, leaving sulci and ventricles; the core does not.
    whole = any_of(common(whole, -sulci - 1.5, -ventricles), core + 4)
    whole, core = common(whole, depth - 1), common(core, depth - 5)
    rim = np.clip(3.4 + 1.4 * thick, 2.6, 0.35 * tumour.core_mm)
    head.canvas.paint(whole, OEDEMATOUS, OEDEMA)
    head.canvas.paint(core, ENHANCED, ENHANCING)
    head.canvas.paint(core - rim, DEAD, NECROTIC)


def _scanned(head: Head, brain: Level) -> np.ndarray:
    """Each sequence with its own gain, coil shading and Rician noise."""
    from scipy import ndimage

    rng, shape = head.rng, head.space.shape
    images = np.zeros(head.canvas.image.shape, dtype=np.int16)
    for stored, drawn in zip(images, head.canvas.image, strict=True):
        signal = ndimage.gaussian_filter(drawn, 0.45)
        signal *= 1 + 0.03 * grain(rng, shape, 0.8)
        signal *= vary(rng, 1, 0.2) * (1 + 0.07 * smooth_noise(rng, shape, 3))
        real, imaginary = white_noise(rng, (2, *shape))
        noise = np.float32(vary(rng, 20, 6))
        signal = np.hypot(signal + noise * real, noise * imaginary)
        stored[brain > 0] = np.maximum(np.rint(signal[brain > 0]), 1)
    return images
