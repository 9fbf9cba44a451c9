"""The made volumes: repeatable, varied, plausible, and no puzzle for a threshold."""

import json
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from kdseg_train.layouts import read_data_set
from kdseg_train.samples import (
    SAMPLES,
    SHIPPED_SEED,
    make_case,
    write_partial_sample,
    write_sample,
    write_shipped_volumes,
)
from kdseg_train.samples.case import Case
from kdseg_train.samples.shapes import (
    Canvas,
    Space,
    ellipsoid,
    grain,
    smooth_noise,
    tube,
)
from napari_kdseg.errors import UsageError
from napari_kdseg.shipped import sample_folder
from napari_kdseg.volumes.formats import read_labels, read_volume

# Coarse enough to be quick; the anatomy is the same in every size.
QUICK = {"abdomen": 48, "brain": 48, "fish": 48}


@cache
def case_of(name: str, index: int) -> Case:
    return make_case(name, 0, index, QUICK[name])


def volumes_ml(case: Case) -> dict[str, float]:
    counts = np.bincount(case.labels.ravel(), minlength=case.classes.count)
    return {
        item.name: float(counts[item.value]) * case.grid.voxel_ml
        for item in case.classes.classes
    }


def inside(case: Case, name: str) -> np.ndarray:
    return case.labels == case.classes.by_name(name).value


def every_sample(function):
    return pytest.mark.parametrize("name", list(SAMPLES))(function)


# ---- any sample ----


@every_sample
def test_one_seed_and_index_give_the_same_bytes(name: str):
    first, again = make_case(name, 5, 2, 32), make_case(name, 5, 2, 32)
    assert first.images.tobytes() == again.images.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()
    assert first.grid == again.grid


@every_sample
def test_another_index_and_another_seed_give_another_anatomy(name: str):
    base = make_case(name, 0, 0, 32)
    for other in (make_case(name, 0, 1, 32), make_case(name, 1, 0, 32)):
        assert not np.array_equal(base.labels, other.labels)
        assert volumes_ml(base) != pytest.approx(volumes_ml(other), rel=0.02)


@every_sample
def test_images_and_labels_lie_on_the_grid_and_labels_are_known(name: str):
    case = case_of(name, 0)
    assert case.images.shape == (len(case.channels), *case.grid.shape)
    assert case.labels.shape == case.grid.shape
    case.classes.check(case.labels, name)


@every_sample
def test_ten_cases_in_a_row_have_every_class(name: str):
    for index in range(10):
        case = case_of(name, index)
        missing = set(case.classes.values) - set(np.unique(case.labels))
        assert not missing, f"case {index} lacks the values {missing}"


@every_sample
def test_a_finer_grid_shows_the_same_anatomy(name: str):
    coarse, fine = case_of(name, 1), make_case(name, 0, 1, 4 * QUICK[name] // 3)
    expected = volumes_ml(coarse)
    for organ, volume in volumes_ml(fine).items():
        assert volume == pytest.approx(expected[organ], rel=0.25), organ
    assert coarse.grid.orientation == fine.grid.orientation


@every_sample
def test_grey_values_vary_between_cases(name: str):
    means = [
        float(case_of(name, index).images[:, case_of(name, index).labels > 0].mean())
        for index in range(5)
    ]
    assert np.std(means) > 0.01 * abs(np.mean(means))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("abdomen", (1, 48, 96, 96)),
        ("brain", (4, 64, 64, 64)),
        ("fish", (1, 160, 48, 64)),
    ],
)
def test_each_sample_has_its_usual_size(name: str, shape: tuple[int, ...]):
    assert make_case(name, 0, 0).images.shape == shape


def test_an_unknown_sample_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="'knee'; choose one of abdomen, brain, fish"):
        make_case("knee", 0, 0)


def test_a_size_that_hides_organs_is_refused():
    with pytest.raises(UsageError, match=r"size 16 .* at least 32"):
        make_case("fish", 0, 0, 16)


def test_a_negative_seed_is_refused():
    with pytest.raises(UsageError, match="seed -1"):
        make_case("fish", -1, 0)


# ---- abdomen ----


def test_organs_of_the_abdomen_have_a_plausible_size():
    ranges_ml = {
        "liver": (800, 2600),
        "spleen": (50, 400),
        "kidneys": (110, 450),
        "pancreas": (35, 160),
    }
    for index in range(10):
        for organ, volume in volumes_ml(case_of("abdomen", index)).items():
            low, high = ranges_ml[organ]
            assert low < volume < high, f"case {index}: {organ} {volume:.0f} ml"


