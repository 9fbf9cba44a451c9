"""From coarse to fine: the boxes by hand, and the way back onto the source's grid."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from napari_kdseg.errors import ModelError, StopRequested
from napari_kdseg.inference.coarse_to_fine import (
    Found,
    box_around,
    box_in_source,
    central_box,
    look,
    predict_any_tiles,
    predict_any_volume,
    predict_coarse_to_fine,
    predict_composite_tiles,
)
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.predict import Settings, predict_volume
from napari_kdseg.models.model import (
    CoarseToFine,
    Model,
    Postprocessing,
    save_composite,
)
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid, Volume

Make = Callable[..., Any]
CPU = Settings(device="cpu", uncertainty=None)
SMALL_BOX = CoarseToFine(fallback_mm=(4.0, 6.0, 8.0))


def resized(*sizes: int) -> Preprocessing:
    """Every axis in so many voxels, grey values as they are."""
    return Preprocessing(
        resize_vox=(sizes[0], sizes[1], sizes[2]), intensity=(Intensity(kind="none"),)
    )


def mask(shape: tuple[int, ...], box: tuple[slice, ...]) -> np.ndarray:
    empty = np.zeros(shape, bool)
    empty[box] = True
    return empty


def blocks(shape: tuple[int, int, int], **classes: tuple[slice, ...]) -> np.ndarray:
    """Grey values 1, 2, ... in the boxes given, 0 around them."""
    grey = np.zeros((1, *shape), np.int16)
    for value, box in enumerate(classes.values(), start=1):
        grey[(0, *box)] = value
    return grey


@pytest.fixture
def pair(make_simple: Make) -> Callable[..., Model]:
    """A coarse model that sees 16 voxels a side, and a fine one that sees all."""

    def make(way: CoarseToFine = SMALL_BOX, **fine: Any) -> Model:
        coarse = make_simple(preprocessing=resized(16, 16, 16), name="coarse")
        return Model.paired(coarse, make_simple(name="fine", **fine), way)

    return make


# ---- boxes ----


def test_the_box_around_a_mask_runs_from_face_to_face() -> None:
    # voxels 2..5 of 10 fill 0.2 to 0.6; 0..1 of 4 fill 0 to 0.5; 3 of 5: 0.6 to 0.8
    found = box_around(mask((10, 4, 5), np.s_[2:6, 0:2, 3:4]), margin=1)
    assert found == pytest.approx(np.array([(0.2, 0.6), (0, 0.5), (0.6, 0.8)]))


def test_a_tenth_more_is_added_about_the_centre_and_clipped() -> None:
    # 0.2..0.6: centre 0.4, half 0.2 * 1.1 = 0.22; 0..0.5: centre 0.25, half 0.275
    found = box_around(mask((10, 4, 5), np.s_[2:6, 0:2, 3:4]), margin=1.1)
    assert found == pytest.approx(np.array([(0.18, 0.62), (0, 0.525), (0.59, 0.81)]))


def test_an_empty_mask_has_no_box() -> None:
    assert box_around(np.zeros((3, 3, 3), bool), margin=1.1) is None


def test_a_box_of_fractions_takes_every_voxel_it_touches() -> None:
    # 0.18..0.62 of 50 is 9..31; of 7 it is 1.26..4.34: voxels 1 to 4
    fractions = ((0.18, 0.62), (0.18, 0.62), (0.0, 1.0))
    assert box_in_source(fractions, (50, 7, 3)) == np.s_[9:31, 1:5, 0:3]


def test_a_face_that_lies_on_a_voxel_s_face_adds_no_voxel() -> None:
    # 0.7 * 10 is 7.000000000000001 where 0.7 was summed up
    assert box_in_source(((0.1 + 0.2, 0.1 * 7), (0, 1), (0, 1)), (10, 2, 2))[0] == (
        slice(3, 7)
    )


@pytest.mark.parametrize("low", [0.0, 0.5, 0.99])
def test_a_box_has_two_voxels_along_each_axis_where_there_are_two(low: float) -> None:
    box = box_in_source(((low, low + 0.01),) * 3, (10, 4, 1))
    assert [span.stop - span.start for span in box] == [2, 2, 1]
    assert all(
        s.start >= 0 and s.stop <= n for s, n in zip(box, (10, 4, 1), strict=True)
    )


def test_the_box_in_the_source_holds_all_that_was_found() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        shape = tuple(int(n) for n in rng.integers(2, 40, 3))
        spans = [sorted(rng.integers(0, 13, 2)) for _ in range(3)]
        z, y, x = (slice(int(a), int(b) + 1) for a, b in spans)
        fractions = box_around(mask((13, 13, 13), (z, y, x)), margin=1.0)
        assert fractions is not None
        box = box_in_source(fractions, shape)
        for found, small, size in zip(box, (z, y, x), shape, strict=True):
            assert found.start <= small.start / 13 * size + 1e-6
            assert found.stop >= small.stop / 13 * size - 1e-6


def test_the_central_box_is_measured_in_millimetres_and_clipped() -> None:
    # 100 planes of 2.5 mm: 240 mm are 96 planes from 2 on; 160 of 200 mm in steps of
    # 1 mm from 20 on; along x there are but 100 mm
    grid = Grid.from_affine(np.diag([1.0, 1.0, 2.5, 1.0]), (100, 200, 100))
    assert central_box(grid, (240, 160, 240)) == np.s_[2:98, 20:180, 0:100]


def test_the_paper_s_numbers_are_the_defaults() -> None:
    way = CoarseToFine()
    assert (way.margin, way.fallback_mm) == (1.1, (240, 160, 240))


# ---- the two passes ----


@pytest.mark.parametrize("directions", list(product([1, -1], repeat=3)))
def test_labels_come_back_to_where_they_were(
    pair: Make, make_volume: Make, directions: tuple[int, int, int]
) -> None:
    # blocks of 4 voxels and more, which 32 -> 16 voxels a side keeps
    grey = blocks((32, 32, 32), a=np.s_[8:16, 4:12, 20:28], b=np.s_[18:24, 8:14, 12:18])
    volume = make_volume(data=grey, directions=directions)
    found = predict_coarse_to_fine(volume, pair(), CPU)
    assert np.array_equal(found.labels[0], grey[0])


def test_the_fine_model_sees_the_box_and_nothing_else(
    pair: Make, make_volume: Make
) -> None:
    # a found: planes 8..15 of 32, with the margin 7.6..16.4, voxels 7..16; a speck of
    # one voxel, too small for the coarse model, lies outside and stays unseen
    grey = blocks((32, 32, 32), a=np.s_[8:16, 8:16, 8:16], b=np.s_[28:29, 28:29, 28:29])
    notes: list[str] = []
    found = predict_coarse_to_fine(
        make_volume(data=grey), pair(), CPU, hooks=Hooks(log=notes.append)
    )
    assert notes == [
        "volume: the fine model sees 10 x 10 x 10 of 32 x 32 x 32 voxels (z, y, x)."
    ]
    assert found.labels[0][28, 28, 28] == 0
    assert np.array_equal(found.labels[0][:20], grey[0, :20])


def test_a_box_that_is_the_whole_volume_changes_nothing(
    make_model: Make, make_volume: Make
) -> None:
    # margin so large that the box is everything: the fine model as if it were alone,
    # but for the largest component of each class
    volume = make_volume((16, 16, 16))
    fine = make_model(name="fine")
    keep = Postprocessing(keep_largest={"a": 1, "b": 1, "c": 1})
    tidy = make_model(name="tidy", postprocessing=keep)
    both = Model.paired(
        make_model(name="coarse", seed=1), fine, CoarseToFine(margin=99)
    )
    found = predict_coarse_to_fine(volume, both, CPU)
    assert np.array_equal(
        found.labels[0], predict_volume(volume, [tidy], CPU).labels[0]
    )


def test_where_nothing_is_found_the_middle_is_looked_at(
    pair: Make, make_volume: Make
) -> None:
    # one voxel of 64 is lost in 16; the middle is 30..33, 29..34 and 28..35
    grey = blocks((64, 64, 64), a=np.s_[31:32, 31:32, 31:32])
    notes: list[str] = []
    found = predict_coarse_to_fine(
        make_volume(data=grey), pair(), CPU, hooks=Hooks(log=notes.append)
    )
    assert "coarse found nothing" in notes[0]
    assert "4 x 6 x 8 of 64" in notes[0]
    assert np.argwhere(found.labels[0]).tolist() == [[31, 31, 31]]


def test_the_largest_component_of_each_class_stays(
    pair: Make, make_volume: Make
) -> None:
    grey = blocks((32, 32, 32), a=np.s_[4:12, 4:12, 4:12])
    grey[0, 16:20, 16:20, 16:20] = 1
    found = predict_coarse_to_fine(make_volume(data=grey), pair(), CPU).labels[0]
    assert (found == 1).sum() == 8**3


@pytest.mark.parametrize("by_card", [True, False])
def test_a_class_of_two_parts_may_keep_both(
    make_simple: Make, make_volume: Make, by_card: bool
) -> None:
    two = {"a": 2}
    rules = Postprocessing(keep_largest=two if by_card else {})
    coarse, fine = (
        make_simple(name=name, postprocessing=rules, preprocessing=how)
        for name, how in (("c", resized(16, 16, 16)), ("f", resized(32, 32, 32)))
    )
    way = CoarseToFine(keep_largest={} if by_card else two, margin=2)
    grey = blocks((32, 32, 32), a=np.s_[4:12, 4:12, 4:12])
    grey[0, 16:24, 16:24, 16:24] = 1
    both = Model.paired(coarse, fine, way)
    found = predict_coarse_to_fine(make_volume(data=grey), both, CPU).labels[0]
    parts = [found[4:12, 4:12, 4:12], found[16:24, 16:24, 16:24]]
    assert all((part > 0).mean() > 0.5 for part in parts)


def test_the_fine_pass_may_resize_the_box(make_simple: Make, make_volume: Make) -> None:
    coarse = make_simple(name="coarse", preprocessing=resized(16, 16, 16))
    fine = make_simple(name="fine", preprocessing=resized(24, 16, 24))
    grey = np.full((1, 20, 21, 22), 2, np.int16)
    both = Model.paired(coarse, fine)
    # a constant map stays constant on its way through two resizings
    assert (
        predict_coarse_to_fine(make_volume(data=grey), both, CPU).labels[0] == 2
    ).all()


def test_outside_the_box_the_coarse_model_s_uncertainty_stands(
    pair: Make, make_volume: Make
) -> None:
    # grey 0.5 is torn between background and class a, everywhere around the block
    grey = np.full((1, 32, 32, 32), 0.49, np.float32)
    grey[0, 8:16, 8:16, 8:16] = 1
    settings = Settings(device="cpu", uncertainty="entropy", probabilities=True)
    found = predict_coarse_to_fine(make_volume(data=grey), pair(), settings)
    assert found.uncertainty is not None
    assert found.probabilities is not None
    (uncertainty,), (prob,) = found.uncertainty, found.probabilities
    assert uncertainty[30, 30, 30] == pytest.approx(uncertainty[7, 7, 7], abs=1e-3)
    assert prob[:, 30, 30, 30].tolist() == [1, 0, 0, 0]
    assert prob.sum(axis=0) == pytest.approx(np.ones((32, 32, 32)), abs=1e-5)
    assert np.array_equal(np.asarray(found.labels[0]), prob.argmax(axis=0))


@pytest.mark.parametrize(
    "fine",
    [
        Preprocessing(intensity=(Intensity(kind="none"),)),
        Preprocessing(intensity=(Intensity(kind="zscore"),)),
        Preprocessing(intensity=(Intensity(kind="percentile"),)),
        Preprocessing(
            intensity=(Intensity(kind="window_zscore", low=0, high=2, nonzero=True),)
        ),
        Preprocessing(spacing_mm=(1.3, 1.2, 1.1)),
    ],
    ids=["as it is", "zscore", "percentile", "nonzero", "resampled"],
)
def test_a_lazy_volume_gives_the_labels_of_one_in_memory(
    pair: Make, make_volume: Make, fine: Preprocessing
) -> None:
    import zarr

    grey = blocks((32, 32, 32), a=np.s_[8:16, 8:16, 8:16])
    stored = zarr.array(grey, chunks=(1, 8, 8, 8))
    volume = make_volume(data=grey)
    lazy = Volume(stored, volume.grid, volume.channels)
    model = pair(preprocessing=fine)
    expected = predict_coarse_to_fine(volume, model, CPU).labels[0]
    found = predict_coarse_to_fine(lazy, model, CPU).labels[0]
    assert np.array_equal(found, expected)


def test_a_stop_is_heard_beside_the_box_too(pair: Make, make_volume: Make) -> None:
    grey = blocks((64, 32, 32), a=np.s_[4:10, 4:12, 4:12])
    volume, both = make_volume(data=grey), pair()
    found = look(volume, both, CPU)
    given = list(predict_composite_tiles(volume, both, CPU, found=found))
    seen: list[Any] = []

    def beside() -> bool:
        return len(seen) > 3 and not seen[-1].labels[0].any()

    tiles = predict_composite_tiles(volume, both, CPU, found=found, hooks=Hooks(beside))
    with pytest.raises(StopRequested, match="beside the box"):
        seen.extend(iter(tiles))
    assert 3 < len(seen) < len(given)


def test_what_the_coarse_model_found_is_kept_for_those_who_go_on(
    pair: Make, make_volume: Make, tmp_path: Path
) -> None:
    grey = blocks((32, 32, 32), a=np.s_[8:16, 8:16, 8:16])
    volume, both = make_volume(data=grey), pair()
    settings = Settings(device="cpu", uncertainty="entropy")
    found = look(volume, both, settings)
    assert Found.read(tmp_path / "found.npz", volume.grid, both) is None
    found.write(tmp_path / "found.npz")
    again = Found.read(tmp_path / "found.npz", volume.grid, both)
    assert again is not None
    assert (again.box, again.is_fallback) == (found.box, found.is_fallback)
    assert again.frame == found.frame
    assert np.array_equal(again.uncertainty, found.uncertainty)
    (tmp_path / "found.npz").write_bytes(b"PK cut off")
    assert Found.read(tmp_path / "found.npz", volume.grid, both) is None


# ---- composites as models ----


def test_models_of_both_kinds_are_answered_in_the_order_given(
    pair: Make, make_simple: Make, make_volume: Make
) -> None:
    grey = blocks((32, 32, 32), a=np.s_[8:16, 8:16, 8:16], b=np.s_[28:29, 28:29, 28:29])
    models = [pair(), make_simple(name="alone"), pair()]
    found = predict_any_volume(make_volume(data=grey), models, CPU)
    assert [labels[28, 28, 28] for labels in found.labels] == [0, 2, 0]
    assert found.uncertainty is None


@pytest.mark.parametrize("directions", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize(
    "box", [np.s_[0:32, 0:32, 0:32], np.s_[10:20, 0:32, 5:12], np.s_[0:4, 0:32, 0:32]]
)
def test_a_composite_comes_in_slabs_that_lie_side_by_side(
    pair: Make, make_volume: Make, directions: Any, box: Any
) -> None:
    grey = blocks((32, 32, 32), a=np.s_[8:16, 8:16, 8:16])
    volume = make_volume(data=grey, directions=directions)
    found = np.full((32, 32, 32), 9, np.uint8)
    reached: slice | None = None
    fractions = []
    for tile in predict_any_tiles(volume, [pair()], CPU, box=box):
        found[tile.index] = tile.labels[0]
        planes = tile.index[0]
        start, stop = planes.start, planes.stop
        if reached is not None:
            assert reached.stop == start or reached.start == stop
            start, stop = min(start, reached.start), max(stop, reached.stop)
        reached = slice(start, stop)
        fractions.append(tile.fraction)
    assert reached == box[0]
    assert len(fractions) > 1 or box[0].stop == 4
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    assert np.array_equal(found[box], grey[(0, *box)])
    found[box] = 9
    assert (found == 9).all()


def test_beside_another_model_a_composite_s_box_comes_as_one_tile(
    pair: Make, make_simple: Make, make_volume: Make
) -> None:
    grey = blocks((32, 32, 32), a=np.s_[8:16, 8:16, 8:16])
    box = (slice(10, 20), slice(0, 32), slice(5, 12))
    models = [pair(), make_simple(name="alone")]
    (tile,) = predict_any_tiles(make_volume(data=grey), models, CPU, box=box)
    assert (tile.index, tile.fraction) == (box, 1.0)
    assert np.array_equal(tile.labels[0], grey[(0, *box)])


def test_without_a_composite_the_tiles_are_as_ever(
    make_simple: Make, make_volume: Make
) -> None:
    tiles = list(predict_any_tiles(make_volume(), [make_simple()], CPU))
    assert len(tiles) > 1


def test_a_composite_folder_predicts_as_its_two_models_do(
    make_model: Make, make_volume: Make, tmp_path: Any
) -> None:
    coarse = make_model(name="coarse", preprocessing=resized(16, 16, 16))
    fine = make_model(name="fine", seed=3)
    volume = make_volume((20, 20, 20))
    kept = save_composite(tmp_path / "both", coarse, fine, CoarseToFine(margin=1.2))
    opened = Model.open(tmp_path / "both")
    pair = Model.paired(coarse, fine, CoarseToFine(margin=1.2))
    assert opened.card.role == "composite"
    assert kept.fingerprint == opened.fingerprint == pair.fingerprint
    found, expected = (
        predict_coarse_to_fine(volume, model, CPU).labels[0] for model in (opened, pair)
    )
    assert np.array_equal(found, expected)


def test_the_way_and_both_parts_are_in_the_fingerprint(make_model: Make) -> None:
    coarse, fine = make_model(name="coarse"), make_model(name="fine", seed=1)
    prints = {
        Model.paired(coarse, fine).fingerprint,
        Model.paired(fine, coarse).fingerprint,
        Model.paired(coarse, fine, CoarseToFine(margin=1.5)).fingerprint,
    }
    assert len(prints) == 3


def test_a_composite_has_no_single_network(make_model: Make) -> None:
    both = Model.paired(make_model(name="coarse"), make_model(name="fine", seed=1))
    with pytest.raises(ModelError, match="composite of two networks"):
        both.network()


def test_a_model_alone_cannot_go_from_coarse_to_fine(
    make_simple: Make, make_volume: Make
) -> None:
    with pytest.raises(ModelError, match="takes two"):
        predict_coarse_to_fine(make_volume(), make_simple(), CPU)


def test_parts_that_do_not_go_together_are_refused(make_simple: Make) -> None:
    one = make_simple(name="one")
    with pytest.raises(ModelError, match="trained on the same channels"):
        Model.paired(one, make_simple(name="two", channels=("T1", "T2")))
    with pytest.raises(ModelError, match="composite already"):
        Model.paired(one, Model.paired(one, one))
    with pytest.raises(ModelError, match="keep_largest names 'liver'"):
        Model.paired(one, one, CoarseToFine(keep_largest={"liver": 2}))
    with pytest.raises(ValidationError, match="at least 1 component"):
        CoarseToFine(keep_largest={"a": 0})


def test_a_composite_s_card_must_be_that_of_its_fine_model(
    make_model: Make, tmp_path: Any
) -> None:
    coarse, fine = make_model(name="coarse"), make_model(name="fine", seed=1)
    save_composite(tmp_path / "both", coarse, fine)
    card = tmp_path / "both" / "model.yaml"
    card.write_text(card.read_text().replace("pad_value: 0.0", "pad_value: 1.0"))
    with pytest.raises(ModelError, match="other preprocessing than its fine model"):
        Model.open(tmp_path / "both")


def test_a_composite_inside_a_composite_is_refused(
    make_model: Make, tmp_path: Any
) -> None:
    coarse, fine = make_model(name="coarse"), make_model(name="fine", seed=1)
    save_composite(tmp_path / "both", coarse, fine)
    inner = tmp_path / "both" / "coarse" / "model.yaml"
    inner.write_text((tmp_path / "both" / "model.yaml").read_text())
    with pytest.raises(ModelError, match="composite inside a composite"):
        Model.open(tmp_path / "both")


def test_a_role_and_its_settings_come_together(make_simple: Make) -> None:
    with pytest.raises(ValidationError, match="a composite has it"):
        make_simple(coarse_to_fine=CoarseToFine())
    with pytest.raises(ValidationError, match="coarse_to_fine is missing"):
        make_simple(role="composite")
