"""Windows that are not computed: air, and what a coarse pass found nothing in."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.predict import Settings, predict_volume
from napari_kdseg.models.model import Tiling

Make = Callable[..., Any]
CPU = Settings("cpu", uncertainty="entropy", probabilities=True)


class Counting(torch.nn.Module):
    """Class 1 where the grey value is above a half; counts the windows it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.windows += len(image)
        return torch.cat([0.5 - image, image - 0.5], dim=1) * 9


def _block() -> np.ndarray:
    """A bright block in a corner of a dark volume."""
    data = np.zeros((1, 48, 48, 48), np.float32)
    data[0, 2:14, 3:15, 4:16] = 1
    return data


def test_a_coarse_region_gives_the_labels_of_all_windows_from_fewer(
    make_simple: Make, make_volume: Make
) -> None:
    network = Counting()
    model = make_simple((16, 16, 16), classes=("a",), inner=network)
    volume = make_volume(data=_block())
    everywhere = predict_volume(volume, [model], CPU)
    # Starts 0, 8, ..., 32 along each axis.
    assert network.windows == 125
    network.windows = 0
    notes: list[str] = []
    found = predict_volume(
        volume, [model], replace(CPU, roi="coarse"), hooks=Hooks(log=notes.append)
    )
    assert network.windows < 60
    assert "coarse pass found something in 1 %" in notes[0]
    np.testing.assert_array_equal(found.labels[0], everywhere.labels[0])
    np.testing.assert_array_equal(found.labels[0], _block()[0] > 0.5)


def test_what_was_not_computed_is_background_for_sure(
    make_simple: Make, make_volume: Make
) -> None:
    model = make_simple((16, 16, 16), classes=("a",), inner=Counting())
    volume = make_volume(data=_block())
    found = predict_volume(volume, [model], replace(CPU, roi="coarse"))
    assert found.probabilities is not None
    assert found.uncertainty is not None
    far = (slice(40, 48),) * 3
    np.testing.assert_allclose(found.probabilities[0][(0, *far)], 1)
    np.testing.assert_allclose(found.uncertainty[0][far], 0, atol=1e-6)
    assert np.isfinite(found.probabilities[0]).all()


def test_a_volume_without_foreground_is_background(
    make_simple: Make, make_volume: Make
) -> None:
    model = make_simple((16, 16, 16), classes=("a",), inner=Counting())
    volume = make_volume(data=np.zeros((1, 20, 20, 40), np.float32))
    found = predict_volume(volume, [model], replace(CPU, roi="coarse"))
    assert not found.labels[0].any()


def test_air_is_passed_over_where_the_card_allows_it(
    make_simple: Make, make_volume: Make
) -> None:
    network = Counting()
    tiling = Tiling(tile_vox=(16, 16, 16), overlap=0.5, batch=2, air_up_to=0.25)
    model = make_simple((16, 16, 16), classes=("a",), inner=network, tiling=tiling)
    found = predict_volume(make_volume(data=_block()), [model], CPU)
    # Two windows along each axis reach the block: those that start at 0 and 8.
    assert network.windows == 8
    np.testing.assert_array_equal(found.labels[0], _block()[0] > 0.5)


def test_a_card_without_air_has_the_fingerprint_it_had(make_simple: Make) -> None:
    assert "air_up_to" not in str(make_simple().card.what_changes_labels())
