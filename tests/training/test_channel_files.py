"""Which file is which channel: names tell it, and count more than the order."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdseg_train.plan import Plan, PredictConfig, plan
from napari_kdseg.errors import ModelError

MRI = ("t1", "t1ce", "t2", "flair")
Planned = Callable[..., Plan]


@pytest.fixture
def planned(tmp_path: Path, model_folder: Any) -> Planned:
    """A prediction of some files as one case, unless told otherwise."""

    def make(*inputs: Path, **changes: Any) -> Plan:
        channels = changes.pop("takes", MRI)
        model = model_folder("mri", channels=channels)
        values: dict[str, Any] = {
            "inputs": inputs,
            "case": "p",
            "models": [model.folder],
            "out": tmp_path / "out",
        }
        return plan(PredictConfig(**(values | changes)), resume=False)

    return make


@pytest.fixture
def write(write_scan: Any) -> Callable[..., list[Path]]:
    """Write a file of each name."""

    def make(*names: str, folder: Path | None = None) -> list[Path]:
        return [write_scan(f"{name}.nii.gz", folder=folder) for name in names]

    return make


def names(found: Plan) -> list[str]:
    (scan,) = found.scans
    return [path.name.removesuffix(".nii.gz") for path in scan.images]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("p_flair p_t1 p_t1ce p_t2", "p_t1 p_t1ce p_t2 p_flair"),
        ("p-FLAIR p-T1 p-T1Gd p-T2", "p-T1 p-T1Gd p-T2 p-FLAIR"),
        ("p-t1c p-t1n p-t2f p-t2w", "p-t1n p-t1c p-t2w p-t2f"),
        ("flair t1 t1c t2", "t1 t1c t2 flair"),
    ],
)
def test_files_whose_names_tell_go_in_the_order_of_the_model(
    planned: Planned, write: Any, given: str, wanted: str
) -> None:
    assert names(planned(*write(*given.split()))) == wanted.split()


def test_channels_of_any_name_are_known_where_the_model_has_them(
    planned: Planned, write: Any
) -> None:
    files = write("p_phase", "p_absorption")
    found = planned(*files, takes=("absorption", "phase"))
    assert names(found) == ["p_absorption", "p_phase"]


@pytest.mark.parametrize("given", ["b a d c", "p_t1 b p_t2 d"])
def test_files_whose_names_do_not_tell_stay_in_the_order_given(
    planned: Planned, write: Any, given: str
) -> None:
    assert names(planned(*write(*given.split()))) == given.split()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("t1 t1ce t2 adc", r"adc.nii.gz would be the channel flair of mri, and is adc"),
        ("t1 t1ce t2 ct", r"ct.nii.gz would be the channel flair of mri, and is ct"),
        ("a b t1 d", r"t1.nii.gz would be the channel t2 of mri, and is t1"),
        ("p_t1 p_t1w p_t2 p_flair", r"p_t1w.nii.gz would be the channel t1ce of mri"),
    ],
)
def test_a_name_that_contradicts_the_model_is_refused(
    planned: Planned, write: Any, given: str, says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        planned(*write(*given.split()))


def test_a_data_set_tells_what_its_numbers_show(
    planned: Planned, write: Any, tmp_path: Path
) -> None:
    listed = {"channel_names": {"0": "T2", "1": "T1"}, "labels": {"background": 0}}
    (tmp_path / "set/imagesTs").mkdir(parents=True)
    (tmp_path / "set/dataset.json").write_text(json.dumps(listed))
    folder = tmp_path / "set/imagesTs"
    write("p_0000", "p_0001", folder=folder)
    found = planned(folder, case=None, takes=("T1", "T2"))
    assert names(found) == ["p_0001", "p_0000"]


def test_channels_of_one_file_in_another_order_are_refused(
    planned: Planned, write_scan: Any, tmp_path: Path
) -> None:
    write_scan("p.nii.gz", shape=(2, 12, 16, 16), folder=tmp_path / "set")
    listed = {
        "modality": {"0": "T2", "1": "T1"},
        "labels": {"0": "background"},
        "training": [{"image": "p.nii.gz", "label": "p.nii.gz"}],
    }
    (tmp_path / "set/dataset.json").write_text(json.dumps(listed))
    with pytest.raises(ModelError, match="has the channels T2, T1; mri takes t1, t2"):
        planned(tmp_path / "set", case=None, takes=("t1", "t2"))


def test_what_a_person_calls_channels_counts_more_than_names(
    planned: Planned, write: Any
) -> None:
    files = write("p_t1", "p_t2")
    found = planned(*files, channels=("t2", "t1"), takes=("t1", "t2"))
    assert names(found) == ["p_t2", "p_t1"]


def test_models_that_take_channels_in_two_orders_go_one_at_a_time(
    planned: Planned, write: Any, model_folder: Any
) -> None:
    models = [
        model_folder("one", channels=("t1", "t2")).folder,
        model_folder("two", channels=("t2", "t1")).folder,
    ]
    with pytest.raises(ModelError, match="one of them at a time"):
        planned(*write("p_t1", "p_t2"), models=models)


def test_parts_follow_their_files(planned: Planned, write: Any) -> None:
    files = write("p_t2", "p_t1")
    found = planned(*files, part=(None, None), takes=("t1", "t2"))
    assert found.scans[0].parts == (None, None)
    assert names(found) == ["p_t1", "p_t2"]


def test_what_is_which_channel_is_said_before_anything_is_computed(
    planned: Planned, write: Any
) -> None:
    found = planned(*write("p_t2", "p_t1"), takes=("t1", "t2"))
    assert found.notes == ("p: t1 = p_t1.nii.gz, t2 = p_t2.nii.gz.",)


def test_cases_whose_files_are_called_alike_are_told_once(
    planned: Planned, write: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    write("a_0000", "a_0001", "b_0000", "b_0001", folder=folder)
    found = planned(folder, case=None, takes=("t1", "t2"))
    assert found.notes == (
        "a: t1 = a_0000.nii.gz, t2 = a_0001.nii.gz; 1 more likewise.",
    )


def test_files_that_are_too_few_are_named(planned: Planned, write: Any) -> None:
    with pytest.raises(
        ModelError, match=r"p has 2 channels, in p_t1\.nii\.gz, p_t2\.nii\.gz; mri"
    ):
        planned(*write("p_t1", "p_t2"))


def test_channel_files_without_a_case_are_told_how_to_be_given(
    planned: Planned, write: Any
) -> None:
    files = write("flair", "t1", "t1c", "t2")
    with pytest.raises(ModelError, match="--case NAME") as refused:
        planned(*files, case=None)
    *_, listed = str(refused.value).removesuffix(".").split("--case NAME: ")
    names = [Path(word).name.split(".")[0] for word in shlex.split(listed)]
    assert names == ["t1", "t1c", "t2", "flair"]
