"""What the made volumes are modelled from: smooth noise, shapes, a canvas.

A *level* says for every voxel how far inside a shape it lies: positive inside, 0 on
the surface, negative outside, in the lengths of its `Space` and exact near the surface.
The smaller of two levels is the intersection of their shapes, the larger the union, a
level with its sign turned the outside. All positions are z, y, x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8

Triple = tuple[float, float, float]
Node = tuple[float, float, float, float]  # z, y, x and the radius there
Level = Float[np.ndarray, "z y x"]
Value = float | np.ndarray | tuple[float, ...]

NEAR = 8.0  # as far from a tube its level is still needed
MEAN_SQUARE = 151 / 315  # of the cubic B-splines around a place, summed


@dataclass(frozen=True)
class Space:
    """Where each voxel lies along z, y and x, once the body has been deformed."""

    z: Level
    y: Level
    x: Level

    @classmethod
    def of(cls, shape: tuple[int, int, int], step: Triple, first: Triple) -> "Space":
        """Give the undeformed space of a grid whose first voxel lies at `first`."""
        z, y, x = (
            np.float32(start) + np.float32(width) * np.arange(count, dtype=np.float32)
            for count, width, start in zip(shape, step, first, strict=True)
        )
        return cls(*np.meshgrid(z, y, x, indexing="ij"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        z, y, x = self.z.shape
        return (z, y, x)

    @cached_property
    def _reach(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Lowest and highest place in each plane across z, across y and across x."""
        others = ((1, 2), (0, 2), (0, 1))
        places = zip((self.z, self.y, self.x), others, strict=True)
        return [(place.min(axis), place.max(axis)) for place, axis in places]

    def around(self, begin: Node, end: Node) -> tuple[tuple[slice, ...], "Space"]:
        """Cut out the box with all that is within `NEAR` of a piece of tube."""
        room = max(begin[3], end[3]) + NEAR
        box = []
        for axis, (lowest, highest) in enumerate(self._reach):
            first, last = sorted((begin[axis], end[axis]))
            planes = np.flatnonzero((highest > first - room) & (lowest < last + room))
            box.append(slice(*(planes[[0, -1]] + (0, 1))) if planes.size else slice(0))
        cut = tuple(box)
        return cut, Space(self.z[cut], self.y[cut], self.x[cut])

    def bent(self, rng: np.random.Generator, waves: int, by: float) -> "Space":
        """Deform smoothly: what is drawn in the result is shifted by about `by`."""
        return Space(
            *(
                axis + np.float32(by) * smooth_noise(rng, self.shape, waves)
                for axis in (self.z, self.y, self.x)
            )
        )

    def offset(self, centre: Triple) -> tuple[Level, Level, Level]:
        """Give the way from `centre` to each voxel along z, y and x."""
        z, y, x = (float(place) for place in centre)
        return self.z - z, self.y - y, self.x - x


def smooth_noise(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    waves: int | tuple[int, int, int],
) -> Level:
    """Random hills and valleys of unit variance, about `waves` along each axis.

    A cubic B-spline over random coefficients whose number does not depend on `shape`:
    one generator state gives one anatomy, however fine the voxels.
    """
    counts = (waves, waves, waves) if isinstance(waves, int) else waves
    field = rng.standard_normal(tuple(count + 3 for count in counts))
    for axis, (size, count) in enumerate(zip(shape, counts, strict=True)):
        field = np.tensordot(_spline_basis(size, count), field, axes=(1, axis))
        field = np.moveaxis(field, 0, axis)
    return np.asarray(field * MEAN_SQUARE**-1.5, dtype=np.float32)


def grain(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    sigma_vox: float | Triple,
) -> Level:
    """Noise of unit variance with a short memory, as of tissue or a CT kernel."""
    from scipy import ndimage

    noise = white_noise(rng, shape)
    noise = ndimage.gaussian_filter(noise, sigma_vox, mode="wrap", truncate=3)
    return np.asarray(noise / noise.std(), dtype=np.float32)


