"""The Quality Classifier on published predictions, of a project or of predict."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_predictions import CLASSES, change_record, grid_of, write_prediction
from torch.nn.modules.module import register_module_forward_hook

from kdseg_train.execute import execute
from kdseg_train.quality import FitConfig, fit
from kdseg_train.scores import ScoreConfig, score
from kdseg_train.subjects import subjects
from napari_kdseg import cores
from napari_kdseg.errors import DataSetError, StopRequested
from napari_kdseg.inference.quality import QualityClassifier
from napari_kdseg.models.model import Model
from napari_kdseg.project import Project
from napari_kdseg.review.predictions import Prediction, predictions_in
from napari_kdseg.review.scores import file_of
from napari_kdseg.review.store import Store
from napari_kdseg.review.verdicts import read_verdicts
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.scan import NewScan, VolumeFile

SHAPE = (8, 24, 20)
CASES = ("a", "b", "c")
SMALL: dict[str, Any] = {
    "size_vox": 32,
    "width": 4,
    "device": "cpu",
    "training": {"epochs": 2, "iterations_per_epoch": 4, "batch": 4},
}
Call = Callable[..., tuple[int, str, str]]


def labels_of(number: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:, 4 : 10 + number, 4:9] = 1
    labels[1:, 14:20, 10 : 14 + number] = 2
    return labels


def predict(project: Path, case: str, model: str = "student") -> Path:
    return write_prediction(
        project / "predictions",
        case,
        labels_of(ord(case) % 3),
        model=model,
        scan=project.parent / "scans" / f"{case}.nii.gz",
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three predicted scans; one verdict on each of their slices but the first."""
    folder = tmp_path / "fish"
    with Project.create(folder) as made:
        for case in CASES:
            path = tmp_path / "scans" / f"{case}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            generator = np.random.default_rng(ord(case))
            data = generator.normal(size=SHAPE).astype(np.float32) + labels_of(0)
            write_volume(path, data, grid_of(SHAPE))
            made.add_scan(NewScan((VolumeFile(path),)))
            predict(folder, case)
    store = Store.open(folder / "review" / "verdicts.sqlite")
    sitting = store.sit("Ada")
    for one in predictions_of(folder):
        for index in range(1, SHAPE[0]):
            sitting.judge(one.about(0, index), "good" if index % 2 else "bad")
    store.close()
    return folder


def predictions_of(project: Path) -> tuple[Prediction, ...]:
    return predictions_in(project / "predictions")


def config(project: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "reviews": project / "review" / "verdicts.sqlite",
        "images": project,
        "labels": project / "predictions",
        **SMALL,
        **changes,
    }
    return FitConfig.model_validate(values).model_dump(mode="json")


def fitted(folder: Path, values: dict[str, Any]) -> Run:
    run = Run.create(folder, values)
    with run.executing():
        fit(run)
    return run


def warnings(run: Run) -> list[str]:
    return [e["message"] for e in run.events()[0] if e["event"] == "warning"]


@pytest.fixture
def classifier(project: Path, tmp_path: Path) -> Model:
    return Model.open(fitted(tmp_path / "fitted", config(project)).model_folder)


# ---- training ----


def test_a_project_says_where_scans_labels_and_verdicts_are(
    project: Path, tmp_path: Path, call: Call
) -> None:
    sets = [f"training.{key}={value}" for key, value in SMALL["training"].items()]
    sets += ["size_vox=32", "width=4", "device=cpu"]
    words = (word for one in sets for word in ("--set", one))
    out = tmp_path / "run"
    status, _, told = call("quality", "fit", "--project", project, "--out", out, *words)
    assert status == 0, told
    assert "model that made the predictions was not found" in " ".join(told.split())
    card = Model.open(out / "model").card
    assert card.classes.names == ("gut", "heart")
    assert len(read_verdicts(out / "verdicts.csv")) == 21
    recipe = card.provenance.recipe
    assert recipe is not None
    assert recipe["reviews"] == str(out / "verdicts.csv")


def test_the_model_that_predicted_is_found_and_its_scaling_taken(
    project: Path, tmp_path: Path, model_folder: Callable[..., Model]
) -> None:
    how = Preprocessing(orientation="LPS", intensity=(Intensity(kind="percentile"),))
    teacher = model_folder("student", classes=CLASSES, preprocessing=how)
    shutil.copytree(teacher.folder, project / "models" / "student")
    for case in CASES:
        named = {"name": "student", "fingerprint": teacher.fingerprint}
        change_record(project / "predictions" / case / "student", model=named)
    run = fitted(tmp_path / "run", config(project))
    card = Model.open(run.model_folder).card
    assert card.preprocessing == how
    assert card.provenance.metrics["judges"] == [teacher.fingerprint]
    assert warnings(run) == []


