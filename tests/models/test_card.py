"""The card of a model: what it accepts, and which volumes fit it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from napari_kdseg.errors import ModelError
from napari_kdseg.models.card import in_words
from napari_kdseg.models.model import ModelCard, NetworkSpec, Tiling
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid, Volume


def card(**changes: Any) -> ModelCard:
    values: dict[str, Any] = {
        "name": "abdomen",
        "network": NetworkSpec(name="unet", parameters={"width": 2, "stages": 3}),
        "channels": ("CT",),
        "classes": LabelSet.from_names(["spleen", "kidney"]),
        "tiling": Tiling(tile_vox=(16, 16)),
    }
    return ModelCard(**{**values, **changes})


def volume(
    channels: tuple[str, ...] = ("CT",),
    shape: tuple[int, int, int] = (4, 6, 8),
    spacing_mm: tuple[float, float, float] = (2.0, 1.0, 1.0),
) -> Volume:
    grid = Grid.from_affine(np.diag([*spacing_mm[::-1], 1.0]), shape)
    data = np.zeros((len(channels), *shape), dtype=np.int16)
    return Volume(data, grid, channels)


def test_a_card_writes_down_every_setting_of_its_network():
    assert card().network.parameters == {
        "dimensions": 2,
        "width": 2,
        "stages": 3,
        "max_width": None,
        "convolutions": 2,
        "down": "convolution",
    }


def test_the_tile_says_whether_a_model_is_2d_or_3d():
    spec = NetworkSpec(
        name="unet", parameters={"dimensions": 3, "width": 2, "stages": 3}
    )
    assert card().dimensions == 2
    solid = card(network=spec, tiling=Tiling(tile_vox=(8, 16, 16)))
    assert solid.dimensions == 3


@pytest.mark.parametrize("name", ["abdomen", "MS-KD 2D v1.0", "Milz_größe", "a"])
def test_names_that_make_good_folders_are_taken(name: str):
    assert card(name=name).name == name


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "/etc/x", "a/b", "a\\b", "C:x", ".x", "x.", "x ", "a\nb", "a*"],
)
def test_names_that_could_leave_their_folder_are_refused(name: str):
    with pytest.raises(ValidationError, match="becomes a folder"):
        card(name=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ()}, "at least 1"),
        ({"channels": ("t1", "t1")}, "name of its own"),
        ({"classes": LabelSet(classes=())}, "at least one class"),
        ({"network": NetworkSpec(name="vnet")}, "no network 'vnet'"),
        ({"tiling": Tiling(tile_vox=(16, 18))}, "multiples of 4"),
        ({"tiling": Tiling(tile_vox=(16, 16, 16))}, "both must agree"),
        ({"postprocessing": {"fill_holes": ("liver",)}}, "'liver', which is no class"),
        ({"postprocessing": {"keep_largest": {"spleen": 0}}}, "at least 1 component"),
        (
            {"preprocessing": Preprocessing(intensity=(Intensity(), Intensity()))},
            "2 entries for 1 channels",
        ),
        ({"spacing_range_mm": (2.0, 1.0)}, "least and the largest"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_parts_that_do_not_agree_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        card(**changes)


@pytest.mark.parametrize("tile", [(16,), (1, 2, 3, 4), (0, 16)])
def test_a_tile_has_two_or_three_sizes(tile: tuple[int, ...]):
    with pytest.raises(ValidationError, match="two sizes"):
        Tiling(tile_vox=tile)


def test_a_volume_that_fits_is_taken():
    card(spacing_range_mm=(1.0, 2.0)).check_fits(volume())


def test_channel_names_that_a_file_did_not_know_do_not_matter():
    card().check_fits(volume(channels=("image",)))


def test_a_volume_with_other_channels_is_told_which():
    model = card(channels=("t1", "t2"))
    with pytest.raises(ModelError, match=r"1 channel \(image\); abdomen takes 2 \(t1"):
        model.check_fits(volume(channels=("image",)))


def test_channels_in_another_order_are_refused():
    model = card(channels=("t1", "t2"))
    with pytest.raises(ModelError, match="channels t2, t1; abdomen takes t1, t2"):
        model.check_fits(volume(channels=("t2", "t1")))


def test_a_spacing_out_of_range_is_refused_by_name():
    model = card(spacing_range_mm=(0.5, 1.5))
    with pytest.raises(ModelError, match=r"scan 7 .*2 x 1 x 1 mm.*0\.5 to 1\.5 mm"):
        model.check_fits(volume(), name="scan 7")


def test_a_header_is_called_by_its_file():
    fits = volume(channels=("t1", "t2"))
    header = Header(Path("scan.nii"), fits.grid, fits.channels, np.dtype(np.int16))
    with pytest.raises(ModelError, match=r"scan\.nii has 2 channels"):
        card().check_fits(header)


def test_a_spacing_at_the_limit_fits_after_rounding():
    model = card(spacing_range_mm=(1.0, 2.0))
    model.check_fits(volume(spacing_mm=(2.0004, 0.9998, 1.0)))


def test_a_single_slice_does_not_fit_a_3d_model():
    spec = NetworkSpec(
        name="unet", parameters={"dimensions": 3, "width": 2, "stages": 3}
    )
    model = card(network=spec, tiling=Tiling(tile_vox=(8, 16, 16)))
    with pytest.raises(ModelError, match=r"one slice.*Take a 2D model"):
        model.check_fits(volume(shape=(1, 6, 8)))


def test_a_single_slice_fits_a_2d_model():
    card().check_fits(volume(shape=(1, 6, 8)))


def test_the_card_in_words_names_what_a_person_asks_for():
    text = in_words(card(licence="CC0", description="Made scans."), "ab12")
    for part in ("# abdomen", "Made scans.", "| 1 | spleen |", "CT", "CC0", "`ab12`"):
        assert part in text
