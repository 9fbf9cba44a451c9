"""Which cases inputs mean, and which values teachers claim."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import image, save
from pydicom.uid import generate_uid

from kdseg_train import plan
from kdseg_train.channel_files import group_channels
from kdseg_train.plan import PredictConfig, claimants
from kdseg_train.predict import read_scan
from kdseg_train.scans import find_scans
from napari_kdseg.errors import DataSetError, GridError, UsageError
from napari_kdseg.inference import backends
from napari_kdseg.volumes.formats import files_of, inspect_volume, write_labels
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


@pytest.mark.parametrize(
    ("asked", "missing", "said"),
    [
        ({"backend": "openvino"}, "openvino", "needs openvino"),
        ({"format": "dicom-seg"}, "highdicom", "needs highdicom"),
    ],
)
def test_an_extra_that_is_missing_is_told_before_anything_begins(
    model_folder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    missing: str,
    said: str,
) -> None:
    def find(name: str) -> object | None:
        return None if name == missing else object()

    monkeypatch.setattr(backends, "find_spec", find)
    monkeypatch.setattr(plan, "find_spec", find)
    config = PredictConfig(
        inputs=(tmp_path,), models=(model_folder().folder,), out=tmp_path, **asked
    )
    with pytest.raises(UsageError, match=said):
        plan.open_models(config)


def test_dicom_segmentations_are_refused_for_scans_that_are_no_dicom(
    model_folder: Any, write_scan: Any, tmp_path: Path
) -> None:
    config = PredictConfig(
        inputs=(write_scan(),),
        models=(model_folder().folder,),
        out=tmp_path / "out",
        format="dicom-seg",
    )
    with pytest.raises(UsageError, match="is no DICOM series"):
        plan.plan(config, resume=False)


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


def test_each_channel_may_be_a_part_of_its_own(tmp_path: Path) -> None:
    for name, number in (("first", 1), ("second", 2)):
        slices(tmp_path, name, number)
    parts = ("first (series 1)", "second (series 2)")
    (scan,) = find_scans([tmp_path, tmp_path], parts, "anna")
    volume = read_scan(scan, None)
    assert volume.data.shape[0] == 2
    assert [int(volume.data[at, 0:1].max()) for at in range(2)] == [1, 2]
    with pytest.raises(UsageError, match="one volume for each of 1"):
        find_scans([tmp_path], parts, "anna")
    with pytest.raises(UsageError, match="one volume for each of 2"):
        find_scans([tmp_path, tmp_path], parts)


def test_folders_named_by_numbers_are_cases_of_their_own(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"1.2.840.{number}").mkdir()
        slices(tmp_path / f"1.2.840.{number}", "ct", number)
    found = [scan.id for scan in find_scans([tmp_path])]
    assert found == ["1.2.840.1", "1.2.840.2"]
    assert [path.name for path in files_of(tmp_path / "1.2.840.1")] == [
        f"ct-{at}.dcm" for at in range(3)
    ]
    (tmp_path / "1.2.840.1/.DS_Store").touch()
    (tmp_path / "1.2.840.1/out").mkdir()
    (tmp_path / "1.2.840.1/out/labels.nii.gz").touch()
    assert len(files_of(tmp_path / "1.2.840.1")) == 3


def slices(folder: Path, name: str, number: int, **more: str) -> None:
    """Write a series of three slices, all voxels of which are its number."""
    plane = np.full((4, 5), number, np.int16)
    uid = generate_uid()
    for at in range(3):
        tags = {"SeriesDescription": name, "SeriesNumber": number, **more}
        made = image(plane, (0, 0, 2.0 * at), **tags, SeriesInstanceUID=uid)
        save(made, plane, folder / f"{name}-{at}.dcm")


def test_numbers_without_a_first_channel_are_cases(tmp_path: Path) -> None:
    for name in ("anna_0001", "anna_0002", "bert_0000", "bert_0001"):
        (tmp_path / f"{name}.nii.gz").touch()
    found = group_channels(sorted(tmp_path.iterdir()))
    assert {case: len(files) for case, files in found.items()} == {
        "anna_0001": 1,
        "anna_0002": 1,
        "bert": 2,
    }


def test_a_gap_in_the_numbers_of_channels_is_refused_by_its_name(
    tmp_path: Path,
) -> None:
    for number in (0, 1, 3):
        (tmp_path / f"anna_{number:04d}.nii.gz").touch()
    with pytest.raises(
        DataSetError, match=r"files 0000, 0001, 0003 of 'anna' and no anna_0002;"
    ):
        group_channels(sorted(tmp_path.iterdir()))


@pytest.mark.parametrize("other", ["a.nrrd", "a_0000.nii.gz"])
def test_files_of_one_name_are_no_channels_of_a_case(
    tmp_path: Path, other: str
) -> None:
    for name in ("a.nii.gz", other, "b.nii.gz"):
        (tmp_path / name).touch()
    with pytest.raises(DataSetError, match=r"both called 'a', and files of one case"):
        group_channels(sorted(tmp_path.iterdir()))


def test_a_file_that_is_given_twice_is_no_second_channel(write_scan: Any) -> None:
    scan = write_scan("a.nii.gz")
    with pytest.raises(DataSetError, match=r"a\.nii\.gz is given twice"):
        find_scans([scan, scan])


@pytest.fixture
def with_labels(write_scan: Any, tmp_path: Path) -> Path:
    """A folder with a scan and two files that name their labels."""
    scan = write_scan("a.nii.gz", folder=tmp_path / "set")
    names = LabelSet.from_names(["liver"])
    grid = inspect_volume(scan).grid
    for name in ("seg.nii.gz", "organs.seg.nrrd"):
        made = np.ones(grid.shape, np.uint8)
        write_labels(tmp_path / "set" / name, made, grid, names)
    return tmp_path / "set"


def test_labels_in_a_folder_of_scans_are_left_out_and_named(
    with_labels: Path, model_folder: Any, tmp_path: Path
) -> None:
    model = model_folder().folder
    given = {"inputs": [with_labels], "models": [model], "out": tmp_path / "out"}
    found = plan.plan(PredictConfig.model_validate(given), resume=False)
    assert [scan.id for scan in found.scans] == ["a"]
    (note,) = found.notes
    assert note.startswith("Left out as labels, which they say they are: organs.seg.")
    assert "seg.nii.gz. Name a file" in note


def test_labels_that_are_named_are_taken(with_labels: Path) -> None:
    (scan,) = find_scans([with_labels / "seg.nii.gz"])
    assert scan.id == "seg"


def test_a_folder_of_labels_alone_is_refused(with_labels: Path) -> None:
    (with_labels / "a.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"no scan in .*set: organs\.seg\.nrrd says"):
        find_scans([with_labels])


def test_labels_of_several_parts_are_left_out_too(
    with_labels: Path, real_data: Path
) -> None:
    layers = real_data / "ct_chest_segnrrd/SegmentationOverlapping.seg.nrrd"
    shutil.copy(layers, with_labels)
    assert [scan.id for scan in find_scans([with_labels])] == ["a"]


@pytest.mark.parametrize(
    ("channel", "doubted"), [("CT", True), ("t1", False), ("image", False)]
)
def test_a_scan_of_another_machine_than_the_models_is_doubted(
    tmp_path: Path, model_folder: Any, channel: str, doubted: bool
) -> None:
    (tmp_path / "knee").mkdir()
    slices(tmp_path / "knee", "knee", 1, Modality="MR")
    given = {
        "inputs": [tmp_path / "knee"],
        "models": [model_folder(channels=(channel,)).folder],
        "out": tmp_path / "out",
    }
    found = plan.plan(PredictConfig.model_validate(given), resume=False)
    said = f"knee is MR, and organs is for {channel}; what it finds there may mean"
    assert [said in doubt for doubt in found.doubts] == [True] * doubted


def test_a_preset_settles_what_was_not_chosen(tmp_path: Path) -> None:
    given = {"inputs": [tmp_path], "models": [tmp_path], "out": tmp_path}
    fast = PredictConfig.model_validate({**given, "preset": "fast"}).settings
    assert (fast.overlap, fast.backend) == (0.2, "auto")
    mine = PredictConfig.model_validate({**given, "preset": "fast", "overlap": 0.5})
    assert mine.settings.overlap == 0.5
    plain = PredictConfig.model_validate(given).settings
    assert (plain.overlap, plain.backend, plain.roi) == (None, "torch", "all")