def test_verdicts_on_predictions_that_changed_train_nothing(
    project: Path, tmp_path: Path
) -> None:
    shutil.rmtree(project / "predictions" / "b")
    write_prediction(
        project / "predictions",
        "b",
        labels_of(7),
        scan=tmp_path / "scans" / "b.nii.gz",
    )
    run = fitted(tmp_path / "run", config(project))
    assert "7 verdicts are left out" in warnings(run)[0]
    assert {one.case for one in read_verdicts(run.folder / "verdicts.csv")} == {
        "a",
        "c",
    }


def test_labels_that_were_changed_behind_their_record_are_refused(
    project: Path, tmp_path: Path
) -> None:
    path = project / "predictions" / "b" / "student" / "labels.nii.gz"
    write_labels(path, labels_of(7), grid_of(SHAPE), CLASSES)
    with pytest.raises(DataSetError, match=r"is not as its prediction\.json says"):
        fitted(tmp_path / "run", config(project))


def test_a_run_goes_on_with_the_verdicts_that_it_began_with(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise StopRequested("stop")

    run = Run.create(tmp_path / "run", config(project))
    with monkeypatch.context() as patched:
        patched.setattr("kdseg_train.quality.train_classifier", stop)
        with pytest.raises(StopRequested), run.executing():
            fit(run)
    (project / "review" / "verdicts.sqlite").unlink()
    with run.executing():
        fit(run)
    assert run.model_folder.exists()


def test_of_several_models_one_is_chosen(
    project: Path, tmp_path: Path, call: Call
) -> None:
    for case in CASES:
        predict(project, case, "other")
    words = ("quality", "fit", "--project", project, "--out", tmp_path / "run")
    status, _, told = call(*words)
    assert status == 2
    assert "of several models (other" in told
    assert "--segmentation" in told
    status, _, told = call(*words, "--segmentation", "third")
    assert "has no predictions of 'third'" in told
    run = fitted(tmp_path / "run", config(project, predicted_by="student"))
    assert run.model_folder.exists()
    print_ = predictions_of(project)[0].fingerprint
    assert set(subjects(project, project / "predictions", print_)) == set(CASES)


def test_nothing_is_taken_for_granted(tmp_path: Path, call: Call) -> None:
    status, _, told = call("quality", "fit", "--out", tmp_path / "run")
    assert status == 2
    assert "give --reviews" in told
    words = ("--reviews", tmp_path / "v.csv", "--out", tmp_path / "run")
    assert "give --labels" in call("quality", "fit", *words)[2]


def test_results_of_predict_say_themselves_where_the_scans_are(
    project: Path, tmp_path: Path
) -> None:
    found = subjects(None, project / "predictions")
    assert found["a"].images == (tmp_path / "scans" / "a.nii.gz",)
    run = fitted(tmp_path / "run", config(project, images=None))
    assert run.model_folder.exists()


def test_labels_that_nobody_knows_the_scans_of_need_these(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "l").mkdir()
    write_labels(tmp_path / "l" / "a.nii.gz", labels_of(0), grid_of(SHAPE), CLASSES)
    with pytest.raises(DataSetError, match="nobody knows their scans"):
        subjects(None, tmp_path / "l")
    assert set(subjects(tmp_path / "scans", tmp_path / "l")) == {"a"}


# ---- scoring ----


def score_config(project: Path, model: Model, **changes: Any) -> dict[str, Any]:
    values = {
        "model": model.folder,
        "images": project,
        "labels": project / "predictions",
        "device": "cpu",
        **changes,
    }
    return ScoreConfig.model_validate(values).model_dump(mode="json")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_scores_every_slice_of_the_axes_it_is_told(
    project: Path, tmp_path: Path, classifier: Model
) -> None:
    run = Run.create(tmp_path / "run", score_config(project, classifier, axes=[0, 2]))
    execute(run)
    rows = rows_of(run.folder / "scores.csv")
    assert len(rows) == 3 * (8 + 20)
    events = [e for e in run.events()[0] if e["event"] == "scored"]
    assert [(e["case"], e["axis"], e["slices"]) for e in events] == [
        (case, axis, slices) for case in CASES for axis, slices in ((0, 8), (2, 20))
    ]
    (one,) = (p for p in predictions_of(project) if p.case == "b")
    kept = np.load(file_of(run.folder / "scores", "b", 0, one.labels_hash))
    wanted = [float(r["p_good"]) for r in rows if (r["case"], r["axis"]) == ("b", "0")]
    assert kept == pytest.approx(wanted, abs=1e-6)


def test_scoring_uses_the_threads_it_is_told_and_gives_them_back(
    project: Path, tmp_path: Path, classifier: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, used = torch.get_num_threads(), set()
    monkeypatch.setattr(cores, "usable_cores", lambda: before + 1)

    def note(*_: object) -> None:
        used.add(torch.get_num_threads())

    config = score_config(project, classifier, threads=before + 1)
    hook = register_module_forward_hook(note)
    try:
        execute(Run.create(tmp_path / "run", config))
    finally:
        hook.remove()
    assert used == {before + 1}
    assert torch.get_num_threads() == before


def test_what_is_scored_is_not_scored_again(
    project: Path, tmp_path: Path, classifier: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    judge = QualityClassifier.score

    def counted(self: Any, volume: Any, *rest: Any) -> Any:
        if len(scored) == 2:
            raise StopRequested("stop")
        scored.append(volume.name)
        return judge(self, volume, *rest)

    values = score_config(project, classifier, scores=tmp_path / "kept")
    run = Run.create(tmp_path / "run", values)
    with monkeypatch.context() as patched:
        patched.setattr(QualityClassifier, "score", counted)
        with pytest.raises(StopRequested), run.executing():
            score(run)
        scored.remove("a")
        with run.executing():
            score(run)
    assert scored == ["b", "c"]
    whole = Run.create(tmp_path / "whole", score_config(project, classifier))
    with whole.executing():
        score(whole)
    names = [one.folder / "scores.csv" for one in (run, whole)]
    assert names[0].read_text() == names[1].read_text()


def test_a_prediction_made_anew_is_scored_anew(
    project: Path, tmp_path: Path, classifier: Model
) -> None:
    kept = tmp_path / "kept"
    values = score_config(project, classifier, scores=kept, cases=["a"])
    execute(Run.create(tmp_path / "one", values))
    shutil.rmtree(project / "predictions" / "a")
    write_prediction(
        project / "predictions",
        "a",
        labels_of(7),
        scan=tmp_path / "scans" / "a.nii.gz",
    )
    execute(Run.create(tmp_path / "two", {**values, "axes": [0]}))
    assert len(list(kept.glob("a.0.*.npy"))) == 2


def test_a_scan_that_is_gone_is_left_out_and_told(
    project: Path, tmp_path: Path, classifier: Model
) -> None:
    (tmp_path / "scans" / "b.nii.gz").unlink()
    run = Run.create(tmp_path / "run", score_config(project, classifier))
    execute(run)
    assert {row["case"] for row in rows_of(run.folder / "scores.csv")} == {"a", "c"}
    assert "b.nii.gz is missing" in warnings(run)[0]


def test_a_case_that_is_not_there_is_named(
    project: Path, tmp_path: Path, classifier: Model
) -> None:
    values = score_config(project, classifier, cases=["z"])
    with pytest.raises(DataSetError, match="no prediction of case 'z'"):
        execute(Run.create(tmp_path / "run", values))


def test_the_command_scores_a_project_and_keeps_what_is_done(
    project: Path, tmp_path: Path, classifier: Model, call: Call
) -> None:
    out = tmp_path / "scores.csv"
    words = ("--model", classifier.folder, "--project", project, "--out", out)
    more = ("--axis", 0, "--axis", 1, "--keep-in", tmp_path / "kept")
    status, _, told = call("quality", "score", *words, *more, "--device", "cpu")
    assert status == 0, told
    assert f"{out} has {3 * (8 + 24)} slices." in told
    assert len(list((tmp_path / "kept").iterdir())) == 6


def test_slices_are_read_from_labels_that_stay_on_the_disk(
    project: Path, tmp_path: Path, classifier: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = subjects(project, project / "predictions")["a"].open(
        classifier.card.classes
    )[1]
    monkeypatch.setattr("kdseg_train.subjects.LARGEST_DECODED_BYTES", 0)
    lazy = subjects(project, project / "predictions")["a"].open(
        classifier.card.classes
    )[1]
    assert lazy.shape == SHAPE
    assert np.array_equal(lazy[:, 3:5], np.asarray(whole[:, 3:5]))
