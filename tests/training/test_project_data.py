"""A project as a data set: its scans, what people corrected, what a student gets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from made_predictions import CLASSES, change_record, grid_of, write_prediction

from kdseg_train.config import Recipe, load_recipe
from kdseg_train.data import Cases, fingerprint, resolve
from kdseg_train.evaluate import EvaluateConfig, compare
from kdseg_train.layouts import read_data_set
from kdseg_train.methods import fit, prepare
from kdseg_train.new import new_recipe
from napari_kdseg.errors import DataSetError, ModelError, UsageError
from napari_kdseg.models.card import Calibration
from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, Tiling, save_model
from napari_kdseg.models.networks import build_classifier
from napari_kdseg.project import Project
from napari_kdseg.review.corrections import Record, home_of, write_record
from napari_kdseg.review.predictions import Prediction, predictions_in
from napari_kdseg.review.verdicts import Verdict, Word
from napari_kdseg.runs.run import Run
from napari_kdseg.state.grading.handing_over import Labels, Wish, write_recipe
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.scan import NewScan, VolumeFile

SHAPE = (12, 32, 32)
HOW = Preprocessing(orientation="RAS", intensity=(Intensity(kind="zscore"),))
SHORT = {"epochs": 1, "iterations_per_epoch": 3, "batch": 2}


def labels_of(number: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:10, 4 : 12 + number, 4:12] = 1
    labels[2:10, 16:24, 16:24] = 2
    return labels


def scan(folder: Path, name: str) -> VolumeFile:
    path = folder / "scans" / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(sum(map(ord, name)))
    write_volume(path, generator.normal(size=SHAPE).astype(np.float32), grid_of(SHAPE))
    return VolumeFile(path)


def truth(folder: Path, name: str, classes: LabelSet | None = CLASSES) -> VolumeFile:
    path = folder / "truth" / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_labels(path, labels_of(1), grid_of(SHAPE), classes)
    return VolumeFile(path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One drawn scan, one held out, three that nobody drew."""
    folder = tmp_path / "fish"
    with Project.create(folder, "Medaka") as made:
        for name in ("drawn", "held"):
            made.add_scan(NewScan((scan(tmp_path, name),), truth(tmp_path, name)))
        for name in ("a", "b", "c"):
            made.add_scan(NewScan((scan(tmp_path, name),)))
        made.set_use("held", "test")
        made.set_classes(CLASSES)
    return folder


def predict(project: Path, teacher: Model | None = None) -> tuple[Prediction, ...]:
    for number, case in enumerate(("a", "b", "c")):
        write_prediction(
            project / "predictions",
            case,
            labels_of(number),
            model="student" if teacher is None else teacher.card.name,
            scan=project.parent / "scans" / f"{case}.nii.gz",
            fingerprint="" if teacher is None else teacher.fingerprint,
        )
    return predictions_in(project / "predictions")


def correct(project: Path, prediction: Prediction, *slices: int, axis: int = 0) -> None:
    """Send slices of a prediction to the labelled set; none given: all of it."""
    home = home_of(project, prediction)
    home.mkdir(parents=True)
    write_labels(home / "labels.nii.gz", labels_of(0), grid_of(SHAPE), CLASSES)
    record = Record.of(prediction, "labels.nii.gz")
    for index in slices:
        record = record.with_sent(axis, index, "Ada")
    write_record(home / "correction.json", record if slices else record.with_whole(""))


def recipe(project: Path, **more: Any) -> Recipe:
    given = {"data": [{"path": str(project)}], **more}
    return Recipe.model_validate({"method": "medaka", **given})


def document_of(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "project.json").read_text())
    return found


def names(cases: tuple[Any, ...]) -> list[str]:
    return [case.id for case in cases]


# ---- the layout ----


