import numpy as np
import pytest
from scipy import ndimage

from napari_kdseg.errors import LabelError
from napari_kdseg.inference.postprocessing import clean
from napari_kdseg.models.model import Postprocessing
from napari_kdseg.volumes.labels import LabelSet

CLASSES = LabelSet.from_names(["liver", "kidney"])
LIVER, KIDNEY = 1, 2


def _scene() -> np.ndarray:
    """A liver of 64 voxels with a stray one, three kidneys of 27, 18 and 8."""
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[0:4, 0:4, 0:4] = LIVER
    labels[11, 11, 11] = LIVER
    labels[6:9, 0:3, 0:3] = KIDNEY
    labels[6:9, 0:3, 6:8] = KIDNEY
    labels[6:8, 6:8, 0:2] = KIDNEY
    return labels


def _counts(labels: np.ndarray) -> list[int]:
    return np.bincount(labels.ravel(), minlength=3).tolist()[1:]


def test_the_largest_component_of_a_class_stays() -> None:
    rules = Postprocessing(keep_largest={"liver": 1})
    assert _counts(clean(_scene(), CLASSES, rules, voxel_mm3=1)) == [64, 53]


def test_both_kidneys_stay_where_two_components_may() -> None:
    rules = Postprocessing(keep_largest={"kidney": 2})
    assert _counts(clean(_scene(), CLASSES, rules, voxel_mm3=1)) == [65, 45]


def test_components_smaller_than_the_minimum_go_whatever_their_class() -> None:
    # A voxel is 0.5 mm3: 8 voxels are 4 mm3 and one is 0.5 mm3.
    rules = Postprocessing(minimum_mm3=4.5)
    assert _counts(clean(_scene(), CLASSES, rules, voxel_mm3=0.5)) == [64, 45]


def test_components_that_touch_by_a_corner_are_one() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = LIVER
    rules = Postprocessing(keep_largest={"liver": 1})
    assert _counts(clean(labels, CLASSES, rules, voxel_mm3=1)) == [2, 0]


def test_touching_classes_are_never_one_component() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[:, :, 0:2] = LIVER
    labels[:, :, 2:3] = KIDNEY
    rules = Postprocessing(keep_largest={"liver": 1, "kidney": 1})
    np.testing.assert_array_equal(clean(labels, CLASSES, rules, voxel_mm3=1), labels)


def test_holes_of_a_class_are_filled() -> None:
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[1:6, 1:6, 1:6] = LIVER
    labels[3, 3, 3] = 0
    rules = Postprocessing(fill_holes=("liver",))
    assert _counts(clean(labels, CLASSES, rules, voxel_mm3=1)) == [125, 0]


def test_another_class_inside_is_no_hole() -> None:
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[1:6, 1:6, 1:6] = LIVER
    labels[3, 3, 3] = KIDNEY
    rules = Postprocessing(fill_holes=("liver",))
    np.testing.assert_array_equal(clean(labels, CLASSES, rules, voxel_mm3=1), labels)


def test_a_hole_open_to_the_outside_stays() -> None:
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[1:6, 1:6, 1:6] = LIVER
    labels[3, 3, 3:6] = 0
    rules = Postprocessing(fill_holes=("liver",))
    np.testing.assert_array_equal(clean(labels, CLASSES, rules, voxel_mm3=1), labels)


def _noise() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.choice(3, (14, 15, 16), p=[0.85, 0.1, 0.05]).astype(np.uint8)


def test_cleaning_twice_changes_nothing_more() -> None:
    rules = Postprocessing(
        keep_largest={"liver": 2, "kidney": 1}, fill_holes=("liver",), minimum_mm3=3
    )
    once = clean(_noise(), CLASSES, rules, voxel_mm3=1)
    np.testing.assert_array_equal(clean(once, CLASSES, rules, voxel_mm3=1), once)


def test_dropping_components_only_takes_away() -> None:
    rules = Postprocessing(keep_largest={"liver": 3}, minimum_mm3=2)
    labels = _noise()
    cleaned = clean(labels, CLASSES, rules, voxel_mm3=1)
    changed = cleaned != labels
    assert changed.any()
    assert (cleaned[changed] == 0).all()


def test_labels_handed_in_are_left_alone() -> None:
    labels = _scene()
    rules = Postprocessing(keep_largest={"liver": 1}, fill_holes=("kidney",))
    clean(labels, CLASSES, rules, voxel_mm3=1)
    np.testing.assert_array_equal(labels, _scene())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_the_type_of_labels_stays(kind: type) -> None:
    rules = Postprocessing(keep_largest={"liver": 1})
    assert clean(_scene().astype(kind), CLASSES, rules, voxel_mm3=1).dtype == kind


def test_empty_labels_stay_empty() -> None:
    rules = Postprocessing(
        keep_largest={"liver": 1}, fill_holes=("liver",), minimum_mm3=1
    )
    empty = np.zeros((3, 4, 5), np.uint8)
    assert not clean(empty, CLASSES, rules, voxel_mm3=1).any()


def test_a_rule_for_an_unknown_class_is_refused() -> None:
    rules = Postprocessing(keep_largest={"spleen": 1})
    with pytest.raises(LabelError, match="spleen"):
        clean(_scene(), CLASSES, rules, voxel_mm3=1)


def test_the_largest_components_are_those_that_scipy_finds() -> None:
    names = LabelSet.from_names([f"organ {number}" for number in range(1, 14)])
    generator = np.random.default_rng(3)
    coarse = np.maximum(generator.integers(-12, 14, (9, 8, 10)), 0).astype(np.uint8)
    labels = coarse.repeat(3, 0).repeat(2, 1).repeat(2, 2)
    specks = generator.random(labels.shape) > 0.98
    labels[specks] = generator.integers(0, 14, specks.sum())
    expected = np.zeros_like(labels)
    for value in range(1, 14):
        components, _ = ndimage.label(labels == value, np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        expected[components == sizes.argmax()] = value
    rules = Postprocessing(keep_largest=dict.fromkeys(names.names, 1))
    np.testing.assert_array_equal(clean(labels, names, rules, voxel_mm3=1), expected)
    assert (expected != labels).any()
