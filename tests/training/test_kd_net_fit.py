"""Whole KD-Net runs on made brains: folds, resuming, and who was given what."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdseg_train.config import load_recipe
from kdseg_train.data import Cases
from kdseg_train.folds import divided
from kdseg_train.layouts import Case
from kdseg_train.methods import fit, prepare
from kdseg_train.modalities import check_images
from kdseg_train.new import new_recipe
from kdseg_train.prepared import StoredCase
from kdseg_train.samples import write_sample
from kdseg_train.scoring import read_csv
from kdseg_train.supervised import Material
from napari_kdseg.errors import DataSetError, StopRequested
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import write_labels
from napari_kdseg.volumes.volume import Grid

NAMES = ("necrotic core", "oedema", "enhancing tumour")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few made brains in few voxels."""
    folder = tmp_path_factory.mktemp("samples")
    write_sample("brain", folder / "brain", cases=6, size=32, seed=1)
    return folder


def recipe(**more: Any) -> dict[str, Any]:
    return {
        "method": "kd-net",
        "name": "made",
        "data": [{"path": "brain"}],
        "split": {"test": 0.34},
        "folds": 1,
        "network": {
            "name": "unet",
            "parameters": {"width": 4, "stages": 3, "skips": 1},
        },
        "patch_vox": [16, 16, 16],
        "training": {
            "epochs": 2,
            "iterations_per_epoch": 3,
            "batch": 2,
            "learning_rate": 0.003,
            "schedule": "poly",
        },
        "regions": {"WT": list(NAMES), "TC": [NAMES[0], NAMES[2]], "ET": [NAMES[2]]},
        **more,
    }


def run_of(values: dict[str, Any], samples: Path, folder: Path) -> Run:
    return Run.create(folder, prepare(values, "recipe", samples))


