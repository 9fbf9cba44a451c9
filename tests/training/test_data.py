"""Data sets in every layout, and which cases a recipe means."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdseg_train.config import Recipe
from kdseg_train.data import fingerprint, resolve, shown_in
from kdseg_train.layouts import read_data_set
from napari_kdseg.errors import DataSetError
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.volume import Grid

GRID = Grid.from_affine(np.eye(4), (4, 8, 8))


def image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).integers(0, 99, GRID.shape).astype(np.int16)
    write_volume(path, data, GRID)


def label(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(GRID.shape, np.uint8)
    array[1:3, 2:5, 2:5] = 1
    write_labels(path, array, GRID, None)


def decathlon(folder: Path, cases: int = 5, first_seed: int = 0) -> Path:
    names = [f"scan_{number:02d}" for number in range(cases)]
    for number, name in enumerate(names):
        image(folder / "imagesTr" / f"{name}.nii.gz", first_seed + number)
        label(folder / "labelsTr" / f"{name}.nii.gz")
    description = {
        "name": "made",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"}
            for n in names
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def recipe(*entries: dict[str, object], **more: object) -> Recipe:
    return Recipe.model_validate({"method": "supervised", "data": entries, **more})


def test_decathlon_is_read_as_it_comes(tmp_path: Path) -> None:
    found = read_data_set(decathlon(tmp_path / "set"))
    assert found.channels == ("CT",)
    assert found.classes == ("liver", "spleen")
    assert [case.id for case in found.cases] == [f"scan_{n:02d}" for n in range(5)]
    assert found.cases[0].values == {"liver": (1,), "spleen": (2,)}


def test_nnunet_channels_belong_to_one_case(tmp_path: Path) -> None:
    for channel in (0, 1):
        image(tmp_path / "imagesTr" / f"a_{channel:04d}.nii.gz", channel)
    label(tmp_path / "labelsTr" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "T1", "1": "T2"},
                "labels": {"background": 0, "tumour": 1},
                "file_ending": ".nii.gz",
                "numTraining": 1,
            }
        )
    )
    found = read_data_set(tmp_path)
    assert found.channels == ("T1", "T2")
    assert [path.name for path in found.cases[0].images] == [
        "a_0000.nii.gz",
        "a_0001.nii.gz",
    ]


def test_our_own_layout_says_what_each_case_annotates(tmp_path: Path) -> None:
    image(tmp_path / "a.nii.gz", 0)
    label(tmp_path / "a-labels.nii.gz")
    description = {
        "channels": ["CT"],
        "classes": {"liver": 1, "spleen": 2},
        "cases": [
            {
                "id": "a",
                "images": {"CT": "a.nii.gz"},
                "label": "a-labels.nii.gz",
                "annotated": ["spleen"],
                "group": "north",
            }
        ],
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(description))
    case = read_data_set(tmp_path).cases[0]
    assert (case.annotated, case.group) == (("spleen",), "north")


def test_a_folder_of_images_has_cases_without_labels(tmp_path: Path) -> None:
    image(tmp_path / "a.nii.gz", 0)
    (tmp_path / "notes.txt").write_text("not a volume")
    found = read_data_set(tmp_path)
    assert [(case.id, case.annotated) for case in found.cases] == [("a", ())]


def test_a_folder_of_nothing_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"no data set.*dataset\.json"):
        read_data_set(tmp_path)


def test_a_name_that_climbs_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "set")
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(
        text.replace("./imagesTr/scan_00", "../../etc/scan_00")
    )
    with pytest.raises(DataSetError, match="outside its folder"):
        read_data_set(folder)


def test_what_a_set_does_not_annotate_is_unknown_there(tmp_path: Path) -> None:
    decathlon(tmp_path / "one", first_seed=0)
    decathlon(tmp_path / "two", first_seed=50)
    cases = resolve(
        recipe(
            {"path": "one", "annotated": ["liver"]},
            {"path": "two", "annotated": ["spleen"]},
        ),
        tmp_path,
    )
    assert cases.classes == ("liver", "spleen")
    assert {case.annotated for case in cases.training} == {("liver",), ("spleen",)}


def test_cases_are_chosen_by_slice_or_by_name(tmp_path: Path) -> None:
    decathlon(tmp_path / "set")
    by_slice = resolve(recipe({"path": "set", "cases": "1:3"}), tmp_path)
    by_name = resolve(
        recipe({"path": "set", "cases": ["scan_01", "scan_02"]}), tmp_path
    )
    assert by_slice.training == by_name.training


def test_a_case_that_is_not_there_is_named(tmp_path: Path) -> None:
    decathlon(tmp_path / "set")
    with pytest.raises(DataSetError, match="no case 'scan_99'"):
        resolve(recipe({"path": "set", "cases": ["scan_99"]}), tmp_path)


def test_a_class_that_is_not_there_is_named(tmp_path: Path) -> None:
    decathlon(tmp_path / "set")
    with pytest.raises(DataSetError, match="annotates no 'pancreas'"):
        resolve(recipe({"path": "set", "annotated": ["pancreas"]}), tmp_path)


def test_each_single_organ_set_is_divided_alike(tmp_path: Path) -> None:
    decathlon(tmp_path / "one", 10)
    decathlon(tmp_path / "two", 10, first_seed=50)
    cases = resolve(
        recipe(
            {"path": "one", "annotated": ["liver"]},
            {"path": "two", "annotated": ["spleen"]},
            split={"test": 0.2, "validation": 0.1},
        ),
        tmp_path,
    )
    sizes = [len(part) for part in (cases.training, cases.validation, cases.test)]
    assert sizes == [14, 2, 4]
    assert sorted(case.annotated for case in cases.test) == [
        ("liver",),
        ("liver",),
        ("spleen",),
        ("spleen",),
    ]


def test_the_same_scan_in_training_and_test_is_noticed_under_another_name(
    tmp_path: Path,
) -> None:
    decathlon(tmp_path / "set", 3)
    twin = tmp_path / "twin"
    decathlon(twin, 1, first_seed=2)
    with pytest.raises(DataSetError, match="kept for testing"):
        resolve(recipe({"path": "set"}, test=[{"path": "twin"}]), tmp_path)


def test_the_fingerprint_changes_with_a_voxel_and_with_what_is_annotated(
    tmp_path: Path,
) -> None:
    folder = decathlon(tmp_path / "set", 2)
    plain = fingerprint(resolve(recipe({"path": "set"}), tmp_path).training)
    narrower = recipe({"path": "set", "annotated": ["liver"]})
    assert fingerprint(resolve(narrower, tmp_path).training) != plain
    (folder / "imagesTr" / "scan_00.nii.gz").unlink()
    image(folder / "imagesTr" / "scan_00.nii.gz", 77)
    assert fingerprint(resolve(recipe({"path": "set"}), tmp_path).training) != plain


def test_cases_of_one_group_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    entries = []
    for number in range(12):
        image(tmp_path / "set" / f"s{number}.nii.gz", number)
        label(tmp_path / "set" / f"s{number}-labels.nii.gz")
        entries.append(
            {
                "id": f"s{number}",
                "images": {"CT": f"s{number}.nii.gz"},
                "label": f"s{number}-labels.nii.gz",
                "group": f"patient {number // 3}",
            }
        )
    description = {"channels": ["CT"], "classes": {"liver": 1}, "cases": entries}
    (tmp_path / "set" / "dataset.yaml").write_text(yaml.safe_dump(description))
    cases = resolve(recipe({"path": "set"}, split={"test": 0.25}), tmp_path)
    assert len(cases.test) == 3
    assert len({case.group for case in cases.test}) == 1
    assert {c.group for c in cases.test}.isdisjoint({c.group for c in cases.training})


@pytest.mark.parametrize("seed", range(5))
def test_scans_of_one_patient_stay_together_whatever_is_annotated(
    tmp_path: Path, seed: int
) -> None:
    entries = []
    for number in range(12):
        image(tmp_path / "set" / f"s{number}.nii.gz", number)
        label(tmp_path / "set" / f"s{number}-labels.nii.gz")
        entries.append(
            {
                "id": f"s{number}",
                "images": {"CT": f"s{number}.nii.gz"},
                "label": f"s{number}-labels.nii.gz",
                "annotated": ["liver" if number % 2 else "spleen"],
                "group": f"patient {number // 2}",  # a liver and a spleen each
            }
        )
    classes = {"liver": 1, "spleen": 2}
    description = {"channels": ["CT"], "classes": classes, "cases": entries}
    (tmp_path / "set" / "dataset.yaml").write_text(yaml.safe_dump(description))
    asked = recipe({"path": "set"}, split={"test": 0.5, "seed": seed})
    cases = resolve(asked, tmp_path)
    assert len(cases.test) == 6
    assert {c.group for c in cases.test}.isdisjoint({c.group for c in cases.training})


def of_patients(folder: Path, *patients: str, labelled: int | None = None) -> Path:
    """Scans s0, s1 ... of these patients in our own layout; all or some labelled."""
    entries: list[dict[str, object]] = []
    for number, patient in enumerate(patients):
        image(folder / f"s{number}.nii.gz", number + sum(map(ord, folder.name)))
        known: dict[str, object] = {"id": f"s{number}", "group": patient}
        known["images"] = {"CT": f"s{number}.nii.gz"}
        if labelled is None or number < labelled:
            label(folder / f"s{number}-labels.nii.gz")
            known["label"] = f"s{number}-labels.nii.gz"
        entries.append(known)
    description = {"channels": ["CT"], "classes": {"liver": 1}, "cases": entries}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description))
    return folder


@pytest.mark.parametrize("part", ["training", "unlabelled"])
def test_scans_of_one_patient_in_training_and_testing_are_refused(
    tmp_path: Path, part: str
) -> None:
    of_patients(tmp_path / "set", "anna", "bert", "carl", "dora")
    asked: dict[str, object] = {"test": [{"path": "set", "cases": ["s3"]}]}
    entry: dict[str, object] = {"path": "set", "cases": "0:2"}
    assert resolve(recipe(entry, **asked), tmp_path).test
    of_patients(tmp_path / "set", "anna", "bert", "dora", "dora")
    more: dict[str, object] = {"path": "set", "cases": ["s2"]}
    message = r"s2\.nii\.gz is used for training and .*s3\.nii\.gz, .*'dora'"
    leaky = recipe(entry, more, **asked)
    if part == "unlabelled":
        leaky = recipe(entry, **asked, unlabelled=[more])
    with pytest.raises(DataSetError, match=message):
        resolve(leaky, tmp_path)


def test_a_patient_is_the_same_in_another_data_set(tmp_path: Path) -> None:
    of_patients(tmp_path / "first", "anna", "bert")
    of_patients(tmp_path / "later", "carl", "anna")
    asked = recipe({"path": "first"}, test=[{"path": "later"}])
    with pytest.raises(DataSetError, match="scans of one patient go to one side"):
        resolve(asked, tmp_path)
    fixed = recipe({"path": "first"}, test=[{"path": "later", "exclude": ["s1"]}])
    assert [case.group for case in resolve(fixed, tmp_path).test] == ["carl"]


def test_a_patient_kept_for_validation_is_not_unlabelled_as_well(
    tmp_path: Path,
) -> None:
    of_patients(tmp_path / "set", "anna", "bert", "anna", "bert", labelled=2)
    asked = recipe({"path": "set"}, split={"validation": 0.5})
    with pytest.raises(DataSetError, match="kept for validation"):
        resolve(asked, tmp_path)


def test_the_same_scan_in_validation_and_test_is_noticed(tmp_path: Path) -> None:
    decathlon(tmp_path / "set", 2)
    decathlon(tmp_path / "twin", 2)
    split = {"validation": 0.5}
    asked = recipe({"path": "set"}, test=[{"path": "twin"}], split=split)
    with pytest.raises(DataSetError, match=r"used for validation .*kept for testing"):
        resolve(asked, tmp_path)


def test_scans_without_a_group_are_nobodys(tmp_path: Path) -> None:
    of_patients(tmp_path / "set", "", "", "")
    test = [{"path": "set", "cases": "2"}]
    cases = resolve(recipe({"path": "set", "cases": "0:2"}, test=test), tmp_path)
    assert len(cases.training) == 2


def test_classes_count_as_shown_where_a_label_that_annotates_them_has_them(
    tmp_path: Path,
) -> None:
    decathlon(tmp_path / "set", 2)  # labels show the liver, and no spleen
    cases = resolve(recipe({"path": "set"}), tmp_path).training
    assert shown_in(cases, ("liver", "spleen")) == {"liver"}
    narrow = resolve(recipe({"path": "set", "annotated": ["spleen"]}), tmp_path)
    assert shown_in(narrow.training, ("liver", "spleen")) == set()
    assert shown_in((), ("liver",)) == set()


def test_cases_without_a_label_are_unlabelled_wherever_they_are_named(
    tmp_path: Path,
) -> None:
    decathlon(tmp_path / "set", 4)
    image(tmp_path / "images" / "u.nii.gz", 99)
    cases = resolve(
        recipe({"path": "set"}, {"path": "images"}, split={"test": 0.5}), tmp_path
    )
    assert [case.id for case in cases.unlabelled] == ["u"]
    assert all(case.annotated for case in (*cases.training, *cases.test))


def test_a_test_case_without_a_label_is_refused(tmp_path: Path) -> None:
    decathlon(tmp_path / "set", 2)
    image(tmp_path / "images" / "u.nii.gz", 99)
    with pytest.raises(DataSetError, match="kept for testing, but nothing"):
        resolve(recipe({"path": "set"}, test=[{"path": "images"}]), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"background": 0, "liver": 1}},
        {"modality": "CT"},
        {"training": [{"label": "x"}]},
    ],
)
def test_a_description_that_breaks_its_layout_is_one_sentence(
    tmp_path: Path, change: dict[str, object]
) -> None:
    folder = decathlon(tmp_path / "set", 1)
    values = json.loads((folder / "dataset.json").read_text()) | change
    (folder / "dataset.json").write_text(json.dumps(values))
    with pytest.raises(DataSetError, match="does not follow its layout"):
        read_data_set(folder)


def test_an_id_that_climbs_out_of_the_run_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "a.nii.gz", 0)
    case = {"id": "../../x", "images": {"CT": "a.nii.gz"}}
    description = {"channels": ["CT"], "classes": {"liver": 1}, "cases": [case]}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(description))
    with pytest.raises(DataSetError, match="ids become folders"):
        read_data_set(tmp_path)
