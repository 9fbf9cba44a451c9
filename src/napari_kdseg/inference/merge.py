"""Several passes over one volume in step, so that their results come out together."""

from collections.abc import Iterator, Sequence

import numpy as np

from napari_kdseg.inference.plan import LEAST_PLANES
from napari_kdseg.inference.reduce import Maps, joined
from napari_kdseg.inference.sweep import Slab
from napari_kdseg.volumes.orientation import Orientation
from napari_kdseg.volumes.volume import Box


class _Queue:
    """The slabs of one pass that are not handed on yet."""

    def __init__(self, slabs: Iterator[Slab], first: int) -> None:
        self._slabs = slabs
        self._parts: list[Maps] = []
        self.reached = first

    def advance(self) -> None:
        slab = next(self._slabs)
        self._parts.append(slab.maps)
        self.reached = slab.z.stop

    def end(self) -> None:
        """Let the pass do what it does after its last slab."""
        rest = next(self._slabs, None)
        assert rest is None

    def take(self, count: int) -> Maps:
        """Hand on the next planes."""
        taken: list[Maps] = []
        while count:
            part = self._parts.pop(0)
            if part.depth > count:
                self._parts.insert(0, part.planes(slice(count, None)))
                part = part.planes(slice(0, count))
            taken.append(part)
            count -= part.depth
        return joined(taken)


def in_step(
    passes: Sequence[Iterator[Slab]], wanted: slice
) -> Iterator[tuple[slice, list[Maps]]]:
    """Advance the pass that is furthest behind; hand on planes that all have finished.

    Parameters
    ----------
    passes
        Slabs of each pass, following one another along z.
    wanted
        All planes they cover.

    Yields
    ------
    tuple
        Planes, and the results of each pass for them.
    """
    queues = [_Queue(slabs, wanted.start) for slabs in passes]
    done = wanted.start
    while done < wanted.stop:
        behind = min(queues, key=lambda queue: queue.reached)
        ready = behind.reached - done
        if ready >= LEAST_PLANES or behind.reached == wanted.stop:
            yield slice(done, done + ready), [queue.take(ready) for queue in queues]
            done += ready
        else:
            behind.advance()
    for queue in queues:
        queue.end()


def turned(
    slabs: Iterator[Slab], own: Orientation, other: Orientation, box: Box
) -> Iterator[Slab]:
    """Bring a pass that runs along other axes in line: it runs to its end first.

    Parameters
    ----------
    slabs
        The pass.
    own, other
        Its axes, and those wanted.
    box
        What the pass covers, on its own axes.
    """
    maps = joined([slab.maps for slab in slabs])
    turn = maps.change(
        lambda array: np.ascontiguousarray(other.to_oriented(own.to_source(array)))
    )
    z = other.oriented_index(own.source_index(box))[0]
    yield Slab(z, turn)
