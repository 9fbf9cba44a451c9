import pytest
import torch
from torch import Tensor

from napari_kdseg.inference.blending import Blender, importance
from napari_kdseg.inference.tiling import Lattice, spans

Sizes = tuple[int, int, int]


def _blend(
    size: Sizes, tile: Sizes, overlap: float, box: tuple[slice, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """What the blender hands on, what plain adding up gives, and how often."""
    lattice = Lattice(
        *(spans(s, t, overlap, b) for s, t, b in zip(size, tile, box, strict=True))
    )
    weights = importance(tile, "gaussian")
    blender = Blender(lattice, 2, weights)
    generator = torch.Generator().manual_seed(0)
    pad = 32
    whole = torch.zeros((2, *(s + 2 * pad for s in size)))
    handed_on = torch.zeros((2, *size))
    times = torch.zeros(size, dtype=torch.int)
    for window in lattice.windows():
        values = torch.randn((2, *tile), generator=generator)
        where = tuple(
            slice(s.start + pad, s.start + pad + t)
            for s, t in zip((window.z, window.y, window.x), tile, strict=True)
        )
        whole[(slice(None), *where)] += values * weights
        blender.add(values)
        finished = blender.close_window()
        if finished is not None:
            at = (finished.z, finished.y, finished.x)
            handed_on[(slice(None), *at)] = finished.sums
            times[at] += 1
    inner = whole[:, pad:-pad, pad:-pad, pad:-pad]
    return handed_on, inner, times


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7, 0.8])
@pytest.mark.parametrize(
    ("size", "tile"),
    [
        ((21, 17, 30), (8, 6, 10)),
        ((16, 16, 16), (8, 8, 8)),
        ((9, 30, 7), (8, 8, 8)),
        ((5, 20, 6), (1, 8, 8)),
        ((3, 4, 5), (8, 8, 8)),
        ((40, 3, 9), (12, 8, 4)),
    ],
)
def test_sums_equal_adding_everything_up_to_the_last_bit(
    size: Sizes, tile: Sizes, overlap: float
) -> None:
    box = tuple(slice(0, s) for s in size)
    handed_on, whole, times = _blend(size, tile, overlap, box)
    assert torch.equal(handed_on, whole)
    assert (times == 1).all()


@pytest.mark.parametrize(
    "box",
    [
        (slice(9, 10), slice(0, 17), slice(0, 30)),
        (slice(0, 21), slice(16, 17), slice(0, 30)),
        (slice(3, 18), slice(2, 9), slice(29, 30)),
    ],
)
def test_a_box_gets_the_sums_of_the_windows_that_touch_it(
    box: tuple[slice, ...],
) -> None:
    # Random values are drawn by window, so the same windows give the same sums.
    handed_on, whole, times = _blend((21, 17, 30), (8, 6, 10), 0.5, box)
    assert torch.equal(handed_on[(slice(None), *box)], whole[(slice(None), *box)])
    assert (times[box] == 1).all()
    assert times.sum() == times[box].numel()


def test_buffers_depend_on_tile_and_face_but_not_on_the_length() -> None:
    def buffers(length: int) -> tuple[Sizes, Sizes]:
        lattice = Lattice(
            spans(length, 8, 0.5, slice(0, length)),
            spans(16, 8, 0.5, slice(0, 16)),
            spans(16, 8, 0.5, slice(0, 16)),
        )
        return lattice.strip_shape, lattice.carried_shape

    assert buffers(32) == buffers(320) == ((8, 8, 16), (4, 16, 16))
