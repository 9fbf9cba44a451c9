"""A made abdomen as CT shows it after contrast: four organs and all that is around.

x runs to the patient's right, y to the front and z to the head, in millimetres from
the middle of the body at about the first lumbar vertebra.
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
from napari_kdseg.volumes.orientation import orient

CLASSES = ("liver", "spleen", "kidneys", "pancreas")
LIVER, SPLEEN, KIDNEYS, PANCREAS = 1, 2, 3, 4
SLICES = 48
SLICE_MM = (3.5, 4.0, 4.5, 5.0)
ORIENTATIONS = ("LPS", "RAS", "LAS", "RPI")  # as scanners and converters store them
AIR_HU, GAS_HU, LUNG_HU, FAT_HU = -1000.0, -920.0, -850.0, -100.0
MUSCLE_HU, WATER_HU, BONE_HU = 55.0, 12.0, 260.0


@dataclass(frozen=True)
class Body:
    """One patient: sizes, contrast phase and the textures that tissues share."""

    rng: np.random.Generator
    canvas: Canvas
    frame: Space  # deformed with the skeleton
    soft: Space  # deformed with the organs
    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    contrast: float  # 0 none, 1 portal-venous phase
    fine: Level  # grains of a voxel or two, unit variance
    lumps: Level  # lumps of a centimetre or two, unit variance

    @property
    def scale(self) -> float:
        """Width of the abdominal cavity, 1 in an average patient."""
        return (self.half_width_mm - self.fat_mm) / 147

    @property
    def spine_y(self) -> float:
        """Where the middle of the vertebral bodies lies between back and front."""
        return self.fat_mm + 56 - self.half_depth_mm

    def vary(self, mean: float, spread: float) -> float:
        """Draw a value of this patient."""
        return vary(self.rng, mean, spread)

    def tissue_hu(self, plain: float, uptake: float, spread: float = 0) -> float:
        """Radiodensity without contrast, and what full contrast adds."""
        return plain + uptake * self.contrast + self.vary(0, spread)


def make(rng: np.random.Generator, size: int) -> Case:
    """Draw a patient and scan him; `size` voxels wide and deep, `SLICES` high."""
    half_width = vary(rng, 164, 14)
    pixel = (2 * half_width + 36) / size
    spacing: Triple = (float(rng.choice(SLICE_MM)), pixel, pixel)
    shape = (SLICES, size, size)
    middle = -pixel * (size - 1) / 2
    first = (vary(rng, 94, 10) - spacing[0] * (SLICES - 1), middle, middle)
    body = _body(rng, Space.of(shape, spacing, first), half_width, pixel)
    _draw(body)
    grid = upright_grid(shape, spacing, first)
    axcodes = str(rng.choice(ORIENTATIONS))
    images, turned = orient(_scanned(body)[np.newaxis], grid, axcodes)
    labels, _ = orient(body.canvas.labels, grid, axcodes)
    return Case(
        images=np.ascontiguousarray(images),
        labels=np.ascontiguousarray(labels),
        grid=turned,
        channels=("CT",),
        classes=LabelSet.from_names(CLASSES),
    )


def _body(
    rng: np.random.Generator, still: Space, half_width: float, pixel: float
) -> Body:
    frame = still.bent(rng, 3, 3.5)
    return Body(
        rng=rng,
        canvas=Canvas(still.shape, 0.9 * pixel, ground=AIR_HU),
        frame=frame,
        soft=frame.bent(rng, 6, 4.0),
        half_width_mm=half_width,
        half_depth_mm=vary(rng, 116, 10),
        fat_mm=vary(rng, 16.5, 7.5),
        contrast=vary(rng, 0.65, 0.35),
        fine=grain(rng, still.shape, 0.8),
        lumps=smooth_noise(rng, still.shape, (12, 20, 20)),
    )


def _draw(body: Body) -> None:
    """Paint from the outside in; organs come last, so nothing covers them."""
    wall = _trunk(body)
    cavity = wall - body.vary(11, 2)
    _mesentery(body, cavity)
    below_diaphragm = _chest(body, cavity)
    _muscles(body)
    _spine(body)
    _ribs(body, wall)
    room = common(cavity - 2, below_diaphragm - 3)
    _small_bowel(body, room)
    _colon(body, room)
    _stomach(body, room)
    _pancreas(body, room)
    _great_vessels(body)
    _kidneys(body, room)
    _spleen(body, room)
    _liver(body, room)


def _trunk(body: Body) -> Level:
    """Couch, skin, fat and muscle; the level of the muscular wall."""
    frame, paint = body.frame, body.canvas.paint
    couch = frame.y + body.half_depth_mm + 9 - frame.x**2 / 900
    paint(2 - np.abs(couch), -120)
    width = body.half_width_mm * (1 - 0.04 * np.cos((frame.z + 60) / 45))
    across = np.hypot(frame.x, frame.y)
    reach = np.abs(frame.x / width) ** 2.4 + np.abs(frame.y / body.half_depth_mm) ** 2.4
    skin = across / np.maximum(reach ** (1 / 2.4), 0.05) - across
    paint(skin, -20)
    paint(skin - 2.5, FAT_HU + 7 * body.fine)
    # Fat gathers at the flanks; there is little of it over the spine.
    thickness = 1 + 0.35 * np.abs(frame.x) / body.half_width_mm
    thickness -= 0.3 * np.exp(-((frame.x / 25) ** 2))
    thickness += 0.2 * smooth_noise(body.rng, frame.shape, (3, 5, 5))
    wall: Level = skin - np.maximum(body.fat_mm * thickness, 4)
    layers = 12 * np.sin(wall / 1.6)
    paint(wall, MUSCLE_HU + layers + 6 * body.fine)
    return wall


def _mesentery(body: Body, cavity: Level) -> None:
    vessels = np.clip(grain(body.rng, body.frame.shape, 1.1) - 1.3, 0, 1.2)
    body.canvas.paint(cavity, FAT_HU + 6 + 8 * body.fine + 55 * vessels)


def _chest(body: Body, cavity: Level) -> Level:
    """Lungs and heart above the diaphragm; the level of what lies below it."""
    soft, scale, paint = body.soft, body.scale, body.canvas.paint
    domes = []
    for side, top, spread in ((62, 80, 8), (-66, 70, 8), (0, 64, 4)):
        across = ((soft.x - side * scale) / (92 * scale)) ** 2
        across += ((soft.y - 15) / 98) ** 2
        domes.append(body.vary(top, spread) - 62 * across)
    below: Level = 0.75 * (any_of(*domes) - soft.z)
    paint(common(cavity, -below), MUSCLE_HU)
    lung = common(cavity - 2, -below - 4)
    vessels = np.clip(grain(body.rng, soft.shape, 0.9) - 1.6, 0, 2)
    paint(lung, LUNG_HU + 25 * body.lumps + 260 * vessels)
    place = (body.vary(112, 6), 25, -22 * scale)
    heart = ellipsoid(soft, place, (46, 46, 54), (30, 0, 0))
    paint(common(heart, lung + 6), body.tissue_hu(45, 90) + 8 * body.fine)
    return below


def _muscles(body: Body) -> None:
    frame, spine, paint = body.frame, body.spine_y, body.canvas.paint
    texture = MUSCLE_HU + 6 * body.fine
    for side in (-1, 1):
        back = ellipsoid(frame, (-20, spine - 44, side * 33), (400, 17, 30))
        paint(back, texture + 5 - 30 * (body.lumps > 1.5))  # streaks of fat
        loin = (-90, spine - 22, side * 66)
        paint(ellipsoid(frame, loin, (75, 11, 20), (side * 25, 0, 0)), texture)
        psoas = [(10, spine + 2, side * 30, 5), (-60, spine + 2, side * 40, 17)]
        psoas.append((-170, spine + 8, side * 56, 25))
        paint(tube(frame, psoas), texture + 8)


def _spine(body: Body) -> None:
    """Vertebrae with arch and processes, discs between them, the canal behind."""
    frame, y, paint = body.frame, body.spine_y, body.canvas.paint
    # 0 in the middle of a vertebra, 0.5 in the middle of a disc.
    phase = stripes((frame.z - body.vary(0, 15)) / body.vary(34, 2))
    waist = 1.5 * np.cos(2 * np.pi * phase)
    column = ellipsoid(frame, (0, y, 0), (3000, 17, 22)) - waist
    spinous = ellipsoid(frame, (0, y - 46, 0), (3000, 16, 3.5))
    sideways = ellipsoid(frame, (0, y - 25, 0), (3000, 4, 44))
    bone = BONE_HU + 60 * body.fine
    paint(common(sideways, 8 - 40 * phase), bone + 110)
    paint(common(spinous, 12 - 40 * phase), bone + 110)
    paint(ellipsoid(frame, (0, y - 26, 0), (3000, 15, 17)), bone + 110)
    paint(column, bone + 230)
    paint(column - 3, np.where(phase > 0.4, 85 + 10 * body.fine, bone - 60))
    canal = ellipsoid(frame, (0, y - 25, 0), (3000, 8.5, 11))
    paint(canal, 25 + 5 * body.fine)


def _ribs(body: Body, wall: Level) -> None:
    """Slanting stripes in the wall, cartilage in front, none below their margin."""
    frame = body.frame
    from_back = frame.y + body.half_depth_mm
    slant = (frame.z + 0.42 * from_back) / body.vary(27, 1.5)
    rib = common(
        27 * (0.23 - stripes(slant)),
        4.2 - np.abs(wall - 5.5),
        frame.z + 45 - 0.42 * from_back,
        np.abs(frame.x) - 24,
    )
    front = frame.y > 0.45 * body.half_depth_mm
    body.canvas.paint(rib, np.where(front, 110, BONE_HU + 170) + 25 * body.fine)


def _small_bowel(body: Body, room: Level) -> None:
    rng, paint = body.rng, body.canvas.paint
    wall = body.tissue_hu(30, 60) + 6 * body.fine
    for _ in range(36):
        x = rng.uniform(-84, 70) * body.scale
        highest = -38 - 0.45 * x  # the jejunum lies high on the left
        place = np.array([rng.uniform(-150, highest), rng.uniform(-5, 72), x])
        nodes: list[Node] = []
        for _ in range(3):
            z, y, x = (float(part) for part in place)
            nodes.append((z, y, x, rng.uniform(10, 14)))
            place = place + rng.normal(0, (13, 13, 24))
        loop = common(tube(body.soft, nodes), room)
        paint(loop, wall)
        paint(loop - 3, rng.uniform(0, 45) + 12 * body.lumps)
        if rng.random() < 0.3:  # gas rises to the front: patients lie on their back
            fluid = nodes[1][1] + rng.uniform(-2, 6)
            paint(common(loop - 3, body.soft.y - fluid), GAS_HU)


def _colon(body: Body, room: Level) -> None:
    scale, y, paint = body.scale, body.spine_y, body.canvas.paint
    nodes = [
        (-160, y + 28, 98 * scale, 25),
        (-60, y + 30, 101 * scale, 23),
        (-42, 55, 85 * scale, 18),
        (-58, 78, 35 * scale, 18),
        (-62, 80, -25 * scale, 18),
        (-5, 30, -98 * scale, 17),
        (-50, y + 18, -112 * scale, 15),
        (-170, y + 25, -105 * scale, 16),
    ]
    colon = common(tube(body.soft, nodes) + 2.5 * body.lumps, room)
    paint(colon, body.tissue_hu(25, 35))
    bubbles = np.clip(body.lumps + 0.5 * body.fine - 0.2, 0, 3)  # in the stool
    paint(colon - 3.5, np.maximum(10 - 160 * bubbles, -600))
    paint(common(colon - 3, body.soft.y - body.vary(72, 8)), GAS_HU)


def _stomach(body: Body, room: Level) -> None:
    """Stomach and duodenum; what fills the stomach differs between patients."""
    scale, y, paint = body.scale, body.spine_y, body.canvas.paint
    full = body.vary(1, 0.18)
    nodes = [
        (58, y + 38, -66 * scale, 33 * full),
        (28, 40, -72 * scale, 30 * full),
        (-12, 58, -42 * scale, 21 * full),
        (-8, 56, 14 * scale, 13),
    ]
    stomach = common(tube(body.soft, nodes) + 1.5 * body.lumps, room)
    paint(stomach, body.tissue_hu(40, 45) + 6 * body.fine)
    # Water, food, more food, or positive oral contrast.
    meal = float(body.rng.choice([10, 30, 45, 140], p=[0.4, 0.3, 0.2, 0.1]))
    paint(stomach - 4.5, meal + 14 * body.lumps)
    paint(common(stomach - 4.5, body.frame.y - body.vary(50, 14)), GAS_HU)
    bend: list[Node] = [(-8, 56, 14 * scale, 12), (-14, 44, 50 * scale, 13)]
    bend += [(-56, 26, 48 * scale, 13), (-66, y + 42, 10, 11)]
    duodenum = common(tube(body.soft, bend), room)
    paint(duodenum, body.tissue_hu(40, 40))
    paint(duodenum - 4, 25 + 12 * body.lumps)


def _pancreas(body: Body, room: Level) -> None:
    scale, y = body.scale, body.spine_y
    lift = body.vary(0, 8)
    nodes = [
        (lift - 30, y + 44, 34 * scale, body.vary(16, 2)),
        (lift - 6, y + 58, 10 * scale, body.vary(12, 1)),
        (lift + 4, y + 52, -24 * scale, body.vary(13, 2)),
        (lift + 20, y + 22, -72 * scale, body.vary(12, 2)),
    ]
    gland = common(tube(body.soft, nodes) + 1.6 * body.lumps, room)
    fat = np.clip(body.lumps - 0.8, 0, 1.5)  # between the lobules
    value = body.tissue_hu(38, 48, 8) + 10 * body.fine - 22 * fat
    body.canvas.paint(gland, value, PANCREAS)


def _great_vessels(body: Body) -> None:
    scale, y = body.scale, body.spine_y
    left = -80 * scale
    veins: list[list[Node]] = [
        [(-200, y + 26, 20, 9), (0, y + 28, 23, 11), (70, y + 42, 32, 12)],
        [(-60, y + 58, 6, 5), (-12, y + 47, 8, 6), (*_hilum(body), 6.5)],
        [(-10, y + 44, 6, 4), (8, y + 38, -30 * scale, 4), (24, y + 14, left, 4)],
    ]  # lower caval, portal, splenic
    arteries: list[list[Node]] = [
        [(200, y + 26, -16, 11), (40, y + 30, -10, 10.5), (-200, y + 29, -6, 9)],
        [(-4, y + 40, -8, 3.5), (-40, y + 52, -4, 3.5), (-110, y + 60, 6, 3)],
    ]  # aorta, upper mesenteric
    venous, arterial = body.tissue_hu(42, 110), body.tissue_hu(45, 115)
    for nodes in veins:
        body.canvas.paint(tube(body.soft, nodes), venous + 4 * body.fine)
    for nodes in arteries:
        body.canvas.paint(tube(body.soft, nodes), arterial + 4 * body.fine)


def _hilum(body: Body) -> Triple:
    """Where the portal vein enters the liver."""
    return (18, body.spine_y + 60, 34 * body.scale)


def _kidneys(body: Body, room: Level) -> None:
    soft, paint, draw, y = body.soft, body.canvas.paint, body.vary, body.spine_y
    cortex = body.tissue_hu(35, 150, 15)
    for side, height in ((1, draw(-30, 10)), (-1, draw(-16, 10))):
        radii = (draw(54, 5), draw(28, 2), draw(28, 2))
        tilt = (side * draw(-30, 10), side * draw(-12, 5), draw(8, 5))
        centre = (height, y - draw(0, 5), side * 66 * body.scale)
        hilum = (height, y + 12, side * 48 * body.scale)
        vein = [(*hilum, 4.5), (height + 8, y + 32, side * 8 + 12, 4.5)]
        paint(tube(soft, vein), body.tissue_hu(42, 110))
        sinus = ellipsoid(soft, hilum, (18, 9, 13), tilt) + body.lumps
        kidney = common(ellipsoid(soft, centre, radii, tilt), room, 0.5 - sinus)
        paint(kidney, cortex + 8 * body.fine, KIDNEYS)
        pyramids = common(kidney - 7, 4 * (body.lumps - 0.1))
        paint(pyramids, cortex - 55 * body.contrast, None)
        pelvis = common(sinus - 4, 8 - np.abs(soft.z - height))
        paint(pelvis, WATER_HU + 6 * body.fine)


def _spleen(body: Body, room: Level) -> None:
    draw, y = body.vary, body.spine_y
    size = draw(1, 0.17)
    z, y, x = draw(30, 10), y + draw(6, 6), -108 * body.scale
    radii, tilt = (50 * size, 46 * size, 33), (draw(15, 8), draw(-12, 8), 0)
    outer = ellipsoid(body.soft, (z, y, x), radii, tilt)
    dent = ellipsoid(body.soft, (z + 4, y + 26, x + 52), (62, 50, 40), (15, 0, 0))
    value = body.tissue_hu(48, 62, 12) + 6 * body.fine + 3 * body.lumps
    body.canvas.paint(common(outer, room, -dent), value, SPLEEN)


def _liver(body: Body, room: Level) -> None:
    soft, scale, paint, draw = body.soft, body.scale, body.canvas.paint, body.vary
    size = draw(1, 0.1)
    radii = (84 * size, 92, 80 * size)
    right = ellipsoid(soft, (draw(22, 8), 4, 82 * scale), radii, (0, draw(10, 8), 0))
    place, radii = (draw(42, 8), 46, draw(2, 12) * scale), (34 * size, 40, 78 * size)
    left = ellipsoid(soft, place, radii, (8, 14, 0))
    # Hollows where bowel and right kidney press from below, and the spine from behind.
    below = ellipsoid(soft, (-58, body.spine_y + 62, 8), (74, 66, 62), (0, -18, 0))
    behind = ellipsoid(soft, (20, body.spine_y + 6, -5), (200, 40, 44))
    liver = common(any_of(right, left) + 0.8 * body.lumps, room, -below, -behind)
    value = body.tissue_hu(58, 48, 12) + 6 * body.fine + 4 * body.lumps
    paint(liver, value, LIVER)
    _liver_vessels(body, liver - 4)
    nodes = [(-30, 48, 52 * scale, draw(14, 3)), (-4, 30, 46 * scale, 7)]
    gallbladder = common(tube(soft, nodes), room)
    paint(gallbladder, 60)
    paint(gallbladder - 2, WATER_HU + 4 * body.fine)


def _liver_vessels(body: Body, inside: Level) -> None:
    """Portal and hepatic veins; they belong to the liver."""
    rng = body.rng
    value = body.tissue_hu(46, 105)
    for root in (_hilum(body), (66, body.spine_y + 40, 34)):
        for _ in range(5):
            ways = (rng.uniform(-45, 30), rng.uniform(-55, 45), rng.uniform(10, 75))
            z, y, x = (begin + way for begin, way in zip(root, ways, strict=True))
            bow = rng.normal(0, 7, 3) + np.array(root) / 2
            middle = (bow[0] + z / 2, bow[1] + y / 2, bow[2] + x / 2)
            branch = [(*root, 5.0), (*middle, 3.2), (z, y, x, 0.8)]
            body.canvas.paint(common(tube(body.soft, branch), inside), value, None)


def _scanned(body: Body) -> np.ndarray:
    """Blur of the scanner, a little shading, and the noise of its kernel."""
    from scipy import ndimage

    shape = body.frame.shape
    image = ndimage.gaussian_filter(body.canvas.image[0], (0.35, 0.6, 0.6))
    image += 5 * smooth_noise(body.rng, shape, 3)
    image += body.vary(13, 4) * grain(body.rng, shape, (0.3, 0.7, 0.7))
    return np.asarray(np.clip(np.rint(image), -1024, 3071), dtype=np.int16)