def trained(values: dict[str, Any], samples: Path, folder: Path) -> Run:
    run = run_of(values, samples, folder)
    with run.executing():
        fit(run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_a_run_leaves_a_student_of_one_modality_and_all_their_scores(
    samples: Path, tmp_path: Path, output: str
) -> None:
    run = trained(recipe(output=output), samples, tmp_path / "run")
    student = Model.open(run.model_folder)
    teacher = Model.open(run.folder / "teacher")
    assert student.card.channels == ("t1ce",)
    assert teacher.card.channels == ("t1", "t1ce", "t2", "flair")
    assert student.card.provenance.teachers == (teacher.fingerprint,)
    rows = read_csv(run.folder / "metrics.csv")
    assert {row["fold"] for row in rows} == {"1"}
    assert {row["model"] for row in rows} == {"made", "made-teacher", "made-baseline"}
    assert {row["class"] for row in rows} == {*NAMES, "WT", "TC", "ET"}
    for row in rows:  # a region of one class is that class
        if row["class"] == "ET":
            twin = {**row, "class": NAMES[2]}
            assert twin in rows


@pytest.mark.slow
def test_each_fold_tests_on_the_cases_that_it_did_not_see(
    samples: Path, tmp_path: Path
) -> None:
    values = recipe(folds=2, split={}, baseline=False)
    run = trained(values, samples, tmp_path / "run")
    rows = read_csv(run.folder / "metrics.csv")
    tested = {
        fold: {row["case"] for row in rows if row["fold"] == fold}
        for fold in ("1", "2")
    }
    assert not tested["1"] & tested["2"]
    assert len(tested["1"] | tested["2"]) == 6
    assert {row["model"] for row in rows} == {"made", "made-teacher"}
    first = Model.open(run.folder / "folds" / "1" / "student")
    assert Model.open(run.model_folder).fingerprint == first.fingerprint
    events, _ = run.events()
    spread = [e for e in events if e["event"] == "metric" and "dice_std" in e]
    assert {e["folds"] for e in spread} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("last", ["fold-1-student", "fold-2-student"])
def test_a_run_stopped_in_a_student_s_stage_resumes_to_the_same_weights(
    samples: Path, tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = recipe(folds=2, split={}, baseline=False)
    whole = trained(values, samples, tmp_path / "whole")
    run = run_of(values, samples, tmp_path / "stopped")
    progress = Run.progress

    def stop_in_that_stage(self: Run, step: int, total: int, stage: str = "") -> None:
        progress(self, step, total, stage=stage)
        if stage == last and step == 4:
            self.request_stop()

    with monkeypatch.context() as patched:
        patched.setattr("kdseg_train.loop.PROGRESS_SECONDS", -1.0)
        patched.setattr(Run, "progress", stop_in_that_stage)
        with pytest.raises(StopRequested), run.executing():
            fit(run)
    assert not run.model_folder.exists()
    with run.executing():
        fit(run)
    for name in ("model", "folds/2/student", "folds/2/teacher"):
        weights = Path(name) / "weights.safetensors"
        resumed, uninterrupted = run.folder / weights, whole.folder / weights
        assert resumed.read_bytes() == uninterrupted.read_bytes()
    scores = [(r.folder / "metrics.csv").read_text() for r in (run, whole)]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_thirty_steps_lower_the_student_s_loss(samples: Path, tmp_path: Path) -> None:
    training = {**recipe()["training"], "epochs": 6, "iterations_per_epoch": 5}
    run = trained(recipe(training=training), samples, tmp_path / "run")
    events, _ = run.events()
    found = [e["loss"] for e in events if e.get("stage") == "student" and "loss" in e]
    assert sum(found[-2:]) < sum(found[:2])


@pytest.mark.slow
def test_a_student_may_learn_from_cached_answers(samples: Path, tmp_path: Path) -> None:
    values = recipe(
        teachers_at="cached", distillation={"bottleneck_weight": 0}, baseline=False
    )
    run = trained(values, samples, tmp_path / "run")
    events, _ = run.events()
    assert any(e.get("stage") == "soft-labels" for e in events)
    terms = next(e for e in events if e.get("stage") == "student" and "loss" in e)
    assert terms["kd_bce"] > 0
    assert "bottleneck" not in terms


@pytest.mark.slow
def test_a_rate_that_follows_the_held_out_cases_is_told(
    samples: Path, tmp_path: Path
) -> None:
    training = {
        **recipe()["training"],
        "schedule": "plateau",
        "plateau": {"watch": "validation"},
    }
    values = recipe(folds=2, split={}, baseline=False, training=training)
    run = trained(values, samples, tmp_path / "run")
    events, _ = run.events()
    (warning,) = [e["message"] for e in events if e["event"] == "warning"]
    assert "cases that each fold holds out" in warning
    assert any("validation_loss" in e for e in events)


def test_a_new_recipe_can_be_run(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    new_recipe("kd-net", [samples / "brain"], out)
    frozen = prepare(load_recipe(out), "mine.yaml", tmp_path)
    assert frozen["student_channel"] == "t1ce"
    assert len(frozen["frozen"]["training"]) == 5  # one of six steers the rate


# ---- folds ----


def stored(folder: Path, name: str, classes: tuple[int, ...]) -> StoredCase:
    kept = StoredCase(name, folder / name, (True, True, True))
    kept.folder.mkdir(parents=True)
    np.save(
        kept.folder / "places.npy", [[c, 0, 0, 0] for c in classes] or np.zeros((0, 4))
    )
    return kept


def scan(folder: Path, name: str, content: str = "") -> Path:
    path = folder / f"{name}.nii"
    path.write_text(content or name)
    return path


def material(
    folder: Path, shown: dict[str, tuple[int, ...]], **groups: str
) -> Material:
    cases = tuple(
        Case(name, (scan(folder, name),), None, {}, NAMES, group=groups.get(name, ""))
        for name in shown
    )
    kept = tuple(stored(folder, name, classes) for name, classes in shown.items())
    return Material(Cases(("t1", "t2"), NAMES, cases, (), (), ()), kept, (), ())


EVERY = (1, 2, 3)


def test_each_case_is_held_out_once_and_trained_on_otherwise(tmp_path: Path) -> None:
    whole = material(tmp_path, dict.fromkeys("abcdefg", EVERY))
    folds = divided(whole, 3, seed=0)
    held = [case.id for fold in folds for case in fold.material.cases.test]
    assert sorted(held) == list("abcdefg")
    for fold in folds:
        test = {case.id for case in fold.material.cases.test}
        training = [case.id for case in fold.material.cases.training]
        assert {case.id for case in fold.held_out} == test
        assert [case.id for case in fold.material.training] == training
        assert {*training} == {*"abcdefg"} - test


def test_scans_of_one_patient_stay_in_one_fold(tmp_path: Path) -> None:
    same = {"a": "anna", "d": "anna", "f": "anna"}
    whole = material(tmp_path, dict.fromkeys("abcdef", EVERY), **same)
    for fold in divided(whole, 3, seed=0):
        test = {case.id for case in fold.material.cases.test}
        assert len(test & {"a", "d", "f"}) in (0, 3)


def test_one_fold_is_the_material_as_it_is(tmp_path: Path) -> None:
    whole = material(tmp_path, {"a": EVERY})
    (fold,) = divided(whole, 1, seed=0)
    assert fold.material is whole


def test_a_run_of_one_fold_that_trains_on_no_case_of_a_class_is_refused(
    tmp_path: Path,
) -> None:
    whole = material(tmp_path, {"a": (1, 2), "b": (1,)})
    message = r"the run trains on a, b, and none of them shows enhancing tumour"
    with pytest.raises(DataSetError, match=message):
        divided(whole, 1, seed=0)


def with_test_case(
    folder: Path, whole: Material, *annotated: str, value: int
) -> Material:
    """The same with a test case whose labels are one value everywhere."""
    labels = np.full((2, 2, 2), value, np.uint8)
    write_labels(
        folder / "t.nii.gz", labels, Grid.from_affine(np.eye(4), (2,) * 3), None
    )
    known = {name: (number,) for number, name in enumerate(NAMES, start=1)}
    image = (scan(folder, "t"),)
    case = Case("t", image, folder / "t.nii.gz", known, annotated)
    return replace(whole, cases=replace(whole.cases, test=(case,)))


def test_a_run_of_one_fold_that_tests_no_case_of_a_class_is_refused(
    tmp_path: Path,
) -> None:
    whole = with_test_case(tmp_path, material(tmp_path, {"a": EVERY}), *NAMES, value=2)
    message = rf"the run tests on t, and none of them shows {NAMES[0]}"
    with pytest.raises(DataSetError, match=message):
        divided(whole, 1, seed=0)


def test_what_no_test_case_annotates_need_not_be_in_one(tmp_path: Path) -> None:
    whole = with_test_case(
        tmp_path, material(tmp_path, {"a": EVERY}), NAMES[1], value=2
    )
    (fold,) = divided(whole, 1, seed=0)
    assert fold.material is whole


def test_one_scan_under_two_names_is_refused_where_folds_may_part_it(
    tmp_path: Path,
) -> None:
    whole = material(tmp_path, dict.fromkeys("abcd", EVERY))
    scan(tmp_path, "c", content="a")
    with pytest.raises(DataSetError, match=r"c\.nii and .*a\.nii are the same scan"):
        divided(whole, 2, seed=0)
    divided(whole, 1, seed=0)  # nothing is parted


def test_one_scan_twice_in_a_group_stays_in_one_fold(tmp_path: Path) -> None:
    whole = material(tmp_path, dict.fromkeys("abcd", EVERY), a="anna", c="anna")
    scan(tmp_path, "c", content="a")
    for fold in divided(whole, 3, seed=0):
        test = {case.id for case in fold.material.cases.test}
        assert len(test & {"a", "c"}) in (0, 2)


def test_a_fold_that_tests_no_case_of_a_class_is_refused(tmp_path: Path) -> None:
    shown = {"a": EVERY, "b": EVERY, "c": (1, 2), "d": (1, 2)}
    whole = material(tmp_path, shown)
    message = r"fold . tests on .*none of them shows enhancing tumour"
    with pytest.raises(DataSetError, match=message):
        divided(whole, 4, seed=0)


def test_a_fold_that_trains_on_no_case_of_a_class_is_refused(tmp_path: Path) -> None:
    whole = material(tmp_path, {"a": EVERY, "b": (1, 2), "c": (1, 2)}, b="p", c="p")
    with pytest.raises(DataSetError, match="none of them shows enhancing tumour"):
        divided(whole, 2, seed=0)


def test_fewer_cases_than_folds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"2 cases or groups .* into 3 folds"):
        divided(material(tmp_path, {"a": EVERY, "b": EVERY}), 3, seed=0)


def test_a_modality_in_name_alone_is_refused(tmp_path: Path) -> None:
    case = stored(tmp_path, "anna", EVERY)
    image = np.zeros((2, 2, 3, 3), np.float16)
    image[0, 0, 0, 0] = 1
    np.save(case.folder / "image.npy", image)
    with pytest.raises(
        DataSetError, match="anna shows nothing in t2: every voxel is 0"
    ):
        check_images([case], ("t1", "t2"))