def white_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of unit variance, each voxel for itself.

    It comes from a generator of its own: how many voxels there are must not change
    what `rng` gives next.
    """
    key = rng.integers(2**63, size=2, dtype=np.uint64)
    own = np.random.Generator(np.random.Philox(key=key))
    return own.standard_normal(shape, dtype=np.float32)


def ellipsoid(
    space: Space, centre: Triple, radii: Triple, tilt_deg: Triple = (0, 0, 0)
) -> Level:
    """Level of an ellipsoid, turned about its z, its y and then its x axis."""
    way = space.offset(centre)
    for (first, second), angle in zip(((1, 2), (0, 2), (0, 1)), tilt_deg, strict=True):
        way = _turned(way, first, second, angle)
    scaled = [part / float(radius) for part, radius in zip(way, radii, strict=True)]
    steep = [part / float(radius) for part, radius in zip(scaled, radii, strict=True)]
    length = np.sqrt(sum(part**2 for part in scaled))
    slope = np.sqrt(sum(part**2 for part in steep))
    level = length * (1 - length) / np.maximum(slope, 1e-6)
    # That estimate breaks down at the centre, where the nearest surface is known.
    return np.where(length < 0.05, np.float32(min(radii)), level)


def tube(space: Space, nodes: Sequence[Node]) -> Level:
    """Level of a tube that runs through the nodes, round at both ends.

    More than `NEAR` away from it the level may be minus infinity, to save time.
    """
    level = np.full(space.shape, -np.inf, dtype=np.float32)
    for start, stop in pairwise(nodes):
        box, near = space.around(start, stop)
        dz, dy, dx = near.offset(start[:3])
        az, ay, ax, growth = (
            float(end - begin) for begin, end in zip(start, stop, strict=True)
        )
        share = (dz * az + dy * ay + dx * ax) / (az**2 + ay**2 + ax**2)
        np.clip(share, 0, 1, out=share)
        square = (dz - share * az) ** 2 + (dy - share * ay) ** 2
        square += (dx - share * ax) ** 2
        radius = float(start[3]) + share * growth
        np.maximum(level[box], radius - np.sqrt(square), out=level[box])
    return level


def stripes(place: Level) -> Level:
    """Distance to the middle between whole numbers: 0 there, 0.5 at each of them."""
    return np.asarray(np.abs(place - np.floor(place) - np.float32(0.5)))


def common(*levels: Level) -> Level:
    """Level of what lies inside every one of the shapes."""
    return np.asarray(np.min(levels, axis=0))


def any_of(*levels: Level) -> Level:
    """Level of what lies inside at least one of the shapes."""
    return np.asarray(np.max(levels, axis=0))


class Canvas:
    """Image and labels being painted, structure after structure, the later on top.

    Parameters
    ----------
    channels
        Channels of the image; all begin with `ground`.
    edge
        Over how much level a surface fades, about a voxel: partial volume.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        edge: float,
        *,
        channels: int = 1,
        ground: float = 0.0,
    ) -> None:
        self.image = np.full((channels, *shape), ground, dtype=np.float32)
        self.labels: UInt8[np.ndarray, "z y x"] = np.zeros(shape, dtype=np.uint8)
        self._edge = edge

    def paint(self, level: Level, value: Value, label: int | None = 0) -> None:
        """Put a structure on top of what is there.

        Parameters
        ----------
        value
            One for all voxels, one a voxel, or (a tuple) one a channel.
        label
            What its voxels are; None keeps the labels below, for texture in an organ.
        """
        inside = np.nonzero(level > -self._edge / 2)
        cover = np.clip(level[inside] / self._edge + 0.5, 0, 1)
        values = value if isinstance(value, tuple) else (value,) * len(self.image)
        for channel, wanted in zip(self.image, values, strict=True):
            there = wanted[inside] if isinstance(wanted, np.ndarray) else wanted
            channel[inside] += cover * (there - channel[inside])
        if label is not None:
            self.labels[level > 0] = label


def vary(rng: np.random.Generator, mean: float, spread: float) -> float:
    """Draw evenly from `mean` - `spread` to `mean` + `spread`."""
    return mean + spread * float(rng.uniform(-1, 1))


def _spline_basis(size: int, waves: int) -> Float[np.ndarray, "place spline"]:
    """Weight of each of `waves` + 3 cubic B-splines at `size` places."""
    place = np.linspace(1, waves + 1, size)[:, np.newaxis]
    apart = np.abs(place - np.arange(waves + 3))
    near = 2 / 3 - apart**2 + apart**3 / 2
    return np.where(apart < 1, near, np.clip(2 - apart, 0, None) ** 3 / 6)


def _turned(
    way: tuple[Level, Level, Level], first: int, second: int, angle_deg: float
) -> tuple[Level, Level, Level]:
    if angle_deg == 0:
        return way
    turn = np.radians(angle_deg)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    parts = list(way)
    parts[first] = cos * way[first] - sin * way[second]
    parts[second] = sin * way[first] + cos * way[second]
    return parts[0], parts[1], parts[2]