def world_mm(case: Case, organ: str) -> np.ndarray:
    """Centre of an organ in the world, x to the patient's right, by nibabel's rule."""
    z, y, x = np.argwhere(inside(case, organ)).mean(axis=0)
    return (case.grid.affine @ (x, y, z, 1))[:3]


def test_abdomens_are_stored_in_several_orientations():
    found = {case_of("abdomen", index).grid.orientation for index in range(10)}
    assert len(found) >= 3


def test_liver_and_spleen_keep_their_sides_in_every_orientation():
    for index in range(10):
        case = case_of("abdomen", index)
        assert world_mm(case, "liver")[0] > 30, case.grid.orientation
        assert world_mm(case, "spleen")[0] < -50, case.grid.orientation


def test_the_spine_lies_behind_and_the_lungs_above_in_every_orientation():
    for index in range(10):
        case = case_of("abdomen", index)
        z, y, x = np.argwhere(case.images[0] > 280).T
        bone = case.grid.affine @ (x.mean(), y.mean(), z.mean(), 1)
        z, y, x = np.argwhere((case.images[0] < -700) & (case.images[0] > -880)).T
        lung = case.grid.affine @ (x.mean(), y.mean(), z.mean(), 1)
        assert bone[1] < world_mm(case, "liver")[1]
        assert lung[2] > world_mm(case, "kidneys")[2]


def test_slice_thickness_and_pixel_size_vary():
    spacings = [case_of("abdomen", index).grid.spacing_mm for index in range(10)]
    assert len({thick for thick, _, _ in spacings}) >= 3
    assert len({round(pixel, 3) for _, pixel, _ in spacings}) == 10


def test_ct_values_are_hounsfield_units():
    image = case_of("abdomen", 0).images[0]
    assert image.dtype == np.int16
    assert image.min() >= -1024
    assert np.median(image[image < -500]) == pytest.approx(-1000, abs=30)
    assert image.max() > 300  # bone


def area_under_curve(first: np.ndarray, second: np.ndarray) -> float:
    """Chance that a voxel of `first` is brighter than one of `second`, or the reverse.

    0.5: grey values say nothing; 1: one threshold tells the two apart.
    """
    order = np.sort(second)
    chance = float(np.searchsorted(order, first).mean() / len(order))
    return max(chance, 1 - chance)


def test_no_threshold_tells_the_liver_from_the_spleen():
    cases = [case_of("abdomen", index) for index in range(10)]
    grey = [
        np.concatenate([case.images[0][inside(case, organ)] for case in cases])
        for organ in ("liver", "spleen")
    ]
    assert area_under_curve(*grey) < 0.7


def test_much_that_is_no_organ_is_as_bright_as_the_liver():
    case = case_of("abdomen", 0)
    low, high = np.percentile(case.images[0][inside(case, "liver")], (5, 95))
    alike = (case.images[0] >= low) & (case.images[0] <= high)
    assert (alike & (case.labels == 0)).sum() > 0.2 * inside(case, "liver").sum()


# ---- brain ----


def test_the_brain_has_four_modalities_and_is_skull_stripped():
    case = case_of("brain", 0)
    assert case.channels == ("t1", "t1ce", "t2", "flair")
    nonzero = case.images > 0
    assert (nonzero == nonzero[0]).all()  # one mask for all
    assert 0.15 < nonzero[0].mean() < 0.4
    assert nonzero[0][case.labels > 0].all()


def test_tumour_regions_are_nested():
    for index in range(10):
        case = case_of("brain", index)
        core = inside(case, "necrotic core") | inside(case, "enhancing tumour")
        whole = case.labels > 0
        around_core = ndimage.binary_dilation(core) & ~core
        around_dead = ndimage.binary_dilation(inside(case, "necrotic core"))
        # The core lies in oedema save where the brain ends; the rim around what is
        # dead is thinner than a voxel in places, and then oedema follows.
        assert whole[around_core].mean() > 0.97, index
        assert whole[around_dead].all(), index
        assert core[around_dead].mean() > 0.85, index


def contrast(case: Case, channel: str, first: np.ndarray, second: np.ndarray) -> float:
    """Difference of two means in standard deviations of all brain tissue."""
    image = case.images[case.channels.index(channel)].astype(float)
    spread = image[(image > 0) & (case.labels == 0)].std()
    return float((image[first].mean() - image[second].mean()) / spread)


def test_each_modality_shows_a_part_of_the_tumour_and_none_all():
    for index in range(5):
        case = case_of("brain", index)
        oedema, rim = inside(case, "oedema"), inside(case, "enhancing tumour")
        healthy = (case.images[0] > 0) & (case.labels == 0)
        assert contrast(case, "flair", oedema, healthy) > 3
        for channel in ("t1", "t1ce"):
            assert abs(contrast(case, channel, oedema, healthy)) < 1.1
        assert contrast(case, "t1ce", rim, oedema) > 1
        for channel in ("t1", "t2", "flair"):
            assert abs(contrast(case, channel, rim, oedema)) < 0.5


