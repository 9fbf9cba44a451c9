"""Label sets, and values that are no labels."""

import numpy as np
import pytest
from pydantic import ValidationError

from napari_kdseg.errors import LabelError
from napari_kdseg.volumes.labels import LabelClass, LabelSet, unnamed, values_in

ORGANS = LabelSet.from_names(["spleen", "liver", "left kidney"])


def test_names_are_numbered_from_one() -> None:
    assert ORGANS.values == (1, 2, 3)
    assert ORGANS.names == ("spleen", "liver", "left kidney")


def test_background_counts_as_a_class_and_is_not_listed() -> None:
    assert ORGANS.count == 4


def test_a_hundred_classes_have_a_hundred_colours() -> None:
    many = LabelSet.from_names(f"organ {number}" for number in range(100))
    assert len({item.color for item in many.classes}) == 100


def test_a_subset_keeps_its_values() -> None:
    assert ORGANS.subset(["left kidney", "spleen"]).values == (3, 1)


def test_values_that_nobody_named_are_called_after_themselves() -> None:
    found = LabelSet.from_values([4, 0, 2])
    assert [(one.value, one.name) for one in found.classes] == [
        (2, "class 2"),
        (4, "class 4"),
    ]
    assert unnamed(found)
    more = ORGANS.with_values([3, 9])
    assert more.names == (*ORGANS.names, "class 9")
    assert not unnamed(more)
    odd = LabelSet(classes=(LabelClass(value=1, name="class 2", color="#ff0000"),))
    assert odd.with_values([2]).names == ("class 2", "class 2*")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(LabelError, match="'lung'; the classes are spleen, liver"):
        ORGANS.by_name("lung")


@pytest.mark.parametrize(("value", "dtype"), [(255, "uint8"), (256, "uint16")])
def test_labels_are_wider_only_where_a_value_needs_it(value: int, dtype: str) -> None:
    one = LabelSet(classes=(LabelClass(value=value, name="a", color="#ff0000"),))
    assert one.dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    "second",
    [{"value": 1, "name": "b"}, {"value": 2, "name": "a"}],
    ids=["value", "name"],
)
def test_two_classes_share_neither_value_nor_name(second: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="more than one class"):
        LabelSet.model_validate(
            {
                "classes": [
                    {"value": 1, "name": "a", "color": "#000000"},
                    {"color": "#ffffff", **second},
                ]
            }
        )


def test_background_cannot_be_a_class() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        LabelClass(value=0, name="background", color="#000000")


def test_colours_are_kept_in_small_letters() -> None:
    assert LabelClass(value=1, name="a", color="#FFAA00").color == "#ffaa00"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float32", "float64"])
def test_labels_of_any_type_pass_when_their_values_are_known(dtype: str) -> None:
    ORGANS.check(np.array([[[0, 1], [2, 3]]], dtype=dtype), "a.nii")


def test_a_mask_passes_as_zeros_and_ones() -> None:
    assert values_in(np.array([[[True, False]]]), "a.nii") == (0, 1)


def test_a_value_outside_the_set_is_refused_with_the_set() -> None:
    with pytest.raises(
        LabelError,
        match=r"a.nii holds the label values 7, 9; the set knows 0 background, "
        r"1 spleen, 2 liver, 3 left kidney",
    ):
        ORGANS.check(np.array([[[1, 7, 9]]], dtype=np.uint8), "a.nii")


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.array([[[0.0, 1.5]]]), "1.5"),
        (np.array([[[0, -1]]]), "-1"),
        (np.array([[[0.0, np.nan]]]), "nan"),
        (np.array([[[70000]]]), "70000"),
        (np.array([[[np.inf]]]), "inf"),
    ],
)
def test_values_that_are_no_labels_are_refused(array: np.ndarray, shown: str) -> None:
    with pytest.raises(LabelError, match=rf"the label value {shown}; labels are whole"):
        ORGANS.check(array, "a.nii")


def test_complex_values_are_refused() -> None:
    with pytest.raises(LabelError, match="complex128 values"):
        values_in(np.zeros((1, 1, 1), dtype=complex), "a.nii")


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int32", "int64", "float64", "bool"]
)
def test_no_value_is_overlooked_however_rare_and_wherever(dtype: str) -> None:
    for place in range(21):
        array = np.zeros((3, 1, 7), dtype)  # no whole number of eight bytes
        array.reshape(-1)[place] = 1
        assert values_in(array, "labels") == (0, 1)
    assert values_in(np.ones((1, 1, 1), dtype), "labels") == (1,)
    assert values_in(np.zeros((0, 2, 2), dtype), "labels") == ()
