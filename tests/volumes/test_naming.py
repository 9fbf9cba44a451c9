"""What names of files tell about cases, channels and labels."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_kdseg.errors import UsageError
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.naming import (
    channel_names,
    classes_of_data_set,
    group_by_pattern,
    is_plain_name,
    labelled_case,
    looks_like_labels,
    plain_name,
    unique_name,
)


def grouped(*names: str, pattern: str | None = None) -> dict[str, dict[str, str]]:
    found = group_by_pattern([Path("/data") / name for name in names], pattern)
    return {
        case: {channel: str(path.relative_to("/data")) for channel, path in c.items()}
        for case, c in found.items()
    }


def test_files_of_nnunet_are_grouped_by_their_number() -> None:
    found = grouped("a_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz")
    assert found == {
        "a": {"0000": "a_0000.nii.gz", "0001": "a_0001.nii.gz"},
        "b": {"0000": "b_0000.nii.gz"},
    }


def test_modalities_are_grouped_in_their_order() -> None:
    names = ("BraTS_1_flair.nii.gz", "BraTS_1_t2.nii.gz", "BraTS_1_t1ce.nii.gz")
    found = grouped(*names, "BraTS_1_T1.nii.gz")
    assert list(found) == ["BraTS_1"]
    assert list(found["BraTS_1"]) == ["T1", "t1ce", "t2", "flair"]


def test_a_modality_alone_belongs_to_its_folder() -> None:
    found = grouped("anna/t2.nii.gz", "anna/t1.nii.gz", "bert/t1.nii.gz")
    assert {case: list(c) for case, c in found.items()} == {
        "anna": ["t1", "t2"],
        "bert": ["t1"],
    }


def test_what_names_no_channel_is_a_case_of_its_own() -> None:
    assert grouped("fish-1.nii.gz", "fish-2.nii.gz") == {
        "fish-1": {"": "fish-1.nii.gz"},
        "fish-2": {"": "fish-2.nii.gz"},
    }


def test_cases_of_one_name_in_two_folders_stay_apart() -> None:
    found = grouped("one/a_t1.nii.gz", "one/a_t2.nii.gz", "two/a_t1.nii.gz")
    assert {case: len(channels) for case, channels in found.items()} == {
        "a": 2,
        "a-2": 1,
    }


def test_a_pattern_of_ones_own_may_read_folders() -> None:
    names = ("ct/anna.nii.gz", "pet/anna.nii.gz")
    assert grouped(*names, pattern="{channel}/{case}") == {
        "anna": {"ct": "ct/anna.nii.gz", "pet": "pet/anna.nii.gz"}
    }


def test_the_channel_of_a_pattern_is_what_comes_last() -> None:
    found = grouped("anna_day_1_red.tif", pattern="{case}_{channel}")
    assert found == {"anna_day_1": {"red": "anna_day_1_red.tif"}}


def test_what_does_not_fit_a_pattern_is_a_case_of_its_own() -> None:
    assert grouped("anna.nii", pattern="{case}_{channel}") == {"anna": {"": "anna.nii"}}


@pytest.mark.parametrize("pattern", ["", "{channel}", "{case}{case}", "x_{name}"])
def test_a_pattern_without_a_case_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="does not name one case"):
        group_by_pattern([Path("a.nii")], pattern)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b_t1", "a_t1", "a_0000", "t1", "x"]), max_size=8)
)
def test_no_file_is_lost_or_doubled(names: list[str]) -> None:
    paths = {Path(f"/{number % 3}/{name}.nii") for number, name in enumerate(names)}
    found = group_by_pattern(paths)
    assert sorted(p for c in found.values() for p in c.values()) == sorted(paths)


def test_numbers_without_a_first_channel_are_cases() -> None:
    found = group_by_pattern([Path("/a/anna_0001.nii"), Path("/a/anna_0002.nii")])
    assert list(found) == ["anna_0001", "anna_0002"]


# ---- Data sets ----


def test_a_data_set_names_channels_and_classes(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    listed = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "tumour": 1},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    file = tmp_path / "imagesTr" / "a_0001.nii.gz"
    assert channel_names(file) == {"0000": "CT", "0001": "PET"}
    assert list(group_by_pattern([file])["a"]) == ["PET"]
    assert classes_of_data_set(file) == LabelSet.from_names(["tumour"])


@pytest.mark.parametrize("text", ["", "[]", '{"labels": 3}', '{"labels": {"x": "y"}}'])
def test_a_strange_description_names_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    file = tmp_path / "images" / "a.nii"
    assert channel_names(file) == {}
    assert classes_of_data_set(file) is None


# ---- Labels ----


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("anna-labels.nii.gz", "anna"),
        ("Anna_seg.nii.gz", "Anna"),
        ("seg_fused.nii.gz", "fused"),
        ("Segmentation.seg.nrrd", "data"),
        ("labelsTr/anna.nii.gz", "anna"),
        ("MASK.nii", "data"),
    ],
)
def test_labels_are_known_by_name_and_belong_to_a_case(name: str, case: str) -> None:
    assert looks_like_labels(Path("/data") / name)
    assert labelled_case(Path("/data") / name) == case


@pytest.mark.parametrize(
    "name", ["anna.nii", "segovia.nii", "labelled/anna.nii", "sub-1_label-22_ct.nii"]
)
def test_other_names_are_no_labels(name: str) -> None:
    assert not looks_like_labels(Path("/data") / name)


# ---- Names for folders ----


def test_names_get_numbers_whatever_their_case() -> None:
    assert unique_name("a", []) == "a"
    assert unique_name("A", ["a", "a-2"]) == "A-3"


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_becomes_a_name_for_a_folder(text: str) -> None:
    assert is_plain_name(plain_name(text))


@pytest.mark.parametrize("name", ["anna 1", "scan.v2", "Größe", "_a", "a" * 120])
def test_plain_names_stay(name: str) -> None:
    assert is_plain_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a.", " a", "a/b", "a:b", "a\0", "con", "LPT1.x"]
)
def test_names_that_some_system_refuses_are_told(name: str) -> None:
    assert not is_plain_name(name)
