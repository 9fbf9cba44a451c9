"""Where layers lie, and that what is written lies where the scan does."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from napari.layers import Image, Labels, Layer

from kdseg_train.samples import make_case
from napari_kdseg.contributions import (
    SAMPLE_CLASSES,
    get_reader,
    read,
    sample_abdomen,
    sample_brain,
    sample_fish,
    write_labels_nifti,
)
from napari_kdseg.errors import GridError, VolumeError
from napari_kdseg.state.layers import (
    NAMESPACE,
    grid_of_layer,
    labels_layer,
    placement,
    source_of_layer,
    uncertainty_layer,
)
from napari_kdseg.volumes.formats import read_labels, write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

SHAPE = (4, 5, 6)  # z, y, x


def affine_of(name: str) -> np.ndarray:
    """Affines by name: plain, flipped to LPS, axes permuted, rotated by 20 degrees."""
    affine = np.diag([0.5, 0.75, 2.0, 1.0])
    affine[:3, 3] = (10.0, -20.0, 30.0)
    if name == "flipped":
        affine[:2] *= -1
    if name == "permuted":
        affine[:3, :3] = affine[[1, 2, 0], :3]
    if name == "oblique":
        angle = np.deg2rad(20)
        turn = np.eye(3)
        turn[1:, 1:] = [
            [np.cos(angle), -np.sin(angle)],
            [np.sin(angle), np.cos(angle)],
        ]
        affine[:3, :3] = turn @ affine[:3, :3]
    return affine


GRIDS = ["plain", "flipped", "permuted", "oblique"]


def scan(folder: Path, name: str) -> Path:
    """A NIfTI scan whose voxels count up, written by nibabel."""
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine_of(name))
    nibabel.save(image, folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


def as_layer(layer_data: tuple[Any, dict[str, Any], str]) -> Layer:
    return Layer.create(*layer_data)


@pytest.mark.parametrize("name", GRIDS)
def test_a_scan_is_shown_as_it_is_stored(tmp_path: Path, name: str) -> None:
    layer = as_layer(read(str(scan(tmp_path, name)))[0])
    assert np.array_equal(
        layer.data, np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    )
    assert (layer.scale > 0).all()
    assert not np.any(layer.shear)
    assert np.array_equal(layer.rotate, np.eye(3))
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
    assert layer.axis_labels == ("z", "y", "x")


def test_an_unflipped_scan_lies_at_its_origin(tmp_path: Path) -> None:
    layer = as_layer(read(str(scan(tmp_path, "plain")))[0])
    assert np.allclose(layer.scale, (2.0, 0.75, 0.5))
    assert np.allclose(layer.translate, (30.0, -20.0, 10.0))


def test_a_cropped_scan_lies_over_the_whole_one() -> None:
    # World x of voxel i is 3 - 2 i; a crop that begins at voxel 4 has its origin at -5.
    affine = np.diag([-2.0, 1.0, 1.0, 1.0])
    affine[0, 3] = 3.0
    whole = Grid.from_affine(affine, SHAPE)
    crop = whole.cropped((slice(0, 4), slice(0, 5), slice(4, 6)))
    assert crop.origin_mm[0] == -5.0
    # 4 voxels of 2 mm further along the axis, in the direction in which x is shown.
    shift = np.subtract(placement(crop)["translate"], placement(whole)["translate"])
    assert np.allclose(shift, (0, 0, 8))


@pytest.mark.parametrize("name", GRIDS)
def test_labels_are_written_with_the_true_affine(tmp_path: Path, name: str) -> None:
    image = as_layer(read(str(scan(tmp_path, name)))[0])
    source = source_of_layer(image)
    painted = np.zeros(SHAPE, np.uint8)
    painted[1, 2, 3] = 1
    labels = as_layer(labels_layer(painted, source.grid, None, name="mine"))
    data, arguments, _ = labels.as_layer_data_tuple()
    [written] = write_labels_nifti(str(tmp_path / "mine.nii.gz"), data, arguments)
    back = nibabel.load(written)
    assert np.allclose(back.affine, affine_of(name), atol=1e-5)
    assert np.argwhere(np.asarray(back.dataobj)).tolist() == [[3, 2, 1]]  # x, y, z


@pytest.mark.parametrize("name", GRIDS)
def test_a_cropped_layer_keeps_the_axes_of_its_file(tmp_path: Path, name: str) -> None:
    image = as_layer(read(str(scan(tmp_path, name)))[0])
    known = image.metadata[NAMESPACE]["grid"]
    box = (slice(1, 3), slice(2, 5), slice(3, 6))
    # As napari's own crop leaves it: the metadata of the whole, another translate.
    shift = np.array((1, 2, 3)) * image.scale
    found = grid_of_layer(
        (2, 3, 3),
        {
            "scale": image.scale,
            "translate": image.translate + shift,
            "units": image.units,
            "metadata": image.metadata,
        },
        "crop",
    )
    assert found.matches(known.cropped(box))


def test_a_layer_of_somebody_else_lies_where_the_viewer_shows_it() -> None:
    layer = Labels(
        np.ones(SHAPE, np.uint8),
        scale=(3, 2, 1),
        translate=(30, 20, 10),
        units=("mm",) * 3,
    )
    _, arguments, _ = layer.as_layer_data_tuple()
    grid = grid_of_layer(SHAPE, arguments, "other")
    assert grid.spacing_mm == (3, 2, 1)
    assert grid.origin_mm == (10, 20, 30)
    assert grid.orientation == "RAS"


def test_a_world_affine_of_another_reader_is_understood() -> None:
    affine = np.diag([2.0, 0.75, -0.5, 1.0])  # z, y, x as napari has it
    affine[:3, 3] = (30, -20, 10)
    layer = Labels(np.ones(SHAPE, np.uint8), affine=affine)
    _, arguments, _ = layer.as_layer_data_tuple()
    grid = grid_of_layer(SHAPE, arguments, "other")
    assert grid.orientation == "LAS"
    assert grid.spacing_mm == (2.0, 0.75, 0.5)
    assert grid.origin_mm == (10, -20, 30)


def test_micrometres_become_millimetres_again() -> None:
    grid = Grid.from_affine(np.diag([0.01, 0.01, 0.02, 1.0]), SHAPE)
    placed = placement(grid)
    assert np.allclose(placed["scale"], (20, 10, 10))
    assert placed["units"] == ("micrometer",) * 3
    layer = Labels(np.ones(SHAPE, np.uint8), scale=(20, 10, 10), units=("um",) * 3)
    _, arguments, _ = layer.as_layer_data_tuple()
    assert grid_of_layer(SHAPE, arguments, "fish").matches(grid, tolerance_mm=1e-6)


def test_four_axes_are_no_volume() -> None:
    with pytest.raises(GridError, match="'movie' has 4 axes"):
        grid_of_layer((2, 4, 5, 6), {}, "movie")


def test_a_sheared_layer_is_refused() -> None:
    with pytest.raises(GridError, match="'skewed' is sheared"):
        grid_of_layer(SHAPE, {"shear": (0, 0, 0.5)}, "skewed")


def test_a_scan_with_four_channels_is_four_layers(tmp_path: Path) -> None:
    grid = Grid.from_affine(np.eye(4), SHAPE)
    names = ("T1", "T2", "FLAIR", "T1ce")
    file = tmp_path / "brain.ome.zarr"
    write_volume(file, np.ones((4, *SHAPE), np.float32), grid, channels=names)
    layers = [as_layer(one) for one in read(str(file))]
    assert [layer.name for layer in layers] == [f"brain {name}" for name in names]
    assert [layer.visible for layer in layers] == [True, False, False, False]
    assert source_of_layer(layers[2]).channels == names
    assert source_of_layer(layers[2]).path == file


def test_the_badge_says_orientation_and_spacing(tmp_path: Path) -> None:
    layer = as_layer(read(str(scan(tmp_path, "flipped")))[0])
    badge = source_of_layer(layer).badge
    assert badge == "LPS, 0.5 x 0.75 x 2.0 mm · 1 channel · int16"


def test_a_layer_whose_file_is_gone_is_an_array(tmp_path: Path) -> None:
    file = scan(tmp_path, "flipped")
    layer = as_layer(read(str(file))[0])
    file.unlink()
    source = source_of_layer(layer)
    assert source.path is None
    assert source.data is layer.data
    assert source.grid.orientation == "LPS"


def test_an_array_has_its_layer_as_channel() -> None:
    source = source_of_layer(Image(np.zeros(SHAPE, np.float32), name="stack"))
    assert source.channels == ("stack",)
    assert source.grid.spacing_mm == (1, 1, 1)


def test_class_names_stand_in_the_status(tmp_path: Path) -> None:
    grid = Grid.from_affine(np.eye(4), SHAPE)
    classes = LabelSet.from_names(["spleen", "liver"])
    layer = as_layer(labels_layer(np.full(SHAPE, 2), grid, classes, name="organs"))
    assert "class: liver" in layer.get_status((1, 1, 1))["value"]


def test_a_value_that_no_class_has_is_still_visible() -> None:
    grid = Grid.from_affine(np.eye(4), SHAPE)
    classes = LabelSet.from_names(["spleen"])
    layer = as_layer(
        labels_layer(np.zeros(SHAPE, np.uint8), grid, classes, name="organs")
    )
    assert layer.get_color(1) is not None
    assert np.allclose(layer.get_color(77), 1.0)
    assert layer.colormap.map(0)[-1] == 0


def test_a_painted_class_is_written_beside_the_known_ones(tmp_path: Path) -> None:
    grid = Grid.from_affine(np.eye(4), SHAPE)
    classes = LabelSet.from_names(["spleen"])
    layer = as_layer(
        labels_layer(np.full(SHAPE, 7, np.uint8), grid, classes, name="organs")
    )
    data, arguments, _ = layer.as_layer_data_tuple()
    [written] = write_labels_nifti(str(tmp_path / "organs"), data, arguments)
    assert written == str(tmp_path / "organs.nii.gz")
    array, _ = read_labels(Path(written))
    assert np.unique(array).tolist() == [7]


def test_uncertainty_kept_in_bytes_is_shown_from_0_to_255() -> None:
    grid = Grid.from_affine(np.eye(4), SHAPE)
    bytes_ = uncertainty_layer(np.zeros(SHAPE, np.uint8), grid, name="u")
    floats = uncertainty_layer(np.zeros(SHAPE, np.float32), grid, name="u")
    assert bytes_[1]["contrast_limits"] == (0, 255)
    assert floats[1]["contrast_limits"] == (0, 1)


def test_label_files_open_as_labels(tmp_path: Path) -> None:
    grid = Grid.from_affine(np.eye(4), SHAPE)
    classes = LabelSet.from_names(["spleen"])
    folder = tmp_path / "labelsTr"
    folder.mkdir()
    write_labels(folder / "case_1.nii.gz", np.ones(SHAPE, np.uint8), grid, classes)
    write_labels(tmp_path / "labels.ome.zarr", np.ones(SHAPE, np.uint8), grid, classes)
    [in_folder] = read(str(folder / "case_1.nii.gz"))
    [by_name] = read(str(tmp_path / "labels.ome.zarr"))
    assert in_folder[2] == by_name[2] == "labels"
    assert by_name[1]["features"]["class"] == ["background", "spleen"]


def test_other_files_are_left_to_other_readers(tmp_path: Path) -> None:
    assert get_reader(str(tmp_path / "picture.png")) is None
    assert get_reader([str(tmp_path / "a.nii"), str(tmp_path / "b.png")]) is None
    assert get_reader(str(tmp_path / "a.nii.gz")) is not None


def test_a_layer_is_described_without_napari() -> None:
    # What the docks ask of a layer, and nothing more.
    layer = SimpleNamespace(
        data=np.zeros(SHAPE),
        multiscale=False,
        name="stack",
        scale=(1, 1, 1),
        translate=(0, 0, 0),
        units=("pixel",) * 3,
        rotate=np.eye(3),
        shear=(0, 0, 0),
        metadata={},
        affine=SimpleNamespace(affine_matrix=np.eye(4)),
    )
    assert source_of_layer(layer).grid.shape == SHAPE


@pytest.mark.parametrize(
    "name", ["case-labels", "sub_seg-manual", "mask", "a_msk", "SEG_1"]
)
def test_names_that_speak_of_labels_make_labels(tmp_path: Path, name: str) -> None:
    grid = Grid.from_affine(np.eye(4), SHAPE)
    write_labels(tmp_path / f"{name}.nii.gz", np.ones(SHAPE, np.uint8), grid, None)
    assert read(str(tmp_path / f"{name}.nii.gz"))[0][2] == "labels"


def test_a_scan_of_fractions_is_never_labels(tmp_path: Path) -> None:
    grid = Grid.from_affine(np.eye(4), SHAPE)
    write_volume(tmp_path / "mask.nii.gz", np.full(SHAPE, 0.5, np.float32), grid)
    assert read(str(tmp_path / "mask.nii.gz"))[0][2] == "image"


@pytest.mark.parametrize("listed", [{"0": "background", "1": "hippo"}, {"hippo": 1}])
def test_class_names_come_from_the_data_set(
    tmp_path: Path, listed: dict[str, Any]
) -> None:
    # Decathlon lists {"1": name}, nnU-Net {name: 1}.
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": listed}))
    (tmp_path / "labelsTr").mkdir()
    file = tmp_path / "labelsTr" / "case.nii.gz"
    grid = Grid.from_affine(np.eye(4), SHAPE)
    write_labels(file, np.ones(SHAPE, np.uint8), grid, None)
    assert read(str(file))[0][1]["features"]["class"] == ["background", "hippo"]


@pytest.mark.parametrize("make", [sample_abdomen, sample_brain, sample_fish])
def test_samples_open_with_their_truth_hidden(make: Any) -> None:
    layers = [as_layer(one) for one in make()]
    images = [layer for layer in layers if isinstance(layer, Image)]
    assert images
    assert isinstance(layers[-1], Labels)
    assert not layers[-1].visible
    assert layers[-1].data.max() >= 3
    assert np.array_equal(layers[-1].scale, images[0].scale)


@pytest.mark.parametrize("name", list(SAMPLE_CLASSES))
def test_samples_call_their_classes_as_they_were_made(name: str) -> None:
    assert make_case(name, 0, 0, 32).classes.names == SAMPLE_CLASSES[name].names


@pytest.mark.slow
def test_every_real_scan_opens_or_is_refused_in_a_sentence(real_data: Path) -> None:
    files = sorted(real_data.rglob("*.nii*"))
    assert files
    refused = {}
    for file in files:
        try:
            layers = [as_layer(one) for one in read(str(file))]
        except VolumeError as error:
            refused[str(file)] = str(error)
            continue
        grid = layers[0].metadata[NAMESPACE]["grid"]
        _, arguments, _ = layers[0].as_layer_data_tuple()
        assert grid_of_layer(grid.shape, arguments, file.name) == grid
    assert len(refused) < len(files)
    assert all(file in sentence for file, sentence in refused.items())


def lie(shape: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """How a layer lies that napari made over a scan flipped at the world's origin."""
    affine = np.diag([-0.4, -0.4, 3.0, 1.0])
    placed = placement(Grid.from_affine(affine, shape))
    return {**placed, "translate": np.zeros(3), "rotate": np.eye(3), **changes}


def test_new_labels_over_a_flipped_scan_at_zero_are_flipped() -> None:
    # Its translate is -0.0, and what napari works out from extents is 0.0.
    found = grid_of_layer(SHAPE, lie(SHAPE), "new")
    assert found.orientation == "LPS"
    assert found.origin_mm == (0, 0, 0)


def test_new_labels_across_two_scans_have_their_axes() -> None:
    larger = (SHAPE[0] + 3, *SHAPE[1:])
    found = grid_of_layer(larger, lie(SHAPE), "new")
    assert found.orientation == "LPS"
    assert found.shape == larger


def test_new_labels_across_scans_turned_differently_are_refused() -> None:
    for sign in (1, -1):
        placement(Grid.from_affine(np.diag([0.3 * sign, 0.3, 5.0, 1.0]), SHAPE))
    arguments = lie(SHAPE, scale=(5.0, 0.3, 0.3))
    with pytest.raises(GridError, match="turned differently"):
        grid_of_layer((9, 9, 9), arguments, "new")
