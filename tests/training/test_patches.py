"""Patches come from a counter, stay inside what is known, and hold what they claim."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdseg_train.config import Recipe, Training
from kdseg_train.layouts import Case
from kdseg_train.patches import Patches
from kdseg_train.prepared import StoredCase, store
from napari_kdseg.errors import GridError, LabelError
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid

PLAIN = Preprocessing(intensity=(Intensity(kind="none"),), pad_value=-7.0)
SHAPE = (6, 20, 12)


def made(
    tmp_path: Path,
    values: dict[str, tuple[int, ...]] | None = None,
    annotated: tuple[str, ...] = ("liver", "spleen"),
) -> Case:
    image = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) % 100
    labels = np.zeros(SHAPE, np.uint8)
    labels[4, 10:12, 5:7] = 1
    labels[1, 2, 2] = 2
    grid = Grid.from_affine(np.eye(4), SHAPE)
    write_volume(tmp_path / "a.nii.gz", image, grid)
    write_labels(tmp_path / "a-labels.nii.gz", labels, grid, None)
    return Case(
        "a",
        (tmp_path / "a.nii.gz",),
        tmp_path / "a-labels.nii.gz",
        values or {"liver": (1,), "spleen": (2,)},
        annotated,
    )


def stored(tmp_path: Path, **more: object) -> StoredCase:
    case = made(tmp_path, **more)  # type: ignore[arg-type]
    return store(case, tmp_path / "stored", ("liver", "spleen"), PLAIN)


def patches(
    case: StoredCase, patch: tuple[int, ...], share: float = 0.33, **changes: Any
) -> Patches:
    recipe = Recipe.model_validate(
        {
            "method": "supervised",
            "data": [{"path": "."}],
            "patch_vox": patch,
            "network": {"parameters": {"stages": 2}, "name": "unet"},
            "preprocessing": PLAIN.model_dump(),
            "augmentation": {"probability": 0, **changes},
        }
    )
    return Patches([case], recipe, Training(batch=3, foreground=share), "stage")


def test_a_batch_is_the_same_whenever_it_is_asked_for(tmp_path: Path) -> None:
    case = stored(tmp_path)
    first, again = patches(case, (8, 8)).batch(5), patches(case, (8, 8)).batch(5)
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, patches(case, (8, 8)).batch(6).image)


@pytest.mark.parametrize("lost", ["image.npy", "labels.npy", "places.npy", "done.json"])
def test_a_case_of_which_a_file_is_gone_is_prepared_again(
    tmp_path: Path, lost: str
) -> None:
    case = stored(tmp_path)
    (case.folder / "marked-by-teachers").touch()
    whole = patches(case, (8, 8)).batch(0)
    (case.folder / lost).unlink()
    again = stored(tmp_path)
    assert torch.equal(patches(again, (8, 8)).batch(0).image, whole.image)
    assert torch.equal(patches(again, (8, 8)).batch(0).labels, whole.labels)
    names = {path.name for path in case.folder.iterdir()}
    assert names == {"image.npy", "labels.npy", "places.npy", "done.json"}


@pytest.mark.parametrize("patch", [(8, 8), (4, 8, 8)])
def test_patches_have_the_size_asked_for(
    tmp_path: Path, patch: tuple[int, ...]
) -> None:
    batch = patches(stored(tmp_path), patch).batch(0)
    assert batch.image.shape == (3, 1, *patch)
    assert batch.labels.shape == (3, *patch)


def test_what_lies_outside_is_padded_with_the_value_for_outside(tmp_path: Path) -> None:
    batch = patches(stored(tmp_path), (24, 12)).batch(0)
    assert (batch.image[:, :, :2] == -7).all()
    assert (batch.image[:, :, 22:] == -7).all()
    assert (batch.image[:, :, 2:22] >= 0).all()


def test_with_room_a_patch_as_large_as_the_volume_lies_anywhere_in_it(
    tmp_path: Path,
) -> None:
    source = patches(stored(tmp_path), SHAPE, share=0, room=1.5)
    # Padded to 9 x 30 x 18: the patch begins up to 2, 5 and 3 voxels before it (of
    # three voxels too many along z one lies before), and ends as far, or one, behind.
    starts = set()
    for step in range(60):
        for image in source.batch(step).image[:, 0]:
            inside = (image != -7).nonzero()
            assert len(inside) > 0
            first, last = inside.min(dim=0).values, inside.max(dim=0).values
            starts.add(tuple(zip(first.tolist(), last.tolist(), strict=True)))
    along_y = {(low, high) for _, (low, high), _ in starts}
    assert along_y == {(n, 19) for n in range(6)} | {(0, 19 - n) for n in range(6)}


def test_what_turns_in_from_beside_the_patch_is_seen(tmp_path: Path) -> None:
    case = stored(tmp_path)
    source = patches(
        case,
        (4, 8, 8),
        share=0,
        probability=1,
        each_axis=True,
        rotation_degrees=0,
        zoom=((1, 1), (0.8, 0.8), (0.8, 0.8)),  # from 10 voxels to 8
        noise=0,
        contrast=0,
        brightness=0,
        room=1.25,
    )
    seen = torch.cat([source.batch(step).image for step in range(20)])
    assert seen.shape == (60, 1, 4, 8, 8)
    # Of a patch of 8 alone every one would show two voxels of nothing; now those do
    # that lie at the edge of the volume.
    whole = (seen >= 0).flatten(1).all(1)
    assert 20 < int(whole.sum()) < 60


def test_with_foreground_asked_for_each_patch_holds_an_organ(tmp_path: Path) -> None:
    source = patches(stored(tmp_path), (8, 8), share=1.0)
    for step in range(10):
        assert (source.batch(step).labels > 0).flatten(1).any(1).all()


def test_a_third_of_the_patches_is_centred_on_foreground(tmp_path: Path) -> None:
    case = stored(tmp_path)
    # an organ in one slice of a thousand would hardly ever be met by chance
    places = np.array([[1, 4, 10, 5]])
    np.save(case.folder / "places.npy", places)
    source = patches(case, (2, 2), share=0.33)
    hits = sum(
        int((source.batch(step).labels == 1).flatten(1).any(1).sum())
        for step in range(100)
    )
    # 99 of 300 by the counter; chance adds few: a 2 x 2 patch meets it in 0.7 %
    assert 99 <= hits <= 110


def test_a_class_that_is_not_annotated_is_unknown_not_background(
    tmp_path: Path,
) -> None:
    case = stored(tmp_path, annotated=("spleen",))
    labels = case.labels
    assert labels is not None
    assert case.annotated == (False, True)
    assert sorted(np.unique(labels)) == [0, 2]


def test_stored_values_may_be_mapped_to_one_class(tmp_path: Path) -> None:
    case = stored(tmp_path, values={"liver": (1, 2)}, annotated=("liver",))
    labels = case.labels
    assert labels is not None
    assert int((labels == 1).sum()) == 5


def test_a_value_that_no_class_has_is_refused_by_name(tmp_path: Path) -> None:
    case = made(tmp_path, values={"liver": (1,)}, annotated=("liver",))
    with pytest.raises(LabelError, match=r"a-labels.nii.gz holds the value 2"):
        store(case, tmp_path / "stored", ("liver",), PLAIN)


def test_a_label_on_another_grid_is_refused_with_the_difference(tmp_path: Path) -> None:
    case = made(tmp_path)
    moved = np.eye(4)
    moved[0, 3] = 5.0
    write_labels(
        tmp_path / "moved.nii.gz",
        np.zeros(SHAPE, np.uint8),
        Grid.from_affine(moved, SHAPE),
        None,
    )
    other = Case("a", case.images, tmp_path / "moved.nii.gz", case.values, ("liver",))
    with pytest.raises(GridError, match=r"moved\.nii\.gz is not on the grid"):
        store(other, tmp_path / "stored", ("liver", "spleen"), PLAIN)


def test_foreground_of_a_teacher_is_its_own_organ(tmp_path: Path) -> None:
    case = stored(tmp_path)
    every = patches(case, (2, 2), share=1.0)
    recipe = Recipe.model_validate(
        {
            "method": "supervised",
            "data": [{"path": "."}],
            "patch_vox": (2, 2),
            "network": {"parameters": {"stages": 2}, "name": "unet"},
            "augmentation": {"probability": 0},
        }
    )
    settings = Training(batch=3, foreground=1.0)
    spleen = Patches([case], recipe, settings, "stage", organs=[1])
    for step in range(10):
        assert (spleen.batch(step).labels == 2).flatten(1).any(1).all()
    assert any((every.batch(step).labels == 1).any() for step in range(10))


def test_large_values_keep_their_precision(tmp_path: Path) -> None:
    case = made(tmp_path)
    image = np.full(SHAPE, 70_001.0, np.float32)
    write_volume(tmp_path / "b.nii.gz", image, Grid.from_affine(np.eye(4), SHAPE))
    bright = Case("b", (tmp_path / "b.nii.gz",), None, case.values, ())
    kept = store(bright, tmp_path / "bright", ("liver", "spleen"), PLAIN)
    assert float(kept.image.max()) == 70_001.0


# ---- what teachers said ----


def with_soft(
    tmp_path: Path, patch: tuple[int, ...], augmentation: dict[str, Any]
) -> Patches:
    case = stored(tmp_path)
    labels = case.labels
    assert labels is not None
    # one teacher of three classes, as sure as bytes can be of the labels
    told = np.stack([255 * (labels == index) for index in range(3)])
    recipe = Recipe.model_validate(
        {
            "method": "supervised",
            "data": [{"path": "."}],
            "patch_vox": patch,
            "network": {"parameters": {"stages": 2}, "name": "unet"},
            "preprocessing": PLAIN.model_dump(),
            "augmentation": augmentation,
        }
    )
    settings = Training(batch=3, foreground=1.0)
    return Patches([case], recipe, settings, "stage", soft=[[told.astype(np.uint8)]])


@pytest.mark.parametrize("patch", [(8, 8), (24, 12), (4, 8, 8)])
def test_soft_labels_come_with_their_patch(
    tmp_path: Path, patch: tuple[int, ...]
) -> None:
    source = with_soft(tmp_path, patch, {"probability": 0, "mirror": [1, 2]})
    for step in range(5):
        batch = source.batch(step)
        assert batch.step == step
        assert batch.soft is not None
        assert batch.soft.shape == (3, 1, 3, *patch)
        # also where the patch reaches beyond the volume, and after a flip
        assert torch.equal(batch.soft[:, 0].argmax(1), batch.labels)


def test_soft_labels_turn_with_their_patch(tmp_path: Path) -> None:
    turned = {"probability": 1, "rotation_degrees": 30, "noise": 0}
    source = with_soft(tmp_path, (20, 12), turned)
    equal = [
        (batch.soft[:, 0].argmax(1) == batch.labels).float().mean().item()
        for batch in map(source.batch, range(10))
        if batch.soft is not None
    ]
    # the border of an organ is interpolated on the one hand, nearest on the other
    assert min(equal) > 0.99


def test_soft_labels_are_never_zero_and_sum_to_one(tmp_path: Path) -> None:
    turned = {"probability": 1, "rotation_degrees": 30}
    for settings in (turned, {"probability": 0}):
        batch = with_soft(tmp_path, (24, 16), settings).batch(0)
        assert batch.soft is not None
        # 1/255 before, and at most 1 + 2/255 to divide by
        assert batch.soft.min() >= 1 / 257 - 1e-7
        assert torch.allclose(batch.soft.sum(2), torch.ones(()))


def test_a_batch_has_no_soft_labels_where_nobody_gave_any(tmp_path: Path) -> None:
    batch = patches(stored(tmp_path), (8, 8)).batch(4)
    assert batch.soft is None
    assert batch.to(torch.device("cpu")).step == 4
