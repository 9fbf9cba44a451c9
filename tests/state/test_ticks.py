"""Models stay ticked for scans of the kind that they were ticked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_kdseg.models.card import ModelCard, NetworkSpec, Tiling
from napari_kdseg.models.model import Model, save_model
from napari_kdseg.models.networks import build
from napari_kdseg.state.layers import Source
from napari_kdseg.state.segmentation import Segmentation
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid

MakeModel = Callable[..., Model]
SHAPE = (4, 16, 16)


@pytest.fixture
def state(tmp_path: Path) -> Segmentation:
    return Segmentation(Idle(), tmp_path / "cache")  # type: ignore[arg-type]


@pytest.fixture
def make_model(state: Segmentation, tmp_path: Path) -> MakeModel:
    """A model that the dock offers."""

    def make(name: str, channels: tuple[str, ...] = ("CT",), **more: Any) -> Model:
        network = NetworkSpec(
            name="unet", parameters={"dimensions": 2, "width": 2, "stages": 2}
        )
        card = ModelCard(
            name=name,
            network=network,
            channels=channels,
            classes=LabelSet.from_names(["spleen"]),
            preprocessing=Preprocessing(intensity=(Intensity(kind="none"),)),
            tiling=Tiling(tile_vox=(16, 16)),
            **more,
        )
        torch.manual_seed(0)
        save_model(tmp_path / name, card, build(network, len(channels), 2))
        return state.add_model(tmp_path / name)

    return make


class Idle:
    """A worker that is asked for nothing."""

    class changed:  # noqa: N801 - a signal that nobody emits
        @staticmethod
        def connect(_slot: object) -> None: ...

    @staticmethod
    def start() -> None: ...


def scan(
    name: str, spacing_mm: float = 1.0, channels: tuple[str, ...] = ("image",)
) -> Source:
    affine = np.diag([spacing_mm, spacing_mm, 3 * spacing_mm, 1.0])
    grid = Grid.from_affine(affine, SHAPE)
    return Source(name, grid, channels, np.dtype(np.int16), Path(f"/{name}.nii"))


def test_scans_of_a_project_keep_the_models_that_were_ticked(
    state: Segmentation, make_model: MakeModel
) -> None:
    organs = make_model("organs")
    state.set_source(scan("first", 0.8))
    state.choose(organs)
    state.set_source(None)
    for name, spacing_mm in (("second", 0.5), ("third", 2.5)):
        state.set_source(scan(name, spacing_mm))
        assert state.chosen == (organs,)


def test_a_model_that_was_ticked_for_a_ct_is_not_for_a_fish_and_the_line_says_why(
    state: Segmentation, make_model: MakeModel
) -> None:
    organs = make_model("organs")
    state.set_source(scan("abdomen", 2.0))
    state.choose(organs)
    state.set_source(scan("fish", 0.02))
    assert not state.misfit(organs)  # both have one channel
    assert state.chosen == ()
    assert state.problem == (
        "Tick at least one model. Ticked for another kind of scan: organs. This one "
        "has voxels of 0.029 mm, not 2.9 mm."
    )


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (("ct",), ("T1",), "t1, not ct"),
        (("T1", "T2"), ("image",), "1 channel, not 2"),
        (("image",), ("T1", "T2"), "2 channels, not 1"),
    ],
)
def test_scans_with_other_channels_are_of_another_kind(
    state: Segmentation,
    make_model: MakeModel,
    before: tuple[str, ...],
    after: tuple[str, ...],
    why: str,
) -> None:
    model = make_model("organs", channels=before)
    state.set_source(scan("first", channels=before))
    state.choose(model)
    state.set_source(scan("second", channels=after))
    assert state.chosen == ()
    assert f"This one has {why}." in state.problem


def test_a_scan_whose_channel_nobody_named_may_be_of_the_same_kind(
    state: Segmentation, make_model: MakeModel
) -> None:
    model = make_model("organs")
    state.set_source(scan("first", channels=("CT",)))
    state.choose(model)
    for channels in (("image",), ("ct",)):
        state.set_source(scan("second", channels=channels))
        assert state.chosen == (model,)


def test_each_kind_of_scan_has_its_own_ticks_when_a_person_comes_back(
    state: Segmentation, make_model: MakeModel
) -> None:
    organs, fish = make_model("organs"), make_model("fish")
    state.set_source(scan("abdomen", 2.0))
    state.choose(organs)
    state.set_source(scan("fish", 0.02))
    state.choose(fish)
    assert state.chosen == (fish,)
    state.set_source(scan("abdomen", 2.0))
    assert state.chosen == (organs,)
    state.choose(organs, chosen=False)
    state.choose(fish)  # he knows what he does
    state.set_source(scan("fish", 0.02))
    assert state.chosen == (fish,)


def test_what_is_ticked_before_any_scan_is_open_is_meant_for_the_first_that_it_fits(
    state: Segmentation, make_model: MakeModel
) -> None:
    organs, coarse = make_model("organs"), make_model("coarse", spacing_range_mm=(5, 9))
    state.choose(organs)
    state.choose(coarse)
    state.set_source(scan("abdomen", 1.0))
    assert state.chosen == (organs,)
    state.set_source(scan("thick", 2.5))
    assert state.chosen == (organs,)
    state.set_source(scan("fish", 0.02))
    assert state.chosen == ()
