"""Which cases inputs mean, and which values teachers claim."""

from pathlib import Path
from typing import Any

import pytest

from kdseg_train.plan import claimants, find_scans
from napari_kdseg.errors import GridError, UsageError
from napari_kdseg.volumes.labels import LabelClass, LabelSet


def claims_of(*models: Any) -> list[tuple[str, str, int]]:
    found = claimants(models)
    return [(who.teacher, who.class_name, who.value) for _, _, who in found]


def valued(**values: int) -> LabelSet:
    return LabelSet(
        classes=tuple(
            LabelClass(value=value, name=name, color="#102030")
            for name, value in values.items()
        )
    )


def test_binary_teachers_get_values_of_their_own(model_folder: Any) -> None:
    liver = model_folder("a", ("liver",), role="teacher")
    spleen = model_folder("b", ("spleen",), role="teacher")
    assert claims_of(liver, spleen) == [("a", "liver", 1), ("b", "spleen", 2)]


def test_values_that_teachers_share_are_kept(model_folder: Any) -> None:
    liver = model_folder("a", classes=valued(liver=5), role="teacher")
    spleen = model_folder("b", classes=valued(spleen=3), role="teacher")
    assert claims_of(liver, spleen) == [("a", "liver", 5), ("b", "spleen", 3)]


def test_teachers_of_one_class_claim_one_value(model_folder: Any) -> None:
    one = model_folder("a", ("liver",), role="teacher")
    other = model_folder("b", classes=valued(liver=4), role="teacher")
    assert [value for *_, value in claims_of(one, other)] == [1, 1]


def test_a_student_that_lacks_a_class_does_not_name_values(model_folder: Any) -> None:
    liver = model_folder("a", ("liver",), role="teacher")
    student = model_folder("s", classes=valued(spleen=9), role="student")
    assert claims_of(student, liver) == [("a", "liver", 1)]


def test_without_a_teacher_every_model_claims(model_folder: Any) -> None:
    one = model_folder("a", ("liver",))
    other = model_folder("b", ("spleen",))
    assert [who for who, *_ in claims_of(one, other)] == ["a", "b"]


def test_a_file_of_one_channel_loses_its_number(write_scan: Any) -> None:
    (scan,) = find_scans([write_scan("heart_0000.nii.gz")])
    assert scan.id == "heart"


def test_channels_on_different_grids_are_refused(
    tmp_path: Path, write_scan: Any
) -> None:
    write_scan("a_0000.nii.gz", folder=tmp_path / "set")
    write_scan("a_0001.nii.gz", folder=tmp_path / "set", shape=(20, 24, 30))
    with pytest.raises(GridError, match=r"a_0001\.nii\.gz is not on the grid of"):
        find_scans([tmp_path / "set"])


def test_a_case_that_would_leave_the_folder_is_refused(
    tmp_path: Path, write_scan: Any
) -> None:
    write_scan("image.nii.gz", folder=tmp_path / "set")
    (tmp_path / "set/dataset.yaml").write_text(
        "channels: [CT]\nclasses: {liver: 1}\ncases:\n"
        "- {id: ../../escaped, images: {CT: image.nii.gz}}\n"
    )
    with pytest.raises(UsageError, match=r"called '\.\./\.\./escaped'"):
        find_scans([tmp_path / "set"])
