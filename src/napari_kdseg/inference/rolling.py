"""Along which axis a volume is gone through: that which leaves the least to keep.

What the next level of windows still adds to lies across a whole face of the volume. Of
a box that is longer than it is wide and high the smallest face is the one across its
longest axis. An axis that fits into one window gives a single slab, the whole volume:
nothing to look at early and nothing to go on from. Needs no torch.
"""

from collections.abc import Sequence
from math import prod

from napari_kdseg.inference.plan import Pass
from napari_kdseg.inference.tiling import Lattice
from napari_kdseg.models.card import ModelCard
from napari_kdseg.volumes.orientation import rolled_order
from napari_kdseg.volumes.preprocessing import Frame
from napari_kdseg.volumes.volume import Grid

WORTH_A_TURN = 0.75
"""Another axis than the models' own is taken where it keeps at most this part."""


def slow_axis(grid: Grid, cards: Sequence[ModelCard], passes: Sequence[Pass]) -> int:
    """Axis of the stored array along which finished slabs follow one another.

    It depends on the whole volume and the models' windows alone, so that a part that is
    computed later comes in the same order.

    Parameters
    ----------
    grid
        The volume as stored.
    cards, passes
        The models, and the passes that `plan_passes` makes of them.
    """
    own = Frame.of(grid, passes[0].preprocessing).orientation.order[0]
    if any(sweep.preprocessing.scheme == "nnunet" for sweep in passes):
        return own  # prepared whole, in the models' own order
    several = [axis for axis in range(3) if _has_levels(grid, passes, axis)]
    kept = {
        axis: sum(_kept(grid, cards, sweep, axis) for sweep in passes)
        for axis in several or range(3)
    }
    best = min(kept, key=kept.__getitem__)
    stays = own in kept and kept[best] > WORTH_A_TURN * kept[own]
    return own if stays else best


def rolled(grid: Grid, sweep: Pass, axis: int) -> tuple[Frame, Pass, tuple[int, ...]]:
    """A pass that goes along an axis of the stored array.

    Returns
    -------
    tuple
        Its frame and the pass on the axes in their new order, and for each of these
        which axis of the model's frame it is.
    """
    frame = Frame.of(grid, sweep.preprocessing)
    order = rolled_order(frame.orientation.order.index(axis))
    return frame.rolled(axis), sweep.rolled(order), order


def whole_lattice(sweep: Pass, frame: Frame) -> Lattice:
    """All windows of a whole volume."""
    z, y, x = (slice(0, size) for size in frame.model.shape)
    return sweep.lattice(frame.model.shape, (z, y, x))


def _has_levels(grid: Grid, passes: Sequence[Pass], axis: int) -> bool:
    """Whether slabs that go along an axis of the stored array are several."""
    lattices = (
        whole_lattice(turned, frame)
        for frame, turned, _ in (rolled(grid, sweep, axis) for sweep in passes)
    )
    return any(len(lattice.z) > 1 for lattice in lattices)


def _kept(grid: Grid, cards: Sequence[ModelCard], sweep: Pass, axis: int) -> int:
    """Values that wait: for the next windows, and until the slab is complete."""
    frame, turned, _ = rolled(grid, sweep, axis)
    lattice = whole_lattice(turned, frame)
    classes = sum(cards[member].classes.count for member in sweep.members)
    sums = classes * (prod(lattice.carried_shape) + prod(lattice.strip_shape))
    # Planes that are resampled wait as probabilities, others as labels and the like.
    a_voxel = classes if frame.is_resampled else len(sweep.members)
    return sums + a_voxel * prod(lattice.slab_shape)