def test_the_scans_of_a_project_are_cases(project: Path) -> None:
    found = read_data_set(project)
    assert (found.name, found.classes) == ("Medaka", ("gut", "heart"))
    assert names(found.cases) == ["drawn", "held", "a", "b", "c"]
    drawn, held, a, *_ = found.cases
    assert drawn.values == {"gut": (1,), "heart": (2,)}
    assert drawn.annotated == held.annotated == ("gut", "heart")
    assert (drawn.held_out, held.held_out, a.held_out) == (False, True, False)
    assert (a.label, a.annotated, a.slices) == (None, (), ())


def test_a_moved_project_knows_its_scans_still(project: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("fish", "scans", "truth"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    found = read_data_set(tmp_path / "elsewhere" / "fish")
    assert all(case.images[0].exists() for case in found.cases)


def test_names_in_the_file_do_where_the_project_has_none(project: Path) -> None:
    with Project.open(project) as opened:
        opened.set_classes(None)
    assert read_data_set(project).cases[0].annotated == ("gut", "heart")


def test_labels_that_nobody_named_can_be_named_by_a_recipe(
    project: Path, tmp_path: Path
) -> None:
    path = truth(tmp_path, "unnamed", None)
    with Project.open(project) as opened:
        opened.set_classes(None)
        opened.add_scan(NewScan((scan(tmp_path, "unnamed"),), path))
    assert read_data_set(project).cases[-1].annotated == ()
    entry = {
        "path": str(project),
        "cases": ["unnamed"],
        "annotated": ["gut"],
        "map": {"gut": [1]},
    }
    (case,) = resolve(recipe(project, data=[entry]), Path()).training
    assert (case.annotated, case.values) == (("gut",), {"gut": (1,)})


def test_a_scan_whose_file_is_gone_is_told_when_it_is_read(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "scans" / "a.nii.gz").unlink()
    assert names(read_data_set(project).cases)[2] == "a"
    with pytest.raises(OSError, match=r"a\.nii\.gz"):
        fingerprint(read_data_set(project).cases)


def test_a_project_without_scans_is_no_data_set(tmp_path: Path) -> None:
    Project.create(tmp_path / "empty").close()
    with pytest.raises(DataSetError, match="a project without scans"):
        read_data_set(tmp_path / "empty")


def channels_of(folder: Path, name: str, *channels: str) -> NewScan:
    files = (scan(folder, f"{name}-{channel}").path for channel in channels)
    pairs = zip(files, channels, strict=True)
    return NewScan(tuple(VolumeFile(p, channel=c) for p, c in pairs), case=name)


def test_channels_come_in_one_order(tmp_path: Path) -> None:
    with Project.create(tmp_path / "brain") as made:
        made.add_scan(channels_of(tmp_path, "one", "t1", "t2"))
        made.add_scan(channels_of(tmp_path, "two", "t2", "t1"))
    found = read_data_set(tmp_path / "brain")
    assert found.channels == ("t1", "t2")
    assert [path.stem for path in found.cases[1].images] == [
        "two-t1.nii",
        "two-t2.nii",
    ]


def test_scans_with_other_channels_are_named(tmp_path: Path) -> None:
    with Project.create(tmp_path / "brain") as made:
        made.add_scan(channels_of(tmp_path, "one", "t1", "t2"))
        made.add_scan(channels_of(tmp_path, "two", "t1"))
    with pytest.raises(DataSetError, match="'two' has the channels t1, and others t1"):
        read_data_set(tmp_path / "brain")


# ---- what is learnt from ----


def test_held_out_scans_are_for_testing_alone(project: Path) -> None:
    unlabelled = [{"path": str(project)}]
    cases = resolve(recipe(project, unlabelled=[]), Path())
    assert names(cases.training) == ["drawn"]
    assert names(cases.test) == ["held"]
    assert names(cases.unlabelled) == ["a", "b", "c"]
    listed = recipe(
        project,
        data=[{"path": str(project), "cases": ["drawn", "held"]}],
        unlabelled=[{**unlabelled[0], "cases": ["a"]}],
        test=[{"path": str(project), "cases": ["held"]}],
    )
    assert names(resolve(listed, Path()).test) == ["held"]


def test_what_a_person_left_out_is_no_part_of_a_training(project: Path) -> None:
    correct(project, predict(project)[1])
    with Project.open(project) as opened:
        opened.set_use("b", "left-out")
        opened.set_use("c", "left-out")
    cases = resolve(recipe(project), Path())
    assert names(cases.training) == ["drawn"]
    assert names(cases.unlabelled) == ["a"]
    everywhere = {"path": str(project), "cases": ["a", "b", "c"]}
    named = recipe(
        project,
        data=[{"path": str(project), "cases": ["drawn", "b"]}],
        unlabelled=[everywhere],
        test=[{"path": str(project), "cases": ["b", "held"]}],
    )
    assert names(resolve(named, Path()).all) == ["drawn", "held", "a"]
    labels = Labels.of(project, CLASSES.names)
    assert (labels.training, labels.partly) == (("drawn",), ())
    assert labels.held_out == {"held", "b", "c"}


def test_scans_of_nobody_s_choice_are_learnt_from_as_ever(project: Path) -> None:
    uses = {scan["case"]: scan["use"] for scan in document_of(project)["scans"]}
    assert uses["drawn"] == "none"
    assert names(resolve(recipe(project), Path()).training) == ["drawn"]


def test_what_is_left_out_need_not_have_the_channels_of_the_others(
    tmp_path: Path,
) -> None:
    with Project.create(tmp_path / "brain") as made:
        made.add_scan(channels_of(tmp_path, "one", "t1"))
        made.add_scan(channels_of(tmp_path, "two", "t1", "t2"))
        made.set_use("one", "left-out")
    found = read_data_set(tmp_path / "brain")
    assert found.channels == ("t1", "t2")
    assert names(found.cases) == ["two"]


def test_a_new_recipe_speaks_of_no_class_of_what_is_left_out(
    project: Path, tmp_path: Path
) -> None:
    other = truth(tmp_path, "other", LabelSet.from_names(["fin", "eye"]))
    with Project.open(project) as opened:
        opened.set_classes(None)
        opened.add_scan(NewScan((scan(tmp_path, "other"),), other))
        opened.set_use("other", "left-out")
    new_recipe("supervised", [project], tmp_path / "new.yaml")
    values = yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert values["classes"] == ["gut", "heart"]


def test_a_new_recipe_leaves_to_the_project_what_was_drawn_in_each_scan(
    project: Path, tmp_path: Path
) -> None:
    with Project.open(project) as opened:
        opened.set_annotated(["drawn"], ["gut"])
    new_recipe("supervised", [project], tmp_path / "new.yaml")
    values = yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert "annotated" not in values["data"][0]  # all of `held`, a part of `drawn`
    with Project.open(project) as opened:
        opened.set_annotated(["held"], ["gut"])
    new_recipe("supervised", [project], tmp_path / "newer.yaml")
    values = yaml.safe_load((tmp_path / "newer.yaml").read_text())
    assert values["data"][0]["annotated"] == ["gut"]


def test_a_wholly_corrected_scan_is_labelled(project: Path) -> None:
    correct(project, predict(project)[1])
    b = read_data_set(project).cases[3]
    assert (b.id, b.annotated, b.slices) == ("b", ("gut", "heart"), ())
    assert b.label == project / "corrections" / "b" / "student" / "labels.nii.gz"
    assert names(resolve(recipe(project), Path()).training) == ["b", "drawn"]


def test_a_drawn_scan_keeps_its_own_labels(project: Path, tmp_path: Path) -> None:
    write_prediction(
        project / "predictions",
        "drawn",
        labels_of(0),
        scan=tmp_path / "scans" / "drawn.nii.gz",
    )
    (prediction,) = predictions_in(project / "predictions")
    correct(project, prediction)
    assert read_data_set(project).cases[0].label == tmp_path / "truth" / "drawn.nii.gz"


def test_a_few_corrected_slices_are_for_training_always(project: Path) -> None:
    before = fingerprint(read_data_set(project).cases)
    correct(project, predict(project)[0], 7, 3)
    a = read_data_set(project).cases[2]
    assert a.slices == ((0, 3), (0, 7))
    assert fingerprint(read_data_set(project).cases) != before
    for seed in range(5):
        split = {"validation": 0.5, "seed": seed}
        cases = resolve(recipe(project, split=split), Path())
        assert "a" in names(cases.training)
    with pytest.raises(DataSetError, match="only 2 of its slices are labelled"):
        resolve(recipe(project, test=[{"path": str(project), "cases": ["a"]}]), Path())


def test_a_scan_with_a_few_corrected_slices_is_compared_with_nothing(
    project: Path, tmp_path: Path
) -> None:
    first, second, _ = predict(project)
    correct(project, first, 7)
    asked = EvaluateConfig(
        reference=project, prediction=project, out=tmp_path / "scores.csv"
    )
    with pytest.raises(UsageError, match="some slices alone are labelled"):
        compare(asked, lambda done, total: None)
    correct(project, second)
    found = compare(asked, lambda done, total: None)
    assert {row.case for row in found.rows} == {"b"}
    assert found.notes[-1] == "Labelled in some slices alone, not compared: a."


def test_methods_that_need_whole_labels_refuse_a_few_slices(project: Path) -> None:
    correct(project, predict(project)[0], 3)
    values = {"version": 1, "method": "supervised", "data": [{"path": str(project)}]}
    with pytest.raises(DataSetError, match="of a only 1 slices are labelled, and sup"):
        prepare(values, "recipe", Path())
    values["data"] = [{"path": str(project), "exclude": ["a"]}]
    assert prepare(values, "recipe", Path())


# ---- handed to a student ----


@pytest.fixture
def teacher(model_folder: Callable[..., Model]) -> Model:
    return model_folder("teacher", classes=CLASSES, preprocessing=HOW)


@pytest.fixture
def classifier(tmp_path: Path) -> Model:
    return classifier_seeing(HOW, tmp_path / "judge")


def classifier_seeing(how: Preprocessing, folder: Path) -> Model:
    spec = NetworkSpec(name="resnet18-quality", parameters={"width": 4})
    card = ModelCard(
        name="judge",
        role="quality-classifier",
        network=spec,
        channels=("image",),
        classes=CLASSES,
        preprocessing=how,
        tiling=Tiling(tile_vox=(32, 32), overlap=0),
        calibration=Calibration(),
    )
    torch.manual_seed(0)
    return save_model(folder, card, build_classifier(spec, 1, CLASSES.count))


def said(prediction: Prediction, index: int, word: Word) -> Verdict:
    about = prediction.about(0, index)
    return Verdict(
        about.case,
        0,
        index,
        word,
        "human",
        about.labels_hash,
        "Ada",
        model=about.model,
    )


def handed_over(
    project: Path,
    teacher: Model,
    classifier: Model,
    verdicts: list[Verdict],
    **more: Any,
) -> Run:
    """A student's run, prepared from the recipe that the viewer writes."""
    threshold = more.pop("threshold", 0.5)
    wish = Wish(
        project,
        teacher,
        classifier.folder,
        threshold,
        predictions_in(project / "predictions"),
        tuple(verdicts),
    )
    settings = {
        **{f"training.{key}": value for key, value in SHORT.items()},
        "device": "cpu",
        "test": [],
        **more,
    }
    path = write_recipe(wish, settings)
    values = load_recipe(path)
    return Run.create(path.parent / "run", prepare(values, str(path), path.parent))


def done(run: Run) -> dict[str, dict[str, Any]]:
    """What the run measured, by stage."""
    with run.executing():
        fit(run)
    events, _ = run.events()
    return {e["stage"]: e for e in events if e["event"] == "metric" and "slices" in e}


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_what_people_said_comes_before_what_the_classifier_says(
    project: Path, teacher: Model, classifier: Model, threshold: float
) -> None:
    a, b, c = predict(project, teacher)
    stale = Verdict("b", 0, 6, "bad" if threshold == 0 else "good", "human", "0" * 64)
    verdicts = [said(a, 4, "good"), said(a, 5, "bad"), said(c, 1, "good"), stale]
    found = done(
        handed_over(project, teacher, classifier, verdicts, threshold=threshold)
    )
    # three scans of 12 slices: all but the bad one, or none but the two good ones
    assert found["accepted"]["accepted"] == (35 if threshold == 0 else 2)
    assert found["accepted"]["judged_by_people"] == 3
    assert found["student"]["slices"] == 12 + found["accepted"]["accepted"]
    assert b.case == "b"


def test_corrected_slices_are_learnt_from_as_labels_and_not_as_pseudo_labels(
    project: Path, teacher: Model, classifier: Model
) -> None:
    a, *_ = predict(project, teacher)
    correct(project, a, 3, 7)
    run = handed_over(project, teacher, classifier, [said(a, 3, "good")], threshold=0.0)
    config = run.config
    assert config["frozen"]["training"] == ["a", "drawn"]
    assert config["frozen"]["unlabelled"] == ["a", "b", "c"]
    found = done(run)
    assert found["accepted"]["accepted"] == 34
    assert found["student"]["slices"] == 12 + 2 + 34


def test_slices_corrected_along_another_axis_are_refused(
    project: Path, teacher: Model, classifier: Model
) -> None:
    a, *_ = predict(project, teacher)
    correct(project, a, 3, axis=2)
    run = handed_over(project, teacher, classifier, [])
    with pytest.raises(DataSetError, match=r"of a lie along axis 2 .* along axis 0"):
        done(run)


def test_a_student_may_learn_from_corrected_slices_alone(
    project: Path, teacher: Model, classifier: Model
) -> None:
    with Project.open(project) as opened:
        opened.remove_scan("drawn")
    a, *_ = predict(project, teacher)
    correct(project, a, 3)
    run = handed_over(project, teacher, classifier, [], threshold=0.0)
    assert run.config["frozen"]["training"] == ["a"]
    assert done(run)["student"]["slices"] == 1 + 35


def test_verdicts_on_another_model_s_predictions_are_refused(
    project: Path, teacher: Model, classifier: Model
) -> None:
    a, *_ = predict(project, teacher)
    run = handed_over(project, teacher, classifier, [said(a, 4, "good")])
    for folder in (project / "predictions").glob("*/*"):
        change_record(folder, model={"name": "student", "fingerprint": "f" * 64})
    other = run.folder.parent / "other"
    values = run.config
    values["quality"]["predicted_by"] = ""
    with pytest.raises(DataSetError, match="was not predicted by the teacher"):
        done(Run.create(other, values))


def test_a_classifier_that_sees_scans_otherwise_is_refused(
    project: Path, teacher: Model, tmp_path: Path
) -> None:
    predict(project, teacher)
    turned = classifier_seeing(Preprocessing(orientation="LPS"), tmp_path / "turned")
    run = handed_over(project, teacher, turned, [])
    with pytest.raises(ModelError, match="turned or scaled in another way"):
        done(run)


def test_slices_and_comparing_with_whole_labels_do_not_go_together(
    project: Path, teacher: Model, classifier: Model
) -> None:
    a, *_ = predict(project, teacher)
    correct(project, a, 3)
    run = handed_over(project, teacher, classifier, [], quality={"source": "proxy"})
    with pytest.raises(DataSetError, match="of a only some slices are labelled"):
        done(run)


def test_the_recipe_is_one_that_people_can_read(
    project: Path, teacher: Model, classifier: Model
) -> None:
    predict(project, teacher)
    run = handed_over(project, teacher, classifier, [])
    text = (run.folder.parent / "recipe.yaml").read_text()
    values = yaml.safe_load(text)
    assert list(values)[:4] == ["version", "command", "method", "name"]
    assert values["data"][0]["path"] == "../.."
    assert isinstance(resolve(Recipe(**recipe_of(values)), run.folder.parent), Cases)


def recipe_of(values: dict[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ("method", "data", "unlabelled", "classes")}
