"""A made fish, as micro-CT shows a stained medaka: a body in a tube, mostly air.

z runs from the tail to the snout, x to the back and y to the fish's left. Lengths are
in sixty-fourths of the volume's width: shapes do not depend on the voxel size.
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
)
from napari_kdseg.volumes.labels import LabelSet

CLASSES = (
    "brain",
    "eyes",
    "gills",
    "heart",
    "liver",
    "gut",
    "swim bladder",
    "kidney",
    "spine",
)
BRAIN, EYES, GILLS, HEART, LIVER, GUT, SWIM_BLADDER, KIDNEY, SPINE = range(1, 10)
UNITS = 64.0  # in the volume's width
WIDTH_MM = 1.28  # 0.02 mm voxels at 64 of them
SNOUT, LENGTH = 70.0, 132.0

# Grey values. The swim bladder is as dark as the air around the fish.
AIR, PLASTIC, FLUID, MUSCLE, SKIN = 12.0, 38.0, 70.0, 100.0, 150.0
BONE, LENS, EAR_STONE = 205.0, 215.0, 240.0

# Along the body, from 0 at the snout to 1 at the root of the tail.
ALONG = (-0.02, 0.03, 0.10, 0.20, 0.32, 0.45, 0.60, 0.75, 0.90, 1.02)
HALF_HEIGHT = (0.5, 4.5, 9.6, 12.4, 13.5, 13.5, 10.5, 7.0, 4.4, 4.0)
HALF_WIDTH = (0.5, 4.5, 7.5, 8.5, 8.8, 8.2, 5.8, 3.6, 2.0, 1.2)


@dataclass(frozen=True)
class Fish:
    """One fish in its tube."""

    rng: np.random.Generator
    canvas: Canvas
    still: Space  # the scanner's
    space: Space  # the fish's own, straight and upright
    fine: Level  # grains of a voxel or two, unit variance
    high: float
    broad: float
    stain: float

    @property
    def along(self) -> Level:
        """How far from the snout, 0, to the root of the tail, 1."""
        return (SNOUT - self.space.z) / np.float32(LENGTH)

    def at(self, along: float, up: float, left: float = 0.0) -> Triple:
        """Place in a fish of average height and breadth, as z, y, x."""
        return (SNOUT - LENGTH * along, self.broad * left, self.high * up)

    def node(self, along: float, up: float, left: float, radius: float) -> Node:
        """Node of a tube, placed as `at`."""
        return (*self.at(along, up, left), radius)

    def profile(self, values: tuple[float, ...]) -> Level:
        """Spread values given at `ALONG` over the voxels."""
        return np.asarray(np.interp(self.along, ALONG, values), dtype=np.float32)

    def between(self, begin: float, end: float) -> Level:
        """Level of the stretch of body from `begin` to `end`."""
        return np.float32(LENGTH) * common(self.along - begin, end - self.along)

    def stained(self, mean: float, spread: float = 0, texture: float = 5) -> Level:
        """Grey of a soft tissue in this fish."""
        return self.stain * self.vary(mean, spread) + texture * self.fine

    def vary(self, mean: float, spread: float) -> float:
        """Draw a value of this fish."""
        return vary(self.rng, mean, spread)


def make(rng: np.random.Generator, size: int) -> Case:
    """Draw a fish and scan it; `size` voxels wide, 3/4 deep and 5/2 high."""
    shape = (5 * size // 2, 3 * size // 4, size)
    step = UNITS / size
    first = (-step * (shape[0] - 1) / 2, -step * (shape[1] - 1) / 2, 0.5 * step - 32)
    still = Space.of(shape, (step, step, step), first)
    fish = Fish(
        rng=rng,
        canvas=Canvas(shape, 0.9 * step, ground=AIR),
        still=still,
        space=_posed(still, rng),
        fine=grain(rng, shape, 0.8),
        high=vary(rng, 1, 0.08),
        broad=vary(rng, 1, 0.08),
        stain=vary(rng, 1, 0.1),
    )
    _draw(fish)
    unit_mm = WIDTH_MM / UNITS * vary(rng, 1, 0.1)
    spacing = (step * unit_mm, step * unit_mm, step * unit_mm)
    corner = (first[0] * unit_mm, first[1] * unit_mm, first[2] * unit_mm)
    return Case(
        images=_scanned(fish)[np.newaxis],
        labels=fish.canvas.labels,
        grid=upright_grid(shape, spacing, corner),
        channels=("micro-CT",),
        classes=LabelSet.from_names(CLASSES),
    )


def _draw(fish: Fish) -> None:
    across = np.hypot(fish.still.y, fish.still.x)
    fish.canvas.paint(0.55 - np.abs(across - 22.6), PLASTIC)
    body = _body(fish)
    _fins(fish, body)
    _bones(fish, body)
    _belly(fish, body - 1.8)
    _gut(fish, body - 1.8)
    _kidney_and_swim_bladder(fish)
    _mouth_and_gills(fish, body)
    _heart(fish, body - 1.4)
    _brain(fish)
    _eyes(fish)


def _posed(still: Space, rng: np.random.Generator) -> Space:
    """Size, roll, place and curl of the fish in its tube."""
    roll, curl = float(np.radians(vary(rng, 0, 14))), vary(rng, 0, 2.5)
    stout = vary(rng, 1.27, 0.07)
    cos, sin = np.cos(roll) / stout, np.sin(roll) / stout
    z, y, x = still.offset((vary(rng, 0, 1.5), vary(rng, 0, 1.5), vary(rng, 0, 1.5)))
    y, x = float(cos) * y - float(sin) * x, float(sin) * y + float(cos) * x
    wave = curl * (((z - 20) / 60) ** 2 - 0.5)
    return Space(z, y - wave, x).bent(rng, 5, 0.7)


def _body(fish: Fish) -> Level:
    """Skin, and muscle in blocks between chevrons of connective tissue."""
    space, paint = fish.space, fish.canvas.paint
    height = fish.high * fish.profile(HALF_HEIGHT)
    width = fish.broad * fish.profile(HALF_WIDTH)
    across = np.hypot(space.y, space.x)
    reach = np.hypot(space.y / width, space.x / height)
    body = across / np.maximum(reach, 0.05) - across
    body = common(body, fish.between(-0.02, 1.02))
    paint(body, SKIN)
    chevron = space.z + 0.55 * np.abs(space.x) - 0.35 * np.abs(space.y)
    blocks = 10 * np.cos(2 * np.pi * chevron / 5.5)
    paint(body - 1.1, fish.stained(MUSCLE) + fish.stain * blocks)
    return body


def _fins(fish: Fish, body: Level) -> None:
    space, paint = fish.space, fish.canvas.paint
    fan = 3.5 + 75 * np.clip(fish.along - 0.96, 0, 1) - np.abs(space.x)
    rays = 90 + 45 * np.cos(2 * np.pi * space.x / 2.6)
    thin = 0.75 - np.abs(space.y)
    paint(common(fan, fish.between(0.97, 1.09), thin, -body), rays)
    height = fish.high * fish.profile(HALF_HEIGHT)
    anal = space.x + height + 7 - 20 * (fish.along - 0.58)
    anal = common(anal, -space.x, fish.between(0.58, 0.84))
    dorsal = common(height + 5.5 - space.x, space.x, fish.between(0.70, 0.82))
    rays = 85 + 40 * np.cos(2 * np.pi * space.z / 2.4)
    paint(common(any_of(anal, dorsal), thin, -body), rays)


def _bones(fish: Fish, body: Level) -> None:
    """Vertebrae with their spines, ribs, and the spinal cord above."""
    space, paint, node = fish.space, fish.canvas.paint, fish.node
    ring = stripes(space.z / 4.2)  # 0 in the middle of a vertebra
    stations, heights = (0.27, 0.45, 0.70, 1.0), (6.2, 5.6, 2.2, 0.0)
    line = np.interp(fish.along, stations, heights).astype(np.float32)
    above = space.x - fish.high * line
    slanted = space.z / 4.2 + 0.12 * np.abs(above)
    reach = np.where(above > 0, 5.2 - above, above + 5 + 30 * (fish.along - 0.62))
    thin = common(0.55 - np.abs(space.y), 1 - 4.2 * stripes(slanted))
    spines = common(thin, reach, fish.between(0.28, 0.95), body - 1)
    paint(spines, BONE - 40)
    ribs = common(0.7 - np.abs(body - 2.3), 1 - 5 * ring, fish.between(0.31, 0.58))
    paint(common(ribs, 5 * fish.high - space.x, space.x + 9), BONE - 60)
    thickness = (1.7, 1.8, 1.6, 1.1)
    nodes = zip(stations, heights, thickness, strict=True)
    column = tube(space, [node(along, up, 0, thick) for along, up, thick in nodes])
    paint(column, BONE - 20 + 18 * np.cos(4 * np.pi * ring), SPINE)
    paint(column - 1.1, BONE - 75, None)
    cord = [node(0.26, 9.0, 0, 1.1), node(0.45, 8.3, 0, 0.9), node(0.8, 3.4, 0, 0.6)]
    paint(tube(space, cord), fish.stain * 128)


def _belly(fish: Fish, inside: Level) -> None:
    """The fluid-filled cavity, and the liver on the left."""
    space, draw = fish.space, fish.vary
    radii = (20.0, 6.5 * fish.broad, 9 * fish.high)
    cavity = common(ellipsoid(space, fish.at(0.44, -2.5), radii), inside)
    fish.canvas.paint(cavity, FLUID + 6 * fish.fine)
    place = fish.at(draw(0.375, 0.01), -4.5, draw(2.6, 0.7))
    radii, tilt = (draw(9, 1.2), 4.2, draw(5.4, 0.6)), (draw(0, 15), draw(-12, 8), 0)
    liver = common(ellipsoid(space, place, radii, tilt), inside - 0.5)
    fish.canvas.paint(liver, fish.stained(147, 7), LIVER)


def _gut(fish: Fish, inside: Level) -> None:
    """A coil with a wall, and food of any grey within."""
    node, draw, paint = fish.node, fish.vary, fish.canvas.paint
    coil = [
        node(0.28, -2.2, 0, 1.5),
        node(0.34, -4.5, -1.5, 2.2),
        node(0.42, -7, draw(-3, 0.8), draw(3.2, 0.4)),
        node(0.52, -6.5, draw(-1, 1), 2.7),
        node(draw(0.50, 0.02), -8.5, draw(2, 0.8), 2.3),
        node(0.44, -9, draw(2.5, 0.5), 2.2),
        node(0.50, -4.8, 2.6, 2.2),
        node(0.575, -8.2, 0, 1.6),
    ]
    gut = common(tube(fish.space, coil), inside)
    paint(gut, fish.stained(122, 6), GUT)
    food = np.clip(grain(fish.rng, fish.space.shape, 0.9), 0, 2.2)
    paint(gut - 1.1, FLUID - 4 + 55 * draw(1, 0.5) * food, None)


def _kidney_and_swim_bladder(fish: Fish) -> None:
    """Two strands under the spine, swollen in front; below them the bladder."""
    node, draw, paint = fish.node, fish.vary, fish.canvas.paint
    grey = fish.stained(134, 4, texture=8)
    for left in (-1.7, 1.7):
        strand = [
            node(0.285, 4.0, 1.5 * left, 2.7),
            node(0.33, 4.2, left, 1.7),
            node(0.45, 3.6, 0.6 * left, 1.4),
            node(draw(0.58, 0.02), 2.3, 0.5 * left, 1.2),
        ]
        paint(tube(fish.space, strand), grey, KIDNEY)
    full = draw(1, 0.15)
    place, radii = (
        fish.at(draw(0.445, 0.012), -0.2),
        (13 * full, 3.8 * full, 3.2 * full),
    )
    bladder = ellipsoid(fish.space, place, radii, (0, -5, 0))
    paint(bladder + 0.6, SKIN - 15, SWIM_BLADDER)
    paint(bladder - 0.2, AIR + 3, SWIM_BLADDER)


def _mouth_and_gills(fish: Fish, body: Level) -> None:
    """Mouth cavity, jaws, combed gill arches and the lids over them."""
    space, node, paint = fish.space, fish.node, fish.canvas.paint
    mouth = [node(-0.02, -0.5, 0, 1.2), node(0.1, -3, 0, 1.8), node(0.26, -3, 0, 2)]
    paint(common(tube(space, mouth), body - 0.8), AIR + 20)
    comb = np.cos(2 * np.pi * (space.z - 0.5 * space.x) / 2.7)
    gill = fish.stained(115) + 36 * fish.stain * comb
    for side in (-1, 1):
        jaw = [node(0.0, -2.5, side, 0.7), node(0.1, -6, 4 * side, 0.9)]
        paint(tube(space, [*jaw, node(0.17, -4, 6 * side, 0.9)]), BONE - 30)
        place = fish.at(0.235, -4, 4.6 * side)
        arches = ellipsoid(space, place, (6.5, 2.7, 4.8), (0, 8, 0))
        paint(common(arches, body - 1.4), gill, GILLS)
        flap = ellipsoid(space, fish.at(0.23, -3, 8 * side), (8, 6, 7))
        paint(common(0.6 - np.abs(body - 1.1), flap), BONE - 45)


def _heart(fish: Fish, inside: Level) -> None:
    """Chamber and bulb in the fluid of their sac."""
    chamber = ellipsoid(fish.space, fish.at(0.285, -8.4), (4.0, 2.9, 2.8))
    bulb = ellipsoid(fish.space, fish.at(0.258, -7.2), (2.8, 1.7, 1.7))
    heart = common(any_of(chamber, bulb), inside)
    fish.canvas.paint(heart + 0.8, FLUID - 10)
    fish.canvas.paint(heart, fish.stained(166, 6, texture=8), HEART)


def _brain(fish: Fish) -> None:
    """Lobes in their thin skull, and the stones of the inner ears beside them."""
    space, at, paint = fish.space, fish.at, fish.canvas.paint
    size = fish.vary(1, 0.08)
    lobes = [
        ellipsoid(space, at(0.2, 6.6), (4.2, 3.4, 2.8)),
        ellipsoid(space, at(0.155, 2.6), (4.5, 2.8, 2.0)),
        tube(space, [fish.node(0.2, 6.3, 0, 2.4), fish.node(0.265, 7.6, 0, 1.5)]),
    ]
    for side in (-1, 1):
        lobes.append(ellipsoid(space, at(0.105, 4.4, 1.5 * side), (4.2, 2.1, 2.3)))
        tectum = (5.4 * size, 3.2 * size, 3.2)
        lobes.append(ellipsoid(space, at(0.155, 5.7, 2.9 * side), tectum))
    brain = any_of(*lobes)
    paint(brain + 1.4, BONE - 55)
    paint(brain + 0.7, FLUID + 12)
    layers = 8 * np.cos(2 * np.pi * brain / 2.6)
    paint(brain, fish.stained(116, 5, texture=4) + layers, BRAIN)
    for side in (-1, 1):
        paint(ellipsoid(space, at(0.225, 3.2, 3.6 * side), (1.7, 1, 1.3)), EAR_STONE)


def _eyes(fish: Fish) -> None:
    """Dark-stained retina, watery inside, hard lens."""
    paint, size = fish.canvas.paint, fish.vary(4.9, 0.4)
    for side in (-1, 1):
        z, y, x = fish.at(0.105, 0.6, 6.4 * side)
        eye = ellipsoid(fish.space, (z, y, x), (1.25 * size, 0.8 * size, size))
        paint(eye, fish.stain * 188, EYES)
        paint(eye - 1.3, FLUID + 25 + 4 * fish.fine, EYES)
        lens = ellipsoid(fish.space, (z, y + 0.9 * side, x), (2.4, 1.8, 1.9))
        paint(lens, LENS, EYES)


def _scanned(fish: Fish) -> np.ndarray:
    """Blur, faint rings around the axis of rotation, noise and the detector's gain."""
    from scipy import ndimage

    rng, still = fish.rng, fish.still
    image = ndimage.gaussian_filter(fish.canvas.image[0], 0.5)
    across = np.hypot(still.y - vary(rng, 0, 1), still.x - vary(rng, 0, 1))
    rings = np.where(rng.random(80) < 0.35, rng.normal(0, 2.2, 80), 0)
    fading = 1 + 0.5 * smooth_noise(rng, still.shape, (4, 2, 2))
    image += rings[(1.6 * across).astype(np.intp)] * fading
    image += fish.vary(5.5, 1.5) * grain(rng, still.shape, 0.45)
    image = fish.vary(1, 0.08) * image + fish.vary(2, 4)
    return np.asarray(np.clip(np.rint(image), 0, 255), dtype=np.uint8)
