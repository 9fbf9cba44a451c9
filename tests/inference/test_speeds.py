"""What a prediction tells of the time that its windows took."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from napari_kdseg.inference import predict
from napari_kdseg.inference.coarse_to_fine import predict_coarse_to_fine
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.predict import Settings, predict_tiles
from napari_kdseg.models.model import Model, Tiling
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing

Make = Callable[..., Any]
CPU = Settings("cpu", uncertainty=None)


class Clock:
    """Stands still but where a network is at work."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Slow(torch.nn.Module):
    """Class 1 where the grey value is above a half; so many seconds a window."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.seconds * len(image)
        return torch.cat([0.5 - image, image - 0.5], dim=1) * 9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(predict, "time", made)
    return made


def hooks(told: list[Any]) -> Hooks:
    """They write down name, window and seconds of each model that they hear of."""
    return Hooks(
        timed=lambda card, device, tile, seconds, windows, settings: told.append(
            (card.name, tile, seconds / windows)
        )
    )


def _block() -> np.ndarray:
    """A bright block in a corner of a dark volume."""
    data = np.zeros((1, 48, 48, 48), np.float32)
    data[0, 2:14, 3:15, 4:16] = 1
    return data


@pytest.mark.parametrize("air_up_to", [None, 0.25])
@pytest.mark.parametrize("roi", ["all", "coarse"])
def test_windows_that_were_passed_over_make_the_others_no_faster(
    make_simple: Make,
    make_volume: Make,
    clock: Clock,
    air_up_to: float | None,
    roi: Any,
) -> None:
    tiling = Tiling(tile_vox=(16, 16, 16), overlap=0.5, batch=2, air_up_to=air_up_to)
    told: list[Any] = []
    slow = Slow(clock, 3)
    model = make_simple((16, 16, 16), classes=("a",), inner=slow, tiling=tiling)
    for _ in predict_tiles(
        make_volume(data=_block()), [model], replace(CPU, roi=roi), hooks=hooks(told)
    ):
        clock.now += 100  # whoever takes the tiles has time
    passes = 2 if roi == "coarse" else 1
    assert told == [("model", (16, 16, 16), 3)] * passes


def test_models_that_share_a_pass_share_its_time(
    make_simple: Make, make_volume: Make, clock: Clock
) -> None:
    told: list[Any] = []
    one, other = (
        make_simple((16, 16, 16), classes=("a",), inner=Slow(clock, s), name=f"{s}")
        for s in (1, 3)
    )
    list(predict_tiles(make_volume(), [one, other], CPU, hooks=hooks(told)))
    assert told == [("1", (16, 16, 16), 2), ("3", (16, 16, 16), 2)]


def test_both_models_of_a_composite_are_timed(
    make_simple: Make, make_volume: Make, clock: Clock
) -> None:
    told: list[Any] = []
    small = Preprocessing(resize_vox=(8, 8, 8), intensity=(Intensity(kind="none"),))
    coarse = make_simple(
        (8, 8, 8),
        classes=("a",),
        inner=Slow(clock, 1),
        preprocessing=small,
        name="coarse",
    )
    fine = make_simple((16, 16, 16), classes=("a",), inner=Slow(clock, 3), name="fine")
    both = Model.paired(coarse, fine)
    predict_coarse_to_fine(make_volume(data=_block()), both, CPU, hooks(told))
    assert told == [("coarse", (8, 8, 8), 1), ("fine", (16, 16, 16), 3)]


def test_an_empty_scan_tells_nothing(
    make_simple: Make, make_volume: Make, clock: Clock
) -> None:
    told: list[Any] = []
    tiling = Tiling(tile_vox=(16, 16, 16), air_up_to=0.25)
    model = make_simple(
        (16, 16, 16), classes=("a",), inner=Slow(clock, 3), tiling=tiling
    )
    list(predict_tiles(make_volume(data=_block() * 0), [model], CPU, hooks=hooks(told)))
    assert not told
