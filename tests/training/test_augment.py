"""Random changes of patches: image, labels and soft labels move as one."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdseg_train.augment import Sample, augmented
from kdseg_train.config import Augmentation

OUTSIDE = -7.0


class Told(np.random.Generator):
    """A generator that draws what it was told to."""

    def __init__(self, random: Iterable[float], uniform: Iterable[float] = ()) -> None:
        super().__init__(np.random.PCG64())
        self.chances, self.numbers = iter(random), iter(uniform)

    def random(self, *_: Any) -> Any:  # type: ignore[override]
        return next(self.chances, 1.0)  # 1: not this change

    def uniform(self, *_: Any) -> Any:
        return next(self.numbers)


def moved(
    sample: Sample, degrees: float, zoom: float = 1.0, pad_value: float = OUTSIDE
) -> Sample:
    """Turn and zoom a sample by as much as is said, and change nothing else of it."""
    settings = Augmentation(
        probability=1, rotation_degrees=180, scale=0.5, noise=0, contrast=0
    )
    drawn = Told([0], [degrees / 180, (zoom - 1) / 0.5])
    return augmented(sample, settings, drawn, pad_value=pad_value)


def counted(*shape: int, classes: int = 3) -> Sample:
    """Grey values 1, 2, ... with labels of their own and two teachers sure of them."""
    image = torch.arange(1.0, 1 + math.prod(shape)).reshape(1, *shape)
    labels = (image[0] % classes).long()
    told = torch.nn.functional.one_hot(labels, classes).movedim(-1, 0).float()
    return Sample(image, labels, torch.stack([told, told.flip(0)]))


def close(found: Tensor, wanted: Any) -> bool:
    return torch.allclose(found.float(), torch.as_tensor(wanted).float(), atol=1e-4)


# ---- turns ----


@pytest.mark.parametrize("quarters", [1, -1, 2])
@pytest.mark.parametrize("shape", [(5, 5), (4, 4), (3, 6, 6)])
def test_quarter_turns_of_a_square_move_all_voxels_as_they_are(
    shape: tuple[int, ...], quarters: int
) -> None:
    given = counted(*shape)
    found = moved(given, 90 * quarters)
    assert given.soft is not None
    assert found.soft is not None
    for before, after in (
        (given.image, found.image),
        (given.labels, found.labels),
        (given.soft, found.soft),
    ):
        assert close(after, before.rot90(quarters, (-2, -1)))
    assert found.labels.dtype == torch.int64


def test_a_quarter_turn_of_a_strip_brings_in_padding_and_background() -> None:
    #  1 2 3 4    the square 2 3 / 6 7 turns in its place, and what would be above and
    #  5 6 7 8    below it lies outside
    given = counted(2, 4)
    found = moved(given, 90)
    assert close(found.image, [[[-7, 3, 7, -7], [-7, 2, 6, -7]]])
    assert found.labels.tolist() == [[0, 3 % 3, 7 % 3, 0], [0, 2 % 3, 6 % 3, 0]]
    assert found.soft is not None
    assert close(found.soft[:, :, :, 0], [[[1, 1], [0, 0], [0, 0]]] * 2)
    assert close(found.soft[0, :, 0, 2], [0, 1, 0])
    assert close(found.soft[1, :, 0, 2], [0, 1, 0])
    assert close(found.soft[0, :, 1, 1], [0, 0, 1])
    assert close(found.soft[1, :, 1, 1], [1, 0, 0])


# ---- zoom ----


@pytest.mark.parametrize("zoom", [0.5, 1.25, 1.5])
def test_a_zoom_keeps_the_centre_and_stretches_what_is_around_it(zoom: float) -> None:
    # a ramp of slope 1 along x and of slope 10 along y becomes as much less steep
    y, x = torch.meshgrid(torch.arange(-3.0, 4), torch.arange(-3.0, 4), indexing="ij")
    ramp = 10 * y + x
    given = Sample(ramp[None], torch.zeros(7, 7, dtype=torch.int64))
    found = moved(given, 0, zoom).image[0]
    assert found[3, 3].item() == pytest.approx(0, abs=1e-4)
    inside = (y.abs() <= 3 * zoom) & (x.abs() <= 3 * zoom)
    assert close(found[inside], ramp[inside] / zoom)


def test_half_the_size_leaves_means_of_four_and_a_frame_of_what_is_outside() -> None:
    #   1  2 |  3  4     (1 + 2 + 5 + 6) / 4 = 3.5, and so on: 5.5, 11.5, 13.5
    #   5  6 |  7  8
    #   9 10 | 11 12
    labels = torch.tensor([[1, 2], [2, 1]]).repeat_interleave(2, 0)
    labels = labels.repeat_interleave(2, 1)
    told = torch.nn.functional.one_hot(labels, 3).movedim(-1, 0).float()[None]
    found = moved(Sample(counted(4, 4).image, labels, told), 0, 0.5)
    frame = torch.ones(4, 4, dtype=torch.bool)
    frame[1:3, 1:3] = False
    assert close(found.image[0, 1:3, 1:3], [[3.5, 5.5], [11.5, 13.5]])
    assert close(found.image[0, frame], [OUTSIDE] * 12)
    assert found.labels[1:3, 1:3].tolist() == [[1, 2], [2, 1]]
    assert not found.labels[frame].any()
    assert found.soft is not None
    assert torch.equal(found.soft[0].argmax(0), found.labels)
    assert close(found.soft[0, 0, frame], [1.0] * 12)


# ---- all at once ----


@pytest.mark.parametrize(("degrees", "zoom"), [(20, 1.2), (-75, 0.7), (133, 1.0)])
def test_image_labels_and_soft_labels_move_alike(degrees: float, zoom: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (12, 16), generator=generator)
    organ = labels.float()
    given = Sample(organ[None], labels, torch.stack([1 - organ, organ])[None])
    found = moved(given, degrees, zoom, pad_value=0)
    assert found.soft is not None
    seen = found.image[0]
    assert close(found.soft[0, 1], seen)
    assert close(found.soft.sum(1), torch.ones(1, 12, 16))
    # the nearest voxel has a quarter of the weight or more
    assert found.labels[seen > 0.751].all()
    assert not found.labels[seen < 0.249].any()
    assert {0, 1} == set(found.labels.unique().tolist())


def test_a_mirrored_sample_is_mirrored_in_all_its_parts() -> None:
    given = counted(2, 3, 4)
    settings = Augmentation(probability=0, mirror=(0, 1, 2))
    # of z, y and x the first and the last; the first draw is the turn's
    drawn = Told([1, 0.4, 0.6, 0.4])
    found = augmented(given, settings, drawn, pad_value=OUTSIDE)
    assert given.soft is not None
    assert found.soft is not None
    assert torch.equal(found.image, given.image.flip(1, 3))
    assert torch.equal(found.labels, given.labels.flip(0, 2))
    assert torch.equal(found.soft, given.soft.flip(2, 4))


def test_what_is_drawn_alike_changes_alike_and_spares_what_was_given() -> None:
    given, settings = counted(8, 8), Augmentation(probability=1, mirror=(1, 2))
    before = given.image.clone()
    first, again, other = (
        augmented(given, settings, np.random.default_rng(seed), pad_value=OUTSIDE)
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    assert torch.equal(given.image, before)
