"""The Quality Classifier at work: what it sees, and what its answer means."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_kdseg.errors import GridError, ModelError, StopRequested
from napari_kdseg.inference.quality import (
    QualityClassifier,
    Slices,
    calibrated,
    classifier_input,
    stretched,
)
from napari_kdseg.models.card import Calibration
from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, Tiling, save_model
from napari_kdseg.models.networks import build, build_classifier
from napari_kdseg.models.networks.quality import QualityNetwork
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid, Volume

SHAPE = (5, 6, 7)


def card(**changes: Any) -> ModelCard:
    values: dict[str, Any] = {
        "name": "judge",
        "role": "quality-classifier",
        "network": NetworkSpec(name="resnet18-quality", parameters={"width": 4}),
        "channels": ("image",),
        "classes": LabelSet.from_names(["liver", "gut"]),
        "preprocessing": Preprocessing(intensity=(Intensity(kind="none"),)),
        "tiling": Tiling(tile_vox=(32, 32), overlap=0),
        "calibration": Calibration(slope=2.0, intercept=-0.5),
    }
    return ModelCard(**(values | changes))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    torch.manual_seed(0)
    made = card()
    network = build_classifier(made.network, 1, made.classes.count)
    with torch.no_grad():  # drawn answers hardly differ
        network.head.weight *= 3
    return save_model(tmp_path / "judge", made, network)


def scan(directions: tuple[int, int, int] = (1, 1, 1)) -> tuple[Volume, np.ndarray]:
    """The same fish, stored along other directions (z, y, x)."""
    generator = np.random.default_rng(0)
    data = generator.normal(size=(1, *SHAPE)).astype(np.float32)
    labels = generator.integers(0, 3, SHAPE).astype(np.uint8)
    flips = tuple(slice(None, None, sign) for sign in directions)
    affine = np.diag([*map(float, directions[::-1]), 1.0])
    grid = Grid.from_affine(affine, SHAPE)
    return Volume(data[:, *flips], grid, ("image",)), labels[flips]


# ---- what the network sees ----


def test_the_image_comes_first_then_one_channel_an_organ() -> None:
    image = torch.rand(2, 1, 4, 4)
    labels = torch.tensor([[[0, 1], [2, 2]]]).repeat(2, 2, 2)
    seen = classifier_input(image, labels, organs=2)
    assert seen.shape == (2, 3, 4, 4)
    assert torch.equal(seen[:, :1], image)
    assert seen[0, 1, :2, :2].tolist() == [[0, 1], [0, 0]]
    assert seen[0, 2, :2, :2].tolist() == [[0, 0], [1, 1]]


def test_mask_channels_are_disjoint_and_background_has_none() -> None:
    labels = torch.randint(0, 4, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    masks = classifier_input(torch.zeros(1, 1, 8, 8), labels, organs=3)[:, 1:]
    assert torch.equal(masks.sum(dim=1), (labels > 0).float())


def test_numbering_organs_anew_moves_their_channels() -> None:
    labels = torch.randint(0, 4, (1, 8, 8), generator=torch.Generator().manual_seed(1))
    renamed = torch.tensor([0, 3, 1, 2])[labels]
    image = torch.zeros(1, 1, 8, 8)
    plain, moved = (classifier_input(image, one, 3) for one in (labels, renamed))
    assert torch.equal(moved[:, [3, 1, 2]], plain[:, [1, 2, 3]])


def test_stretching_keeps_labels_whole_and_a_flat_image_flat() -> None:
    labels = np.array([[0, 5], [5, 2]], np.uint8)
    seen = stretched(np.full((1, 2, 2), 3.0, np.float32), labels, (4, 8))
    assert seen.image.shape == (1, 4, 8)
    assert np.unique(seen.image).tolist() == [3.0]
    assert seen.labels.tolist() == np.repeat(labels, 2, 0).repeat(4, 1).tolist()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("directions", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)])
def test_slices_look_alike_however_the_scan_is_stored(
    axis: int, directions: tuple[int, int, int]
) -> None:
    how = Preprocessing(intensity=(Intensity(kind="none"),))
    plain = Slices(*scan(), how).read(axis, 0, SHAPE[axis])
    stored = Slices(*scan(directions), how).read(axis, 0, SHAPE[axis])
    for (image, mask), (other, its) in zip(
        plain, stored[:: directions[axis]], strict=True
    ):
        assert np.array_equal(image, other)
        assert np.array_equal(mask, its)


def test_a_part_of_the_slices_is_that_part() -> None:
    volume, labels = scan((-1, 1, 1))
    slices = Slices(volume, labels, Preprocessing())
    every, some = slices.read(0, 0, 5), slices.read(0, 1, 3)
    assert all(
        np.array_equal(a[1], b[1]) for a, b in zip(every[1:3], some, strict=True)
    )


def test_scans_are_not_resampled_to_be_judged() -> None:
    volume, labels = scan()
    how = Preprocessing(spacing_mm=(2.0, 2.0, 2.0))
    assert len(Slices(volume, labels, how).read(0, 0, 5)) == 5


# ---- what it answers ----


def test_calibration_is_worked_out_by_hand() -> None:
    # 2 * 0.5 + ln 3 - 1 = ln 3, and 3 / (3 + 1) = 0.75
    found = calibrated(torch.tensor([0.5]), slope=2.0, intercept=math.log(3) - 1)
    assert found.item() == pytest.approx(0.75)


def test_every_slice_gets_a_probability(model: Model) -> None:
    classifier = QualityClassifier.of(model, "cpu")
    for axis, count in enumerate(SHAPE):
        found = classifier.score(*scan(), axis)
        assert found.shape == (count,)
        assert ((found > 0) & (found < 1)).all()


def test_slices_are_judged_alike_however_many_at_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = QualityClassifier.of(model, "cpu")
    together = classifier.score(*scan(), 0)
    monkeypatch.setattr("napari_kdseg.inference.quality.SLICES_AT_ONCE", 2)
    assert classifier.score(*scan(), 0) == pytest.approx(together, abs=1e-5)


def test_labels_change_the_answer(model: Model) -> None:
    classifier = QualityClassifier.of(model, "cpu")
    volume, labels = scan()
    other = classifier.score(volume, (labels + 1) % 3, 0)
    assert not np.allclose(classifier.score(volume, labels, 0), other)


def test_a_classifier_comes_back_from_its_folder_as_it_was(model: Model) -> None:
    again = Model.open(model.folder)
    assert again.card.calibration == Calibration(slope=2.0, intercept=-0.5)
    assert again.fingerprint == model.fingerprint
    first, second = (
        QualityClassifier.of(one, "cpu").score(*scan(), 0) for one in (model, again)
    )
    assert np.array_equal(first, second)


# ---- what it refuses ----


def test_a_segmentation_model_judges_nothing() -> None:
    spec = NetworkSpec(name="unet", parameters={"width": 2, "stages": 2})
    segments = card(role="student", network=spec, calibration=None)
    with pytest.raises(ModelError, match="judged by a quality-classifier"):
        QualityClassifier(segments, build(spec, 1, 3), "cpu")


def test_a_quality_classifier_segments_nothing(model: Model) -> None:
    with pytest.raises(ModelError, match="judges the slices of a prediction"):
        model.card.check_fits(scan()[0])


def test_a_scan_with_other_channels_is_refused(model: Model) -> None:
    volume, labels = scan()
    both = Volume(np.concatenate([volume.data, volume.data]), volume.grid, ("t1", "t2"))
    with pytest.raises(ModelError, match=r"2 channels \(t1, t2\); judge takes 1"):
        QualityClassifier.of(model, "cpu").score(both, labels, 0)


def test_labels_of_another_scan_are_refused(model: Model) -> None:
    volume, labels = scan()
    with pytest.raises(GridError, match="take the labels of this scan"):
        QualityClassifier.of(model, "cpu").score(volume, labels[1:], 0)


def test_judging_stops_when_it_is_asked_to(model: Model) -> None:
    with pytest.raises(StopRequested):
        QualityClassifier.of(model, "cpu").score(*scan(), 0, lambda: True)


@pytest.mark.parametrize(
    "changes",
    [
        {"calibration": None},
        {"role": "student"},
        {"network": NetworkSpec(name="unet", parameters={"width": 2, "stages": 2})},
    ],
)
def test_role_network_and_calibration_go_together(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="and a calibration, and no other model"):
        card(**changes)


def test_a_classifier_is_no_segmentation_network() -> None:
    with pytest.raises(ModelError, match="judges slices and segments nothing"):
        build(NetworkSpec(name="resnet18-quality"), 1, 3)
    with pytest.raises(ModelError, match="segments and judges no slices"):
        build_classifier(NetworkSpec(name="unet"), 1, 3)


# ---- the network ----


def test_the_network_has_a_channel_for_the_image_and_each_organ() -> None:
    network = QualityNetwork(2, in_channels=1, out_channels=4, width=4)
    assert network(torch.rand(3, 4, 32, 64)).shape == (3,)
    with pytest.raises(ModelError, match="this classifier takes 4"):
        network(torch.rand(1, 5, 32, 32))
    with pytest.raises(ModelError, match="multiples of 32"):
        network(torch.rand(1, 4, 32, 40))


def test_the_network_is_resnet_18_with_a_head_of_one_number() -> None:
    # torchvision's has 11 689 512 parameters with three channels in and a head of
    # 512 x 1000 + 1000; one more channel in here, and a head of 512 + 1.
    network = QualityNetwork(2, in_channels=1, out_channels=4)
    expected = 11_689_512 - 513_000 + 64 * 49 + 513
    assert sum(p.numel() for p in network.parameters()) == expected


def test_every_weight_of_the_network_learns() -> None:
    network = QualityNetwork(2, in_channels=1, out_channels=3, width=4)
    network(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


# ---- precision ----


def test_bfloat16_moves_p_good_by_little(model: Model) -> None:
    volume, labels = scan()
    exact = QualityClassifier.of(model, "cpu").score(volume, labels, 0)
    fast = QualityClassifier.of(model, "cpu", "bfloat16").score(volume, labels, 0)
    assert not np.array_equal(exact, fast)
    assert fast == pytest.approx(exact, abs=0.02)


def test_automatic_precision_is_exact_on_a_processor(model: Model) -> None:
    volume, labels = scan()
    exact = QualityClassifier.of(model, "cpu").score(volume, labels, 0)
    same = QualityClassifier.of(model, "cpu", "auto").score(volume, labels, 0)
    assert np.array_equal(exact, same)