# ---- fish ----


def test_the_fish_scan_is_mostly_air():
    for index in range(10):
        case = case_of("fish", index)
        air = ndimage.gaussian_filter(case.images[0].astype(float), 1) < 50
        assert air.mean() > 0.8


def test_the_fish_has_at_least_six_organs_and_micrometre_voxels():
    case = case_of("fish", 0)
    assert len(case.classes.names) >= 6
    assert case.images.dtype == np.uint8
    assert make_case("fish", 0, 0).grid.describe().endswith("µm")


def test_the_swim_bladder_is_as_dark_as_the_air_outside():
    case = case_of("fish", 0)
    hollow = ndimage.binary_erosion(inside(case, "swim bladder"))
    corner = case.images[0, :3]
    assert case.images[0][hollow].mean() < corner.mean() + 40


def test_organs_of_the_fish_are_a_few_percent_of_its_body():
    for index in range(10):
        case = case_of("fish", index)
        body_ml = (case.images[0] > 60).sum() * case.grid.voxel_ml
        for organ, volume in volumes_ml(case).items():
            assert 0.002 < volume / body_ml < 0.1, f"case {index}: {organ}"


# ---- data sets on disk ----


def test_a_data_set_reads_back_with_nibabel(tmp_path: Path):
    write_sample("abdomen", tmp_path / "set", cases=2, size=32, seed=4)
    description = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert description["labels"]["2"] == "spleen"
    for index, entry in enumerate(description["training"]):
        case = make_case("abdomen", 4, index, 32)
        image = nib.load(tmp_path / "set" / entry["image"])
        label = nib.load(tmp_path / "set" / entry["label"])
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, case.images[0])
        np.testing.assert_array_equal(np.asarray(label.dataobj).T, case.labels)
        np.testing.assert_allclose(image.affine, case.grid.affine, atol=1e-4)
        assert nib.aff2axcodes(image.affine) == tuple(case.grid.orientation)
        assert image.get_data_dtype() == np.int16


def test_modalities_are_the_fourth_axis_as_in_decathlon(tmp_path: Path):
    write_sample("brain", tmp_path, cases=1, size=32)
    image = nib.load(tmp_path / "imagesTr" / "brain_001.nii.gz")
    assert image.shape == (32, 32, 32, 4)
    assert read_data_set(tmp_path).channels == ("t1", "t1ce", "t2", "flair")


def test_progress_is_told_after_each_case(tmp_path: Path):
    told: list[tuple[int, int]] = []
    write_sample(
        "brain",
        tmp_path,
        cases=3,
        size=32,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(UsageError, match="is not empty"):
        write_sample("fish", tmp_path, cases=1, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_partial_sets_label_one_organ_each_and_share_no_scan(tmp_path: Path):
    write_partial_sample("abdomen", tmp_path, cases=10, size=32, seed=3)
    organs = ("liver", "spleen", "kidneys", "pancreas")
    sets = {name: read_data_set(tmp_path / name) for name in (*organs, "test")}
    for organ in organs:
        assert sets[organ].classes == (organ,)
        for case in sets[organ].cases:
            assert case.label is not None
            array, _ = read_labels(case.label)
            assert set(np.unique(array)) == {0, 1}
    assert sets["test"].classes == organs
    ids = [case.id for found in sets.values() for case in found.cases]
    assert sorted(ids) == [f"abdomen_{number:03d}" for number in range(1, 11)]
    # 10 // 5 = 2 for testing, 8 dealt out to 4 organs
    assert {name: len(found.cases) for name, found in sets.items()} == {
        **dict.fromkeys(organs, 2),
        "test": 2,
    }


def test_the_fewest_cases_leave_one_for_each_organ_and_one_for_testing(tmp_path: Path):
    write_partial_sample("fish", tmp_path, cases=10, size=32)
    counts = [len(read_data_set(folder).cases) for folder in tmp_path.iterdir()]
    assert counts == [1] * 10
    assert (tmp_path / "swim_bladder" / "dataset.json").is_file()


def test_the_partial_label_is_the_organ_of_the_full_one(tmp_path: Path):
    write_partial_sample("abdomen", tmp_path, cases=5, size=32)
    array, _ = read_labels(tmp_path / "spleen" / "labelsTr" / "abdomen_002.nii.gz")
    full = make_case("abdomen", 0, 1, 32)
    np.testing.assert_array_equal(array == 1, inside(full, "spleen"))


def test_too_few_cases_for_the_organs_are_refused_and_nothing_is_written(
    tmp_path: Path,
):
    with pytest.raises(UsageError, match=r"4 cases are too few .* at least 5"):
        write_partial_sample("abdomen", tmp_path / "set", cases=4, size=32)
    assert not (tmp_path / "set").exists()


@every_sample
def test_the_shipped_volumes_are_what_their_command_writes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("kdseg_train.samples.SAMPLES", {name: SAMPLES[name]})
    write_shipped_volumes(tmp_path)
    shipped = sample_folder() / "volumes"
    made = read_volume(tmp_path / f"{name}.nii.gz")
    there = read_volume(shipped / f"{name}.nii.gz")
    # Rounding may differ by one grey value between processors.
    np.testing.assert_allclose(
        np.asarray(there.data).astype(int), np.asarray(made.data).astype(int), atol=1
    )
    assert there.grid.matches(made.grid)
    truth, _ = read_labels(shipped / f"{name}-labels.nii.gz")
    again, _ = read_labels(tmp_path / f"{name}-labels.nii.gz")
    assert (truth != again).mean() < 1e-4


def test_the_shipped_volumes_are_small_and_of_a_seed_of_their_own():
    files = list((sample_folder() / "volumes").glob("*.nii.gz"))
    assert len(files) == 2 * len(SAMPLES)
    assert sum(file.stat().st_size for file in files) < 1.5e6
    assert SHIPPED_SEED != 0  # the default of the command line


# ---- shapes ----


def cube(voxels: int, width: float) -> Space:
    step = width / voxels
    first = (step - width) / 2
    return Space.of((voxels,) * 3, (step,) * 3, (first,) * 3)


def test_the_level_of_a_ball_is_the_distance_to_its_surface():
    space = cube(41, 41.0)  # the middle voxel lies at 0
    level = ellipsoid(space, (0, 0, 0), (10, 10, 10))
    assert level[20, 20, 20] == 10
    assert level[20, 20, 26] == pytest.approx(4, abs=1e-4)
    assert level[20, 33, 20] == pytest.approx(-3, abs=1e-4)


def test_a_tilted_ellipsoid_keeps_its_volume():
    space = cube(80, 80.0)
    level = ellipsoid(space, (2, -3, 1), (24, 12, 8), (20, 35, 50))
    # 4/3 pi 24 x 12 x 8 = 9651
    assert (level > 0).sum() == pytest.approx(9651, rel=0.01)


def test_a_tube_is_a_cylinder_with_round_ends():
    space = cube(60, 60.0)
    level = tube(space, [(-10, 0, 0, 5), (10, 0, 0, 5)])
    # pi 25 x 20 + 4/3 pi 125 = 1571 + 524
    assert (level > 0).sum() == pytest.approx(2095, rel=0.03)
    assert level[30, 30, 30] == pytest.approx(5 - np.hypot(0.5, 0.5), abs=1e-4)


def test_a_tube_far_from_the_volume_is_nowhere():
    level = tube(cube(10, 10.0), [(100, 100, 100, 2), (120, 100, 100, 2)])
    assert (level == -np.inf).all()


def test_paint_covers_half_of_the_voxels_its_surface_halves():
    canvas = Canvas((1, 1, 3), edge=1.0, ground=10.0)
    canvas.paint(np.array([[[2.0, 0.0, -2.0]]], np.float32), 30.0, 4)
    np.testing.assert_allclose(canvas.image[0, 0, 0], [30, 20, 10])
    np.testing.assert_array_equal(canvas.labels[0, 0], [4, 0, 0])


def test_texture_leaves_the_labels_below():
    canvas = Canvas((1, 1, 1), edge=1.0)
    everywhere = np.full((1, 1, 1), 9, np.float32)
    canvas.paint(everywhere, 5.0, 2)
    canvas.paint(everywhere, 7.0, None)
    assert canvas.image.item() == 7
    assert canvas.labels.item() == 2
    canvas.paint(everywhere, 1.0)
    assert canvas.labels.item() == 0


def test_noise_has_unit_variance_at_every_resolution():
    rng = np.random.default_rng(0)
    fields = [smooth_noise(rng, (40, 40, 40), 12) for _ in range(4)]
    assert np.std(fields) == pytest.approx(1, abs=0.1)
    assert grain(rng, (30, 30, 30), 0.8).std() == pytest.approx(1, abs=1e-3)


def test_texture_does_not_disturb_what_is_drawn_next():
    after = []
    for voxels in (8, 16):
        rng = np.random.Generator(np.random.Philox(key=[1, 2]))
        grain(rng, (voxels,) * 3, 0.8)
        after.append(rng.random())
    assert after[0] == after[1]
